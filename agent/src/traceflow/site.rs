//! What of a trace is here: its ends, what there is to send, and what a packet met.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use antrea_crds::Traceflow;
use antrea_crds::traceflow::Status;
use antrea_flows::field::Source;
use antrea_flows::policy::Direction;
use antrea_flows::{Family, Table, Traced, tunnel_mac};
use antrea_packet::{self as packet, Headers};
use antrea_traceflow::observe::{self, Surroundings};
use antrea_traceflow::request::End;
use kube::{Api, Client};
use netcfg::MacAddr;
use openflow::{Field, PacketIn2};
use tokio::sync::watch;
use tokio::time::Instant;

use super::ends::{addresses, local};
use super::follow::Active;
use super::status::update;
use crate::peers::watch::Nodes;
use crate::pods::interfaces::PodInterface;
use crate::pods::network::NodeNetwork;
use crate::policy::{PolicyHandle, Question};

/// What other nodes get to install their flows before the packet is sent, where it may come to one.
const OTHERS: Duration = Duration::from_millis(400);

/// Where packets are looked out for.
pub(super) struct Site {
    pub(super) network: Arc<NodeNetwork>,
    pub(super) policy: PolicyHandle,
    pub(super) client: Client,
    pub(super) api: Api<Traceflow>,
    pub(super) nodes: watch::Receiver<Option<Nodes>>,
}

impl Site {
    /// Finds out what there is to send or to mark here.
    pub(super) async fn prepare(&self, active: &mut Active, pods: &[PodInterface]) -> Result<(), String> {
        let net = self.network.dataplane.network();
        let request = &active.request;
        let here = match &request.destination {
            End::Pod(name) => local(pods, name),
            _ => None,
        };
        let Some(source) = active.source.clone() else {
            let anybody = request.live && !matches!(request.source, End::Pod(_));
            if let (true, Some(pod)) = (anybody, here) {
                let from = match request.source {
                    End::Ip(ip) => vec![ip],
                    _ => Vec::new(),
                };
                active.mark = request.matches(net.pipeline.families(), &from, &pod.ips);
            }
            return Ok(());
        };
        let to = addresses(&self.client, pods, &request.destination).await?;
        if request.live {
            if net.pipeline.features().services && matches!(request.destination, End::Service(_)) {
                let reason = "the bridge has given the traffic an endpoint's address before it can be marked; name \
                              the Pod of an endpoint";
                return Err(format!("spec.destination.service: {reason}"));
            }
            let matches = request.matches(net.pipeline.families(), &source.ips, &to);
            active.mark = matches.into_iter().map(|one| one.in_port(source.ofport)).collect();
            if active.mark.is_empty() {
                return Err("spec: both ends have no addresses of one family".to_owned());
            }
            return Ok(());
        }
        let family = |ip: &IpAddr| if ip.is_ipv4() { Family::V4 } else { Family::V6 };
        let wanted = |ip: &&IpAddr| request.family.is_none_or(|own| own == family(ip));
        let pair = source
            .ips
            .iter()
            .filter(wanted)
            .find_map(|src| Some((*src, *to.iter().find(|dst| family(dst) == family(src))?)));
        let Some((src, dst)) = pair else {
            return Err("spec: both ends have no addresses of the packet's family".to_owned());
        };
        let receiver = pods.iter().find(|pod| pod.ips.contains(&dst));
        let eth_dst = receiver.map_or(net.node.gateway.mac, |pod| pod.mac.into());
        let [a, b, c, d, ..] = MacAddr::random().0.map(u32::from);
        let random = a << 24 ^ b << 16 ^ c << 8 ^ d << 20;
        let headers = request.headers((source.mac.into(), eth_dst), (src, dst), active.tag, random);
        active.frame = packet::build(&headers);
        active.asked = Some(dst);
        let wait = if receiver.is_some() { Duration::ZERO } else { OTHERS };
        active.send_at = Some(Instant::now() + wait);
        Ok(())
    }

    /// Writes what was seen here.
    pub(super) async fn write(&self, name: &str, active: &Active) {
        let change = |status: &mut Status| observe::merge(status, &active.result, active.captured.as_ref());
        update(&self.api, name, &active.uid, change).await;
    }

    pub(super) async fn facts(
        &self,
        active: &Active,
        found: &Traced,
        headers: &Headers,
        packet: &PacketIn2,
    ) -> Surroundings {
        let pods = self.network.interfaces();
        let sender = active.source.is_some();
        let target = pods.iter().find(|pod| found.destination.is_none() && Some(pod.ofport) == found.target);
        let rules = [found.egress_rule, found.ingress_rule, found.denied.map(|(rule, _)| rule)];
        let isolated = match found.reached {
            Some(Table::EgressDefaultRule) => {
                let from = active.source.as_ref().or(pods.iter().find(|pod| pod.ips.contains(&headers.src)));
                from.map(|pod| (pod.ofport, Direction::Out))
            }
            Some(Table::IngressDefaultRule) => found.target.map(|port| (port, Direction::In)),
            _ => None,
        };
        let question = Question { rules: rules.into_iter().flatten().collect(), isolated };
        let answer = self.policy.explain(question).await;
        let mut answers = answer.rules.into_iter();
        let [egress, ingress, denied] =
            rules.map(|rule| rule.and_then(|_| answers.next()).flatten().map(|policy| policy.to_string()));
        let nodes = self.nodes.borrow().clone().unwrap_or_default();
        let peers = || nodes.values().filter(|peer| peer.name != self.network.node_name);
        let outer =
            [Field::TunDst, Field::TunIpv6Dst].map(|field| packet.metadata.get(field).map(|m| m.value));
        let told = match outer {
            [Some(ip), _] if ip != 0 => Some(IpAddr::from((ip as u32).to_be_bytes())),
            [_, Some(ip)] if ip != 0 => Some(IpAddr::from(ip.to_be_bytes())),
            _ => None,
        };
        let by_mac =
            || peers().flat_map(|peer| &peer.transport_ips).find(|ip| tunnel_mac(**ip) == headers.eth_dst);
        let node = &self.network.dataplane.network().node;
        let served = node.service_cidrs.iter().any(|cidr| cidr.contains(&headers.dst));
        Surroundings {
            sender,
            again: sender && found.source == Source::Gateway,
            asked: active.asked,
            pod: target.map(|pod| format!("{}/{}", pod.pod_namespace, pod.pod_name)),
            tunnel: told.or_else(|| by_mac().copied()),
            stays: served
                || peers().any(|peer| peer.pod_cidrs.iter().any(|cidr| cidr.contains(&headers.dst))),
            egress,
            ingress,
            denied,
            isolating: answer.isolating.iter().map(ToString::to_string).collect(),
        }
    }
}
