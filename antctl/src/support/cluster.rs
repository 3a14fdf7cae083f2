//! What the API server knows of the installation.

use antrea_runtime::redact::{REDACTED, redact};
use http::Method;
use serde_json::Value;

use crate::{
    agents::namespace,
    connect::{Clients, Server},
    told,
};

/// Sections of the file, as YAML documents. A section that cannot be had says why.
pub(super) async fn text(clients: &Clients) -> anyhow::Result<String> {
    let cluster = clients.cluster().await?;
    let namespace = namespace(clients).await;
    let of_antrea = |kind: &str| format!("{kind}?labelSelector=app%3Dantrea");
    let core = format!("/api/v1/namespaces/{namespace}");
    let apps = format!("/apis/apps/v1/namespaces/{namespace}");
    let sections = [
        ("version", "/version".to_owned()),
        ("nodes", "/api/v1/nodes".to_owned()),
        ("deployments", of_antrea(&format!("{apps}/deployments"))),
        ("daemonsets", of_antrea(&format!("{apps}/daemonsets"))),
        ("pods", of_antrea(&format!("{core}/pods"))),
        ("configuration", format!("{core}/configmaps/antrea-config")),
        ("installation", "/apis/operator.antrea.io/v1alpha1/antreainstallations".to_owned()),
        ("agents", "/apis/crd.antrea.io/v1beta1/antreaagentinfos".to_owned()),
        ("controller", "/apis/crd.antrea.io/v1beta1/antreacontrollerinfos".to_owned()),
    ];
    let mut text = String::new();
    for (name, path) in sections {
        text.push_str(&format!("---\n# {name}: {path}\n"));
        match section(&cluster, &path).await {
            Ok(section) => text.push_str(&redact(&section)),
            Err(error) => text.push_str(&redact(&format!("error: {}\n", told(&error)))),
        }
    }
    Ok(text)
}

async fn section(cluster: &Server, path: &str) -> anyhow::Result<String> {
    let mut value: Value = serde_json::from_str(&cluster.ask(Method::GET, path).await?)?;
    prune(&mut value);
    let mut text = serde_saphyr::to_string(&value)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Takes out what may hold secrets under any name, and what only makes it long.
pub(super) fn prune(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(prune),
        Value::Object(map) => {
            map.remove("managedFields");
            if let Some(Value::Object(annotations)) = map.get_mut("annotations") {
                annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
            }
            for variable in map.get_mut("env").and_then(Value::as_array_mut).into_iter().flatten() {
                if let Some(value) = variable.get_mut("value") {
                    *value = REDACTED.into();
                }
            }
            map.values_mut().for_each(prune);
        }
        _ => {}
    }
}
