//! An address that changes hands takes no connection along.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use antrea_tests::lab::{Lab, NETWORK_POLICIES, NODES, PODS, Pod, eventually, sh};
use antrea_tests::traffic::quick_ping;
use netcfg::Family;
use nix::sched::{CloneFlags, setns};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_millis(10);
const PORT: u16 = 7000;
const SOURCE: u16 = 40_000;

/// Runs `task` on a thread in a namespace until dropped.
struct Inside {
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Inside {
    fn start<F: Future<Output = ()>>(netns: &str, task: impl FnOnce() -> F + Send + 'static) -> Self {
        let file = File::open(format!("/run/netns/{netns}")).unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = task() => {}
                }
            });
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Counts datagrams and connections that arrive.
#[derive(Clone, Debug, Default)]
struct Counts {
    udp: Arc<AtomicU64>,
    tcp: Arc<AtomicU64>,
}

impl Counts {
    fn get(&self) -> (u64, u64) {
        (self.udp.load(Ordering::Relaxed), self.tcp.load(Ordering::Relaxed))
    }

    async fn listen(self) {
        self.listen_at(Family::V4).await;
    }

    async fn listen_at(self, family: Family) {
        let at = (any(family), PORT);
        let (udp, tcp) = (UdpSocket::bind(at).await.unwrap(), TcpListener::bind(at).await.unwrap());
        let datagrams = async {
            while let Ok((_, from)) = udp.recv_from(&mut [0; 64]).await {
                self.udp.fetch_add(1, Ordering::Relaxed);
                // Only what was answered is a connection.
                let _ = udp.send_to(b"answer", from).await;
            }
        };
        let connections = async {
            let mut open = Vec::new();
            while let Ok((stream, _)) = tcp.accept().await {
                self.tcp.fetch_add(1, Ordering::Relaxed);
                // Never closed, so that the entry stays ESTABLISHED when the pod is gone.
                open.push(stream);
            }
        };
        tokio::join!(datagrams, connections);
    }
}

/// Sends from one port all the time, and tries to connect from one port.
async fn client(to: SocketAddr, sent: Arc<AtomicU64>) {
    let family = Family::from(to.ip());
    let from = SocketAddr::from((any(family), SOURCE));
    let udp = UdpSocket::bind(from).await.unwrap();
    let datagrams = async {
        loop {
            let _ = udp.send_to(b"probe", to).await;
            sent.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(EVERY).await;
        }
    };
    let connections = async {
        loop {
            let socket = match family {
                Family::V4 => TcpSocket::new_v4().unwrap(),
                Family::V6 => TcpSocket::new_v6().unwrap(),
            };
            socket.set_reuseaddr(true).unwrap();
            // Closed by a reset: the other end may be gone without a word.
            let _ = socket.set_zero_linger();
            socket.bind(from).unwrap();
            if let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(200), socket.connect(to)).await
            {
                // Held for a while; then again from the same port.
                tokio::time::sleep(Duration::from_millis(300)).await;
                drop(stream);
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::join!(datagrams, connections);
}

/// Two nodes, of which the first has five addresses for pods: one that is freed is given out again at once when four
/// others are taken.
async fn few_addresses() -> Lab {
    with_few_addresses(Lab::without_agents(2, &[]).await).await
}

async fn with_few_addresses(mut lab: Lab) -> Lab {
    lab.nodes[0].pod_cidr = "10.244.1.0/29".into();
    lab.publish_node(0);
    lab.start_agents().await;
    lab
}

/// Attaches whoever gets the freed address.
fn add_heir(lab: &mut Lab, netns: String) -> Pod {
    let id = "heir-0123456789abcdef";
    let (output, text) = lab.nodes[0].cni("ADD", id, &netns, "1.0.0", None);
    assert!(output.status.success(), "{text}");
    let heir = Pod::of("heir", id, netns, serde_json::from_str(&text).unwrap());
    lab.report_pod_ips("heir", &heir.ips());
    heir
}

/// On another node what the sender sends goes by address alone, whatever MAC it remembers.
#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_pod_inherits_no_connection_with_its_address() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    inherits_nothing(few_addresses().await, Family::V4, 1, &["w", "x", "y", "z"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_one_of_a_client_of_its_own_node() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    inherits_nothing(few_addresses().await, Family::V4, 0, &["x", "y", "z"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_one_of_ipv6() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[]).await;
    // Six addresses for pods, and more than that of IPv4: only those of IPv6 are given out again.
    lab.nodes[0].pod_cidr = "10.244.1.0/28".into();
    lab.publish_node(0);
    lab.add_ipv6();
    let mut node = lab.api.get(NODES, None, "node1").unwrap();
    node["spec"]["podCIDRs"][1] = json!("fd00:244:1::/125");
    lab.api.put(NODES, node);
    lab.start_agents().await;
    inherits_nothing(lab, Family::V6, 1, &["v", "w", "x", "y", "z"]).await;
}

/// `others` have all other addresses of the first node.
async fn inherits_nothing(mut lab: Lab, family: Family, sends_from: usize, others: &[&str]) {
    let address = |pod: &Pod| match family {
        Family::V4 => pod.ip,
        Family::V6 => pod.ipv6(),
    };
    lab.put_policy(
        "isolate",
        &json!({"podSelector": {"matchLabels": {"name": "heir"}}, "policyTypes": ["Ingress"]}),
    );
    let sender = lab.add_pod(sends_from, "sender");
    let first = lab.add_pod(0, "first");
    for name in others {
        lab.add_pod(0, name);
    }
    let sent = Arc::new(AtomicU64::new(0));
    let (to, counted) = (SocketAddr::from((address(&first), PORT)), sent.clone());
    let _sender = Inside::start(&sender.netns, move || client(to, counted));

    let allowed = Counts::default();
    let counts = allowed.clone();
    let listener = Inside::start(&first.netns, move || counts.listen_at(family));
    let arrives = || allowed.get().0 > 50 && allowed.get().1 > 0;
    eventually("what is allowed", LIMIT, arrives).await;
    lab.delete_pod(0, &first);
    drop(listener);

    let netns = lab.pod_netns(0, "heir");
    let forbidden = Counts::default();
    let counts = forbidden.clone();
    let _listener = Inside::start(&netns, move || counts.listen_at(family));
    let heir = add_heir(&mut lab, netns);
    assert_eq!(address(&heir), address(&first), "the address changed hands");
    let before = sent.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let probes = sent.load(Ordering::Relaxed) - before;
    assert!(probes > 200, "only {probes} datagrams could have arrived");
    assert_eq!(forbidden.get(), (0, 0), "datagrams and connections that policy forbids");
    lab.api.delete(NETWORK_POLICIES, Some("default"), "isolate");
    eventually("nothing but policy keeps them away", LIMIT, || forbidden.get().0 > 50).await;
}

/// The limit of that: nobody tells a peer that a pod is gone rather than relabelled, so its own egress policy lets on what
/// it had begun. What it begins after that is judged.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_goes_on_with_what_it_had_begun_and_begins_nothing() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = few_addresses().await;
    lab.put_policy(
        "only-first",
        &json!({
            "podSelector": {"matchLabels": {"name": "sender"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": {"name": "first"}}}]}],
        }),
    );
    let sender = lab.add_pod(1, "sender");
    let first = lab.add_pod(0, "first");
    for name in ["w", "x", "y", "z"] {
        lab.add_pod(0, name);
    }
    let to = SocketAddr::from((first.ip, PORT));
    let _sender = Inside::start(&sender.netns, move || client(to, Arc::default()));
    let allowed = Counts::default();
    let counts = allowed.clone();
    let listener = Inside::start(&first.netns, move || counts.listen());
    let arrives = || allowed.get().0 > 50 && allowed.get().1 > 0;
    eventually("what is allowed", LIMIT, arrives).await;
    assert!(quick_ping(&sender.netns, first.ip), "the first owner may be reached");
    lab.api.delete(PODS, Some("default"), "first");
    lab.delete_pod(0, &first);
    drop(listener);

    let netns = lab.pod_netns(0, "heir");
    let inherited = Counts::default();
    let counts = inherited.clone();
    let _listener = Inside::start(&netns, move || counts.listen());
    let heir = add_heir(&mut lab, netns);
    assert_eq!(heir.ip, first.ip, "the address changed hands");
    eventually("datagrams of before go on", LIMIT, || inherited.get().0 > 50).await;
    eventually("what is new is judged", LIMIT, || !quick_ping(&sender.netns, heir.ip)).await;
}

/// The host tracks what it translates: a client that keeps sending to a hostPort is with whoever has the port now.
#[tokio::test(flavor = "multi_thread")]
async fn a_host_port_is_its_next_owners_at_once() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    let pod = lab.add_pod(0, "pod");
    let node = lab.nodes[0].netns.clone();
    // As portmap has it for a hostPort, and takes it away again before the agent is called.
    let rules = |verb: &str| {
        for protocol in ["tcp", "udp"] {
            sh(&format!(
                "ip netns exec {node} iptables -w -t nat -{verb} PREROUTING -m addrtype --dst-type LOCAL \
                 -p {protocol} --dport {PORT} -j DNAT --to-destination {}",
                pod.ip
            ));
        }
    };
    rules("A");
    let sent = Arc::new(AtomicU64::new(0));
    let (to, counted) = (SocketAddr::from((lab.nodes[0].ip, PORT)), sent.clone());
    let _client = Inside::start(&lab.outside(), move || client(to, counted));
    let of_pod = Counts::default();
    let counts = of_pod.clone();
    let listener = Inside::start(&pod.netns, move || counts.listen());
    let arrives = |counts: &Counts| counts.get().0 > 50 && counts.get().1 > 0;
    eventually("the pod has the port", LIMIT, || arrives(&of_pod)).await;
    // A pod of the host's network is to have it.
    let of_host = Counts::default();
    let counts = of_host.clone();
    let _host = Inside::start(&node, move || counts.listen());
    rules("D");
    lab.delete_pod(0, &pod);
    drop(listener);
    eventually("the host has the port", LIMIT, || arrives(&of_host)).await;
}

/// The host judges first packets of isolated pods alone, so what it tracks of an address must not be inherited either.
#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_pod_inherits_no_connection_that_the_host_translates() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    inherits_nothing_of_the_host(few_addresses().await).await;
}

/// What the host's rules still let through as the former owner's would be a connection of the new one's.
#[tokio::test(flavor = "multi_thread")]
async fn nor_what_a_host_lets_through_that_is_slow_to_change_its_rules() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[]).await;
    lab.with_slow_nftables(Duration::from_millis(500));
    inherits_nothing_of_the_host(with_few_addresses(lab).await).await;
}

/// An agent that starts does not know who had an address before.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_forgets_what_the_host_tracks_of_addresses_that_nobody_has() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = few_addresses().await;
    let taken = ["w", "x", "y", "z"].map(|name| lab.add_pod(0, name).ip);
    let free = (2..=6).map(|last| IpAddr::from([10, 244, 1, last])).find(|ip| !taken.contains(ip)).unwrap();
    lab.nodes[0].stop_agent();
    let (node, gateway) = (lab.nodes[0].netns.clone(), IpAddr::from([10, 244, 1, 1]));
    let outside = lab.outside_ip();
    for ip in [free, taken[0], gateway] {
        sh(&format!(
            "ip netns exec {node} conntrack -I -p udp -t 600 -s {ip} -d {outside} -r {outside} -q {ip} --sport 5000 \
             --dport 53 --reply-port-src 53 --reply-port-dst 5000"
        ));
    }
    let tracked = |ip: IpAddr| {
        let listed =
            sh(&format!("ip netns exec {node} conntrack -L -s {ip} -p udp --sport 5000 2>/dev/null"));
        listed.lines().count()
    };
    assert_eq!([free, taken[0], gateway].map(tracked), [1; 3]);
    lab.start_agent(0);
    lab.wait_ready(0).await;
    assert_eq!([free, taken[0], gateway].map(tracked), [0, 1, 1]);
}

async fn inherits_nothing_of_the_host(mut lab: Lab) {
    let spec = json!({"podSelector": {"matchLabels": {"name": "heir"}}, "policyTypes": ["Egress"]});
    lab.put_policy("isolate", &spec);
    let first = lab.add_pod(0, "first");
    for name in ["w", "x", "y", "z"] {
        lab.add_pod(0, name);
    }
    // A Service whose endpoint is no pod, as kube-proxy has it.
    let (node, outside) = (lab.nodes[0].netns.clone(), lab.outside_ip());
    let service = SocketAddr::from(([10, 96, 0, 10], PORT));
    sh(&format!(
        "ip netns exec {node} iptables -w -t nat -A PREROUTING -d {} -p udp --dport {PORT} -j DNAT --to-destination {outside}",
        service.ip()
    ));
    let counts = Counts::default();
    let counted = counts.clone();
    let _server = Inside::start(&lab.outside(), move || counted.listen());
    let sent = Arc::new(AtomicU64::new(0));
    let counted = sent.clone();
    let sender = Inside::start(&first.netns, move || client(service, counted));
    let arrived = || counts.get().0;
    eventually("what is allowed", LIMIT, || arrived() > 50).await;
    drop(sender);
    lab.delete_pod(0, &first);

    let netns = lab.pod_netns(0, "heir");
    let heir = add_heir(&mut lab, netns);
    assert_eq!(heir.ip, first.ip, "the address changed hands");
    let (before, sent_before) = (arrived(), sent.load(Ordering::Relaxed));
    let counted = sent.clone();
    let _sender = Inside::start(&heir.netns, move || client(service, counted));
    tokio::time::sleep(Duration::from_secs(3)).await;
    let probes = sent.load(Ordering::Relaxed) - sent_before;
    assert!(probes > 150, "only {probes} datagrams could have arrived");
    assert_eq!(arrived(), before, "datagrams that policy forbids");
    lab.api.delete(NETWORK_POLICIES, Some("default"), "isolate");
    eventually("nothing but policy keeps them away", LIMIT, || arrived() > before + 50).await;
}
