//! Nodes as peers of rules: to groups each of their addresses is as a Pod is, in a namespace that only selectors of Nodes
//! look into.

use std::collections::BTreeSet;

use super::Index;
use crate::k8s::{self, NODES};

impl Index {
    /// Takes in a Node that was added or changed.
    pub fn apply_node(&mut self, node: &k8s::Node) {
        let members = node.members();
        for member in &members {
            self.apply_pod(member);
        }
        let now: Vec<Box<str>> = members.into_iter().map(|member| member.name).collect();
        let before = self.natives.nodes.insert(node.name.clone(), now.clone()).unwrap_or_default();
        for gone in before.iter().filter(|member| !now.contains(member)) {
            self.delete_pod(NODES, gone);
        }
    }

    /// Takes in that a Node is gone.
    pub fn delete_node(&mut self, name: &str) {
        for member in self.natives.nodes.remove(name).unwrap_or_default() {
            self.delete_pod(NODES, &member);
        }
    }

    /// Takes in the complete list of Nodes, as after a watch had to start over. Those of `kept` are in the list too and
    /// stay as they are known.
    pub fn reset_nodes<'a>(
        &mut self,
        nodes: impl IntoIterator<Item = &'a k8s::Node>,
        kept: impl IntoIterator<Item = &'a str>,
    ) {
        let mut listed: BTreeSet<&str> = kept.into_iter().collect();
        for node in nodes {
            self.apply_node(node);
            listed.insert(&node.name);
        }
        let gone = self.natives.nodes.keys().filter(|name| !listed.contains(&***name));
        for name in gone.cloned().collect::<Vec<_>>() {
            self.delete_node(&name);
        }
    }

    /// Whether the Node is known.
    #[must_use]
    pub fn has_node(&self, name: &str) -> bool {
        self.natives.nodes.contains_key(name)
    }
}
