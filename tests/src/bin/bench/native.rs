//! 10,000 native rules on the way of a pod's packets: what the agent's memory and the packets make of them; and a flood of
//! what they deny, with the log on.

use std::time::{Duration, Instant};

use antrea_tests::lab::{Lab, Pod};
use antrea_tests::traffic::ping;
use anyhow::ensure;
use serde_json::{Value, json};

use crate::footprint::resident;
use crate::observe::cpu;
use crate::report::{Figure, Goal, Report, median};
use crate::throughput::{Load, iperf3};

const POLICIES: usize = 100;
const RULES: usize = 100;
const RUNS: usize = 5;
const LIMIT: Duration = Duration::from_secs(300);
const CLUSTER_POLICIES: &str = "apis/crd.antrea.io/v1beta1/clusternetworkpolicies";
const COUNT: &str = "antrea_agent_ingress_networkpolicy_rule_count";
/// Meters of the log and of Reject; see the agent's documentation of metrics.
const METERED: &str = "antrea_agent_ovs_meter_packet_dropped_count";

/// How long denied packets come, as many as a sender can send.
const FLOOD: Duration = Duration::from_secs(10);

fn labelled(name: &str) -> Value {
    json!({"podSelector": {"matchLabels": {"name": name}}})
}

/// A policy of many rules about a pod, each with a block and a port of its own that nobody has.
fn policy(number: usize) -> Value {
    let rule = |rule: usize| {
        let at = number * RULES + rule;
        json!({
            "name": format!("r{rule}"), "action": if at.is_multiple_of(2) { "Drop" } else { "Allow" },
            "from": [{"ipBlock": {"cidr": format!("172.{}.{}.{}/32", 16 + (at >> 16), at >> 8 & 255, at & 255)}}],
            "ports": [{"protocol": "TCP", "port": 1_000 + rule}],
        })
    };
    json!({
        "priority": number + 1, "appliedTo": [labelled("b")],
        "ingress": (0..RULES).map(rule).collect::<Vec<_>>(),
    })
}

fn put(lab: &Lab, name: &str, spec: Value) {
    lab.api.put(CLUSTER_POLICIES, json!({"metadata": {"name": name, "generation": 1}, "spec": spec}));
}

async fn rules(lab: &Lab, wanted: usize) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    loop {
        let count = lab.agent_metric(0, COUNT).await;
        if count >= wanted as f64 {
            return Ok(begin.elapsed());
        }
        ensure!(begin.elapsed() < LIMIT, "{COUNT} is {count}, not {wanted}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Two pods of one node.
async fn two_pods() -> anyhow::Result<(Lab, Pod, Pod)> {
    let mut lab = Lab::start(1, &[("logLevel", json!("info"))]).await;
    let mut pod = |name: &str| {
        lab.put_pod(0, name, &[("name", name)], None);
        lab.add_pod(0, name)
    };
    let (a, b) = (pod("a"), pod("b"));
    ensure!(ping(&a.netns, b.ip, 56, true), "b does not answer");
    Ok((lab, a, b))
}

/// TCP and small datagrams between the pods of each pair, in turns.
async fn between(report: &Report, pairs: [(&Pod, &Pod); 2]) -> anyhow::Result<()> {
    for (what, unit, load) in [
        ("TCP throughput", "Gbit/s", Load::Tcp),
        ("64-octet UDP packets received", "kpackets/s", Load::SmallUdp),
    ] {
        let mut results = [Vec::new(), Vec::new()];
        for run in 0..RUNS {
            for turn in [run % 2, 1 - run % 2] {
                let (a, b) = pairs[turn];
                results[turn].push(iperf3(&a.netns, &b.netns, b.ip, load).await?);
            }
        }
        let [with, without] = results.each_ref().map(|results| median(results));
        report.add(
            Figure::new(format!("{what} beside 10,000 native rules of the pod"), unit, with)
                .peer(without)
                .goal(Goal::RatioAtLeast(0.97))
                .note("peer: another bridge without rules"),
        );
    }
    Ok(())
}

/// Measures all of it.
///
/// # Errors
/// The agent does not come as far.
pub(crate) async fn run(report: Report) -> anyhow::Result<()> {
    let (lab, a, b) = two_pods().await?;
    let agent = lab.nodes[0].agent_pid();
    let (idle, _) = resident(agent)?;

    for number in 0..POLICIES {
        put(&lab, &format!("p{number}"), policy(number));
    }
    let took = rules(&lab, POLICIES * RULES).await?;
    let flows = lab.agent_metric(0, "antrea_agent_ovs_total_flow_count").await;
    report.say(&format!("{} rules, {flows} flows, {took:.1?} after the last object", POLICIES * RULES));
    let (memory, note) = resident(agent)?;
    report.add(
        Figure::new("agent with 10,000 native rules", "MB", memory)
            .peer(idle)
            .goal(Goal::AtMost(60.0))
            .note(format!("{flows} flows; {note}; peer: without")),
    );
    let (_without, other_a, other_b) = two_pods().await?;
    between(&report, [(&a, &b), (&other_a, &other_b)]).await?;

    let deny = json!({
        "priority": 0.5, "tier": "emergency", "appliedTo": [labelled("b")],
        "ingress": [{"name": "flood", "action": "Drop", "enableLogging": true, "from": [labelled("a")],
                     "ports": [{"protocol": "UDP", "port": 7_777}]}],
    });
    put(&lab, "flood", deny);
    rules(&lab, POLICIES * RULES + 1).await?;
    let (before, spent) = (resident(agent)?.0, cpu(agent)?);
    let metered = lab.agent_metric(0, METERED).await;
    let begin = Instant::now();
    let sent = flood(&a, &b).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let share = (cpu(agent)? - spent).as_secs_f64() / seconds * 100.0;
    let kept_away = lab.agent_metric(0, METERED).await - metered;
    let note =
        format!("{:.0} packets a second, {kept_away} of them kept from the agent by a meter", sent / seconds);
    report.add(Figure::new("a flood of denied and logged packets: agent", "% of a core", share).note(note));
    let (after, note) = resident(agent)?;
    report.add(
        Figure::new("a flood of denied and logged packets: agent's memory after it", "MB", after)
            .peer(before)
            .note(format!("{note}; peer: before")),
    );
    let size = std::fs::metadata(lab.nodes[0].dir.join("np.log"))?.len();
    report.add(Figure::new("a flood of denied and logged packets: the log", "KB", size as f64 / 1e3));
    Ok(())
}

/// Sends as fast as one thread can for [`FLOOD`]. Returns how many.
async fn flood(a: &Pod, b: &Pod) -> anyhow::Result<f64> {
    let netns = netcfg::Netns::open(format!("/run/netns/{}", a.netns))?;
    let (from, to) = (a.ip, b.ip);
    let socket = netns.run(move || std::net::UdpSocket::bind((from, 7_777))).await??;
    let sending = tokio::task::spawn_blocking(move || {
        let begin = Instant::now();
        let mut sent = 0u32;
        while begin.elapsed() < FLOOD {
            for _ in 0..64 {
                sent += u32::from(socket.send_to(b"flood", (to, 7_777)).is_ok());
            }
        }
        f64::from(sent)
    });
    Ok(sending.await?)
}
