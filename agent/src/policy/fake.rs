//! A controller in this process, for tests: real TLS and HTTP/2, scripted answers.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use antrea_api::controlplane::{
    AddressGroup, AddressGroupPatch, AppliedToGroup, AppliedToGroupPatch, Damaged, Event, GroupEvent,
    NetworkPolicy, NetworkPolicyStatus,
};
use antrea_api::k8s::{self, EventType, Object, ObjectMeta, Status, frame};
use antrea_api::selection::PodSelection;
use apiserver_kit::cert::ServingCert;
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::discovery::Target;
use antrea_enforce::cache::Kind;
use antrea_enforce::testing::kind_of;

/// What the server saw and says.
#[derive(Default)]
pub struct Script {
    /// Watches by resource: how often each was opened.
    pub watches: BTreeMap<&'static str, usize>,
    /// Query strings and authorization headers of watches.
    pub seen: Vec<(String, Option<String>)>,
    /// What each list holds.
    pub lists: HashMap<Kind, Vec<Event>>,
    /// Status of posts and watches, if not success.
    pub refuse: Option<StatusCode>,
    /// What selects pods, by name; none: the controller does not know the pod.
    pub selections: HashMap<String, PodSelection>,
    /// Posted statuses.
    pub posts: Vec<NetworkPolicyStatus>,
    /// Ends lists without a bookmark.
    pub no_bookmark: bool,
    open: HashMap<Kind, mpsc::UnboundedSender<Bytes>>,
}

/// The server; it ends when dropped.
pub struct Fake {
    pub address: SocketAddr,
    pub script: Arc<Mutex<Script>>,
    pub cert: ServingCert,
    connections: Arc<Mutex<CancellationToken>>,
    _end: DropGuard,
}

type Body = BoxBody<Bytes, Infallible>;

/// An event as it travels.
pub fn encode(event: &Event) -> Bytes {
    let named = |name: &str| ObjectMeta::named(name);
    match event {
        Event::Policy(policy) => frame(EventType::Added, &policy.seal()),
        Event::PolicyDeleted(name) => {
            let policy = NetworkPolicy { metadata: named(name), ..NetworkPolicy::default() };
            frame(EventType::Deleted, &policy.seal())
        }
        Event::AddressGroup(GroupEvent::Added(group)) => frame(EventType::Added, &group.seal()),
        Event::AddressGroup(GroupEvent::Patched(patch)) => {
            frame(EventType::Modified, &AddressGroupPatch::seal(patch))
        }
        Event::AddressGroup(GroupEvent::Deleted(name)) => {
            let group = AddressGroup { metadata: named(name), ..AddressGroup::default() };
            frame(EventType::Deleted, &group.seal())
        }
        Event::AppliedToGroup(GroupEvent::Added(group)) => frame(EventType::Added, &group.seal()),
        Event::AppliedToGroup(GroupEvent::Patched(patch)) => {
            frame(EventType::Modified, &AppliedToGroupPatch::seal(patch))
        }
        Event::AppliedToGroup(GroupEvent::Deleted(name)) => {
            let group = AppliedToGroup { metadata: named(name), ..AppliedToGroup::default() };
            frame(EventType::Deleted, &group.seal())
        }
        Event::Bookmark => frame(EventType::Bookmark, &NetworkPolicy::default().seal()),
        Event::Error(status) => frame(EventType::Error, &status.seal()),
        Event::Damaged(damaged) => frame(EventType::Added, &damaged_policy(damaged)),
    }
}

/// A sealed policy of which name and AppliedToGroups can be read.
fn damaged_policy(damaged: &Damaged) -> Vec<u8> {
    let Some(Event::Policy(mut policy)) = damaged.rest.as_deref().cloned() else { panic!("{damaged:?}") };
    const DIRECTION: &[u8] = b"DAMAGED";
    policy.rules[0].direction = String::from_utf8_lossy(DIRECTION).into_owned();
    let mut sealed = policy.seal();
    let at = sealed.windows(DIRECTION.len()).position(|window| window == DIRECTION).unwrap();
    sealed[at..at + DIRECTION.len()].fill(0xff);
    sealed
}

impl Fake {
    /// Listens on loopback.
    pub async fn start(events: impl IntoIterator<Item = Event>) -> Self {
        antrea_runtime::install_crypto_provider();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cert = ServingCert::issue("antrea", &["antrea.kube-system.svc".to_owned()]).unwrap();
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(cert.chain().unwrap(), cert.private_key().unwrap())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let script = Arc::new(Mutex::new(Script::default()));
        script.lock().set(events);
        let connections = Arc::new(Mutex::new(CancellationToken::new()));
        let end = CancellationToken::new();
        let (state, current, stop) = (script.clone(), connections.clone(), end.clone());
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted.unwrap().0,
                };
                let (acceptor, state) = (acceptor.clone(), state.clone());
                let (cut, stop) = (current.lock().clone(), stop.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = hyper::service::service_fn(move |request| serve(request, state.clone()));
                    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        _ = connection => {}
                        () = cut.cancelled() => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        });
        Self { address, script, cert, connections, _end: end.drop_guard() }
    }

    /// Where it is.
    pub fn target(&self) -> Target {
        Target { endpoints: vec![self.address], ca: self.cert.ca.as_str().into() }
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        std::mem::take(&mut *self.connections.lock()).cancel();
        self.script.lock().open.clear();
    }

    /// Ends one watch in order.
    pub fn end(&self, kind: Kind) {
        self.script.lock().open.remove(&kind);
    }

    /// Sends an event on an open watch.
    pub fn send(&self, event: &Event) {
        self.send_bytes(kind_of(event), encode(event));
    }

    /// Sends anything on an open watch.
    pub fn send_bytes(&self, kind: Kind, bytes: Bytes) {
        self.script.lock().open[&kind].send(bytes).unwrap();
    }
}

impl Script {
    /// Makes these events all that lists hold.
    pub fn set(&mut self, events: impl IntoIterator<Item = Event>) {
        self.lists.clear();
        for event in events {
            self.lists.entry(kind_of(&event)).or_default().push(event);
        }
    }
}

async fn serve(request: Request<Incoming>, script: Arc<Mutex<Script>>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let refuse = script.lock().refuse;
    if let Some(code) = refuse {
        let status = Status { message: "not today".into(), ..Status::default() };
        let mut response = Response::new(Full::from(status.seal()).boxed());
        *response.status_mut() = code;
        return Ok(response);
    }
    if request.method() == Method::POST {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        let status: NetworkPolicyStatus = k8s::open(body).unwrap().decode().unwrap();
        assert_eq!(
            path,
            format!("/apis/controlplane.antrea.io/v1beta2/networkpolicies/{}/status", status.metadata.name)
        );
        let answer = status.seal();
        script.lock().posts.push(status);
        return Ok(Response::new(Full::from(answer).boxed()));
    }
    if path == antrea_api::selection::PATH {
        let query = request.uri().query().unwrap();
        let pod = query.split('&').find_map(|pair| pair.strip_prefix("pod=")).unwrap();
        let selection = script.lock().selections.get(pod).map(|found| serde_json::to_vec(found).unwrap());
        let (code, body) = match selection {
            Some(body) => (StatusCode::OK, body),
            None => (StatusCode::NOT_FOUND, Status::default().seal()),
        };
        let mut response = Response::new(Full::from(body).boxed());
        *response.status_mut() = code;
        return Ok(response);
    }
    let kind = Kind::ALL
        .into_iter()
        .find(|kind| path == format!("/apis/controlplane.antrea.io/v1beta2/{}", kind.resource()))
        .unwrap();
    assert_eq!(request.headers()["accept"], k8s::PROTOBUF);
    let authorization =
        request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut script = script.lock();
    script.seen.push((request.uri().query().unwrap().to_owned(), authorization));
    *script.watches.entry(kind.resource()).or_default() += 1;
    for event in script.lists.get(&kind).into_iter().flatten() {
        sender.send(encode(event)).unwrap();
    }
    if !script.no_bookmark {
        sender.send(encode(&Event::Bookmark)).unwrap();
        script.open.insert(kind, sender);
    }
    let frames = UnboundedReceiverStream::new(receiver).map(|bytes| Ok(Frame::data(bytes)));
    Ok(Response::new(BodyExt::boxed(StreamBody::new(frames))))
}

/// Waits until something is true.
pub async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if check() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
