//! Traceflow: the way of a packet as its status tells it, and that nothing of it stays.

use std::time::Duration;

use antrea_tests::lab::{Lab, eventually, sh};
use antrea_tests::traffic::ping;
use serde_json::{Value, json};

const TRACEFLOWS: &str = "apis/crd.antrea.io/v1beta1/traceflows";
const LIMIT: Duration = Duration::from_secs(30);

fn pod(name: &str) -> Value {
    json!({"namespace": "default", "pod": name})
}

fn start(lab: &Lab, name: &str, spec: Value) {
    let object = json!({"apiVersion": "crd.antrea.io/v1beta1", "kind": "Traceflow",
                        "metadata": {"name": name}, "spec": spec});
    lab.api.put(TRACEFLOWS, object);
}

fn status(lab: &Lab, name: &str) -> Value {
    lab.api.get(TRACEFLOWS, None, name).map(|mut trace| trace["status"].take()).unwrap_or_default()
}

async fn ended(lab: &Lab, name: &str) -> Value {
    let over = || ["Succeeded", "Failed"].iter().any(|phase| status(lab, name)["phase"] == *phase);
    eventually(&format!("{name} ends"), LIMIT, over).await;
    status(lab, name)
}

/// Runs a trace to its end.
pub(crate) async fn run(lab: &Lab, name: &str, spec: Value) -> Value {
    start(lab, name, spec);
    ended(lab, name).await
}

/// What each node saw: role, and for each observation component, table, action, policy.
pub(crate) fn told(status: &Value) -> Vec<(String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all: Vec<(String, Vec<String>)> = status["results"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|result| {
            let line = |o: &Value| {
                let parts =
                    ["component", "componentInfo", "action", "networkPolicy"].map(|key| text(&o[key]));
                parts.join("/")
            };
            let seen = result["observations"].as_array().into_iter().flatten().map(line);
            (text(&result["role"]), seen.collect())
        })
        .collect();
    // The sender first.
    all.sort_by(|a, b| b.0.cmp(&a.0));
    all
}

#[track_caller]
fn saw(status: &Value, expected: &[(&str, &[&str])]) {
    let expected: Vec<(String, Vec<String>)> = expected
        .iter()
        .map(|(role, seen)| ((*role).to_owned(), seen.iter().map(|line| (*line).to_owned()).collect()))
        .collect();
    assert_eq!(told(status), expected, "{status:#}");
    assert_eq!(status["phase"], "Succeeded", "{status:#}");
}

/// Flows that traces have on a node.
fn flows(lab: &Lab, index: usize) -> Vec<String> {
    let dump = lab.nodes[index].ofctl("dump-flows", &[]);
    let of_trace = |line: &&str| {
        let cookie = line.split("cookie=0x").nth(1).and_then(|rest| rest.split(',').next());
        let cookie = cookie.and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or_default();
        cookie >> 40 & 0xff == 7
    };
    dump.lines().filter(of_trace).map(str::to_owned).collect()
}

/// The bridges have nothing of a trace any more, and nothing that others have was touched.
async fn nothing_is_left(lab: &Lab) {
    for index in 0..lab.nodes.len() {
        eventually("no flow of a trace is left", LIMIT, || flows(lab, index).is_empty()).await;
        let meters = lab.nodes[index].ofctl("dump-meters", &[]);
        assert!(!meters.contains("meter=257"), "{meters}");
        let repairs = lab.agent_metric(index, "antrea_agent_ovs_flow_repairs_total").await;
        assert_eq!(repairs, 0.0, "flows of a trace were taken for drift");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delivered_dropped_and_dead() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[]).await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    assert!(flows(&lab, 0).is_empty(), "without a trace the pipeline has nothing of it");

    let status = run(&lab, "same-node", json!({"source": pod("a"), "destination": pod("b")})).await;
    saw(&status, &[("sender", &["SpoofGuard//Forwarded/", "Forwarding/Output/Delivered/"])]);
    assert_eq!(status["results"][0]["observations"][1]["pod"], "default/b");
    assert_eq!(status["results"][0]["node"], lab.nodes[0].name.as_str());
    assert!(status["startTime"].is_string() && status["dataplaneTag"] == 7, "{status:#}");

    let tcp = json!({"transportHeader": {"tcp": {"dstPort": 80}}});
    let spec = json!({"source": pod("a"), "destination": pod("c"), "packet": tcp});
    let status = run(&lab, "across", spec.clone()).await;
    let arrived: &[&str] = &["Forwarding/Classification/Received/", "Forwarding/Output/Delivered/"];
    saw(
        &status,
        &[("sender", &["SpoofGuard//Forwarded/", "Forwarding/Output/Forwarded/"]), ("receiver", arrived)],
    );
    let sender = status["results"].as_array().unwrap().iter().find(|r| r["role"] == "sender").unwrap();
    assert_eq!(sender["observations"][1]["tunnelDstIP"], lab.nodes[1].ip.to_string());
    assert_eq!(sender["observations"][1]["ttl"], 63);

    // An address of a pod's subnet that no pod has, and one outside.
    let dead = run(&lab, "dead", json!({"source": pod("a"), "destination": {"ip": "10.244.1.250"}})).await;
    saw(&dead, &[("sender", &["SpoofGuard//Forwarded/", "Forwarding/L3Forwarding/Dropped/"])]);
    let dead = run(&lab, "remote", json!({"source": pod("a"), "destination": {"ip": "10.244.2.250"}})).await;
    assert_eq!(told(&dead)[1].1, ["Forwarding/Classification/Received/", "Forwarding/L3Forwarding/Dropped/"]);
    let out = run(&lab, "out", json!({"source": pod("a"), "destination": {"ip": "198.51.100.7"}})).await;
    saw(&out, &[("sender", &["SpoofGuard//Forwarded/", "Forwarding/Output/ForwardedOutOfOverlay/"])]);

    // Policies are named, those that let it pass and those that isolate.
    let policy = |name: &str, of: &str, kind: &str, peers: Value| {
        let mut spec = json!({"podSelector": {"matchLabels": {"name": of}}, "policyTypes": [kind]});
        spec[kind.to_lowercase()] = peers;
        lab.put_policy(name, &spec);
    };
    policy("c-takes-a", "c", "Ingress", json!([{"from": [{"podSelector": {"matchLabels": {"name": "a"}}}]}]));
    eventually("c is isolated", LIMIT, || !ping(&b.netns, c.ip, 56, true)).await;
    let status = run(&lab, "denied-in", json!({"source": pod("b"), "destination": pod("c")})).await;
    saw(
        &status,
        &[
            ("sender", &["SpoofGuard//Forwarded/", "Forwarding/Output/Forwarded/"]),
            (
                "receiver",
                &[
                    "Forwarding/Classification/Received/",
                    "NetworkPolicy/IngressDefaultRule/Dropped/K8sNetworkPolicy:default/c-takes-a",
                ],
            ),
        ],
    );
    let status = run(&lab, "allowed-in", spec).await;
    assert_eq!(
        told(&status)[1].1[1],
        "NetworkPolicy/IngressRule/Forwarded/K8sNetworkPolicy:default/c-takes-a",
        "{status:#}"
    );
    policy("a-shut", "a", "Egress", json!([]));
    eventually("a is isolated", LIMIT, || !ping(&a.netns, b.ip, 56, true)).await;
    let status = run(&lab, "denied-out", json!({"source": pod("a"), "destination": pod("b")})).await;
    let denied = "NetworkPolicy/EgressDefaultRule/Dropped/K8sNetworkPolicy:default/a-shut";
    saw(&status, &[("sender", &["SpoofGuard//Forwarded/", denied])]);

    // What cannot begin says why.
    let status = run(&lab, "nobody", json!({"source": pod("x"), "destination": pod("b")})).await;
    assert_eq!(
        (&status["phase"], &status["reason"]),
        (&json!("Failed"), &json!("spec.source.pod: there is no Pod default/x"))
    );
    nothing_is_left(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_families() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[]).await;
    lab.add_ipv6();
    lab.start_agents().await;
    let (_, _, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    let v6 = json!({"ipv6Header": {}, "transportHeader": {"udp": {"dstPort": 53}}});
    let status = run(&lab, "same", json!({"source": pod("a"), "destination": pod("b"), "packet": v6})).await;
    saw(&status, &[("sender", &["SpoofGuard//Forwarded/", "Forwarding/Output/Delivered/"])]);
    let status =
        run(&lab, "across", json!({"source": pod("a"), "destination": {"ip": c.ipv6().to_string()}})).await;
    assert_eq!(told(&status)[1].1[1], "Forwarding/Output/Delivered/", "{status:#}");
    nothing_is_left(&lab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_and_an_agent_that_starts_anew() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[]).await;
    let (a, _, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    let names: Vec<String> = (0..20).map(|n| format!("t{n:02}")).collect();
    for (number, name) in names.iter().enumerate() {
        let to = if number % 2 == 0 { "b" } else { "c" };
        start(&lab, name, json!({"source": pod("a"), "destination": pod(to), "timeout": 60}));
    }
    for name in &names {
        let status = ended(&lab, name).await;
        assert_eq!(status["phase"], "Succeeded", "{status:#}");
    }
    nothing_is_left(&lab).await;

    // Live traffic that does not come keeps a trace running.
    let live = json!({"source": pod("a"), "destination": pod("c"), "liveTraffic": true, "timeout": 120});
    start(&lab, "live", live);
    for index in [0, 1] {
        eventually("the flows are there", LIMIT, || !flows(&lab, index).is_empty()).await;
    }
    lab.nodes[0].kill_agent();
    lab.start_agent(0);
    lab.wait_ready(0).await;
    eventually("the flows are there again", LIMIT, || !flows(&lab, 0).is_empty()).await;
    let (from, to) = (a.netns.clone(), c.ip);
    eventually("the live packet", LIMIT, || {
        assert!(ping(&from, to, 56, true), "traffic goes on");
        status(&lab, "live")["phase"] == "Succeeded"
    })
    .await;
    let status = status(&lab, "live");
    assert_eq!(status["capturedPacket"]["srcIP"], a.ip.to_string(), "{status:#}");
    assert_eq!(told(&status)[1].1[1], "Forwarding/Output/Delivered/", "{status:#}");

    // One that ends while an agent is away leaves nothing there either; nor does one that is deleted.
    start(
        &lab,
        "gone",
        json!({"source": pod("a"), "destination": pod("c"), "liveTraffic": true, "timeout": 120}),
    );
    eventually("the flows are there", LIMIT, || !flows(&lab, 0).is_empty()).await;
    lab.nodes[0].kill_agent();
    lab.api.delete(TRACEFLOWS, None, "gone");
    lab.start_agent(0);
    lab.wait_ready(0).await;
    nothing_is_left(&lab).await;
}

/// A Service object with an address, and its endpoint.
fn put_service(lab: &Lab, name: &str, ip: &str, endpoint: std::net::IpAddr) {
    let ports = |number: u16| json!([{"name": "tcp", "protocol": "TCP", "port": number}]);
    lab.api.put(
        "api/v1/services",
        json!({"metadata": {"namespace": "default", "name": name},
               "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": ports(80)}}),
    );
    lab.api.put(
        "apis/discovery.k8s.io/v1/endpointslices",
        json!({
            "metadata": {"namespace": "default", "name": format!("{name}-1"),
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": [{"addresses": [endpoint]}], "ports": ports(8080),
        }),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_the_bridge_and_of_the_host() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let spec = || {
        json!({"source": pod("a"), "destination": {"namespace": "default", "service": "db"},
               "packet": {"transportHeader": {"tcp": {"dstPort": 80}}}})
    };
    let arrived = ["Forwarding/Classification/Received/", "Forwarding/Output/Delivered/"];
    for bridge in [true, false] {
        let mut lab = Lab::start(2, &[("featureGates", json!({"AntreaProxy": bridge}))]).await;
        let (_, c) = (lab.add_pod(0, "a"), lab.add_pod(1, "c"));
        put_service(&lab, "db", "10.96.0.61", c.ip);
        if bridge {
            let served = || lab.nodes[0].ofctl("dump-flows", &[]).contains("ct_tp_dst=80");
            eventually("the Service is served", LIMIT, served).await;
        } else {
            sh(&format!(
                "ip netns exec {} iptables -w -t nat -A PREROUTING -d 10.96.0.61 -p tcp --dport 80 -j DNAT \
                 --to-destination {}:8080",
                lab.nodes[0].netns, c.ip
            ));
        }
        let status = run(&lab, "service", spec()).await;
        let sent: &[&str] = if bridge {
            &["SpoofGuard//Forwarded/", "LB//Forwarded/", "Forwarding/Output/Forwarded/"]
        } else {
            // To the host and back.
            &[
                "SpoofGuard//Forwarded/",
                "Forwarding/Output/Forwarded/",
                "LB//Forwarded/",
                "Forwarding/Output/Forwarded/",
            ]
        };
        eventually("all of it is told", LIMIT, || told(&self::status(&lab, "service")).len() == 2).await;
        let status = if bridge { status } else { self::status(&lab, "service") };
        saw(&status, &[("sender", sent), ("receiver", &arrived)]);
        let sender = status["results"].as_array().unwrap().iter().find(|r| r["role"] == "sender").unwrap();
        let lb = sender["observations"].as_array().unwrap().iter().find(|o| o["component"] == "LB").unwrap();
        assert_eq!(lb["translatedDstIP"], c.ip.to_string());
        nothing_is_left(&lab).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_traffic_to_a_pod_and_what_is_dropped() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[]).await;
    let (a, c) = (lab.add_pod(0, "a"), lab.add_pod(1, "c"));
    let live = |more: Value| {
        let mut spec = json!({"destination": pod("c"), "liveTraffic": true, "timeout": 120});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    start(&lab, "from-anybody", live(json!({})));
    eventually("the flows are there", LIMIT, || !flows(&lab, 1).is_empty()).await;
    eventually("a packet is seen", LIMIT, || {
        assert!(ping(&a.netns, c.ip, 56, true), "traffic goes on");
        status(&lab, "from-anybody")["phase"] == "Succeeded"
    })
    .await;
    let seen = status(&lab, "from-anybody");
    saw(&seen, &[("receiver", &["Forwarding/Classification/Received/", "Forwarding/Output/Delivered/"])]);
    assert_eq!(seen["capturedPacket"]["ipHeader"]["protocol"], 1, "{seen:#}");

    start(&lab, "dropped", live(json!({"source": pod("a"), "droppedOnly": true})));
    for index in [0, 1] {
        eventually("the flows are there", LIMIT, || !flows(&lab, index).is_empty()).await;
    }
    assert!(ping(&a.netns, c.ip, 56, true));
    lab.put_policy(
        "shut",
        &json!({"podSelector": {"matchLabels": {"name": "c"}}, "policyTypes": ["Ingress"]}),
    );
    eventually("a packet is dropped", LIMIT, || {
        ping(&a.netns, c.ip, 56, true);
        status(&lab, "dropped")["phase"] == "Succeeded"
    })
    .await;
    let denied = "NetworkPolicy/IngressDefaultRule/Dropped/K8sNetworkPolicy:default/shut";
    saw(&status(&lab, "dropped"), &[("receiver", &["Forwarding/Classification/Received/", denied])]);
    nothing_is_left(&lab).await;
}
