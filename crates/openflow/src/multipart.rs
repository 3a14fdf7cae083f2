//! Multipart requests and replies: descriptions and statistics.

use bytes::Bytes;

use crate::message::PortDesc;
use crate::{Flow, Group, Match, Meter, PortNo, Xid};

/// A request for state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultipartRequest {
    /// What the switch is.
    Desc,
    /// Flows with actions and counters (`OFPMP_FLOW_DESC`, number 1).
    FlowDesc(FlowFilter),
    /// Counters of all matching flows together.
    Aggregate(FlowFilter),
    /// Flows with counters but without actions (`OFPMP_FLOW_STATS` of 1.5, number 17). Open vSwitch 3.1 does
    /// not answer it.
    FlowStats(FlowFilter),
    /// Counters of tables.
    TableStats,
    /// Configuration of tables.
    TableDesc,
    /// Features of tables, with their names; an empty body asks.
    TableFeatures,
    /// Counters of ports, of one or all.
    PortStats(Option<PortNo>),
    /// Ports, one or all.
    PortDesc(Option<PortNo>),
    /// Groups, one or all.
    GroupDesc(Option<u32>),
    /// Counters of groups, of one or all.
    GroupStats(Option<u32>),
    /// What groups can do.
    GroupFeatures,
    /// Meters, one or all.
    MeterDesc(Option<u32>),
    /// Counters of meters, of one or all.
    MeterStats(Option<u32>),
    /// What meters can do.
    MeterFeatures,
    /// From now on, changes of flows as they happen (`OFPMP_FLOW_MONITOR`, Open vSwitch 2.17).
    FlowMonitor(FlowMonitor),
    /// Another request: type and body.
    Unknown(u16, Bytes),
}

/// Which flows a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowFilter {
    /// One table; `None` all.
    pub table: Option<u8>,
    /// Only flows that output here.
    pub out_port: Option<PortNo>,
    /// Only flows that use this group.
    pub out_group: Option<u32>,
    /// Only flows whose cookie has the bits of the mask as here.
    pub cookie: u64,
    /// Bits of the cookie that count.
    pub cookie_mask: u64,
    /// Only flows at least as specific as this.
    pub matches: Match,
}

impl FlowFilter {
    /// All flows.
    pub fn all() -> FlowFilter {
        FlowFilter {
            table: None,
            out_port: None,
            out_group: None,
            cookie: 0,
            cookie_mask: 0,
            matches: Match::new(),
        }
    }

    /// Flows of one table.
    pub fn table(table: u8) -> FlowFilter {
        FlowFilter { table: Some(table), ..Self::all() }
    }

    /// Flows whose cookie has the bits of `mask` as in `cookie`.
    pub fn cookie(cookie: u64, mask: u64) -> FlowFilter {
        FlowFilter { cookie, cookie_mask: mask, ..Self::all() }
    }
}

/// One part of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MultipartReply {
    /// What the switch is.
    Desc(SwitchDesc),
    /// Flows with actions and counters.
    FlowDesc(Vec<FlowEntry>),
    /// Counters of all matching flows together.
    Aggregate(FlowStats),
    /// Flows with counters only.
    FlowStats(Vec<FlowStatsEntry>),
    /// Counters of tables.
    TableStats(Vec<TableStats>),
    /// Configuration of tables.
    TableDesc(Vec<TableDesc>),
    TableFeatures(Vec<TableFeatures>),
    /// Counters of ports.
    PortStats(Vec<PortStats>),
    PortDesc(Vec<PortDesc>),
    GroupDesc(Vec<Group>),
    /// Counters of groups.
    GroupStats(Vec<GroupStats>),
    MeterDesc(Vec<Meter>),
    /// Counters of meters.
    MeterStats(Vec<MeterStats>),
    MeterFeatures(MeterFeatures),
    /// Changes of flows. They come with the transaction id of the request at first, later with 0.
    FlowMonitor(Vec<FlowUpdate>),
    /// Another reply: type and body.
    Unknown(u16, Bytes),
}

/// The switch in words for people (`OFPMP_DESC`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwitchDesc {
    /// Manufacturer.
    pub mfr: String,
    /// Hardware.
    pub hw: String,
    /// Software and its version.
    pub sw: String,
    /// Serial number.
    pub serial: String,
    /// Name of the datapath.
    pub dp: String,
}

/// Counters of a flow or of several (OXS).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowStats {
    /// Age: seconds and nanoseconds.
    pub duration: Option<(u32, u32)>,
    /// Time since the last packet: seconds and nanoseconds.
    pub idle_time: Option<(u32, u32)>,
    /// Flows counted together.
    pub flow_count: Option<u32>,
    pub packets: Option<u64>,
    pub bytes: Option<u64>,
}

/// A flow with its counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowEntry {
    pub flow: Flow,
    /// Its counters.
    pub stats: FlowStats,
}

/// A flow's key and counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowStatsEntry {
    pub table: u8,
    pub priority: u16,
    pub matches: Match,
    /// Counters.
    pub stats: FlowStats,
}

/// Counters of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableStats {
    pub table: u8,
    /// Flows in it.
    pub active: u32,
    /// Packets looked up.
    pub lookups: u64,
    /// Packets that matched.
    pub matched: u64,
}

/// Configuration of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableDesc {
    pub table: u8,
    /// `OFPTC_*` bits: 4 eviction, 8 vacancy events.
    pub config: u32,
}

/// Name and size of a table (`OFPMP_TABLE_FEATURES`); its properties are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFeatures {
    pub table: u8,
    /// Name; set in OVSDB (`Flow_Table.name`, by `Bridge.flow_tables`), not over OpenFlow.
    pub name: String,
    /// Most flows.
    pub max_entries: u32,
}

/// Counters of a port. `u64::MAX` means that the switch does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortStats {
    pub port_no: PortNo,
    /// Age: seconds and nanoseconds.
    pub duration: (u32, u32),
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets dropped when receiving.
    pub rx_dropped: u64,
    /// Packets dropped when sending.
    pub tx_dropped: u64,
    /// Receive errors.
    pub rx_errors: u64,
    /// Send errors.
    pub tx_errors: u64,
}

/// Counters of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStats {
    pub id: u32,
    /// Flows and groups that use it.
    pub ref_count: u32,
    pub packets: u64,
    pub bytes: u64,
    /// Age: seconds and nanoseconds.
    pub duration: (u32, u32),
    /// Packets and bytes of each bucket.
    pub buckets: Vec<(u64, u64)>,
}

/// Counters of a meter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterStats {
    pub id: u32,
    /// Flows that use it.
    pub flow_count: u32,
    /// Packets into it.
    pub packets_in: u64,
    /// Bytes into it.
    pub bytes_in: u64,
    /// Age: seconds and nanoseconds.
    pub duration: (u32, u32),
    /// Packets and bytes of each band.
    pub bands: Vec<(u64, u64)>,
}

/// What meters can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MeterFeatures {
    /// How many there can be; 0 where the datapath has none.
    pub max_meters: u32,
    /// Bits of the types of bands, by their number.
    pub band_types: u32,
    /// `OFPMF_*` bits that a meter may have.
    pub capabilities: u32,
    /// Bands of one meter.
    pub max_bands: u8,
    /// Highest colour.
    pub max_color: u8,
}

/// A request to be told of changes of flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowMonitor {
    /// Number of the monitor on this connection.
    pub id: u32,
    /// What to do with the monitor.
    pub command: MonitorCommand,
    /// `OFPFMF_*` bits, the constants below.
    pub flags: u16,
    /// One table; `None` all.
    pub table: Option<u8>,
    /// Only flows that output here.
    pub out_port: Option<PortNo>,
    /// Only flows that use this group.
    pub out_group: Option<u32>,
    /// Only flows at least as specific as this.
    pub matches: Match,
}

impl FlowMonitor {
    /// Begin with the flows that exist.
    pub const INITIAL: u16 = 1;
    /// Tell of flows that are added.
    pub const ADD: u16 = 1 << 1;
    /// Tell of flows that are removed.
    pub const REMOVED: u16 = 1 << 2;
    /// Tell of flows that are changed.
    pub const MODIFY: u16 = 1 << 3;
    /// Include actions.
    pub const INSTRUCTIONS: u16 = 1 << 4;
    /// Tell changes made over this connection in full, not as [`FlowUpdate::Abbreviated`].
    pub const NO_ABBREV: u16 = 1 << 5;
    /// Tell only of changes made over this connection.
    pub const ONLY_OWN: u16 = 1 << 6;

    /// Tells of every later change of any flow, without actions; changes made over the same connection come
    /// abbreviated.
    pub fn all(id: u32) -> FlowMonitor {
        FlowMonitor {
            id,
            command: MonitorCommand::Add,
            flags: Self::ADD | Self::REMOVED | Self::MODIFY,
            table: None,
            out_port: None,
            out_group: None,
            matches: Match::new(),
        }
    }
}

/// What to do with a monitor (`OFPFMC_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MonitorCommand {
    /// Start it.
    Add,
    /// Change it.
    Modify,
    /// End it.
    Delete,
    /// Another number.
    Other(u8),
}

/// One thing that a monitor tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowUpdate {
    /// A flow is there, came, went or changed.
    Flow {
        /// Which of these.
        event: FlowEvent,
        /// Why it was removed, `OFPRR_*`; 0 otherwise.
        reason: u8,
        /// The flow; without actions unless the monitor asks for them. Its flags and importance are not told.
        flow: Flow,
    },
    /// This connection's message with this transaction id changed flows.
    Abbreviated(Xid),
    /// Too much waits to be sent: what happens from now on is not told.
    Paused,
    /// What happens from now on is told again. Flows that were removed meanwhile have been told; those that
    /// came or changed follow.
    Resumed,
    /// Another event: number and body.
    Unknown(u16, Bytes),
}

/// What happened to a flow (`OFPFME_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowEvent {
    /// It was there when the monitor began.
    Initial,
    /// It was added.
    Added,
    /// It was removed.
    Removed,
    /// It was changed.
    Modified,
}
