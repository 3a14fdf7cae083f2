//! What an agent tells the controller of the addresses of its node's pods, before kubelet writes them into their status.
//!
//! `PUT /podaddresses?node=…` with [`PodAddresses`]: everything that the agent has to tell, which replaces what it told
//! before. 200 with an [`Answer`]; 403 if the token is not one that is good for this node.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Path of the request.
pub const PATH: &str = "/podaddresses";

/// Most pods that an agent tells of; of more it tells of none beyond.
pub const MAX_PODS: usize = 4096;

/// Longest body that is read, in octets.
pub const MAX_BODY: usize = 1 << 20;

/// The query of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeQuery {
    /// The node that tells.
    pub node: String,
}

/// The pods of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodAddresses {
    /// Those that have an address.
    pub pods: Vec<PodAddress>,
}

/// A pod of the agent's node and the addresses that IPAM gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodAddress {
    pub namespace: String,
    pub name: String,
    /// UID, as the kubelet knows it.
    pub uid: String,
    /// At most one of each family.
    pub ips: Vec<IpAddr>,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Answer {
    /// Pods whose addresses are not believed, as `NAMESPACE/NAME: why`; at most ten.
    pub refused: Vec<String>,
}

/// Path and query of a node's request; none if the name is nothing that Kubernetes would give a node.
pub fn path(node: &str) -> Option<String> {
    let plain = node.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    plain.then(|| format!("{PATH}?node={node}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_name_gets_into_the_path() {
        assert_eq!(path("n1.example").unwrap(), "/podaddresses?node=n1.example");
        assert_eq!(path("n1&node=n2"), None);
    }
}
