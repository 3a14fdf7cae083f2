//! 5,000 NetworkPolicies with 10 peers each, and 10,000 native rules, on one node: from rules to installed flows,
//! against ovs-ofctl with the same flows.
//!
//! No two policies share a peer, which is the most flows that so many peers can be. Policies apply to the 110
//! pods that a node has at most, in turn.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use antrea_flows::config::{Datapath, EncapMode, Gateway, NodeConfig, Tunnel, TunnelKind};
use antrea_flows::policy::{
    Action, Class, Direction, Peers, PortRange, Protocol, Realizer, Rule, RuleChange, Service, SortedMap,
};
use antrea_flows::{Network, Round};
use anyhow::{Context, ensure};
use ipnet::IpNet;
use openflow::multipart::FlowFilter;
use openflow::{Flow, FlowMod, MacAddr};
use ovs::testing::TestOvs;
use tokio_util::sync::CancellationToken;

use crate::report::{Figure, Goal, Report, median};

const PODS: u32 = 110;
const ROUNDS: usize = 3;
const BRIDGE: &str = "br-int";

fn network() -> anyhow::Result<Network> {
    let node = NodeConfig {
        datapath: Datapath::Userspace,
        encap_mode: EncapMode::Encap,
        gateway: Gateway {
            ofport: 0x8001,
            mac: MacAddr([0x0a, 0, 0, 0, 1, 1]),
            ips: vec!["10.244.1.1".parse()?],
        },
        tunnel: Some(Tunnel { ofport: 0x8000, kind: TunnelKind::KernelVxlan, local: "172.30.0.11".parse()? }),
        pod_cidrs: vec!["10.244.1.0/24".parse()?],
        service_cidrs: vec!["10.96.0.0/12".parse()?],
        antrea_policy: true,
        services: false,
        serves_all: false,
        metered: false,
    };
    Ok(Network::new(node, Round(1)))
}

/// A kind of policies.
struct Shape {
    name: &'static str,
    policies: u32,
    peers: u32,
    /// Each has a place in the order.
    native: bool,
}

const SHAPES: [Shape; 2] = [
    Shape { name: "5,000 policies of 10 peers", policies: 5_000, peers: 10, native: false },
    Shape { name: "10,000 native rules of 5 peers", policies: 10_000, peers: 5, native: true },
];

/// Ingress of one policy: its pod, addresses of its own, TCP port 80.
fn rule(shape: &Shape, number: u32) -> Rule {
    let pod = number % PODS;
    let pod_ip = IpAddr::V4(Ipv4Addr::from(0x0af4_0100 + 2 + pod));
    let peers = (0..shape.peers)
        .map(|peer| IpNet::from(IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number * shape.peers + peer))));
    let class = if shape.native { Class::Native { priority: 100 + number as u16 } } else { Class::K8s };
    Rule {
        id: number + 1,
        direction: Direction::In,
        class,
        action: Action::Allow,
        pods: SortedMap::from([(pod + 1, [pod_ip].into_iter().collect())]),
        peers: Peers::Of(peers.collect()),
        services: vec![Service::to(Protocol::Tcp, PortRange::single(80))],
        logs: false,
    }
}

/// Measures the realization of policies.
///
/// # Errors
/// The switch refuses the flows, or the two ways install different ones.
pub(crate) async fn run(report: Report) -> anyhow::Result<()> {
    for shape in &SHAPES {
        realize(&report, shape).await?;
    }
    Ok(())
}

async fn realize(report: &Report, shape: &Shape) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("abf").tempdir_in("/tmp")?;
    let ovs = TestOvs::start(dir.path(), None)?;
    let cancel = CancellationToken::new();
    let _guard = cancel.clone().drop_guard();
    let of = ovs.dummy_bridge(BRIDGE, &cancel).await?;

    let network = network()?;
    let rules = || (0..shape.policies).map(|number| rule(shape, number)).map(RuleChange::Upsert);
    let mut realizer = Realizer::new(&network);
    realizer.apply(rules())?;
    let wanted = realizer.flows();
    let mut text = String::new();
    for flow in &wanted {
        writeln!(text, "{flow}")?;
    }
    let file = dir.path().join("flows.txt");
    std::fs::write(&file, text)?;
    let file = file.to_str().context("temporary path is no text")?;
    report.say(&format!("{} are {} flows", shape.name, wanted.len()));

    let clear = || of.send_barriered(vec![FlowMod::delete_by_cookie(0, 0).into()]);
    let (mut computing, mut ours, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for turn in 0..2 {
            clear().await?;
            let own = (round + turn) % 2 == 0;
            let begin = Instant::now();
            if own {
                let diff = Realizer::new(&network).apply(rules())?;
                computing.push(begin.elapsed().as_secs_f64());
                of.bundle(diff.steps().bundle).await?;
                ours.push(begin.elapsed().as_secs_f64());
            } else {
                ovs.ofctl(&["--bundle", "add-flows"], BRIDGE, &[file])?;
                theirs.push(begin.elapsed().as_secs_f64());
            }
            if round == 0 {
                let mut found: Vec<Flow> =
                    of.flows(FlowFilter::all()).await?.into_iter().map(|entry| entry.flow).collect();
                found.sort();
                let mut wanted = wanted.clone();
                wanted.sort();
                let who = if own { "our bundle" } else { "ovs-ofctl" };
                ensure!(
                    found.len() == wanted.len(),
                    "{who} installed {} of {} flows",
                    found.len(),
                    wanted.len()
                );
                let differing = found.iter().zip(&wanted).find(|(found, wanted)| found != wanted);
                ensure!(differing.is_none(), "{who} installed other flows: {differing:?}");
            }
        }
        report.say(&format!(
            "round {} of {ROUNDS}: {:.2} and {:.2} s",
            round + 1,
            ours[round],
            theirs[round]
        ));
    }
    let flows = wanted.len() as f64;
    let (ours, theirs) = (median(&ours), median(&theirs));
    let peer = format!("{} flows; peer: ovs-ofctl --bundle add-flows with them", wanted.len());
    let name = format!("{}, rules to installed flows", shape.name);
    report.add(Figure::new(name, "s", ours).peer(theirs).goal(Goal::RatioAtMost(1.0)).note(peer.clone()));
    report.add(
        Figure::new(format!("{}, flows per second", shape.name), "1/s", flows / ours)
            .peer(flows / theirs)
            .note(peer),
    );
    report.add(Figure::new(format!("{}, rules to flows alone", shape.name), "s", median(&computing)));
    Ok(())
}
