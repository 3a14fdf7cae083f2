//! What OLM makes of a bundle in a cluster, as far as ours needs it: a stand-in that tests install with.
//!
//! Both generations apply definitions first, then identities and permissions, then the bundle's other objects and
//! the Deployments, all namespaced ones in one namespace. They differ in how a bundle for all namespaces gets its
//! namespaced permissions: v0 makes Roles and copies of them for the cluster, v1 only the latter.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::lint::Bundle;

/// Generation of OLM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Rules {
    /// Subscriptions and InstallPlans.
    V0,
    /// ClusterExtensions.
    V1,
}

/// What is asked for beside the bundle.
pub(crate) struct Install<'a> {
    pub(crate) rules: Rules,
    pub(crate) namespace: &'a str,
    /// Environment for every container, as `spec.config.env` of a Subscription has it.
    pub(crate) env: &'a [(String, String)],
}

/// Objects that are applied together; each is there before the next ones are applied.
pub(crate) type Steps = Vec<Vec<Value>>;

/// The steps of an installation or upgrade.
pub(crate) fn steps(bundle: &Bundle, install: &Install<'_>) -> Result<Steps> {
    let csv = bundle.csv().context("the bundle has no ClusterServiceVersion")?;
    let spec = &csv["spec"];
    supported(spec, install.rules)?;
    let name = csv["metadata"]["name"].as_str().unwrap_or_default();
    let strategy = &spec["install"]["spec"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();

    let (mut crds, mut others) = (Vec::new(), Vec::new());
    for object in bundle.objects() {
        match object["kind"].as_str() {
            Some("ClusterServiceVersion") => {}
            Some("CustomResourceDefinition") => crds.push(object.clone()),
            _ => others.push(in_namespace(object.clone(), install.namespace)),
        }
    }

    let mut identities = Vec::new();
    let (cluster, local) = (list(&strategy["clusterPermissions"]), list(&strategy["permissions"]));
    let mut accounts: Vec<&str> =
        cluster.iter().chain(&local).filter_map(|grant| grant["serviceAccountName"].as_str()).collect();
    accounts.sort_unstable();
    accounts.dedup();
    for account in accounts {
        identities.push(in_namespace(
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}}),
            install.namespace,
        ));
    }
    for (i, grant) in cluster.iter().enumerate() {
        identities.extend(grants("ClusterRole", &format!("{name}-cluster-{i}"), grant, install.namespace));
    }
    for (i, grant) in local.iter().enumerate() {
        if install.rules == Rules::V0 {
            identities.extend(grants("Role", &format!("{name}-{i}"), grant, install.namespace));
        }
        // Of a bundle for all namespaces these hold everywhere, and it may read which namespaces there are.
        let mut grant = grant.clone();
        let namespaces =
            json!({"apiGroups": [""], "resources": ["namespaces"], "verbs": ["get", "list", "watch"]});
        grant["rules"].as_array_mut().context("rules of a permission")?.push(namespaces);
        identities.extend(grants("ClusterRole", &format!("{name}-all-{i}"), &grant, install.namespace));
    }

    let mut workloads = others;
    for deployment in list(&strategy["deployments"]) {
        workloads.push(deployed(&deployment, &csv["metadata"], install)?);
    }
    // What goes with the ClusterServiceVersion. Definitions stay.
    for object in identities.iter_mut().chain(&mut workloads) {
        object["metadata"]["labels"]["olm.owner"] = name.into();
    }
    Ok(vec![crds, identities, workloads])
}

/// What a generation refuses.
fn supported(spec: &Value, rules: Rules) -> Result<()> {
    let all = json!({"type": "AllNamespaces", "supported": true});
    ensure!(
        spec["installModes"].as_array().is_some_and(|modes| modes.contains(&all)),
        "the bundle cannot be installed for all namespaces"
    );
    ensure!(spec["install"]["strategy"] == "deployment", "install.strategy is not \"deployment\"");
    if rules == Rules::V1 && spec["apiservicedefinitions"]["owned"].is_array() {
        bail!("OLM v1 serves no APIServices");
    }
    Ok(())
}

fn in_namespace(mut object: Value, namespace: &str) -> Value {
    object["metadata"]["namespace"] = namespace.into();
    object
}

/// A role with the rules of a grant, and its binding.
fn grants(kind: &str, name: &str, grant: &Value, namespace: &str) -> [Value; 2] {
    let api = "rbac.authorization.k8s.io";
    let mut role = json!({
        "apiVersion": format!("{api}/v1"), "kind": kind, "metadata": {"name": name}, "rules": grant["rules"],
    });
    let mut binding = json!({
        "apiVersion": format!("{api}/v1"), "kind": format!("{kind}Binding"), "metadata": {"name": name},
        "roleRef": {"apiGroup": api, "kind": kind, "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": grant["serviceAccountName"], "namespace": namespace}],
    });
    if kind == "Role" {
        role = in_namespace(role, namespace);
        binding = in_namespace(binding, namespace);
    }
    [role, binding]
}

/// A Deployment of the ClusterServiceVersion. Its Pods know by annotations what they were installed for.
fn deployed(given: &Value, csv: &Value, install: &Install<'_>) -> Result<Value> {
    let mut spec = given["spec"].clone();
    let mut annotations = csv["annotations"].clone();
    annotations["olm.targetNamespaces"] = "".into();
    if let Some(own) = spec["template"]["metadata"]["annotations"].as_object() {
        for (key, value) in own {
            annotations[key] = value.clone();
        }
    }
    spec["template"]["metadata"]["annotations"] = annotations;
    let containers =
        spec["template"]["spec"]["containers"].as_array_mut().context("a Deployment's containers")?;
    for container in containers {
        let mut set = |name: &str, value: &str| {
            let variable = json!({"name": name, "value": value});
            match container["env"].as_array_mut() {
                Some(env) => {
                    env.retain(|given| given["name"] != name);
                    env.push(variable);
                }
                None => container["env"] = json!([variable]),
            }
        };
        for (name, value) in install.env {
            set(name, value);
        }
        // v0 has a place where an operator may say that it is not to be upgraded now.
        if install.rules == Rules::V0 {
            set("OPERATOR_CONDITION_NAME", csv["name"].as_str().unwrap_or_default());
        }
    }
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": given["name"], "labels": given["label"]},
        "spec": spec,
    });
    Ok(in_namespace(object, install.namespace))
}
