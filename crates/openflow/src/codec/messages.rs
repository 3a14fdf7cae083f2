//! Messages other than multipart ones.

mod ct_flush;
mod decode;
mod encode;

pub(super) use decode::decode;
pub(super) use encode::encode;

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
const CT_FLUSH: u32 = 32;

/// `OFP_NO_BUFFER`.
const NO_BUFFER: u32 = u32::MAX;

/// `OFPET_EXPERIMENTER`.
const ET_EXPERIMENTER: u16 = 0xffff;
