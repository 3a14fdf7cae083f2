//! Pods that try to reach others all the time and tell who reached them.
//!
//! Each station is a thread in a pod's namespace. Every 10 ms it begins, towards each of its targets, one TCP
//! connection and sends one UDP datagram, each from a new socket so that no earlier connection covers it. What
//! counts is what arrives: a refused probe leaves no trace at the receiver.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

/// Pause between probes of one target.
pub const EVERY: Duration = Duration::from_millis(10);

/// How long the answer to a probe is waited for.
const PATIENCE: Duration = Duration::from_millis(300);

const TCP_PORT: u16 = 7000;
const UDP_PORT: u16 = 7001;

/// What arrived from one address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// TCP connections that were accepted.
    pub tcp: u64,
    /// UDP datagrams.
    pub udp: u64,
}

#[derive(Debug, Default)]
struct Shared {
    targets: Mutex<Vec<IpAddr>>,
    arrived: Mutex<BTreeMap<IpAddr, Arrived>>,
    sent: AtomicU64,
}

/// A running station; it ends when dropped.
#[derive(Debug)]
pub struct Station {
    shared: Arc<Shared>,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Station {
    /// Starts in a namespace, which needs no address yet.
    pub fn start(netns: &str) -> Self {
        let shared = Arc::new(Shared::default());
        let stop = CancellationToken::new();
        let file = File::open(format!("/run/netns/{netns}")).unwrap();
        let (state, stopped) = (shared.clone(), stop.clone());
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = run(&state, &ready) => {}
                }
            });
        });
        is_ready.recv().expect("the station listens");
        Self { shared, stop, thread: Some(thread) }
    }

    /// Probes these addresses from now on.
    pub fn aim(&self, targets: impl IntoIterator<Item = IpAddr>) {
        *self.shared.targets.lock() = targets.into_iter().collect();
    }

    /// What arrived here since the start or the last [`Self::forget`], by source.
    pub fn arrived(&self) -> BTreeMap<IpAddr, Arrived> {
        self.shared.arrived.lock().clone()
    }

    /// What arrived from sources that `may_not` says of that they must not get here.
    pub fn leaked(&self, may_not: impl Fn(IpAddr) -> bool) -> Arrived {
        self.arrived().into_iter().filter(|(from, _)| may_not(*from)).fold(
            Arrived::default(),
            |sum, (_, one)| Arrived { tcp: sum.tcp + one.tcp, udp: sum.udp + one.udp },
        )
    }

    /// Counts from 0 again.
    pub fn forget(&self) {
        self.shared.arrived.lock().clear();
    }

    /// Number of probes sent, TCP and UDP together.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run(state: &Arc<Shared>, ready: &std::sync::mpsc::Sender<()>) {
    let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let listener = TcpListener::bind((any, TCP_PORT)).await.unwrap();
    let receiver = UdpSocket::bind((any, UDP_PORT)).await.unwrap();
    // The test that waits for it may be gone.
    let _ = ready.send(());
    let accept = async {
        loop {
            if let Ok((_, from)) = listener.accept().await {
                state.arrived.lock().entry(from.ip()).or_default().tcp += 1;
            }
        }
    };
    let receive = async {
        loop {
            if let Ok((_, from)) = receiver.recv_from(&mut [0; 64]).await {
                state.arrived.lock().entry(from.ip()).or_default().udp += 1;
            }
        }
    };
    let probe = async {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            let targets = state.targets.lock().clone();
            for target in targets {
                state.sent.fetch_add(2, Ordering::Relaxed);
                tokio::spawn(async move {
                    // Held until it is answered: a socket that is closed at once sends no handshake.
                    let _ = tokio::time::timeout(PATIENCE, TcpStream::connect((target, TCP_PORT))).await;
                });
                if let Ok(socket) = UdpSocket::bind((any, 0)).await {
                    // Without a route there is nothing to send.
                    let _ = socket.send_to(b"probe", (target, UDP_PORT)).await;
                }
            }
        }
    };
    tokio::join!(accept, receive, probe);
}
