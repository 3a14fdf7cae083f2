//! `stats.antrea.io/v1alpha1`: traffic counters.

use prost::Message;
use serde::{Deserialize, Serialize};

/// Counters of traffic.
#[derive(Clone, Copy, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TrafficStats {
    /// Packets.
    #[prost(int64, tag = "1")]
    pub packets: i64,
    /// Bytes.
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
    /// Its traffic.
    #[prost(message, required, tag = "2")]
    pub traffic_stats: TrafficStats,
}
