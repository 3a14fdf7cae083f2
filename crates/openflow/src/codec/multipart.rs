//! Multipart requests and replies (TS-025 §7.3.5).

use bytes::{BufMut, BytesMut};

use super::actions::{put_instructions, read_instructions};
use super::groups;
use super::monitor;
use super::oxm::{put_match, read_match};
use super::read::{Reader, Result as ReadResult};
use super::write::{Result as WriteResult, Write};
use crate::multipart::{
    FlowEntry, FlowFilter, FlowStats, FlowStatsEntry, GroupStats, MeterStats, MultipartReply,
    MultipartRequest, PortStats, SwitchDesc, TableDesc, TableFeatures, TableStats,
};
use crate::{Flow, FlowFlags, PortDesc, PortNo, Problem};

// OFPMP_*
const DESC: u16 = 0;
const FLOW_DESC: u16 = 1;
const AGGREGATE: u16 = 2;
const TABLE_STATS: u16 = 3;
const PORT_STATS: u16 = 4;
const GROUP_STATS: u16 = 6;
const GROUP_DESC: u16 = 7;
const GROUP_FEATURES: u16 = 8;
const METER_STATS: u16 = 9;
const METER_DESC: u16 = 10;
const METER_FEATURES: u16 = 11;
const TABLE_FEATURES: u16 = 12;
const PORT_DESC: u16 = 13;
const TABLE_DESC: u16 = 14;
const FLOW_MONITOR: u16 = 16;
const FLOW_STATS: u16 = 17;

/// `OFPG_ALL`, `OFPM_ALL`.
const ALL_GROUPS: u32 = 0xffff_fffc;
const ALL_METERS: u32 = 0xffff_ffff;

pub(super) fn put_request(out: &mut BytesMut, request: &MultipartRequest) -> WriteResult<()> {
    let begin = |out: &mut BytesMut, kind: u16| {
        out.put_u16(kind);
        out.zeros(6);
    };
    let id = |out: &mut BytesMut, kind: u16, id: u32| {
        begin(out, kind);
        out.put_u32(id);
        out.zeros(4);
    };
    match request {
        MultipartRequest::Desc => begin(out, DESC),
        MultipartRequest::FlowDesc(filter) => {
            begin(out, FLOW_DESC);
            put_filter(out, filter)?;
        }
        MultipartRequest::Aggregate(filter) => {
            begin(out, AGGREGATE);
            put_filter(out, filter)?;
        }
        MultipartRequest::FlowStats(filter) => {
            begin(out, FLOW_STATS);
            put_filter(out, filter)?;
        }
        MultipartRequest::TableStats => begin(out, TABLE_STATS),
        MultipartRequest::TableDesc => begin(out, TABLE_DESC),
        MultipartRequest::TableFeatures => begin(out, TABLE_FEATURES),
        MultipartRequest::PortStats(port) => id(out, PORT_STATS, port.map_or(u32::MAX, |port| port.0)),
        MultipartRequest::PortDesc(port) => id(out, PORT_DESC, port.map_or(u32::MAX, |port| port.0)),
        MultipartRequest::GroupDesc(group) => id(out, GROUP_DESC, group.unwrap_or(ALL_GROUPS)),
        MultipartRequest::GroupStats(group) => id(out, GROUP_STATS, group.unwrap_or(ALL_GROUPS)),
        MultipartRequest::GroupFeatures => begin(out, GROUP_FEATURES),
        MultipartRequest::MeterDesc(meter) => id(out, METER_DESC, meter.unwrap_or(ALL_METERS)),
        MultipartRequest::MeterStats(meter) => id(out, METER_STATS, meter.unwrap_or(ALL_METERS)),
        MultipartRequest::MeterFeatures => begin(out, METER_FEATURES),
        MultipartRequest::FlowMonitor(request) => {
            begin(out, FLOW_MONITOR);
            monitor::put_request(out, request)?;
        }
        MultipartRequest::Unknown(kind, body) => {
            begin(out, *kind);
            out.extend_from_slice(body);
        }
    }
    Ok(())
}

fn put_filter(out: &mut BytesMut, filter: &FlowFilter) -> WriteResult<()> {
    out.put_u8(filter.table.unwrap_or(0xff));
    out.zeros(3);
    out.put_u32(filter.out_port.map_or(u32::MAX, |port| port.0));
    out.put_u32(filter.out_group.unwrap_or(u32::MAX));
    out.zeros(4);
    out.put_u64(filter.cookie);
    out.put_u64(filter.cookie_mask);
    put_match(out, &filter.matches)
}

fn read_filter(reader: &mut Reader) -> ReadResult<FlowFilter> {
    let table = Some(reader.u8("flow filter")?).filter(|table| *table != 0xff);
    reader.skip("flow filter", 3)?;
    let out_port = Some(PortNo(reader.u32("flow filter")?)).filter(|port| *port != PortNo::ANY);
    let out_group = Some(reader.u32("flow filter")?).filter(|group| *group != u32::MAX);
    reader.skip("flow filter", 4)?;
    let cookie = reader.u64("flow filter")?;
    let cookie_mask = reader.u64("flow filter")?;
    Ok(FlowFilter { table, out_port, out_group, cookie, cookie_mask, matches: read_match(reader)? })
}

pub(super) fn read_request(reader: &mut Reader) -> ReadResult<MultipartRequest> {
    let kind = reader.u16("multipart request")?;
    reader.skip("multipart request", 6)?;
    let port = |reader: &mut Reader| {
        reader.u32("port").map(|port| Some(PortNo(port)).filter(|port| *port != PortNo::ANY))
    };
    let id = |reader: &mut Reader, all| reader.u32("id").map(|id| Some(id).filter(|id| *id != all));
    Ok(match kind {
        DESC => MultipartRequest::Desc,
        FLOW_DESC => MultipartRequest::FlowDesc(read_filter(reader)?),
        AGGREGATE => MultipartRequest::Aggregate(read_filter(reader)?),
        FLOW_STATS => MultipartRequest::FlowStats(read_filter(reader)?),
        TABLE_STATS => MultipartRequest::TableStats,
        TABLE_DESC => MultipartRequest::TableDesc,
        TABLE_FEATURES => MultipartRequest::TableFeatures,
        PORT_STATS => MultipartRequest::PortStats(port(reader)?),
        PORT_DESC => MultipartRequest::PortDesc(port(reader)?),
        GROUP_DESC => MultipartRequest::GroupDesc(id(reader, ALL_GROUPS)?),
        GROUP_STATS => MultipartRequest::GroupStats(id(reader, ALL_GROUPS)?),
        GROUP_FEATURES => MultipartRequest::GroupFeatures,
        METER_DESC => MultipartRequest::MeterDesc(id(reader, ALL_METERS)?),
        METER_STATS => MultipartRequest::MeterStats(id(reader, ALL_METERS)?),
        METER_FEATURES => MultipartRequest::MeterFeatures,
        FLOW_MONITOR => MultipartRequest::FlowMonitor(monitor::read_request(reader)?),
        other => MultipartRequest::Unknown(other, reader.rest()),
    })
}

pub(super) fn put_reply(out: &mut BytesMut, more: bool, reply: &MultipartReply) -> WriteResult<()> {
    out.put_u16(match reply {
        MultipartReply::Desc(_) => DESC,
        MultipartReply::FlowDesc(_) => FLOW_DESC,
        MultipartReply::Aggregate(_) => AGGREGATE,
        MultipartReply::FlowStats(_) => FLOW_STATS,
        MultipartReply::TableStats(_) => TABLE_STATS,
        MultipartReply::TableDesc(_) => TABLE_DESC,
        MultipartReply::TableFeatures(_) => TABLE_FEATURES,
        MultipartReply::PortStats(_) => PORT_STATS,
        MultipartReply::PortDesc(_) => PORT_DESC,
        MultipartReply::GroupDesc(_) => GROUP_DESC,
        MultipartReply::GroupStats(_) => GROUP_STATS,
        MultipartReply::MeterDesc(_) => METER_DESC,
        MultipartReply::MeterStats(_) => METER_STATS,
        MultipartReply::FlowMonitor(_) => FLOW_MONITOR,
        MultipartReply::Unknown(kind, _) => *kind,
    });
    out.put_u16(u16::from(more));
    out.zeros(4);
    match reply {
        MultipartReply::Desc(desc) => {
            let texts =
                [(&desc.mfr, 256), (&desc.hw, 256), (&desc.sw, 256), (&desc.serial, 32), (&desc.dp, 256)];
            texts.into_iter().for_each(|(text, len)| put_text(out, text, len));
            Ok(())
        }
        MultipartReply::FlowDesc(flows) => flows.iter().try_for_each(|entry| put_flow(out, entry)),
        MultipartReply::Aggregate(stats) => put_stats(out, stats),
        MultipartReply::FlowStats(flows) => flows.iter().try_for_each(|entry| put_flow_stats(out, entry)),
        MultipartReply::TableStats(tables) => {
            for table in tables {
                out.put_u8(table.table);
                out.zeros(3);
                out.put_u32(table.active);
                out.put_u64(table.lookups);
                out.put_u64(table.matched);
            }
            Ok(())
        }
        MultipartReply::TableDesc(tables) => {
            for table in tables {
                out.put_u16(8);
                out.put_u8(table.table);
                out.zeros(1);
                out.put_u32(table.config);
            }
            Ok(())
        }
        MultipartReply::TableFeatures(tables) => {
            for table in tables {
                out.put_u16(64);
                out.put_u8(table.table);
                out.zeros(5);
                put_text(out, &table.name, 32);
                out.zeros(20);
                out.put_u32(table.max_entries);
            }
            Ok(())
        }
        MultipartReply::PortStats(ports) => {
            ports.iter().for_each(|port| put_port_stats(out, port));
            Ok(())
        }
        MultipartReply::PortDesc(ports) => ports.iter().try_for_each(|port| put_port(out, port)),
        MultipartReply::GroupDesc(all) => all.iter().try_for_each(|group| groups::put_desc(out, group)),
        MultipartReply::GroupStats(all) => all.iter().try_for_each(|stats| put_group_stats(out, stats)),
        MultipartReply::MeterDesc(all) => all.iter().try_for_each(|meter| groups::put_meter(out, meter)),
        MultipartReply::MeterStats(all) => all.iter().try_for_each(|stats| put_meter_stats(out, stats)),
        MultipartReply::FlowMonitor(all) => {
            all.iter().try_for_each(|update| monitor::put_update(out, update))
        }
        MultipartReply::Unknown(_, body) => {
            out.extend_from_slice(body);
            Ok(())
        }
    }
}

fn put_text(out: &mut BytesMut, text: &str, len: usize) {
    let bytes = text.as_bytes();
    let used = bytes.len().min(len);
    out.extend_from_slice(bytes.get(..used).unwrap_or_default());
    out.zeros(len - used);
}

pub(super) fn read_reply(reader: &mut Reader) -> ReadResult<(bool, MultipartReply)> {
    let kind = reader.u16("multipart reply")?;
    let more = reader.u16("multipart reply")? & 1 != 0;
    reader.skip("multipart reply", 4)?;
    let reply = match kind {
        DESC => MultipartReply::Desc(SwitchDesc {
            mfr: reader.text("manufacturer", 256)?,
            hw: reader.text("hardware", 256)?,
            sw: reader.text("software", 256)?,
            serial: reader.text("serial number", 32)?,
            dp: reader.text("datapath", 256)?,
        }),
        FLOW_DESC => MultipartReply::FlowDesc(reader.all(read_flow)?),
        AGGREGATE => MultipartReply::Aggregate(read_stats(reader)?),
        FLOW_STATS => MultipartReply::FlowStats(reader.all(read_flow_stats)?),
        TABLE_STATS => MultipartReply::TableStats(reader.all(|reader| {
            let table = reader.u8("table stats")?;
            reader.skip("table stats", 3)?;
            Ok(TableStats {
                table,
                active: reader.u32("table stats")?,
                lookups: reader.u64("table stats")?,
                matched: reader.u64("table stats")?,
            })
        })?),
        TABLE_DESC => MultipartReply::TableDesc(reader.all(|reader| {
            let mut body = reader.sized("table", 8)?;
            let table = body.u8("table")?;
            body.skip("table", 1)?;
            Ok(TableDesc { table, config: body.u32("table")? })
        })?),
        TABLE_FEATURES => MultipartReply::TableFeatures(reader.all(|reader| {
            let mut body = reader.sized("table features", 64)?;
            let table = body.u8("table features")?;
            body.skip("table features", 5)?;
            let name = body.text("table name", 32)?;
            body.skip("table features", 20)?;
            Ok(TableFeatures { table, name, max_entries: body.u32("table features")? })
        })?),
        PORT_STATS => MultipartReply::PortStats(reader.all(read_port_stats)?),
        PORT_DESC => MultipartReply::PortDesc(reader.all(read_port)?),
        GROUP_DESC => MultipartReply::GroupDesc(reader.all(groups::read_desc)?),
        GROUP_STATS => MultipartReply::GroupStats(reader.all(read_group_stats)?),
        METER_DESC => MultipartReply::MeterDesc(reader.all(groups::read_meter)?),
        METER_STATS => MultipartReply::MeterStats(reader.all(read_meter_stats)?),
        FLOW_MONITOR => MultipartReply::FlowMonitor(reader.all(monitor::read_update)?),
        other => MultipartReply::Unknown(other, reader.rest()),
    };
    Ok((more, reply))
}

fn put_flow(out: &mut BytesMut, entry: &FlowEntry) -> WriteResult<()> {
    let (start, flow) = (out.len(), &entry.flow);
    out.put_u16(0);
    out.zeros(2);
    out.put_u8(flow.table);
    out.zeros(1);
    out.put_u16(flow.priority);
    out.put_u16(flow.idle_timeout);
    out.put_u16(flow.hard_timeout);
    out.put_u16(flow.flags.0);
    out.put_u16(flow.importance);
    out.put_u64(flow.cookie);
    put_match(out, &flow.matches)?;
    put_stats(out, &entry.stats)?;
    put_instructions(out, &flow.actions)?;
    out.patch("flow", start, start)
}

fn read_flow(reader: &mut Reader) -> ReadResult<FlowEntry> {
    let mut body = reader.sized("flow", 24)?;
    body.skip("flow", 2)?;
    let table = body.u8("flow")?;
    body.skip("flow", 1)?;
    let priority = body.u16("flow")?;
    let idle_timeout = body.u16("flow")?;
    let hard_timeout = body.u16("flow")?;
    let flags = FlowFlags(body.u16("flow")?);
    let importance = body.u16("flow")?;
    let cookie = body.u64("flow")?;
    let matches = read_match(&mut body)?;
    let stats = read_stats(&mut body)?;
    let actions = read_instructions(&mut body)?;
    let flow =
        Flow { table, priority, matches, cookie, idle_timeout, hard_timeout, importance, flags, actions };
    Ok(FlowEntry { flow, stats })
}

fn put_flow_stats(out: &mut BytesMut, entry: &FlowStatsEntry) -> WriteResult<()> {
    let start = out.len();
    out.put_u16(0);
    out.zeros(2);
    out.put_u8(entry.table);
    out.zeros(1);
    out.put_u16(entry.priority);
    put_match(out, &entry.matches)?;
    put_stats(out, &entry.stats)?;
    out.patch("flow stats", start, start)
}

fn read_flow_stats(reader: &mut Reader) -> ReadResult<FlowStatsEntry> {
    let mut body = reader.sized("flow stats", 8)?;
    body.skip("flow stats", 2)?;
    let table = body.u8("flow stats")?;
    body.skip("flow stats", 1)?;
    let priority = body.u16("flow stats")?;
    let matches = read_match(&mut body)?;
    Ok(FlowStatsEntry { table, priority, matches, stats: read_stats(&mut body)? })
}

/// `ofp_stats`: OXS fields of the basic class.
pub(super) fn put_stats(out: &mut BytesMut, stats: &FlowStats) -> WriteResult<()> {
    let start = out.len();
    out.put_u16(0);
    out.put_u16(0);
    let header = |out: &mut BytesMut, field: u8, len: u8| {
        out.put_u16(0x8002);
        out.put_u8(field << 1);
        out.put_u8(len);
    };
    for (field, time) in [(0, stats.duration), (1, stats.idle_time)] {
        if let Some((seconds, nanoseconds)) = time {
            header(out, field, 8);
            out.put_u32(seconds);
            out.put_u32(nanoseconds);
        }
    }
    if let Some(count) = stats.flow_count {
        header(out, 3, 4);
        out.put_u32(count);
    }
    for (field, count) in [(4, stats.packets), (5, stats.bytes)] {
        if let Some(count) = count {
            header(out, field, 8);
            out.put_u64(count);
        }
    }
    out.patch("stats", start + 2, start)?;
    out.pad8(start);
    Ok(())
}

pub(super) fn read_stats(reader: &mut Reader) -> ReadResult<FlowStats> {
    reader.skip("stats", 2)?;
    let length = usize::from(reader.u16("stats")?);
    if length < 4 {
        return reader.fail("stats", Problem::BadLength(length));
    }
    let mut body = reader.part("stats", length - 4)?;
    reader.pad(length.next_multiple_of(8) - length);
    let mut stats = FlowStats::default();
    while !body.is_empty() {
        let class = body.u16("stats field")?;
        let field = body.u8("stats field")? >> 1;
        let len = usize::from(body.u8("stats field")?);
        let mut value = body.part("stats field", len)?;
        match (class, field) {
            (0x8002, 0) => stats.duration = Some((value.u32("duration")?, value.u32("duration")?)),
            (0x8002, 1) => stats.idle_time = Some((value.u32("idle time")?, value.u32("idle time")?)),
            (0x8002, 3) => stats.flow_count = Some(value.u32("flow count")?),
            (0x8002, 4) => stats.packets = Some(value.u64("packet count")?),
            (0x8002, 5) => stats.bytes = Some(value.u64("byte count")?),
            _ => {}
        }
    }
    Ok(stats)
}

pub(super) fn put_port(out: &mut BytesMut, port: &PortDesc) -> WriteResult<()> {
    let start = out.len();
    out.put_u32(port.port_no.0);
    out.put_u16(0);
    out.zeros(2);
    out.put_slice(&port.hw_addr.0);
    out.zeros(2);
    put_text(out, &port.name, 16);
    out.put_u32(port.config);
    out.put_u32(port.state);
    out.property(0, |out| {
        out.zeros(4);
        for value in [port.curr, port.advertised, port.supported, port.peer, port.curr_speed, port.max_speed]
        {
            out.put_u32(value);
        }
        Ok(())
    })?;
    out.patch("port", start + 4, start)
}

pub(super) fn read_port(reader: &mut Reader) -> ReadResult<PortDesc> {
    let at = reader.clone();
    let port_no = PortNo(reader.u32("port")?);
    let length = usize::from(reader.u16("port")?);
    if length < 40 {
        return at.fail("port", Problem::BadLength(length));
    }
    let mut body = reader.part("port", length - 6)?;
    body.skip("port", 2)?;
    let hw_addr = body.mac("port address")?;
    body.skip("port", 2)?;
    let name = body.text("port name", 16)?;
    let config = body.u32("port")?;
    let state = body.u32("port")?;
    let mut port = PortDesc {
        port_no,
        hw_addr,
        name,
        config,
        state,
        curr_speed: 0,
        max_speed: 0,
        curr: 0,
        advertised: 0,
        supported: 0,
        peer: 0,
    };
    while !body.is_empty() {
        let (kind, mut value) = body.property("port property")?;
        if kind == 0 {
            value.skip("ethernet", 4)?;
            port.curr = value.u32("ethernet")?;
            port.advertised = value.u32("ethernet")?;
            port.supported = value.u32("ethernet")?;
            port.peer = value.u32("ethernet")?;
            port.curr_speed = value.u32("ethernet")?;
            port.max_speed = value.u32("ethernet")?;
        }
    }
    Ok(port)
}

fn put_port_stats(out: &mut BytesMut, port: &PortStats) {
    out.put_u16(80);
    out.zeros(2);
    out.put_u32(port.port_no.0);
    out.put_u32(port.duration.0);
    out.put_u32(port.duration.1);
    for count in [
        port.rx_packets,
        port.tx_packets,
        port.rx_bytes,
        port.tx_bytes,
        port.rx_dropped,
        port.tx_dropped,
        port.rx_errors,
        port.tx_errors,
    ] {
        out.put_u64(count);
    }
}

fn read_port_stats(reader: &mut Reader) -> ReadResult<PortStats> {
    let mut body = reader.sized("port stats", 80)?;
    body.skip("port stats", 2)?;
    Ok(PortStats {
        port_no: PortNo(body.u32("port stats")?),
        duration: (body.u32("port stats")?, body.u32("port stats")?),
        rx_packets: body.u64("port stats")?,
        tx_packets: body.u64("port stats")?,
        rx_bytes: body.u64("port stats")?,
        tx_bytes: body.u64("port stats")?,
        rx_dropped: body.u64("port stats")?,
        tx_dropped: body.u64("port stats")?,
        rx_errors: body.u64("port stats")?,
        tx_errors: body.u64("port stats")?,
    })
}

fn put_group_stats(out: &mut BytesMut, stats: &GroupStats) -> WriteResult<()> {
    let start = out.len();
    out.put_u16(0);
    out.zeros(2);
    out.put_u32(stats.id);
    out.put_u32(stats.ref_count);
    out.zeros(4);
    out.put_u64(stats.packets);
    out.put_u64(stats.bytes);
    out.put_u32(stats.duration.0);
    out.put_u32(stats.duration.1);
    for (packets, bytes) in &stats.buckets {
        out.put_u64(*packets);
        out.put_u64(*bytes);
    }
    out.patch("group stats", start, start)
}

fn read_counts(reader: &mut Reader) -> ReadResult<(u64, u64)> {
    Ok((reader.u64("counters")?, reader.u64("counters")?))
}

fn read_group_stats(reader: &mut Reader) -> ReadResult<GroupStats> {
    let mut body = reader.sized("group stats", 40)?;
    body.skip("group stats", 2)?;
    let id = body.u32("group stats")?;
    let ref_count = body.u32("group stats")?;
    body.skip("group stats", 4)?;
    let (packets, bytes) = read_counts(&mut body)?;
    let duration = (body.u32("group stats")?, body.u32("group stats")?);
    Ok(GroupStats { id, ref_count, packets, bytes, duration, buckets: body.all(read_counts)? })
}

fn put_meter_stats(out: &mut BytesMut, stats: &MeterStats) -> WriteResult<()> {
    let start = out.len();
    out.put_u32(stats.id);
    out.put_u16(0);
    out.zeros(6);
    out.put_u32(stats.flow_count);
    out.put_u64(stats.packets_in);
    out.put_u64(stats.bytes_in);
    out.put_u32(stats.duration.0);
    out.put_u32(stats.duration.1);
    for (packets, bytes) in &stats.bands {
        out.put_u64(*packets);
        out.put_u64(*bytes);
    }
    out.patch("meter stats", start + 4, start)
}

fn read_meter_stats(reader: &mut Reader) -> ReadResult<MeterStats> {
    let at = reader.clone();
    let id = reader.u32("meter stats")?;
    let length = usize::from(reader.u16("meter stats")?);
    if length < 40 {
        return at.fail("meter stats", Problem::BadLength(length));
    }
    let mut body = reader.part("meter stats", length - 6)?;
    body.skip("meter stats", 6)?;
    let flow_count = body.u32("meter stats")?;
    let (packets_in, bytes_in) = read_counts(&mut body)?;
    let duration = (body.u32("meter stats")?, body.u32("meter stats")?);
    Ok(MeterStats { id, flow_count, packets_in, bytes_in, duration, bands: body.all(read_counts)? })
}
