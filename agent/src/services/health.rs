//! What load balancers ask a node: whether it has an endpoint of a Service (healthCheckNodePort), and whether its proxy
//! works (port 10256). Answers are kube-proxy's.
//!
//! Anybody may ask, so a question is read no further than its path, and connections are few and short. When there are too
//! many, one of the address that holds most goes ([`Guests`]): whoever holds many keeps no load balancer from its answer.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use antrea_proxy::Name;
use apiserver_kit::Guests;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Connections of all ports at once.
const MOST: usize = 256;
/// Those of one address.
const MOST_OF_ONE: usize = 16;
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Octets of a question.
const LONGEST: usize = 8 << 10;
/// Pause before a port that somebody has is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// For how long the bridge may lack something before the proxy does not count as healthy; kube-proxy's.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is told of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Namespace and name.
    pub service: Name,
    /// Ready endpoints of this node.
    pub endpoints: usize,
}

/// What load balancers are told when they ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Of Services, by their port.
    pub answers: BTreeMap<u16, Answer>,
    /// The bridge has had all Services once.
    pub synced: bool,
    /// Since when the bridge lacks something of Services.
    pub behind: Option<Instant>,
    /// The node is about to go and should get no new connections.
    pub leaving: bool,
}

impl Told {
    fn is_healthy(&self) -> bool {
        self.synced && self.behind.is_none_or(|since| since.elapsed() < PATIENCE)
    }
}

/// Which questions a listener answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asked {
    Proxy,
    Service(u16),
}

/// Answers until `shutdown`; about the proxy there, if anywhere.
pub async fn run(proxy: Option<SocketAddr>, mut told: watch::Receiver<Told>, shutdown: CancellationToken) {
    let guests = Arc::new(Mutex::new(Guests::new(MOST, MOST_OF_ONE)));
    let mut listeners: BTreeMap<Asked, JoinHandle<()>> = BTreeMap::new();
    let source = told.clone();
    let spawn = |asked, at: Vec<SocketAddr>| {
        tokio::spawn(listen(asked, at, source.clone(), guests.clone(), shutdown.clone()))
    };
    if let Some(at) = proxy {
        listeners.insert(Asked::Proxy, spawn(Asked::Proxy, vec![at]));
    }
    loop {
        let wanted: Vec<u16> = told.borrow_and_update().answers.keys().copied().collect();
        listeners.retain(|asked, listener| {
            let keep = !matches!(asked, Asked::Service(port) if !wanted.contains(port));
            if !keep {
                listener.abort();
            }
            keep
        });
        for port in wanted {
            let every = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
            let at = every.map(|ip| SocketAddr::new(ip, port)).to_vec();
            listeners.entry(Asked::Service(port)).or_insert_with(|| spawn(Asked::Service(port), at));
        }
        tokio::select! {
            () = shutdown.cancelled() => break,
            changed = told.changed() => if changed.is_err() { break },
        }
    }
    listeners.into_values().for_each(|listener| listener.abort());
}

/// Listens at the first of these that there is; one of IPv6 is for both families.
async fn listen(
    asked: Asked,
    at: Vec<SocketAddr>,
    told: watch::Receiver<Told>,
    guests: Arc<Mutex<Guests>>,
    shutdown: CancellationToken,
) {
    let listener = loop {
        let mut failed = None;
        let mut found = None;
        for address in &at {
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    found = Some(listener);
                    break;
                }
                Err(error) => failed = Some((address, error)),
            }
        }
        if let Some(listener) = found {
            break listener;
        }
        if let Some((address, error)) = failed {
            tracing::warn!(%address, %error, "load balancers that ask there get no answer");
        }
        tokio::time::sleep(RETRY).await;
    };
    loop {
        let (stream, from) = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => (stream, from.ip()),
                Err(error) => {
                    tracing::debug!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        let seat = guests.lock().enter(from);
        let (told, guests) = (told.clone(), guests.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = seat.evicted.cancelled() => {}
                // Whoever does not ask in time has no answer.
                _ = tokio::time::timeout(LIMIT, answer(stream, asked, &told)) => {}
            }
            guests.lock().leave(&seat);
        });
    }
}

async fn answer(
    mut stream: TcpStream,
    asked: Asked,
    told: &watch::Receiver<Told>,
) -> Result<(), std::io::Error> {
    let mut question = Vec::new();
    while !question.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut part = [0; 1024];
        let read = stream.read(&mut part).await?;
        if read == 0 || question.len() + read > LONGEST {
            return Ok(());
        }
        question.extend_from_slice(&part[..read]);
    }
    let reply = reply(asked, path(&question), &told.borrow().clone(), Timestamp::now());
    stream.write_all(reply.as_bytes()).await?;
    stream.shutdown().await
}

/// The path that a question is about, without what follows a question mark.
fn path(question: &[u8]) -> &str {
    let line = question.split(|octet| *octet == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).unwrap_or_default();
    let target = line.split(' ').nth(1).unwrap_or_default();
    target.split('?').next().unwrap_or_default()
}

fn reply(asked: Asked, path: &str, told: &Told, now: Timestamp) -> String {
    let healthy = told.is_healthy();
    let mut more = String::new();
    let (good, body) = match asked {
        Asked::Service(port) => {
            let Some(Answer { service, endpoints }) = told.answers.get(&port) else {
                return http(503, "{}", "");
            };
            let (namespace, name) = service.split_once('/').unwrap_or_default();
            let _ = write!(more, "X-Load-Balancing-Endpoint-Weight: {endpoints}\r\n");
            let body = serde_json::json!({
                "service": {"namespace": namespace, "name": name},
                "localEndpoints": endpoints,
                "serviceProxyHealthy": healthy,
            });
            (healthy && *endpoints > 0, body)
        }
        Asked::Proxy => {
            let time = |time: Timestamp| time.strftime("%Y-%m-%d %H:%M:%S%.9f +0000 UTC").to_string();
            let behind = told.behind.filter(|_| !healthy).map(|since| since.elapsed());
            let updated = behind.and_then(|ago| now.checked_sub(ago).ok()).unwrap_or(now);
            let mut body = serde_json::json!({"lastUpdated": time(updated), "currentTime": time(now)});
            match path {
                "/healthz" => {
                    body["nodeEligible"] = (!told.leaving).into();
                    (healthy && !told.leaving, body)
                }
                "/livez" => (healthy, body),
                _ => return http(404, "{}", ""),
            }
        }
    };
    http(if good { 200 } else { 503 }, &body.to_string(), &more)
}

fn http(status: u16, body: &str, more: &str) -> String {
    let reason = match status {
        200 => "OK",
        404 => "Not Found",
        _ => "Service Unavailable",
    };
    format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nX-Content-Type-Options: nosniff\r\n{more}\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::net::TcpSocket;

    use super::*;

    fn parts(reply: &str) -> (u16, Value) {
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    fn told(endpoints: usize) -> Told {
        let answer = Answer { service: "default/web".into(), endpoints };
        Told { answers: [(32000, answer)].into(), synced: true, ..Told::default() }
    }

    fn synced() -> Told {
        Told { synced: true, ..Told::default() }
    }

    fn long_ago() -> Option<Instant> {
        Instant::now().checked_sub(PATIENCE)
    }

    #[test]
    fn a_node_without_endpoints_of_the_service_is_none_for_its_load_balancer() {
        let of = |told: &Told| parts(&reply(Asked::Service(32000), "/", told, Timestamp::UNIX_EPOCH));
        let body = |endpoints, healthy| {
            json!({"service": {"namespace": "default", "name": "web"},
                   "localEndpoints": endpoints, "serviceProxyHealthy": healthy})
        };
        assert_eq!(of(&told(2)), (200, body(2, true)));
        assert_eq!(of(&told(0)), (503, body(0, true)));
        assert_eq!(of(&Told { behind: Some(Instant::now()), ..told(2) }), (200, body(2, true)));
        assert_eq!(of(&Told { behind: long_ago(), ..told(2) }), (503, body(2, false)));
        assert!(
            reply(Asked::Service(32000), "/", &told(2), Timestamp::UNIX_EPOCH)
                .contains("\r\nX-Load-Balancing-Endpoint-Weight: 2\r\n")
        );
    }

    #[test]
    fn a_node_that_goes_is_alive_and_gets_no_connections() {
        let of = |path: &str, told: &Told| parts(&reply(Asked::Proxy, path, told, Timestamp::UNIX_EPOCH));
        let time = "1970-01-01 00:00:00.000000000 +0000 UTC";
        let body = json!({"lastUpdated": time, "currentTime": time, "nodeEligible": true});
        assert_eq!(of("/healthz", &synced()), (200, body));
        let leaving = Told { leaving: true, ..synced() };
        assert_eq!((of("/healthz", &leaving).0, of("/livez", &leaving).0), (503, 200));
        assert_eq!(of("/healthz", &leaving).1["nodeEligible"], false);
        let behind = Told { behind: long_ago(), ..synced() };
        assert_eq!((of("/healthz", &behind).0, of("/livez", &behind).0), (503, 503));
        assert_eq!(of("/", &synced()).0, 404);
        assert_eq!(of("/healthz", &Told::default()).0, 503, "nothing is served yet");
    }

    #[test]
    fn only_the_path_of_a_question_counts() {
        assert_eq!(path(b"GET /healthz?verbose HTTP/1.1\r\nHost: x\r\n\r\n"), "/healthz");
        assert_eq!(path(b"\xff\xfe\r\n\r\n"), "");
        assert_eq!(path(b"GET\r\n\r\n"), "");
    }

    async fn get(port: u16) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.ok()?;
        let mut all = String::new();
        stream.read_to_string(&mut all).await.ok()?;
        Some(all)
    }

    /// Twice as many as there is room for, from eight addresses, and again and again.
    #[tokio::test]
    async fn whoever_holds_many_connections_keeps_nobody_from_an_answer() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (_sender, receiver) = watch::channel(synced());
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(run(Some(free), receiver, shutdown.clone()));
        while get(free.port()).await.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let begin = Instant::now();
        let mut held = Vec::new();
        for number in 0..2 * MOST {
            let socket = TcpSocket::new_v4().unwrap();
            let from = [127, 0, 0, u8::try_from(2 + number % 8).unwrap()];
            socket.bind((IpAddr::from(from), 0).into()).unwrap();
            held.push(socket.connect(free).await.unwrap());
            if number % 16 == 15 {
                let reply = get(free.port()).await;
                assert!(reply.is_some_and(|reply| reply.starts_with("HTTP/1.1 ")), "beside {}", held.len());
            }
        }
        assert!(begin.elapsed() < LIMIT, "some connections were over by themselves");
        shutdown.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn ports_come_and_go_with_their_services() {
        let free = TcpListener::bind("0.0.0.0:0").await.unwrap().local_addr().unwrap().port();
        let with = |endpoints| Told {
            answers: [(free, Answer { service: "default/web".into(), endpoints })].into(),
            synced: true,
            ..Told::default()
        };
        let (sender, receiver) = watch::channel(with(1));
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(run(None, receiver, shutdown.clone()));
        let until = async |wanted: Option<&str>| {
            let end = Instant::now() + Duration::from_secs(10);
            loop {
                let now = get(free).await;
                if now.as_deref().map(|reply| &reply[..12]) == wanted {
                    return;
                }
                assert!(Instant::now() < end, "{now:?} instead of {wanted:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        until(Some("HTTP/1.1 200")).await;
        sender.send_replace(with(0));
        until(Some("HTTP/1.1 503")).await;
        sender.send_replace(Told::default());
        until(None).await;
        sender.send_replace(with(3));
        until(Some("HTTP/1.1 200")).await;
        shutdown.cancel();
        server.await.unwrap();
        until(None).await;
    }
}
