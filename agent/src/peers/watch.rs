//! The watch on Node objects.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;

use antrea_runtime::tolerant::Tolerant;
use futures::TryStreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::peers::wiring::{Node, Peer};

/// Every node of the cluster by name, this one included.
pub type Nodes = Arc<BTreeMap<String, Arc<Peer>>>;

/// Nodes as far as they are usable, from the events of a watch.
#[derive(Debug, Default)]
struct Index {
    nodes: BTreeMap<String, Arc<Peer>>,
    /// What a list under way has shown so far; it replaces `nodes` when it is complete.
    listed: Option<BTreeMap<String, Arc<Peer>>>,
}

impl Index {
    /// Takes an event; returns the nodes when they may have changed.
    fn apply(&mut self, event: Event<Tolerant<Node>>) -> Option<Nodes> {
        match event {
            Event::Init => {
                self.listed = Some(BTreeMap::new());
                return None;
            }
            Event::InitApply(node) => {
                let name = node.key().1;
                let previous = self.nodes.get(&name).cloned();
                insert(self.listed.get_or_insert_default(), &name, node, previous);
                return None;
            }
            Event::InitDone => self.nodes = self.listed.take().unwrap_or_default(),
            Event::Apply(node) => {
                let name = node.key().1;
                let previous = self.nodes.get(&name).cloned();
                let before = previous.clone();
                insert(&mut self.nodes, &name, node, previous);
                // Heartbeats change nothing here.
                if before.as_deref() == self.nodes.get(&name).map(AsRef::as_ref) {
                    return None;
                }
            }
            Event::Delete(node) => {
                self.nodes.remove(&node.key().1);
            }
        }
        Some(Arc::new(self.nodes.clone()))
    }
}

/// A node that turned unusable keeps its last good state: traffic to it goes on.
fn insert(
    nodes: &mut BTreeMap<String, Arc<Peer>>,
    name: &str,
    node: Tolerant<Node>,
    previous: Option<Arc<Peer>>,
) {
    let node = node.object.map_err(|error| error.to_string());
    match node.and_then(|node| Peer::from_node(&node).map_err(|error| error.to_string())) {
        Ok(Some(peer)) => {
            nodes.insert(peer.name.clone(), Arc::new(peer.settled(previous.as_deref())));
        }
        // Of a Node that had them, a cloud's controller has lost addresses or subnet for a moment: only the end of
        // the Node is the end of its traffic.
        Ok(None) => {
            if let Some(previous) = previous {
                tracing::warn!(
                    node = name,
                    "node has no address or no pod subnet any more, keeping its last"
                );
                nodes.insert(previous.name.clone(), previous);
            }
        }
        Err(error) => {
            tracing::error!(node = name, error, "node is not usable, keeping what was known of it");
            if let Some(previous) = previous {
                nodes.insert(previous.name.clone(), previous);
            }
        }
    }
}

/// Follows all Node objects until the receiver is gone.
///
/// # Errors
/// None: the watch is retried for ever.
pub async fn watch_nodes(client: Client, nodes: watch::Sender<Option<Nodes>>) -> Result<(), watcher::Error> {
    let api: Api<Tolerant<Node>> = Api::all(client);
    let events = watcher(api, watcher::Config::default().page_size(500)).default_backoff();
    let mut events = pin!(events);
    let mut index = Index::default();
    loop {
        match events.try_next().await {
            Ok(Some(event)) => {
                if let Some(changed) = index.apply(event) {
                    nodes.send_replace(Some(changed));
                }
            }
            Ok(None) => return Ok(()),
            Err(error) => tracing::warn!(%error, "watch on nodes"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, cidr: impl Into<serde_json::Value>) -> Tolerant<Node> {
        let cidr: serde_json::Value = cidr.into();
        serde_json::from_value(json!({
            "metadata": {"name": name}, "spec": {"podCIDR": cidr},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}
        }))
        .unwrap()
    }

    #[test]
    fn a_list_replaces_only_when_complete() {
        let mut index = Index::default();
        assert!(index.apply(Event::Init).is_none());
        assert!(index.apply(Event::InitApply(node("a", "10.0.1.0/24"))).is_none());
        assert_eq!(index.apply(Event::InitDone).unwrap().len(), 1);
        assert!(index.apply(Event::Init).is_none());
        assert_eq!(index.nodes.len(), 1, "a list under way hides nothing");
        assert!(index.apply(Event::InitDone).unwrap().is_empty());
    }

    #[test]
    fn a_node_without_addresses_for_a_moment_is_kept() {
        let mut index = Index::default();
        index.apply(Event::Apply(node("a", "10.0.1.0/24")));
        let bare =
            || -> Tolerant<Node> { serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap() };
        assert!(index.apply(Event::Apply(bare())).is_none(), "nothing changes");
        index.apply(Event::Init);
        index.apply(Event::InitApply(bare()));
        assert_eq!(index.apply(Event::InitDone).unwrap().len(), 1);
        assert!(index.apply(Event::Delete(bare())).unwrap().is_empty());
        index.apply(Event::Apply(bare()));
        assert!(index.nodes.is_empty(), "nothing was ever known of it");
    }

    #[test]
    fn an_address_that_comes_first_for_a_moment_moves_nothing() {
        let mut index = Index::default();
        let with = |addresses: &[&str], annotation: Option<&str>| -> Tolerant<Node> {
            let list: Vec<_> =
                addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
            let annotations = annotation.map(|text| json!({"node.antrea.io/transport-addresses": text}));
            serde_json::from_value(json!({
                "metadata": {"name": "a", "annotations": annotations},
                "spec": {"podCIDR": "10.0.1.0/24"}, "status": {"addresses": list}
            }))
            .unwrap()
        };
        let mut ips = |node| {
            index.apply(Event::Apply(node));
            index.nodes["a"].transport_ips.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(ips(with(&["192.0.2.1"], None)), ["192.0.2.1"]);
        assert_eq!(
            ips(with(&["192.0.2.100", "192.0.2.1", "2001:db8::1"], None)),
            ["192.0.2.1", "2001:db8::1"]
        );
        assert_eq!(ips(with(&["192.0.2.1", "192.0.2.100"], Some("192.0.2.100"))), ["192.0.2.100"]);
        assert_eq!(ips(with(&["192.0.2.7"], None)), ["192.0.2.7"], "the other is gone");
    }

    #[test]
    fn heartbeats_change_nothing_and_bad_objects_lose_nothing() {
        let mut index = Index::default();
        assert!(index.apply(Event::Apply(node("a", "10.0.1.0/24"))).is_some());
        assert!(index.apply(Event::Apply(node("a", "10.0.1.0/24"))).is_none());
        for bad in [json!("nonsense"), json!(5)] {
            assert!(index.apply(Event::Apply(node("a", bad.clone()))).is_none());
            assert!(index.apply(Event::Init).is_none());
            assert!(index.apply(Event::InitApply(node("a", bad))).is_none());
            assert!(index.apply(Event::InitApply(node("b", "10.0.2.0/24"))).is_none());
            assert_eq!(index.apply(Event::InitDone).unwrap().len(), 2);
        }
        assert_eq!(index.nodes["a"].pod_cidrs[0].to_string(), "10.0.1.0/24");
        assert_eq!(index.apply(Event::Delete(node("a", "10.0.1.0/24"))).unwrap().len(), 1);
    }
}
