//! Messages of an OpenFlow 1.5 session.

use std::net::IpAddr;

use bytes::Bytes;

use crate::mods::{FlowMod, GroupMod, MeterCommand};
use crate::multipart::{MultipartReply, MultipartRequest};
use crate::{Action, Match, Meter, PacketInReason, PortNo, Xid};

/// A message, without its transaction id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// First message of both sides: the versions spoken, bit `n` for wire version `n`.
    Hello {
        /// Bitmap of versions.
        versions: u32,
    },
    /// A request failed.
    Error(ErrorMsg),
    /// Answer with [`Message::EchoReply`] and the same bytes.
    EchoRequest(Bytes),
    /// Answer to an echo request.
    EchoReply(Bytes),
    /// Asks for [`Message::FeaturesReply`].
    FeaturesRequest,
    /// What the switch is.
    FeaturesReply(Features),
    /// Asks for [`Message::GetConfigReply`].
    GetConfigRequest,
    /// The switch's configuration.
    GetConfigReply(SwitchConfig),
    /// Configures the switch.
    SetConfig(SwitchConfig),
    /// A packet for the controller, in the standard form. With [`Message::NxSetPacketInFormat`] the switch
    /// sends [`Message::PacketIn2`] instead.
    PacketIn(PacketIn),
    /// A packet for the controller (`NXT_PACKET_IN2`).
    PacketIn2(PacketIn2),
    /// Continues a paused packet (`NXT_RESUME`), with what its packet-in said.
    NxResume(PacketIn2),
    FlowRemoved(FlowRemoved),
    /// A port came, went or changed.
    PortStatus {
        /// What happened.
        reason: PortReason,
        port: PortDesc,
    },
    /// Sends a packet.
    PacketOut(PacketOut),
    /// Changes flows.
    FlowMod(FlowMod),
    /// Changes a group.
    GroupMod(GroupMod),
    /// Changes a meter.
    MeterMod {
        /// What to do.
        command: MeterCommand,
        /// The meter; only its id counts for a delete.
        meter: Meter,
    },
    /// Asks for state.
    MultipartRequest(MultipartRequest),
    /// One part of an answer; the last has `more` false.
    MultipartReply {
        /// More parts follow.
        more: bool,
        /// This part.
        body: MultipartReply,
    },
    /// Answered once all earlier messages are done.
    BarrierRequest,
    /// Answer to a barrier.
    BarrierReply,
    /// Asks for a role.
    RoleRequest(RoleMsg),
    /// The role of this connection.
    RoleReply(RoleMsg),
    /// Which asynchronous messages to send.
    SetAsync(AsyncConfig),
    /// Controls a bundle; the answer is the same message with a reply type.
    BundleControl(BundleControl),
    /// Adds a message to a bundle. The inner message gets the xid of the outer one.
    BundleAdd {
        bundle_id: u32,
        /// Flags, the same in all messages of the bundle.
        flags: BundleFlags,
        message: Box<Message>,
    },
    /// Chooses the form of packet-ins (`NXT_SET_PACKET_IN_FORMAT`).
    NxSetPacketInFormat(PacketInFormat),
    /// Names this connection for [`crate::ControllerAction::controller_id`] (`NXT_SET_CONTROLLER_ID`).
    NxSetControllerId(u16),
    /// Changes the mapping of tunnel options (`NXT_TLV_TABLE_MOD`).
    NxTlvTableMod(TlvTableMod),
    /// Asks for the mapping of tunnel options.
    NxTlvTableRequest,
    /// The mapping of tunnel options.
    NxTlvTableReply(TlvTable),
    /// Forgets tracked connections (`NXT_CT_FLUSH`, Open vSwitch 3.1).
    NxCtFlush(CtFlush),
    /// A message this crate does not know.
    Unknown {
        /// Message type.
        kind: u8,
        /// The bytes after the header.
        body: Bytes,
    },
}

/// `OFPT_ERROR`. [`std::fmt::Display`] gives the name of the error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorMsg {
    /// Experimenter, 0 for the standard errors.
    pub experimenter: u32,
    /// Error type; 0xffff for an experimenter's, whose number is then in [`ErrorMsg::code`].
    pub kind: u16,
    pub code: u16,
    /// The beginning of the failed request, at least 64 bytes unless it was shorter.
    pub data: Bytes,
}

impl ErrorMsg {}

/// `OFPT_FEATURES_REPLY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    pub datapath_id: u64,
    /// Packets the switch can buffer.
    pub n_buffers: u32,
    /// Number of tables.
    pub n_tables: u8,
    /// Nonzero for an auxiliary connection.
    pub auxiliary_id: u8,
    /// `OFPC_*` bits.
    pub capabilities: u32,
}

/// Switch configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SwitchConfig {
    /// Fragment handling: 0 normal, 1 drop, 2 reassemble, 3 nx-match.
    pub flags: u16,
    /// Bytes of a packet sent for a table miss.
    pub miss_send_len: u16,
}

/// `OFPT_PACKET_IN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketIn {
    /// Buffer in the switch, if buffered.
    pub buffer_id: Option<u32>,
    /// Length of the whole packet.
    pub full_len: u16,
    /// Why.
    pub reason: PacketInReason,
    /// Table of the flow.
    pub table: u8,
    /// Cookie of the flow; all ones without one.
    pub cookie: u64,
    pub metadata: Match,
    /// The packet, perhaps cut.
    pub packet: Bytes,
}

/// `NXT_PACKET_IN2` and `NXT_RESUME` (nicira-ext.h `NXPINT_*`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PacketIn2 {
    /// The packet, perhaps cut.
    pub packet: Bytes,
    /// Length of the whole packet if it was cut.
    pub full_len: Option<u32>,
    /// Buffer in the switch.
    pub buffer_id: Option<u32>,
    /// Table of the flow.
    pub table: Option<u8>,
    /// Cookie of the flow.
    pub cookie: Option<u64>,
    /// Why.
    pub reason: Option<PacketInReason>,
    /// Metadata of the packet: the registers, the tunnel, the ingress port, connection tracking.
    pub metadata: Match,
    /// Bytes of the controller action.
    pub userdata: Bytes,
    /// State of a paused packet; goes back unchanged in [`Message::NxResume`].
    pub continuation: Option<Bytes>,
}

impl PacketIn2 {
    /// The port the packet came in on.
    pub fn in_port(&self) -> Option<PortNo> {
        self.metadata.get(crate::Field::InPortOxm).map(|m| PortNo(m.value as u32))
    }
}

/// `OFPT_PACKET_OUT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketOut {
    /// A buffered packet instead of [`PacketOut::packet`].
    pub buffer_id: Option<u32>,
    /// Metadata given to the packet. Must have `in_port` ([`PortNo::CONTROLLER`] if there is none).
    pub matches: Match,
    /// What to do with it.
    pub actions: Vec<Action>,
    pub packet: Bytes,
}

/// `OFPT_FLOW_REMOVED`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRemoved {
    pub table: u8,
    pub priority: u16,
    pub matches: Match,
    pub cookie: u64,
    /// Why.
    pub reason: FlowRemovedReason,
    /// Idle timeout that it had.
    pub idle_timeout: u16,
    /// Hard timeout that it had.
    pub hard_timeout: u16,
    /// Its last counters.
    pub stats: crate::multipart::FlowStats,
}

/// Why a flow was removed (`OFPRR_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowRemovedReason {
    /// No packet for too long.
    IdleTimeout,
    /// Lived long enough.
    HardTimeout,
    /// Deleted by a flow-mod.
    Delete,
    /// Its group was deleted.
    GroupDelete,
    /// Its meter was deleted.
    MeterDelete,
    /// Evicted to make room.
    Eviction,
    /// Another number.
    Other(u8),
}

/// What happened to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortReason {
    Add,
    /// Removed.
    Delete,
    /// Changed.
    Modify,
}

/// A port as the switch describes it (`ofp_port`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortDesc {
    /// Number.
    pub port_no: PortNo,
    /// Ethernet address.
    pub hw_addr: crate::MacAddr,
    /// Name, at most 15 bytes; longer interface names come cut.
    pub name: String,
    /// `OFPPC_*` bits: 1 down, 4 no-recv, 32 no-fwd, 64 no-packet-in.
    pub config: u32,
    /// `OFPPS_*` bits: 1 link down, 2 blocked, 4 live.
    pub state: u32,
    /// Current speed in kbit/s, 0 unknown.
    pub curr_speed: u32,
    /// Highest speed in kbit/s, 0 unknown.
    pub max_speed: u32,
    /// Current `OFPPF_*` features.
    pub curr: u32,
    /// Advertised features.
    pub advertised: u32,
    /// Supported features.
    pub supported: u32,
    /// Features advertised by the peer.
    pub peer: u32,
}

/// Role of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleMsg {
    pub role: Role,
    /// Counts elections; the switch refuses an older one.
    pub generation_id: u64,
}

/// Roles (`OFPCR_ROLE_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Only ask.
    NoChange,
    /// Full access, the default.
    Equal,
    /// Full access; at most one connection.
    Primary,
    /// Read only.
    Secondary,
}

/// Which asynchronous messages this connection gets: for each property type (`OFPACPT_*`) the bits of the
/// reasons wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AsyncConfig {
    /// Property type and reason mask: 0/1 packet-in (secondary / primary or equal), 2/3 port-status, 4/5
    /// flow-removed, 6/7 role-status, 8/9 table-status, 10/11 requestforward.
    pub masks: Vec<(u16, u32)>,
}

/// `OFPT_BUNDLE_CONTROL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BundleControl {
    /// Chosen by the controller.
    pub bundle_id: u32,
    /// What to do.
    pub kind: BundleCtrlType,
    /// Flags, the same in all messages of the bundle.
    pub flags: BundleFlags,
}

/// Requests and replies of [`BundleControl`] (`OFPBCT_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleCtrlType {
    OpenRequest,
    OpenReply,
    /// Closes: no more messages.
    CloseRequest,
    /// Closed.
    CloseReply,
    /// Applies.
    CommitRequest,
    /// Applied.
    CommitReply,
    /// Throws away.
    DiscardRequest,
    /// Thrown away.
    DiscardReply,
}

/// Flags of a bundle (`OFPBF_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BundleFlags(pub u16);

impl BundleFlags {
    /// All or nothing.
    pub const ATOMIC: BundleFlags = BundleFlags(1);
    /// In the order given.
    pub const ORDERED: BundleFlags = BundleFlags(2);
}

impl std::ops::BitOr for BundleFlags {
    type Output = BundleFlags;
    fn bitor(self, o: BundleFlags) -> BundleFlags {
        BundleFlags(self.0 | o.0)
    }
}

/// Form of packet-ins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketInFormat {
    /// `OFPT_PACKET_IN`.
    Standard,
    /// `NXT_PACKET_IN`; not decoded by this crate.
    Nxt,
    /// `NXT_PACKET_IN2`.
    Nxt2,
}

/// Change of the mapping of tunnel options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlvTableMod {
    /// 0 add, 1 delete, 2 clear.
    pub command: u16,
    pub mappings: Vec<TlvMapping>,
}

/// A tunnel option mapped to a `tun_metadata` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlvMapping {
    pub option_class: u16,
    pub option_type: u8,
    /// Bytes, a multiple of 4 up to 124.
    pub option_len: u8,
    /// `tun_metadata` number, 0–63.
    pub index: u16,
}

/// The mapping of tunnel options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlvTable {
    /// Bytes that options may use.
    pub max_option_space: u32,
    /// Number of fields.
    pub max_fields: u16,
    pub mappings: Vec<TlvMapping>,
}

/// Which tracked connections to forget: those that have everything that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CtFlush {
    /// IP protocol; 0 = any.
    pub protocol: u8,
    /// Zone; `None` = all.
    pub zone: Option<u16>,
    /// Of the packets of the side that began.
    pub original: CtTuple,
    /// Of the packets of the other side.
    pub reply: CtTuple,
}

/// Addresses and ports of one direction of a connection; `None` = any. Open vSwitch takes a port of 0 for any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CtTuple {
    pub src: Option<IpAddr>,
    pub dst: Option<IpAddr>,
    /// Source port, of TCP, UDP and SCTP.
    pub src_port: Option<u16>,
    pub dst_port: Option<u16>,
}

/// A message with its transaction id.
pub type Packet = (Xid, Message);
