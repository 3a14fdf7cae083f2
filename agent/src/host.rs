//! The node's own network: links, addresses, routes, neighbours, tunnel forwarding, rules and settings, and
//! keeping them as they should be.
//!
//! ```text
//!  nodes ───────────► desired ─┐
//!  kernel's messages ► suspect ┼─► look: read, compare, put back ─► AgentHealthy
//!  time ───────────────────────┘
//! ```
//!
//! One task owns all of it. What differs after the nodes changed is news; what differs otherwise was done by
//! somebody else, and is told.

mod drift;
mod links;
pub mod local_traffic;
pub mod network;
mod ports;
pub mod subnet;
mod times;
pub mod translated;
pub mod transport;
pub mod tunnel_guard;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use netcfg::nl::route::RouteFilter;
use netcfg::sysctl::Sysctl;
use netcfg::{Link, MacAddr, NetcfgErrors, VxlanInfo};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch as latest;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

pub use self::drift::REPAIRED;
use self::drift::{Findings, Teller};
use self::links::{DesiredLink, Fault};
use self::times::{Scope, Times};
use self::watch::{Interest, Suspicion, Watch};
use crate::config::{AgentConfig, EncapMode, TunnelType};
use crate::host::local_traffic::LocalTraffic;
use crate::host::network::{HostConfig, HostNetwork};
use crate::host::subnet::gateway_net;
use crate::host::translated::Egress;
use crate::ovs::bridge::{Bridge, Datapath, TUNNEL_PORT};
use crate::peers::watch::Nodes;
use crate::peers::wiring::{Underlay, Wiring, wire};
use crate::pods::attach;
use crate::pods::network::{NodeNetwork, POD_LINK_GROUP, quiet_settings};
use crate::status::facts::{Health, Reporter};

/// Nodes that join together are wired together.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// The network depends on something that changed: the agent has to start again.
#[derive(Debug, thiserror::Error)]
#[error("{0}, starting again")]
pub struct Moved(String);

/// Keeps the node's own network.
#[derive(Debug)]
pub struct Host {
    network: Arc<NodeNetwork>,
    config: AgentConfig,
    bridge: Bridge,
    underlay: Underlay,
    transport: String,
    /// MTU of the link between nodes when it was first looked at.
    transport_mtu: Option<u32>,
    /// The userspace datapath's tunnel.
    tunnel_link: Option<u32>,
    /// MTU of the device that Open vSwitch made for the tunnel, when it was first looked at.
    device_mtu: Option<u32>,
    rules: HostConfig,
    applier: HostNetwork,
    reporter: Reporter,
    /// What everything was applied for without a problem.
    applied: Option<(Nodes, Egress)>,
    /// Pods' links that were told to be gone.
    lost: BTreeSet<String>,
    teller: Teller,
}

/// What a look has done so far.
#[derive(Debug, Default)]
struct Progress {
    done: Vec<String>,
    errors: NetcfgErrors,
    problems: Vec<String>,
}

impl Host {
    /// A host that has not been looked at. `transport` is the name of the link between nodes.
    pub fn new(
        network: Arc<NodeNetwork>,
        config: AgentConfig,
        bridge: Bridge,
        (underlay, transport): (Underlay, String),
        (rules, applier): (HostConfig, HostNetwork),
        reporter: Reporter,
    ) -> Self {
        Self {
            network,
            config,
            bridge,
            underlay,
            transport,
            transport_mtu: None,
            tunnel_link: None,
            device_mtu: None,
            rules,
            applier,
            reporter,
            applied: None,
            lost: BTreeSet::new(),
            teller: Teller::default(),
        }
    }

    /// Makes everything as it should be with these nodes. What fails is told, and tried again by [`Self::run`].
    ///
    /// # Errors
    /// See [`Self::run`].
    pub async fn apply(&mut self, nodes: &Nodes) -> Result<(), Moved> {
        self.look(nodes, Scope::ALL, None).await.map(drop)
    }

    /// Follows `nodes`, and what others change, until `shutdown`.
    ///
    /// # Errors
    /// What the whole network depends on changed.
    pub async fn run(
        mut self,
        mut nodes: latest::Receiver<Option<Nodes>>,
        shutdown: CancellationToken,
    ) -> Result<(), Moved> {
        let mut watch = Watch::new(self.network.netlink.clone()).await;
        let mut times = Times::new(Instant::now(), watch.hears_rules());
        let mut current = nodes.borrow_and_update().clone().unwrap_or_default();
        let mut pods = self.network.interface_count();
        let mut egress = self.network.policy.host_egress();
        let mut rows = self.network.vswitch.subscribe();
        // What changed between bring-up and now.
        let mut scope = Scope::ALL;
        loop {
            let begin = Instant::now();
            let good = self.look(&current, scope, times.take_suspect(scope)).await?;
            times.looked(Instant::now(), scope, begin.elapsed(), good);
            let interest = self.interest(&current);
            scope = loop {
                let due = self.teller.until().map_or(times.due(), |until| times.due().min(until));
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    changed = nodes.changed() => {
                        if changed.is_err() {
                            return Ok(());
                        }
                        sleep(DEBOUNCE).await;
                        if let Some(now) = nodes.borrow_and_update().clone() {
                            current = now;
                        }
                        break Scope::ALL;
                    }
                    changed = async { tokio::select! { c = pods.changed() => c, c = egress.changed() => c } } => {
                        if changed.is_err() {
                            return Ok(());
                        }
                        if !self.follow_pods().await {
                            break Scope::ALL;
                        }
                    }
                    changes = rows.recv() => match changes {
                        Ok(changes) if !ports::touched(&changes).any(|name| self.keeps_port(name)) => {}
                        Ok(_) | Err(RecvError::Lagged(_)) => times.suspect_links(Instant::now()),
                        // The session with OVSDB ends with the agent.
                        Err(RecvError::Closed) => return Ok(()),
                    },
                    suspicion = watch.next(&interest) => match suspicion {
                        Suspicion::Links => times.suspect_links(Instant::now()),
                        Suspicion::Firewall(who) => times.suspect_rules(Instant::now(), who),
                    },
                    () = sleep_until(due) => {
                        let now = Instant::now();
                        break if self.teller.confirms(now) { Scope::ALL } else { times.scope(now) };
                    }
                }
            };
        }
    }

    /// Looks at a part, puts back what differs, and tells. Returns whether all could be done.
    async fn look(&mut self, nodes: &Nodes, scope: Scope, by: Option<String>) -> Result<bool, Moved> {
        let egress = self.egress();
        self.tell_left_out(&egress);
        let expected = self.applied.as_ref().is_some_and(|(n, e)| n == nodes && *e == egress);
        let scope = if expected { scope } else { Scope::ALL };
        let mut progress = Progress::default();
        if scope.links {
            self.links(&mut progress).await?;
            self.paths(self.wirings(nodes), &mut progress).await;
        }
        let rules = self.rules_for(nodes, egress.clone());
        if scope.settings {
            let done = progress.errors.check_all(self.applier.settings(&rules).await);
            progress.done.extend(done.into_iter().flatten());
        }
        if scope == Scope::ALL {
            self.quiet(&mut progress).await;
        }
        let mut rules_differed = false;
        if scope.rules {
            let done = progress.errors.check_all(self.applier.apply(&rules).await).unwrap_or_default();
            rules_differed = !done.is_empty();
            progress.done.extend(done);
        }
        let Progress { done, errors, mut problems } = progress;
        problems.extend(errors.errors().iter().map(ToString::to_string));
        let good = problems.is_empty();
        for problem in &problems {
            tracing::error!(problem, "host network");
        }
        if expected && !done.is_empty() {
            tracing::warn!(?done, by, "the node's network differed from what was made, put back");
        } else if !done.is_empty() {
            tracing::info!(changes = done.len(), "the node's network is brought up to date");
        }
        if good && scope == Scope::ALL {
            self.applied = Some((nodes.clone(), egress));
        }
        let repaired = if expected { done } else { Vec::new() };
        let by = by.filter(|_| rules_differed);
        let findings = Findings { repaired, problems, by };
        if let Some(health) = self.teller.judge(Instant::now(), scope == Scope::ALL, &findings) {
            self.reporter.update(|facts| facts.host = health);
        }
        Ok(good)
    }

    /// Wiring of every other node.
    fn wirings(&self, nodes: &Nodes) -> Vec<Wiring> {
        let others = nodes.values().filter(|peer| peer.name != self.network.node_name);
        others.map(|peer| wire(&self.underlay, peer)).collect()
    }

    fn rules_for(&self, nodes: &Nodes, egress: Egress) -> HostConfig {
        let mut rules = HostConfig { egress, ..self.rules.clone() };
        let others = nodes.values().filter(|peer| peer.name != self.network.node_name);
        for peer in others {
            rules.cluster_subnets.extend(peer.pod_cidrs.iter().copied());
            rules.nodes.extend(peer.addresses.iter().copied());
        }
        // The own ones too: they may have changed since the start without a reason to start again.
        rules
            .nodes
            .extend(nodes.get(&self.network.node_name).into_iter().flat_map(|own| own.addresses.clone()));
        rules.nodes.push(self.underlay.transport.addr());
        rules
    }

    /// Tells of pods whose egress policy has no room at the host.
    fn tell_left_out(&self, egress: &Egress) {
        let left_out = translated::left_out(&egress.policy);
        let health = match left_out.first() {
            None => Health::Good,
            Some(first) => Health::bad(
                "EgressRulesLeftOut",
                format_args!(
                    "egress policy of {} pods, the first at {first}, has more ports than the host has room for: what it \
                     allows them is refused where a Service leads to it by way of the host; name ranges of ports",
                    left_out.len()
                ),
            ),
        };
        self.reporter.update(|facts| facts.egress = health);
    }

    fn egress(&self) -> Egress {
        let pods = self.network.interfaces().into_iter().flat_map(|pod| pod.ips).collect();
        Egress { pods, policy: self.network.policy.host_egress().borrow().clone() }
    }

    /// What tells the userspace datapath of packets of the node itself.
    fn local_traffic(&self) -> LocalTraffic {
        if !self.rules.userspace {
            return LocalTraffic::default();
        }
        let pods: BTreeSet<_> = self.network.interfaces().into_iter().flat_map(|pod| pod.ips).collect();
        let pods: Vec<_> = pods.into_iter().collect();
        local_traffic::desired(&self.rules.gateway, self.underlay.gateway_link, &self.rules.subnets, &pods)
    }

    /// Follows this node's pods and their egress policy where they are all that changed: a change is in force at the
    /// host soon after it is in the bridge. Returns whether it worked.
    async fn follow_pods(&mut self) -> bool {
        let egress = self.egress();
        self.tell_left_out(&egress);
        let Some((nodes, before)) = self.applied.clone() else { return false };
        if before == egress {
            return true;
        }
        let mut errors = NetcfgErrors::new();
        errors.check_all(self.network.netlink.apply_rules(&self.local_traffic().rules).await);
        let rules = self.rules_for(&nodes, egress.clone());
        if before.policy.allowed == egress.policy.allowed {
            errors.check_all(self.applier.apply_sets(&rules).await);
        } else {
            errors.check_all(self.applier.apply(&rules).await);
        }
        for error in errors.errors() {
            tracing::error!(%error, "host network");
        }
        let good = errors.errors().is_empty();
        if good {
            self.applied = Some((nodes, egress));
        }
        good
    }

    fn interest(&self, nodes: &Nodes) -> Interest {
        let mut interest = Interest {
            names: [self.config.host_gateway.as_str(), TUNNEL_PORT, &self.transport]
                .map(str::to_owned)
                .into(),
            indexes: BTreeSet::from([self.underlay.gateway_link, self.underlay.transport_link]),
            destinations: BTreeSet::new(),
        };
        interest.indexes.extend(self.tunnel_link);
        interest.names.extend(self.device());
        let routes = self.wirings(nodes).into_iter().flat_map(|wiring| wiring.routes);
        interest.destinations.extend(routes.map(|route| route.dst));
        interest
    }

    fn has_vxlan(&self) -> bool {
        self.underlay.kernel_vxlan && self.underlay.mode != EncapMode::NoEncap
    }

    /// The agent's own links.
    fn desired(&self) -> Vec<DesiredLink> {
        let mut desired = vec![DesiredLink {
            name: self.config.host_gateway.clone(),
            mac: Some(MacAddr(self.bridge.gateway_mac)),
            mtu: Some(self.network.mtu),
            addresses: Some(self.network.subnets.iter().map(gateway_net).collect()),
            ..DesiredLink::default()
        }];
        if self.has_vxlan() {
            desired.push(DesiredLink {
                name: TUNNEL_PORT.to_owned(),
                mtu: Some(self.network.mtu),
                group: Some(POD_LINK_GROUP),
                vxlan: Some(VxlanInfo {
                    vni: 0,
                    port: self.config.tunnel_port(TunnelType::Vxlan),
                    local: Some(self.underlay.transport.addr()),
                    learning: false,
                }),
                ..DesiredLink::default()
            });
        }
        // A kernel of before such devices has tunnels all the same: one that was never there is not missed.
        if let (Some(name), Some(mtu)) = (self.device(), self.device_mtu) {
            desired.push(DesiredLink { name, mtu: Some(mtu), ..DesiredLink::default() });
        }
        desired
    }

    /// The host's ends of pods' links, but for those that a call is about.
    fn pod_links(&self) -> Vec<DesiredLink> {
        let interfaces = self.network.interfaces().into_iter();
        let quiet = interfaces.filter(|interface| !self.network.is_claimed(&interface.host_ifname));
        quiet
            .map(|interface| DesiredLink {
                name: interface.host_ifname,
                group: Some(POD_LINK_GROUP),
                ..DesiredLink::default()
            })
            .collect()
    }

    async fn links(&mut self, progress: &mut Progress) -> Result<(), Moved> {
        let netlink = self.network.netlink.clone();
        let Some(mut links) = progress.errors.check(netlink.links().await) else { return Ok(()) };
        let desired = self.desired();
        let lost: Vec<_> = desired.iter().filter_map(|link| self.lost(link, &links)).collect();
        if !lost.is_empty() {
            if !self.ovs_works() {
                // Links of the bridge go and come with it; its own condition tells of that.
                return Ok(());
            }
            if let Err(problem) = self.make_ports().await {
                progress.problems.push(format!("{}: {problem}", lost.join("; ")));
                return Ok(());
            }
            progress.done.extend(lost);
            let Some(again) = progress.errors.check(netlink.links().await) else { return Ok(()) };
            links = again;
        }
        self.follow_indexes(&links)?;
        for link in &desired {
            self.repair(link, &links, progress).await;
        }
        // Read before the interfaces: a pod that is added meanwhile has no link here yet and is not missed.
        let names: BTreeSet<&str> = links.iter().map(|link| link.name.as_str()).collect();
        for link in self.pod_links() {
            if names.contains(link.name.as_str()) {
                self.lost.remove(&link.name);
                self.repair(&link, &links, progress).await;
            } else {
                self.tell_lost(&link.name);
            }
        }
        self.pod_ports(&names, progress).await;
        Ok(())
    }

    /// A link that was made anew has another index.
    fn follow_indexes(&mut self, links: &[Link]) -> Result<(), Moved> {
        let find = |name: &str| links.iter().find(|link| link.name == name);
        if let Some(gateway) = find(&self.config.host_gateway) {
            self.underlay.gateway_link = gateway.index;
        }
        self.tunnel_link = find(TUNNEL_PORT).map(|link| link.index);
        if let Some(device) = self.device().as_deref().and_then(find) {
            self.device_mtu.get_or_insert(device.mtu);
        }
        if let Some(transport) = find(&self.transport) {
            self.underlay.transport_link = transport.index;
            let Bridge { tunnel_type, .. } = self.bridge;
            let pods = |mtu| self.config.pod_mtu(mtu, self.underlay.transport.addr(), tunnel_type);
            let before = *self.transport_mtu.get_or_insert(transport.mtu);
            if pods(before) != pods(transport.mtu) {
                let Link { name, mtu, .. } = transport;
                return Err(Moved(format!("the MTU of link {name} changed from {before} to {mtu}")));
            }
        }
        Ok(())
    }

    async fn repair(&self, desired: &DesiredLink, links: &[Link], progress: &mut Progress) {
        let netlink = &self.network.netlink;
        let found = links.iter().find(|link| link.name == desired.name);
        let mut addresses = Vec::new();
        if let (Some(link), Some(_)) = (found, &desired.addresses) {
            let Some(read) = progress.errors.check(netlink.addresses(link.index).await) else { return };
            addresses.extend(read.into_iter().map(|address| address.net));
        }
        let faults = desired.compare(found, &addresses);
        for found in &faults {
            let Some(index) = found.index else { continue };
            let done = match found.fault {
                Fault::Down => netlink.set_up(index).await,
                Fault::Mac(mac) => netlink.set_mac(index, mac).await,
                Fault::Mtu(mtu) => netlink.set_mtu(index, mtu).await,
                Fault::Group(group) => netlink.set_group(index, group).await,
                // The addresses of a link are put right together.
                Fault::Lacks(_) | Fault::Extra(_) => Ok(()),
                Fault::Gone | Fault::Other => continue,
            };
            if progress.errors.check(done).is_some() {
                progress.done.push(found.to_string());
            }
        }
        let of_addresses = faults.iter().any(|f| matches!(f.fault, Fault::Lacks(_) | Fault::Extra(_)));
        if let (true, Some(link), Some(wanted)) = (of_addresses, found, &desired.addresses) {
            progress.errors.check_all(netlink.apply_addresses(link.index, wanted).await);
        }
    }

    /// A pod's link cannot be made again from here, for its other end is the container's; and a pod with
    /// privileges may delete it itself, so it is no fault of the node.
    fn tell_lost(&mut self, name: &str) {
        let interface = self.network.interfaces().into_iter().find(|interface| interface.host_ifname == name);
        let alive =
            interface.filter(|pod| attach::has_namespace(&self.network, &pod.container_id, &pod.ifname));
        let Some(pod) = alive else { return };
        if self.lost.insert(name.to_owned()) {
            tracing::warn!(
                link = name,
                pod = pod.pod_name,
                namespace = pod.pod_namespace,
                "the pod's link is gone: it has no network until it is made anew"
            );
        }
    }

    async fn paths(&self, wirings: Vec<Wiring>, progress: &mut Progress) {
        let netlink = &self.network.netlink;
        let LocalTraffic { rules, mut routes, mut neighbours } = self.local_traffic();
        let mut fdb = Vec::new();
        for wiring in wirings {
            routes.extend(wiring.routes);
            neighbours.extend(wiring.neighbours);
            fdb.extend(wiring.fdb);
        }
        let Progress { done, errors, .. } = progress;
        if let Some(diff) = errors.check_all(netlink.apply_rules(&rules).await) {
            done.extend(diff.add.iter().map(|rule| format!("routing rule {rule} was missing")));
            done.extend(diff.remove.iter().map(|rule| format!("routing rule {rule} was foreign")));
        }
        if let Some(diff) = errors.check_all(netlink.apply_routes(&RouteFilter::owned(), &routes).await) {
            done.extend(diff.set.iter().map(|route| format!("route {route} was missing")));
            done.extend(diff.remove.iter().map(|route| format!("route {route} was foreign")));
        }
        let gateway = self.underlay.gateway_link;
        if let Some(diff) = errors.check_all(netlink.apply_neighbours(gateway, &neighbours).await) {
            done.extend(diff.set.iter().map(|entry| format!("neighbour {entry} was missing")));
            done.extend(diff.remove.iter().map(|entry| format!("neighbour {entry} was foreign")));
        }
        if self.has_vxlan()
            && let Some(diff) = errors.check_all(netlink.apply_fdb(TUNNEL_PORT, &fdb).await)
        {
            done.extend(diff.set.iter().map(|entry| format!("forwarding entry {entry} was missing")));
            done.extend(diff.remove.iter().map(|entry| format!("forwarding entry {entry} was foreign")));
        }
    }

    /// See [`quiet_settings`]; a link that went meanwhile has no settings.
    async fn quiet(&self, progress: &mut Progress) {
        let mut links: Vec<_> = self.pod_links().into_iter().map(|link| link.name).collect();
        if self.bridge.datapath == Datapath::Userspace && self.has_vxlan() {
            links.push(TUNNEL_PORT.to_owned());
        }
        let sysctls = &self.network.sysctls;
        let settings: Vec<_> =
            links.iter().filter_map(|link| quiet_settings(sysctls, link).ok()).flatten().collect();
        let written = sysctls.ensure(self.network.netlink.netns(), settings).await;
        match written {
            Ok(written) => progress.done.extend(written.iter().map(setting_differed)),
            Err(errors) => {
                for error in errors.errors().iter().filter(|error| !error.is_not_found()) {
                    progress.problems.push(error.to_string());
                }
            }
        }
    }
}

/// What is told of a parameter that had another value.
pub fn setting_differed(sysctl: &Sysctl) -> String {
    format!("setting {sysctl} differed")
}
