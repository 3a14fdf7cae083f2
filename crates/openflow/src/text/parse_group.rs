//! Groups and meters.

use std::str::FromStr;

use super::parse_action::parse_all;
use super::parse_flow::split_actions;
use super::show_action::NO_NAMES;
use super::show_flow::{GROUP_TYPES, METER_FLAGS};
use super::token::{Token, Tokens};
use super::{TableNames, value};
use crate::{
    BandType, Bucket, Field, Group, GroupType, Match, Meter, MeterBand, MeterFlags, ParseError,
    SelectionMethod,
};

impl Group {
    /// Reads a group as `ovs-ofctl add-group` does, or a line of `dump-groups`. Tables may go by name.
    ///
    /// # Errors
    /// Says what could not be read and why.
    pub fn parse_named(text: &str, names: &TableNames) -> Result<Group, ParseError> {
        let mut parts = text.split(",bucket=");
        let head = parts.next().unwrap_or_default();
        let mut id = None;
        let mut kind = GroupType::All;
        let mut selection = SelectionMethod { method: String::new(), param: 0, fields: Match::new() };
        for t in Tokens::new(head) {
            let t = t?;
            match t.key {
                "group_id" => id = Some(t.u32("group_id")?),
                "type" => {
                    let word = match t.value("type")? {
                        "fast_failover" => "ff",
                        w => w,
                    };
                    let found = GROUP_TYPES.iter().find(|(_, w)| *w == word);
                    kind = found.ok_or_else(|| ParseError::new("group type", word, "unknown"))?.0;
                }
                "selection_method" => selection.method = method(&t)?,
                "selection_method_param" => {
                    selection.param = t.number("selection_method_param", u64::MAX.into())? as u64;
                }
                "fields" => selection.fields = fields(t.value("fields")?)?,
                _ => return Err(ParseError::new("group", t.text, "unknown argument")),
            }
        }
        let id = id.ok_or_else(|| ParseError::new("group", text, "needs group_id"))?;
        let mut group = Group::new(id, kind);
        if !selection.method.is_empty() {
            group.selection = Some(selection);
        } else if selection.param != 0 || !selection.fields.is_empty() {
            return Err(ParseError::new("group", text, "fields and parameter need a selection_method"));
        }
        for (i, part) in parts.enumerate() {
            group.buckets.push(bucket(part, i as u32, kind, names)?);
        }
        Ok(group)
    }
}

fn method(t: &Token<'_>) -> Result<String, ParseError> {
    let name = t.value("selection_method")?;
    if name.is_empty() || name.len() > 15 {
        return Err(ParseError::new("selection_method", name, "must have 1 to 15 bytes"));
    }
    Ok(name.to_owned())
}

/// Fields, each with the bits that count.
fn fields(text: &str) -> Result<Match, ParseError> {
    let mut m = Match::new();
    for t in Tokens::new(text) {
        let t = t?;
        let field: Field = t.key.parse()?;
        let mask = match t.value {
            None => field.full_mask(),
            Some(v) => value::parse(field, v)?.0,
        };
        m.insert_hashed(field, mask);
    }
    Ok(m)
}

fn bucket(text: &str, index: u32, kind: GroupType, names: &TableNames) -> Result<Bucket, ParseError> {
    let (head, actions) = split_actions(text);
    let mut b = Bucket::new(index, u16::from(kind == GroupType::Select));
    let mut loose = None;
    let mut tokens = Tokens::new(head);
    loop {
        let before = tokens.rest();
        let Some(t) = tokens.next() else { break };
        let t = t?;
        match t.key {
            "bucket_id" => b.id = t.u32("bucket_id")?,
            "weight" => b.weight = t.u16("weight")?,
            "watch_port" => b.watch_port = Some(t.value("watch_port")?.parse()?),
            "watch_group" => b.watch_group = Some(t.u32("watch_group")?),
            // Actions may come without `actions=`.
            _ if actions.is_none() => {
                loose = Some(before);
                break;
            }
            _ => return Err(ParseError::new("bucket", t.text, "unknown argument")),
        }
    }
    b.actions = parse_all(actions.or(loose).unwrap_or_default(), names)?.into();
    Ok(b)
}

impl FromStr for Group {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        Group::parse_named(s, NO_NAMES)
    }
}

impl FromStr for Meter {
    type Err = ParseError;

    /// Reads a meter as `ovs-ofctl add-meter` does, or of `dump-meters`.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        let mut id = None;
        let mut m = Meter { id: 0, flags: MeterFlags::default(), bands: Vec::new() };
        for t in Tokens::new(s) {
            let t = t?;
            let t = match (t.key, t.value) {
                // `bands=type=drop`
                ("bands" | "band", Some(v)) => match Tokens::new(v).next() {
                    Some(inner) => inner?,
                    None => continue,
                },
                _ => t,
            };
            let fail = |problem: &str| ParseError::new("meter", t.text, problem);
            let flag = METER_FLAGS.iter().find(|(_, w)| *w == t.key && t.value.is_none());
            match (t.key, m.bands.last_mut()) {
                ("meter", _) => {
                    id = Some(match t.value("meter")? {
                        "controller" => 0xffff_fffd,
                        "slowpath" => 0xffff_fffe,
                        _ => t.u32("meter")?,
                    });
                }
                (_, _) if flag.is_some() => {
                    m.flags = m.flags | flag.map_or(MeterFlags::default(), |(f, _)| *f)
                }
                ("type", _) => {
                    let kind = match t.value("type")? {
                        "drop" => BandType::Drop,
                        "dscp_remark" => BandType::DscpRemark(0),
                        _ => return Err(fail("must be drop or dscp_remark")),
                    };
                    m.bands.push(MeterBand { kind, rate: 0, burst: 0 });
                }
                ("rate", Some(b)) => b.rate = t.u32("rate")?,
                ("burst_size", Some(b)) => b.burst = t.u32("burst_size")?,
                ("prec_level", Some(MeterBand { kind: BandType::DscpRemark(level), .. })) => {
                    *level = t.number("prec_level", 255)? as u8;
                }
                _ => return Err(fail("unknown argument")),
            }
        }
        m.id = id.ok_or_else(|| ParseError::new("meter", s, "needs meter="))?;
        Ok(m)
    }
}
