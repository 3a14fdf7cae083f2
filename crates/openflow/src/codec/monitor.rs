//! Flow monitors (TS-025 §7.3.5.17).

use bytes::{BufMut, BytesMut};

use super::actions::{put_instructions, read_instructions};
use super::oxm::{put_match, read_match};
use super::read::{Reader, Result as ReadResult};
use super::write::{Result as WriteResult, Write};
use crate::multipart::{FlowEvent, FlowMonitor, FlowUpdate, MonitorCommand};
use crate::{Flow, PortNo, Xid};

// OFPFME_*
const INITIAL: u16 = 0;
const ADDED: u16 = 1;
const REMOVED: u16 = 2;
const MODIFIED: u16 = 3;
const ABBREV: u16 = 4;
const PAUSED: u16 = 5;
const RESUMED: u16 = 6;

pub(super) fn put_request(out: &mut BytesMut, request: &FlowMonitor) -> WriteResult<()> {
    out.put_u32(request.id);
    out.put_u32(request.out_port.map_or(u32::MAX, |port| port.0));
    out.put_u32(request.out_group.unwrap_or(u32::MAX));
    out.put_u16(request.flags);
    out.put_u8(request.table.unwrap_or(0xff));
    out.put_u8(match request.command {
        MonitorCommand::Add => 0,
        MonitorCommand::Modify => 1,
        MonitorCommand::Delete => 2,
        MonitorCommand::Other(number) => number,
    });
    put_match(out, &request.matches)
}

pub(super) fn read_request(reader: &mut Reader) -> ReadResult<FlowMonitor> {
    const WHAT: &str = "flow monitor";
    Ok(FlowMonitor {
        id: reader.u32(WHAT)?,
        out_port: Some(PortNo(reader.u32(WHAT)?)).filter(|port| *port != PortNo::ANY),
        out_group: Some(reader.u32(WHAT)?).filter(|group| *group != u32::MAX),
        flags: reader.u16(WHAT)?,
        table: Some(reader.u8(WHAT)?).filter(|table| *table != 0xff),
        command: match reader.u8(WHAT)? {
            0 => MonitorCommand::Add,
            1 => MonitorCommand::Modify,
            2 => MonitorCommand::Delete,
            other => MonitorCommand::Other(other),
        },
        matches: read_match(reader)?,
    })
}

pub(super) fn put_update(out: &mut BytesMut, update: &FlowUpdate) -> WriteResult<()> {
    let start = out.len();
    out.put_u16(0);
    match update {
        FlowUpdate::Flow { event, reason, flow } => {
            out.put_u16(match event {
                FlowEvent::Initial => INITIAL,
                FlowEvent::Added => ADDED,
                FlowEvent::Removed => REMOVED,
                FlowEvent::Modified => MODIFIED,
            });
            out.put_u8(flow.table);
            out.put_u8(*reason);
            out.put_u16(flow.idle_timeout);
            out.put_u16(flow.hard_timeout);
            out.put_u16(flow.priority);
            out.zeros(4);
            out.put_u64(flow.cookie);
            put_match(out, &flow.matches)?;
            put_instructions(out, &flow.actions)?;
        }
        FlowUpdate::Abbreviated(xid) => {
            out.put_u16(ABBREV);
            out.put_u32(xid.0);
        }
        FlowUpdate::Paused => {
            out.put_u16(PAUSED);
            out.zeros(4);
        }
        FlowUpdate::Resumed => {
            out.put_u16(RESUMED);
            out.zeros(4);
        }
        FlowUpdate::Unknown(event, body) => {
            out.put_u16(*event);
            out.extend_from_slice(body);
        }
    }
    out.patch("flow update", start, start)
}

pub(super) fn read_update(reader: &mut Reader) -> ReadResult<FlowUpdate> {
    const WHAT: &str = "flow update";
    let mut body = reader.sized(WHAT, 4)?;
    let event = match body.u16(WHAT)? {
        INITIAL => FlowEvent::Initial,
        ADDED => FlowEvent::Added,
        REMOVED => FlowEvent::Removed,
        MODIFIED => FlowEvent::Modified,
        ABBREV => return Ok(FlowUpdate::Abbreviated(Xid(body.u32(WHAT)?))),
        PAUSED => return Ok(FlowUpdate::Paused),
        RESUMED => return Ok(FlowUpdate::Resumed),
        other => return Ok(FlowUpdate::Unknown(other, body.rest())),
    };
    let table = body.u8(WHAT)?;
    let reason = body.u8(WHAT)?;
    let idle_timeout = body.u16(WHAT)?;
    let hard_timeout = body.u16(WHAT)?;
    let priority = body.u16(WHAT)?;
    body.skip(WHAT, 4)?;
    let cookie = body.u64(WHAT)?;
    let matches = read_match(&mut body)?;
    let actions = read_instructions(&mut body)?;
    let flow =
        Flow { cookie, idle_timeout, hard_timeout, actions, ..Flow::new(table, priority).matching(matches) };
    Ok(FlowUpdate::Flow { event, reason, flow })
}
