//! Multipart requests and replies (TS-025 §7.3.5).

mod entries;

use bytes::{BufMut, BytesMut};

use self::entries::{
    put_flow, put_flow_stats, put_group_stats, put_meter_stats, put_port_stats, read_flow, read_flow_stats,
    read_group_stats, read_meter_stats, read_port_stats,
};
pub(super) use self::entries::{put_port, put_stats, read_port, read_stats};
use super::groups;
use super::monitor;
use super::oxm::{put_match, read_match};
use super::read::{Reader, Result as ReadResult};
use super::write::{Result as WriteResult, Write};
use crate::PortNo;
use crate::multipart::{
    FlowFilter, MeterFeatures, MultipartReply, MultipartRequest, SwitchDesc, TableDesc, TableFeatures,
    TableStats,
};

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
        MultipartReply::MeterFeatures(_) => METER_FEATURES,
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
        MultipartReply::MeterFeatures(features) => {
            out.put_u32(features.max_meters);
            out.put_u32(features.band_types);
            out.put_u32(features.capabilities);
            out.put_u8(features.max_bands);
            out.put_u8(features.max_color);
            out.zeros(2);
            Ok(())
        }
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
        METER_FEATURES => {
            let features = MeterFeatures {
                max_meters: reader.u32("meter features")?,
                band_types: reader.u32("meter features")?,
                capabilities: reader.u32("meter features")?,
                max_bands: reader.u8("meter features")?,
                max_color: reader.u8("meter features")?,
            };
            // OpenFlow 1.5 has more to say, Open vSwitch has not.
            reader.rest();
            MultipartReply::MeterFeatures(features)
        }
        FLOW_MONITOR => MultipartReply::FlowMonitor(reader.all(monitor::read_update)?),
        other => MultipartReply::Unknown(other, reader.rest()),
    };
    Ok((more, reply))
}
