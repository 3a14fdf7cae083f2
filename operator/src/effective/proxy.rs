//! Who serves Services.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use antrea_crds::installation::{AntreaInstallationSpec, Proxy, ProxyMode};
use ipnet::IpNet;

use super::problems::Problems;

/// Where kube-proxy tells how it is.
const PROXY_HEALTH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 10256);

/// A [`Proxy`] with nothing left open.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveProxy {
    /// Who serves.
    pub mode: ProxyMode,
    /// Ranges of addresses with node ports; all if there is none.
    pub node_port_addresses: Vec<IpNet>,
    /// Where Nodes tell how the proxy is, if anywhere.
    pub health_address: Option<SocketAddr>,
}

impl EffectiveProxy {
    /// As a user would write it.
    pub(super) fn to_spec(&self) -> Proxy {
        let all = self.mode == ProxyMode::All;
        let health = || self.health_address.map(|address| address.to_string()).unwrap_or_default();
        Proxy {
            mode: Some(self.mode),
            node_port_addresses: self.node_port_addresses.iter().map(IpNet::to_string).collect(),
            health_address: all.then(health),
        }
    }
}

/// Who serves Services, by the mode or by upstream's gate, and the gates that go with it.
pub(super) fn proxy(
    spec: &AntreaInstallationSpec,
    problems: &mut Problems,
) -> (EffectiveProxy, BTreeMap<String, bool>) {
    const GATE: &str = "AntreaProxy";
    const PATH: &str = "spec.proxy.mode";
    let mut gates = spec.feature_gates.clone();
    let asked = spec.proxy.as_ref().and_then(|proxy| proxy.mode);
    let mode = match (asked, gates.get(GATE)) {
        (None, Some(false)) => ProxyMode::KubeProxy,
        (mode, _) => mode.unwrap_or_default(),
    };
    match (mode, gates.get(GATE)) {
        (ProxyMode::KubeProxy, Some(true)) | (ProxyMode::Services | ProxyMode::All, Some(false)) => {
            problems.add(PATH, "contradicts spec.featureGates.AntreaProxy; remove the gate");
        }
        (mode, _) => {
            gates.insert(GATE.to_owned(), mode != ProxyMode::KubeProxy);
        }
    }
    (everybody(spec, mode, problems), gates)
}

/// What serving everybody takes.
fn everybody(spec: &AntreaInstallationSpec, mode: ProxyMode, problems: &mut Problems) -> EffectiveProxy {
    let proxy = spec.proxy.clone().unwrap_or_default();
    let node_port_addresses = problems.cidrs("spec.proxy.nodePortAddresses", &proxy.node_port_addresses);
    let health_address = match proxy.health_address.as_deref() {
        None => Some(PROXY_HEALTH),
        Some("") => None,
        Some(text) => match text.parse() {
            Ok(address) => Some(address),
            Err(_) => {
                let message = format!("{text:?} is no IP address with a port");
                problems.add("spec.proxy.healthAddress", message);
                None
            }
        },
    };
    let asked = !proxy.node_port_addresses.is_empty() || proxy.health_address.is_some();
    if asked && mode != ProxyMode::All {
        problems.add("spec.proxy", "nodePortAddresses and healthAddress need mode All");
    }
    EffectiveProxy { mode, node_port_addresses, health_address }
}
