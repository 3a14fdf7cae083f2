//! A server over real TLS, its PKI, and a Kubernetes API server that answers reviews.

use std::{collections::HashMap, sync::Arc};

use antrea_api::{
    controlplane::AddressGroup,
    k8s::{EventType, ObjectMeta},
};
use antrea_runtime::{
    health::Readiness,
    http::{health_router, metrics_router},
    metrics::Metrics,
};
use apiserver_kit::{
    api::Api,
    auth::Auth,
    cert::ServingCert,
    gate,
    hub::{Filter, Hub, Render, Subscription},
    metrics::ServerMetrics,
    object::{Column, Item, Object},
    review::KubeReviewer,
    serve::{Limits, serve},
    status::Failure,
    storage::{Create, List, Resource, Selection, Storage},
    tls::{ClientTrust, Tls},
};
use axum::{Json, Router, routing::post};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

pub const GROUPS: Resource = Resource {
    group: "controlplane.antrea.io",
    version: "v1beta2",
    api_version: "controlplane.antrea.io/v1beta2",
    plural: "addressgroups",
    singular: "addressgroup",
    kind: "AddressGroup",
    description: "A group.",
    namespaced: false,
    short_names: &["ag"],
    verbs: &["get", "list", "watch", "create"],
    columns: &[Column::new("Members", "integer", "Members."), Column::new("Pods", "string", "Pods.")],
    fields: &["nodeName"],
    subresources: &[],
};

pub type Groups = Hub<Vec<AddressGroup>>;

pub fn group(name: &str, generation: i64) -> AddressGroup {
    let metadata = ObjectMeta { generation, ..ObjectMeta::named(name) };
    AddressGroup { metadata, ..AddressGroup::default() }
}

pub struct Change(pub AddressGroup);

impl Render for Change {
    fn added(&mut self, _: Option<&str>) -> Option<Arc<Item>> {
        Some(Item::new(EventType::Added, self.0.clone(), GROUPS.columns))
    }
    fn modified(&mut self, _: Option<&str>) -> Option<Arc<Item>> {
        Some(Item::new(EventType::Modified, self.0.clone(), GROUPS.columns))
    }
    fn deleted(&mut self) -> Option<Arc<Item>> {
        Some(Item::new(EventType::Deleted, self.0.clone(), GROUPS.columns))
    }
}

struct View(Arc<Groups>);

impl Storage for View {
    fn list(&self, selection: &Selection) -> Result<List, Failure> {
        let (objects, resource_version) = self.0.read(|groups, _| {
            let wanted = |g: &&AddressGroup| selection.name.as_ref().is_none_or(|n| *n == g.metadata.name);
            groups.iter().filter(wanted).map(|g| Arc::new(g.clone()) as Arc<dyn Object>).collect()
        });
        Ok(List { resource_version, objects })
    }

    fn get(&self, _: &str, name: &str) -> Result<Arc<dyn Object>, Failure> {
        let list = self.list(&Selection { name: Some(name.to_owned()), ..Selection::default() })?;
        list.objects.into_iter().next().ok_or_else(|| Failure::not_found("addressgroups", name))
    }

    fn watch(&self, selection: &Selection) -> Result<Subscription, Failure> {
        let filter = Filter {
            resource: 0,
            node: selection.fields.get("nodeName").map(|n| n.as_str().into()),
            name: selection.name.clone(),
        };
        let wanted = filter.name.clone();
        Ok(self.0.subscribe(filter, |groups| {
            let wanted = |g: &&AddressGroup| wanted.as_ref().is_none_or(|name| *name == g.metadata.name);
            groups
                .iter()
                .filter(wanted)
                .map(|g| Item::new(EventType::Added, g.clone(), GROUPS.columns))
                .collect()
        }))
    }

    fn create(&self, create: Create) -> BoxFuture<'_, Result<Arc<dyn Object>, Failure>> {
        Box::pin(async move {
            let mut group: AddressGroup = create.body.decode()?;
            group.metadata.annotations.insert("creator".to_owned(), create.user.name);
            Ok(Arc::new(group) as Arc<dyn Object>)
        })
    }
}

/// A CA of the test's PKI.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key in PEM for a client.
    pub fn client(&self, name: &str, groups: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    }
}

/// Everything that a test talks to.
pub struct World {
    pub port: u16,
    pub tls: Tls,
    pub hub: Arc<Groups>,
    pub ready: Readiness,
    pub client_ca: Authority,
    pub proxy_ca: Authority,
    shutdown: CancellationToken,
}

impl Drop for World {
    fn drop(&mut self) {
        self.hub.close();
        self.shutdown.cancel();
    }
}

async fn token_review(Json(review): Json<Value>) -> Json<Value> {
    let user = match review["spec"]["token"].as_str().unwrap_or_default() {
        "agent-token" => Some("agent"),
        "nobody-token" => Some("nobody"),
        "only-a-token" => Some("only-a"),
        "helper-token" => Some("helper"),
        "slow-token" => {
            tokio::time::sleep(std::time::Duration::from_secs(60)).await;
            None
        }
        _ => None,
    };
    let status = match user {
        Some(name) => json!({ "authenticated": true, "user": { "username": name, "groups": ["g"] } }),
        None => json!({ "authenticated": false }),
    };
    Json(
        json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "metadata": {}, "spec": review["spec"], "status": status }),
    )
}

/// Only `agent` and `alice` may do anything, but impersonate nobody. `only-a` may do anything to what is named `a`,
/// `helper` may impersonate `alice`.
async fn access_review(Json(review): Json<Value>) -> Json<Value> {
    let asked = &review["spec"]["resourceAttributes"];
    let impersonation = asked["verb"] == "impersonate";
    let allowed = match review["spec"]["user"].as_str() {
        Some("agent" | "alice") => !impersonation,
        Some("only-a") => asked["name"] == "a",
        Some("helper") => impersonation && asked["resource"] == "users" && asked["name"] == "alice",
        _ => false,
    };
    Json(
        json!({ "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "metadata": {}, "spec": review["spec"], "status": { "allowed": allowed } }),
    )
}

impl World {
    pub async fn new() -> Self {
        Self::limited(Limits::CLUSTER).await
    }

    /// A server that holds so many connections.
    pub async fn limited(limits: Limits) -> Self {
        antrea_runtime::install_crypto_provider();
        let shutdown = CancellationToken::new();

        let kube = Router::new()
            .route("/apis/authentication.k8s.io/v1/tokenreviews", post(token_review))
            .route("/apis/authorization.k8s.io/v1/subjectaccessreviews", post(access_review));
        let kube_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let kube_url = format!("http://{}", kube_listener.local_addr().unwrap());
        tokio::spawn(antrea_runtime::http::serve_on(kube_listener, kube, shutdown.clone()));
        let client = kube::Client::try_from(kube::Config::new(kube_url.parse().unwrap())).unwrap();

        let (client_ca, proxy_ca) = (Authority::new("clients"), Authority::new("front-proxy"));
        let trust = ClientTrust {
            client_ca: Some(client_ca.pem.clone()),
            proxy_ca: Some(proxy_ca.pem.clone()),
            proxy_names: vec!["front-proxy-client".into()],
            username_headers: vec!["X-Remote-User".into()],
            group_headers: vec!["X-Remote-Group".into()],
            extra_prefixes: vec!["X-Remote-Extra-".into()],
        };
        let cert = ServingCert::issue("test", &["localhost".to_owned()]).unwrap();
        let tls = Tls::new(cert, trust).unwrap();

        let metrics = Metrics::new("test", "v1").unwrap();
        let server_metrics = ServerMetrics::new(&metrics, [GROUPS.plural]).unwrap();
        let hub = Groups::new(Vec::new(), 1);
        let ready = Readiness::new();
        let router = Api::new("v1.2.3", server_metrics.clone())
            .with(GROUPS, Arc::new(View(Arc::clone(&hub))))
            .router()
            .merge(health_router(ready.clone(), Readiness::new()))
            .merge(metrics_router(metrics));
        let app =
            gate::protect(router, Auth::new(Arc::new(KubeReviewer::new(client))), server_metrics.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(serve(listener, tls.clone(), app, limits, server_metrics, shutdown.clone()));
        Self { port, tls, hub, ready, client_ca, proxy_ca, shutdown }
    }

    /// Connects with HTTP/2, trusting the CA that is served now, with a client certificate if given.
    pub async fn connect(&self, identity: Option<&(String, String)>) -> std::io::Result<Connection> {
        let stream = self.tls_from([127, 0, 0, 1], "h2", identity).await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Connection { sender })
    }

    /// A TLS connection from `address` on which nothing was said yet.
    pub async fn tls_from(
        &self,
        address: [u8; 4],
        protocol: &str,
        identity: Option<&(String, String)>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for ca in apiserver_kit::cert::certificates("ca", self.tls.cert().ca.as_bytes()).unwrap() {
            roots.add(ca).unwrap();
        }
        let config = ClientConfig::builder().with_root_certificates(roots);
        let mut config = match identity {
            None => config.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = apiserver_kit::cert::certificates("client", cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                config.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![protocol.into()];
        let socket = TcpSocket::new_v4()?;
        socket.bind((address, 0).into())?;
        let stream = socket.connect(([127, 0, 0, 1], self.port).into()).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from("localhost").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// A connection whose requests carry the token of a user who may do everything.
    pub async fn agent(&self) -> Connection {
        self.connect(None).await.unwrap()
    }
}

#[derive(Clone)]
pub struct Connection {
    pub sender: http2::SendRequest<Full<Bytes>>,
}

pub const TOKEN: (&str, &str) = ("authorization", "Bearer agent-token");

impl Connection {
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> hyper::Result<Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(format!("https://localhost{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.sender.ready().await?;
        self.sender.send_request(request.body(Full::new(body.into())).unwrap()).await
    }

    pub async fn get(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> (StatusCode, HashMap<String, String>, Bytes) {
        let response = self.send(Method::GET, path, headers, "").await.unwrap();
        let status = response.status();
        let found =
            response.headers().iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap().to_owned())).collect();
        (status, found, response.into_body().collect().await.unwrap().to_bytes())
    }

    pub async fn json(&mut self, path: &str, accept: &str) -> Value {
        let (status, _, body) = self.get(path, &[TOKEN, ("accept", accept)]).await;
        assert_eq!(status, 200, "{path}: {body:?}");
        serde_json::from_slice(&body).unwrap()
    }
}
