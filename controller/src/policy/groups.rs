//! Who is in a ClusterGroup or Group, for people; and the condition of groups that says that this is known.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use antrea_api::{
    controlplane::{
        API_VERSION, GROUP, GroupMember, IpNet, VERSION,
        groups::{ClusterGroupMembers, GroupAssociation, GroupMembers, GroupReference, IPGroupAssociation},
    },
    k8s::ObjectMeta,
};
use antrea_crds::policy::{self as crds, GroupCondition, GroupStatus};
use antrea_policy as policy;
use antrea_runtime::client::describe;
use apiserver_kit::{
    api::Api,
    object::Object,
    status::Failure,
    storage::{Resource, Storage},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{
    Client,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;

use super::{PolicyHub, convert, storage::synced};

/// Pause between two looks for new groups.
const LOOK: Duration = Duration::from_secs(1);
/// Limit of one request to the API server.
const LIMIT: Duration = Duration::from_secs(5);
/// The condition.
const COMPUTED: &str = "GroupMembersComputed";

const fn resource(
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    description: &'static str,
) -> Resource {
    Resource {
        group: GROUP,
        version: VERSION,
        api_version: API_VERSION,
        plural,
        singular: plural,
        kind,
        description,
        namespaced,
        short_names: &[],
        verbs: &["get"],
        columns: &[],
        fields: &[],
        subresources: &[],
    }
}

/// Adds the resources that answer about groups to `api`.
pub(super) fn resources(api: Api, hub: &Arc<PolicyHub>) -> Api {
    let members = "The members of the group of this name; page and limit select a part of them.";
    api.with(
        resource("clustergroupmembers", "ClusterGroupMembers", false, members),
        Arc::new(Members { hub: hub.clone() }),
    )
    .with(resource("groupmembers", "GroupMembers", true, members), Arc::new(Members { hub: hub.clone() }))
    .with(
        resource(
            "groupassociations",
            "GroupAssociation",
            true,
            "The groups that the Pod of this name is in.",
        ),
        Arc::new(PodGroups { hub: hub.clone() }),
    )
    .with(
        resource("ipgroupassociations", "IPGroupAssociation", false, "The groups that this address is in."),
        Arc::new(AddressGroups { hub: hub.clone() }),
    )
}

/// `clustergroupmembers` and `groupmembers`.
struct Members {
    hub: Arc<PolicyHub>,
}

/// Which part of the members is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Page {
    /// From 1 on.
    number: usize,
    /// Members of a page; 0 is all.
    limit: usize,
}

impl Page {
    fn read(query: &HashMap<String, String>) -> Result<Self, Failure> {
        let number = |field: &str| match query.get(field) {
            None => Ok(0),
            Some(text) => text.parse::<usize>().map_err(|_| {
                Failure::bad_request(format_args!("{field}: {text:?} is not a number from 0 on"))
            }),
        };
        Ok(Self { number: number("page")?.max(1), limit: number("limit")? })
    }

    /// The part of a list, and how many pages it has.
    fn of<T>(self, mut all: Vec<T>) -> (Vec<T>, usize) {
        if self.limit == 0 {
            return (all, 1);
        }
        let pages = all.len().div_ceil(self.limit);
        let begin = (self.number - 1).saturating_mul(self.limit).min(all.len());
        all.drain(..begin);
        all.truncate(self.limit);
        (all, pages)
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

impl Storage for Members {
    fn get_part(
        &self,
        namespace: &str,
        name: &str,
        query: &HashMap<String, String>,
    ) -> Result<Arc<dyn Object>, Failure> {
        let page = Page::read(query)?;
        // With many different labels it takes longer than a runtime thread may be kept.
        let find = || {
            self.hub.read(|state, _| {
                synced(state)?;
                Ok::<_, Failure>(state.index.group_members(namespace, name))
            })
        };
        let plural = if namespace.is_empty() { "clustergroups" } else { "groups" };
        let found = tokio::task::block_in_place(find).0?.ok_or_else(|| Failure::not_found(plural, name))?;
        let total_members = count(found.pods.len());
        let (members, pages) = page.of(found.pods);
        let effective_members: Vec<GroupMember> = members.iter().map(convert::address_member).collect();
        let effective_ip_blocks: Vec<IpNet> =
            found.ip_blocks.iter().map(|block| convert::ip_net(&block.cidr)).collect();
        let metadata = ObjectMeta { namespace: namespace.to_owned(), ..ObjectMeta::named(name) };
        let (total_pages, current_page) =
            (count(pages), count(if page.limit == 0 { 1 } else { page.number }));
        Ok(if namespace.is_empty() {
            Arc::new(ClusterGroupMembers {
                metadata,
                effective_members,
                effective_ip_blocks,
                total_members,
                total_pages,
                current_page,
            })
        } else {
            Arc::new(GroupMembers {
                metadata,
                effective_members,
                effective_ip_blocks,
                total_members,
                total_pages,
                current_page,
            })
        })
    }
}

fn references(groups: &[policy::GroupReference]) -> Vec<GroupReference> {
    let reference = |group: &policy::GroupReference| GroupReference {
        namespace: group.namespace.to_string(),
        name: group.name.to_string(),
        uid: group.uid.to_string(),
    };
    groups.iter().map(reference).collect()
}

/// `groupassociations`.
struct PodGroups {
    hub: Arc<PolicyHub>,
}

impl Storage for PodGroups {
    fn get(&self, namespace: &str, name: &str) -> Result<Arc<dyn Object>, Failure> {
        let find = || {
            self.hub.read(|state, _| {
                synced(state)?;
                Ok::<_, Failure>(state.index.groups_with_pod(namespace, name))
            })
        };
        // What is not known is in no group, as upstream has it.
        let found = tokio::task::block_in_place(find).0?.unwrap_or_default();
        let metadata = ObjectMeta { namespace: namespace.to_owned(), ..ObjectMeta::named(name) };
        Ok(Arc::new(GroupAssociation { metadata, associated_groups: references(&found) }))
    }
}

/// `ipgroupassociations`.
struct AddressGroups {
    hub: Arc<PolicyHub>,
}

impl Storage for AddressGroups {
    fn get(&self, _: &str, name: &str) -> Result<Arc<dyn Object>, Failure> {
        let address: IpAddr =
            name.parse().map_err(|_| Failure::bad_request(format_args!("{name:?} is not an IP address")))?;
        let find = || {
            self.hub.read(|state, _| {
                synced(state)?;
                Ok::<_, Failure>(state.index.groups_with_address(address))
            })
        };
        let found = tokio::task::block_in_place(find).0?;
        let metadata = ObjectMeta::named(name);
        Ok(Arc::new(IPGroupAssociation { metadata, associated_groups: references(&found) }))
    }
}

// === the condition ===

/// Namespace (empty for a ClusterGroup), name and UID.
type Group = (Box<str>, Box<str>, Box<str>);

/// Says of groups that their members are known, which they are as soon as the group is. Never ends.
pub async fn write_group_statuses(hub: Arc<PolicyHub>, client: Client) {
    let mut due: Vec<Group> = Vec::new();
    loop {
        tokio::time::sleep(LOOK).await;
        if hub.read(|state, _| state.is_synced() && state.index.has_new_groups()).0 {
            due.extend(hub.update(|state, _| state.index.take_new_groups()));
        }
        let mut again = Vec::new();
        for group in std::mem::take(&mut due) {
            let written = async {
                if group.0.is_empty() {
                    let api = kube::Api::<crds::ClusterGroup>::all(client.clone());
                    write(api, &group, |it| it.status).await
                } else {
                    let api = kube::Api::<crds::Group>::namespaced(client.clone(), &group.0);
                    write(api, &group, |it| it.status).await
                }
            };
            let error = match tokio::time::timeout(LIMIT, written).await {
                Ok(Ok(())) => continue,
                // It is gone, or another has its name: the watch will tell.
                Ok(Err(kube::Error::Api(status))) if status.code == 404 || status.code == 409 => continue,
                Ok(Err(error)) => describe(&error).to_string(),
                Err(_) => format!("not done within {LIMIT:?}"),
            };
            tracing::warn!(namespace = &*group.0, name = &*group.1, error, "status of a group not written");
            again.push(group);
        }
        due = again;
    }
}

async fn write<K>(
    api: kube::Api<K>,
    (_, name, uid): &Group,
    status: impl FnOnce(K) -> Option<GroupStatus>,
) -> kube::Result<()>
where
    K: Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let known = status(api.get(name).await?).unwrap_or_default();
    if known.conditions.iter().any(|known| known.type_ == COMPUTED && known.status == "True") {
        return Ok(());
    }
    let condition = GroupCondition {
        type_: COMPUTED.to_owned(),
        status: "True".to_owned(),
        last_transition_time: Time(Timestamp::now()),
    };
    let status = GroupStatus { conditions: vec![condition] };
    let patch = json!({"metadata": {"uid": &**uid}, "status": status});
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_counted_from_1_and_end_where_the_members_do() {
        let page = |query: &[(&str, &str)]| {
            let query = query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            Page::read(&query).map(|page| page.of(vec![1, 2, 3, 4, 5])).map_err(|failure| failure.message)
        };
        assert_eq!(page(&[]), Ok((vec![1, 2, 3, 4, 5], 1)));
        assert_eq!(page(&[("limit", "2")]), Ok((vec![1, 2], 3)));
        assert_eq!(page(&[("limit", "2"), ("page", "3")]), Ok((vec![5], 3)));
        assert_eq!(page(&[("limit", "2"), ("page", "4")]), Ok((vec![], 3)));
        let huge = usize::MAX.to_string();
        assert_eq!(page(&[("limit", &huge), ("page", &huge)]), Ok((vec![], 1)));
        assert!(page(&[("page", "-1")]).unwrap_err().starts_with("page: \"-1\" is not"));
    }
}
