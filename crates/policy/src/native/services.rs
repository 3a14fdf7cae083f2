//! Ports, protocols and Services of a rule.

use crate::{
    crd,
    error::{Place, Problem},
    k8s,
    model::{Direction, Port, Protocol, Service, ServiceName},
    ports::PortRange,
    translate::{port_number, service},
};

/// Matches that a service needs.
pub(crate) fn matches(service: &Service) -> usize {
    let masks = |first, last| PortRange::new(first, last).map_or(1, |range| range.masks().len());
    let destination = match (&service.port, service.end_port) {
        (Some(Port::Number(first)), Some(last)) => masks(*first, last),
        _ => 1,
    };
    let source = match (service.src_port, service.src_end_port) {
        (Some(first), Some(last)) => masks(first, last),
        _ => 1,
    };
    destination * source
}

pub(super) fn services(rule: &crd::Rule, place: &mut Place<'_>) -> Vec<Service> {
    let mut services = Vec::with_capacity(rule.ports.len() + rule.protocols.len());
    for (i, port) in rule.ports.iter().enumerate() {
        services.extend(port_service(port, &mut place.index("ports", i)));
    }
    for (i, protocol) in rule.protocols.iter().enumerate() {
        services.extend(protocol_service(protocol, &mut place.index("protocols", i)));
    }
    services
}

/// The Services that a rule names, of a policy in this namespace. They say themselves where and by which port: an error
/// is a rule that says it besides, or looks the other way.
pub(super) fn to_services(
    rule: &crd::Rule,
    direction: Direction,
    own: Option<&str>,
    place: &mut Place<'_>,
) -> Result<Vec<ServiceName>, ()> {
    if rule.to_services.is_empty() {
        return Ok(Vec::new());
    }
    let wrong = match direction {
        Direction::In => Some(Problem::Misplaced),
        Direction::Out => {
            let alone = rule.to.is_empty() && rule.ports.is_empty() && rule.protocols.is_empty();
            (!alone).then_some(Problem::MixedToServices)
        }
    };
    if let Some(wrong) = wrong {
        place.field("toServices").add(wrong);
        return Err(());
    }
    let mut found = Vec::with_capacity(rule.to_services.len());
    for (i, service) in rule.to_services.iter().enumerate() {
        let place = &mut place.index("toServices", i);
        if !matches!(&*service.scope, "" | "Cluster") {
            place.field("scope").add(Problem::Unsupported);
            continue;
        }
        let namespace =
            if service.namespace.is_empty() { own.unwrap_or_default() } else { &service.namespace };
        if service.name.is_empty() || namespace.is_empty() {
            place.add(Problem::NoService);
            continue;
        }
        found.push(ServiceName { namespace: namespace.into(), name: service.name.clone() });
    }
    Ok(found)
}

fn port_service(port: &crd::Port, place: &mut Place<'_>) -> Option<Service> {
    let destination = k8s::NetworkPolicyPort {
        protocol: port.protocol.clone(),
        port: port.port.clone(),
        end_port: port.end_port,
    };
    let destination = service(&destination, place);
    let mut number = |field: &'static str, value: Option<i64>| match value {
        None => Some(None),
        Some(value) => place.field(field).check(port_number(value)).map(Some),
    };
    let src_port = number("sourcePort", port.source_port);
    let src_end_port = number("sourceEndPort", port.source_end_port);
    let (src_port, src_end_port) = (src_port?, src_end_port?);
    match (src_port, src_end_port) {
        (None, Some(_)) => {
            place.field("sourceEndPort").add(Problem::EndPortAlone);
            None
        }
        (Some(port), Some(end)) if end < port => {
            place.field("sourceEndPort").add(Problem::EndPort { end: end.into(), port });
            None
        }
        _ => Some(Service { src_port, src_end_port, ..destination? }),
    }
}

fn protocol_service(written: &crd::ProtocolMatch, place: &mut Place<'_>) -> Option<Service> {
    match (&written.icmp, &written.igmp) {
        (Some(icmp), None) => {
            let place = &mut place.field("icmp");
            let mut byte = |field: &'static str, value: Option<i64>| match value.map(u8::try_from) {
                None => Some(None),
                Some(Ok(value)) => Some(Some(value)),
                Some(Err(_)) => {
                    place.field(field).add(Problem::Icmp(value.unwrap_or_default()));
                    None
                }
            };
            let icmp_type = byte("icmpType", icmp.icmp_type);
            let icmp_code = byte("icmpCode", icmp.icmp_code);
            let service =
                Service { icmp_type: icmp_type?, icmp_code: icmp_code?, ..Service::protocol(Protocol::Icmp) };
            if service.icmp_code.is_some() && service.icmp_type.is_none() {
                place.field("icmpCode").add(Problem::IcmpCodeAlone);
                return None;
            }
            Some(service)
        }
        (None, Some(_)) => {
            place.field("igmp").add(Problem::Unsupported);
            None
        }
        _ => {
            place.add(Problem::ProtocolMatch);
            None
        }
    }
}
