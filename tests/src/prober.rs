//! Ends that probe each other: single connections of TCP, UDP and ICMP on demand and all the time, each from a port of
//! its own so that no earlier one covers it, and connections that are held.
//!
//! Each end is a thread in a namespace. A datagram names its probe, and the thread that gets it notes it before it
//! answers: what arrives counts as passed even if its answer does not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::oracle::Service;
use crate::random::Dice;

/// Of constant probes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Pause between those of one end.
    pub every: Duration,
    /// How long the answer to one is waited for: TCP tries again after a second.
    pub patience: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { every: Duration::from_millis(25), patience: Duration::from_millis(1300) }
    }
}

/// Pause between the lines on a held connection, and what a line may take.
const LINE_EVERY: Duration = Duration::from_millis(200);
const LINE_LIMIT: Duration = Duration::from_secs(5);

/// Source ports: a port comes again after minutes, when trackers have forgotten it.
const PORTS: std::ops::Range<u16> = 10_000..65_000;

/// A probe's end-to-end meaning, by the caller's numbers of ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probe {
    /// Sender.
    pub from: usize,
    /// Receiver.
    pub to: usize,
    /// Protocol and port.
    pub service: Service,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Which.
    pub probe: Probe,
    /// When it was sent.
    pub sent: Instant,
    /// When it was known to have arrived, or given up.
    pub ended: Instant,
    /// Whether it arrived.
    pub arrived: bool,
    /// Whether its answer came back.
    pub answered: bool,
}

/// A connection that was held until it broke.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Whose.
    pub probe: Probe,
    pub age: Duration,
    /// How.
    pub error: String,
}

#[derive(Debug, Default)]
struct Shared {
    next: AtomicU64,
    arrived: Mutex<BTreeSet<u64>>,
    constant: Mutex<Vec<Outcome>>,
    broken: Mutex<Vec<Broken>>,
    lines: AtomicU64,
    held: AtomicU32,
}

enum Order {
    Probe(Probe, SocketAddr, Duration, oneshot::Sender<Outcome>),
    Hold(Probe, SocketAddr, Duration),
}

struct Thread {
    orders: mpsc::UnboundedSender<Order>,
    handle: std::thread::JoinHandle<()>,
}

/// Running ends; dropped, they end.
pub struct Prober {
    shared: Arc<Shared>,
    ends: BTreeMap<usize, Thread>,
    addresses: Arc<Vec<IpAddr>>,
    constant: Arc<AtomicBool>,
    stop: CancellationToken,
}

/// How an end takes part.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its namespace; none: only an address to probe.
    pub netns: Option<String>,
    /// The address that it sends from, where not the route decides.
    pub source: Option<IpAddr>,
    /// The address that others reach it at.
    pub address: IpAddr,
    /// What it probes all the time.
    pub constant: Vec<Probe>,
}

impl Prober {
    /// Starts ends that listen on `services`.
    pub fn start(places: &[Place], services: &[(&'static str, u16)], pace: Pace, seed: u64) -> Self {
        let (shared, stop) = (Arc::new(Shared::default()), CancellationToken::new());
        let constant = Arc::new(AtomicBool::new(false));
        let addresses = Arc::new(places.iter().map(|place| place.address).collect::<Vec<_>>());
        let mut ends = BTreeMap::new();
        for (number, place) in places.iter().enumerate() {
            let Some(netns) = &place.netns else { continue };
            let file = File::open(format!("/run/netns/{netns}")).unwrap();
            let (orders, mut ordered) = mpsc::unbounded_channel();
            let (ready, is_ready) = std::sync::mpsc::channel();
            let end = Arc::new(Sender {
                shared: shared.clone(),
                source: place.source,
                port: AtomicU16::new(PORTS.start + (number as u16) * 997),
            });
            let services = services.to_vec();
            let (place, addresses, stop, constant) =
                (place.clone(), addresses.clone(), stop.clone(), constant.clone());
            let mut dice = Dice::new(seed ^ number as u64);
            let handle = std::thread::spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let probing = async {
                    serve(&end.shared, place.address, &services).await;
                    let _ = ready.send(());
                    let mut tick = tokio::time::interval(pace.every);
                    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
                    loop {
                        tokio::select! {
                            order = ordered.recv() => match order {
                                Some(order) => { tokio::spawn(end.clone().obey(order)); }
                                None => return,
                            },
                            _ = tick.tick(), if constant.load(Ordering::Relaxed) && !place.constant.is_empty() => {
                                let probe = dice.pick(&place.constant);
                                let end = end.clone();
                                let to = target(&addresses, probe);
                                tokio::spawn(async move {
                                    let outcome = end.probe(probe, to, pace.patience).await;
                                    end.shared.constant.lock().push(outcome);
                                });
                            }
                        }
                    }
                };
                runtime.block_on(stop.run_until_cancelled(probing));
            });
            is_ready.recv().expect("the end listens");
            ends.insert(number, Thread { orders, handle });
        }
        Self { shared, ends, addresses, constant, stop }
    }

    /// Begins with the constant probes.
    pub fn begin(&self) {
        self.constant.store(true, Ordering::Relaxed);
    }

    /// Probes all of these at once; what is expected to arrive is given more time.
    pub async fn probe(&self, probes: impl IntoIterator<Item = (Probe, Duration)>) -> Vec<Outcome> {
        let mut answers = Vec::new();
        for (probe, patience) in probes {
            let (sender, receiver) = oneshot::channel();
            let order = Order::Probe(probe, target(&self.addresses, probe), patience, sender);
            self.ends[&probe.from].orders.send(order).expect("the end runs");
            answers.push(receiver);
        }
        let mut outcomes = Vec::with_capacity(answers.len());
        for answer in answers {
            outcomes.push(answer.await.expect("the end answers"));
        }
        outcomes
    }

    /// Opens a TCP connection and talks on it for `time`.
    pub fn hold(&self, probe: Probe, time: Duration) {
        let order = Order::Hold(probe, target(&self.addresses, probe), time);
        self.ends[&probe.from].orders.send(order).expect("the end runs");
    }

    /// What became of constant probes since the last call.
    pub fn constant(&self) -> Vec<Outcome> {
        std::mem::take(&mut *self.shared.constant.lock())
    }

    /// Held connections that broke.
    pub fn broken(&self) -> Vec<Broken> {
        self.shared.broken.lock().clone()
    }

    /// How many connections were held, and how many lines were answered on them.
    pub fn held(&self) -> (u32, u64) {
        (self.shared.held.load(Ordering::Relaxed), self.shared.lines.load(Ordering::Relaxed))
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.stop.cancel();
        for (_, end) in std::mem::take(&mut self.ends) {
            let _ = end.handle.join();
        }
    }
}

fn target(addresses: &[IpAddr], probe: Probe) -> SocketAddr {
    SocketAddr::new(addresses[probe.to], probe.service.map_or(0, |(_, port)| port))
}

async fn serve(shared: &Arc<Shared>, address: IpAddr, services: &[(&'static str, u16)]) {
    for (protocol, port) in services.iter().copied() {
        let shared = shared.clone();
        if protocol == "TCP" {
            let listener = TcpListener::bind((address, port)).await.unwrap();
            tokio::spawn(async move {
                loop {
                    let Ok((mut stream, _)) = listener.accept().await else { continue };
                    tokio::spawn(async move {
                        let mut buffer = [0; 64];
                        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
                            if stream.write_all(&buffer[..count]).await.is_err() {
                                return;
                            }
                        }
                    });
                }
            });
        } else {
            let socket = UdpSocket::bind((address, port)).await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 8];
                loop {
                    if let Ok((8, from)) = socket.recv_from(&mut buffer).await {
                        shared.arrived.lock().insert(u64::from_be_bytes(buffer));
                        let _ = socket.send_to(&buffer, from).await;
                    }
                }
            });
        }
    }
}

struct Sender {
    shared: Arc<Shared>,
    /// None: what the route says.
    source: Option<IpAddr>,
    port: AtomicU16,
}

impl Sender {
    /// The address to send from, towards another.
    fn address(&self, to: IpAddr) -> IpAddr {
        let any = || match to {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        self.source.unwrap_or_else(any)
    }

    /// That and a port.
    fn source(&self, to: IpAddr) -> SocketAddr {
        let next = |port: u16| Some(if port + 1 >= PORTS.end { PORTS.start } else { port + 1 });
        let port = self.port.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        SocketAddr::new(self.address(to), port.unwrap_or(PORTS.start))
    }

    async fn obey(self: Arc<Self>, order: Order) {
        match order {
            Order::Probe(probe, to, patience, answer) => {
                // Whoever asked may be gone.
                let _ = answer.send(self.probe(probe, to, patience).await);
            }
            Order::Hold(probe, to, time) => self.hold(probe, to, time).await,
        }
    }

    async fn probe(&self, probe: Probe, to: SocketAddr, patience: Duration) -> Outcome {
        let sent = Instant::now();
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let answered = match probe.service {
            Some(("TCP", _)) => {
                tokio::time::timeout(patience, self.connect(to)).await.is_ok_and(|r| r.is_ok())
            }
            Some(_) => tokio::time::timeout(patience, self.datagram(to, id)).await.is_ok_and(|r| r.is_ok()),
            None => tokio::time::timeout(patience, self.echo(to, id)).await.is_ok_and(|r| r.is_ok()),
        };
        let arrived = answered || self.shared.arrived.lock().contains(&id);
        self.shared.arrived.lock().remove(&id);
        Outcome { probe, sent, ended: Instant::now(), arrived, answered }
    }

    async fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        // A port may still be in use by a connection of the node itself.
        for _ in 0..4 {
            let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // Closed by a reset: nothing lingers in either stack.
            socket.set_zero_linger()?;
            if socket.bind(self.source(to.ip())).is_ok() {
                return socket.connect(to).await;
            }
        }
        Err(std::io::ErrorKind::AddrInUse.into())
    }

    async fn datagram(&self, to: SocketAddr, id: u64) -> std::io::Result<()> {
        let socket = UdpSocket::bind(self.source(to.ip())).await?;
        socket.connect(to).await?;
        let mut buffer = [0; 8];
        // Once more after a second, as TCP does: a full queue is no refusal.
        loop {
            socket.send(&id.to_be_bytes()).await?;
            let answer = tokio::time::timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await;
            if matches!(answer, Ok(Ok(8))) && u64::from_be_bytes(buffer) == id {
                return Ok(());
            }
        }
    }

    /// ICMP by a raw socket, for which each probe has an identifier of its own.
    async fn echo(&self, to: SocketAddr, id: u64) -> std::io::Result<()> {
        // Of IPv4 the header of 20 octets comes along, of IPv6 none. Types of request and answer (RFC 792, RFC 4443 §4).
        let (domain, protocol, header, request, answer) = match to {
            SocketAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 20, 8, 0),
            SocketAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 0, 128, 129),
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(self.address(to.ip()), 0).into())?;
        socket.connect(&SocketAddr::new(to.ip(), 0).into())?;
        // To the runtime a socket is a socket.
        let socket = UdpSocket::from_std(socket.into())?;
        let [a, b, c, d] = (id as u32).to_be_bytes();
        // Type, code 0, checksum, which for IPv6 is the kernel's, identifier, sequence.
        let mut request = [request, 0, 0, 0, c, d, a, b];
        if to.is_ipv4() {
            let sum: u32 =
                request.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
            let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
            request[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        loop {
            socket.send(&request).await?;
            let answered = async {
                let mut buffer = [0; 128];
                loop {
                    let count = socket.recv(&mut buffer).await?;
                    let message = buffer[..count].get(header..).unwrap_or_default();
                    if message.first() == Some(&answer) && message.get(4..8) == Some(&request[4..8]) {
                        return Ok(());
                    }
                }
            };
            if let Ok(result) = tokio::time::timeout(Duration::from_secs(1), answered).await {
                return result;
            }
        }
    }

    async fn hold(&self, probe: Probe, to: SocketAddr, time: Duration) {
        let begin = Instant::now();
        let Ok(Ok(mut stream)) = tokio::time::timeout(LINE_LIMIT, self.connect(to)).await else { return };
        self.shared.held.fetch_add(1, Ordering::Relaxed);
        let mut buffer = [0; 16];
        while begin.elapsed() < time {
            let line = async {
                stream.write_all(b"0123456789abcdef").await?;
                stream.read_exact(&mut buffer).await
            };
            let error = match tokio::time::timeout(LINE_LIMIT, line).await {
                Ok(Ok(_)) => {
                    self.shared.lines.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(LINE_EVERY).await;
                    continue;
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer within {LINE_LIMIT:?}"),
            };
            self.shared.broken.lock().push(Broken { probe, age: begin.elapsed(), error });
            return;
        }
    }
}
