//! `antrea-agent.conf`: upstream's YAML keys, as far as a feature of ours reads them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use antrea_api::features::{self, Component};
use apiserver_kit::tls::Offer;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod proxy;

pub use proxy::AntreaProxy;

/// The agent's configuration. Every key has upstream's name, type and default.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentConfig {
    /// Alpha and beta features by name.
    pub feature_gates: BTreeMap<String, bool>,
    /// Name of the OVS bridge.
    pub ovs_bridge: String,
    /// `system` (kernel), `netdev` (userspace), or empty for whichever the node offers.
    pub ovs_datapath_type: String,
    /// Folder of OVSDB's and the bridge's sockets.
    pub ovs_run_dir: String,
    /// Name of the gateway interface.
    pub host_gateway: String,
    /// `encap`, `noEncap` or `hybrid`.
    pub traffic_encap_mode: EncapMode,
    /// `geneve`, `vxlan`, `gre` or `stt`; absent = geneve on the kernel datapath, vxlan in userspace. A
    /// cluster whose nodes differ in datapath has to name vxlan, which both speak.
    pub tunnel_type: Option<TunnelType>,
    /// UDP port of the tunnel; 0 = the protocol's own.
    pub tunnel_port: u16,
    /// Whether OVS computes the outer UDP checksum.
    pub tunnel_csum: bool,
    /// MTU of pod interfaces; 0 = from the transport interface.
    #[serde(rename = "defaultMTU")]
    pub default_mtu: u32,
    /// No masquerading of pod traffic that leaves the cluster.
    #[serde(rename = "noSNAT")]
    pub no_snat: bool,
    /// Masquerade with fully random source ports.
    #[serde(rename = "snatFullyRandomPorts")]
    pub snat_fully_random_ports: bool,
    /// Where the agent listens for antrea-cni.
    pub cni_socket: String,
    /// IPv4 range of ClusterIPs.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: String,
    /// IPv6 range of ClusterIPs.
    #[serde(rename = "serviceCIDRv6")]
    pub service_cidr_v6: String,
    /// Further ranges of ClusterIPs, of either family, where a cluster has several ServiceCIDR objects.
    #[serde(rename = "additionalServiceCIDRs")]
    pub additional_service_cidrs: Vec<String>,
    /// TCP port of the agent's API.
    pub api_port: u16,
    /// Cipher suites of the agent's API by IANA name, comma separated; empty: all that there are.
    pub tls_cipher_suites: String,
    /// `VersionTLS12` or `VersionTLS13`: the lowest that the API offers; empty: both.
    #[serde(rename = "tlsMinVersion")]
    pub tls_min_version: String,
    /// Serve `/metrics`.
    pub enable_prometheus_metrics: bool,
    /// Address of the API server, where the in-cluster one does not answer yet.
    #[serde(rename = "kubeAPIServerOverride")]
    pub kube_api_server_override: String,
    /// Where the host's `/proc` is mounted, for netns paths of runtimes that use it.
    pub host_proc_path_prefix: String,
    /// Name of the interface that carries traffic between nodes; empty = the one that routes to peers use.
    pub transport_interface: String,
    /// Ranges of which one holds the address of that interface; not both with `transportInterface`.
    #[serde(rename = "transportInterfaceCIDRs")]
    pub transport_interface_cidrs: Vec<String>,
    /// How to reach the API server.
    pub client_connection: ClientConnection,
    /// `error` … `trace`. Followed while the agent runs.
    pub log_level: String,
    /// `text` or `json`.
    pub log_format: String,
    /// Limits of the log of what policies decide.
    pub audit_logging: AuditLogging,
    /// Seconds for which what DNS told of a domain name in a policy holds at least, however short its time to live is.
    #[serde(rename = "fqdnCacheMinTTL")]
    pub fqdn_cache_min_ttl: u32,
    /// Export of spans.
    pub tracing: antrea_runtime::trace::Config,
    /// What AntreaProxy serves.
    pub antrea_proxy: AntreaProxy,
}

/// Limits of the log of what policies decide, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AuditLogging {
    /// Megabytes that the file grows to before it is set aside.
    pub max_size: u64,
    /// Files that were set aside and are kept; 0 = all.
    pub max_backups: u16,
    /// Days that they are kept; 0 = for ever.
    pub max_age: u16,
    /// Whether they are compressed.
    pub compress: bool,
}

impl Default for AuditLogging {
    fn default() -> Self {
        Self { max_size: 500, max_backups: 3, max_age: 28, compress: true }
    }
}

/// How to reach the API server.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConnection {
    /// Path of a kubeconfig; empty = the service account.
    pub kubeconfig: String,
}

/// How pod traffic crosses the underlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub enum EncapMode {
    /// Always in a tunnel.
    #[default]
    #[serde(rename = "encap", alias = "Encap")]
    Encap,
    /// Never; the underlay routes pod addresses.
    #[serde(rename = "noEncap", alias = "NoEncap", alias = "noencap")]
    NoEncap,
    /// In a tunnel only to nodes of another subnet.
    #[serde(rename = "hybrid", alias = "Hybrid")]
    Hybrid,
}

/// Encapsulation of the overlay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TunnelType {
    /// RFC 8926, UDP 6081.
    #[default]
    #[serde(alias = "Geneve")]
    Geneve,
    /// RFC 7348, UDP 4789.
    #[serde(alias = "VXLAN", alias = "Vxlan")]
    Vxlan,
    /// RFC 2784 with key, IP protocol 47.
    #[serde(alias = "GRE", alias = "Gre")]
    Gre,
    /// draft-davie-stt, TCP 7471.
    #[serde(alias = "STT", alias = "Stt")]
    Stt,
}

impl TunnelType {
    /// All types.
    pub const ALL: [Self; 4] = [Self::Geneve, Self::Vxlan, Self::Gre, Self::Stt];

    /// OVSDB interface type.
    pub fn ovs_type(self) -> &'static str {
        match self {
            Self::Geneve => "geneve",
            Self::Vxlan => "vxlan",
            Self::Gre => "gre",
            Self::Stt => "stt",
        }
    }

    /// UDP (STT: TCP) port that the protocol has from IANA or its draft; 0 where there is none.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Geneve => 6081,
            Self::Vxlan => 4789,
            Self::Gre => 0,
            Self::Stt => 7471,
        }
    }

    /// Bytes that the encapsulation adds to an inner IP packet over an underlay of the given family
    /// (outer IP + outer L4 + tunnel header + inner Ethernet). STT segments in software: as TCP.
    pub fn overhead(self, ipv6_underlay: bool) -> u32 {
        let ipv4 = match self {
            Self::Geneve | Self::Vxlan => 50,
            Self::Gre => 42,
            Self::Stt => 72,
        };
        if ipv6_underlay { ipv4 + 20 } else { ipv4 }
    }
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            feature_gates: BTreeMap::new(),
            ovs_bridge: "br-int".into(),
            ovs_datapath_type: String::new(),
            ovs_run_dir: "/var/run/openvswitch".into(),
            host_gateway: "antrea-gw0".into(),
            traffic_encap_mode: EncapMode::Encap,
            tunnel_type: None,
            tunnel_port: 0,
            tunnel_csum: false,
            default_mtu: 0,
            no_snat: false,
            snat_fully_random_ports: false,
            cni_socket: antrea_api::cni::SOCKET.into(),
            service_cidr: String::new(),
            service_cidr_v6: String::new(),
            additional_service_cidrs: Vec::new(),
            api_port: 10350,
            tls_cipher_suites: String::new(),
            tls_min_version: String::new(),
            enable_prometheus_metrics: true,
            kube_api_server_override: String::new(),
            host_proc_path_prefix: String::new(),
            transport_interface: String::new(),
            transport_interface_cidrs: Vec::new(),
            client_connection: ClientConnection::default(),
            log_level: "info".into(),
            log_format: "text".into(),
            audit_logging: AuditLogging::default(),
            fqdn_cache_min_ttl: 0,
            tracing: antrea_runtime::trace::Config::default(),
            antrea_proxy: AntreaProxy::default(),
        }
    }
}

/// A value that no node could run with. The message names the key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{key}: {message}")]
pub struct Invalid {
    /// Key of antrea-agent.conf.
    pub key: &'static str,
    /// What is wrong with its value.
    pub message: String,
}

/// Which datapath the configuration asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatapathChoice {
    /// The kernel's when it has the module, else userspace.
    Auto,
    /// OVS type `system`.
    System,
    /// OVS type `netdev`.
    Userspace,
}

impl AgentConfig {
    /// Checks what serde cannot.
    ///
    /// # Errors
    /// The first key that is wrong.
    pub fn validate(&self) -> Result<(), Invalid> {
        let invalid = |key, message: String| Err(Invalid { key, message });
        if let Err(error) = Offer::new(&self.tls_min_version, &self.tls_cipher_suites) {
            return invalid(error.key, error.message);
        }
        for (key, name) in [("ovsBridge", &self.ovs_bridge), ("hostGateway", &self.host_gateway)] {
            let fits = !name.is_empty()
                && name.len() < 16
                && name.chars().all(|c| c.is_ascii_graphic() && !"/:".contains(c));
            if !fits {
                return invalid(key, format!("{name:?} is no interface name (1 to 15 characters)"));
            }
        }
        self.datapath()?;
        self.service_cidrs()?;
        self.antrea_proxy.node_port_addresses()?;
        self.antrea_proxy.health_address()?;
        let gate = features::is_on(Component::Agent, "AntreaProxy", &self.feature_gates);
        if self.antrea_proxy.proxy_all && !gate {
            return invalid("antreaProxy.proxyAll", "needs the feature gate AntreaProxy".to_owned());
        }
        if !self.transport_interface_cidrs()?.is_empty() && !self.transport_interface.is_empty() {
            return invalid(
                "transportInterfaceCIDRs",
                format!("cannot be together with transportInterface {}", self.transport_interface),
            );
        }
        let (unknown, _) = features::problems(&self.feature_gates);
        if !unknown.is_empty() {
            return invalid("featureGates", unknown.join("; "));
        }
        if self.default_mtu != 0 && !(576..=65_535).contains(&self.default_mtu) {
            return invalid("defaultMTU", format!("{} is not 0 or 576 to 65535", self.default_mtu));
        }
        Ok(())
    }

    /// The API server's address, where `kubeAPIServerOverride` names one.
    pub fn api_server(&self) -> Option<IpAddr> {
        let url: http::Uri = self.kube_api_server_override.parse().ok()?;
        url.host()?.trim_matches(['[', ']']).parse().ok()
    }

    /// Whether the bridge serves Services to everybody.
    pub fn serves_all(&self) -> bool {
        self.antrea_proxy.proxy_all
    }

    /// `ovsDatapathType`, read.
    ///
    /// # Errors
    /// The value is none of `system`, `netdev` and empty.
    pub fn datapath(&self) -> Result<DatapathChoice, Invalid> {
        match self.ovs_datapath_type.as_str() {
            "" | "auto" => Ok(DatapathChoice::Auto),
            "system" => Ok(DatapathChoice::System),
            "netdev" => Ok(DatapathChoice::Userspace),
            other => Err(Invalid {
                key: "ovsDatapathType",
                message: format!("{other:?} is none of system, netdev and auto"),
            }),
        }
    }

    /// `transportInterfaceCIDRs`, read.
    ///
    /// # Errors
    /// One is no CIDR.
    pub fn transport_interface_cidrs(&self) -> Result<Vec<IpNet>, Invalid> {
        let parse = |text: &String| {
            let message = format!("{text:?} is no CIDR");
            text.parse().map_err(|_| Invalid { key: "transportInterfaceCIDRs", message })
        };
        self.transport_interface_cidrs.iter().map(parse).collect()
    }

    /// The ranges of ClusterIPs that are configured.
    ///
    /// # Errors
    /// A range is no CIDR or of the wrong family.
    pub fn service_cidrs(&self) -> Result<Vec<IpNet>, Invalid> {
        let mut cidrs = Vec::new();
        for (key, text, ipv6) in
            [("serviceCIDR", &self.service_cidr, false), ("serviceCIDRv6", &self.service_cidr_v6, true)]
        {
            if text.is_empty() {
                continue;
            }
            match text.parse::<IpNet>() {
                Ok(cidr) if matches!(cidr, IpNet::V6(_)) == ipv6 => cidrs.push(cidr),
                _ => {
                    let family = if ipv6 { "an IPv6" } else { "an IPv4" };
                    return Err(Invalid { key, message: format!("{text:?} is not {family} CIDR") });
                }
            }
        }
        for text in &self.additional_service_cidrs {
            let invalid =
                |_| Invalid { key: "additionalServiceCIDRs", message: format!("{text:?} is no CIDR") };
            cidrs.push(text.parse().map_err(invalid)?);
        }
        Ok(cidrs)
    }

    /// The tunnel's port, the protocol's own where none is configured.
    pub fn tunnel_port(&self, tunnel: TunnelType) -> u16 {
        if self.tunnel_port == 0 { tunnel.default_port() } else { self.tunnel_port }
    }

    /// MTU of pods: the configured one, else what fits the transport interface.
    pub fn pod_mtu(&self, transport_mtu: u32, transport: IpAddr, tunnel: TunnelType) -> u32 {
        if self.default_mtu != 0 {
            return self.default_mtu;
        }
        match self.traffic_encap_mode {
            EncapMode::NoEncap => transport_mtu,
            EncapMode::Encap | EncapMode::Hybrid => {
                transport_mtu.saturating_sub(tunnel.overhead(transport.is_ipv6()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_upstream_keys() {
        let text = "ovsBridge: br-x\ntrafficEncapMode: noEncap\ntunnelType: vxlan\ndefaultMTU: 1400\n\
                    serviceCIDR: 10.96.0.0/12\nkubeAPIServerOverride: https://192.0.2.1:6443\nnoSNAT: true\n";
        let (config, unknown) = antrea_runtime::config::parse::<AgentConfig>("agent", text).unwrap();
        assert!(unknown.is_empty(), "{unknown:?}");
        assert_eq!(config.ovs_bridge, "br-x");
        assert_eq!(config.traffic_encap_mode, EncapMode::NoEncap);
        assert_eq!(config.tunnel_type, Some(TunnelType::Vxlan));
        assert_eq!(config.tunnel_port(TunnelType::Vxlan), 4789);
        assert_eq!(config.service_cidrs().unwrap().len(), 1);
        config.validate().unwrap();
        assert_eq!(config.api_server(), Some("192.0.2.1".parse().unwrap()));
        let url = |url: &str| AgentConfig { kube_api_server_override: url.into(), ..config.clone() };
        assert_eq!(url("https://[2001:db8::1]:6443").api_server(), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(url("https://api.example.org").api_server(), None);
    }

    #[test]
    fn takes_every_range_of_services() {
        let text = "serviceCIDR: 10.96.0.0/12\nserviceCIDRv6: fd00::/112\nadditionalServiceCIDRs: [10.112.0.0/16, fd01::/112]\n";
        let (mut config, unknown) = antrea_runtime::config::parse::<AgentConfig>("agent", text).unwrap();
        assert!(unknown.is_empty(), "{unknown:?}");
        let cidrs: Vec<String> = config.service_cidrs().unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(cidrs, ["10.96.0.0/12", "fd00::/112", "10.112.0.0/16", "fd01::/112"]);
        config.additional_service_cidrs.push("nonsense".into());
        assert_eq!(config.validate().unwrap_err().key, "additionalServiceCIDRs");
    }

    #[test]
    fn names_the_key_that_is_wrong() {
        let mut config = AgentConfig { service_cidr: "fd00::/108".into(), ..AgentConfig::default() };
        assert_eq!(config.validate().unwrap_err().key, "serviceCIDR");
        config.service_cidr.clear();
        config.ovs_datapath_type = "dpdk".into();
        assert_eq!(config.validate().unwrap_err().key, "ovsDatapathType");
        config.ovs_datapath_type.clear();
        config.ovs_bridge = "a-name-that-is-too-long".into();
        assert_eq!(config.validate().unwrap_err().key, "ovsBridge");
        config.ovs_bridge = "br-int".into();
        config.transport_interface_cidrs = vec!["192.0.2.0".into()];
        assert_eq!(config.validate().unwrap_err().key, "transportInterfaceCIDRs");
        config.transport_interface_cidrs = vec!["192.0.2.0/24".into()];
        config.validate().unwrap();
        config.transport_interface = "eth1".into();
        assert_eq!(config.validate().unwrap_err().key, "transportInterfaceCIDRs");
        config.transport_interface.clear();
        config.antrea_proxy.proxy_all = true;
        config.feature_gates.insert("AntreaProxy".into(), false);
        assert_eq!(config.validate().unwrap_err().key, "antreaProxy.proxyAll");
        config.feature_gates.insert("AntreaProxy".into(), true);
        config.validate().unwrap();
        config.antrea_proxy.node_port_addresses = vec!["192.0.2.1".into()];
        assert_eq!(config.validate().unwrap_err().key, "antreaProxy.nodePortAddresses");
        config.antrea_proxy.node_port_addresses.clear();
        config.antrea_proxy.service_health_check_server_bind_address = "localhost".into();
        assert_eq!(config.validate().unwrap_err().key, "antreaProxy.serviceHealthCheckServerBindAddress");
        config.antrea_proxy.disable_service_health_check_server = true;
        config.feature_gates.insert("Nonsense".into(), true);
        let error = config.validate().unwrap_err();
        assert_eq!(error.to_string(), "featureGates: Nonsense: there is no such feature gate");
    }

    #[test]
    fn mtu_leaves_room_for_the_tunnel() {
        let config = AgentConfig::default();
        let (v4, v6) = (IpAddr::from([192, 0, 2, 1]), "2001:db8::1".parse().unwrap());
        assert_eq!(config.pod_mtu(1500, v4, TunnelType::Geneve), 1450);
        assert_eq!(config.pod_mtu(1500, v6, TunnelType::Vxlan), 1430);
        assert_eq!(config.pod_mtu(1500, v4, TunnelType::Gre), 1458);
        let routed = AgentConfig { traffic_encap_mode: EncapMode::NoEncap, ..AgentConfig::default() };
        assert_eq!(routed.pod_mtu(1500, v4, TunnelType::Geneve), 1500);
        let fixed = AgentConfig { default_mtu: 1400, ..AgentConfig::default() };
        assert_eq!(fixed.pod_mtu(1500, v4, TunnelType::Geneve), 1400);
    }
}
