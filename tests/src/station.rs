//! Pods that try to reach others all the time and tell who reached them.
//!
//! Each station is a thread in a pod's namespace. Every 10 ms it begins, towards each of its targets, one TCP
//! connection and sends one UDP datagram, each from a new socket so that no earlier connection covers it. What
//! counts is what arrives: a refused probe leaves no trace at the receiver.
//!
//! A probe says when it was begun. A connection that was allowed may be established a second after it was begun, when
//! something of its handshake was lost or waits for a busy switch; by then it may be forbidden to begin one, and it is
//! no leak. So what counts after [`Station::forget`] is what was begun after it; of a connection that does not say, what
//! was accepted so much later that it must have been.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;

use crate::lab::eventually;

/// Pause between probes of one target.
pub const EVERY: Duration = Duration::from_millis(10);

/// How long the answer to a probe is waited for.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long an accepted connection may take to say when it was begun. A handshake may be ended by the repeated SYN-ACK,
/// a second after the SYN, when the client's ACK and data were lost; the data then come with their own repetition, whose
/// pause doubles each time.
const SAYS_WHEN: Duration = Duration::from_secs(8);

/// Where probes go: TCP and UDP.
const PORTS: [u16; 2] = [7000, 7001];

/// What probes count their time from.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Microseconds since [`START`].
fn now() -> u64 {
    START.elapsed().as_micros().try_into().unwrap()
}

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
    log: Mutex<Log>,
    sent: AtomicU64,
}

/// What arrived of the probes that were begun at `since` or later.
#[derive(Debug, Default)]
struct Log {
    since: u64,
    arrived: BTreeMap<IpAddr, Arrived>,
}

impl Shared {
    fn note(&self, from: IpAddr, begun: u64, count: impl FnOnce(&mut Arrived)) {
        let mut log = self.log.lock();
        if begun >= log.since {
            count(log.arrived.entry(from).or_default());
        }
    }
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
        Self::listening_on(netns, PORTS)
    }

    /// One that somebody else's probes reach by a translation only, to these ports for TCP and UDP.
    pub fn listening_on(netns: &str, ports: [u16; 2]) -> Self {
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
                    () = run(&state, ports, &ready) => {}
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

    /// What arrived here of what was begun since the start or the last [`Self::forget`], by source.
    pub fn arrived(&self) -> BTreeMap<IpAddr, Arrived> {
        self.shared.log.lock().arrived.clone()
    }

    /// What arrived from sources that `may_not` says of that they must not get here.
    pub fn leaked(&self, may_not: impl Fn(IpAddr) -> bool) -> Arrived {
        self.arrived().into_iter().filter(|(from, _)| may_not(*from)).fold(
            Arrived::default(),
            |sum, (_, one)| Arrived { tcp: sum.tcp + one.tcp, udp: sum.udp + one.udp },
        )
    }

    /// Counts from 0 again, and no probe that is on its way now.
    pub fn forget(&self) {
        *self.shared.log.lock() = Log { since: now(), arrived: BTreeMap::new() };
    }

    /// Number of probes sent, TCP and UDP together.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

/// Waits until nothing leaks of 20 more probes of each station with targets, twice in a row. Something must have arrived
/// before: stations that have not begun, or whose first packets wait for a busy switch, are silent too. What arrived
/// before is forgotten.
pub async fn until_isolated(stations: &[&Station], leaks: impl Fn() -> bool) {
    let mut silent = 0;
    eventually("they are isolated", Duration::from_secs(60), || {
        stations.iter().for_each(|station| station.forget());
        let senders = stations.iter().filter(|station| !station.shared.targets.lock().is_empty());
        let (begin, wanted) =
            (Instant::now(), senders.map(|sender| (sender, sender.sent() + 20)).collect::<Vec<_>>());
        while wanted.iter().any(|(sender, end)| sender.sent() < *end) {
            assert!(begin.elapsed() < Duration::from_secs(60), "stations do not send");
            std::thread::sleep(Duration::from_millis(20));
        }
        // What was sent last has arrived by then, if it arrives.
        std::thread::sleep(Duration::from_millis(300));
        silent = if leaks() { 0 } else { silent + 1 };
        silent == 2
    })
    .await;
    // Of the first look's probes some may have been allowed, and their connections may not stand yet.
    stations.iter().for_each(|station| station.forget());
}

impl Drop for Station {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run(state: &Arc<Shared>, [tcp, udp]: [u16; 2], ready: &std::sync::mpsc::Sender<()>) {
    // Of both families, unless the kernel has one alone.
    let any = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).await {
        Ok(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        Err(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
    };
    let listener = TcpListener::bind((any, tcp)).await.unwrap();
    let receiver = UdpSocket::bind((any, udp)).await.unwrap();
    // The test that waits for it may be gone.
    let _ = ready.send(());
    let accept = async {
        loop {
            let Ok((mut stream, from)) = listener.accept().await else { continue };
            let (state, accepted) = (state.clone(), Duration::from_micros(now()));
            tokio::spawn(async move {
                let said = tokio::time::timeout(SAYS_WHEN, stream.read_u64()).await;
                let begun = said.ok().and_then(Result::ok).unwrap_or_else(|| {
                    // Given up while the last of the handshake was under way. It may have waited for this thread, too.
                    accepted.saturating_sub(SAYS_WHEN).as_micros().try_into().unwrap()
                });
                state.note(from.ip().to_canonical(), begun, |arrived| arrived.tcp += 1);
            });
        }
    };
    let receive = async {
        let mut datagram = [0; 8];
        loop {
            if let Ok((8, from)) = receiver.recv_from(&mut datagram).await {
                state
                    .note(from.ip().to_canonical(), u64::from_be_bytes(datagram), |arrived| arrived.udp += 1);
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
                let begun = now();
                tokio::spawn(async move {
                    // Held until it is answered: a socket that is closed at once sends no handshake.
                    let stream = tokio::time::timeout(PATIENCE, TcpStream::connect((target, PORTS[0]))).await;
                    if let Ok(Ok(mut stream)) = stream {
                        let _ = stream.write_u64(begun).await;
                    }
                });
                let own: IpAddr = match target {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                if let Ok(socket) = UdpSocket::bind((own, 0)).await {
                    // Without a route there is nothing to send.
                    let _ = socket.send_to(&begun.to_be_bytes(), (target, PORTS[1])).await;
                }
            }
        }
    };
    tokio::join!(accept, receive, probe);
}
