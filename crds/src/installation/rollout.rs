//! How changes that restart Pods reach the Nodes.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// How changes that restart Pods reach the Nodes: canary first, then wave by wave. Without any of it, one Node is
/// changed after the other, by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutPolicy {
    /// Nodes that are changed first, one after the other. All others wait until each of them works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,

    /// Agents that may be away at the same time for a change: a number, or a share of the Nodes such as "10%",
    /// rounded down and at least 1. Default: 1. An agent that had failed for 30 s before its turn counts for nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "amount")]
    pub max_unavailable: Option<Amount>,

    /// Key of a Node label, such as "topology.kubernetes.io/zone". The Nodes of each of its values are a wave; waves
    /// follow each other in the order of the values, Nodes without the label last. Default: one wave.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 317))]
    pub order_by_label: Option<String>,

    /// Seconds between the end of one wave, the canary among them, and the begin of the next, 0 (default) to 604800.
    /// Agents that were changed have to go on working in that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 604_800))]
    pub pause_seconds: Option<i64>,

    /// Seconds for which a new agent has to be ready before the next one has its turn, 3 (default) to 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 3, max = 3600))]
    pub min_ready_seconds: Option<i64>,

    /// Seconds that a Node has for its new agent to work, 60 to 3600; after that the rollout has failed. Default: 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 60, max = 3600))]
    pub deadline_seconds: Option<i64>,

    /// The only time of day in which a change may start, Node by Node. Default: any. Going back waits for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,

    /// Whether a rollout that fails is taken back to the configuration that ran on every Node before. Default: only
    /// if it changes images. A change that was taken back is not tried again until this spec changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_rollback: Option<bool>,

    /// Whether agents probe the datapath of a changed Node before it counts as done: between Pods of the Node, to and from
    /// other Nodes, and what a policy allows and denies. Default: true. What is brought back is not probed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<bool>,

    /// metadata.generation of a spec whose disruptive change shall be made although traffic between changed and
    /// unchanged Nodes breaks until all are changed. The generation is in the message of the condition Progressing.
    /// Without it, such a change waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub acknowledge: Option<i64>,
}

/// Nodes that are changed first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// Labels that a Node must have to be one of them. If no Node has them, nothing is changed.
    #[schemars(extend("minProperties" = 1, "maxProperties" = 16))]
    pub node_selector: BTreeMap<String, String>,
}

/// A time of day, in UTC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.start != self.end").message("spec.rollout.window: start and end are the same time"))]
pub struct Window {
    /// Days on which it begins. Default: every day.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    pub days: Vec<Day>,

    /// When it begins, such as "22:00", UTC.
    #[schemars(regex(pattern = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub start: String,

    /// When it ends, UTC; on the next day if that is before its start.
    #[schemars(regex(pattern = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub end: String,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Day {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

/// A number, or a share of all in percent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    /// So many.
    Number(u32),
    /// "10%" of all.
    Share(String),
}

impl Amount {
    /// How many that is of `all`, at least 1.
    pub fn of(&self, all: usize) -> usize {
        let count = match self {
            Self::Number(number) => usize::try_from(*number).unwrap_or(usize::MAX),
            Self::Share(text) => {
                let percent = text.trim_end_matches('%').parse::<usize>().unwrap_or(0).min(100);
                all.saturating_mul(percent) / 100
            }
        };
        count.max(1)
    }
}

fn amount(_: &mut SchemaGenerator) -> Schema {
    // The pattern is for strings alone; the bounds are for numbers alone.
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "pattern": "^([1-9][0-9]?|100)%$",
        "minimum": 1,
        "maximum": 10_000,
    })
}
