//! `NXT_CT_FLUSH`: properties for each direction with nested ones for addresses and ports (nicira-ext.h
//! `NXT_CT_*`). An IPv4 address is written as an IPv4-mapped one.

use std::net::{IpAddr, Ipv6Addr};

use bytes::{BufMut, BytesMut};

use crate::codec::read::{Reader, Result as ReadResult};
use crate::codec::write::{Result as WriteResult, Write};
use crate::{CtFlush, CtTuple, Problem};

const ORIGINAL: u16 = 0;
const REPLY: u16 = 1;
const ZONE: u16 = 2;

const SRC: u16 = 0;
const DST: u16 = 1;
const SRC_PORT: u16 = 2;
const DST_PORT: u16 = 3;

pub(super) fn put(out: &mut BytesMut, flush: &CtFlush) -> WriteResult<()> {
    out.put_u8(flush.protocol);
    out.zeros(7);
    for (kind, tuple) in [(ORIGINAL, &flush.original), (REPLY, &flush.reply)] {
        if *tuple != CtTuple::default() {
            out.property(kind, |out| {
                // Nested properties are aligned.
                out.zeros(4);
                put_tuple(out, tuple)
            })?;
        }
    }
    if let Some(zone) = flush.zone {
        put_bytes(out, ZONE, &zone.to_be_bytes())?;
    }
    Ok(())
}

fn put_tuple(out: &mut BytesMut, tuple: &CtTuple) -> WriteResult<()> {
    for (kind, ip) in [(SRC, tuple.src), (DST, tuple.dst)] {
        if let Some(ip) = ip {
            let ip = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            put_bytes(out, kind, &ip.octets())?;
        }
    }
    for (kind, port) in [(SRC_PORT, tuple.src_port), (DST_PORT, tuple.dst_port)] {
        if let Some(port) = port {
            put_bytes(out, kind, &port.to_be_bytes())?;
        }
    }
    Ok(())
}

fn put_bytes(out: &mut BytesMut, kind: u16, bytes: &[u8]) -> WriteResult<()> {
    out.property(kind, |out| {
        out.extend_from_slice(bytes);
        Ok(())
    })
}

pub(super) fn read(reader: &mut Reader) -> ReadResult<CtFlush> {
    let mut flush = CtFlush { protocol: reader.u8("ct flush")?, ..CtFlush::default() };
    reader.skip("ct flush", 7)?;
    while !reader.is_empty() {
        let (kind, mut value) = reader.property("ct flush property")?;
        match kind {
            ORIGINAL => flush.original = read_tuple(&mut value)?,
            REPLY => flush.reply = read_tuple(&mut value)?,
            ZONE => flush.zone = Some(value.u16("ct zone")?),
            other => return reader.fail("ct flush property", Problem::BadValue(other.into())),
        }
    }
    Ok(flush)
}

fn read_tuple(reader: &mut Reader) -> ReadResult<CtTuple> {
    reader.skip("ct tuple", 4)?;
    let mut tuple = CtTuple::default();
    while !reader.is_empty() {
        let (kind, mut value) = reader.property("ct tuple property")?;
        match kind {
            SRC => tuple.src = Some(read_ip(&mut value)?),
            DST => tuple.dst = Some(read_ip(&mut value)?),
            SRC_PORT => tuple.src_port = Some(value.u16("ct source port")?),
            DST_PORT => tuple.dst_port = Some(value.u16("ct destination port")?),
            other => return reader.fail("ct tuple property", Problem::BadValue(other.into())),
        }
    }
    Ok(tuple)
}

fn read_ip(reader: &mut Reader) -> ReadResult<IpAddr> {
    let ip = Ipv6Addr::from(reader.uint("ct address", 16)?);
    Ok(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4))
}
