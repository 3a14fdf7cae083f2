//! The verbs against servers in this process: a Kubernetes API server in plain HTTP, and the components'
//! API behind the TLS and the access checks of the real ones.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use antrea_runtime::{client, install_crypto_provider, metrics::Metrics};
use apiserver_kit::{
    auth::{Auth, local_token},
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
    cli::{Args, command},
    connect::{Clients, Environment, Place},
    get, run, told,
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
    async fn component(&self, cert: ServingCert, listener: TcpListener, token: Option<&str>) {
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
    cluster.answers.get(&format!("{method} {uri}")).cloned().map(Json).ok_or(StatusCode::NOT_FOUND)
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

fn policies() -> Value {
    let policy = |uid: &str, namespace: &str, name: &str| {
        json!({
            "metadata": {"name": uid}, "appliedToGroups": ["g1"],
            "rules": [{"direction": "In", "from": {"ipBlocks": [{"cidr": {"ip": "CgoAAA==", "prefixLength": 16}}]}}],
            "sourceRef": {"type": "K8sNetworkPolicy", "namespace": namespace, "name": name},
        })
    };
    json!({"items": [policy("u2", "shop", "deny"), policy("u1", "bank", "deny"), policy("u3", "shop", "allow")]})
}

fn certificate() -> ServingCert {
    ServingCert::issue("antrea-agent", &["localhost".into(), "127.0.0.1".into()]).unwrap()
}

#[test]
fn only_what_works_is_listed_and_the_unknown_is_refused() {
    command(Place::Elsewhere).debug_assert();
    for words in
        ["get np -n shop -o yaml", "get atg x -k f", "get ag", "get ci", "get ai n1", "log-level debug"]
    {
        Args::try_parse_from(["antctl"].into_iter().chain(words.split(' '))).unwrap();
    }
    for words in
        ["traceflow -S a -D b -f tcp,tcp_dst=80 -o json -t 10s", "tf -D b --live-traffic --dropped-only"]
    {
        Args::try_parse_from(["antctl"].into_iter().chain(words.split(' '))).unwrap();
    }
    for words in [
        "get pi --node n1",
        "get --node n1 of -T 0",
        "tp --node n1 -S a",
        "log-level 4 --nodes n1,n2",
        "proxy --controller --port 0",
        "proxy --agent-node n1 --address ::1",
        "supportbundle n1 *worker* -d x --since 1h",
        "supportbundle -l a=b",
        "packetcapture -S a -D shop/b -f tcp,tcp_dst=80 -n 5 -t 10s --nowait -o /tmp -p Source -d Both",
        "explain shop/web svc/shop/db --port http --protocol udp -o json",
    ] {
        Args::try_parse_from(["antctl"].into_iter().chain(words.split(' '))).unwrap();
    }
    for words in ["get ag -v", "-v version", "version -t 10s", "version -t 2m", "version --timeout 500ms"] {
        Args::try_parse_from(["antctl"].into_iter().chain(words.split(' '))).unwrap();
    }
    for words in ["version -t 0", "version -t 1d", "version -t -1s", "version -t s"] {
        assert!(Args::try_parse_from(["antctl"].into_iter().chain(words.split(' '))).is_err(), "{words}");
    }
    for words in [
        "supportbundle --controller-only n1",
        "proxy",
        "proxy --controller --agent-node n1",
        "proxy --controller --address here",
        "get egress",
        "get ovsflows -p web",
        "get ovsflows -T 0 -G 1",
        "get np -o xml",
        "get ag -n shop",
        "version -t 0",
        "get",
        "",
    ] {
        let line = ["antctl"].into_iter().chain(words.split_whitespace());
        assert!(Args::try_parse_from(line).is_err(), "{words}");
    }
    let listed = |place| {
        let mut command = command(place);
        let get = command.find_subcommand_mut("get").unwrap().render_help().to_string();
        let get_lists = |name: &str| get.contains(&format!("\n  {name} "));
        ["controllerinfo", "podinterface", "ovsflows", "featuregates", "networkpolicy"].map(get_lists)
    };
    assert_eq!(listed(Place::Elsewhere), [true; 5]);
    assert_eq!(listed(Place::Agent), [false, true, true, true, true]);
    assert_eq!(listed(Place::Controller), [true, false, false, true, true]);
    for place in [Place::Elsewhere, Place::Agent, Place::Controller] {
        let verbs = command(place).render_help().to_string();
        for verb in ["proxy", "check", "explain", "packetcapture", "top"] {
            assert_eq!(verbs.contains(&format!("\n  {verb} ")), place == Place::Elsewhere, "{verbs}");
        }
        for name in ["get", "log-level"] {
            let help = command(place).find_subcommand_mut(name).unwrap().render_help().to_string();
            assert_eq!(help.contains("--node"), place == Place::Elsewhere, "{help}");
        }
    }
}

/// As scripts for upstream's antctl expect it.
#[test]
fn help_is_success_and_anything_wrong_is_one() {
    for (words, code) in [
        ("", 0),
        ("get", 0),
        ("help", 0),
        ("get --help", 0),
        ("--version", 0),
        ("explain --help", 0),
        ("supportbundle -l", 1),
        ("get egress", 1),
        ("get np -o xml", 1),
        ("version --nonsense", 1),
        // There 1 means that policy denies.
        ("explain a b --protocol gre", 2),
    ] {
        let line = ["antctl"].into_iter().chain(words.split_whitespace()).map(Into::into);
        let ended = crate::cli::parse(Place::Elsewhere, line).unwrap_err();
        assert_eq!(ended.code, code, "{words}: {}", ended.text);
        assert!(!ended.text.is_empty());
    }
}

#[test]
fn causes_are_told_once() {
    let error = anyhow::anyhow!("refused").context("connect: refused").context("GET /x");
    assert_eq!(told(&error), "GET /x: connect: refused");
}

#[test]
fn a_heart_that_stopped_is_not_healthy() {
    let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
    let at = |text: &str| Time(text.parse().unwrap());
    let shown = |status, time: &Time| get::shown_health(Some((status, Some(time))), now).join(" ");
    assert_eq!(shown("True", &at("2026-01-01T00:09:55Z")), "Healthy 5s");
    assert_eq!(shown("False", &at("2026-01-01T00:07:30Z")), "Unhealthy 2m");
    assert_eq!(shown("True", &at("2026-01-01T00:06:59Z")), "Unknown 3m");
    assert_eq!(shown("True", &at("2025-12-29T00:00:00Z")), "Unknown 3d");
    assert_eq!(get::shown_health(None, now), ["Unknown", ""]);
}

#[tokio::test]
async fn agents_and_their_absence_through_the_api_server() {
    let now = Timestamp::now();
    let agents = vec![agent_info("n2", now, 0, ""), agent_info("n1", Timestamp::UNIX_EPOCH, 0, "")];
    let fixture = Fixture::new(Cluster { agents, ..Cluster::default() }).await;
    let text = fixture.run(Place::Elsewhere, "antctl get agentinfo").await.unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[1][..3], ["antrea-agent-n1", "n1", "Unknown"]);
    assert_eq!(lines[2][..3], ["antrea-agent-n2", "n2", "Healthy"]);
    assert_eq!(lines[2][4..], ["10.10.0.0/24", "2", "0", "0", "3", "0.1.0"]);
    let own = fixture.run(Place::Agent, "antctl get agentinfo -o raw").await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&own).unwrap()["metadata"]["name"], "n1");
    let version = fixture.run(Place::Agent, "antctl version -o raw").await.unwrap();
    assert_eq!(version, "{\"agentVersion\":\"0.1.0\",\"antctlVersion\":\"0.1.0\"}\n");
    let text = fixture.run(Place::Elsewhere, "antctl get controllerinfo").await.unwrap();
    let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[..3].join(" "), row[4..].join(" ")), ("- n1 Unhealthy".into(), "2 4 3 5 v0.1.0".into()));
    let version = fixture.run(Place::Controller, "antctl version").await.unwrap();
    assert!(version.ends_with("\ncontroller   0.1.0\n"), "{version}");
    assert!(fixture.fails(Place::Agent, "antctl get controllerinfo").await.contains("not for agents"));
    let error = fixture.fails(Place::Elsewhere, "antctl get agentinfo n9").await;
    assert!(error.starts_with("AntreaAgentInfo n9: ") && error.contains("Antrea installed?"), "{error}");
    let error = fixture.fails(Place::Elsewhere, "antctl get np").await;
    assert!(error.contains("/networkpolicies: ") && error.contains("kubectl get apiservice"), "{error}");
    for line in ["antctl get podinterface", "antctl get ovsflows", "antctl trace-packet -S 10.0.0.1"] {
        let error = fixture.fails(Place::Elsewhere, line).await;
        assert!(error.contains("--node") && error.contains("container"), "{line}: {error}");
    }
}

#[tokio::test]
async fn computed_objects_are_filtered() {
    let computed = Some(
        (|plural: &str, query| match (plural, query.as_deref()) {
            ("networkpolicies", None) => policies(),
            _ => {
                let member =
                    |n| json!({"pod": {"name": format!("p{n}"), "namespace": "shop"}, "ips": ["CgoABQ=="]});
                json!({"items": [{"metadata": {"name": "g1"}, "groupMembers": [member(1), member(2)]}]})
            }
        }) as fn(&str, Option<String>) -> Value,
    );
    let fixture = Fixture::new(Cluster { computed, ..Cluster::default() }).await;
    let text = fixture.run(Place::Elsewhere, "antctl get np").await.unwrap();
    let names: Vec<&str> = text.lines().skip(1).map(|line| &line[..2]).collect();
    assert_eq!(names, ["u1", "u3", "u2"], "{text}");
    let text = fixture.run(Place::Elsewhere, "antctl get np deny -n shop").await.unwrap();
    let lines: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines, [["u2", "K8sNetworkPolicy:shop/deny", "1", "1", "-", "-"]], "{text}");
    let error = fixture.fails(Place::Elsewhere, "antctl get np deny -n nowhere").await;
    assert_eq!(error, "no computed NetworkPolicy is named \"deny\" in the Namespace \"nowhere\"");
    let text = fixture.run(Place::Elsewhere, "antctl get ag").await.unwrap();
    assert!(text.ends_with("g1     2         shop/p1,shop/p2   10.10.0.5,10.10.0.5\n"), "{text}");
    let text = fixture.run(Place::Elsewhere, "antctl get atg g1 -o json").await.unwrap();
    let groups: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(groups[0]["groupMembers"][1]["pod"]["name"], "p2");
    assert!(fixture.fails(Place::Elsewhere, "antctl get atg g2").await.contains("g2"));
}

#[tokio::test]
async fn the_agents_local_token_opens_its_api() {
    let fixture = Fixture::new(Cluster::default()).await;
    let error = fixture.fails(Place::Agent, "antctl get podinterface").await;
    assert!(error.contains("token") && error.contains("antrea-agent running"), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let clients = fixture.clients(Place::Agent);
    std::fs::write(&clients.environment.configuration, format!("apiPort: {port}\n")).unwrap();
    let token = local_token(&clients.environment.token).unwrap();
    fixture.component(certificate(), listener, Some(&token)).await;
    let text = fixture.run(Place::Agent, "antctl get podinterface").await.unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1], ["shop", "db", "db-1a2b", "10.10.0.4", "0a:00:00:00:00:01", "7", "0123456789ab"]);
    assert_eq!((lines.len(), lines[2][1]), (3, "web"));
    let text = fixture.run(Place::Agent, "antctl get podinterface web -n shop").await.unwrap();
    assert!(text.contains("web-1a2b") && !text.contains("db-1a2b"), "{text}");
    assert!(fixture.fails(Place::Agent, "antctl get podinterface nobody").await.contains("\"nobody\""));
    for (words, asked) in [
        ("get of", "FLOW\n-\n"),
        ("get ovsflows -p web -n shop", "FLOW\npod=web&namespace=shop\n"),
        ("get ovsflows -T Classifier,0", "FLOW\ntable=Classifier%2C0\n"),
        ("get ovsflows -G all", "GROUP\ngroups=all\n"),
        ("get ovsflows --table-names-only", "TABLE\ntable-names-only\n"),
        (
            "tp -S shop/web -D 10.0.0.1 -f tcp,tcp_dst=80",
            "Flow: source=shop%2Fweb&destination=10.0.0.1&flow=tcp%2Ctcp_dst%3D80\n",
        ),
        ("trace-packet -p a-1b -F 6 -o raw", "{\"result\":\"Flow: port=a-1b&addressFamily=6\\n\"}\n"),
    ] {
        assert_eq!(fixture.run(Place::Agent, &format!("antctl {words}")).await.unwrap(), asked);
    }
    assert!(fixture.fails(Place::Agent, "antctl trace-packet").await.contains("--source"));
}

#[tokio::test]
async fn the_controllers_local_token_opens_its_api() {
    let fixture = Fixture::new(Cluster::default()).await;
    let error = fixture.fails(Place::Controller, "antctl log-level").await;
    assert!(error.contains("token") && error.contains("antrea-controller running"), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let clients = fixture.clients(Place::Controller);
    std::fs::write(&clients.environment.configuration, format!("apiPort: {port}\nselfSignedCert: true\n"))
        .unwrap();
    let token = local_token(&clients.environment.token).unwrap();
    fixture.component(certificate(), listener, Some(&token)).await;

    assert_eq!(fixture.run(Place::Controller, "antctl log-level").await.unwrap(), "0\n");
    let set = fixture.run(Place::Controller, "antctl log-level info,antrea=debug").await.unwrap();
    assert_eq!(set, "level=info%2Cantrea%3Ddebug\n");
    let gates = fixture.run(Place::Controller, "antctl get featuregates").await.unwrap();
    assert!(gates.ends_with("controller   Egress        Disabled   BETA\n"), "{gates}");
    let yaml = fixture.run(Place::Controller, "antctl get np allow -o yaml").await.unwrap();
    assert!(yaml.contains("cidr: 10.10.0.0/16"), "{yaml}");
    local_token(&clients.environment.token).unwrap();
    let error = fixture.fails(Place::Controller, "antctl log-level").await;
    assert!(error.contains("Unauthorized") && error.contains("restarted"), "{error}");
}
