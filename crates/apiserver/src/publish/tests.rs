use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::Value;

use super::*;
use crate::tls::ClientTrust;

const HOOKS: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/hooks";

/// An API server that takes whatever it is sent.
#[derive(Clone, Default)]
struct Cluster(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// How it refuses who asks for this path.
    refused: BTreeMap<&'static str, StatusCode>,
    /// CAs that the ConfigMap was to have, in order.
    told: Vec<String>,
    stored: Option<Value>,
}

impl Cluster {
    async fn answer(self, request: Request<Body>) -> Result<Response<Body>, Infallible> {
        let (parts, body) = request.into_parts();
        let sent = body.collect().await.unwrap().to_bytes();
        let sent: Value = serde_json::from_slice(&sent).unwrap_or_default();
        let (path, mut state) = (parts.uri.path(), self.0.lock());
        let (code, answer) = match state.refused.get(path) {
            Some(code) => {
                let message = format!("{path}: {code}");
                let status = json!({"apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
                                    "message": message, "reason": "", "code": code.as_u16()});
                (*code, status)
            }
            None if path.contains("/secrets/") => {
                if parts.method == Method::PATCH {
                    let text = |key: &str| sent["stringData"][key].as_str().unwrap().as_bytes().to_vec();
                    let data = |key: &str| json!(ByteString(text(key)));
                    let [ca, cert, key] = ["ca.crt", "tls.crt", "tls.key"].map(data);
                    state.stored = Some(json!({"ca.crt": ca, "tls.crt": cert, "tls.key": key}));
                }
                (StatusCode::OK, json!({"metadata": {"name": "s"}, "data": state.stored}))
            }
            None => {
                state.told.extend(sent["data"]["ca.crt"].as_str().map(str::to_owned));
                (StatusCode::OK, json!({"metadata": {"name": "o"}}))
            }
        };
        let answer = Response::builder().status(code).body(Body::from(serde_json::to_vec(&answer).unwrap()));
        Ok(answer.unwrap())
    }

    fn refuse(&self, path: &'static str, code: StatusCode) {
        self.0.lock().refused.insert(path, code);
    }

    /// Who issues certificates, and tells an APIService and a configuration of webhooks.
    fn manager(&self) -> CertManager {
        let cluster = self.clone();
        let service = tower::service_fn(move |request| cluster.clone().answer(request));
        CertManager {
            client: Client::new(service, "n"),
            namespace: "n".to_owned(),
            source: Source::Issued { name: "o".to_owned(), names: names(), secret: "s".to_owned() },
            config_map: "ca".to_owned(),
            api_services: vec!["v1.example".to_owned()],
            webhooks: vec![Webhooks::Validating("hooks")],
            manager: "m".to_owned(),
        }
    }
}

fn names() -> Vec<String> {
    vec!["a.b".to_owned()]
}

/// A certificate with so many days left, served.
fn served(days: u64) -> (ServingCert, Tls) {
    antrea_runtime::install_crypto_provider();
    let cert = ServingCert::issue_for("o", &names(), Duration::from_secs(days * 24 * 3600)).unwrap();
    (cert.clone(), Tls::new(cert, ClientTrust::default()).unwrap())
}

#[tokio::test]
async fn who_is_not_there_holds_up_no_renewal() {
    let (cluster, (old, tls)) = (Cluster::default(), served(60));
    cluster.refuse(HOOKS, StatusCode::NOT_FOUND);
    let manager = cluster.manager();
    let error = manager.step(&tls, &mut None, Duration::ZERO).await.unwrap_err();
    assert!(error.to_string().starts_with("ValidatingWebhookConfiguration hooks: "), "{error}");
    assert!(tls.cert() != old && tls.cert().expires_in() > RENEW_BEFORE);
    assert!(tls.cert().ca.ends_with(&old.ca), "who has met the old one goes on");
    assert_eq!(manager.bootstrap().await.unwrap(), tls.cert(), "it is stored");
}

#[tokio::test]
async fn who_refuses_holds_it_up_for_a_while() {
    let (cluster, (old, tls)) = (Cluster::default(), served(60));
    cluster.refuse(HOOKS, StatusCode::FORBIDDEN);
    let (manager, mut next) = (cluster.manager(), None);
    for _ in 0..2 {
        manager.step(&tls, &mut next, Duration::ZERO).await.unwrap_err();
        assert_eq!(tls.cert(), old);
    }
    let told = cluster.0.lock().told.clone();
    assert_eq!(told.len(), 2);
    assert!(told[0] == told[1], "each try had a CA of its own");
    cluster.0.lock().refused.clear();
    manager.step(&tls, &mut next, Duration::ZERO).await.unwrap();
    assert_eq!((&tls.cert().ca, next), (&told[0], None));
    // Soon nobody could connect.
    let (old, tls) = served(1);
    cluster.refuse(HOOKS, StatusCode::FORBIDDEN);
    manager.step(&tls, &mut None, Duration::ZERO).await.unwrap_err();
    assert_ne!(tls.cert(), old);
    // Agents have it from the ConfigMap: those would be lost at once.
    let (old, tls) = served(1);
    cluster.refuse("/api/v1/namespaces/n/configmaps/ca", StatusCode::FORBIDDEN);
    manager.step(&tls, &mut None, Duration::ZERO).await.unwrap_err();
    assert_eq!(tls.cert(), old);
}

/// A start would else be with a CA that nobody knows.
#[tokio::test]
async fn a_start_does_not_renew() {
    let (cluster, (old, _)) = (Cluster::default(), served(60));
    let manager = cluster.manager();
    manager.store("s", &old).await;
    assert_eq!(manager.bootstrap().await.unwrap(), old);
    manager.store("s", &served(0).0).await;
    let new = manager.bootstrap().await.unwrap();
    assert!(new != old && new.expires_in() > RENEW_BEFORE);
}

#[test]
fn a_renewed_bundle_holds_two_cas() {
    let names = ["a.b".to_owned()];
    let (old, new) = (ServingCert::issue("o", &names).unwrap(), ServingCert::issue("n", &names).unwrap());
    let mut bundle = new.ca.clone();
    bundle.push_str(first_certificate(&old.ca));
    assert_eq!(cert::certificates("bundle", bundle.as_bytes()).unwrap().len(), 2);
    assert_eq!(first_certificate(&bundle), new.ca);
}

/// While the API server is away, so that nothing is published; which is no reason not to serve it.
#[tokio::test]
async fn a_certificate_of_ones_own_is_served_and_followed_and_a_bad_one_is_not() {
    antrea_runtime::install_crypto_provider();
    let folder = tempfile::tempdir().unwrap();
    let write = |cert: &ServingCert| {
        for (name, text) in [("ca.crt", &cert.ca), ("tls.crt", &cert.cert), ("tls.key", &cert.key)] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
    };
    let [first, second] = ["a", "b"].map(|name| ServingCert::issue(name, &["a.b".to_owned()]).unwrap());
    let manager = CertManager {
        client: Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap(),
        namespace: "n".to_owned(),
        source: Source::Files(folder.path().into()),
        config_map: "ca".to_owned(),
        api_services: Vec::new(),
        webhooks: Vec::new(),
        manager: "m".to_owned(),
    };
    let error = manager.bootstrap().await.unwrap_err().to_string();
    assert!(error.contains("ca.crt"), "{error}");
    write(&first);
    let tls = Tls::new(manager.bootstrap().await.unwrap(), ClientTrust::default()).unwrap();
    assert_eq!(tls.cert(), first);
    write(&second);
    let error = manager.step(&tls, &mut None, SETTLE).await.unwrap_err().to_string();
    assert!(error.contains("ConfigMap n/ca"), "{error}");
    assert_eq!(tls.cert(), second);
    std::fs::write(folder.path().join("tls.key"), &first.key).unwrap();
    assert!(manager.step(&tls, &mut None, SETTLE).await.is_err(), "a key of another certificate");
    assert_eq!(tls.cert(), second, "the last good one is served");
}
