//! Which connections an address began.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow;

use super::{
    BUFFER, DONE, ERROR, NEW, PROTO_DST_PORT, PROTO_NUM, PROTO_SRC_PORT, STATUS, TUPLE_IP, TUPLE_ORIG,
    TUPLE_PROTO, TUPLE_REPLY, V4, V6, ZONE, dumps_of, of, open,
};
use crate::nfnetlink::{GENERIC, answer, message, receive, value};
use crate::{Netns, Result};

/// `IPS_SEEN_REPLY` (nf_conntrack_common.h).
const SEEN_REPLY: u32 = 2;

/// A connection that the kernel tracks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Number of its protocol: 6 is TCP, 17 UDP.
    pub protocol: u8,
    /// From and to where its first packet went; ports are 0 where there are none.
    pub original: (SocketAddr, SocketAddr),
    /// The same of its answers.
    pub reply: (SocketAddr, SocketAddr),
    /// Whether there was an answer.
    pub answered: bool,
    /// The zone that it is tracked in; none of the host's own.
    pub zone: Option<u16>,
}

/// Connections that `ip` began to one of `to`, in every zone, `most` of them at most; and whether there are more.
///
/// # Errors
/// The kernel has no ctnetlink or refused.
pub async fn begun_by(
    netns: &Netns,
    ip: IpAddr,
    to: BTreeSet<IpAddr>,
    most: usize,
) -> Result<(Vec<Seen>, bool)> {
    let what = format!("list connections of {ip} in {netns}");
    let found = netns.run(move || {
        // The first asks for those that the address began.
        let dump = dumps_of(ip).into_iter().next().unwrap_or_default();
        let mut found = BTreeSet::new();
        let more = each(&dump, |entry| {
            let Some(seen) = read(entry) else { return ControlFlow::Continue(()) };
            if seen.original.0.ip() != ip || !to.contains(&seen.original.1.ip()) || found.contains(&seen) {
                return ControlFlow::Continue(());
            }
            if found.len() == most {
                return ControlFlow::Break(());
            }
            found.insert(seen);
            ControlFlow::Continue(())
        })?;
        Ok::<_, io::Error>((found.into_iter().collect::<Vec<_>>(), more))
    });
    found.await?.map_err(|error| of(error, what))
}

/// Tells of each entry that a dump has, until `tell` has heard enough: then true.
fn each(dump: &[u8], mut tell: impl FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<bool> {
    let socket = open()?;
    let mut buffer = vec![0; BUFFER];
    socket.send(dump)?;
    loop {
        let length = receive(&socket, &mut buffer)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, after)) = message(rest) {
            match kind {
                DONE | ERROR => return answer(body).map(|()| false),
                NEW if tell(body).is_break() => return Ok(true),
                _ => {}
            }
            rest = after;
        }
    }
}

fn read(entry: &[u8]) -> Option<Seen> {
    let entry = entry.get(GENERIC..)?;
    let (original, reply) = (value(entry, TUPLE_ORIG)?, value(entry, TUPLE_REPLY)?);
    let number = |kind| value(entry, kind).and_then(|octets| octets.try_into().ok()).map(u32::from_be_bytes);
    let zone = value(entry, ZONE).and_then(|octets| octets.try_into().ok()).map(u16::from_be_bytes);
    Some(Seen {
        protocol: *value(value(original, TUPLE_PROTO)?, PROTO_NUM)?.first()?,
        original: ends(original)?,
        reply: ends(reply)?,
        answered: number(STATUS).is_some_and(|status| status & SEEN_REPLY != 0),
        zone,
    })
}

fn ends(tuple: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (addresses, protocol) = (value(tuple, TUPLE_IP)?, value(tuple, TUPLE_PROTO)?);
    let port =
        |kind| value(protocol, kind).and_then(|octets| octets.try_into().ok()).map_or(0, u16::from_be_bytes);
    let v4 = |kind| Some(IpAddr::from(<[u8; 4]>::try_from(value(addresses, kind)?).ok()?));
    let v6 = |kind| Some(IpAddr::from(<[u8; 16]>::try_from(value(addresses, kind)?).ok()?));
    // Of each family the destination has the number after that of the source.
    let (source, destination) = v4(V4.1).zip(v4(V4.1 + 1)).or_else(|| v6(V6.1).zip(v6(V6.1 + 1)))?;
    Some((SocketAddr::new(source, port(PROTO_SRC_PORT)), SocketAddr::new(destination, port(PROTO_DST_PORT))))
}

#[cfg(test)]
mod tests {
    use super::super::NESTED;
    use super::*;
    use crate::nfnetlink::attribute;

    fn tuple(kind: u16, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
        let ip = |of: u16, ip: IpAddr| match ip {
            IpAddr::V4(ip) => attribute(V4.1 + of, &ip.octets()),
            IpAddr::V6(ip) => attribute(V6.1 + of, &ip.octets()),
        };
        let addresses = [ip(0, from.ip()), ip(1, to.ip())].concat();
        let protocol = [
            attribute(PROTO_NUM, &[6]),
            attribute(PROTO_SRC_PORT, &from.port().to_be_bytes()),
            attribute(PROTO_DST_PORT, &to.port().to_be_bytes()),
        ];
        let parts =
            [attribute(NESTED | TUPLE_IP, &addresses), attribute(NESTED | TUPLE_PROTO, &protocol.concat())];
        attribute(NESTED | kind, &parts.concat())
    }

    #[test]
    fn an_entry_is_read_and_any_octets_are_borne() {
        for (from, to, endpoint) in [
            ("10.10.1.6:40000", "10.96.0.10:80", "10.10.2.7:5432"),
            ("[fd00::6]:40000", "[fd96::10]:80", "[fd00::7]:5432"),
        ] {
            let [from, to, endpoint] = [from, to, endpoint].map(|text| text.parse::<SocketAddr>().unwrap());
            let tuples = [tuple(TUPLE_ORIG, from, to), tuple(TUPLE_REPLY, endpoint, from)].concat();
            let whole = |status: u32, more: &[u8]| {
                [&[0; GENERIC][..], &tuples, &attribute(STATUS, &status.to_be_bytes()), more].concat()
            };
            let seen = read(&whole(0x18e, &[])).unwrap();
            let zone = None;
            assert_eq!(
                seen,
                Seen { protocol: 6, original: (from, to), reply: (endpoint, from), answered: true, zone }
            );
            let other = read(&whole(0x188, &attribute(ZONE, &[255, 240]))).unwrap();
            assert_eq!((other.answered, other.zone), (false, Some(65_520)));
            let octets = whole(0, &[]);
            (0..tuples.len()).for_each(|length| assert_eq!(read(&octets[..length]), None));
        }
        assert_eq!(read(&[255; 64]), None);
    }
}
