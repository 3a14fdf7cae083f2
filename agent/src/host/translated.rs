//! Egress policy for what kube-proxy translates to something that the bridge does not see again: a host-network pod, the
//! API server, an address outside, a pod of a node that is reached without a tunnel.
//!
//! The bridge hands a pod's packet to a Service address to the host and judges it when it comes back with the
//! endpoint's address. What does not come back is judged here, by mangle's FORWARD and INPUT, and by OUTPUT, where
//! kube-proxy's ipvs mode sends what it has translated: first packets of pods that are isolated pass only if a rule
//! allows the endpoint. A pod is taken for isolated until policy has said otherwise
//! ([`OPEN_SET`]), so one that is new waits for the set and never passes before it.
//!
//! Rules refer to sets, so that their number is that of policies' rules and not of addresses. A set of blocks or of pods is
//! named by what is in it and never changes; one of an AddressGroup changes with the group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;

use antrea_flows::policy::{Protocol, Service};
use ipnet::IpNet;
use netcfg::Family;
use netcfg::ipset::{IpSet, Member, SetType};
use netcfg::iptables::{AddrType, CtState, Proto, Rule, Ruleset, SetDir, Table, Target};
use sha1::{Digest, Sha1};

use crate::host::network::HostConfig;
use antrea_enforce::egress::{Allowed, HostEgress};

/// Chain of what is allowed; its end drops.
const CHAIN: &str = "ANTREA-EGRESS";

/// How the names of sets begin that [`sets`] makes.
const SETS: &str = "ANTREA-E-";

/// Most rules of [`CHAIN`] in one family. What has no room is refused, and told: rules of policies with most ports first.
const MAX_ALLOWED: usize = 2048;

/// Set of this node's pods that no egress policy isolates.
pub fn open_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "ANTREA-OPEN-IP",
        Family::V6 => "ANTREA-OPEN-IP6",
    }
}

/// Whether a set is one of [`sets`]', perhaps of before.
pub fn is_own_set(name: &str) -> bool {
    name.starts_with(SETS)
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
        // Nobody but a load balancer gives a packet of this node's pods back to the host by another link: what goes to
        // other nodes' pods by their own address was judged by the bridge and is not translated.
        let leaving = || judged().not_out_iface(gateway);
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
    for rule in Chain::new(&config.egress.policy, family).rules {
        rules.rule(Table::Mangle, CHAIN, rule);
    }
    rules.rule(
        Table::Mangle,
        CHAIN,
        Rule::new(Target::Drop).comment("Antrea: egress policy of isolated Pods"),
    );
}

/// Pods whose egress policy allows more than there is room for.
pub fn left_out(policy: &HostEgress) -> BTreeSet<IpAddr> {
    Family::BOTH.into_iter().flat_map(|family| Chain::new(policy, family).left_out).collect()
}

/// The sets that the rules of one family refer to.
///
/// # Errors
/// What no set can hold.
pub fn sets(policy: &HostEgress, family: Family) -> netcfg::Result<Vec<IpSet>> {
    let named = Chain::new(policy, family).sets.into_iter();
    named
        .map(|(name, (kind, members))| IpSet::new(name, kind, family, members.into_iter().map(Member::Net)))
        .collect()
}

/// What is allowed in one family.
#[derive(Debug, Default)]
struct Chain {
    rules: Vec<Rule>,
    sets: BTreeMap<String, (SetType, BTreeSet<IpNet>)>,
    /// Pods for whose rules there is no room.
    left_out: BTreeSet<IpAddr>,
}

impl Chain {
    fn new(policy: &HostEgress, family: Family) -> Self {
        let mut chain = Self::default();
        let mut seen = BTreeSet::new();
        let mut allowed: Vec<_> = policy.allowed.iter().collect();
        allowed.sort_by_key(|allowed| allowed.services.len());
        for allowed in allowed {
            let pods = of_family(allowed.pods.iter().map(|ip| IpNet::from(*ip)), family);
            if pods.is_empty() {
                continue;
            }
            let (mut rules, sets) = rules_of(allowed, &pods, policy, family);
            rules.retain(|rule| !seen.contains(rule));
            if chain.rules.len() + rules.len() > MAX_ALLOWED {
                chain.left_out.extend(pods.into_iter().map(|net| net.addr()));
                continue;
            }
            seen.extend(rules.iter().cloned());
            chain.rules.extend(rules);
            chain.sets.extend(sets);
        }
        chain
    }
}

type Sets = Vec<(String, (SetType, BTreeSet<IpNet>))>;

/// Rules for what one rule of a policy allows, and the sets that they need.
fn rules_of(
    allowed: &Allowed,
    pods: &BTreeSet<IpNet>,
    policy: &HostEgress,
    family: Family,
) -> (Vec<Rule>, Sets) {
    let mut sets = Sets::new();
    let mut from = Rule::new(Target::Return);
    match single(pods) {
        Some(pod) => from = from.src(pod),
        None => {
            let name = named("P", family, pods.iter());
            from = from.in_set(name.clone(), [SetDir::Src]);
            sets.push((name, (SetType::HashIp, pods.clone())));
        }
    }
    let mut to = Vec::new();
    let nets = of_family(allowed.nets.iter().copied(), family);
    match single(&nets) {
        Some(net) => to.push(from.clone().dst(net)),
        None if nets.is_empty() => {}
        None => {
            let name = named("B", family, nets.iter());
            to.push(from.clone().in_set(name.clone(), [SetDir::Dst]));
            sets.push((name, (SetType::HashNet, nets)));
        }
    }
    for group in &allowed.groups {
        let members = policy.groups.get(group).into_iter().flatten().map(|ip| IpNet::from(*ip));
        let name = named("G", family, [group]);
        to.push(from.clone().in_set(name.clone(), [SetDir::Dst]));
        sets.push((name, (SetType::HashIp, of_family(members, family))));
    }
    if allowed.services.is_empty() {
        return (to, sets);
    }
    let narrowed = to
        .iter()
        .flat_map(|rule| allowed.services.iter().filter_map(|service| narrow(rule.clone(), service, family)));
    (narrowed.collect(), sets)
}

fn of_family(nets: impl Iterator<Item = IpNet>, family: Family) -> BTreeSet<IpNet> {
    nets.filter(|net| Family::from(*net) == family).collect()
}

fn single(nets: &BTreeSet<IpNet>) -> Option<IpNet> {
    nets.first().copied().filter(|_| nets.len() == 1)
}

/// The name of a set that follows from its content. Tenants choose the content, so it has to be hard to hit that of
/// another one's: 80 bits of SHA-1 beside kind and family.
fn named(kind: &str, family: Family, content: impl IntoIterator<Item = impl Display>) -> String {
    let mut hash = Sha1::new();
    for part in content {
        hash.update(format!("{part} "));
    }
    let digest: String = hash.finalize().iter().take(10).map(|octet| format!("{octet:02x}")).collect();
    format!("{SETS}{kind}{}{digest}", if family == Family::V4 { 4 } else { 6 })
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
        let policy = HostEgress {
            isolated: [ip("10.244.1.5"), ip("fd00:1::5")].into(),
            allowed,
            ..HostEgress::default()
        };
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
            Allowed {
                pods: pods(),
                nets: nets(),
                services: vec![ports, Service::all(Protocol::Udp)],
                ..Allowed::default()
            },
            Allowed { pods: pods(), nets: ["0.0.0.0/0".parse().unwrap()].into(), ..Allowed::default() },
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
        let allow = |pods: &[&str], ports: usize| Allowed {
            pods: pods.iter().map(|ip| ip.parse().unwrap()).collect(),
            nets: ["198.18.0.0/24".parse().unwrap()].into(),
            services: (1..=u16::try_from(ports).unwrap())
                .map(|port| Service::to(Protocol::Tcp, PortRange::new(port, port).unwrap()))
                .collect(),
            ..Allowed::default()
        };
        let config = with(vec![allow(&["10.244.1.5"], MAX_ALLOWED)]);
        assert_eq!(chain(&config, Family::V4).len(), MAX_ALLOWED + 2, "that many are taken");
        assert!(left_out(&config.egress.policy).is_empty());
        // Who allows too much is refused that, and nobody else is.
        let config = with(vec![allow(&["10.244.1.5"], MAX_ALLOWED), allow(&["10.244.1.6", "10.244.1.7"], 3)]);
        assert_eq!(left_out(&config.egress.policy), ["10.244.1.5".parse().unwrap()].into());
        let chain = chain(&config, Family::V4);
        assert_eq!(chain.len(), 3 + 2, "{chain:?}");
        assert!(!chain.iter().any(|rule| rule.contains("10.244.1.5")), "{chain:?}");
    }

    #[test]
    fn there_are_as_many_rules_as_policies_have_however_many_addresses_they_are_about() {
        let ips = |third: u8, count: u8| (0..count).map(move |last| IpAddr::from([10, 244, third, last]));
        let allowed = |blocks: u8| Allowed {
            pods: ips(1, 50).collect(),
            nets: ips(200, blocks).map(IpNet::from).collect(),
            groups: ["one".into(), "two".into()].into(),
            services: vec![Service::all(Protocol::Tcp), Service::all(Protocol::Udp)],
        };
        let mut config = with(vec![allowed(250)]);
        let groups = [("one".into(), ips(2, 200).collect()), ("two".into(), ips(3, 9).collect())];
        config.egress.policy.groups = groups.into();
        let rules = chain(&config, Family::V4);
        assert_eq!(rules.len(), 3 * 2 + 2, "{rules:?}");
        assert_eq!(chain(&config, Family::V6).len(), 2, "nothing is of the other family");
        let sets = sets(&config.egress.policy, Family::V4).unwrap();
        let sizes = |sets: &[IpSet]| sets.iter().map(|set| set.members().len()).collect::<BTreeSet<_>>();
        assert_eq!(sizes(&sets), [9, 50, 200, 250].into());
        for set in &sets {
            assert!(
                is_own_set(set.name()) && rules.iter().any(|rule| rule.contains(set.name())),
                "{rules:?}"
            );
        }
        // A group changes in its set, blocks come in another one.
        config.egress.policy.groups.insert("two".into(), ips(3, 10).collect());
        assert_eq!(chain(&config, Family::V4), rules);
        config.egress.policy.allowed = vec![allowed(249)];
        assert_ne!(chain(&config, Family::V4), rules);
    }
}
