//! `stats.antrea.io/v1alpha1`: traffic counters.

use prost::Message;
use serde::{Deserialize, Serialize};

use crate::k8s::{Cell, Object, ObjectMeta, Resource};

/// API group.
pub const GROUP: &str = "stats.antrea.io";
/// API version.
pub const VERSION: &str = "v1alpha1";
/// Group and version.
pub const API_VERSION: &str = "stats.antrea.io/v1alpha1";

/// Counters of traffic.
#[derive(Clone, Copy, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficStats {
    #[prost(int64, tag = "1")]
    pub packets: i64,
    #[prost(int64, tag = "2")]
    pub bytes: i64,
    /// Connections.
    #[prost(int64, tag = "3")]
    pub sessions: i64,
}

/// Counters of a rule.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuleTrafficStats {
    /// Name of the rule.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[prost(message, required, tag = "2")]
    pub traffic_stats: TrafficStats,
}

impl TrafficStats {
    /// Adds what was counted besides. Counters stop at their largest value.
    pub fn add(&mut self, other: &Self) {
        self.packets = self.packets.saturating_add(other.packets);
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.sessions = self.sessions.saturating_add(other.sessions);
    }
}

macro_rules! statistics {
    ($(#[$doc:meta])* $kind:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty = $tag:literal)? }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $kind {
            /// Name and namespace are the policy's; it was made when the controller began to count.
            #[prost(message, required, tag = "1")]
            pub metadata: ObjectMeta,
            /// Of all rules together.
            #[prost(message, required, tag = "2")]
            pub traffic_stats: TrafficStats,
            $(
                $(#[$field_doc])*
                #[prost(message, repeated, tag = $tag)]
                #[serde(skip_serializing_if = "Vec::is_empty")]
                pub $field: $type,
            )?
        }

        impl Object for $kind {
            const API_VERSION: &'static str = API_VERSION;
            const KIND: &'static str = stringify!($kind);
        }

        impl Resource for $kind {
            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            /// Sessions, Packets, Bytes, Created At.
            fn cells(&self) -> Vec<Cell> {
                let TrafficStats { packets, bytes, sessions } = self.traffic_stats;
                let number = |count: i64| Cell::Number(usize::try_from(count).unwrap_or_default());
                let made = self.metadata.creation_timestamp.as_ref();
                let made = made.and_then(|time| jiff::Timestamp::from_second(time.seconds).ok());
                let made = made.map(|time| time.to_string()).unwrap_or_default();
                vec![number(sessions), number(packets), number(bytes), Cell::Text(made)]
            }
        }
    };
}

statistics!(
    /// What a Kubernetes NetworkPolicy allowed.
    NetworkPolicyStats {}
);
statistics!(
    /// What a ClusterNetworkPolicy allowed and denied.
    AntreaClusterNetworkPolicyStats {
        rule_traffic_stats: Vec<RuleTrafficStats> = "3"
    }
);
statistics!(
    /// What a NetworkPolicy of `crd.antrea.io` allowed and denied.
    AntreaNetworkPolicyStats {
        rule_traffic_stats: Vec<RuleTrafficStats> = "3"
    }
);
