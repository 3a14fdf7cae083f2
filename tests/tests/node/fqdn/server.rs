//! A DNS server that knows what it is told to, and questions to it by TCP.

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::{A, AAAA, CNAME, PATIENCE, SERVER, open};

/// Between parts of an answer by TCP.
const APART: Duration = Duration::from_millis(5);

#[derive(Clone, Debug)]
pub(super) enum Record {
    Address(IpAddr, u32),
    Alias(String),
    /// No DNS message at all.
    Garbage,
}

#[derive(Default)]
struct Shared {
    records: Mutex<HashMap<String, Vec<Record>>>,
    parts: AtomicUsize,
    waits: AtomicBool,
    sent: AtomicUsize,
    stop: AtomicBool,
}

/// The server; it ends when dropped.
#[derive(Default)]
pub(super) struct Dns(Arc<Shared>);

impl Drop for Dns {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

impl Dns {
    /// Serves in a namespace.
    pub(super) async fn start(netns: &str, address: SocketAddr) -> Self {
        let dns = Self::default();
        let bind = move || (UdpSocket::bind(address).unwrap(), TcpListener::bind(address).unwrap());
        let (udp, tcp) = open(netns).run(bind).await.unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        tcp.set_nonblocking(true).unwrap();
        let server = dns.0.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !server.stop.load(Ordering::Relaxed) {
                if let Ok((size, from)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(&answer(&server.records.lock(), &buffer[..size]), from);
                }
            }
        });
        let server = dns.0.clone();
        std::thread::spawn(move || {
            while !server.stop.load(Ordering::Relaxed) {
                if let Ok((stream, _)) = tcp.accept() {
                    let server = server.clone();
                    std::thread::spawn(move || server.serve(stream));
                } else {
                    std::thread::sleep(APART);
                }
            }
        });
        dns
    }

    pub(super) fn tell(&self, name: &str, records: Vec<Record>) {
        self.0.records.lock().insert(name.to_owned(), records);
    }

    /// Sends answers by TCP in parts of so many octets, each in a segment of its own.
    pub(super) fn cut(&self, octets: usize) {
        self.0.parts.store(octets, Ordering::Relaxed);
    }

    /// Parts of answers by TCP that were sent.
    pub(super) fn sent(&self) -> usize {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// Sends no more than the first part of an answer by TCP for as long as it waits.
    pub(super) fn wait(&self, waits: bool) {
        self.0.waits.store(waits, Ordering::Relaxed);
    }
}

impl Shared {
    /// Answers questions until the client has no more.
    fn serve(&self, mut stream: TcpStream) {
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut length = [0; 2];
        while !self.stop.load(Ordering::Relaxed) && stream.read_exact(&mut length).is_ok() {
            let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
            if stream.read_exact(&mut message).is_err() {
                return;
            }
            let answer = answer(&self.records.lock(), &message);
            let octets = [&(answer.len() as u16).to_be_bytes(), &answer[..]].concat();
            let size = match self.parts.load(Ordering::Relaxed) {
                0 => octets.len(),
                size => size,
            };
            for part in octets.chunks(size) {
                if stream.write_all(part).is_err() {
                    return;
                }
                self.sent.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(APART);
                while self.waits.load(Ordering::Relaxed) && !self.stop.load(Ordering::Relaxed) {
                    std::thread::sleep(APART);
                }
            }
        }
    }
}

fn encoded(name: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    for label in name.split('.') {
        octets.push(label.len() as u8);
        octets.extend(label.as_bytes());
    }
    octets.push(0);
    octets
}

pub(super) fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend(encoded(name));
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

fn answer(known: &HashMap<String, Vec<Record>>, query: &[u8]) -> Vec<u8> {
    let (mut at, mut name) = (12, String::new());
    while query[at] != 0 {
        let label = &query[at + 1..at + 1 + usize::from(query[at])];
        name = format!("{name}{}{}", if name.is_empty() { "" } else { "." }, String::from_utf8_lossy(label));
        at += 1 + label.len();
    }
    let kind = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let (mut answers, mut count, mut owner) = (Vec::new(), 0u16, name.clone());
    for record in known.get(&name.to_lowercase()).into_iter().flatten() {
        let (of, ttl, data) = match record {
            Record::Address(IpAddr::V4(ip), ttl) if kind == A => (A, *ttl, ip.octets().to_vec()),
            Record::Address(IpAddr::V6(ip), ttl) if kind == AAAA => (AAAA, *ttl, ip.octets().to_vec()),
            Record::Address(..) => continue,
            Record::Alias(to) => (CNAME, 60, encoded(to)),
            Record::Garbage => return b"nothing that anybody could read as DNS".to_vec(),
        };
        answers.extend(encoded(&owner));
        answers.extend(of.to_be_bytes());
        answers.extend([0, 1]);
        answers.extend(ttl.to_be_bytes());
        answers.extend((data.len() as u16).to_be_bytes());
        answers.extend(&data);
        count += 1;
        if let Record::Alias(to) = record {
            owner.clone_from(to);
        }
    }
    let mut message = query[..at + 5].to_vec();
    message[2..4].copy_from_slice(&[0x81, 0x80]);
    message[6..8].copy_from_slice(&count.to_be_bytes());
    message[8..12].fill(0);
    message.extend(answers);
    message
}

/// Octets of the answer that a pod gets to a question by TCP, or why it gets none.
pub(super) async fn ask_by_tcp(
    pod: &str,
    name: &str,
    kind: u16,
    patience: Duration,
) -> Result<usize, ErrorKind> {
    let message = query(name, kind);
    let attempt = move || -> std::io::Result<usize> {
        let mut stream = TcpStream::connect_timeout(&(SERVER, 53).into(), PATIENCE)?;
        stream.set_read_timeout(Some(patience))?;
        stream.write_all(&[&(message.len() as u16).to_be_bytes(), &message[..]].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let length = usize::from(u16::from_be_bytes(length));
        stream.read_exact(&mut vec![0; length])?;
        Ok(length)
    };
    open(pod).run(attempt).await.unwrap().map_err(|error| error.kind())
}
