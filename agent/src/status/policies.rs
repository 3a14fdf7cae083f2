//! What the controller has computed for this node, as the agent has it: `/networkpolicies`, `/addressgroups` and
//! `/appliedtogroups`, with upstream's queries and bodies.

use antrea_api::controlplane::{
    AddressGroup, AddressGroupList, AppliedToGroup, AppliedToGroupList, GroupMember, NetworkPolicy,
    NetworkPolicyList, NetworkPolicyReference,
};
use antrea_api::k8s::ListMeta;
use apiserver_kit::status::Failure;
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::policy::{Objects, Record};

/// Answers `/networkpolicies`, `/addressgroups` and `/appliedtogroups` from the record on disk.
pub fn routes(record: Record) -> Router {
    Router::new()
        .route("/networkpolicies", get(network_policies))
        .route("/addressgroups", get(address_groups))
        .route("/appliedtogroups", get(applied_to_groups))
        .with_state(record)
}

/// The query of `/networkpolicies`; what is empty leaves nothing out.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PolicyQuery {
    /// Of the computed policy; then it is the answer, and no list.
    name: String,
    /// Name of the policy that it comes from.
    source: String,
    /// Namespace of that, or with `pod` the Pod's.
    namespace: String,
    /// Policies that apply to this Pod.
    pod: String,
    /// Kind of the source, or upstream's short form of it.
    #[serde(rename = "type")]
    type_: String,
}

/// The query of the groups; empty is all.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct GroupQuery {
    name: String,
}

async fn read(record: &Record) -> Result<Objects, Failure> {
    record.objects().await.map_err(|error| Failure::unavailable(format!("the record of policies: {error}")))
}

async fn network_policies(
    State(record): State<Record>,
    Query(query): Query<PolicyQuery>,
) -> Result<Json<Value>, Failure> {
    let mut items = query.select(read(&record).await?)?;
    if query.name.is_empty() {
        return Ok(Json(json!(NetworkPolicyList { metadata: ListMeta::default(), items })));
    }
    let found = items.pop().ok_or_else(|| Failure::not_found("network policies", &query.name))?;
    Ok(Json(json!(found)))
}

impl PolicyQuery {
    fn select(&self, objects: Objects) -> Result<Vec<NetworkPolicy>, Failure> {
        if !self.pod.is_empty() && self.namespace.is_empty() {
            return Err(Failure::bad_request("namespace must be provided"));
        }
        let kind = match self.type_.to_ascii_uppercase().as_str() {
            "" => None,
            "K8SNP" | "K8SNETWORKPOLICY" => Some("K8sNetworkPolicy"),
            "ACNP" | "ANTREACLUSTERNETWORKPOLICY" => Some("AntreaClusterNetworkPolicy"),
            "CNP" | "CLUSTERNETWORKPOLICY" => Some("ClusterNetworkPolicy"),
            "ANNP" | "ANNETWORKPOLICY" | "ANTREANETWORKPOLICY" => Some("AntreaNetworkPolicy"),
            _ => {
                let message = format!("type {}: K8sNP, ACNP, ANNP and CNP are known", self.type_);
                return Err(Failure::bad_request(message));
            }
        };
        let is_pod = |member: &GroupMember| {
            member.pod.as_ref().is_some_and(|pod| pod.name == self.pod && pod.namespace == self.namespace)
        };
        let mut of_pod = Vec::new();
        for group in &objects.applied_to_groups {
            if !self.pod.is_empty() && group.group_members.iter().any(is_pod) {
                of_pod.push(group.metadata.name.as_str());
            }
        }
        let applies = |policy: &NetworkPolicy| {
            let own = policy.rules.iter().flat_map(|rule| &rule.applied_to_groups);
            policy.applied_to_groups.iter().chain(own).any(|group| of_pod.contains(&group.as_str()))
        };
        let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
        let none = NetworkPolicyReference::default();
        let mut policies = objects.policies;
        policies.retain(|policy| {
            let source = policy.source_ref.as_ref().unwrap_or(&none);
            let placed =
                if self.pod.is_empty() { fits(&self.namespace, &source.namespace) } else { applies(policy) };
            placed
                && fits(&self.name, &policy.metadata.name)
                && fits(&self.source, &source.name)
                && kind.is_none_or(|kind| source.type_ == kind)
        });
        Ok(policies)
    }
}

async fn address_groups(
    State(record): State<Record>,
    Query(GroupQuery { name }): Query<GroupQuery>,
) -> Result<Json<Value>, Failure> {
    let items = read(&record).await?.address_groups;
    if name.is_empty() {
        return Ok(Json(json!(AddressGroupList { metadata: ListMeta::default(), items })));
    }
    let named = |group: &AddressGroup| group.metadata.name == name;
    let found = items.into_iter().find(named);
    found.map(|group| Json(json!(group))).ok_or_else(|| Failure::not_found("address groups", &name))
}

async fn applied_to_groups(
    State(record): State<Record>,
    Query(GroupQuery { name }): Query<GroupQuery>,
) -> Result<Json<Value>, Failure> {
    let items = read(&record).await?.applied_to_groups;
    if name.is_empty() {
        return Ok(Json(json!(AppliedToGroupList { metadata: ListMeta::default(), items })));
    }
    let named = |group: &AppliedToGroup| group.metadata.name == name;
    let found = items.into_iter().find(named);
    found.map(|group| Json(json!(group))).ok_or_else(|| Failure::not_found("applied-to groups", &name))
}

#[cfg(test)]
mod tests {
    use antrea_api::controlplane::{NetworkPolicyRule, ObjectReference};
    use antrea_api::k8s::ObjectMeta;

    use super::*;

    fn objects() -> Objects {
        let policy = |uid: &str, type_: &str, namespace: &str, name: &str| NetworkPolicy {
            metadata: ObjectMeta::named(uid),
            source_ref: Some(NetworkPolicyReference {
                type_: type_.into(),
                namespace: namespace.into(),
                name: name.into(),
                uid: uid.into(),
            }),
            ..NetworkPolicy::default()
        };
        let mut deny = policy("u1", "K8sNetworkPolicy", "shop", "deny");
        deny.applied_to_groups = vec!["g1".into()];
        let mut whole = policy("u2", "AntreaClusterNetworkPolicy", "", "whole");
        whole.rules =
            vec![NetworkPolicyRule { applied_to_groups: vec!["g2".into()], ..NetworkPolicyRule::default() }];
        let group = |name: &str, pod: &str| AppliedToGroup {
            metadata: ObjectMeta::named(name),
            group_members: vec![GroupMember {
                pod: Some(ObjectReference { name: pod.into(), namespace: "shop".into() }),
                ..GroupMember::default()
            }],
        };
        Objects {
            policies: vec![
                deny,
                whole,
                policy("u3", "K8sNetworkPolicy", "bank", "deny"),
                policy("u4", "ClusterNetworkPolicy", "", "metrics"),
            ],
            applied_to_groups: vec![group("g1", "web"), group("g2", "db")],
            ..Objects::default()
        }
    }

    #[test]
    fn policies_are_chosen_by_each_part_of_the_query() {
        let select = |query: PolicyQuery| -> Result<Vec<String>, Failure> {
            Ok(query.select(objects())?.into_iter().map(|policy| policy.metadata.name).collect())
        };
        let query = |pairs: &[(&str, &str)]| -> PolicyQuery {
            serde_json::from_value(
                pairs.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect(),
            )
            .unwrap()
        };
        for (pairs, expected) in [
            (&[][..], &["u1", "u2", "u3", "u4"][..]),
            (&[("name", "u2")], &["u2"]),
            (&[("source", "deny")], &["u1", "u3"]),
            (&[("namespace", "shop")], &["u1"]),
            (&[("type", "acnp")], &["u2"]),
            (&[("type", "cnp")], &["u4"]),
            (&[("type", "K8sNP"), ("namespace", "bank")], &["u3"]),
            (&[("pod", "web"), ("namespace", "shop")], &["u1"]),
            (&[("pod", "db"), ("namespace", "shop")], &["u2"]),
            (&[("pod", "db"), ("namespace", "bank")], &[]),
        ] {
            assert_eq!(select(query(pairs)).unwrap(), expected, "{pairs:?}");
        }
        for wrong in [&[("pod", "web")][..], &[("type", "other")]] {
            assert_eq!(select(query(wrong)).unwrap_err().code, 400, "{wrong:?}");
        }
    }

    /// Through the files that the agent writes, for that is where it comes from.
    #[tokio::test]
    async fn lists_and_single_objects_have_upstreams_bodies() {
        use antrea_api::k8s::Object;
        use tower::ServiceExt;
        let folder = tempfile::tempdir().unwrap();
        let below = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let objects = objects();
        for policy in &objects.policies {
            std::fs::write(below("network-policies").join(&policy.metadata.name), policy.seal()).unwrap();
        }
        let group = AddressGroup { metadata: ObjectMeta::named("a1"), ..AddressGroup::default() };
        std::fs::write(below("address-groups").join("a1"), group.seal()).unwrap();
        std::fs::write(below("address-groups").join("a2"), b"nonsense").unwrap();
        let router = routes(Record::at(folder.path()));
        let ask = async |path: &str| {
            let request = axum::extract::Request::get(path).body(axum::body::Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            let status = answer.status().as_u16();
            let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            (status, serde_json::from_slice::<Value>(&body).unwrap())
        };
        let (status, list) = ask("/networkpolicies").await;
        assert_eq!((status, list["items"].as_array().unwrap().len()), (200, 4));
        let (_, one) = ask("/networkpolicies?name=u2").await;
        assert_eq!(one["sourceRef"]["name"], "whole");
        let (_, groups) = ask("/addressgroups").await;
        assert_eq!(groups["items"], json!([{"metadata": {"name": "a1"}}]));
        assert_eq!(ask("/appliedtogroups").await.1["items"], json!([]));
        for missing in ["/networkpolicies?name=u9", "/addressgroups?name=a2", "/appliedtogroups?name=g1"] {
            assert_eq!(ask(missing).await.0, 404, "{missing}");
        }
    }
}
