//! The controller's process in a large cluster: from its start to the moment at which an agent has its complete watch,
//! its memory then and after a minute of changes, and how long a change takes to the agent.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use antrea_tests::https::{self, Endpoint};
use antrea_tests::lab::{Lab, NETWORK_POLICIES, PODS};
use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use crate::footprint::resident;
use crate::report::{Figure, Goal, Report, percentile};

/// With four pods and three policies each: the first shape of the section `policy`.
const NAMESPACE_COUNT: usize = 25_000;
const NODES: usize = 1_000;
/// The node whose agent is played.
const NODE: usize = 7;
const CHURN: Duration = Duration::from_secs(60);
/// Changes per second.
const RATE: u32 = 50;
const LIMIT: Duration = Duration::from_secs(60);
const RESOURCES: [&str; 3] = ["networkpolicies", "addressgroups", "appliedtogroups"];

/// A line of a watch, and when it came.
type Line = (String, Instant);

/// Measures the controller's process.
///
/// # Errors
/// The controller does not start, or an agent's watch does not become complete.
pub(crate) async fn run(report: Report) -> anyhow::Result<()> {
    let mut lab = Lab::without_agents(0, &[("logLevel", json!("info"))]).await;
    lab.kill_controller();
    for index in 0..NAMESPACE_COUNT {
        put_namespace(&lab, index);
    }
    let own: Vec<usize> =
        (0..NAMESPACE_COUNT).filter(|index| (0..4).any(|pod| node_of(*index, pod) == NODE)).collect();
    report.say(&format!("{NAMESPACE_COUNT} namespaces, {} of them with a pod on the node", own.len()));
    let begin = Instant::now();
    lab.start_controller();
    let endpoint = lab.controller_endpoint(Some("lab-agent")).context("no CA is published")?;
    let (sender, mut lines) = mpsc::unbounded_channel();
    for resource in RESOURCES {
        tokio::spawn(watch(endpoint.clone(), resource, sender.clone()));
    }
    let (mut complete, mut policies) = (0, 0);
    let ready = loop {
        let (line, at) = next(&mut lines).await?;
        policies += usize::from(line.contains(r#""ADDED""#) && line.contains(r#""NetworkPolicy""#));
        complete += usize::from(line.contains(r#""BOOKMARK""#));
        if complete == RESOURCES.len() {
            break at - begin;
        }
    };
    ensure!(policies >= own.len(), "{policies} policies were told, of {} namespaces", own.len());
    let figure =
        Figure::new("controller: from its start to an agent's complete watch", "s", ready.as_secs_f64());
    report.add(
        figure
            .goal(Goal::AtMost(1.5))
            .note("100k pods, 75k policies, 25k namespaces, listed over HTTP as JSON"),
    );
    memory(&report, &lab, "then")?;

    let mut latencies = Vec::new();
    let mut sent: HashMap<String, Instant> = HashMap::new();
    let mut clock = tokio::time::interval(Duration::from_secs(1) / RATE);
    let end = Instant::now() + CHURN;
    for count in 0.. {
        // What arrives meanwhile is told with the time at which it came.
        clock.tick().await;
        while let Ok((line, at)) = lines.try_recv() {
            latencies.extend(heard(&line, at, &mut sent));
        }
        if Instant::now() > end {
            break;
        }
        let index = own[count % own.len()];
        let address = format!("198.18.{}.{}", count / 250 % 250, count % 250 + 1);
        sent.insert(format!("\"{}\"", name(index)), Instant::now());
        put_pods(&lab, index, Some(&address));
    }
    while !sent.is_empty() {
        let (line, at) =
            next(&mut lines).await.with_context(|| format!("{} changes were not told", sent.len()))?;
        latencies.extend(heard(&line, at, &mut sent));
    }
    report.say(&format!("{} changes were told", latencies.len()));
    for percent in [50, 99] {
        let what = format!("controller: from an event to the agent that watches, p{percent}");
        let figure = Figure::new(what, "ms", percentile(&latencies, percent));
        report.add(if percent == 99 { figure.goal(Goal::AtMost(5.0)) } else { figure });
    }
    memory(&report, &lab, "after 60 s of 50 changes a second")
}

fn memory(report: &Report, lab: &Lab, when: &str) -> anyhow::Result<()> {
    let (value, note) = resident(lab.controller_pid())?;
    let figure = Figure::new(format!("controller: resident memory {when}"), "MB", value);
    report.add(figure.goal(Goal::AtMost(250.0)).note(note));
    Ok(())
}

/// How long the change took that a line tells of, if it tells of one that is waited for.
fn heard(line: &str, at: Instant, sent: &mut HashMap<String, Instant>) -> Option<Duration> {
    let name = sent.keys().find(|name| line.contains(name.as_str()))?.clone();
    sent.remove(&name).map(|begin| at.saturating_duration_since(begin))
}

async fn next(lines: &mut mpsc::UnboundedReceiver<Line>) -> anyhow::Result<Line> {
    tokio::time::timeout(LIMIT, lines.recv())
        .await
        .context("nothing was told for a minute")?
        .context("the watches ended")
}

/// Watches as an agent does, from the first moment at which it is answered.
async fn watch(endpoint: Endpoint, resource: &str, sender: mpsc::UnboundedSender<Line>) {
    let path = format!(
        "/apis/controlplane.antrea.io/v1beta2/{resource}?watch=true&allowWatchBookmarks=true&fieldSelector=nodeName%3D{}",
        node(NODE)
    );
    while !sender.is_closed() {
        if let Ok(mut stream) = https::open(&endpoint, &path).await {
            let (mut pending, mut buffer) = (Vec::new(), vec![0; 1 << 18]);
            while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                let at = Instant::now();
                pending.extend_from_slice(&buffer[..count]);
                while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = pending.drain(..=end).collect();
                    if sender.send((String::from_utf8_lossy(&line).into_owned(), at)).is_err() {
                        return;
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn name(namespace: usize) -> String {
    format!("scale-{namespace}")
}

fn node(index: usize) -> String {
    format!("node-{index}")
}

fn node_of(namespace: usize, pod: usize) -> usize {
    (namespace * 4 + pod) % NODES
}

fn put_namespace(lab: &Lab, index: usize) {
    lab.put_namespace(&name(index), &[]);
    put_pods(lab, index, None);
    let policy = |name: &str, spec: Value| {
        lab.api.put(
            NETWORK_POLICIES,
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": name, "namespace": self::name(index), "generation": 1}, "spec": spec,
            }),
        );
    };
    policy("default-deny-all", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
    for app in ["1", "2"] {
        let labels = json!({"matchLabels": {"app": app}});
        let spec = json!({
            "podSelector": labels, "policyTypes": ["Ingress"], "ingress": [{"from": [{"podSelector": labels}]}],
        });
        policy(&format!("np-{app}"), spec);
    }
}

/// The pods of a namespace, two of each application; the first pods may have another address.
fn put_pods(lab: &Lab, index: usize, address: Option<&str>) {
    for pod in 0..4 {
        // A change is one of a pod that shares its policy with one on the node that is watched.
        let changes = pod == 0 || pod == 2;
        if address.is_some() && !(changes && (node_of(index, pod) == NODE || node_of(index, pod + 1) == NODE))
        {
            continue;
        }
        let ip =
            address.map_or_else(|| format!("10.{}.{}.{}", index >> 8, index & 255, pod + 1), str::to_owned);
        lab.api.put(
            PODS,
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("pod-{pod}"), "namespace": name(index), "labels": {"app": (pod / 2 + 1).to_string()}},
                "spec": {"nodeName": node(node_of(index, pod)), "containers": [{"name": "c", "image": "none"}]},
                "status": {"phase": "Running", "podIPs": [{"ip": ip}]},
            }),
        );
    }
}
