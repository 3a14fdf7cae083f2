//! What the operator would apply, compared with golden files.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeSet;

use antrea_crds::AntreaInstallationSpec;
use antrea_operator::{
    effective::{Facts, RelatedImages, ServiceRange},
    object::{Object, Stage},
    render::{self, monitoring::Served, render},
};
use k8s_openapi::{
    api::{
        admissionregistration::v1::{
            MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
            ValidatingWebhookConfiguration,
        },
        apps::v1::{DaemonSet, Deployment},
        core::v1::{ConfigMap, Service, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

fn range(object: &str, cidr: &str) -> ServiceRange {
    ServiceRange { object: object.into(), cidr: cidr.parse().unwrap() }
}

fn facts() -> Facts {
    Facts {
        default_version: "v0.1.0".into(),
        service_cidrs: vec![range("kubernetes", "10.96.0.0/12")],
        ..Facts::default()
    }
}

fn spec(value: Value) -> AntreaInstallationSpec {
    serde_json::from_value(value).unwrap()
}

fn find<'a>(objects: &'a [Object], kind: &str, name: &str) -> &'a Object {
    objects.iter().find(|object| object.kind.kind == kind && object.name == name).unwrap()
}

fn yaml(objects: &[&Object]) -> String {
    objects.iter().map(|object| format!("---\n{}", serde_saphyr::to_string(&object.body).unwrap())).collect()
}

/// One golden file per stage, for the empty spec. The CRDs have golden files of their own.
#[test]
fn an_empty_spec() {
    let objects = render(&AntreaInstallationSpec::default(), &facts()).unwrap();
    for (name, stage) in [("base", Stage::Base), ("controller", Stage::Controller), ("agents", Stage::Agents)]
    {
        let of_stage: Vec<&Object> = objects.iter().filter(|object| object.kind.stage == stage).collect();
        insta::assert_snapshot!(format!("empty_{name}"), yaml(&of_stage));
    }
}

/// Everything set: the objects that say something about it.
#[test]
fn a_full_spec() {
    let spec = spec(json!({
        "version": "v1.2.3",
        "images": {
            "registry": "registry.example.com/mirror", "pullPolicy": "Always", "pullSecrets": [{"name": "pull"}],
            "controller": {"digest": format!("sha256:{}", "0".repeat(64))},
        },
        "trafficEncapMode": "Hybrid", "tunnelType": "VXLAN", "tunnelPort": 8472, "mtu": 1400,
        "serviceCIDRs": ["10.96.0.0/12", "fd00:96::/112"],
        "podCIDRs": {"source": "NodeSpec", "cluster": ["10.244.0.0/16", "fd00:244::/56"]},
        "ovs": {"datapath": "Userspace", "bridge": "br-pods", "gateway": "pods0", "resources": {"limits": {"memory": "1Gi"}}},
        "kubeAPIServerOverride": "https://172.30.0.1:6443",
        "logLevel": "Debug", "logFormat": "JSON",
        "auditLogging": {"maxSize": 100, "maxBackups": 0, "compress": false},
        "fqdnCacheMinTTL": 30,
        "tracing": {"otlpEndpoint": "http://192.0.2.10:4317"},
        "tls": {
            "minVersion": "VersionTLS13", "cipherSuites": ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"],
            "controllerCertificateSecret": "antrea-serving",
        },
        "featureGates": {"AntreaPolicy": true, "NetworkPolicyStats": false},
        "agent": {
            "resources": {"requests": {"cpu": 1, "memory": "128Mi"}}, "nodeSelector": {"pool": "a"},
            "tolerations": [{"key": "a", "operator": "Equal", "value": "b", "effect": "NoSchedule"}],
            "priorityClassName": "high",
        },
        "controller": {"logLevel": "Error", "tolerations": []},
        "monitoring": {"metrics": false},
    }));
    let objects = render(&spec, &facts()).unwrap();
    let telling = [
        find(&objects, "ConfigMap", "antrea-config"),
        find(&objects, "Deployment", "antrea-controller"),
        find(&objects, "DaemonSet", "antrea-agent"),
    ];
    insta::assert_snapshot!("full", yaml(&telling));
}

/// A key that the API does not know would be dropped in silence by a real API server; here it shows.
#[test]
fn every_object_is_what_its_kind_says() {
    fn same<K: DeserializeOwned + Serialize>(body: &Value) {
        let typed: K = serde_json::from_value(body.clone()).unwrap();
        let again = serde_json::to_value(typed).unwrap();
        assert_eq!(&again, body, "a field was lost or made up");
    }
    for object in render(&AntreaInstallationSpec::default(), &facts()).unwrap() {
        let body = &object.body;
        match object.kind.kind {
            "CustomResourceDefinition" => same::<CustomResourceDefinition>(body),
            "ServiceAccount" => same::<ServiceAccount>(body),
            "ValidatingAdmissionPolicy" => same::<ValidatingAdmissionPolicy>(body),
            "ValidatingAdmissionPolicyBinding" => same::<ValidatingAdmissionPolicyBinding>(body),
            "ClusterRole" => same::<ClusterRole>(body),
            "ClusterRoleBinding" => same::<ClusterRoleBinding>(body),
            "Role" => same::<Role>(body),
            "RoleBinding" => same::<RoleBinding>(body),
            "ConfigMap" => same::<ConfigMap>(body),
            "Service" => same::<Service>(body),
            "APIService" => same::<APIService>(body),
            "MutatingWebhookConfiguration" => same::<MutatingWebhookConfiguration>(body),
            "ValidatingWebhookConfiguration" => same::<ValidatingWebhookConfiguration>(body),
            "Deployment" => same::<Deployment>(body),
            "DaemonSet" => same::<DaemonSet>(body),
            other => panic!("no check for {other}"),
        }
    }
}

#[test]
fn every_object_is_owned_and_named_once_and_stages_are_in_order() {
    let objects = render(&AntreaInstallationSpec::default(), &facts()).unwrap();
    let mut keys = BTreeSet::new();
    for object in &objects {
        let labels = &object.body["metadata"]["labels"];
        assert_eq!(labels["operator.antrea.io/installation"], "default", "{}", object.key());
        assert!(keys.insert(object.key()), "{} twice", object.key());
    }
    assert!(objects.windows(2).all(|pair| pair[0].kind.stage <= pair[1].kind.stage));
}

/// Only what a Pod reads at start may restart it.
#[test]
fn pods_restart_only_for_what_they_read() {
    let revisions = |value: Value| {
        let objects = render(&spec(value), &facts()).unwrap();
        [("DaemonSet", "antrea-agent"), ("Deployment", "antrea-controller")]
            .map(|(kind, name)| render::revision(find(&objects, kind, name)).unwrap().to_owned())
    };
    let base = revisions(json!({}));
    let mtu = revisions(json!({"mtu": 1400}));
    assert!(base[0] != mtu[0] && base[1] == mtu[1], "the controller does not read the MTU");
    let gates = revisions(json!({"controller": {"priorityClassName": "high"}}));
    assert!(base[0] == gates[0] && base[1] != gates[1]);
    let tracing = revisions(json!({"tracing": {"otlpEndpoint": "http://192.0.2.10"}}));
    assert!(base[0] != tracing[0] && base[1] != tracing[1]);
    let tls = revisions(json!({"tls": {"minVersion": "VersionTLS13"}}));
    assert!(base[0] != tls[0] && base[1] != tls[1]);
    let secret = revisions(json!({"tls": {"controllerCertificateSecret": "mine"}}));
    assert!(base[0] == secret[0] && base[1] != secret[1], "agents do not read the controller's certificate");
    assert_eq!(base, revisions(json!({"monitoring": {"labels": {"a": "b"}}})));
    assert_eq!(
        base,
        revisions(json!({"trafficEncapMode": "Encap"})),
        "a default that is spelt out is no change"
    );
}

/// Upstream's keys hold one range per IP family; the others must not be lost, nor take the first one's place.
#[test]
fn every_service_range_reaches_the_agents() {
    let conf = |ranges: &[(&str, &str)]| {
        let service_cidrs = ranges.iter().map(|(name, cidr)| range(name, cidr)).collect();
        let objects = render(&spec(json!({})), &Facts { service_cidrs, ..facts() }).unwrap();
        let data = &find(&objects, "ConfigMap", "antrea-config").body["data"];
        let conf: Value = serde_saphyr::from_str(data["antrea-agent.conf"].as_str().unwrap()).unwrap();
        ["serviceCIDR", "serviceCIDRv6", "additionalServiceCIDRs"].map(|key| conf[key].clone())
    };
    let first = ("kubernetes", "10.96.0.0/12");
    assert_eq!(conf(&[first]), [json!("10.96.0.0/12"), Value::Null, Value::Null]);
    assert_eq!(
        conf(&[first, ("a", "10.112.0.0/16"), ("b", "fd00::/112"), ("c", "fd01::/112")]),
        [json!("10.96.0.0/12"), json!("fd00::/112"), json!(["10.112.0.0/16", "fd01::/112"])]
    );
}

#[test]
fn the_transport_link_reaches_the_agents() {
    let conf = |value: Value| {
        let objects = render(&spec(value), &facts()).unwrap();
        let data = &find(&objects, "ConfigMap", "antrea-config").body["data"];
        let conf: Value = serde_saphyr::from_str(data["antrea-agent.conf"].as_str().unwrap()).unwrap();
        ["transportInterface", "transportInterfaceCIDRs"].map(|key| conf[key].clone())
    };
    assert_eq!(conf(json!({})), [Value::Null, Value::Null]);
    assert_eq!(conf(json!({"transportInterface": "eth1"})), [json!("eth1"), Value::Null]);
    let cidrs = json!(["192.0.2.0/24", "2001:db8::/64"]);
    assert_eq!(conf(json!({"transportInterfaceCIDRs": cidrs})), [Value::Null, cidrs]);
}

/// Whoever captures packets reads what Pods say: only for those who ask for it.
#[test]
fn captures_are_read_where_they_are_wanted() {
    for (on, role) in [(false, "antrea-agent"), (true, "antrea-agent"), (true, "antrea-controller")] {
        let objects = render(&spec(json!({"featureGates": {"PacketCapture": on}})), &facts()).unwrap();
        let rules = find(&objects, "ClusterRole", role).body["rules"].to_string();
        assert_eq!(rules.contains("packetcaptures"), on, "{role}");
    }
}

/// The CRD cannot read the list of gates that the components go by.
#[test]
fn the_definition_knows_the_gates() {
    use antrea_api::features::{GATES, check};
    let names: Vec<&str> = GATES.iter().map(|gate| gate.name).collect();
    assert_eq!(antrea_crds::installation::KNOWN_GATES, names);
    let on: Vec<&str> = names.into_iter().filter(|name| check(name, true).is_ok()).collect();
    assert_eq!(antrea_crds::installation::IMPLEMENTED_GATES, on);
}

/// Agents and controller follow the level in their file; the files must say it.
#[test]
fn a_log_level_restarts_nothing() {
    let rendered = |value: Value| render(&spec(value), &facts()).unwrap();
    let base = rendered(json!({}));
    for (value, levels) in [
        (json!({"logLevel": "Debug"}), ["debug", "debug"]),
        (json!({"agent": {"logLevel": "Trace"}, "controller": {"logLevel": "Error"}}), ["trace", "error"]),
    ] {
        let changed = rendered(value);
        for (was, is) in base.iter().zip(&changed).filter(|(was, is)| was.body != is.body) {
            assert_eq!(was.key(), is.key());
            assert_eq!(is.key().to_string(), "ConfigMap kube-system/antrea-config");
        }
        let data = &find(&changed, "ConfigMap", "antrea-config").body["data"];
        for (file, level) in ["antrea-agent.conf", "antrea-controller.conf"].iter().zip(levels) {
            let conf: Value = serde_saphyr::from_str(data[*file].as_str().unwrap()).unwrap();
            assert_eq!(conf["logLevel"], level, "{file}");
        }
    }
}

#[test]
fn every_image_can_be_mirrored() {
    let related =
        RelatedImages { agent: Some("q.io/a@sha256:1".into()), controller: Some("q.io/c@sha256:2".into()) };
    let facts = Facts { related, ..facts() };
    for value in [json!({}), json!({"images": {"registry": "mirror.local"}})] {
        let config = antrea_operator::effective::effective(&spec(value), &facts).unwrap();
        let listed = render::images(&config);
        let text =
            yaml(&render::objects(&config, &render::Surroundings::default()).iter().collect::<Vec<_>>());
        let used: BTreeSet<String> = text
            .lines()
            .filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix("image: "))
            .map(|image| image.trim_matches('"').to_owned())
            .collect();
        assert_eq!(used.into_iter().collect::<Vec<_>>(), listed);
    }
}

/// What cleans Nodes, for a configuration that says something about it.
#[test]
fn the_clean_up_of_nodes() {
    let spec = spec(json!({
        "ovs": {"bridge": "br-pods"}, "agent": {"nodeSelector": {"pool": "a"}, "priorityClassName": "high"},
    }));
    let object = render::cleanup(
        &antrea_operator::effective::effective(&spec, &facts()).unwrap(),
        &render::Surroundings::default(),
    );
    insta::assert_snapshot!("cleanup", yaml(&[&object]));
    let pod = &object.body["spec"]["template"]["spec"];
    let agent = render(&spec, &facts()).unwrap();
    let agent = &find(&agent, "DaemonSet", "antrea-agent").body["spec"]["template"]["spec"];
    for same in ["nodeSelector", "tolerations", "priorityClassName", "serviceAccountName"] {
        assert_eq!(pod[same], agent[same], "{same}: it runs where agents ran");
    }
}

/// Nothing on a Node is privileged, and every capability is one that somebody has thought about.
#[test]
fn containers_have_what_they_use_and_no_more() {
    let objects = render(&AntreaInstallationSpec::default(), &facts()).unwrap();
    let pod = &find(&objects, "DaemonSet", "antrea-agent").body["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    assert!(pod.get("hostPID").is_none() && pod.get("hostIPC").is_none());
    let containers =
        ["initContainers", "containers"].map(|list| pod[list].as_array().unwrap().clone()).concat();
    assert_eq!(containers.len(), 3);
    for container in &containers {
        let context = &container["securityContext"];
        assert!(context.get("privileged").is_none(), "{container}");
        assert_eq!(context["readOnlyRootFilesystem"], true, "{container}");
        assert_eq!(context["allowPrivilegeEscalation"], false, "{container}");
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{container}");
        let runs_on = pod["containers"].as_array().unwrap().contains(container);
        let loads = context["capabilities"]["add"].as_array().unwrap().contains(&json!("SYS_MODULE"));
        assert!(!(runs_on && loads), "a container that goes on running may load modules: {container}");
    }
    // Of /proc only the network's parameters are the Node's.
    let volumes = pod["volumes"].as_array().unwrap();
    let paths: Vec<&str> = volumes.iter().filter_map(|volume| volume["hostPath"]["path"].as_str()).collect();
    assert!(!paths.iter().any(|path| matches!(*path, "/" | "/proc" | "/sys" | "/dev" | "/var/run" | "/run")));
    assert!(paths.contains(&"/proc/sys/net"));
}

/// No component may do everything, read every Secret or make itself more powerful.
#[test]
fn roles_are_narrow() {
    for object in render(&AntreaInstallationSpec::default(), &facts()).unwrap() {
        let Some(rules) = object.body.get("rules").and_then(Value::as_array) else { continue };
        for rule in rules {
            let text = rule.to_string();
            assert!(!text.contains("\"*\""), "{}: {text}", object.key());
            assert!(
                !text.contains("escalate") && !text.contains("bind\"") && !text.contains("impersonate"),
                "{text}"
            );
            let resources = rule["resources"].as_array();
            assert!(resources.is_some() || rule["nonResourceURLs"].is_array(), "{text}");
            if resources.is_some_and(|resources| resources.contains(&json!("secrets"))) {
                assert_eq!(object.kind.kind, "Role", "Secrets are read in one namespace only");
                assert!(rule.get("resourceNames").is_some() || rule["verbs"] == json!(["create"]), "{text}");
            }
        }
    }
}

/// Whether the API server would let a user change the AntreaAgentInfo of "node1", by the rendered policy.
fn may_change_info(username: &str, extra: &Value) -> bool {
    use kube_cel::{
        KubeCelExt,
        cel::{Context, Program, Value as Cel},
    };
    let objects = render(&AntreaInstallationSpec::default(), &facts()).unwrap();
    let policy = &find(&objects, "ValidatingAdmissionPolicy", "antrea-agent-info").body["spec"];
    let mut context = Context::default().with_all();
    let request = json!({"userInfo": {"username": username, "extra": extra}});
    context.add_variable("request", &request).unwrap();
    context.add_variable("object", json!({"metadata": {"name": "node1"}})).unwrap();
    let holds = |rule: &Value| {
        let program = Program::compile(rule["expression"].as_str().unwrap()).unwrap();
        // With failurePolicy Fail an error is a refusal.
        program.execute(&context) == Ok(Cel::Bool(true))
    };
    assert_eq!(policy["failurePolicy"], "Fail");
    let applies = policy["matchConditions"].as_array().unwrap().iter().all(holds);
    !applies || policy["validations"].as_array().unwrap().iter().all(holds)
}

/// A stolen token of one Node's agent must not speak for another Node.
#[test]
fn an_agent_changes_its_own_info_only() {
    let agent = "system:serviceaccount:kube-system:antrea-agent";
    let on = |node: &str| json!({"authentication.kubernetes.io/node-name": [node], "other": ["x"]});
    assert!(may_change_info(agent, &on("node1")));
    assert!(!may_change_info(agent, &on("node2")));
    assert!(!may_change_info(agent, &json!({})), "a token that is bound to no Node");
    assert!(!may_change_info(agent, &json!({"authentication.kubernetes.io/node-name": []})));
    assert!(may_change_info("system:serviceaccount:kube-system:antrea-controller", &json!({})));
    let objects = render(&AntreaInstallationSpec::default(), &facts()).unwrap();
    let policy = &find(&objects, "ValidatingAdmissionPolicy", "antrea-agent-info").body["spec"];
    let rule = &policy["matchConstraints"]["resourceRules"][0];
    assert_eq!(rule["resources"], json!(["antreaagentinfos"]));
    let binding = &find(&objects, "ValidatingAdmissionPolicyBinding", "antrea-agent-info").body["spec"];
    assert_eq!(*binding, json!({"policyName": "antrea-agent-info", "validationActions": ["Deny"]}));
}

/// Held while images change; it takes nothing, may do nothing and needs no network of ours.
#[test]
fn the_images_of_a_change() {
    let spec = spec(json!({"version": "v1.2.3", "images": {"pullSecrets": [{"name": "mirror"}]}}));
    let object = render::preflight(&antrea_operator::effective::effective(&spec, &facts()).unwrap());
    insta::assert_snapshot!("preflight", yaml(&[&object]));
    let _: DaemonSet = serde_json::from_value(object.body).unwrap();
}

fn monitoring(value: Value, served: bool) -> Vec<Object> {
    let config = antrea_operator::effective::effective(&spec(value), &facts()).unwrap();
    let served = Served { service_monitors: served, prometheus_rules: served };
    render::monitoring::objects(&config, served, "antrea-operator")
}

fn keys(objects: &[Object]) -> Vec<String> {
    objects.iter().map(|object| object.key().to_string()).collect()
}

/// The boards' and the rules' own content has tests in crates/dashboards.
#[test]
fn monitoring_objects() {
    let mut objects = monitoring(json!({}), true);
    for object in &mut objects {
        if let Some(data) = object.body.get_mut("data") {
            data.as_object_mut().unwrap().values_mut().for_each(|value| *value = "(a board)".into());
        }
        if let Some(groups) = object.body.pointer_mut("/spec/groups") {
            *groups = "(rules)".into();
        }
        // Hash of what was taken out.
        object.body["metadata"]["annotations"]
            .as_object_mut()
            .unwrap()
            .remove("operator.antrea.io/applied-hash");
    }
    insta::assert_snapshot!("monitoring", yaml(&objects.iter().collect::<Vec<_>>()));
}

#[test]
fn monitoring_objects_are_made_only_where_they_are_wanted_and_known() {
    let boards = 7;
    assert_eq!(monitoring(json!({}), false).len(), boards, "no Prometheus operator");
    assert_eq!(monitoring(json!({}), true).len(), boards + 1 + 3 + 1);
    let without = |field: &str| keys(&monitoring(json!({"monitoring": {field: false}}), true));
    assert!(without("metrics").is_empty());
    assert!(!without("dashboards").iter().any(|key| key.starts_with("ConfigMap")));
    assert!(!without("alerts").iter().any(|key| key.starts_with("PrometheusRule")));
    let monitors = without("serviceMonitors");
    assert!(!monitors.iter().any(|key| key.starts_with("Service")), "{monitors:?}");
}

#[test]
fn monitoring_objects_go_where_and_are_marked_as_told() {
    let objects = monitoring(
        json!({"monitoring": {
            "namespace": "observability", "labels": {"release": "prometheus", "grafana_dashboard": "yes"},
            "annotations": {"grafana_folder": "Network"}, "runbookURL": "https://wiki.example.com/antrea/",
        }}),
        true,
    );
    for object in &objects {
        assert!(render::monitoring::is_monitoring(&object.key()), "{}", object.key());
        if object.name == "antrea-agent-metrics" {
            assert_eq!(object.key().namespace, "kube-system", "a Service is beside its Pods");
            continue;
        }
        let metadata = &object.body["metadata"];
        assert_eq!(metadata["namespace"], "observability", "{}", object.key());
        assert_eq!(metadata["labels"]["release"], "prometheus");
        assert_eq!(metadata["labels"]["grafana_dashboard"], "yes");
        assert_eq!(metadata["annotations"]["grafana_folder"], "Network");
        if object.kind.kind == "ServiceMonitor" {
            // The ConfigMaps with the CAs are elsewhere.
            let tls = &object.body["spec"]["endpoints"][0]["tlsConfig"];
            assert_eq!(*tls, json!({"insecureSkipVerify": true}), "{}", object.key());
        }
    }
    let rule = find(&objects, "PrometheusRule", "antrea");
    let url = rule.body.pointer("/spec/groups/0/rules/0/annotations/runbook_url").unwrap();
    assert_eq!(url, "https://wiki.example.com/antrea/AntreaAgentDown.md");
}

/// The two sets are applied apart; what is in one must not be taken for unwanted by the other.
#[test]
fn no_object_of_the_network_is_one_for_others() {
    for object in render(&AntreaInstallationSpec::default(), &facts()).unwrap() {
        assert!(!render::is_extra(&object.key()), "{}", object.key());
    }
}

/// Every Pod that the operator makes, those that only hold images or clean Nodes too, pulls from where it is told to:
/// else it does not start in a cluster without a way out.
#[test]
fn where_images_come_from_reaches_every_pod() {
    let digest = format!("sha256:{}", "1".repeat(64));
    let spec = spec(json!({"images": {
        "registry": "mirror.example.com/x", "pullPolicy": "Always", "pullSecrets": [{"name": "one"}, {"name": "two"}],
        "controller": {"repository": "other.example.com/controller", "digest": digest},
    }}));
    let config = antrea_operator::effective::effective(&spec, &facts()).unwrap();
    let around = render::Surroundings::default();
    let mut objects = render::objects(&config, &around);
    objects.extend([render::preflight(&config), render::cleanup(&config, &around)]);
    let agent = "mirror.example.com/x/antrea/antrea-agent:v0.1.0".to_owned();
    let controller = format!("other.example.com/controller@{digest}");
    let (mut pods, mut used) = (0, BTreeSet::new());
    for object in objects {
        let pod = &object.body["spec"]["template"]["spec"];
        if !pod.is_object() {
            continue;
        }
        pods += 1;
        assert_eq!(pod["imagePullSecrets"], json!([{"name": "one"}, {"name": "two"}]), "{}", object.key());
        for list in ["initContainers", "containers"] {
            for container in pod[list].as_array().into_iter().flatten() {
                assert_eq!(container["imagePullPolicy"], "Always", "{}", object.key());
                used.insert(container["image"].as_str().unwrap().to_owned());
            }
        }
    }
    assert_eq!(pods, 4, "controller, agents, and the Pods that hold images and clean");
    assert_eq!(used, BTreeSet::from([agent, controller]));
    assert_eq!(used.into_iter().collect::<Vec<_>>(), render::images(&config), "what `images list` prints");
}
