//! What is asked for: which packet, from where, to where.

use std::net::IpAddr;

use antrea_crds::traceflow::{Packet, TraceflowSpec};
use antrea_flows::Family;
use openflow::{MacAddr, Match};

use antrea_packet::{Headers, ICMP, ICMPV6, TCP, Transport, UDP};

const DEFAULT_TTL: u8 = 64;
const SYN: u8 = 2;
/// Ports that nobody asked for are of the range for short-lived ones.
const FIRST_PORT: u32 = 32_768;
const PORTS: u32 = 28_232;

/// What of a spec cannot be, although it was taken at apply. The message names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Problem {
    /// Field path.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
}

/// A pod or a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub namespace: String,
    pub name: String,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where a packet comes from or goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Pod(Name),
    Service(Name),
    Ip(IpAddr),
    /// Anything, with live traffic.
    Any,
}

/// A spec that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// A pod or, with live traffic, an address or anything.
    pub source: End,
    /// Where it goes.
    pub destination: End,
    /// The family, where the spec says.
    pub family: Option<Family>,
    /// Watch traffic rather than send a packet.
    pub live: bool,
    /// Of live traffic, only what is dropped.
    pub dropped_only: bool,
    protocol: Option<u8>,
    ttl: u8,
    flags: u8,
    ports: [Option<u16>; 2],
    tcp_flags: Option<u8>,
    icmp: [Option<u16>; 2],
}

fn name(namespace: Option<&String>, name: &str) -> Name {
    let namespace = namespace.filter(|namespace| !namespace.is_empty());
    Name { namespace: namespace.map_or("default", String::as_str).to_owned(), name: name.to_owned() }
}

fn address(field: &'static str, text: &str) -> Result<IpAddr, Problem> {
    text.parse().map_err(|_| Problem { field, message: format!("{text} is no IP address") })
}

fn number<T: TryFrom<i64>>(value: Option<i64>) -> Option<T> {
    value.and_then(|value| T::try_from(value).ok())
}

impl Request {
    /// Reads a spec.
    ///
    /// # Errors
    /// What the schema lets pass and cannot be sent.
    pub fn read(spec: &TraceflowSpec) -> Result<Self, Problem> {
        let source = match &spec.source {
            None => End::Any,
            Some(end) => match (&end.pod, &end.ip) {
                (Some(pod), _) if !pod.is_empty() => End::Pod(name(end.namespace.as_ref(), pod)),
                (_, Some(ip)) if !ip.is_empty() => End::Ip(address("spec.source.ip", ip)?),
                _ => End::Any,
            },
        };
        let destination = match &spec.destination {
            None => End::Any,
            Some(end) => match (&end.pod, &end.service, &end.ip) {
                (Some(pod), ..) if !pod.is_empty() => End::Pod(name(end.namespace.as_ref(), pod)),
                (_, Some(service), _) if !service.is_empty() => {
                    End::Service(name(end.namespace.as_ref(), service))
                }
                (.., Some(ip)) if !ip.is_empty() => End::Ip(address("spec.destination.ip", ip)?),
                _ => End::Any,
            },
        };
        let none = Packet::default();
        let packet = spec.packet.as_ref().unwrap_or(&none);
        let transport = packet.transport_header.clone().unwrap_or_default();
        let (v4, v6) = (packet.ip_header.as_ref(), packet.ipv6_header.as_ref());
        let of = |end: &End| match end {
            End::Ip(ip) if ip.is_ipv4() => Some(Family::V4),
            End::Ip(_) => Some(Family::V6),
            _ => None,
        };
        let headers = match (v4, v6) {
            (_, Some(_)) => Some(Family::V6),
            (Some(_), None) => Some(Family::V4),
            (None, None) => None,
        };
        let (from, to) = (of(&source), of(&destination));
        let family = from.or(to).or(headers);
        if [from, to, headers].into_iter().flatten().any(|other| Some(other) != family) {
            let message = "the addresses and the header of the packet are of different families".to_owned();
            return Err(Problem { field: "spec.packet", message });
        }
        let asked = v4.and_then(|v4| v4.protocol).or_else(|| v6.and_then(|v6| v6.next_header));
        let by_header = if transport.tcp.is_some() {
            Some(TCP)
        } else if transport.udp.is_some() {
            Some(UDP)
        } else {
            transport.icmp.as_ref().map(|_| ICMP)
        };
        let protocol = number(asked.filter(|protocol| *protocol != 0)).or(by_header);
        if spec.live_traffic && source == End::Any && destination == End::Any {
            return Err(Problem { field: "spec", message: "no end of the traffic is named".to_owned() });
        }
        let (tcp, udp) = (transport.tcp.unwrap_or_default(), transport.udp.unwrap_or_default());
        let ports = match protocol {
            Some(TCP) => [tcp.src_port, tcp.dst_port],
            Some(UDP) => [udp.src_port, udp.dst_port],
            _ => [None, None],
        };
        let icmp = transport.icmp.unwrap_or_default();
        let ttl = v4.and_then(|v4| v4.ttl).or_else(|| v6.and_then(|v6| v6.hop_limit));
        Ok(Self {
            source,
            destination,
            family,
            live: spec.live_traffic,
            dropped_only: spec.live_traffic && spec.dropped_only,
            protocol,
            ttl: number(ttl.filter(|ttl| *ttl != 0)).unwrap_or(DEFAULT_TTL),
            flags: number(v4.and_then(|v4| v4.flags)).unwrap_or(0),
            ports: ports.map(number),
            tcp_flags: number(tcp.flags),
            icmp: [icmp.id, icmp.sequence].map(number),
        })
    }

    /// The protocol in this family; `None` is any.
    fn protocol(&self, family: Family) -> Option<u8> {
        match (self.protocol, family) {
            (Some(ICMP | ICMPV6), Family::V4) => Some(ICMP),
            (Some(ICMP | ICMPV6), Family::V6) => Some(ICMPV6),
            (None, Family::V4) if !self.live => Some(ICMP),
            (None, Family::V6) if !self.live => Some(ICMPV6),
            (other, _) => other,
        }
    }

    /// The packet to send. `random` fills in what nobody asked for, so that two traces are two connections.
    pub fn headers(
        &self,
        macs: (MacAddr, MacAddr),
        (src, dst): (IpAddr, IpAddr),
        tag: u8,
        random: u32,
    ) -> Headers {
        let family = if src.is_ipv4() { Family::V4 } else { Family::V6 };
        let protocol = self.protocol(family).unwrap_or(ICMP);
        let port =
            |asked: Option<u16>, random: u32| asked.unwrap_or_else(|| (FIRST_PORT + random % PORTS) as u16);
        let [from, to] = [port(self.ports[0], random), port(self.ports[1], random.rotate_left(16))];
        let transport = match protocol {
            TCP => {
                let flags = self.tcp_flags.unwrap_or(SYN);
                Transport::Tcp { src: from, dst: to, flags, sequence: 0, acknowledged: 0 }
            }
            UDP => Transport::Udp { src: from, dst: to },
            ICMP | ICMPV6 => Transport::Icmp {
                kind: if family == Family::V4 { 8 } else { 128 },
                code: 0,
                id: self.icmp[0].unwrap_or(random as u16),
                sequence: self.icmp[1].unwrap_or(1),
            },
            _ => Transport::Other,
        };
        Headers {
            eth_src: macs.0,
            eth_dst: macs.1,
            src,
            dst,
            dscp: tag,
            ttl: self.ttl,
            flags: if family == Family::V4 { self.flags } else { 0 },
            protocol,
            length: 0,
            transport,
        }
    }

    /// Whether a packet with the trace's tag may be the one that is meant: whatever carries the tag of its own accord is
    /// mostly of another protocol or port.
    pub fn fits(&self, headers: &Headers) -> bool {
        let family = if headers.src.is_ipv4() { Family::V4 } else { Family::V6 };
        let source = match headers.transport {
            Transport::Tcp { src, .. } | Transport::Udp { src, .. } => Some(src),
            _ => None,
        };
        self.family.is_none_or(|own| own == family)
            && self.protocol(family).is_none_or(|protocol| protocol == headers.protocol)
            && self.ports[0].is_none_or(|port| source.is_none_or(|source| source == port))
    }

    /// What real traffic has to look like, for each family in which both ends have an address. An end without addresses
    /// is anything.
    pub fn matches(
        &self,
        families: impl Iterator<Item = Family>,
        from: &[IpAddr],
        to: &[IpAddr],
    ) -> Vec<Match> {
        let mut matches = Vec::new();
        for family in families.filter(|family| self.family.is_none_or(|own| own == *family)) {
            let own = |ip: &&IpAddr| ip.is_ipv4() == (family == Family::V4);
            let (src, dst) = (from.iter().find(own), to.iter().find(own));
            if src.is_none() && !from.is_empty() || dst.is_none() && !to.is_empty() {
                continue;
            }
            let mut one = family.packets();
            if let Some(src) = src {
                one = one.nw_src(*src);
            }
            if let Some(dst) = dst {
                one = one.nw_dst(*dst);
            }
            let Some(protocol) = self.protocol(family) else {
                matches.push(one);
                continue;
            };
            one = one.nw_proto(protocol);
            let [from, to] = self.ports;
            if let Some(port) = from {
                one = if protocol == TCP { one.tcp_src(port, u16::MAX) } else { one.udp_src(port, u16::MAX) };
            }
            if let Some(port) = to {
                one = if protocol == TCP { one.tcp_dst(port, u16::MAX) } else { one.udp_dst(port, u16::MAX) };
            }
            if let (TCP, Some(flags)) = (protocol, self.tcp_flags) {
                one = one.tcp_flags(flags.into(), 0xff);
            }
            matches.push(one);
        }
        matches
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use antrea_crds::traceflow::{Destination, IpHeader, Ipv6Header, Source, Tcp, TransportHeader};

    fn spec(ip: &str) -> TraceflowSpec {
        TraceflowSpec {
            source: Some(Source { pod: Some("a".into()), ..Source::default() }),
            destination: Some(Destination { ip: Some(ip.into()), ..Destination::default() }),
            ..TraceflowSpec::default()
        }
    }

    fn tcp(port: i64) -> Packet {
        let tcp = Tcp { dst_port: Some(port), ..Tcp::default() };
        let transport = TransportHeader { tcp: Some(tcp), ..TransportHeader::default() };
        Packet { transport_header: Some(transport), ..Packet::default() }
    }

    fn made(request: &Request, src: &str, dst: &str) -> Headers {
        let macs = (MacAddr([1; 6]), MacAddr([2; 6]));
        request.headers(macs, (src.parse().unwrap(), dst.parse().unwrap()), 7, 0x0001_0002)
    }

    #[test]
    fn an_echo_by_default_of_the_family_of_the_destination() {
        let request = Request::read(&spec("192.0.2.1")).unwrap();
        assert_eq!(request.source, End::Pod(Name { namespace: "default".into(), name: "a".into() }));
        let packet = made(&request, "10.0.0.1", "192.0.2.1");
        assert_eq!((packet.protocol, packet.ttl, packet.dscp), (1, 64, 7));
        assert_eq!(packet.transport, Transport::Icmp { kind: 8, code: 0, id: 2, sequence: 1 });
        let request = Request::read(&spec("2001:db8::1")).unwrap();
        assert_eq!(request.family, Some(Family::V6));
        let packet = made(&request, "fd00::1", "2001:db8::1");
        assert_eq!(packet.transport, Transport::Icmp { kind: 128, code: 0, id: 2, sequence: 1 });
    }

    #[test]
    fn headers_say_protocol_ports_and_family() {
        let mut asked = spec("192.0.2.1");
        asked.packet = Some(tcp(443));
        let request = Request::read(&asked).unwrap();
        let packet = made(&request, "10.0.0.1", "192.0.2.1");
        assert_eq!(
            packet.transport,
            Transport::Tcp { src: 41_842, dst: 443, flags: 2, sequence: 0, acknowledged: 0 }
        );
        assert!(request.fits(&packet));
        assert!(!request.fits(&Headers { protocol: UDP, ..packet.clone() }));
        // A protocol that is named wins over headers of another.
        asked.packet.as_mut().unwrap().ip_header =
            Some(IpHeader { protocol: Some(17), ..IpHeader::default() });
        let packet = made(&Request::read(&asked).unwrap(), "10.0.0.1", "192.0.2.1");
        assert!(matches!(packet.transport, Transport::Udp { .. }), "{packet:?}");
        asked.packet = Some(Packet { ipv6_header: Some(Ipv6Header::default()), ..Packet::default() });
        assert_eq!(Request::read(&asked).unwrap_err().field, "spec.packet");
    }

    #[test]
    fn live_traffic_is_matched_by_what_is_asked_for_and_nothing_else() {
        let asked = TraceflowSpec { live_traffic: true, ..spec("192.0.2.1") };
        let families = || [Family::V4, Family::V6].into_iter();
        let ips = |list: &[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
        let (pod, other) = (ips(&["10.0.0.1", "fd00::1"]), ips(&["192.0.2.1"]));
        let request = Request::read(&asked).unwrap();
        assert_eq!(
            request.matches(families(), &pod, &other),
            [Match::new().ip().nw_src(pod[0]).nw_dst(other[0])]
        );
        let asked = TraceflowSpec { packet: Some(tcp(80)), destination: None, ..asked };
        let both = Request::read(&asked).unwrap().matches(families(), &pod, &[]);
        assert_eq!(both[1], Match::new().tcp6().nw_src(pod[1]).tcp_dst(80, u16::MAX));
        assert_eq!(both.len(), 2);
        let nothing = TraceflowSpec { source: None, ..asked };
        assert!(Request::read(&nothing).is_err());
    }
}
