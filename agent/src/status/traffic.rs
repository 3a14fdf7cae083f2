//! `/traffic`: what passes the bridge and what it drops, for `antctl top`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use antrea_api::agent::{PodTraffic, TableDrops, Traffic};
use antrea_flows::{Pipeline, Table};
use apiserver_kit::status::Failure;
use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use openflow::multipart::{FlowEntry, FlowFilter, PortStats};
use openflow::{Action, Actions, PortNo};
use tokio::sync::Semaphore;

use self::busiest::busiest;
use crate::ovs::bridge::Datapath;
use crate::pods::interfaces::PodInterface;
use crate::pods::server::NetworkState;
use crate::status::bridge::unanswered;

/// Tables that may have ten thousands of flows, none of which drops: what policy denies is dropped by tables after them.
const RULES: [Table; 5] = [
    Table::ServicePolicyRule,
    Table::AntreaPolicyEgressRule,
    Table::EgressRule,
    Table::AntreaPolicyIngressRule,
    Table::IngressRule,
];

mod busiest;

/// How long a question waits for others to be answered: while it tells of the datapath's flows, ovs-vswitchd does nothing
/// else.
const TURN: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Shared {
    network: NetworkState,
    ovs_run_dir: Arc<Path>,
    turn: Arc<Semaphore>,
}

/// The route.
pub(super) fn routes(network: NetworkState, ovs_run_dir: &Path) -> Router {
    let turn = Arc::new(Semaphore::new(1));
    let shared = Shared { network, ovs_run_dir: ovs_run_dir.into(), turn };
    Router::new().route("/traffic", get(traffic)).with_state(shared)
}

async fn traffic(State(shared): State<Shared>) -> Result<Json<Traffic>, Failure> {
    let network = shared.network.borrow().clone();
    let network = network.ok_or_else(|| Failure::unavailable("the node's network is not up yet"))?;
    let busy = || Failure::unavailable("others ask what passes: try again");
    let _turn = tokio::time::timeout(TURN, shared.turn.acquire()).await.map_err(|_| busy())?;
    let session = network.dataplane.session();
    let ports = session.port_stats().await.map_err(unanswered)?;
    let pipeline = &network.dataplane.network().pipeline;
    let mut flows = Vec::new();
    for table in pipeline.tables().iter().filter(|table| !RULES.contains(table)) {
        let filter = FlowFilter { table: pipeline.number(*table), ..FlowFilter::all() };
        flows.extend(session.flows(filter).await.map_err(unanswered)?);
    }
    let interfaces = network.interfaces();
    let datapath = if network.userspace { Datapath::Userspace } else { Datapath::System };
    let busiest = busiest(&shared.ovs_run_dir, datapath, &interfaces).await;
    Ok(Json(Traffic {
        pods: pods(&interfaces, &ports),
        drops: drops(pipeline, &flows),
        flows: busiest.map_err(|error| Failure::unavailable(format!("Open vSwitch: {error}")))?,
    }))
}

/// What a port receives, its pod has sent.
fn pods(interfaces: &[PodInterface], ports: &[PortStats]) -> Vec<PodTraffic> {
    let of = |pod: &PodInterface| {
        let port = ports.iter().find(|port| port.port_no == PortNo(pod.ofport))?;
        Some(PodTraffic {
            namespace: pod.pod_namespace.clone(),
            name: pod.pod_name.clone(),
            sent_packets: port.rx_packets,
            sent_bytes: port.rx_bytes,
            received_packets: port.tx_packets,
            received_bytes: port.tx_bytes,
            dropped_packets: known(port.rx_dropped).saturating_add(known(port.tx_dropped)),
        })
    };
    interfaces.iter().filter_map(of).collect()
}

/// A counter that Open vSwitch does not have is all ones.
fn known(counter: u64) -> u64 {
    if counter == u64::MAX { 0 } else { counter }
}

/// Whether a packet that comes to the flow goes no further. What tells the agent of it does not change that.
fn is_end(actions: &Actions) -> bool {
    let stays = |action: &Action| {
        matches!(
            action,
            Action::Controller(_)
                | Action::ToController { .. }
                | Action::SetField { .. }
                | Action::Move { .. }
                | Action::Meter(_)
                | Action::Note(_)
        )
    };
    actions.iter().all(|action| stays(&action))
}

/// By table, those that have dropped something first in the pipeline's order.
fn drops(pipeline: &Pipeline, flows: &[FlowEntry]) -> Vec<TableDrops> {
    let mut sums: BTreeMap<u8, (u64, u64)> = BTreeMap::new();
    for entry in flows.iter().filter(|entry| is_end(&entry.flow.actions)) {
        let (packets, bytes) = sums.entry(entry.flow.table).or_default();
        *packets += entry.stats.packets.unwrap_or_default();
        *bytes += entry.stats.bytes.unwrap_or_default();
    }
    let named = sums.into_iter().filter_map(|(number, (packets, bytes))| {
        let table = pipeline.table(number)?.name().to_owned();
        Some(TableDrops { table, packets, bytes })
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use antrea_flows::Features;
    use openflow::Flow;
    use openflow::multipart::FlowStats;

    use super::*;

    #[test]
    fn a_pod_has_what_its_port_has() {
        let pod = |name: &str, ofport| PodInterface {
            host_ifname: name.into(),
            container_id: "c".into(),
            ifname: "eth0".into(),
            pod_name: name.into(),
            pod_namespace: "shop".into(),
            pod_uid: String::new(),
            netns: String::new(),
            mac: [0; 6],
            ips: vec![],
            ofport,
        };
        let port = PortStats {
            port_no: PortNo(7),
            duration: (0, 0),
            rx_packets: 1,
            tx_packets: 2,
            rx_bytes: 10,
            tx_bytes: 20,
            rx_dropped: 3,
            tx_dropped: u64::MAX,
            rx_errors: 0,
            tx_errors: 0,
        };
        let expected = PodTraffic {
            namespace: "shop".into(),
            name: "web".into(),
            sent_packets: 1,
            sent_bytes: 10,
            received_packets: 2,
            received_bytes: 20,
            dropped_packets: 3,
        };
        assert_eq!(pods(&[pod("web", 7), pod("new", 8)], &[port]), [expected]);
    }

    #[test]
    fn what_goes_no_further_is_dropped() {
        let pipeline =
            Pipeline::new(Features { ipv4: true, ipv6: false, antrea_policy: true, services: false });
        let entry = |table: Table, actions: Vec<Action>, packets| {
            let table = pipeline.number(table).unwrap();
            let mut flow = Flow::new(table, 1);
            flow.actions = actions.into();
            let stats =
                FlowStats { packets: Some(packets), bytes: Some(packets * 100), ..FlowStats::default() };
            FlowEntry { flow, stats }
        };
        let told = Action::Meter(256);
        let flows = [
            entry(Table::IngressMetric, vec![told.clone()], 2),
            entry(Table::IngressMetric, vec![], 1),
            entry(Table::IngressMetric, vec![told, Action::GotoTable(30)], 50),
            entry(Table::L3Forwarding, vec![], 4),
            entry(Table::Output, vec![Action::Output(PortNo(1))], 60),
        ];
        let found: Vec<_> =
            drops(&pipeline, &flows).into_iter().map(|drop| (drop.table, drop.packets, drop.bytes)).collect();
        assert_eq!(found, [("L3Forwarding".into(), 4, 400), ("IngressMetric".into(), 3, 300)]);
    }
}
