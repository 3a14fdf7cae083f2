//! Does the datapath do what the flows say? What it holds is a cache of decisions, and one that went wrong goes on
//! forwarding what flows forbid, while flows, self-test and every counter look right.
//!
//! Every few seconds a sample of the datapath's flows is compared with what Open vSwitch decides for the same key now
//! (`ofproto/trace`, which takes a datapath flow's key as it is dumped, recirculation and connection state included).
//! All packets of a datapath flow must be treated alike, so one key stands for them. Open vSwitch brings its cache up
//! to date some time after flows changed: only a difference that stays the same over several looks, and then does not
//! cease for a moment, is one. Then the cache is emptied (`revalidator/purge`), which costs one decision per flow, and it
//! is told.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ovs::ctl::{self, CtlError};

use crate::ovs::bridge::Datapath;
use crate::status::facts::{Health, Reporter};
use crate::status::metrics::AuditMetrics;

/// Between looks.
const PERIOD: Duration = Duration::from_secs(5);

/// Flows that are compared in one look. Each takes ovs-vswitchd's main thread less than a millisecond.
const SAMPLE: usize = 48;

/// Looks that find the same difference, and the time that they span, before it is one.
const LOOKS: u32 = 3;
const SPAN: Duration = Duration::from_secs(9);

/// For how long such a difference is then watched, and how often. Flows that change to and fro differ at every look by
/// chance, but not all of the time: Open vSwitch follows within half a second.
const WATCHED: Duration = Duration::from_secs(2);
const GLANCE: Duration = Duration::from_millis(150);

/// How long it is told after the last flow that was wrong.
const TOLD: Duration = Duration::from_secs(60);

/// Longest dump that is read, in octets: some 10,000 flows. Of a datapath that has more, one port's flows are read at a
/// time.
const DUMP: usize = 8 << 20;

/// Longest answer to the other questions, in octets.
const ANSWER: usize = 1 << 20;

/// A flow of the datapath.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DatapathFlow {
    /// Open vSwitch's name of it.
    ufid: String,
    /// Its key, with masks.
    key: String,
    /// What is done with its packets.
    actions: String,
    /// The datapath's number of the port.
    in_port: u32,
}

/// Reads a dump with names of flows and numbers of ports. Flows that ovs-vswitchd handles itself are left out: what it
/// does with them is decided for each packet.
fn flows(dump: &str) -> impl Iterator<Item = DatapathFlow> {
    dump.lines().filter_map(|line| {
        let (ufid, rest) = line.strip_prefix("ufid:")?.split_once(", ")?;
        let (key, rest) = rest.split_once(", packets:")?;
        let actions = rest.split_once("actions:")?.1;
        let actions = actions.split_once(", dp-extra-info:").map_or(actions, |(actions, _)| actions);
        let in_port = key.split_once("in_port(")?.1.split_once(')')?.0.parse().ok()?;
        (!actions.contains("userspace(")).then(|| DatapathFlow {
            ufid: ufid.to_owned(),
            key: key.to_owned(),
            actions: comparable(actions),
            in_port,
        })
    })
}

/// The datapath's numbers of a bridge's ports, of `dpif/show`.
fn ports(shown: &str, bridge: &str) -> BTreeSet<u32> {
    let header = format!("  {bridge}:");
    let lines = shown.lines().skip_while(|line| *line != header).skip(1);
    let of_bridge = lines.take_while(|line| line.starts_with("    "));
    of_bridge.filter_map(|line| line.split_once('/')?.1.split_once(':')?.0.parse().ok()).collect()
}

/// What a trace comes to before it recirculates.
fn decision(trace: &str) -> Option<String> {
    trace.lines().find_map(|line| line.strip_prefix("Datapath actions: ")).map(comparable)
}

/// Actions without what may differ between two decisions that are the same: a recirculation's number, and of a
/// tunnel all but its ends.
fn comparable(actions: &str) -> String {
    let mut text = String::with_capacity(actions.len());
    let mut rest = actions.trim();
    while let Some(at) = ["recirc(", "set(tunnel("].iter().filter_map(|start| rest.find(start)).min() {
        let (before, found) = rest.split_at(at);
        text.push_str(before);
        let end = closing(found).unwrap_or(found.len());
        let (action, after) = found.split_at(end);
        if let Some(tunnel) = action.strip_prefix("set(tunnel(") {
            let ends = tunnel
                .split([',', ')'])
                .filter(|part| ["src=", "dst="].iter().any(|end| part.starts_with(end)));
            text.push_str("tunnel");
            ends.for_each(|end| text.extend([" ", end]));
        } else {
            text.push_str("recirc");
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

/// Where the parentheses that a text opens are closed.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// A difference that may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Suspect {
    done: String,
    decided: String,
    since: Instant,
    looks: u32,
}

/// Chooses what to compare, and remembers what differed.
#[derive(Debug, Default)]
struct Auditor {
    look: u64,
    /// In which look a flow was compared last; only of flows that are there.
    compared: BTreeMap<String, u64>,
    suspects: BTreeMap<String, Suspect>,
}

impl Auditor {
    /// The flows to compare: those that differed, and those that were not for the longest time.
    fn sample(&mut self, flows: Vec<DatapathFlow>) -> Vec<DatapathFlow> {
        self.look += 1;
        let there: BTreeSet<&str> = flows.iter().map(|flow| flow.ufid.as_str()).collect();
        self.compared.retain(|ufid, _| there.contains(ufid.as_str()));
        self.suspects.retain(|ufid, _| there.contains(ufid.as_str()));
        let mut order: Vec<(bool, u64, DatapathFlow)> = flows
            .into_iter()
            .map(|flow| {
                let last = self.compared.get(&flow.ufid).copied().unwrap_or_default();
                (!self.suspects.contains_key(&flow.ufid), last, flow)
            })
            .collect();
        order.sort_by(|a, b| (a.0, a.1, &a.2.ufid).cmp(&(b.0, b.1, &b.2.ufid)));
        order.truncate(SAMPLE);
        let sample = order.into_iter().map(|(.., flow)| flow).collect::<Vec<_>>();
        self.compared.extend(sample.iter().map(|flow| (flow.ufid.clone(), self.look)));
        sample
    }

    /// Takes what the flows decide for a datapath flow; true once it is a difference.
    fn judge(&mut self, now: Instant, flow: &DatapathFlow, decided: &str) -> bool {
        if flow.actions == decided {
            self.suspects.remove(&flow.ufid);
            return false;
        }
        let new = Suspect { done: flow.actions.clone(), decided: decided.to_owned(), since: now, looks: 0 };
        let suspect = self.suspects.entry(flow.ufid.clone()).or_insert_with(|| new.clone());
        // Flows change, and the datapath follows: another difference begins anew.
        if (&suspect.done, &suspect.decided) != (&new.done, &new.decided) {
            *suspect = new;
        }
        suspect.looks += 1;
        if suspect.looks < LOOKS || now.duration_since(suspect.since) < SPAN {
            return false;
        }
        self.suspects.remove(&flow.ufid);
        true
    }
}

/// A difference that stayed over several looks.
#[derive(Clone, Debug)]
struct Wrong {
    flow: DatapathFlow,
    decided: String,
}

impl Wrong {
    /// Whether it is still the same difference.
    fn stays(&self, dump: &str, decided: Option<&str>) -> bool {
        decided == Some(self.decided.as_str()) && flows(dump).any(|flow| flow == self.flow)
    }

    fn told(&self) -> String {
        let Self { flow: DatapathFlow { key, actions, .. }, decided } = self;
        format!("packets of {} get \"{actions}\", and flows say \"{decided}\"", shortened(key))
    }
}

/// A key without the fields that it does not look at.
fn shortened(key: &str) -> String {
    let matched = |field: &&str| !field.ends_with("(0/0)");
    key.split("),")
        .map(|field| format!("{})", field.trim_end_matches(')')))
        .filter(|field| matched(&field.as_str()))
        .collect::<Vec<_>>()
        .join(",")
}

/// The datapath of a bridge, over ovs-vswitchd's control socket.
#[derive(Debug)]
pub struct Audit {
    run_dir: PathBuf,
    bridge: String,
    datapath: Datapath,
    auditor: Auditor,
    /// Which of the ports is read next, where not all can be at once.
    turn: Option<usize>,
}

impl Audit {
    /// Of this bridge.
    pub fn new(run_dir: PathBuf, bridge: String, datapath: Datapath) -> Self {
        Self { run_dir, bridge, datapath, auditor: Auditor::default(), turn: None }
    }

    /// Looks for ever.
    ///
    /// # Errors
    /// None: what is found is told, and a look that fails is followed by another.
    pub async fn run(mut self, reporter: &Reporter, metrics: &AuditMetrics) -> Infallible {
        let mut told: Option<Instant> = None;
        loop {
            tokio::time::sleep(PERIOD).await;
            match self.look(metrics).await {
                Ok(wrong) if !wrong.is_empty() => {
                    for wrong in &wrong {
                        tracing::error!(wrong, "the datapath does not do what flows say");
                    }
                    metrics.wrong(wrong.len());
                    if let Err(error) = self.ask("revalidator/purge", &[], ANSWER).await {
                        tracing::error!(%error, "the datapath's flows are not renewed");
                    }
                    told = Some(Instant::now());
                    let first = &wrong[0];
                    let health = Health::bad(
                        "DatapathFlowsWrong",
                        format_args!(
                            "{} of the datapath's flows differ from what the bridge's flows decide, and were removed; \
                             the first: {first}; if it comes again, restart the container antrea-ovs, and look for a \
                             newer Open vSwitch",
                            wrong.len()
                        ),
                    );
                    reporter.update(|facts| facts.datapath_flows = health);
                }
                Ok(_) => {
                    if told.is_none_or(|told| told.elapsed() > TOLD) {
                        reporter.update(|facts| facts.datapath_flows = Health::Good);
                    }
                }
                // ovs-vswitchd's own condition tells of it when it is away.
                Err(error) => tracing::debug!(%error, "datapath flows are not compared"),
            }
        }
    }

    async fn ask(&self, method: &str, arguments: &[&str], limit: usize) -> Result<String, CtlError> {
        ctl::call_with_limit(&self.run_dir, method, arguments, limit).await
    }

    /// Compares a sample; returns what is wrong.
    async fn look(&mut self, metrics: &AuditMetrics) -> Result<Vec<String>, CtlError> {
        let ports = ports(&self.ask("dpif/show", &[], ANSWER).await?, &self.bridge);
        let dump = self.dump(&ports).await?;
        let sample = self.auditor.sample(flows(&dump).filter(|flow| ports.contains(&flow.in_port)).collect());
        drop(dump);
        let mut wrong = Vec::new();
        for flow in sample {
            let Some(decided) = self.decided(&flow.key).await? else { continue };
            metrics.compared();
            if self.auditor.judge(Instant::now(), &flow, &decided) {
                wrong.push(Wrong { flow, decided });
            }
        }
        let begin = Instant::now();
        while !wrong.is_empty() && begin.elapsed() < WATCHED {
            tokio::time::sleep(GLANCE).await;
            let mut left = Vec::with_capacity(wrong.len());
            for wrong in wrong {
                let dump = self.dump_port(wrong.flow.in_port).await?;
                if wrong.stays(&dump, self.decided(&wrong.flow.key).await?.as_deref()) {
                    left.push(wrong);
                }
            }
            wrong = left;
        }
        Ok(wrong.iter().map(Wrong::told).collect())
    }

    /// What the flows decide for packets of a key; none if that cannot be said.
    async fn decided(&self, key: &str) -> Result<Option<String>, CtlError> {
        match self.ask("ofproto/trace", &[self.backer(), key], ANSWER).await {
            Ok(trace) => Ok(decision(&trace)),
            // Gone since, with what it continued.
            Err(CtlError::Refused { message, .. }) => {
                tracing::debug!(key, message, "a datapath flow cannot be traced");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn dump(&mut self, ports: &BTreeSet<u32>) -> Result<String, CtlError> {
        if self.turn.is_none() {
            let words = ["-m", "--no-names", &self.name()];
            match self.ask("dpctl/dump-flows", &words, DUMP).await {
                Err(CtlError::TooLong { .. }) => self.turn = Some(0),
                answer => return answer,
            }
        }
        let turn = self.turn.unwrap_or_default();
        // After all ports it may be fewer flows.
        self.turn = Some(turn + 1).filter(|turn| *turn < ports.len());
        let Some(port) = ports.iter().nth(turn) else { return Ok(String::new()) };
        self.dump_port(*port).await
    }

    /// Flows of what comes in by a port.
    async fn dump_port(&self, port: u32) -> Result<String, CtlError> {
        let filter = format!("filter=in_port={port}");
        self.ask("dpctl/dump-flows", &["-m", "--no-names", &self.name(), &filter], DUMP).await
    }

    /// The datapath's name, with its type.
    fn name(&self) -> String {
        format!("{}@{}", self.datapath.ovs_type(), self.backer())
    }

    /// What Open vSwitch calls the datapath.
    fn backer(&self) -> &'static str {
        match self.datapath {
            Datapath::System => "ovs-system",
            Datapath::Userspace => "ovs-netdev",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Open vSwitch 3.5.0 prints it.
    const DUMP: &str = "flow-dump from the main thread:
ufid:6171fcc4-83f9-4c0a-ad61-b7954de9d977, recirc_id(0x2),dp_hash(0/0),skb_priority(0/0),in_port(2),skb_mark(0/0),ct_state(0x22/0x21),ct_zone(0x5/0),ct_mark(0/0),ct_label(0/0),ct_tuple4(src=10.9.0.1/0.0.0.0,dst=10.9.0.2/0.0.0.0,proto=1/0,tp_src=8/0,tp_dst=0/0),packet_type(ns=0,id=0),eth(src=36:68:e4:bf:0c:92/00:00:00:00:00:00,dst=3a:21:c9:36:9e:ec/00:00:00:00:00:00),eth_type(0x0800),ipv4(src=10.9.0.1/0.0.0.0,dst=10.9.0.2,proto=1,tos=0/0,ttl=64,frag=no),icmp(type=8/0,code=0/0), packets:13, bytes:1274, used:0.132s, dp:ovs, actions:set(ipv4(ttl=63)),3, dp-extra-info:miniflow_bits(4,2)
ufid:9a853147-e70e-4cfb-b297-84cadf69b012, recirc_id(0),in_port(3),eth_type(0x0800),ipv4(frag=no), packets:14, bytes:1372, used:0.132s, dp:ovs, actions:ct(zone=5),recirc(0x3)
ufid:39201c76-644c-45e0-8e7e-d9213f6f38e0, recirc_id(0),in_port(3),eth_type(0x0806), packets:0, bytes:0, used:never, dp:ovs, actions:userspace(pid=0,slow_path(action))
";

    fn flow(ufid: usize, actions: &str) -> DatapathFlow {
        DatapathFlow {
            ufid: format!("{ufid:04}"),
            key: "in_port(2)".into(),
            actions: actions.into(),
            in_port: 2,
        }
    }

    #[test]
    fn reads_what_open_vswitch_prints() {
        let flows: Vec<_> = flows(DUMP).collect();
        let [icmp, first] = &flows[..] else { panic!("{flows:?}") };
        assert_eq!((icmp.in_port, icmp.actions.as_str()), (2, "set(ipv4(ttl=63)),3"));
        assert!(
            icmp.key.starts_with("recirc_id(0x2),") && icmp.key.ends_with("icmp(type=8/0,code=0/0)"),
            "{}",
            icmp.key
        );
        assert_eq!((first.in_port, first.actions.as_str()), (3, "ct(zone=5),recirc"));
        assert!(!shortened(&icmp.key).contains("dp_hash") && shortened(&icmp.key).contains("in_port(2)"));

        let shown = "netdev@ovs-netdev: hit:63 missed:9\n  br-ext:\n    x 1/9: (system)\n  br-int:\n    br-int 65534/1: \
                     (tap)\n    va 1/2: (system)\n    vb 2/33: (system)\n  other:\n    y 1/7: (system)\n";
        assert_eq!(ports(shown, "br-int"), [1, 2, 33].into());
        assert!(ports(shown, "br").is_empty());

        let trace = "Flow: icmp\n\nFinal flow: x\nMegaflow: y\nDatapath actions: ct(zone=5),recirc(0x17)\n\nrecirc(0x17)\n\
                     Datapath actions: drop\n";
        assert_eq!(decision(trace).as_deref(), Some("ct(zone=5),recirc"));
        assert_eq!(decision("Bad openflow flow syntax"), None);
    }

    #[test]
    fn a_tunnel_is_its_ends() {
        let kernel = "set(tunnel(tun_id=0x0,src=192.0.2.1,dst=192.0.2.2,ttl=64,tp_dst=6081,flags(df|key))),set(ipv4(ttl=63)),5";
        let same = "set(tunnel(tun_id=0x0,src=192.0.2.1,dst=192.0.2.2,ttl=64,flags(df))),set(ipv4(ttl=63)),5";
        assert_eq!(comparable(kernel), comparable(same));
        assert_eq!(comparable(kernel), "tunnel src=192.0.2.1 dst=192.0.2.2,set(ipv4(ttl=63)),5");
        assert_ne!(comparable(kernel), comparable(&kernel.replace("2.2", "2.3")));
        assert_eq!(comparable("recirc(0x1"), "recirc", "cut off");
    }

    #[test]
    fn a_difference_that_stays_is_told_and_one_that_passes_is_not() {
        let (mut auditor, start) = (Auditor::default(), Instant::now());
        let at = |look: u32| start + PERIOD * look;
        for look in 0..2 {
            assert!(!auditor.judge(at(look), &flow(1, "3"), "drop"));
        }
        assert!(!auditor.judge(at(2), &flow(1, "drop"), "drop"), "the datapath has followed");
        for look in 3..5 {
            assert!(!auditor.judge(at(look), &flow(1, "3"), "drop"));
        }
        assert!(!auditor.judge(at(5), &flow(1, "3"), "4"), "the flows changed again");
        assert!(!auditor.judge(at(6), &flow(1, "3"), "4"));
        assert!(auditor.judge(at(7), &flow(1, "3"), "4"));
        let told = Wrong { flow: flow(1, "3"), decided: "4".to_owned() }.told();
        assert!(told.contains("\"3\"") && told.contains("\"4\""), "{told}");
        // Three looks within a moment are one.
        for _ in 0..10 {
            assert!(!auditor.judge(at(8), &flow(2, "3"), "drop"));
        }
    }

    #[test]
    fn a_difference_that_pauses_is_none() {
        let wrong = |n: usize| Wrong { flow: flows(DUMP).nth(n).unwrap(), decided: "drop".to_owned() };
        assert!(wrong(0).stays(DUMP, Some("drop")) && wrong(1).stays(DUMP, Some("drop")));
        assert!(!wrong(0).stays(DUMP, None) && !wrong(0).stays(DUMP, Some("3")), "flows say something else");
        let followed = DUMP.replace("actions:set(ipv4(ttl=63)),3", "actions:drop");
        assert!(!wrong(0).stays(&followed, Some("drop")) && wrong(1).stays(&followed, Some("drop")));
        assert!(!wrong(0).stays("", Some("drop")), "gone");
    }

    #[test]
    fn every_flow_has_its_turn_and_suspects_come_first() {
        let mut auditor = Auditor::default();
        let all = || (0..3 * SAMPLE).map(|n| flow(n, "3")).collect::<Vec<_>>();
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            seen.extend(auditor.sample(all()).into_iter().map(|flow| flow.ufid));
        }
        assert_eq!(seen.len(), 3 * SAMPLE);
        assert!(!auditor.judge(Instant::now(), &flow(7, "3"), "drop"));
        for _ in 0..3 {
            assert_eq!(auditor.sample(all())[0].ufid, "0007");
        }
        // What is gone is forgotten.
        auditor.sample(Vec::new());
        assert!(auditor.compared.is_empty() && auditor.suspects.is_empty());
    }
}
