//! DaemonSet `antrea-agent`: the agent, Open vSwitch beside it, and an init container that loads kernel modules
//! and installs the CNI plugin on the Node.
//!
//! No container is privileged. Each has the capabilities that it uses, a read-only root file system, the
//! runtime's seccomp profile and only those of the Node's folders that it reads or writes. The node suite
//! runs agent and Open vSwitch with exactly these capabilities on both datapaths.

use serde_json::{Value, json};

use super::{
    AGENT, AGENT_PORT, Surroundings,
    config::{CONFIG, Configuration},
    environment, managed, pod_template, pull_policy, resources, selector,
};
use crate::{
    effective::Effective,
    object::{self, Object},
};

/// Directories and files of the Node that the Pod uses: name, path, type. OpenShift has its own for the CNI.
const HOST_PATHS: &[(&str, &str, &str)] = &[
    ("host-var-run-antrea", "/var/run/antrea", "DirectoryOrCreate"),
    ("host-var-run-netns", "/var/run/netns", "DirectoryOrCreate"),
    ("host-var-lib-cni", "/var/lib/cni", "DirectoryOrCreate"),
    ("host-var-lib-antrea", "/var/lib/antrea", "DirectoryOrCreate"),
    ("host-var-log-antrea", "/var/log/antrea", "DirectoryOrCreate"),
    ("host-cni-bin", "/opt/cni/bin", "DirectoryOrCreate"),
    ("host-cni-conf", "/etc/cni/net.d", "DirectoryOrCreate"),
    ("host-lib-modules", "/lib/modules", "DirectoryOrCreate"),
    ("host-dev-net", "/dev/net", "DirectoryOrCreate"),
    ("host-proc-sys-net", "/proc/sys/net", "Directory"),
    ("xtables-lock", "/run/xtables.lock", "FileOrCreate"),
];

/// Capabilities of the container antrea-agent. NET_ADMIN: links, routes, iptables, ipsets, and writing below
/// /proc/sys/net; NET_RAW: gratuitous ARP, and the legacy iptables' socket; SYS_ADMIN: entering Pods'
/// namespaces (setns).
pub const AGENT_CAPABILITIES: &[&str] = &["NET_ADMIN", "NET_RAW", "SYS_ADMIN"];

/// Capabilities of the container antrea-ovs. NET_ADMIN: the kernel's datapath, taps; NET_RAW: packet sockets
/// of the userspace datapath.
pub const OVS_CAPABILITIES: &[&str] = &["NET_ADMIN", "NET_RAW"];

/// Where the agent finds what is `/proc/sys` on the Node: the runtime mounts the container's own read-only.
/// Its entries are those of the network namespace of whoever opens them, in Pods' namespaces too.
const SYSCTL_DIR: &str = "/host/proc/sys";

/// The Node's folder of CNI plugins in our containers: at its own place it would hide the image's.
const HOST_CNI_BIN: &str = "/host/opt/cni/bin";

/// The Node's folder of CNI configurations in our containers.
const HOST_CNI_CONF: &str = "/host/etc/cni/net.d";

pub(super) fn daemon_set(config: &Effective, configuration: &Configuration, around: &Surroundings) -> Object {
    let pod = json!({
        "terminationGracePeriodSeconds": 10,
        "securityContext": pod_security(),
        "initContainers": [install_cni(config)],
        "containers": [agent(config), ovs(config)],
        "volumes": volumes(around),
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

/// What all containers of a Pod on the Node have in common.
pub(super) fn pod_security() -> Value {
    json!({
        "seccompProfile": {"type": "RuntimeDefault"},
        // Where SELinux is on, no confined type may write the Node's folders and /proc/sys/net; this is
        // the one that a privileged container would get. Elsewhere it means nothing.
        "seLinuxOptions": {"type": "spc_t", "level": "s0"},
    })
}

/// The security context of a container that runs as root with these capabilities and no others.
pub(super) fn confined(capabilities: &[&str]) -> Value {
    json!({
        "readOnlyRootFilesystem": true,
        "allowPrivilegeEscalation": false,
        "capabilities": {"drop": ["ALL"], "add": capabilities},
    })
}

/// Puts the plugin on the Node, and loads the kernel's Open vSwitch modules, so that no container that goes on
/// running may load any. One container for both: the kubelet takes up to a second to notice that an init
/// container has ended, during which a userspace datapath is down.
fn install_cni(config: &Effective) -> Value {
    json!({
        "name": "install-cni",
        "image": config.agent_image,
        "imagePullPolicy": pull_policy(config.pull_policy),
        "command": ["sh", "-c", "load_modules && exec install_cni"],
        "resources": {"requests": {"cpu": "100m"}},
        // Some distributions give /opt/cni/bin to a user other than root.
        "securityContext": confined(&["CHOWN", "DAC_OVERRIDE", "FOWNER", "SYS_MODULE"]),
        "volumeMounts": [
            {"name": CONFIG, "mountPath": "/etc/antrea", "readOnly": true},
            {"name": "host-cni-bin", "mountPath": HOST_CNI_BIN},
            {"name": "host-cni-conf", "mountPath": HOST_CNI_CONF},
            {"name": "host-lib-modules", "mountPath": "/lib/modules", "readOnly": true},
        ],
    })
}

fn agent(config: &Effective) -> Value {
    json!({
        "name": AGENT,
        "image": config.agent_image,
        "imagePullPolicy": pull_policy(config.pull_policy),
        "command": [AGENT],
        "args": [
            "--config", "/etc/antrea/antrea-agent.conf", "--sysctl-dir", SYSCTL_DIR,
            "--host-cni-bin-dir", HOST_CNI_BIN, "--host-cni-conf-dir", HOST_CNI_CONF,
        ],
        "env": environment(config),
        "ports": [{"name": "api", "containerPort": AGENT_PORT, "hostPort": AGENT_PORT, "protocol": "TCP"}],
        "resources": resources(&config.agent.resources),
        "securityContext": confined(AGENT_CAPABILITIES),
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
            // What the init container put there is kept as it is.
            {"name": "host-cni-bin", "mountPath": HOST_CNI_BIN},
            {"name": "host-cni-conf", "mountPath": HOST_CNI_CONF},
            {"name": "host-var-log-antrea", "mountPath": "/var/log/antrea"},
            {"name": "host-proc-sys-net", "mountPath": format!("{SYSCTL_DIR}/net")},
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
        "securityContext": confined(OVS_CAPABILITIES),
        "livenessProbe": {
            "exec": {"command": ["ovs-vsctl", "--timeout=10", "--no-wait", "get", "Open_vSwitch", ".", "ovs_version"]},
            "initialDelaySeconds": 10, "periodSeconds": 30, "timeoutSeconds": 15, "failureThreshold": 5,
        },
        "volumeMounts": [
            {"name": "host-var-run-antrea", "mountPath": "/var/run/openvswitch", "subPath": "openvswitch"},
            // The database outlives the Pod, and with it ports and their numbers.
            {"name": "host-var-lib-antrea", "mountPath": "/etc/openvswitch", "subPath": "openvswitch"},
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

pub(super) fn volumes(around: &Surroundings) -> Vec<Value> {
    let mut volumes = vec![
        json!({"name": CONFIG, "configMap": {"name": CONFIG}}),
        json!({"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}),
    ];
    volumes.extend(HOST_PATHS.iter().map(|(name, usual, type_)| {
        let path = match (&around.openshift, *name) {
            (Some(platform), "host-cni-bin") => platform.cni_bin_dir(),
            (Some(platform), "host-cni-conf") => platform.cni_conf_dir(),
            _ => usual,
        };
        json!({"name": name, "hostPath": {"path": path, "type": type_}})
    }));
    volumes
}
