//! The datapath's flows that most goes through, in words.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::IpAddr;
use std::path::Path;

use antrea_api::agent::{BUSIEST, FlowTraffic};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ovs::ctl::{self, CtlError};

use crate::ovs::bridge::Datapath;
use crate::pods::interfaces::PodInterface;

/// Flows of which the busiest are chosen; Open vSwitch keeps 200,000 at most (`other_config:flow-limit`).
const READ: usize = 250_000;

/// The busiest of the flows that let packets out of the datapath.
pub(super) async fn busiest(
    run_dir: &Path,
    datapath: Datapath,
    pods: &[PodInterface],
) -> Result<Vec<FlowTraffic>, CtlError> {
    let names = Names::new(&ctl::call(run_dir, "dpif/show", &[]).await?, pods);
    let mut dump = ctl::lines(run_dir, "dpctl/dump-flows", &["-m", "--no-names", datapath.dpif()]).await?;
    let mut chosen = Busiest::default();
    while let Some(lines) = dump.next().await? {
        lines.into_iter().for_each(|line| chosen.take(line));
        if chosen.read > READ {
            break;
        }
    }
    Ok(chosen.told(&names))
}

/// The lines of flows that have seen most octets.
#[derive(Debug, Default)]
struct Busiest {
    read: usize,
    heap: BinaryHeap<Reverse<(u64, String)>>,
}

impl Busiest {
    fn take(&mut self, line: String) {
        self.read += 1;
        let Some((_, bytes)) = counters(&line).filter(|(_, bytes)| *bytes > 0) else { return };
        if lets_out(&line) {
            self.heap.push(Reverse((bytes, line)));
            if self.heap.len() > BUSIEST {
                self.heap.pop();
            }
        }
    }

    fn told(self, names: &Names) -> Vec<FlowTraffic> {
        let lines = self.heap.into_sorted_vec();
        lines.into_iter().filter_map(|Reverse((_, line))| flow(&line, names)).collect()
    }
}

/// Who is behind ports and addresses.
#[derive(Debug)]
struct Names {
    /// By the datapath's number of the port: its name.
    ports: BTreeMap<u32, String>,
    /// By name of the port, and by address.
    pods: BTreeMap<String, String>,
    addresses: BTreeMap<IpAddr, String>,
}

impl Names {
    fn new(shown: &str, pods: &[PodInterface]) -> Self {
        let port = |line: &str| {
            let (name, numbers) = line.strip_prefix("    ")?.split_once(' ')?;
            let number = numbers.split_once('/')?.1.split_once(':')?.0;
            Some((number.parse().ok()?, name.to_owned()))
        };
        let named = |pod: &PodInterface| format!("{}/{}", pod.pod_namespace, pod.pod_name);
        let addresses = |pod: &PodInterface| pod.ips.iter().map(|ip| (*ip, named(pod))).collect::<Vec<_>>();
        Self {
            ports: shown.lines().filter_map(port).collect(),
            pods: pods.iter().map(|pod| (pod.host_ifname.to_string(), named(pod))).collect(),
            addresses: pods.iter().flat_map(addresses).collect(),
        }
    }

    /// A pod has a name, whoever else an address or a subnet.
    fn of(&self, net: IpNet) -> String {
        if net.prefix_len() < net.max_prefix_len() {
            return net.trunc().to_string();
        }
        self.addresses.get(&net.addr()).cloned().unwrap_or_else(|| net.addr().to_string())
    }
}

/// Packets and octets that a flow has seen.
fn counters(line: &str) -> Option<(u64, u64)> {
    let (_, rest) = line.split_once(", packets:")?;
    let (packets, rest) = rest.split_once(", bytes:")?;
    let bytes = rest.split(',').next()?;
    Some((packets.parse().ok()?, bytes.parse().ok()?))
}

/// Whether a flow's packets leave the datapath with it: each packet passes several flows, the last of which counts.
fn lets_out(line: &str) -> bool {
    let Some((_, actions)) = line.split_once(", actions:") else { return false };
    let actions = actions.split(", dp-extra-info:").next().unwrap_or_default();
    !(actions == "drop" || actions.contains("recirc(") || actions.contains("userspace("))
}

/// The contents of the first parentheses after a word of a key.
fn within<'a>(key: &'a str, word: &str) -> Option<&'a str> {
    let at = key.match_indices(word).find(|(at, _)| {
        key[..*at].chars().next_back().is_none_or(|before| before == ',' || before == ' ')
            && key[at + word.len()..].starts_with('(')
    });
    let rest = &key[at?.0 + word.len() + 1..];
    rest.split_once(')').map(|(contents, _)| contents)
}

/// The value of a field with its mask; none where any value matches.
fn field<'a>(contents: &'a str, name: &str) -> Option<(&'a str, Option<&'a str>)> {
    let text = contents.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))?;
    Some(text.split_once('/').map_or((text, None), |(value, mask)| (value, Some(mask))))
}

/// The addresses that a field matches; none where it is all.
fn net(contents: &str, name: &str) -> Option<IpNet> {
    let (address, mask) = field(contents, name)?;
    let net = match (address.parse().ok()?, mask) {
        (IpAddr::V4(address), None) => Ipv4Net::from(address).into(),
        (IpAddr::V6(address), None) => Ipv6Net::from(address).into(),
        (address, Some(mask)) => IpNet::with_netmask(address, mask.parse().ok()?).ok()?,
    };
    (net.prefix_len() > 0).then_some(net)
}

/// A number that is matched wholly.
fn exact(contents: &str, name: &str) -> Option<u16> {
    field(contents, name).filter(|(_, mask)| mask.is_none())?.0.parse().ok()
}

/// A flow of packets with addresses.
fn flow(line: &str, names: &Names) -> Option<FlowTraffic> {
    let (id, rest) = line.strip_prefix("ufid:")?.split_once(", ")?;
    let (key, _) = rest.split_once(", packets:")?;
    let (packets, bytes) = counters(line)?;
    let port = names.ports.get(&within(key, "in_port")?.parse().ok()?)?;
    let ip = within(key, "ipv4").or_else(|| within(key, "ipv6"))?;
    let protocol = match exact(ip, "proto") {
        None => String::new(),
        Some(1 | 58) => "ICMP".to_owned(),
        Some(6) => "TCP".to_owned(),
        Some(17) => "UDP".to_owned(),
        Some(132) => "SCTP".to_owned(),
        Some(other) => other.to_string(),
    };
    let transport = ["tcp", "udp", "sctp"].into_iter().find_map(|word| within(key, word));
    let from = match names.pods.get(port) {
        Some(pod) => pod.clone(),
        None => net(ip, "src").map_or_else(|| port.clone(), |source| names.of(source)),
    };
    Some(FlowTraffic {
        id: id.to_owned(),
        from,
        to: net(ip, "dst").map(|to| names.of(to)).unwrap_or_default(),
        protocol,
        port: transport.and_then(|contents| exact(contents, "dst")),
        packets,
        bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "netdev@ovs-netdev: hit:9 missed:1\n  br-int:\n    antrea-gw0 2/3: (tap)\n    br-int 65534/1: (tap)\n    \
                         web-1a2b3c 5/7: (system)\n";

    fn names() -> Names {
        let web = PodInterface {
            host_ifname: "web-1a2b3c".into(),
            container_id: "c".into(),
            ifname: "eth0".into(),
            pod_name: "web".into(),
            pod_namespace: "shop".into(),
            pod_uid: String::new(),
            netns: String::new(),
            mac: [0; 6],
            ips: vec!["10.244.1.2".parse().unwrap()],
            ofport: 5,
        };
        Names::new(SHOWN, &[web])
    }

    fn line(id: u32, port: u32, ip: &str, transport: &str, bytes: u64, actions: &str) -> String {
        format!(
            "ufid:{id}-0, recirc_id(0x3),dp_hash(0/0),in_port({port}),ct_state(0x21/0x21),ct_tuple4(src=1.2.3.4/0.0.0.0,\
             dst=0.0.0.0/0.0.0.0,proto=0/0,tp_src=0/0,tp_dst=0/0),eth(src=00:00:00:00:00:00/00:00:00:00:00:00,\
             dst=aa:bb:cc:dd:ee:ff),eth_type(0x0800),{ip}{transport}, packets:2, bytes:{bytes}, used:0.1s, dp:ovs, \
             actions:{actions}, dp-extra-info:miniflow_bits(4,1)"
        )
    }

    fn told(lines: Vec<String>) -> Vec<(String, String, String, Option<u16>, u64)> {
        let mut chosen = Busiest::default();
        lines.into_iter().for_each(|line| chosen.take(line));
        let flows = chosen.told(&names()).into_iter();
        flows.map(|flow| (flow.from, flow.to, flow.protocol, flow.port, flow.bytes)).collect()
    }

    #[test]
    fn the_last_flow_of_a_packet_says_who_talks_with_whom() {
        let to_node2 =
            "ipv4(src=10.244.1.2/0.0.0.0,dst=10.244.2.9/255.255.255.0,proto=6,tos=0/0,ttl=64/0,frag=no)";
        let to_web = "ipv4(src=192.0.2.1,dst=10.244.1.2,proto=17/0,tos=0/0,ttl=64/0,frag=no)";
        let lines = vec![
            line(1, 7, to_node2, ",tcp(src=40000/0,dst=443)", 300, "set(eth(dst=1)),4"),
            line(2, 3, to_web, ",udp(src=5/0,dst=53/0)", 900, "7"),
            line(3, 7, to_node2, ",tcp(src=40000/0,dst=443)", 9000, "ct(zone=65520),recirc(0x3)"),
            line(4, 7, to_node2, "", 9000, "drop"),
            line(5, 7, to_node2, "", 0, "4"),
            line(6, 99, to_node2, "", 9, "4"),
        ];
        assert_eq!(
            told(lines),
            [
                ("192.0.2.1".into(), "shop/web".into(), String::new(), None, 900),
                ("shop/web".into(), "10.244.2.0/24".into(), "TCP".into(), Some(443), 300),
            ]
        );
    }

    #[test]
    fn the_busiest_are_told_and_no_more() {
        let any = "ipv6(src=::/::,dst=fd00::1,label=0/0,proto=58,tclass=0/0,hlimit=64/0,frag=no)";
        let lines = (1..1000).map(|n| line(n, 3, any, "", u64::from(n), "7")).collect();
        let told = told(lines);
        assert_eq!((told.len(), told[0].4, told[BUSIEST - 1].4), (BUSIEST, 999, 1000 - BUSIEST as u64));
        assert_eq!(told[0].0, "antrea-gw0");
        assert_eq!((&*told[0].1, &*told[0].2), ("fd00::1", "ICMP"));
    }
}
