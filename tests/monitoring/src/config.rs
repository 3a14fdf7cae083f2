//! From ServiceMonitors to the configuration of Prometheus, by the rules of Prometheus's operator.
//!
//! Only what the shipped ServiceMonitors use is understood; anything else is an error, so that a new field
//! cannot be left untested.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::discover::{Cluster, sanitized};

/// Where Prometheus's own ServiceAccount token is in its Pod.
const TOKEN_IN_POD: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// What a Prometheus outside of the cluster needs to take the place of one inside.
#[derive(clap::Args)]
pub(crate) struct Setup {
    /// `kubectl get services,endpointslices,pods -A -o json`.
    #[arg(long)]
    cluster: PathBuf,
    /// Token of the ServiceAccount.
    #[arg(long)]
    token: PathBuf,
    /// Folder with keys of ConfigMaps as files: NAMESPACE_NAME_KEY.
    #[arg(long)]
    config_maps: PathBuf,
    /// File with alerting rules.
    #[arg(long)]
    rules: PathBuf,
    /// Seconds between scrapes.
    #[arg(long, default_value_t = 5)]
    interval: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    items: Vec<ServiceMonitor>,
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(rename = "metadata")]
    _metadata: Value,
}

#[derive(Deserialize)]
struct ServiceMonitor {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    namespace: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    job_label: String,
    selector: Selector,
    namespace_selector: NamespaceSelector,
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    match_labels: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NamespaceSelector {
    match_names: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Endpoint {
    port: String,
    path: String,
    scheme: String,
    bearer_token_file: String,
    tls_config: TlsConfig,
    relabelings: Vec<Relabeling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TlsConfig {
    ca: Option<Source>,
    server_name: Option<String>,
    #[serde(default)]
    insecure_skip_verify: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Source {
    config_map: KeyOf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyOf {
    name: String,
    key: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Relabeling {
    action: String,
    source_labels: Vec<String>,
    target_label: String,
}

/// The configuration, which is JSON and thereby YAML.
///
/// # Errors
/// A ServiceMonitor that has what is not understood, or names a ConfigMap that is not there.
pub(crate) fn prometheus(list: &Value, setup: &Setup) -> Result<Value> {
    let list: List = serde_json::from_value(list.clone()).context("list of ServiceMonitors")?;
    ensure!(!list.items.is_empty(), "there is no ServiceMonitor");
    let text =
        fs::read_to_string(&setup.cluster).with_context(|| format!("read {}", setup.cluster.display()))?;
    let cluster: Cluster =
        serde_json::from_str(&text).with_context(|| format!("parse {}", setup.cluster.display()))?;
    let mut jobs = Vec::new();
    for monitor in &list.items {
        let name = format!("{}/{}", monitor.metadata.namespace, monitor.metadata.name);
        for (index, endpoint) in monitor.spec.endpoints.iter().enumerate() {
            jobs.push(
                job(&format!("serviceMonitor/{name}/{index}"), monitor, endpoint, &cluster, setup)
                    .with_context(|| format!("ServiceMonitor {name}"))?,
            );
        }
    }
    let interval = format!("{}s", setup.interval);
    Ok(json!({
        "global": {"scrape_interval": interval, "evaluation_interval": interval, "scrape_timeout": interval},
        "rule_files": [setup.rules],
        "scrape_configs": jobs,
    }))
}

fn job(
    name: &str,
    monitor: &ServiceMonitor,
    endpoint: &Endpoint,
    cluster: &Cluster,
    setup: &Setup,
) -> Result<Value> {
    if endpoint.bearer_token_file != TOKEN_IN_POD {
        bail!(
            "bearerTokenFile: {} is not the token of Prometheus's own ServiceAccount",
            endpoint.bearer_token_file
        );
    }
    let mut tls = json!({"insecure_skip_verify": endpoint.tls_config.insecure_skip_verify});
    if let Some(Source { config_map }) = &endpoint.tls_config.ca {
        // As Prometheus's operator has it: of the ServiceMonitor's own namespace.
        let file = format!("{}_{}_{}", monitor.metadata.namespace, config_map.name, config_map.key);
        let path = setup.config_maps.join(&file);
        ensure!(path.exists(), "tlsConfig.ca: ConfigMap key {file} is not there");
        tls["ca_file"] = json!(path);
    }
    if let Some(server_name) = &endpoint.tls_config.server_name {
        tls["server_name"] = json!(server_name);
    }
    Ok(json!({
        "job_name": name,
        "honor_timestamps": true,
        "metrics_path": endpoint.path,
        "scheme": endpoint.scheme,
        "authorization": {"type": "Bearer", "credentials_file": setup.token},
        "tls_config": tls,
        "static_configs": cluster.targets(&monitor.spec.namespace_selector.match_names)?,
        "relabel_configs": relabelings(monitor, endpoint),
    }))
}

fn relabelings(monitor: &ServiceMonitor, endpoint: &Endpoint) -> Vec<Value> {
    let mut made = Vec::new();
    for (label, value) in &monitor.spec.selector.match_labels {
        let label = sanitized(label);
        made.push(json!({
            "action": "keep",
            "source_labels": [
                format!("__meta_kubernetes_service_label_{label}"),
                format!("__meta_kubernetes_service_labelpresent_{label}"),
            ],
            "regex": format!("({value});true"),
        }));
    }
    made.push(json!({
        "action": "keep",
        "source_labels": ["__meta_kubernetes_endpointslice_port_name"],
        "regex": endpoint.port,
    }));
    for (source, target) in [
        ("__meta_kubernetes_namespace", "namespace"),
        ("__meta_kubernetes_service_name", "service"),
        ("__meta_kubernetes_pod_name", "pod"),
        ("__meta_kubernetes_pod_container_name", "container"),
        ("__meta_kubernetes_service_name", "job"),
    ] {
        made.push(json!({"source_labels": [source], "target_label": target}));
    }
    made.push(json!({
        "action": "drop",
        "source_labels": ["__meta_kubernetes_pod_phase"],
        "regex": "(Failed|Succeeded)",
    }));
    made.push(json!({
        "source_labels": [format!("__meta_kubernetes_service_label_{}", sanitized(&monitor.spec.job_label))],
        "target_label": "job",
        "regex": "(.+)",
        "replacement": "${1}",
    }));
    made.push(json!({"target_label": "endpoint", "replacement": endpoint.port}));
    made.extend(endpoint.relabelings.iter().map(|own| {
        json!({"action": own.action, "source_labels": own.source_labels, "target_label": own.target_label})
    }));
    made
}

#[cfg(test)]
mod tests {
    use antrea_operator::{
        effective::{Facts, effective},
        render::monitoring::{Served, objects},
    };

    use super::*;

    fn setup(config_maps: PathBuf) -> Setup {
        Setup {
            cluster: config_maps.join("cluster"),
            token: "/token".into(),
            config_maps,
            rules: "/rules".into(),
            interval: 5,
        }
    }

    /// What the operator would make.
    fn shipped() -> Value {
        let facts = Facts { default_version: "v1".into(), ..Facts::default() };
        let config = effective(&antrea_crds::AntreaInstallationSpec::default(), &facts).unwrap();
        let served = Served { service_monitors: true, prometheus_rules: true };
        let made = objects(&config, served, "antrea-operator");
        let monitors = made.iter().filter(|object| object.kind.kind == "ServiceMonitor");
        json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": monitors.map(|o| &o.body).collect::<Vec<_>>()})
    }

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("antrea-monitoring-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("cluster"), r#"{"items": []}"#).unwrap();
        for file in ["kube-system_antrea-ca_ca.crt", "antrea-operator_antrea-operator-ca_ca.crt"] {
            fs::write(folder.join(file), "").unwrap();
        }
        folder
    }

    #[test]
    fn what_is_shipped_is_understood_whole() {
        let folder = folder("good");
        let made = prometheus(&shipped(), &setup(folder.clone())).unwrap();
        fs::remove_dir_all(&folder).unwrap();
        let jobs = made["scrape_configs"].as_array().unwrap();
        assert_eq!(jobs.len(), 3);
        let job =
            |name: &str| jobs.iter().find(|job| job["job_name"].as_str().unwrap().contains(name)).unwrap();
        let controller = &job("antrea-controller")["tls_config"];
        assert_eq!(controller["insecure_skip_verify"], false);
        assert_eq!(controller["server_name"], "antrea.kube-system.svc");
        assert_eq!(job("antrea-agent")["tls_config"], json!({"insecure_skip_verify": true}));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        let folder = folder("bad");
        fs::remove_file(folder.join("kube-system_antrea-ca_ca.crt")).unwrap();
        let setup = setup(folder.clone());
        let error = prometheus(&shipped(), &setup).unwrap_err();
        assert!(format!("{error:#}").contains("is not there"), "{error:#}");
        let mut list = shipped();
        list["items"][0]["spec"]["endpoints"][0]["metricRelabelings"] = json!([]);
        let error = prometheus(&list, &setup).unwrap_err();
        assert!(format!("{error:#}").contains("metricRelabelings"), "{error:#}");
        list["items"] = json!([]);
        assert!(prometheus(&list, &setup).is_err());
        fs::remove_dir_all(&folder).unwrap();
    }
}
