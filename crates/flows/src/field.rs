//! Registers, connection marks and labels: which bits mean what.
//!
//! Numbers are upstream's where upstream has the same thing, so that a dump reads the same.

use openflow::{Field, SubField};

/// Where a packet came in: `reg0[0..3]`, and `ct_mark[0..3]` for the first packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Source {
    /// The tunnel port: from another node.
    Tunnel = 1,
    /// The gateway port: from the host's network stack.
    Gateway = 2,
    /// A pod of this node.
    Pod = 3,
}

/// Where a packet goes: `reg0[4..7]`. 0 is a pod of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Destination {
    /// The tunnel port: to another node.
    Tunnel = 1,
    /// The gateway port: to the host's network stack.
    Gateway = 2,
}

/// `reg0[0..3]`: see [`Source`].
pub fn source() -> SubField {
    SubField::reg(0, 0, 3)
}

/// `reg0[4..7]`: see [`Destination`].
pub fn destination() -> SubField {
    SubField::reg(0, 4, 7)
}

/// `reg0[0..7]`: source and destination together.
pub fn source_destination() -> SubField {
    SubField::reg(0, 0, 7)
}

/// `reg0[10]`: an Antrea-native rule denied the packet.
pub fn denied() -> SubField {
    SubField::reg(0, 10, 10)
}

/// `reg0[11..12]`: 0 allow, 1 drop, 2 reject, 3 pass.
pub fn disposition() -> SubField {
    SubField::reg(0, 11, 12)
}

/// `reg0[13]`: the agent's answer to a packet that a rule rejected.
pub fn refusal() -> SubField {
    SubField::reg(0, 13, 13)
}

/// `reg0[21..22]`: 1 if `reg1` holds the output port.
pub fn output() -> SubField {
    SubField::reg(0, 21, 22)
}

/// `reg0[30]`: begins a connection, whatever the connection tracker says of an earlier one with the same addresses and
/// ports.
pub fn begins() -> SubField {
    SubField::reg(0, 30, 30)
}

/// `reg0[31]`: made by a process of the host, on the userspace datapath.
pub fn host_process_frame() -> SubField {
    SubField::reg(0, 31, 31)
}

/// `reg1`: OpenFlow number of the port that the packet goes to.
pub fn target_port() -> SubField {
    SubField::whole(Field::Reg1)
}

/// `reg3`: id of the rule that denied the packet.
pub fn deny_rule() -> SubField {
    SubField::whole(Field::Reg3)
}

/// `reg3`: the IPv4 endpoint that a client of a Service keeps.
pub fn affinity_v4() -> SubField {
    SubField::whole(Field::Reg3)
}

/// `xxreg3`: the IPv6 endpoint that a client of a Service keeps.
pub fn affinity_v6() -> SubField {
    SubField::whole(Field::Xxreg3)
}

/// `reg4[0..15]`: its port.
pub fn affinity_port() -> SubField {
    SubField::reg(4, 0, 15)
}

/// `reg4[17]`: an endpoint of a Service was chosen (state 2 of upstream's `reg4[16..18]`).
pub fn has_endpoint() -> SubField {
    SubField::reg(4, 17, 17)
}

/// `reg4[27]`: came by the gateway from somebody who is not the node itself; upstream's "from external".
pub fn from_outside() -> SubField {
    SubField::reg(4, 27, 27)
}

/// `reg4[30]`: the bridge gave the connection the gateway's address as its source, for its endpoint is on another node.
pub fn masqueraded() -> SubField {
    SubField::reg(4, 30, 30)
}

/// `reg4[31]`: on its way back to the port that it came in by.
pub fn hairpin() -> SubField {
    SubField::reg(4, 31, 31)
}

/// `reg7`: the group of a Service.
pub fn service_group() -> SubField {
    SubField::whole(Field::Reg7)
}

/// `reg11`: the group of a Service that a rule names, wherever its packets are by then. Upstream matches [`service_group`],
/// which is known of the packets alone for which an endpoint is chosen.
pub fn named_service() -> SubField {
    SubField::whole(Field::Reg11)
}

/// `reg5`: id of the egress rule that allowed the packet.
pub fn egress_rule() -> SubField {
    SubField::whole(Field::Reg5)
}

/// `reg6`: id of the ingress rule that allowed the packet.
pub fn ingress_rule() -> SubField {
    SubField::whole(Field::Reg6)
}

/// `ct_mark[0..3]`: [`Source`] of the connection's first packet.
pub fn ct_source() -> SubField {
    SubField::range(Field::CtMark, 0, 3)
}

/// `ct_mark[4]`: the bridge gave the connection's destination an endpoint's address.
pub fn ct_service() -> SubField {
    SubField::range(Field::CtMark, 4, 4)
}

/// `ct_mark[5]`: see [`masqueraded`].
pub fn ct_masqueraded() -> SubField {
    SubField::range(Field::CtMark, 5, 5)
}

/// `ct_label[0..31]`: the ingress rule that allowed the connection.
pub fn ct_ingress_rule() -> SubField {
    SubField::range(Field::CtLabel, 0, 31)
}

/// `ct_label[32..63]`: the egress rule that allowed the connection.
pub fn ct_egress_rule() -> SubField {
    SubField::range(Field::CtLabel, 32, 63)
}

/// `pkt_mark[31]`: made by a process of the host (set by the host's firewall on its way into the gateway).
pub fn host_process() -> SubField {
    SubField::range(Field::PktMark, 31, 31)
}

/// `pkt_mark[30]`: sent by a pod of this node to a Service; [`service_client`] says by which. The host carries
/// the mark along while it translates; kube-proxy's own marks are bits 14 and 15.
pub fn to_service() -> SubField {
    SubField::range(Field::PktMark, 30, 30)
}

/// `pkt_mark[16..29]`: low bits of the OpenFlow number of the pod that sent the packet to a Service.
pub fn service_client() -> SubField {
    SubField::range(Field::PktMark, 16, 29)
}

/// The part of `in_port` that [`service_client`] has room for.
pub fn client_port() -> SubField {
    SubField::range(Field::InPort, 0, 13)
}

/// Highest OpenFlow number that a pod can have and be told by [`service_client`].
pub const HIGHEST_POD_PORT: u32 = 0x3fff;

/// Connection-tracking zone of pods' IPv4 connections.
pub const ZONE_V4: u16 = 65520;
/// Connection-tracking zone of pods' IPv6 connections.
pub const ZONE_V6: u16 = 65510;
/// Connection-tracking zone of IPv4 connections that the bridge gives another source: those that a Service brings back to
/// who began them, and from outside to endpoints on other nodes.
pub const HAIRPIN_ZONE_V4: u16 = 65521;
/// The same of IPv6.
pub const HAIRPIN_ZONE_V6: u16 = 65511;
/// Connection-tracking zone of IPv4 connections to Services, between frontend and endpoint.
pub const SERVICE_ZONE_V4: u16 = 65522;
/// Connection-tracking zone of IPv6 connections to Services, between frontend and endpoint.
pub const SERVICE_ZONE_V6: u16 = 65512;
