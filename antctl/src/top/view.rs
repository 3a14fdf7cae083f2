//! What lies between two samples, as tables and as JSON.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;

use antrea_api::agent::{BUSIEST, FlowTraffic, Traffic};
use serde_json::{Value, json};

use crate::cli::Format;
use crate::output::Output;

/// Counters that only grow, unless whoever counts starts anew.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) sessions: u64,
}

impl Counters {
    /// What came since; all of it where it was counted anew.
    fn since(self, before: Self) -> Self {
        if self.packets < before.packets || self.bytes < before.bytes || self.sessions < before.sessions {
            return self;
        }
        Self {
            packets: self.packets - before.packets,
            bytes: self.bytes - before.bytes,
            sessions: self.sessions - before.sessions,
        }
    }
}

/// A Pod's counters: what it sent, what it received.
#[derive(Debug, Clone, Copy, Default)]
struct Ways {
    sent: Counters,
    received: Counters,
}

/// What was counted at a time.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// When each Node's agent answered.
    at: BTreeMap<String, Instant>,
    /// By Node and Pod.
    pods: BTreeMap<(String, String), Ways>,
    /// By Node and Open vSwitch's name of them.
    flows: BTreeMap<(String, String), (Ends, Counters)>,
    /// By Node and table, or the cause that is no table.
    drops: BTreeMap<(String, String), Counters>,
    pub(super) policies: BTreeMap<String, Counters>,
    pub(super) policies_at: Option<Instant>,
    /// Who did not answer, and why.
    pub(super) silent: BTreeMap<String, String>,
}

/// Between whom a flow of the datapath is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Ends {
    from: String,
    to: String,
    /// With the port, where the flow looks at it.
    service: String,
}

impl Ends {
    fn of(flow: &FlowTraffic) -> Self {
        let any = |text: &str| if text.is_empty() { "any" } else { text }.to_owned();
        let service = match flow.port {
            Some(port) => format!("{} {port}", any(&flow.protocol)),
            None => any(&flow.protocol),
        };
        Self { from: flow.from.clone(), to: any(&flow.to), service }
    }
}

/// Drops of Pods' links rather than of a table.
const LINKS: &str = "links";

impl Sample {
    /// Takes in what an agent has told.
    pub(super) fn take(&mut self, node: &str, at: Instant, traffic: &Traffic) {
        self.at.insert(node.to_owned(), at);
        let counters = |packets, bytes| Counters { packets, bytes, sessions: 0 };
        let mut lost = 0;
        for pod in &traffic.pods {
            let ways = Ways {
                sent: counters(pod.sent_packets, pod.sent_bytes),
                received: counters(pod.received_packets, pod.received_bytes),
            };
            self.pods.insert((node.to_owned(), format!("{}/{}", pod.namespace, pod.name)), ways);
            lost += pod.dropped_packets;
        }
        for flow in &traffic.flows {
            let key = (node.to_owned(), flow.id.clone());
            self.flows.insert(key, (Ends::of(flow), counters(flow.packets, flow.bytes)));
        }
        for drop in &traffic.drops {
            self.drops.insert((node.to_owned(), drop.table.clone()), counters(drop.packets, drop.bytes));
        }
        self.drops.insert((node.to_owned(), LINKS.to_owned()), counters(lost, 0));
    }
}

/// Why a table drops. Flows have no better names; who reads `antctl get ovsflows` finds the table there.
fn cause(table: &str) -> &'static str {
    match table {
        "PipelineRootClassifier" => "of no protocol of the cluster, or tagged",
        "ARPSpoofGuard" => "ARP with a forged sender",
        "ARPResponder" => "ARP for nobody",
        "Classifier" => "from an unknown port or Node",
        "SpoofGuard" => "forged source",
        "EgressDefaultRule" => "egress: isolated, and no rule allows it",
        "EgressMetric" => "egress: a rule denies it",
        "IngressDefaultRule" => "ingress: isolated, and no rule allows it",
        "IngressMetric" => "ingress: a rule denies it",
        "L3Forwarding" => "no Pod has the address",
        "L2ForwardingCalc" => "no port leads there",
        LINKS => "a Pod's link was full or down",
        _ => "no flow for it",
    }
}

#[derive(Debug, Clone, PartialEq)]
struct PodRow {
    pod: String,
    node: String,
    /// Octets and packets each second.
    sent: [f64; 2],
    received: [f64; 2],
}

#[derive(Debug, Clone, PartialEq)]
struct FlowRow {
    ends: Ends,
    node: String,
    /// Octets and packets each second.
    rate: [f64; 2],
}

#[derive(Debug, Clone, PartialEq)]
struct PolicyRow {
    policy: String,
    /// Octets each second since the first look: agents tell once a minute.
    rate: f64,
    total: Counters,
}

#[derive(Debug, Clone, PartialEq)]
struct DropRow {
    node: String,
    table: String,
    /// Packets each second, and since there are counters.
    rate: f64,
    total: u64,
}

/// What is shown: the busiest first.
#[derive(Debug, Default, PartialEq)]
pub(super) struct View {
    pods: Vec<PodRow>,
    flows: Vec<FlowRow>,
    policies: Vec<PolicyRow>,
    drops: Vec<DropRow>,
    silent: BTreeMap<String, String>,
}

fn seconds(from: Option<&Instant>, to: Option<&Instant>) -> Option<f64> {
    let elapsed = to?.checked_duration_since(*from?)?.as_secs_f64();
    (elapsed > 0.0).then_some(elapsed)
}

#[allow(clippy::cast_precision_loss, reason = "rates are shown with three digits")]
fn rate(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

/// What went between the same ends by the datapath's flows.
fn flows(before: &Sample, now: &Sample) -> Vec<FlowRow> {
    let mut rates: BTreeMap<(&String, &Ends), [f64; 2]> = BTreeMap::new();
    let told_before = |node: &String| before.flows.keys().filter(|(of, _)| of == node).count();
    for (key @ (node, _), (ends, counters)) in &now.flows {
        let Some(elapsed) = seconds(before.at.get(node), now.at.get(node)) else { continue };
        let known = match before.flows.get(key) {
            Some((_, counters)) => *counters,
            // New, and has done all of it since.
            None if told_before(node) < BUSIEST => Counters::default(),
            // Or one that was none of the busiest before.
            None => continue,
        };
        let came = counters.since(known);
        let [bytes, packets] = rates.entry((node, ends)).or_default();
        *bytes += rate(came.bytes, elapsed);
        *packets += rate(came.packets, elapsed);
    }
    let row = |((node, ends), rate): ((&String, &Ends), _)| FlowRow {
        ends: ends.clone(),
        node: node.clone(),
        rate,
    };
    let mut rows: Vec<FlowRow> = rates.into_iter().filter(|(_, rate)| rate[1] > 0.0).map(row).collect();
    rows.sort_by(|a, b| b.rate[0].total_cmp(&a.rate[0]));
    rows
}

impl View {
    /// What came between the last two samples, and of policies since the first.
    pub(super) fn between(first: &Sample, before: &Sample, now: &Sample) -> Self {
        let mut view = Self { silent: now.silent.clone(), ..Self::default() };
        let elapsed = |node: &str| seconds(before.at.get(node), now.at.get(node));
        for ((node, pod), ways) in &now.pods {
            let Some(elapsed) = elapsed(node) else { continue };
            // A Pod that is new has sent all of it since.
            let known = before.pods.get(&(node.clone(), pod.clone())).copied().unwrap_or_default();
            let rates = |now: Counters, known: Counters| {
                let came = now.since(known);
                [rate(came.bytes, elapsed), rate(came.packets, elapsed)]
            };
            view.pods.push(PodRow {
                pod: pod.clone(),
                node: node.clone(),
                sent: rates(ways.sent, known.sent),
                received: rates(ways.received, known.received),
            });
        }
        view.flows = flows(before, now);
        for ((node, table), counters) in &now.drops {
            let Some(elapsed) = elapsed(node) else { continue };
            let known = before.drops.get(&(node.clone(), table.clone())).copied().unwrap_or_default();
            if counters.packets > 0 {
                let rate = rate(counters.since(known).packets, elapsed);
                let (node, table) = (node.clone(), table.clone());
                view.drops.push(DropRow { node, table, rate, total: counters.packets });
            }
        }
        let elapsed = seconds(first.policies_at.as_ref(), now.policies_at.as_ref());
        for (policy, total) in &now.policies {
            let known = first.policies.get(policy).copied().unwrap_or_default();
            let rate = elapsed.map_or(0.0, |elapsed| rate(total.since(known).bytes, elapsed));
            view.policies.push(PolicyRow { policy: policy.clone(), rate, total: *total });
        }
        let busy = |row: &PodRow| row.sent[0] + row.received[0];
        view.pods.sort_by(|a, b| busy(b).total_cmp(&busy(a)));
        view.policies.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.total.bytes.cmp(&a.total.bytes)));
        view.drops.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(Reverse(a.total).cmp(&Reverse(b.total))));
        view
    }

    /// Tables for people, of so many rows each.
    pub(super) fn text(&self, rows: usize) -> anyhow::Result<String> {
        let table = |columns, rows: Vec<Vec<String>>| {
            Output { columns, rows, value: Value::Null }.render(Format::Table)
        };
        let pods = self.pods.iter().take(rows).map(|row| {
            vec![
                row.pod.clone(),
                row.node.clone(),
                short(row.sent[0]),
                short(row.sent[1]),
                short(row.received[0]),
                short(row.received[1]),
            ]
        });
        let flows = self.flows.iter().take(rows).map(|row| {
            let Ends { from, to, service } = row.ends.clone();
            vec![from, to, service, row.node.clone(), short(row.rate[0]), short(row.rate[1])]
        });
        let policies = self.policies.iter().take(rows).map(|row| {
            let Counters { packets, bytes, sessions } = row.total;
            let [packets, bytes, sessions] = [packets, bytes, sessions].map(|n| short(rate(n, 1.0)));
            vec![row.policy.clone(), short(row.rate), bytes, packets, sessions]
        });
        let drops = self.drops.iter().take(rows).map(|row| {
            let total = short(rate(row.total, 1.0));
            vec![cause(&row.table).to_owned(), row.table.clone(), row.node.clone(), short(row.rate), total]
        });
        let mut parts = vec![
            table(
                &["POD", "NODE", "SENT-B/s", "SENT-PKT/s", "RECEIVED-B/s", "RECEIVED-PKT/s"],
                pods.collect(),
            )?,
            table(&["FROM", "TO", "SERVICE", "NODE", "B/s", "PKT/s"], flows.collect())?,
            table(&["POLICY", "B/s", "BYTES", "PACKETS", "SESSIONS"], policies.collect())?,
            table(&["DROPPED", "TABLE", "NODE", "PKT/s", "PACKETS"], drops.collect())?,
        ];
        if !self.silent.is_empty() {
            let silent = self.silent.iter().map(|(who, why)| vec![who.clone(), why.clone()]);
            parts.push(table(&["NOT-ASKED", "WHY"], silent.collect())?);
        }
        Ok(parts.join("\n"))
    }

    /// The same for programs, on a line.
    pub(super) fn json(&self, rows: usize) -> Value {
        let way = |[bytes, packets]: [f64; 2]| json!({"bytesPerSecond": bytes, "packetsPerSecond": packets});
        let pods = self.pods.iter().take(rows).map(|row| {
            json!({"pod": row.pod, "node": row.node, "sent": way(row.sent), "received": way(row.received)})
        });
        let flows = self.flows.iter().take(rows).map(|row| {
            let Ends { from, to, service } = &row.ends;
            json!({"from": from, "to": to, "service": service, "node": row.node,
                   "bytesPerSecond": row.rate[0], "packetsPerSecond": row.rate[1]})
        });
        let policies = self.policies.iter().take(rows).map(|row| {
            json!({"policy": row.policy, "bytesPerSecond": row.rate, "bytes": row.total.bytes,
                   "packets": row.total.packets, "sessions": row.total.sessions})
        });
        let drops = self.drops.iter().take(rows).map(|row| {
            json!({"cause": cause(&row.table), "table": row.table, "node": row.node,
                   "packetsPerSecond": row.rate, "packets": row.total})
        });
        json!({
            "pods": pods.collect::<Vec<_>>(), "flows": flows.collect::<Vec<_>>(), "policies": policies.collect::<Vec<_>>(),
            "drops": drops.collect::<Vec<_>>(), "notAsked": self.silent,
        })
    }
}

/// A number in three digits, with k, M, G or T behind.
fn short(number: f64) -> String {
    let (mut number, mut unit) = (number, 0);
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    while number >= 999.5 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    let digits = match number {
        number if unit == 0 && number.fract() == 0.0 => 0,
        number if number >= 99.95 => 0,
        number if number >= 9.995 => 1,
        _ => 2,
    };
    format!("{number:.digits$}{}", UNITS[unit])
}

#[cfg(test)]
mod tests;
