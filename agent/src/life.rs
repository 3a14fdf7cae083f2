//! The life of a node's network: waits for the Node object, brings the network up, follows what changes, and ends when
//! everything has to begin anew.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::bringup::{self, Inputs, Paths, Wired};
use crate::capture::{Capturer, Files};
use crate::config::AgentConfig;
use crate::facts::{Health, Reporter};
use crate::host::Host;
use crate::host::files::Installed;
use crate::host::network::HostNetwork;
use crate::host::services::{Doors, remembered};
use crate::metrics::{AgentMetrics, DnsMetrics, ProxyMetrics};
use crate::ovs::audit::Audit;
use crate::ovs::bridge::BringUpError;
use crate::ovs::{conntrack, restore, selftest};
use crate::peers::follow::Peering;
use crate::peers::watch::Nodes;
use crate::peers::wiring::Peer;
use crate::pods::interfaces::PodInterface;
use crate::pods::network::NodeNetwork;
use crate::pods::rows;
use crate::policy::audit::DecisionLog;
use crate::policy::{DnsSettings, PolicyHandle, Ways, judged};
use crate::probes::Prober;
use crate::services::everybody::{self, Ends};
use crate::services::health::{self, Told};
use crate::services::{self, Follower};
use crate::traceflow::Tracer;
use antrea_runtime::supervise::{self, Needed};
use anyhow::{Context, Result};
use netcfg::Netlink;
use ovs::Vswitch;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Pause before bring-up is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// What brings the network up, again and again until it is.
pub struct Agent {
    pub config: AgentConfig,
    pub paths: Paths,
    pub node_name: String,
    pub netlink: Netlink,
    pub vswitch: Vswitch,
    pub policy: PolicyHandle,
    pub reporter: Reporter,
    pub metrics: AgentMetrics,
    /// Of DNS's answers.
    pub dns_metrics: DnsMetrics,
    /// Where the bridge serves Services: how to read them, and what counts them.
    pub services: Option<(kube::Client, ProxyMetrics)>,
    /// Where Traceflow is on: how to read traces and to write what was seen.
    pub traceflow: Option<kube::Client>,
    /// Where PacketCapture is on: how to read captures and to write their status, their files, and namespace and
    /// name of the agent's Pod.
    pub captures: Option<(kube::Client, Files, (String, String))>,
    /// How to read requests for datapath probes.
    pub probes: kube::Client,
    /// Where NetworkPolicyStats is on: the file with what the controller was told, and how often it is.
    pub statistics: Option<(PathBuf, Duration)>,
    /// The file of what policies decide.
    pub audit_log: PathBuf,
    pub shutdown: CancellationToken,
}

impl Agent {
    /// Brings the network up and follows what changes, until everything has to begin anew.
    ///
    /// # Errors
    /// The node was moved, or what is followed is no more.
    pub async fn run(
        self,
        mut nodes: watch::Receiver<Option<Nodes>>,
        network: watch::Sender<Option<Arc<NodeNetwork>>>,
        not_up: antrea_runtime::health::BlockReady,
    ) -> Result<()> {
        let (own, (mut wired, peering, host, services)) = loop {
            // Read again for each try: what failed may be mended there.
            let own = self.own_node(&mut nodes).await?;
            match self.bring_up(&own, &nodes).await {
                Ok(up) => break (own, up),
                Err(error) => {
                    tracing::error!(reason = error.reason, %error, "the node's network is not up");
                    not_up.set_reason(error.message.clone());
                    self.reporter.update(|facts| facts.network = Health::bad(error.reason, &error));
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        self.reporter.update(|facts| {
            facts.network = Health::Good;
            facts.network_info = Some(wired.facts.clone());
        });
        network.send_replace(Some(wired.network.clone()));
        drop(not_up);
        tracing::info!(
            datapath = wired.bridge.datapath.ovs_type(),
            tunnel = wired.bridge.tunnel_type.ovs_type(),
            mtu = wired.network.mtu,
            pods = wired.network.interfaces().len(),
            round = wired.bridge.round,
            "the node's network is up"
        );
        let needed = std::mem::take(&mut wired.needed).ended();
        let counts = self.follow_counts(&wired.network);
        let pods = || wired.network.interfaces().iter().map(PodInterface::local_pod).collect();
        let addresses = self.policy.tell_addresses(pods, wired.network.interface_count());
        let statistics = async {
            match self.statistics.clone() {
                Some((file, every)) => {
                    self.policy.tell_statistics(&wired.network.dataplane, &file, every).await
                }
                None => std::future::pending().await,
            }
        };
        let log = DecisionLog::new(
            self.audit_log.clone(),
            self.config.audit_logging,
            self.policy.logged(),
            self.metrics.packet_ins.clone(),
        );
        let (log, lines) = log.context("the log of what policies decide")?;
        let judged = judged::follow(&wired.network.dataplane, &log);
        let refusing = everybody::refuse(&wired.network.dataplane);
        let pod_at = |ip| wired.network.pod_at(ip);
        let logging = lines.run(wired.network.dataplane.network(), pod_at);
        let settings = DnsSettings {
            shortest: Duration::from_secs(self.config.fqdn_cache_min_ttl.into()),
            mtu: wired.network.mtu as usize,
            settled: wired.network.settled.clone(),
        };
        let again = self.policy.refresh_dns(&settings, &self.dns_metrics);
        let dns = self.policy.follow_dns(&wired.network.dataplane, settings.clone(), &self.dns_metrics);
        let tracer = self
            .traceflow
            .clone()
            .map(|client| Tracer::new(wired.network.clone(), self.policy.clone(), client, nodes.clone()));
        let capturer = self.captures.clone().map(|(client, files, pod)| {
            Capturer::new(wired.network.clone(), client, files, pod, self.metrics.captures.clone())
        });
        let prober = Prober::new(
            wired.network.clone(),
            wired.underlay.clone(),
            nodes.clone(),
            self.probes.clone(),
            self.reporter.clone(),
            self.metrics.probes.clone(),
        );
        let moved = self.moved(nodes.clone(), &own);
        let self_test = selftest::run(&self.config.host_gateway, &self.reporter, &self.metrics.self_test);
        let run_dir = PathBuf::from(&self.config.ovs_run_dir);
        let audit = Audit::new(run_dir.clone(), self.config.ovs_bridge.clone(), wired.bridge.datapath);
        let audit = audit.run(&self.reporter, &self.metrics.audit);
        let ending = self.policy.end_connections(Ways {
            dataplane: wired.network.dataplane.clone(),
            connections: wired.network.connections.clone(),
            settled: wired.network.settled.clone(),
            run_dir: run_dir.clone(),
            datapath: wired.bridge.datapath,
        });
        let conntrack = conntrack::run(wired.bridge.datapath, run_dir, &self.metrics.conntrack);
        tokio::select! {
            () = serve(services, nodes.clone(), self.shutdown.clone()) => Ok(()),
            () = look_out(tracer, self.shutdown.clone()) => Ok(()),
            () = capture(capturer, self.shutdown.clone()) => Ok(()),
            () = prober.run(self.shutdown.clone()) => Ok(()),
            () = peering.run(nodes.clone(), self.shutdown.clone()) => Ok(()),
            moved = host.run(nodes, self.shutdown.clone()) => moved.map_err(Into::into),
            () = counts => Ok(()),
            () = addresses => Ok(()),
            () = statistics => Ok(()),
            () = judged => Ok(()),
            () = logging => Ok(()),
            () = refusing => Ok(()),
            () = dns => Ok(()),
            () = again => Ok(()),
            () = ending => Ok(()),
            () = self.policy.keep_dns() => Ok(()),
            () = self.policy.keep_rule_ids() => Ok(()),
            () = restore::follow(&wired.network.vswitch, &wired.network.dataplane) => Ok(()),
            () = rows::follow(&wired.network) => Ok(()),
            change = moved => change,
            ended = needed => self.unless_shutdown(ended),
            never = self_test => match never {},
            never = conntrack => match never {},
            never = audit => match never {},
        }
    }

    /// On shutdown everything ends.
    fn unless_shutdown(&self, ended: supervise::Error) -> Result<()> {
        if self.shutdown.is_cancelled() { Ok(()) } else { Err(ended.into()) }
    }

    /// Waits until the Node object of this node has what is needed.
    async fn own_node(&self, nodes: &mut watch::Receiver<Option<Nodes>>) -> Result<Arc<Peer>> {
        let known = self.own(&nodes.borrow());
        if let Some(known) = known {
            return Ok(known);
        }
        self.reporter.update(|facts| {
            let message = format!("Node {} has no pod subnet or no address yet", self.node_name);
            facts.network = Health::bad("NodeIncomplete", message);
        });
        loop {
            nodes.changed().await.context("watch on nodes ended")?;
            let known = self.own(&nodes.borrow_and_update());
            if let Some(known) = known {
                return Ok(known);
            }
        }
    }

    fn own(&self, nodes: &Option<Nodes>) -> Option<Arc<Peer>> {
        nodes.as_ref().and_then(|nodes| nodes.get(&self.node_name).cloned())
    }

    /// Where the other nodes are, as far as they are known.
    fn peers(&self, nodes: &Nodes) -> Vec<IpAddr> {
        let others = nodes.values().filter(|peer| peer.name != self.node_name);
        others.flat_map(|peer| peer.transport_ips.clone()).collect()
    }

    async fn bring_up(
        &self,
        own: &Arc<Peer>,
        nodes: &watch::Receiver<Option<Nodes>>,
    ) -> Result<(Box<Wired>, Peering, Host, Option<Follower>), BringUpError> {
        let peers = self.peers(&nodes.borrow().clone().unwrap_or_default());
        let inputs = Inputs {
            config: &self.config,
            paths: &self.paths,
            node: own,
            peers: &peers,
            netlink: &self.netlink,
            vswitch: &self.vswitch,
            policy: &self.policy,
            reporter: &self.reporter,
            metrics: &self.metrics,
            shutdown: &self.shutdown,
        };
        let mut wired = bringup::wire(&inputs).await?;
        bringup::stage(&wired.network, &self.policy).await?;
        let host_network = HostNetwork::new(
            self.netlink.clone(),
            &wired.host.families(),
            self.paths.sysctls.clone(),
            wired.network.judged().clone(),
        )
        .await
        .map_err(|error| BringUpError::new("HostNetworkFailed", error))?;
        let mut peering = Peering {
            node: self.node_name.clone(),
            dataplane: wired.network.dataplane.clone(),
            underlay: wired.underlay.clone(),
            reporter: self.reporter.clone(),
        };
        let (ends, doors) = self.ends_and_doors(&mut wired.needed).await?;
        let mut host = Host::new(
            (wired.network.clone(), self.policy.host_egress()),
            self.config.clone(),
            wired.bridge.clone(),
            (wired.underlay.clone(), wired.facts.transport_interface.clone()),
            (wired.host.clone(), host_network),
            (self.installed()?, doors),
            self.reporter.clone(),
        );
        let current = nodes.borrow().clone().unwrap_or_default();
        // What fails here is in the AgentHealthy condition and tried again; pods need not wait for it.
        peering.apply(&current).await;
        host.apply(&current).await.map_err(|error| BringUpError::new("TransportChanged", error))?;
        let mut services = self.services.clone().map(|(client, metrics)| {
            let reporter = self.reporter.clone();
            let bridge = services::Bridge {
                node: self.node_name.clone(),
                dataplane: wired.network.dataplane.clone(),
                connections: wired.network.connections.clone(),
                settled: wired.network.settled.clone(),
                policy: self.policy.clone(),
            };
            Follower::new(bridge, client, own.zone.clone(), reporter, metrics, ends)
        });
        if let Some(services) = &mut services {
            services.first().await;
        }
        bringup::go_live(&wired.network, &wired.bridge).await?;
        Ok((Box::new(wired), peering, host, services))
    }

    /// What joins host and Services where there is no kube-proxy.
    async fn ends_and_doors(
        &self,
        needed: &mut Needed,
    ) -> Result<(Option<Ends>, Option<Doors>), BringUpError> {
        if !self.config.serves_all() {
            return Ok((None, None));
        }
        let invalid = |error| BringUpError::new("ConfigInvalid", error);
        let ranges = self.config.antrea_proxy.node_port_addresses().map_err(invalid)?;
        let at = self.config.antrea_proxy.health_address().map_err(invalid)?;
        let (addresses, known) = watch::channel(Vec::new());
        let (access, wanted) = watch::channel(remembered(self.netlink.netns()).await);
        let (told, telling) = watch::channel(Told::default());
        needed.spawn("answers to load balancers", health::run(at, telling, self.shutdown.clone()));
        let ends = Ends { addresses: known, access, told, api_server: self.config.api_server() };
        Ok((Some(ends), Some(Doors::new(wanted, addresses, ranges))))
    }

    fn installed(&self) -> Result<Installed, BringUpError> {
        let sources = self.paths.installed.as_ref();
        let installed = sources.map_or_else(|| Ok(Installed::default()), Installed::read);
        installed
            .map_err(|error| BringUpError::new("CNIFilesFailed", format!("CNI files of the image: {error}")))
    }

    async fn follow_counts(&self, network: &NodeNetwork) {
        let mut count = network.interface_count();
        loop {
            let pods = i32::try_from(*count.borrow_and_update()).unwrap_or(i32::MAX);
            self.metrics.local_pods.set(pods.into());
            self.reporter.update(|facts| facts.local_pods = pods);
            if count.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends when this node's own subnet or address changes: everything depends on them, and a fresh
    /// process is the one path that is always tested.
    async fn moved(&self, mut nodes: watch::Receiver<Option<Nodes>>, own: &Peer) -> Result<()> {
        loop {
            nodes.changed().await.context("watch on nodes ended")?;
            let now = self.own(&nodes.borrow_and_update());
            if let Some(now) = now
                && now.has_moved_from(own)
            {
                anyhow::bail!("Node {} changed from {own:?} to {now:?}, starting again", self.node_name);
            }
        }
    }
}

/// Serves Services, where the bridge does.
async fn serve(
    services: Option<Follower>,
    nodes: watch::Receiver<Option<Nodes>>,
    shutdown: CancellationToken,
) {
    match services {
        Some(services) => services.run(nodes, shutdown).await,
        None => std::future::pending().await,
    }
}

/// Looks out for the packets of traces, where Traceflow is on.
async fn look_out(tracer: Option<Tracer>, shutdown: CancellationToken) {
    match tracer {
        Some(tracer) => tracer.run(shutdown).await,
        None => std::future::pending().await,
    }
}

/// Captures packets, where PacketCapture is on.
async fn capture(capturer: Option<Capturer>, shutdown: CancellationToken) {
    match capturer {
        Some(capturer) => capturer.run(shutdown).await,
        None => std::future::pending().await,
    }
}
