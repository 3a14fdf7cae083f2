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
pub mod egress;
pub mod files;
mod follow;
mod links;
pub mod local_traffic;
pub mod network;
mod ports;
pub mod services;
mod times;
pub mod transport;
pub mod tunnel_guard;
mod upkeep;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use antrea_enforce::egress::HostEgress;
use ipnet::IpNet;
use netcfg::NetcfgErrors;
use netcfg::sysctl::Sysctl;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch as latest;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use self::drift::{Findings, Teller};
use self::egress::Egress;
use self::files::Installed;
use self::services::Doors;
use self::times::{Scope, Times};
use self::watch::{Interest, Suspicion, Watch};
use crate::config::AgentConfig;
use crate::facts::Reporter;
use crate::host::network::{HostConfig, HostNetwork};
use crate::ovs::bridge::{Bridge, TUNNEL_PORT};
use crate::peers::watch::Nodes;
use crate::peers::wiring::{Underlay, Wiring, wire};
use crate::pods::network::NodeNetwork;
use crate::services::access::Access;

/// Nodes that join together are wired together.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// The network depends on something that changed: the agent has to start again.
#[derive(Debug, thiserror::Error)]
#[error("{0}, starting again")]
pub struct Moved(String);

/// What the node's network was made for.
#[derive(Clone, Debug, PartialEq)]
struct Applied {
    nodes: Nodes,
    egress: Egress,
    access: Option<Access>,
}

/// Keeps the node's own network.
#[derive(Debug)]
pub struct Host {
    network: Arc<NodeNetwork>,
    /// Egress policy as far as it is enforced here.
    egress: latest::Receiver<HostEgress>,
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
    /// Files of the node; elsewhere while they are looked at.
    installed: Option<Installed>,
    reporter: Reporter,
    /// Where there is no kube-proxy: what is the bridge's, and who wants to know the node's addresses.
    services: Option<Doors>,
    /// Where the agent's routes lead to.
    destinations: BTreeSet<IpNet>,
    /// What everything was applied for without a problem.
    applied: Option<Applied>,
    /// Pods' links that were told to be gone.
    lost: BTreeSet<String>,
    /// Which of the pods' links comes next when settings are looked at.
    next: usize,
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
        (network, egress): (Arc<NodeNetwork>, latest::Receiver<HostEgress>),
        config: AgentConfig,
        bridge: Bridge,
        (underlay, transport): (Underlay, String),
        (rules, applier): (HostConfig, HostNetwork),
        (installed, services): (Installed, Option<Doors>),
        reporter: Reporter,
    ) -> Self {
        Self {
            network,
            egress,
            services,
            config,
            bridge,
            underlay,
            transport,
            transport_mtu: None,
            tunnel_link: None,
            device_mtu: None,
            rules,
            applier,
            installed: Some(installed),
            reporter,
            destinations: BTreeSet::new(),
            applied: None,
            lost: BTreeSet::new(),
            next: 0,
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
        let mut egress = self.egress.clone();
        let mut rows = self.network.vswitch.subscribe();
        // What changed between bring-up and now.
        let mut scope = Scope::ALL;
        loop {
            let begin = Instant::now();
            let good = self.look(&current, scope, times.take_suspect(scope)).await?;
            times.looked(Instant::now(), scope, begin.elapsed(), good);
            let interest = self.interest();
            scope = loop {
                let due = self.teller.until().map_or(times.due(), |until| times.due().min(until));
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    () = services::changed(&mut self.services) => {
                        sleep(DEBOUNCE).await;
                        break Scope::ALL;
                    }
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
        let wanted = Applied {
            nodes: nodes.clone(),
            egress: self.egress(),
            access: services::current(&mut self.services),
        };
        let expected = self.applied.as_ref() == Some(&wanted);
        let scope = if expected { scope } else { Scope::ALL };
        let mut progress = Progress::default();
        if scope.links {
            self.links(&mut progress).await?;
        }
        let rules = self.rules_for(&wanted);
        if scope.links {
            self.paths(self.wirings(nodes), &rules, &mut progress).await;
        }
        self.tell_left_out(&rules);
        if scope.settings {
            let done = progress.errors.check_all(self.applier.settings(&rules).await);
            progress.done.extend(done.into_iter().flatten());
            self.quiet(&mut progress).await;
            self.files(&mut progress).await;
        }
        let mut rules_differed = false;
        if scope.rules {
            let done = progress.errors.check_all(self.applier.apply(&rules).await).unwrap_or_default();
            rules_differed = !done.is_empty();
            progress.done.extend(done);
            if !expected {
                self.forget_datagrams(wanted.access.as_ref(), &mut progress).await;
            }
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
            self.applied = Some(wanted);
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

    fn interest(&self) -> Interest {
        let mut interest = Interest {
            names: [self.config.host_gateway.as_str(), TUNNEL_PORT, &self.transport]
                .map(str::to_owned)
                .into(),
            indexes: BTreeSet::from([self.underlay.gateway_link, self.underlay.transport_link]),
            destinations: self.destinations.clone(),
            every_address: self.services.is_some(),
        };
        interest.indexes.extend(self.tunnel_link);
        interest.names.extend(self.device());
        interest
    }
}

/// What is told of a parameter that had another value.
pub fn setting_differed(sysctl: &Sysctl) -> String {
    format!("setting {sysctl} differed")
}
