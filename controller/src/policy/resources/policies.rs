//! Computed policies, and what agents report of them.

use std::sync::Arc;

use antrea_api::{
    controlplane as wire,
    k8s::{EventType, ObjectMeta},
};
use antrea_policy::{
    Index,
    model::{NetworkPolicy, PolicyChange},
};
use apiserver_kit::{
    hub::{Delta, Filter, Render},
    object::{Column, Item, Object},
    status::Failure,
    storage::{Create, Resource},
};

use super::{BASE, Items, Served, Whole, selects, shared};
use crate::policy::{PolicyHub, convert, scope, trace::stamped};

pub(in crate::policy) struct NetworkPolicies;

impl Served for NetworkPolicies {
    const NUMBER: usize = 0;
    const RESOURCE: Resource = Resource {
        plural: "networkpolicies",
        singular: "networkpolicy",
        kind: "NetworkPolicy",
        description: "NetworkPolicy is a computed policy: what nodes enforce for the policy that it comes from.",
        columns: &[
            Column::new("Source", "string", "The policy that it comes from."),
            Column::new("Applied To", "integer", "Number of AppliedToGroups."),
            Column::new("Rules", "integer", "Number of rules."),
        ],
        subresources: &[("status", "NetworkPolicyStatus", &["create", "get"])],
        ..BASE
    };
    type Name = Arc<str>;
    type Change = PolicyChange;
    type Events<'a> = PolicyEvents<'a>;

    fn list(index: &Index, filter: &Filter, _: &mut Whole) -> Vec<Arc<Item>> {
        let policies = match (&filter.node, &filter.name) {
            (Some(node), _) => index.node_view(node).policies,
            (None, Some(name)) => index.network_policy(name).into_iter().collect(),
            (None, None) => index.network_policies().cloned().collect(),
        };
        let wanted = policies.iter().filter(|policy| selects(filter, &policy.name));
        wanted.map(|policy| item(EventType::Added, policy, None)).collect()
    }

    fn events<'a>(
        _: &'a Index,
        _: (&'a Arc<str>, &'a str),
        change: &'a PolicyChange,
        stamp: Option<&'a str>,
    ) -> (Delta<'a>, PolicyEvents<'a>) {
        let (delta, policy, modified) = match change {
            PolicyChange::Created { policy, span } => (Delta::Created { span }, policy, true),
            PolicyChange::Updated { policy, modified, span } => {
                (Delta::Updated { added: &span.added, removed: &span.removed }, policy, *modified)
            }
            PolicyChange::Deleted { policy } => (Delta::Deleted, policy, false),
        };
        (delta, PolicyEvents { policy, modified, stamp, items: Items::default() })
    }

    /// How it is realized on the nodes.
    fn subresource(hub: &PolicyHub, name: &str) -> Result<Arc<dyn Object>, Failure> {
        let (nodes, _) = hub.read(|state, _| {
            state.index.network_policy(name).map(|policy| (policy.generation, state.realization.of(name)))
        });
        let (generation, nodes) = nodes.ok_or_else(|| Failure::not_found(Self::RESOURCE.plural, name))?;
        let metadata = ObjectMeta { generation, uid: name.to_owned(), ..ObjectMeta::named(name) };
        Ok(Arc::new(wire::NetworkPolicyStatus { metadata, nodes }))
    }

    fn post(hub: &PolicyHub, agents: &str, create: &Create) -> Result<Arc<dyn Object>, Failure> {
        let status: wire::NetworkPolicyStatus = create.body.decode()?;
        if !status.metadata.name.is_empty() && status.metadata.name != create.name {
            let message = format!("status of {:?} posted to {:?}", status.metadata.name, create.name);
            return Err(Failure::bad_request(message));
        }
        if let Some(own) = create.user.node_of(agents) {
            status.nodes.iter().try_for_each(|node| scope::own(own, Some(&node.node_name)))?;
        }
        let known = hub.update(|state, _| {
            let Some(span) = state.index.network_policy_span(&create.name) else { return false };
            let name: Arc<str> = create.name.as_str().into();
            for node in &status.nodes {
                // A report that crosses a change of the span is of no use any more.
                if span.iter().any(|needed| **needed == *node.node_name) {
                    state.realization.report(&name, node.clone());
                }
            }
            if let Some(policy) = state.index.network_policy(&create.name) {
                state.stale.reported(&policy.source);
            }
            true
        });
        if !known {
            return Err(Failure::not_found(Self::RESOURCE.plural, &create.name));
        }
        Ok(Arc::new(status))
    }
}

fn item(kind: EventType, policy: &NetworkPolicy, stamp: Option<&str>) -> Arc<Item> {
    let mut policy = convert::network_policy(policy);
    policy.metadata = stamped(policy.metadata, stamp);
    Item::new(kind, policy, NetworkPolicies::RESOURCE.columns)
}

pub(in crate::policy) struct PolicyEvents<'a> {
    policy: &'a NetworkPolicy,
    modified: bool,
    stamp: Option<&'a str>,
    items: Items,
}

impl Render for PolicyEvents<'_> {
    fn added(&mut self, _: Option<&str>) -> Option<Arc<Item>> {
        shared(&mut self.items.added, || item(EventType::Added, self.policy, self.stamp))
    }

    fn modified(&mut self, _: Option<&str>) -> Option<Arc<Item>> {
        if !self.modified {
            return None;
        }
        shared(&mut self.items.modified, || item(EventType::Modified, self.policy, self.stamp))
    }

    fn deleted(&mut self) -> Option<Arc<Item>> {
        shared(&mut self.items.deleted, || {
            // Without what it did, but with what it came from: upstream's agent looks there.
            let mut policy = convert::policy_head(self.policy);
            policy.metadata = stamped(policy.metadata, self.stamp);
            Item::new(EventType::Deleted, policy, NetworkPolicies::RESOURCE.columns)
        })
    }
}
