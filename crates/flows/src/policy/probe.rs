//! The policy of datapath probes: an isolated receiver that one sender reaches at one port.

use std::net::IpAddr;

use openflow::Flow;

use super::{
    Action, Class, Direction, Peers, PortRange, Protocol, Realizer, Rule, RuleError, Service, SortedMap,
};
use crate::{Network, PodInterface};

/// Id of the only rule. Those of policies are given from 1 on, so that none of them is this one, nor are its flows those of
/// one of them: the priority of a Kubernetes rule's flows follows from its id.
pub const PROBE_RULE: u32 = u32::MAX - 0xff;

/// Flows by which `receiver` gets TCP to `port` from `senders` and nothing else that is not the host's own, made as those of
/// a Kubernetes policy are.
///
/// # Errors
/// The pipeline has no room for such a rule.
pub fn probe(
    net: &Network,
    receiver: &PodInterface,
    senders: &[IpAddr],
    port: u16,
) -> Result<Vec<Flow>, RuleError> {
    let mut realizer = Realizer::new(net);
    realizer.upsert_rule(Rule {
        id: PROBE_RULE,
        direction: Direction::In,
        class: Class::K8s,
        action: Action::Allow,
        pods: SortedMap::from([(receiver.ofport, receiver.ips.iter().copied().collect())]),
        peers: Peers::Of(senders.iter().map(|ip| (*ip).into()).collect()),
        services: vec![Service::to(Protocol::Tcp, PortRange::single(port))],
        logs: false,
    })?;
    Ok(realizer.flows())
}
