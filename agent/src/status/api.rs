//! The agent's API: health for kubelet, metrics for Prometheus, and what antctl shows. Everything but
//! health is behind authentication and authorization by the API server.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use antrea_api::features;
use antrea_runtime::health::Readiness;
use antrea_runtime::http::{health_router, metrics_router};
use antrea_runtime::logging::LogHandle;
use antrea_runtime::metrics::Metrics;
use antrea_support::Bundles;
use apiserver_kit::api::Api;
use apiserver_kit::auth::{Auth, local_token};
use apiserver_kit::cert::{self, ServingCert};
use apiserver_kit::metrics::{CertificateExpiry, ServerMetrics};
use apiserver_kit::review::KubeReviewer;
use apiserver_kit::status::Failure;
use apiserver_kit::tls::{ClientTrust, Offer, Tls};
use apiserver_kit::user::User;
use apiserver_kit::{gate, loglevel, serve, trust};
use axum::extract::{Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use k8s_openapi::jiff::Timestamp;
use netcfg::MacAddr;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::capture::Files;
use crate::facts::{Identity, Reporter, compose};
use crate::pods::interfaces::PodInterface;
use crate::pods::server::NetworkState;
use crate::policy::Record;
use crate::status::support::Support;
use crate::status::{bridge, hostpath, policies, traffic};

/// What the handlers show.
#[derive(Clone, Debug)]
pub struct ApiState {
    /// Facts of the status.
    pub reporter: Reporter,
    /// Who the agent is.
    pub identity: Identity,
    /// The node's network, once it is up.
    pub network: NetworkState,
    /// Where ovs-vswitchd has its sockets.
    pub ovs_run_dir: PathBuf,
    /// What the controller said last.
    pub record: Record,
    /// Files of PacketCaptures.
    pub captures: Files,
    /// The log level's handle.
    pub log: LogHandle,
    /// Feature gates as they are.
    pub gates: Vec<features::Status>,
}

/// Routes under upstream's paths.
pub fn routes(
    state: ApiState,
    config: &Path,
    (ready, live): (Readiness, Readiness),
    metrics: Option<Metrics>,
    server: ServerMetrics,
) -> Router {
    let gates = state.gates.clone();
    let support = Support { state: state.clone(), config: config.to_owned(), metrics: metrics.clone() };
    let bundles = Bundles::new("agent", support);
    let mut router = health_router(ready, live)
        .merge(loglevel::router(state.log.clone()))
        .merge(bundles.serve(Api::new(crate::VERSION, server)).router())
        .merge(bundles.download())
        .route("/featuregates", get(async move || Json(gates)))
        .route("/agentinfo", get(agent_info).with_state(state.clone()))
        .route("/podinterfaces", get(pod_interfaces).with_state(state.clone()))
        .route("/packetcaptures", get(packet_capture).with_state(state.captures.clone()))
        .merge(traffic::routes(state.network.clone(), &state.ovs_run_dir))
        .merge(bridge::routes(state.network.clone(), state.ovs_run_dir.clone()))
        .merge(hostpath::routes(state.network.clone(), &state.ovs_run_dir))
        .merge(policies::routes(state.record.clone()));
    if let Some(metrics) = metrics {
        router = router.merge(metrics_router(metrics));
    }
    router.layer(middleware::from_fn_with_state(Arc::new(state.identity), own_node))
}

/// Refuses tokens of other nodes' agents: whoever took one node has no business on another.
async fn own_node(State(identity): State<Arc<Identity>>, request: Request, next: Next) -> Response {
    let account = format!("system:serviceaccount:{}:antrea-agent", identity.namespace);
    let user = request.extensions().get::<User>();
    match user.and_then(|user| user.node_of(&account)) {
        Some(node) if node != identity.node => {
            let message = format!("the agent of {node} has no access to that of {}", identity.node);
            Failure::forbidden(message).into_response()
        }
        _ => next.run(request).await,
    }
}

/// When certificates of this API are renewed.
#[derive(Clone, Copy, Debug)]
pub struct Renewal {
    /// How long one is valid.
    pub validity: Duration,
    /// It is replaced when it has less than this left.
    pub before: Duration,
    /// Clients get this time to read the new CA from AntreaAgentInfo before a certificate of it is served.
    pub settle: Duration,
    /// How often it is looked at.
    pub look: Duration,
}

impl Default for Renewal {
    fn default() -> Self {
        Self {
            validity: cert::VALIDITY,
            before: Duration::from_secs(90 * 24 * 3600),
            // Some heartbeats, each of which writes the CA.
            settle: Duration::from_secs(300),
            look: Duration::from_secs(3600),
        }
    }
}

/// A certificate of this process, for `localhost` as upstream's; its CA goes into AntreaAgentInfo.
fn certificate(validity: Duration) -> Result<ServingCert, cert::Error> {
    ServingCert::issue_for("antrea-agent", &["localhost".into(), "127.0.0.1".into(), "::1".into()], validity)
}

/// The TLS state of this API, with a certificate whose CA is reported.
///
/// # Errors
/// The TLS stack refused the certificate.
pub fn tls(
    reporter: &Reporter,
    expiry: &CertificateExpiry,
    renewal: &Renewal,
    offer: Offer,
) -> Result<Tls, cert::Error> {
    let cert = certificate(renewal.validity)?;
    expiry.set("api", cert.expires_at());
    reporter.update(|facts| facts.api_ca = cert.ca.clone());
    Tls::offering(cert, ClientTrust::default(), offer)
}

/// Renews the certificate for ever.
///
/// # Errors
/// None: what fails is tried again.
pub async fn renew(
    tls: Tls,
    reporter: Reporter,
    expiry: CertificateExpiry,
    renewal: Renewal,
) -> Result<(), Infallible> {
    loop {
        tokio::time::sleep(renewal.look).await;
        let served = tls.cert();
        if served.expires_in() >= renewal.before {
            continue;
        }
        let next = match certificate(renewal.validity) {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, "no new certificate for the API");
                continue;
            }
        };
        // Both, so that clients trust what is served now and what will be.
        reporter.update(|facts| facts.api_ca = format!("{}{}", next.ca, served.ca));
        tokio::time::sleep(renewal.settle).await;
        let until = next.expires_at();
        match tls.set_cert(next) {
            Ok(()) => {
                expiry.set("api", until);
                tracing::info!("the API has a new certificate");
            }
            Err(error) => tracing::warn!(%error, "the API keeps its certificate"),
        }
    }
}

/// Trusts the clients whom the API server trusts, for ever.
///
/// # Errors
/// None: what was known stays.
pub async fn follow_trust(client: kube::Client, tls: Tls) -> Result<(), Infallible> {
    trust::follow(client, tls).await;
    Ok(())
}

/// By the API server, also of tokens that are for the agent of `node` alone; antctl in the same Pod uses a token of its
/// own, which is left at `token`.
pub fn authentication(client: kube::Client, node: &str, token: &Path) -> Auth {
    let reviewer = KubeReviewer::new(client).for_audience(antrea_api::agent::audience(node));
    let auth = Auth::new(Arc::new(reviewer));
    match local_token(token) {
        Ok(secret) => auth.with_local_token(&secret),
        Err(error) => {
            tracing::warn!(path = %token.display(), %error, "antctl in this Pod has no token");
            auth
        }
    }
}

/// Serves `routes` on `port` until `shutdown`.
///
/// # Errors
/// The port is taken.
pub async fn serve(
    port: u16,
    tls: Tls,
    auth: Auth,
    routes: Router,
    metrics: ServerMetrics,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let app = gate::protect(routes, auth, metrics.clone());
    let listener = serve::listen(port).await?;
    serve::serve(listener, tls, app, serve::Limits::NODE, metrics, shutdown).await?;
    Ok(())
}

async fn agent_info(State(state): State<ApiState>) -> Json<Value> {
    let facts = state.reporter.subscribe().borrow().clone();
    Json(json!(compose(&state.identity, &facts, Timestamp::now())))
}

/// What `/podinterfaces` is asked for; empty is everything.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wanted {
    name: String,
    namespace: String,
}

async fn pod_interfaces(
    State(state): State<ApiState>,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Value>, Failure> {
    let network = state.network.borrow().clone();
    let interfaces = network.map(|network| network.interfaces()).unwrap_or_default();
    shown(&interfaces, &wanted).map(Json)
}

/// Which file `/packetcaptures` is asked for: that of the PacketCapture of this name.
#[derive(Debug, Deserialize)]
struct Capture {
    name: String,
}

/// The packets of a capture, for antctl, which needs no `exec` and no `tar` in the container for it.
async fn packet_capture(
    State(files): State<Files>,
    Query(wanted): Query<Capture>,
) -> Result<Response, Failure> {
    let none = || Failure::not_found("files of PacketCaptures", &wanted.name);
    let path = files.path(&wanted.name).ok_or_else(none)?;
    match tokio::fs::read(&path).await {
        Ok(octets) => Ok(([("content-type", "application/octet-stream")], octets).into_response()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(none()),
        Err(error) => Err(Failure::unavailable(format!("{}: {error}", path.display()))),
    }
}

/// Interfaces in upstream's form.
pub(super) fn interface_rows<'a>(interfaces: impl IntoIterator<Item = &'a PodInterface>) -> Vec<Value> {
    let row = |interface: &PodInterface| {
        json!({
            "name": interface.pod_name,
            "podNamespace": interface.pod_namespace,
            "interfaceName": interface.host_ifname,
            "ips": interface.ips,
            "mac": MacAddr(interface.mac).to_string(),
            "ofPort": interface.ofport,
            "containerID": interface.container_id,
        })
    };
    interfaces.into_iter().map(row).collect()
}

fn shown(interfaces: &[PodInterface], wanted: &Wanted) -> Result<Value, Failure> {
    let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
    let rows = interface_rows(interfaces.iter().filter(|interface| {
        fits(&wanted.name, &interface.pod_name) && fits(&wanted.namespace, &interface.pod_namespace)
    }));
    if rows.is_empty() && !wanted.name.is_empty() {
        return Err(Failure::not_found("pod interfaces", &wanted.name));
    }
    Ok(rows.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(namespace: &str, name: &str) -> PodInterface {
        PodInterface {
            host_ifname: format!("{name}-1a2b"),
            container_id: "0123456789abcdef".into(),
            ifname: "eth0".into(),
            pod_name: name.into(),
            pod_namespace: namespace.into(),
            pod_uid: String::new(),
            netns: String::new(),
            mac: [10, 0, 0, 0, 0, 1],
            ips: vec!["10.10.0.5".parse().unwrap()],
            ofport: 7,
        }
    }

    #[test]
    fn interfaces_have_upstreams_form_and_filters() {
        let all = [interface("shop", "web"), interface("bank", "web"), interface("shop", "db")];
        let ask = |name: &str, namespace: &str| {
            shown(&all, &Wanted { name: name.into(), namespace: namespace.into() })
        };
        assert_eq!(
            ask("web", "shop").unwrap(),
            json!([{ "name": "web", "podNamespace": "shop", "interfaceName": "web-1a2b", "ips": ["10.10.0.5"],
                "mac": "0a:00:00:00:00:01", "ofPort": 7, "containerID": "0123456789abcdef" }])
        );
        for (name, namespace, count) in [("", "", 3), ("web", "", 2), ("", "shop", 2), ("", "none", 0)] {
            assert_eq!(ask(name, namespace).unwrap().as_array().unwrap().len(), count, "{name} {namespace}");
        }
        assert_eq!(ask("none", "").unwrap_err().code, 404);
        assert_eq!(ask("db", "bank").unwrap_err().code, 404);
    }

    /// L4: a process that lives longer than its certificate goes on being reachable.
    #[tokio::test]
    async fn the_certificate_renews_itself() {
        antrea_runtime::install_crypto_provider();
        let (reporter, expiry) =
            (Reporter::default(), CertificateExpiry::new(&Metrics::empty(), "t").unwrap());
        let renewal = Renewal {
            validity: Duration::from_secs(3),
            before: Duration::from_secs(2),
            settle: Duration::from_millis(200),
            look: Duration::from_millis(50),
        };
        let tls = tls(&reporter, &expiry, &renewal, Offer::default()).unwrap();
        let first = tls.cert();
        let ca = || reporter.subscribe().borrow().api_ca.clone();
        assert_eq!(ca(), first.ca);
        let task = tokio::spawn(renew(tls.clone(), reporter.clone(), expiry, renewal));
        let begin = std::time::Instant::now();
        while tls.cert() == first {
            // The new CA is told while the old certificate is served.
            assert!(ca().contains(&first.ca));
            assert!(begin.elapsed() < renewal.validity + Duration::from_secs(5), "not renewed");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(ca().starts_with(&tls.cert().ca) && ca().contains(&first.ca));
        assert!(tls.cert().expires_at() > first.expires_at());
        task.abort();
    }

    /// L7: the token of another node's agent opens nothing here.
    #[tokio::test]
    async fn agents_of_other_nodes_are_refused() {
        use tower::ServiceExt;
        let identity = Identity { node: "n1".into(), namespace: "kube-system".into(), ..Identity::default() };
        let router = Router::new()
            .route("/", get(async || "here"))
            .layer(middleware::from_fn_with_state(Arc::new(identity), own_node));
        let agent = "system:serviceaccount:kube-system:antrea-agent";
        for (name, node, expected) in [
            (agent, Some("n1"), 200),
            (agent, Some("n2"), 403),
            (agent, None, 200),
            ("system:serviceaccount:kube-system:admin", Some("n2"), 200),
        ] {
            let node =
                node.map(|node| ("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()]));
            let user = User { name: name.to_owned(), extra: node.into_iter().collect(), ..User::default() };
            let request = Request::get("/").extension(user).body(axum::body::Body::empty()).unwrap();
            assert_eq!(router.clone().oneshot(request).await.unwrap().status(), expected, "{name}");
        }
    }
}
