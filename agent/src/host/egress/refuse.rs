//! What takes the place of judgement where nftables has no table of ours: iptables refuses pods, to which egress policy
//! forbids anything, all that it would have judged. It cannot see what ipvs translates to a process of the pod's own node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use netcfg::Family;
use netcfg::ipset::{IpSet, Member, SetType};
use netcfg::iptables::{AddrType, CtState, Rule, Ruleset, SetDir, Table, Target};

use super::Egress;
use crate::host::network::{HostConfig, TRANSLATED};

/// Chain of what is refused.
const CHAIN: &str = "ANTREA-EGRESS";

/// How the names of sets began that earlier versions made for egress policy.
const EARLIER: &str = "ANTREA-E-";

/// Set of this node's pods to which nothing is forbidden.
fn open_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "ANTREA-OPEN-IP",
        Family::V6 => "ANTREA-OPEN-IP6",
    }
}

/// Whether a set is one of egress policy's, perhaps of before.
pub fn is_own_set(name: &str) -> bool {
    name.starts_with(EARLIER) || Family::BOTH.into_iter().any(|family| name == open_set(family))
}

/// Pods that are refused something.
pub fn refused(egress: &Egress) -> BTreeSet<IpAddr> {
    egress.policy.restricted().intersection(&egress.pods).copied().collect()
}

/// The set of a family that [`add_rules`] refers to.
///
/// # Errors
/// An address that no set can hold.
pub fn set(egress: &Egress, family: Family) -> netcfg::Result<IpSet> {
    let restricted = egress.policy.restricted();
    let open = egress.pods.difference(&restricted).filter(|ip| Family::from(**ip) == family);
    IpSet::new(open_set(family), SetType::HashIp, family, open.map(|ip| Member::Net(IpNet::from(*ip))))
}

/// Adds the rules of one family.
pub fn add_rules(config: &HostConfig, family: Family, rules: &mut Ruleset) {
    let gateway = config.gateway.as_str();
    for (from, to) in [("FORWARD", "ANTREA-FORWARD"), ("INPUT", "ANTREA-INPUT"), ("OUTPUT", "ANTREA-OUTPUT")]
    {
        rules.jump(Table::Mangle, from, to, TRANSLATED);
    }
    for subnet in config.subnets.iter().filter(|net| Family::from(**net) == family) {
        let judged = || {
            Rule::jump(CHAIN)
                .src(*subnet)
                .not_in_set(open_set(family), [SetDir::Src])
                .comment("Antrea: endpoints of Services that are no Pods, without nftables")
        };
        let leaving = || judged().not_out_iface(gateway);
        let translated = [CtState::Dnat];
        rules.rule(Table::Mangle, "ANTREA-FORWARD", leaving().in_iface(gateway).ct_state(translated));
        rules.rule(Table::Mangle, "ANTREA-INPUT", judged().in_iface(gateway).ct_state(translated));
        for services in config.service_cidrs.iter().filter(|net| Family::from(**net) == family) {
            let unserved = leaving().in_iface(gateway).dst(*services);
            rules.rule(Table::Mangle, "ANTREA-FORWARD", unserved);
        }
        let ipvs = leaving().not_src_type(AddrType::Local);
        rules.rule(Table::Mangle, "ANTREA-OUTPUT", ipvs);
    }
    // A SYN begins a connection, also one with the addresses and ports of an earlier one.
    rules.rule(
        Table::Mangle,
        CHAIN,
        Rule::new(Target::Drop).syn().comment("Antrea: egress policy of Pods, without nftables"),
    );
    rules.rule(
        Table::Mangle,
        CHAIN,
        Rule::new(Target::Return)
            .ct_state([CtState::Established, CtState::Related])
            .comment("Antrea: policy is about connections"),
    );
    rules.rule(
        Table::Mangle,
        CHAIN,
        Rule::new(Target::Drop).comment("Antrea: egress policy of Pods, without nftables"),
    );
}
