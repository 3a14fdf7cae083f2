//! One run of probes: what is tried, and what came of it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use antrea_crds::probes::{Finding, Outcome, Probe};
use antrea_flows::{Entry, Via};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use ipnet::IpNet;
use kube::Api;
use netcfg::Netns;
use tokio::time::sleep;

use super::traffic::{Attempt, DENIED, OPEN, Server, exchange, persist};
use super::{Own, is_answering};
use crate::peers::wiring::{Peer, Underlay, wire};
use crate::pods::attach::ProbePort;
use crate::pods::network::NodeNetwork;
use crate::subnet::{ProbeAddresses, probes_of};

/// Names of ports and links. A pod's ends with a dash and six digits, or has no dash.
const SENDER: &str = "antrea-probe-s";
const RECEIVER: &str = "antrea-probe-r";

/// How long what has to work is tried on the node.
const LOCAL: Duration = Duration::from_secs(3);

/// The same with another node, whose agent is asked at the same time and may come later.
const REMOTE: Duration = Duration::from_secs(10);

/// Attempts at what a policy denies; none of them may be answered.
const ATTEMPTS: u32 = 10;

/// How long one of them waits, and how soon the next begins.
const DENIED_LIMIT: Duration = Duration::from_millis(500);
const NEXT: Duration = Duration::from_millis(100);

/// An end of probes.
pub(super) struct End {
    port: ProbePort,
    /// What answers, once it is begun.
    server: Option<Server>,
}

impl End {
    async fn make(node: &Arc<NodeNetwork>, name: &str, ips: Vec<IpAddr>) -> Result<Self, String> {
        let port = ProbePort::new(node, name, ips).await.map_err(|error| error.to_string())?;
        Ok(Self { port, server: None })
    }

    /// Wires it and serves. May be broken off.
    ///
    /// # Errors
    /// Why it cannot be. What was done is taken away by [`Self::remove`].
    pub(super) async fn begin(&mut self) -> Result<(), String> {
        self.port.wire().await.map_err(|error| error.to_string())?;
        self.server = Some(Server::start(&self.port.netns, self.port.ips()).await?);
        Ok(())
    }

    /// What others can reach once it is begun.
    ///
    /// # Errors
    /// It cannot be made.
    pub(super) async fn receiver(node: &Arc<NodeNetwork>) -> Result<Self, String> {
        let ips: Vec<IpAddr> = addresses(&node.subnets)?.iter().map(|of| of.receiver).collect();
        free(node, &ips)?;
        Self::make(node, RECEIVER, ips).await
    }

    async fn sender(node: &Arc<NodeNetwork>) -> Result<Self, String> {
        let ips: Vec<IpAddr> = addresses(&node.subnets)?.iter().map(|of| of.sender).collect();
        free(node, &ips)?;
        Self::make(node, SENDER, ips).await
    }

    /// Takes it away.
    pub(super) async fn remove(self) {
        drop(self.server);
        self.port.remove().await;
    }
}

async fn remove(end: Option<End>) {
    if let Some(end) = end {
        end.remove().await;
    }
}

fn addresses(subnets: &[IpNet]) -> Result<Vec<ProbeAddresses>, String> {
    let of =
        |subnet| probes_of(subnet).ok_or_else(|| format!("{subnet} has no addresses to spare for probes"));
    subnets.iter().map(of).collect()
}

/// Agents of earlier versions gave these addresses to pods, which keep them.
fn free(node: &NodeNetwork, ips: &[IpAddr]) -> Result<(), String> {
    match node.holder(ips, "") {
        Some((ip, pod)) => Err(format!("{ip} is pod {}/{}'s", pod.pod_namespace, pod.pod_name)),
        None => Ok(()),
    }
}

/// The ways of one run.
pub(super) struct Round<'a> {
    pub(super) node: &'a Arc<NodeNetwork>,
    pub(super) underlay: &'a Underlay,
    /// Other nodes, as far as they are known.
    pub(super) peers: BTreeMap<String, Option<Arc<Peer>>>,
    /// Which run it is, and where agents say what they take part in.
    pub(super) id: &'a str,
    pub(super) api: &'a Api<Own>,
}

impl Round<'_> {
    /// Makes both ends, runs all probes, and takes the ends away. When `stop` ends first, what came by then.
    pub(super) async fn run(&self, stop: impl Future<Output = ()>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        // Whatever of them there is when it stops has to go.
        let (mut sender, mut receiver) = (None, None);
        let probing = async {
            match self.ends(&mut sender, &mut receiver).await {
                Ok((sender, receiver)) => self.all(sender, receiver, &mut outcomes).await,
                Err(outcome) => outcomes.push(outcome),
            }
        };
        let ended = tokio::select! {
            () = probing => true,
            () = stop => false,
        };
        if !ended {
            outcomes.push(Outcome::new(Probe::Setup, None, Finding::Failed, "not ended in time"));
        }
        tokio::join!(remove(sender), remove(receiver));
        outcomes
    }

    async fn ends<'e>(
        &self,
        sender: &'e mut Option<End>,
        receiver: &'e mut Option<End>,
    ) -> Result<(&'e mut End, &'e mut End), Outcome> {
        let failed = |error: String| Outcome::new(Probe::Setup, None, Finding::Failed, &error);
        let left_out = |error: String| Outcome::new(Probe::Setup, None, Finding::LeftOut, &error);
        // A node without addresses for it is not broken.
        let spare = addresses(&self.node.subnets).map_err(left_out)?;
        let both: Vec<IpAddr> = spare.iter().flat_map(|of| [of.sender, of.receiver]).collect();
        free(self.node, &both).map_err(left_out)?;
        let sender = sender.insert(End::sender(self.node).await.map_err(failed)?);
        sender.begin().await.map_err(failed)?;
        let receiver = receiver.insert(End::receiver(self.node).await.map_err(failed)?);
        receiver.begin().await.map_err(failed)?;
        Ok((sender, receiver))
    }

    async fn all(&self, sender: &mut End, receiver: &mut End, outcomes: &mut Vec<Outcome>) {
        let ways = ways(sender.port.ips(), receiver.port.ips());
        let local = each(sender, Attempt::Exchange(OPEN), &ways, LOCAL).await;
        let works = local.is_ok();
        outcomes.push(outcome(Probe::PodToPodOnNode, None, local));
        for (name, peer) in &self.peers {
            self.across(sender, name, peer.as_deref(), outcomes).await;
        }
        if works {
            self.service(sender, receiver, outcomes).await;
            self.policy(sender, receiver, &ways, outcomes).await;
        } else {
            let why = "nothing passes between the node's own as it is";
            for probe in [Probe::PodToService, Probe::PolicyAllows, Probe::PolicyDenies] {
                outcomes.push(Outcome::new(probe, None, Finding::LeftOut, why));
            }
        }
    }

    async fn across(&self, sender: &End, name: &str, peer: Option<&Peer>, outcomes: &mut Vec<Outcome>) {
        let both = [Probe::PodToPodAcrossNodes, Probe::PodFromPodAcrossNodes];
        let theirs = match self.tunnelled(peer) {
            Ok(theirs) => theirs,
            Err(why) => {
                outcomes.extend(both.map(|probe| Outcome::new(probe, Some(name), Finding::LeftOut, &why)));
                return;
            }
        };
        let ways = ways(sender.port.ips(), &theirs);
        let to = each(sender, Attempt::Exchange(OPEN), &ways, REMOTE).await;
        if to.is_err()
            && let Err(why) = is_answering(self.api, name, self.id).await
        {
            // It is not there to answer, so its silence says nothing.
            outcomes.extend(both.map(|probe| Outcome::new(probe, Some(name), Finding::LeftOut, &why)));
            return;
        }
        let from = each(sender, Attempt::CalledBack, &ways, LOCAL).await;
        outcomes.push(outcome(both[0], Some(name), to));
        outcomes.push(outcome(both[1], Some(name), from));
    }

    /// Where the other node's end is, if there is a tunnel to it.
    fn tunnelled(&self, peer: Option<&Peer>) -> Result<Vec<IpAddr>, String> {
        let peer = peer.ok_or("the Node is not known here")?;
        match wire(self.underlay, peer).flows.map(|flows| flows.via) {
            Some(Via::Tunnel { .. }) => {}
            Some(Via::Direct) => return Err("the Node is reached without a tunnel".to_owned()),
            None => return Err("the Node has no address of this Node's family".to_owned()),
        }
        Ok(addresses(&peer.pod_cidrs)?.iter().map(|of| of.receiver).collect())
    }

    async fn service(&self, sender: &mut End, receiver: &End, outcomes: &mut Vec<Outcome>) {
        let service = antrea_flows::probe_service(self.node.dataplane.network(), receiver.port.ips(), OPEN);
        let Some((entries, frontends)) = service else {
            let why = "the bridge serves no Services";
            outcomes.push(Outcome::new(Probe::PodToService, None, Finding::LeftOut, why));
            return;
        };
        let served = match sender.port.hold(entries).await {
            Ok(()) => {
                let ways = ways(sender.port.ips(), &frontends);
                each(sender, Attempt::Exchange(OPEN), &ways, LOCAL).await
            }
            Err(error) => Err(error.to_string()),
        };
        outcomes.push(outcome(Probe::PodToService, None, served));
    }

    async fn policy(
        &self,
        sender: &End,
        receiver: &mut End,
        ways: &[(IpAddr, IpAddr)],
        outcomes: &mut Vec<Outcome>,
    ) {
        // What is denied has to be what would pass.
        if let Err(error) = each(sender, Attempt::Exchange(DENIED), ways, LOCAL).await {
            let why = format!("without a policy: {error}");
            outcomes.push(Outcome::new(Probe::PolicyAllows, None, Finding::Failed, &why));
            return;
        }
        let network = self.node.dataplane.network();
        let policy =
            antrea_flows::policy::probe(network, &receiver.port.flow_port(), sender.port.ips(), OPEN);
        let installed = match policy {
            Ok(policy) => {
                let policy = policy.into_iter().map(Entry::from).collect();
                receiver.port.hold(policy).await.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = installed {
            outcomes.push(Outcome::new(Probe::PolicyAllows, None, Finding::Failed, &error));
            return;
        }
        let before = each(sender, Attempt::Exchange(OPEN), ways, LOCAL).await;
        let denied = denied(sender, ways).await;
        // That nothing comes says something only where something could.
        let allowed = match before {
            Ok(()) => each(sender, Attempt::Exchange(OPEN), ways, LOCAL).await,
            Err(error) => Err(error),
        };
        outcomes.push(outcome(Probe::PolicyAllows, None, allowed));
        outcomes.push(outcome(Probe::PolicyDenies, None, denied));
    }
}

/// From which address to which, by family.
fn ways(from: &[IpAddr], to: &[IpAddr]) -> Vec<(IpAddr, IpAddr)> {
    let of_family = |from: &IpAddr| to.iter().find(|to| to.is_ipv4() == from.is_ipv4()).copied();
    from.iter().filter_map(|from| Some((*from, of_family(from)?))).collect()
}

/// Tries each way until it works.
async fn each(
    sender: &End,
    attempt: Attempt,
    ways: &[(IpAddr, IpAddr)],
    time: Duration,
) -> Result<(), String> {
    for way in ways {
        persist(&sender.port.netns, attempt, *way, time).await?;
    }
    Ok(())
}

/// Tries again and again what is denied.
async fn denied(sender: &End, ways: &[(IpAddr, IpAddr)]) -> Result<(), String> {
    for (from, to) in ways {
        let mut attempts = FuturesUnordered::new();
        for number in 0..ATTEMPTS {
            attempts.push(later(&sender.port.netns, *from, *to, NEXT * number));
        }
        let mut leaked = 0;
        while let Some(answer) = attempts.next().await {
            leaked += u32::from(!is_silence(&answer));
        }
        if leaked > 0 {
            let what = format!("{leaked} of {ATTEMPTS} connections that it denies were answered");
            return Err(format!("{what}, {from} to {to}"));
        }
    }
    Ok(())
}

async fn later(netns: &Netns, from: IpAddr, to: IpAddr, after: Duration) -> Result<(), String> {
    sleep(after).await;
    exchange(netns, from, SocketAddr::new(to, DENIED), DENIED_LIMIT).await
}

/// Whether nobody answered: not even to refuse.
fn is_silence(answer: &Result<(), String>) -> bool {
    answer.as_ref().is_err_and(|error| error.starts_with("no answer"))
}

fn outcome(probe: Probe, peer: Option<&str>, result: Result<(), String>) -> Outcome {
    match result {
        Ok(()) => Outcome::new(probe, peer, Finding::Passed, ""),
        Err(error) => Outcome::new(probe, peer, Finding::Failed, &error),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::config::EncapMode;
    use crate::pods::attach::rollback_tests::Lab;

    /// ovs-vswitchd hangs while the first end is wired.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_that_is_stopped_while_its_ends_are_made_leaves_nothing() {
        let lab = Lab::start().await;
        let before = lab.traces();
        let nowhere = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
        let underlay = Underlay {
            mode: EncapMode::Encap,
            transport: "192.0.2.1/24".parse().unwrap(),
            transport_link: 1,
            gateway_link: 1,
            kernel_vxlan: false,
        };
        let round = Round {
            node: &lab.node,
            underlay: &underlay,
            peers: BTreeMap::new(),
            id: "1",
            api: &Api::all(kube::Client::try_from(nowhere).unwrap()),
        };
        let signal = |name: &str| {
            let pid = lab.ovs.vswitchd_pid().unwrap().to_string();
            assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
        };
        let has_port = || lab.node.vswitch.port(SENDER).is_some();
        signal("-STOP");
        let begin = std::time::Instant::now();
        let outcomes = round
            .run(async {
                while !has_port() {
                    sleep(Duration::from_millis(10)).await;
                }
            })
            .await;
        let took = begin.elapsed();
        signal("-CONT");
        let [Outcome { finding: Finding::Failed, message, .. }] = &outcomes[..] else {
            panic!("{outcomes:?}");
        };
        assert_eq!(message, "not ended in time");
        assert!(took < Duration::from_secs(4), "{took:?}");
        assert_eq!(lab.traces(), before);
    }

    #[test]
    fn each_family_has_its_way() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let (here, there) = ([ip("10.0.0.1"), ip("fd00::1")], [ip("fd01::2")]);
        assert_eq!(ways(&here, &there), [(here[1], there[0])]);
        assert_eq!(ways(&here, &here).len(), 2);
    }

    #[test]
    fn a_refusal_is_an_answer() {
        let silence = Err("no answer in 0.5 s".to_owned());
        let answers = [Ok(()), Err("Connection refused (os error 111)".to_owned()), silence];
        assert_eq!(answers.map(|answer| is_silence(&answer)), [false, false, true]);
    }

    #[test]
    fn a_subnet_without_room_is_named() {
        let error = addresses(&["10.0.0.0/28".parse().unwrap()]).unwrap_err();
        assert_eq!(error, "10.0.0.0/28 has no addresses to spare for probes");
    }
}
