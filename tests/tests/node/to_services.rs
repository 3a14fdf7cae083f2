//! Rules about Services: what is sent to a Service is theirs, whichever endpoint it gets, and nothing else is.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use antrea_tests::https;
use antrea_tests::lab::{Lab, eventually, sh};
use serde_json::{Value, json};

use crate::native::put;
use crate::proxy::{PORT, SERVICES, TARGET, at, bind, connect, listen, put_endpoints, put_service};

const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const CLUSTER_POLICIES: &str = "apis/crd.antrea.io/v1beta1/clusternetworkpolicies";
const POLICIES: &str = "apis/crd.antrea.io/v1beta1/networkpolicies";
const WEB: &str = "10.96.0.61";
const OTHER: &str = "10.96.0.62";
const EMPTY: &str = "10.96.0.63";

fn gates(proxy: bool) -> [(&'static str, Value); 1] {
    [("featureGates", json!({"AntreaPolicy": true, "AntreaProxy": proxy}))]
}

/// The example of docs/policies.md with these words.
pub(crate) fn documented(words: &str) -> Value {
    let page = include_str!("../../../docs/policies.md");
    let mut examples = page.split("```yaml\n").skip(1).map(|part| part.split("```").next().unwrap());
    let example = examples.find(|text| text.contains(words)).expect("an example");
    serde_saphyr::from_str(example).unwrap()
}

/// Whether connections to there come about; none if some do and others do not, or if nobody serves the address yet: then
/// the host says that there is no way.
async fn reaches(client: &str, to: SocketAddr) -> Option<bool> {
    let mut found = Vec::new();
    for _ in 0..2 {
        found.push(match connect(client, to).await {
            Ok(_) => true,
            Err(error) if error.kind() == ErrorKind::NetworkUnreachable => return None,
            Err(error) => {
                let is_denied = matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::ConnectionRefused);
                assert!(is_denied, "{to}: {error}");
                false
            }
        });
    }
    (found[0] == found[1]).then_some(found[0])
}

pub(crate) async fn becomes(client: &str, what: &str, wanted: &[(SocketAddr, bool)]) {
    let end = std::time::Instant::now() + LIMIT;
    loop {
        let mut found = Vec::new();
        for (to, _) in wanted {
            found.push(reaches(client, *to).await);
        }
        if wanted.iter().zip(&found).all(|((_, right), found)| *found == Some(*right)) {
            println!("{what}");
            return;
        }
        assert!(std::time::Instant::now() < end, "{what}: {wanted:?} but {found:?}");
    }
}

pub(crate) async fn realized(lab: &Lab, collection: &str, namespace: Option<&str>, name: &str) {
    let done = || {
        let object = lab.api.get(collection, namespace, name).unwrap();
        let status = &object["status"];
        status["phase"] == "Realized" && status["observedGeneration"] == object["metadata"]["generation"]
    };
    eventually(&format!("{name} is told to be realized"), LIMIT, done).await;
}

fn rule(action: &str, services: &[&str]) -> Value {
    let named: Vec<Value> =
        services.iter().map(|name| json!({"name": name, "namespace": "default"})).collect();
    json!({"name": format!("{action}-{}", services.join("-")), "action": action, "toServices": named, "enableLogging": true})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_a_service_is_judged_whichever_endpoint_it_gets() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &gates(true)).await;
    lab.agent_args = vec!["--statistics-interval=2"];
    lab.start_agents().await;
    let mut pod = |index: usize, name: &str| {
        lab.put_pod(index, name, &[("name", name)], None);
        lab.add_pod(index, name)
    };
    let (client, near, far) = (pod(0, "client"), pod(0, "near"), pod(1, "far"));
    let _listeners = (listen(&near.netns).await, listen(&far.netns).await);
    put_service(&lab, "web", WEB, &json!({}));
    put_service(&lab, "other", OTHER, &json!({"sessionAffinity": "ClientIP"}));
    for name in ["web", "other"] {
        put_endpoints(&lab, name, &[near.ip, far.ip]);
    }
    let direct = [near.ip, far.ip].map(|ip| SocketAddr::new(ip, TARGET));
    let everything = |web: bool, other: bool, endpoints: bool| {
        [(at(WEB), web), (at(OTHER), other), (direct[0], endpoints), (direct[1], endpoints)]
    };
    becomes(&client.netns, "without a rule", &everything(true, true, true)).await;

    let applied = json!([{"podSelector": {"matchLabels": {"name": "client"}}}]);
    let acnp = |rules: Value| {
        put(
            &lab,
            CLUSTER_POLICIES,
            None,
            "gate",
            &json!({"priority": 5, "appliedTo": applied, "egress": rules}),
        )
    };
    acnp(json!([rule("Drop", &["web"])]));
    realized(&lab, CLUSTER_POLICIES, None, "gate").await;
    becomes(&client.netns, "one is dropped", &everything(false, true, true)).await;
    assert!(connect(&near.netns, at(WEB)).await.is_ok(), "of others nothing is");
    // Datagrams too, also when their translation is known.
    let (from, to) = (bind(&client.netns, 0).await, bind(&near.netns, TARGET).await);
    let to_far = bind(&far.netns, TARGET).await;
    let arrived = || {
        let mut octets = [0; 8];
        to.recv(&mut octets).is_ok() || to_far.recv(&mut octets).is_ok()
    };
    for _ in 0..20 {
        from.send_to(b"x", at(WEB)).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!arrived(), "none of them");
    from.send_to(b"x", at(OTHER)).unwrap();
    eventually("another Service's arrive", LIMIT, arrived).await;

    // What is dropped is counted and logged.
    let endpoint = lab.controller_endpoint(Some("lab-reader")).unwrap();
    let counted = async {
        loop {
            let path = "/apis/stats.antrea.io/v1alpha1/antreaclusternetworkpolicystats/gate";
            if let Ok((200, text)) = https::get(&endpoint, path).await {
                let found: Value = serde_json::from_str(&text).unwrap();
                if found["ruleTrafficStats"][0]["trafficStats"]["packets"].as_u64() >= Some(22) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::time::timeout(LIMIT, counted).await.expect("statistics");
    let log = || std::fs::read_to_string(lab.nodes[0].dir.join("np.log")).unwrap_or_default();
    eventually("it is logged", LIMIT, || {
        log().contains("AntreaClusterNetworkPolicy:gate Drop-web Egress Drop")
    })
    .await;

    // Refused at once, as the Service's own refusal.
    acnp(json!([rule("Reject", &["web"])]));
    let mut last = None;
    let end = std::time::Instant::now() + LIMIT;
    while last != Some(ErrorKind::ConnectionRefused) {
        last = connect(&client.netns, at(WEB)).await.err().map(|error| error.kind());
        assert!(std::time::Instant::now() < end, "{last:?}");
    }

    // To one Service and nowhere else.
    acnp(json!([rule("Allow", &["web"]), {"name": "rest", "action": "Drop"}]));
    becomes(&client.netns, "one alone is allowed", &everything(true, false, false)).await;
    // It moves, it goes, and comes back.
    const MOVED: &str = "10.96.0.64";
    put_service(&lab, "web", MOVED, &json!({}));
    becomes(
        &client.netns,
        "it has another address",
        &[(at(MOVED), true), (at(WEB), false), (at(OTHER), false)],
    )
    .await;
    put_service(&lab, "web", WEB, &json!({}));
    becomes(&client.netns, "it is back", &everything(true, false, false)).await;

    // Over an agent's restart nothing opens, and what is allowed stays so.
    lab.nodes[0].kill_agent();
    lab.start_agent(0);
    lab.wait_ready(0).await;
    assert_eq!(reaches(&client.netns, at(OTHER)).await, Some(false));
    becomes(&client.netns, "after a restart", &everything(true, false, false)).await;

    // A namespace's own policy, and what has no endpoint: it does not even go to the host, which might know one.
    lab.api.delete(CLUSTER_POLICIES, None, "gate");
    sh(&format!(
        "ip netns exec {} iptables -w -I FORWARD -d {EMPTY} -j REJECT --reject-with icmp-port-unreachable",
        lab.nodes[0].netns
    ));
    put_service(&lab, "empty", EMPTY, &json!({}));
    let end = std::time::Instant::now() + LIMIT;
    while connect(&client.netns, at(EMPTY)).await.err().map(|error| error.kind())
        != Some(ErrorKind::ConnectionRefused)
    {
        assert!(std::time::Instant::now() < end, "the host is not asked");
    }
    let own = json!({"priority": 1, "appliedTo": applied,
                     "egress": [{"action": "Drop", "toServices": [{"name": "empty"}, {"name": "other"}]}]});
    put(&lab, POLICIES, Some("default"), "own", &own);
    realized(&lab, POLICIES, Some("default"), "own").await;
    becomes(
        &client.netns,
        "a namespace's",
        &[(at(EMPTY), false), (at(OTHER), false), (at(WEB), true), (direct[1], true)],
    )
    .await;
    lab.api.delete(SERVICES, Some("default"), "other");
    lab.api.delete(POLICIES, Some("default"), "own");

    // The example of the documentation.
    let example = documented("toServices:");
    let [client_ip, server]: [IpAddr; 2] = [client.ip, far.ip];
    println!("{client_ip} to {server}: {}", example["metadata"]["name"]);
    lab.put_pod(0, "client", &[("name", "client"), ("app", "report")], None);
    put_service(&lab, "db", OTHER, &json!({}));
    put_endpoints(&lab, "db", &[far.ip]);
    put(&lab, CLUSTER_POLICIES, None, example["metadata"]["name"].as_str().unwrap(), &example["spec"]);
    becomes(&client.netns, "as documented", &[(at(OTHER), true), (at(WEB), false), (direct[1], false)]).await;
    assert_eq!(at(WEB).port(), PORT);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_proxy_nothing_opens_and_the_policy_says_so() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &gates(false)).await;
    let mut pod = |name: &str| {
        lab.put_pod(0, name, &[("name", name)], None);
        lab.add_pod(0, name)
    };
    let (client, server, other) = (pod("client"), pod("server"), pod("other"));
    let _listeners = (listen(&server.netns).await, listen(&other.netns).await);
    let to = SocketAddr::new(server.ip, TARGET);
    assert_eq!(reaches(&client.netns, to).await, Some(true));
    let spec = json!({"priority": 5, "appliedTo": [{"podSelector": {"matchLabels": {"name": "client"}}}],
                      "egress": [rule("Drop", &["web"])]});
    put(&lab, CLUSTER_POLICIES, None, "gate", &spec);
    let mut last = Value::Null;
    let told = || {
        last = lab.api.get(CLUSTER_POLICIES, None, "gate").unwrap()["status"].clone();
        last["phase"] == "Failed" && last.to_string().contains("toServices needs AntreaProxy")
    };
    eventually("its status says why", LIMIT, told).await;
    becomes(&client.netns, "it denies", &[(to, false)]).await;
    assert_eq!(reaches(&other.netns, to).await, Some(true), "and nobody else");
}
