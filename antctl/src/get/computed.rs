//! What the controller has computed: policies, the groups that they name, and who is in the groups that people make.

use std::collections::HashSet;

use antrea_api::{
    controlplane::{
        API_VERSION, AddressGroup, AppliedToGroup, GroupMember, NetworkPolicy, groups::ClusterGroupMembers,
    },
    k8s::{Cell, Resource as _},
};
use anyhow::{Context, bail};
use http::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::found;
use crate::{
    agents,
    cli::{Order, Page, Policies, PolicyKind},
    connect::{Clients, Place, Server},
    output::{Output, address},
};

#[cfg(test)]
mod tests;

/// Addresses that a cell names before it only counts.
const SHOWN: usize = 3;

/// Where NetworkPolicies of Kubernetes stand among the Tiers: between the Kubernetes project's Admin (251) and the baseline
/// (253).
const KUBERNETES_TIER: i32 = 252;

/// The server of the controlplane API.
async fn controlplane(clients: &Clients) -> anyhow::Result<Server> {
    match clients.place() {
        Place::Controller => clients.local().await,
        _ => clients.cluster().await,
    }
}

/// All objects of a resource of the controlplane API; of an agent, those that it has of the controller.
async fn computed<T: DeserializeOwned>(
    clients: &Clients,
    on: Option<&str>,
    plural: &str,
) -> anyhow::Result<Vec<T>> {
    if on.is_some() || clients.place() == Place::Agent {
        return agents::list(&clients.agent(on, plural).await?, &format!("/{plural}")).await;
    }
    agents::list(&controlplane(clients).await?, &format!("/apis/{API_VERSION}/{plural}")).await
}

impl PolicyKind {
    /// As the API has it.
    fn name(self) -> &'static str {
        match self {
            Self::Kubernetes => "K8sNetworkPolicy",
            Self::Cluster => "AntreaClusterNetworkPolicy",
            Self::Namespace => "AntreaNetworkPolicy",
            Self::Standard => "ClusterNetworkPolicy",
        }
    }
}

pub(super) async fn network_policies(
    clients: &Clients,
    on: Option<&str>,
    wanted: &Policies,
) -> anyhow::Result<Output> {
    let mut policies: Vec<NetworkPolicy> = computed(clients, on, "networkpolicies").await?;
    let source = |policy: &NetworkPolicy| policy.source_ref.clone().unwrap_or_default();
    let [name, namespace] = [&wanted.name, &wanted.namespace].map(Option::as_deref);
    policies.retain(|policy| {
        let source = source(policy);
        name.is_none_or(|name| name == policy.metadata.name || name == source.name)
            && namespace.is_none_or(|namespace| namespace == source.namespace)
            && wanted.source.as_ref().is_none_or(|wanted| *wanted == source.name)
            && wanted.kind.is_none_or(|kind| kind.name() == source.type_)
    });
    if let Some((namespace, pod)) = &wanted.pod {
        let groups: Vec<AppliedToGroup> = computed(clients, on, "appliedtogroups").await?;
        let its = groups_of(&groups, namespace, pod);
        policies.retain(|policy| {
            let of_rules = policy.rules.iter().flat_map(|rule| &rule.applied_to_groups);
            policy.applied_to_groups.iter().chain(of_rules).any(|group| its.contains(group.as_str()))
        });
    }
    found(&policies, "computed NetworkPolicy", name, namespace)?;
    match wanted.sort_by {
        None => policies.sort_by_cached_key(|policy| (source(policy).namespace, source(policy).name)),
        Some(Order::EffectivePriority) => policies.sort_by(|a, b| {
            let tier = |policy: &NetworkPolicy| policy.tier_priority.unwrap_or(KUBERNETES_TIER);
            let priority = |policy: &NetworkPolicy| policy.priority.unwrap_or_default();
            let in_tier = priority(a).total_cmp(&priority(b));
            tier(a).cmp(&tier(b)).then(in_tier).then_with(|| a.metadata.name.cmp(&b.metadata.name))
        }),
    }
    Ok(Output {
        columns: &["NAME", "SOURCE", "APPLIED-TO", "RULES", "TIER-PRIORITY", "PRIORITY"],
        rows: policies.iter().map(policy_row).collect(),
        value: json!(policies),
    })
}

/// Names of the groups that the Pod is in.
fn groups_of<'a>(groups: &'a [AppliedToGroup], namespace: &str, name: &str) -> HashSet<&'a str> {
    let is_pod = |member: &GroupMember| {
        member.pod.as_ref().is_some_and(|pod| pod.namespace == namespace && pod.name == name)
    };
    let its = groups.iter().filter(|group| group.group_members.iter().any(is_pod));
    its.map(|group| group.metadata.name.as_str()).collect()
}

fn policy_row(policy: &NetworkPolicy) -> Vec<String> {
    let mut row = row(&policy.metadata.name, policy.cells());
    row.push(policy.tier_priority.map(|priority| priority.to_string()).unwrap_or_default());
    row.push(policy.priority.map(|priority| priority.to_string()).unwrap_or_default());
    row
}

pub(super) async fn address_groups(
    clients: &Clients,
    on: Option<&str>,
    name: Option<&str>,
) -> anyhow::Result<Output> {
    let mut groups: Vec<AddressGroup> = computed(clients, on, "addressgroups").await?;
    groups.retain(|group| name.is_none_or(|name| name == group.metadata.name));
    found(&groups, "AddressGroup", name, None)?;
    groups.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    let shown = |group: &AddressGroup| {
        let mut row = row(&group.metadata.name, group.cells());
        row.push(addresses(&group.group_members));
        row
    };
    Ok(Output {
        columns: &["NAME", "MEMBERS", "PODS", "ADDRESSES"],
        rows: groups.iter().map(shown).collect(),
        value: json!(groups),
    })
}

pub(super) async fn applied_to_groups(
    clients: &Clients,
    on: Option<&str>,
    name: Option<&str>,
) -> anyhow::Result<Output> {
    let mut groups: Vec<AppliedToGroup> = computed(clients, on, "appliedtogroups").await?;
    groups.retain(|group| name.is_none_or(|name| name == group.metadata.name));
    found(&groups, "AppliedToGroup", name, None)?;
    groups.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    Ok(Output {
        columns: &["NAME", "MEMBERS", "PODS"],
        rows: groups.iter().map(|group| row(&group.metadata.name, group.cells())).collect(),
        value: json!(groups),
    })
}

/// Who is in the ClusterGroup or Group that `path` names.
pub(super) async fn members(clients: &Clients, path: &str, page: &Page) -> anyhow::Result<Output> {
    if clients.place() == Place::Agent {
        bail!(
            "members of groups are what antrea-controller knows: run antctl in its container or outside of the cluster"
        );
    }
    let mut path = format!("/apis/{API_VERSION}/{path}");
    if let Some(limit) = page.limit {
        path.push_str(&format!("?limit={limit}&page={}", page.page.unwrap_or(1)));
    }
    let answer = controlplane(clients).await?.ask(Method::GET, &path).await?;
    let value: Value = serde_json::from_str(&answer).with_context(|| format!("answer to {path}"))?;
    // Both kinds have the same fields.
    let found: ClusterGroupMembers =
        serde_json::from_value(value.clone()).with_context(|| format!("answer to {path}"))?;
    if found.total_pages > 1 {
        let ClusterGroupMembers { current_page, total_pages, total_members, .. } = found;
        eprintln!("antctl: page {current_page} of {total_pages}, {total_members} members in all");
    }
    let pod = |member: &GroupMember| {
        let name = member.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name));
        let all = member.ips.iter().filter_map(|ip| address(ip)).map(|ip| ip.to_string());
        vec!["Pod".to_owned(), name.unwrap_or_default(), all.collect::<Vec<_>>().join(",")]
    };
    let blocks = found.effective_ip_blocks.iter().filter_map(|block| {
        let block = format!("{}/{}", address(&block.ip)?, block.prefix_length);
        Some(vec!["IPBlock".to_owned(), String::new(), block])
    });
    let rows = found.effective_members.iter().map(pod).chain(blocks).collect();
    Ok(Output { columns: &["KIND", "NAME", "ADDRESSES"], rows, value })
}

fn row(name: &str, cells: Vec<Cell>) -> Vec<String> {
    let cells = cells.into_iter().map(|cell| match cell {
        Cell::Text(text) => text,
        Cell::Number(number) => number.to_string(),
    });
    [name.to_owned()].into_iter().chain(cells).collect()
}

fn addresses(members: &[GroupMember]) -> String {
    let all: Vec<String> =
        members.iter().flat_map(|m| &m.ips).filter_map(|ip| address(ip)).map(|ip| ip.to_string()).collect();
    let mut text = all.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(",");
    if all.len() > SHOWN {
        text.push_str(&format!(",+{}", all.len() - SHOWN));
    }
    text
}
