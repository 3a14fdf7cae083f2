//! What the datapath's flows do, what they should do, and when the difference is one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Flows that are compared in one look: an eighth of those that were read, within these bounds, so that up to 1,536 have
/// had their turn after 40 s. Each takes ovs-vswitchd's main thread less than a millisecond.
const SAMPLE: [usize; 2] = [48, 192];

/// Ports with suspects that are read in one look, where not all ports can be.
const SUSPECTED: usize = 4;

/// Looks that find the same difference, and the time that they span, before it is one.
const LOOKS: u32 = 3;
const SPAN: Duration = Duration::from_secs(9);

/// A flow as `dpctl/dump-flows` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DatapathFlow {
    /// Open vSwitch's name of it.
    pub(super) ufid: String,
    /// Its key, with masks.
    pub(super) key: String,
    /// What is done with its packets.
    pub(super) actions: String,
    /// The datapath's number of the port.
    pub(super) in_port: u32,
}

/// Reads a dump with names of flows and numbers of ports. Flows that ovs-vswitchd handles itself are left out: what it
/// does with them is decided for each packet.
pub(super) fn flows(dump: &str) -> impl Iterator<Item = DatapathFlow> {
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
pub(super) fn ports(shown: &str, bridge: &str) -> BTreeSet<u32> {
    let header = format!("  {bridge}:");
    let lines = shown.lines().skip_while(|line| *line != header).skip(1);
    let of_bridge = lines.take_while(|line| line.starts_with("    "));
    of_bridge.filter_map(|line| line.split_once('/')?.1.split_once(':')?.0.parse().ok()).collect()
}

/// What a trace comes to before it recirculates.
pub(super) fn decision(trace: &str) -> Option<String> {
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
    in_port: u32,
    done: String,
    decided: String,
    since: Instant,
    looks: u32,
}

/// Chooses what to compare, and remembers what differed.
#[derive(Debug, Default)]
pub(super) struct Auditor {
    look: u64,
    /// In which look a flow was compared last, and its port; only of flows that are there.
    compared: BTreeMap<String, (u64, u32)>,
    suspects: BTreeMap<String, Suspect>,
}

impl Auditor {
    /// The flows to compare: those that differed, and those that were not for the longest time. `flows` are all those of
    /// ports for which `read` is true; of other ports nothing new is known.
    pub(super) fn sample(
        &mut self,
        flows: Vec<DatapathFlow>,
        read: impl Fn(u32) -> bool,
    ) -> Vec<DatapathFlow> {
        self.look += 1;
        let there: BTreeSet<&str> = flows.iter().map(|flow| flow.ufid.as_str()).collect();
        let stays = |ufid: &str, port: u32| !read(port) || there.contains(ufid);
        self.compared.retain(|ufid, (_, port)| stays(ufid, *port));
        self.suspects.retain(|ufid, suspect| stays(ufid, suspect.in_port));
        let [least, most] = SAMPLE;
        let size = (flows.len() / 8).clamp(least, most);
        let mut order: Vec<(bool, u64, DatapathFlow)> = flows
            .into_iter()
            .map(|flow| {
                let last = self.compared.get(&flow.ufid).map_or(0, |(look, _)| *look);
                (!self.suspects.contains_key(&flow.ufid), last, flow)
            })
            .collect();
        order.sort_by(|a, b| (a.0, a.1, &a.2.ufid).cmp(&(b.0, b.1, &b.2.ufid)));
        order.truncate(size);
        let sample = order.into_iter().map(|(.., flow)| flow).collect::<Vec<_>>();
        self.compared.extend(sample.iter().map(|flow| (flow.ufid.clone(), (self.look, flow.in_port))));
        sample
    }

    /// Ports with suspects, which have to be read again in each look.
    pub(super) fn suspected(&self) -> BTreeSet<u32> {
        self.suspects.values().map(|suspect| suspect.in_port).take(SUSPECTED).collect()
    }

    /// Takes what the flows decide for a datapath flow; true once it is a difference.
    pub(super) fn judge(&mut self, now: Instant, flow: &DatapathFlow, decided: &str) -> bool {
        if flow.actions == decided {
            self.suspects.remove(&flow.ufid);
            return false;
        }
        let (done, decided) = (flow.actions.clone(), decided.to_owned());
        let new = Suspect { in_port: flow.in_port, done, decided, since: now, looks: 0 };
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
pub(super) struct Wrong {
    pub(super) flow: DatapathFlow,
    pub(super) decided: String,
}

impl Wrong {
    /// Whether it is still the same difference.
    pub(super) fn stays(&self, dump: &str, decided: Option<&str>) -> bool {
        decided == Some(self.decided.as_str()) && flows(dump).any(|flow| flow == self.flow)
    }

    pub(super) fn told(&self) -> String {
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

#[cfg(test)]
mod tests {
    use super::super::PERIOD;
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
        let all = |count: usize| (0..count).map(|n| flow(n, "3")).collect::<Vec<_>>();
        for (count, looks) in [(3 * SAMPLE[0], 3), (8 * SAMPLE[1], 8)] {
            let mut seen = BTreeSet::new();
            for _ in 0..looks {
                seen.extend(auditor.sample(all(count), |_| true).into_iter().map(|flow| flow.ufid));
            }
            assert_eq!(seen.len(), count);
        }
        assert!(!auditor.judge(Instant::now(), &flow(7, "3"), "drop"));
        for _ in 0..3 {
            assert_eq!(auditor.sample(all(100), |_| true)[0].ufid, "0007");
        }
        // What is gone is forgotten.
        auditor.sample(Vec::new(), |_| true);
        assert!(auditor.compared.is_empty() && auditor.suspects.is_empty());
    }

    /// Where there are too many flows to read all in one look, ports have their turns.
    #[test]
    fn a_difference_is_told_although_ports_are_read_by_turns() {
        let (mut auditor, start) = (Auditor::default(), Instant::now());
        let of_port = |in_port: u32| DatapathFlow { in_port, ..flow(in_port as usize, "3") };
        let mut told = Vec::new();
        for look in 0..20_u32 {
            let mut read = auditor.suspected();
            read.insert(look % 10);
            let sample =
                auditor.sample(read.iter().copied().map(of_port).collect(), |port| read.contains(&port));
            for flow in sample {
                let decided = if flow.in_port == 4 { "drop" } else { "3" };
                if auditor.judge(start + PERIOD * look, &flow, decided) {
                    told.push((look, flow.in_port));
                }
            }
        }
        assert_eq!(told, [(6, 4), (16, 4)], "in three looks after its turn");
        assert!(auditor.compared.len() == 10 && auditor.suspects.is_empty());
    }
}
