//! What tracing costs a pod: ADD on a node that exports spans beside one that does not.

use std::time::{Duration, Instant};

use antrea_tests::lab::{Lab, LabNode};
use antrea_tests::tracing::trace;
use anyhow::ensure;
use serde_json::json;

use crate::footprint::resident;
use crate::report::{Figure, Report, percentile};

/// Pods on each node, one after the other.
const PODS: usize = 200;

/// Measures ADD with tracing on and off.
///
/// # Errors
/// An operation failed, or spans did not arrive.
pub(crate) async fn run(report: Report) -> anyhow::Result<()> {
    let mut lab = Lab::without_agents(2, &[("logLevel", json!("info"))]).await;
    lab.start_agent(0);
    lab.wait_ready(0).await;
    let collector = trace(&mut lab).await;
    lab.start_agent(1);
    lab.wait_ready(1).await;
    let names = ["off", "on"];
    let pods = names.map(|name| format!("{name}-0123456789abcdef"));
    let netns = [lab.pod_netns(0, names[0]), lab.pod_netns(1, names[1])];
    let mut times: [Vec<Duration>; 2] = Default::default();
    for round in 0..=PODS {
        for (index, times) in times.iter_mut().enumerate() {
            let begin = Instant::now();
            call(&lab.nodes[index], "ADD", &pods[index], &netns[index])?;
            // The first does not count.
            if round > 0 {
                times.push(begin.elapsed());
            }
            call(&lab.nodes[index], "DEL", &pods[index], &netns[index])?;
        }
    }
    let traced = || collector.spans().iter().filter(|span| span.name == "cni.add").count();
    let begin = Instant::now();
    while traced() < PODS {
        ensure!(begin.elapsed() < Duration::from_secs(30), "{} of {PODS} pods were traced", traced());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let spans = collector.spans().len() as f64 / traced() as f64;
    report.say(&format!("{PODS} pods were traced, {spans:.1} spans each with its DEL"));
    for percent in [50, 99] {
        let [off, on] = times.each_ref().map(|times| percentile(times, percent));
        let name = format!("CNI ADD with tracing on, antrea-cni executed, p{percent}");
        report.add(Figure::new(name, "ms", on).peer(off).note("peer: the same with tracing off"));
    }
    let memory = [resident(lab.nodes[0].agent_pid())?, resident(lab.nodes[1].agent_pid())?];
    let [(off, _), (on, of_it)] = memory;
    let figure = Figure::new("resident memory of an agent with tracing on", "MB", on).peer(off);
    report.add(figure.note(format!("{of_it}; peer: the same with tracing off")));
    Ok(())
}

fn call(node: &LabNode, verb: &str, id: &str, netns: &str) -> anyhow::Result<()> {
    let (output, text) = node.cni(verb, id, netns, "1.0.0", None);
    ensure!(output.status.success(), "antrea-cni {verb}: {text}");
    Ok(())
}
