//! A new pod is in its peers' policies before kubelet has written its address into its status.

use std::net::IpAddr;
use std::time::Duration;

use antrea_tests::lab::{Lab, LabNode, PODS, eventually};
use antrea_tests::traffic::{ping, quick_ping};
use serde_json::json;

/// The goal is 50 ms; without the agent's word it would never be.
const LIMIT: Duration = Duration::from_secs(20);

fn allows(node: &LabNode, ip: IpAddr) -> bool {
    let matched = format!("nw_src={ip}");
    let flows = node.ofctl("dump-flows", &["table=IngressRule"]);
    flows.lines().any(|line| line.split([',', ' ']).any(|part| part == matched))
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_know_a_new_pod_before_its_status_does() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[]).await;
    lab.put_pod(0, "server", &[("app", "server")], None);
    let server = lab.add_pod(0, "server");
    lab.put_pod(1, "stranger", &[("role", "stranger")], None);
    let stranger = lab.attach_pod(1, "stranger");
    assert!(ping(&stranger.netns, server.ip, 56, true), "without a policy");
    lab.put_policy(
        "clients",
        &json!({
            "podSelector": {"matchLabels": {"app": "server"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "client"}}}]}],
        }),
    );
    eventually("the policy is in force", LIMIT, || !quick_ping(&stranger.netns, server.ip)).await;

    for name in ["client0", "client1", "client2"] {
        lab.put_pod(1, name, &[("role", "client")], None);
        let client = lab.attach_pod(1, name);
        let known =
            eventually("a peer's policy has the new pod", LIMIT, || allows(&lab.nodes[0], client.ip)).await;
        println!("{name}: in the peer's policy {known:.1?} after ADD");
        assert!(ping(&client.netns, server.ip, 56, true));
        let status = lab.api.get(PODS, Some("default"), name).unwrap()["status"].clone();
        assert_eq!(status["podIPs"], json!([]), "the address is known from the agent alone");
        assert!(!quick_ping(&stranger.netns, server.ip));
        let metric = "antrea_agent_pod_address_told_duration_seconds";
        let (sum, count) = (
            lab.agent_metric(1, &format!("{metric}_sum")).await,
            lab.agent_metric(1, &format!("{metric}_count")).await,
        );
        println!("{count} times told, {:.1} ms each", sum * 1000.0 / count);
        assert!(count > 0.0);
        if name != "client0" {
            // Told no more with the pod: the API server has it for longer.
            let (output, text) = lab.nodes[1].cni("DEL", &client.container_id, &client.netns, "1.0.0", None);
            assert!(output.status.success(), "{text}");
            eventually("the address is taken back", LIMIT, || !allows(&lab.nodes[0], client.ip)).await;
            lab.nodes[1].remove_netns(&client.netns);
        } else {
            // Another controller is told by itself.
            lab.kill_controller();
            lab.start_controller();
            lab.wait_controller().await;
            eventually("the new controller is told", LIMIT, || {
                let log = std::fs::read_to_string(lab.controller_log()).unwrap_or_default();
                log.contains("complete list taken in") && allows(&lab.nodes[0], client.ip)
            })
            .await;
            let believed = &["antrea_controller_told_pod_addresses_total", "believed"];
            let begin = std::time::Instant::now();
            while lab.controller_metric(believed).await < 1.0 {
                assert!(begin.elapsed() < LIMIT, "it is not told again");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            // kubelet says the same: nothing changes.
            lab.report_pod_ips(name, &client.ips());
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert!(ping(&client.netns, server.ip, 56, true));
        }
    }
}
