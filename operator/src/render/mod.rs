//! Desired objects from the configuration in effect: plain functions, compared with golden files.

use std::collections::BTreeMap;

use antrea_crds::installation::{AntreaInstallationSpec, PullPolicy, Resources, Toleration};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use crate::{
    OWNER_LABEL,
    effective::{ConfigError, Effective, EffectiveWorkload, Facts, effective},
    object::{self, Key, Object},
    openshift::Platform,
};

mod admission;
mod agent;
mod api;
mod cleanup;
mod config;
mod controller;
pub mod monitoring;
mod preflight;
mod rbac;
pub mod ui;

pub use agent::{AGENT_CAPABILITIES, OVS_CAPABILITIES};
pub use api::AGGREGATED_APIS;
pub use cleanup::CLEANUP_CAPABILITIES;

/// Name of the DaemonSet, of its ServiceAccount and of its roles.
pub const AGENT: &str = "antrea-agent";

/// Name of the Deployment, of its ServiceAccount and of its roles.
pub const CONTROLLER: &str = "antrea-controller";

/// Name of the DaemonSet that holds the images of a change.
pub const PREFLIGHT: &str = "antrea-preflight";

/// Name of the DaemonSet that cleans Nodes.
pub const CLEANUP: &str = "antrea-cleanup";

/// TCP port of the controller's API.
pub const CONTROLLER_PORT: u16 = 10349;

/// TCP port of each agent's API.
pub const AGENT_PORT: u16 = 10350;

/// Who brings what the operator needs in the cluster before it can act.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Delivery {
    /// `kubectl apply` or Helm. The operator applies the definitions of Antrea's own kinds, for neither keeps
    /// them in step with the operator; the policy that checks AntreaInstallations comes with the manifest.
    #[default]
    Manifests,
    /// The Operator Lifecycle Manager. It brings each definition of Antrea's own kinds and is the only one to change them, else an
    /// operator that is about to be replaced would undo what its successor's bundle brought. Its bundles
    /// cannot hold admission policies, so the operator applies that one.
    Olm,
}

/// Where the operator runs, as far as objects differ by it and no spec can say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Who brings what is not the operator's to bring.
    pub delivery: Delivery,
    /// OpenShift, if it is one.
    pub openshift: Option<Platform>,
}

impl From<Delivery> for Surroundings {
    fn from(delivery: Delivery) -> Self {
        Self { delivery, openshift: None }
    }
}

/// All objects of an installation, in the order in which they are applied.
///
/// # Errors
/// The spec contradicts itself or the cluster; see [`effective`].
pub fn render(spec: &AntreaInstallationSpec, facts: &Facts) -> Result<Vec<Object>, ConfigError> {
    Ok(objects(&effective(spec, facts)?, &Surroundings::default()))
}

/// All objects of a configuration, in the order in which they are applied.
pub fn objects(config: &Effective, around: &Surroundings) -> Vec<Object> {
    let configuration = config::files(config);
    let mut objects = match around.delivery {
        Delivery::Manifests => crds(),
        Delivery::Olm => admission::installation().to_vec(),
    };
    if config.standard_policies() {
        objects.push(definition(antrea_crds::standard_crd()));
    }
    objects.extend(rbac::objects(config));
    objects.extend(admission::objects());
    objects.push(configuration.object());
    objects.extend(api::objects());
    objects.push(controller::deployment(config, &configuration));
    if config.policies() {
        objects.extend(admission::webhooks());
    }
    objects.push(agent::daemon_set(config, &configuration, around));
    objects.sort_by_key(|object| object.kind.stage);
    objects.into_iter().map(Object::stamped).collect()
}

/// Objects that the network does not depend on: for Prometheus and Grafana, given what the cluster serves and in which
/// namespace the operator is, and for user interfaces.
pub fn extras(config: &Effective, served: monitoring::Served, operator_namespace: &str) -> Vec<Object> {
    let mut objects = monitoring::objects(config, served, operator_namespace);
    objects.extend(ui::objects(config));
    objects
}

/// Whether an object is one of those that [`extras`] makes.
pub fn is_extra(key: &Key) -> bool {
    monitoring::is_monitoring(key) || ui::is_ui(key)
}

/// Names of the ConfigMaps among them, which may be in any namespace.
pub fn extra_config_maps() -> Vec<String> {
    let mut names = monitoring::board_names();
    names.push(ui::HEADLAMP.to_owned());
    names
}

/// The object that shows whether the images of a configuration are on the Nodes; wanted for as long as
/// something runs another image.
pub fn preflight(config: &Effective) -> Object {
    preflight::daemon_set(config)
}

/// The object that cleans Nodes once no agent is left.
pub fn cleanup(config: &Effective, around: &Surroundings) -> Object {
    cleanup::daemon_set(config, around)
}

/// References of every image that an installation takes, sorted: those that the operator may run, and that with plugins
/// where some are asked for.
pub fn images(config: &Effective) -> Vec<String> {
    let mut images = vec![config.agent_image.clone(), config.controller_image.clone()];
    images.extend(config.ui_image.clone());
    images.sort();
    images.dedup();
    images
}

/// An object of this installation.
fn managed(kind: &'static object::Kind, name: &str, content: Value) -> Object {
    Object::new(kind, name, antrea_crds::INSTALLATION_NAME, content)
}

fn crds() -> Vec<Object> {
    let crds = antrea_crds::operand().into_iter().map(definition);
    crds.map(|crd| crd.label("served-by", CONTROLLER)).collect()
}

/// Whether it is for others to define: where somebody has brought such an object it stays as it is, for it may be a newer
/// form of it, and what is stored may need that.
pub fn is_others(key: &Key) -> bool {
    key.kind == object::CRD.kind && !key.name.ends_with(".antrea.io")
}

fn definition(crd: CustomResourceDefinition) -> Object {
    let name = crd.metadata.name.unwrap_or_default();
    let spec = serde_json::to_value(&crd.spec).expect("a CRD's spec must be JSON");
    let object = managed(&object::CRD, &name, json!({"spec": spec}));
    let annotations = crd.metadata.annotations.into_iter().flatten();
    annotations.fold(object, |object, (key, value)| object.annotation(&key, &value))
}

/// A Pod template with the parts that both workloads share. `spec` holds the rest of the Pod's spec.
fn pod_template(
    component: &str,
    config: &Effective,
    workload: &EffectiveWorkload,
    checksum: &str,
    spec: Value,
) -> Value {
    let mut pod = json!({
        "serviceAccountName": component,
        // The network of Pods is what these Pods make.
        "hostNetwork": true,
        "priorityClassName": workload.priority_class_name,
        "nodeSelector": workload.node_selector,
        "tolerations": tolerations(&workload.tolerations),
    });
    if !config.pull_secrets.is_empty() {
        pod["imagePullSecrets"] = config.pull_secrets.iter().map(|name| json!({"name": name})).collect();
    }
    if let (Some(pod), Value::Object(spec)) = (pod.as_object_mut(), spec) {
        pod.extend(spec);
    }
    let mut template = json!({
        "metadata": {
            "labels": pod_labels(component),
            "annotations": {crate::CONFIG_ANNOTATION: checksum},
        },
        "spec": pod,
    });
    let revision = object::hash(&template);
    template["metadata"]["annotations"][crate::REVISION_ANNOTATION] = revision.into();
    template
}

/// Labels by which tools find the Pods of a component.
fn pod_labels(component: &str) -> Value {
    json!({"app": "antrea", "component": component, OWNER_LABEL: antrea_crds::INSTALLATION_NAME})
}

/// What Services and workloads select Pods by. A workload's selector cannot be changed, so this must
/// stay as it is.
fn selector(component: &str) -> Value {
    json!({"app": "antrea", "component": component})
}

fn tolerations(tolerations: &[Toleration]) -> Value {
    serde_json::to_value(tolerations).expect("tolerations must be JSON")
}

fn resources(resources: &Resources) -> Value {
    let mut value = json!({});
    for (name, quantities) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        if !quantities.is_empty() {
            // A quantity may be given as a number; the API stores strings.
            value[name] = quantities
                .iter()
                .map(|(resource, quantity)| {
                    let text = quantity.as_str().map_or_else(|| quantity.to_string(), str::to_owned);
                    (resource.clone(), Value::from(text))
                })
                .collect::<serde_json::Map<_, _>>()
                .into();
        }
    }
    value
}

fn pull_policy(policy: PullPolicy) -> &'static str {
    match policy {
        PullPolicy::Always => "Always",
        PullPolicy::IfNotPresent => "IfNotPresent",
        PullPolicy::Never => "Never",
    }
}

/// Environment that tells a component where it runs and how log lines look. How much is logged is not here:
/// it would restart the Pod.
fn environment(config: &Effective) -> Value {
    let field =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    json!([
        field("NODE_NAME", "spec.nodeName"),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        {"name": "LOG_FORMAT", "value": config::log_format(config.log_format)},
    ])
}

/// The revision of a rendered workload's Pod template.
pub fn revision(workload: &Object) -> Option<&str> {
    let pointer =
        format!("/spec/template/metadata/annotations/{}", crate::REVISION_ANNOTATION.replace('/', "~1"));
    workload.body.pointer(&pointer).and_then(Value::as_str)
}

/// A Pod as the DaemonSet controller makes it of `workload` for a Node.
pub fn pod_of(workload: &Object, node: &str) -> Option<Value> {
    let template = workload.body.pointer("/spec/template")?;
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": template["metadata"],
        "spec": template["spec"],
    });
    pod["metadata"]["generateName"] = format!("{}-", workload.name).into();
    pod["metadata"]["namespace"] = workload.body["metadata"]["namespace"].clone();
    let field = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    let terms = json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
    pod["spec"]["affinity"] =
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
    Some(pod)
}

/// The files of `antrea-config`, by name.
type Files = BTreeMap<String, String>;
