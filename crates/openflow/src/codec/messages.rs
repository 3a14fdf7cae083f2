//! Messages other than multipart ones.

use bytes::{BufMut, BytesMut};

use super::actions::{put_actions, put_instructions, read_actions, read_instructions};
use super::oxm::{self, put_match, read_match};
use super::read::{Reader, Result as ReadResult};
use super::write::{Result as WriteResult, Write};
use super::{HEADER, MAX_DEPTH, NICIRA, VERSION, groups, multipart};
use crate::{
    AsyncConfig, BundleControl, BundleCtrlType, BundleFlags, EncodeError, ErrorMsg, Features, Flow,
    FlowCommand, FlowFlags, FlowMod, FlowRemoved, FlowRemovedReason, Message, PacketIn, PacketIn2,
    PacketInFormat, PacketInReason, PacketOut, PortNo, PortReason, Problem, Role, RoleMsg, SwitchConfig,
    TlvMapping, TlvTable, TlvTableMod, Xid,
};

// OFPT_*
pub(super) const HELLO: u8 = 0;
pub(super) const ERROR: u8 = 1;
const ECHO_REQUEST: u8 = 2;
const ECHO_REPLY: u8 = 3;
const EXPERIMENTER: u8 = 4;
const FEATURES_REQUEST: u8 = 5;
const FEATURES_REPLY: u8 = 6;
const GET_CONFIG_REQUEST: u8 = 7;
const GET_CONFIG_REPLY: u8 = 8;
const SET_CONFIG: u8 = 9;
const PACKET_IN: u8 = 10;
const FLOW_REMOVED: u8 = 11;
const PORT_STATUS: u8 = 12;
const PACKET_OUT: u8 = 13;
const FLOW_MOD: u8 = 14;
const GROUP_MOD: u8 = 15;
const MULTIPART_REQUEST: u8 = 18;
const MULTIPART_REPLY: u8 = 19;
const BARRIER_REQUEST: u8 = 20;
const BARRIER_REPLY: u8 = 21;
const ROLE_REQUEST: u8 = 24;
const ROLE_REPLY: u8 = 25;
const SET_ASYNC: u8 = 28;
const METER_MOD: u8 = 29;
const BUNDLE_CONTROL: u8 = 33;
const BUNDLE_ADD: u8 = 34;

// NXT_*
const SET_PACKET_IN_FORMAT: u32 = 16;
const SET_CONTROLLER_ID: u32 = 20;
const TLV_TABLE_MOD: u32 = 24;
const TLV_TABLE_REQUEST: u32 = 25;
const TLV_TABLE_REPLY: u32 = 26;
const PACKET_IN2: u32 = 30;
const RESUME: u32 = 28;

/// `OFP_NO_BUFFER`.
const NO_BUFFER: u32 = u32::MAX;

/// `OFPET_EXPERIMENTER`.
const ET_EXPERIMENTER: u16 = 0xffff;

pub(super) fn encode(message: &Message, xid: Xid, out: &mut BytesMut) -> Result<(), EncodeError> {
    let start = out.len();
    out.put_u8(VERSION);
    out.put_u8(kind(message));
    out.put_u16(0);
    out.put_u32(xid.0);
    put_body(message, xid, out)?;
    out.patch("message", start + 2, start)
}

fn kind(message: &Message) -> u8 {
    match message {
        Message::Hello { .. } => HELLO,
        Message::Error(_) => ERROR,
        Message::EchoRequest(_) => ECHO_REQUEST,
        Message::EchoReply(_) => ECHO_REPLY,
        Message::FeaturesRequest => FEATURES_REQUEST,
        Message::FeaturesReply(_) => FEATURES_REPLY,
        Message::GetConfigRequest => GET_CONFIG_REQUEST,
        Message::GetConfigReply(_) => GET_CONFIG_REPLY,
        Message::SetConfig(_) => SET_CONFIG,
        Message::PacketIn(_) => PACKET_IN,
        Message::FlowRemoved(_) => FLOW_REMOVED,
        Message::PortStatus { .. } => PORT_STATUS,
        Message::PacketOut(_) => PACKET_OUT,
        Message::FlowMod(_) => FLOW_MOD,
        Message::GroupMod(_) => GROUP_MOD,
        Message::MeterMod { .. } => METER_MOD,
        Message::MultipartRequest(_) => MULTIPART_REQUEST,
        Message::MultipartReply { .. } => MULTIPART_REPLY,
        Message::BarrierRequest => BARRIER_REQUEST,
        Message::BarrierReply => BARRIER_REPLY,
        Message::RoleRequest(_) => ROLE_REQUEST,
        Message::RoleReply(_) => ROLE_REPLY,
        Message::SetAsync(_) => SET_ASYNC,
        Message::BundleControl(_) => BUNDLE_CONTROL,
        Message::BundleAdd { .. } => BUNDLE_ADD,
        Message::PacketIn2(_)
        | Message::NxResume(_)
        | Message::NxSetPacketInFormat(_)
        | Message::NxSetControllerId(_)
        | Message::NxTlvTableMod(_)
        | Message::NxTlvTableRequest
        | Message::NxTlvTableReply(_) => EXPERIMENTER,
        Message::Unknown { kind, .. } => *kind,
    }
}

fn put_body(message: &Message, xid: Xid, out: &mut BytesMut) -> WriteResult<()> {
    match message {
        Message::Hello { versions } => {
            out.put_u16(1); // OFPHET_VERSIONBITMAP
            out.put_u16(8);
            out.put_u32(*versions);
        }
        Message::Error(error) => put_error(out, error),
        Message::EchoRequest(data) | Message::EchoReply(data) => out.extend_from_slice(data),
        Message::FeaturesRequest
        | Message::GetConfigRequest
        | Message::BarrierRequest
        | Message::BarrierReply => {}
        Message::FeaturesReply(features) => {
            out.put_u64(features.datapath_id);
            out.put_u32(features.n_buffers);
            out.put_u8(features.n_tables);
            out.put_u8(features.auxiliary_id);
            out.zeros(2);
            out.put_u32(features.capabilities);
            out.put_u32(0);
        }
        Message::GetConfigReply(config) | Message::SetConfig(config) => {
            out.put_u16(config.flags);
            out.put_u16(config.miss_send_len);
        }
        Message::PacketIn(packet) => {
            out.put_u32(packet.buffer_id.unwrap_or(NO_BUFFER));
            out.put_u16(packet.full_len);
            out.put_u8(packet.reason.number());
            out.put_u8(packet.table);
            out.put_u64(packet.cookie);
            put_match(out, &packet.metadata)?;
            out.zeros(2);
            out.extend_from_slice(&packet.packet);
        }
        Message::FlowRemoved(removed) => put_flow_removed(out, removed)?,
        Message::PortStatus { reason, port } => {
            out.put_u8(match reason {
                PortReason::Add => 0,
                PortReason::Delete => 1,
                PortReason::Modify => 2,
            });
            out.zeros(7);
            multipart::put_port(out, port)?;
        }
        Message::PacketOut(packet) => put_packet_out(out, packet)?,
        Message::FlowMod(flow_mod) => put_flow_mod(out, flow_mod)?,
        Message::GroupMod(group_mod) => groups::put_mod(out, group_mod)?,
        Message::MeterMod { command, meter } => groups::put_meter_mod(out, *command, meter),
        Message::MultipartRequest(request) => multipart::put_request(out, request)?,
        Message::MultipartReply { more, body } => multipart::put_reply(out, *more, body)?,
        Message::RoleRequest(role) | Message::RoleReply(role) => put_role(out, *role),
        Message::SetAsync(config) => {
            for (kind, mask) in &config.masks {
                out.property(*kind, |out| {
                    out.put_u32(*mask);
                    Ok(())
                })?;
            }
        }
        Message::BundleControl(control) => {
            out.put_u32(control.bundle_id);
            out.put_u16(bundle_type(control.kind));
            out.put_u16(control.flags.0);
        }
        Message::BundleAdd { bundle_id, flags, message } => {
            out.put_u32(*bundle_id);
            out.zeros(2);
            out.put_u16(flags.0);
            // The inner message has to carry the xid of the outer one (TS-025 §7.3.9.6).
            encode(message, xid, out)?;
        }
        Message::PacketIn2(packet) => {
            put_nicira(out, PACKET_IN2);
            put_packet_in2(out, packet)?;
        }
        Message::NxResume(packet) => {
            put_nicira(out, RESUME);
            put_packet_in2(out, packet)?;
        }
        Message::NxSetPacketInFormat(format) => {
            put_nicira(out, SET_PACKET_IN_FORMAT);
            out.put_u32(match format {
                PacketInFormat::Standard => 0,
                PacketInFormat::Nxt => 1,
                PacketInFormat::Nxt2 => 2,
            });
        }
        Message::NxSetControllerId(id) => {
            put_nicira(out, SET_CONTROLLER_ID);
            out.zeros(6);
            out.put_u16(*id);
        }
        Message::NxTlvTableMod(table) => {
            put_nicira(out, TLV_TABLE_MOD);
            out.put_u16(table.command);
            out.zeros(6);
            put_mappings(out, &table.mappings);
        }
        Message::NxTlvTableRequest => put_nicira(out, TLV_TABLE_REQUEST),
        Message::NxTlvTableReply(table) => {
            put_nicira(out, TLV_TABLE_REPLY);
            out.put_u32(table.max_option_space);
            out.put_u16(table.max_fields);
            out.zeros(10);
            put_mappings(out, &table.mappings);
        }
        Message::Unknown { body, .. } => out.extend_from_slice(body),
    }
    Ok(())
}

fn put_nicira(out: &mut BytesMut, subtype: u32) {
    out.put_u32(NICIRA);
    out.put_u32(subtype);
}

fn put_error(out: &mut BytesMut, error: &ErrorMsg) {
    let kind = if error.experimenter == 0 { error.kind } else { ET_EXPERIMENTER };
    out.put_u16(kind);
    out.put_u16(error.code);
    if kind == ET_EXPERIMENTER {
        out.put_u32(error.experimenter);
    }
    out.extend_from_slice(&error.data);
}

fn put_flow_mod(out: &mut BytesMut, message: &FlowMod) -> WriteResult<()> {
    let flow = &message.flow;
    out.put_u64(flow.cookie);
    out.put_u64(message.cookie_mask);
    out.put_u8(flow.table);
    out.put_u8(match message.command {
        FlowCommand::Add => 0,
        FlowCommand::Modify => 1,
        FlowCommand::ModifyStrict => 2,
        FlowCommand::Delete => 3,
        FlowCommand::DeleteStrict => 4,
    });
    out.put_u16(flow.idle_timeout);
    out.put_u16(flow.hard_timeout);
    out.put_u16(flow.priority);
    out.put_u32(message.buffer_id.unwrap_or(NO_BUFFER));
    out.put_u32(message.out_port.map_or(u32::MAX, |port| port.0));
    out.put_u32(message.out_group.unwrap_or(u32::MAX));
    out.put_u16(flow.flags.0);
    out.put_u16(flow.importance);
    put_match(out, &flow.matches)?;
    put_instructions(out, &flow.actions)
}

fn put_flow_removed(out: &mut BytesMut, removed: &FlowRemoved) -> WriteResult<()> {
    out.put_u8(removed.table);
    out.put_u8(match removed.reason {
        FlowRemovedReason::IdleTimeout => 0,
        FlowRemovedReason::HardTimeout => 1,
        FlowRemovedReason::Delete => 2,
        FlowRemovedReason::GroupDelete => 3,
        FlowRemovedReason::MeterDelete => 4,
        FlowRemovedReason::Eviction => 5,
        FlowRemovedReason::Other(number) => number,
    });
    out.put_u16(removed.priority);
    out.put_u16(removed.idle_timeout);
    out.put_u16(removed.hard_timeout);
    out.put_u64(removed.cookie);
    put_match(out, &removed.matches)?;
    multipart::put_stats(out, &removed.stats)
}

fn put_packet_out(out: &mut BytesMut, packet: &PacketOut) -> WriteResult<()> {
    out.put_u32(packet.buffer_id.unwrap_or(NO_BUFFER));
    let length_at = out.len();
    out.put_u16(0);
    out.zeros(2);
    put_match(out, &packet.matches)?;
    let actions = out.len();
    put_actions(out, &packet.actions)?;
    out.patch("packet-out actions", length_at, actions)?;
    out.extend_from_slice(&packet.packet);
    Ok(())
}

fn put_role(out: &mut BytesMut, role: RoleMsg) {
    out.put_u32(match role.role {
        Role::NoChange => 0,
        Role::Equal => 1,
        Role::Primary => 2,
        Role::Secondary => 3,
    });
    out.put_u32(u32::MAX); // short_id: undefined
    out.put_u64(role.generation_id);
}

fn bundle_type(kind: BundleCtrlType) -> u16 {
    match kind {
        BundleCtrlType::OpenRequest => 0,
        BundleCtrlType::OpenReply => 1,
        BundleCtrlType::CloseRequest => 2,
        BundleCtrlType::CloseReply => 3,
        BundleCtrlType::CommitRequest => 4,
        BundleCtrlType::CommitReply => 5,
        BundleCtrlType::DiscardRequest => 6,
        BundleCtrlType::DiscardReply => 7,
    }
}

/// Properties `NXPINT_*`.
fn put_packet_in2(out: &mut BytesMut, packet: &PacketIn2) -> WriteResult<()> {
    let put_bytes = |out: &mut BytesMut, kind, bytes: &[u8]| {
        out.property(kind, |out| {
            out.extend_from_slice(bytes);
            Ok(())
        })
    };
    put_bytes(out, 0, &packet.packet)?;
    for (kind, value) in [(1, packet.full_len), (2, packet.buffer_id)] {
        if let Some(value) = value {
            put_bytes(out, kind, &value.to_be_bytes())?;
        }
    }
    if let Some(table) = packet.table {
        put_bytes(out, 3, &[table])?;
    }
    if let Some(cookie) = packet.cookie {
        out.property(4, |out| {
            out.zeros(4);
            out.put_u64(cookie);
            Ok(())
        })?;
    }
    if let Some(reason) = packet.reason {
        put_bytes(out, 5, &[reason.number()])?;
    }
    out.property(6, |out| {
        oxm::put_fields(out, &packet.metadata);
        Ok(())
    })?;
    if !packet.userdata.is_empty() {
        put_bytes(out, 7, &packet.userdata)?;
    }
    if let Some(continuation) = &packet.continuation {
        put_bytes(out, 8, continuation)?;
    }
    Ok(())
}

fn put_mappings(out: &mut BytesMut, mappings: &[TlvMapping]) {
    for mapping in mappings {
        out.put_u16(mapping.option_class);
        out.put_u8(mapping.option_type);
        out.put_u8(mapping.option_len);
        out.put_u16(mapping.index);
        out.zeros(2);
    }
}

pub(super) fn decode(kind: u8, reader: &mut Reader) -> ReadResult<Message> {
    decode_nested(kind, reader, 0)
}

fn decode_nested(kind: u8, reader: &mut Reader, depth: usize) -> ReadResult<Message> {
    Ok(match kind {
        HELLO => read_hello(reader)?,
        ERROR => Message::Error(read_error(reader)?),
        ECHO_REQUEST => Message::EchoRequest(reader.rest()),
        ECHO_REPLY => Message::EchoReply(reader.rest()),
        EXPERIMENTER => read_experimenter(reader)?,
        FEATURES_REQUEST => Message::FeaturesRequest,
        FEATURES_REPLY => {
            let datapath_id = reader.u64("features reply")?;
            let n_buffers = reader.u32("features reply")?;
            let n_tables = reader.u8("features reply")?;
            let auxiliary_id = reader.u8("features reply")?;
            reader.skip("features reply", 2)?;
            let capabilities = reader.u32("features reply")?;
            Message::FeaturesReply(Features { datapath_id, n_buffers, n_tables, auxiliary_id, capabilities })
        }
        GET_CONFIG_REQUEST => Message::GetConfigRequest,
        GET_CONFIG_REPLY => Message::GetConfigReply(read_config(reader)?),
        SET_CONFIG => Message::SetConfig(read_config(reader)?),
        PACKET_IN => {
            let buffer_id = Some(reader.u32("packet-in")?).filter(|id| *id != NO_BUFFER);
            let full_len = reader.u16("packet-in")?;
            let reason = PacketInReason::from_number(reader.u8("packet-in")?);
            let table = reader.u8("packet-in")?;
            let cookie = reader.u64("packet-in")?;
            let metadata = read_match(reader)?;
            reader.skip("packet-in", 2)?;
            let packet = reader.rest();
            Message::PacketIn(PacketIn { buffer_id, full_len, reason, table, cookie, metadata, packet })
        }
        FLOW_REMOVED => Message::FlowRemoved(read_flow_removed(reader)?),
        PORT_STATUS => {
            let reason = match reader.u8("port status")? {
                0 => PortReason::Add,
                1 => PortReason::Delete,
                2 => PortReason::Modify,
                other => return reader.fail("port status", Problem::BadValue(other.into())),
            };
            reader.skip("port status", 7)?;
            Message::PortStatus { reason, port: multipart::read_port(reader)? }
        }
        PACKET_OUT => {
            let buffer_id = Some(reader.u32("packet-out")?).filter(|id| *id != NO_BUFFER);
            let length = usize::from(reader.u16("packet-out")?);
            reader.skip("packet-out", 2)?;
            let matches = read_match(reader)?;
            let actions = read_actions(&mut reader.part("packet-out actions", length)?, 0)?;
            Message::PacketOut(PacketOut { buffer_id, matches, actions, packet: reader.rest() })
        }
        FLOW_MOD => Message::FlowMod(read_flow_mod(reader)?),
        GROUP_MOD => Message::GroupMod(groups::read_mod(reader)?),
        METER_MOD => {
            let (command, meter) = groups::read_meter_mod(reader)?;
            Message::MeterMod { command, meter }
        }
        MULTIPART_REQUEST => Message::MultipartRequest(multipart::read_request(reader)?),
        MULTIPART_REPLY => {
            let (more, body) = multipart::read_reply(reader)?;
            Message::MultipartReply { more, body }
        }
        BARRIER_REQUEST => Message::BarrierRequest,
        BARRIER_REPLY => Message::BarrierReply,
        ROLE_REQUEST => Message::RoleRequest(read_role(reader)?),
        ROLE_REPLY => Message::RoleReply(read_role(reader)?),
        SET_ASYNC => {
            let masks = reader.all(|reader| {
                let (kind, mut value) = reader.property("set-async")?;
                Ok((kind, value.u32("set-async")?))
            })?;
            Message::SetAsync(AsyncConfig { masks })
        }
        BUNDLE_CONTROL => {
            let bundle_id = reader.u32("bundle control")?;
            let kind = match reader.u16("bundle control")? {
                0 => BundleCtrlType::OpenRequest,
                1 => BundleCtrlType::OpenReply,
                2 => BundleCtrlType::CloseRequest,
                3 => BundleCtrlType::CloseReply,
                4 => BundleCtrlType::CommitRequest,
                5 => BundleCtrlType::CommitReply,
                6 => BundleCtrlType::DiscardRequest,
                7 => BundleCtrlType::DiscardReply,
                other => return reader.fail("bundle control", Problem::BadValue(other.into())),
            };
            let flags = BundleFlags(reader.u16("bundle control")?);
            Message::BundleControl(BundleControl { bundle_id, kind, flags })
        }
        BUNDLE_ADD => read_bundle_add(reader, depth)?,
        kind => Message::Unknown { kind, body: reader.rest() },
    })
}

fn read_hello(reader: &mut Reader) -> ReadResult<Message> {
    // A peer without a bitmap speaks what its header says, and everything before; ours has a bitmap.
    let mut versions = 0;
    while !reader.is_empty() {
        let (kind, mut value) = reader.property("hello element")?;
        if kind == 1 {
            versions = value.u32("version bitmap")?;
        }
    }
    Ok(Message::Hello { versions })
}

fn read_error(reader: &mut Reader) -> ReadResult<ErrorMsg> {
    let kind = reader.u16("error")?;
    let code = reader.u16("error")?;
    let experimenter = if kind == ET_EXPERIMENTER { reader.u32("experimenter error")? } else { 0 };
    Ok(ErrorMsg { experimenter, kind, code, data: reader.rest() })
}

fn read_experimenter(reader: &mut Reader) -> ReadResult<Message> {
    let mut whole = reader.clone();
    let experimenter = reader.u32("experimenter message")?;
    let subtype = reader.u32("experimenter message")?;
    if experimenter != NICIRA {
        return Ok(Message::Unknown { kind: EXPERIMENTER, body: whole.rest() });
    }
    Ok(match subtype {
        PACKET_IN2 => Message::PacketIn2(read_packet_in2(reader)?),
        RESUME => Message::NxResume(read_packet_in2(reader)?),
        SET_PACKET_IN_FORMAT => Message::NxSetPacketInFormat(match reader.u32("packet-in format")? {
            0 => PacketInFormat::Standard,
            1 => PacketInFormat::Nxt,
            2 => PacketInFormat::Nxt2,
            other => return reader.fail("packet-in format", Problem::BadValue(other.into())),
        }),
        SET_CONTROLLER_ID => {
            reader.skip("controller id", 6)?;
            Message::NxSetControllerId(reader.u16("controller id")?)
        }
        TLV_TABLE_MOD => {
            let command = reader.u16("tlv table mod")?;
            reader.skip("tlv table mod", 6)?;
            Message::NxTlvTableMod(TlvTableMod { command, mappings: reader.all(read_mapping)? })
        }
        TLV_TABLE_REQUEST => Message::NxTlvTableRequest,
        TLV_TABLE_REPLY => {
            let max_option_space = reader.u32("tlv table")?;
            let max_fields = reader.u16("tlv table")?;
            reader.skip("tlv table", 10)?;
            let mappings = reader.all(read_mapping)?;
            Message::NxTlvTableReply(TlvTable { max_option_space, max_fields, mappings })
        }
        _ => Message::Unknown { kind: EXPERIMENTER, body: whole.rest() },
    })
}

fn read_mapping(reader: &mut Reader) -> ReadResult<TlvMapping> {
    let option_class = reader.u16("tlv mapping")?;
    let option_type = reader.u8("tlv mapping")?;
    let option_len = reader.u8("tlv mapping")?;
    let index = reader.u16("tlv mapping")?;
    reader.skip("tlv mapping", 2)?;
    Ok(TlvMapping { option_class, option_type, option_len, index })
}

fn read_packet_in2(reader: &mut Reader) -> ReadResult<PacketIn2> {
    let mut packet = PacketIn2::default();
    while !reader.is_empty() {
        let (kind, mut value) = reader.property("packet-in property")?;
        match kind {
            0 => packet.packet = value.rest(),
            1 => packet.full_len = Some(value.u32("full length")?),
            2 => packet.buffer_id = Some(value.u32("buffer id")?),
            3 => packet.table = Some(value.u8("table")?),
            4 => {
                value.skip("cookie", 4)?;
                packet.cookie = Some(value.u64("cookie")?);
            }
            5 => packet.reason = Some(PacketInReason::from_number(value.u8("reason")?)),
            6 => packet.metadata = oxm::fields(&mut value)?,
            7 => packet.userdata = value.rest(),
            8 => packet.continuation = Some(value.rest()),
            // The protocol adds properties as it grows.
            _ => {}
        }
    }
    Ok(packet)
}

fn read_config(reader: &mut Reader) -> ReadResult<SwitchConfig> {
    Ok(SwitchConfig { flags: reader.u16("switch config")?, miss_send_len: reader.u16("switch config")? })
}

fn read_role(reader: &mut Reader) -> ReadResult<RoleMsg> {
    let role = match reader.u32("role")? {
        0 => Role::NoChange,
        1 => Role::Equal,
        2 => Role::Primary,
        3 => Role::Secondary,
        other => return reader.fail("role", Problem::BadValue(other.into())),
    };
    reader.skip("role", 4)?;
    Ok(RoleMsg { role, generation_id: reader.u64("role")? })
}

fn read_flow_mod(reader: &mut Reader) -> ReadResult<FlowMod> {
    let cookie = reader.u64("flow-mod")?;
    let cookie_mask = reader.u64("flow-mod")?;
    let table = reader.u8("flow-mod")?;
    let command = match reader.u8("flow-mod")? {
        0 => FlowCommand::Add,
        1 => FlowCommand::Modify,
        2 => FlowCommand::ModifyStrict,
        3 => FlowCommand::Delete,
        4 => FlowCommand::DeleteStrict,
        other => return reader.fail("flow-mod", Problem::BadValue(other.into())),
    };
    let idle_timeout = reader.u16("flow-mod")?;
    let hard_timeout = reader.u16("flow-mod")?;
    let priority = reader.u16("flow-mod")?;
    let buffer_id = Some(reader.u32("flow-mod")?).filter(|id| *id != NO_BUFFER);
    let out_port = Some(PortNo(reader.u32("flow-mod")?)).filter(|port| *port != PortNo::ANY);
    let out_group = Some(reader.u32("flow-mod")?).filter(|group| *group != u32::MAX);
    let flags = FlowFlags(reader.u16("flow-mod")?);
    let importance = reader.u16("flow-mod")?;
    let matches = read_match(reader)?;
    let actions = read_instructions(reader)?;
    let flow =
        Flow { table, priority, matches, cookie, idle_timeout, hard_timeout, importance, flags, actions };
    Ok(FlowMod { command, flow, cookie_mask, out_port, out_group, buffer_id })
}

fn read_flow_removed(reader: &mut Reader) -> ReadResult<FlowRemoved> {
    let table = reader.u8("flow removed")?;
    let reason = match reader.u8("flow removed")? {
        0 => FlowRemovedReason::IdleTimeout,
        1 => FlowRemovedReason::HardTimeout,
        2 => FlowRemovedReason::Delete,
        3 => FlowRemovedReason::GroupDelete,
        4 => FlowRemovedReason::MeterDelete,
        5 => FlowRemovedReason::Eviction,
        other => FlowRemovedReason::Other(other),
    };
    let priority = reader.u16("flow removed")?;
    let idle_timeout = reader.u16("flow removed")?;
    let hard_timeout = reader.u16("flow removed")?;
    let cookie = reader.u64("flow removed")?;
    let matches = read_match(reader)?;
    let stats = multipart::read_stats(reader)?;
    Ok(FlowRemoved { table, priority, matches, cookie, reason, idle_timeout, hard_timeout, stats })
}

fn read_bundle_add(reader: &mut Reader, depth: usize) -> ReadResult<Message> {
    if depth > MAX_DEPTH {
        return reader.fail("bundle", Problem::TooDeep);
    }
    let bundle_id = reader.u32("bundle add")?;
    reader.skip("bundle add", 2)?;
    let flags = BundleFlags(reader.u16("bundle add")?);
    let at = reader.clone();
    reader.skip("bundled message", 1)?;
    let kind = reader.u8("bundled message")?;
    let length = usize::from(reader.u16("bundled message")?);
    if length < HEADER {
        return at.fail("bundled message", Problem::BadLength(length));
    }
    reader.skip("bundled message", 4)?;
    let mut body = reader.part("bundled message", length - HEADER)?;
    let message = Box::new(decode_nested(kind, &mut body, depth + 1)?);
    Ok(Message::BundleAdd { bundle_id, flags, message })
}
