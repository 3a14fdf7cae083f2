//! iperf3 between pods, and between containers on a bridge that only learns addresses (NORMAL), with the
//! same datapath, the same offloads, the same MTU and the same kind of tunnel.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use antrea_tests::lab::{Datapath, Lab, sh};
use antrea_tests::traffic::ping;
use anyhow::{Context, bail, ensure};
use netcfg::nl::link::{VethSpec, VxlanSpec};
use netcfg::nl::neigh::FdbEntry;
use netcfg::sysctl::{Sysctl, Tree};
use netcfg::{MacAddr, Netlink, Netns};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::cni::{datapath_type, mtu_of};
use crate::report::{Figure, Goal, Report, median};

const SECONDS: u32 = 2;
const RUNS: usize = 5;
/// Octets of a small datagram's payload.
const SMALL: f64 = 64.0;
const LIMIT: Duration = Duration::from_secs(20);
const BRIDGE: &str = "br-bare";
const TUNNEL: &str = "bare-tun0";

/// What is sent.
#[derive(Clone, Copy)]
pub(crate) enum Load {
    Tcp,
    SmallUdp,
}

/// Measures throughput and packet rate.
///
/// # Errors
/// A transfer failed.
pub(crate) async fn run(report: Report) -> anyhow::Result<()> {
    let mut lab = Lab::start(2, &[("logLevel", json!("info"))]).await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    let mtu = mtu_of(&a.netns).await?;
    let mut bare = Lab::without_agents(2, &[]).await;
    let containers = bare_network(&mut bare, mtu).await?;
    let [bare_a, bare_b, bare_c] = &containers;
    report.say(&format!("two pods on a node, one on another, and the same without us; MTU {mtu}"));

    type End<'a> = (&'a str, IpAddr);
    let paths: [(&str, [(&str, End<'_>); 2]); 2] = [
        ("same node", [(&a.netns, (&b.netns, b.ip)), (&bare_a.0, (&bare_b.0, bare_b.1))]),
        ("across nodes", [(&a.netns, (&c.netns, c.ip)), (&bare_a.0, (&bare_c.0, bare_c.1))]),
    ];
    for (path, networks) in &paths {
        for (client, (_, to)) in networks {
            ensure!(ping(client, *to, 56, true), "{path}: {to} does not answer");
        }
        for (what, unit, load) in [
            ("TCP throughput", "Gbit/s", Load::Tcp),
            ("64-octet UDP packets received", "kpackets/s", Load::SmallUdp),
        ] {
            let mut results = [Vec::new(), Vec::new()];
            for run in 0..RUNS {
                // Taking turns at going first evens out what a run leaves behind.
                for turn in [run % 2, 1 - run % 2] {
                    let (client, (server, to)) = networks[turn];
                    results[turn].push(iperf3(client, server, to, load).await?);
                }
                let [ours, theirs] = &results;
                report.say(&format!(
                    "{what}, {path}, run {}: {:.2} and {:.2}",
                    run + 1,
                    ours[run],
                    theirs[run]
                ));
            }
            let [ours, theirs] = &results;
            let figure = Figure::new(format!("{what}, {path}"), unit, median(ours)).peer(median(theirs));
            report
                .add(figure.goal(Goal::RatioAtLeast(0.9)).note("peer: a bare bridge with NORMAL forwarding"));
        }
    }
    Ok(())
}

/// Two nodes' bridges that forward as a learning switch, and three containers: two on the first node.
async fn bare_network(lab: &mut Lab, mtu: u32) -> anyhow::Result<[(String, IpAddr); 3]> {
    let ips = [lab.nodes[0].ip, lab.nodes[1].ip];
    for (index, node) in lab.nodes.iter().enumerate() {
        let bridge = ["add-br", BRIDGE, "--", "set", "bridge", BRIDGE];
        let datapath = format!("datapath_type={}", datapath_type());
        let standalone = ["fail_mode=standalone", "--", "remove", "Open_vSwitch", ".", "other_config"];
        node.ovs.vsctl(&[&bridge[..], &[&datapath], &standalone, &["flow-restore-wait"]].concat())?;
        let peer = IpAddr::from(ips[1 - index]);
        match Datapath::here() {
            Datapath::System => {
                let remote = format!("options:remote_ip={peer}");
                let port = ["add-port", BRIDGE, TUNNEL, "--", "set", "interface", TUNNEL, "type=geneve"];
                node.ovs.vsctl(&[&port[..], &[&remote]].concat())?;
            }
            Datapath::Userspace => {
                let netlink = Netns::open(format!("/run/netns/{}", node.netns))?.spawn_netlink().await?;
                let spec = VxlanSpec { mtu, ..VxlanSpec::new(TUNNEL, 0, ips[index].into()) };
                netlink.create_vxlan(&spec).await?;
                netlink.set_fdb(TUNNEL, FdbEntry { mac: MacAddr::ZERO, dst: peer }).await?;
                quiet(&netlink, TUNNEL).await?;
                netlink.set_up(TUNNEL).await?;
                node.ovs.vsctl(&["add-port", BRIDGE, TUNNEL])?;
            }
        }
    }
    Ok([
        bare_container(lab, 0, "a", mtu, 1).await?,
        bare_container(lab, 0, "b", mtu, 2).await?,
        bare_container(lab, 1, "c", mtu, 3).await?,
    ])
}

async fn bare_container(
    lab: &mut Lab,
    index: usize,
    name: &str,
    mtu: u32,
    number: u8,
) -> anyhow::Result<(String, IpAddr)> {
    let netns = lab.pod_netns(index, name);
    let node = &lab.nodes[index];
    let netlink = Netns::open(format!("/run/netns/{}", node.netns))?.spawn_netlink().await?;
    let peer_ns = Netns::open(format!("/run/netns/{netns}"))?;
    let host_name = format!("bare-{name}");
    let spec = VethSpec {
        host_name: &host_name,
        host_mac: None,
        host_mtu: mtu,
        host_group: None,
        peer_name: "eth0",
        peer_mac: None,
        peer_mtu: mtu,
        peer_ns: &peer_ns,
    };
    netlink.create_veth(&spec).await?;
    quiet(&netlink, &host_name).await?;
    netlink.set_up(&host_name).await?;
    let ip = std::net::Ipv4Addr::new(10, 245, 0, number);
    sh(&format!("ip -n {netns} addr add {ip}/24 dev eth0"));
    sh(&format!("ip -n {netns} link set eth0 up"));
    node.ovs.vsctl(&["add-port", BRIDGE, &host_name])?;
    Ok((netns, ip.into()))
}

/// As the agent's links on the userspace datapath: the kernel takes no part in what passes.
async fn quiet(netlink: &Netlink, link: &str) -> anyhow::Result<()> {
    let settings = [(Sysctl::arp_ignore(link)?, "8"), (Sysctl::disable_ipv6(link)?, "1")];
    Tree::default().ensure(netlink.netns(), settings).await?;
    Ok(())
}

/// One run of [`SECONDS`]: Gbit/s or thousands of packets per second that arrived.
pub(crate) async fn iperf3(client: &str, server: &str, to: IpAddr, load: Load) -> anyhow::Result<f64> {
    let command = |netns: &str| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", netns, "iperf3", "-J"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    };
    // Its report is in the client's; some end late or never after that, so it is killed.
    let mut server = command(server).args(["-s", "-1"]).stdout(Stdio::null()).spawn().context("iperf3")?;
    let seconds = SECONDS.to_string();
    let arguments: &[&str] = match load {
        Load::Tcp => &[],
        Load::SmallUdp => &["-u", "-l", "64", "-b", "0"],
    };
    let to = to.to_string();
    let begin = Instant::now();
    let report: Value = loop {
        let run = command(client).args(["-c", &to, "-t", &seconds]).args(arguments).output();
        let output = tokio::time::timeout(LIMIT, run).await.context("iperf3 hangs")??;
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        let report: Value = serde_json::from_slice(&output.stdout).with_context(said)?;
        // With -J its exit status says nothing.
        match report["error"].as_str() {
            None => break report,
            // The server is not listening yet.
            Some(error) if error.contains("refused") && begin.elapsed() < LIMIT => {}
            Some(error) => bail!("iperf3 -c {to}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    server.kill().await.context("iperf3 -s")?;
    let sum = &report["end"]["sum_received"];
    let number = |key: &str| sum[key].as_f64().with_context(|| format!("no {key} in iperf3's report {sum}"));
    Ok(match load {
        Load::Tcp => number("bits_per_second")? / 1e9,
        Load::SmallUdp => number("bytes")? / SMALL / number("seconds")? / 1e3,
    })
}
