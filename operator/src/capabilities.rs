//! Whether every Node can follow a configuration, as far as agents have told what their Nodes can do.
//!
//! A spec that contradicts itself is refused by [`effective`](crate::effective); this refuses what only the
//! cluster shows to be impossible, before any agent is replaced.

use std::collections::BTreeMap;

use antrea_crds::{
    Capabilities,
    installation::{Datapath, TrafficEncapMode, TunnelType},
};

use crate::effective::{ConfigError, Effective, Problem};

/// Nodes that a message names.
const NAMED: usize = 3;

/// A tunnel's name in a spec; OVS has the same in small letters.
fn spec_name(tunnel: TunnelType) -> &'static str {
    match tunnel {
        TunnelType::Geneve => "Geneve",
        TunnelType::Vxlan => "VXLAN",
        TunnelType::Gre => "GRE",
        TunnelType::Stt => "STT",
    }
}

/// "Node a", "Nodes a, b and 3 more".
fn named(nodes: &[&str]) -> String {
    let some = nodes.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match nodes.len() {
        1 => format!("Node {some}"),
        n if n > NAMED => format!("Nodes {some} and {} more", n - NAMED),
        _ => format!("Nodes {some}"),
    }
}

/// Refuses a configuration that one of `nodes` cannot follow.
///
/// # Errors
/// Each field that asks for too much, with the Nodes that lack it and what they have.
pub fn check(config: &Effective, nodes: &BTreeMap<String, Capabilities>) -> Result<(), ConfigError> {
    let mut problems = Vec::new();
    let mut add = |path: &str, message: String| problems.push(Problem { path: path.to_owned(), message });
    let without_kernel: Vec<&str> =
        nodes.iter().filter(|(_, node)| !node.kernel_datapath).map(|(name, _)| name.as_str()).collect();
    if config.datapath == Datapath::System && !without_kernel.is_empty() {
        let message = format!(
            "System is not available on {}, whose kernel has no openvswitch module; load it, or choose Auto or Userspace",
            named(&without_kernel)
        );
        add("spec.ovs.datapath", message);
    }
    let tunnel = config.tunnel.filter(|_| config.encap != TrafficEncapMode::NoEncap);
    if let Some(tunnel) = tunnel {
        let name = spec_name(tunnel);
        if config.datapath == Datapath::Auto && tunnel != TunnelType::Vxlan && !without_kernel.is_empty() {
            let message = format!(
                "{name} is not available on the userspace datapath of {}, whose kernel has no openvswitch \
                 module; choose VXLAN or leave tunnelType out",
                named(&without_kernel)
            );
            add("spec.tunnelType", message);
        }
        let ovs_name = name.to_lowercase();
        let lacking: Vec<(&str, &Capabilities)> = nodes
            .iter()
            .filter(|(_, node)| node.kernel_datapath && config.datapath != Datapath::Userspace)
            .filter(|(_, node)| !node.tunnels.is_empty() && !node.tunnels.contains(&ovs_name))
            .map(|(host, node)| (host.as_str(), node))
            .collect();
        if let Some((_, node)) = lacking.first() {
            let names: Vec<&str> = lacking.iter().map(|(host, _)| *host).collect();
            let offered = node.tunnels.join(", ");
            add(
                "spec.tunnelType",
                format!("{name} is not available on {}: Open vSwitch there offers {offered}", named(&names)),
            );
        }
    }
    if problems.is_empty() { Ok(()) } else { Err(ConfigError { problems }) }
}

#[cfg(test)]
mod tests {
    use antrea_crds::AntreaInstallationSpec;
    use serde_json::{Value, json};

    use super::*;
    use crate::effective::{Facts, effective};

    fn node(kernel_datapath: bool) -> Capabilities {
        let tunnels = ["geneve", "vxlan", "gre"].map(str::to_owned).to_vec();
        Capabilities { kernel_datapath, tunnels }
    }

    fn refused(spec: Value, nodes: &[(&str, Capabilities)]) -> Option<String> {
        let spec: AntreaInstallationSpec = serde_json::from_value(spec).unwrap();
        let config = effective(&spec, &Facts::default()).unwrap();
        let nodes = nodes.iter().map(|(name, node)| ((*name).to_owned(), node.clone())).collect();
        check(&config, &nodes).err().map(|error| error.to_string())
    }

    #[test]
    fn what_every_node_can_do_is_taken() {
        let mixed = [("a", node(true)), ("b", node(false))];
        assert_eq!(refused(json!({}), &mixed), None);
        assert_eq!(refused(json!({"tunnelType": "VXLAN"}), &mixed), None);
        assert_eq!(refused(json!({"ovs": {"datapath": "Userspace"}}), &mixed), None);
        assert_eq!(refused(json!({"trafficEncapMode": "NoEncap"}), &mixed), None);
        assert_eq!(refused(json!({"tunnelType": "GRE"}), &[("a", node(true))]), None);
        assert_eq!(refused(json!({"tunnelType": "GRE"}), &[]), None);
    }

    #[test]
    fn what_a_node_lacks_is_refused_with_its_name() {
        let mixed = [("a", node(true)), ("b", node(false))];
        for tunnel in ["Geneve", "GRE", "STT"] {
            let message = refused(json!({"tunnelType": tunnel}), &mixed).unwrap();
            let start =
                format!("spec.tunnelType: {tunnel} is not available on the userspace datapath of Node b,");
            assert!(message.starts_with(&start), "{message}");
        }
        let message = refused(json!({"ovs": {"datapath": "System"}}), &mixed).unwrap();
        assert!(message.starts_with("spec.ovs.datapath: System is not available on Node b,"), "{message}");
        let message = refused(json!({"tunnelType": "STT"}), &[("a", node(true))]).unwrap();
        assert!(message.contains("Node a: Open vSwitch there offers geneve, vxlan, gre"), "{message}");
    }

    #[test]
    fn few_of_many_nodes_are_named() {
        let many: Vec<_> = ["a", "b", "c", "d", "e"].map(|name| (name, node(false))).to_vec();
        let message = refused(json!({"ovs": {"datapath": "System"}}), &many).unwrap();
        assert!(message.contains("Nodes a, b, c and 2 more"), "{message}");
    }
}
