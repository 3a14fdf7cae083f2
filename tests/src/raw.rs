//! Frames of any contents, sent on a pod's own link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use netcfg::{FrameSocket, MacAddr, Netns};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UnixDatagram;

/// Ethernet type that a packet socket understands as "all" (`ETH_P_ALL`).
const EVERY: u16 = 3;

/// Opens a link of a namespace for sending, and for receiving all frames that come in on it.
pub async fn open(netns: &str, link: &'static str) -> FrameSocket {
    let runtime = tokio::runtime::Handle::current();
    let netns = Netns::open(format!("/run/netns/{netns}")).unwrap();
    let open = move || {
        let _context = runtime.enter();
        FrameSocket::open(link, EVERY)
    };
    netns.run(open).await.unwrap().unwrap()
}

/// Hears every frame that comes in on or goes out of any link of a namespace, also of one that is made later.
pub async fn listen(netns: &str) -> UnixDatagram {
    let netns = Netns::open(format!("/run/netns/{netns}")).unwrap();
    let open = || {
        let every = Protocol::from(i32::from(EVERY.to_be()));
        Socket::new(Domain::PACKET, Type::RAW.nonblocking(), Some(every)).unwrap()
    };
    let socket = OwnedFd::from(netns.run(open).await.unwrap());
    // Only recv(2) is called on it, which is the same for every kind of socket.
    UnixDatagram::from_std(socket.into()).unwrap()
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

fn ethernet(from: MacAddr, to: MacAddr, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to.0[..], &from.0, &kind.to_be_bytes(), payload].concat()
}

/// An IP packet; `sum_at` is where the checksum of the payload goes.
fn packet(
    from: (MacAddr, IpAddr),
    to: (MacAddr, IpAddr),
    proto: u8,
    payload: &[u8],
    sum_at: usize,
) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap();
    let mut payload = payload.to_vec();
    match (from.1, to.1) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = (length + 20).to_be_bytes();
            let mut header = vec![0x45, 0, total[0], total[1], 0, 1, 0, 0, 64, proto, 0, 0];
            header.extend([src.octets(), dst.octets()].concat());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum);
            // Of the payload IPv4 needs none here.
            ethernet(from.0, to.0, 0x0800, &[header, payload].concat())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let pseudo =
                [&src.octets()[..], &dst.octets(), &u32::from(length).to_be_bytes(), &[0, 0, 0, proto]];
            let sum = checksum(&[&pseudo.concat()[..], &payload].concat());
            payload[sum_at..sum_at + 2].copy_from_slice(&sum);
            let length = length.to_be_bytes();
            // Neighbour discovery is taken only with a hop limit of 255.
            let header = [0x60, 0, 0, 0, length[0], length[1], proto, 255];
            ethernet(from.0, to.0, 0x86dd, &[&header[..], &src.octets(), &dst.octets(), &payload].concat())
        }
        _ => panic!("{} and {} are of two families", from.1, to.1),
    }
}

/// A UDP datagram from port 9 to `port`.
pub fn udp(from: (MacAddr, IpAddr), to: (MacAddr, IpAddr), port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    packet(from, to, 17, &[0, 9, high, low, 0, 12, 0, 0, b'p', b'r', b'o', b'b'], 6)
}

/// A UDP datagram with its header, as IP carries it.
pub fn datagram(from: (IpAddr, u16), to: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 8).unwrap();
    let header = [from.1.to_be_bytes(), to.1.to_be_bytes(), length.to_be_bytes(), [0; 2]].concat();
    let mut datagram = [&header, payload].concat();
    // Of IPv4 a datagram needs no checksum (RFC 768), of IPv6 it does.
    if let (IpAddr::V6(src), IpAddr::V6(dst)) = (from.0, to.0) {
        let pseudo = [&src.octets()[..], &dst.octets(), &u32::from(length).to_be_bytes(), &[0, 0, 0, 17]];
        let sum = checksum(&[&pseudo.concat()[..], &datagram].concat());
        datagram[6..8].copy_from_slice(&sum);
    }
    datagram
}

/// A fragment of a UDP datagram: the octets `piece`, which begin at `offset` and after which `more` come or do not.
pub fn fragment(
    from: (MacAddr, IpAddr),
    to: (MacAddr, IpAddr),
    id: u16,
    (offset, more): (usize, bool),
    piece: &[u8],
) -> Vec<u8> {
    let offset = u16::try_from(offset).unwrap();
    assert!(offset.is_multiple_of(8), "fragments begin at a multiple of 8");
    match (from.1, to.1) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = u16::try_from(piece.len() + 20).unwrap().to_be_bytes();
            let [id, at] = [id, (offset / 8) | (u16::from(more) << 13)].map(u16::to_be_bytes);
            let mut header = vec![0x45, 0, total[0], total[1], id[0], id[1], at[0], at[1], 64, 17, 0, 0];
            header.extend([src.octets(), dst.octets()].concat());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum);
            ethernet(from.0, to.0, 0x0800, &[&header, piece].concat())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let length = u16::try_from(piece.len() + 8).unwrap().to_be_bytes();
            let header = [0x60, 0, 0, 0, length[0], length[1], 44, 64];
            let [id, at] = [id, offset | u16::from(more)].map(u16::to_be_bytes);
            let extension = [17, 0, at[0], at[1], 0, 0, id[0], id[1]];
            let packet = [&header[..], &src.octets(), &dst.octets(), &extension, piece].concat();
            ethernet(from.0, to.0, 0x86dd, &packet)
        }
        _ => panic!("{} and {} are of two families", from.1, to.1),
    }
}

/// How a frame is packed to go from node to node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// RFC 7348.
    Vxlan,
    /// RFC 8926.
    Geneve,
    /// RFC 1701, with a whole frame in it.
    Gre,
}

impl Tunnel {
    /// Its usual UDP port; GRE has none.
    pub fn port(self) -> Option<u16> {
        match self {
            Self::Vxlan => Some(4789),
            Self::Geneve => Some(6081),
            Self::Gre => None,
        }
    }
}

/// A frame packed by a tunnel with network 0, for `port` or the usual one.
pub fn packed(
    tunnel: Tunnel,
    from: (MacAddr, IpAddr),
    to: (MacAddr, IpAddr),
    port: Option<u16>,
    frame: &[u8],
) -> Vec<u8> {
    let header: &[u8] = match tunnel {
        Tunnel::Vxlan => &[8, 0, 0, 0, 0, 0, 0, 0],
        Tunnel::Geneve => &[0, 0, 0x65, 0x58, 0, 0, 0, 0],
        Tunnel::Gre => &[0, 0, 0x65, 0x58],
    };
    let payload = [header, frame].concat();
    match port.or(tunnel.port()) {
        None => packet(from, to, 47, &payload, 0),
        Some(port) => {
            let length = u16::try_from(payload.len() + 8).unwrap();
            let udp = [40_000u16.to_be_bytes(), port.to_be_bytes(), length.to_be_bytes(), [0; 2]];
            packet(from, to, 17, &[udp.concat(), payload].concat(), 6)
        }
    }
}

/// The broadcast question who has `target`.
pub fn arp_request(from: (MacAddr, Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let (mac, ip) = from;
    let question = [&[0, 1, 8, 0, 6, 4, 0, 1], &mac.0[..], &ip.octets(), &[0; 6], &target.octets()];
    ethernet(mac, MacAddr::BROADCAST, 0x0806, &question.concat())
}

/// The multicast question who has `target` (RFC 4861 §4.3).
pub fn neighbour_solicitation(from: (MacAddr, Ipv6Addr), target: Ipv6Addr) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let question = [&[135, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..], &[1, 1], &from.0.0];
    packet((from.0, from.1.into()), (multicast(group), group.into()), 58, &question.concat(), 2)
}

/// The hardware address of an IPv6 group (RFC 2464 §7).
pub fn multicast(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// The address that a link gives itself by its hardware address (RFC 4291, appendix A).
pub fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}
