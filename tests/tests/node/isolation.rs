//! A pod that may send nothing reaches its host by no way: not through the bridge, and not past it by the link that
//! the host has in common with it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use antrea_tests::lab::{Lab, Pod, eventually, sh, try_in};
use antrea_tests::raw;
use antrea_tests::traffic::{Sink, send_from};
use netcfg::{FrameSocket, MacAddr};
use serde_json::json;

const PORT: u16 = 7100;
const LIMIT: Duration = Duration::from_secs(30);

/// What a pod can send at the other end of its link so that it would arrive there: datagrams to each address, by the
/// link's hardware address and by broadcast, and to all nodes of the link.
fn datagrams(mac: MacAddr, ips: &[IpAddr], link: MacAddr, targets: &[IpAddr]) -> Vec<Vec<u8>> {
    let all: IpAddr = "ff02::1".parse().unwrap();
    let all_mac = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    let local = IpAddr::from(raw::link_local(mac));
    let mut frames = Vec::new();
    for target in targets.iter().chain([&IpAddr::from(raw::link_local(link))]) {
        let from = ips.iter().find(|ip| ip.is_ipv4() == target.is_ipv4()).copied().unwrap_or(local);
        frames.push(raw::udp((mac, from), (link, *target), PORT));
        if target.is_ipv4() {
            frames.push(raw::udp((mac, from), (MacAddr::BROADCAST, *target), PORT));
        }
    }
    frames.push(raw::udp((mac, local), (all_mac, all), PORT));
    frames
}

/// Questions that the other end would answer.
fn questions(mac: MacAddr, ips: &[IpAddr], link: MacAddr, targets: &[IpAddr]) -> Vec<Vec<u8>> {
    let local = raw::link_local(mac);
    let mut frames = vec![raw::neighbour_solicitation((mac, local), raw::link_local(link))];
    for target in targets {
        for ip in ips {
            match (ip, target) {
                (IpAddr::V4(ip), IpAddr::V4(target)) => frames.push(raw::arp_request((mac, *ip), *target)),
                (IpAddr::V6(ip), IpAddr::V6(target)) => {
                    frames.push(raw::neighbour_solicitation((mac, *ip), *target));
                }
                _ => {}
            }
        }
    }
    frames
}

/// Sends frames and returns those that came from `link` within `time`.
async fn exchange(socket: &FrameSocket, frames: &[Vec<u8>], link: MacAddr, time: Duration) -> Vec<Vec<u8>> {
    for frame in frames {
        socket.send(frame).await.unwrap();
    }
    let (mut answers, end, mut buffer) = (Vec::new(), Instant::now() + time, [0; 2048]);
    while let Ok(received) = tokio::time::timeout(end - Instant::now(), socket.receive(&mut buffer)).await {
        let frame = &buffer[..received.unwrap()];
        if frame.get(6..12) == Some(&link.0[..]) {
            answers.push(frame.to_vec());
        }
    }
    answers
}

fn mac(text: &str) -> MacAddr {
    text.trim().parse().unwrap()
}

/// The same frames to a host that lets its link alone: all of the datagrams arrive, and all questions are answered.
async fn a_plain_link_lets_all_through(lab: &mut Lab, ips: &[IpAddr], targets: &[IpAddr]) {
    let (host, guest) = (lab.new_netns(0, "host"), lab.new_netns(0, "guest"));
    sh(&format!("ip -n {host} link add eth0 type veth peer name eth0 netns {guest}"));
    for target in targets {
        let option = if target.is_ipv6() { "nodad" } else { "" };
        sh(&format!("ip -n {host} addr add {target} dev lo {option}"));
    }
    for netns in [&host, &guest] {
        sh(&format!("ip -n {netns} link set eth0 up"));
    }
    let address = |netns: &str| mac(&sh(&format!("ip netns exec {netns} cat /sys/class/net/eth0/address")));
    let (mine, link) = (address(&guest), address(&host));
    let (sink, socket) = (Sink::open(&host, PORT).await, raw::open(&guest, "eth0").await);
    let frames = datagrams(mine, ips, link, targets);
    let begin = Instant::now();
    // Duplicate address detection on the link takes a second.
    loop {
        let before = sink.count();
        let answers =
            exchange(&socket, &questions(mine, ips, link, targets), link, Duration::from_millis(200)).await;
        exchange(&socket, &frames, link, Duration::from_millis(200)).await;
        let arp = answers.iter().filter(|frame| frame[12..14] == [8, 6]).count();
        let arrived = sink.count() - before;
        if arrived == frames.len() as u64
            && arp >= targets.iter().filter(|ip| ip.is_ipv4()).count()
            && answers.len() > arp
        {
            return;
        }
        assert!(
            begin.elapsed() < LIMIT,
            "{arrived} of {}, {} answers: {:?}",
            frames.len(),
            answers.len(),
            sink.seen()
        );
    }
}

async fn a_pod_without_egress(ipv6: bool) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[]).await;
    if ipv6 {
        lab.add_ipv6();
    }
    lab.start_agents().await;
    let pod = lab.add_pod(0, "shut");
    let ips = pod.ips();
    let mut targets: Vec<IpAddr> = vec![lab.nodes[0].ip.into(), "10.244.1.1".parse().unwrap()];
    if ipv6 {
        targets.extend(["fd00:31::11", "fd00:244:1::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    }
    assert_eq!(ips.len(), if ipv6 { 2 } else { 1 });
    a_plain_link_lets_all_through(&mut lab, &ips, &targets).await;

    let sink = Sink::open(&lab.nodes[0].netns, PORT).await;
    // By its own stack, to each address of its node: this is what the policy takes away.
    let probe = async |pod: &Pod| {
        for target in &targets {
            let source = ips.iter().find(|ip| ip.is_ipv4() == target.is_ipv4()).unwrap();
            send_from(&pod.netns, *source, SocketAddr::new(*target, PORT)).await.unwrap();
        }
    };
    let begin = Instant::now();
    while ips
        .iter()
        .any(|ip| sink.seen().get(ip).copied().unwrap_or(0) < 2 * targets.len() as u64 / ips.len() as u64)
    {
        assert!(begin.elapsed() < LIMIT, "without a policy probes of all kinds arrive: {:?}", sink.seen());
        probe(&pod).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    lab.put_policy(
        "shut",
        &json!({"podSelector": {"matchLabels": {"name": "shut"}}, "policyTypes": ["Egress"]}),
    );
    let known = "antrea_agent_networkpolicy_count";
    eventually("the agent tells its CA", LIMIT, || {
        lab.api
            .get(antrea_tests::lab::AGENT_INFOS, None, "node1")
            .is_some_and(|info| info["apiCABundle"].is_string())
    })
    .await;
    let begin = Instant::now();
    while lab.agent_metric(0, known).await < 1.0 {
        assert!(begin.elapsed() < LIMIT, "the policy is not in force");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What is under way arrives.
    tokio::time::sleep(Duration::from_millis(300)).await;

    let before = sink.seen();
    let name = pod.result["interfaces"][0]["name"].as_str().unwrap();
    let address = ["cat", &format!("/sys/class/net/{name}/address")];
    let link = mac(&String::from_utf8(try_in(&lab.nodes[0].netns, &address).stdout).unwrap());
    let mine = mac(&pod.mac);
    let socket = raw::open(&pod.netns, "eth0").await;
    let frames = [questions(mine, &ips, link, &targets), datagrams(mine, &ips, link, &targets)].concat();
    let mut answers = Vec::new();
    for _ in 0..20 {
        probe(&pod).await;
        answers.extend(exchange(&socket, &frames, link, Duration::from_millis(100)).await);
    }
    let now: BTreeMap<IpAddr, u64> = sink.seen();
    println!(
        "{} frames and {} datagrams sent, arrived before: {before:?}",
        20 * frames.len(),
        20 * targets.len()
    );
    assert_eq!(now, before, "a pod without egress reached its node");
    assert!(answers.is_empty(), "the host answered on the pod's link: {:02x?}", answers[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_egress_does_not_reach_its_node() {
    a_pod_without_egress(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_with_both_families() {
    a_pod_without_egress(true).await;
}
