//! The resources' storage: views of the hub.

use std::{marker::PhantomData, sync::Arc};

use apiserver_kit::{
    api::Api,
    hub::{Filter, Subscription},
    object::Object,
    status::Failure,
    storage::{Create, List, Selection, Storage},
};
use futures::future::BoxFuture;

use super::{
    PolicyHub, State,
    evaluation::{self, Evaluations},
    groups,
    resources::{AddressGroups, AppliedToGroups, NetworkPolicies, Served, Whole},
    scope,
};

/// Adds the resources of `controlplane.antrea.io` to `api`. Agents are ServiceAccounts in `namespace`.
#[must_use]
pub fn api(api: Api, hub: &Arc<PolicyHub>, namespace: &str) -> Api {
    let agents = scope::agents(namespace);
    let api = api
        .with(NetworkPolicies::RESOURCE, View::<NetworkPolicies>::new(hub, &agents))
        .with(AddressGroups::RESOURCE, View::<AddressGroups>::new(hub, &agents))
        .with(AppliedToGroups::RESOURCE, View::<AppliedToGroups>::new(hub, &agents))
        .with(evaluation::RESOURCE, Evaluations::new(hub));
    groups::resources(api, hub)
}

/// A resource's plural, and its objects if they are known.
type Dumped = (&'static str, Result<Vec<Arc<dyn Object>>, Failure>);

/// Everything that is computed, by resource.
pub fn dump(hub: &Arc<PolicyHub>) -> [Dumped; 3] {
    let agents = scope::agents("");
    let all = |view: &dyn Storage| view.list(&Selection::default()).map(|list| list.objects);
    [
        (NetworkPolicies::RESOURCE.plural, all(&*View::<NetworkPolicies>::new(hub, &agents))),
        (AddressGroups::RESOURCE.plural, all(&*View::<AddressGroups>::new(hub, &agents))),
        (AppliedToGroups::RESOURCE.plural, all(&*View::<AppliedToGroups>::new(hub, &agents))),
    ]
}

/// One resource of the hub.
struct View<R> {
    hub: Arc<PolicyHub>,
    /// User name of agents.
    agents: Arc<str>,
    resource: PhantomData<R>,
}

pub(super) fn synced(state: &State) -> Result<(), Failure> {
    if state.is_synced() {
        return Ok(());
    }
    Err(Failure::unavailable("the controller does not know the whole cluster yet"))
}

impl<R: Served> Storage for View<R> {
    fn list(&self, selection: &Selection) -> Result<List, Failure> {
        let (items, resource_version) = self.hub.read(|state, _| {
            synced(state)?;
            Ok::<_, Failure>(R::list(&state.index, &filter::<R>(selection), &mut Whole::new()))
        });
        let objects = items?.into_iter().map(|item| Arc::clone(item.object())).collect();
        Ok(List { resource_version, objects })
    }

    fn get(&self, _: &str, name: &str) -> Result<Arc<dyn Object>, Failure> {
        let selection = Selection { name: Some(name.to_owned()), ..Selection::default() };
        let mut list = self.list(&selection)?;
        list.objects.pop().ok_or_else(|| Failure::not_found(R::RESOURCE.plural, name))
    }

    fn get_subresource(&self, _: &str, name: &str, _: &str) -> Result<Arc<dyn Object>, Failure> {
        R::subresource(&self.hub, name)
    }

    fn watch(&self, selection: &Selection) -> Result<Subscription, Failure> {
        // Inputs never become unknown again, so that this need not be one step with subscribing.
        self.hub.read(|state, _| synced(state)).0?;
        Ok(subscribe::<R>(&self.hub, selection))
    }

    fn create(&self, create: Create) -> BoxFuture<'_, Result<Arc<dyn Object>, Failure>> {
        Box::pin(async move { R::post(&self.hub, &self.agents, &create) })
    }
}

impl<R> View<R> {
    fn new(hub: &Arc<PolicyHub>, agents: &Arc<str>) -> Arc<Self> {
        Arc::new(Self { hub: Arc::clone(hub), agents: Arc::clone(agents), resource: PhantomData })
    }
}

fn subscribe<R: Served>(hub: &Arc<PolicyHub>, selection: &Selection) -> Subscription {
    let filter = filter::<R>(selection);
    hub.subscribe(filter.clone(), |state| R::list(&state.index, &filter, &mut state.whole))
}

fn filter<R: Served>(selection: &Selection) -> Filter {
    Filter {
        resource: R::NUMBER,
        node: selection.fields.get("nodeName").map(|node| node.as_str().into()),
        name: selection.name.clone(),
    }
}

/// A watch as the resource numbered `resource` serves it.
#[cfg(test)]
pub(super) fn watch(hub: &Arc<PolicyHub>, resource: usize, node: Option<&str>) -> Subscription {
    let fields = node.map(|node| ("nodeName", node.to_owned())).into_iter().collect();
    let selection = Selection { fields, ..Selection::default() };
    match resource {
        NetworkPolicies::NUMBER => subscribe::<NetworkPolicies>(hub, &selection),
        AddressGroups::NUMBER => subscribe::<AddressGroups>(hub, &selection),
        _ => subscribe::<AppliedToGroups>(hub, &selection),
    }
}
