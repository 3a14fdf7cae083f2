//! Short connections of TCP to servers that tell which of them was reached.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::background::Background;

/// Ports of clients: one comes again after so many connections, when nobody remembers it.
const PORTS: Range<u16> = 10_000..60_000;

/// What a connection that is not lost takes at most, tries of TCP after one, three and seven seconds among it.
const LIMIT: Duration = Duration::from_secs(10);

/// A connection that was tried.
#[derive(Clone, Debug)]
pub struct Dialed {
    pub begun: Instant,
    pub ended: Instant,
    /// The server's port, as it says itself, or why there is none.
    pub reached: Result<u16, String>,
}

/// Servers at these ports of a namespace, from now on until they are dropped. Each sends its number to who connects.
pub fn servers(netns: &str, ports: impl Iterator<Item = u16>) -> Background {
    let ports: Vec<u16> = ports.collect();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let serving = Background::run_in(netns, move || async move {
        for port in ports {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await.unwrap();
            tokio::spawn(serve(listener, port));
        }
        let _ = ready.send(());
        std::future::pending::<()>().await;
    });
    is_ready.recv().expect("the servers listen");
    serving
}

async fn serve(listener: TcpListener, port: u16) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        tokio::spawn(async move {
            // The client closes, or has gone already.
            if stream.write_all(&port.to_be_bytes()).await.is_ok() {
                let _ = stream.read(&mut [0; 1]).await;
            }
        });
    }
}

/// Connects, each time from another port; clones go on with each other's.
#[derive(Clone, Debug)]
pub struct Dialer(Arc<AtomicU16>);

impl Default for Dialer {
    fn default() -> Self {
        Self(Arc::new(AtomicU16::new(PORTS.start)))
    }
}

impl Dialer {
    /// Connects from the namespace of the thread.
    pub async fn dial(&self, to: SocketAddr) -> Dialed {
        let begun = Instant::now();
        let reached = match tokio::time::timeout(LIMIT, self.connect(to)).await {
            Ok(Ok(port)) => Ok(port),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("nothing within {LIMIT:?}")),
        };
        Dialed { begun, ended: Instant::now(), reached }
    }

    async fn connect(&self, to: SocketAddr) -> std::io::Result<u16> {
        let socket = TcpSocket::new_v4()?;
        // Closed by a reset: nothing lingers at either end.
        socket.set_zero_linger()?;
        let next = |port: u16| Some(if port + 1 >= PORTS.end { PORTS.start } else { port + 1 });
        let port = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).unwrap_or(PORTS.start);
        socket.bind((Ipv4Addr::UNSPECIFIED, port).into())?;
        let mut stream: TcpStream = socket.connect(to).await?;
        let mut number = [0; 2];
        stream.read_exact(&mut number).await?;
        Ok(u16::from_be_bytes(number))
    }
}
