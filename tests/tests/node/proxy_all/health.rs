//! What load balancers are told.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use antrea_tests::lab::NODES;
use netcfg::{Family, Netns};
use serde_json::{Value, json};

use super::{LIMIT, cluster_ip, external_ip, lab, put_endpoints, put_service};

/// Status and body of an answer.
async fn get(client: &str, to: SocketAddr, path: &'static str) -> Option<(u16, Value)> {
    let netns = Netns::open(format!("/run/netns/{client}")).unwrap();
    let ask = move || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")?;
        let mut all = String::new();
        stream.read_to_string(&mut all)?;
        Ok(all)
    };
    let all = netns.run(ask).await.unwrap().ok()?;
    let (head, body) = all.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, serde_json::from_str(body).ok()?))
}

async fn until(
    client: &str,
    to: SocketAddr,
    path: &'static str,
    wanted: impl Fn(&Option<(u16, Value)>) -> bool,
) {
    let end = Instant::now() + LIMIT;
    loop {
        let now = get(client, to, path).await;
        if wanted(&now) {
            return;
        }
        assert!(Instant::now() < end, "{to}{path}: {now:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_tells_of_its_endpoints_and_of_itself() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(2).await;
    let b = lab.add_pod(0, "b");
    let outside = lab.outside();
    let local =
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32_001});
    let status = json!({"loadBalancer": {"ingress": [{"ip": external_ip(Family::V4, 1)}]}});
    put_service(&lab, "web", cluster_ip(Family::V4, 1), 30_001, &local, &status);
    put_endpoints(&lab, "web", &[(b.ip, "node1")]);
    let body = |endpoints: u8| {
        json!({"service": {"namespace": "default", "name": "web"},
               "localEndpoints": endpoints, "serviceProxyHealthy": true})
    };
    for (index, endpoints, status) in [(0, 1, 200), (1, 0, 503)] {
        let at = SocketAddr::new(lab.node_ip(index, Family::V4), 32_001);
        until(&outside, at, "/", |now| *now == Some((status, body(endpoints)))).await;
    }
    let at = SocketAddr::new(lab.node_ip(0, Family::V6), 32_001);
    until(&outside, at, "/", |now| *now == Some((200, body(1)))).await;

    let proxy = SocketAddr::new(lab.node_ip(0, Family::V4), 10_256);
    until(&outside, proxy, "/healthz", |now| {
        now.as_ref().is_some_and(|(status, body)| *status == 200 && body["nodeEligible"] == true)
    })
    .await;
    let mut node = lab.api.get(NODES, None, "node1").unwrap();
    node["spec"]["taints"] = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    lab.api.put(NODES, node);
    until(&outside, proxy, "/healthz", |now| {
        now.as_ref().is_some_and(|(status, body)| *status == 503 && body["nodeEligible"] == false)
    })
    .await;
    assert_eq!(get(&outside, proxy, "/livez").await.map(|(status, _)| status), Some(200));

    put_endpoints(&lab, "web", &[]);
    let at = SocketAddr::new(lab.node_ip(0, Family::V4), 32_001);
    until(&outside, at, "/", |now| *now == Some((503, body(0)))).await;
    put_service(&lab, "web", cluster_ip(Family::V4, 1), 30_001, &json!({}), &json!({}));
    until(&outside, at, "/", Option::is_none).await;
}
