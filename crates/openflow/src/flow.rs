//! Flows, groups and meters.

use crate::{Action, Actions, Match, PortNo};

/// A flow entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// Table, 0–254.
    pub table: u8,
    /// Priority; higher wins.
    pub priority: u16,
    /// What packets it applies to.
    pub matches: Match,
    /// Opaque value of the controller.
    pub cookie: u64,
    /// Removed after so many seconds without a packet, 0 never.
    pub idle_timeout: u16,
    /// Removed after so many seconds, 0 never.
    pub hard_timeout: u16,
    /// Eviction precedence, 0 lowest.
    pub importance: u16,
    pub flags: FlowFlags,
    /// What it does; empty drops.
    pub actions: Actions,
}

/// Flags of a flow (`OFPFF_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowFlags(pub u16);

impl FlowFlags {
    /// Report the removal of the flow.
    pub const SEND_FLOW_REM: FlowFlags = FlowFlags(1);
    /// Refuse to add the flow if it overlaps with one of the same priority.
    pub const CHECK_OVERLAP: FlowFlags = FlowFlags(2);
    /// Reset the counters of the flow.
    pub const RESET_COUNTS: FlowFlags = FlowFlags(4);
    /// Do not count packets.
    pub const NO_PKT_COUNTS: FlowFlags = FlowFlags(8);
    /// Do not count bytes.
    pub const NO_BYT_COUNTS: FlowFlags = FlowFlags(16);

    /// Whether all of `other` are set.
    pub fn contains(self, other: FlowFlags) -> bool {
        self.0 & other.0 == other.0
    }
}

impl std::ops::BitOr for FlowFlags {
    type Output = FlowFlags;
    fn bitor(self, o: FlowFlags) -> FlowFlags {
        FlowFlags(self.0 | o.0)
    }
}

/// What makes two flows the same to the switch: table, priority and match. Adding a flow replaces the
/// one with the same key. Ordered by table, then priority, then match.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    pub table: u8,
    pub priority: u16,
    pub matches: Match,
}

impl Flow {
    /// The priority of a flow whose text names none.
    pub const DEFAULT_PRIORITY: u16 = 32768;

    /// A flow that drops every packet.
    pub fn new(table: u8, priority: u16) -> Flow {
        Flow {
            table,
            priority,
            matches: Match::new(),
            cookie: 0,
            idle_timeout: 0,
            hard_timeout: 0,
            importance: 0,
            flags: FlowFlags::default(),
            actions: Actions::default(),
        }
    }

    /// Sets the cookie.
    pub fn cookie(mut self, cookie: u64) -> Self {
        self.cookie = cookie;
        self
    }

    /// Sets the match.
    pub fn matching(mut self, matches: Match) -> Self {
        self.matches = matches;
        self
    }

    /// Adds an action.
    pub fn action(mut self, action: impl Into<Action>) -> Self {
        self.actions.push(action.into());
        self
    }

    /// Adds actions.
    pub fn actions(mut self, actions: impl IntoIterator<Item = Action>) -> Self {
        self.actions.extend(actions);
        self
    }

    /// Ends with `goto_table`.
    pub fn goto(self, table: u8) -> Self {
        self.action(Action::GotoTable(table))
    }

    /// Sets the idle timeout in seconds.
    pub fn idle_timeout(mut self, seconds: u16) -> Self {
        self.idle_timeout = seconds;
        self
    }

    /// Sets the hard timeout in seconds.
    pub fn hard_timeout(mut self, seconds: u16) -> Self {
        self.hard_timeout = seconds;
        self
    }

    /// Adds flags.
    pub fn flags(mut self, flags: FlowFlags) -> Self {
        self.flags = self.flags | flags;
        self
    }

    /// The identity of the flow.
    pub fn key(&self) -> FlowKey {
        FlowKey { table: self.table, priority: self.priority, matches: self.matches.clone() }
    }
}

/// A group entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group {
    /// Group id, 0 to 0xffffff00.
    pub id: u32,
    /// How buckets are used.
    pub kind: GroupType,
    /// How a select group chooses (`NTR selection method`); `None` is the default, the datapath hash.
    pub selection: Option<SelectionMethod>,
    pub buckets: Vec<Bucket>,
}

/// How a group uses its buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupType {
    /// Every bucket gets a copy.
    All,
    /// One bucket, by hash and weight.
    Select,
    /// The only bucket.
    Indirect,
    /// The first live bucket.
    FastFailover,
}

/// Selection method of a select group (netronome-ext.h).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SelectionMethod {
    /// `dp_hash` or `hash`.
    pub method: String,
    /// Hash basis.
    pub param: u64,
    /// With `hash`: fields, each with the bits that count.
    pub fields: Match,
}

impl SelectionMethod {
    /// The datapath's hash.
    pub fn dp_hash() -> Self {
        SelectionMethod { method: "dp_hash".into(), param: 0, fields: Match::new() }
    }
}

/// One bucket of a group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket {
    /// Id, unique in the group, 0 to 0xffffff00.
    pub id: u32,
    /// Relative weight in a select group; 0 in others, where it is not sent.
    pub weight: u16,
    /// Live while this port is; for fast failover.
    pub watch_port: Option<PortNo>,
    /// Live while this group is; for fast failover.
    pub watch_group: Option<u32>,
    /// What it does.
    pub actions: Actions,
}

impl Bucket {
    /// The highest bucket id.
    pub const MAX: u32 = 0xffff_ff00;

    /// A bucket with a weight.
    pub fn new(id: u32, weight: u16) -> Bucket {
        Bucket { id, weight, watch_port: None, watch_group: None, actions: Actions::default() }
    }

    /// Adds an action.
    pub fn action(mut self, action: impl Into<Action>) -> Self {
        self.actions.push(action.into());
        self
    }
}

impl Group {
    /// A group without buckets.
    pub fn new(id: u32, kind: GroupType) -> Group {
        Group { id, kind, selection: None, buckets: Vec::new() }
    }

    /// Adds a bucket.
    pub fn bucket(mut self, bucket: Bucket) -> Self {
        self.buckets.push(bucket);
        self
    }
}

/// A meter entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Meter {
    /// Meter id, 1 to 0xffff0000; 0xfffffffd is the controller's virtual meter.
    pub id: u32,
    pub flags: MeterFlags,
    pub bands: Vec<MeterBand>,
}

/// Flags of a meter (`OFPMF_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MeterFlags(pub u16);

impl MeterFlags {
    /// Rates are in kilobits per second.
    pub const KBPS: MeterFlags = MeterFlags(1);
    /// Rates are in packets per second.
    pub const PKTPS: MeterFlags = MeterFlags(2);
    /// Bursts are given.
    pub const BURST: MeterFlags = MeterFlags(4);
    /// Keep statistics.
    pub const STATS: MeterFlags = MeterFlags(8);
}

impl std::ops::BitOr for MeterFlags {
    type Output = MeterFlags;
    fn bitor(self, o: MeterFlags) -> MeterFlags {
        MeterFlags(self.0 | o.0)
    }
}

/// What a meter does above one rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MeterBand {
    /// What happens above the rate.
    pub kind: BandType,
    /// Rate in kilobits or packets per second.
    pub rate: u32,
    /// Burst in kilobits or packets.
    pub burst: u32,
}

/// What a band does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BandType {
    Drop,
    /// Raises the drop precedence of the DSCP by so much.
    DscpRemark(u8),
}

impl Meter {
    /// A meter that drops above `rate` packets per second.
    pub fn drop_pktps(id: u32, rate: u32, burst: u32) -> Meter {
        Meter {
            id,
            flags: MeterFlags::PKTPS | MeterFlags::BURST | MeterFlags::STATS,
            bands: vec![MeterBand { kind: BandType::Drop, rate, burst }],
        }
    }
}
