//! DaemonSet `antrea-cleanup`: takes off the Nodes what the agents have put there, when all is removed.

use serde_json::json;

use super::{
    AGENT, CLEANUP, Surroundings,
    agent::{confined, pod_security, volumes},
    config::CONFIG,
    environment, managed, pod_template, pull_policy, selector,
};
use crate::{
    effective::Effective,
    object::{self, Object},
};

/// Capabilities of the container that cleans. NET_ADMIN, NET_RAW: links, routes, iptables, ipsets, the kernel's datapath; SYS_ADMIN: working in the
/// Node's network namespace by name (setns); DAC_OVERRIDE: folders of a user other than root.
pub const CLEANUP_CAPABILITIES: &[&str] = &["DAC_OVERRIDE", "NET_ADMIN", "NET_RAW", "SYS_ADMIN"];

/// Volumes of the agent's Pod that hold something to remove, or are needed for it, and where they are mounted.
const MOUNTS: &[(&str, &str)] = &[
    ("host-var-run-antrea", "/var/run/antrea"),
    ("host-var-lib-antrea", "/var/lib/antrea"),
    ("host-var-lib-cni", "/var/lib/cni"),
    ("host-cni-bin", "/host/opt/cni/bin"),
    ("host-cni-conf", "/host/etc/cni/net.d"),
    ("xtables-lock", "/run/xtables.lock"),
    ("tmp", "/tmp"),
];

/// A Pod is ready when its Node is clean: the work is an init container's, which the kubelet repeats until
/// it succeeds and whose last words it reports.
pub(super) fn daemon_set(config: &Effective, around: &Surroundings) -> Object {
    let mut mounts = vec![json!({"name": CONFIG, "mountPath": "/etc/antrea", "readOnly": true})];
    mounts.extend(MOUNTS.iter().map(|(name, path)| json!({"name": name, "mountPath": path})));
    let mut volumes = volumes(around);
    volumes.retain(|volume| mounts.iter().any(|mount| mount["name"] == volume["name"]));
    let mut idle = confined(&[]);
    idle["runAsNonRoot"] = true.into();
    idle["runAsUser"] = 65534.into();
    let pod = json!({
        // The agent's identity lets the Pod use the Node where Pods need leave for that; it asks nothing of
        // the API server.
        "serviceAccountName": AGENT,
        "automountServiceAccountToken": false,
        "terminationGracePeriodSeconds": 0,
        "securityContext": pod_security(),
        "initContainers": [{
            "name": "cleanup",
            "image": config.agent_image,
            "imagePullPolicy": pull_policy(config.pull_policy),
            "command": [AGENT],
            "args": [
                "--config", "/etc/antrea/antrea-agent.conf",
                "cleanup", "--ovs-run-dir", "/var/run/antrea/openvswitch",
            ],
            "env": environment(config),
            "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": confined(CLEANUP_CAPABILITIES),
            "volumeMounts": mounts,
        }],
        "containers": [{
            "name": "clean",
            "image": config.agent_image,
            "imagePullPolicy": pull_policy(config.pull_policy),
            "command": ["sleep", "2147483647"],
            "resources": {"requests": {"cpu": "1m", "memory": "4Mi"}},
            "securityContext": idle,
        }],
        "volumes": volumes,
    });
    let template = pod_template(CLEANUP, config, &config.agent, "", pod);
    let spec = json!({"selector": {"matchLabels": selector(CLEANUP)}, "template": template});
    managed(&object::DAEMON_SET, CLEANUP, json!({"spec": spec})).label("component", CLEANUP).stamped()
}
