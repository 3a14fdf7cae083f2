//! Flows, groups, meters and messages.

use std::fmt::{self, Display, Formatter};

use super::show_action::{NO_NAMES, show_all};
use super::{TableNames, show_match};
use crate::multipart::{FlowEntry, FlowStats};
use crate::{
    BandType, BucketPos, Flow, FlowCommand, FlowFlags, FlowKey, FlowMod, Group, GroupCommand, GroupMod,
    GroupType, MatchField, Message, Meter, MeterCommand, MeterFlags,
};

/// A value that is written with table names; see [`Flow::named`].
#[derive(Clone, Copy, Debug)]
pub struct Named<'a, T> {
    value: &'a T,
    names: &'a TableNames,
}

pub(super) const FLAGS: [(FlowFlags, &str); 5] = [
    (FlowFlags::SEND_FLOW_REM, "send_flow_rem"),
    (FlowFlags::CHECK_OVERLAP, "check_overlap"),
    (FlowFlags::RESET_COUNTS, "reset_counts"),
    (FlowFlags::NO_PKT_COUNTS, "no_packet_counts"),
    (FlowFlags::NO_BYT_COUNTS, "no_byte_counts"),
];

impl Flow {
    /// To be written with names of tables in place of numbers.
    pub fn named<'a>(&'a self, names: &'a TableNames) -> Named<'a, Flow> {
        Named { value: self, names }
    }
}

impl FlowEntry {
    /// To be written with its counters, as `ovs-ofctl dump-flows` does, and with names of tables in place of numbers.
    pub fn named<'a>(&'a self, names: &'a TableNames) -> Named<'a, FlowEntry> {
        Named { value: self, names }
    }
}

impl FlowKey {
    /// To be written with names of tables in place of numbers.
    pub fn named<'a>(&'a self, names: &'a TableNames) -> Named<'a, FlowKey> {
        Named { value: self, names }
    }
}

impl Group {
    /// To be written with names of tables in place of numbers.
    pub fn named<'a>(&'a self, names: &'a TableNames) -> Named<'a, Group> {
        Named { value: self, names }
    }
}

impl Display for Named<'_, Flow> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        show_flow(f, self.value, None, self.names)
    }
}

impl Display for Named<'_, FlowEntry> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        show_flow(f, &self.value.flow, Some(&self.value.stats), self.names)
    }
}

fn show_flow(
    f: &mut Formatter<'_>,
    flow: &Flow,
    stats: Option<&FlowStats>,
    names: &TableNames,
) -> fmt::Result {
    write!(f, "cookie={:#x}, ", flow.cookie)?;
    if let Some((seconds, nanoseconds)) = stats.and_then(|stats| stats.duration) {
        write!(f, "duration={seconds}.{:03}s, ", nanoseconds / 1_000_000)?;
    }
    f.write_str("table=")?;
    names.show(f, flow.table)?;
    f.write_str(", ")?;
    let counters = stats.into_iter().flat_map(|s| [("n_packets", s.packets), ("n_bytes", s.bytes)]);
    for (word, count) in counters {
        if let Some(count) = count {
            write!(f, "{word}={count}, ")?;
        }
    }
    for (word, n) in [("idle_timeout", flow.idle_timeout), ("hard_timeout", flow.hard_timeout)] {
        if n != 0 {
            write!(f, "{word}={n}, ")?;
        }
    }
    for (flag, word) in FLAGS {
        if flow.flags.contains(flag) {
            write!(f, "{word} ")?;
        }
    }
    if flow.importance != 0 {
        write!(f, "importance={}, ", flow.importance)?;
    }
    write!(f, "priority={}", flow.priority)?;
    show_match::show(f, &flow.matches)?;
    f.write_str(" actions=")?;
    show_all(f, flow.actions.iter(), names)
}

impl Display for Named<'_, FlowKey> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("table=")?;
        self.names.show(f, self.value.table)?;
        write!(f, ", priority={}", self.value.priority)?;
        show_match::show(f, &self.value.matches)
    }
}

impl Display for Flow {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.named(NO_NAMES).fmt(f)
    }
}

impl Display for FlowKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.named(NO_NAMES).fmt(f)
    }
}

pub(super) const GROUP_TYPES: [(GroupType, &str); 4] = [
    (GroupType::All, "all"),
    (GroupType::Select, "select"),
    (GroupType::Indirect, "indirect"),
    (GroupType::FastFailover, "ff"),
];

impl Display for GroupType {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let word = GROUP_TYPES.iter().find(|(k, _)| k == self).map_or("", |(_, w)| w);
        f.write_str(word)
    }
}

impl Display for Named<'_, Group> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let group = self.value;
        write!(f, "group_id={},type={}", group.id, group.kind)?;
        if let Some(s) = &group.selection {
            write!(f, ",selection_method={}", s.method)?;
            if s.param != 0 {
                write!(f, ",selection_method_param={}", s.param)?;
            }
            let fields: Vec<MatchField> = s.fields.fields().collect();
            if let [one] = &*fields {
                f.write_str(",fields=")?;
                show_hashed(f, one)?;
            } else if !fields.is_empty() {
                f.write_str(",fields(")?;
                for (i, m) in fields.iter().enumerate() {
                    f.write_str(if i > 0 { "," } else { "" })?;
                    show_hashed(f, m)?;
                }
                f.write_str(")")?;
            }
        }
        for b in &group.buckets {
            write!(f, ",bucket=bucket_id:{}", b.id)?;
            if b.weight != u16::from(group.kind == GroupType::Select) {
                write!(f, ",weight:{}", b.weight)?;
            }
            if let Some(p) = b.watch_port {
                write!(f, ",watch_port:{p}")?;
            }
            if let Some(g) = b.watch_group {
                write!(f, ",watch_group:{g}")?;
            }
            f.write_str(",actions=")?;
            show_all(f, b.actions.iter(), self.names)?;
        }
        Ok(())
    }
}

/// A field that a group hashes, with the bits that count.
fn show_hashed(f: &mut Formatter<'_>, m: &MatchField) -> fmt::Result {
    write!(f, "{}", m.field)?;
    if m.mask == m.field.full_mask() {
        return Ok(());
    }
    f.write_str("=")?;
    super::value::show(f, m.field, m.mask, m.field.full_mask())
}

impl Display for Group {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.named(NO_NAMES).fmt(f)
    }
}

pub(super) const METER_FLAGS: [(MeterFlags, &str); 4] = [
    (MeterFlags::KBPS, "kbps"),
    (MeterFlags::PKTPS, "pktps"),
    (MeterFlags::BURST, "burst"),
    (MeterFlags::STATS, "stats"),
];

impl Display for Meter {
    /// As dump-meters prints it: one line, and one more for each band.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.id {
            0xffff_fffd => f.write_str("meter=controller")?,
            0xffff_fffe => f.write_str("meter=slowpath")?,
            id => write!(f, "meter={id}")?,
        }
        for (flag, word) in METER_FLAGS {
            if self.flags.0 & flag.0 != 0 {
                write!(f, " {word}")?;
            }
        }
        f.write_str(" bands=")?;
        for band in &self.bands {
            let word = if band.kind == BandType::Drop { "drop" } else { "dscp_remark" };
            write!(f, "\ntype={word} rate={}", band.rate)?;
            if self.flags.0 & MeterFlags::BURST.0 != 0 {
                write!(f, " burst_size={}", band.burst)?;
            }
            if let BandType::DscpRemark(level) = band.kind {
                write!(f, " prec_level={level}")?;
            }
        }
        Ok(())
    }
}

impl Display for FlowMod {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self.command {
            FlowCommand::Add => "add",
            FlowCommand::Modify => "modify",
            FlowCommand::ModifyStrict => "modify_strict",
            FlowCommand::Delete => "delete",
            FlowCommand::DeleteStrict => "delete_strict",
        })?;
        write!(f, " {}", self.flow)
    }
}

impl Display for BucketPos {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            BucketPos::First => f.write_str("first"),
            BucketPos::Last => f.write_str("last"),
            BucketPos::All => f.write_str("all"),
            BucketPos::Id(id) => write!(f, "{id}"),
        }
    }
}

impl Display for GroupMod {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.command {
            GroupCommand::Add => f.write_str("add")?,
            GroupCommand::Modify => f.write_str("modify")?,
            GroupCommand::AddOrModify => f.write_str("add_or_mod")?,
            GroupCommand::Delete => f.write_str("delete")?,
            GroupCommand::InsertBucket(pos) => write!(f, "insert_bucket command_bucket_id={pos}")?,
            GroupCommand::RemoveBucket(pos) => write!(f, "remove_bucket command_bucket_id={pos}")?,
        }
        write!(f, " {}", self.group)
    }
}

impl Display for Message {
    /// Changes and packet-outs in full, errors by name; of other messages the kind. For logs.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Message::FlowMod(m) => write!(f, "{m}"),
            Message::GroupMod(m) => write!(f, "{m}"),
            Message::MeterMod { command, meter } => {
                f.write_str(match command {
                    MeterCommand::Add => "add ",
                    MeterCommand::Modify => "modify ",
                    MeterCommand::Delete => "delete ",
                })?;
                write!(f, "{meter}")
            }
            Message::Error(e) => write!(f, "{e}"),
            Message::BundleAdd { message, .. } => write!(f, "bundled {message}"),
            Message::PacketOut(p) => {
                write!(f, "packet_out {} actions=", p.matches)?;
                show_all(f, &p.actions, NO_NAMES)
            }
            Message::Unknown { kind, .. } => write!(f, "message of type {kind}"),
            other => {
                let text = format!("{other:?}");
                let end = text.find([' ', '(', '{']).unwrap_or(text.len());
                f.write_str(text.get(..end).unwrap_or_default())
            }
        }
    }
}
