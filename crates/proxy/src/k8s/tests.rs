use serde_json::json;

use super::*;

fn read(value: serde_json::Value) -> (Option<Service>, Vec<String>) {
    let spec: ServiceSpec = serde_json::from_value(value["spec"].clone()).unwrap();
    let status: ServiceStatus = serde_json::from_value(value["status"].clone()).unwrap_or_default();
    let (service, problems) = service("default/web", 7, &spec, &status);
    (service, problems.iter().map(ToString::to_string).collect())
}

fn addresses(service: Option<Service>) -> Vec<Address> {
    service.unwrap().addresses.into()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_service_of_both_families() {
    let (service, problems) = read(json!({"spec": {
        "type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00:96::9"],
        "externalIPs": null, "internalTrafficPolicy": "Local", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "ports": [{"port": 80, "targetPort": "http"}, {"name": "dns", "protocol": "UDP", "port": 53}]}}));
    let service = service.unwrap();
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(*service.addresses, [Address::Cluster(ip("10.96.0.9")), Address::Cluster(ip("fd00:96::9"))]);
    assert_eq!(service.ports.len(), 2);
    assert_eq!((service.affinity, service.internal_local, service.created), (Some(60), true, 7));
    let (service, _) =
        read(json!({"spec": {"clusterIP": "10.96.0.9", "ports": [], "sessionAffinity": "ClientIP"}}));
    assert_eq!(service.unwrap().affinity, Some(10_800), "Kubernetes' default");
}

#[test]
fn what_is_no_address_here_is_not_served() {
    for spec in [
        json!({"clusterIP": "None", "ports": [{"port": 80}]}),
        json!({"clusterIPs": ["None"], "clusterIP": "None"}),
        json!({"type": "ExternalName", "externalName": "example.org"}),
        json!({"clusterIP": ""}),
    ] {
        assert_eq!(read(json!({"spec": spec})), (None, vec![]));
    }
}

#[test]
fn load_balancers_are_a_way_to_the_service_unless_they_are_proxies_or_firewalls() {
    let service = |ranges: serde_json::Value| {
        read(json!({
            "spec": {"clusterIP": "10.96.0.9", "externalIPs": ["192.0.2.1", "192.0.2.1"],
                     "loadBalancerSourceRanges": ranges, "ports": [{"port": 80}]},
            "status": {"loadBalancer": {"ingress": [
                {"ip": "192.0.2.7"}, {"ip": "192.0.2.8", "ipMode": "VIP"},
                {"ip": "192.0.2.9", "ipMode": "Proxy"}, {"hostname": "lb.example.org"}]}}}))
    };
    let external = |text| Address::External(ip(text));
    let always = vec![Address::Cluster(ip("10.96.0.9")), external("192.0.2.1")];
    let with = [always.clone(), vec![external("192.0.2.7"), external("192.0.2.8")]].concat();
    assert_eq!(addresses(service(json!(null)).0), with);
    let guarded = |text| Address::Guarded(ip(text));
    let (of_some, problems) = service(json!(["198.51.100.0/24", "nonsense"]));
    assert_eq!(*of_some.as_ref().unwrap().sources, ["198.51.100.0/24".parse().unwrap()], "{problems:?}");
    assert_eq!(addresses(of_some), [always, vec![guarded("192.0.2.7"), guarded("192.0.2.8")]].concat());
    let nobody =
        "Service default/web: spec.loadBalancerSourceRanges: \"nonsense\" is no CIDR; nobody is let in by it";
    assert_eq!(problems, [nobody]);
}

#[test]
fn node_ports_and_where_health_is_told_depend_on_the_type() {
    let service = |kind: &str, policy: &str| {
        let (service, problems) = read(json!({"spec": {
            "type": kind, "clusterIP": "10.96.0.9", "externalTrafficPolicy": policy, "healthCheckNodePort": 32000,
            "ports": [{"port": 80, "nodePort": 30080}]}}));
        assert!(problems.is_empty(), "{problems:?}");
        let service = service.unwrap();
        (service.ports[0].node_port, service.health_port, service.external_local)
    };
    assert_eq!(service("LoadBalancer", "Local"), (30080, 32000, true));
    assert_eq!(service("LoadBalancer", "Cluster"), (30080, 0, false));
    assert_eq!(service("NodePort", "Local"), (30080, 0, true));
    assert_eq!(service("ClusterIP", ""), (0, 0, false), "what the type has not is left of another");
}

#[test]
fn a_bad_part_is_named_and_the_rest_is_served() {
    let (service, problems) = read(json!({"spec": {
        "clusterIP": "10.96.0.9", "externalIPs": ["nonsense", "127.0.0.1"],
        "ports": [{"port": 0}, {"port": 70000}, {"port": 80, "protocol": "IPX"}, {"port": 80}, {"name": "again", "port": 80}]}}));
    let service = service.unwrap();
    assert_eq!((service.addresses.len(), service.ports.len()), (1, 1));
    assert_eq!(
        problems,
        [
            "Service default/web: spec.externalIPs: \"nonsense\" is no IP address; it is not served",
            "Service default/web: spec.externalIPs: \"127.0.0.1\" cannot be an address of a Service; it is not served",
            "Service default/web: spec.ports[0]: port 0 is none; it is not served",
            "Service default/web: spec.ports[1]: port 70000 is none; it is not served",
            "Service default/web: spec.ports[2]: protocol Some(\"IPX\") is unknown; the port is not served",
            "Service default/web: spec.ports[4]: TCP port 80 is there twice; the first counts",
        ]
    );
}

#[test]
fn endpoints_and_what_they_say_about_this_node() {
    let here = Here { node: "n1".into(), zone: "a".into() };
    let endpoints: Vec<SliceEndpoint> = serde_json::from_value(json!([
        {"addresses": ["10.0.0.1"], "nodeName": "n1"},
        {"addresses": ["10.0.0.2"], "conditions": {"ready": false}, "hints": {"forZones": [{"name": "a"}]}},
        {"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true},
         "nodeName": "n2", "hints": {"forZones": [{"name": "b"}], "forNodes": [{"name": "n1"}]}},
        {"addresses": ["fd00::1"]}, {"addresses": []}, {"addresses": ["x"]}]))
    .unwrap();
    let ports: Vec<EndpointPort> = serde_json::from_value(json!([
        {"name": "http", "port": 8080}, {"name": null, "protocol": "UDP", "port": 53}, {"port": null},
        {"port": 99999}]))
    .unwrap();
    let (read, problems) = slice("default/web-1", &here, "IPv4", &endpoints, &ports);
    let read = read.unwrap();
    let of = |n: usize| read.endpoints[n];
    assert!(of(0).ready && of(0).serving && of(0).local && !of(0).terminating);
    assert!(!of(1).ready && !of(1).serving && of(1).zone_hint == Hint::Here && !of(1).local);
    assert!(!of(2).ready && of(2).serving && of(2).terminating && of(2).zone_hint == Hint::Elsewhere);
    assert_eq!((of(2).node_hint, of(0).node_hint, read.endpoints.len()), (Hint::Here, Hint::Absent, 3));
    assert_eq!(read.ports.len(), 2);
    let named: Vec<String> = problems.iter().map(|problem| problem.field.clone()).collect();
    assert_eq!(named, ["ports[3]", "endpoints[3].addresses", "endpoints[5].addresses"]);
    assert_eq!(slice("default/web-1", &here, "FQDN", &[], &[]), (None, vec![]));
}
