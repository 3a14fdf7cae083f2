//! Datagrams larger than the MTU under rules with ports: from sockets, through the kernel's fragmentation.

use std::net::IpAddr;
use std::time::Duration;

use antrea_tests::lab::{Lab, Pod, eventually};
use antrea_tests::traffic::{ping, udp};
use serde_json::{Value, json};

/// One datagram of a little more than the MTU, one of many fragments, one that fits.
const SIZES: [usize; 3] = [1500, 30_000, 1000];

fn ports(from: u16, to: u16) -> Value {
    json!([{"protocol": "UDP", "port": from, "endPort": to}])
}

#[tokio::test(flavor = "multi_thread")]
async fn large_datagrams_pass_where_their_port_is_allowed_and_nowhere_else() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[]).await;
    lab.add_ipv6();
    lab.start_agents().await;
    let (server, near, far) = (lab.add_pod(0, "server"), lab.add_pod(0, "near"), lab.add_pod(1, "far"));
    let client = lab.add_pod(0, "client");
    // 7600 and up may be asked of "server"; 7600 and up may be asked by "client".
    for (name, direction, rules) in [("server", "Ingress", "ingress"), ("client", "Egress", "egress")] {
        lab.put_policy(
            name,
            &json!({
                "podSelector": {"matchLabels": {"name": name}},
                "policyTypes": [direction],
                rules: [{"ports": ports(7600, 7699)}],
            }),
        );
    }
    let isolated = || !ping(&far.netns, server.ip, 56, true) && !ping(&client.netns, far.ip, 56, true);
    eventually("the policies are in force", Duration::from_secs(30), isolated).await;

    let mut failures = Vec::new();
    let (mut allowed, mut denied) = (7600, 7700);
    for (from, to) in
        [(&near, &server), (&far, &server), (&client, &near), (&client, &far), (&client, &server)]
    {
        let address: [fn(&Pod) -> IpAddr; 2] = [|pod| pod.ip, Pod::ipv6];
        for address in address.map(|of| of(to)) {
            for size in SIZES {
                // Each the first of its connection.
                let answered = udp(&from.netns, &to.netns, address, allowed, size).await;
                if let Err(error) = answered {
                    failures.push(format!("{} to {address}, {size} octets: {error}", from.name));
                }
                allowed += 1;
            }
            let leaked = udp(&from.netns, &to.netns, address, denied, SIZES[0]).await;
            if leaked.is_ok() {
                failures.push(format!("{} to {address}: passed on a port that is denied", from.name));
            }
            denied += 1;
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
