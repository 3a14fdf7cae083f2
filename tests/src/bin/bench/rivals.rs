//! New connections to a ClusterIP, served by Open vSwitch and by kube-proxy itself in each mode that this kernel has,
//! among ever more Services.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use antrea_tests::dial::servers;
use antrea_tests::lab::{Lab, Pod};
use anyhow::{Context, ensure};
use serde_json::json;

use crate::clusterip::{RUNS, SHORT, connections, put};
use crate::report::{Figure, Goal, Report, median, percentile};
use crate::services::{lab, put_endpoints, put_service, served};

/// Other Services, of one endpoint each.
const SIZES: [u32; 3] = [10, 1_000, 10_000];
/// ipvs is where the kernel has it.
const MODES: [&str; 3] = ["iptables", "nftables", "ipvs"];
const IPVS: &str = "/proc/net/ip_vs";
const CLUSTER_IP: &str = "10.96.200.1";
/// Until kube-proxy has written all of its rules.
const LIMIT: Duration = Duration::from_secs(180);

/// A kube-proxy of the first node. Its rules go with it.
struct KubeProxy {
    child: Child,
    netns: String,
    program: PathBuf,
    config: PathBuf,
}

impl KubeProxy {
    fn start(lab: &Lab, mode: &str) -> anyhow::Result<Self> {
        let folder = std::env::var_os("ANTREA_KUBERNETES").context("ANTREA_KUBERNETES names no folder")?;
        let (node, program) = (&lab.nodes[0], Path::new(&folder).join("kube-proxy"));
        let config = node.dir.join("kube-proxy.json");
        // What JSON is to the lab's API server, and sysctls of the whole machine stay as they are.
        let settings = json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration", "mode": mode,
            "hostnameOverride": node.name, "clusterCIDR": "10.244.0.0/16",
            "clientConnection": {"kubeconfig": node.dir.join("kubeconfig"), "contentType": "application/json",
                                 "acceptContentTypes": "application/json"},
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        });
        std::fs::write(&config, settings.to_string())?;
        let log = std::fs::File::create(node.dir.join("kube-proxy.log"))?;
        let child = in_node(&node.netns, &program, &config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{}", program.display()))?;
        Ok(Self { child, netns: node.netns.clone(), program, config })
    }
}

fn in_node(netns: &str, program: &Path, config: &Path) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns]).arg(program).arg(format!("--config={}", config.display()));
    command.env("KUBE_FEATURE_WatchListClient", "false").stdin(Stdio::null());
    command
}

impl Drop for KubeProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = in_node(&self.netns, &self.program, &self.config).arg("--cleanup").output();
    }
}

/// What was measured of one of those who serve Services.
struct Served {
    /// Seconds from its start to the first connection: with all Services, which come in one transaction.
    start: f64,
    /// Connections a second.
    rate: f64,
    times: Vec<Duration>,
}

async fn measured(client: &Pod, begin: Instant) -> anyhow::Result<Served> {
    let to = CLUSTER_IP.parse()?;
    while let Err(error) = connections(client, to).await {
        ensure!(begin.elapsed() < LIMIT, "{error:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let start = begin.elapsed().as_secs_f64();
    let (mut rates, mut times) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (rate, taken) = connections(client, to).await?;
        rates.push(rate);
        times.extend(taken);
    }
    Ok(Served { start, rate: median(&rates), times })
}

async fn restart_agent(lab: &mut Lab, proxy: bool) {
    lab.nodes[0].stop_agent();
    lab.configure("featureGates", json!({"AntreaProxy": proxy}));
    lab.start_agent(0);
    lab.wait_ready(0).await;
}

async fn by_kube_proxy(lab: &Lab, client: &Pod, mode: &str) -> anyhow::Result<Served> {
    let begin = Instant::now();
    let running = KubeProxy::start(lab, mode)?;
    let result = measured(client, begin).await;
    let log = std::fs::read_to_string(lab.nodes[0].dir.join("kube-proxy.log")).unwrap_or_default();
    drop(running);
    let last: Vec<&str> = log.lines().rev().take(5).collect();
    result.with_context(|| format!("kube-proxy in {mode} mode says {last:?}"))
}

/// Measures all of it.
///
/// # Errors
/// One of them does not serve in time.
pub(crate) async fn run(report: Report) -> anyhow::Result<()> {
    let mut lab = lab(1).await;
    lab.start_agents().await;
    let (client, server) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"));
    let _servers = servers(&server.netns, std::iter::once(SHORT));
    put(&lab, &server, CLUSTER_IP);
    let modes = MODES.iter().filter(|mode| **mode != "ipvs" || Path::new(IPVS).exists());
    let modes: Vec<&str> = modes.copied().collect();
    let (mut there, mut first) = (0, None);
    for size in SIZES {
        for number in there..size {
            put_service(&lab, number);
            put_endpoints(&lab, &format!("s{number}-x"), number, 0..1, 8080);
        }
        there = size;
        restart_agent(&mut lab, true).await;
        let begin = Instant::now();
        served(&lab, f64::from(size)).await?;
        let ours = measured(&client, begin).await?;
        let connections = format!("new connections to a ClusterIP among {size} Services");
        restart_agent(&mut lab, false).await;
        for mode in &modes {
            let theirs = by_kube_proxy(&lab, &client, mode).await?;
            let peer = format!("peer: kube-proxy, {mode}; it serves {:.1} s after its start", theirs.start);
            report.add(
                Figure::new(connections.as_str(), "1/s", ours.rate)
                    .peer(theirs.rate)
                    .goal(Goal::RatioAtLeast(1.0))
                    .note(peer.as_str()),
            );
            for percent in [50, 99] {
                report.add(
                    Figure::new(
                        format!("a connection among {size} Services, p{percent}"),
                        "ms",
                        percentile(&ours.times, percent),
                    )
                    .peer(percentile(&theirs.times, percent))
                    .goal(Goal::RatioAtMost(1.0))
                    .note(peer.as_str()),
                );
            }
        }
        match first {
            None => first = Some(ours.rate),
            Some(first) => report.add(
                Figure::new(connections, "1/s", ours.rate)
                    .peer(first)
                    .goal(Goal::RatioAtLeast(0.9))
                    .note(format!("peer: Open vSwitch, too, among {}", SIZES[0])),
            ),
        }
    }
    if !modes.contains(&"ipvs") {
        let why = format!("this kernel has no {IPVS}");
        report.add(Figure::missing("new connections by kube-proxy's ipvs mode", "1/s", why));
    }
    Ok(())
}
