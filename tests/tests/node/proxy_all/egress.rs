//! Egress policy and what the bridge translates for pods: by whatever address of a Service an isolated pod asks, it reaches
//! no endpoint that policy does not allow, and those that it does.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use antrea_tests::lab::{Lab, NETWORK_POLICIES, eventually};
use antrea_tests::station::{Arrived, Station};
use ipnet::IpNet;
use netcfg::Family;
use serde_json::{Value, json};

use super::{cluster_ip, external_ip, gates_lab};
use crate::proxy::{SERVICES, SLICES};

const LIMIT: Duration = Duration::from_secs(60);
const CLUSTER_POLICIES: &str = "apis/crd.antrea.io/v1beta1/clusternetworkpolicies";

/// Probes of each protocol that the answer for one address rests on.
const FLOOR: u64 = 25;

/// Ports of stations, which are pods' and those of Services, node ports included; and of those that play processes of
/// hosts, on which no node port may lie.
const OF_PODS: [u16; 2] = [7000, 7001];
const OF_HOSTS: [u16; 2] = [7100, 7101];

/// What stands behind Services: names, and places in lists.
const ENDPOINTS: [&str; 5] = ["near", "far", "own", "other", "outside"];
const NEAR: usize = 0;
const FAR: usize = 1;
const OTHER: usize = 3;
const OUTSIDE: usize = 4;

/// How a Service is asked. Each goes to all of [`ENDPOINTS`], node ports to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ClusterIp,
    ExternalIp,
    LoadBalancer,
    OwnNodePort,
    OthersNodePort,
}

const WAYS: [Way; 5] =
    [Way::ClusterIp, Way::ExternalIp, Way::LoadBalancer, Way::OwnNodePort, Way::OthersNodePort];

/// An address that a pod tries, and the number of the endpoint.
#[derive(Clone, Copy, Debug)]
struct Target {
    way: Way,
    endpoint: usize,
    ip: IpAddr,
}

/// Whether TCP and UDP arrive.
type Passes = (bool, bool);

struct World {
    lab: Lab,
    family: Family,
    endpoints: [IpAddr; 5],
    receivers: [Station; 5],
    /// Which endpoint node ports have now.
    behind_ports: usize,
}

impl World {
    async fn new(family: Family) -> Self {
        let mut lab = gates_lab(2, &json!({"AntreaProxy": true, "AntreaPolicy": true})).await;
        let (near, far) = (lab.add_pod(0, "near"), lab.add_pod(1, "far"));
        let endpoints = [
            near.ip_of(family),
            far.ip_of(family),
            lab.node_ip(0, family),
            lab.node_ip(1, family),
            lab.outside_of(family),
        ];
        let hosts = [lab.nodes[0].netns.clone(), lab.nodes[1].netns.clone(), lab.outside()];
        let [own, other, outside] = hosts.map(|netns| Station::listening_on(&netns, OF_HOSTS));
        let receivers = [Station::start(&near.netns), Station::start(&far.netns), own, other, outside];
        let world = Self { lab, family, endpoints, receivers, behind_ports: NEAR };
        for (number, name) in ENDPOINTS.into_iter().enumerate() {
            world.put_service(name, number, false);
            world.put_slice(name, number);
        }
        world.put_service("ports", ENDPOINTS.len(), true);
        world.put_slice("ports", NEAR);
        world
    }

    /// Addresses of a Service by its number: its own, an external one, that of a load balancer.
    fn addresses(&self, number: usize) -> [IpAddr; 3] {
        let number = u8::try_from(number).unwrap() + 1;
        [
            cluster_ip(self.family, number),
            external_ip(self.family, number),
            external_ip(self.family, number + 20),
        ]
    }

    fn put_service(&self, name: &str, number: usize, node_ports: bool) {
        let [cluster, external, balancer] = self.addresses(number);
        let port = |(protocol, port): (&str, u16)| {
            let node_port = if node_ports { port } else { 0 };
            json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": port, "nodePort": node_port})
        };
        let ports: Vec<Value> = ["TCP", "UDP"].into_iter().zip(OF_PODS).map(port).collect();
        self.lab.api.put(
            SERVICES,
            json!({"metadata": {"namespace": "default", "name": name},
                   "spec": {"type": "LoadBalancer", "clusterIP": cluster, "clusterIPs": [cluster],
                            "externalIPs": [external], "ports": ports},
                   "status": {"loadBalancer": {"ingress": [{"ip": balancer}]}}}),
        );
    }

    fn put_slice(&self, service: &str, endpoint: usize) {
        let ports = if endpoint <= FAR { OF_PODS } else { OF_HOSTS };
        let port = |(protocol, port): (&str, u16)| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": port});
        let ports: Vec<Value> = ["TCP", "UDP"].into_iter().zip(ports).map(port).collect();
        self.lab.api.put(
            SLICES,
            json!({"metadata": {"namespace": "default", "name": format!("{service}-1"),
                                "labels": {"kubernetes.io/service-name": service}},
                   "addressType": if self.family == Family::V6 { "IPv6" } else { "IPv4" },
                   "endpoints": [{"addresses": [self.endpoints[endpoint]], "conditions": {"ready": true}}],
                   "ports": ports}),
        );
    }

    /// What is tried at once: each comes to a receiver of its own.
    fn targets(&self, way: Way) -> Vec<Target> {
        let single =
            |node| vec![Target { way, endpoint: self.behind_ports, ip: self.lab.node_ip(node, self.family) }];
        let each = |which: usize| {
            let all = 0..ENDPOINTS.len();
            all.map(|endpoint| Target { way, endpoint, ip: self.addresses(endpoint)[which] }).collect()
        };
        match way {
            Way::ClusterIp => each(0),
            Way::ExternalIp => each(1),
            Way::LoadBalancer => each(2),
            Way::OwnNodePort => single(0),
            Way::OthersNodePort => single(1),
        }
    }

    /// What arrives of one pod's probes, from the floor of them to each address.
    async fn look(&self, from: &Station, ways: &[Way]) -> Vec<(Target, Passes)> {
        let mut seen = Vec::new();
        for way in ways {
            let targets = self.targets(*way);
            self.receivers.iter().for_each(Station::forget);
            let wanted = from.sent() + 2 * FLOOR * u64::try_from(targets.len()).unwrap();
            from.aim(targets.iter().map(|target| target.ip));
            eventually("enough probes are sent", LIMIT, || from.sent() >= wanted).await;
            from.aim([]);
            // What was sent last has arrived by then, if it arrives.
            tokio::time::sleep(Duration::from_millis(400)).await;
            seen.extend(targets.into_iter().map(|target| {
                let arrived = self.receivers[target.endpoint].leaked(|_| true);
                (target, (arrived.tcp > 0, arrived.udp > 0))
            }));
        }
        seen
    }

    /// Waits until what arrives is what `wanted` says, and looks twice more.
    async fn becomes(&self, what: &str, from: &Station, ways: &[Way], wanted: impl Fn(&Target) -> Passes) {
        let (begin, mut good) = (Instant::now(), 0);
        while good < 3 {
            let seen = self.look(from, ways).await;
            let mut others = seen.iter().filter(|(target, passes)| *passes != wanted(target)).peekable();
            if others.peek().is_none() {
                if good == 0 {
                    println!("{what}: after {:.1?}, {} probes sent by then", begin.elapsed(), from.sent());
                }
                good += 1;
                continue;
            }
            let others: Vec<_> = others
                .map(|(target, passes)| {
                    let Target { way, endpoint, ip } = target;
                    format!("{way:?} {ip} to {}: {passes:?}, not {:?}", ENDPOINTS[*endpoint], wanted(target))
                })
                .collect();
            assert!(good == 0 && begin.elapsed() < LIMIT, "{what}:\n{}", others.join("\n"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_pod_reaches_no_endpoint_by_any_address_of_a_service() {
    egress_holds(Family::V4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_by_any_ipv6_address() {
    egress_holds(Family::V6).await;
}

async fn egress_holds(family: Family) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut world = World::new(family).await;
    let [isolated, free] = ["iso", "free"].map(|name| Station::start(&world.lab.add_pod(0, name).netns));
    let (no, all) = ((false, false), (true, true));
    world.becomes("no policy", &isolated, &WAYS, |_| all).await;

    let selected = json!({"podSelector": {"matchLabels": {"name": "iso"}}, "policyTypes": ["Egress"]});
    world.lab.put_policy("deny", &selected);
    world.becomes("isolated", &isolated, &WAYS, |_| no).await;
    world.becomes("not selected", &free, &WAYS, |_| all).await;
    // Whatever stands behind the node ports.
    let ports = [Way::OwnNodePort, Way::OthersNodePort];
    for endpoint in [OTHER, OUTSIDE, FAR, NEAR] {
        world.behind_ports = endpoint;
        world.put_slice("ports", endpoint);
        let what = format!("node ports of {}", ENDPOINTS[endpoint]);
        world.becomes(&what, &free, &ports, |_| all).await;
        world.becomes(&what, &isolated, &ports, |_| no).await;
    }

    // What is allowed are endpoints by their ports, never an address of a Service. What goes to another node's port is
    // judged as it leaves its own node.
    let block = |ip: IpAddr| json!({"ipBlock": {"cidr": IpNet::from(ip).to_string()}});
    let port = |protocol: &str, port: u16| json!({"protocol": protocol, "port": port});
    let near = json!({"podSelector": {"matchLabels": {"name": "near"}}});
    let mut some = selected.clone();
    some["egress"] = json!([
        {"to": [near], "ports": [port("TCP", OF_PODS[0])]},
        {"to": [block(world.endpoints[OTHER])], "ports": [port("TCP", OF_HOSTS[0]), port("UDP", OF_HOSTS[1])]},
        {"to": [block(world.endpoints[OUTSIDE])], "ports": [port("UDP", OF_HOSTS[1])]},
        {"to": [block(world.addresses(FAR)[0])]},
    ]);
    world.lab.put_policy("some", &some);
    let allowed = |target: &Target| match (target.way, target.endpoint) {
        (Way::OthersNodePort, _) => no,
        (_, NEAR) => (true, false),
        (_, OTHER) => all,
        (_, OUTSIDE) => (false, true),
        _ => no,
    };
    world.becomes("some endpoints allowed", &isolated, &WAYS, allowed).await;

    // A native policy's Drop, and what an earlier Tier allows.
    let native = |lab: &Lab, name: &str, tier: &str, rule: Value| {
        let spec = json!({"tier": tier, "priority": 5, "appliedTo": [{"podSelector": selected["podSelector"]}],
                          "egress": [rule]});
        crate::native::put(lab, CLUSTER_POLICIES, None, name, &spec);
    };
    native(&world.lab, "drop", "application", json!({"action": "Drop"}));
    world.becomes("Drop, over what Kubernetes' allow", &isolated, &WAYS, |_| no).await;
    for name in ["deny", "some"] {
        world.lab.api.delete(NETWORK_POLICIES, Some("default"), name);
    }
    let rule = json!({"action": "Allow", "to": [near], "ports": [port("TCP", OF_PODS[0])]});
    native(&world.lab, "allow", "emergency", rule);
    let allowed = |target: &Target| match (target.way, target.endpoint) {
        (Way::OthersNodePort, _) => no,
        (_, NEAR) => (true, false),
        _ => no,
    };
    world.becomes("Drop but for one", &isolated, &WAYS, allowed).await;

    // Over an agent's restart nothing opens.
    let targets =
        || WAYS.into_iter().flat_map(|way| world.targets(way)).filter(|target| target.endpoint != NEAR);
    let targets: Vec<IpAddr> = targets().map(|target| target.ip).collect();
    world.receivers.iter().for_each(Station::forget);
    isolated.aim(targets);
    let before = isolated.sent();
    world.lab.nodes[0].kill_agent();
    world.lab.start_agent(0);
    world.lab.wait_ready(0).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    isolated.aim([]);
    let leaked = world.receivers.each_ref().map(|receiver| receiver.leaked(|_| true));
    assert!(leaked[FAR..].iter().all(|leaked| *leaked == Arrived::default()), "over a restart: {leaked:?}");
    assert!(isolated.sent() - before > 500, "too few probes");
    for name in ["drop", "allow"] {
        world.lab.api.delete(CLUSTER_POLICIES, None, name);
    }
    world.becomes("no policy again", &isolated, &WAYS, |_| all).await;
}
