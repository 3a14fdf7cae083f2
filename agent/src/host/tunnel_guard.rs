//! Who may send into the node's end of the tunnel: the other nodes, and nobody else.
//!
//! What a tunnel brings is believed, for its sender has judged it by policy. So a packet is let in only if it comes from
//! an address of a node, to an address of this node, and was meant for it by whoever sent it. Pods send none: not to
//! this node, not to others, where it would arrive with this node's address, and not through a Service whose endpoint is
//! a node. On the kernel's datapath the flows of peers look at the sender too; in userspace the tunnel is a device of
//! the kernel, and this is all that guards it.

use std::net::IpAddr;

use ipnet::IpNet;
use netcfg::Family;
use netcfg::ipset::{IpSet, Member, SetType};
use netcfg::iptables::{AddrType, CtState, Proto, Rule, Ruleset, SetDir, Table, Target};

use crate::config::TunnelType;
use crate::host::network::{HostConfig, TRANSLATED};

/// What a tunnel's packets are on the way between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outer {
    /// UDP to this port: Geneve, VXLAN.
    Udp(u16),
    /// TCP-like segments to this port: STT.
    Tcp(u16),
    /// GRE has no ports.
    Gre,
}

impl Outer {
    /// Of a tunnel on this port.
    pub fn of(tunnel: TunnelType, port: u16) -> Self {
        match tunnel {
            TunnelType::Geneve | TunnelType::Vxlan => Self::Udp(port),
            TunnelType::Stt => Self::Tcp(port),
            TunnelType::Gre => Self::Gre,
        }
    }

    /// A rule for these packets alone.
    pub fn rule(self, target: Target) -> Rule {
        match self {
            Self::Udp(port) => Rule::new(target).proto(Proto::UDP).dst_ports(port),
            Self::Tcp(port) => Rule::new(target).proto(Proto::TCP).dst_ports(port),
            Self::Gre => Rule::new(target).proto(Proto::GRE),
        }
    }
}

/// Name of the set of addresses of all nodes, this one included.
fn node_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "ANTREA-NODE-IP",
        Family::V6 => "ANTREA-NODE-IP6",
    }
}

/// The set of addresses that nodes have.
///
/// # Errors
/// An address that no set can hold.
pub fn set(nodes: &[IpAddr], family: Family) -> netcfg::Result<IpSet> {
    let of_family = nodes.iter().filter(|ip| Family::from(**ip) == family);
    let members = of_family.map(|ip| Member::Net(IpNet::from(*ip)));
    IpSet::new(node_set(family), SetType::HashIp, family, members)
}

/// Adds the rules of one family.
pub fn add_rules(config: &HostConfig, family: Family, rules: &mut Ruleset) {
    let Some(outer) = config.tunnel else { return };
    for (from, to) in [("FORWARD", "ANTREA-FORWARD"), ("INPUT", "ANTREA-INPUT"), ("OUTPUT", "ANTREA-OUTPUT")]
    {
        rules.jump(Table::Mangle, from, to, TRANSLATED);
    }
    let gateway = config.gateway.as_str();
    let nodes = node_set(family);
    let refused = |why: &str| outer.rule(Target::Drop).comment(format!("Antrea: tunnel packets {why}"));
    let mut add = |chain, rule| {
        rules.rule(Table::Mangle, chain, rule);
    };
    add("ANTREA-INPUT", refused("come from no Pod").in_iface(gateway));
    add("ANTREA-INPUT", refused("come from Nodes alone").not_in_set(nodes, [SetDir::Src]));
    add("ANTREA-INPUT", refused("are sent to an address of the Node").not_in_set(nodes, [SetDir::Dst]));
    // What somebody translates was sent to another address or port: a Service with a node for an endpoint.
    add("ANTREA-INPUT", refused("go to no Service").ct_state([CtState::Dnat]));
    let to_nodes = |why| refused(why).in_set(nodes, [SetDir::Dst]);
    add("ANTREA-FORWARD", to_nodes("come from no Pod").in_iface(gateway));
    add("ANTREA-FORWARD", to_nodes("go to no Service").ct_state([CtState::Dnat]));
    // Where kube-proxy's ipvs mode sends what it has translated.
    add("ANTREA-OUTPUT", to_nodes("go to no Service").not_src_type(AddrType::Local));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::network::tests::config;
    use crate::host::network::{self, sets};

    #[test]
    fn every_kind_of_tunnel_is_guarded_in_both_families() {
        let kinds = [
            (TunnelType::Geneve, 6081, "-p udp -m udp --dport 6081"),
            (TunnelType::Vxlan, 4789, "-p udp -m udp --dport 4789"),
            (TunnelType::Stt, 7471, "-p tcp -m tcp --dport 7471"),
            (TunnelType::Gre, 0, "-p gre"),
        ];
        for (tunnel, port, packets) in kinds {
            let config = HostConfig { tunnel: Some(Outer::of(tunnel, port)), ..config() };
            for family in Family::BOTH {
                let text = network::rules(&config, family).to_string();
                let dropped = |chain: &str, what: &str| {
                    let start = format!("-A {chain} ");
                    let found = |line: &str| {
                        line.starts_with(&start)
                            && [packets, what, "-j DROP"].iter().all(|part| line.contains(part))
                    };
                    assert!(text.lines().any(found), "{chain}: {packets} {what}: {text}");
                };
                let set = node_set(family);
                dropped("ANTREA-INPUT", "-i antrea-gw0");
                dropped("ANTREA-INPUT", &format!("! --match-set {set} src"));
                dropped("ANTREA-INPUT", &format!("! --match-set {set} dst"));
                dropped("ANTREA-INPUT", "--ctstate DNAT");
                dropped("ANTREA-FORWARD", &format!("-m set --match-set {set} dst"));
                dropped("ANTREA-OUTPUT", "! --src-type LOCAL");
            }
        }
    }

    #[test]
    fn without_a_tunnel_there_is_nothing_to_guard() {
        let config = HostConfig { tunnel: None, ..config() };
        let text = network::rules(&config, Family::V4).to_string();
        assert!(!text.contains("tunnel packets"), "{text}");
        assert!(sets(&config).unwrap().iter().all(|set| !set.name().starts_with("ANTREA-NODE")));
    }

    #[test]
    fn nodes_are_all_their_addresses_of_the_family() {
        let nodes = ["192.0.2.11", "192.0.2.12", "2001:db8::12"].map(|ip| ip.parse().unwrap());
        assert_eq!(set(&nodes, Family::V4).unwrap().members().len(), 2);
        assert_eq!(set(&nodes, Family::V6).unwrap().members().len(), 1);
    }
}
