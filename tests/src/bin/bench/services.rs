//! Services that the bridge serves: 10,000 of them on one node, one EndpointSlice on its way, and 1,000 at once.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::time::{Duration, Instant};

use antrea_tests::lab::Lab;
use anyhow::{Context, ensure};
use openflow::multipart::FlowFilter;
use ovs::of::{OfConfig, OfHandle, OfSession};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::footprint::resident;
use crate::latency::{Monitor, PAUSE, wait, watch};
use crate::report::{Figure, Goal, Report, median, percentile};

const SERVICES: &str = "api/v1/services";
const SLICES: &str = "apis/discovery.k8s.io/v1/endpointslices";
/// Endpoints of each Service.
const ENDPOINTS: u32 = 10;
const MANY: u32 = 10_000;
/// Slices of them that change, one after the other.
const CHANGED: u32 = 20;
const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const INSTALLED: &str = "antrea_proxy_total_services_installed{ip_family=\"v4\"}";
const SENT: &str = "antrea_agent_ovs_flow_ops_count";
/// What OVS has of ours and what it would have by another way.
const BRIDGE: &str = "br-int";
const PEER: &str = "br-peer";

/// A lab whose first node serves Services, without its agent.
pub(crate) async fn lab(nodes: usize) -> Lab {
    let config = [("featureGates", json!({"AntreaProxy": true})), ("logLevel", json!("info"))];
    Lab::without_agents(nodes, &config).await
}

fn address(number: u32) -> IpAddr {
    let [_, _, high, low] = (number / 250 * 256 + number % 250 + 1).to_be_bytes();
    Ipv4Addr::new(10, 96, high + 16, low).into()
}

/// Service `number`, of one port.
pub(crate) fn put_service(lab: &Lab, number: u32) {
    let ip = address(number);
    let spec = json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
                      "ports": [{"name": "http", "protocol": "TCP", "port": 80}]});
    let metadata = json!({"namespace": "default", "name": format!("s{number}")});
    lab.api.put(SERVICES, json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}));
}

/// Its EndpointSlice of all endpoints, which have this port.
fn put_slice(lab: &Lab, name: &str, number: u32, port: u16) {
    put_endpoints(lab, name, number, 0..ENDPOINTS, port);
}

/// Its EndpointSlice of some endpoints.
pub(crate) fn put_endpoints(lab: &Lab, name: &str, number: u32, which: Range<u32>, port: u16) {
    let endpoint = |n: u32| {
        let ip = Ipv4Addr::from(0x0a01_0000 + number * ENDPOINTS + n);
        json!({"addresses": [ip], "nodeName": "elsewhere",
               "conditions": {"ready": true, "serving": true, "terminating": false},
               "targetRef": {"kind": "Pod", "namespace": "default", "name": format!("s{number}-{n}")}})
    };
    let endpoints: Vec<Value> = which.map(endpoint).collect();
    lab.api.put(
        SLICES,
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "default", "name": name,
                         "labels": {"kubernetes.io/service-name": format!("s{number}")}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "protocol": "TCP", "port": port}],
        }),
    );
}

/// Services and their endpoints in this number.
pub(crate) fn put_many(lab: &Lab) {
    for number in 0..MANY {
        put_service(lab, number);
        put_slice(lab, &format!("s{number}-x"), number, 8080);
    }
}

/// Waits until a node serves as many ports of Services.
pub(crate) async fn served(lab: &Lab, wanted: f64) -> anyhow::Result<()> {
    metric(lab, INSTALLED, |count| count >= wanted).await
}

async fn metric(lab: &Lab, name: &str, is_good: impl Fn(f64) -> bool) -> anyhow::Result<()> {
    let begin = Instant::now();
    loop {
        let value = lab.agent_metric(0, name).await;
        if is_good(value) {
            return Ok(());
        }
        ensure!(begin.elapsed() < LIMIT, "{name} is {value}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Starts the agent. Returns the seconds until the network is up, with all Services there are.
async fn start(lab: &mut Lab, wanted: u32) -> anyhow::Result<f64> {
    let begin = Instant::now();
    lab.start_agent(0);
    lab.wait_ready(0).await;
    served(lab, wanted.into()).await?;
    Ok(begin.elapsed().as_secs_f64())
}

/// 10,000 Services in one agent.
///
/// # Errors
/// The agent does not come as far.
pub(crate) async fn many(report: Report) -> anyhow::Result<()> {
    let mut lab = lab(1).await;
    let name = format!("{MANY} Services of {ENDPOINTS} endpoints");
    let empty = start(&mut lab, 0).await?;
    let (idle, _) = resident(lab.nodes[0].agent_pid())?;
    lab.nodes[0].stop_agent();
    put_many(&lab);
    report.say("all objects are there");

    let took = start(&mut lab, MANY).await?;
    let flows = lab.agent_metric(0, "antrea_agent_ovs_total_flow_count").await;
    report.add(
        Figure::new(format!("{name}: agent's start until all are served"), "s", took)
            .peer(empty)
            .note(format!("{flows} flows and a group for each; peer: without Services")),
    );
    let (memory, note) = resident(lab.nodes[0].agent_pid())?;
    report.add(
        Figure::new(format!("{name}: agent"), "MB", memory)
            .peer(idle)
            .goal(Goal::AtMost(120.0))
            .note(format!("{note}; peer: without Services")),
    );

    // Endpoints of some slices get another port, one slice after the other.
    let before = lab.agent_metric(0, SENT).await;
    for number in 0..CHANGED {
        let sent = lab.agent_metric(0, SENT).await;
        put_slice(&lab, &format!("s{number}-x"), number, 8081);
        metric(&lab, SENT, |now| now > sent).await?;
    }
    // What came later than the first of a change would be here.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let sent = (lab.agent_metric(0, SENT).await - before) / f64::from(CHANGED);
    report.add(
        Figure::new(format!("{name}: flows and groups sent for a changed slice"), "", sent)
            .goal(Goal::AtMost(1.0)),
    );

    lab.nodes[0].kill_agent();
    let again = start(&mut lab, MANY).await?;
    let (memory, note) = resident(lab.nodes[0].agent_pid())?;
    report.add(
        Figure::new(format!("{name}: agent's start when the bridge has them already"), "s", again)
            .peer(took)
            .note("peer: the start above"),
    );
    report.add(Figure::new(format!("{name}: agent after that"), "MB", memory).note(note));
    Ok(())
}

const SLICES_ALONE: u32 = 200;
/// For the monitor, which connects in its own time.
const WARM: u32 = 100;
const AT_ONCE: u32 = 1_000;
const ROUNDS: usize = 3;

/// One EndpointSlice, and 1,000.
///
/// # Errors
/// One is not served within 30 s.
pub(crate) async fn slices(report: Report) -> anyhow::Result<()> {
    let mut lab = lab(1).await;
    start(&mut lab, 0).await?;
    for number in 0..AT_ONCE {
        put_service(&lab, number);
    }
    alone(&report, &lab).await?;
    metric(&lab, INSTALLED, |count| count < f64::from(WARM)).await?;
    at_once(&report, &lab).await
}

/// From the slice's creation to the flow of its Service, which is without endpoints before.
async fn alone(report: &Report, lab: &Lab) -> anyhow::Result<()> {
    let watcher = watch(lab, SLICES).await?;
    let monitor = Monitor::start(&lab.nodes[0], "nw_dst=", "10.96.")?;
    let (mut plain, mut beyond, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..WARM {
        put_slice(lab, &format!("warm-{number}"), number, 8080);
        if wait(&monitor.seen, &address(number).to_string(), Duration::from_millis(500)).is_ok() {
            break;
        }
    }
    for number in WARM..WARM + SLICES_ALONE {
        let name = format!("latency-{number}-x");
        let begin = Instant::now();
        put_slice(lab, &name, number, 8080);
        let told = wait(&watcher, &name, LIMIT).context("the plain watcher")?;
        let at = wait(&monitor.seen, &address(number).to_string(), LIMIT).context("the flow")?;
        plain.push(told - begin);
        beyond.push(at.saturating_duration_since(told));
        whole.push(at - begin);
        tokio::time::sleep(PAUSE).await;
    }
    for percent in [50, 99] {
        let name = format!("EndpointSlice created to flow, beyond a plain watch, p{percent}");
        let figure = Figure::new(name, "ms", percentile(&beyond, percent)).note(format!(
            "whole way {:.2} ms, of it the API server's watch {:.2} ms",
            percentile(&whole, percent),
            percentile(&plain, percent)
        ));
        report.add(if percent == 50 { figure.goal(Goal::AtMost(10.0)) } else { figure });
    }
    (0..WARM).for_each(|number| lab.api.delete(SLICES, Some("default"), &format!("warm-{number}")));
    let alone = WARM..WARM + SLICES_ALONE;
    alone.for_each(|number| lab.api.delete(SLICES, Some("default"), &format!("latency-{number}-x")));
    Ok(())
}

/// Slices of 1,000 Services come together: the whole way through the agent, and the same flows and groups by ovs-ofctl.
async fn at_once(report: &Report, lab: &Lab) -> anyhow::Result<()> {
    let ovs = &lab.nodes[0].ovs;
    let cancel = CancellationToken::new();
    let _guard = cancel.clone().drop_guard();
    let session =
        |bridge: &str| OfSession::spawn(ovs.mgmt_sock(bridge), OfConfig::default(), cancel.clone()).0;
    let bridge = ["add-br", PEER, "--", "set", "bridge", PEER, "datapath_type=netdev"];
    ovs.vsctl(&[&bridge[..], &["protocols=OpenFlow15", "fail_mode=secure"]].concat())?;
    let (own, peer) = (session(BRIDGE), session(PEER));
    own.wait_connected(LIMIT).await?;
    peer.wait_connected(LIMIT).await?;
    let file = tempfile::NamedTempFile::new()?;
    let path = file.path().to_str().context("temporary path is no text")?;

    // Others, such as the controller's, are there already; the last of those before have gone.
    let others = entries_of(&own).await?;
    let (mut ours, mut theirs, mut entries) = (Vec::new(), Vec::new(), 0);
    for round in 0..ROUNDS {
        let base = lab.agent_metric(0, INSTALLED).await;
        let begin = Instant::now();
        (0..AT_ONCE).for_each(|number| put_slice(lab, &format!("s{number}-x"), number, 8080));
        served(lab, base + f64::from(AT_ONCE)).await?;
        ours.push(begin.elapsed().as_secs_f64());
        if round == 0 {
            let text = of_services(&own, &others).await?;
            entries = text.lines().count();
            std::fs::write(path, text)?;
        }
        let begin = Instant::now();
        ovs.ofctl(&["bundle"], PEER, &[path])?;
        theirs.push(begin.elapsed().as_secs_f64());
        peer.send_barriered(vec![openflow::FlowMod::delete_by_cookie(0, 0).into()]).await?;
        ovs.ofctl(&["del-groups"], PEER, &[])?;
        (0..AT_ONCE).for_each(|number| lab.api.delete(SLICES, Some("default"), &format!("s{number}-x")));
        metric(lab, INSTALLED, |count| count <= base).await?;
        report.say(&format!(
            "round {} of {ROUNDS}: {:.2} and {:.2} s",
            round + 1,
            ours[round],
            theirs[round]
        ));
    }
    report.add(
        Figure::new(format!("{AT_ONCE} EndpointSlices at once, until all are served"), "s", median(&ours))
            .peer(median(&theirs))
            .note(format!(
                "{entries} flows and groups, with the API server's watch; peer: ovs-ofctl bundle with them"
            )),
    );
    Ok(())
}

/// Flows and groups of a bridge, as text for `ovs-ofctl bundle`.
async fn entries_of(bridge: &OfHandle) -> anyhow::Result<Vec<String>> {
    let mut all: Vec<String> =
        bridge.groups().await?.iter().map(|group| format!("group add {group}")).collect();
    let flows = bridge.flows(FlowFilter::all()).await?;
    all.extend(flows.iter().map(|entry| format!("flow add {}", entry.flow)));
    Ok(all)
}

/// Those that came since, one a line.
async fn of_services(bridge: &OfHandle, others: &[String]) -> anyhow::Result<String> {
    let mut text = String::new();
    for line in entries_of(bridge).await?.iter().filter(|line| !others.contains(line)) {
        writeln!(text, "{line}")?;
    }
    ensure!(text.lines().count() >= 2 * AT_ONCE as usize, "only {} flows and groups", text.lines().count());
    Ok(text)
}
