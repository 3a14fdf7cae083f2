//! ConfigMap `antrea-config`: upstream's file names and YAML keys.

use std::collections::BTreeMap;

use antrea_api::features::{self, Component};
use antrea_crds::installation::{
    Datapath, LogFormat, LogLevel, ProxyMode, TlsVersion, TrafficEncapMode, TunnelType,
};
use ipnet::IpNet;
use serde_json::{Value, json};

use super::{AGENT_PORT, CONTROLLER_PORT, Files, managed};
use crate::{
    effective::{Effective, EffectiveProxy},
    object::{self, Object},
};

/// Name of the ConfigMap, and of the volume that mounts it.
pub(super) const CONFIG: &str = "antrea-config";

const AGENT_CONF: &str = "antrea-agent.conf";
const CONTROLLER_CONF: &str = "antrea-controller.conf";
const CNI_CONF: &str = "antrea-cni.conflist";

/// Key that agents and controller follow while they run: a change of it restarts nothing.
const LOG_LEVEL: &str = "logLevel";

/// The configuration files of a configuration.
pub(super) struct Configuration {
    agent: Value,
    controller: Value,
    cni: String,
}

impl Configuration {
    pub(super) fn object(&self) -> Object {
        let files: Files = BTreeMap::from([
            (AGENT_CONF.to_owned(), yaml(&self.agent)),
            (CONTROLLER_CONF.to_owned(), yaml(&self.controller)),
            (CNI_CONF.to_owned(), self.cni.clone()),
        ]);
        managed(&object::CONFIG_MAP, CONFIG, json!({"data": files}))
    }

    /// Hash of what an agent's Pod reads at start and no more.
    pub(super) fn agent_checksum(&self) -> String {
        object::hash(&json!([start_only(&self.agent), self.cni]))
    }

    /// Hash of what the controller reads at start and no more.
    pub(super) fn controller_checksum(&self) -> String {
        object::hash(&json!([start_only(&self.controller)]))
    }
}

fn start_only(conf: &Value) -> Value {
    let mut conf = conf.clone();
    if let Some(keys) = conf.as_object_mut() {
        keys.remove(LOG_LEVEL);
    }
    conf
}

pub(super) fn files(config: &Effective) -> Configuration {
    Configuration { agent: agent(config), controller: controller(config), cni: conflist() }
}

/// Keys of upstream's antrea-agent.conf. What is absent has upstream's default.
fn agent(config: &Effective) -> Value {
    let mut conf = json!({
        "ovsBridge": config.bridge,
        "hostGateway": config.gateway,
        "trafficEncapMode": match config.encap {
            TrafficEncapMode::Encap => "encap",
            TrafficEncapMode::NoEncap => "noEncap",
            TrafficEncapMode::Hybrid => "hybrid",
        },
        "defaultMTU": config.mtu,
        "apiPort": AGENT_PORT,
        "enablePrometheusMetrics": config.metrics,
        LOG_LEVEL: log_level(config.agent.log_level),
        "logFormat": log_format(config.log_format),
    });
    let mut set = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            conf[key] = value;
        }
    };
    set("tunnelType", config.tunnel.map(|tunnel| tunnel_type(tunnel).into()));
    set("tunnelPort", config.tunnel_port.map(Value::from));
    set("transportInterface", config.transport_interface.clone().map(Value::from));
    let transport: Vec<String> = config.transport_cidrs.iter().map(IpNet::to_string).collect();
    set("transportInterfaceCIDRs", (!transport.is_empty()).then(|| transport.into()));
    // Absent, the agent takes the kernel's datapath where it is and the userspace one where it is not.
    set(
        "ovsDatapathType",
        match config.datapath {
            Datapath::Auto => None,
            Datapath::System => Some("system".into()),
            Datapath::Userspace => Some("netdev".into()),
        },
    );
    let service = |v6: bool| config.service_cidrs.iter().find(|cidr| matches!(cidr, IpNet::V6(_)) == v6);
    set("serviceCIDR", service(false).map(|cidr| cidr.to_string().into()));
    set("serviceCIDRv6", service(true).map(|cidr| cidr.to_string().into()));
    // Upstream has one per family; what its tools read is the primary one.
    let primary = [service(false), service(true)];
    let further: Vec<String> = config
        .service_cidrs
        .iter()
        .filter(|cidr| !primary.contains(&Some(cidr)))
        .map(IpNet::to_string)
        .collect();
    set("additionalServiceCIDRs", (!further.is_empty()).then(|| further.into()));
    let pods: Vec<String> = config.pod_cidrs.iter().map(IpNet::to_string).collect();
    set("podCIDRs", (!pods.is_empty()).then(|| pods.into()));
    set("featureGates", Some(gates(config, Component::Agent)));
    set("auditLogging", audit_logging(config));
    set("fqdnCacheMinTTL", config.fqdn_cache_min_ttl.map(Value::from));
    set("tracing", tracing(config));
    set("tlsMinVersion", tls_min_version(config));
    set("tlsCipherSuites", tls_cipher_suites(config));
    set("kubeAPIServerOverride", config.api_server.clone().map(Value::from));
    set("antreaProxy", antrea_proxy(&config.proxy));
    conf
}

/// Absent, kube-proxy serves what the bridge does not.
fn antrea_proxy(proxy: &EffectiveProxy) -> Option<Value> {
    let EffectiveProxy { mode, node_port_addresses, health_address } = proxy;
    let mut conf = json!({"proxyAll": true});
    if !node_port_addresses.is_empty() {
        let ranges: Vec<String> = node_port_addresses.iter().map(IpNet::to_string).collect();
        conf["nodePortAddresses"] = ranges.into();
    }
    match health_address {
        Some(address) => conf["serviceHealthCheckServerBindAddress"] = address.to_string().into(),
        None => conf["disableServiceHealthCheckServer"] = true.into(),
    }
    (*mode == ProxyMode::All).then_some(conf)
}

/// Keys of upstream's antrea-controller.conf.
fn controller(config: &Effective) -> Value {
    let mut conf = json!({
        "apiPort": CONTROLLER_PORT,
        "enablePrometheusMetrics": config.metrics,
        "selfSignedCert": config.tls.controller_secret.is_none(),
        LOG_LEVEL: log_level(config.controller.log_level),
    });
    for (key, value) in [
        ("tracing", tracing(config)),
        ("featureGates", Some(gates(config, Component::Controller))),
        ("tlsMinVersion", tls_min_version(config)),
        ("tlsCipherSuites", tls_cipher_suites(config)),
        ("kubeAPIServerOverride", config.api_server.clone().map(Value::from)),
    ] {
        if let Some(value) = value {
            conf[key] = value;
        }
    }
    conf
}

/// As agents read it: the spec's own form.
fn audit_logging(config: &Effective) -> Option<Value> {
    config.audit_logging.as_ref().map(|limits| serde_json::to_value(limits).expect("limits must be JSON"))
}

/// As both components read it: the spec's own form.
fn tracing(config: &Effective) -> Option<Value> {
    config.tracing.as_ref().map(|tracing| serde_json::to_value(tracing).expect("tracing must be JSON"))
}

/// Absent, the components offer what they have.
fn tls_min_version(config: &Effective) -> Option<Value> {
    (config.tls.min_version != TlsVersion::Tls12).then(|| config.tls.min_version().into())
}

fn tls_cipher_suites(config: &Effective) -> Option<Value> {
    (!config.tls.cipher_suites.is_empty()).then(|| config.tls.suites().into())
}

fn gates(config: &Effective, component: Component) -> Value {
    json!(features::configured(component, &config.gates))
}

fn tunnel_type(tunnel: TunnelType) -> &'static str {
    match tunnel {
        TunnelType::Geneve => "geneve",
        TunnelType::Vxlan => "vxlan",
        TunnelType::Gre => "gre",
        TunnelType::Stt => "stt",
    }
}

fn log_level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

pub(super) fn log_format(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    }
}

/// The CNI configuration. A runtime that knows `cniVersions` (CNI 1.1, libcni 1.3) takes the highest that
/// it speaks, others take `cniVersion`.
fn conflist() -> String {
    let conf = json!({
        "cniVersion": "0.4.0",
        "cniVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
        "name": "antrea",
        "plugins": [
            // On the userspace datapath it is the agent that limits what leaves a pod.
            {"type": "antrea", "ipam": {"type": "host-local"}, "capabilities": {"bandwidth": true}},
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "bandwidth", "capabilities": {"bandwidth": true}},
        ],
    });
    let mut text = serde_json::to_string_pretty(&conf).expect("a conflist must be JSON");
    text.push('\n');
    text
}

fn yaml(conf: &Value) -> String {
    serde_saphyr::to_string(conf).expect("configuration must be YAML")
}
