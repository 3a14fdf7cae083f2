//! What `antctl check installation` makes: Pods, Services and policies of a Namespace of its own.

use serde_json::{Value, json};

/// Port on which test Pods answer.
pub(super) const PORT: u16 = 8080;

/// A test Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// Answers, on the first Node.
    Near,
    /// Answers, on the second Node.
    Far,
    /// Asks, on the first Node.
    Client,
    /// Asks, from the first Node's network.
    Host,
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
            Self::Client => "client",
            Self::Host => "host",
        }
    }

    fn answers(self) -> bool {
        matches!(self, Self::Near | Self::Far)
    }
}

/// A Namespace that takes Pods of Nodes' networks.
pub(super) fn namespace() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "generateName": "antrea-test-",
            "labels": {"app": "antctl-check", "pod-security.kubernetes.io/enforce": "privileged"},
        },
    })
}

/// A Pod on a Node, that asks these targets.
pub(super) fn pod(role: Role, node: &str, image: &str, targets: &[(String, String)]) -> Value {
    let mut command = vec!["antctl".to_owned(), "check".to_owned(), "probe".to_owned()];
    if role.answers() {
        command.extend(["--listen".to_owned(), PORT.to_string()]);
    }
    for (name, address) in targets {
        command.extend(["--target".to_owned(), format!("{name}={address}")]);
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": role.name(), "labels": {"app": "antctl-check", "role": role.name()}},
        "spec": {
            // The Nodes are chosen by what they are: no scheduler has a say, nor a taint.
            "nodeName": node,
            "tolerations": [{"operator": "Exists"}],
            "hostNetwork": role == Role::Host,
            "restartPolicy": "Never",
            // What is forgotten ends.
            "activeDeadlineSeconds": 1800,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65_534, "runAsGroup": 65_534,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "probe", "image": image, "imagePullPolicy": "IfNotPresent", "command": command,
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
                "securityContext": {
                    "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    })
}

/// A Service whose endpoint is a Pod.
pub(super) fn service(role: Role) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": role.name(), "labels": {"app": "antctl-check"}},
        "spec": {
            "type": "NodePort",
            "selector": {"role": role.name()},
            "ports": [{"name": "probe", "protocol": "TCP", "port": 80, "targetPort": PORT}],
        },
    })
}

/// A policy for a Pod and one way, that allows nothing, or only whom it names.
pub(super) fn policy(name: &str, role: Role, ingress: bool, from: Option<Role>) -> Value {
    let mut spec = json!({
        "podSelector": {"matchLabels": {"role": role.name()}},
        "policyTypes": [if ingress { "Ingress" } else { "Egress" }],
    });
    if let Some(from) = from {
        spec["ingress"] = json!([{
            "from": [{"podSelector": {"matchLabels": {"role": from.name()}}}],
            "ports": [{"protocol": "TCP", "port": PORT}],
        }]);
    }
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name}, "spec": spec,
    })
}
