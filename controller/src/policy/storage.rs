//! The resources' storage: views of the hub.

use std::sync::Arc;

use antrea_api::{
    controlplane as wire,
    k8s::{EventType, ObjectMeta},
};
use antrea_policy::model::GroupName;
use apiserver_kit::{
    api::Api,
    hub::{Filter, Subscription},
    object::{Item, Object},
    status::Failure,
    storage::{Create, List, Selection, Storage},
};
use futures::future::BoxFuture;

use super::{
    ADDRESS, APPLIED_TO, POLICY, PolicyHub, State,
    publish::{address_item, applied_to_item, policy_item},
    resources::{ADDRESS_GROUPS, APPLIED_TO_GROUPS, NETWORK_POLICIES},
    scope,
};

/// Adds the resources of `controlplane.antrea.io` to `api`. Agents are ServiceAccounts in `namespace`.
#[must_use]
pub fn api(api: Api, hub: &Arc<PolicyHub>, namespace: &str) -> Api {
    let agents = scope::agents(namespace);
    let view = |resource| Arc::new(View { hub: Arc::clone(hub), agents: Arc::clone(&agents), resource });
    api.with(NETWORK_POLICIES, view(POLICY))
        .with(ADDRESS_GROUPS, view(ADDRESS))
        .with(APPLIED_TO_GROUPS, view(APPLIED_TO))
}

/// One resource of the hub.
struct View {
    hub: Arc<PolicyHub>,
    /// User name of agents.
    agents: Arc<str>,
    resource: usize,
}

const PLURALS: [&str; 3] = [NETWORK_POLICIES.plural, ADDRESS_GROUPS.plural, APPLIED_TO_GROUPS.plural];

pub(super) fn synced(state: &State) -> Result<(), Failure> {
    if state.is_synced() {
        return Ok(());
    }
    Err(Failure::unavailable("the controller does not know the whole cluster yet"))
}

impl Storage for View {
    fn list(&self, selection: &Selection) -> Result<List, Failure> {
        let filter = self.filter(selection);
        let (items, resource_version) = self.hub.read(|state, _| {
            synced(state)?;
            Ok::<_, Failure>(Snapshot { state, filter: &filter }.items(None))
        });
        let objects = items?.into_iter().map(|item| Arc::clone(item.object())).collect();
        Ok(List { resource_version, objects })
    }

    fn get(&self, _: &str, name: &str) -> Result<Arc<dyn Object>, Failure> {
        let selection = Selection { name: Some(name.to_owned()), ..Selection::default() };
        let mut list = self.list(&selection)?;
        list.objects.pop().ok_or_else(|| Failure::not_found(PLURALS[self.resource], name))
    }

    fn get_subresource(&self, _: &str, name: &str, _: &str) -> Result<Arc<dyn Object>, Failure> {
        let (nodes, _) = self.hub.read(|state, _| {
            state.index.network_policy(name).map(|policy| (policy.generation, state.realization.of(name)))
        });
        let (generation, nodes) = nodes.ok_or_else(|| Failure::not_found(NETWORK_POLICIES.plural, name))?;
        let metadata = ObjectMeta { generation, uid: name.to_owned(), ..ObjectMeta::named(name) };
        Ok(Arc::new(wire::NetworkPolicyStatus { metadata, nodes }))
    }

    fn watch(&self, selection: &Selection) -> Result<Subscription, Failure> {
        // Inputs never become unknown again, so that this need not be one step with subscribing.
        self.hub.read(|state, _| synced(state)).0?;
        Ok(self.subscribe(selection))
    }

    fn create(&self, create: Create) -> BoxFuture<'_, Result<Arc<dyn Object>, Failure>> {
        Box::pin(async move {
            let status: wire::NetworkPolicyStatus = create.body.decode()?;
            if !status.metadata.name.is_empty() && status.metadata.name != create.name {
                let message = format!("status of {:?} posted to {:?}", status.metadata.name, create.name);
                return Err(Failure::bad_request(message));
            }
            if let Some(own) = create.user.node_of(&self.agents) {
                status.nodes.iter().try_for_each(|node| scope::own(own, Some(&node.node_name)))?;
            }
            let known = self.hub.update(|state, _| {
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
                return Err(Failure::not_found(NETWORK_POLICIES.plural, &create.name));
            }
            Ok(Arc::new(status) as Arc<dyn Object>)
        })
    }
}

impl View {
    fn subscribe(&self, selection: &Selection) -> Subscription {
        let filter = self.filter(selection);
        self.hub.subscribe(filter.clone(), |state| {
            let mut whole = std::mem::take(&mut state.whole);
            let items = Snapshot { state, filter: &filter }.items(Some(&mut whole));
            state.whole = whole;
            items
        })
    }

    fn filter(&self, selection: &Selection) -> Filter {
        Filter {
            resource: self.resource,
            node: selection.fields.get("nodeName").map(|node| node.as_str().into()),
            name: selection.name.clone(),
        }
    }
}

/// A watch as the resource numbered `resource` serves it.
#[cfg(test)]
pub(super) fn watch(hub: &Arc<PolicyHub>, resource: usize, node: Option<&str>) -> Subscription {
    let view = View { hub: Arc::clone(hub), agents: scope::agents("kube-system"), resource };
    let fields = node.map(|node| ("nodeName", node.to_owned())).into_iter().collect();
    view.subscribe(&Selection { fields, ..Selection::default() })
}

/// The selected objects at one moment.
struct Snapshot<'a> {
    state: &'a State,
    filter: &'a Filter,
}

type Whole = std::collections::HashMap<String, std::sync::Weak<Item>>;

impl Snapshot<'_> {
    fn items(&self, whole: Option<&mut Whole>) -> Vec<Arc<Item>> {
        match self.filter.resource {
            POLICY => self.policies(),
            ADDRESS => self.address_groups(whole.unwrap_or(&mut Whole::new())),
            _ => self.applied_to_groups(),
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.filter.name.as_deref().is_none_or(|wanted| wanted == name)
    }

    fn policies(&self) -> Vec<Arc<Item>> {
        let index = &self.state.index;
        let policies = match (&self.filter.node, &self.filter.name) {
            (Some(node), _) => index.node_view(node).policies,
            (None, Some(name)) => index.network_policy(name).into_iter().collect(),
            (None, None) => index.network_policies().cloned().collect(),
        };
        let wanted = policies.iter().filter(|policy| self.wants(&policy.name));
        wanted.map(|policy| policy_item(EventType::Added, policy, None)).collect()
    }

    fn address_groups(&self, whole: &mut Whole) -> Vec<Arc<Item>> {
        let index = &self.state.index;
        let names: Vec<GroupName> = match (&self.filter.node, &self.filter.name) {
            (Some(node), _) => index.node_view(node).address_groups,
            (None, Some(name)) => name.parse().into_iter().collect(),
            (None, None) => {
                let groups = index.address_groups();
                return groups
                    .map(|group| {
                        address_item(EventType::Added, &group.name.to_string(), &group.members, None)
                    })
                    .collect();
            }
        };
        names
            .iter()
            .filter_map(|name| {
                let text = name.to_string();
                if !self.wants(&text) {
                    return None;
                }
                if let Some(item) = whole.get(&text).and_then(std::sync::Weak::upgrade) {
                    return Some(item);
                }
                let item = address_item(EventType::Added, &text, &index.address_group(name)?.members, None);
                if whole.len() >= 2 * names.len().max(1024) {
                    whole.retain(|_, item| item.strong_count() > 0);
                }
                whole.insert(text, Arc::downgrade(&item));
                Some(item)
            })
            .collect()
    }

    fn applied_to_groups(&self) -> Vec<Arc<Item>> {
        let index = &self.state.index;
        let item = |name: &GroupName, members: &[_]| {
            let text = name.to_string();
            self.wants(&text).then(|| applied_to_item(EventType::Added, &text, members.iter(), None))
        };
        match (&self.filter.node, &self.filter.name) {
            (Some(node), _) => {
                let groups = index.node_view(node).applied_to_groups;
                groups.iter().filter_map(|(name, members)| item(name, members)).collect()
            }
            (None, Some(name)) => {
                let group = name.parse().ok().and_then(|name| index.applied_to_group(&name));
                group.iter().filter_map(|group| item(&group.name, &group.members)).collect()
            }
            (None, None) => {
                index.applied_to_groups().filter_map(|group| item(&group.name, &group.members)).collect()
            }
        }
    }
}
