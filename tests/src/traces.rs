//! What attachments leave traces in, on a node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use crate::lab::{LabNode, sh, try_in};

/// Everything that an attachment can leak, each thing as a line of text.
#[derive(Clone)]
pub struct Traces {
    /// Links in the node's namespace.
    pub links: BTreeSet<String>,
    /// Ports of the bridge.
    pub ports: BTreeSet<String>,
    /// What is remembered of ports and their interfaces.
    pub external_ids: BTreeSet<String>,
    /// Addresses that host-local has given out.
    pub addresses: BTreeSet<IpAddr>,
    /// Flows without their counters, and without the round that each agent has of its own.
    pub flows: BTreeSet<String>,
    /// Firewall rules of both families, address sets and their members.
    pub firewall: BTreeSet<String>,
    /// Entries of the bridges' forwarding tables.
    pub forwarding: BTreeSet<String>,
    /// Neighbours with an address.
    pub neighbours: BTreeSet<String>,
    /// Queues and filters of links that the kernel did not make by itself.
    pub queues: BTreeSet<String>,
    pub routes: BTreeSet<String>,
}

impl Traces {
    /// What is more (+) or less (-) than before, one thing per line.
    pub fn since(&self, before: &Self) -> Vec<String> {
        let (old, new) = (before.lines(), self.lines());
        let gone = old.difference(&new).map(|line| format!("- {line}"));
        gone.chain(new.difference(&old).map(|line| format!("+ {line}"))).collect()
    }

    fn lines(&self) -> BTreeSet<String> {
        let Self {
            links,
            ports,
            external_ids,
            addresses,
            flows,
            firewall,
            forwarding,
            neighbours,
            queues,
            routes,
        } = self;
        [
            ("link", links.clone()),
            ("port", ports.clone()),
            ("external_ids", external_ids.clone()),
            ("address", addresses.iter().map(ToString::to_string).collect()),
            ("flow", flows.clone()),
            ("firewall", firewall.clone()),
            ("forwarding", forwarding.clone()),
            ("neighbour", neighbours.clone()),
            ("queue", queues.clone()),
            ("route", routes.clone()),
        ]
        .into_iter()
        .flat_map(|(what, lines)| lines.into_iter().map(move |line| format!("{what} {line}")))
        .collect()
    }

    /// Reads them.
    pub fn of(node: &LabNode) -> Self {
        let netns = &node.netns;
        let links: Value = serde_json::from_str(&sh(&format!("ip -n {netns} -j link"))).unwrap();
        let links = links.as_array().unwrap().iter().map(|l| l["ifname"].as_str().unwrap().to_owned());
        let list = |table| {
            let columns = "--columns=name,external_ids";
            node.ovs.vsctl(&["--format=csv", "--no-headings", columns, "list", table]).unwrap()
        };
        let lines = |text: String| text.lines().map(|line| line.trim().to_owned()).collect::<BTreeSet<_>>();
        let routes = ["-4", "-6"].map(|family| sh(&format!("ip {family} -n {netns} route show table all")));
        Self {
            links: links.collect(),
            ports: lines(node.ovs.vsctl(&["list-ports", "br-int"]).unwrap()),
            external_ids: lines(format!("{}{}", list("Port"), list("Interface"))),
            addresses: addresses(node),
            flows: node.ofctl("dump-flows", &["--no-stats", "--names"]).lines().filter_map(flow).collect(),
            firewall: firewall(netns),
            // Groups come and go as the kernel's own protocols settle.
            forwarding: lines(sh(&format!("bridge -n {netns} fdb show")))
                .into_iter()
                .filter(|line| !line.starts_with("33:33:") && !line.starts_with("01:"))
                .collect(),
            // Which one the kernel asks of again, and when, is its own affair.
            neighbours: sh(&format!("ip -n {netns} neigh show nud permanent"))
                .lines()
                .map(|line| line.trim().to_owned())
                .collect(),
            queues: lines(sh(&format!("tc -n {netns} qdisc show")))
                .into_iter()
                .filter(|line| !line.contains("noqueue") && !line.contains("qdisc fq_codel 0:"))
                .filter(|line| !line.contains("qdisc pfifo_fast 0:"))
                .collect(),
            // The kernel's own of IPv6 come and go as links settle.
            routes: lines(routes.concat())
                .into_iter()
                .filter(|line| !(line.contains("proto kernel") && line.contains(" pref ")))
                .collect(),
        }
    }
}

/// A flow without its cookie's round, which is another in each life of the agent.
fn flow(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("cookie=")?;
    let (_, rest) = rest.split_once(',')?;
    Some(rest.trim().to_owned())
}

/// Rules without counters, and sets.
fn firewall(netns: &str) -> BTreeSet<String> {
    let programs =
        ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"];
    let mut lines = BTreeSet::new();
    for command in programs.iter().map(|program| vec![*program]).chain([vec!["ipset", "save", "-sorted"]]) {
        let output = try_in(netns, &command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        // The portmap plugin's first use makes chains that all its ports share, and they stay.
        let shared = |line: &str| line.contains("CNI-HOSTPORT-") && !line.contains("CNI-DN-");
        let own = text.lines().filter(|line| !line.starts_with(['#', ':', '*']) && !shared(line));
        lines.extend(own.map(|line| format!("{}: {line}", command[0])));
    }
    lines
}

/// Addresses that host-local has given out.
pub fn addresses(node: &LabNode) -> BTreeSet<IpAddr> {
    let entries = std::fs::read_dir(node.dir.join("ipam/antrea")).into_iter().flatten();
    entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect()
}
