//! `antctl adopt --dry-run`: the AntreaInstallation that comes closest to a cluster's ConfigMap `antrea-config`, and what
//! it cannot express.
//!
//! Nothing is left out in silence: a key that has no field, and is not off or empty, is listed; so is one whose value had to
//! be changed.

use std::{collections::BTreeMap, net::SocketAddr};

use antrea_api::features;
use antrea_crds::{
    INSTALLATION_NAME,
    installation::{
        AntreaInstallationSpec, AuditLogging, CipherSuite, Datapath, Monitoring, Ovs, PodCidrs, Proxy,
        ProxyMode, TlsSettings, TlsVersion, TrafficEncapMode, TunnelType,
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
    /// The section with a dot; empty for the file itself.
    section: String,
    left: Map<String, Value>,
    lost: Vec<(&'static str, String, String)>,
}

impl Keys {
    fn new(file: &'static str, keys: &Map<String, Value>) -> Self {
        Self { file, section: String::new(), left: keys.clone(), lost: Vec::new() }
    }

    /// The keys of a section, whose rest is its own to tell.
    fn section(&mut self, key: &str) -> Self {
        let keys = self.read(key, |value| value.as_object().cloned()).unwrap_or_default();
        Self { section: format!("{key}."), ..Self::new(self.file, &keys) }
    }

    fn lose(&mut self, key: &str, why: impl Into<String>) {
        self.lost.push((self.file, format!("{}{key}", self.section), why.into()));
    }

    /// A key's value, if it says something.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.left.remove(key).filter(|value| !is_neutral(value))
    }

    /// A key's value as `read` understands it.
    fn read<T>(&mut self, key: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.take(key)?;
        self.understand(key, &value, read)
    }

    /// The same of a key for which 0 and false are no way to say nothing.
    fn exact<T>(&mut self, key: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
        let value = self.left.remove(key).filter(|value| !value.is_null())?;
        self.understand(key, &value, read)
    }

    fn understand<T>(
        &mut self,
        key: &str,
        value: &Value,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let found = read(value);
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

/// A number that the spec may have there.
fn within<T: TryFrom<u64>>(value: &Value, least: u64, most: u64) -> Option<T> {
    let number = value.as_u64().filter(|number| (least..=most).contains(number))?;
    T::try_from(number).ok()
}

/// The API server's URL. Files may also have its host alone, with or without a port.
fn url(value: &Value) -> Option<String> {
    let text = value.as_str()?.trim_end_matches('/');
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
    (!host.is_empty() && !host.contains(['/', ' '])).then_some(text)
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
        mtu: keys.read("defaultMTU", |value| within(value, 576, 9216)),
        service_cidrs: ["serviceCIDR", "serviceCIDRv6"].iter().filter_map(|key| keys.text(key)).collect(),
        pod_cidrs: keys.read("podCIDRs", strings).map(|cluster| PodCidrs { cluster, ..PodCidrs::default() }),
        kube_api_server_override: keys.read("kubeAPIServerOverride", url),
        fqdn_cache_min_ttl: keys.read("fqdnCacheMinTTL", |value| within(value, 0, 604_800)),
        audit_logging: audit_logging(&mut keys),
        ..AntreaInstallationSpec::default()
    };
    if spec.transport_interface.is_some() && !spec.transport_interface_cidrs.is_empty() {
        spec.transport_interface_cidrs.clear();
        keys.lose("transportInterfaceCIDRs", "transportInterface decides, and the spec must not have both");
    }
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
    let ovs = Ovs {
        bridge: keys.text("ovsBridge").filter(|name| name != "br-int"),
        gateway: keys.text("hostGateway").filter(|name| name != "antrea-gw0"),
        datapath: keys.read("ovsDatapathType", |value| {
            choice(value, &[("system", Datapath::System), ("netdev", Datapath::Userspace)])
        }),
        ..Ovs::default()
    };
    // Where there is no tunnel these say nothing, and the spec must not name them.
    if spec.traffic_encap_mode != Some(TrafficEncapMode::NoEncap) {
        // Upstream's default; the operator's own depends on the datapath.
        let tunnel = tunnel.unwrap_or(TunnelType::Geneve);
        spec.tunnel_port = port.filter(|_| tunnel != TunnelType::Gre);
        spec.tunnel_type = Some(tunnel);
        if ovs.datapath == Some(Datapath::Userspace) && tunnel != TunnelType::Vxlan {
            spec.tunnel_type = Some(TunnelType::Vxlan);
            let why = format!("becomes VXLAN, the only tunnel of the userspace datapath, from {tunnel:?}");
            keys.lose("tunnelType", why);
        }
    }
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
    let mut gates: BTreeMap<String, bool> = gates_of(&mut keys).into_iter().collect();
    // The mode says the same, and more.
    let gate = gates.remove("AntreaProxy");
    spec.proxy = Some(proxy(&mut keys, gate));

    let mut other = Keys::new(CONTROLLER, controller);
    // Agents' settings go for both; the controller's are listed where they differ.
    if other.left.remove("enablePrometheusMetrics") == Some(Value::Bool(false)) && spec.monitoring.is_none() {
        other.lose("enablePrometheusMetrics", "the spec has one switch for agents and controller");
    }
    if tls(&mut other) != spec.tls {
        other.lose("tlsMinVersion, tlsCipherSuites", "the spec has one setting for agents and controller");
    }
    other.only("apiPort", &json!(10349));
    if let Some(url) = other
        .read("kubeAPIServerOverride", url)
        .filter(|url| spec.kube_api_server_override.as_ref() != Some(url))
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

/// Who serves Services. In the file it is Open vSwitch unless something says otherwise.
fn proxy(keys: &mut Keys, gate: Option<bool>) -> Proxy {
    let mut section = keys.section("antreaProxy");
    let enabled = section.exact("enable", Value::as_bool).unwrap_or(true);
    if !enabled || gate == Some(false) {
        // Whatever else is in it says nothing.
        return Proxy { mode: Some(ProxyMode::KubeProxy), ..Proxy::default() };
    }
    let all = section.read("proxyAll", Value::as_bool).unwrap_or(false);
    let node_port_addresses = section.read("nodePortAddresses", strings).unwrap_or_default();
    let silent = section.read("disableServiceHealthCheckServer", Value::as_bool).unwrap_or(false);
    let told = section.read("serviceHealthCheckServerBindAddress", |value| {
        let text = value.as_str()?;
        text.parse::<SocketAddr>().ok().map(|_| text.to_owned())
    });
    if section.exact("proxyLoadBalancerIPs", Value::as_bool) == Some(false) {
        section.lose("proxyLoadBalancerIPs", "is false; Open vSwitch serves these addresses too");
    }
    section.only("defaultLoadBalancerMode", &json!("nat"));
    keys.lost.extend(section.rest());
    if !all {
        // Node ports and health are kube-proxy's then, and the spec must not name them.
        return Proxy { mode: Some(ProxyMode::Services), ..Proxy::default() };
    }
    let health_address = if silent { Some(String::new()) } else { told };
    Proxy { mode: Some(ProxyMode::All), node_port_addresses, health_address }
}

fn audit_logging(keys: &mut Keys) -> Option<AuditLogging> {
    let mut section = keys.section("auditLogging");
    let limits = AuditLogging {
        max_size: section.read("maxSize", |value| within(value, 1, 100_000)),
        max_backups: section.exact("maxBackups", |value| within(value, 0, 1000)),
        max_age: section.exact("maxAge", |value| within(value, 0, 10_000)),
        compress: section.exact("compress", Value::as_bool),
    };
    keys.lost.extend(section.rest());
    Some(limits).filter(|limits| *limits != AuditLogging::default())
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
mod tests;
