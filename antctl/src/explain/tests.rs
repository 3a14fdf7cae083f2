//! Prepared situations, and what is said of them. In all of them shop/web of node1 sends to port 5432 of shop/db on node2,
//! unless a situation says otherwise.

use std::net::IpAddr;

use antrea_api::controlplane as wire;
use antrea_api::k8s::{IntOrString, ObjectMeta};
use antrea_crds::{AgentCondition, AgentConditionType, AgentInfo, NetworkInfo};
use antrea_flows::{Features, Pipeline, Table};
use antrea_policy::model::Protocol;

use super::facts::{Agent, ContainerPort, Facts, Interface, Node, Packet, Pod, Service, Target, Way};
use super::finding::{Explanation, Mark, Verdict};
use super::judge::explain;

mod broken;
mod gathered;
mod host;
mod policy;

/// The pipeline of both bridges.
const FEATURES: Features = Features { ipv4: true, ipv6: false, antrea_policy: true, services: false };

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn octets(ip: &IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn pod(name: &str, node: &str, address: &str) -> Pod {
    Pod {
        namespace: "shop".into(),
        name: name.into(),
        node: node.into(),
        phase: "Running".into(),
        ips: vec![ip(address)],
        ..Pod::default()
    }
}

/// How a trace ends.
enum End<'a> {
    Port(u32),
    Tunnel(&'a str),
    /// By a kernel's VXLAN device, to 192.0.2.2.
    Device,
    Reject,
    Drop,
}

/// What `ofproto/trace` says of a packet that ends in this table.
fn traced(table: Table, end: End<'_>) -> String {
    let number = Pipeline::new(FEATURES).number(table).unwrap();
    let to = if matches!(end, End::Device) { "0e:04:c0:00:02:02" } else { "0a:00:00:00:00:63" };
    let (line, actions) = match end {
        End::Device => ("     -> output port is 32768\n".to_owned(), "2".to_owned()),
        End::Port(port) => (format!("     -> output port is {port}\n"), "2".to_owned()),
        End::Tunnel(peer) => (
            "     -> output port is 1\n     -> output to kernel tunnel\n".to_owned(),
            format!(
                "set(tunnel(tun_id=0x0,src=192.0.2.1,dst={peer},ttl=64,tp_dst=6081,flags(df|key))),set(ipv4(ttl=63)),3"
            ),
        ),
        End::Reject => {
            (String::new(), "userspace(pid=4294967295,controller(reason=1,dont_send=0))".to_owned())
        }
        End::Drop => ("    drop\n".to_owned(), "drop".to_owned()),
    };
    format!(
        "Flow: tcp,in_port=5,dl_src=0a:00:00:00:00:01,dl_dst=0a:00:00:00:00:63,nw_src=10.10.1.6,nw_dst=10.10.2.7\n\n\
         bridge(\"br-int\")\n----------------\n \
         0. ip, priority 200, cookie 0x1000000000000\n    goto_table:3\n \
         6. ip, priority 200, cookie 0x1000000000000\n    ct(table=7,zone=65520)\n    drop\n     \
         -> A clone of the packet is forked to recirculate. The forked pipeline will be resumed at table 7.\n\n\
         Final flow: unchanged\nMegaflow: recirc_id=0,eth,ip,in_port=5\n\
         Datapath actions: ct(zone=65520),recirc(0x1)\n\n\
         ====\nrecirc(0x1) - resume conntrack with default ct_state=trk|new (use --ct-next to customize)\n====\n\n\
         Flow: recirc_id=0x1,ct_state=new|trk,tcp,in_port=5\n\nbridge(\"br-int\")\n----------------\n    thaw\n        \
         Resuming from table 7\n{number:2}. reg8=0x1, priority 200, cookie 0x1020000000000\n{line}\n\
         Final flow: tcp,in_port=5,dl_src=0a:00:00:00:00:63,dl_dst={to},nw_src=10.10.1.6,tp_dst=5432\n\
         Megaflow: recirc_id=0x1\nDatapath actions: {actions}\n"
    )
}

fn to_pod() -> String {
    traced(Table::Output, End::Port(5))
}

fn through_tunnel() -> String {
    traced(Table::Output, End::Tunnel("192.0.2.2"))
}

fn to_host() -> String {
    traced(Table::Output, End::Port(2))
}

fn info() -> AgentInfo {
    let condition = |type_| AgentCondition {
        type_,
        status: "True".into(),
        last_heartbeat_time: None,
        reason: String::new(),
        message: String::new(),
    };
    AgentInfo {
        agent_conditions: vec![
            condition(AgentConditionType::AgentHealthy),
            condition(AgentConditionType::ControllerConnectionUp),
        ],
        network_info: Some(NetworkInfo {
            transport_interface: "eth0".into(),
            transport_interface_mtu: 1500,
            pod_mtu: 1450,
            transport_interface_ips: Vec::new(),
        }),
        ..AgentInfo::default()
    }
}

/// A Node that is well, with one Pod at port 5 of its bridge.
fn node(address: &str, pod: &Pod) -> Node {
    let interface = Interface {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        ips: pod.ips.clone(),
        ofport: 5,
    };
    let tables = Pipeline::new(FEATURES).names().into_iter().map(|(_, name)| name.to_owned());
    Node {
        unready: None,
        addresses: vec![ip(address)],
        told: Ok((info(), Some(20))),
        computed: Ok(super::computed::Computed::default()),
        agent: Ok(Agent {
            info: info(),
            interfaces: vec![interface],
            computed: super::computed::Computed::default(),
            tables: tables.collect(),
        }),
        path: None,
    }
}

/// All is well, and there is no policy.
fn facts() -> Facts {
    let (web, mut db) = (pod("web", "node1", "10.10.1.6"), pod("db", "node2", "10.10.2.7"));
    db.ports = vec![ContainerPort { name: "pg".into(), port: 5432, protocol: Protocol::Tcp }];
    let way = Way {
        address: Some(db.ips[0]),
        port: 5432,
        pod: Some(db.clone()),
        sent: Some(Ok(through_tunnel())),
        received: Some(Ok(to_pod())),
    };
    Facts {
        nodes: [("node1".into(), node("192.0.2.1", &web)), ("node2".into(), node("192.0.2.2", &db))].into(),
        source: web,
        target: Target::Pod,
        packet: Packet { protocol: Protocol::Tcp, port: 5432 },
        ways: vec![way],
        probe: None,
    }
}

/// The same on one Node.
fn on_one_node() -> Facts {
    let mut facts = facts();
    let node = facts.nodes.get_mut("node1").unwrap();
    let interface =
        Interface { namespace: "shop".into(), pod: "db".into(), ips: vec![ip("10.10.2.7")], ofport: 6 };
    node.agent.as_mut().unwrap().interfaces.push(interface);
    facts.nodes.remove("node2");
    let way = &mut facts.ways[0];
    way.pod.as_mut().unwrap().node = "node1".into();
    way.sent = Some(Ok(traced(Table::Output, End::Port(6))));
    way.received = None;
    facts
}

/// A Service of two Pods, one on either Node, served by kube-proxy.
fn service() -> Facts {
    let mut facts = on_one_node();
    let local = facts.ways[0].clone();
    let remote = super::tests::facts();
    let mut way = remote.ways[0].clone();
    let mut other = way.pod.clone().unwrap();
    (other.name, other.ips) = ("db2".into(), vec![ip("10.10.2.8")]);
    way.address = Some(other.ips[0]);
    facts.nodes.insert("node2".into(), node("192.0.2.2", &other));
    way.pod = Some(other);
    facts.ways = vec![local, way];
    facts.packet.port = 80;
    facts.target = Target::Service(Service {
        namespace: "shop".into(),
        name: "db".into(),
        address: Some(ip("10.96.0.10")),
        has_selector: true,
        ready: 2,
        unready: 0,
        endpoints: ["10.10.2.7:5432", "10.10.2.8:5432"].map(|text| text.parse().unwrap()).into(),
        sent: Some(Ok(to_host())),
    });
    facts
}

fn the_service(facts: &mut Facts) -> &mut Service {
    match &mut facts.target {
        Target::Service(service) => service,
        _ => panic!("no Service"),
    }
}

/// A rule of a Kubernetes policy.
fn rule(direction: &str, group: &str, services: Vec<wire::Service>) -> wire::NetworkPolicyRule {
    let groups = if group.is_empty() { Vec::new() } else { vec![group.to_owned()] };
    let peer = wire::NetworkPolicyPeer { address_groups: groups, ..Default::default() };
    let (from, to) = if direction == "In" {
        (peer, wire::NetworkPolicyPeer::default())
    } else {
        (wire::NetworkPolicyPeer::default(), peer)
    };
    wire::NetworkPolicyRule {
        direction: direction.into(),
        from,
        to,
        services,
        priority: -1,
        action: Some("Allow".into()),
        ..Default::default()
    }
}

fn tcp(port: IntOrString) -> Vec<wire::Service> {
    vec![wire::Service { protocol: Some("TCP".into()), port: Some(port), ..Default::default() }]
}

/// A policy that applies to `pod`, whose group has its name.
fn policy_of(pod: &str, name: &str, rules: Vec<wire::NetworkPolicyRule>) -> wire::NetworkPolicy {
    wire::NetworkPolicy {
        metadata: ObjectMeta { generation: 1, ..ObjectMeta::named(format!("uid-{name}")) },
        rules,
        applied_to_groups: vec![format!("to-{pod}")],
        source_ref: Some(wire::NetworkPolicyReference {
            type_: "K8sNetworkPolicy".into(),
            namespace: "shop".into(),
            name: name.into(),
            uid: format!("uid-{name}"),
        }),
        ..Default::default()
    }
}

/// The same, native: of the cluster, in a tier of this priority.
fn native(pod: &str, name: &str, tier: i32, rules: Vec<wire::NetworkPolicyRule>) -> wire::NetworkPolicy {
    let mut policy = policy_of(pod, name, rules);
    (policy.priority, policy.tier_priority) = (Some(5.0), Some(tier));
    policy.source_ref = Some(wire::NetworkPolicyReference {
        type_: "AntreaClusterNetworkPolicy".into(),
        namespace: String::new(),
        name: name.into(),
        uid: format!("uid-{name}"),
    });
    policy
}

fn member(pod: &Pod) -> wire::GroupMember {
    let ports = pod.ports.iter().map(|port| wire::NamedPort {
        port: port.port.into(),
        name: port.name.clone(),
        protocol: port.protocol.as_str().into(),
    });
    wire::GroupMember {
        pod: Some(wire::ObjectReference { name: pod.name.clone(), namespace: pod.namespace.clone() }),
        ips: pod.ips.iter().map(octets).collect(),
        ports: ports.collect(),
        ..Default::default()
    }
}

/// Everybody's groups: `to-NAME` of whom policies apply to, `NAME` of peers.
fn computed(facts: &Facts, policies: &[wire::NetworkPolicy]) -> super::computed::Computed {
    let pods = facts.ways.iter().filter_map(|way| way.pod.as_ref()).chain([&facts.source]);
    let mut computed = super::computed::Computed { policies: policies.to_vec(), ..Default::default() };
    for pod in pods {
        let group = wire::AppliedToGroup {
            metadata: ObjectMeta::named(format!("to-{}", pod.name)),
            group_members: vec![member(pod)],
        };
        computed.applied_to.push(group);
        let group =
            wire::AddressGroup { metadata: ObjectMeta::named(&*pod.name), group_members: vec![member(pod)] };
        computed.addresses.push(group);
    }
    computed
}

/// The controller has computed these, and the agents have them.
fn with(mut facts: Facts, policies: &[wire::NetworkPolicy]) -> Facts {
    let computed = computed(&facts, policies);
    for node in facts.nodes.values_mut() {
        node.computed = Ok(computed.clone());
        if let Ok(agent) = &mut node.agent {
            agent.computed = computed.clone();
        }
    }
    facts
}

/// The source's bridge ends it so.
fn sends(mut facts: Facts, text: String) -> Facts {
    for way in &mut facts.ways {
        way.sent = Some(Ok(text.clone()));
        way.received = None;
    }
    facts
}

/// The destination's bridge ends it so.
fn receives(mut facts: Facts, text: String) -> Facts {
    for way in &mut facts.ways {
        way.received = Some(Ok(text.clone()));
    }
    facts
}

/// Explains, and checks that the verdict and these words are there.
#[track_caller]
fn says(facts: &Facts, verdict: Verdict, words: &str) -> Explanation {
    let explained = explain(facts);
    let text = super::render::text(&explained, false);
    assert_eq!(explained.verdict, verdict, "{text}");
    assert!(text.contains(words), "{words:?} is not said:\n{text}");
    let reasons = explained.findings.iter().filter(|finding| finding.result.verdict() == verdict);
    if verdict != Verdict::Allowed {
        assert!(reasons.map(|finding| &finding.detail).any(|detail| *detail == explained.reason));
    }
    explained
}

#[test]
fn a_whole_answer() {
    let denied = with(facts(), &[policy_of("db", "deny", vec![rule("In", "", Vec::new())])]);
    let denied = receives(denied, traced(Table::IngressDefaultRule, End::Drop));
    let explained = says(&denied, Verdict::Denied, "");
    assert_eq!(
        super::render::text(&explained, false),
        "shop/web (10.10.1.6 on node1) -> shop/db (10.10.2.7 on node2), TCP 5432\n\n\
         denied: NetworkPolicy shop/deny isolates shop/db, and no rule allows TCP 5432 from shop/web\n\n\
         ok          source                 shop/web runs on node1\n\
         ok          agent                  the agent of node1 is healthy\n\
         ok          agent                  the agent of node2 is healthy\n\
         ok          destination            shop/db is ready on node2\n\
         ok          egress policy          no policy selects shop/web for egress\n\
         denied      ingress policy         NetworkPolicy shop/deny isolates shop/db, and no rule allows TCP 5432 from shop/web\n\
         ok          source's bridge        the bridge of node1 sends it through the tunnel to node2 (192.0.2.2)\n\
         ok          destination's bridge   the bridge of node2 drops it in table IngressDefaultRule, as policy says\n\n\
         What to do:\n\
         - if it is meant to be allowed: a NetworkPolicy that selects shop/db has to have an ingress rule for TCP 5432 from shop/web\n"
    );
    let coloured = super::render::text(&explained, true);
    assert!(
        coloured.contains("\x1b[31mdenied\x1b[0m: ")
            && coloured.contains("\x1b[32mok       \x1b[0m   source")
    );
    let value = serde_json::to_value(&explained).unwrap();
    assert_eq!(value["verdict"], "denied");
    assert_eq!(value["findings"][5]["result"], "denied");
    assert_eq!(value["findings"][0]["advice"], serde_json::Value::Null);
    assert_eq!(explained.findings[0].result, Mark::Ok);
    assert!(!explained.may_pass());
    assert!(explain(&sends(facts(), traced(Table::SpoofGuard, End::Drop))).may_pass());
}

#[test]
fn verdicts_are_exit_codes() {
    let codes =
        [Verdict::Allowed, Verdict::Denied, Verdict::Broken, Verdict::Unknown].map(Verdict::exit_code);
    assert_eq!(codes, [0, 1, 2, 2]);
}
