//! Egress policy for what kube-proxy translates to something that is no pod: a host-network pod, the API server, an
//! address outside.
//!
//! The bridge hands a pod's packet to a Service address to the host and judges it when it comes back with the
//! endpoint's address. What does not come back is judged here, by mangle's FORWARD and INPUT, and by OUTPUT, where
//! kube-proxy's ipvs mode sends what it has translated: first packets of pods that are isolated pass only if a rule
//! allows the endpoint by an address block. A pod is taken for isolated until policy has said otherwise
//! ([`OPEN_SET`]), so one that is new waits for the set and never passes before it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use antrea_flows::policy::{Protocol, Service};
use ipnet::IpNet;
use netcfg::Family;
use netcfg::iptables::{AddrType, CtState, Proto, Rule, Ruleset, SetDir, Table, Target};

use crate::host::network::{HostConfig, pod_set};
use antrea_enforce::egress::HostEgress;

/// Chain of what is allowed; its end drops.
const CHAIN: &str = "ANTREA-EGRESS";

/// Most rules of [`CHAIN`] in one family. Pods whose rules have no room get none, the ones with most rules first: what
/// policy allows them is refused here, and told.
const MAX_ALLOWED: usize = 2048;

/// Set of this node's pods that no egress policy isolates.
pub fn open_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "ANTREA-OPEN-IP",
        Family::V6 => "ANTREA-OPEN-IP6",
    }
}

/// Pods of this node, and what egress policy says of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// Addresses of all pods.
    pub pods: BTreeSet<IpAddr>,
    /// Policy.
    pub policy: HostEgress,
}

impl Egress {
    /// Pods that may go anywhere.
    pub fn open(&self, family: Family) -> impl Iterator<Item = IpNet> {
        let open = self.pods.difference(&self.policy.isolated).map(|ip| IpNet::from(*ip));
        open.filter(move |ip| Family::from(*ip) == family)
    }
}

/// Adds the rules of one family.
pub fn add_rules(config: &HostConfig, family: Family, rules: &mut Ruleset) {
    let subnets: Vec<IpNet> =
        config.subnets.iter().filter(|net| Family::from(**net) == family).copied().collect();
    if subnets.is_empty() {
        return;
    }
    let gateway = config.gateway.as_str();
    for (from, to) in [("FORWARD", "ANTREA-FORWARD"), ("INPUT", "ANTREA-INPUT"), ("OUTPUT", "ANTREA-OUTPUT")]
    {
        rules.jump(Table::Mangle, from, to, "Antrea: jump to rules for translated packets of Pods");
    }
    for subnet in subnets {
        let judged = || {
            Rule::jump(CHAIN)
                .src(subnet)
                .not_in_set(open_set(family), [SetDir::Src])
                .comment("Antrea: egress policy for endpoints of Services that are no Pods")
        };
        // Without a tunnel packets to other nodes' pods leave by other links.
        let leaving = || judged().not_out_iface(gateway).not_in_set(pod_set(family), [SetDir::Dst]);
        let translated = [CtState::Dnat];
        rules.rule(Table::Mangle, "ANTREA-FORWARD", leaving().in_iface(gateway).ct_state(translated));
        rules.rule(Table::Mangle, "ANTREA-INPUT", judged().in_iface(gateway).ct_state(translated));
        // What nobody translates (ICMP, ports that the Service has not) leaves with the Service's address.
        for services in config.service_cidrs.iter().filter(|net| Family::from(**net) == family) {
            let unserved = leaving().in_iface(gateway).dst(*services);
            rules.rule(Table::Mangle, "ANTREA-FORWARD", unserved);
        }
        let ipvs = leaving().not_src_type(AddrType::Local);
        rules.rule(Table::Mangle, "ANTREA-OUTPUT", ipvs);
    }
    rules.rule(
        Table::Mangle,
        CHAIN,
        Rule::new(Target::Return)
            .ct_state([CtState::Established, CtState::Related])
            .comment("Antrea: policy is about connections"),
    );
    for rule in allowed(&config.egress.policy, family).0 {
        rules.rule(Table::Mangle, CHAIN, rule);
    }
    rules.rule(
        Table::Mangle,
        CHAIN,
        Rule::new(Target::Drop).comment("Antrea: egress policy of isolated Pods"),
    );
}

/// Pods whose egress policy allows more blocks than there is room for.
pub fn left_out(policy: &HostEgress) -> BTreeSet<IpAddr> {
    Family::BOTH.into_iter().flat_map(|family| allowed(policy, family).1).collect()
}

/// What is allowed in one family, and the pods for whose rules there is no room.
fn allowed(policy: &HostEgress, family: Family) -> (Vec<Rule>, Vec<IpAddr>) {
    let mut by_pod: BTreeMap<IpAddr, BTreeSet<Rule>> = BTreeMap::new();
    for allowed in &policy.allowed {
        for ip in &allowed.pods {
            let pod = IpNet::from(*ip);
            let rules = by_pod.entry(*ip).or_default();
            for net in &allowed.nets {
                if Family::from(pod) != family || Family::from(*net) != family {
                    continue;
                }
                let to = || Rule::new(Target::Return).src(pod).dst(*net);
                if allowed.services.is_empty() {
                    rules.insert(to());
                }
                rules.extend(allowed.services.iter().filter_map(|service| narrow(to(), service, family)));
            }
        }
    }
    let mut by_pod: Vec<_> = by_pod.into_iter().collect();
    by_pod.sort_by_key(|(ip, rules)| (rules.len(), *ip));
    let (mut taken, mut left_out) = (BTreeSet::new(), Vec::new());
    for (ip, rules) in by_pod {
        if taken.len() + rules.len() > MAX_ALLOWED {
            left_out.push(ip);
        } else {
            taken.extend(rules);
        }
    }
    (taken.into_iter().collect(), left_out)
}

/// `None` for what Kubernetes' policies cannot say.
fn narrow(rule: Rule, service: &Service, family: Family) -> Option<Rule> {
    let proto = match (service.protocol, family) {
        (Protocol::Tcp, _) => Proto::TCP,
        (Protocol::Udp, _) => Proto::UDP,
        (Protocol::Sctp, _) => Proto::SCTP,
        (Protocol::Icmp, Family::V4) => Proto::ICMP,
        (Protocol::Icmp, Family::V6) => Proto::ICMPV6,
        (Protocol::Igmp, _) => return None,
    };
    if service.src_ports.is_some() || service.icmp_type.is_some() {
        return None;
    }
    let rule = rule.proto(proto);
    Some(match service.ports {
        None => rule,
        Some(ports) => rule.dst_ports(netcfg::iptables::Ports(vec![(ports.first(), ports.last())])),
    })
}

#[cfg(test)]
mod tests {
    use antrea_flows::policy::PortRange;

    use super::*;
    use crate::host::network::{self, tests::config};
    use antrea_enforce::egress::Allowed;

    fn with(allowed: Vec<Allowed>) -> HostConfig {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let policy = HostEgress { isolated: [ip("10.244.1.5"), ip("fd00:1::5")].into(), allowed };
        let pods = ["10.244.1.5", "10.244.1.6", "fd00:1::5"].map(ip).into();
        HostConfig { egress: Egress { pods, policy }, ..config() }
    }

    fn chain(config: &HostConfig, family: Family) -> Vec<String> {
        let text = network::rules(config, family).to_string();
        let rules = text.lines().filter_map(|line| line.strip_prefix("-A ANTREA-EGRESS "));
        rules.map(|rule| rule.split(" -m comment").next().unwrap_or(rule).to_owned()).collect()
    }

    #[test]
    fn isolated_pods_and_those_that_are_not_known_are_not_in_the_set() {
        let sets = network::sets(&with(Vec::new())).unwrap();
        let open = |name| {
            let set = sets.iter().find(|set| set.name() == name).unwrap();
            set.members().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(open("ANTREA-OPEN-IP").len(), 1);
        assert!(open("ANTREA-OPEN-IP")[0].starts_with("10.244.1.6"));
        assert!(open("ANTREA-OPEN-IP6").is_empty());
        let text = network::rules(&with(Vec::new()), Family::V4).to_string();
        for hook in ["-A ANTREA-FORWARD", "-A ANTREA-INPUT", "-A ANTREA-OUTPUT"] {
            let judged = |line: &&str| line.starts_with(hook) && line.contains("-j ANTREA-EGRESS");
            let rule = text.lines().find(judged).unwrap_or_else(|| panic!("{hook}: {text}"));
            assert!(rule.contains("! --match-set ANTREA-OPEN-IP src"), "{rule}");
        }
        let last = |line: &str| line.starts_with("-A ANTREA-EGRESS ") && line.ends_with("-j DROP");
        assert!(text.lines().rfind(|line| line.starts_with("-A ANTREA-EGRESS ")).is_some_and(last), "{text}");
    }

    #[test]
    fn what_a_block_allows_passes_and_the_rest_is_dropped() {
        let pods = || ["10.244.1.5", "fd00:1::5"].map(|ip| ip.parse().unwrap()).into();
        let nets = || ["192.0.2.0/24", "2001:db8::/32"].map(|net| net.parse().unwrap()).into();
        let ports = Service::to(Protocol::Tcp, PortRange::new(80, 90).unwrap());
        let config = with(vec![
            Allowed { pods: pods(), nets: nets(), services: vec![ports, Service::all(Protocol::Udp)] },
            Allowed { pods: pods(), nets: ["0.0.0.0/0".parse().unwrap()].into(), services: Vec::new() },
        ]);
        let rules = chain(&config, Family::V4);
        assert_eq!(rules.len(), 5, "{rules:?}");
        for part in ["--dport 80:90", "-p udp"] {
            let to_block = |rule: &&String| rule.contains(part) && rule.contains("192.0.2.0/24");
            assert!(rules.iter().any(|rule| to_block(&rule)), "{part}: {rules:?}");
        }
        let v6 = chain(&config, Family::V6);
        assert_eq!(v6.len(), 4, "{v6:?}");
    }

    #[test]
    fn what_is_beyond_the_limit_is_not_allowed() {
        let nets = |blocks: usize| -> BTreeSet<IpNet> {
            let all =
                (0..=u8::MAX).flat_map(|a| (0..10).map(move |b| IpNet::from(IpAddr::from([198, 18, a, b]))));
            all.take(blocks).collect()
        };
        let allow = |pod: &str, blocks: usize| Allowed {
            pods: [pod.parse().unwrap()].into(),
            nets: nets(blocks),
            services: Vec::new(),
        };
        let config = with(vec![allow("10.244.1.5", MAX_ALLOWED)]);
        assert_eq!(chain(&config, Family::V4).len(), MAX_ALLOWED + 2, "that many are taken");
        assert!(left_out(&config.egress.policy).is_empty());
        // Who allows too much is refused all of it, and nobody else is.
        let config = with(vec![allow("10.244.1.5", MAX_ALLOWED), allow("10.244.1.6", 3)]);
        assert_eq!(left_out(&config.egress.policy), ["10.244.1.5".parse().unwrap()].into());
        let chain = chain(&config, Family::V4);
        assert_eq!(chain.len(), 3 + 2, "{chain:?}");
        assert!(!chain.iter().any(|rule| rule.contains("10.244.1.5")), "{chain:?}");
    }
}
