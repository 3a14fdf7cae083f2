//! Who is in a ClusterGroup or Group, and which of them somebody is in: for people, who ask by `kubectl get --raw`.

use prost::Message;
use serde::{Deserialize, Serialize};

use super::{API_VERSION, GroupMember, IpNet};
use crate::k8s::{Object, ObjectMeta, Resource};

macro_rules! members {
    ($(#[$doc:meta])* $kind:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $kind {
            /// The group's.
            #[prost(message, required, tag = "1")]
            pub metadata: ObjectMeta,
            /// Members, or a page of them.
            #[prost(message, repeated, tag = "2")]
            #[serde(skip_serializing_if = "Vec::is_empty")]
            pub effective_members: Vec<GroupMember>,
            /// Address blocks.
            #[prost(message, repeated, tag = "3")]
            #[serde(rename = "effectiveIPBlocks", skip_serializing_if = "Vec::is_empty")]
            pub effective_ip_blocks: Vec<IpNet>,
            /// Number of members on all pages.
            #[prost(int64, tag = "4")]
            pub total_members: i64,
            /// Number of pages.
            #[prost(int64, tag = "5")]
            pub total_pages: i64,
            /// Number of this page, from 1 on.
            #[prost(int64, tag = "6")]
            pub current_page: i64,
        }

        impl Object for $kind {
            const API_VERSION: &'static str = API_VERSION;
            const KIND: &'static str = stringify!($kind);
        }

        impl Resource for $kind {
            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }
        }
    };
}

members!(
    /// The members of a ClusterGroup.
    ClusterGroupMembers
);
members!(GroupMembers);

/// A ClusterGroup (without a namespace) or Group.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GroupReference {
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

macro_rules! associations {
    ($(#[$doc:meta])* $kind:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $kind {
            /// Of whom is asked.
            #[prost(message, required, tag = "1")]
            pub metadata: ObjectMeta,
            #[prost(message, repeated, tag = "2")]
            pub associated_groups: Vec<GroupReference>,
        }

        impl Object for $kind {
            const API_VERSION: &'static str = API_VERSION;
            const KIND: &'static str = stringify!($kind);
        }

        impl Resource for $kind {
            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }
        }
    };
}

associations!(
    /// The groups that a Pod is in.
    GroupAssociation
);
associations!(
    /// The groups that an address is in.
    IPGroupAssociation
);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_numbers_are_upstreams() {
        let members = ClusterGroupMembers {
            metadata: ObjectMeta::named("g"),
            effective_members: vec![GroupMember::default()],
            effective_ip_blocks: vec![IpNet { ip: vec![10, 0, 0, 0], prefix_length: 8 }],
            total_members: 3,
            total_pages: 2,
            current_page: 1,
        };
        let text = serde_json::to_value(&members).unwrap();
        assert_eq!(text["effectiveIPBlocks"], json!([{"ip": "CgAAAA==", "prefixLength": 8}]));
        assert_eq!((&text["totalMembers"], &text["currentPage"]), (&json!(3), &json!(1)));
        // The members 2 (empty), the block 3 (ip 1, prefixLength 2), and the counts 4, 5 and 6.
        let tail = b"\x12\x00\x1a\x08\x0a\x04\x0a\x00\x00\x00\x10\x08\x20\x03\x28\x02\x30\x01";
        assert!(members.encode_to_vec().ends_with(tail));
        let group = GroupReference { namespace: "s".into(), name: "g".into(), uid: "u".into() };
        let found = GroupAssociation { metadata: ObjectMeta::named("p"), associated_groups: vec![group] };
        assert!(found.encode_to_vec().ends_with(b"\x12\x09\x0a\x01s\x12\x01g\x1a\x01u"));
        let text = serde_json::to_value(&found).unwrap();
        assert_eq!(text["associatedGroups"], json!([{"namespace": "s", "name": "g", "uid": "u"}]));
    }
}
