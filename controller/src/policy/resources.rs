//! The resources of `controlplane.antrea.io/v1beta2` as the server sees them.

use antrea_api::controlplane::{API_VERSION, GROUP, VERSION};
use apiserver_kit::{object::Column, storage::Resource};

const READ: &[&str] = &["get", "list", "watch"];
const MEMBERS: &[Column] = &[
    Column::new("Members", "integer", "Number of members."),
    Column::new("Pods", "string", "Some of the members."),
];

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
    columns: MEMBERS,
    fields: &["nodeName"],
    subresources: &[],
};

/// Computed policies.
pub const NETWORK_POLICIES: Resource = Resource {
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

/// Computed AddressGroups.
pub const ADDRESS_GROUPS: Resource = Resource {
    plural: "addressgroups",
    singular: "addressgroup",
    kind: "AddressGroup",
    description: "AddressGroup is what rules name as their other side: Pods with their addresses.",
    ..BASE
};

/// Computed AppliedToGroups.
pub const APPLIED_TO_GROUPS: Resource = Resource {
    plural: "appliedtogroups",
    singular: "appliedtogroup",
    kind: "AppliedToGroup",
    description: "AppliedToGroup is what policies apply to.",
    ..BASE
};
