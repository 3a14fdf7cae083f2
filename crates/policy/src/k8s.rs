//! The Kubernetes objects the index reads, with only the fields it reads.
//!
//! The types deserialize from the API server's JSON, so a watch can decode into them directly and never hold a
//! whole Pod. Values that have to be checked (operators, ports, CIDRs) are kept as written; [`crate::translate`]
//! checks them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZero,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, de::IgnoredAny};

use crate::{
    labels::{LabelSelector, Labels},
    model::{NamedPort, Protocol},
};

mod node;
mod service;

pub use node::Node;
pub(crate) use node::{NODES, node_of};
pub use service::Service;

/// A null in JSON counts as the default, as it does for Go's decoder.
pub(crate) fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The addresses of a Pod: at most one of each family, as Kubernetes has it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PodIps {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl PodIps {
    /// Whether there is no address yet.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }

    /// The addresses, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

impl FromIterator<IpAddr> for PodIps {
    /// The first address of each family.
    fn from_iter<I: IntoIterator<Item = IpAddr>>(iter: I) -> Self {
        let mut ips = Self::default();
        for ip in iter {
            match ip {
                IpAddr::V4(ip) => ips.v4 = ips.v4.or(Some(ip)),
                IpAddr::V6(ip) => ips.v6 = ips.v6.or(Some(ip)),
            }
        }
        ips
    }
}

/// What a kubelet knows a Pod by: `metadata.uid`, or for the mirror of a static Pod (which has annotation
/// `kubernetes.io/config.mirror`) annotation `kubernetes.io/config.hash`. Both are 128 bits in hexadecimal digits.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Uid(NonZero<u128>);

impl Uid {
    /// Reads 32 hexadecimal digits with any hyphens; nothing else is one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().filter(|byte| *byte != b'-');
        let (value, count) = digits.take(33).try_fold((0_u128, 0), |(value, count), digit| {
            let digit = char::from(digit).to_digit(16)?;
            Some((value << 4 | u128::from(digit), count + 1))
        })?;
        NonZero::new(value).filter(|_| count == 32).map(Self)
    }
}

/// Label that a Pod is given here by its ServiceAccount's name, whatever the object says: policies select by it. Upstream's.
pub const SERVICE_ACCOUNT: &str = "internal.antrea.io/service-account";

/// A Pod, as far as policies depend on it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(from = "raw::Pod")]
pub struct Pod {
    /// Tells it from other Pods that have, or had, its name. None if there is nothing that can be read.
    pub uid: Option<Uid>,
    /// `metadata.namespace`
    pub namespace: Box<str>,
    /// `metadata.name`
    pub name: Box<str>,
    /// `metadata.labels`, and [`SERVICE_ACCOUNT`] from `spec.serviceAccountName`.
    pub labels: Labels,
    /// `spec.nodeName`; none until the Pod is scheduled.
    pub node: Option<Box<str>>,
    /// `status.podIPs`
    pub ips: PodIps,
    /// The container ports that have a name.
    pub ports: Vec<NamedPort>,
    /// `spec.hostNetwork`: the Pod has no address of its own, and no policy or group selects it.
    pub host_network: bool,
    /// `status.phase` is Succeeded or Failed: all containers have stopped for good and the address may already
    /// belong to another Pod. Nothing selects it.
    pub terminated: bool,
}

/// A Namespace, as far as selectors depend on it.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(from = "raw::Namespace")]
pub struct Namespace {
    /// `metadata.name`
    pub name: Box<str>,
    /// `metadata.labels`
    pub labels: Labels,
    /// Annotation `networkpolicy.antrea.io/enable-logging` is `true`: what its NetworkPolicies decide is logged.
    pub logs: bool,
}

/// A `networking.k8s.io/v1` NetworkPolicy.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(from = "raw::NetworkPolicy")]
pub struct NetworkPolicy {
    /// `metadata.namespace`
    pub namespace: Box<str>,
    /// `metadata.name`
    pub name: Box<str>,
    /// `metadata.uid`: the name of the internal policy.
    pub uid: Box<str>,
    /// `metadata.generation`
    pub generation: i64,
    pub spec: NetworkPolicySpec,
}

/// `NetworkPolicySpec`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicySpec {
    /// The Pods the policy applies to; an empty selector takes all of the namespace.
    #[serde(deserialize_with = "null_default")]
    pub pod_selector: LabelSelector,
    /// What may come in.
    #[serde(deserialize_with = "null_default")]
    pub ingress: Vec<NetworkPolicyIngressRule>,
    /// What may go out.
    #[serde(deserialize_with = "null_default")]
    pub egress: Vec<NetworkPolicyEgressRule>,
    /// `Ingress`, `Egress`; empty means Ingress, and Egress as well if there are egress rules.
    #[serde(deserialize_with = "null_default")]
    pub policy_types: Vec<Box<str>>,
}

/// `NetworkPolicyIngressRule`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct NetworkPolicyIngressRule {
    /// Destination ports; empty means all traffic.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<NetworkPolicyPort>,
    /// Sources; empty means any.
    #[serde(deserialize_with = "null_default")]
    pub from: Vec<NetworkPolicyPeer>,
}

/// `NetworkPolicyEgressRule`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct NetworkPolicyEgressRule {
    /// Destination ports; empty means all traffic.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<NetworkPolicyPort>,
    /// Destinations; empty means any.
    #[serde(deserialize_with = "null_default")]
    pub to: Vec<NetworkPolicyPeer>,
}

/// `NetworkPolicyPeer`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicyPeer {
    /// Pods, in the policy's namespace unless there is a namespace selector.
    pub pod_selector: Option<LabelSelector>,
    /// Namespaces whose Pods are meant.
    pub namespace_selector: Option<LabelSelector>,
    /// Addresses; excludes the selectors.
    pub ip_block: Option<IpBlock>,
}

/// `IPBlock` as written.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(default)]
pub struct IpBlock {
    pub cidr: Box<str>,
    /// Parts of it that are not meant.
    #[serde(deserialize_with = "null_default")]
    pub except: Vec<Box<str>>,
}

/// `NetworkPolicyPort`.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicyPort {
    /// `TCP` (the default), `UDP` or `SCTP`.
    pub protocol: Option<Box<str>>,
    /// A number or the name of a container port; none means all ports of the protocol.
    pub port: Option<IntOrString>,
    /// The upper end of a range.
    pub end_port: Option<i64>,
}

/// `IntOrString`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(untagged)]
pub enum IntOrString {
    /// A number.
    Int(i64),
    /// A name.
    String(Box<str>),
}

/// The nesting of the wire form, which the flat types above are made from.
mod raw {
    use super::*;

    #[derive(Default, Deserialize)]
    #[serde(default)]
    pub(super) struct Metadata {
        #[serde(deserialize_with = "null_default")]
        namespace: Box<str>,
        name: Box<str>,
        #[serde(deserialize_with = "null_default")]
        uid: Box<str>,
        generation: i64,
        #[serde(deserialize_with = "null_default")]
        labels: Labels,
        #[serde(deserialize_with = "null_default")]
        annotations: Annotations,
    }

    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Annotations {
        #[serde(rename = "kubernetes.io/config.hash")]
        config_hash: Option<Box<str>>,
        #[serde(rename = "kubernetes.io/config.mirror")]
        config_mirror: Option<IgnoredAny>,
        #[serde(rename = "networkpolicy.antrea.io/enable-logging")]
        enable_logging: Option<Box<str>>,
    }

    #[derive(Deserialize)]
    pub(super) struct Pod {
        metadata: Metadata,
        #[serde(default)]
        spec: PodSpec,
        #[serde(default)]
        status: PodStatus,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct PodSpec {
        node_name: Option<Box<str>>,
        service_account_name: Option<Box<str>>,
        #[serde(deserialize_with = "null_default")]
        host_network: bool,
        #[serde(deserialize_with = "null_default")]
        containers: Vec<Container>,
        #[serde(deserialize_with = "null_default")]
        init_containers: Vec<Container>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Container {
        restart_policy: Option<Box<str>>,
        #[serde(deserialize_with = "null_default")]
        ports: Vec<ContainerPort>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct ContainerPort {
        #[serde(deserialize_with = "null_default")]
        name: Box<str>,
        container_port: i64,
        protocol: Option<Box<str>>,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct PodStatus {
        phase: Option<Box<str>>,
        #[serde(rename = "podIPs", deserialize_with = "null_default")]
        pod_ips: Vec<PodIp>,
        #[serde(rename = "podIP")]
        pod_ip: Option<Box<str>>,
    }

    #[derive(Deserialize)]
    struct PodIp {
        #[serde(default)]
        ip: Box<str>,
    }

    #[derive(Deserialize)]
    pub(super) struct Namespace {
        metadata: Metadata,
    }

    #[derive(Deserialize)]
    pub(super) struct NetworkPolicy {
        metadata: Metadata,
        #[serde(default)]
        spec: NetworkPolicySpec,
    }

    impl From<Pod> for super::Pod {
        fn from(pod: Pod) -> Self {
            let Pod { metadata, spec, status } = pod;
            let ips = status.pod_ips.iter().map(|ip| &ip.ip).chain(&status.pod_ip);
            // An init container that restarts always is a sidecar and serves while the Pod runs.
            let sidecars = spec
                .init_containers
                .into_iter()
                .filter(|container| container.restart_policy.as_deref() == Some("Always"));
            // Only a kubelet may make a mirror: the API server takes annotation config.mirror from nobody else,
            // whereas config.hash alone is anybody's to write.
            let Annotations { config_hash, config_mirror, .. } = metadata.annotations;
            let uid = config_hash.filter(|_| config_mirror.is_some()).unwrap_or(metadata.uid);
            Self {
                uid: Uid::parse(&uid),
                namespace: metadata.namespace,
                name: metadata.name,
                labels: metadata.labels.with(SERVICE_ACCOUNT, spec.service_account_name.as_deref()),
                node: spec.node_name.filter(|node| !node.is_empty()),
                ips: ips.filter_map(|ip| ip.parse::<IpAddr>().ok()).collect(),
                ports: spec
                    .containers
                    .into_iter()
                    .chain(sidecars)
                    .flat_map(|container| container.ports)
                    .filter_map(named_port)
                    .collect(),
                host_network: spec.host_network,
                terminated: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            }
        }
    }

    fn named_port(port: ContainerPort) -> Option<NamedPort> {
        let number = u16::try_from(port.container_port).ok().filter(|number| *number > 0)?;
        let protocol = match port.protocol.as_deref() {
            None => Protocol::Tcp,
            Some(text) => Protocol::transport(text)?,
        };
        (!port.name.is_empty()).then_some(NamedPort { name: port.name, port: number, protocol })
    }

    impl From<Namespace> for super::Namespace {
        fn from(namespace: Namespace) -> Self {
            let Metadata { name, labels, annotations, .. } = namespace.metadata;
            let logs = annotations.enable_logging.is_some_and(|value| value.eq_ignore_ascii_case("true"));
            Self { name, labels, logs }
        }
    }

    impl From<NetworkPolicy> for super::NetworkPolicy {
        fn from(policy: NetworkPolicy) -> Self {
            let NetworkPolicy { metadata, spec } = policy;
            Self {
                namespace: metadata.namespace,
                name: metadata.name,
                uid: metadata.uid,
                generation: metadata.generation,
                spec,
            }
        }
    }
}

/// Names shared by many objects.
pub(crate) fn shared(text: &str) -> Arc<str> {
    Arc::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_from_json() {
        let json = r#"{"apiVersion":"v1","kind":"Pod",
            "metadata":{"namespace":"shop","name":"web-0","uid":"00000000-0000-0000-0000-0000000000af","labels":{"b":"1","a":"2"},"annotations":{"x":"y"}},
            "spec":{"nodeName":"n1","serviceAccountName":"default","containers":[
                {"name":"c","ports":[{"name":"http","containerPort":8080},{"containerPort":9090},
                                     {"name":"bad","containerPort":0}]},
                {"name":"d","ports":null}],
              "initContainers":[
                {"name":"setup","ports":[{"name":"once","containerPort":1}]},
                {"name":"proxy","restartPolicy":"Always","ports":[{"name":"dns","containerPort":53,"protocol":"UDP"}]}]},
            "status":{"phase":"Running","podIP":"10.0.0.5","podIPs":[{"ip":"10.0.0.5"},{"ip":"fd00::5"}]}}"#;
        let pod: Pod = serde_json::from_str(json).unwrap();
        assert_eq!(
            pod,
            Pod {
                uid: Some(Uid(NonZero::new(0xaf).unwrap())),
                namespace: "shop".into(),
                name: "web-0".into(),
                labels: [("a", "2"), ("b", "1"), (SERVICE_ACCOUNT, "default")].into_iter().collect(),
                node: Some("n1".into()),
                ips: PodIps {
                    v4: Some(Ipv4Addr::new(10, 0, 0, 5)),
                    v6: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5))
                },
                ports: vec![
                    NamedPort { name: "http".into(), port: 8080, protocol: Protocol::Tcp },
                    NamedPort { name: "dns".into(), port: 53, protocol: Protocol::Udp },
                ],
                host_network: false,
                terminated: false,
            }
        );
        let pending: Pod =
            serde_json::from_str(r#"{"metadata":{"name":"p","labels":null},"spec":{"nodeName":""}}"#)
                .unwrap();
        assert_eq!(pending, Pod { name: "p".into(), ..Pod::default() });
        let done: Pod = serde_json::from_str(
            r#"{"metadata":{"name":"p"},"spec":{"hostNetwork":true},"status":{"phase":"Failed"}}"#,
        )
        .unwrap();
        assert!(done.terminated && done.host_network);
    }

    #[test]
    fn a_mirror_pod_is_known_by_its_configuration() {
        let uid = |uid: &str, annotations: &str| {
            let json = format!(r#"{{"metadata":{{"name":"p","uid":"{uid}","annotations":{annotations}}}}}"#);
            serde_json::from_str::<Pod>(&json).unwrap().uid
        };
        let (plain, hash) = ("7d9f2a1c-8c0b-4d5e-9f10-2b3c4d5e6f70", "0123456789abcdef0123456789abcdef");
        assert_eq!(uid(plain, "null"), Uid::parse(plain));
        assert!(Uid::parse(plain).is_some());
        let mirror = format!(r#"{{"kubernetes.io/config.hash":"{hash}","kubernetes.io/config.mirror":"x"}}"#);
        assert_eq!(uid(plain, &mirror), Uid::parse(hash));
        // Anybody may write this on a Pod of his own.
        let claimed = format!(r#"{{"kubernetes.io/config.hash":"{hash}"}}"#);
        assert_eq!(uid(plain, &claimed), Uid::parse(plain));
        for wrong in ["", "u", &hash[1..], &format!("{hash}0"), &"0".repeat(32), &"é".repeat(16)] {
            assert_eq!(Uid::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_namespace_asks_for_logs_by_its_annotation() {
        let logs = |annotations: &str| {
            let json = format!(r#"{{"metadata":{{"name":"n","annotations":{annotations}}}}}"#);
            serde_json::from_str::<Namespace>(&json).unwrap().logs
        };
        let with = |value: &str| logs(&format!(r#"{{"networkpolicy.antrea.io/enable-logging":"{value}"}}"#));
        assert!(with("true") && with("True"));
        assert!(!with("false") && !with("") && !logs("null") && !logs("{}"));
    }

    #[test]
    fn policy_from_json() {
        let json = r#"{"metadata":{"namespace":"shop","name":"p","uid":"u-1","generation":3},
            "spec":{"podSelector":{"matchLabels":{"app":"web"}},"policyTypes":["Ingress"],
              "ingress":[{"from":[{"podSelector":{},"namespaceSelector":{"matchExpressions":[
                  {"key":"team","operator":"In","values":["a"]}]}},{"ipBlock":{"cidr":"10.0.0.0/8","except":null}}],
                "ports":[{"port":"http"},{"protocol":"UDP","port":53,"endPort":54}]}],
              "egress":null}}"#;
        let policy: NetworkPolicy = serde_json::from_str(json).unwrap();
        assert_eq!(&*policy.uid, "u-1");
        assert_eq!(policy.generation, 3);
        let rule = &policy.spec.ingress[0];
        assert_eq!(rule.from[0].pod_selector, Some(LabelSelector::default()));
        assert_eq!(&*rule.from[0].namespace_selector.as_ref().unwrap().match_expressions[0].operator, "In");
        assert_eq!(&*rule.from[1].ip_block.as_ref().unwrap().cidr, "10.0.0.0/8");
        assert_eq!(rule.ports[0].port, Some(IntOrString::String("http".into())));
        assert_eq!(rule.ports[1].port, Some(IntOrString::Int(53)));
        assert_eq!(rule.ports[1].end_port, Some(54));
        assert!(policy.spec.egress.is_empty());
    }
}
