//! What is asked for: which packets, at which Pod.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use antrea_crds::PacketCaptureSpec;
use antrea_crds::packet_capture::{
    self as crd, CapturePoint, DEFAULT_TIMEOUT, Direction, IpFamily, TransportHeader,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::filter::Pattern;
use crate::upload::Target;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// What of a spec cannot be, although it was taken at apply. The message names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Problem {
    /// Field path.
    pub field: &'static str,
    /// What is wrong.
    pub message: String,
}

pub(crate) fn problem<T>(field: &'static str, message: impl Into<String>) -> Result<T, Problem> {
    Err(Problem { field, message: message.into() })
}

/// A Pod's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Pod(Name),
    Ip(IpAddr),
    /// Anybody.
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// Of the packet's family.
    Icmp,
    Number(u8),
}

/// A spec that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The Pod at which packets are captured.
    pub pod: Name,
    /// Field path of that Pod.
    pub pod_field: &'static str,
    /// The other end.
    pub other: End,
    /// Field path of the other end.
    pub other_field: &'static str,
    /// How many packets.
    pub number: u32,
    /// How long to wait for them.
    pub timeout: Duration,
    at_source: bool,
    direction: Direction,
    v6: bool,
    protocol: Option<Protocol>,
    ports: [Option<u16>; 2],
    flags: Vec<(u8, u8)>,
    messages: Vec<(Message, Option<u8>)>,
    /// Where the file is to go too.
    pub upload: Option<Target>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Message {
    Number(u8),
    /// Numbers of ICMP and ICMPv6.
    Named(u8, u8),
}

/// Names of messages, with their numbers in ICMP and ICMPv6.
const MESSAGES: [(&str, u8, u8); 4] =
    [("icmp-echo", 8, 128), ("icmp-echoreply", 0, 129), ("icmp-unreach", 3, 1), ("icmp-timxceed", 11, 3)];

fn end(field: &'static str, end: Option<&crd::End>) -> Result<End, Problem> {
    let Some(end) = end else { return Ok(End::Any) };
    match (&end.pod, &end.ip) {
        (Some(_), Some(_)) => problem(field, "name a pod or an ip, not both"),
        (Some(pod), None) => {
            let namespace = pod.namespace.as_deref().filter(|namespace| !namespace.is_empty());
            Ok(End::Pod(Name {
                namespace: namespace.unwrap_or("default").to_owned(),
                name: pod.name.clone(),
            }))
        }
        (None, Some(ip)) => match ip.parse() {
            Ok(ip) => Ok(End::Ip(ip)),
            Err(_) => problem(field, format!("{ip} is no IP address")),
        },
        (None, None) => Ok(End::Any),
    }
}

fn port(value: Option<i64>) -> Option<u16> {
    value.and_then(|value| u16::try_from(value).ok())
}

/// A protocol by number or, in whatever case, by name.
fn protocol(said: &IntOrString) -> Result<Protocol, Problem> {
    let field = "spec.packet.protocol";
    match said {
        IntOrString::Int(number) => match u8::try_from(*number) {
            Ok(number) => Ok(Protocol::Number(number)),
            Err(_) => problem(field, format!("{number} is no protocol")),
        },
        IntOrString::String(text) => match text.to_ascii_uppercase().as_str() {
            "TCP" => Ok(Protocol::Number(TCP)),
            "UDP" => Ok(Protocol::Number(UDP)),
            "ICMP" => Ok(Protocol::Icmp),
            other => match other.parse() {
                Ok(number) => Ok(Protocol::Number(number)),
                Err(_) => problem(field, format!("{text} is none of TCP, UDP and ICMP")),
            },
        },
    }
}

fn message(kind: &crd::IcmpMessage) -> Result<(Message, Option<u8>), Problem> {
    let field = "spec.packet.transportHeader.icmp.messages";
    let code = kind.code.and_then(|code| u8::try_from(code).ok());
    let message = match &kind.type_ {
        IntOrString::Int(number) => u8::try_from(*number).ok().map(Message::Number),
        IntOrString::String(text) => {
            let named = MESSAGES.iter().find(|(name, ..)| name == text);
            let named = named.map(|(_, v4, v6)| Message::Named(*v4, *v6));
            named.or_else(|| text.parse().ok().map(Message::Number))
        }
    };
    match message {
        Some(message) => Ok((message, code)),
        None => {
            problem(field, "a type is icmp-echo, icmp-echoreply, icmp-unreach, icmp-timxceed or a number")
        }
    }
}

impl Request {
    /// Reads a spec.
    ///
    /// # Errors
    /// What the schema lets pass and cannot be captured.
    pub fn read(spec: &PacketCaptureSpec) -> Result<Self, Problem> {
        let source = end("spec.source", spec.source.as_ref())?;
        let destination = end("spec.destination", spec.destination.as_ref())?;
        let at_source = match spec.capture_point {
            Some(point) => point == CapturePoint::Source,
            None => matches!(source, End::Pod(_)),
        };
        let fields = ["spec.source", "spec.destination"];
        let (here, other, [pod_field, other_field]) = if at_source {
            (source, destination, fields)
        } else {
            (destination, source, [fields[1], fields[0]])
        };
        let End::Pod(pod) = here else {
            return problem(pod_field, "packets are captured at a Pod: name one");
        };
        let none = crd::Packet::default();
        let packet = spec.packet.as_ref().unwrap_or(&none);
        let v6 = match (packet.ip_family, &other) {
            (Some(family), End::Ip(ip)) if ip.is_ipv6() != (family == IpFamily::V6) => {
                return problem("spec.packet.ipFamily", format!("{ip} is of the other family"));
            }
            (Some(family), _) => family == IpFamily::V6,
            (None, End::Ip(ip)) => ip.is_ipv6(),
            (None, _) => false,
        };
        let header = packet.transport_header.clone().unwrap_or_default();
        let implied = match &header {
            TransportHeader { tcp: Some(_), .. } => Some(Protocol::Number(TCP)),
            TransportHeader { udp: Some(_), .. } => Some(Protocol::Number(UDP)),
            TransportHeader { icmp: Some(_), .. } => Some(Protocol::Icmp),
            _ => None,
        };
        let said = packet.protocol.as_ref().map(protocol).transpose()?.or(implied);
        let number = |protocol: Protocol| match protocol {
            Protocol::Icmp if v6 => ICMPV6,
            Protocol::Icmp => ICMP,
            Protocol::Number(number) => number,
        };
        if implied.is_some() && implied.map(number) != said.map(number) {
            return problem("spec.packet.transportHeader", "spec.packet.protocol is another");
        }
        let TransportHeader { tcp, udp, icmp } = header;
        let (tcp, udp) = (tcp.unwrap_or_default(), udp.unwrap_or_default());
        let ports = [tcp.src_port.or(udp.src_port), tcp.dst_port.or(udp.dst_port)].map(port);
        let flag = |value: i64| u8::try_from(value).unwrap_or_default();
        let flags =
            tcp.flags.iter().map(|flags| (flag(flags.value), flag(flags.mask.unwrap_or(flags.value))));
        let messages = icmp.unwrap_or_default().messages;
        let seconds = u64::try_from(spec.timeout.unwrap_or(DEFAULT_TIMEOUT)).unwrap_or_default();
        let wanted = u32::try_from(spec.capture_config.first_n.number).unwrap_or_default();
        if wanted == 0 {
            return problem("spec.captureConfig.firstN.number", "is less than one packet");
        }
        Ok(Self {
            pod,
            pod_field,
            other,
            other_field,
            number: wanted,
            timeout: Duration::from_secs(seconds.clamp(1, 300)),
            at_source,
            direction: spec.direction.unwrap_or(Direction::SourceToDestination),
            v6,
            protocol: said,
            ports,
            flags: flags.collect(),
            upload: spec.file_server.as_ref().map(Target::read).transpose()?,
            messages: messages.iter().map(message).collect::<Result<_, _>>()?,
        })
    }

    /// What packets look like where the Pod and the other end have these addresses. Of an end that is anybody there are
    /// none.
    ///
    /// # Errors
    /// An end has no address of the packets' family.
    pub fn patterns(&self, pod: &[IpAddr], other: &[IpAddr]) -> Result<Vec<Pattern>, Problem> {
        let family = if self.v6 { "IPv6" } else { "IPv4" };
        let of_family = |field: &'static str, ips: &[IpAddr]| {
            let found = ips.iter().copied().find(|ip| ip.is_ipv6() == self.v6);
            match found {
                Some(ip) => Ok(Some(ip)),
                None => problem(field, format!("has no {family} address")),
            }
        };
        let here = of_family(self.pod_field, pod)?;
        let there = if self.other == End::Any { None } else { of_family(self.other_field, other)? };
        let protocol = self.protocol.map(|protocol| match protocol {
            Protocol::Icmp if self.v6 => ICMPV6,
            Protocol::Icmp => ICMP,
            Protocol::Number(number) => number,
        });
        let message = |(message, code): &(Message, Option<u8>)| match message {
            Message::Number(number) => (*number, *code),
            Message::Named(v4, v6) => (if self.v6 { *v6 } else { *v4 }, *code),
        };
        let forward = Pattern {
            v6: self.v6,
            protocol,
            ends: if self.at_source { [here, there] } else { [there, here] },
            ports: self.ports,
            flags: self.flags.clone(),
            messages: self.messages.iter().map(message).collect(),
        };
        Ok(match self.direction {
            Direction::SourceToDestination => vec![forward],
            Direction::DestinationToSource => vec![forward.answers()],
            Direction::Both => vec![forward.answers(), forward],
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn read(spec: Value) -> Result<Request, String> {
        let mut spec = spec;
        spec["captureConfig"] = json!({"firstN": {"number": 5}});
        Request::read(&from_value(spec).unwrap()).map_err(|problem| problem.to_string())
    }

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn a_flow_at_its_source() {
        let request = read(json!({
            "source": {"pod": {"name": "a"}}, "destination": {"pod": {"namespace": "shop", "name": "b"}},
            "packet": {"protocol": "tcp", "transportHeader": {"tcp": {"dstPort": 80, "flags": [{"value": 2}]}}},
        }))
        .unwrap();
        assert_eq!((request.pod.to_string().as_str(), request.pod_field), ("default/a", "spec.source"));
        assert_eq!((request.number, request.timeout), (5, Duration::from_secs(60)));
        let patterns = request.patterns(&ips(&["fd00::1", "10.0.0.1"]), &ips(&["10.0.0.2"])).unwrap();
        let expected = Pattern {
            v6: false,
            protocol: Some(6),
            ends: [Some("10.0.0.1".parse().unwrap()), Some("10.0.0.2".parse().unwrap())],
            ports: [None, Some(80)],
            flags: vec![(2, 2)],
            messages: vec![],
        };
        assert_eq!(patterns, [expected]);
        let error = request.patterns(&ips(&["10.0.0.1"]), &ips(&["fd00::2"])).unwrap_err();
        assert_eq!(error.to_string(), "spec.destination: has no IPv4 address");
    }

    #[test]
    fn at_its_destination_and_both_ways() {
        let spec = json!({
            "source": {"ip": "fd00::9"}, "destination": {"pod": {"name": "b"}}, "direction": "Both",
            "packet": {"protocol": "ICMP", "transportHeader": {"icmp": {"messages": [
                {"type": "icmp-echo"}, {"type": 1, "code": 4}]}}},
        });
        let request = read(spec).unwrap();
        assert_eq!((request.pod.name.as_str(), request.pod_field), ("b", "spec.destination"));
        let patterns = request.patterns(&ips(&["10.0.0.2", "fd00::2"]), &ips(&["fd00::9"])).unwrap();
        let [answers, forward] = patterns.as_slice() else { panic!("{patterns:?}") };
        assert_eq!(forward.ends, ["fd00::9", "fd00::2"].map(|ip| Some(ip.parse().unwrap())));
        assert_eq!(answers, &forward.answers());
        assert_eq!((forward.protocol, forward.v6), (Some(58), true));
        assert_eq!(forward.messages, [(128, None), (1, Some(4))]);
        let both = json!({"source": {"pod": {"name": "a"}}, "destination": {"pod": {"name": "b"}},
                          "capturePoint": "Destination", "direction": "DestinationToSource"});
        let request = read(both).unwrap();
        assert_eq!((request.pod.name.as_str(), &request.other_field), ("b", &"spec.source"));
        let [only] = request.patterns(&ips(&["10.0.0.2"]), &ips(&["10.0.0.1"])).unwrap().try_into().unwrap();
        assert_eq!(only.ends, ["10.0.0.2", "10.0.0.1"].map(|ip| Some(ip.parse().unwrap())));
        // Anybody is the other end that is left out.
        let [only] = read(json!({"source": {"pod": {"name": "a"}}}))
            .unwrap()
            .patterns(&ips(&["10.0.0.1"]), &[])
            .unwrap()
            .try_into()
            .unwrap();
        assert_eq!(only.ends, [Some("10.0.0.1".parse().unwrap()), None]);
    }

    #[test]
    fn what_cannot_be_names_its_field() {
        let pod = json!({"pod": {"name": "a"}});
        for (spec, field) in [
            (json!({"source": {"ip": "10.0.0.1"}}), "spec.destination: "),
            (json!({"source": pod, "capturePoint": "Destination"}), "spec.destination: "),
            (json!({"source": pod, "destination": {"ip": "x"}}), "spec.destination: x"),
            (
                json!({"source": pod, "destination": {"ip": "::1"}, "packet": {"ipFamily": "IPv4"}}),
                "spec.packet.ipFamily: ",
            ),
            (json!({"source": pod, "packet": {"protocol": "GRE"}}), "spec.packet.protocol: GRE"),
            (json!({"source": pod, "packet": {"protocol": 300}}), "spec.packet.protocol: 300"),
            (
                json!({"source": pod, "packet": {"protocol": 17, "transportHeader": {"tcp": {}}}}),
                "spec.packet.transportHeader: ",
            ),
            (
                json!({"source": pod, "packet": {"transportHeader": {"icmp": {"messages": [{"type": "x"}]}}}}),
                "spec.packet.transportHeader.icmp.messages: ",
            ),
            (
                json!({"source": pod, "fileServer": {"url": "sftp://h:22/p"}}),
                "spec.fileServer.hostPublicKey: ",
            ),
        ] {
            let error = read(spec.clone()).unwrap_err();
            assert!(error.starts_with(field), "{spec}: {error}");
        }
        assert!(
            read(json!({"source": pod, "packet": {"protocol": "1", "transportHeader": {"icmp": {}}}}))
                .is_ok()
        );
        let zero = json!({"source": pod, "captureConfig": {"firstN": {"number": 0}}});
        let error = Request::read(&from_value(zero).unwrap()).unwrap_err();
        assert_eq!(error.field, "spec.captureConfig.firstN.number");
    }
}
