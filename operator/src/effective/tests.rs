use antrea_crds::AntreaInstallationSpec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn facts() -> Facts {
    Facts {
        default_version: "v1.2.3".into(),
        service_cidrs: vec![range("kubernetes", "10.96.0.0/12")],
        node_addresses: vec![("node1".into(), "192.0.2.1".parse().unwrap())],
        node_pod_cidrs: vec![("node1".into(), "10.244.0.0/24".parse().unwrap())],
        ..Facts::default()
    }
}

fn range(object: &str, cidr: &str) -> ServiceRange {
    ServiceRange { object: object.into(), cidr: cidr.parse().unwrap() }
}

fn spec(value: Value) -> AntreaInstallationSpec {
    serde_json::from_value(value).unwrap()
}

fn problems(value: Value) -> String {
    effective(&spec(value), &facts()).unwrap_err().to_string()
}

#[test]
fn an_empty_spec_gets_defaults_and_facts() {
    let config = effective(&AntreaInstallationSpec::default(), &facts()).unwrap();
    assert_eq!(config.version, "v1.2.3");
    assert_eq!(config.agent_image, "antrea/antrea-agent:v1.2.3");
    assert_eq!((config.tunnel, config.tunnel_port), (None, None), "each node chooses by its datapath");
    assert_eq!(config.service_cidrs, ["10.96.0.0/12".parse().unwrap()]);
    assert_eq!((config.bridge.as_str(), config.gateway.as_str()), ("br-int", "antrea-gw0"));
}

#[test]
fn contradictions_name_their_path() {
    for (value, path) in [
        (json!({"trafficEncapMode": "NoEncap", "tunnelType": "VXLAN"}), "spec.tunnelType:"),
        (json!({"trafficEncapMode": "NoEncap", "tunnelPort": 1}), "spec.tunnelPort:"),
        (json!({"tunnelType": "GRE", "tunnelPort": 1}), "spec.tunnelPort: GRE"),
        (
            json!({"tunnelType": "STT", "ovs": {"datapath": "Userspace"}}),
            "spec.tunnelType: spec.ovs.datapath Userspace",
        ),
        (
            json!({"podCIDRs": {"cluster": ["10.100.0.0/16"]}}),
            "spec.podCIDRs.cluster: 10.100.0.0/16 overlaps",
        ),
        (
            json!({"podCIDRs": {"cluster": ["10.0.0.0/24", "10.0.0.0/25"]}}),
            "spec.podCIDRs.cluster: 10.0.0.0/24 and",
        ),
        (
            json!({"serviceCIDRs": ["10.244.0.0/16"]}),
            "spec.serviceCIDRs: 10.244.0.0/16 overlaps the Pod range 10.244.0.0/24 of Node node1",
        ),
        (
            json!({"serviceCIDRs": ["10.96.0.0/12", "192.0.2.0/24"]}),
            "spec.serviceCIDRs: 192.0.2.0/24 contains the address 192.0.2.1 of Node node1",
        ),
        (json!({"serviceCIDRs": ["fd00::/112"], "mtu": 1200}), "spec.mtu:"),
        (json!({"featureGates": {"Nonsense": true}}), "spec.featureGates.Nonsense:"),
        (json!({"featureGates": {"Egress": true}}), "spec.featureGates.Egress:"),
        (
            json!({"proxy": {"healthAddress": ""}}),
            "spec.proxy: nodePortAddresses and healthAddress need mode All",
        ),
        (
            json!({"proxy": {"mode": "All", "healthAddress": "10256"}}),
            "spec.proxy.healthAddress: \"10256\" is no",
        ),
        (
            json!({"proxy": {"mode": "All", "nodePortAddresses": ["nonsense"]}}),
            "spec.proxy.nodePortAddresses: \"nonsense\"",
        ),
        (
            json!({"proxy": {"mode": "All"}, "featureGates": {"AntreaProxy": false}}),
            "spec.proxy.mode: contradicts",
        ),
        (
            json!({"proxy": {"mode": "KubeProxy"}, "featureGates": {"AntreaProxy": true}}),
            "spec.proxy.mode: contradicts",
        ),
        (
            json!({"proxy": {"mode": "Services"}, "featureGates": {"AntreaProxy": false}}),
            "spec.proxy.mode: contradicts",
        ),
        (
            json!({"transportInterface": "eth1", "transportInterfaceCIDRs": ["192.0.2.0/24"]}),
            "spec.transportInterfaceCIDRs: may not",
        ),
        (json!({"serviceCIDRs": ["nonsense"]}), "spec.serviceCIDRs: \"nonsense\""),
    ] {
        let message = problems(value.clone());
        assert!(message.starts_with(path), "{value} gave {message:?}");
    }
}

#[test]
fn every_service_range_counts_and_a_bad_one_is_named_by_its_object() {
    let mut facts = facts();
    facts.service_cidrs.extend([range("more", "10.112.0.0/16"), range("same", "10.96.0.0/12")]);
    let config = effective(&AntreaInstallationSpec::default(), &facts).unwrap();
    assert_eq!(config.service_cidrs, ["10.96.0.0/12", "10.112.0.0/16"].map(|text| text.parse().unwrap()));
    for (cidr, message) in [
        ("192.0.0.0/16", "ServiceCIDR bad: 192.0.0.0/16 contains the address 192.0.2.1 of Node node1"),
        (
            "10.244.0.0/16",
            "ServiceCIDR bad: 10.244.0.0/16 overlaps the Pod range 10.244.0.0/24 of Node node1",
        ),
    ] {
        let facts = Facts {
            service_cidrs: vec![range("kubernetes", "10.96.0.0/12"), range("bad", cidr)],
            ..facts.clone()
        };
        let error = effective(&AntreaInstallationSpec::default(), &facts).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
    facts.service_cidrs = (0..17).map(|n| range("many", &format!("10.{n}.0.0/24"))).collect();
    let error = effective(&AntreaInstallationSpec::default(), &facts).unwrap_err();
    assert!(error.to_string().contains("at most 16"), "{error}");
}

#[test]
fn all_problems_are_told_at_once() {
    let message = problems(json!({"featureGates": {"A": true, "B": true}}));
    assert!(message.contains("featureGates.A") && message.contains("; spec.featureGates.B"), "{message}");
}

#[test]
fn images_come_from_registry_override_or_mirror() {
    let image = |value: Value, facts: &Facts| effective(&spec(value), facts).unwrap().agent_image;
    let plain = facts();
    let digest = format!("sha256:{}", "a".repeat(64));
    assert_eq!(image(json!({"version": "v9"}), &plain), "antrea/antrea-agent:v9");
    assert_eq!(
        image(json!({"images": {"registry": "r:5000/x"}}), &plain),
        "r:5000/x/antrea/antrea-agent:v1.2.3"
    );
    assert_eq!(image(json!({"images": {"agent": {"repository": "q/a", "tag": "t"}}}), &plain), "q/a:t");
    assert_eq!(
        image(json!({"images": {"registry": "r", "agent": {"digest": digest}}}), &plain),
        format!("r/antrea/antrea-agent@{digest}")
    );

    let related = RelatedImages { agent: Some(format!("quay.io/antrea/agent@{digest}")), controller: None };
    let mirrored = Facts { related, ..facts() };
    assert_eq!(image(json!({}), &mirrored), format!("quay.io/antrea/agent@{digest}"));
    assert_eq!(image(json!({"images": {"registry": "r"}}), &mirrored), format!("r/antrea/agent@{digest}"));
    assert_eq!(image(json!({"version": "v9"}), &mirrored), "antrea/antrea-agent:v9");
    assert_eq!(image(json!({"images": {"agent": {"tag": "t"}}}), &mirrored), "antrea/antrea-agent:t");
}

#[test]
fn a_component_may_log_otherwise() {
    let config =
        effective(&spec(json!({"logLevel": "Debug", "controller": {"logLevel": "Error"}})), &facts())
            .unwrap();
    assert_eq!((config.agent.log_level, config.controller.log_level), (LogLevel::Debug, LogLevel::Error));
}

fn any_spec() -> impl Strategy<Value = AntreaInstallationSpec> {
    let option = |values: &'static [&'static str]| proptest::option::of(proptest::sample::select(values));
    (
        option(&["v1", "v2"]),
        option(&["Encap", "NoEncap", "Hybrid"]),
        option(&["Geneve", "VXLAN", "GRE"]),
        proptest::option::of(1u16..),
        proptest::option::of(prop_oneof![Just(0), 1280..9216]),
        option(&["r.example.com/x"]),
        option(&["Debug", "Error"]),
        option(&["Auto", "System", "Userspace"]),
        proptest::bool::ANY,
    )
        .prop_map(|(version, encap, tunnel, port, mtu, registry, level, datapath, policy)| {
            let mut value = json!({
                "version": version, "trafficEncapMode": encap, "mtu": mtu, "logLevel": level,
                "transportInterfaceCIDRs": if policy { json!(["192.0.2.0/24"]) } else { json!([]) },
                "images": {"registry": registry}, "ovs": {"datapath": datapath}, "featureGates": {"AntreaPolicy": policy},
            });
            // The userspace datapath has but one tunnel.
            let tunnel = if datapath == Some("Userspace") { tunnel.map(|_| "VXLAN") } else { tunnel };
            if encap != Some("NoEncap") {
                value["tunnelType"] = json!(tunnel);
                if tunnel != Some("GRE") {
                    value["tunnelPort"] = json!(port);
                }
            }
            spec(value)
        })
}

proptest! {
    /// What status.computed says, taken as a spec, means the same.
    #[test]
    fn the_computed_spec_is_a_fixed_point(spec in any_spec()) {
        let config = effective(&spec, &facts()).unwrap();
        // An API server would refuse neither form; facts are not needed to read the second.
        prop_assert_eq!(effective(&config.to_spec(), &Facts::default()).unwrap(), config);
    }
}
