//! A desired object and what the operator has to know about its kind.

use std::fmt;

use kube::core::{ApiResource, GroupVersionKind};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{APPLIED_ANNOTATION, NAMESPACE, OWNER_LABEL};

/// When an object is applied, first to last. Removal goes backwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Custom resource definitions.
    Crds,
    /// Identities, permissions, configuration, Services.
    Base,
    /// The controller's Deployment.
    Controller,
    /// The agents' DaemonSet.
    Agents,
}

/// A kind that the operator manages.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// API group; empty for core.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Name of the kind.
    pub kind: &'static str,
    /// Name of the resource.
    pub plural: &'static str,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// When objects of it are applied.
    pub stage: Stage,
}

macro_rules! kinds {
    ($(#[$doc:meta])* $list:ident: $($name:ident = $group:literal / $version:literal $kind:literal $plural:literal $namespaced:literal $stage:ident;)*) => {
        $(#[doc = concat!("`", $kind, "`.")]
        pub static $name: Kind = Kind {
            group: $group, version: $version, kind: $kind, plural: $plural, namespaced: $namespaced, stage: Stage::$stage,
        };)*
        $(#[$doc])*
        pub static $list: &[&Kind] = &[$(&$name),*];
    };
}

kinds! {
    /// Kinds that every cluster has, in the order in which objects are applied.
    KINDS:
    CRD = "apiextensions.k8s.io"/"v1" "CustomResourceDefinition" "customresourcedefinitions" false Crds;
    SERVICE_ACCOUNT = ""/"v1" "ServiceAccount" "serviceaccounts" true Base;
    CLUSTER_ROLE = "rbac.authorization.k8s.io"/"v1" "ClusterRole" "clusterroles" false Base;
    CLUSTER_ROLE_BINDING = "rbac.authorization.k8s.io"/"v1" "ClusterRoleBinding" "clusterrolebindings" false Base;
    ROLE = "rbac.authorization.k8s.io"/"v1" "Role" "roles" true Base;
    ROLE_BINDING = "rbac.authorization.k8s.io"/"v1" "RoleBinding" "rolebindings" true Base;
    ADMISSION_POLICY = "admissionregistration.k8s.io"/"v1" "ValidatingAdmissionPolicy" "validatingadmissionpolicies" false Base;
    ADMISSION_BINDING = "admissionregistration.k8s.io"/"v1" "ValidatingAdmissionPolicyBinding" "validatingadmissionpolicybindings" false Base;
    CONFIG_MAP = ""/"v1" "ConfigMap" "configmaps" true Base;
    SERVICE = ""/"v1" "Service" "services" true Base;
    API_SERVICE = "apiregistration.k8s.io"/"v1" "APIService" "apiservices" false Base;
    DEPLOYMENT = "apps"/"v1" "Deployment" "deployments" true Controller;
    MUTATING_WEBHOOKS = "admissionregistration.k8s.io"/"v1" "MutatingWebhookConfiguration" "mutatingwebhookconfigurations" false Controller;
    VALIDATING_WEBHOOKS = "admissionregistration.k8s.io"/"v1" "ValidatingWebhookConfiguration" "validatingwebhookconfigurations" false Controller;
    DAEMON_SET = "apps"/"v1" "DaemonSet" "daemonsets" true Agents;
}

kinds! {
    /// Kinds that a cluster has once somebody installs them.
    MONITORING_KINDS:
    SERVICE_MONITOR = "monitoring.coreos.com"/"v1" "ServiceMonitor" "servicemonitors" true Base;
    PROMETHEUS_RULE = "monitoring.coreos.com"/"v1" "PrometheusRule" "prometheusrules" true Base;
}

/// The kind of that name, if the operator manages it.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .chain(MONITORING_KINDS)
        .copied()
        .chain([&crate::openshift::CONSTRAINTS])
        .find(|kind| kind.kind == name)
}

impl Kind {
    /// What a dynamic client needs.
    pub fn api_resource(&self) -> ApiResource {
        let gvk = GroupVersionKind::gvk(self.group, self.version, self.kind);
        ApiResource::from_gvk_with_plural(&gvk, self.plural)
    }

    /// `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}

/// Names one object of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Name of the kind.
    pub kind: &'static str,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// An object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// What it is.
    pub kind: &'static Kind,
    pub name: String,
    /// The whole of it, as it is sent to the API server.
    pub body: Value,
}

impl Object {
    /// An object of `kind` with the fields of `content` beside its metadata. Namespaced kinds go to
    /// [`NAMESPACE`]; labels say that Antrea and this operator own it.
    pub fn new(kind: &'static Kind, name: &str, installation: &str, content: Value) -> Self {
        let mut body = json!({
            "apiVersion": kind.api_version(),
            "kind": kind.kind,
            "metadata": {
                "name": name,
                "labels": {
                    "app": "antrea",
                    "app.kubernetes.io/managed-by": crate::FIELD_MANAGER,
                    OWNER_LABEL: installation,
                },
            },
        });
        if kind.namespaced {
            body["metadata"]["namespace"] = NAMESPACE.into();
        }
        if let (Some(body), Value::Object(content)) = (body.as_object_mut(), content) {
            body.extend(content);
        }
        Self { kind, name: name.to_owned(), body }
    }

    /// Adds a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.body["metadata"]["labels"][key] = value.into();
        self
    }

    /// Adds an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.body["metadata"]["annotations"][key] = value.into();
        self
    }

    /// Puts it into a namespace other than [`NAMESPACE`].
    #[must_use]
    pub fn in_namespace(mut self, namespace: &str) -> Self {
        self.body["metadata"]["namespace"] = namespace.into();
        self
    }

    /// Its name in the cluster.
    pub fn key(&self) -> Key {
        let namespace = self.body["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        Key { kind: self.kind.kind, namespace, name: self.name.clone() }
    }

    /// Hash of the whole object.
    pub fn hash(&self) -> String {
        hash(&self.body)
    }

    /// Notes the hash of the object in its annotations, so that a later run can tell a change of what is
    /// wanted from a change of what is there.
    #[must_use]
    pub fn stamped(mut self) -> Self {
        let hash = self.hash();
        self.body["metadata"]["annotations"][APPLIED_ANNOTATION] = hash.into();
        self
    }
}

/// 16 hexadecimal digits that stand for `value`. Maps are sorted, so the order of keys does not matter.
pub fn hash(value: &Value) -> String {
    let digest = Sha256::digest(value.to_string().as_bytes());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
