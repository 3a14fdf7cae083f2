//! The host's own network: forwarding rules, masquerading, and the settings of the gateway link.
//!
//! Desired rules are a pure function of [`HostConfig`]; one task applies them and looks again every
//! minute, for kube-proxy, firewalls and people write to the same tables.

use std::net::IpAddr;

use ipnet::IpNet;
use netcfg::ipset::{self, IpSet, Ipsets, Member, SetType};
use netcfg::iptables::{Applied, Backend, Iptables, Rule, Ruleset, SetDir, Table, Target};
use netcfg::nft::Nft;
use netcfg::sysctl::{Sysctl, Tree};
use netcfg::{Family, NetcfgErrors, Netlink};

use crate::host::egress::{self, Egress, refuse};
use crate::host::services;
use crate::host::tunnel_guard::{self, Outer};
use crate::ovs::links::POD_LINK_GROUP;
use crate::pods::judged::JudgedAddresses;
use crate::services::access::Access;

/// Mark of packets that local processes sent to pods: `pkt_mark[31]` of the pipeline.
pub const HOST_PROCESS_MARK: u32 = 0x8000_0000;

/// Of jumps in the table mangle.
pub const TRANSLATED: &str = "Antrea: jump to rules for translated packets of Pods";

/// ICMPv6 types of neighbour discovery (RFC 4861 §4).
const NEIGHBOUR_DISCOVERY: std::ops::Range<u8> = 133..138;

/// What the host's rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// Gateway link.
    pub gateway: String,
    /// This node's pod subnets.
    pub subnets: Vec<IpNet>,
    /// Pod subnets of all nodes, this one included: what is not masqueraded.
    pub cluster_subnets: Vec<IpNet>,
    /// Service addresses, as far as known.
    pub service_cidrs: Vec<IpNet>,
    /// OVS forwards in userspace and sees no marks.
    pub userspace: bool,
    /// This node's pods and their egress policy.
    pub egress: Egress,
    /// Families whose egress policy nothing can hold: what it would judge is refused.
    pub refused: Vec<Family>,
    /// Addresses of this node that others reach it by.
    pub own: Vec<IpAddr>,
    /// This node's address between nodes.
    pub transport: IpAddr,
    /// Packets of the tunnel; `None` without one.
    pub tunnel: Option<Outer>,
    /// Addresses of all nodes, this one included: who may send them.
    pub nodes: Vec<IpAddr>,
    /// No masquerading.
    pub no_snat: bool,
    /// Fully random source ports.
    pub random_fully: bool,
    /// What is the bridge's of what comes to the host; none where kube-proxy serves it.
    pub services: Option<Access>,
}

impl HostConfig {
    /// Families that need rules: those of pods, and that of packets between nodes.
    pub fn families(&self) -> Vec<Family> {
        let transport = self.tunnel.map(|_| Family::from(self.transport));
        let needed = |family: &Family| {
            of_family(&self.subnets, *family).next().is_some() || transport == Some(*family)
        };
        Family::BOTH.into_iter().filter(needed).collect()
    }
}

/// Name of the set of pod subnets.
pub fn pod_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "ANTREA-POD-IP",
        Family::V6 => "ANTREA-POD-IP6",
    }
}

pub(super) fn of_family(nets: &[IpNet], family: Family) -> impl Iterator<Item = IpNet> {
    nets.iter().copied().filter(move |net| Family::from(*net) == family)
}

/// Address sets that the rules refer to.
///
/// # Errors
/// A subnet that no set can hold.
pub fn sets(config: &HostConfig) -> netcfg::Result<Vec<IpSet>> {
    let of_pods = Family::BOTH
        .into_iter()
        .filter(|family| of_family(&config.subnets, *family).next().is_some())
        .flat_map(|family| {
            let members = of_family(&config.cluster_subnets, family).map(Member::Net);
            let refused = config.refused.contains(&family).then(|| refuse::set(&config.egress, family));
            [IpSet::new(pod_set(family), SetType::HashNet, family, members)].into_iter().chain(refused)
        });
    let of_nodes = config.families().into_iter().map(|family| tunnel_guard::set(&config.nodes, family));
    of_pods.chain(of_nodes.filter(|_| config.tunnel.is_some())).chain(services::sets(config)).collect()
}

/// Rules of one family.
pub fn rules(config: &HostConfig, family: Family) -> Ruleset {
    let mut rules = Ruleset::new(family);
    let gateway = config.gateway.as_str();
    rules.jump(Table::Raw, "PREROUTING", "ANTREA-PREROUTING", "Antrea: jump to Antrea prerouting rules");
    rules.jump(Table::Raw, "OUTPUT", "ANTREA-OUTPUT", "Antrea: jump to Antrea output rules");
    rules.jump(Table::Filter, "FORWARD", "ANTREA-FORWARD", "Antrea: jump to Antrea forwarding rules");
    rules.jump(Table::Nat, "POSTROUTING", "ANTREA-POSTROUTING", "Antrea: jump to Antrea postrouting rules");
    rules.jump(
        Table::Mangle,
        "POSTROUTING",
        "ANTREA-POSTROUTING",
        "Antrea: jump to Antrea postrouting rules",
    );

    // The host's stack would forward or answer what policy has to judge: in userspace, where OVS reads these
    // links through packet sockets, all that pods send; on the kernel's datapath, what a pod sends before its
    // link has become a port.
    rules.rule(
        Table::Raw,
        "ANTREA-PREROUTING",
        Rule::new(Target::Drop)
            .src_group(POD_LINK_GROUP)
            .comment("Antrea: only OVS handles packets of ports of the bridge"),
    );
    if let Some(udp @ Outer::Udp(_)) = config.tunnel {
        for chain in ["ANTREA-PREROUTING", "ANTREA-OUTPUT"] {
            rules.rule(
                Table::Raw,
                chain,
                udp.rule(Target::NoTrack).comment("Antrea: do not track tunnel packets"),
            );
        }
    }
    // Marked early, packets of local processes are routed by their mark, which the userspace datapath needs (see
    // [`crate::host::local_traffic`]). Only to where pods may be: what is marked is routed twice. A mark that is there
    // already is somebody else's, who may route by it.
    if config.userspace {
        rules.jump(Table::Mangle, "OUTPUT", "ANTREA-OUTPUT", TRANSLATED);
        // Neighbour discovery is of the link and goes to the neighbour's own MAC address.
        let discovery = if family == Family::V6 { NEIGHBOUR_DISCOVERY } else { 0..0 };
        for kind in discovery {
            rules.rule(
                Table::Mangle,
                "ANTREA-OUTPUT",
                Rule::new(Target::Return).proto(netcfg::iptables::Proto::ICMPV6).icmp(kind, None),
            );
        }
        for net in of_family(&config.subnets, family).chain(of_family(&config.service_cidrs, family)) {
            rules.rule(
                Table::Mangle,
                "ANTREA-OUTPUT",
                Rule::new(Target::or_mark(HOST_PROCESS_MARK))
                    .dst(net)
                    .src_type(netcfg::iptables::AddrType::Local)
                    .mark(0, u32::MAX)
                    .comment("Antrea: route packets of local processes to Pods by their mark"),
            );
        }
    }
    // After kube-proxy's translation in OUTPUT, so that a process that reaches a pod by its ClusterIP is
    // known as local too.
    rules.rule(
        Table::Mangle,
        "ANTREA-POSTROUTING",
        Rule::new(Target::or_mark(HOST_PROCESS_MARK))
            .out_iface(gateway)
            .src_type(netcfg::iptables::AddrType::Local)
            .comment("Antrea: mark packets of local processes"),
    );
    rules.rule(
        Table::Filter,
        "ANTREA-FORWARD",
        Rule::new(Target::Accept).in_iface(gateway).comment("Antrea: accept packets from local Pods"),
    );
    rules.rule(
        Table::Filter,
        "ANTREA-FORWARD",
        Rule::new(Target::Accept).out_iface(gateway).comment("Antrea: accept packets to local Pods"),
    );
    if !config.no_snat {
        for subnet in of_family(&config.subnets, family) {
            rules.rule(
                Table::Nat,
                "ANTREA-POSTROUTING",
                Rule::new(Target::Masquerade { random_fully: config.random_fully })
                    .src(subnet)
                    .not_in_set(pod_set(family), [SetDir::Dst])
                    .not_out_iface(gateway)
                    .comment("Antrea: masquerade Pod to external packets"),
            );
        }
    }
    // A packet of a host process that kube-proxy sent to a pod may carry an address that the pod's node
    // cannot route back here, such as that of another link.
    for subnet in of_family(&config.subnets, family) {
        rules.rule(
            Table::Nat,
            "ANTREA-POSTROUTING",
            Rule::new(Target::Masquerade { random_fully: config.random_fully })
                .not_src(crate::subnet::gateway_net(&subnet).addr().into())
                .src_type(netcfg::iptables::AddrType::Local)
                .out_iface(gateway)
                .comment("Antrea: masquerade packets of the Node to Pods"),
        );
    }
    services::add_rules(config, family, &mut rules);
    tunnel_guard::add_rules(config, family, &mut rules);
    if config.refused.contains(&family) {
        refuse::add_rules(config, family, &mut rules);
    }
    rules
}

/// Kernel settings that forwarding through the gateway needs.
///
/// # Errors
/// The gateway's name cannot be part of a setting.
pub fn sysctls(config: &HostConfig) -> netcfg::Result<Vec<(Sysctl, &'static str)>> {
    let mut settings = vec![
        (Sysctl::ipv4_forward(), "1"),
        // Replies of Services come back by another way than strict mode wants.
        (Sysctl::rp_filter(&config.gateway)?, "2"),
        (Sysctl::arp_announce(&config.gateway)?, "1"),
    ];
    if of_family(&config.subnets, Family::V6).next().is_some() {
        settings.push((Sysctl::ipv6_forward(), "1"));
    }
    Ok(settings)
}

/// What an application of rules had to change, for people.
fn differences(family: Family, applied: &Applied) -> Vec<String> {
    let mut table = "";
    let mut found = Vec::new();
    for line in applied.restored.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(chain) = line.strip_prefix(':') {
            let chain = chain.split(' ').next().unwrap_or_default();
            found.push(format!("{family} rules of chain {chain} in table {table} differed"));
        }
    }
    if applied.jumps_added > 0 {
        found.push(format!("{} {family} jumps to the agent's chains were missing", applied.jumps_added));
    }
    found
}

/// Applies the host's configuration.
#[derive(Debug)]
pub struct HostNetwork {
    netlink: Netlink,
    tables: Vec<Iptables>,
    /// Tables of egress policy, none without nftables.
    judges: Vec<Nft>,
    /// Why there is no nftables.
    without: Option<String>,
    sets: Ipsets,
    sysctls: Tree,
    /// Told which pods those tables, or what refuses without them, speak of.
    judged: JudgedAddresses,
}

impl HostNetwork {
    /// Finds out which iptables the node uses, and whether it has nftables.
    ///
    /// # Errors
    /// Neither variant of iptables is there.
    pub async fn new(
        netlink: Netlink,
        families: &[Family],
        sysctls: Tree,
        judged: JudgedAddresses,
    ) -> netcfg::Result<Self> {
        let netns = netlink.netns().clone();
        let backend = Backend::detect(&netns).await?;
        tracing::info!(?backend, "iptables");
        let tables = families.iter().map(|family| Iptables::new(netns.clone(), backend, *family)).collect();
        let judges = families.iter().map(|family| Nft::new(netns.clone(), *family, egress::TABLE));
        let (mut judges, mut without): (Vec<Nft>, _) = (judges.collect(), None);
        for judge in &judges {
            if let Err(error) = judge.exists().await {
                tracing::warn!(%error, "no nftables: egress policy of pods cannot be held by the host");
                without = Some(error.to_string());
            }
        }
        if without.is_some() {
            judges.clear();
        }
        Ok(Self { netlink, tables, judges, without, sets: Ipsets::new(netns), sysctls, judged })
    }

    /// Why the node has no nftables; `None` if it has.
    pub fn without_nftables(&self) -> Option<&str> {
        self.without.as_deref()
    }

    /// Follows this node's pods and their egress policy.
    ///
    /// # Errors
    /// All that failed.
    pub async fn follow(&self, config: &HostConfig) -> Result<(), NetcfgErrors> {
        let mut errors = NetcfgErrors::new();
        let (_, refused) = self.judge(config, &mut errors).await;
        // What refuses has a set of those whom it does not.
        if !refused.is_empty()
            && let Some(sets) = errors.check(sets(&HostConfig { refused, ..config.clone() }))
        {
            errors.check(self.sets.apply(&sets).await);
        }
        if errors.errors().is_empty() {
            self.judged.end(&config.egress.pods);
        }
        errors.finish(())
    }

    /// Makes the tables of egress policy what `config` says. Returns what differed, for people, and the families that have
    /// none, neither this one nor that of before.
    async fn judge(&self, config: &HostConfig, errors: &mut NetcfgErrors) -> (Vec<String>, Vec<Family>) {
        self.judged.begin(&config.egress.pods);
        let (mut changed, mut refused) = (Vec::new(), Vec::new());
        for family in Family::BOTH {
            let Some((table, _)) = egress::table(config, family) else { continue };
            let Some(judge) = self.judges.iter().find(|judge| judge.family() == family) else {
                refused.push(family);
                continue;
            };
            match judge.apply(&table).await {
                Ok(differences) => {
                    let told = |text| format!("{family} table {} of nftables: {text}", egress::TABLE);
                    changed.extend(differences.into_iter().map(told));
                }
                Err(error) => {
                    errors.check::<()>(Err(error));
                    if !judge.exists().await.unwrap_or(false) {
                        refused.push(family);
                    }
                }
            }
        }
        (changed, refused)
    }

    /// Gives kernel settings the values that `config` needs. Goes on after a failure. Returns what differed, for
    /// people.
    ///
    /// # Errors
    /// All that failed.
    pub async fn settings(&self, config: &HostConfig) -> Result<Vec<String>, NetcfgErrors> {
        let written = self.sysctls.ensure(self.netlink.netns(), sysctls(config)?).await?;
        Ok(written.iter().map(crate::host::setting_differed).collect())
    }

    /// Makes sets and rules what `config` says. Goes on after a failure. Returns what differed, for people.
    ///
    /// # Errors
    /// All that failed.
    pub async fn apply(&self, config: &HostConfig) -> Result<Vec<String>, NetcfgErrors> {
        let mut errors = NetcfgErrors::new();
        // First what judges, for rules of iptables that refuse everything go where it does.
        let (mut changed, refused) = self.judge(config, &mut errors).await;
        let config = &HostConfig { refused, ..config.clone() };
        // Sets before rules, which cannot refer to one that is not there.
        let sets = errors.check(sets(config)).unwrap_or_default();
        if let Some(text) = errors.check(self.sets.apply(&sets).await) {
            changed.extend(
                ipset::changed(&sets, &text)
                    .into_iter()
                    .map(|name| format!("members of set {name} differed")),
            );
        }
        // What else fails does not concern them.
        if errors.errors().is_empty() {
            self.judged.end(&config.egress.pods);
        }
        for tables in &self.tables {
            let applied = errors.check(tables.apply(&rules(config, tables.family())).await);
            changed.extend(applied.into_iter().flat_map(|applied| differences(tables.family(), &applied)));
        }
        if !changed.is_empty() && errors.errors().is_empty() {
            let own = |name: &str| refuse::is_own_set(name) || services::is_own_set(name);
            let unused = |name: &str| own(name) && !sets.iter().any(|set| set.name() == name);
            errors.check_all(self.sets.destroy(unused).await);
        }
        errors.finish(changed)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    pub fn config() -> HostConfig {
        HostConfig {
            gateway: "antrea-gw0".into(),
            subnets: vec!["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
            cluster_subnets: ["10.244.1.0/24", "10.244.2.0/24", "fd00:1::/64"]
                .map(|net| net.parse().unwrap())
                .to_vec(),
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            userspace: false,
            egress: Egress::default(),
            refused: Vec::new(),
            own: vec!["192.0.2.11".parse().unwrap()],
            transport: "192.0.2.11".parse().unwrap(),
            tunnel: Some(Outer::Udp(6081)),
            nodes: ["192.0.2.11", "2001:db8::11"].map(|ip| ip.parse().unwrap()).to_vec(),
            no_snat: false,
            random_fully: false,
            services: None,
        }
    }

    /// Every rule, word by word: what is missing, or matches more than it should, is not seen by a look at single rules.
    #[test]
    fn all_rules() {
        let userspace =
            HostConfig { tunnel: Some(Outer::Udp(4789)), random_fully: true, userspace: true, ..config() };
        let routed = HostConfig { tunnel: None, no_snat: true, ..config() };
        let without = HostConfig { refused: Family::BOTH.into(), ..routed.clone() };
        let mut text = String::new();
        for (name, config) in [
            ("kernel, Geneve", config()),
            ("userspace, VXLAN", userspace),
            ("NoEncap", routed),
            ("NoEncap, without nftables", without),
        ] {
            for family in Family::BOTH {
                text.push_str(&format!("=== {name}, {family:?}\n{}", rules(&config, family)));
            }
        }
        assert_eq!(text, include_str!("testdata/network.txt"), "{text}");
    }

    #[test]
    fn settings_of_the_gateway() {
        let settings = |subnets: &[&str]| -> Vec<String> {
            let subnets = subnets.iter().map(|net| net.parse().unwrap()).collect();
            let settings = sysctls(&HostConfig { subnets, ..config() }).unwrap();
            settings.iter().map(|(sysctl, value)| format!("{sysctl}={value}")).collect()
        };
        let v4 = [
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.antrea-gw0.rp_filter=2",
            "net.ipv4.conf.antrea-gw0.arp_announce=1",
        ];
        assert_eq!(settings(&["10.244.1.0/24"]), v4);
        assert_eq!(
            settings(&["10.244.1.0/24", "fd00:1::/64"]),
            [&v4[..], &["net.ipv6.conf.all.forwarding=1"]].concat()
        );
    }

    #[test]
    fn masquerades_only_what_leaves_the_cluster() {
        let text = rules(&config(), Family::V4).to_string();
        let rule = text.lines().find(|line| line.contains("external packets")).unwrap();
        for part in ["-s 10.244.1.0/24", "! --match-set ANTREA-POD-IP dst", "! -o antrea-gw0", "MASQUERADE"] {
            assert!(rule.contains(part), "{part} in {rule}");
        }
        assert!(rules(&config(), Family::V6).to_string().contains("ANTREA-POD-IP6"));
        let off = HostConfig { no_snat: true, ..config() };
        assert!(!rules(&off, Family::V4).to_string().contains("external packets"));
    }

    #[test]
    fn the_host_ignores_what_pods_send() {
        for family in Family::BOTH {
            let text = rules(&config(), family).to_string();
            assert!(text.contains("--src-group") && text.contains("-j DROP"), "{text}");
        }
    }

    #[test]
    fn local_processes_are_marked_early_in_userspace_alone() {
        let marks = |config: &HostConfig, family| {
            let text = rules(config, family).to_string();
            text.lines().filter(|line| line.starts_with("-A ANTREA-OUTPUT") && line.contains("MARK")).count()
        };
        let userspace = HostConfig { userspace: true, ..config() };
        assert_eq!(marks(&userspace, Family::V4), 2, "pods and Services");
        assert_eq!(marks(&userspace, Family::V6), 1, "no Services of this family");
        assert_eq!(marks(&config(), Family::V4), 0);
    }

    #[test]
    fn the_sets_of_each_family() {
        let sets = sets(&config()).unwrap();
        let names: Vec<_> = sets.iter().map(IpSet::name).collect();
        assert_eq!(names, ["ANTREA-POD-IP", "ANTREA-POD-IP6", "ANTREA-NODE-IP", "ANTREA-NODE-IP6"]);
        assert_eq!(sets[0].members().len(), 2);
    }
}
