//! How the components' Pods run where the spec says nothing.

use std::collections::BTreeMap;

use antrea_crds::installation::{
    LogLevel, Resources, Toleration, TolerationEffect, TolerationOperator, Workload,
};
use serde_json::json;

use super::EffectiveWorkload;

pub(super) fn requests(cpu: &str, memory: &str) -> Resources {
    let requests = BTreeMap::from([("cpu".to_owned(), json!(cpu)), ("memory".to_owned(), json!(memory))]);
    Resources { requests, limits: BTreeMap::new() }
}

fn tolerate(key: Option<&str>, effect: Option<TolerationEffect>, seconds: Option<i64>) -> Toleration {
    Toleration {
        key: key.map(str::to_owned),
        operator: Some(TolerationOperator::Exists),
        value: None,
        effect,
        toleration_seconds: seconds,
    }
}

pub(super) fn agent_defaults() -> EffectiveWorkload {
    EffectiveWorkload {
        resources: requests("200m", "32Mi"),
        node_selector: BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]),
        // A Node without its agent has no network, whatever else is wrong with it.
        tolerations: vec![
            tolerate(Some("CriticalAddonsOnly"), None, None),
            tolerate(None, Some(TolerationEffect::NoSchedule), None),
            tolerate(None, Some(TolerationEffect::NoExecute), None),
        ],
        priority_class_name: "system-node-critical".into(),
        log_level: LogLevel::Info,
    }
}

pub(super) fn controller_defaults() -> EffectiveWorkload {
    let no_schedule = Some(TolerationEffect::NoSchedule);
    EffectiveWorkload {
        resources: requests("200m", "64Mi"),
        node_selector: BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]),
        tolerations: vec![
            tolerate(Some("CriticalAddonsOnly"), None, None),
            tolerate(Some("node-role.kubernetes.io/control-plane"), no_schedule, None),
            tolerate(Some("node-role.kubernetes.io/master"), no_schedule, None),
            // It starts before there is a network.
            tolerate(Some("node.kubernetes.io/not-ready"), no_schedule, None),
            tolerate(Some("node.kubernetes.io/network-unavailable"), no_schedule, None),
            // There is one controller: move it at once when its Node is lost.
            tolerate(Some("node.kubernetes.io/unreachable"), Some(TolerationEffect::NoExecute), Some(0)),
        ],
        priority_class_name: "system-cluster-critical".into(),
        log_level: LogLevel::Info,
    }
}

pub(super) fn workload(
    given: Option<&Workload>,
    log_level: LogLevel,
    defaults: EffectiveWorkload,
) -> EffectiveWorkload {
    let given = given.cloned().unwrap_or_default();
    let mut node_selector = defaults.node_selector;
    node_selector.extend(given.node_selector);
    EffectiveWorkload {
        resources: given.resources.unwrap_or(defaults.resources),
        node_selector,
        tolerations: given.tolerations.unwrap_or(defaults.tolerations),
        priority_class_name: given.priority_class_name.unwrap_or(defaults.priority_class_name),
        log_level: given.log_level.unwrap_or(log_level),
    }
}
