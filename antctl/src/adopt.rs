//! `antctl adopt --dry-run`: the AntreaInstallation that comes closest to a cluster's ConfigMap `antrea-config`, and what
//! it cannot express.
//!
//! Nothing is left out in silence: a key that has no field, and is not off or empty, is listed.

use std::collections::BTreeMap;

use antrea_api::features;
use antrea_crds::{
    INSTALLATION_NAME,
    installation::{
        AntreaInstallationSpec, CipherSuite, Datapath, Monitoring, Ovs, PodCidrs, TlsSettings, TlsVersion,
        TrafficEncapMode, TunnelType,
    },
};
use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Map, Value, json};

use crate::connect::Clients;

const NAMESPACE: &str = "kube-system";
const CONFIG: &str = "antrea-config";
const AGENT: &str = "antrea-agent.conf";
const CONTROLLER: &str = "antrea-controller.conf";

/// What a configuration comes to.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Adoption {
    /// The nearest spec.
    pub(crate) spec: AntreaInstallationSpec,
    /// What it does not say: file, key, why.
    pub(crate) lost: Vec<(&'static str, String, String)>,
}

/// Reads the cluster's `antrea-config` and prints what it comes to.
pub(crate) async fn adopt(clients: &Clients) -> anyhow::Result<String> {
    let cluster = clients.cluster().await?;
    let api = Api::<ConfigMap>::namespaced(cluster.client.clone(), NAMESPACE);
    let what = format!("ConfigMaps of {NAMESPACE}");
    let found = api.list(&ListParams::default().labels("app=antrea")).await;
    let found = found.map_err(|error| cluster.explain(&error, &what))?.items;
    // Older manifests put a hash behind the name.
    let mut named: Vec<ConfigMap> =
        found.into_iter().filter(|map| map.name_any().starts_with(CONFIG)).collect();
    let map = match (named.pop(), named.is_empty()) {
        (Some(map), true) => map,
        (Some(_), false) => {
            bail!("{NAMESPACE} has several ConfigMaps {CONFIG}: which one is in use is not known")
        }
        (None, _) => {
            bail!("{NAMESPACE} has no ConfigMap {CONFIG} with the label app=antrea: is Antrea installed?")
        }
    };
    let data = map.data.unwrap_or_default();
    let file = |name: &str| -> anyhow::Result<Map<String, Value>> {
        let text = data.get(name).with_context(|| format!("ConfigMap {CONFIG} has no {name}"))?;
        parse(text).with_context(|| format!("ConfigMap {CONFIG}: {name}"))
    };
    Ok(render(&map_files(&file(AGENT)?, &file(CONTROLLER)?)))
}

/// The keys of a file; one in which all is commented out has none.
fn parse(text: &str) -> anyhow::Result<Map<String, Value>> {
    match serde_saphyr::from_str::<Value>(text)? {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        _ => bail!("is no map of keys"),
    }
}

fn render(adoption: &Adoption) -> String {
    let object = json!({
        "apiVersion": "operator.antrea.io/v1alpha1",
        "kind": "AntreaInstallation",
        "metadata": {"name": INSTALLATION_NAME},
        "spec": adoption.spec,
    });
    let mut text =
        String::from("# Nothing was changed. Read what is listed at the end before this is applied.\n");
    text.push_str(&serde_saphyr::to_string(&object).unwrap_or_default());
    if adoption.lost.is_empty() {
        text.push_str("# Every key is expressed.\n");
    } else {
        text.push_str("# Not expressed:\n");
    }
    for (file, key, why) in &adoption.lost {
        text.push_str(&format!("#   {file}: {key}: {why}\n"));
    }
    text
}

/// Keys that are taken one by one.
struct Keys {
    file: &'static str,
    left: Map<String, Value>,
    lost: Vec<(&'static str, String, String)>,
}

impl Keys {
    fn new(file: &'static str, keys: &Map<String, Value>) -> Self {
        Self { file, left: keys.clone(), lost: Vec::new() }
    }

    fn lose(&mut self, key: &str, why: impl Into<String>) {
        self.lost.push((self.file, key.to_owned(), why.into()));
    }

    /// A key's value, if it says something.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.left.remove(key).filter(|value| !is_neutral(value))
    }

    /// A key's value as `read` understands it.
    fn read<T>(&mut self, key: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.take(key)?;
        let found = read(&value);
        if found.is_none() {
            self.lose(key, format!("{value} has no equivalent"));
        }
        found
    }

    fn text(&mut self, key: &str) -> Option<String> {
        self.read(key, |value| value.as_str().map(str::to_owned))
    }

    /// A key that may only have this value, which is what the operator sets.
    fn only(&mut self, key: &str, expected: &Value) {
        if let Some(value) = self.take(key).filter(|value| value != expected) {
            self.lose(key, format!("is {value}; the operator sets {expected}"));
        }
    }

    /// What is left, which has no field.
    fn rest(mut self) -> Vec<(&'static str, String, String)> {
        for (key, value) in std::mem::take(&mut self.left) {
            self.rest_of(&key, &value);
        }
        self.lost
    }

    fn rest_of(&mut self, path: &str, value: &Value) {
        match value {
            value if is_neutral(value) => {}
            // A section that is off says nothing, whatever else is in it.
            Value::Object(map) if map.get("enable") == Some(&Value::Bool(false)) => {}
            Value::Object(map) => {
                for (key, value) in map {
                    self.rest_of(&format!("{path}.{key}"), value);
                }
            }
            value => self.lose(path, format!("{value} has no field")),
        }
    }
}

/// Whether a value is how files say that there is none.
fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

/// A value of one of the spec's enumerations, by its own spelling whatever the case.
fn choice<T: Copy>(value: &Value, choices: &[(&str, T)]) -> Option<T> {
    let text = value.as_str()?;
    choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, choice)| *choice)
}

fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect()
}

/// What the two files come to.
pub(crate) fn map_files(agent: &Map<String, Value>, controller: &Map<String, Value>) -> Adoption {
    let mut keys = Keys::new(AGENT, agent);
    let mut spec = AntreaInstallationSpec {
        traffic_encap_mode: keys.read("trafficEncapMode", |value| {
            choice(
                value,
                &[
                    ("encap", TrafficEncapMode::Encap),
                    ("noEncap", TrafficEncapMode::NoEncap),
                    ("hybrid", TrafficEncapMode::Hybrid),
                ],
            )
        }),
        transport_interface: keys.text("transportInterface"),
        transport_interface_cidrs: keys.read("transportInterfaceCIDRs", strings).unwrap_or_default(),
        mtu: keys.read("defaultMTU", |value| i32::try_from(value.as_i64()?).ok()),
        service_cidrs: ["serviceCIDR", "serviceCIDRv6"].iter().filter_map(|key| keys.text(key)).collect(),
        pod_cidrs: keys.read("podCIDRs", strings).map(|cluster| PodCidrs { cluster, ..PodCidrs::default() }),
        kube_api_server_override: keys.text("kubeAPIServerOverride"),
        ..AntreaInstallationSpec::default()
    };
    let tunnel = keys.read("tunnelType", |value| {
        choice(
            value,
            &[
                ("geneve", TunnelType::Geneve),
                ("vxlan", TunnelType::Vxlan),
                ("gre", TunnelType::Gre),
                ("stt", TunnelType::Stt),
            ],
        )
    });
    let port = keys.read("tunnelPort", |value| u16::try_from(value.as_u64()?).ok());
    // Where there is no tunnel these say nothing, and the spec must not name them.
    if spec.traffic_encap_mode != Some(TrafficEncapMode::NoEncap) {
        // Upstream's default; the operator's own depends on the datapath.
        spec.tunnel_type = Some(tunnel.unwrap_or(TunnelType::Geneve));
        spec.tunnel_port = port.filter(|_| spec.tunnel_type != Some(TunnelType::Gre));
    }
    let ovs = Ovs {
        bridge: keys.text("ovsBridge").filter(|name| name != "br-int"),
        gateway: keys.text("hostGateway").filter(|name| name != "antrea-gw0"),
        datapath: keys.read("ovsDatapathType", |value| {
            choice(value, &[("system", Datapath::System), ("netdev", Datapath::Userspace)])
        }),
        ..Ovs::default()
    };
    spec.ovs = Some(ovs).filter(|ovs| *ovs != Ovs::default());
    // Absent it is on, and false is no neutral value here.
    if keys.left.remove("enablePrometheusMetrics") == Some(Value::Bool(false)) {
        spec.monitoring = Some(Monitoring { metrics: Some(false), ..Monitoring::default() });
    }
    spec.tls = tls(&mut keys);
    for (key, expected) in [
        ("nodeType", json!("k8sNode")),
        ("cniSocket", json!("/var/run/antrea/cni.sock")),
        ("ovsRunDir", json!("/var/run/openvswitch")),
        ("hostProcPathPrefix", json!("/host")),
        ("trafficEncryptionMode", json!("none")),
        ("apiPort", json!(10350)),
        ("clusterPort", json!(10351)),
    ] {
        keys.only(key, &expected);
    }
    let mut gates = gates(&mut keys);

    let mut other = Keys::new(CONTROLLER, controller);
    // Agents' settings go for both; the controller's are listed where they differ.
    if other.left.remove("enablePrometheusMetrics") == Some(Value::Bool(false)) && spec.monitoring.is_none() {
        other.lose("enablePrometheusMetrics", "the spec has one switch for agents and controller");
    }
    if tls(&mut other) != spec.tls {
        other.lose("tlsMinVersion, tlsCipherSuites", "the spec has one setting for agents and controller");
    }
    other.only("apiPort", &json!(10349));
    if let Some(url) =
        other.text("kubeAPIServerOverride").filter(|url| spec.kube_api_server_override.as_ref() != Some(url))
    {
        other.lose("kubeAPIServerOverride", format!("{url} is not the agents'; the spec has one for both"));
    }
    // True is the default; false needs a Secret.
    if other.left.remove("selfSignedCert") == Some(Value::Bool(false)) {
        other.lose(
            "selfSignedCert",
            "name the Secret with the certificate in spec.tls.controllerCertificateSecret",
        );
    }
    for (name, on) in gates_of(&mut other) {
        if gates.insert(name.clone(), on).is_some_and(|agents| agents != on) {
            other
                .lose(&format!("featureGates.{name}"), "differs from the agents'; the spec has one for both");
        }
    }
    spec.feature_gates = gates;
    let mut lost = keys.rest();
    lost.extend(other.rest());
    Adoption { spec, lost }
}

fn tls(keys: &mut Keys) -> Option<TlsSettings> {
    let min_version = keys.read("tlsMinVersion", |value| {
        choice(value, &[("VersionTLS12", TlsVersion::Tls12), ("VersionTLS13", TlsVersion::Tls13)])
    });
    let suites = keys.text("tlsCipherSuites").unwrap_or_default();
    let mut cipher_suites = Vec::new();
    for name in suites.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match serde_json::from_value::<CipherSuite>(name.into()) {
            Ok(suite) => cipher_suites.push(suite),
            Err(_) => keys.lose("tlsCipherSuites", format!("{name} is not implemented")),
        }
    }
    let settings = TlsSettings { min_version, cipher_suites, ..TlsSettings::default() };
    Some(settings).filter(|settings| *settings != TlsSettings::default())
}

/// The gates of a file that can be set, by name.
fn gates(keys: &mut Keys) -> BTreeMap<String, bool> {
    gates_of(keys).into_iter().collect()
}

fn gates_of(keys: &mut Keys) -> Vec<(String, bool)> {
    let Some(Value::Object(found)) = keys.take("featureGates") else { return Vec::new() };
    let mut gates = Vec::new();
    for (name, on) in found {
        let path = format!("featureGates.{name}");
        match on.as_bool().map(|on| (on, features::check(&name, on))) {
            Some((on, Ok(()))) => gates.push((name, on)),
            // What is not there is off.
            Some((false, Err(_))) => {}
            Some((true, Err(error))) => keys.lose(&path, error.to_string()),
            None => keys.lose(&path, format!("{on} is neither true nor false")),
        }
    }
    gates
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adopt(agent: &str, controller: &str) -> Adoption {
        map_files(&parse(agent).unwrap(), &parse(controller).unwrap())
    }

    fn lost(adoption: &Adoption) -> Vec<String> {
        adoption.lost.iter().map(|(file, key, _)| format!("{file} {key}")).collect()
    }

    #[test]
    fn what_says_nothing_becomes_nothing_but_the_tunnel() {
        let found = adopt("# all commented out\n", "featureGates:\n");
        assert_eq!(serde_json::to_value(&found.spec).unwrap(), json!({"tunnelType": "Geneve"}));
        assert_eq!(found.lost, []);
    }

    #[test]
    fn every_field_has_its_key() {
        let found = adopt(
            "trafficEncapMode: hybrid\ntunnelType: vxlan\ntunnelPort: 4790\ndefaultMTU: 1400\n\
             serviceCIDR: 10.96.0.0/12\nserviceCIDRv6: fd00::/112\npodCIDRs: [10.10.0.0/16]\n\
             transportInterface: eth1\novsBridge: br-x\nhostGateway: antrea-gw0\novsDatapathType: system\n\
             kubeAPIServerOverride: https://10.0.0.1:6443\nenablePrometheusMetrics: false\n\
             tlsMinVersion: VersionTLS12\ntlsCipherSuites: TLS_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\n\
             apiPort: 10350\ncniSocket: /var/run/antrea/cni.sock\nnoSNAT: false\n",
            "enablePrometheusMetrics: false\napiPort: 10349\nselfSignedCert: true\n\
             kubeAPIServerOverride: https://10.0.0.1:6443\n\
             tlsMinVersion: VersionTLS12\ntlsCipherSuites: TLS_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\n",
        );
        assert_eq!(found.lost, []);
        let expected = json!({
            "trafficEncapMode": "Hybrid", "tunnelType": "VXLAN", "tunnelPort": 4790, "mtu": 1400,
            "serviceCIDRs": ["10.96.0.0/12", "fd00::/112"], "podCIDRs": {"cluster": ["10.10.0.0/16"]},
            "transportInterface": "eth1", "ovs": {"bridge": "br-x", "datapath": "System"},
            "kubeAPIServerOverride": "https://10.0.0.1:6443", "monitoring": {"metrics": false},
            "tls": {"minVersion": "VersionTLS12",
                "cipherSuites": ["TLS_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]},
        });
        assert_eq!(serde_json::to_value(&found.spec).unwrap(), expected);
    }

    #[test]
    fn what_cannot_be_said_is_listed() {
        let found = adopt(
            "trafficEncapMode: networkPolicyOnly\ntrafficEncryptionMode: wireGuard\napiPort: 1\n\
             wireGuard: {port: 51820}\nflowExporter: {enable: false, flowPollInterval: 5s}\n\
             antreaProxy: {proxyAll: true}\nnoSNAT: true\nsomethingNew: 1\ntlsCipherSuites: TLS_X\n\
             featureGates: {NoSuchGate: true, AlsoNone: false, Multicluster: true}\n",
            "nodeIPAM: {enableNodeIPAM: true, clusterCIDRs: []}\nselfSignedCert: false\nenablePrometheusMetrics: false\n",
        );
        let mut keys = lost(&found);
        keys.sort();
        let expected = [
            "antrea-agent.conf antreaProxy.proxyAll",
            "antrea-agent.conf apiPort",
            "antrea-agent.conf featureGates.Multicluster",
            "antrea-agent.conf featureGates.NoSuchGate",
            "antrea-agent.conf noSNAT",
            "antrea-agent.conf somethingNew",
            "antrea-agent.conf tlsCipherSuites",
            "antrea-agent.conf trafficEncapMode",
            "antrea-agent.conf trafficEncryptionMode",
            "antrea-agent.conf wireGuard.port",
            "antrea-controller.conf enablePrometheusMetrics",
            "antrea-controller.conf nodeIPAM.enableNodeIPAM",
            "antrea-controller.conf selfSignedCert",
        ];
        assert_eq!(keys, expected);
        let text = render(&found);
        assert!(
            text.contains("#   antrea-agent.conf: trafficEncapMode: \"networkPolicyOnly\" has no equivalent"),
            "{text}"
        );
    }

    /// A tunnel that is not used must not keep the spec from being accepted.
    #[test]
    fn without_encapsulation_the_tunnel_is_left_out() {
        let found = adopt("trafficEncapMode: noEncap\ntunnelType: geneve\ntunnelPort: 1\n", "");
        assert_eq!(serde_json::to_value(&found.spec).unwrap(), json!({"trafficEncapMode": "NoEncap"}));
        let gre = adopt("tunnelType: gre\ntunnelPort: 1\n", "");
        assert_eq!(gre.spec.tunnel_port, None);
    }
}
