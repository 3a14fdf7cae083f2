//! Egress policy holds for endpoints of Services that the bridge does not see: those that are no pods, and without a tunnel
//! pods of other nodes. kube-proxy is played by its translations.

use std::net::IpAddr;
use std::time::Duration;

use antrea_tests::lab::families::iptables;
use antrea_tests::lab::{AGENT_INFOS, Lab, NETWORK_POLICIES, eventually, sh};
use antrea_tests::station::{Arrived, Station};
use antrea_tests::traffic::ping;
use ipnet::IpNet;
use netcfg::Family;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const CLUSTER_POLICIES: &str = "apis/crd.antrea.io/v1beta1/clusternetworkpolicies";
/// Services of the pods' own node, of another node (as `kubernetes` is), of an address outside, of a pod.
const SERVICES: [&str; 4] = ["10.96.0.21", "10.96.0.1", "10.96.0.23", "10.96.0.24"];
/// A Service address that nobody translates; the world outside answers to it.
const UNSERVED: &str = "10.96.0.25";

fn full(arrived: Arrived) -> bool {
    arrived.tcp > 2 && arrived.udp > 2
}

/// What reaches the station from anybody while `from` aims at `to`, and how many probes were sent.
async fn reach(from: &Station, to: IpAddr, at: &Station) -> (Arrived, u64) {
    at.forget();
    let before = from.sent();
    from.aim([to]);
    // A machine in software sends few in a second.
    eventually("enough probes are sent", LIMIT, || from.sent() - before > 2 * 25).await;
    from.aim([]);
    tokio::time::sleep(Duration::from_millis(400)).await;
    (at.leaked(|_| true), from.sent() - before)
}

#[tokio::test(flavor = "multi_thread")]
async fn egress_policy_holds_for_endpoints_that_are_no_pods() {
    egress_policy_holds(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn egress_policy_holds_for_endpoints_on_nodes_that_are_reached_without_a_tunnel() {
    egress_policy_holds(&[("trafficEncapMode", json!("noEncap"))]).await;
}

/// The same of IPv6, in which the host's rules are others.
#[tokio::test(flavor = "multi_thread")]
async fn isolation_holds_for_ipv6_endpoints_that_are_no_pods() {
    isolation_holds(Family::V6, true).await;
}

/// Where the host cannot judge, whoever has an egress policy is refused all that a Service may lead to.
#[tokio::test(flavor = "multi_thread")]
async fn isolation_holds_on_a_node_without_nftables() {
    isolation_holds(Family::V4, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn isolation_holds_for_ipv6_on_a_node_without_nftables() {
    isolation_holds(Family::V6, false).await;
}

async fn isolation_holds(family: Family, nftables: bool) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[("serviceCIDRv6", json!("fd00:10:96::/112"))]).await;
    lab.add_ipv6();
    if !nftables {
        lab.without_nftables();
    }
    lab.start_agents().await;
    let mut pod = |index: usize, name: &str| {
        lab.put_pod(index, name, &[("app", name)], None);
        let pod = lab.add_pod(index, name);
        let station = Station::start(&pod.netns);
        (pod, station)
    };
    let (iso, free, target) = (pod(0, "iso"), pod(0, "free"), pod(1, "target"));
    let services: [IpAddr; 4] = SERVICES.map(|service| match family {
        Family::V4 => service.parse().unwrap(),
        Family::V6 => format!("fd00:10:96::{}", &service["10.96.0.".len()..]).parse().unwrap(),
    });
    let endpoints =
        [lab.node_ip(0, family), lab.node_ip(1, family), lab.outside_of(family), target.0.ip_of(family)];
    for (service, endpoint) in services.iter().zip(endpoints) {
        for protocol in ["tcp", "udp"] {
            sh(&format!(
                "ip netns exec {} {} -w -t nat -A PREROUTING -d {service} -p {protocol} --dport 7000:7001 -j DNAT \
                 --to-destination {endpoint}",
                lab.nodes[0].netns,
                iptables(family)
            ));
        }
    }
    let hosts = [lab.nodes[0].netns.clone(), lab.nodes[1].netns.clone(), lab.outside()]
        .map(|netns| Station::start(&netns));
    let trial = |from| Trial { from, services, stations: [&hosts[0], &hosts[1], &hosts[2], &target.1] };
    let (nothing, all) = ([(false, false); 4], [(true, true); 4]);
    trial(&iso.1).becomes("without a policy", all).await;
    let spec = json!({"podSelector": {"matchLabels": {"app": "iso"}}, "policyTypes": ["Egress"]});
    lab.put_policy("deny", &spec);
    trial(&iso.1).becomes("isolated", nothing).await;
    trial(&free.1).becomes("without a policy of its own", all).await;
    // Beside what it may not reach at all, it may reach the other node; who cannot judge refuses that too.
    let allowed = json!({
        "podSelector": {"matchLabels": {"app": "iso"}},
        "policyTypes": ["Egress"],
        "egress": [{"to": [{"ipBlock": {"cidr": IpNet::from(endpoints[1]).to_string()}}]}],
    });
    lab.put_policy("some", &allowed);
    let expected = [(false, false), (nftables, nftables), (false, false), (false, false)];
    trial(&iso.1).becomes("allowed the other node", expected).await;
    if !nftables {
        let told = || {
            let info = lab.api.get(AGENT_INFOS, None, "node1").unwrap_or_default();
            info["agentConditions"].to_string().contains("EgressRulesLeftOut")
        };
        eventually("it is told", LIMIT, told).await;
    }
    for name in ["deny", "some"] {
        lab.api.delete(NETWORK_POLICIES, Some("default"), name);
    }
    trial(&iso.1).becomes("without a policy again", all).await;
}

async fn egress_policy_holds(config: &[(&str, Value)]) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, config).await;
    let mut pod = |index: usize, name: &str, app: &str| {
        lab.put_pod(index, name, &[("app", app)], None);
        let pod = lab.add_pod(index, name);
        let station = Station::start(&pod.netns);
        (pod, station)
    };
    let (iso, blocks, free) = (pod(0, "iso", "iso"), pod(0, "blocks", "blocks"), pod(0, "free", "free"));
    let (groups, target) = (pod(0, "groups", "groups"), pod(1, "target", "target"));
    let nodes: [IpAddr; 2] = [0, 1].map(|index| lab.nodes[index].ip.into());
    let endpoints = [nodes[0], nodes[1], lab.outside_ip().into(), target.0.ip];
    for (service, endpoint) in SERVICES.iter().zip(endpoints) {
        for protocol in ["tcp", "udp"] {
            sh(&format!(
                "ip netns exec {} iptables -w -t nat -A PREROUTING -d {service} -p {protocol} --dport 7000:7001 -j DNAT \
                 --to-destination {endpoint}",
                lab.nodes[0].netns
            ));
        }
    }
    let outside = lab.outside();
    sh(&format!("ip -n {outside} addr add {UNSERVED}/32 dev lo"));
    let hosts = [&lab.nodes[0].netns, &lab.nodes[1].netns, &outside].map(|netns| Station::start(netns));
    let stations = [&hosts[0], &hosts[1], &hosts[2], &target.1];
    let services = SERVICES.map(|service| -> IpAddr { service.parse().unwrap() });
    let unserved: IpAddr = UNSERVED.parse().unwrap();

    for (service, station) in services.into_iter().zip(stations) {
        station.forget();
        iso.1.aim([service]);
        eventually("probes arrive without a policy", LIMIT, || full(station.leaked(|_| true))).await;
    }
    iso.1.aim([]);
    eventually("an unserved address is answered outside", LIMIT, || ping(&iso.0.netns, unserved, 56, true))
        .await;

    lab.put_policy(
        "deny",
        &json!({"podSelector": {"matchLabels": {"app": "iso"}}, "policyTypes": ["Egress"]}),
    );
    // The other node by TCP alone; outside none of it, but by an exception.
    let [a, b, c, _] = lab.outside_ip().octets();
    lab.put_policy(
        "blocks",
        &json!({
            "podSelector": {"matchLabels": {"app": "blocks"}},
            "policyTypes": ["Egress"],
            "egress": [
                {"to": [{"ipBlock": {"cidr": format!("{}/32", nodes[1])}}], "ports": [{"port": 6990, "endPort": 7000}]},
                {"to": [{"ipBlock": {"cidr": format!("{a}.{b}.{c}.0/24"), "except": [format!("{a}.{b}.{c}.0/28")]}}],
                 "ports": [{"port": 7001, "protocol": "UDP"}]},
            ],
        }),
    );
    // A pod by TCP on one port.
    lab.put_policy(
        "groups",
        &json!({
            "podSelector": {"matchLabels": {"app": "groups"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"app": "target"}}}], "ports": [{"port": 7000}]}],
        }),
    );
    for (pod, service, station) in [
        (&iso, services[3], stations[3]),
        (&iso, services[2], stations[2]),
        (&blocks, services[2], stations[2]),
        (&groups, services[2], stations[2]),
    ] {
        let start = std::time::Instant::now();
        while reach(&pod.1, service, station).await.0 != Arrived::default() {
            assert!(start.elapsed() < LIMIT, "the policy is not in force for {service}");
        }
    }
    // Made under the policy, it tries from its first moment.
    lab.put_pod(0, "late", &[("app", "iso")], None);
    let netns = lab.pod_netns(0, "late");
    let late = Station::start(&netns);
    late.aim(services);
    stations.iter().for_each(|station| station.forget());
    let (output, text) = lab.nodes[0].cni("ADD", "late-0123456789abcdef", &netns, "1.0.0", None);
    assert!(output.status.success(), "{text}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    eventually("500 probes are sent", LIMIT, || late.sent() > 500).await;
    late.aim([]);
    let leaked = stations.map(|station| station.leaked(|_| true));
    assert_eq!(leaked, [Arrived::default(); 4], "of a new pod");

    let (no, all) = ((false, false), (true, true));
    for (what, station, expected) in [
        ("isolated", &iso.1, [no, no, no, no]),
        ("made later", &late, [no, no, no, no]),
        // nodes[0] and nodes[1] end in 11 and 12, the world outside in 1: the first 16 are excepted.
        ("with blocks", &blocks.1, [no, (true, false), no, no]),
        ("with a pod", &groups.1, [no, no, no, (true, false)]),
        ("free", &free.1, [all; 4]),
    ] {
        for ((service, at), (tcp, udp)) in services.into_iter().zip(stations).zip(expected) {
            let (arrived, sent) = reach(station, service, at).await;
            println!("{what}, {service}: {sent} probes, {arrived:?}");
            assert!(sent > 20, "{what}: only {sent} probes");
            assert_eq!((arrived.tcp > 0, arrived.udp > 0), (tcp, udp), "{what} to {service}: {arrived:?}");
        }
    }
    for (what, pod, answered) in
        [("isolated", &iso, false), ("with blocks", &blocks, false), ("free", &free, true)]
    {
        assert_eq!(
            ping(&pod.0.netns, unserved, 56, true),
            answered,
            "{what}: ICMP to an address of no Service"
        );
    }

    // What is in force goes with its policy.
    lab.api.delete(NETWORK_POLICIES, Some("default"), "deny");
    for (service, station) in services.into_iter().zip(stations) {
        station.forget();
        iso.1.aim([service]);
        eventually("without the policy probes arrive again", LIMIT, || full(station.leaked(|_| true))).await;
    }
}

/// Who plays kube-proxy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// A rule of iptables for each Service.
    Iptables,
    /// A link that has all Services' addresses, and the kernel's load balancer.
    Ipvs,
}

impl Proxy {
    fn prepare(self, lab: &Lab) {
        for node in lab.nodes.iter().filter(|_| self == Self::Ipvs) {
            let netns = &node.netns;
            sh(&format!("ip -n {netns} link add kube-ipvs0 type dummy"));
            for address in SERVICES {
                sh(&format!("ip -n {netns} addr add {address}/32 dev kube-ipvs0"));
            }
            sh(&format!("ip netns exec {netns} sysctl -qw net.ipv4.vs.conntrack=1"));
        }
    }

    fn serve(self, netns: &str, endpoints: [IpAddr; 4]) {
        let inside = format!("ip netns exec {netns}");
        for (service, endpoint) in SERVICES.iter().zip(endpoints) {
            for (protocol, option, port) in [("tcp", "-t", 7000), ("udp", "-u", 7001)] {
                match self {
                    Self::Iptables => sh(&format!(
                        "{inside} iptables -w -t nat -A PREROUTING -d {service} -p {protocol} --dport {port} -j DNAT \
                         --to-destination {endpoint}"
                    )),
                    Self::Ipvs => {
                        sh(&format!("{inside} ipvsadm -A {option} {service}:{port} -s rr"));
                        sh(&format!("{inside} ipvsadm -a {option} {service}:{port} -r {endpoint}:{port} -m"))
                    }
                };
            }
        }
    }
}

/// A pod that tries all Services, and who stands behind them.
struct Trial<'a> {
    from: &'a Station,
    services: [IpAddr; 4],
    stations: [&'a Station; 4],
}

impl Trial<'_> {
    /// Whether TCP and UDP arrive at each. Each answer rests on two dozen probes.
    async fn look(&self) -> [(bool, bool); 4] {
        self.stations.iter().for_each(|station| station.forget());
        let before = self.from.sent();
        self.from.aim(self.services);
        // A machine in software sends few in a second.
        eventually("enough probes are sent", LIMIT, || self.from.sent() - before > 8 * 25).await;
        self.from.aim([]);
        tokio::time::sleep(Duration::from_millis(400)).await;
        self.stations.map(|station| {
            let arrived = station.leaked(|_| true);
            (arrived.tcp > 0, arrived.udp > 0)
        })
    }

    async fn becomes(&self, what: &str, wanted: [(bool, bool); 4]) {
        let (start, mut last) = (std::time::Instant::now(), self.look().await);
        while last != wanted {
            assert!(start.elapsed() < LIMIT, "{what}: {last:?} instead of {wanted:?}");
            last = self.look().await;
        }
        println!("{what}: after {:.1?}", start.elapsed());
        assert_eq!(self.look().await, wanted, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn native_egress_policy_holds_for_endpoints_that_are_no_pods() {
    native_egress_policy_holds(Proxy::Iptables, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn native_egress_policy_holds_for_endpoints_on_nodes_that_are_reached_without_a_tunnel() {
    native_egress_policy_holds(Proxy::Iptables, &[("trafficEncapMode", json!("noEncap"))]).await;
}

/// Tiers decide in their order also where only the host sees what is reached.
pub(crate) async fn native_egress_policy_holds(proxy: Proxy, config: &[(&str, Value)]) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let gate = ("featureGates", json!({"AntreaPolicy": true}));
    let mut lab = Lab::without_agents(2, &[&[gate], config].concat()).await;
    proxy.prepare(&lab);
    lab.start_agents().await;
    let mut pod = |index: usize, name: &str| {
        lab.put_pod(index, name, &[("name", name)], None);
        let pod = lab.add_pod(index, name);
        (Station::start(&pod.netns), pod.ip)
    };
    let (who, free, target) = (pod(0, "who"), pod(0, "free"), pod(1, "target"));
    let nodes: [IpAddr; 2] = [0, 1].map(|index| lab.nodes[index].ip.into());
    let outside: IpAddr = lab.outside_ip().into();
    proxy.serve(&lab.nodes[0].netns, [nodes[0], nodes[1], outside, target.1]);
    let hosts = [&lab.nodes[0].netns, &lab.nodes[1].netns, &lab.outside()].map(|netns| Station::start(netns));
    let stations = [&hosts[0], &hosts[1], &hosts[2], &target.0];
    let services = SERVICES.map(|service| service.parse().unwrap());
    let trial = Trial { from: &who.0, services, stations };
    let (no, all) = ((false, false), (true, true));
    trial.becomes("no policy", [all; 4]).await;

    let selected = |name: &str| json!({"podSelector": {"matchLabels": {"name": name}}});
    let block = |ip: IpAddr| json!({"ipBlock": {"cidr": format!("{ip}/32")}});
    let acnp = |lab: &Lab, name: &str, tier: &str, rule: Value| {
        let spec = json!({"tier": tier, "priority": 5, "appliedTo": [selected("who")], "egress": [rule]});
        crate::native::put(lab, CLUSTER_POLICIES, None, name, &spec);
    };
    let everything = [block(nodes[0]), block(nodes[1]), block(outside), selected("target")];
    acnp(&lab, "late", "application", json!({"action": "Drop", "to": everything}));
    trial.becomes("Drop", [no; 4]).await;
    let other = Trial { from: &free.0, ..trial };
    other.becomes("who is not selected", [all; 4]).await;

    let port = json!([{"protocol": "TCP", "port": 7000}]);
    acnp(&lab, "early", "emergency", json!({"action": "Allow", "to": [block(nodes[0])], "ports": port}));
    trial.becomes("an earlier Tier allows a port", [(true, false), no, no, no]).await;

    acnp(&lab, "early", "emergency", json!({"action": "Pass", "to": [block(nodes[0]), block(nodes[1])]}));
    lab.put_policy(
        "kubernetes",
        &json!({
            "podSelector": {"matchLabels": {"name": "who"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [block(nodes[1]), block(outside)], "ports": [{"protocol": "UDP", "port": 7001}]}],
        }),
    );
    trial.becomes("Pass leaves it to Kubernetes", [no, (false, true), no, no]).await;
    lab.api.delete(CLUSTER_POLICIES, None, "late");
    trial.becomes("only Kubernetes decides", [no, (false, true), (false, true), no]).await;

    acnp(&lab, "base", "baseline", json!({"action": "Drop", "to": [block(nodes[0]), selected("target")]}));
    lab.api.delete(NETWORK_POLICIES, Some("default"), "kubernetes");
    trial.becomes("the baseline decides", [no, all, all, no]).await;

    // Over an agent's restart nothing opens.
    stations.iter().for_each(|station| station.forget());
    who.0.aim(services);
    let before = who.0.sent();
    lab.nodes[0].kill_agent();
    lab.start_agent(0);
    lab.wait_ready(0).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    who.0.aim([]);
    let leaked = [0, 3].map(|at| stations[at].leaked(|_| true));
    assert_eq!(leaked, [Arrived::default(); 2], "over the agent's restart");
    assert!(who.0.sent() - before > 500, "too few probes");
    trial.becomes("after the restart", [no, all, all, no]).await;
    for name in ["early", "base"] {
        lab.api.delete(CLUSTER_POLICIES, None, name);
    }
    trial.becomes("no policy is left", [all; 4]).await;
}
