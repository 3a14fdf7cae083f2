//! What restarts cost: an agent's, and a crash of Open vSwitch's daemons.

use std::time::{Duration, Instant};

use antrea_tests::lab::{Lab, LabNode};
use antrea_tests::ovs_container::{Daemon, OvsContainer};
use antrea_tests::traffic::{Pinger, ping, quick_ping};
use anyhow::{bail, ensure};
use serde_json::json;

use crate::report::{Figure, Goal, Report, median};

const AGENT_ROUNDS: usize = 5;
const OVS_ROUNDS: usize = 3;
const LIMIT: Duration = Duration::from_secs(30);

/// Measures restarts.
///
/// # Errors
/// Something does not come back.
pub(crate) async fn run(report: Report) -> anyhow::Result<()> {
    let mut lab = Lab::start(2, &[("logLevel", json!("info"))]).await;
    let (a, c) = (lab.add_pod(0, "a"), lab.add_pod(1, "c"));
    ensure!(ping(&a.netns, c.ip, 56, true), "no traffic to begin with");

    let pinger = Pinger::start(&a.netns, c.ip, 120);
    let (mut ends, mut times) = (Vec::new(), Vec::new());
    for round in 1..=AGENT_ROUNDS {
        let begin = Instant::now();
        lab.nodes[0].stop_agent();
        let end = begin.elapsed().as_secs_f64();
        lab.start_agent(0);
        ready(&lab.nodes[0]).await?;
        let whole = begin.elapsed().as_secs_f64();
        report.say(&format!("agent restart {round} of {AGENT_ROUNDS}: ended {end:.3} s, ready {whole:.3} s"));
        ends.push(end);
        times.push(whole);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let count = pinger.stop();
    ensure!(count.sent > 100, "only {} pings were sent", count.sent);
    let lost = f64::from(count.sent - count.received);
    report.add(Figure::new("agent restart: SIGTERM to the process's end, median", "s", median(&ends)));
    report.add(
        Figure::new("agent restart: SIGTERM to ready, median", "s", median(&times))
            .note("without a controller, for which a starting agent waits for some seconds"),
    );
    report.add(
        Figure::new(format!("agent restart: 10 ms pings lost in {AGENT_ROUNDS} restarts"), "pings", lost)
            .goal(Goal::AtMost(0.0))
            .note(format!("of {} sent", count.sent)),
    );

    let mut container = OvsContainer::take_over(&mut lab.nodes[0], u32::MAX);
    forwarding(&a.netns, c.ip)?;
    for (name, daemons) in [
        ("ovs-vswitchd", &[Daemon::Vswitchd][..]),
        ("ovsdb-server", &[Daemon::OvsdbServer][..]),
        ("both of Open vSwitch's daemons", &[Daemon::Vswitchd, Daemon::OvsdbServer][..]),
    ] {
        let mut worst = 0.0_f64;
        for round in 1..=OVS_ROUNDS {
            let crash = Instant::now();
            container.kill(daemons);
            let (down, since_up) = (crash.elapsed().as_secs_f64(), forwarding(&a.netns, c.ip)?.as_secs_f64());
            report.say(&format!(
                "{name} killed {round} of {OVS_ROUNDS}: up after {down:.3} s, traffic {since_up:.3} s later"
            ));
            worst = worst.max(since_up);
        }
        let name = format!("{name} killed: up to traffic between nodes, worst of {OVS_ROUNDS}");
        report.add(Figure::new(name, "s", worst).goal(Goal::Below(2.0)));
    }
    Ok(())
}

/// Waits for traffic.
fn forwarding(from: &str, to: std::net::IpAddr) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    while !quick_ping(from, to) {
        ensure!(begin.elapsed() < LIMIT, "no traffic {LIMIT:?} after Open vSwitch is up");
    }
    Ok(begin.elapsed())
}

/// Waits until STATUS says that pods can be attached.
async fn ready(node: &LabNode) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let (output, text) = node.cni("STATUS", "", "", "1.1.0", None);
        if output.status.success() {
            return Ok(());
        }
        if begin.elapsed() > LIMIT {
            bail!("the agent of {} is not ready: {text}", node.name);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
