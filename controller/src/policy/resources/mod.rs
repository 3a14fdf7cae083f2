//! What the hub serves: the resources of `controlplane.antrea.io/v1beta2`, one file each.
//!
//! A new one is a file that implements [`Served`], a line in [`METRICS`], one in [`super::storage::api`], and the arm of
//! [`super::publish`] that sends its changes.

mod address_groups;
mod applied_to_groups;
mod policies;

use std::{
    collections::HashMap,
    fmt::Display,
    sync::{Arc, Weak},
};

use antrea_api::controlplane::{API_VERSION, GROUP, VERSION};
use antrea_policy::{
    Index,
    model::{GroupChange, GroupName},
};
use apiserver_kit::{
    hub::{Delta, Filter, Render},
    object::{Column, Item, Object},
    status::Failure,
    storage::{Create, Resource},
};

pub(super) use self::{
    address_groups::AddressGroups, applied_to_groups::AppliedToGroups, policies::NetworkPolicies,
};
use super::PolicyHub;

/// A resource of the hub: computed objects that agents watch, each the part that concerns its node.
pub(super) trait Served: Send + Sync + 'static {
    /// The hub tells its resources apart by number.
    const NUMBER: usize;
    /// As the server sees it.
    const RESOURCE: Resource;
    /// What the index calls an object, and what it tells of one.
    type Name: Display;
    /// How the index tells that one changed.
    type Change;
    /// Makes the events of one change.
    type Events<'a>: Render;

    /// The selected objects as they are now, as ADDED events.
    fn list(index: &Index, filter: &Filter, whole: &mut Whole) -> Vec<Arc<Item>>;

    /// Whom a change concerns, and its events, with the stamp of what caused it.
    fn events<'a>(
        index: &'a Index,
        of: (&'a Self::Name, &'a str),
        change: &'a Self::Change,
        stamp: Option<&'a str>,
    ) -> (Delta<'a>, Self::Events<'a>);

    /// The subresource of an object, for resources that have one.
    ///
    /// # Errors
    /// There is none.
    fn subresource(_: &PolicyHub, name: &str) -> Result<Arc<dyn Object>, Failure> {
        Err(Failure::not_found(Self::RESOURCE.plural, name))
    }

    /// Takes in what an agent posts to the subresource. `agents` is the user name of agents.
    ///
    /// # Errors
    /// There is none, or the agent may not.
    fn post(_: &PolicyHub, _agents: &str, create: &Create) -> Result<Arc<dyn Object>, Failure> {
        Err(Failure::not_found(Self::RESOURCE.plural, &create.name))
    }
}

/// The resources by number, as upstream's metrics call them.
pub(super) const METRICS: [&str; 3] = ["network_policy", "address_group", "applied_to_group"];

/// The resources by number, as they are called in paths.
pub(crate) const PLURALS: [&str; METRICS.len()] =
    [NetworkPolicies::RESOURCE.plural, AddressGroups::RESOURCE.plural, AppliedToGroups::RESOURCE.plural];

const _: () = {
    assert!(NetworkPolicies::NUMBER == 0);
    assert!(AddressGroups::NUMBER == 1);
    assert!(AppliedToGroups::NUMBER == 2);
};

/// Groups that are being sent to somebody, by name.
pub(super) type Whole = HashMap<String, Weak<Item>>;

const READ: &[&str] = &["get", "list", "watch"];

const BASE: Resource = Resource {
    group: GROUP,
    version: VERSION,
    api_version: API_VERSION,
    plural: "",
    singular: "",
    kind: "",
    description: "",
    namespaced: false,
    short_names: &[],
    verbs: READ,
    columns: &[
        Column::new("Members", "integer", "Number of members."),
        Column::new("Pods", "string", "Some of the members."),
    ],
    fields: &["nodeName"],
    subresources: &[],
};

fn selects(filter: &Filter, name: &str) -> bool {
    filter.name.as_deref().is_none_or(|wanted| wanted == name)
}

/// Of groups.
fn delta<M>(change: &GroupChange<M>) -> Delta<'_> {
    match change {
        GroupChange::Created { span, .. } => Delta::Created { span },
        GroupChange::Updated { span, .. } => Delta::Updated { added: &span.added, removed: &span.removed },
        GroupChange::Deleted => Delta::Deleted,
    }
}

/// Events that were made, to be shared.
#[derive(Default)]
struct Items {
    added: Option<Arc<Item>>,
    modified: Option<Arc<Item>>,
    modified_whole: Option<Arc<Item>>,
    deleted: Option<Arc<Item>>,
}

fn shared(slot: &mut Option<Arc<Item>>, make: impl FnOnce() -> Arc<Item>) -> Option<Arc<Item>> {
    Some(Arc::clone(slot.get_or_insert_with(make)))
}

/// A name that the index may know.
fn parsed(name: &str) -> Option<GroupName> {
    name.parse().ok()
}
