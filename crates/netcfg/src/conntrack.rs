//! Connections that the kernel tracks for a namespace: which an address began, and forgetting them.
//!
//! Entries are read, and each is deleted by its tuple and id (ctnetlink, nf_conntrack_netlink.c). Those of a zone are
//! somebody else's, such as Open vSwitch's.
//!
//! To read any the kernel goes through all of its buckets, a quarter of a million on larger machines, which takes longer
//! than to read a few thousand entries. So a small table is read once for all addresses. Of a large one the kernel is asked
//! for each address, where it can filter (IPv4, since Linux 5.8).

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use seen::{Seen, begun_by};

use ipnet::IpNet;
use nix::errno::Errno;
use socket2::{Socket, Type};

use crate::nfnetlink::{GENERIC, answer, attribute, attributes, message, receive, request, socket, value};
use crate::{Error, Netns, Result};

mod seen;

/// Longest wait for a message. The kernel answers within the request's system call.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Entries of a small table.
const FEW: usize = 8192;
/// How many there are in the calling thread's namespace.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// More than the kernel puts into one datagram of a dump.
const BUFFER: usize = 64 << 10;

/// `NLM_F_REQUEST`, with `NLM_F_DUMP` or `NLM_F_ACK` (netlink.h).
const DUMP: u16 = 0x301;
const ACKNOWLEDGED: u16 = 0x5;
/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Subsystem 1: `IPCTNL_MSG_CT_NEW`, `_GET`, `_DELETE` (nfnetlink_conntrack.h).
const NEW: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `CTA_*`.
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
/// `CTA_TUPLE_IP`, and `CTA_FILTER_F_CTA_IP_SRC` for one of the two tuples (nf_internals.h).
const TUPLE_IP: u16 = 1;
const FILTER_IP_SRC: u32 = 1;
/// `CTA_TUPLE_PROTO`; `CTA_PROTO_NUM`, `CTA_PROTO_SRC_PORT`, `CTA_PROTO_DST_PORT`.
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
/// IP protocol number of UDP.
const UDP: u8 = 17;
/// `AF_UNSPEC`, which is every family.
const UNSPECIFIED: u8 = 0;
/// `AF_INET`, `AF_INET6`; `CTA_IP_V4_SRC`, `CTA_IP_V6_SRC`.
const V4: (u8, u16) = (2, 1);
const V6: (u8, u16) = (10, 3);

/// Forgets the connections that one of these addresses began, whatever its packets were translated to, and those that
/// it answers, whatever address they were sent to. Returns how many there were.
///
/// # Errors
/// The kernel has no ctnetlink or refused; what was done before stays done.
pub async fn forget(netns: &Netns, ips: &[IpAddr]) -> Result<usize> {
    let what = format!("forget connections of {ips:?} in {netns}");
    let ips = ips.to_vec();
    let forgotten = netns.run(move || {
        let (dumps, deletes) = (open()?, open()?);
        if is_small() {
            let of_one = |entry: &[u8]| deletion(entry, |ip| ips.contains(ip));
            return forget_some(&dumps, &deletes, &request(GET, DUMP, UNSPECIFIED, &[]), of_one);
        }
        let mut count = 0;
        for ip in ips {
            for dump in dumps_of(ip) {
                count += forget_some(&dumps, &deletes, &dump, |entry| deletion(entry, |of| *of == ip))?;
            }
        }
        Ok(count)
    });
    forgotten.await?.map_err(|error| of(error, what))
}

/// Forgets as [`forget`] does those of every address of `networks` that is not among `held`.
///
/// # Errors
/// See [`forget`].
pub async fn forget_unless_held(
    netns: &Netns,
    networks: Vec<IpNet>,
    held: BTreeSet<IpAddr>,
) -> Result<usize> {
    let what = format!("forget connections of what nobody has of {networks:?} in {netns}");
    let forgotten = netns.run(move || {
        let (dumps, deletes) = (open()?, open()?);
        let free = |ip: &IpAddr| networks.iter().any(|network| network.contains(ip)) && !held.contains(ip);
        forget_some(&dumps, &deletes, &request(GET, DUMP, UNSPECIFIED, &[]), |entry| deletion(entry, free))
    });
    forgotten.await?.map_err(|error| of(error, what))
}

/// Forgets the ways of datagrams that were sent to one of these, so that the next one meets the rules as they are. Returns
/// how many there were.
///
/// # Errors
/// See [`forget`].
pub async fn forget_datagrams(netns: &Netns, to: BTreeSet<SocketAddr>) -> Result<usize> {
    let what = format!("forget datagrams to {} addresses in {netns}", to.len());
    let forgotten = netns.run(move || {
        let (dumps, deletes) = (open()?, open()?);
        let mut count = 0;
        for (is_v4, family) in [(true, V4.0), (false, V6.0)] {
            if to.iter().any(|to| to.is_ipv4() == is_v4) {
                let dump = request(GET, DUMP, family, &[]);
                let deletion = |entry: &[u8]| deletion_of_datagrams(entry, is_v4, &to);
                count += forget_some(&dumps, &deletes, &dump, deletion)?;
            }
        }
        Ok(count)
    });
    forgotten.await?.map_err(|error| of(error, what))
}

fn of(error: io::Error, what: String) -> Error {
    match error.raw_os_error() {
        Some(errno) => Error::errno_of(what, Errno::from_raw(errno)),
        None => Error::io(what, error),
    }
}

/// False if the kernel does not say.
fn is_small() -> bool {
    let told = std::fs::read_to_string(COUNT).ok();
    told.and_then(|text| text.trim().parse::<usize>().ok()).is_some_and(|count| count <= FEW)
}

fn open() -> io::Result<Socket> {
    let socket = socket(Type::RAW.cloexec(), 0)?;
    socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    Ok(socket)
}

/// Deletes on another socket than that of the dump, which goes on meanwhile: a table may be large, and only a datagram of
/// it is held.
fn forget_some(
    dumps: &Socket,
    deletes: &Socket,
    dump: &[u8],
    deletion: impl Fn(&[u8]) -> Option<Vec<u8>>,
) -> io::Result<usize> {
    let mut count = 0;
    let mut buffer = vec![0; BUFFER];
    dumps.send(dump)?;
    loop {
        let length = receive(dumps, &mut buffer)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while let Some((kind, body, after)) = message(rest) {
            match kind {
                DONE => return answer(body).map(|()| count),
                ERROR => {
                    answer(body)?;
                    return Ok(count);
                }
                NEW => {
                    if let Some(deletion) = deletion(body) {
                        count += usize::from(delete(deletes, &deletion)?);
                    }
                }
                _ => {}
            }
            rest = after;
        }
    }
}

/// What asks for the entries of an address, and maybe for others. Linux up to 6.18 at least compares IPv6 addresses of a
/// filter the wrong way round and sends all entries but those (`ctnetlink_filter_match_tuple`), so there it gets none.
fn dumps_of(ip: IpAddr) -> Vec<Vec<u8>> {
    let ((family, source), octets) = address(ip);
    if ip.is_ipv6() {
        return vec![request(GET, DUMP, family, &[])];
    }
    let filtered = |tuple| {
        let ip = attribute(NESTED | TUPLE_IP, &attribute(source, &octets));
        // CTA_FILTER_ORIG_FLAGS and CTA_FILTER_REPLY_FLAGS have the numbers of the tuples that they are about.
        let flags = [TUPLE_ORIG, TUPLE_REPLY].map(|of| {
            let flags = if of == tuple { FILTER_IP_SRC } else { 0 };
            attribute(of, &flags.to_ne_bytes())
        });
        let filter = attribute(NESTED | FILTER, &flags.concat());
        request(GET, DUMP, family, &[attribute(NESTED | tuple, &ip), filter].concat())
    };
    [TUPLE_ORIG, TUPLE_REPLY].map(filtered).into()
}

fn address(ip: IpAddr) -> ((u8, u16), Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => (V4, ip.octets().to_vec()),
        IpAddr::V6(ip) => (V6, ip.octets().to_vec()),
    }
}

/// What deletes an entry, if it is of an address that is `wanted`: begun by it, or answered by it.
fn deletion(entry: &[u8], wanted: impl Fn(&IpAddr) -> bool) -> Option<Vec<u8>> {
    let entry = entry.get(GENERIC..)?;
    let source = |tuple| source(value(value(entry, tuple)?, TUPLE_IP)?);
    let ip = [TUPLE_ORIG, TUPLE_REPLY].into_iter().filter_map(source).find(wanted)?;
    if attributes(entry).any(|(kind, _)| kind == ZONE) {
        return None;
    }
    let ((family, _), _) = address(ip);
    let original = attribute(NESTED | TUPLE_ORIG, value(entry, TUPLE_ORIG)?);
    Some(request(DELETE, ACKNOWLEDGED, family, &[original, attribute(ID, value(entry, ID)?)].concat()))
}

/// That of a tuple's addresses.
fn source(addresses: &[u8]) -> Option<IpAddr> {
    match value(addresses, V4.1) {
        Some(octets) => Some(<[u8; 4]>::try_from(octets).ok()?.into()),
        None => Some(<[u8; 16]>::try_from(value(addresses, V6.1)?).ok()?.into()),
    }
}

/// What deletes an entry, if it is of datagrams that were sent to one of these.
fn deletion_of_datagrams(entry: &[u8], is_v4: bool, to: &BTreeSet<SocketAddr>) -> Option<Vec<u8>> {
    let entry = entry.get(GENERIC..)?;
    let original = value(entry, TUPLE_ORIG)?;
    let protocol = value(original, TUPLE_PROTO)?;
    let port = u16::from_be_bytes(value(protocol, PROTO_DST_PORT)?.try_into().ok()?);
    // Of each family the number after that of the source.
    let (family, source) = if is_v4 { V4 } else { V6 };
    let octets = value(value(original, TUPLE_IP)?, source + 1)?;
    let ip = if is_v4 {
        IpAddr::from(<[u8; 4]>::try_from(octets).ok()?)
    } else {
        IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)
    };
    let in_zone = attributes(entry).any(|(kind, _)| kind == ZONE);
    if value(protocol, PROTO_NUM)? != [UDP] || in_zone || !to.contains(&SocketAddr::new(ip, port)) {
        return None;
    }
    let original = attribute(NESTED | TUPLE_ORIG, original);
    Some(request(DELETE, ACKNOWLEDGED, family, &[original, attribute(ID, value(entry, ID)?)].concat()))
}

/// Whether the entry was still there.
fn delete(socket: &Socket, deletion: &[u8]) -> io::Result<bool> {
    socket.send(deletion)?;
    let mut buffer = [0; 1024];
    let length = receive(socket, &mut buffer)?;
    let (_, body, _) = message(buffer.get(..length).unwrap_or_default())
        .filter(|(kind, ..)| *kind == ERROR)
        .ok_or_else(|| io::Error::other("the kernel's answer is no acknowledgement"))?;
    match answer(body) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(from: IpAddr, answers: IpAddr, more: &[u8]) -> Vec<u8> {
        let tuple = |of, ip| {
            let ((_, kind), octets) = address(ip);
            attribute(NESTED | of, &attribute(NESTED | TUPLE_IP, &attribute(kind, &octets)))
        };
        let tuples = [tuple(TUPLE_ORIG, from), tuple(TUPLE_REPLY, answers)].concat();
        [&[0; GENERIC][..], &tuples, &attribute(ID, &[1, 2, 3, 4]), more].concat()
    }

    #[test]
    fn only_entries_of_the_address_and_of_no_zone_are_deleted() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (pod, other) = (ip("10.244.1.5"), ip("10.244.1.6"));
        for (from, answers) in [(pod, other), (other, pod)] {
            let own = deletion(&entry(from, answers, &[]), |ip| *ip == pod).unwrap();
            let (kind, body, after) = message(&own).unwrap();
            assert_eq!((kind, after.len()), (DELETE, 0));
            assert_eq!(value(&body[GENERIC..], ID), Some(&[1, 2, 3, 4][..]));
        }
        for entry in [
            entry(other, other, &[]),
            entry(ip("fd00::5"), ip("fd00::6"), &[]),
            entry(pod, other, &attribute(ZONE, &[255, 240])),
        ] {
            assert_eq!(deletion(&entry, |ip| *ip == pod), None);
        }
    }

    #[test]
    fn datagrams_to_one_port_alone() {
        let entry = |to: SocketAddr, protocol: u8, more: &[u8]| {
            let ((_, source), octets) = address(to.ip());
            let ip = attribute(NESTED | TUPLE_IP, &attribute(source + 1, &octets));
            let ports = attribute(PROTO_DST_PORT, &to.port().to_be_bytes());
            let transport = [attribute(PROTO_NUM, &[protocol]), ports].concat();
            let tuple = [ip, attribute(NESTED | TUPLE_PROTO, &transport)].concat();
            let original = attribute(NESTED | TUPLE_ORIG, &tuple);
            [&[0; GENERIC][..], &original, &attribute(ID, &[1, 2, 3, 4]), more].concat()
        };
        for text in ["192.0.2.11", "2001:db8::11"] {
            let to = SocketAddr::new(text.parse().unwrap(), 30_053);
            let wanted = BTreeSet::from([to]);
            let deletes = |entry: &[u8]| deletion_of_datagrams(entry, to.is_ipv4(), &wanted).is_some();
            assert!(deletes(&entry(to, UDP, &[])));
            let other = SocketAddr::new(to.ip(), 30_054);
            assert!(!deletes(&entry(other, UDP, &[])) && !deletes(&entry(to, 6, &[])));
            assert!(!deletes(&entry(to, UDP, &attribute(ZONE, &[255, 240]))), "somebody else's");
            let whole = entry(to, UDP, &[]);
            (0..whole.len()).for_each(|length| assert!(!deletes(&whole[..length])));
        }
    }

    #[test]
    fn any_octets_are_borne() {
        let pod = "fd00::5".parse().unwrap();
        let whole = entry(pod, pod, &[]);
        for length in 0..whole.len() {
            assert_eq!(deletion(&whole[..length], |_| true), None);
        }
        assert!(deletion(&[255; 64], |_| true).is_none());
        assert!(answer(&[]).is_ok() && answer(&i32::MIN.to_ne_bytes()).is_err());
    }
}
