//! `antctl top` shows what really passes, and what is really dropped.

use std::process::Stdio;
use std::time::Duration;

use antrea_tests::lab::{Lab, eventually, try_in};
use antrea_tests::traffic::ping;
use serde_json::{Value, json};

use super::{kubeconfig, outside};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn the_busiest_pod_and_what_policy_drops() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[]).await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    let spec = json!({"podSelector": {"matchLabels": {"name": "b"}}, "policyTypes": ["Ingress"]});
    lab.put_policy("shut", &spec);
    eventually("b is isolated", LIMIT, || !ping(&a.netns, b.ip, 56, true)).await;
    let kubeconfig = kubeconfig(&lab);
    let container = outside(&lab, &kubeconfig);
    let mut command = container.command(&["top", "-i", "5s", "-o", "json"]);
    let antctl = command.stdout(Stdio::piped()).spawn().unwrap();
    // After the first look, and before the second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let send =
        |to: &str| try_in(&a.netns, &["ping", "-q", "-c", "40", "-i", "0.02", "-s", "1000", "-W", "1", to]);
    assert!(send(&c.ip.to_string()).status.success());
    assert!(!send(&b.ip.to_string()).status.success());
    let output = antctl.wait_with_output().unwrap();
    assert!(output.status.success());
    let view: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{view:#}");
    let row = |pod: &str| {
        let rows = view["pods"].as_array().unwrap();
        rows.iter().find(|row| row["pod"] == pod).unwrap_or_else(|| panic!("{pod}: {view:#}")).clone()
    };
    assert_eq!((&view["pods"][0]["pod"], &view["pods"][0]["node"]), (&json!("default/a"), &json!("node1")));
    let packets = |row: &Value, way: &str| row[way]["packetsPerSecond"].as_f64().unwrap();
    let (a, b, c) = (row("default/a"), row("default/b"), row("default/c"));
    // 80 sent and 40 answered in five seconds and a little.
    for (rate, expected) in
        [(packets(&a, "sent"), 16.0), (packets(&a, "received"), 8.0), (packets(&c, "sent"), 8.0)]
    {
        assert!((expected * 0.7..expected * 1.2).contains(&rate), "{rate} instead of {expected}");
    }
    assert!(packets(&b, "received") < 1.0, "nothing comes to a Pod that is shut off");
    let drops = view["drops"].as_array().unwrap();
    let shut = drops.iter().find(|drop| drop["table"] == "IngressDefaultRule").expect("what policy drops");
    let rate = shut["packetsPerSecond"].as_f64().unwrap();
    assert!((5.6..9.6).contains(&rate), "{rate} instead of 8");
    assert_eq!(shut["cause"], "ingress: isolated, and no rule allows it");
    assert_eq!(view["notAsked"], json!({}));
}
