//! From messages to bytes.

use bytes::{BufMut, BytesMut};

use super::*;
use crate::codec::actions::{put_actions, put_instructions};
use crate::codec::oxm::{self, put_match};
use crate::codec::write::{Result as WriteResult, Write};
use crate::codec::{NICIRA, VERSION, groups, multipart};
use crate::{
    BundleCtrlType, EncodeError, ErrorMsg, FlowCommand, FlowMod, FlowRemoved, FlowRemovedReason, Message,
    PacketIn2, PacketInFormat, PacketOut, PortReason, Role, RoleMsg, TlvMapping, Xid,
};

pub(in crate::codec) fn encode(message: &Message, xid: Xid, out: &mut BytesMut) -> Result<(), EncodeError> {
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
        | Message::NxTlvTableReply(_)
        | Message::NxCtFlush(_) => EXPERIMENTER,
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
        Message::NxCtFlush(flush) => {
            put_nicira(out, CT_FLUSH);
            ct_flush::put(out, flush)?;
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
