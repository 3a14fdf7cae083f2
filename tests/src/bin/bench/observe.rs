//! What being observed costs an agent: idling with its self-tests and heartbeats, and being scraped.

use std::time::{Duration, Instant};

use antrea_tests::https;
use antrea_tests::lab::Lab;
use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::report::{Figure, Goal, Report};

const LIMIT: Duration = Duration::from_secs(300);

/// Pods, and rules that select all of them, while idling.
const PODS: usize = 100;
const RULES: usize = 1_000;

/// Flows while being scraped.
const FLOWS: usize = 20_000;

/// Time after the last change before anything is measured.
const SETTLE: Duration = Duration::from_secs(15);

/// Idling that is measured: two heartbeats, two comparisons of all flows, 60 self-tests.
const IDLE: Duration = Duration::from_secs(120);

const SCRAPES: u32 = 50;

/// Measures both.
///
/// # Errors
/// The agent does not come as far.
pub(crate) async fn run(report: Report) -> anyhow::Result<()> {
    let mut lab = Lab::start(1, &[("logLevel", json!("info"))]).await;
    // The cluster is there before the controller, which then lists it once.
    lab.kill_controller();
    let names: Vec<String> = (0..PODS).map(|number| format!("p{number}")).collect();
    for name in &names {
        lab.put_pod(0, name, &[("name", name)], None);
    }
    put_rules(&lab, "idle", RULES, 1);
    lab.start_controller();
    lab.wait_controller().await;
    for name in &names {
        lab.add_pod(0, name);
    }
    let rules = rule_count(&lab, RULES).await?;
    let flows = lab.agent_metric(0, "antrea_agent_ovs_total_flow_count").await;
    tokio::time::sleep(SETTLE).await;
    report.say(&format!("{} s of idling with {PODS} pods, {rules} rules, {flows} flows", IDLE.as_secs()));
    let pid = lab.nodes[0].agent_pid();
    let (begin, before) = (Instant::now(), cpu(pid)?);
    tokio::time::sleep(IDLE).await;
    let share = (cpu(pid)? - before).as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0;
    report.add(
        Figure::new(format!("idle agent, {PODS} pods, {RULES} rules"), "% of a core", share)
            .goal(Goal::Below(0.2))
            .note(format!("{flows} flows; commands that it runs are counted")),
    );

    // Rules of many peers: the flows of a large cluster on one node.
    lab.kill_controller();
    put_rules(&lab, "scrape", 20, FLOWS / 20);
    lab.start_controller();
    lab.wait_controller().await;
    rule_count(&lab, RULES + 20).await?;
    let flows = lab.agent_metric(0, "antrea_agent_ovs_total_flow_count").await;
    ensure!(flows >= FLOWS as f64, "only {flows} flows");
    tokio::time::sleep(SETTLE).await;
    let before = cpu(pid)?;
    let (scrape, size) = request(&lab, "/metrics").await?;
    let cost = (cpu(pid)? - before).as_secs_f64() * 1000.0 / f64::from(SCRAPES);
    let (floor, _) = request(&lab, "/readyz").await?;
    report.add(
        Figure::new(format!("scrape of an agent with {flows} flows, its processor time"), "ms", cost)
            .goal(Goal::Below(5.0))
            .note("with a TLS handshake each"),
    );
    report.add(
        Figure::new("the same, as the scraper sees it", "ms", scrape)
            .peer(floor)
            .note(format!("p50; peer: /readyz the same way; {size} octets")),
    );
    Ok(())
}

/// Policies of ten rules each, which select every pod; each rule has `peers` blocks of its own.
fn put_rules(lab: &Lab, name: &str, rules: usize, peers: usize) {
    let numbers: Vec<usize> = (0..rules).collect();
    for (policy, numbers) in numbers.chunks(10).enumerate() {
        let ingress: Vec<Value> = numbers
            .iter()
            .map(|rule| {
                let from: Vec<Value> = (0..peers)
                    .map(|peer| {
                        let number = rule * peers + peer;
                        let cidr = format!("172.20.{}.{}/32", number / 256, number % 256);
                        json!({"ipBlock": {"cidr": cidr}})
                    })
                    .collect();
                json!({"from": from, "ports": [{"protocol": "TCP", "port": 1_000 + rule}]})
            })
            .collect();
        lab.put_policy(&format!("{name}-{policy}"), &json!({"podSelector": {}, "ingress": ingress}));
    }
}

async fn rule_count(lab: &Lab, wanted: usize) -> anyhow::Result<f64> {
    let name = "antrea_agent_ingress_networkpolicy_rule_count";
    let begin = Instant::now();
    loop {
        let count = lab.agent_metric(0, name).await;
        if count >= wanted as f64 {
            return Ok(count);
        }
        ensure!(begin.elapsed() < LIMIT, "{name} is {count}, not {wanted}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Median time in milliseconds of one request, and the length of the answer.
async fn request(lab: &Lab, path: &str) -> anyhow::Result<(f64, usize)> {
    let endpoint = lab.agent_endpoint(0, Some("lab-scraper"));
    let mut times = Vec::new();
    let mut length = 0;
    for _ in 0..SCRAPES {
        let begin = Instant::now();
        let (status, text) = https::get(&endpoint, path).await.map_err(anyhow::Error::msg)?;
        times.push(begin.elapsed().as_secs_f64() * 1000.0);
        ensure!(status == 200, "{path}: {status}: {text}");
        length = text.len();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    times.sort_by(f64::total_cmp);
    Ok((times[times.len() / 2], length))
}

/// Processor time of a process's threads, to the nanosecond, and of the commands that it ran and that have
/// ended.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let mut total = Duration::ZERO;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = task?.path().join("schedstat");
        // A thread may end meanwhile.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
        total += Duration::from_nanos(nanoseconds.with_context(|| path.display().to_string())?);
    }
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path)?;
    // After the name, which may hold anything; see proc_pid_stat(5): cutime and cstime are 16 and 17.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |number: usize| -> anyhow::Result<u64> {
        fields.get(number - 3).and_then(|field| field.parse().ok()).with_context(|| path.clone())
    };
    Ok(total + Duration::from_millis((ticks(16)? + ticks(17)?) * 10))
}
