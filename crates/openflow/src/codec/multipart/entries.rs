//! What the lists of multipart replies are made of.

use bytes::{BufMut, BytesMut};

use super::put_text;
use crate::codec::actions::{put_instructions, read_instructions};
use crate::codec::oxm::{put_match, read_match};
use crate::codec::read::{Reader, Result as ReadResult};
use crate::codec::write::{Result as WriteResult, Write};
use crate::multipart::{FlowEntry, FlowStats, FlowStatsEntry, GroupStats, MeterStats, PortStats};
use crate::{Flow, FlowFlags, PortDesc, PortNo, Problem};

pub(super) fn put_flow(out: &mut BytesMut, entry: &FlowEntry) -> WriteResult<()> {
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

pub(super) fn read_flow(reader: &mut Reader) -> ReadResult<FlowEntry> {
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

pub(super) fn put_flow_stats(out: &mut BytesMut, entry: &FlowStatsEntry) -> WriteResult<()> {
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

pub(super) fn read_flow_stats(reader: &mut Reader) -> ReadResult<FlowStatsEntry> {
    let mut body = reader.sized("flow stats", 8)?;
    body.skip("flow stats", 2)?;
    let table = body.u8("flow stats")?;
    body.skip("flow stats", 1)?;
    let priority = body.u16("flow stats")?;
    let matches = read_match(&mut body)?;
    Ok(FlowStatsEntry { table, priority, matches, stats: read_stats(&mut body)? })
}

/// `ofp_stats`: OXS fields of the basic class.
pub(in crate::codec) fn put_stats(out: &mut BytesMut, stats: &FlowStats) -> WriteResult<()> {
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

pub(in crate::codec) fn read_stats(reader: &mut Reader) -> ReadResult<FlowStats> {
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

pub(in crate::codec) fn put_port(out: &mut BytesMut, port: &PortDesc) -> WriteResult<()> {
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

pub(in crate::codec) fn read_port(reader: &mut Reader) -> ReadResult<PortDesc> {
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

pub(super) fn put_port_stats(out: &mut BytesMut, port: &PortStats) {
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

pub(super) fn read_port_stats(reader: &mut Reader) -> ReadResult<PortStats> {
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

pub(super) fn put_group_stats(out: &mut BytesMut, stats: &GroupStats) -> WriteResult<()> {
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

pub(super) fn read_counts(reader: &mut Reader) -> ReadResult<(u64, u64)> {
    Ok((reader.u64("counters")?, reader.u64("counters")?))
}

pub(super) fn read_group_stats(reader: &mut Reader) -> ReadResult<GroupStats> {
    let mut body = reader.sized("group stats", 40)?;
    body.skip("group stats", 2)?;
    let id = body.u32("group stats")?;
    let ref_count = body.u32("group stats")?;
    body.skip("group stats", 4)?;
    let (packets, bytes) = read_counts(&mut body)?;
    let duration = (body.u32("group stats")?, body.u32("group stats")?);
    Ok(GroupStats { id, ref_count, packets, bytes, duration, buckets: body.all(read_counts)? })
}

pub(super) fn put_meter_stats(out: &mut BytesMut, stats: &MeterStats) -> WriteResult<()> {
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

pub(super) fn read_meter_stats(reader: &mut Reader) -> ReadResult<MeterStats> {
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
