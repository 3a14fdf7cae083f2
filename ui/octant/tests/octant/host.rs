//! What Octant does to a plugin, and the API that it offers to one.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use antrea_octant_plugin::proto::{
    dashboard::{RegisterRequest, RegisterResponse, plugin_client::PluginClient},
    octant::{
        AlertRequest, CreateRequest, CreateResponse, DeleteResponse, Empty, KeyRequest, ListResponse,
        dashboard_server::{Dashboard, DashboardServer},
    },
};
use anyhow::{Context, Result, anyhow, ensure};
use hyper_util::rt::TokioIo;
use jiff::{SignedDuration, Timestamp};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use parking_lot::Mutex;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{TcpListener, UnixStream},
    process::{Child, Command},
    sync::oneshot,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint, Server},
};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_antrea-octant-plugin");

const LIMIT: Duration = Duration::from_secs(10);

/// A plugin that Octant has started.
pub(crate) struct Plugin {
    child: Mutex<Child>,
    socket: PathBuf,
    channel: Option<Channel>,
    /// The sixth field.
    pub(crate) certificate: String,
    /// Where it makes the folder of its socket, which it leaves when it is killed.
    _temporary: tempfile::TempDir,
}

impl Plugin {
    /// Executes it with `environment` beside what Octant sets, and connects unless that asks for TLS.
    pub(crate) async fn start(environment: &[(&str, &str)]) -> Result<Self> {
        let temporary = tempfile::tempdir()?;
        let mut command = Command::new(BINARY);
        command.env("DASHBOARD_PLUGIN", "dashboard").env("PLUGIN_PROTOCOL_VERSIONS", "1");
        command.env("TMPDIR", temporary.path());
        command.env("PLUGIN_MIN_PORT", "10000").env("PLUGIN_MAX_PORT", "25000");
        command.envs(environment.iter().copied()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().context("stdout")?);
        let mut line = String::new();
        timeout(LIMIT, stdout.read_line(&mut line)).await??;
        let fields: Vec<&str> = line.trim_end_matches('\n').split('|').collect();
        ensure!(fields.len() == 6, "{line}");
        ensure!(fields[..3] == ["1", "1", "unix"] && fields[4] == "grpc", "{line}");
        let socket = PathBuf::from(fields[3]);
        let mut plugin = Self {
            child: Mutex::new(child),
            socket,
            channel: None,
            certificate: fields[5].to_owned(),
            _temporary: temporary,
        };
        if plugin.certificate.is_empty() {
            plugin.channel = Some(plugin.connect().await?);
        }
        Ok(plugin)
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone().expect("connected without TLS")
    }

    pub(crate) fn client(&self) -> PluginClient<Channel> {
        PluginClient::new(self.channel())
            .max_encoding_message_size(32 << 20)
            .max_decoding_message_size(32 << 20)
    }

    pub(crate) async fn register(&self, address: &str) -> Result<RegisterResponse> {
        let request = RegisterRequest { dashboard_api_address: address.to_owned() };
        Ok(self.client().register(request).await?.into_inner())
    }

    /// A connection without TLS.
    pub(crate) async fn connect(&self) -> Result<Channel> {
        let path = self.socket.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Ok(Endpoint::from_static("http://unused").connect_with_connector(connector).await?)
    }

    /// A connection with TLS, by this identity, to whoever has the certificate of the handshake.
    pub(crate) async fn secured(&self, identity: &Identity) -> Result<Channel> {
        let padding = "=".repeat((4 - self.certificate.len() % 4) % 4);
        let pem = format!(
            "-----BEGIN CERTIFICATE-----\n{}{padding}\n-----END CERTIFICATE-----\n",
            self.certificate
        );
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(pem.as_bytes())?)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.clone()));
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![CertificateDer::from_pem_slice(identity.pem.as_bytes())?], key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let (path, connector) = (self.socket.clone(), TlsConnector::from(Arc::new(config)));
        let service = tower::service_fn(move |_| {
            let (path, connector) = (path.clone(), connector.clone());
            async move {
                let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
                connector.connect(name, UnixStream::connect(path).await?).await.map(TokioIo::new)
            }
        });
        Ok(Endpoint::from_static("http://unused").connect_with_connector(service).await?)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.child.lock().id().context("it has ended")?;
        Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
    }

    /// Waits for its end; its status, and the folder of its socket.
    pub(crate) async fn ended(self) -> Result<(ExitStatus, PathBuf)> {
        let mut child = self.child.into_inner();
        let status = timeout(LIMIT, child.wait()).await??;
        Ok((status, self.socket.parent().unwrap_or(Path::new("/")).to_owned()))
    }
}

/// A certificate with its key.
pub(crate) struct Identity {
    pub(crate) pem: String,
    key: Vec<u8>,
}

impl Identity {
    pub(crate) fn new() -> Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        Ok(Self { pem: made.cert.pem(), key: made.signing_key.serialize_der() })
    }
}

/// Type, message, client.
type Alert = (String, String, String);

#[derive(Clone, Default)]
struct Store {
    objects: Arc<Mutex<BTreeMap<String, Vec<Value>>>>,
    alerts: Arc<Mutex<Vec<Alert>>>,
    refusal: Arc<Mutex<Option<String>>>,
}

/// Octant's API over a few objects.
pub(crate) struct Fake {
    store: Store,
    address: SocketAddr,
    serving: Option<Serving>,
}

impl Fake {
    pub(crate) fn start() -> Result<Self> {
        let store = Store::default();
        // Its port is left for a moment by tests of starting again; no client takes it that uses the usual loopback address.
        let (address, serving) = serve(store.clone(), "127.0.0.77:0".parse()?)?;
        Ok(Self { store, address, serving: Some(serving) })
    }

    /// At the same address, with the same objects.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        self.serving = Some(serve(self.store.clone(), self.address)?.1);
        Ok(())
    }

    /// As if it was killed: connections break.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let serving = self.serving.take().context("it was stopped before")?;
        let _ = serving.stop.send(());
        tokio::task::spawn_blocking(|| serving.thread.join())
            .await?
            .map_err(|_| anyhow!("the server panicked"))
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn set(&self, kind: &str, objects: Vec<Value>) {
        self.store.objects.lock().insert(kind.to_owned(), objects);
    }

    pub(crate) fn get(&self, kind: &str) -> Vec<Value> {
        self.store.objects.lock().get(kind).cloned().unwrap_or_default()
    }

    pub(crate) fn last_alert(&self) -> Option<Alert> {
        self.store.alerts.lock().last().cloned()
    }

    pub(crate) fn refuse_to_create(&self, why: &str) {
        *self.store.refusal.lock() = Some(why.to_owned());
    }
}

/// A server with a runtime of its own, so that with its end whatever is open breaks.
struct Serving {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

fn serve(store: Store, address: SocketAddr) -> Result<(SocketAddr, Serving)> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let (stop, stopped) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = std::thread::spawn(move || {
        runtime.block_on(async {
            let Ok(listener) = TcpListener::from_std(listener) else { return };
            let service = DashboardServer::new(store).max_encoding_message_size(64 << 20);
            let server = Server::builder().add_service(service);
            tokio::select! {
                _ = server.serve_with_incoming(TcpListenerStream::new(listener)) => {}
                _ = stopped => {}
            }
        });
    });
    Ok((address, Serving { stop, thread }))
}

#[tonic::async_trait]
impl Dashboard for Store {
    async fn list(&self, request: Request<KeyRequest>) -> Result<Response<ListResponse>, Status> {
        let objects = self.objects.lock().get(&request.get_ref().kind).cloned().unwrap_or_default();
        let objects = objects.iter().map(|object| object.to_string().into_bytes()).collect();
        Ok(Response::new(ListResponse { objects }))
    }

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<CreateResponse>, Status> {
        if let Some(why) = self.refusal.lock().clone() {
            return Err(Status::unknown(why));
        }
        let object: Value = serde_json::from_slice(&request.get_ref().object)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        self.objects.lock().entry(kind).or_default().push(object);
        Ok(Response::new(CreateResponse {}))
    }

    async fn delete(&self, request: Request<KeyRequest>) -> Result<Response<DeleteResponse>, Status> {
        let KeyRequest { kind, name, .. } = request.into_inner();
        let mut objects = self.objects.lock();
        objects.entry(kind).or_default().retain(|object| object["metadata"]["name"] != *name);
        Ok(Response::new(DeleteResponse {}))
    }

    async fn send_alert(&self, request: Request<AlertRequest>) -> Result<Response<Empty>, Status> {
        let AlertRequest { r#type, message, client_id, .. } = request.into_inner();
        self.alerts.lock().push((r#type, message, client_id));
        Ok(Response::new(Empty {}))
    }
}

fn heartbeat(age: i64) -> String {
    (Timestamp::now() - SignedDuration::from_secs(age)).to_string()
}

pub(crate) fn controller(age: i64, status: &str) -> Value {
    json!({"apiVersion": "crd.antrea.io/v1beta1", "kind": "AntreaControllerInfo",
        "metadata": {"name": "antrea-controller"}, "version": "0.1.0",
        "podRef": {"kind": "Pod", "namespace": "kube-system", "name": "antrea-controller-0"},
        "controllerConditions": [{"type": "ControllerHealthy", "status": status, "lastHeartbeatTime": heartbeat(age)}]})
}

pub(crate) fn agent(name: &str, age: i64, status: &str) -> Value {
    let mut condition =
        json!({"type": "AgentHealthy", "status": status, "lastHeartbeatTime": heartbeat(age)});
    if status != "True" {
        condition["reason"] = "Broken".into();
        condition["message"] = "by hand".into();
    }
    json!({"apiVersion": "crd.antrea.io/v1beta1", "kind": "AntreaAgentInfo", "metadata": {"name": name},
        "version": "0.1.0", "podRef": {"kind": "Pod", "namespace": "kube-system", "name": "antrea-agent-0"},
        "nodeRef": {"kind": "Node", "name": name}, "nodeSubnets": ["10.244.1.0/24"],
        "ovsInfo": {"version": "3.5.0", "bridgeName": "br-int", "flowTable": {"Output": 4}},
        "agentConditions": [condition]})
}
