//! The ClusterServiceVersion: the operator's Deployment and roles as they are shipped, and what a catalog shows.

use std::path::Path;

use antrea_operator::object::KINDS;
use anyhow::{Context, Result, ensure};
use base64::Engine;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

use super::{PACKAGE, Release, descriptors};

/// Page of the project.
const REPOSITORY: &str = "https://github.com/antrea-io/antrea-rs";

/// The first with ValidatingAdmissionPolicy v1 and Nodes' names in ServiceAccount tokens.
const MIN_KUBE_VERSION: &str = "1.30.0";

const DESCRIPTION: &str = "\
Antrea is a Kubernetes network on Open vSwitch: pod connectivity with or without tunnels, and NetworkPolicy that is \
enforced in the switch. This operator runs its whole life from one object:

```yaml
apiVersion: operator.antrea.io/v1alpha1
kind: AntreaInstallation
metadata:
  name: default
```

An empty spec works. The operator installs the controller and one agent per node, tells in the object's conditions \
what works and which nodes fail and why, puts back what others change, replaces agents node by node when version or \
configuration change, and cleans the nodes when the object is deleted.

**Before you install**: the cluster must have no other pod network, and must allocate `podCIDR`s to nodes.

**Before you uninstall** the operator: delete the AntreaInstallation and wait until it is gone. Without the operator \
nobody takes the network off the nodes, and the object waits for an operator to come back.

**An upgrade** of the operator upgrades the network too, unless `spec.version` holds it at a version. Established \
connections are kept on the kernel's datapath; on the userspace datapath a node is silent for a few seconds while its \
Open vSwitch is replaced.
";

pub(super) fn cluster_service_version(root: &Path, release: &Release) -> Result<Value> {
    let mut metadata = json!({
        "name": release.name(),
        // OLM replaces it by the namespace that it installs into.
        "namespace": "placeholder",
        "labels": {
            "operatorframework.io/arch.amd64": "supported",
            "operatorframework.io/os.linux": "supported",
        },
        "annotations": annotations(root, release)?,
    });
    if let Some(created) = &release.created {
        metadata["annotations"]["createdAt"] = created.clone().into();
    }
    let mut spec = json!({
        "displayName": "Antrea",
        "description": DESCRIPTION,
        "version": release.version.to_string(),
        "minKubeVersion": MIN_KUBE_VERSION,
        "maturity": "alpha",
        "keywords": ["antrea", "cni", "network", "networkpolicy", "openvswitch"],
        "provider": {"name": "The Antrea project", "url": "https://antrea.io"},
        "maintainers": [{"name": "The Antrea project", "email": "projectantrea-dev@googlegroups.com"}],
        "links": [
            {"name": "Source", "url": REPOSITORY},
            {"name": "Antrea", "url": "https://antrea.io"},
        ],
        "icon": [icon(root)?],
        "installModes": install_modes(),
        "install": {"strategy": "deployment", "spec": install(root, release)?},
        "customresourcedefinitions": {"owned": owned()?},
        "relatedImages": release.images.related().map(|(name, image)| json!({"name": name, "image": image})),
    });
    if let Some(previous) = release.history.last().and_then(super::catalog::version_of) {
        spec["replaces"] = super::bundle_name(&previous).into();
    }
    Ok(json!({
        "apiVersion": "operators.coreos.com/v1alpha1",
        "kind": "ClusterServiceVersion",
        "metadata": metadata,
        "spec": spec,
    }))
}

fn annotations(root: &Path, release: &Release) -> Result<Value> {
    // A mirror by digest is all that such a cluster can pull from.
    let pinned = release.images.related().iter().all(|(_, image)| image.contains("@sha256:"));
    let features = [
        ("disconnected", pinned),
        ("fips-compliant", false),
        ("proxy-aware", false),
        ("tls-profiles", false),
        ("token-auth-aws", false),
        ("token-auth-azure", false),
        ("token-auth-gcp", false),
        ("cnf", false),
        ("cni", true),
        ("csi", false),
    ];
    let internal = antrea_crds::operand().into_iter().filter(|crd| !is_peoples(crd));
    let internal: Vec<String> = internal.filter_map(|crd| crd.metadata.name).collect();
    let mut annotations = json!({
        "alm-examples": format!("{:#}", Value::from(examples(root)?)),
        // Deploys and configures: yes; upgrades with the operator, older versions by spec.version: yes; backup
        // and restore of what is not in the cluster's own objects: no.
        "capabilities": "Seamless Upgrades",
        "categories": "Networking,Security",
        "containerImage": release.images.operator,
        "description": "Installs, upgrades and removes the Antrea network of a cluster",
        "repository": REPOSITORY,
        "support": "The Antrea project",
        "certified": "false",
        "operatorframework.io/suggested-namespace": PACKAGE,
        // The same with its labels: the operator uses the host's network.
        "operatorframework.io/suggested-namespace-template":
            serde_json::to_string(&super::source(root, "namespace.yaml")?)?,
        "operatorframework.io/initialization-resource":
            serde_json::to_string(&crate::files::documents(&root.join(SAMPLE))?.first())?,
        "operators.operatorframework.io/internal-objects": serde_json::to_string(&internal)?,
    });
    for (feature, has) in features {
        annotations[format!("features.operators.openshift.io/{feature}")] = has.to_string().into();
    }
    Ok(annotations)
}

const SAMPLE: &str = "config/samples/antreainstallation.yaml";

/// Whether people make objects of the kind: what of agents and controller nobody else writes has no spec.
fn is_peoples(crd: &CustomResourceDefinition) -> bool {
    !crd.spec.names.kind.ends_with("Info")
}

/// One of each kind that the bundle defines. Those of agents and controller are written by them only.
fn examples(root: &Path) -> Result<Vec<Value>> {
    let mut examples = crate::files::documents(&root.join(SAMPLE))?;
    for sample in ["traceflow.yaml", "packetcapture.yaml", "policies.yaml"] {
        examples.extend(crate::files::documents(&root.join("config/samples").join(sample))?);
    }
    for crd in antrea_crds::operand().iter().filter(|crd| !is_peoples(crd)) {
        let version = crd.spec.versions.first().context("a CRD must have a version")?;
        examples.push(json!({
            "apiVersion": format!("{}/{}", crd.spec.group, version.name),
            "kind": crd.spec.names.kind,
            "metadata": {"name": "example"},
        }));
    }
    Ok(examples)
}

fn icon(root: &Path) -> Result<Value> {
    let svg = crate::files::text(&root.join("olm/icon.svg"))?;
    let data = base64::engine::general_purpose::STANDARD.encode(svg.trim_end());
    Ok(json!({"base64data": data, "mediatype": "image/svg+xml"}))
}

/// A network is the whole cluster's.
fn install_modes() -> Value {
    let mode = |type_: &str| json!({"type": type_, "supported": type_ == "AllNamespaces"});
    ["OwnNamespace", "SingleNamespace", "MultiNamespace", "AllNamespaces"].map(mode).into_iter().collect()
}

/// `spec.install.spec`: Deployment and roles of config/operator.
fn install(root: &Path, release: &Release) -> Result<Value> {
    let mut deployment = super::source(root, "deployment.yaml")?;
    let container = deployment
        .pointer_mut("/spec/template/spec/containers/0")
        .context("the operator's Deployment must have a container")?;
    container["image"] = release.images.operator.clone().into();
    let env = container["env"].as_array_mut().context("env of the operator's container")?;
    for (name, value) in [
        ("ANTREA_DELIVERY", "olm"),
        ("RELATED_IMAGE_ANTREA_AGENT", &release.images.agent),
        ("RELATED_IMAGE_ANTREA_CONTROLLER", &release.images.controller),
    ] {
        env.push(json!({"name": name, "value": value}));
    }
    // What the operator installs is named by the images, and called by its own version; not by what it was built as.
    for variable in env.iter_mut().filter(|variable| variable["name"] == "ANTREA_VERSION") {
        variable["value"] = format!("v{}", release.version).into();
    }
    let (cluster, namespaced) = rules(root)?;
    let granted = |rules: Vec<Value>| json!([{"serviceAccountName": PACKAGE, "rules": rules}]);
    Ok(json!({
        "deployments": [{
            "name": PACKAGE,
            "label": deployment["metadata"]["labels"],
            "spec": deployment["spec"],
        }],
        "clusterPermissions": granted(cluster),
        "permissions": granted(namespaced),
    }))
}

/// Cluster-wide and namespaced rules, as config/operator has them but for what changes hands: the bundle's definitions are
/// OLM's to change, and the policy that checks AntreaInstallations is the operator's.
fn rules(root: &Path) -> Result<(Vec<Value>, Vec<Value>)> {
    let (mut cluster, mut namespaced) = (Vec::new(), Vec::new());
    for document in crate::files::documents(&root.join("config/operator/rbac.yaml"))? {
        let rules = document["rules"].as_array().cloned().unwrap_or_default();
        match document["kind"].as_str() {
            Some("ClusterRole") => cluster.extend(rules),
            Some("Role") => namespaced.extend(rules),
            _ => {}
        }
    }
    let bundled: Vec<Value> =
        antrea_crds::all().into_iter().filter_map(|crd| crd.metadata.name).map(Value::from).collect();
    let mut policies = 0;
    cluster.retain_mut(|rule| {
        let named = rule["resourceNames"].is_array();
        if named && rule["resources"][0] == "validatingadmissionpolicies" {
            policies += 1;
            if let Some(names) = rule["resourceNames"].as_array_mut() {
                names.push("antrea-installation".into());
            }
        }
        let defines = rule["apiGroups"] == json!(["apiextensions.k8s.io"]);
        let names = rule.get_mut("resourceNames").and_then(Value::as_array_mut).filter(|_| defines);
        let Some(names) = names else { return true };
        names.retain(|name| !bundled.contains(name));
        !names.is_empty()
    });
    ensure!(policies == 1, "config/operator/rbac.yaml: {policies} rules name admission policies, not one");
    Ok((cluster, namespaced))
}

fn owned() -> Result<Vec<Value>> {
    antrea_crds::all().iter().map(owned_crd).collect()
}

fn owned_crd(crd: &CustomResourceDefinition) -> Result<Value> {
    let version = crd.spec.versions.first().context("a CRD must have a version")?;
    let schema = serde_json::to_value(version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()))?;
    let name = crd.metadata.name.clone().context("a CRD must have a name")?;
    let mut owned = json!({
        "name": name,
        "version": version.name,
        "kind": crd.spec.names.kind,
        "displayName": display_name(&crd.spec.names.kind),
        "description": schema["description"].as_str().unwrap_or_default(),
        "resources": [],
    });
    if name == antrea_crds::installation::DEFINITION {
        owned["resources"] = KINDS
            .iter()
            .map(|kind| json!({"kind": kind.kind, "version": kind.version, "name": ""}))
            .collect();
        owned["specDescriptors"] = descriptors::of(&schema["properties"]["spec"]).into();
        owned["statusDescriptors"] = descriptors::of(&schema["properties"]["status"]).into();
    }
    Ok(owned)
}

/// "AntreaAgentInfo" becomes "Antrea agent info".
fn display_name(kind: &str) -> String {
    let mut words = String::new();
    for c in kind.chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
            words.extend(c.to_lowercase());
        } else {
            words.push(c);
        }
    }
    words
}
