//! From a policy's creation to its flows on every node, beside a plain watcher of the same API server; and from a new pod's
//! ADD to its address in the flows of another node's policies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use antrea_tests::lab::{Lab, LabNode, NETWORK_POLICIES};
use anyhow::{Context, ensure};
use netcfg::Netns;
use serde_json::{Value, json};

use crate::report::{Figure, Goal, Report, percentile};

const POLICIES: usize = 200;
/// Beyond what the plain watcher needs, in milliseconds.
const GOAL: Goal = Goal::AtMost(15.0);
const LIMIT: Duration = Duration::from_secs(30);
/// Pause between policies, so that each is alone.
pub(crate) const PAUSE: Duration = Duration::from_millis(30);

/// A thing that was seen, and when.
type Sighting = (String, Instant);

/// Measures how long a policy needs.
///
/// # Errors
/// A policy is not enforced within 30 s.
pub(crate) async fn run(report: Report) -> anyhow::Result<()> {
    let mut lab = Lab::start(2, &[("logLevel", json!("info"))]).await;
    for (index, name) in ["a", "b"].into_iter().enumerate() {
        lab.put_pod(index, name, &[("app", "target")], None);
        lab.add_pod(index, name);
    }
    let watcher = watch(&lab, NETWORK_POLICIES).await?;
    let monitor = |node| Monitor::start(node, "nw_src=", "198.18.");
    let monitors = [monitor(&lab.nodes[0])?, monitor(&lab.nodes[1])?];
    let (mut plain, mut beyond, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    // The monitors connect in their own time.
    for n in 1..=100 {
        let peer = format!("198.18.255.{n}");
        lab.put_policy(&format!("warm-{n}"), &spec(&peer));
        if monitors.iter().all(|monitor| wait(&monitor.seen, &peer, Duration::from_millis(500)).is_ok()) {
            break;
        }
    }
    for n in 0..POLICIES {
        let peer = format!("198.18.{}.{}", n / 200, n % 200 + 1);
        let name = format!("latency-{n}-x");
        let begin = Instant::now();
        lab.put_policy(&name, &spec(&peer));
        let told = wait(&watcher, &name, LIMIT).context("the plain watcher")?;
        let mut enforced = begin;
        for (monitor, node) in monitors.iter().zip(&lab.nodes) {
            let at = wait(&monitor.seen, &peer, LIMIT)
                .with_context(|| format!("flows of {name} on {}", node.name))?;
            enforced = enforced.max(at);
        }
        plain.push(told - begin);
        beyond.push(enforced.saturating_duration_since(told));
        whole.push(enforced - begin);
        tokio::time::sleep(PAUSE).await;
    }
    report.say(&format!("{POLICIES} policies were enforced on both nodes"));
    for percent in [50, 99] {
        let name = format!("policy created to flows on both nodes, beyond a plain watch, p{percent}");
        let figure = Figure::new(name, "ms", percentile(&beyond, percent)).note(format!(
            "whole way {:.2} ms, of it the API server's watch {:.2} ms",
            percentile(&whole, percent),
            percentile(&plain, percent)
        ));
        report.add(if percent == 50 { figure.goal(GOAL) } else { figure });
    }
    Ok(())
}

const NEWCOMERS: usize = 50;
/// From the answer of ADD, in milliseconds.
const NEWCOMERS_GOAL: Goal = Goal::AtMost(50.0);

/// Measures how long the policies of another node do without a new pod, while its status has no address yet.
///
/// # Errors
/// A pod is not known within 30 s.
pub(crate) async fn newcomers(report: Report) -> anyhow::Result<()> {
    let mut lab = Lab::start(2, &[("logLevel", json!("info"))]).await;
    lab.put_pod(0, "server", &[("app", "server")], None);
    lab.add_pod(0, "server");
    lab.put_policy(
        "clients",
        &json!({
            "podSelector": {"matchLabels": {"app": "server"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "client"}}}]}],
        }),
    );
    let monitor = Monitor::start(&lab.nodes[0], "nw_src=", "10.244.2.")?;
    let mut beyond = Vec::new();
    // The monitor connects in its own time.
    let warm = (0..100).map(|n| (n, true)).chain((0..NEWCOMERS).map(|n| (n, false)));
    let mut connected = false;
    for (n, warming) in warm {
        if warming && connected {
            continue;
        }
        let name = format!("{}{n}", if warming { "warm" } else { "client" });
        lab.put_pod(1, &name, &[("role", "client")], None);
        let pod = lab.attach_pod(1, &name);
        let answered = Instant::now();
        let limit = if warming { Duration::from_secs(1) } else { LIMIT };
        let seen = wait(&monitor.seen, &pod.ip.to_string(), limit);
        connected = seen.is_ok();
        if !warming {
            beyond.push(seen.with_context(|| name.clone())?.saturating_duration_since(answered));
        }
        lab.delete_pod(1, &pod);
        tokio::time::sleep(PAUSE).await;
    }
    for percent in [50, 99] {
        let name = format!("ADD answered to the address in another node's policy, p{percent}");
        let figure = Figure::new(name, "ms", percentile(&beyond, percent));
        report.add(if percent == 50 { figure.goal(NEWCOMERS_GOAL) } else { figure });
    }
    Ok(())
}

/// A policy that lets a peer reach the targets.
fn spec(peer: &str) -> Value {
    json!({
        "podSelector": {"matchLabels": {"app": "target"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"ipBlock": {"cidr": format!("{peer}/32")}}], "ports": [{"port": 80}]}],
    })
}

pub(crate) fn wait(seen: &Receiver<Sighting>, what: &str, limit: Duration) -> anyhow::Result<Instant> {
    let begin = Instant::now();
    loop {
        let left = limit.saturating_sub(begin.elapsed());
        ensure!(!left.is_zero(), "{what} was not seen within {limit:?}");
        match seen.recv_timeout(left) {
            Ok((found, at)) if found == what => return Ok(at),
            _ => {}
        }
    }
}

/// Follows a collection of the API server as any client would, and tells the names that begin with `latency-`.
pub(crate) async fn watch(lab: &Lab, collection: &str) -> anyhow::Result<Receiver<Sighting>> {
    let address = SocketAddr::from((lab.outside_ip(), 6443));
    let netns = Netns::open(format!("/run/netns/{}", lab.outside()))?;
    let mut stream = netns.run(move || std::net::TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    write!(stream, "GET /{collection}?watch=true HTTP/1.1\r\nHost: lab\r\n\r\n")?;
    let (sender, seen) = channel();
    // It ends with the connection, and that with the lab.
    std::thread::spawn(move || follow(stream, &sender));
    Ok(seen)
}

fn follow(mut stream: impl Read, seen: &Sender<Sighting>) {
    let (mut text, mut buffer) = (String::new(), vec![0; 1 << 16]);
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        let now = Instant::now();
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        while let Some(at) = text.find("\"latency-") {
            let Some(end) = text[at + 1..].find('"') else { break };
            let name = text[at + 1..at + 1 + end].to_owned();
            text.drain(..at + end + 2);
            if seen.send((name, now)).is_err() {
                return;
            }
        }
    }
}

/// `ovs-ofctl monitor`, told by ovs-vswitchd of each flow as it comes into force.
pub(crate) struct Monitor {
    child: Child,
    pub(crate) seen: Receiver<Sighting>,
}

impl Monitor {
    /// Tells of the addresses in `field` of a match that begin with `prefix`.
    pub(crate) fn start(node: &LabNode, field: &'static str, prefix: &'static str) -> anyhow::Result<Self> {
        let target = format!("unix:{}", node.ovs.mgmt_sock("br-int").display());
        let mut child = node
            .ovs
            .command("ovs-ofctl")
            .args(["-O", "OpenFlow10", "monitor", &target, "watch:!initial,!delete,!modify"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stderr.take().context("standard error")?).lines();
        let (sender, seen) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let now = Instant::now();
                let Some((_, rest)) = line.split_once(field) else { continue };
                let address = &rest[..rest.find([',', ' ']).unwrap_or(rest.len())];
                if address.starts_with(prefix) && sender.send((address.to_owned(), now)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, seen })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
