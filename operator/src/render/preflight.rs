//! DaemonSet `antrea-preflight`: the images of a change, held on every Node by Pods that do nothing.

use serde_json::json;

use super::{AGENT, CONTROLLER, PREFLIGHT, managed, pod_labels, pull_policy, selector, tolerations};
use crate::{
    effective::Effective,
    object::{self, DAEMON_SET, Kind, Object, Stage},
};

/// It comes before all that it is to show.
static EARLY_DAEMON_SET: Kind = Kind {
    group: DAEMON_SET.group,
    version: DAEMON_SET.version,
    kind: DAEMON_SET.kind,
    plural: DAEMON_SET.plural,
    namespaced: DAEMON_SET.namespaced,
    stage: Stage::Base,
};

pub(super) fn daemon_set(config: &Effective) -> Object {
    let container = |name: &str, image: &str, command: serde_json::Value| {
        json!({
            "name": name,
            "image": image,
            "imagePullPolicy": pull_policy(config.pull_policy),
            "command": command,
            "resources": {"requests": {"cpu": "1m", "memory": "4Mi"}},
            "securityContext": {
                "runAsNonRoot": true,
                "runAsUser": 65534,
                "readOnlyRootFilesystem": true,
                "allowPrivilegeEscalation": false,
                "capabilities": {"drop": ["ALL"]},
            },
        })
    };
    let mut pod = json!({
        "automountServiceAccountToken": false,
        // A Pod network must not be needed to mend it.
        "hostNetwork": true,
        // No priority: what only holds an image pushes nobody out.
        "nodeSelector": config.agent.node_selector,
        "tolerations": tolerations(&config.agent.tolerations),
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        // That a program can say its version shows that the image is one for this machine.
        "initContainers": [container(CONTROLLER, &config.controller_image, json!([CONTROLLER, "--version"]))],
        "containers": [container(
            AGENT,
            &config.agent_image,
            json!(["sh", "-c", "antrea-agent --version && exec sleep 2147483647"]),
        )],
    });
    if !config.pull_secrets.is_empty() {
        pod["imagePullSecrets"] = config.pull_secrets.iter().map(|name| json!({"name": name})).collect();
    }
    let revision = object::hash(&pod);
    let spec = json!({
        "selector": {"matchLabels": selector(PREFLIGHT)},
        // Nothing depends on its Pods.
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}},
        "template": {
            "metadata": {
                "labels": pod_labels(PREFLIGHT),
                "annotations": {crate::REVISION_ANNOTATION: revision},
            },
            "spec": pod,
        },
    });
    managed(&EARLY_DAEMON_SET, PREFLIGHT, json!({"spec": spec})).label("component", PREFLIGHT).stamped()
}
