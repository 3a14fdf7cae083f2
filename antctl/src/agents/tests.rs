//! Agents from outside: what they are shown, and that all of antctl's words for them arrive.

use apiserver_kit::{cert::ServingCert, tls::ClientTrust};
use axum::{Router, http::StatusCode, routing::get};
use k8s_openapi::{ByteString, jiff::Timestamp};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    cli::Proxy,
    connect::Place,
    proxy,
    tests::{Cluster, Fixture, NARROW, agent_info},
};

const TOKEN: &str = "POST /api/v1/namespaces/antrea-system/serviceaccounts/antctl/token";

/// A fixture with the agent of n1, and the tokens that it was shown.
pub(crate) struct Lab {
    fixture: Fixture,
    shown: Arc<Mutex<Vec<String>>>,
}

impl Lab {
    async fn new(token: Option<&str>, trusted: bool, trust: ClientTrust) -> Self {
        Self::serving(token, trusted, trust, Fixture::routes()).await
    }

    pub(crate) async fn serving(
        token: Option<&str>,
        trusted: bool,
        trust: ClientTrust,
        routes: Router,
    ) -> Self {
        Self::beside(token, trusted, trust, routes, |_| {}).await
    }

    /// The same, where the API server holds more.
    pub(crate) async fn beside(
        token: Option<&str>,
        trusted: bool,
        trust: ClientTrust,
        routes: Router,
        more: impl FnOnce(&mut Cluster),
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let issue = || ServingCert::issue("antrea-agent", &["localhost".to_owned()]).unwrap();
        let (cert, other) = (issue(), issue());
        let ca = if trusted { &cert.ca } else { &other.ca };
        let node = json!({"metadata": {"name": "n1"},
            "status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
        let controller = json!({"metadata": {"name": "antrea-controller"},
            "serviceRef": {"name": "antrea", "namespace": "antrea-system"}});
        let nodes = json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadataList", "metadata": {},
            "items": [{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {"name": "n1"}}]});
        let mut answers = vec![
            ("GET /api/v1/nodes/n1", node),
            ("GET /api/v1/nodes", nodes.clone()),
            ("GET /api/v1/nodes?", nodes),
            ("GET /apis/crd.antrea.io/v1beta1/antreacontrollerinfos/antrea-controller", controller),
        ];
        answers.extend(token.map(|token| (TOKEN, json!({"status": {"token": token}}))));
        let shown = Arc::default();
        let mut cluster = Cluster {
            agents: vec![agent_info("n1", Timestamp::now(), port, ca)],
            answers: answers.into_iter().map(|(path, answer)| (path.to_owned(), answer)).collect(),
            allows: true,
            shown: Arc::clone(&shown),
            ..Cluster::default()
        };
        more(&mut cluster);
        let fixture = Fixture::new(cluster).await;
        fixture.serve_whom(cert, listener, None, routes, trust).await;
        Self { fixture, shown }
    }

    pub(crate) async fn run(&self, words: &str) -> String {
        self.fixture.run(Place::Elsewhere, &format!("antctl {words}")).await.unwrap()
    }

    pub(crate) async fn tries(&self, words: &str) -> anyhow::Result<String> {
        self.fixture.run(Place::Elsewhere, &format!("antctl {words}")).await
    }

    pub(crate) async fn fails(&self, words: &str) -> String {
        self.fixture.fails(Place::Elsewhere, &format!("antctl {words}")).await
    }

    fn shown(&self) -> Vec<String> {
        self.shown.lock().unwrap().clone()
    }

    /// Gives the user a client certificate, beside the token.
    fn certify(&self, client: &Client) {
        let mut config: Value =
            serde_json::from_str(&std::fs::read_to_string(&self.fixture.kubeconfig).unwrap()).unwrap();
        let data = |text: &str| ByteString(text.as_bytes().to_vec());
        config["users"][0]["user"] = json!({"token": "good",
            "client-certificate-data": data(&client.cert), "client-key-data": data(&client.key)});
        std::fs::write(&self.fixture.kubeconfig, config.to_string()).unwrap();
    }
}

struct Client {
    ca: String,
    cert: String,
    key: String,
}

fn client() -> Client {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "cluster");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap().pem();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::default();
    leaf.distinguished_name.push(DnType::CommonName, "alice");
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let cert = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap().pem();
    Client { ca: ca_cert, cert, key: key.serialize_pem() }
}

#[tokio::test]
async fn every_command_for_agents_works_from_outside() {
    let lab = Lab::new(Some(NARROW), true, ClientTrust::default()).await;
    for (words, expected) in [
        (
            "get podinterface --node n1",
            "NAMESPACE   NAME   INTERFACE-NAME   IP          MAC                 OF-PORT   CONTAINER-ID\n\
             shop        db     db-1a2b          10.10.0.4   0a:00:00:00:00:01   7         0123456789ab\n\
             shop        web    web-1a2b         10.10.0.5   0a:00:00:00:00:01   7         0123456789ab\n",
        ),
        ("get ovsflows -T Classifier,0 --node n1", "FLOW\ntable=Classifier%2C0\n"),
        (
            "get np deny -n shop --node n1",
            "NAME   SOURCE                        APPLIED-TO   RULES   TIER-PRIORITY   PRIORITY\n\
             u2     K8sNetworkPolicy:shop/deny   1            1       -               -\n",
        ),
        (
            "get featuregates --node n1",
            "COMPONENT    FEATUREGATE   STATUS     VERSION\n\
             controller   Egress        Disabled   BETA\n",
        ),
        ("trace-packet -S 10.0.0.1 --node n1", "Flow: source=10.0.0.1\n"),
        ("log-level --node n1", "0\n"),
        ("log-level debug --nodes n1", "level=debug\n"),
    ] {
        let text = lab.run(words).await;
        let squeeze = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(squeeze(&text), squeeze(expected), "{words}:\n{text}");
    }
    assert_eq!(lab.shown(), [NARROW], "nothing but the token that is this agent's alone");
    let error = lab.fails("log-level --nodes n1,n9").await;
    assert_eq!(error, "not all agents answered: not of n9");
    assert!(lab.fails("get podinterface nobody --node n1").await.contains("\"nobody\""));
    assert!(lab.fails("get controllerinfo --node n1").await.contains("--node"));
    assert!(lab.fails("get agentinfo n1 --node n1").await.contains("one of them"));
    let error = lab.fixture.fails(Place::Controller, "antctl get podinterface --node n1").await;
    assert!(error.contains("antrea-agent container"), "{error}");
    let error = lab.fixture.fails(Place::Agent, "antctl get podinterface --node n2").await;
    assert!(error.contains("another Node's agent"), "{error}");
}

#[tokio::test]
async fn who_gets_no_token_shows_none_and_is_told_why() {
    let lab = Lab::new(None, true, ClientTrust::default()).await;
    let error = lab.fails("get podinterface --node n1").await;
    assert!(error.contains("serviceaccounts/antctl/token"), "{error}");
    assert_eq!(lab.shown(), [""; 0], "the user's own token went to the agent");
    // The agent takes no token that is for another one.
    let other = "e30.eyJhdWQiOlsiYW50cmVhLWFnZW50L24yIl19.c2ln";
    let lab = Lab::new(Some(other), true, ClientTrust::default()).await;
    let error = lab.fails("get podinterface --node n1").await;
    assert!(error.contains("antrea-agent of n1 does not accept the credentials"), "{error}");
}

#[tokio::test]
async fn an_agent_that_does_not_prove_itself_is_shown_nothing() {
    let lab = Lab::new(Some(NARROW), false, ClientTrust::default()).await;
    let error = lab.fails("get podinterface --node n1").await;
    assert!(error.contains("antrea-agent of n1 does not answer at 127.0.0.1:"), "{error}");
    assert_eq!(lab.shown(), [""; 0]);
}

#[tokio::test]
async fn a_client_certificate_does_where_the_agent_knows_its_ca() {
    let (known, unknown) = (client(), client());
    let trust = ClientTrust { client_ca: Some(known.ca.clone()), ..ClientTrust::default() };
    let lab = Lab::new(None, true, trust.clone()).await;
    lab.certify(&known);
    assert!(lab.run("get podinterface --node n1").await.contains("web-1a2b"));
    assert_eq!(lab.shown(), [""; 0], "no token is needed, so none is shown");
    // Of an unknown CA, and of an agent that asks for none.
    for (client, trust) in [(&unknown, trust), (&known, ClientTrust::default())] {
        let lab = Lab::new(Some(NARROW), true, trust).await;
        lab.certify(client);
        assert!(lab.run("get podinterface --node n1").await.contains("web-1a2b"));
        assert_eq!(lab.shown(), [NARROW]);
    }
}

/// What a server in plain HTTP answers.
async fn raw(address: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn the_proxy_passes_on_what_comes_from_here() {
    let lab = Lab::new(Some(NARROW), true, ClientTrust::default()).await;
    let clients = lab.fixture.clients(Place::Elsewhere);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = clients.agent(Some("n1"), "").await.unwrap();
    let serving = tokio::spawn(proxy::serve(clients.clone(), Some("n1".to_owned()), server, listener));
    let ask = async |head: &str| raw(address, head).await;
    let answer =
        ask("GET /ovsflows?table=0 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer other").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("[{\"flow\":\"table=0\"}]"), "{answer}");
    let answer = ask("PUT /loglevel?level=4 HTTP/1.1\r\nHost: 127.0.0.1:8001\r\nContent-Length: 0").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let answer = ask("GET /nothing HTTP/1.1\r\nHost: localhost").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let answer = ask("GET /loglevel HTTP/1.1\r\nHost: rebound.example").await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    assert_eq!(lab.shown(), [NARROW], "credentials of the proxy's callers are not passed on");
    serving.abort();
    let wanted = Proxy {
        controller: false,
        agent_node: Some("n1".to_owned()),
        address: "0.0.0.0".parse().unwrap(),
        port: 0,
    };
    let error = proxy::run(&clients, &wanted).await.unwrap_err();
    assert!(error.to_string().contains("only this machine"), "{error}");
}

/// An agent that was restarted knows the credentials no more, and has another certificate.
#[tokio::test]
async fn the_proxy_looks_up_anew_who_refuses() {
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let of_api_server = Arc::clone(&asked);
    let second = get(async move || {
        let tokens = of_api_server.lock().unwrap().iter().filter(|what| *what == TOKEN).count();
        if tokens < 2 { Err(StatusCode::UNAUTHORIZED) } else { Ok("here") }
    });
    let lab = Lab::beside(
        Some(NARROW),
        true,
        ClientTrust::default(),
        Router::new().route("/agentinfo", second),
        |cluster| cluster.asked = Arc::clone(&asked),
    )
    .await;
    let clients = lab.fixture.clients(Place::Elsewhere);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = clients.agent(Some("n1"), "").await.unwrap();
    let serving = tokio::spawn(proxy::serve(clients, Some("n1".to_owned()), server, listener));
    let ask = "GET /agentinfo HTTP/1.1\r\nHost: localhost";
    let refused = raw(address, ask).await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    let answer = raw(address, ask).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    serving.abort();
}
