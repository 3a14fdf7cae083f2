//! Schemas and CEL rules as an API server would judge them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use antrea_crds::AntreaInstallation;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};

fn schema_of(crd: &CustomResourceDefinition) -> Value {
    serde_json::to_value(crd).unwrap().pointer("/spec/versions/0/schema/openAPIV3Schema").unwrap().clone()
}

/// Messages of the CEL rules that `spec` breaks, joined.
fn broken(spec: Value) -> String {
    let object = json!({
        "apiVersion": "operator.antrea.io/v1alpha1", "kind": "AntreaInstallation",
        "metadata": {"name": "default"}, "spec": spec,
    });
    broken_object(&object)
}

fn broken_object(object: &Value) -> String {
    let schema = schema_of(&antrea_crds::installation_crd());
    match kube_cel::Validator::new().validate(&schema, object, None) {
        Ok(()) => String::new(),
        Err(errors) => errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; "),
    }
}

#[test]
fn good_specs_pass() {
    for spec in [
        json!({}),
        json!({"mtu": 0}),
        json!({"trafficEncapMode": "NoEncap"}),
        json!({"trafficEncapMode": "Hybrid", "tunnelType": "GRE"}),
        json!({"tunnelType": "VXLAN", "tunnelPort": 8472, "ovs": {"datapath": "Userspace"}}),
        json!({"featureGates": {"AntreaPolicy": true, "Egress": false}}),
        json!({"transportInterface": "eth1"}),
        json!({"transportInterfaceCIDRs": ["192.0.2.0/24", "2001:db8::/64"]}),
        json!({"proxy": {"mode": "All"}}),
        json!({"proxy": {"mode": "All", "nodePortAddresses": ["192.0.2.0/24"], "healthAddress": ""}}),
        json!({"mtu": 1400, "serviceCIDRs": ["10.96.0.0/12", "fd00:10:96::/112", "10.112.0.0/16"]}),
        json!({"ovs": {"bridge": "br-int", "gateway": "gw0"}, "podCIDRs": {"cluster": ["10.244.0.0/16"]}}),
        json!({"agent": {"tolerations": [{"operator": "Exists"}, {"key": "a", "value": "b"}]}}),
        json!({"images": {"registry": "r.example.com:5000/mirror", "agent": {"tag": "x"}}}),
        json!({"monitoring": {"metrics": false, "dashboards": true}}),
        json!({"auditLogging": {"maxSize": 1, "maxBackups": 0, "maxAge": 0, "compress": false}}),
        json!({"fqdnCacheMinTTL": 604_800}),
        json!({"tracing": {"otlpEndpoint": "http://192.0.2.10:4317", "samplingPercent": 0}}),
        json!({"tracing": {"otlpEndpoint": "http://[2001:db8::1]:4317/"}}),
        json!({"tracing": {"otlpEndpoint": "https://otlp.example.com", "caBundle": "-----BEGIN CERTIFICATE-----\n…"}}),
        json!({"monitoring": {"labels": {"release": "prometheus", "grafana_dashboard": "yes"}, "alerts": true}}),
        json!({"tls": {"minVersion": "VersionTLS13", "controllerCertificateSecret": "my-tls"}}),
        json!({"tls": {"cipherSuites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]}}),
        json!({"tls": {"minVersion": "VersionTLS13", "cipherSuites": ["TLS_AES_128_GCM_SHA256"]}}),
        json!({"ui": {"headlamp": {"namespace": "headlamp"}}, "images": {"ui": {"tag": "v1"}}}),
        json!({"rollout": {"maxUnavailable": 3, "window": {"start": "22:00", "end": "04:00"}, "acknowledge": 1}}),
    ] {
        assert_eq!(broken(spec.clone()), "", "{spec}");
    }
}

/// The example of docs/rollout.md is accepted, and each of its fields exists.
#[test]
fn the_documented_rollout_is_accepted() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rollout.md");
    let text = std::fs::read_to_string(path).unwrap();
    let example = text.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let object: Value = serde_saphyr::from_str(example).unwrap();
    assert_eq!(broken_object(&object), "");
    let known: AntreaInstallation = serde_json::from_value(object.clone()).unwrap();
    assert_eq!(serde_json::to_value(&known.spec).unwrap(), object["spec"]);
}

/// The patch of docs/ui.md is accepted, and each of its fields exists.
#[test]
fn the_documented_ui_is_accepted() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ui.md");
    let text = std::fs::read_to_string(path).unwrap();
    let patch = text.lines().find_map(|line| line.split_once("--type=merge -p '")).unwrap().1;
    let spec = serde_json::from_str::<Value>(patch.trim_end_matches('\'')).unwrap()["spec"].take();
    assert_eq!(broken(spec.clone()), "");
    let known: antrea_crds::AntreaInstallationSpec = serde_json::from_value(spec.clone()).unwrap();
    assert_eq!(serde_json::to_value(&known).unwrap(), spec);
}

#[test]
fn bad_specs_are_refused_by_a_message_that_names_the_field() {
    for (spec, field) in [
        (json!({"mtu": 100}), "spec.mtu"),
        (json!({"ui": {}}), "spec.ui: say which"),
        (json!({"serviceCIDRs": ["10.96.0.0"]}), "spec.serviceCIDRs"),
        (json!({"tracing": {"otlpEndpoint": "192.0.2.10:4317"}}), "spec.tracing.otlpEndpoint"),
        (json!({"tracing": {"otlpEndpoint": "grpc://192.0.2.10:4317"}}), "spec.tracing.otlpEndpoint"),
        (
            json!({"tracing": {"otlpEndpoint": "http://192.0.2.10:4317/v1/traces"}}),
            "spec.tracing.otlpEndpoint",
        ),
        (
            json!({"tracing": {"otlpEndpoint": "http://me:secret@192.0.2.10:4317"}}),
            "spec.tracing.otlpEndpoint",
        ),
        (json!({"tracing": {"otlpEndpoint": "http://"}}), "spec.tracing.otlpEndpoint"),
        (json!({"tracing": {"otlpEndpoint": "https://otlp", "caBundle": "none"}}), "spec.tracing.caBundle"),
        (
            json!({"tracing": {"otlpEndpoint": "http://otlp", "caBundle": "-----BEGIN CERTIFICATE-----"}}),
            "spec.tracing.caBundle",
        ),
        (json!({"serviceCIDRs": ["10.96.0.0/12", "10.97.0.0"]}), "spec.serviceCIDRs"),
        (
            json!({"trafficEncapMode": "NoEncap", "tunnelType": "VXLAN"}),
            "spec.tunnelType: there is no tunnel",
        ),
        (json!({"trafficEncapMode": "NoEncap", "tunnelPort": 4789}), "spec.tunnelPort: there is no tunnel"),
        (json!({"tunnelType": "GRE", "tunnelPort": 4789}), "spec.tunnelPort: GRE has no port"),
        (json!({"tunnelType": "Geneve", "ovs": {"datapath": "Userspace"}}), "spec.tunnelType: ovs.datapath"),
        (json!({"featureGates": {"Nonsense": false}}), "spec.featureGates: there is no such"),
        (json!({"featureGates": {"antreaPolicy": true}}), "spec.featureGates: there is no such"),
        (json!({"featureGates": {"AntreaPolicy": true, "Egress": true}}), "spec.featureGates: this version"),
        (json!({"transportInterfaceCIDRs": ["192.0.2.1"]}), "spec.transportInterfaceCIDRs: each"),
        (json!({"proxy": {"healthAddress": "0.0.0.0:10256"}}), "spec.proxy: nodePortAddresses and"),
        (
            json!({"proxy": {"mode": "Services", "nodePortAddresses": ["192.0.2.0/24"]}}),
            "spec.proxy: nodePortAddresses and",
        ),
        (
            json!({"proxy": {"mode": "All", "nodePortAddresses": ["192.0.2.1"]}}),
            "spec.proxy.nodePortAddresses: each",
        ),
        (
            json!({"transportInterface": "eth1", "transportInterfaceCIDRs": ["192.0.2.0/24"]}),
            "spec.transportInterfaceCIDRs: may not",
        ),
        (json!({"podCIDRs": {"cluster": ["10.244.0.0/16", "x"]}}), "spec.podCIDRs.cluster"),
        (json!({"ovs": {"bridge": "antrea-tun0"}}), "spec.ovs.bridge"),
        (json!({"ovs": {"gateway": "br-int"}}), "spec.ovs.gateway"),
        (json!({"ovs": {"bridge": "x", "gateway": "x"}}), "spec.ovs.gateway"),
        (json!({"images": {"registry": "https://r.example.com"}}), "spec.images.registry"),
        (json!({"images": {"agent": {"tag": "a", "digest": "sha256:00"}}}), "spec.images"),
        (json!({"agent": {"tolerations": [{"effect": "NoSchedule"}]}}), "tolerations"),
        (
            json!({"controller": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}}),
            "tolerations",
        ),
        (
            json!({"tls": {"minVersion": "VersionTLS13", "cipherSuites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]}}),
            "spec.tls.cipherSuites: names none of TLS 1.3",
        ),
        (
            json!({"tls": {"cipherSuites": ["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"]}}),
            "spec.tls.cipherSuites: names only such that need an RSA key",
        ),
        (json!({"rollout": {"window": {"start": "22:00", "end": "22:00"}}}), "spec.rollout.window"),
        (json!({"monitoring": {"metrics": false, "alerts": true}}), "spec.monitoring"),
        (json!({"monitoring": {"metrics": false, "serviceMonitors": true}}), "spec.monitoring"),
        (json!({"monitoring": {"labels": {"app": "x"}}}), "spec.monitoring.labels"),
        (
            json!({"monitoring": {"annotations": {"operator.antrea.io/applied-hash": "x"}}}),
            "spec.monitoring.annotations",
        ),
    ] {
        let message = broken(spec.clone());
        assert!(message.contains(field), "{spec} gave {message:?}");
    }
}

fn broken_trace(spec: Value) -> String {
    broken_of("Traceflow", spec)
}

fn broken_of(kind: &str, spec: Value) -> String {
    let crds = antrea_crds::operand();
    let crd = crds.iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    let version = format!("crd.antrea.io/{}", crd.spec.versions[0].name);
    let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "t"}, "spec": spec});
    let schema = schema_of(crd);
    match kube_cel::Validator::new().validate(&schema, &object, None) {
        Ok(()) => String::new(),
        Err(errors) => errors.iter().map(|error| error.message.clone()).collect::<Vec<_>>().join("; "),
    }
}

#[test]
fn traces_that_cannot_be_are_refused_by_a_message_that_names_the_field() {
    let pod = json!({"namespace": "default", "pod": "a"});
    for spec in [
        json!({"source": pod, "destination": pod}),
        json!({"source": pod, "destination": {"ip": "192.0.2.1"}, "timeout": 300}),
        json!({"source": pod, "destination": {"namespace": "x", "service": "s"},
               "packet": {"ipv6Header": {}, "transportHeader": {"tcp": {"dstPort": 80}}}}),
        json!({"source": pod, "liveTraffic": true, "droppedOnly": true}),
        json!({"destination": pod, "source": {"ip": "fd00::1"}, "liveTraffic": true}),
        json!({"destination": pod, "liveTraffic": true}),
        // As clients write what they have nothing for.
        json!({"source": {"namespace": "", "pod": "a", "ip": ""}, "destination": {"pod": "", "service": "s", "ip": ""}}),
    ] {
        assert_eq!(broken_trace(spec.clone()), "", "{spec}");
    }
    for (spec, field) in [
        (json!({"destination": pod}), "spec.source.pod"),
        (json!({"source": {"ip": "192.0.2.1"}, "destination": pod}), "spec.source.ip"),
        (
            json!({"source": {"ip": "192.0.2"}, "destination": pod, "liveTraffic": true}),
            "spec.source.ip: is no",
        ),
        (json!({"source": {"pod": "a", "ip": "192.0.2.1"}, "liveTraffic": true}), "spec.source: name"),
        (json!({"source": pod}), "spec.destination: name a pod"),
        (json!({"source": {"pod": ""}, "destination": pod}), "spec.source.pod"),
        (json!({"source": pod, "destination": {"namespace": "x"}}), "spec.destination: name a pod"),
        (json!({"source": pod, "destination": {"pod": "b", "service": "b"}}), "spec.destination: name one"),
        (json!({"source": pod, "destination": {"ip": "nonsense"}}), "spec.destination.ip"),
        (json!({"source": pod, "destination": pod, "droppedOnly": true}), "spec.droppedOnly"),
        (json!({"liveTraffic": true, "destination": {"ip": "192.0.2.1"}}), "spec: a trace of live traffic"),
        (
            json!({"source": pod, "destination": pod, "packet": {"ipHeader": {}, "ipv6Header": {}}}),
            "spec.packet",
        ),
    ] {
        let message = broken_trace(spec.clone());
        assert!(message.contains(field), "{spec} gave {message:?}");
    }
}

/// The example of docs/traceflow.md and the sample are accepted, and each of their fields exists.
#[test]
fn the_documented_traces_are_accepted() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("docs/traceflow.md")).unwrap();
    let example = text.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap().to_owned();
    let sample = std::fs::read_to_string(root.join("config/samples/traceflow.yaml")).unwrap();
    for text in [example, sample] {
        let object: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(broken_trace(object["spec"].clone()), "");
        let known: antrea_crds::Traceflow = serde_json::from_value(object.clone()).unwrap();
        assert_eq!(serde_json::to_value(&known.spec).unwrap(), object["spec"]);
    }
}

#[test]
fn captures_that_cannot_be_are_refused_by_a_message_that_names_the_field() {
    let pod = json!({"pod": {"namespace": "default", "name": "a"}});
    let with = |mut spec: Value| {
        spec["captureConfig"] = json!({"firstN": {"number": 5}});
        broken_of("PacketCapture", spec)
    };
    let packet = |packet: Value| with(json!({"source": pod, "packet": packet}));
    for spec in [
        json!({"source": pod}),
        json!({"source": pod, "destination": pod, "capturePoint": "Destination", "direction": "Both", "timeout": 300}),
        json!({"source": {"ip": "fd00::1"}, "destination": pod, "packet": {"ipFamily": "IPv6", "protocol": "udp"}}),
        json!({"source": pod, "packet": {"protocol": 132}}),
        json!({"source": pod, "packet": {"protocol": 6, "transportHeader": {"tcp": {"flags": [{"value": 2}]}}}}),
        json!({"source": pod, "packet": {"protocol": "ICMP", "transportHeader": {"icmp": {"messages": [
            {"type": 3, "code": 1}, {"type": "icmp-echo"}]}}}}),
        // As clients write what they have nothing for.
        json!({"source": pod, "destination": {}, "packet": {"ipFamily": "IPv4", "transportHeader": {}}}),
    ] {
        assert_eq!(with(spec.clone()), "", "{spec}");
    }
    for (message, field) in [
        (with(json!({})), "spec: packets are captured at a Pod"),
        (with(json!({"source": {"ip": "192.0.2.1"}, "destination": {"ip": "192.0.2.2"}})), "spec: packets"),
        (with(json!({"source": pod, "destination": {"ip": "nonsense"}})), "ip: is no"),
        (with(json!({"source": {"pod": {"name": "a"}, "ip": "192.0.2.1"}})), "name a pod or an ip"),
        (with(json!({"source": pod, "capturePoint": "Destination"})), "spec.capturePoint: Destination"),
        (with(json!({"destination": pod, "capturePoint": "Source"})), "spec.capturePoint: Source"),
        (
            with(json!({"source": pod, "fileServer": {"url": "sftp://h:22/up"}})),
            "spec.fileServer.hostPublicKey",
        ),
        (
            with(json!({"source": pod, "fileServer": {"url": "ftp://h/up", "hostPublicKey": "A"}})),
            "spec.fileServer.url",
        ),
        (packet(json!({"protocol": "GRE"})), "spec.packet.protocol"),
        (packet(json!({"protocol": 256})), "spec.packet.protocol"),
        (packet(json!({"protocol": "TCP", "transportHeader": {"udp": {}}})), "transportHeader.udp"),
        (packet(json!({"protocol": 17, "transportHeader": {"tcp": {}}})), "transportHeader.tcp"),
        (packet(json!({"protocol": "tcp", "transportHeader": {"icmp": {}}})), "transportHeader.icmp"),
        (packet(json!({"transportHeader": {"udp": {}, "tcp": {}}})), "spec.packet.transportHeader:"),
    ] {
        assert!(message.contains(field), "{field}: {message:?}");
    }
}

/// The example of docs/packetcapture.md and the sample are accepted, and each of their fields exists.
#[test]
fn the_documented_captures_are_accepted() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = std::fs::read_to_string(root.join("docs/packetcapture.md")).unwrap();
    let block = |number| text.split("```yaml\n").nth(number).unwrap().split("```").next().unwrap();
    // The second is more of the first one's spec.
    let (example, whole) = (block(1).to_owned(), format!("{}{}", block(1), block(2)));
    let sample = std::fs::read_to_string(root.join("config/samples/packetcapture.yaml")).unwrap();
    for text in [example, whole, sample] {
        let object: Value = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(broken_of("PacketCapture", object["spec"].clone()), "");
        let known: antrea_crds::PacketCapture = serde_json::from_value(object.clone()).unwrap();
        assert_eq!(serde_json::to_value(&known.spec).unwrap(), object["spec"]);
    }
}

#[test]
fn there_is_one_installation() {
    let object = json!({"metadata": {"name": "other"}, "spec": {}});
    assert!(broken_object(&object).contains("metadata.name"));
}

/// Every property that people set has a description, or `kubectl explain` shows nothing.
#[test]
fn every_field_is_described() {
    fn walk(path: &str, schema: &Value, missing: &mut Vec<String>) {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            for (name, child) in properties {
                let path = format!("{path}.{name}");
                if child.get("description").is_none() && !path.ends_with(".metadata") {
                    missing.push(path.clone());
                }
                walk(&path, child, missing);
            }
        }
        if let Some(items) = schema.get("items") {
            walk(&format!("{path}[]"), items, missing);
        }
    }
    for crd in antrea_crds::all().into_iter().chain([antrea_crds::standard_crd()]) {
        let mut missing = Vec::new();
        walk(&crd.spec.names.kind, &schema_of(&crd), &mut missing);
        missing.retain(|path| !path.ends_with(".apiVersion") && !path.ends_with(".kind"));
        assert!(missing.is_empty(), "{missing:?}");
    }
}

/// Nothing that an API server calls non-structural or warns about.
#[test]
fn schemas_are_clean() {
    fn walk(path: &str, node: &Value, found: &mut Vec<String>) {
        match node {
            Value::Object(map) => {
                for (key, child) in map {
                    let bad =
                        matches!(key.as_str(), "nullable" | "$ref" | "oneOf" | "allOf" | "const" | "$defs")
                            || key == "format" && child.as_str().is_some_and(|f| f.starts_with('u'));
                    if bad {
                        found.push(format!("{path}.{key}"));
                    }
                    walk(&format!("{path}.{key}"), child, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| walk(path, item, found)),
            _ => {}
        }
    }
    for crd in antrea_crds::all().into_iter().chain([antrea_crds::standard_crd()]) {
        let mut found = Vec::new();
        walk(&crd.spec.names.kind, &schema_of(&crd), &mut found);
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn enums_are_closed_and_have_their_type() {
    let schema = schema_of(&antrea_crds::installation_crd());
    let spec = &schema["properties"]["spec"]["properties"];
    assert_eq!(spec["trafficEncapMode"]["enum"], json!(["Encap", "NoEncap", "Hybrid"]));
    assert_eq!(spec["tunnelType"]["enum"], json!(["Geneve", "VXLAN", "GRE", "STT"]));
    assert_eq!(spec["trafficEncapMode"]["type"], "string");
    assert_eq!(spec["ovs"]["properties"]["datapath"]["enum"], json!(["Auto", "System", "Userspace"]));
    assert_eq!(spec["tunnelPort"]["maximum"].as_f64(), Some(65535.0));
}

#[test]
fn info_kinds_keep_their_fields_at_the_top() {
    let agent = antrea_crds::AntreaAgentInfo::new(
        "node1",
        antrea_crds::AgentInfo {
            version: "v0.1.0".into(),
            api_port: 10350,
            api_ca_bundle: Some(k8s_openapi::ByteString(b"pem".to_vec())),
            agent_conditions: vec![antrea_crds::AgentCondition {
                type_: antrea_crds::AgentConditionType::OvsdbConnectionUp,
                status: "True".into(),
                last_heartbeat_time: None,
                reason: String::new(),
                message: String::new(),
            }],
            ..Default::default()
        },
    );
    let json = serde_json::to_value(&agent).unwrap();
    assert_eq!(json["apiVersion"], "crd.antrea.io/v1beta1");
    assert_eq!(json["apiPort"], 10350);
    assert_eq!(json["apiCABundle"], "cGVt");
    assert_eq!(json["agentConditions"][0]["type"], "OVSDBConnectionUp");
    assert!(json.get("spec").is_none());
    assert_eq!(serde_json::from_value::<antrea_crds::AntreaAgentInfo>(json).unwrap(), agent);
}

#[test]
fn an_empty_spec_is_a_spec() {
    let cr: AntreaInstallation = serde_json::from_value(json!({
        "apiVersion": "operator.antrea.io/v1alpha1", "kind": "AntreaInstallation",
        "metadata": {"name": "default"}, "spec": {},
    }))
    .unwrap();
    assert_eq!(cr.spec, Default::default());
    assert_eq!(serde_json::to_value(&cr.spec).unwrap(), json!({}));
}
