//! What the host's rules depend on, and following this node's pods and their egress policy.

use std::collections::BTreeSet;

use ipnet::IpNet;
use netcfg::{Family, NetcfgErrors};

use super::egress::{self, Egress, refuse};
use super::local_traffic::{self, LocalTraffic};
use super::network::HostConfig;
use super::{Applied, Host};
use crate::facts::Health;

impl Host {
    pub(super) fn rules_for(&self, wanted: &Applied) -> HostConfig {
        let Applied { nodes, egress, access } = wanted.clone();
        let mut rules = HostConfig { egress, services: access, ..self.rules.clone() };
        let others = nodes.values().filter(|peer| peer.name != self.network.node_name);
        for peer in others {
            rules.cluster_subnets.extend(peer.pod_cidrs.iter().copied());
            rules.nodes.extend(peer.addresses.iter().copied());
        }
        // The own ones too: they may have changed since the start without a reason to start again.
        let own = nodes.get(&self.network.node_name).into_iter().flat_map(|own| own.addresses.clone());
        rules.own.extend(own.chain([self.underlay.transport.addr()]));
        rules.nodes.extend(rules.own.iter().copied());
        rules
    }

    /// Tells of pods whose egress policy has no room at the host, or nothing that could hold it.
    pub(super) fn tell_left_out(&self, rules: &HostConfig) {
        let without = self.applier.without_nftables();
        let left_out = match without {
            Some(_) => refuse::refused(&rules.egress),
            None => {
                let tables = Family::BOTH.into_iter().filter_map(|family| egress::table(rules, family));
                tables.flat_map(|(_, left_out)| left_out).collect()
            }
        };
        let why = match without {
            Some(error) => format!("there is no nftables on this node to hold it ({error})"),
            None => "it has more rules and ports than the host has room for; name ranges of ports".to_owned(),
        };
        let health = match left_out.first() {
            None => Health::Good,
            Some(first) => Health::bad(
                "EgressRulesLeftOut",
                format_args!(
                    "egress policy of {} pods, the first at {first}, is not in force at the host: {why}. Whatever it says, \
                     they are refused what a Service leads to by way of the host",
                    left_out.len()
                ),
            ),
        };
        self.reporter.update(|facts| facts.egress = health);
    }

    pub(super) fn egress(&self) -> Egress {
        let pods = self.network.interfaces().into_iter().flat_map(|pod| pod.ips).collect();
        Egress { pods, policy: self.egress.borrow().clone() }
    }

    /// What tells the userspace datapath of packets of the node itself.
    pub(super) fn local_traffic(&self, services: &[IpNet]) -> LocalTraffic {
        if !self.rules.userspace {
            return LocalTraffic::default();
        }
        let pods: BTreeSet<_> = self.network.interfaces().into_iter().flat_map(|pod| pod.ips).collect();
        let pods: Vec<_> = pods.into_iter().collect();
        let mut subnets = self.rules.subnets.clone();
        subnets.extend(services);
        local_traffic::desired(&self.rules.gateway, self.underlay.gateway_link, &subnets, &pods)
    }

    /// Follows this node's pods and their egress policy where they are all that changed: a change is in force at the
    /// host soon after it is in the bridge. Returns whether it worked.
    pub(super) async fn follow_pods(&mut self) -> bool {
        let Some(before) = self.applied.clone() else { return false };
        let wanted = Applied { egress: self.egress(), ..before.clone() };
        if before == wanted {
            return true;
        }
        let mut errors = NetcfgErrors::new();
        errors.check_all(self.network.netlink.apply_rules(&self.local_traffic(&[]).rules).await);
        let rules = self.rules_for(&wanted);
        self.tell_left_out(&rules);
        errors.check_all(self.applier.follow(&rules).await);
        for error in errors.errors() {
            tracing::error!(%error, "host network");
        }
        let good = errors.errors().is_empty();
        if good {
            self.applied = Some(wanted);
        }
        good
    }
}
