//! A thousand agents: what a watcher costs in memory, and how soon a change of one group reaches them all.
//!
//! ```text
//! cargo bench -p apiserver-kit --bench watchers                       a table
//! cargo bench -p apiserver-kit --bench watchers -- --json FILE        and the figures as JSON
//! ```
//!
//! The server is a process of its own, so that its memory is not that of the clients. Each client has a
//! TLS connection with HTTP/2 and three watches on it, as an agent has. Timed is from the request that
//! makes the change to the last client's having decoded it; the same with one client is the peer.

use std::{
    convert::Infallible,
    io::{self, BufRead, Write},
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use antrea_api::{
    controlplane::{AddressGroup, AddressGroupPatch, GroupMember, ObjectReference},
    k8s::{EventType, FrameDecoder, ObjectMeta},
};
use antrea_runtime::metrics::Metrics;
use apiserver_kit::{
    api::Api,
    auth::Auth,
    cert::{ServingCert, certificates},
    gate,
    hub::{Delta, Filter, Hub, Render, Subscription},
    metrics::ServerMetrics,
    object::{Item, Object},
    review::{self, Reviewer},
    serve::{Limits, serve},
    status::Failure,
    storage::{Create, Resource, Selection, Storage},
    tls::{ClientTrust, Tls},
    user::{Action, User},
};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, sync::mpsc};

type Error = Box<dyn std::error::Error + Send + Sync>;

const WATCHERS: usize = 1000;
const STREAMS: usize = 3;
/// Connections that say nothing.
const IDLE: usize = 1000;
const ROUNDS: usize = 20;
const MEMBERS: usize = 100;
const PATH: &str = "/apis/controlplane.antrea.io/v1beta2/addressgroups";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    antrea_runtime::install_crypto_provider();
    let result = match args.first().map(String::as_str) {
        Some("--server") => server(),
        _ if args.iter().any(|arg| arg == "--bench") => clients(&args),
        // As a part of `cargo test --all-targets`: the figures of a debug build mean nothing.
        _ => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "watchers: {error}");
            ExitCode::FAILURE
        }
    }
}

// === server ===

const GROUPS: Resource = Resource {
    group: "controlplane.antrea.io",
    version: "v1beta2",
    api_version: "controlplane.antrea.io/v1beta2",
    plural: "addressgroups",
    singular: "addressgroup",
    kind: "AddressGroup",
    description: "",
    namespaced: false,
    short_names: &[],
    verbs: &["watch", "create"],
    columns: &[],
    fields: &["nodeName"],
    subresources: &[],
};

fn member(n: usize) -> GroupMember {
    GroupMember {
        pod: Some(ObjectReference { name: format!("pod-{n}"), namespace: "shop".into() }),
        ips: vec![vec![10, 0, (n >> 8) as u8, n as u8]],
        ..GroupMember::default()
    }
}

/// One group that every node needs.
struct Store(Arc<Hub<Arc<Item>>>);

impl Storage for Store {
    fn watch(&self, selection: &Selection) -> Result<Subscription, Failure> {
        let node = selection.fields.get("nodeName").map(|node| node.as_str().into());
        let filter = Filter { node, name: selection.name.clone(), ..Filter::default() };
        let wanted = selection.name.as_deref().is_none_or(|name| name == "g");
        Ok(self.0.subscribe(filter, |group| wanted.then(|| Arc::clone(group)).into_iter().collect()))
    }

    /// Whatever is created adds a member to the group.
    fn create(&self, _: Create) -> BoxFuture<'_, Result<Arc<dyn Object>, Failure>> {
        let delta = Delta::Updated { added: &[], removed: &[] };
        self.0.update(|_, routes| routes.publish(0, "g", delta, &mut Patch(None)));
        Box::pin(async { Ok(Arc::new(AddressGroup::default()) as Arc<dyn Object>) })
    }
}

struct Patch(Option<Arc<Item>>);

impl Render for Patch {
    fn added(&mut self, _: Option<&str>) -> Option<Arc<Item>> {
        None
    }

    fn modified(&mut self, _: Option<&str>) -> Option<Arc<Item>> {
        let make = || {
            let added_group_members = vec![member(MEMBERS)];
            let metadata = ObjectMeta::named("g");
            let patch = AddressGroupPatch { metadata, added_group_members, ..AddressGroupPatch::default() };
            Item::new(EventType::Modified, patch, &[])
        };
        Some(Arc::clone(self.0.get_or_insert_with(make)))
    }

    fn deleted(&mut self) -> Option<Arc<Item>> {
        None
    }
}

/// Everyone may do everything.
struct Open;

impl Reviewer for Open {
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, review::Error>> {
        Box::pin(async move { Ok(Some(User { name: token.to_owned(), ..User::default() })) })
    }

    fn access<'a>(
        &'a self,
        _: &'a User,
        _: &'a Action,
    ) -> BoxFuture<'a, Result<Result<(), String>, review::Error>> {
        Box::pin(async { Ok(Ok(())) })
    }
}

fn server() -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let group = AddressGroup {
            metadata: ObjectMeta::named("g"),
            group_members: (0..MEMBERS).map(member).collect(),
        };
        let hub = Hub::new(Item::new(EventType::Added, group, &[]), 1);
        let metrics = ServerMetrics::new(&Metrics::empty(), ["addressgroups"])?;
        let router = Api::new("v0", metrics.clone()).with(GROUPS, Arc::new(Store(hub))).router();
        let app = gate::protect(router, Auth::new(Arc::new(Open)), metrics.clone());
        let cert = ServingCert::issue("bench", &["localhost".to_owned()])?;
        let ca = serde_json::to_string(&cert.ca)?;
        let tls = Tls::new(cert, ClientTrust::default())?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        writeln!(io::stdout(), "{} {ca}", listener.local_addr()?.port())?;
        let shutdown = tokio_util::sync::CancellationToken::new();
        let stop = shutdown.clone();
        // The parent holds the other end of standard input: it ends, we end.
        std::thread::spawn(move || {
            let _ = io::stdin().read_line(&mut String::new());
            stop.cancel();
        });
        serve(listener, tls, app, Limits::CLUSTER, metrics, shutdown).await?;
        Ok(())
    })
}

// === clients ===

struct Client {
    sender: SendRequest<Full<Bytes>>,
    token: String,
}

impl Client {
    async fn connect(port: u16, config: Arc<ClientConfig>, token: String) -> Result<Self, Error> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost")?;
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, token })
    }

    async fn send(&mut self, method: Method, path: &str) -> Result<Response<Incoming>, Error> {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://localhost{path}"))
            .header("authorization", format!("Bearer {}", self.token))
            .header("accept", "application/vnd.kubernetes.protobuf")
            .body(Full::new(Bytes::from_static(b"{}")))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    /// Starts a watch; `seen` gets the time of every change, and one at the bookmark.
    async fn watch(&mut self, selector: String, seen: mpsc::UnboundedSender<Instant>) -> Result<(), Error> {
        let path = format!("{PATH}?watch=true&fieldSelector={selector}");
        let mut body = self.send(Method::GET, &path).await?.into_body();
        tokio::spawn(async move {
            let mut decoder = FrameDecoder::default();
            while let Some(Ok(frame)) = body.frame().await {
                let Some(bytes) = frame.data_ref() else { continue };
                decoder.push(bytes);
                while let Ok(Some((kind, _))) = decoder.next_event() {
                    if kind != EventType::Added && seen.send(Instant::now()).is_err() {
                        return Ok::<(), Infallible>(());
                    }
                }
            }
            Ok(())
        });
        Ok(())
    }
}

/// Resident memory of a process in KiB.
fn resident(pid: u32) -> Result<f64, Error> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).ok_or("no VmRSS")?.parse()?)
}

/// KiB that a connection costs the server on which nothing is said after TLS. As many addresses as it takes that none
/// has more than its share.
async fn idle(port: u16, pid: u32, config: Arc<ClientConfig>) -> Result<f64, Error> {
    let before = resident(pid)?;
    let mut held = Vec::new();
    for host in 0..IDLE / 50 {
        for _ in 0..50 {
            let socket = tokio::net::TcpSocket::new_v4()?;
            socket.bind(([127, 0, 2, u8::try_from(host)?], 0).into())?;
            let stream = socket.connect(([127, 0, 0, 1], port).into()).await?;
            let name = ServerName::try_from("localhost")?;
            held.push(tokio_rustls::TlsConnector::from(Arc::clone(&config)).connect(name, stream).await?);
        }
    }
    let cost = (resident(pid)? - before) / held.len() as f64;
    drop(held);
    Ok(cost)
}

fn on_node(node: usize) -> String {
    format!("nodeName%3Dnode-{node}")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Milliseconds from a change to its arrival at the last of `expected` watches, the median of all rounds.
async fn spread(
    writer: &mut Client,
    seen: &mut mpsc::UnboundedReceiver<Instant>,
    expected: usize,
) -> Result<f64, Error> {
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        writer.send(Method::POST, PATH).await?.into_body().collect().await?;
        let mut last = begin;
        for _ in 0..expected {
            last = last.max(seen.recv().await.ok_or("watches ended")?);
        }
        rounds.push((last - begin).as_secs_f64() * 1000.0);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(median(rounds))
}

fn clients(args: &[String]) -> Result<(), Error> {
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--server")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let pid = child.id();
    let mut hello = String::new();
    io::BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut hello)?;
    let (port, ca) = hello.split_once(' ').ok_or("no greeting")?;
    let (port, ca): (u16, String) = (port.parse()?, serde_json::from_str(ca.trim())?);
    let mut roots = RootCertStore::empty();
    for ca in certificates("ca", ca.as_bytes())? {
        roots.add(ca)?;
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let config = Arc::new(config);

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let figures = runtime.block_on(async move {
        let (sender, mut seen) = mpsc::unbounded_channel();
        let mut writer = Client::connect(port, Arc::clone(&config), "writer".into()).await?;
        let mut first = Client::connect(port, Arc::clone(&config), "node-0".into()).await?;
        first.watch(on_node(0), sender.clone()).await?;
        seen.recv().await.ok_or("no bookmark")?;
        let one = spread(&mut writer, &mut seen, 1).await?;

        let before = resident(pid)?;
        let mut clients = Vec::new();
        for node in 1..=WATCHERS {
            let mut client = Client::connect(port, Arc::clone(&config), format!("node-{node}")).await?;
            client.watch(on_node(node), sender.clone()).await?;
            for _ in 1..STREAMS {
                // As the watches of the other resources, which the change does not concern.
                client.watch(format!("{},metadata.name%3Dother", on_node(node)), sender.clone()).await?;
            }
            clients.push(client);
        }
        for _ in 0..WATCHERS * STREAMS {
            seen.recv().await.ok_or("no bookmark")?;
        }
        let memory = (resident(pid)? - before) / WATCHERS as f64;
        let idle = idle(port, pid, Arc::clone(&config)).await?;
        let all = spread(&mut writer, &mut seen, 1 + WATCHERS).await?;
        Ok::<_, Error>((memory, all, one, idle))
    })?;
    drop(child.stdin.take());
    child.wait()?;

    let (memory, all, one, idle) = figures;
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "server memory per agent (1 connection, {STREAMS} watches)  {memory:>8.1} KB   goal ≤ 100 KB"
    )?;
    writeln!(out, "server memory per TLS connection that says nothing       {idle:>8.1} KB")?;
    writeln!(
        out,
        "change of one group to all {} agents            {all:>8.1} ms   goal ≤ 50 ms, one watch {one:.2} ms",
        WATCHERS
    )?;
    if let Some(at) = args.iter().position(|arg| arg == "--json") {
        let path = args.get(at + 1).ok_or("--json needs a file")?;
        let report = serde_json::json!([
            { "name": "controller: memory per watching agent", "unit": "KB", "value": memory, "peer": null,
              "ratio": null, "goal": 100.0, "met": memory <= 100.0 },
            { "name": "controller: change of one group to 1,000 agents", "unit": "ms", "value": all, "peer": one,
              "ratio": all / one, "goal": 50.0, "met": all <= 50.0 },
        ]);
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(())
}
