//! An address that changes hands takes no connection along.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use antrea_tests::lab::{Lab, NETWORK_POLICIES, Pod, eventually};
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
        let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let (udp, tcp) =
            (UdpSocket::bind((any, PORT)).await.unwrap(), TcpListener::bind((any, PORT)).await.unwrap());
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
    let from = SocketAddr::from((Ipv4Addr::UNSPECIFIED, SOURCE));
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
            let socket = TcpSocket::new_v4().unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn an_isolated_pod_inherits_no_connection_with_its_address() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[]).await;
    // Five addresses for pods: the freed one is given out again at once.
    lab.nodes[0].pod_cidr = "10.244.1.0/29".into();
    lab.publish_node(0);
    lab.start_agents().await;
    lab.put_policy(
        "isolate",
        &json!({"podSelector": {"matchLabels": {"name": "heir"}}, "policyTypes": ["Ingress"]}),
    );
    // On another node: what it sends goes by address alone, whatever MAC it remembers.
    let sender = lab.add_pod(1, "sender");
    let first = lab.add_pod(0, "first");
    for name in ["w", "x", "y", "z"] {
        lab.add_pod(0, name);
    }
    let sent = Arc::new(AtomicU64::new(0));
    let (to, counted) = (SocketAddr::from((first.ip, PORT)), sent.clone());
    let _sender = Inside::start(&sender.netns, move || client(to, counted));

    let allowed = Counts::default();
    let counts = allowed.clone();
    let listener = Inside::start(&first.netns, move || counts.listen());
    let arrives = || allowed.get().0 > 50 && allowed.get().1 > 0;
    eventually("what is allowed", LIMIT, arrives).await;
    lab.delete_pod(0, &first);
    drop(listener);

    let netns = lab.pod_netns(0, "heir");
    let forbidden = Counts::default();
    let counts = forbidden.clone();
    let _listener = Inside::start(&netns, move || counts.listen());
    let id = "heir-0123456789abcdef";
    let (output, text) = lab.nodes[0].cni("ADD", id, &netns, "1.0.0", None);
    assert!(output.status.success(), "{text}");
    let heir = Pod::of("heir", id, netns, serde_json::from_str(&text).unwrap());
    lab.report_pod_ip("heir", heir.ip);
    assert_eq!(heir.ip, first.ip, "the address changed hands");
    let before = sent.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(4)).await;
    let probes = sent.load(Ordering::Relaxed) - before;
    assert!(probes > 200, "only {probes} datagrams could have arrived");
    assert_eq!(forbidden.get(), (0, 0), "datagrams and connections that policy forbids");
    lab.api.delete(NETWORK_POLICIES, Some("default"), "isolate");
    eventually("nothing but policy keeps them away", LIMIT, || forbidden.get().0 > 50).await;
}
