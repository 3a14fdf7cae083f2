//! A Kubernetes API server in plain HTTP, and the components' API behind the TLS and the access checks of the real ones.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use antrea_runtime::{client, install_crypto_provider, metrics::Metrics};
use apiserver_kit::{
    auth::Auth,
    cert::ServingCert,
    gate,
    metrics::ServerMetrics,
    review::KubeReviewer,
    serve,
    tls::{ClientTrust, Tls},
};
use axum::{
    Json, Router,
    extract::{Path, RawQuery, State},
    http::{Method, StatusCode, Uri},
    routing::{get, post},
};
use clap::Parser;
use k8s_openapi::{ByteString, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::Args,
    connect::{Clients, Environment, Place},
    run, told,
};

/// What the fake API server holds.
#[derive(Default)]
pub(crate) struct Cluster {
    pub(crate) agents: Vec<Value>,
    /// Answer of the controlplane API by plural; none means that the API is not there.
    pub(crate) computed: Option<fn(&str, Option<String>) -> Value>,
    /// What else it answers, by method and path.
    pub(crate) answers: BTreeMap<String, Value>,
    /// Whether users may do what they ask components for.
    pub(crate) allows: bool,
    /// Tokens that components were shown.
    pub(crate) shown: Arc<Mutex<Vec<String>>>,
    /// What it was asked of `answers`, in order: methods and paths.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

pub(crate) struct Fixture {
    directory: TempDir,
    pub(crate) kubeconfig: PathBuf,
}

impl Fixture {
    pub(crate) async fn new(cluster: Cluster) -> Self {
        install_crypto_provider();
        let directory = tempfile::tempdir().unwrap();
        let address = api_server(cluster).await;
        let kubeconfig = directory.path().join("kubeconfig");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "u", "user": {"token": "good"}}],
        });
        std::fs::write(&kubeconfig, text.to_string()).unwrap();
        Self { directory, kubeconfig }
    }

    pub(crate) fn clients(&self, place: Place) -> Clients {
        let environment = Environment {
            place,
            node: "n1".to_owned(),
            configuration: self.directory.path().join("component.conf"),
            token: self.directory.path().join("token"),
        };
        Clients { environment, kubeconfig: Some(self.kubeconfig.clone()) }
    }

    pub(crate) async fn run(&self, place: Place, line: &str) -> anyhow::Result<String> {
        let args = Args::try_parse_from(line.split_whitespace()).unwrap();
        run(&args, &self.clients(place)).await
    }

    pub(crate) async fn fails(&self, place: Place, line: &str) -> String {
        told(&self.run(place, line).await.unwrap_err())
    }

    /// A component's API over TLS, with access delegated to the fake API server.
    pub(super) async fn component(&self, cert: ServingCert, listener: TcpListener, token: Option<&str>) {
        self.serve(cert, listener, token, Self::routes()).await;
    }

    pub(crate) fn routes() -> Router {
        let level = Arc::new(Mutex::new("0\n".to_owned()));
        let set = Arc::clone(&level);
        let level = get(async move || level.lock().unwrap().clone())
            .put(async move |RawQuery(query): RawQuery| *set.lock().unwrap() = query.unwrap_or_default());
        let interface = |pod: &str, ip: &str| {
            json!({"name": pod, "podNamespace": "shop", "interfaceName": format!("{pod}-1a2b"), "ips": [ip],
                   "mac": "0a:00:00:00:00:01", "ofPort": 7, "containerID": "0123456789abcdef"})
        };
        let interfaces = json!([interface("web", "10.10.0.5"), interface("db", "10.10.0.4")]);
        let gates =
            json!([{"component": "controller", "name": "Egress", "status": "Disabled", "version": "BETA"}]);
        let policies = get(async || Json(policies()));
        Router::new()
            .route("/loglevel", level)
            .route("/podinterfaces", get(async move || Json(interfaces)))
            .route("/ovsflows", get(echo_flows))
            .route("/ovstracing", get(echo_trace))
            .route("/featuregates", get(async move || Json(gates)))
            .route("/networkpolicies", policies.clone())
            .route("/apis/controlplane.antrea.io/v1beta2/networkpolicies", policies)
    }

    /// These routes in the same way.
    pub(crate) async fn serve(
        &self,
        cert: ServingCert,
        listener: TcpListener,
        token: Option<&str>,
        routes: Router,
    ) {
        self.serve_whom(cert, listener, token, routes, ClientTrust::default()).await;
    }

    /// The same, trusting certificates of clients.
    pub(crate) async fn serve_whom(
        &self,
        cert: ServingCert,
        listener: TcpListener,
        token: Option<&str>,
        routes: Router,
        trust: ClientTrust,
    ) {
        let reviewer = KubeReviewer::new(client::connect(Some(&self.kubeconfig), None).await.unwrap());
        let reviewer = reviewer.for_audience("antrea-agent/n1".to_owned());
        let mut auth = Auth::new(Arc::new(reviewer));
        if let Some(token) = token {
            auth = auth.with_local_token(token);
        }
        let metrics = ServerMetrics::new(&Metrics::empty(), []).unwrap();
        let app = gate::protect(routes, auth, metrics.clone());
        let tls = Tls::new(cert, trust).unwrap();
        tokio::spawn(serve::serve(
            listener,
            tls,
            app,
            serve::Limits::NODE,
            metrics,
            CancellationToken::new(),
        ));
    }
}

/// Says what it was asked, as the agent says flows.
async fn echo_flows(RawQuery(query): RawQuery) -> Json<Value> {
    Json(json!([{"flow": query.unwrap_or_default()}]))
}

async fn echo_trace(RawQuery(query): RawQuery) -> Json<Value> {
    Json(json!({"result": format!("Flow: {}\n", query.unwrap_or_default())}))
}

async fn api_server(cluster: Cluster) -> SocketAddr {
    let router = Router::new()
        .route("/apis/crd.antrea.io/v1beta1/antreaagentinfos", get(agents))
        .route("/apis/crd.antrea.io/v1beta1/antreaagentinfos/{name}", get(agent))
        .route("/apis/crd.antrea.io/v1beta1/antreacontrollerinfos/antrea-controller", get(controller))
        .route("/apis/controlplane.antrea.io/v1beta2/{plural}", get(computed).fallback(answer))
        .route("/apis/authentication.k8s.io/v1/tokenreviews", post(review_token))
        .route("/apis/authorization.k8s.io/v1/subjectaccessreviews", post(review_access))
        .fallback(answer)
        .with_state(Arc::new(cluster));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

type Shared = State<Arc<Cluster>>;

async fn agents(State(cluster): Shared) -> Json<Value> {
    Json(
        json!({"apiVersion": "crd.antrea.io/v1beta1", "kind": "AntreaAgentInfoList", "metadata": {}, "items": cluster.agents}),
    )
}

async fn agent(State(cluster): Shared, Path(name): Path<String>) -> Result<Json<Value>, StatusCode> {
    let found = cluster.agents.iter().find(|agent| agent["metadata"]["name"] == name.as_str());
    found.cloned().map(Json).ok_or(StatusCode::NOT_FOUND)
}

async fn controller(State(cluster): Shared, uri: Uri) -> Json<Value> {
    if let Some(answer) = cluster.answers.get(&format!("GET {uri}")) {
        return Json(answer.clone());
    }
    let condition =
        json!({"type": "ControllerHealthy", "status": "False", "lastHeartbeatTime": Time(Timestamp::now())});
    Json(json!({
        "apiVersion": "crd.antrea.io/v1beta1", "kind": "AntreaControllerInfo",
        "metadata": {"name": "antrea-controller"}, "version": "v0.1.0", "nodeRef": {"name": "n1"},
        "networkPolicyControllerInfo": {"networkPolicyNum": 2, "addressGroupNum": 4, "appliedToGroupNum": 3},
        "connectedAgentNum": 5, "controllerConditions": [condition],
    }))
}

async fn computed(
    State(cluster): Shared,
    Path(plural): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, StatusCode> {
    cluster.computed.map(|answer| Json(answer(&plural, query))).ok_or(StatusCode::SERVICE_UNAVAILABLE)
}

/// A token for the agent of n1 alone.
pub(crate) const NARROW: &str = "e30.eyJhdWQiOlsiYW50cmVhLWFnZW50L24xIl19.c2ln";

async fn review_token(State(cluster): Shared, Json(mut review): Json<Value>) -> Json<Value> {
    let (token, audiences) = (review["spec"]["token"].clone(), review["spec"]["audiences"].clone());
    cluster.shown.lock().unwrap().push(token.as_str().unwrap_or_default().to_owned());
    let narrow = token == NARROW && audiences == json!(["antrea-agent/n1"]);
    let good = narrow || token == "good" && audiences.is_null();
    review["status"] = json!({"authenticated": good, "user": {"username": "agent"}, "audiences": audiences});
    Json(review)
}

async fn review_access(State(cluster): Shared, Json(mut review): Json<Value>) -> Json<Value> {
    review["status"] = json!({"allowed": cluster.allows});
    Json(review)
}

async fn answer(State(cluster): Shared, method: Method, uri: Uri) -> Result<Json<Value>, StatusCode> {
    let asked = format!("{method} {uri}");
    cluster.asked.lock().unwrap().push(asked.clone());
    cluster.answers.get(&asked).cloned().map(Json).ok_or(StatusCode::NOT_FOUND)
}

pub(crate) fn agent_info(node: &str, heartbeat: Timestamp, port: u16, ca: &str) -> Value {
    let condition = json!({"type": "AgentHealthy", "status": "True", "lastHeartbeatTime": Time(heartbeat)});
    json!({
        "apiVersion": "crd.antrea.io/v1beta1", "kind": "AntreaAgentInfo",
        "metadata": {"name": node}, "version": "0.1.0", "podRef": {"name": format!("antrea-agent-{node}")},
        "nodeSubnets": ["10.10.0.0/24"], "localPodNum": 3, "agentConditions": [condition],
        "networkPolicyControllerInfo": {"networkPolicyNum": 2},
        "apiPort": port, "apiCABundle": ByteString(ca.as_bytes().to_vec()),
    })
}

pub(super) fn policies() -> Value {
    let policy = |uid: &str, namespace: &str, name: &str| {
        json!({
            "metadata": {"name": uid}, "appliedToGroups": ["g1"],
            "rules": [{"direction": "In", "from": {"ipBlocks": [{"cidr": {"ip": "CgoAAA==", "prefixLength": 16}}]}}],
            "sourceRef": {"type": "K8sNetworkPolicy", "namespace": namespace, "name": name},
        })
    };
    json!({"items": [policy("u2", "shop", "deny"), policy("u1", "bank", "deny"), policy("u3", "shop", "allow")]})
}

pub(super) fn certificate() -> ServingCert {
    ServingCert::issue("antrea-agent", &["localhost".into(), "127.0.0.1".into()]).unwrap()
}
