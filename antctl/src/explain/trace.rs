//! What `ofproto/trace` says, read; and the packets that it is asked about.

use std::net::IpAddr;

use antrea_flows::{Features, Pipeline, Stage, Table, VIRTUAL_MAC, tunnel_mac};
use antrea_policy::model::Protocol;

use super::facts::{Agent, Packet, Pod, SOURCE_PORT};
use crate::get::escape;

/// The bridge's port to other Nodes, in every installation.
const TUNNEL_PORT: &str = "antrea-tun0";

/// The number that agents ask for that port to have, and for no other.
const TUNNEL_OFPORT: u32 = 0x8000;

/// What becomes of a packet in a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trace {
    /// Number of the last table that it gets to.
    table: Option<u8>,
    /// OpenFlow port that it goes out by; none if it goes nowhere.
    out: Option<u32>,
    /// Other end of the tunnel, where flows choose it.
    tunnel: Option<IpAddr>,
    /// MAC address that it leaves with.
    eth_dst: String,
}

/// Where a packet goes from a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hop {
    /// To a Pod of this Node: namespace and name.
    Pod(String, String),
    /// To another Node.
    Tunnel(IpAddr),
    /// To another Node, by an address of which nothing is known.
    Elsewhere,
    /// To the Node's own network stack.
    Host,
    /// Nowhere. The name of the table, if that is known.
    Dropped(Option<Table>),
}

impl Trace {
    /// Reads the text.
    ///
    /// # Errors
    /// It is no trace: what Open vSwitch says instead.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let mut trace = Self::default();
        let mut ended = None;
        for line in text.lines() {
            let line = line.trim_start();
            // Each time that it comes from the connection tracker it begins anew.
            if line.starts_with("recirc(") {
                (trace.out, trace.tunnel) = (None, None);
            }
            if let Some((number, _)) = line.split_once(". ")
                && let Ok(number) = number.parse()
            {
                trace.table = Some(number);
            }
            if let Some((_, port)) = line.split_once("output port is ") {
                trace.out = port.trim().parse().ok();
            }
            if let Some(flow) = line.strip_prefix("Final flow: ")
                && let Some((_, rest)) = flow.split_once("dl_dst=")
            {
                trace.eth_dst = rest.split(',').next().unwrap_or_default().to_owned();
            }
            if let Some(actions) = line.strip_prefix("Datapath actions: ") {
                if let Some((_, tunnel)) = actions.split_once("set(tunnel(") {
                    let end = tunnel.split([',', ')']).find_map(|part| {
                        part.strip_prefix("dst=").or_else(|| part.strip_prefix("ipv6_dst="))
                    });
                    trace.tunnel = end.and_then(|end| end.parse().ok());
                }
                ended = Some(actions.trim());
            }
        }
        match ended {
            Some("drop") => Ok(Self { out: None, ..trace }),
            Some(_) => Ok(trace),
            None => Err(text.lines().find(|line| !line.trim().is_empty()).unwrap_or("nothing").to_owned()),
        }
    }

    /// Where the packet goes. `peers` are the addresses of Nodes that it may be for.
    pub(super) fn hop(&self, agent: &Agent, peers: &[IpAddr]) -> Hop {
        let Some(out) = self.out else {
            let table = pipeline(&agent.tables).zip(self.table);
            return Hop::Dropped(table.and_then(|(pipeline, number)| pipeline.table(number)));
        };
        // A kernel's VXLAN device is told the peer by a MAC address.
        let by_mac = || peers.iter().copied().find(|ip| tunnel_mac(*ip).to_string() == self.eth_dst);
        if let Some(peer) = self.tunnel.or_else(by_mac) {
            return Hop::Tunnel(peer);
        }
        match agent.interfaces.iter().find(|interface| interface.ofport == out) {
            Some(interface) => Hop::Pod(interface.namespace.clone(), interface.pod.clone()),
            None if out == TUNNEL_OFPORT => Hop::Elsewhere,
            None => Hop::Host,
        }
    }

    /// Whether flows choose the tunnel's other end.
    pub(super) fn is_flow_based(&self) -> bool {
        self.tunnel.is_some()
    }
}

impl Hop {
    /// Whether policy of one of these steps has ended it.
    pub(super) fn is_denied(&self, stage: Stage) -> bool {
        matches!(self, Self::Dropped(Some(table)) if table.stage() == stage)
    }
}

/// Whether the bridge itself gives packets to Services an endpoint.
pub(super) fn serves_services(tables: &[String]) -> bool {
    tables.iter().any(|table| table == Table::ServiceLB.name())
}

/// The numbers of the tables of these names; none if they are of another version's pipeline.
fn pipeline(tables: &[String]) -> Option<Pipeline> {
    let has = |table: Table| tables.iter().any(|name| name == table.name());
    let pipeline = Pipeline::new(Features {
        ipv4: has(Table::ARPSpoofGuard),
        ipv6: has(Table::IPv6),
        antrea_policy: has(Table::AntreaPolicyEgressRule),
        services: has(Table::ServiceLB),
    });
    let same = pipeline.tables().len() == tables.len() && pipeline.tables().iter().all(|table| has(*table));
    same.then_some(pipeline)
}

/// A packet that begins a connection, in the words of `ofproto/trace`. What the tracker would know of it, the agent adds.
fn flow(packet: Packet, port: u16, v6: bool) -> String {
    let family = if v6 { "6" } else { "" };
    let name = packet.protocol.as_str().to_ascii_lowercase();
    match packet.protocol {
        Protocol::Icmp if v6 => "icmp6,icmpv6_type=128,icmpv6_code=0".to_owned(),
        Protocol::Icmp => "icmp,icmp_type=8,icmp_code=0".to_owned(),
        protocol => {
            let flags = if protocol == Protocol::Tcp { ",tcp_flags=syn" } else { "" };
            format!("{name}{family},{name}_src={SOURCE_PORT},{name}_dst={port}{flags}")
        }
    }
}

fn query(source: &str, destination: &str, flow: &str) -> String {
    format!("/ovstracing?source={}&destination={}&flow={}", escape(source), escape(destination), escape(flow))
}

/// Asks the source's bridge about what the Pod sends. `local` is the Pod that it is for, if that is on the same Node.
pub(super) fn of_pod(
    source: &Pod,
    address: IpAddr,
    local: Option<&Pod>,
    packet: Packet,
    port: u16,
) -> String {
    let to = local.map_or_else(|| address.to_string(), Pod::full);
    query(&source.full(), &to, &flow(packet, port, address.is_ipv6()))
}

/// Asks a bridge about a packet that the Node's network stack hands it: one of a Service that it has given an endpoint,
/// or one of another Node that came without a tunnel.
pub(super) fn of_host(
    source: IpAddr,
    address: IpAddr,
    local: Option<&Pod>,
    packet: Packet,
    port: u16,
) -> String {
    let to = local.map_or_else(|| address.to_string(), Pod::full);
    query(&source.to_string(), &to, &flow(packet, port, address.is_ipv6()))
}

/// Asks the destination's bridge about what comes through the tunnel, from the Node with the address `peer` if flows
/// choose ends.
pub(super) fn of_tunnel(
    source: IpAddr,
    destination: &Pod,
    peer: Option<IpAddr>,
    packet: Packet,
    port: u16,
) -> String {
    let mut flow = flow(packet, port, source.is_ipv6());
    flow.push_str(&format!(",in_port={TUNNEL_PORT},dl_dst={VIRTUAL_MAC}"));
    match peer {
        Some(IpAddr::V4(ip)) => flow.push_str(&format!(",tun_src={ip}")),
        Some(IpAddr::V6(ip)) => flow.push_str(&format!(",tun_ipv6_src={ip}")),
        None => {}
    }
    query(&source.to_string(), &destination.full(), &flow)
}
