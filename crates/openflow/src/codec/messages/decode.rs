//! From bytes to messages.

use super::*;
use crate::codec::actions::{read_actions, read_instructions};
use crate::codec::oxm::{self, read_match};
use crate::codec::read::{Reader, Result as ReadResult};
use crate::codec::{HEADER, MAX_DEPTH, NICIRA, groups, multipart};
use crate::{
    AsyncConfig, BundleControl, BundleCtrlType, BundleFlags, ErrorMsg, Features, Flow, FlowCommand,
    FlowFlags, FlowMod, FlowRemoved, FlowRemovedReason, Message, PacketIn, PacketIn2, PacketInFormat,
    PacketInReason, PacketOut, PortNo, PortReason, Problem, Role, RoleMsg, SwitchConfig, TlvMapping,
    TlvTable, TlvTableMod,
};

pub(in crate::codec) fn decode(kind: u8, reader: &mut Reader) -> ReadResult<Message> {
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
        CT_FLUSH => Message::NxCtFlush(ct_flush::read(reader)?),
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
