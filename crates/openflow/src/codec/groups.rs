//! Groups, buckets, meters (TS-025 §7.3.4.3 and §7.3.4.4, netronome-ext.h).

use bytes::{BufMut, BytesMut};

use super::NETRONOME;
use super::actions::{put_actions, read_actions};
use super::oxm;
use super::read::{Reader, Result as ReadResult};
use super::write::{Result as WriteResult, Write};
use crate::{
    BandType, Bucket, BucketPos, Group, GroupCommand, GroupMod, GroupType, Meter, MeterBand, MeterCommand,
    MeterFlags, PortNo, Problem, SelectionMethod,
};

const BUCKET_FIRST: u32 = 0xffff_fffd;
const BUCKET_LAST: u32 = 0xffff_fffe;
const BUCKET_ALL: u32 = 0xffff_ffff;
const EXPERIMENTER: u16 = 0xffff;

fn type_number(kind: GroupType) -> u8 {
    match kind {
        GroupType::All => 0,
        GroupType::Select => 1,
        GroupType::Indirect => 2,
        GroupType::FastFailover => 3,
    }
}

fn read_type(reader: &mut Reader) -> ReadResult<GroupType> {
    match reader.u8("group type")? {
        0 => Ok(GroupType::All),
        1 => Ok(GroupType::Select),
        2 => Ok(GroupType::Indirect),
        3 => Ok(GroupType::FastFailover),
        other => reader.fail("group type", Problem::BadValue(other.into())),
    }
}

fn position(pos: BucketPos) -> u32 {
    match pos {
        BucketPos::First => BUCKET_FIRST,
        BucketPos::Last => BUCKET_LAST,
        BucketPos::All => BUCKET_ALL,
        BucketPos::Id(id) => id,
    }
}

fn read_position(id: u32) -> BucketPos {
    match id {
        BUCKET_FIRST => BucketPos::First,
        BUCKET_LAST => BucketPos::Last,
        BUCKET_ALL => BucketPos::All,
        id => BucketPos::Id(id),
    }
}

fn put_bucket(out: &mut BytesMut, kind: GroupType, bucket: &Bucket) -> WriteResult<()> {
    let start = out.len();
    out.put_u16(0);
    out.put_u16(0);
    out.put_u32(bucket.id);
    let actions = out.len();
    put_actions(out, bucket.actions.iter())?;
    out.patch("bucket", start + 2, actions)?;
    // Open vSwitch writes a weight for select groups, and refuses one of other kinds.
    if kind == GroupType::Select {
        out.property(0, |out| {
            out.put_u16(bucket.weight);
            out.zeros(2);
            Ok(())
        })?;
    }
    if let Some(port) = bucket.watch_port {
        out.property(1, |out| {
            out.put_u32(port.0);
            Ok(())
        })?;
    }
    if let Some(group) = bucket.watch_group {
        out.property(2, |out| {
            out.put_u32(group);
            Ok(())
        })?;
    }
    out.patch("bucket", start, start)
}

fn read_bucket(reader: &mut Reader) -> ReadResult<Bucket> {
    let mut body = reader.sized("bucket", 8)?;
    let actions = usize::from(body.u16("bucket")?);
    let mut bucket = Bucket::new(body.u32("bucket")?, 0);
    bucket.actions = read_actions(&mut body.part("bucket actions", actions)?, 0)?.into();
    while !body.is_empty() {
        let (kind, mut value) = body.property("bucket property")?;
        match kind {
            0 => bucket.weight = value.u16("weight")?,
            1 => bucket.watch_port = Some(PortNo(value.u32("watch_port")?)).filter(|p| *p != PortNo::ANY),
            2 => bucket.watch_group = Some(value.u32("watch_group")?).filter(|g| *g != u32::MAX),
            _ => {}
        }
    }
    Ok(bucket)
}

/// Only buckets of select groups have a weight.
fn without_weights(group: &mut Group) {
    if group.kind != GroupType::Select {
        group.buckets.iter_mut().for_each(|b| b.weight = 0);
    }
}

fn put_selection(out: &mut BytesMut, group: &Group) -> WriteResult<()> {
    let Some(selection) = &group.selection else { return Ok(()) };
    out.property(EXPERIMENTER, |out| {
        out.put_u32(NETRONOME);
        out.put_u32(1); // NTRT_SELECTION_METHOD
        out.zeros(4);
        let mut method = [0; 16];
        for (to, from) in method.iter_mut().zip(selection.method.bytes()) {
            *to = from;
        }
        out.put_slice(&method);
        out.put_u64(selection.param);
        oxm::put_hashed(out, &selection.fields);
        Ok(())
    })
}

fn read_properties(reader: &mut Reader, group: &mut Group) -> ReadResult<()> {
    while !reader.is_empty() {
        let (kind, mut value) = reader.property("group property")?;
        if kind != EXPERIMENTER || value.u32("group property")? != NETRONOME {
            continue;
        }
        value.skip("selection method", 8)?;
        let method = value.text("selection method", 16)?;
        let param = value.u64("selection method")?;
        group.selection = Some(SelectionMethod { method, param, fields: oxm::hashed(&mut value)? });
    }
    Ok(())
}

pub(super) fn put_mod(out: &mut BytesMut, message: &GroupMod) -> WriteResult<()> {
    let group = &message.group;
    let (command, pos) = match message.command {
        GroupCommand::Add => (0, BucketPos::All),
        GroupCommand::Modify => (1, BucketPos::All),
        GroupCommand::Delete => (2, BucketPos::All),
        GroupCommand::InsertBucket(pos) => (3, pos),
        GroupCommand::RemoveBucket(pos) => (5, pos),
        GroupCommand::AddOrModify => (0x8000, BucketPos::All),
    };
    out.put_u16(command);
    out.put_u8(type_number(group.kind));
    out.zeros(1);
    out.put_u32(group.id);
    let length_at = out.len();
    out.put_u16(0);
    out.zeros(2);
    out.put_u32(position(pos));
    let buckets = out.len();
    // The type of a group that buckets are added to is not known here; a weight of 0 means none.
    for bucket in &group.buckets {
        let kind = match message.command {
            GroupCommand::InsertBucket(_) if bucket.weight > 0 => GroupType::Select,
            _ => group.kind,
        };
        put_bucket(out, kind, bucket)?;
    }
    out.patch("buckets", length_at, buckets)?;
    put_selection(out, group)
}

pub(super) fn read_mod(reader: &mut Reader) -> ReadResult<GroupMod> {
    let at = reader.clone();
    let command = reader.u16("group-mod")?;
    let kind = read_type(reader)?;
    reader.skip("group-mod", 1)?;
    let mut group = Group::new(reader.u32("group-mod")?, kind);
    let length = usize::from(reader.u16("group-mod")?);
    reader.skip("group-mod", 2)?;
    let pos = read_position(reader.u32("group-mod")?);
    group.buckets = reader.part("buckets", length)?.all(read_bucket)?;
    read_properties(reader, &mut group)?;
    let command = match command {
        0 => GroupCommand::Add,
        1 => GroupCommand::Modify,
        2 => GroupCommand::Delete,
        3 => GroupCommand::InsertBucket(pos),
        5 => GroupCommand::RemoveBucket(pos),
        0x8000 => GroupCommand::AddOrModify,
        other => return at.fail("group-mod", Problem::BadValue(other.into())),
    };
    if !matches!(command, GroupCommand::InsertBucket(_)) {
        without_weights(&mut group);
    }
    Ok(GroupMod { command, group })
}

pub(super) fn put_desc(out: &mut BytesMut, group: &Group) -> WriteResult<()> {
    let start = out.len();
    out.put_u16(0);
    out.put_u8(type_number(group.kind));
    out.zeros(1);
    out.put_u32(group.id);
    let length_at = out.len();
    out.put_u16(0);
    out.zeros(6);
    let buckets = out.len();
    for bucket in &group.buckets {
        put_bucket(out, group.kind, bucket)?;
    }
    out.patch("buckets", length_at, buckets)?;
    put_selection(out, group)?;
    out.patch("group", start, start)
}

pub(super) fn read_desc(reader: &mut Reader) -> ReadResult<Group> {
    let mut body = reader.sized("group", 16)?;
    let kind = read_type(&mut body)?;
    body.skip("group", 1)?;
    let mut group = Group::new(body.u32("group")?, kind);
    let length = usize::from(body.u16("group")?);
    body.skip("group", 6)?;
    group.buckets = body.part("buckets", length)?.all(read_bucket)?;
    read_properties(&mut body, &mut group)?;
    without_weights(&mut group);
    Ok(group)
}

fn put_bands(out: &mut BytesMut, bands: &[MeterBand]) {
    for band in bands {
        let (kind, level) = match band.kind {
            BandType::Drop => (1, 0),
            BandType::DscpRemark(level) => (2, level),
        };
        out.put_u16(kind);
        out.put_u16(16);
        out.put_u32(band.rate);
        out.put_u32(band.burst);
        out.put_u8(level);
        out.zeros(3);
    }
}

fn read_band(reader: &mut Reader) -> ReadResult<MeterBand> {
    let at = reader.clone();
    let kind = reader.u16("meter band")?;
    let length = usize::from(reader.u16("meter band")?);
    if length < 16 {
        return at.fail("meter band", Problem::BadLength(length));
    }
    let mut body = reader.part("meter band", length - 4)?;
    let (rate, burst) = (body.u32("meter band")?, body.u32("meter band")?);
    let kind = match kind {
        1 => BandType::Drop,
        2 => BandType::DscpRemark(body.u8("meter band")?),
        other => return at.fail("meter band", Problem::BadValue(other.into())),
    };
    Ok(MeterBand { kind, rate, burst })
}

pub(super) fn put_meter_mod(out: &mut BytesMut, command: MeterCommand, meter: &Meter) {
    out.put_u16(match command {
        MeterCommand::Add => 0,
        MeterCommand::Modify => 1,
        MeterCommand::Delete => 2,
    });
    out.put_u16(meter.flags.0);
    out.put_u32(meter.id);
    put_bands(out, &meter.bands);
}

pub(super) fn read_meter_mod(reader: &mut Reader) -> ReadResult<(MeterCommand, Meter)> {
    let command = match reader.u16("meter-mod")? {
        0 => MeterCommand::Add,
        1 => MeterCommand::Modify,
        2 => MeterCommand::Delete,
        other => return reader.fail("meter-mod", Problem::BadValue(other.into())),
    };
    let flags = MeterFlags(reader.u16("meter-mod")?);
    let id = reader.u32("meter-mod")?;
    Ok((command, Meter { id, flags, bands: reader.all(read_band)? }))
}

pub(super) fn put_meter(out: &mut BytesMut, meter: &Meter) -> WriteResult<()> {
    let start = out.len();
    out.put_u16(0);
    out.put_u16(meter.flags.0);
    out.put_u32(meter.id);
    put_bands(out, &meter.bands);
    out.patch("meter", start, start)
}

pub(super) fn read_meter(reader: &mut Reader) -> ReadResult<Meter> {
    let mut body = reader.sized("meter", 8)?;
    let flags = MeterFlags(body.u16("meter")?);
    let id = body.u32("meter")?;
    Ok(Meter { id, flags, bands: body.all(read_band)? })
}
