//! `antrea-controller.conf`, with upstream's keys.

use std::{collections::BTreeMap, path::Path};

use antrea_api::features;
use serde::{Deserialize, Serialize};

/// The configuration file. Every key has a default.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllerConfig {
    /// Feature gates that differ from their default.
    pub feature_gates: BTreeMap<String, bool>,
    /// How to reach the Kubernetes API server.
    pub client_connection: ClientConnection,
    /// TCP port of the API.
    pub api_port: u16,
    /// Serve `/metrics`.
    pub enable_prometheus_metrics: bool,
    /// Issue the serving certificate; else it is provided in `/var/run/antrea/antrea-controller-tls`.
    pub self_signed_cert: bool,
    /// Cipher suites by IANA name, comma separated; empty: all that there are.
    pub tls_cipher_suites: String,
    /// `VersionTLS12` or `VersionTLS13`: the lowest that is offered; empty: both.
    #[serde(rename = "tlsMinVersion")]
    pub tls_min_version: String,
    /// File with CAs of client certificates, beside those that the API server publishes.
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: String,
    /// Address of the API server, `host:port` or a URL, that replaces the one of the environment.
    #[serde(rename = "kubeAPIServerOverride")]
    pub kube_api_server_override: String,
    /// Node CIDR allocation.
    #[serde(rename = "nodeIPAM")]
    pub node_ipam: NodeIpam,
    /// Signer of IPsec certificates.
    #[serde(rename = "ipsecCSRSigner")]
    pub ipsec_csr_signer: IpsecCsrSigner,
    /// Multi-cluster.
    pub multicluster: Multicluster,
    /// `error` … `trace`. Followed while the controller runs.
    pub log_level: String,
    /// Export of spans.
    pub tracing: antrea_runtime::trace::Config,
}

/// `clientConnection`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientConnection {
    /// A kubeconfig instead of the Pod's service account.
    pub kubeconfig: String,
}

/// `nodeIPAM`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeIpam {
    /// Allocate Pod CIDRs to Nodes.
    #[serde(rename = "enableNodeIPAM")]
    pub enable_node_ipam: bool,
    /// Ranges to allocate from.
    #[serde(rename = "clusterCIDRs")]
    pub cluster_cidrs: Vec<String>,
    /// IPv4 range of Services.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: String,
    /// IPv6 range of Services.
    #[serde(rename = "serviceCIDRv6")]
    pub service_cidr_v6: String,
    /// Prefix length of a Node's IPv4 range.
    #[serde(rename = "nodeCIDRMaskSizeIPv4")]
    pub node_cidr_mask_size_ipv4: u8,
    /// Prefix length of a Node's IPv6 range.
    #[serde(rename = "nodeCIDRMaskSizeIPv6")]
    pub node_cidr_mask_size_ipv6: u8,
}

/// `ipsecCSRSigner`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IpsecCsrSigner {
    /// Approve requests of agents.
    pub auto_approve: bool,
    /// Issue the signing CA.
    #[serde(rename = "selfSignedCA")]
    pub self_signed_ca: bool,
}

impl Default for IpsecCsrSigner {
    fn default() -> Self {
        Self { auto_approve: true, self_signed_ca: true }
    }
}

/// `multicluster` of upstream's file; read so that it can be refused.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Multicluster {
    /// Enforce policy across clusters.
    pub enable_stretched_network_policy: bool,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            feature_gates: BTreeMap::new(),
            client_connection: ClientConnection::default(),
            api_port: 10349,
            enable_prometheus_metrics: true,
            self_signed_cert: true,
            tls_cipher_suites: String::new(),
            tls_min_version: String::new(),
            client_ca_file: String::new(),
            kube_api_server_override: String::new(),
            node_ipam: NodeIpam::default(),
            ipsec_csr_signer: IpsecCsrSigner::default(),
            multicluster: Multicluster::default(),
            log_level: "info".to_owned(),
            tracing: antrea_runtime::trace::Config::default(),
        }
    }
}

/// The configuration names feature gates that do not exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("featureGates: {0}")]
pub struct UnknownGates(String);

impl ControllerConfig {
    /// The kubeconfig, if one is configured.
    pub fn kubeconfig(&self) -> Option<&Path> {
        let path = &self.client_connection.kubeconfig;
        (!path.is_empty()).then(|| Path::new(path))
    }

    /// The API server's address, if one is configured.
    pub fn api_server(&self) -> Option<&str> {
        Some(self.kube_api_server_override.as_str()).filter(|address| !address.is_empty())
    }

    /// Refuses feature gates that do not exist, and logs what is asked for and has no effect in this version.
    ///
    /// # Errors
    /// Names the gates.
    pub fn check(&self) -> Result<(), UnknownGates> {
        for name in self.ignored() {
            tracing::warn!(key = name, "this setting has no effect in this version");
        }
        let (unknown, _) = features::problems(&self.feature_gates);
        if unknown.is_empty() { Ok(()) } else { Err(UnknownGates(unknown.join("; "))) }
    }

    fn ignored(&self) -> Vec<String> {
        let (_, gates) = features::problems(&self.feature_gates);
        let mut ignored: Vec<String> = gates.iter().map(|name| format!("featureGates.{name}")).collect();
        let keys = [
            ("clientCAFile", !self.client_ca_file.is_empty()),
            ("nodeIPAM.enableNodeIPAM", self.node_ipam.enable_node_ipam),
            ("multicluster.enableStretchedNetworkPolicy", self.multicluster.enable_stretched_network_policy),
        ];
        ignored.extend(keys.iter().filter(|(_, set)| *set).map(|(key, _)| (*key).to_owned()));
        ignored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPSTREAM: &str = "
featureGates:
#  AntreaPolicy: true
  NodeIPAM: true
clientConnection:
  kubeconfig: ''
apiPort: 10349
enablePrometheusMetrics: true
selfSignedCert: true
tlsCipherSuites:
tlsMinVersion:
clientCAFile:
kubeAPIServerOverride: 'https://172.18.0.3:6443'
nodeIPAM:
  enableNodeIPAM: false
  clusterCIDRs: [10.10.0.0/16]
  serviceCIDR:
  serviceCIDRv6:
  nodeCIDRMaskSizeIPv4: 24
  nodeCIDRMaskSizeIPv6: 64
ipsecCSRSigner:
  autoApprove: true
  selfSignedCA: true
multicluster:
  enableStretchedNetworkPolicy: false
";

    #[test]
    fn reads_upstreams_keys() {
        let (config, unknown) = antrea_runtime::config::parse::<ControllerConfig>("conf", UPSTREAM).unwrap();
        assert_eq!(unknown, Vec::<String>::new());
        assert_eq!(config.api_server(), Some("https://172.18.0.3:6443"));
        assert_eq!(config.kubeconfig(), None);
        assert_eq!(config.ignored(), ["featureGates.NodeIPAM"]);
        assert_eq!(config.check(), Ok(()));
        let (config, _) =
            antrea_runtime::config::parse::<ControllerConfig>("conf", "featureGates: {egress: true}")
                .unwrap();
        let error = config.check().unwrap_err().to_string();
        assert_eq!(error, "featureGates: egress: there is no such feature gate; did you mean Egress?");
        let (empty, _) = antrea_runtime::config::parse::<ControllerConfig>("conf", "").unwrap();
        assert_eq!(empty, ControllerConfig::default());
    }
}
