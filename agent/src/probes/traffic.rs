//! What the ends of probes say to each other: so many octets, which come back.
//!
//! | port | who connects |
//! |---|---|
//! | [`OPEN`] | sends [`SIZE`] octets and gets them back |
//! | [`DENIED`] | the same; a policy of the probe's own forbids it |
//! | [`CALL_BACK`] | is connected to at [`OPEN`] from here, and told by one octet whether that worked |
//!
//! Nothing that a stranger sends is read but to be sent back, and so many of them are served at once.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use netcfg::Netns;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

pub(super) const OPEN: u16 = 7101;
pub(super) const DENIED: u16 = 7102;
pub(super) const CALL_BACK: u16 = 7103;

/// Octets of an exchange: several packets of full size.
const SIZE: usize = 8192;

/// An exchange without an end for so long has failed.
pub(super) const LIMIT: Duration = Duration::from_secs(1);

/// Between two attempts.
const BETWEEN: Duration = Duration::from_millis(200);

/// Connections that are served at once.
const AT_ONCE: usize = 16;

/// A connection that is served ends after this long.
const SERVED: Duration = Duration::from_secs(3);

/// Serves an end of probes until it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    _tasks: JoinSet<()>,
}

impl Server {
    /// Serves the addresses in the namespace.
    ///
    /// # Errors
    /// A port cannot be listened to.
    pub(super) async fn start(netns: &Netns, ips: &[IpAddr]) -> Result<Self, String> {
        let mut tasks = JoinSet::new();
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        for (ip, port) in ips.iter().flat_map(|ip| [OPEN, DENIED, CALL_BACK].map(|port| (*ip, port))) {
            let address = SocketAddr::new(ip, port);
            let listener = in_space(netns, move || listen(address)).await;
            let listener = listener.map_err(|error| format!("listen at {address}: {error}"))?;
            tasks.spawn(serve(listener, netns.clone(), port == CALL_BACK, turns.clone()));
        }
        Ok(Self { _tasks: tasks })
    }
}

/// Does something on a thread in the namespace: what a socket is made in it stays in.
async fn in_space<T: Send + 'static>(
    netns: &Netns,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    netns.run(work).await.map_err(io::Error::other)?
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.bind(address)?;
    socket.listen(u32::try_from(AT_ONCE).unwrap_or(u32::MAX))
}

async fn serve(listener: TcpListener, netns: Netns, calls_back: bool, turns: Arc<Semaphore>) {
    let mut served = JoinSet::new();
    loop {
        while served.try_join_next().is_some() {}
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "an end of probes");
                sleep(BETWEEN).await;
                continue;
            }
        };
        // Who comes when all are taken comes again.
        let Ok(turn) = turns.clone().try_acquire_owned() else { continue };
        let netns = netns.clone();
        served.spawn(async move {
            let work = async {
                if calls_back { call_back(stream, &netns, peer.ip()).await } else { echo(stream).await }
            };
            let _ = timeout(SERVED, work).await;
            drop(turn);
        });
    }
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut octets = vec![0; SIZE];
    stream.read_exact(&mut octets).await?;
    stream.write_all(&octets).await?;
    stream.shutdown().await
}

async fn call_back(mut stream: TcpStream, netns: &Netns, peer: IpAddr) -> io::Result<()> {
    let from = stream.local_addr()?.ip();
    let worked = exchange(netns, from, SocketAddr::new(peer, OPEN), LIMIT).await.is_ok();
    stream.write_all(&[u8::from(worked)]).await?;
    stream.shutdown().await
}

async fn connected(netns: &Netns, from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let made = in_space(netns, move || {
        let socket = socket(to)?;
        socket.bind(SocketAddr::new(from, 0))?;
        Ok(socket)
    });
    made.await?.connect(to).await
}

/// Whether octets that are sent come back.
///
/// # Errors
/// Why not.
pub(super) async fn exchange(
    netns: &Netns,
    from: IpAddr,
    to: SocketAddr,
    limit: Duration,
) -> Result<(), String> {
    let work = async {
        let mut stream = connected(netns, from, to).await?;
        let sent: Vec<u8> = (0..SIZE).map(|index| index.to_le_bytes()[0]).collect();
        let mut got = vec![0; SIZE];
        let (mut reader, mut writer) = stream.split();
        tokio::try_join!(writer.write_all(&sent), reader.read_exact(&mut got))?;
        if got == sent { Ok(()) } else { Err(io::Error::other("other octets came back")) }
    };
    ended(timeout(limit, work).await, limit)
}

/// Whether the other end reaches this one.
///
/// # Errors
/// Why not.
async fn called_back(netns: &Netns, from: IpAddr, to: IpAddr) -> Result<(), String> {
    // There it may take its whole time.
    let limit = LIMIT * 2;
    let work = async {
        let mut stream = connected(netns, from, SocketAddr::new(to, CALL_BACK)).await?;
        if stream.read_u8().await? == 1 { Ok(()) } else { Err(io::Error::from(io::ErrorKind::TimedOut)) }
    };
    ended(timeout(limit, work).await, LIMIT)
}

fn ended(result: Result<io::Result<()>, tokio::time::error::Elapsed>, limit: Duration) -> Result<(), String> {
    let silence = || format!("no answer in {} s", limit.as_secs_f32());
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(silence()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(silence()),
    }
}

/// What is tried between two ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attempt {
    /// An exchange at this port.
    Exchange(u16),
    CalledBack,
}

/// Tries again until it works, or no time is left.
///
/// # Errors
/// Why the last attempt failed, and how many there were.
pub(super) async fn persist(
    netns: &Netns,
    attempt: Attempt,
    (from, to): (IpAddr, IpAddr),
    time: Duration,
) -> Result<(), String> {
    let end = Instant::now() + time;
    let mut tries = 0;
    loop {
        tries += 1;
        let tried = match attempt {
            Attempt::Exchange(port) => exchange(netns, from, SocketAddr::new(to, port), LIMIT).await,
            Attempt::CalledBack => called_back(netns, from, to).await,
        };
        match tried {
            Err(_) if Instant::now() < end => sleep(BETWEEN).await,
            Err(error) => return Err(format!("{error} ({tries} tries), {from} to {to}")),
            Ok(()) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    async fn space() -> Netns {
        let space = Netns::unshare().await.unwrap();
        let netlink = space.spawn_netlink().await.unwrap();
        let lo = netlink.link("lo").await.unwrap().unwrap();
        netlink.set_up(lo.index).await.unwrap();
        space
    }

    #[tokio::test]
    async fn octets_come_back_and_calls_are_answered() {
        let space = space().await;
        let open = SocketAddr::new(HERE, OPEN);
        assert!(
            exchange(&space, HERE, open, LIMIT).await.unwrap_err().contains("refused"),
            "nobody is there"
        );
        let server = Server::start(&space, &[HERE]).await.unwrap();
        exchange(&space, HERE, open, LIMIT).await.unwrap();
        called_back(&space, HERE, HERE).await.unwrap();
        drop(server);
        let gone = persist(&space, Attempt::Exchange(OPEN), (HERE, HERE), Duration::ZERO).await;
        assert!(gone.unwrap_err().ends_with("(1 tries), 127.0.0.1 to 127.0.0.1"));
    }

    /// Strangers that say nothing take no more than their share, and not for ever.
    #[tokio::test]
    async fn silent_strangers_are_bounded() {
        let space = space().await;
        let _server = Server::start(&space, &[HERE]).await.unwrap();
        let open = SocketAddr::new(HERE, OPEN);
        let mut strangers = Vec::new();
        for _ in 0..3 * AT_ONCE {
            strangers.push(connected(&space, HERE, open).await.unwrap());
        }
        let last = strangers.last_mut().unwrap();
        assert!(timeout(LIMIT, last.read_u8()).await.unwrap().is_err(), "it is let go at once");
        assert!(exchange(&space, HERE, open, LIMIT).await.is_err());
        persist(&space, Attempt::Exchange(OPEN), (HERE, HERE), SERVED * 2).await.unwrap();
    }
}
