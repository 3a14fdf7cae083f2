//! Established connections when policy comes to deny them: they go on, or where the author wants it they end, at both ends
//! and for good.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use antrea_tests::lab::{Lab, Pod, eventually};
use netcfg::Netns;
use parking_lot::Mutex;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

use crate::native::put;
use crate::reject::{add, labelled, service};

const LIMIT: Duration = Duration::from_secs(60);
const CLUSTER_POLICIES: &str = "apis/crd.antrea.io/v1beta1/clusternetworkpolicies";
/// Between two octets or datagrams of an end.
const PACE: Duration = Duration::from_millis(20);
/// How long nothing has to arrive, or all goes on.
const WATCHED: Duration = Duration::from_secs(2);

/// One end of a conversation.
#[derive(Default)]
struct End {
    sent: AtomicU64,
    heard: AtomicU64,
    error: Mutex<Option<ErrorKind>>,
}

/// Two ends that send all the time, whether they hear anything or not; they end when dropped.
struct Talk {
    what: String,
    /// Client and server.
    ends: [Arc<End>; 2],
    stop: Arc<AtomicBool>,
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn open(netns: &str) -> Netns {
    Netns::open(format!("/run/netns/{netns}")).unwrap()
}

fn any(like: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(if like.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap(), port)
}

/// Sends and hears until told to stop, or until an error that is none of patience's.
fn speak(
    end: Arc<End>,
    stop: Arc<AtomicBool>,
    mut exchange: impl FnMut() -> std::io::Result<bool> + Send + 'static,
) {
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            match exchange() {
                Ok(heard) => {
                    end.sent.fetch_add(1, Ordering::Relaxed);
                    end.heard.fetch_add(u64::from(heard), Ordering::Relaxed);
                }
                Err(error) => {
                    *end.error.lock() = Some(error.kind());
                    return;
                }
            }
        }
    });
}

fn patient(heard: std::io::Result<usize>) -> std::io::Result<bool> {
    match heard {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
        Err(error) => Err(error),
    }
}

fn over_tcp(mut stream: TcpStream, end: Arc<End>, stop: Arc<AtomicBool>) {
    stream.set_read_timeout(Some(PACE)).unwrap();
    stream.set_nonblocking(false).unwrap();
    let mut buffer = [0; 4096];
    speak(end, stop, move || {
        std::thread::sleep(PACE);
        stream.write_all(b"x")?;
        patient(stream.read(&mut buffer))
    });
}

fn over_udp(socket: UdpSocket, end: Arc<End>, stop: Arc<AtomicBool>) {
    socket.set_read_timeout(Some(PACE)).unwrap();
    speak(end, stop, move || {
        std::thread::sleep(PACE);
        socket.send(b"x")?;
        patient(socket.recv(&mut [0; 64]))
    });
}

/// A client's connection from `port`, to an address behind which the server listens on the same port.
fn connect(to: SocketAddr, port: u16) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&any(to.ip(), port).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(2))?;
    Ok(socket.into())
}

impl Talk {
    async fn tcp(client: &str, server: &str, to: SocketAddr, port: u16) -> Option<Self> {
        let (ends, stop) = (<[Arc<End>; 2]>::default(), Arc::new(AtomicBool::new(false)));
        let listener =
            open(server).run(move || TcpListener::bind(any(to.ip(), port))).await.unwrap().unwrap();
        let stream = open(client).run(move || connect(to, port)).await.unwrap().ok()?;
        let (accepted, _) = listener.accept().unwrap();
        over_tcp(stream, ends[0].clone(), stop.clone());
        over_tcp(accepted, ends[1].clone(), stop.clone());
        Some(Self { what: format!("TCP to {to} on {port}"), ends, stop })
    }

    /// The server takes whoever sends first for its peer, and sends on without hearing of it.
    async fn udp(client: &str, server: &str, to: SocketAddr, port: u16) -> Option<Self> {
        let (ends, stop) = (<[Arc<End>; 2]>::default(), Arc::new(AtomicBool::new(false)));
        let bind = move || UdpSocket::bind(any(to.ip(), port));
        let [asking, serving] =
            [open(client).run(bind).await.unwrap().unwrap(), open(server).run(bind).await.unwrap().unwrap()];
        asking.connect(to).unwrap();
        serving.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        asking.send(b"x").unwrap();
        let (_, peer) = serving.recv_from(&mut [0; 64]).ok()?;
        serving.connect(peer).unwrap();
        over_udp(asking, ends[0].clone(), stop.clone());
        over_udp(serving, ends[1].clone(), stop.clone());
        Some(Self { what: format!("UDP to {to} on {port}"), ends, stop })
    }

    /// Both ways of talking; `to` is of the port that both ends have.
    async fn both(client: &str, server: &str, ip: IpAddr, port: u16) -> [Self; 2] {
        let to = SocketAddr::new(ip, port);
        let begin = Instant::now();
        loop {
            if let Some(udp) = Self::udp(client, server, to, port).await {
                return [Self::tcp(client, server, to, port).await.unwrap(), udp];
            }
            assert!(begin.elapsed() < LIMIT, "{to} is not reached");
        }
    }

    fn heard(&self) -> [u64; 2] {
        [0, 1].map(|at| self.ends[at].heard.load(Ordering::Relaxed))
    }

    fn sent(&self) -> [u64; 2] {
        [0, 1].map(|at| self.ends[at].sent.load(Ordering::Relaxed))
    }

    fn errors(&self) -> [Option<ErrorKind>; 2] {
        [0, 1].map(|at| *self.ends[at].error.lock())
    }

    fn is_tcp(&self) -> bool {
        self.what.starts_with("TCP")
    }
}

/// All of these talk on meanwhile.
async fn go_on(talks: &[Talk]) {
    let before: Vec<_> = talks.iter().map(Talk::heard).collect();
    tokio::time::sleep(WATCHED).await;
    for (talk, before) in talks.iter().zip(before) {
        let now = talk.heard();
        assert!(now[0] > before[0] + 10 && now[1] > before[1] + 10, "{}: {before:?}, {now:?}", talk.what);
        assert_eq!(talk.errors(), [None, None], "{}", talk.what);
    }
}

/// Both ends of TCP are told soon. Of datagrams none arrives any more, however many are sent.
async fn end(talks: &[Talk]) {
    let told =
        || talks.iter().filter(|talk| talk.is_tcp()).all(|talk| talk.errors().iter().all(Option::is_some));
    let took = eventually("both ends of TCP are told", LIMIT, told).await;
    for talk in talks.iter().filter(|talk| talk.is_tcp()) {
        let reset = [Some(ErrorKind::ConnectionReset), Some(ErrorKind::BrokenPipe)];
        assert!(
            talk.errors().iter().all(|error| reset.contains(error)),
            "{}: {:?}",
            talk.what,
            talk.errors()
        );
    }
    println!("all {} ended {took:?} after it was realized", talks.len());
    // What was on its way.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let silent: Vec<_> = talks.iter().filter(|talk| !talk.is_tcp()).collect();
    let before: Vec<_> = silent.iter().map(|talk| (talk.heard(), talk.sent())).collect();
    tokio::time::sleep(WATCHED).await;
    for (talk, (heard, sent)) in silent.iter().zip(before) {
        assert_eq!(talk.heard(), heard, "{}", talk.what);
        // An end that is refused hears so from its system, and could have gone on.
        let now = talk.sent();
        let could = (0..2).all(|at| now[at] > sent[at] + 20 || talk.errors()[at].is_some());
        assert!(could, "{}: {sent:?}, {now:?}", talk.what);
    }
}

async fn realized(lab: &Lab, name: &str, policy: &Value) {
    put(lab, CLUSTER_POLICIES, None, name, policy);
    let generation = lab.api.get(CLUSTER_POLICIES, None, name).unwrap()["metadata"]["generation"].clone();
    let is = || {
        let status = lab.api.get(CLUSTER_POLICIES, None, name).unwrap()["status"].clone();
        status["phase"] == "Realized" && status["observedGeneration"] == generation
    };
    eventually("the policy is realized", LIMIT, is).await;
}

async fn ended(lab: &Lab, index: usize, direction: &str) -> f64 {
    lab.agent_metric(index, &format!("antrea_agent_connections_ended_total{{direction=\"{direction}\"}}"))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn they_end_where_the_author_wants_it_and_go_on_elsewhere() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[("featureGates", json!({"AntreaPolicy": true}))]).await;
    lab.add_ipv6();
    lab.start_agents().await;
    let (target, near) = (add(&mut lab, 0, "target"), add(&mut lab, 0, "near"));
    let (far, other) = (add(&mut lab, 1, "far"), add(&mut lab, 0, "other"));
    let (mut denied, mut allowed) = (Vec::new(), Vec::new());
    for family in [0, 1] {
        let port = |at: u16| 7200 + 10 * family as u16 + at;
        let ip = |pod: &Pod| pod.ips()[family];
        denied.extend(Talk::both(&near.netns, &target.netns, ip(&target), port(0)).await);
        denied.extend(Talk::both(&far.netns, &target.netns, ip(&target), port(1)).await);
        denied.extend(Talk::both(&target.netns, &far.netns, ip(&far), port(2)).await);
        allowed.extend(Talk::both(&other.netns, &target.netns, ip(&target), port(3)).await);
        allowed.extend(Talk::both(&target.netns, &near.netns, ip(&near), port(4)).await);
        // Whatever policy says: so the kubelet asks.
        let node = lab.nodes[0].netns.clone();
        allowed.extend(Talk::both(&node, &other.netns, ip(&other), port(5)).await);
    }
    // The Pods of the lab's API have no address of IPv6.
    let block = |pod: &Pod| json!({"ipBlock": {"cidr": format!("{}/128", pod.ips()[1])}});
    let deny = |action: &str, established: Option<&str>| {
        let mut policy = json!({
            "priority": 5, "appliedTo": [labelled("target")],
            "ingress": [{"action": action, "from": [labelled("near"), block(&near), labelled("far"), block(&far)]}],
            "egress": [{"action": action, "to": [labelled("far"), block(&far)]}],
        });
        if let Some(established) = established {
            policy["established"] = json!(established);
        }
        policy
    };
    let alone = json!({"priority": 5, "appliedTo": [labelled("other")], "established": "Reset",
                       "ingress": [{"action": "Drop"}]});
    realized(&lab, "alone", &alone).await;
    for established in [None, Some("Keep")] {
        realized(&lab, "deny", &deny("Drop", established)).await;
        go_on(&denied).await;
    }
    assert_eq!([ended(&lab, 0, "ingress").await, ended(&lab, 0, "egress").await], [0.0, 0.0]);
    realized(&lab, "deny", &deny("Drop", Some("Reset"))).await;
    end(&denied).await;
    go_on(&allowed).await;
    assert_eq!([ended(&lab, 0, "ingress").await, ended(&lab, 0, "egress").await], [8.0, 4.0]);
    assert_eq!([ended(&lab, 1, "ingress").await, ended(&lab, 1, "egress").await], [0.0, 0.0]);

    // Their ports are free again for what is allowed by then.
    lab.api.delete(CLUSTER_POLICIES, None, "deny");
    drop(denied);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let again = Talk::both(&far.netns, &target.netns, target.ips()[0], 7201).await;
    go_on(&again).await;
    // A rule that comes to apply by its members ends them too.
    let late = add(&mut lab, 0, "late");
    let talks = Talk::both(&late.netns, &target.netns, target.ips()[0], 7230).await;
    let marked = json!({
        "priority": 5, "appliedTo": [labelled("target")], "established": "Reset",
        "ingress": [{"action": "Reject", "from": [{"podSelector": {"matchLabels": {"marked": "yes"}}}]}],
    });
    realized(&lab, "marked", &marked).await;
    go_on(&talks).await;
    lab.put_pod(0, "late", &[("name", "late"), ("marked", "yes")], Some(late.ip));
    end(&talks).await;
    go_on(&again).await;
    let repairs = lab.agent_metric(0, "antrea_agent_ovs_flow_repairs_total").await;
    assert_eq!(repairs, 0.0, "something of this was taken for drift");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_to_a_service_ends_by_its_name_and_by_its_endpoint() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let gates = json!({"AntreaPolicy": true, "AntreaProxy": true});
    let mut lab = Lab::without_agents(2, &[("featureGates", gates)]).await;
    lab.start_agents().await;
    let (client, far) = (add(&mut lab, 0, "client"), add(&mut lab, 1, "far"));
    let frontend: IpAddr = "10.96.0.60".parse().unwrap();
    service(&lab, "far", frontend, far.ip);
    // The port of the Service, which both ends have.
    let port = crate::reject::PORT;
    let served = Talk::both(&client.netns, &far.netns, frontend, port).await;
    let direct = Talk::both(&client.netns, &far.netns, far.ip, port + 1).await;
    let by_name = json!({
        "priority": 5, "appliedTo": [labelled("client")], "established": "Reset",
        "egress": [{"action": "Drop", "toServices": [{"namespace": "default", "name": "far"}]}],
    });
    realized(&lab, "by-name", &by_name).await;
    end(&served).await;
    go_on(&direct).await;
    lab.api.delete(CLUSTER_POLICIES, None, "by-name");
    drop(served);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let served = Talk::both(&client.netns, &far.netns, frontend, port).await;
    let by_endpoint = json!({
        "priority": 5, "appliedTo": [labelled("client")], "established": "Reset",
        "egress": [{"action": "Drop", "to": [labelled("far")], "ports": [{"protocol": "TCP", "port": port},
                                                                           {"protocol": "UDP", "port": port}]}],
    });
    realized(&lab, "by-endpoint", &by_endpoint).await;
    end(&served).await;
    go_on(&direct).await;
}

/// Both ends of TCP say nothing until long after, and a policy's memory does not end with the process.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_silent_over_a_restart_of_the_agent_is_not_answered() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[("featureGates", json!({"AntreaPolicy": true}))]).await;
    lab.start_agents().await;
    let (target, far) = (add(&mut lab, 0, "target"), add(&mut lab, 1, "far"));
    let ip = target.ips()[0];
    drop(Talk::both(&far.netns, &target.netns, ip, 7240).await);
    let to = SocketAddr::new(ip, 7241);
    let listener =
        open(&target.netns).run(move || TcpListener::bind(any(ip, to.port()))).await.unwrap().unwrap();
    let mut client = open(&far.netns).run(move || connect(to, 7241)).await.unwrap().unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let bind = move || UdpSocket::bind(any(ip, 7242));
    let [asking, serving] = [
        open(&far.netns).run(bind).await.unwrap().unwrap(),
        open(&target.netns).run(bind).await.unwrap().unwrap(),
    ];
    asking.connect((ip, 7242)).unwrap();
    asking.send(b"x").unwrap();
    let (_, peer) = serving.recv_from(&mut [0; 8]).unwrap();

    let deny = json!({"priority": 5, "appliedTo": [labelled("target")], "established": "Reset",
                      "ingress": [{"action": "Drop", "from": [labelled("far")]}]});
    realized(&lab, "deny", &deny).await;
    let begin = Instant::now();
    while ended(&lab, 0, "ingress").await < 2.0 {
        assert!(begin.elapsed() < LIMIT, "the connections do not end");
    }
    lab.nodes[0].kill_agent();
    lab.start_agent(0);
    lab.wait_ready(0).await;

    // Nothing keeps the server's Pod from sending, so this would begin connections the other way round.
    client.set_read_timeout(Some(WATCHED)).unwrap();
    asking.set_read_timeout(Some(WATCHED)).unwrap();
    server.write_all(b"x").unwrap();
    serving.send_to(b"x", peer).unwrap();
    let heard = client.read(&mut [0; 8]).map_err(|error| error.kind());
    assert!(!matches!(heard, Ok(1..)), "the client hears of the server: {heard:?}");
    assert!(asking.recv(&mut [0; 8]).is_err(), "the client gets a datagram of the server");
    let told = || {
        let error = server.write(b"x").err().map(|error| error.kind());
        matches!(error, Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
    };
    eventually("the server is told", LIMIT, told).await;
    let repairs = lab.agent_metric(0, "antrea_agent_ovs_flow_repairs_total").await;
    assert_eq!(repairs, 0.0, "something of this was taken for drift");
}
