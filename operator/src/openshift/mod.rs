//! What OpenShift asks of the operator of a network, beyond Kubernetes.
//!
//! ```text
//!  API groups ──► is it OpenShift? ─► Platform: where Multus looks, whether there are SCCs
//!  Network.config/cluster ──► its status, filled before any agent runs: the installer waits for it
//!  AntreaInstallation.status ──► ClusterOperator antrea, by the contract of such objects
//! ```
//!
//! Everything here is a plain function; `controller/openshift.rs` reads and writes.

use serde_json::{Value, json};

use crate::{
    NAMESPACE,
    object::{Kind, Object, Stage},
    render::{AGENT, AGENT_CAPABILITIES, CLEANUP_CAPABILITIES, CONTROLLER, OVS_CAPABILITIES},
};

mod cluster_operator;
mod network;

pub use cluster_operator::{NAME as CLUSTER_OPERATOR_NAME, next as cluster_operator};
pub use network::{NetworkSpec, status as network_status};

/// Name of the only object of OpenShift's configuration kinds.
pub const CLUSTER: &str = "cluster";

/// `Network`, the cluster's configuration.
pub static NETWORK_CONFIG: Kind = kind("config.openshift.io", "Network", "networks");
/// `Network`, of the cluster network operator.
pub static NETWORK_OPERATOR: Kind = kind("operator.openshift.io", "Network", "networks");
/// `ClusterOperator`.
pub static CLUSTER_OPERATOR: Kind = kind("config.openshift.io", "ClusterOperator", "clusteroperators");
/// `SecurityContextConstraints`.
pub static CONSTRAINTS: Kind =
    kind("security.openshift.io", "SecurityContextConstraints", "securitycontextconstraints");

const fn kind(group: &'static str, kind: &'static str, plural: &'static str) -> Kind {
    Kind { group, version: "v1", kind, plural, namespaced: false, stage: Stage::Base }
}

/// An OpenShift cluster, as far as objects differ by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// Whether Multus calls the CNI plugin, rather than the container runtime.
    pub multus: bool,
    /// Whether SecurityContextConstraints are served.
    pub constraints: bool,
}

/// Which of OpenShift's API groups are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// The cluster's configuration: what makes it OpenShift.
    pub config: bool,
    /// Configuration of its operators.
    pub operator: bool,
    /// SecurityContextConstraints.
    pub security: bool,
}

impl Groups {
    /// Of all groups that an API server serves.
    pub fn of<'a>(served: impl Iterator<Item = &'a str>) -> Self {
        let mut groups = Self::default();
        for group in served {
            match group {
                "config.openshift.io" => groups.config = true,
                "operator.openshift.io" => groups.operator = true,
                "security.openshift.io" => groups.security = true,
                _ => {}
            }
        }
        groups
    }

    /// The platform, with `network` of the cluster network operator if there is one. Other distributions serve one
    /// or the other of these groups; the cluster's configuration is OpenShift's alone.
    pub fn platform(self, network: Option<&Value>) -> Option<Platform> {
        let disabled = network.is_some_and(|network| network["spec"]["disableMultiNetwork"] == true);
        self.config.then_some(Platform { multus: !disabled, constraints: self.security })
    }
}

impl Platform {
    /// Folder of the Node where the CNI configuration goes.
    pub fn cni_conf_dir(&self) -> &'static str {
        // Multus reads its default network here and writes the file that the runtime reads.
        if self.multus { "/var/run/multus/cni/net.d" } else { "/etc/kubernetes/cni/net.d" }
    }

    /// Folder of the Node where CNI plugins go: the usual one is read-only.
    pub fn cni_bin_dir(&self) -> &'static str {
        "/var/lib/cni/bin"
    }

    /// What Pods of agents and controller may ask for, where somebody has to say so.
    pub fn constraints(&self) -> Vec<Object> {
        if self.constraints { vec![agent_constraints(), controller_constraints()] } else { Vec::new() }
    }
}

/// Names of the SecurityContextConstraints.
pub const CONSTRAINT_NAMES: [&str; 2] = ["antrea-agent", "antrea-controller"];

/// Agents, and the Pods that clean Nodes, which have their identity.
fn agent_constraints() -> Object {
    let mut capabilities: Vec<&str> = AGENT_CAPABILITIES
        .iter()
        .chain(OVS_CAPABILITIES)
        .chain(CLEANUP_CAPABILITIES)
        .copied()
        // The init container that puts the plugin on the Node.
        .chain(["CHOWN", "DAC_OVERRIDE", "FOWNER", "SYS_MODULE"])
        .collect();
    capabilities.sort_unstable();
    capabilities.dedup();
    constraints(
        CONSTRAINT_NAMES[0],
        AGENT,
        json!({
            "allowHostDirVolumePlugin": true,
            "allowedCapabilities": capabilities,
            "runAsUser": {"type": "RunAsAny"},
            "seLinuxContext": {"type": "RunAsAny"},
            "fsGroup": {"type": "RunAsAny"},
            "volumes": ["configMap", "emptyDir", "hostPath", "projected"],
        }),
    )
}

fn controller_constraints() -> Object {
    constraints(
        CONSTRAINT_NAMES[1],
        CONTROLLER,
        json!({
            "allowHostDirVolumePlugin": false,
            "allowedCapabilities": null,
            "runAsUser": {"type": "MustRunAsNonRoot"},
            "seLinuxContext": {"type": "MustRunAs"},
            "fsGroup": {"type": "RunAsAny"},
            "volumes": ["configMap", "emptyDir", "projected"],
        }),
    )
}

fn constraints(name: &str, account: &str, special: Value) -> Object {
    let mut content = json!({
        "allowHostIPC": false,
        "allowHostNetwork": true,
        "allowHostPID": false,
        "allowHostPorts": true,
        "allowPrivilegeEscalation": false,
        "allowPrivilegedContainer": false,
        "defaultAddCapabilities": null,
        "groups": [],
        "readOnlyRootFilesystem": true,
        "requiredDropCapabilities": null,
        "seccompProfiles": ["runtime/default"],
        "supplementalGroups": {"type": "RunAsAny"},
        "users": [format!("system:serviceaccount:{NAMESPACE}:{account}")],
    });
    if let (Some(content), Value::Object(special)) = (content.as_object_mut(), special) {
        content.extend(special);
    }
    Object::new(&CONSTRAINTS, name, antrea_crds::INSTALLATION_NAME, content).stamped()
}

#[cfg(test)]
mod tests {
    use antrea_crds::AntreaInstallationSpec;

    use super::*;
    use crate::{
        effective::{Facts, effective},
        render::{self, Surroundings},
    };

    #[test]
    fn openshift_is_known_by_the_clusters_configuration() {
        let groups = |names: &[&str]| Groups::of(names.iter().copied());
        assert_eq!(groups(&["apps", "security.openshift.io"]).platform(None), None, "another distribution");
        let groups = groups(&["config.openshift.io", "operator.openshift.io", "security.openshift.io"]);
        let network = |value: Value| json!({"spec": value});
        for (network, multus) in [
            (None, true),
            (Some(network(json!({}))), true),
            (Some(network(json!({"disableMultiNetwork": false}))), true),
            (Some(network(json!({"disableMultiNetwork": true}))), false),
        ] {
            let platform = groups.platform(network.as_ref()).unwrap();
            assert_eq!(platform, Platform { multus, constraints: true }, "{network:?}");
        }
    }

    fn host_path(daemon_set: &Object, volume: &str) -> String {
        let volumes = daemon_set.body["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
        let found = volumes.iter().find(|one| one["name"] == volume).unwrap();
        found["hostPath"]["path"].as_str().unwrap().to_owned()
    }

    /// Whoever writes there and whoever takes it away again must agree.
    #[test]
    fn the_plugin_goes_where_its_caller_looks() {
        let config = effective(&AntreaInstallationSpec::default(), &Facts::default()).unwrap();
        for (multus, conf) in [(true, "/var/run/multus/cni/net.d"), (false, "/etc/kubernetes/cni/net.d")] {
            let around = Surroundings {
                openshift: Some(Platform { multus, constraints: true }),
                ..Surroundings::default()
            };
            let objects = render::objects(&config, &around);
            let agents = objects.into_iter().find(|object| object.kind.kind == "DaemonSet").unwrap();
            for daemon_set in [agents, render::cleanup(&config, &around)] {
                assert_eq!(host_path(&daemon_set, "host-cni-conf"), conf, "{}", daemon_set.name);
                assert_eq!(host_path(&daemon_set, "host-cni-bin"), "/var/lib/cni/bin");
            }
        }
        let plain = render::cleanup(&config, &Surroundings::default());
        assert_eq!(host_path(&plain, "host-cni-conf"), "/etc/cni/net.d");
    }

    /// Every container of an agent's Pod, and of the one that cleans, is within what is allowed.
    #[test]
    fn constraints_allow_what_pods_ask_for_and_no_more() {
        let config = effective(&AntreaInstallationSpec::default(), &Facts::default()).unwrap();
        let platform = Platform { multus: true, constraints: true };
        let scc = platform.constraints();
        let around = Surroundings { openshift: Some(platform), ..Surroundings::default() };
        let mut objects = render::objects(&config, &around);
        objects.push(render::cleanup(&config, &around));
        let mut used = Vec::new();
        for object in objects.iter().filter(|one| matches!(one.kind.kind, "DaemonSet" | "Deployment")) {
            let pod = &object.body["spec"]["template"]["spec"];
            let account = pod["serviceAccountName"].as_str().unwrap();
            let user = format!("system:serviceaccount:kube-system:{account}");
            let allowed = scc.iter().find(|one| one.body["users"] == json!([user])).unwrap();
            let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
            for volume in list(&pod["volumes"]) {
                let type_ = volume.as_object().unwrap().keys().find(|key| *key != "name").unwrap();
                assert!(list(&allowed.body["volumes"]).contains(&type_.as_str().into()), "{volume}");
            }
            for container in [list(&pod["initContainers"]), list(&pod["containers"])].concat() {
                let context = &container["securityContext"];
                assert_eq!(context["readOnlyRootFilesystem"], true);
                for capability in list(&context["capabilities"]["add"]) {
                    assert!(list(&allowed.body["allowedCapabilities"]).contains(&capability), "{capability}");
                    used.push(capability);
                }
            }
        }
        let allowed = scc[0].body["allowedCapabilities"].as_array().unwrap();
        assert!(allowed.iter().all(|one| used.contains(one)), "{allowed:?} but used are {used:?}");
        assert!(scc.iter().all(|one| one.body["allowPrivilegedContainer"] == false));
        assert!(CONSTRAINT_NAMES.iter().zip(&scc).all(|(name, one)| one.name == **name));
    }
}
