//! What happened to a packet on a node, in upstream's words.

use std::net::IpAddr;

use antrea_crds::traceflow::{Icmp, IpHeader, Ipv6Header, Tcp, TransportHeader, Udp};
use antrea_crds::traceflow::{NodeResult, Observation, Packet, Phase, Status};
use antrea_flows::{Table, Traced};
use antrea_packet::{Headers, Transport};

/// Upstream's components.
const SPOOF_GUARD: &str = "SpoofGuard";
const LB: &str = "LB";
const NETWORK_POLICY: &str = "NetworkPolicy";
const FORWARDING: &str = "Forwarding";

/// Upstream's actions.
const DELIVERED: &str = "Delivered";
const RECEIVED: &str = "Received";
const FORWARDED: &str = "Forwarded";
const DROPPED: &str = "Dropped";
const REJECTED: &str = "Rejected";
const OUT_OF_OVERLAY: &str = "ForwardedOutOfOverlay";

/// [`NodeResult::role`] of the node that the packet comes from.
pub const SENDER: &str = "sender";
/// [`NodeResult::role`] of all others.
pub const RECEIVER: &str = "receiver";

/// What the node knows about ports, rules and peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// This is the node of the pod that the packet comes from.
    pub sender: bool,
    /// The packet was here before: the host gave it another destination and sent it back.
    pub again: bool,
    /// Where the packet was going when it was sent, if that is known.
    pub asked: Option<IpAddr>,
    /// The pod that it is delivered to.
    pub pod: Option<String>,
    /// The other end of the tunnel.
    pub tunnel: Option<IpAddr>,
    /// The host sends it on to pods: to an endpoint of a Service, or to a node without a tunnel.
    pub stays: bool,
    /// Policy of the egress rule that let it pass.
    pub egress: Option<String>,
    /// Policy of the ingress rule that let it pass.
    pub ingress: Option<String>,
    /// Policy of the rule that denied it.
    pub denied: Option<String>,
    /// Policies that isolate the pod.
    pub isolating: Vec<String>,
}

fn observation(component: &str, info: &str, action: &str) -> Observation {
    Observation {
        component: component.to_owned(),
        component_info: info.to_owned(),
        action: action.to_owned(),
        ..Observation::default()
    }
}

fn policy(table: Table, action: &str, name: Option<&String>) -> Observation {
    let network_policy = name.cloned().unwrap_or_default();
    Observation { network_policy, ..observation(NETWORK_POLICY, table.name(), action) }
}

/// What a node saw of a packet.
pub fn observe(traced: &Traced, headers: &Headers, facts: &Surroundings) -> Vec<Observation> {
    let mut seen = Vec::new();
    if facts.sender && !facts.again {
        seen.push(observation(SPOOF_GUARD, "", FORWARDED));
    } else if !facts.sender {
        seen.push(observation(FORWARDING, "Classification", RECEIVED));
    }
    if facts.sender && facts.asked.is_some_and(|asked| asked != headers.dst) {
        let translated_dst_ip = headers.dst.to_string();
        seen.push(Observation { translated_dst_ip, ..observation(LB, "", FORWARDED) });
    }
    if traced.egress_rule.is_some() {
        seen.push(policy(Table::EgressRule, FORWARDED, facts.egress.as_ref()));
    }
    if traced.ingress_rule.is_some() {
        seen.push(policy(Table::IngressRule, FORWARDED, facts.ingress.as_ref()));
    }
    let denied = match traced.denied {
        Some((_, true)) => REJECTED,
        _ => DROPPED,
    };
    let isolating = Some(facts.isolating.join(", ")).filter(|names| !names.is_empty());
    seen.push(match traced.reached {
        Some(table @ (Table::EgressDefaultRule | Table::IngressDefaultRule)) => {
            policy(table, DROPPED, isolating.as_ref())
        }
        Some(table @ (Table::EgressMetric | Table::IngressMetric)) => {
            policy(table, denied, facts.denied.as_ref())
        }
        Some(Table::Output) if traced.sent => output(traced, headers, facts),
        Some(table) => observation(FORWARDING, table.name(), DROPPED),
        None => observation(FORWARDING, Table::ConntrackState.name(), DROPPED),
    });
    seen
}

fn output(traced: &Traced, headers: &Headers, facts: &Surroundings) -> Observation {
    use antrea_flows::field::Destination;
    let info = Table::Output.name();
    let mut seen = match traced.destination {
        None => Observation {
            pod: facts.pod.clone().unwrap_or_default(),
            ..observation(FORWARDING, info, DELIVERED)
        },
        Some(Destination::Tunnel) => Observation {
            tunnel_dst_ip: facts.tunnel.map(|ip| ip.to_string()).unwrap_or_default(),
            ..observation(FORWARDING, info, FORWARDED)
        },
        Some(Destination::Gateway) if facts.stays => observation(FORWARDING, info, FORWARDED),
        Some(Destination::Gateway) => observation(FORWARDING, info, OUT_OF_OVERLAY),
    };
    seen.dst_mac = headers.eth_dst.to_string();
    seen.ttl = Some(headers.ttl.into());
    seen
}

/// Whether the observations say that the packet went no further than this node.
pub fn is_dropped(observations: &[Observation]) -> bool {
    observations.iter().any(|seen| seen.action == DROPPED || seen.action == REJECTED)
}

/// Whether what is known of a packet is its whole way.
pub fn is_complete(status: &Status, needs_sender: bool, dropped_only: bool) -> bool {
    if dropped_only {
        return status.results.iter().any(|result| is_dropped(&result.observations));
    }
    let all = || status.results.iter().flat_map(|result| &result.observations);
    let sent = all().any(|seen| seen.component == SPOOF_GUARD);
    let ended = |action: &str| matches!(action, DELIVERED | DROPPED | REJECTED | OUT_OF_OVERLAY);
    (sent || !needs_sender) && all().any(|seen| ended(&seen.action))
}

/// Takes what a node saw into a status; false if it is there, or the trace has failed. Where the packet ends may be known
/// before all of its way is.
pub fn merge(status: &mut Status, result: &NodeResult, captured: Option<&Packet>) -> bool {
    if !matches!(status.phase, Some(Phase::Running | Phase::Succeeded)) {
        return false;
    }
    match status.results.iter_mut().find(|known| known.node == result.node) {
        Some(known) if known.observations.len() >= result.observations.len() => return false,
        Some(known) => *known = result.clone(),
        None => status.results.push(result.clone()),
    }
    if status.captured_packet.is_none() {
        status.captured_packet = captured.cloned();
    }
    true
}

/// A packet of real traffic, as a status tells it.
pub fn captured(headers: &Headers) -> Packet {
    let v4 = headers.src.is_ipv4();
    let port = |port: u16| Some(i64::from(port)).filter(|port| *port != 0);
    let transport = match headers.transport {
        Transport::Tcp { src, dst, flags, .. } => TransportHeader {
            tcp: Some(Tcp { src_port: port(src), dst_port: port(dst), flags: Some(flags.into()) }),
            ..TransportHeader::default()
        },
        Transport::Udp { src, dst } => TransportHeader {
            udp: Some(Udp { src_port: port(src), dst_port: port(dst) }),
            ..TransportHeader::default()
        },
        Transport::Icmp { id, sequence, .. } => TransportHeader {
            icmp: Some(Icmp { id: Some(id.into()), sequence: Some(sequence.into()) }),
            ..TransportHeader::default()
        },
        Transport::Other => TransportHeader::default(),
    };
    Packet {
        src_ip: Some(headers.src.to_string()),
        dst_ip: Some(headers.dst.to_string()),
        length: Some(i64::from(headers.length).min(65_535)),
        ip_header: v4.then(|| IpHeader {
            protocol: Some(headers.protocol.into()),
            ttl: Some(headers.ttl.into()),
            flags: Some(headers.flags.into()),
        }),
        ipv6_header: (!v4).then(|| Ipv6Header {
            next_header: Some(headers.protocol.into()),
            hop_limit: Some(headers.ttl.into()),
        }),
        transport_header: (headers.transport != Transport::Other).then_some(transport),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use antrea_flows::field::{Destination, Source};
    use openflow::MacAddr;

    fn headers() -> Headers {
        Headers {
            eth_src: MacAddr([1; 6]),
            eth_dst: MacAddr([2; 6]),
            src: "10.0.0.1".parse().unwrap(),
            dst: "10.0.1.1".parse().unwrap(),
            dscp: 7,
            ttl: 63,
            flags: 2,
            protocol: 6,
            length: 40,
            transport: Transport::Tcp { src: 1, dst: 80, flags: 2, sequence: 0, acknowledged: 0 },
        }
    }

    fn traced(reached: Option<Table>) -> Traced {
        Traced {
            tag: 7,
            in_port: 3,
            source: Source::Pod,
            destination: Some(Destination::Tunnel),
            target: Some(1),
            sent: reached == Some(Table::Output),
            reached,
            egress_rule: None,
            ingress_rule: None,
            denied: None,
        }
    }

    /// Component, table, action, policy.
    fn told(seen: &[Observation]) -> Vec<String> {
        let text = |o: &Observation| {
            [&o.component, &o.component_info, &o.action, &o.network_policy].map(String::as_str).join("/")
        };
        seen.iter().map(text).collect()
    }

    #[test]
    fn from_a_pod_into_the_tunnel() {
        let facts = Surroundings {
            sender: true,
            egress: Some("K8sNetworkPolicy:shop/out".into()),
            tunnel: "172.30.0.12".parse().ok(),
            ..Surroundings::default()
        };
        let seen =
            observe(&Traced { egress_rule: Some(4), ..traced(Some(Table::Output)) }, &headers(), &facts);
        let expected = [
            "SpoofGuard//Forwarded/",
            "NetworkPolicy/EgressRule/Forwarded/K8sNetworkPolicy:shop/out",
            "Forwarding/Output/Forwarded/",
        ];
        assert_eq!(told(&seen), expected);
        let last = seen.last().unwrap();
        assert_eq!((last.tunnel_dst_ip.as_str(), last.ttl), ("172.30.0.12", Some(63)));
        assert_eq!(last.dst_mac, "02:02:02:02:02:02");
    }

    #[test]
    fn every_table_at_which_it_can_end() {
        let facts = Surroundings {
            denied: Some("deny".into()),
            isolating: vec!["a".into(), "b".into()],
            ..Surroundings::default()
        };
        let ends = |reached, denied| {
            let seen = observe(&Traced { denied, ..traced(reached) }, &headers(), &facts);
            assert!(is_dropped(&seen), "{seen:?}");
            told(&seen)[1].clone()
        };
        for (reached, denied, expected) in [
            (None, None, "Forwarding/ConntrackState/Dropped/"),
            (Some(Table::EgressDefaultRule), None, "NetworkPolicy/EgressDefaultRule/Dropped/a, b"),
            (Some(Table::EgressMetric), Some((9, false)), "NetworkPolicy/EgressMetric/Dropped/deny"),
            (Some(Table::L3Forwarding), None, "Forwarding/L3Forwarding/Dropped/"),
            (Some(Table::L2ForwardingCalc), None, "Forwarding/L2ForwardingCalc/Dropped/"),
            (Some(Table::IngressDefaultRule), None, "NetworkPolicy/IngressDefaultRule/Dropped/a, b"),
            (Some(Table::IngressMetric), Some((9, true)), "NetworkPolicy/IngressMetric/Rejected/deny"),
        ] {
            assert_eq!(ends(reached, denied), expected);
        }
    }

    #[test]
    fn a_service_of_the_host_comes_back() {
        let service: IpAddr = "10.96.0.1".parse().unwrap();
        let to_host = Traced { destination: Some(Destination::Gateway), ..traced(Some(Table::Output)) };
        let facts =
            Surroundings { sender: true, asked: Some(service), stays: true, ..Surroundings::default() };
        let first = observe(&to_host, &Headers { dst: service, ..headers() }, &facts);
        assert_eq!(told(&first), ["SpoofGuard//Forwarded/", "Forwarding/Output/Forwarded/"]);
        let back = Traced { destination: None, ..traced(Some(Table::Output)) };
        let second =
            observe(&back, &headers(), &Surroundings { again: true, pod: Some("shop/db".into()), ..facts });
        assert_eq!(told(&second), ["LB//Forwarded/", "Forwarding/Output/Delivered/"]);
        assert_eq!(second[0].translated_dst_ip, "10.0.1.1");
        assert_eq!(second[1].pod, "shop/db");
    }

    #[test]
    fn a_status_is_complete_when_the_end_is_known() {
        let mut status = Status { phase: Some(Phase::Running), ..Status::default() };
        let result = |node: &str, observations: Vec<Observation>| NodeResult {
            node: node.into(),
            observations,
            ..NodeResult::default()
        };
        let sent =
            vec![observation(SPOOF_GUARD, "", FORWARDED), observation(FORWARDING, "Output", FORWARDED)];
        let arrived = vec![observation(FORWARDING, "Output", DELIVERED)];
        assert!(merge(&mut status, &result("b", arrived.clone()), Some(&captured(&headers()))));
        assert!(!is_complete(&status, true, false), "nobody says who sent it");
        assert!(is_complete(&status, false, false));
        assert!(merge(&mut status, &result("a", sent.clone()), None));
        assert!(!merge(&mut status, &result("a", sent[..1].to_vec()), None), "less than is known");
        assert!(is_complete(&status, true, false));
        assert!(!is_complete(&status, true, true), "it was not dropped");
        let packet = status.captured_packet.clone().unwrap();
        assert_eq!((packet.src_ip.as_deref(), packet.length), (Some("10.0.0.1"), Some(40)));
        status.phase = Some(Phase::Failed);
        assert!(!merge(&mut status, &result("c", arrived), None));
    }
}
