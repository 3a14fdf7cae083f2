//! Clients that hold a port's connections without ever being allowed anything.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::https::Endpoint;

/// Handshakes at a time of one crowd: the machine is to be busy with the server, not with its clients.
const AT_ONCE: usize = 32;

/// Pause between what a client does that goes on for ever.
const EVERY: Duration = Duration::from_millis(500);

/// Longest time that a connection may take to be there.
const LIMIT: Duration = Duration::from_secs(20);

/// What a client does with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Nothing after the TLS handshake.
    Idle,
    /// Sends one octet of a request after the other.
    Slow,
    /// Speaks HTTP/2 and sends pings, but no request.
    Pings,
}

#[derive(Debug, Default)]
struct Counts {
    opened: AtomicUsize,
    refused: AtomicUsize,
    ended: AtomicUsize,
}

/// Running clients; dropped, they end.
#[derive(Debug)]
pub struct Crowd {
    counts: Arc<Counts>,
    size: usize,
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Crowd {
    /// Starts `size` clients in the endpoint's namespace, which take these source addresses in turn.
    pub fn start(endpoint: &Endpoint, sources: &[Ipv4Addr], manner: Manner, size: usize) -> Self {
        let (counts, stop) = (Arc::new(Counts::default()), CancellationToken::new());
        let file = File::open(format!("/run/netns/{}", endpoint.netns)).unwrap();
        let client = Arc::new(Client::new(endpoint, manner, counts.clone()));
        let (sources, stopped) = (sources.to_vec(), stop.clone());
        let thread = std::thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let all = async {
                let (tracker, gate) = (TaskTracker::new(), Arc::new(Semaphore::new(AT_ONCE)));
                for source in sources.into_iter().cycle().take(size) {
                    let client = client.clone();
                    let Ok(permit) = gate.clone().acquire_owned().await else { return };
                    tracker.spawn(async move { client.live(source, permit).await });
                }
                tracker.close();
                tracker.wait().await;
            };
            runtime.block_on(stopped.run_until_cancelled(all));
        });
        Self { counts, size, stop, thread: Some(thread) }
    }

    /// Whether every client has had its connection, or could not get one, and has lost it.
    pub fn is_over(&self) -> bool {
        self.counts.ended.load(Ordering::Relaxed) == self.size
    }

    /// How many connections there were, and how many could not be opened.
    pub fn tried(&self) -> (usize, usize) {
        (self.counts.opened.load(Ordering::Relaxed), self.counts.refused.load(Ordering::Relaxed))
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Client {
    address: SocketAddr,
    name: ServerName<'static>,
    connector: tokio_rustls::TlsConnector,
    manner: Manner,
    counts: Arc<Counts>,
}

impl Client {
    fn new(endpoint: &Endpoint, manner: Manner, counts: Arc<Counts>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(endpoint.ca.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        if manner == Manner::Pings {
            config.alpn_protocols = vec![b"h2".to_vec()];
        }
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from(endpoint.name).unwrap();
        Self { address: endpoint.address, name, connector, manner, counts }
    }

    async fn live(&self, source: Ipv4Addr, permit: tokio::sync::OwnedSemaphorePermit) {
        let opening = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((source, 0).into())?;
            let stream = socket.connect(self.address).await?;
            self.connector.connect(self.name.clone(), stream).await
        };
        let opened = tokio::time::timeout(LIMIT, opening).await;
        drop(permit);
        if let Ok(Ok(stream)) = opened {
            self.counts.opened.fetch_add(1, Ordering::Relaxed);
            let (mut read, mut write) = tokio::io::split(stream);
            let (first, then): (&[u8], &[u8]) = match self.manner {
                Manner::Idle => (b"", b""),
                Manner::Slow => (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX-Long: ", b"a"),
                // Preface and empty SETTINGS; PING (RFC 9113 §3.4, §6.7).
                Manner::Pings => (
                    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
                    b"\0\0\x08\x06\0\0\0\0\0pingping",
                ),
            };
            let send = async {
                let mut next = first;
                while write.write_all(next).await.is_ok() && write.flush().await.is_ok() && !then.is_empty() {
                    next = then;
                    tokio::time::sleep(EVERY).await;
                }
                // Who sends nothing still waits for what the server does.
                std::future::pending::<()>().await;
            };
            let receive = async {
                let mut buffer = [0; 1024];
                while matches!(read.read(&mut buffer).await, Ok(1..)) {}
            };
            tokio::select! {
                () = send => {}
                () = receive => {}
            }
        } else {
            self.counts.refused.fetch_add(1, Ordering::Relaxed);
        }
        self.counts.ended.fetch_add(1, Ordering::Relaxed);
    }
}
