use super::*;

/// What the files come to, which the AntreaInstallation's definition has to accept.
fn adopt(agent: &str, controller: &str) -> Adoption {
    let found = map_files(&parse(agent).unwrap(), &parse(controller).unwrap());
    let definition = antrea_crds::installation_crd();
    let schema = definition.spec.versions[0].schema.clone().unwrap().open_api_v3_schema.unwrap();
    let object = json!({"metadata": {"name": INSTALLATION_NAME}, "spec": found.spec});
    let refused = kube_cel::Validator::new().validate(&serde_json::to_value(schema).unwrap(), &object, None);
    let refused: Vec<String> = refused.err().into_iter().flatten().map(|error| error.message).collect();
    assert_eq!(refused, [""; 0], "{agent}");
    found
}

fn lost(adoption: &Adoption) -> Vec<String> {
    adoption.lost.iter().map(|(file, key, _)| format!("{file} {key}")).collect()
}

#[test]
fn what_says_nothing_becomes_nothing_but_the_tunnel() {
    let found = adopt("# all commented out\n", "featureGates:\n");
    // By upstream's own default Open vSwitch serves Services.
    let expected = json!({"tunnelType": "Geneve", "proxy": {"mode": "Services"}});
    assert_eq!(serde_json::to_value(&found.spec).unwrap(), expected);
    assert_eq!(found.lost, []);
}

#[test]
fn every_field_has_its_key() {
    let found = adopt(
        "trafficEncapMode: hybrid\ntunnelType: vxlan\ntunnelPort: 4790\ndefaultMTU: 1400\n\
         serviceCIDR: 10.96.0.0/12\nserviceCIDRv6: fd00::/112\npodCIDRs: [10.10.0.0/16]\n\
         transportInterface: eth1\novsBridge: br-x\nhostGateway: antrea-gw0\novsDatapathType: system\n\
         kubeAPIServerOverride: https://10.0.0.1:6443\nenablePrometheusMetrics: false\n\
         tlsMinVersion: VersionTLS12\ntlsCipherSuites: TLS_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\n\
         apiPort: 10350\ncniSocket: /var/run/antrea/cni.sock\nnoSNAT: false\nfqdnCacheMinTTL: 60\n\
         antreaProxy: {enable: true, proxyAll: true, nodePortAddresses: [192.0.2.0/24], skipServices: [], \
         proxyLoadBalancerIPs: true, serviceProxyName: \"\", defaultLoadBalancerMode: nat, \
         serviceHealthCheckServerBindAddress: \"0.0.0.0:10256\"}\n\
         auditLogging: {maxSize: 100, maxBackups: 0, maxAge: 7, compress: false}\n",
        "enablePrometheusMetrics: false\napiPort: 10349\nselfSignedCert: true\n\
         kubeAPIServerOverride: https://10.0.0.1:6443\n\
         tlsMinVersion: VersionTLS12\ntlsCipherSuites: TLS_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256\n",
    );
    assert_eq!(found.lost, []);
    let expected = json!({
        "trafficEncapMode": "Hybrid", "tunnelType": "VXLAN", "tunnelPort": 4790, "mtu": 1400,
        "serviceCIDRs": ["10.96.0.0/12", "fd00::/112"], "podCIDRs": {"cluster": ["10.10.0.0/16"]},
        "transportInterface": "eth1", "ovs": {"bridge": "br-x", "datapath": "System"},
        "kubeAPIServerOverride": "https://10.0.0.1:6443", "monitoring": {"metrics": false},
        "proxy": {"mode": "All", "nodePortAddresses": ["192.0.2.0/24"], "healthAddress": "0.0.0.0:10256"},
        "auditLogging": {"maxSize": 100, "maxBackups": 0, "maxAge": 7, "compress": false}, "fqdnCacheMinTTL": 60,
        "tls": {"minVersion": "VersionTLS12",
            "cipherSuites": ["TLS_AES_128_GCM_SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]},
    });
    assert_eq!(serde_json::to_value(&found.spec).unwrap(), expected);
}

#[test]
fn what_cannot_be_said_is_listed() {
    let found = adopt(
        "trafficEncapMode: networkPolicyOnly\ntrafficEncryptionMode: wireGuard\napiPort: 1\n\
         wireGuard: {port: 51820}\nflowExporter: {enable: false, flowPollInterval: 5s}\n\
         antreaProxy: {skipServices: [kube-system/x], proxyLoadBalancerIPs: false, defaultLoadBalancerMode: dsr}\n\
         auditLogging: {maxSize: 500, maxBackups: -1}\ndefaultMTU: 100\nnoSNAT: true\nsomethingNew: 1\ntlsCipherSuites: TLS_X\n\
         featureGates: {NoSuchGate: true, AlsoNone: false, Multicluster: true}\n",
        "nodeIPAM: {enableNodeIPAM: true, clusterCIDRs: []}\nselfSignedCert: false\nenablePrometheusMetrics: false\n",
    );
    let mut keys = lost(&found);
    keys.sort();
    let expected = [
        "antrea-agent.conf antreaProxy.defaultLoadBalancerMode",
        "antrea-agent.conf antreaProxy.proxyLoadBalancerIPs",
        "antrea-agent.conf antreaProxy.skipServices",
        "antrea-agent.conf apiPort",
        "antrea-agent.conf auditLogging.maxBackups",
        "antrea-agent.conf defaultMTU",
        "antrea-agent.conf featureGates.Multicluster",
        "antrea-agent.conf featureGates.NoSuchGate",
        "antrea-agent.conf noSNAT",
        "antrea-agent.conf somethingNew",
        "antrea-agent.conf tlsCipherSuites",
        "antrea-agent.conf trafficEncapMode",
        "antrea-agent.conf trafficEncryptionMode",
        "antrea-agent.conf wireGuard.port",
        "antrea-controller.conf enablePrometheusMetrics",
        "antrea-controller.conf nodeIPAM.enableNodeIPAM",
        "antrea-controller.conf selfSignedCert",
    ];
    assert_eq!(keys, expected);
    let text = render(&found);
    assert!(
        text.contains("#   antrea-agent.conf: trafficEncapMode: \"networkPolicyOnly\" has no equivalent"),
        "{text}"
    );
}

/// A tunnel that is not used must not keep the spec from being accepted.
#[test]
fn without_encapsulation_the_tunnel_is_left_out() {
    let found = adopt("trafficEncapMode: noEncap\ntunnelType: geneve\ntunnelPort: 1\n", "");
    assert_eq!(
        serde_json::to_value(&found.spec).unwrap(),
        json!({"trafficEncapMode": "NoEncap", "proxy": {"mode": "Services"}})
    );
    let gre = adopt("tunnelType: gre\ntunnelPort: 1\n", "");
    assert_eq!(gre.spec.tunnel_port, None);
}

/// Who serves Services is said, whatever the defaults of either side are.
#[test]
fn the_proxy_becomes_a_mode() {
    let proxy = |agent: &str| {
        let found = adopt(agent, "");
        assert_eq!(found.lost, [], "{agent}");
        assert_eq!(found.spec.feature_gates, BTreeMap::new(), "the mode says it");
        serde_json::to_value(found.spec.proxy).unwrap()
    };
    let nodes = "nodePortAddresses: [192.0.2.0/24], serviceHealthCheckServerBindAddress: \"[::]:10256\"";
    for (agent, expected) in [
        ("antreaProxy: {enable: true}".to_owned(), json!({"mode": "Services"})),
        ("antreaProxy: {enable: false, proxyAll: true}".to_owned(), json!({"mode": "KubeProxy"})),
        ("featureGates: {AntreaProxy: false}".to_owned(), json!({"mode": "KubeProxy"})),
        ("featureGates: {AntreaProxy: true}".to_owned(), json!({"mode": "Services"})),
        ("antreaProxy: {proxyAll: true}".to_owned(), json!({"mode": "All"})),
        (
            format!("antreaProxy: {{proxyAll: true, {nodes}}}"),
            json!({"mode": "All", "nodePortAddresses": ["192.0.2.0/24"], "healthAddress": "[::]:10256"}),
        ),
        (
            format!("antreaProxy: {{proxyAll: true, disableServiceHealthCheckServer: true, {nodes}}}"),
            json!({"mode": "All", "nodePortAddresses": ["192.0.2.0/24"], "healthAddress": ""}),
        ),
        (format!("antreaProxy: {{{nodes}}}"), json!({"mode": "Services"})),
    ] {
        assert_eq!(proxy(&agent), expected, "{agent}");
    }
}

/// The spec has rules that the file has not.
#[test]
fn what_the_definition_would_refuse_is_not_written() {
    for agent in
        ["ovsDatapathType: netdev\n", "ovsDatapathType: netdev\ntunnelType: geneve\ntunnelPort: 6081\n"]
    {
        let found = adopt(agent, "");
        assert_eq!(found.spec.tunnel_type, Some(TunnelType::Vxlan));
        assert_eq!(lost(&found), ["antrea-agent.conf tunnelType"]);
    }
    assert_eq!(adopt("ovsDatapathType: netdev\ntunnelType: vxlan\n", "").lost, []);
    let found = adopt("transportInterface: eth1\ntransportInterfaceCIDRs: [192.0.2.0/24]\n", "");
    assert_eq!(lost(&found), ["antrea-agent.conf transportInterfaceCIDRs"]);
    assert_eq!(found.spec.transport_interface_cidrs, Vec::<String>::new());
    for (file, expected) in [
        ("10.0.0.1:6443", Some("https://10.0.0.1:6443")),
        ("https://10.0.0.1:6443/", Some("https://10.0.0.1:6443")),
        ("https://10.0.0.1:6443/k8s", None),
    ] {
        let found = adopt(&format!("kubeAPIServerOverride: {file}\n"), "");
        assert_eq!(found.spec.kube_api_server_override.as_deref(), expected);
        assert_eq!(found.lost.is_empty(), expected.is_some());
    }
}
