//! What the bridge holds and would do, for people: `/ovsflows` and `/ovstracing`, with upstream's queries and bodies.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use antrea_flows::{Network, Pipeline};
use apiserver_kit::status::Failure;
use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use netcfg::MacAddr;
use openflow::multipart::FlowFilter;
use openflow::{FlowKey, TableNames};
use ovs::OfError;
use ovs::ctl::{self, CtlError};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::pods::interfaces::PodInterface;
use crate::pods::network::NodeNetwork;
use crate::pods::server::NetworkState;

/// Longest trace that is shown, in octets.
const TRACE: usize = 1 << 20;

/// Longest description of a packet, in octets.
const PACKET: usize = 1 << 10;

/// Words that say which protocol a packet is of.
const PROTOCOLS: [&str; 12] =
    ["arp", "rarp", "ip", "ipv6", "icmp", "icmp6", "tcp", "tcp6", "udp", "udp6", "sctp", "sctp6"];

#[derive(Clone)]
struct Shared {
    network: NetworkState,
    ovs_run_dir: Arc<PathBuf>,
}

impl Shared {
    fn network(&self) -> Result<Arc<NodeNetwork>, Failure> {
        self.network.borrow().clone().ok_or_else(|| Failure::unavailable("the node's network is not up yet"))
    }
}

/// Answers `/ovsflows` and `/ovstracing` by asking Open vSwitch.
pub fn routes(network: NetworkState, ovs_run_dir: PathBuf) -> Router {
    let shared = Shared { network, ovs_run_dir: Arc::new(ovs_run_dir) };
    Router::new().route("/ovsflows", get(ovs_flows)).route("/ovstracing", get(ovs_tracing)).with_state(shared)
}

/// The query of `/ovsflows`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct FlowQuery {
    pod: String,
    namespace: String,
    service: String,
    networkpolicy: String,
    table: String,
    groups: String,
    /// Its presence counts.
    table_names_only: Option<String>,
}

/// What is wanted of the bridge.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    TableNames,
    All,
    Pod {
        namespace: String,
        name: String,
    },
    Tables(Vec<u8>),
    /// None is all.
    Groups(Option<BTreeSet<u32>>),
}

impl Wanted {
    fn read(query: FlowQuery, pipeline: &Pipeline) -> Result<Self, Failure> {
        let FlowQuery { pod, namespace, service, networkpolicy, table, groups, table_names_only } = query;
        if table_names_only.is_some() {
            return Ok(Self::TableNames);
        }
        let given =
            [&pod, &service, &networkpolicy, &table, &groups].into_iter().filter(|word| !word.is_empty());
        match given.count() {
            0 if namespace.is_empty() => return Ok(Self::All),
            1 => {}
            _ => {
                return Err(Failure::bad_request(
                    "one of pod, table and groups has to be given; namespace goes with pod",
                ));
            }
        }
        if !service.is_empty() || !networkpolicy.is_empty() {
            return Err(Failure::bad_request("flows of a Service or a policy cannot be told apart here"));
        }
        if !pod.is_empty() {
            if namespace.is_empty() {
                return Err(Failure::bad_request("namespace must be provided"));
            }
            return Ok(Self::Pod { namespace, name: pod });
        }
        if !table.is_empty() {
            let tables = table.split(',').map(str::trim).map(|word| {
                let number = word.parse().ok().filter(|number| pipeline.table(*number).is_some());
                let named = || pipeline.by_name(word).and_then(|table| pipeline.number(table));
                number.or_else(named).ok_or_else(|| {
                    Failure::bad_request(format!("table {word}: there is no table of this name or number"))
                })
            });
            return Ok(Self::Tables(tables.collect::<Result<_, _>>()?));
        }
        if groups.eq_ignore_ascii_case("all") {
            return Ok(Self::Groups(None));
        }
        let ids = groups.split(',').map(str::trim).map(|word| {
            word.parse().map_err(|_| Failure::bad_request(format!("group {word}: an id is a number, or all")))
        });
        Ok(Self::Groups(Some(ids.collect::<Result<_, _>>()?)))
    }
}

async fn ovs_flows(
    State(shared): State<Shared>,
    Query(query): Query<FlowQuery>,
) -> Result<Json<Value>, Failure> {
    let network = shared.network()?;
    let pipeline = &network.dataplane.network().pipeline;
    let lines = match Wanted::read(query, pipeline)? {
        Wanted::TableNames => {
            let mut names: Vec<String> =
                pipeline.names().into_iter().map(|(_, name)| name.to_owned()).collect();
            names.sort();
            names
        }
        Wanted::All => flows(&network, FlowFilter::all(), None).await?,
        Wanted::Tables(tables) => {
            let mut lines = Vec::new();
            for table in tables {
                let filter = FlowFilter { table: Some(table), ..FlowFilter::all() };
                lines.extend(flows(&network, filter, None).await?);
            }
            lines
        }
        Wanted::Pod { namespace, name } => {
            let interfaces = network.interfaces();
            let of_pod = |i: &&PodInterface| i.pod_name == name && i.pod_namespace == namespace;
            let keys: BTreeSet<FlowKey> = interfaces
                .iter()
                .filter(of_pod)
                .flat_map(|interface| pod_keys(network.dataplane.network(), interface))
                .collect();
            if keys.is_empty() {
                return Err(Failure::not_found("pods of this node", &format!("{namespace}/{name}")));
            }
            flows(&network, FlowFilter::all(), Some(&keys)).await?
        }
        Wanted::Groups(ids) => groups(&network, ids.as_ref()).await?,
    };
    Ok(Json(lines.into_iter().map(|line| json!({ "flow": line })).collect()))
}

/// That Open vSwitch did not answer.
pub(super) fn unanswered(error: OfError) -> Failure {
    Failure::unavailable(format!("Open vSwitch: {error}"))
}

fn table_names(pipeline: &Pipeline) -> TableNames {
    let mut names = TableNames::new();
    for (number, name) in pipeline.names() {
        names.insert(number, name);
    }
    names
}

/// Which flows a pod's attachment has.
fn pod_keys(network: &Network, pod: &PodInterface) -> Vec<FlowKey> {
    let interface =
        antrea_flows::PodInterface { ofport: pod.ofport, mac: pod.mac.into(), ips: pod.ips.clone() };
    antrea_flows::pod(network, &interface).iter().map(openflow::Flow::key).collect()
}

async fn flows(
    network: &NodeNetwork,
    filter: FlowFilter,
    only: Option<&BTreeSet<FlowKey>>,
) -> Result<Vec<String>, Failure> {
    let names = table_names(&network.dataplane.network().pipeline);
    let mut found = network.dataplane.session().flows(filter).await.map_err(unanswered)?;
    found.retain(|entry| only.is_none_or(|keys| keys.contains(&entry.flow.key())));
    found.sort_by_key(|entry| (entry.flow.table, std::cmp::Reverse(entry.flow.priority)));
    Ok(found.iter().map(|entry| entry.named(&names).to_string()).collect())
}

async fn groups(network: &NodeNetwork, only: Option<&BTreeSet<u32>>) -> Result<Vec<String>, Failure> {
    let names = table_names(&network.dataplane.network().pipeline);
    let found = network.dataplane.session().groups().await.map_err(unanswered)?;
    let wanted = found.iter().filter(|group| only.is_none_or(|ids| ids.contains(&group.id)));
    Ok(wanted.map(|group| group.named(&names).to_string()).collect())
}

/// All flows of the bridge with their counters.
pub(super) async fn all_flows(network: &NodeNetwork) -> Result<Vec<String>, Failure> {
    flows(network, FlowFilter::all(), None).await
}

/// All groups of the bridge.
pub(super) async fn all_groups(network: &NodeNetwork) -> Result<Vec<String>, Failure> {
    groups(network, None).await
}

/// The query of `/ovstracing`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct TraceQuery {
    /// Where the packet comes in: `namespace/name` of a pod, or a port's name.
    port: String,
    /// `namespace/name` of a pod of this node, or an address.
    source: String,
    destination: String,
    /// More of the packet, as `ovs-appctl ofproto/trace` takes it.
    flow: String,
    /// 4 or 6; else as the packet says.
    address_family: String,
}

/// A port of the bridge with what it sends as.
struct End {
    ofport: u32,
    mac: MacAddr,
    ips: Vec<IpAddr>,
}

/// The packet to be traced, in the words of `ofproto/trace`. `attached` finds a port by its name, or a pod of this node.
fn packet(
    query: &TraceQuery,
    gateway: &End,
    attached: impl Fn(&str) -> Option<End>,
) -> Result<String, Failure> {
    let TraceQuery { port, source, destination, flow, address_family } = query;
    if flow.len() > PACKET {
        return Err(Failure::bad_request(format!("flow: longer than {PACKET} octets")));
    }
    let words: Vec<&str> = flow.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
    let protocol = words.iter().find(|word| PROTOCOLS.contains(*word));
    let v6 = match (address_family.as_str(), protocol) {
        ("6", _) => true,
        ("4", _) => false,
        ("", Some(word)) => word.ends_with('6'),
        ("", None) => {
            [source, destination].iter().any(|end| end.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()))
        }
        (other, _) => return Err(Failure::bad_request(format!("addressFamily {other}: 4 or 6"))),
    };
    // A pod or a port of this node, or an address that is not.
    let end = |field: &str, text: &str| -> Result<(IpAddr, Option<End>), Failure> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            if ip.is_ipv6() != v6 {
                return Err(Failure::bad_request(format!(
                    "{field} {text}: not of the packet's address family"
                )));
            }
            return Ok((ip, None));
        }
        let end = attached(text).ok_or_else(|| {
            Failure::bad_request(format!(
                "{field} {text}: no pod (namespace/name) or port of this node; give an address of what is elsewhere"
            ))
        })?;
        let ip = end.ips.iter().copied().find(|ip| ip.is_ipv6() == v6);
        let ip = ip.ok_or_else(|| {
            Failure::bad_request(format!("{field} {text}: has no address of the packet's family"))
        })?;
        Ok((ip, Some(end)))
    };
    let named = |text: &str| attached(text).ok_or_else(|| Failure::not_found("ports of this node", text));
    let mut input = if port.is_empty() { None } else { Some(named(port)?) };
    let mut parts = Vec::new();
    if protocol.is_none() {
        parts.push(if v6 { "ipv6" } else { "ip" }.to_owned());
    }
    let (src, dst) = if v6 { ("ipv6_src", "ipv6_dst") } else { ("nw_src", "nw_dst") };
    if !source.is_empty() {
        let (ip, local) = end("source", source)?;
        parts.push(format!("{src}={ip}"));
        input = input.or(local);
    }
    let mut to = gateway.mac;
    if !destination.is_empty() {
        let (ip, local) = end("destination", destination)?;
        parts.push(format!("{dst}={ip}"));
        to = local.map_or(to, |local| local.mac);
    }
    let input = input.as_ref().unwrap_or(gateway);
    // Whoever says these in the packet's description means it, unless a port is named.
    let said = |field: &str| words.iter().any(|word| word.starts_with(field));
    let defaults = [
        ("in_port=", input.ofport.to_string()),
        ("dl_src=", input.mac.to_string()),
        ("dl_dst=", to.to_string()),
        ("nw_ttl=", "64".to_owned()),
    ];
    if !port.is_empty() && said("in_port=") {
        return Err(Failure::bad_request("flow: in_port, and port says another"));
    }
    parts.extend(
        defaults.iter().filter(|(field, _)| !said(field)).map(|(field, value)| format!("{field}{value}")),
    );
    if !said("ct_") {
        parts.extend(protocol.and_then(|protocol| begins(protocol, &words)));
    }
    // The protocol first: what follows needs it.
    Ok(words.iter().map(ToString::to_string).chain(parts).collect::<Vec<_>>().join(","))
}

/// What the tracker will know of a connection that begins with this packet. Policy goes by that, and a trace does not ask the
/// tracker. Of ICMP it has type and code in place of ports.
fn begins(protocol: &str, words: &[&str]) -> Option<String> {
    let (number, source, destination): (u8, &[&str], &[&str]) = match protocol.trim_end_matches('6') {
        "tcp" => (6, &["tcp_src=", "tp_src="], &["tcp_dst=", "tp_dst="]),
        "udp" => (17, &["udp_src=", "tp_src="], &["udp_dst=", "tp_dst="]),
        "sctp" => (132, &["sctp_src=", "tp_src="], &["sctp_dst=", "tp_dst="]),
        "icmp" if protocol == "icmp" => (1, &["icmp_type="], &["icmp_code="]),
        "icmp" => (58, &["icmpv6_type=", "icmp_type="], &["icmpv6_code=", "icmp_code="]),
        _ => return None,
    };
    let said = |fields: &[&str]| {
        words.iter().find_map(|word| fields.iter().find_map(|field| word.strip_prefix(field))).unwrap_or("0")
    };
    let (source, destination) = (said(source), said(destination));
    Some(format!("ct_state=new|trk,ct_nw_proto={number},ct_tp_src={source},ct_tp_dst={destination}"))
}

async fn ovs_tracing(
    State(shared): State<Shared>,
    Query(query): Query<TraceQuery>,
) -> Result<Json<Value>, Failure> {
    let network = shared.network()?;
    let node = &network.dataplane.network().node;
    let gateway = &node.gateway;
    let gateway = || End { ofport: gateway.ofport, mac: MacAddr(gateway.mac.0), ips: gateway.ips.clone() };
    let interfaces = network.interfaces();
    let attached = |text: &str| {
        let pod = interfaces.iter().find(|interface| {
            interface.host_ifname == text
                || text.split_once('/').is_some_and(|(namespace, name)| {
                    interface.pod_namespace == namespace && interface.pod_name == name
                })
        });
        pod.map(|pod| End { ofport: pod.ofport, mac: MacAddr(pod.mac), ips: pod.ips.clone() })
    };
    let packet = packet(&query, &gateway(), attached)?;
    let words = [network.bridge.as_str(), packet.as_str()];
    match ctl::call_with_limit(&shared.ovs_run_dir, "ofproto/trace", &words, TRACE).await {
        // What Open vSwitch says of a packet that it does not understand is the answer, as upstream's.
        Ok(result) | Err(CtlError::Refused { message: result, .. }) => Ok(Json(json!({ "result": result }))),
        Err(error) => Err(Failure::unavailable(format!("Open vSwitch: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use antrea_flows::Features;

    use super::*;

    fn read(query: FlowQuery) -> Result<Wanted, String> {
        let pipeline =
            Pipeline::new(Features { ipv4: true, ipv6: true, antrea_policy: false, services: false });
        Wanted::read(query, &pipeline).map_err(|failure| failure.to_string())
    }

    #[test]
    fn one_thing_is_asked_for() {
        let text = str::to_owned;
        assert_eq!(read(FlowQuery::default()), Ok(Wanted::All));
        let names = FlowQuery { table_names_only: Some(String::new()), ..FlowQuery::default() };
        assert_eq!(read(names), Ok(Wanted::TableNames));
        let pod = FlowQuery { pod: text("web"), namespace: text("shop"), ..FlowQuery::default() };
        assert_eq!(read(pod), Ok(Wanted::Pod { namespace: text("shop"), name: text("web") }));
        let tables = FlowQuery { table: text("Classifier, 0"), ..FlowQuery::default() };
        let Ok(Wanted::Tables(tables)) = read(tables) else { panic!("tables by name and number") };
        assert!(tables.len() == 2 && tables[0] != 0 && tables[1] == 0);
        let groups = |groups: &str| read(FlowQuery { groups: text(groups), ..FlowQuery::default() });
        assert_eq!(groups("all"), Ok(Wanted::Groups(None)));
        assert_eq!(groups("3, 5"), Ok(Wanted::Groups(Some([3, 5].into()))));
        for (query, says) in [
            (FlowQuery { pod: text("web"), ..FlowQuery::default() }, "namespace"),
            (FlowQuery { namespace: text("shop"), ..FlowQuery::default() }, "pod"),
            (FlowQuery { table: text("Nowhere"), ..FlowQuery::default() }, "table Nowhere"),
            (FlowQuery { groups: text("x"), ..FlowQuery::default() }, "group x"),
            (FlowQuery { table: text("0"), groups: text("1"), ..FlowQuery::default() }, "one of"),
            (FlowQuery { service: text("s"), namespace: text("n"), ..FlowQuery::default() }, "Service"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    fn traced(
        source: &str,
        destination: &str,
        port: &str,
        flow: &str,
        family: &str,
    ) -> Result<String, String> {
        let end = |n: u8| End {
            ofport: n.into(),
            mac: MacAddr([10, 0, 0, 0, 0, n]),
            ips: vec![[10, 0, 0, n].into(), format!("fd00::{n}").parse().unwrap()],
        };
        let query = TraceQuery {
            port: port.into(),
            source: source.into(),
            destination: destination.into(),
            flow: flow.into(),
            address_family: family.into(),
        };
        let attached = |text: &str| match text {
            "shop/web" | "web-1a2b" => Some(end(1)),
            "shop/db" => Some(end(2)),
            _ => None,
        };
        packet(&query, &end(99), attached).map_err(|failure| failure.to_string())
    }

    #[test]
    fn a_packet_is_what_its_ends_send() {
        assert_eq!(
            traced("shop/web", "shop/db", "", "tcp,tcp_dst=80", "").unwrap(),
            "tcp,tcp_dst=80,nw_src=10.0.0.1,nw_dst=10.0.0.2,in_port=1,dl_src=0a:00:00:00:00:01,dl_dst=0a:00:00:00:00:02,nw_ttl=64,\
             ct_state=new|trk,ct_nw_proto=6,ct_tp_src=0,ct_tp_dst=80"
        );
        // What is not of this node is behind the gateway, and comes from there.
        assert_eq!(
            traced("192.0.2.1", "shop/db", "", "", "").unwrap(),
            "ip,nw_src=192.0.2.1,nw_dst=10.0.0.2,in_port=99,dl_src=0a:00:00:00:00:63,dl_dst=0a:00:00:00:00:02,nw_ttl=64"
        );
        assert_eq!(
            traced("web-1a2b", "2001:db8::1", "", "", "").unwrap(),
            "ipv6,ipv6_src=fd00::1,ipv6_dst=2001:db8::1,in_port=1,dl_src=0a:00:00:00:00:01,dl_dst=0a:00:00:00:00:63,nw_ttl=64"
        );
        let other = traced("shop/web", "", "shop/db", "udp6", "").unwrap();
        assert!(
            other.contains("ipv6_src=fd00::1") && other.contains("in_port=2"),
            "a forged source: {other}"
        );
        assert!(traced("shop/web", "", "", "ip,in_port=7", "").unwrap().starts_with("ip,in_port=7,nw_src"));
        for (flow, tracked) in [
            ("udp6,udp_src=1000,tp_dst=53", ",ct_state=new|trk,ct_nw_proto=17,ct_tp_src=1000,ct_tp_dst=53"),
            ("sctp", ",ct_state=new|trk,ct_nw_proto=132,ct_tp_src=0,ct_tp_dst=0"),
            ("icmp,icmp_type=8,icmp_code=0", ",ct_state=new|trk,ct_nw_proto=1,ct_tp_src=8,ct_tp_dst=0"),
            ("icmp6,icmpv6_type=128", ",ct_state=new|trk,ct_nw_proto=58,ct_tp_src=128,ct_tp_dst=0"),
            ("ip", ",nw_ttl=64"),
            ("tcp,ct_state=est|trk,ct_nw_proto=6", ",nw_ttl=64"),
        ] {
            let packet = traced("shop/web", "", "", flow, "").unwrap();
            assert!(packet.ends_with(tracked), "{packet}");
        }
        for (ends, flow, family, says) in [
            (["shop/none", ""], "", "", "source shop/none"),
            (["", "10.0.0.1"], "", "6", "destination 10.0.0.1"),
            (["", ""], "", "5", "addressFamily 5"),
        ] {
            let error = traced(ends[0], ends[1], "", flow, family).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
        assert!(traced("", "", "nowhere", "", "").is_err());
        assert!(traced("", "", "shop/web", "in_port=3", "").is_err());
        assert!(traced("", "", "", &"a".repeat(2000), "").is_err());
    }
}
