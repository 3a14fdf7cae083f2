//! Whoever reaches the ports of agent, controller and operator holds thousands of connections without being allowed anything, from
//! one address and from many. Probes, scrapes, watches and ADDs go on, and memory stays bounded.
//!
//! `ANTREA_TEST_CONNECTIONS` (2,000) says how many to each port.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use antrea_tests::crowd::{Crowd, Manner};
use antrea_tests::https::{self, Endpoint};
use antrea_tests::lab::operator::Operator;
use antrea_tests::lab::{AGENT_INFOS, Lab, eventually, sh};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

/// The longest that an answer may take while a crowd is there, on two busy cores.
const ANSWER: Duration = Duration::from_secs(5);

/// What a crowd may cost, in MiB: what the ports' limits allow, and what a process takes for its own work meanwhile.
const AGENT_MEMORY: u64 = 9 + 40;
const CONTROLLER_MEMORY: u64 = 110 + 60;
const OPERATOR_MEMORY: u64 = 9 + 40;

fn connections() -> usize {
    let text = std::env::var("ANTREA_TEST_CONNECTIONS");
    text.map_or(2_000, |text| text.parse().expect("ANTREA_TEST_CONNECTIONS must be a number"))
}

/// Resident memory in MiB, and the most that it was.
fn memory(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |key: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (of("VmRSS:") / 1024, of("VmHWM:") / 1024)
}

/// Gives a namespace a number of addresses of a /24, and another the way to them.
fn many_addresses(
    netns: &str,
    dev: &str,
    net: [u8; 3],
    count: u8,
    from: &str,
    via: Ipv4Addr,
) -> Vec<Ipv4Addr> {
    let [a, b, c] = net;
    sh(&format!("ip -n {from} route add {a}.{b}.{c}.0/24 via {via}"));
    let addresses = (1..=count).map(|last| Ipv4Addr::new(a, b, c, last));
    addresses.inspect(|address| drop(sh(&format!("ip -n {netns} addr add {address}/32 dev {dev}")))).collect()
}

/// Six crowds: each manner from one address and from many.
fn crowds(endpoint: &Endpoint, sources: &[Ipv4Addr]) -> Vec<(Manner, usize, Crowd)> {
    let each = connections() / 6;
    let kinds = [Manner::Idle, Manner::Slow, Manner::Pings];
    let kinds = kinds.into_iter().flat_map(|manner| [(manner, &sources[..1]), (manner, &sources[1..])]);
    kinds.map(|(manner, from)| (manner, from.len(), Crowd::start(endpoint, from, manner, each))).collect()
}

/// Status of a path, and how long the answer took.
async fn ask(endpoint: &Endpoint, path: &str, longest: &mut Duration) {
    let begin = Instant::now();
    let answer = https::get(endpoint, path).await;
    let took = begin.elapsed();
    assert!(matches!(answer, Ok((200, _))), "{path} of {}: {answer:?} after {took:?}", endpoint.address);
    assert!(took < ANSWER, "{path} of {}: answered after {took:?}", endpoint.address);
    *longest = (*longest).max(took);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_keeps_nobody_from_being_answered() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[("logLevel", json!("info"))]).await;
    let told = || lab.api.get(AGENT_INFOS, None, "node1").is_some_and(|i| i["apiCABundle"].is_string());
    eventually("the agent tells its CA", LIMIT, told).await;
    let (outside, node2) = (lab.outside(), lab.nodes[1].netns.clone());

    // The agent's port is reached from outside, the controller's from the second node: by addresses that are not the
    // server's own.
    let node1 = lab.nodes[0].netns.clone();
    let to_agent = many_addresses(&outside, "underlay0", [198, 51, 100], 200, &node1, lab.outside_ip());
    let to_controller = many_addresses(&node2, "eth0", [203, 0, 113], 200, &outside, lab.nodes[1].ip);
    let (own_agent, scrape_agent) = (lab.agent_endpoint(0, None), lab.agent_endpoint(0, Some("lab-scraper")));
    let own_controller = lab.controller_endpoint(None).unwrap();
    let hostile_agent = Endpoint {
        netns: outside.clone(),
        address: (lab.nodes[0].ip, lab.nodes[0].api_port).into(),
        ..own_agent.clone()
    };
    let hostile_controller = Endpoint { netns: node2, ..own_controller.clone() };
    // Another host that scrapes: known as soon as it was allowed, and a stranger until then.
    let scrape_controller =
        Endpoint { netns: node1, token: Some("lab-scraper".into()), ..own_controller.clone() };
    let scrape_agent_from_afar =
        Endpoint { netns: outside, address: hostile_agent.address, ..scrape_agent.clone() };

    let pids = [lab.nodes[0].agent_pid(), lab.controller_pid()];
    let before = pids.map(memory);
    let crowds: Vec<_> = [(&hostile_agent, &to_agent), (&hostile_controller, &to_controller)]
        .map(|(endpoint, sources)| crowds(endpoint, sources))
        .into_iter()
        .flatten()
        .collect();
    let begin = Instant::now();
    let (mut probe, mut scrape, mut change, mut add) =
        (Duration::ZERO, Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (mut round, mut peak) = (0, before.map(|(now, _)| now));
    while round < 3 || !crowds.iter().all(|(.., crowd)| crowd.is_over()) {
        ask(&own_agent, "/livez", &mut probe).await;
        ask(&own_controller, "/readyz", &mut probe).await;
        for endpoint in [&scrape_agent, &scrape_agent_from_afar, &scrape_controller] {
            ask(endpoint, "/metrics", &mut scrape).await;
        }
        // The agent's watches bring what the controller computes.
        let name = format!("p{round}");
        let known = lab.agent_metric(0, "antrea_agent_networkpolicy_count").await;
        let pod = lab.pod_netns(0, &format!("n{round}"));
        lab.put_policy(
            &name,
            &json!({"podSelector": {"matchLabels": {"name": format!("n{round}")}}, "policyTypes": ["Ingress"]}),
        );
        let start = Instant::now();
        while lab.agent_metric(0, "antrea_agent_networkpolicy_count").await <= known {
            assert!(start.elapsed() < LIMIT, "a policy does not arrive");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        change = change.max(start.elapsed());
        let start = Instant::now();
        let (output, text) =
            lab.nodes[0].cni("ADD", &format!("n{round}-0123456789abcdef"), &pod, "1.0.0", None);
        assert!(output.status.success(), "ADD: {text}");
        add = add.max(start.elapsed());
        for (peak, pid) in peak.iter_mut().zip(pids) {
            *peak = (*peak).max(memory(pid).0);
        }
        round += 1;
        assert!(begin.elapsed() < Duration::from_secs(900), "the crowds do not end");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for (manner, sources, crowd) in &crowds {
        let (opened, refused) = crowd.tried();
        println!("{manner:?} from {sources} addresses: {opened} connections opened, {refused} not");
        // What makes room for others may be cut in its handshake; of few a good part is there.
        assert!(opened > 0, "{manner:?} from {sources} addresses: none was opened");
    }
    let (opened, refused) = crowds
        .iter()
        .fold((0, 0), |(opened, refused), (.., crowd)| (opened + crowd.tried().0, refused + crowd.tried().1));
    println!(
        "{opened} hostile connections opened and {refused} cut in their handshake, in {:?}; {round} rounds; at most: probe \
         {probe:?}, scrape {scrape:?}, policy {change:?}, ADD {add:?}; memory in MiB, before and most: agent {} {}, \
         controller {} {}",
        begin.elapsed(),
        before[0].0,
        peak[0],
        before[1].0,
        peak[1]
    );
    assert!(opened + refused == 12 * (connections() / 6), "not all tried");
    let ended = "antrea_api_connections_ended_total";
    for (who, made_room) in [
        ("agent", lab.agent_metric(0, &format!("{ended}{{reason=\"room\"}}")).await),
        ("controller", lab.controller_metric(&[ended, "room"]).await),
    ] {
        println!("{who}: {made_room} connections had to make room");
        assert!(made_room > 0.0, "{who}: the crowd never filled the port");
    }
    for (who, at, most) in [("agent", 0, AGENT_MEMORY), ("controller", 1, CONTROLLER_MEMORY)] {
        let grown = peak[at].saturating_sub(before[at].0);
        assert!(grown <= most, "{who}: {grown} MiB more than before, {most} allowed");
    }
}

/// Tries in a row that kubelet makes before it takes the agent for dead (failureThreshold of its liveness probe).
const TRIES: usize = 5;

/// As [`ask`], by somebody who tries again when he is cut off. Returns how often he was.
async fn ask_again(endpoint: &Endpoint, path: &str, longest: &mut Duration) -> usize {
    for cut in 0.. {
        let begin = Instant::now();
        let answer = https::get(endpoint, path).await;
        let took = begin.elapsed();
        assert!(took < ANSWER, "{path} of {}: answered after {took:?}", endpoint.address);
        *longest = (*longest).max(took);
        if matches!(answer, Ok((200, _))) {
            return cut;
        }
        assert!(cut + 1 < TRIES, "{path} of {}: {answer:?}, the last of {TRIES} tries", endpoint.address);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    0
}

/// A pod of the host's network has the address from which kubelet asks: it cannot be told from kubelet before it has shown
/// who it is, so a try may be cut off, but not all that kubelet makes.
#[tokio::test(flavor = "multi_thread")]
async fn nor_does_a_crowd_on_the_node_itself() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let lab = Lab::start(1, &[("logLevel", json!("info"))]).await;
    let told = || lab.api.get(AGENT_INFOS, None, "node1").is_some_and(|i| i["apiCABundle"].is_string());
    eventually("the agent tells its CA", LIMIT, told).await;
    let (own, scrape) = (lab.agent_endpoint(0, None), lab.agent_endpoint(0, Some("lab-scraper")));
    let sources: Vec<_> = (1..=100).map(|last| Ipv4Addr::new(127, 0, 0, last)).collect();
    let pid = lab.nodes[0].agent_pid();
    let before = memory(pid).0;
    let crowds = crowds(&own, &sources);
    let begin = Instant::now();
    let (mut probe, mut asked, mut round, mut cut, mut peak) = (Duration::ZERO, Duration::ZERO, 0, 0, before);
    while round < 3 || !crowds.iter().all(|(.., crowd)| crowd.is_over()) {
        for path in ["/livez", "/readyz"] {
            cut += ask_again(&own, path, &mut probe).await;
        }
        cut += ask_again(&scrape, "/metrics", &mut asked).await;
        peak = peak.max(memory(pid).0);
        round += 1;
        assert!(begin.elapsed() < Duration::from_secs(900), "the crowds do not end");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let tried = crowds.iter().map(|(.., crowd)| crowd.tried());
    let (opened, refused) =
        tried.fold((0, 0), |(all, none), (opened, refused)| (all + opened, none + refused));
    println!(
        "{opened} hostile connections opened and {refused} cut in their handshake, in {:?}; {round} rounds, {cut} tries cut off; at most: probe \
         {probe:?}, scrape {asked:?}; memory in MiB, before and most: {before} {peak}",
        begin.elapsed()
    );
    assert!(opened > 0 && opened + refused == 6 * (connections() / 6), "not all tried");
    let made_room = lab.agent_metric(0, "antrea_api_connections_ended_total{reason=\"room\"}").await;
    assert!(made_room > 0.0, "the crowd never filled the port");
    assert!(peak - before <= AGENT_MEMORY, "{} MiB more than before, {AGENT_MEMORY} allowed", peak - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_keeps_nobody_from_the_operator() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let lab = Lab::without_agents(2, &[]).await;
    let operator = Operator::start(&lab).await;
    let (node1, node2) = (lab.nodes[0].netns.clone(), lab.nodes[1].netns.clone());
    let sources = many_addresses(&node2, "eth0", [203, 0, 113], 200, &lab.outside(), lab.nodes[1].ip);
    let own = Operator::endpoint(&lab, None).unwrap();
    let scrape = Operator::endpoint(&lab, Some("lab-scraper")).unwrap();
    // Another host: known as soon as it was allowed, and a stranger until then.
    let scrape_from_afar = Endpoint { netns: node1, ..scrape.clone() };

    let before = memory(operator.pid()).0;
    let crowds = crowds(&Endpoint { netns: node2, ..own.clone() }, &sources);
    let begin = Instant::now();
    let (mut probe, mut asked, mut round, mut peak) = (Duration::ZERO, Duration::ZERO, 0, before);
    while round < 3 || !crowds.iter().all(|(.., crowd)| crowd.is_over()) {
        for path in ["/livez", "/readyz"] {
            ask(&own, path, &mut probe).await;
        }
        for endpoint in [&scrape, &scrape_from_afar] {
            ask(endpoint, "/metrics", &mut asked).await;
        }
        peak = peak.max(memory(operator.pid()).0);
        // It has one thread for everything: a Lease that nobody renews for 15 s is another's.
        let leads = Operator::metric(&lab, "antrea_operator_leader").await;
        assert!(leads > 0.0, "it leads no more, in round {round}");
        round += 1;
        assert!(begin.elapsed() < Duration::from_secs(900), "the crowds do not end");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let tried = crowds.iter().map(|(.., crowd)| crowd.tried());
    let (opened, refused) =
        tried.fold((0, 0), |(all, none), (opened, refused)| (all + opened, none + refused));
    println!(
        "{opened} hostile connections opened and {refused} cut in their handshake, in {:?}; {round} rounds; at most: probe \
         {probe:?}, scrape {asked:?}; memory in MiB, before and most: {before} {peak}",
        begin.elapsed()
    );
    assert!(opened > 0 && opened + refused == 6 * (connections() / 6), "not all tried");
    let made_room = Operator::metric(&lab, "antrea_api_connections_ended_total{reason=\"room\"}").await;
    println!("{made_room} connections had to make room");
    assert!(made_room > 0.0, "the crowd never filled the port");
    let grown = peak.saturating_sub(before);
    assert!(grown <= OPERATOR_MEMORY, "{grown} MiB more than before, {OPERATOR_MEMORY} allowed");
}
