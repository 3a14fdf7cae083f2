//! Traffic between namespaces, from threads inside them: no tools, bounded in size and time.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

use netcfg::Netns;
use parking_lot::Mutex;

/// Longest wait of any single step.
const LIMIT: Duration = Duration::from_secs(10);

/// What the receiver of a transfer saw.
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    /// Source address.
    pub from: IpAddr,
    /// Octets.
    pub bytes: usize,
    /// FNV-1a over them.
    pub hash: u64,
}

fn open(netns: &str) -> Netns {
    Netns::open(format!("/run/netns/{netns}")).unwrap()
}

fn hash(mut state: u64, bytes: &[u8]) -> u64 {
    for byte in bytes {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    state
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

/// Sends `bytes` octets of a known pattern over TCP to `to:port`, where a listener in `server` waits.
///
/// # Errors
/// What went wrong on either side.
pub async fn tcp(
    client: &str,
    server: &str,
    to: IpAddr,
    port: u16,
    bytes: usize,
) -> Result<Received, String> {
    tcp_to(client, server, SocketAddr::new(to, port), port, bytes).await
}

/// Sends `bytes` octets of a known pattern over TCP to an address that is translated to port `port` of `server`, where
/// a listener waits.
///
/// # Errors
/// What went wrong on either side.
pub async fn tcp_to(
    client: &str,
    server: &str,
    to: SocketAddr,
    port: u16,
    bytes: usize,
) -> Result<Received, String> {
    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
    let bind = SocketAddr::new(any.parse().unwrap(), port);
    let listener =
        open(server).run(move || TcpListener::bind(bind)).await.unwrap().map_err(|e| e.to_string())?;
    let receive = std::thread::spawn(move || -> Result<Received, String> {
        listener.set_nonblocking(true).unwrap();
        let end = Instant::now() + LIMIT;
        let (mut stream, from) = loop {
            match listener.accept() {
                Ok(accepted) => break accepted,
                Err(_) if Instant::now() < end => std::thread::sleep(Duration::from_millis(2)),
                Err(_) => return Err("nobody connected".into()),
            }
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let (mut total, mut state, mut buffer) = (0, 0xcbf2_9ce4_8422_2325, vec![0; 1 << 16]);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(Received { from: from.ip(), bytes: total, hash: state }),
                Ok(count) => {
                    total += count;
                    state = hash(state, &buffer[..count]);
                }
                Err(error) => return Err(format!("after {total} octets: {error}")),
            }
        }
    });
    let sent = open(client)
        .run(move || -> Result<u64, String> {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(4))
                .map_err(|e| format!("connect {to}: {e}"))?;
            stream.set_write_timeout(Some(LIMIT)).unwrap();
            let chunk = pattern(1 << 16);
            let (mut left, mut state) = (bytes, 0xcbf2_9ce4_8422_2325);
            while left > 0 {
                let part = &chunk[..left.min(chunk.len())];
                stream.write_all(part).map_err(|e| format!("{left} octets left: {e}"))?;
                state = hash(state, part);
                left -= part.len();
            }
            Ok(state)
        })
        .await
        .unwrap();
    match sent {
        Err(error) => Err(error), // The receiver ends by its own limit.
        Ok(sent) => {
            let received = tokio::task::spawn_blocking(|| receive.join().unwrap()).await.unwrap()?;
            if received.bytes != bytes || received.hash != sent {
                return Err(format!("damaged: sent {bytes} octets, received {}", received.bytes));
            }
            Ok(received)
        }
    }
}

/// A socket for datagrams whose port no other of this test program had. What was answered before is an established
/// connection to every tracker on the way, which no policy of later judges: with a port of the system's choice a probe
/// of what is denied is sometimes (1 of 2,800 after ten that were answered) such a connection's next datagram.
///
/// # Errors
/// No port is free.
pub fn unheard_of(source: IpAddr) -> std::io::Result<UdpSocket> {
    // Below what the kernel gives to those who do not ask, above what listens.
    const FIRST: u16 = 12_000;
    const COUNT: u16 = 16_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let mut last = std::io::ErrorKind::AddrInUse.into();
    for _ in 0..16 {
        let port = FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        match UdpSocket::bind(SocketAddr::new(source, port)) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => last = error,
            other => return other,
        }
    }
    Err(last)
}

/// Sends one UDP datagram of `bytes` octets and waits for its echo.
///
/// # Errors
/// What went wrong on either side.
pub async fn udp(
    client: &str,
    server: &str,
    to: IpAddr,
    port: u16,
    bytes: usize,
) -> Result<Received, String> {
    let any: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
    // Bound to the address: the answer has to come from it, whatever the way back.
    let bind = SocketAddr::new(to, port);
    let socket = open(server).run(move || UdpSocket::bind(bind)).await.unwrap().map_err(|e| e.to_string())?;
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let echo = std::thread::spawn(move || -> Result<Received, String> {
        let mut buffer = vec![0; 1 << 16];
        let (count, from) = socket.recv_from(&mut buffer).map_err(|e| format!("nothing received: {e}"))?;
        socket.send_to(&buffer[..count], from).map_err(|e| e.to_string())?;
        Ok(Received { from: from.ip(), bytes: count, hash: hash(0, &buffer[..count]) })
    });
    let back = open(client)
        .run(move || -> Result<usize, String> {
            let socket = unheard_of(any).map_err(|e| e.to_string())?;
            socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
            socket.connect(SocketAddr::new(to, port)).map_err(|e| e.to_string())?;
            socket.send(&pattern(bytes)).map_err(|e| e.to_string())?;
            socket.recv(&mut vec![0; 1 << 16]).map_err(|e| format!("no echo: {e}"))
        })
        .await
        .unwrap();
    let received = tokio::task::spawn_blocking(|| echo.join().unwrap()).await.unwrap();
    match (received, back?) {
        (Ok(received), count) if received.bytes == bytes && count == bytes => Ok(received),
        (Ok(received), count) => Err(format!("sent {bytes}, received {}, echoed {count}", received.bytes)),
        (Err(error), _) => Err(error),
    }
}

/// One datagram from an address of a namespace to a [`Sink`].
///
/// # Errors
/// The address is not one of the namespace, or there is no route.
pub async fn send_from(netns: &str, source: IpAddr, to: SocketAddr) -> std::io::Result<()> {
    let send = move || unheard_of(source)?.send_to(b"probe", to).map(drop);
    open(netns).run(send).await.unwrap()
}

/// Counts the datagrams that arrive on a port of a namespace, by their source.
pub struct Sink {
    seen: Arc<Mutex<BTreeMap<IpAddr, u64>>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Sink {
    /// Listens on all addresses of the families that the kernel has.
    pub async fn open(netns: &str, port: u16) -> Self {
        let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
        let bind = move || UdpSocket::bind(&any.map(|any| SocketAddr::new(any, port))[..]);
        let socket = open(netns).run(bind).await.unwrap().unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let (seen, stop) = (Arc::new(Mutex::new(BTreeMap::new())), Arc::new(AtomicBool::new(false)));
        let (counts, stopped) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut [0; 64]) {
                    *counts.lock().entry(from.ip().to_canonical()).or_default() += 1;
                }
            }
        });
        Self { seen, stop, thread: Some(thread) }
    }

    /// What has arrived.
    pub fn seen(&self) -> BTreeMap<IpAddr, u64> {
        self.seen.lock().clone()
    }

    /// How many have arrived.
    pub fn count(&self) -> u64 {
        self.seen.lock().values().sum()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The port is another's then.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// One ICMP echo of `size` octets with "do not fragment" as asked; whether it was answered within 2 s.
pub fn ping(netns: &str, to: IpAddr, size: usize, fragment: bool) -> bool {
    let mode = if fragment { "dont" } else { "do" };
    Command::new("ip")
        .args(["netns", "exec", netns, "ping", "-n", "-q", "-c", "1", "-W", "2", "-M", mode])
        .args(["-s", &size.to_string(), &to.to_string()])
        .output()
        .unwrap()
        .status
        .success()
}

/// One ICMP echo that is given 100 ms.
pub fn quick_ping(netns: &str, to: IpAddr) -> bool {
    Command::new("ip")
        .args(["netns", "exec", netns, "ping", "-n", "-q", "-c", "1", "-W", "0.1", &to.to_string()])
        .output()
        .unwrap()
        .status
        .success()
}

/// A ping every 10 ms in the background.
pub struct Pinger {
    child: std::process::Child,
}

/// What a [`Pinger`] counted.
#[derive(Debug, PartialEq, Eq)]
pub struct PingCount {
    /// Requests.
    pub sent: u32,
    /// Answers.
    pub received: u32,
}

impl Pinger {
    /// Starts; ends by itself after `seconds`.
    pub fn start(netns: &str, to: IpAddr, seconds: u32) -> Self {
        let count = (seconds * 100).to_string();
        let child = Command::new("ip")
            .args(["netns", "exec", netns, "ping", "-n", "-q", "-i", "0.01", "-W", "1", "-c", &count])
            .arg(to.to_string())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        Self { child }
    }

    /// Ends and counts.
    pub fn stop(self) -> PingCount {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        let output = self.child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find(|line| line.contains("packets transmitted"));
        let line = line.unwrap_or_else(|| panic!("no summary from ping: {text}"));
        let numbers: Vec<u32> =
            line.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect();
        PingCount { sent: numbers[0], received: numbers[1] }
    }
}

/// A TCP connection that stays open, with an echo at the other end.
pub struct Stream {
    client: TcpStream,
    _echo: std::thread::JoinHandle<()>,
}

impl Stream {
    /// Connects from `client` to an echo in `server`.
    pub async fn open(client: &str, server: &str, to: IpAddr, port: u16) -> Self {
        let any: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
        let listener =
            open(server).run(move || TcpListener::bind(SocketAddr::new(any, port))).await.unwrap().unwrap();
        let echo = std::thread::spawn(move || {
            let Ok((mut stream, _)) = listener.accept() else { return };
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut buffer) {
                if stream.write_all(&buffer[..count]).is_err() {
                    return;
                }
            }
        });
        let address = SocketAddr::new(to, port);
        let connect = move || TcpStream::connect_timeout(&address, Duration::from_secs(5));
        let client = open(client).run(connect).await.unwrap().unwrap();
        Self { client, _echo: echo }
    }

    /// Sends a line and waits for it to come back.
    ///
    /// # Errors
    /// The connection broke, or nothing came within `limit`.
    pub fn exchange(&mut self, limit: Duration) -> std::io::Result<()> {
        self.client.set_read_timeout(Some(limit))?;
        self.client.write_all(b"0123456789abcdef")?;
        self.client.read_exact(&mut [0; 16])
    }
}
