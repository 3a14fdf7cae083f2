//! What attachments leave traces in, on a node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use crate::lab::{LabNode, sh};

/// Everything that an attachment can leak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    /// Links in the node's namespace.
    pub links: BTreeSet<String>,
    /// Ports of the bridge.
    pub ports: BTreeSet<String>,
    /// Addresses that host-local has given out.
    pub addresses: BTreeSet<IpAddr>,
    /// Number of flows.
    pub flows: usize,
}

impl Traces {
    /// Reads them.
    pub fn of(node: &LabNode) -> Self {
        let links: Value = serde_json::from_str(&sh(&format!("ip -n {} -j link", node.netns))).unwrap();
        let links = links.as_array().unwrap().iter().map(|l| l["ifname"].as_str().unwrap().to_owned());
        let ports = node.ovs.vsctl(&["list-ports", "br-int"]).unwrap();
        Self {
            links: links.collect(),
            ports: ports.lines().map(str::to_owned).collect(),
            addresses: addresses(node),
            flows: node.ofctl("dump-flows", &[]).lines().count(),
        }
    }
}

/// Addresses that host-local has given out.
pub fn addresses(node: &LabNode) -> BTreeSet<IpAddr> {
    let entries = std::fs::read_dir(node.dir.join("ipam/antrea")).into_iter().flatten();
    entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect()
}
