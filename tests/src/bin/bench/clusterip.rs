//! What it costs a pod to go by a Service that the bridge serves: TCP, and new connections, to the same server by its
//! ClusterIP and by its own address; and beside 10,000 other Services.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use antrea_tests::background::Background;
use antrea_tests::dial::{Dialer, servers};
use antrea_tests::lab::{Lab, Pod};
use anyhow::{Context, bail, ensure};
use serde_json::json;
use tokio::sync::oneshot;

use crate::report::{Figure, Goal, Report, median, percentile};
use crate::services::{INSTALLED, lab, put_many, served};
use crate::throughput::{Load, iperf3};

pub(crate) const RUNS: usize = 3;
/// iperf3's, of the Services and of their endpoints.
const IPERF: u16 = 5_201;
/// Of servers that are connected to for a moment.
pub(crate) const SHORT: u16 = 8_080;
/// Connections at a time, and how long they are made.
const AT_ONCE: usize = 8;
const TIME: Duration = Duration::from_millis(1500);
const LIMIT: Duration = Duration::from_secs(20);

/// A Service with one endpoint, which has its ports.
pub(crate) fn put(lab: &Lab, pod: &Pod, ip: &str) {
    let port = |name: &str, number: u16| json!({"name": name, "protocol": "TCP", "port": number});
    let ports = json!([port("iperf", IPERF), port("short", SHORT)]);
    let name = format!("to-{}", pod.name);
    let spec = json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": ports});
    let metadata = json!({"namespace": "default", "name": name});
    lab.api.put(
        "api/v1/services",
        json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}),
    );
    lab.api.put(
        "apis/discovery.k8s.io/v1/endpointslices",
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "ports": ports,
            "endpoints": [{"addresses": [pod.ip], "conditions": {"ready": true}}],
        }),
    );
}

/// Connections that were made in a while, and how long each took.
pub(crate) async fn connections(client: &Pod, to: IpAddr) -> anyhow::Result<(f64, Vec<Duration>)> {
    let to = SocketAddr::new(to, SHORT);
    let (done, made) = oneshot::channel();
    let dialing = Background::run_in(&client.netns, move || async move {
        let (dialer, end) = (Dialer::default(), Instant::now() + TIME);
        let one = || {
            let dialer = dialer.clone();
            tokio::spawn(async move {
                let mut made = Vec::new();
                while Instant::now() < end {
                    made.push(dialer.dial(to).await);
                }
                made
            })
        };
        let mut all = Vec::new();
        for dialed in futures::future::join_all((0..AT_ONCE).map(|_| one())).await {
            all.extend(dialed.unwrap_or_default());
        }
        let _ = done.send(all);
    });
    let made = tokio::time::timeout(LIMIT, made).await.context("connections hang")??;
    drop(dialing);
    if let Some(error) = made.iter().find_map(|one| one.reached.as_ref().err()) {
        bail!("a connection to {to}: {error}");
    }
    let times = made.iter().map(|one| one.ended - one.begun).collect();
    Ok((made.len() as f64 / TIME.as_secs_f64(), times))
}

/// Rate of connections to each of two addresses, in turns, and all their times.
async fn rates(client: &Pod, to: [IpAddr; 2]) -> anyhow::Result<([f64; 2], [Vec<Duration>; 2])> {
    let (mut rates, mut times) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for run in 0..RUNS {
        for turn in [run % 2, 1 - run % 2] {
            let (rate, taken) = connections(client, to[turn]).await?;
            rates[turn].push(rate);
            times[turn].extend(taken);
        }
    }
    Ok((rates.each_ref().map(|rates| median(rates)), times))
}

/// Measures all of it.
///
/// # Errors
/// A connection is not made.
pub(crate) async fn run(report: Report) -> anyhow::Result<()> {
    let mut lab = lab(2).await;
    lab.start_agents().await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    let _servers = [&b, &c].map(|pod| servers(&pod.netns, std::iter::once(SHORT)));
    let peer = "peer: by the pod's own address";
    let paths = [("same node", &b, "10.96.200.1"), ("across nodes", &c, "10.96.200.2")];
    let before = lab.agent_metric(0, INSTALLED).await;
    for (_, pod, ip) in paths {
        put(&lab, pod, ip);
    }
    served(&lab, before + 4.0).await?;
    for (path, pod, ip) in paths {
        let to = [ip.parse()?, pod.ip];
        let mut results = [Vec::new(), Vec::new()];
        for run in 0..RUNS {
            for turn in [run % 2, 1 - run % 2] {
                results[turn].push(iperf3(&a.netns, &pod.netns, to[turn], Load::Tcp).await?);
            }
        }
        let [by_service, straight] = results.each_ref().map(|results| median(results));
        report.add(
            Figure::new(format!("TCP to a ClusterIP, {path}"), "Gbit/s", by_service)
                .peer(straight)
                .goal(Goal::RatioAtLeast(0.95))
                .note(peer),
        );
        let ([by_service, straight], [times, peers]) = rates(&a, to).await?;
        report.add(
            Figure::new(format!("new connections to a ClusterIP, {path}"), "1/s", by_service)
                .peer(straight)
                .goal(Goal::RatioAtLeast(0.9))
                .note(format!("{AT_ONCE} at a time; {peer}")),
        );
        for percent in [50, 99] {
            let name = format!("a connection to a ClusterIP with its first answer, {path}, p{percent}");
            let figure = Figure::new(name, "ms", percentile(&times, percent));
            report.add(figure.peer(percentile(&peers, percent)).note(peer));
        }
    }

    let to = [paths[0].2.parse()?, b.ip];
    let ([few, _], _) = rates(&a, to).await?;
    put_many(&lab);
    served(&lab, 10_000.0).await?;
    // The datapath compares its flows with 10,000 new ones, once.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let ([many, straight], _) = rates(&a, to).await?;
    ensure!(straight > 0.0, "no connections");
    report.add(
        Figure::new("new connections to a ClusterIP beside 10,000 Services", "1/s", many)
            .peer(few)
            .goal(Goal::RatioAtLeast(0.9))
            .note("peer: beside two"),
    );
    Ok(())
}
