//! Named ports: a name means on each pod what its containers say.

use std::collections::BTreeMap;

use super::{NamedPort, PortRange, Protocol, Service};

/// A service of a policy before names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedService {
    /// Nothing to resolve.
    Plain(Service),
    /// A container port with this name and protocol.
    Named {
        protocol: Protocol,
        name: Box<str>,
        /// Source ports; `None` is all.
        src_ports: Option<PortRange>,
    },
}

/// Splits a rule with named ports: each result is what the rule says to the members in it (the pods it applies
/// to if ingress, its peers if egress), which must become a rule of its own. Members on which no service
/// resolves are left out, for the rule says nothing to them. Without named ports there is one result. Results
/// are ordered by their services, members keep their order, so the same input gives the same ids.
pub fn resolve_named_ports<'a, M>(
    services: &[NamedService],
    members: impl IntoIterator<Item = (M, &'a [NamedPort])>,
) -> Vec<(Vec<Service>, Vec<M>)> {
    let mut groups: BTreeMap<Vec<Option<u16>>, Vec<M>> = BTreeMap::new();
    for (member, ports) in members {
        let numbers = services.iter().filter_map(|service| match service {
            NamedService::Plain(_) => None,
            NamedService::Named { protocol, name, .. } => {
                Some(ports.iter().find(|p| p.protocol == *protocol && p.name == *name).map(|p| p.port))
            }
        });
        groups.entry(numbers.collect()).or_default().push(member);
    }
    groups
        .into_iter()
        .filter_map(|(numbers, members)| {
            let mut numbers = numbers.into_iter();
            let resolved: Vec<Service> = services
                .iter()
                .filter_map(|service| match service {
                    NamedService::Plain(service) => Some(*service),
                    NamedService::Named { protocol, src_ports, .. } => numbers.next().flatten().map(|n| {
                        Service { src_ports: *src_ports, ..Service::to(*protocol, PortRange::single(n)) }
                    }),
                })
                .collect();
            // An empty list of services would mean all traffic.
            (services.is_empty() || !resolved.is_empty()).then_some((resolved, members))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_grouped_by_what_names_mean() {
        let port = |name: &str, port, protocol| NamedPort { name: name.into(), port, protocol };
        let (a, b) = ([port("web", 80, Protocol::Tcp)], [port("web", 8080, Protocol::Tcp)]);
        let udp = [port("web", 80, Protocol::Udp)];
        let web = NamedService::Named { protocol: Protocol::Tcp, name: "web".into(), src_ports: None };
        let members = || [(1, &a[..]), (2, &b[..]), (3, &a[..]), (4, &udp[..])];
        let tcp = |n| Service::to(Protocol::Tcp, PortRange::single(n));

        assert_eq!(
            resolve_named_ports(std::slice::from_ref(&web), members()),
            [(vec![tcp(80)], vec![1, 3]), (vec![tcp(8080)], vec![2])]
        );
        let dns = Service::to(Protocol::Udp, PortRange::single(53));
        assert_eq!(
            resolve_named_ports(&[NamedService::Plain(dns), web], members()),
            [(vec![dns], vec![4]), (vec![dns, tcp(80)], vec![1, 3]), (vec![dns, tcp(8080)], vec![2])]
        );
        assert_eq!(resolve_named_ports(&[], members()), [(vec![], vec![1, 2, 3, 4])]);
    }
}
