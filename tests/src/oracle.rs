//! What Kubernetes says of NetworkPolicies, written as its API reference reads and slowly: an oracle for random
//! policies. Nothing here is shared with the policy engine.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// All that policies speak of.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub namespaces: BTreeMap<String, Labels>,
    /// Labels of pods, by [`PodFacts::name`].
    pub pods: BTreeMap<String, Labels>,
    /// Policies with their namespace, by name.
    pub policies: BTreeMap<String, (String, NetworkPolicySpec)>,
}

/// What of a pod does not change in its life.
#[derive(Clone, Debug)]
pub struct PodFacts {
    /// Name, unique in the world.
    pub name: String,
    pub namespace: String,
    /// Names of its ports, with protocol and number.
    pub ports: Vec<(&'static str, &'static str, u16)>,
}

/// One end of a connection: a pod, or an address that is none.
#[derive(Clone, Debug)]
pub struct End {
    /// The address that policy sees.
    pub address: IpAddr,
    /// The pod that has it.
    pub pod: Option<PodFacts>,
}

/// A connection's protocol as policies name it, and its destination port; ICMP has neither.
pub type Service = Option<(&'static str, u16)>;

impl World {
    /// "For a connection from a source pod to a destination pod to be allowed, both the egress policy on the source pod
    /// and the ingress policy on the destination pod need to allow the connection."
    pub fn allows(&self, from: &End, to: &End, service: Service) -> bool {
        self.ends_allow(from, to, service) == [true; 2]
    }

    /// What the source's egress policy and the destination's ingress policy say of that.
    pub fn ends_allow(&self, from: &End, to: &End, service: Service) -> [bool; 2] {
        [self.permits("Egress", from, to, to, service), self.permits("Ingress", to, from, to, service)]
    }

    /// Whether the policies of one direction that select `subject` let it talk with `peer`: all do if there is none,
    /// else one has to allow it.
    fn permits(&self, direction: &str, subject: &End, peer: &End, target: &End, service: Service) -> bool {
        let Some(pod) = &subject.pod else { return true };
        let mut isolated = false;
        for (namespace, spec) in self.policies.values() {
            let everything = LabelSelector::default();
            let selector = spec.pod_selector.as_ref().unwrap_or(&everything);
            if *namespace != pod.namespace || !selects(selector, &self.pods[&pod.name]) {
                continue;
            }
            // Without types a policy is of ingress, and of egress where it has such rules.
            let concerns = match &spec.policy_types {
                Some(types) => types.iter().any(|name| name == direction),
                None => direction == "Ingress" || spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
            };
            if !concerns {
                continue;
            }
            isolated = true;
            let rules: Vec<_> = if direction == "Ingress" {
                spec.ingress.iter().flatten().map(|rule| (&rule.from, &rule.ports)).collect()
            } else {
                spec.egress.iter().flatten().map(|rule| (&rule.to, &rule.ports)).collect()
            };
            for (peers, ports) in rules {
                let (peers, ports) =
                    (peers.as_deref().unwrap_or_default(), ports.as_deref().unwrap_or_default());
                let block = |written: &NetworkPolicyPeer| written.ip_block.is_some();
                // A name of a port is one of a pod that the rule selects, which a block of addresses does not.
                let named = |by_block: bool| (direction == "Ingress" || !by_block).then_some(target);
                let met = |written: Option<&NetworkPolicyPeer>| {
                    written.is_none_or(|written| self.is_peer(written, namespace, peer))
                        && (ports.is_empty()
                            || ports
                                .iter()
                                .any(|port| port_matches(port, service, named(written.is_some_and(block)))))
                };
                let allowed =
                    if peers.is_empty() { met(None) } else { peers.iter().any(|peer| met(Some(peer))) };
                if allowed {
                    return true;
                }
            }
        }
        !isolated
    }

    fn is_peer(&self, written: &NetworkPolicyPeer, namespace: &str, end: &End) -> bool {
        if let Some(block) = &written.ip_block {
            let contains = |cidr: &String| cidr.parse::<IpNet>().unwrap().contains(&end.address);
            return contains(&block.cidr) && !block.except.iter().flatten().any(contains);
        }
        let Some(pod) = &end.pod else { return false };
        let of_namespace = match &written.namespace_selector {
            Some(selector) => selects(selector, &self.namespaces[&pod.namespace]),
            None => pod.namespace == namespace,
        };
        of_namespace
            && written.pod_selector.as_ref().is_none_or(|selector| selects(selector, &self.pods[&pod.name]))
    }
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let met = selector.match_expressions.iter().flatten().all(|term| {
        let among = |value: &String| term.values.as_ref().is_some_and(|values| values.contains(value));
        match (term.operator.as_str(), labels.get(&term.key)) {
            ("In", value) => value.is_some_and(among),
            ("NotIn", value) => !value.is_some_and(among),
            ("Exists", value) => value.is_some(),
            ("DoesNotExist", value) => value.is_none(),
            (other, _) => panic!("operator {other}"),
        }
    });
    equal && met
}

/// `named` is the end whose ports have the names.
fn port_matches(written: &NetworkPolicyPort, service: Service, named: Option<&End>) -> bool {
    let Some((protocol, number)) = service else { return false };
    if written.protocol.as_deref().unwrap_or("TCP") != protocol {
        return false;
    }
    match &written.port {
        None => true,
        Some(IntOrString::Int(first)) => {
            (*first..=written.end_port.unwrap_or(*first)).contains(&i32::from(number))
        }
        Some(IntOrString::String(name)) => {
            let ports = named.and_then(|end| end.pod.as_ref()).map(|pod| &pod.ports);
            ports.is_some_and(|ports| ports.contains(&(name.as_str(), protocol, number)))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn labels(of: &[(&str, &str)]) -> Labels {
        of.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn end(name: &str, namespace: &str, address: &str) -> End {
        let ports = vec![("web", "TCP", 80)];
        let pod = PodFacts { name: name.into(), namespace: namespace.into(), ports };
        End { address: address.parse().unwrap(), pod: Some(pod) }
    }

    /// Whether a (red, app a) may be reached by b (red, app b), c (blue, app b) and an address outside, all at 80/TCP.
    fn reached(spec: Value, service: Service) -> [bool; 3] {
        let [a, b, c] = [("a", "red", "10.0.0.1"), ("b", "red", "10.0.0.2"), ("c", "blue", "10.0.0.3")]
            .map(|(name, namespace, address)| end(name, namespace, address));
        let outside = End { address: "192.0.2.1".parse().unwrap(), pod: None };
        let world = World {
            namespaces: [
                ("red".to_owned(), labels(&[("team", "r")])),
                ("blue".to_owned(), labels(&[("team", "b")])),
            ]
            .into(),
            pods: [("a", "a"), ("b", "b"), ("c", "b")]
                .map(|(name, app)| (name.to_owned(), labels(&[("app", app)])))
                .into(),
            policies: [("p".to_owned(), ("red".to_owned(), serde_json::from_value(spec).unwrap()))].into(),
        };
        [&b, &c, &outside].map(|from| world.allows(from, &a, service))
    }

    #[test]
    fn reads_as_the_reference() {
        let of_a = json!({"matchLabels": {"app": "a"}});
        let tcp = Some(("TCP", 80));
        let rule = |rule: Value| json!({"podSelector": of_a, "ingress": [rule]});
        for (spec, service, expected) in [
            (json!({"podSelector": {"matchLabels": {"app": "x"}}}), tcp, [true; 3]),
            (json!({"podSelector": of_a}), tcp, [false; 3]),
            (json!({"podSelector": of_a, "policyTypes": ["Egress"]}), tcp, [true; 3]),
            (rule(json!({})), None, [true; 3]),
            (rule(json!({"ports": [{"protocol": "TCP"}]})), None, [false; 3]),
            (rule(json!({"ports": [{"port": "web"}]})), tcp, [true; 3]),
            (rule(json!({"ports": [{"port": 70, "endPort": 79}]})), tcp, [false; 3]),
            (rule(json!({"ports": [{"port": 70, "endPort": 80}]})), tcp, [true; 3]),
            (rule(json!({"ports": [{"port": 80}]})), Some(("UDP", 80)), [false; 3]),
            (rule(json!({"from": [{"podSelector": {}}]})), tcp, [true, false, false]),
            (rule(json!({"from": [{"namespaceSelector": {}}]})), tcp, [true, true, false]),
            (
                rule(json!({"from": [{"namespaceSelector": {"matchExpressions":
                    [{"key": "team", "operator": "NotIn", "values": ["r"]}]}, "podSelector": {}}]})),
                tcp,
                [false, true, false],
            ),
            (
                rule(json!({"from": [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.2/31"]}}]})),
                tcp,
                [false, false, true],
            ),
            (json!({"podSelector": {"matchLabels": {"app": "b"}}, "egress": [{}]}), tcp, [true; 3]),
            (
                json!({"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Egress"]}),
                tcp,
                [false, true, true],
            ),
            (
                json!({"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Egress"],
                    "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}], "ports": [{"port": "web"}]}]}),
                tcp,
                [false, true, true],
            ),
            (
                json!({"podSelector": {"matchLabels": {"app": "b"}}, "policyTypes": ["Egress"],
                    "egress": [{"ports": [{"port": "web"}]}]}),
                tcp,
                [true; 3],
            ),
        ] {
            assert_eq!(reached(spec.clone(), service), expected, "{spec} for {service:?}");
        }
    }
}
