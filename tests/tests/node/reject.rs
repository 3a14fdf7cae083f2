//! Action Reject as those see it who are rejected: at once, by an error that their system understands, in every direction,
//! protocol and family; and never is anything let through.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use antrea_tests::lab::{Lab, Pod, eventually, sh};
use antrea_tests::traffic::unheard_of;
use netcfg::Netns;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::native::put;
use crate::traceflow::{run, told};

const LIMIT: Duration = Duration::from_secs(60);
const CLUSTER_POLICIES: &str = "apis/crd.antrea.io/v1beta1/clusternetworkpolicies";
/// Of all servers, TCP and UDP.
pub(crate) const PORT: u16 = 7100;
/// Probes that each answer rests on.
const FLOOR: usize = 10;
/// How long nothing is waited for, and what a refusal may take.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long something is waited for on a machine that has more to do. TCP asks again after a second, and each packet counts.
const EXPECTED: Duration = Duration::from_millis(950);
const AT_ONCE: Duration = Duration::from_millis(50);

/// Identifier of the next echo request.
static ECHO: AtomicU16 = AtomicU16::new(1000);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Tcp,
    Udp,
    Icmp,
}

const ALL: [By; 3] = [By::Tcp, By::Udp, By::Icmp];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    Answer,
    Refusal,
    Silence,
    NoWay,
}

fn open(netns: &str) -> Netns {
    Netns::open(format!("/run/netns/{netns}")).unwrap()
}

/// Servers in a namespace that answer; they end when dropped.
struct Servers(Arc<AtomicBool>);

impl Drop for Servers {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn serve(netns: &str) -> Servers {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    let bind = move || (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap());
    let (listener, receiver) = open(netns).run(bind).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    listener.set_nonblocking(true).unwrap();
    receiver.set_read_timeout(Some(Duration::from_millis(2))).unwrap();
    std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            while listener.accept().is_ok() {}
            if let Ok((size, from)) = receiver.recv_from(&mut [0; 64]) {
                let _ = receiver.send_to(&[7; 64][..size], from);
            }
        }
    });
    Servers(stop)
}

/// One probe, and how long it took.
pub(crate) async fn probe(netns: &str, by: By, to: IpAddr) -> (Met, Duration) {
    probe_for(netns, by, to, PATIENCE).await
}

async fn probe_for(netns: &str, by: By, to: IpAddr, patience: Duration) -> (Met, Duration) {
    let attempt = move || {
        let begin = Instant::now();
        let met = match by {
            By::Tcp => tcp(to, patience),
            By::Udp => udp(to, patience),
            By::Icmp => echo(to, patience),
        };
        (met, begin.elapsed())
    };
    open(netns).run(attempt).await.unwrap()
}

fn of_error(error: &std::io::Error) -> Met {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Met::Silence,
        // A reset; "host prohibited" of IPv4, of IPv6.
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::PermissionDenied => {
            Met::Refusal
        }
        // The host's word of a Service that the bridge does not serve yet.
        ErrorKind::NetworkUnreachable => Met::NoWay,
        _ => panic!("{error}"),
    }
}

fn tcp(to: IpAddr, patience: Duration) -> Met {
    match TcpStream::connect_timeout(&(to, PORT).into(), patience) {
        Ok(_) => Met::Answer,
        Err(error) => of_error(&error),
    }
}

fn udp(to: IpAddr, patience: Duration) -> Met {
    let any: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
    let socket = unheard_of(any).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.connect((to, PORT)).unwrap();
    socket.send(b"probe").unwrap();
    match socket.recv(&mut [0; 64]) {
        Ok(_) => Met::Answer,
        Err(error) => of_error(&error),
    }
}

/// An echo request, and which message of ICMP comes back about it.
fn echo(to: IpAddr, patience: Duration) -> Met {
    let (domain, protocol, request) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128),
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    // To the tracker each identifier is a connection.
    let [high, low] = ECHO.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut message = [request, 0, 0, 0, high, low, 0, 1];
    // The kernel makes that of ICMPv6.
    let words = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.sum::<u32>();
    message[2..4].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    socket.send_to(&message, &SocketAddr::new(to, 0).into()).unwrap();
    let end = Instant::now() + patience;
    while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).unwrap();
        let mut buffer = [0; 512];
        let Ok(size) = socket.read(&mut buffer) else { break };
        let message = if to.is_ipv4() { &buffer[20..size] } else { &buffer[..size] };
        match (to, message) {
            (IpAddr::V4(_), [0, 0, ..]) | (IpAddr::V6(_), [129, 0, ..]) => return Met::Answer,
            (IpAddr::V4(_), [3, 10, ..]) | (IpAddr::V6(_), [1, 1, ..]) => return Met::Refusal,
            _ => {}
        }
    }
    Met::Silence
}

/// Who probes whom, by which ways.
struct Cell {
    what: String,
    netns: String,
    to: IpAddr,
    by: Vec<By>,
}

fn cell(what: &str, netns: &str, to: IpAddr) -> Cell {
    Cell { what: format!("{what}, {to}"), netns: netns.to_owned(), to, by: ALL.to_vec() }
}

/// Requires that all probes of all cells meet that. Returns how many were sent.
async fn all_meet(cells: &[Cell], wanted: Met) -> usize {
    let (mut sent, mut wrong) = (0, String::new());
    let patience = if wanted == Met::Silence { PATIENCE } else { EXPECTED };
    for cell in cells {
        for by in &cell.by {
            let mut times = Vec::new();
            for _ in 0..FLOOR {
                let (met, took) = probe_for(&cell.netns, *by, cell.to, patience).await;
                sent += 1;
                times.push(took);
                if met != wanted {
                    let _ = writeln!(
                        wrong,
                        "{} by {by:?}: {met:?} instead of {wanted:?} after {took:?}",
                        cell.what
                    );
                    break;
                }
            }
            times.sort_unstable();
            let median = times[times.len() / 2];
            if wanted == Met::Refusal && median > AT_ONCE {
                let _ = writeln!(wrong, "{} by {by:?}: {median:?}", cell.what);
            }
            println!("{} by {by:?}: {wanted:?}, median {median:.1?}", cell.what);
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    sent
}

async fn becomes(cell: &Cell, wanted: Met) {
    let begin = Instant::now();
    while probe(&cell.netns, cell.by[0], cell.to).await.0 != wanted {
        assert!(begin.elapsed() < LIMIT, "{} does not become {wanted:?}", cell.what);
    }
}

pub(crate) fn labelled(name: &str) -> Value {
    json!({"podSelector": {"matchLabels": {"name": name}}})
}

fn policy(direction: &str, action: &str) -> Value {
    json!({"priority": 5, "appliedTo": [labelled("target")], direction: [{"name": "all", "action": action}]})
}

pub(crate) fn add(lab: &mut Lab, index: usize, name: &str) -> Pod {
    lab.put_pod(index, name, &[("name", name)], None);
    lab.add_pod(index, name)
}

/// Packets that ingress and egress rules of a node denied.
fn denied(lab: &Lab, index: usize) -> u64 {
    let count = |table: &str| -> u64 {
        let dump = lab.nodes[index].ofctl("dump-flows", &[&format!("table={table}")]);
        let lines = dump.lines().filter(|line| line.contains("controller("));
        let packets = |line: &str| line.split("n_packets=").nth(1)?.split(',').next()?.parse::<u64>().ok();
        lines.filter_map(packets).sum()
    };
    count("IngressMetric") + count("EgressMetric")
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_are_told_at_once_in_every_direction_protocol_and_family() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[("featureGates", json!({"AntreaPolicy": true}))]).await;
    lab.add_ipv6();
    lab.start_agents().await;
    let (target, near, far) = (add(&mut lab, 0, "target"), add(&mut lab, 0, "near"), add(&mut lab, 1, "far"));
    let outside = lab.outside();
    let outside_ips = [lab.outside_ip().into(), lab.outside_ipv6()];
    sh(&format!("ip -n {outside} route add {} via {}", lab.nodes[0].pod_cidr, lab.nodes[0].ip));
    sh(&format!("ip -n {outside} -6 route add fd00:244:1::/64 via fd00:31::11"));
    // An address that the node translates, as kube-proxy does without masquerading.
    let external: IpAddr = "203.0.113.9".parse().unwrap();
    sh(&format!("ip -n {outside} route add {external} via {}", lab.nodes[0].ip));
    let dnat =
        format!("iptables -w -t nat -A PREROUTING -d {external} -j DNAT --to-destination {}", target.ip);
    sh(&format!("ip netns exec {} {dnat}", lab.nodes[0].netns));
    let mut servers = Vec::new();
    for netns in [&target.netns, &near.netns, &far.netns, &outside] {
        servers.push(serve(netns).await);
    }

    let (mut inward, mut outward) = (Vec::new(), Vec::new());
    for family in [0, 1] {
        let to = target.ips()[family];
        inward.push(cell("near to target", &near.netns, to));
        inward.push(cell("far to target", &far.netns, to));
        inward.push(cell("outside to target", &outside, to));
        outward.push(cell("target to near", &target.netns, near.ips()[family]));
        outward.push(cell("target to far", &target.netns, far.ips()[family]));
        outward.push(cell("target to outside", &target.netns, outside_ips[family]));
    }
    inward.push(cell("outside to target by another address", &outside, external));
    for cell in inward.iter().chain(&outward) {
        becomes(cell, Met::Answer).await;
    }
    all_meet(&inward, Met::Answer).await;
    all_meet(&outward, Met::Answer).await;

    for (direction, cells, others) in [("ingress", &inward, &outward), ("egress", &outward, &inward)] {
        put(&lab, CLUSTER_POLICIES, None, "reject", &policy(direction, "Reject"));
        becomes(&cells[0], Met::Refusal).await;
        let realized =
            || lab.api.get(CLUSTER_POLICIES, None, "reject").unwrap()["status"]["phase"] == "Realized";
        eventually("the policy is told to be realized", LIMIT, realized).await;
        // Open vSwitch counts what the datapath has done a moment later.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = denied(&lab, 0);
        let sent = all_meet(cells, Met::Refusal).await as u64;
        let counted = || denied(&lab, 0) - before;
        eventually("each packet is counted", LIMIT, || counted() >= sent).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(counted(), sent, "{direction}: each packet counts once");
        all_meet(&others[..1], Met::Answer).await;
        let pods = if direction == "ingress" { ["near", "target"] } else { ["target", "near"] };
        let [source, destination] = pods.map(|name| json!({"namespace": "default", "pod": name}));
        let trace = json!({"source": source, "destination": destination,
                           "packet": {"transportHeader": {"tcp": {"dstPort": PORT}}}});
        let traced = told(&run(&lab, direction, trace).await);
        let table = if direction == "ingress" { "IngressMetric" } else { "EgressMetric" };
        let rejected = format!("NetworkPolicy/{table}/Rejected/AntreaClusterNetworkPolicy:reject");
        assert!(traced[0].1.contains(&rejected), "{traced:?}");

        put(&lab, CLUSTER_POLICIES, None, "reject", &policy(direction, "Drop"));
        becomes(&cells[0], Met::Silence).await;
        for cell in cells {
            for by in &cell.by {
                assert_eq!(
                    probe(&cell.netns, *by, cell.to).await.0,
                    Met::Silence,
                    "Drop: {} by {by:?}",
                    cell.what
                );
            }
        }
    }

    // Without an agent nobody answers, and nothing passes.
    put(&lab, CLUSTER_POLICIES, None, "reject", &policy("ingress", "Reject"));
    becomes(&inward[0], Met::Refusal).await;
    let answered = lab.agent_metric(0, "antrea_agent_packet_ins_total{subscriber=\"policy\"}").await;
    assert!(answered >= 100.0, "{answered}");
    lab.nodes[0].kill_agent();
    for cell in &inward {
        for by in &cell.by {
            assert_eq!(
                probe(&cell.netns, *by, cell.to).await.0,
                Met::Silence,
                "no agent: {} by {by:?}",
                cell.what
            );
        }
    }
    lab.start_agent(0);
    lab.wait_ready(0).await;
    becomes(&inward[0], Met::Refusal).await;

    // A flood costs what the meter lets through, and no more.
    let before = denied(&lab, 0);
    let flood = inward[0].to;
    let client = open(&near.netns);
    let sent = client.run(move || {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).unwrap();
        let end = Instant::now() + Duration::from_secs(4);
        let mut sent = 0_u64;
        while Instant::now() < end {
            sent += (0..64).filter(|_| socket.send_to(b"flood", (flood, PORT)).is_ok()).count() as u64;
            std::thread::sleep(Duration::from_millis(4));
        }
        sent
    });
    let (sent, begin) = (sent.await.unwrap(), Instant::now());
    let taken = lab.agent_metric(0, "antrea_agent_packet_ins_total{subscriber=\"policy\"}").await;
    println!("of {sent} packets {} denied, {taken} taken by the agent", denied(&lab, 0) - before);
    assert!(sent > 10_000 && taken < 6_000.0, "{taken} of {sent}");
    all_meet(&inward[1..2], Met::Refusal).await;
    println!("others are told again {:?} after a flood", begin.elapsed());
    let repairs = lab.agent_metric(0, "antrea_agent_ovs_flow_repairs_total").await;
    assert_eq!(repairs, 0.0, "something of this was taken for drift");
}

const SERVICES: &str = "api/v1/services";
const SLICES: &str = "apis/discovery.k8s.io/v1/endpointslices";

/// A Service with one endpoint, of one family, by TCP and UDP.
pub(crate) fn service(lab: &Lab, name: &str, ip: IpAddr, endpoint: IpAddr) {
    let ports = json!([{"name": "tcp", "protocol": "TCP", "port": PORT}, {"name": "udp", "protocol": "UDP", "port": PORT}]);
    let spec = json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": ports});
    lab.api.put(SERVICES, json!({"metadata": {"namespace": "default", "name": name}, "spec": spec}));
    lab.api.put(
        SLICES,
        json!({
            "metadata": {"namespace": "default", "name": format!("{name}-1"),
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{"addresses": [endpoint], "conditions": {"ready": true}}], "ports": ports,
        }),
    );
}

/// The client has asked the Service and hears of it: another address would mean nothing to its socket.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_the_bridge_refuses_for_its_endpoint() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let gates = json!({"AntreaPolicy": true, "AntreaProxy": true});
    let cidrs = [("featureGates", gates), ("serviceCIDRv6", json!("fd00:10:96::/112"))];
    let mut lab = Lab::without_agents(2, &cidrs).await;
    lab.add_ipv6();
    lab.start_agents().await;
    let (target, near, far) = (add(&mut lab, 0, "target"), add(&mut lab, 0, "near"), add(&mut lab, 1, "far"));
    let mut servers = Vec::new();
    for netns in [&target.netns, &near.netns, &far.netns] {
        servers.push(serve(netns).await);
    }
    let (mut inward, mut outward) = (Vec::new(), Vec::new());
    for family in [0, 1] {
        let ip = |last: u8| -> IpAddr {
            let text = if family == 0 { format!("10.96.0.{last}") } else { format!("fd00:10:96::{last}") };
            text.parse().unwrap()
        };
        for (last, name, pod) in [(60, "target", &target), (61, "near", &near), (62, "far", &far)] {
            service(&lab, &format!("{name}-{family}"), ip(last), pod.ips()[family]);
        }
        inward.push(cell("near to the target's Service", &near.netns, ip(60)));
        inward.push(cell("far to the target's Service", &far.netns, ip(60)));
        outward.push(cell("target to near's Service", &target.netns, ip(61)));
        outward.push(cell("target to far's Service", &target.netns, ip(62)));
    }
    for cell in inward.iter_mut().chain(&mut outward) {
        cell.by = vec![By::Tcp, By::Udp];
        becomes(cell, Met::Answer).await;
    }
    for (direction, cells, others) in [("ingress", &inward, &outward), ("egress", &outward, &inward)] {
        put(&lab, CLUSTER_POLICIES, None, "reject", &policy(direction, "Reject"));
        becomes(&cells[0], Met::Refusal).await;
        all_meet(cells, Met::Refusal).await;
        all_meet(&others[..1], Met::Answer).await;
    }
    lab.api.delete(CLUSTER_POLICIES, None, "reject");
    for cell in inward.iter().chain(&outward) {
        becomes(cell, Met::Answer).await;
    }
    all_meet(&outward, Met::Answer).await;
}
