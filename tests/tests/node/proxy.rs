//! Services that the bridge serves (gate AntreaProxy): there is no kube-proxy in this suite, so nobody else does.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use antrea_tests::lab::{Lab, NETWORK_POLICIES, Pod, eventually, sh};
use antrea_tests::traffic::{Stream, ping, tcp_to};
use netcfg::Netns;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

pub(crate) const SERVICES: &str = "api/v1/services";
pub(crate) const SLICES: &str = "apis/discovery.k8s.io/v1/endpointslices";
const LIMIT: Duration = Duration::from_secs(20);
/// Port of Services, and of their endpoints.
pub(crate) const PORT: u16 = 80;
pub(crate) const TARGET: u16 = 8080;
/// What a pod sees of itself.
const ITSELF: &str = "169.254.0.253";

fn ports(number: u16) -> Value {
    json!([{"name": "tcp", "protocol": "TCP", "port": number}, {"name": "udp", "protocol": "UDP", "port": number}])
}

/// A Service with an address; `more` is added to its spec.
pub(crate) fn put_service(lab: &Lab, name: &str, ip: &str, more: &Value) {
    let mut spec = json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": ports(PORT)});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    lab.api.put(SERVICES, json!({"metadata": {"namespace": "default", "name": name}, "spec": spec}));
}

/// Its endpoints.
pub(crate) fn put_endpoints(lab: &Lab, name: &str, ips: &[IpAddr]) {
    let endpoints: Vec<Value> =
        ips.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    lab.api.put(
        SLICES,
        json!({
            "metadata": {"namespace": "default", "name": format!("{name}-1"),
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports(TARGET),
        }),
    );
}

pub(crate) fn at(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), PORT)
}

fn open(netns: &str) -> Netns {
    Netns::open(format!("/run/netns/{netns}")).unwrap()
}

pub(crate) async fn connect(client: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    connect_from(client, 0, to).await
}

/// Connects from a port of the client's.
async fn connect_from(client: &str, port: u16, to: SocketAddr) -> std::io::Result<TcpStream> {
    let connect = move || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
        socket.connect_timeout(&to.into(), Duration::from_secs(2))?;
        Ok(socket.into())
    };
    open(client).run(connect).await.unwrap()
}

pub(crate) async fn listen(netns: &str) -> TcpListener {
    let listener = open(netns).run(|| TcpListener::bind(("0.0.0.0", TARGET))).await.unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

/// A socket for datagrams.
pub(crate) async fn bind(netns: &str, port: u16) -> UdpSocket {
    let socket = open(netns).run(move || UdpSocket::bind(("0.0.0.0", port))).await.unwrap().unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Who waits there to be taken.
fn clients(listener: &TcpListener) -> impl Iterator<Item = SocketAddr> {
    std::iter::from_fn(|| listener.accept().ok()).map(|(_, client)| client)
}

async fn until_served(client: &str, to: &str) {
    let end = std::time::Instant::now() + LIMIT;
    while let Err(error) = connect(client, at(to)).await {
        // Whoever has no listener refuses, which is an answer of the endpoint.
        if error.kind() == ErrorKind::ConnectionRefused {
            return;
        }
        assert!(std::time::Instant::now() < end, "{to}: {error}");
    }
}

async fn lab(nodes: usize) -> Lab {
    Lab::start(nodes, &[("featureGates", json!({"AntreaProxy": true}))]).await
}

fn refused(stream: std::io::Result<TcpStream>) -> ErrorKind {
    stream.map(|stream| stream.peer_addr()).expect_err("a connection").kind()
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_of_every_kind_and_none() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(2).await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    let nodes: [IpAddr; 2] = [0, 1].map(|index| lab.nodes[index].ip.into());
    let netns = [0, 1].map(|index| lab.nodes[index].netns.clone());
    let gateway: IpAddr = "10.244.1.1".parse().unwrap();
    let cases = [
        ("local", "10.96.0.31", b.ip, &b.netns, a.ip),
        ("remote", "10.96.0.32", c.ip, &c.netns, a.ip),
        ("itself", "10.96.0.33", a.ip, &a.netns, ITSELF.parse().unwrap()),
        ("node", "10.96.0.34", nodes[0], &netns[0], a.ip),
        // The node masquerades what its pods send to other nodes.
        ("other", "10.96.0.35", nodes[1], &netns[1], nodes[0]),
    ];
    for (name, ip, endpoint, ..) in cases {
        put_service(&lab, name, ip, &json!({}));
        put_endpoints(&lab, name, &[endpoint]);
    }
    for (name, ip, _, server, seen) in cases {
        until_served(&a.netns, ip).await;
        let received = tcp_to(&a.netns, server, at(ip), TARGET, 3_000_000).await;
        assert_eq!(received.map(|received| received.from), Ok(seen), "{name}");
    }
    assert!(!ping(&a.netns, "10.96.0.31".parse().unwrap(), 56, true), "nobody answers to the address alone");

    // Without endpoints it is the host's, as it is with kube-proxy, which refuses it.
    sh(&format!(
        "ip netns exec {} iptables -w -I FORWARD -d 10.96.0.36 -j REJECT --reject-with icmp-port-unreachable",
        netns[0]
    ));
    put_service(&lab, "empty", "10.96.0.36", &json!({}));
    assert_eq!(refused(connect(&a.netns, at("10.96.0.36")).await), ErrorKind::ConnectionRefused);
    let received = connect(&b.netns, at("10.96.0.36")).await;
    assert_eq!(refused(received), ErrorKind::ConnectionRefused);
    put_endpoints(&lab, "empty", &[c.ip]);
    let listener = listen(&c.netns).await;
    eventually_connected(&a, "10.96.0.36").await;
    eventually("the endpoint has the connection", LIMIT, || clients(&listener).next().is_some()).await;
    assert!(lab.agent_metric(0, "antrea_proxy_total_services_installed{ip_family=\"v4\"}").await >= 12.0);
    assert_eq!(lab.agent_metric(0, "antrea_proxy_total_endpoints_installed{ip_family=\"v6\"}").await, 0.0);

    // A client that is isolated but for one endpoint and its port, whatever the Service says.
    lab.put_policy(
        "to-c",
        &json!({
            "podSelector": {"matchLabels": {"name": "a"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"name": "c"}}}], "ports": [{"port": TARGET}]}],
        }),
    );
    eventually("a is isolated", LIMIT, || !ping(&a.netns, gateway, 56, true)).await;
    assert!(connect(&a.netns, at("10.96.0.36")).await.is_ok(), "an endpoint that is allowed");
    for ip in ["10.96.0.31", "10.96.0.34", "10.96.0.35"] {
        assert_eq!(refused(connect(&a.netns, at(ip)).await), ErrorKind::TimedOut, "{ip}");
    }
    let received = tcp_to(&a.netns, &a.netns, at("10.96.0.33"), TARGET, 10_000).await;
    assert!(received.is_ok(), "a pod cannot be isolated from itself: {received:?}");
    lab.api.delete(NETWORK_POLICIES, Some("default"), "to-c");

    // An endpoint that takes one client alone: who it is tells, on another node too.
    lab.put_policy(
        "from-a",
        &json!({
            "podSelector": {"matchLabels": {"name": "c"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"name": "a"}}}]}],
        }),
    );
    eventually("c is isolated", LIMIT, || !ping(&b.netns, c.ip, 56, true)).await;
    eventually_connected(&a, "10.96.0.36").await;
    assert_eq!(refused(connect(&b.netns, at("10.96.0.36")).await), ErrorKind::TimedOut, "another client");
}

async fn eventually_connected(client: &Pod, to: &str) {
    let end = std::time::Instant::now() + LIMIT;
    while let Err(error) = connect(&client.netns, at(to)).await {
        assert!(std::time::Instant::now() < end, "{to}: {error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_come_and_go_and_clients_keep_theirs() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(2).await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    let affinity = json!({"sessionAffinity": "ClientIP",
                          "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}});
    let (spread, kept) = ("10.96.0.41", "10.96.0.42");
    put_service(&lab, "spread", spread, &json!({}));
    put_service(&lab, "kept", kept, &affinity);
    for name in ["spread", "kept"] {
        put_endpoints(&lab, name, &[b.ip, c.ip]);
    }
    let listeners = [listen(&b.netns).await, listen(&c.netns).await];
    for ip in [spread, kept] {
        eventually_connected(&a, ip).await;
    }
    // Which of the two has each of 30 connections. A server may take one later than its client is done, so they are
    // told from earlier ones by the client's port. No two Services get the same: then the switch would have to choose
    // another, so as to tell the answers of their endpoint apart.
    let mut port = 10_000;
    let mut connections = async |ip: &str| {
        let ours = port..port + 30;
        port = ours.end;
        for port in ours.clone() {
            connect_from(&a.netns, port, at(ip)).await.unwrap();
        }
        let (mut sum, end) = ([0, 0], std::time::Instant::now() + Duration::from_secs(2));
        while sum[0] + sum[1] < ours.len() && std::time::Instant::now() < end {
            for (listener, sum) in listeners.iter().zip(&mut sum) {
                *sum += clients(listener).filter(|client| ours.contains(&client.port())).count();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        sum
    };
    let [to_b, to_c] = connections(spread).await;
    assert!(to_b > 0 && to_c > 0 && to_b + to_c == 30, "{to_b} and {to_c}");
    // The kernel goes by what Open vSwitch told it before it learned, until that is taken back: at most some seconds.
    let mut tries = Vec::new();
    while tries.last().is_none_or(|last| ![[30, 0], [0, 30]].contains(last)) {
        assert!(tries.len() < 10, "{tries:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
        tries.push(connections(kept).await);
    }
    println!("kept at one endpoint: {tries:?}");
    let [to_b, to_c] = connections(kept).await;
    assert!([(30, 0), (0, 30)].contains(&(to_b, to_c)), "{to_b} and {to_c}");

    // An agent that starts anew finds what clients keep, and what is established goes on. Its first flows have all
    // Services: nothing waits for it.
    let mut stream = {
        let target = if to_b > 0 { &b } else { &c };
        put_service(
            &lab,
            "stream",
            "10.96.0.43",
            &json!({"ports": [{"name": "tcp", "protocol": "TCP", "port": 7400}]}),
        );
        lab.api.put(
            SLICES,
            json!({
                "metadata": {"namespace": "default", "name": "stream-1", "labels": {"kubernetes.io/service-name": "stream"}},
                "addressType": "IPv4", "endpoints": [{"addresses": [target.ip]}],
                "ports": [{"name": "tcp", "port": 7400}],
            }),
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
        Stream::open(&a.netns, &target.netns, "10.96.0.43".parse().unwrap(), 7400).await
    };
    for _ in 0..2 {
        lab.nodes[0].kill_agent();
        stream.exchange(Duration::from_secs(5)).unwrap();
        assert_eq!(connections(spread).await.iter().sum::<usize>(), 30, "without an agent");
        lab.start_agent(0);
        lab.wait_ready(0).await;
        stream.exchange(Duration::from_secs(5)).unwrap();
        assert_eq!(connections(spread).await.iter().sum::<usize>(), 30);
        assert_eq!(
            connections(kept).await,
            if to_b > 0 { [30, 0] } else { [0, 30] },
            "kept over the restart"
        );
    }

    // One goes: nobody new comes to it, also of those that had it.
    let (gone, left) = if to_b > 0 { (0, &c) } else { (1, &b) };
    for name in ["spread", "kept"] {
        put_endpoints(&lab, name, &[left.ip]);
    }
    let end = std::time::Instant::now() + LIMIT;
    for ip in [spread, kept] {
        while connections(ip).await[gone] > 0 {
            assert!(std::time::Instant::now() < end, "{ip}: the endpoint that is gone is used");
        }
        assert_eq!(connections(ip).await[1 - gone], 30);
    }
    let repaired = lab.agent_metric(0, "antrea_agent_ovs_flow_repairs_total").await;
    assert_eq!(repaired, 0.0, "what the bridge learned was taken for drift");
}

/// Datagrams of one client come to all endpoints, and those of one socket to one.
#[tokio::test(flavor = "multi_thread")]
async fn datagrams_are_spread_by_socket() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(2).await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    put_service(&lab, "dns", "10.96.0.52", &json!({}));
    put_endpoints(&lab, "dns", &[b.ip, c.ip]);
    let servers = [bind(&b.netns, TARGET).await, bind(&c.netns, TARGET).await];
    let first = bind(&a.netns, 0).await;
    eventually("the Service is served", LIMIT, || {
        let _ = first.send_to(b"first", at("10.96.0.52"));
        servers.iter().any(|server| server.recv(&mut [0; 64]).is_ok())
    })
    .await;
    for port in 10_000..10_060 {
        let client = bind(&a.netns, port).await;
        for _ in 0..3 {
            client.send_to(b"question", at("10.96.0.52")).unwrap();
        }
    }
    // Datagrams of each port, at each of the two.
    let mut came = BTreeMap::<u16, [u32; 2]>::new();
    let mut take = || {
        for (index, server) in servers.iter().enumerate() {
            while let Ok((_, from)) = server.recv_from(&mut [0; 64]) {
                came.entry(from.port()).or_default()[index] += 1;
            }
        }
        came.remove(&first.local_addr().unwrap().port());
        came.values().flatten().sum::<u32>() == 180
    };
    eventually("all datagrams come", LIMIT, &mut take).await;
    assert!(came.values().all(|came| *came == [3, 0] || *came == [0, 3]), "{came:?}");
    let at_b = came.values().filter(|came| came[0] == 3).count();
    println!("{at_b} of 60 sockets at one of two endpoints");
    // Fair coins do that less often than once in 10^9 times.
    assert!((7..=53).contains(&at_b), "{at_b} of 60 at one endpoint");
}

/// Datagrams of one socket, which nobody closes, go to where they are taken.
#[tokio::test(flavor = "multi_thread")]
async fn datagrams_follow_when_their_endpoint_goes() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(1).await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(0, "c"));
    put_service(&lab, "dns", "10.96.0.51", &json!({}));
    put_endpoints(&lab, "dns", &[b.ip]);
    let (client, at_b, at_c) =
        (bind(&a.netns, 0).await, bind(&b.netns, TARGET).await, bind(&c.netns, TARGET).await);
    let came = |socket: &UdpSocket| {
        std::iter::from_fn(|| socket.recv_from(&mut [0; 64]).ok())
            .map(|(_, from)| from.ip())
            .collect::<BTreeSet<_>>()
    };
    let send = || drop(client.send_to(b"question", at("10.96.0.51")));
    eventually("datagrams come to b", LIMIT, || {
        send();
        !came(&at_b).is_empty()
    })
    .await;
    put_endpoints(&lab, "dns", &[c.ip]);
    let own = BTreeSet::from([a.ip]);
    eventually("datagrams come to c", LIMIT, || {
        send();
        came(&at_c) == own
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    came(&at_b);
    send();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(came(&at_b), BTreeSet::new());
    at_c.send_to(b"answer", client.local_addr().map(|own| SocketAddr::new(a.ip, own.port())).unwrap())
        .unwrap();
    let answered = || client.recv_from(&mut [0; 64]).ok().map(|(_, from)| from);
    let mut from = None;
    eventually("the answer comes from the Service", LIMIT, || {
        from = from.or_else(answered);
        from.is_some()
    })
    .await;
    assert_eq!(from, Some(at("10.96.0.51")));
}
