//! Domain names in policies: a pod is let through to what DNS told it, at once and no longer than it holds, and to nothing
//! else; and it is kept from what it must not reach before it can try.

mod server;
mod streams;

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use antrea_tests::lab::{Datapath, Lab, Pod, eventually, sh};
use antrea_tests::traffic::Stream;
use netcfg::Netns;
use serde_json::{Value, json};

use self::server::{Dns, Record, ask_by_tcp, query};
use crate::native::put;

const LIMIT: Duration = Duration::from_secs(60);
const CLUSTER_POLICIES: &str = "apis/crd.antrea.io/v1beta1/clusternetworkpolicies";
/// As resolvers wait: an answer is held until the datapath goes by it, which a busy machine takes its time for.
const ANSWERED: Duration = Duration::from_secs(5);
/// How long nothing is waited for.
const PATIENCE: Duration = Duration::from_millis(400);
/// Names, or probes, that each answer rests on.
const FLOOR: u8 = 20;
const PORT: u16 = 7200;
/// Of a connection that stays.
const ECHO: u16 = 7201;
/// Where the DNS server is, and where everything else is, both outside.
const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 53));
const A: u16 = 1;
const AAAA: u16 = 28;
const CNAME: u16 = 5;

fn v4(last: u8) -> IpAddr {
    IpAddr::from([198, 18, 0, last])
}

fn v6(last: u8) -> IpAddr {
    format!("fd00:18::{last:x}").parse().unwrap()
}

fn open(netns: &str) -> Netns {
    Netns::open(format!("/run/netns/{netns}")).unwrap()
}

/// Whether a pod gets an answer of the server, and how long it takes.
async fn ask(pod: &str, server: IpAddr, name: &str, kind: u16) -> Option<Duration> {
    let message = query(name, kind);
    let attempt = move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(ANSWERED)).unwrap();
        socket.connect((server, 53)).unwrap();
        let begin = Instant::now();
        socket.send(&message).unwrap();
        socket.recv(&mut [0; 2048]).ok().map(|_| begin.elapsed())
    };
    open(pod).run(attempt).await.unwrap()
}

/// One attempt to connect.
async fn reaches(pod: &str, to: IpAddr) -> bool {
    let attempt = move || TcpStream::connect_timeout(&(to, PORT).into(), PATIENCE).is_ok();
    open(pod).run(attempt).await.unwrap()
}

async fn until_reached(pod: &str, to: IpAddr, wanted: bool) {
    let begin = Instant::now();
    while reaches(pod, to).await != wanted {
        assert!(begin.elapsed() < LIMIT, "{to} is not reached: {wanted}");
    }
}

/// What listens outside; it ends when dropped.
struct Servers(Arc<AtomicBool>);

impl Drop for Servers {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn serve(netns: &str) -> Servers {
    let bind = || TcpListener::bind(("::", PORT)).unwrap();
    let listener = open(netns).run(bind).await.unwrap();
    listener.set_nonblocking(true).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            while listener.accept().is_ok() {}
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    Servers(stop)
}

/// A world outside of many addresses that answer, and a server that names them.
async fn world(lab: &Lab) -> (Dns, Servers) {
    let (outside, node) = (lab.outside(), &lab.nodes[0].netns);
    sh(&format!("ip -n {outside} link set lo up"));
    sh(&format!("ip -n {outside} route add local 198.18.0.0/24 dev lo"));
    sh(&format!("ip -n {outside} -6 route add local fd00:18::/64 dev lo"));
    sh(&format!("ip -n {node} route add 198.18.0.0/24 via {}", lab.outside_ip()));
    sh(&format!("ip -n {node} -6 route add fd00:18::/64 via {}", lab.outside_ipv6()));
    sh(&format!("ip -n {outside} -6 route add fd00:244:1::/64 via fd00:31::11"));
    (Dns::start(&outside, SocketAddr::new(SERVER, 53)).await, serve(&outside).await)
}

fn add(lab: &mut Lab, name: &str) -> Pod {
    lab.put_pod(0, name, &[("name", name)], None);
    lab.add_pod(0, name)
}

fn applied_to(name: &str) -> Value {
    json!([{"podSelector": {"matchLabels": {"name": name}}}])
}

/// Lets the pod ask, reach what has these names, and nothing else.
fn only(names: &[&str]) -> Value {
    let names: Vec<Value> = names.iter().map(|name| json!({"fqdn": name})).collect();
    let server = json!({"ipBlock": {"cidr": format!("{SERVER}/32")}});
    json!({
        "priority": 5,
        "appliedTo": applied_to("client"),
        "egress": [
            {"name": "dns", "action": "Allow", "to": [server]},
            {"name": "names", "action": "Allow", "to": names},
            {"name": "rest", "action": "Drop"},
        ],
    })
}

async fn realized(lab: &Lab, name: &str) {
    let phase =
        || lab.api.get(CLUSTER_POLICIES, None, name).is_some_and(|p| p["status"]["phase"] == "Realized");
    eventually("the policy is told to be realized", LIMIT, phase).await;
}

fn address(last: u8, ttl: u32) -> Vec<Record> {
    vec![Record::Address(v4(last), ttl)]
}

/// Latency of answers, sorted.
async fn latency(pod: &str, names: impl IntoIterator<Item = String>) -> Vec<Duration> {
    let mut times = Vec::new();
    for name in names {
        times.extend(ask(pod, SERVER, &name, A).await);
    }
    times.sort_unstable();
    times
}

fn show(what: &str, times: &[Duration]) {
    let at = |share: usize| times[times.len() * share / 100];
    println!("{what}: {} answers, p50 {:.2?}, p99 {:.2?}", times.len(), at(50), at(99));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_reaches_what_dns_told_it_at_once_and_nothing_else() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[("featureGates", json!({"AntreaPolicy": true}))]).await;
    lab.add_ipv6();
    lab.start_agents().await;
    let (client, free) = (add(&mut lab, "client"), add(&mut lab, "free"));
    let other = add(&mut lab, "other");
    let (dns, _servers) = world(&lab).await;
    let pod = client.netns.as_str();
    for last in 1..=9 {
        until_reached(pod, v4(last), true).await;
    }
    until_reached(pod, v6(5), true).await;
    for n in 0..FLOOR {
        dns.tell(&format!("n{n}.wild.example"), address(100 + n, 600));
    }
    dns.tell("www.exact.example", address(1, 600));
    dns.tell("www.other.example", address(2, 600));
    dns.tell("wild.example", address(3, 600));
    dns.tell(
        "alias.wild.example",
        vec![
            Record::Alias("a.elsewhere.example".into()),
            Record::Alias("b.elsewhere.example".into()),
            Record::Address(v4(4), 600),
        ],
    );
    dns.tell(
        "many.wild.example",
        vec![Record::Address(v4(5), 600), Record::Address(v4(6), 600), Record::Address(v6(5), 600)],
    );
    dns.tell("tcp.wild.example", address(7, 600));
    dns.tell("short.wild.example", address(8, 2));
    dns.tell("garbage.wild.example", vec![Record::Garbage]);

    let before = latency(&free.netns, (0..300).map(|_| "www.exact.example".to_owned())).await;
    put(&lab, CLUSTER_POLICIES, None, "names", &only(&["WWW.exact.example", "*.wild.example"]));
    let mut others = only(&["www.exact.example"]);
    others["appliedTo"] = applied_to("other");
    put(&lab, CLUSTER_POLICIES, None, "others", &others);
    until_reached(pod, v4(1), false).await;
    realized(&lab, "names").await;
    until_reached(&other.netns, v4(1), false).await;
    realized(&lab, "others").await;

    // What was not asked for is not reached.
    for n in 0..FLOOR {
        assert!(!reaches(pod, v4(100 + n)).await, "n{n} was not asked for");
    }
    // What was is, by the first packet that follows the answer.
    for n in 0..FLOOR {
        let name = format!("N{n}.Wild.example");
        assert!(ask(pod, SERVER, &name, A).await.is_some(), "{name}: no answer");
        assert!(reaches(pod, v4(100 + n)).await, "{name} is not reached at once");
    }
    assert!(ask(pod, SERVER, "www.EXACT.example", A).await.is_some());
    assert!(reaches(pod, v4(1)).await);
    // What one pod was told means nothing in the rules of another, which asks for itself.
    for _ in 0..FLOOR {
        assert!(!reaches(&other.netns, v4(1)).await);
    }
    assert!(ask(&other.netns, SERVER, "www.exact.example", A).await.is_some());
    assert!(reaches(&other.netns, v4(1)).await);
    // Other names are answered, and not reached.
    for name in ["www.other.example", "wild.example"] {
        assert!(ask(pod, SERVER, name, A).await.is_some());
    }
    for _ in 0..FLOOR {
        assert!(!reaches(pod, v4(2)).await && !reaches(pod, v4(3)).await);
    }
    // Behind aliases; several at once; of the other family; by TCP.
    assert!(ask(pod, SERVER, "alias.wild.example", A).await.is_some());
    assert!(reaches(pod, v4(4)).await);
    assert!(ask(pod, SERVER, "many.wild.example", A).await.is_some());
    assert!(reaches(pod, v4(5)).await && reaches(pod, v4(6)).await && !reaches(pod, v6(5)).await);
    assert!(ask(pod, SERVER, "many.wild.example", AAAA).await.is_some());
    assert!(reaches(pod, v6(5)).await);
    assert!(!reaches(pod, v4(7)).await);
    ask_by_tcp(pod, "tcp.wild.example", A, ANSWERED).await.expect("an answer by TCP");
    assert!(reaches(pod, v4(7)).await);
    // What cannot be read is not let go.
    assert!(ask(&free.netns, SERVER, "garbage.wild.example", A).await.is_some());
    assert_eq!(ask(pod, SERVER, "garbage.wild.example", A).await, None);
    let malformed = lab.agent_metric(0, "antrea_agent_dns_answers_total{outcome=\"malformed\"}").await;
    assert_eq!(malformed, 1.0);

    // An address is one for as long as DNS tells it, and goes with its time to live; connections stay.
    assert!(ask(pod, SERVER, "short.wild.example", A).await.is_some());
    let mut stream = Stream::open(pod, &lab.outside(), v4(8), ECHO).await;
    let begin = Instant::now();
    while lab.agent_metric(0, "antrea_agent_dns_refreshes_total{outcome=\"answered\"}").await < 4.0 {
        assert!(begin.elapsed() < LIMIT, "DNS is not asked again");
    }
    // Long after its time.
    assert!(reaches(pod, v4(8)).await, "what DNS still tells is not reached");
    dns.tell("short.wild.example", Vec::new());
    let begin = Instant::now();
    until_reached(pod, v4(8), false).await;
    println!("an address of a time to live of 2 s went {:.1?} after DNS told it no more", begin.elapsed());
    assert!(begin.elapsed() < Duration::from_secs(10));
    stream.exchange(LIMIT).unwrap();
    let begin = Instant::now();
    while lab.agent_metric(0, "antrea_agent_fqdn_cache_eviction_count{reason=\"expired\"}").await < 1.0 {
        assert!(begin.elapsed() < LIMIT, "what went is not counted");
    }
    assert!(lab.agent_metric(0, "antrea_agent_fqdn_cache_size").await >= 20.0);

    show("answers without a policy", &before);
    show(
        "of a name that no policy means",
        &latency(pod, (0..300).map(|_| "www.other.example".to_owned())).await,
    );
    show("of one that is known", &latency(pod, (0..300).map(|_| "www.exact.example".to_owned())).await);
    for n in 0..200 {
        dns.tell(&format!("new{n}.wild.example"), vec![Record::Address([198, 18, 1, n].into(), 600)]);
    }
    show("of a new one", &latency(pod, (0..200).map(|n| format!("new{n}.wild.example"))).await);
    let repairs = lab.agent_metric(0, "antrea_agent_ovs_flow_repairs_total").await;
    assert_eq!(repairs, 0.0, "something of this was taken for drift");

    an_agent_restart(&mut lab, pod, &mut stream).await;
}

/// What was told stays known, what was not stays shut, and a connection that is there goes on.
async fn an_agent_restart(lab: &mut Lab, pod: &str, stream: &mut Stream) {
    // What was told last is on disk a second later.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (leaked, tried) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let (netns, counts, stopped) = (pod.to_owned(), (leaked.clone(), tried.clone()), stop.clone());
    let probing = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            let attempt =
                || TcpStream::connect_timeout(&(v4(2), PORT).into(), Duration::from_millis(50)).is_ok();
            counts.0.fetch_add(u64::from(open(&netns).run(attempt).await.unwrap()), Ordering::Relaxed);
            counts.1.fetch_add(1, Ordering::Relaxed);
        }
    });
    lab.nodes[0].kill_agent();
    // Nobody learns what is answered now, so nobody hears it; what is known goes on.
    assert_eq!(ask(pod, SERVER, "new1.wild.example", A).await, None);
    assert!(reaches(pod, v4(1)).await);
    stream.exchange(LIMIT).unwrap();
    lab.start_agent(0);
    lab.wait_ready(0).await;
    assert!(reaches(pod, v4(1)).await, "what the last life knew is not asked for again");
    assert!(reaches(pod, v6(5)).await);
    stream.exchange(LIMIT).unwrap();
    let begin = Instant::now();
    while ask(pod, SERVER, "n1.wild.example", A).await.is_none() {
        assert!(begin.elapsed() < LIMIT, "no answers after the restart");
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    stop.store(true, Ordering::Relaxed);
    probing.await.unwrap();
    let (leaked, tried) = (leaked.load(Ordering::Relaxed), tried.load(Ordering::Relaxed));
    println!("{leaked} of {tried} forbidden connections while the agent restarted");
    assert!(leaked == 0 && tried >= u64::from(FLOOR), "{leaked} of {tried}");
}

/// A pod that is told a forbidden address cannot use it, however soon it tries; all else passes. And so it is behind a
/// Service that the bridge serves, whose server has another port.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_kept_from_a_name_before_it_can_try() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let gates = json!({"AntreaPolicy": true, "AntreaProxy": true});
    let mut lab = Lab::without_agents(1, &[("featureGates", gates)]).await;
    lab.add_ipv6();
    lab.start_agents().await;
    let (client, server) = (add(&mut lab, "client"), add(&mut lab, "server"));
    let (dns, _servers) = world(&lab).await;
    let inner = Dns::start(&server.netns, SocketAddr::new("0.0.0.0".parse().unwrap(), 5353)).await;
    let ports = json!([{"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353}]);
    let ip: IpAddr = "10.96.0.10".parse().unwrap();
    let spec = json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": ports});
    lab.api
        .put("api/v1/services", json!({"metadata": {"namespace": "default", "name": "dns"}, "spec": spec}));
    lab.api.put(
        "apis/discovery.k8s.io/v1/endpointslices",
        json!({
            "metadata": {"namespace": "default", "name": "dns-1", "labels": {"kubernetes.io/service-name": "dns"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [server.ip], "conditions": {"ready": true}}],
            "ports": [{"name": "dns", "protocol": "UDP", "port": 5353}],
        }),
    );
    let pod = client.netns.as_str();
    for n in 0..FLOOR {
        dns.tell(&format!("n{n}.bad.example"), address(100 + n, 600));
        inner.tell(&format!("n{n}.bad.example"), address(150 + n, 600));
        until_reached(pod, v4(100 + n), true).await;
    }
    dns.tell("good.example", address(1, 600));
    let begin = Instant::now();
    while ask(pod, ip, "good.example", A).await.is_none() {
        assert!(begin.elapsed() < LIMIT, "the Service does not answer");
    }
    let deny = json!({
        "priority": 5,
        "appliedTo": applied_to("client"),
        "egress": [{"name": "bad", "action": "Drop", "to": [{"fqdn": "*.bad.example"}]}],
    });
    put(&lab, CLUSTER_POLICIES, None, "bad", &deny);
    realized(&lab, "bad").await;
    let mut probed = 0;
    for n in 0..FLOOR {
        for (server, to) in [(SERVER, v4(100 + n)), (ip, v4(150 + n))] {
            assert!(reaches(pod, to).await, "{to} has no name yet");
            assert!(ask(pod, server, &format!("n{n}.bad.example"), A).await.is_some());
            assert!(!reaches(pod, to).await, "n{n} is reached by {to}, as {server} said");
            assert!(reaches(&lab.outside(), v4(1)).await && reaches(&server_of(&lab), to).await);
            probed += 1;
        }
    }
    assert_eq!(probed, 2 * u32::from(FLOOR));
    assert!(ask(pod, SERVER, "good.example", A).await.is_some());
    assert!(reaches(pod, v4(1)).await);
    println!("datapath {:?}: {probed} names denied at the first attempt", Datapath::here());
}

/// The node itself, which no policy of the pod is about.
fn server_of(lab: &Lab) -> String {
    lab.nodes[0].netns.clone()
}
