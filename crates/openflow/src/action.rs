//! Actions, and the instructions that ovs-ofctl writes among them.

use std::net::IpAddr;

use crate::{Field, MacAddr, PortNo, SubField};

/// One action or instruction of a flow, bucket or packet-out. A flow without any drops the packet.
///
/// OpenFlow 1.5 has one action for every kind of load: a masked `set_field`. `load:…->…` in text and
/// [`Action::load`] give [`Action::SetField`], which is what the switch reports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// To a port; see [`PortNo`] for the reserved ones.
    Output(PortNo),
    /// At most `max_len` bytes of the packet to the controller (0xffff: all of it).
    ToController {
        /// Bytes to send.
        max_len: u16,
    },
    /// To a controller chosen by id, with user data (`NXAST_CONTROLLER`, `NXAST_CONTROLLER2`). Without any of
    /// that it goes out, and comes back, as [`Action::ToController`].
    Controller(Box<ControllerAction>),
    /// To the port whose number a field holds.
    OutputReg {
        /// Where the port number is.
        src: SubField,
        /// Bytes to send if the port is the controller.
        max_len: u16,
    },
    /// To a port, cut to `max_len` bytes (`NXAST_OUTPUT_TRUNC`).
    OutputTrunc {
        /// The port, a 16-bit number.
        port: PortNo,
        /// Bytes to send.
        max_len: u32,
    },
    /// Through a group.
    Group(u32),
    /// Through a meter; before other actions.
    Meter(u32),
    /// Writes the bits of `mask` of a field.
    SetField {
        field: Field,
        /// The value, zero outside the mask.
        value: u128,
        /// The bits written.
        mask: u128,
    },
    /// Copies bits; both sides have the same number.
    Move {
        /// From.
        src: SubField,
        dst: SubField,
    },
    /// Pushes a field to the stack.
    Push(SubField),
    /// Pops the stack to a field.
    Pop(SubField),
    /// Looks the packet up in another table, then goes on here.
    Resubmit {
        /// As if it came from this port (16-bit number); `None` keeps the ingress port.
        port: Option<PortNo>,
        /// The table; `None` is the current one.
        table: Option<u8>,
        /// Match on the original direction's tuple of the connection.
        ct: bool,
    },
    /// Through the connection tracker.
    Ct(Box<Ct>),
    /// Translates addresses; meaningful only within [`Ct::exec`]. [`Ct::nat`] is the usual place.
    Nat(Nat),
    /// Forgets the connection-tracking state of the packet.
    CtClear,
    /// Decrements the TTL or hop limit.
    DecTtl,
    /// Sets the queue of later outputs.
    SetQueue(u32),
    /// Restores the original queue.
    PopQueue,
    /// This flow satisfies one clause of a conjunctive match.
    Conjunction {
        /// The conjunction.
        id: u32,
        /// The clause, from 1 to `n_clauses`.
        clause: u8,
        /// Number of clauses, 2–64.
        n_clauses: u8,
    },
    /// Adds a flow made from the packet.
    Learn(Box<Learn>),
    /// Shortens the timeouts of the flow when TCP ends.
    FinTimeout {
        /// Idle timeout in seconds, 0 leaves it.
        idle: u16,
        /// Hard timeout in seconds, 0 leaves it.
        hard: u16,
    },
    /// Does nothing; carries bytes. The switch pads them with zeros so that 6 + 8·n bytes result, and so
    /// does [`Action::note`].
    Note(Vec<u8>),
    /// Pushes an 802.1Q (0x8100) or 802.1ad (0x88a8) header.
    PushVlan(u16),
    /// Pops the outermost VLAN header.
    PopVlan,
    /// Runs actions on a copy of the packet.
    Clone(Vec<Action>),
    /// Ends processing of this packet at this level.
    Exit,
    /// Instruction: empties the action set.
    ClearActions,
    /// Instruction: adds to the action set.
    WriteActions(Vec<Action>),
    /// Instruction: writes the metadata field.
    WriteMetadata {
        /// Value, zero outside the mask.
        value: u64,
        /// Bits written.
        mask: u64,
    },
    /// Instruction: continues at a later table.
    GotoTable(u8),
    /// An action this crate does not know: all its bytes, header included.
    Unknown(Box<[u8]>),
}

impl Action {
    /// Sets all of a field. Bits that the field does not have are cut off.
    pub fn set_field(field: Field, value: u128) -> Action {
        let mask = field.full_mask();
        Action::SetField { field, value: value & mask, mask }
    }

    /// Loads a value into bits of a field: the masked [`Action::SetField`].
    pub fn load(value: u128, dst: SubField) -> Action {
        dst.load(value)
    }

    /// Sets the Ethernet source address.
    pub fn set_eth_src(mac: impl Into<MacAddr>) -> Action {
        Self::set_field(Field::EthSrc, mac.into().to_u128())
    }

    /// Sets the Ethernet destination address.
    pub fn set_eth_dst(mac: impl Into<MacAddr>) -> Action {
        Self::set_field(Field::EthDst, mac.into().to_u128())
    }

    /// Sets the tunnel source.
    pub fn set_tun_src(ip: IpAddr) -> Action {
        match ip {
            IpAddr::V4(a) => Self::set_field(Field::TunSrc, a.to_bits().into()),
            IpAddr::V6(a) => Self::set_field(Field::TunIpv6Src, a.to_bits()),
        }
    }
    /// Sets the tunnel destination.
    pub fn set_tun_dst(ip: IpAddr) -> Action {
        match ip {
            IpAddr::V4(a) => Self::set_field(Field::TunDst, a.to_bits().into()),
            IpAddr::V6(a) => Self::set_field(Field::TunIpv6Dst, a.to_bits()),
        }
    }

    /// Copies bits of `src` to `dst`. `None` if they differ in width.
    pub fn move_bits(src: SubField, dst: SubField) -> Option<Action> {
        (src.n_bits() == dst.n_bits()).then_some(Action::Move { src, dst })
    }

    /// Looks the packet up in `table` as it is.
    pub fn resubmit_table(table: u8) -> Action {
        Action::Resubmit { port: None, table: Some(table), ct: false }
    }

    /// The port whose number `src` holds, with nothing cut off.
    pub fn output_reg(src: SubField) -> Action {
        Action::OutputReg { src, max_len: 0xffff }
    }

    /// A note, padded as the switch pads it.
    pub fn note(bytes: &[u8]) -> Action {
        let mut b = bytes.to_vec();
        while b.len() % 8 != 6 {
            b.push(0);
        }
        Action::Note(b)
    }
}

impl From<Ct> for Action {
    fn from(ct: Ct) -> Self {
        Action::Ct(Box::new(ct))
    }
}

impl From<Learn> for Action {
    fn from(l: Learn) -> Self {
        Action::Learn(Box::new(l))
    }
}

impl From<ControllerAction> for Action {
    fn from(c: ControllerAction) -> Self {
        Action::Controller(Box::new(c))
    }
}

/// Arguments of [`Action::Controller`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ControllerAction {
    /// Bytes of the packet to send; 0xffff sends all.
    pub max_len: u16,
    /// Id of the controller connection, set there with [`crate::Message::NxSetControllerId`].
    pub controller_id: u16,
    /// The reason that the packet-in gives.
    pub reason: PacketInReason,
    /// Bytes handed back in the packet-in.
    pub userdata: Vec<u8>,
    /// Hold the packet until [`crate::Message::NxResume`].
    pub pause: bool,
    /// A meter for these packet-ins alone (`NXAC2PT_METER_ID`).
    pub meter_id: Option<u32>,
}

impl Default for ControllerAction {
    fn default() -> Self {
        ControllerAction {
            max_len: 0xffff,
            controller_id: 0,
            reason: PacketInReason::Action,
            userdata: Vec::new(),
            pause: false,
            meter_id: None,
        }
    }
}

/// Why a packet came to the controller (`OFPR_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PacketInReason {
    /// No flow matched; before OpenFlow 1.5.
    NoMatch,
    /// An action said so.
    Action,
    /// The TTL ran out.
    InvalidTtl,
    /// The action set said so.
    ActionSet,
    /// A group bucket said so.
    Group,
    /// A packet-out said so.
    PacketOut,
    /// The table-miss flow.
    ImplicitMiss,
    /// Another number.
    Other(u8),
}

impl PacketInReason {
    /// The number on the wire.
    pub fn number(self) -> u8 {
        match self {
            PacketInReason::NoMatch => 0,
            PacketInReason::Action => 1,
            PacketInReason::InvalidTtl => 2,
            PacketInReason::ActionSet => 3,
            PacketInReason::Group => 4,
            PacketInReason::PacketOut => 5,
            PacketInReason::ImplicitMiss => 7,
            PacketInReason::Other(n) => n,
        }
    }

    /// From the number on the wire.
    pub fn from_number(n: u8) -> PacketInReason {
        match n {
            0 => PacketInReason::NoMatch,
            1 => PacketInReason::Action,
            2 => PacketInReason::InvalidTtl,
            3 => PacketInReason::ActionSet,
            4 => PacketInReason::Group,
            5 => PacketInReason::PacketOut,
            7 => PacketInReason::ImplicitMiss,
            n => PacketInReason::Other(n),
        }
    }
}

/// Arguments of `ct` (nicira-ext.h `NXAST_CT`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ct {
    /// Keep the connection.
    pub commit: bool,
    /// Replace an existing connection whose original direction is the reply of this packet.
    pub force: bool,
    pub zone: CtZone,
    /// Continue with the tracked packet at this table.
    pub table: Option<u8>,
    /// Helper: 0 none, 21 FTP, 69 TFTP.
    pub alg: u16,
    /// Address translation.
    pub nat: Option<Nat>,
    /// Actions on the connection: sets and moves to `ct_mark` and `ct_label`.
    pub exec: Vec<Action>,
}

/// The zone of [`Ct`]: connections of different zones do not know each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CtZone {
    /// A number.
    Immediate(u16),
    /// 16 bits of a field.
    Field(SubField),
}

impl Default for CtZone {
    fn default() -> Self {
        CtZone::Immediate(0)
    }
}

impl From<u16> for CtZone {
    fn from(z: u16) -> Self {
        CtZone::Immediate(z)
    }
}

/// Address translation in a connection-tracking action (nicira-ext.h `NXAST_NAT`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nat {
    /// What to translate; `None` applies what the connection has.
    pub kind: Option<NatKind>,
    /// First and last address to choose from; both of one family, equal for a single one.
    pub addrs: Option<(IpAddr, IpAddr)>,
    /// First and last port to choose from.
    pub ports: Option<(u16, u16)>,
    /// Prefer the same translation for the same endpoint.
    pub persistent: bool,
    /// Choose the port by hash.
    pub hash: bool,
    /// Choose the port at random.
    pub random: bool,
}

/// Direction of a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NatKind {
    Src,
    Dst,
}

impl Nat {
    /// Applies the translation that the connection has.
    pub fn restore() -> Nat {
        Nat::default()
    }

    /// Translates the source to one address.
    pub fn src(ip: IpAddr) -> Nat {
        Nat { kind: Some(NatKind::Src), addrs: Some((ip, ip)), ..Nat::default() }
    }

    /// Translates the destination to one address, and to one port if given.
    pub fn dst(ip: IpAddr, port: Option<u16>) -> Nat {
        Nat { kind: Some(NatKind::Dst), addrs: Some((ip, ip)), ports: port.map(|p| (p, p)), ..Nat::default() }
    }
}

/// Arguments of `learn` (nicira-ext.h `NXAST_LEARN`, `NXAST_LEARN2`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Learn {
    /// Idle timeout of the learned flow in seconds, 0 none.
    pub idle_timeout: u16,
    /// Hard timeout of the learned flow in seconds, 0 none.
    pub hard_timeout: u16,
    /// Priority of the learned flow.
    pub priority: u16,
    /// Cookie of the learned flow.
    pub cookie: u64,
    /// Table of the learned flow.
    pub table: u8,
    /// Idle timeout once TCP ends, 0 leaves it.
    pub fin_idle_timeout: u16,
    /// Hard timeout once TCP ends, 0 leaves it.
    pub fin_hard_timeout: u16,
    /// Report when the learned flow is removed.
    pub send_flow_removed: bool,
    /// Remove learned flows with this flow.
    pub delete_learned: bool,
    /// Most learned flows with this cookie in the table, 0 no limit.
    pub limit: u32,
    /// One bit that becomes 1 if the flow was learned, 0 if the limit kept it out.
    pub result: Option<SubField>,
    /// What the learned flow matches and does.
    pub specs: Vec<LearnSpec>,
}

impl Learn {
    /// A flow without timeouts in `table`.
    pub fn new(table: u8, priority: u16) -> Learn {
        Learn {
            idle_timeout: 0,
            hard_timeout: 0,
            priority,
            cookie: 0,
            table,
            fin_idle_timeout: 0,
            fin_hard_timeout: 0,
            send_flow_removed: false,
            delete_learned: false,
            limit: 0,
            result: None,
            specs: Vec::new(),
        }
    }

    /// The learned flow matches `value` in all of `field`.
    pub fn match_value(self, field: Field, value: u128) -> Learn {
        self.spec(LearnSpec {
            src: LearnSrc::Immediate(value & field.full_mask()),
            dst: LearnDst::Match(SubField::whole(field)),
        })
    }

    /// The learned flow matches in `dst` what this packet has in `src`. Both must be of one width.
    pub fn match_field(self, dst: SubField, src: SubField) -> Learn {
        self.spec(LearnSpec { src: LearnSrc::Field(src), dst: LearnDst::Match(dst) })
    }

    /// The learned flow loads `value`.
    pub fn load_value(self, dst: SubField, value: u128) -> Learn {
        self.spec(LearnSpec { src: LearnSrc::Immediate(value & dst.max_value()), dst: LearnDst::Load(dst) })
    }

    /// Adds a spec.
    pub fn spec(mut self, spec: LearnSpec) -> Learn {
        self.specs.push(spec);
        self
    }
}

/// One match or action of a learned flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LearnSpec {
    /// Where the value comes from.
    pub src: LearnSrc,
    /// What becomes of it.
    pub dst: LearnDst,
}

/// Source of a [`LearnSpec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LearnSrc {
    /// Bits of the packet being processed.
    Field(SubField),
    /// A constant, as wide as the destination.
    Immediate(u128),
}

/// Destination of a [`LearnSpec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LearnDst {
    /// The learned flow matches these bits.
    Match(SubField),
    /// The learned flow loads these bits.
    Load(SubField),
    /// The learned flow outputs to the port; the source must be a field.
    Output,
}
