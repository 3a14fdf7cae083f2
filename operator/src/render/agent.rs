//! DaemonSet `antrea-agent`: the agent, Open vSwitch beside it, and an init container that installs the
//! CNI plugin on the Node.

use serde_json::{Value, json};

use super::{
    AGENT, AGENT_PORT,
    config::{CONFIG, Configuration},
    environment, managed, pod_template, pull_policy, resources, selector,
};
use crate::{
    effective::Effective,
    object::{self, Object},
};

/// Directories and files of the Node that the Pod uses: name, path, type.
const HOST_PATHS: &[(&str, &str, &str)] = &[
    ("host-var-run-antrea", "/var/run/antrea", "DirectoryOrCreate"),
    ("host-var-run-netns", "/var/run/netns", "DirectoryOrCreate"),
    ("host-var-lib-cni", "/var/lib/cni", "DirectoryOrCreate"),
    ("host-var-lib-antrea", "/var/lib/antrea", "DirectoryOrCreate"),
    ("host-cni-bin", "/opt/cni/bin", "DirectoryOrCreate"),
    ("host-cni-conf", "/etc/cni/net.d", "DirectoryOrCreate"),
    ("host-lib-modules", "/lib/modules", "DirectoryOrCreate"),
    ("host-dev-net", "/dev/net", "DirectoryOrCreate"),
    ("xtables-lock", "/run/xtables.lock", "FileOrCreate"),
];

pub(super) fn daemon_set(config: &Effective, configuration: &Configuration) -> Object {
    let pod = json!({
        "terminationGracePeriodSeconds": 10,
        "initContainers": [install_cni(config)],
        "containers": [agent(config), ovs(config)],
        "volumes": volumes(),
    });
    let template = pod_template(AGENT, config, &config.agent, &configuration.agent_checksum(), pod);
    let spec = json!({
        "selector": {"matchLabels": selector(AGENT)},
        // The operator says which Node is next.
        "updateStrategy": {"type": "OnDelete"},
        "template": template,
    });
    managed(&object::DAEMON_SET, AGENT, json!({"spec": spec})).label("component", AGENT)
}

fn install_cni(config: &Effective) -> Value {
    json!({
        "name": "install-cni",
        "image": config.agent_image,
        "imagePullPolicy": pull_policy(config.pull_policy),
        "command": ["install_cni"],
        "resources": {"requests": {"cpu": "100m"}},
        "securityContext": {
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            // Some distributions give /opt/cni/bin to a user other than root.
            "capabilities": {"drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE", "FOWNER"]},
        },
        "volumeMounts": [
            {"name": CONFIG, "mountPath": "/etc/antrea", "readOnly": true},
            {"name": "host-cni-bin", "mountPath": "/host/opt/cni/bin"},
            {"name": "host-cni-conf", "mountPath": "/host/etc/cni/net.d"},
        ],
    })
}

fn agent(config: &Effective) -> Value {
    json!({
        "name": AGENT,
        "image": config.agent_image,
        "imagePullPolicy": pull_policy(config.pull_policy),
        "command": [AGENT],
        "args": ["--config", "/etc/antrea/antrea-agent.conf"],
        "env": environment(config, &config.agent),
        "ports": [{"name": "api", "containerPort": AGENT_PORT, "hostPort": AGENT_PORT, "protocol": "TCP"}],
        "resources": resources(&config.agent.resources),
        // Container runtimes mount /proc/sys read-only unless a container is privileged, and the agent
        // sets sysctls of the Node and of Pods.
        "securityContext": {"privileged": true, "readOnlyRootFilesystem": true},
        "livenessProbe": probe("/livez", json!({"initialDelaySeconds": 10, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 5})),
        // Agents of a large cluster take a while to reconnect when the controller restarts.
        "readinessProbe": probe("/readyz", json!({"periodSeconds": 5, "timeoutSeconds": 5, "failureThreshold": 8})),
        "volumeMounts": [
            {"name": CONFIG, "mountPath": "/etc/antrea", "readOnly": true},
            {"name": "host-var-run-antrea", "mountPath": "/var/run/antrea"},
            {"name": "host-var-run-antrea", "mountPath": "/var/run/openvswitch", "subPath": "openvswitch"},
            // Namespaces of Pods that start later have to show up here.
            {"name": "host-var-run-netns", "mountPath": "/var/run/netns", "mountPropagation": "HostToContainer"},
            {"name": "host-var-lib-cni", "mountPath": "/var/lib/cni"},
            {"name": "host-cni-bin", "mountPath": "/opt/cni/bin", "readOnly": true},
            {"name": "host-lib-modules", "mountPath": "/lib/modules", "readOnly": true},
            {"name": "xtables-lock", "mountPath": "/run/xtables.lock"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    })
}

fn ovs(config: &Effective) -> Value {
    json!({
        "name": "antrea-ovs",
        "image": config.agent_image,
        "imagePullPolicy": pull_policy(config.pull_policy),
        "command": ["start_ovs"],
        "env": [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}],
        "resources": resources(&config.ovs_resources),
        "securityContext": {
            "readOnlyRootFilesystem": true,
            "capabilities": {
                "drop": ["ALL"],
                // SYS_ADMIN: datapath's generic netlink families; SYS_MODULE: loads the kernel's modules;
                // NET_RAW: packet sockets of the userspace datapath; IPC_LOCK and SYS_NICE: keep
                // ovs-vswitchd in memory and on time.
                "add": ["DAC_OVERRIDE", "IPC_LOCK", "NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_MODULE", "SYS_NICE"],
            },
        },
        "livenessProbe": {
            "exec": {"command": ["ovs-vsctl", "--timeout=10", "--no-wait", "get", "Open_vSwitch", ".", "ovs_version"]},
            "initialDelaySeconds": 10, "periodSeconds": 30, "timeoutSeconds": 15, "failureThreshold": 5,
        },
        "volumeMounts": [
            {"name": "host-var-run-antrea", "mountPath": "/var/run/openvswitch", "subPath": "openvswitch"},
            // The database outlives the Pod, and with it ports and their numbers.
            {"name": "host-var-lib-antrea", "mountPath": "/etc/openvswitch", "subPath": "openvswitch"},
            {"name": "host-var-run-netns", "mountPath": "/var/run/netns", "mountPropagation": "HostToContainer"},
            {"name": "host-lib-modules", "mountPath": "/lib/modules", "readOnly": true},
            {"name": "host-dev-net", "mountPath": "/dev/net"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    })
}

/// A probe of the agent's API on the Node's loopback address.
fn probe(path: &str, mut timing: Value) -> Value {
    timing["httpGet"] = json!({"host": "127.0.0.1", "path": path, "port": "api", "scheme": "HTTPS"});
    timing
}

fn volumes() -> Value {
    let mut volumes = vec![
        json!({"name": CONFIG, "configMap": {"name": CONFIG}}),
        json!({"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}),
    ];
    volumes.extend(
        HOST_PATHS
            .iter()
            .map(|(name, path, type_)| json!({"name": name, "hostPath": {"path": path, "type": type_}})),
    );
    volumes.into()
}
