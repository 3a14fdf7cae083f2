//! Issue "Unauthenticated and unauthorised requests to every path are refused": over real TLS.
#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "a test from top to bottom")]

#[allow(dead_code, reason = "each suite uses a part")]
mod common;

use common::{TOKEN, World, group};
use futures::future::BoxFuture;
use http::Method;
use serde_json::Value;

const PATHS: [&str; 22] = [
    "/",
    "/api",
    "/apis",
    "/apis/",
    "/apis/controlplane.antrea.io",
    "/apis/controlplane.antrea.io/v1beta2",
    "/apis/controlplane.antrea.io/v1beta2/",
    "/apis/controlplane.antrea.io/v1beta2/addressgroups",
    "/apis/controlplane.antrea.io/v1beta2/addressgroups?watch=true",
    "/apis/controlplane.antrea.io/v1beta2/addressgroups/a",
    "/apis/controlplane.antrea.io/v1beta2/addressgroups/a/status",
    "/apis/controlplane.antrea.io/v1beta2/namespaces/x/addressgroups",
    "/apis/unknown.io/v1/things",
    "/openapi/v2",
    "/openapi/v3",
    "/openapi/v3/apis/controlplane.antrea.io/v1beta2",
    "/version",
    "/metrics",
    "/healthz/",
    "/healthz/../metrics",
    "/healthz%2f..%2fmetrics",
    "//healthz",
];

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_on_every_path() {
    let world = World::new().await;
    let mut connection = world.connect(None).await.unwrap();
    let methods = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
    ];
    type Stranger = (&'static str, Vec<(&'static str, &'static str)>, u16);
    let strangers: [Stranger; 6] = [
        ("no credentials", vec![], 401),
        ("an invalid token", vec![("authorization", "Bearer wrong")], 401),
        ("basic auth", vec![("authorization", "Basic YWdlbnQ6eA==")], 401),
        (
            "forwarded headers without the proxy's certificate",
            vec![("x-remote-user", "alice"), ("x-remote-group", "system:masters")],
            401,
        ),
        ("a valid user without rights", vec![("authorization", "Bearer nobody-token")], 403),
        (
            "the same with forwarded headers",
            vec![
                ("authorization", "Bearer nobody-token"),
                ("x-remote-user", "alice"),
                ("x-remote-group", "system:masters"),
            ],
            403,
        ),
    ];
    for path in PATHS {
        for method in &methods {
            for (who, headers, expected) in &strangers {
                let response = connection.send(method.clone(), path, headers, "{}").await.unwrap();
                // Whoever is refused that often is told to wait.
                let waits = *expected == 403 && response.status() == 429;
                assert!(waits || response.status() == *expected, "{method} {path} by {who}: {response:?}");
            }
        }
    }
    for path in apiserver_kit::gate::PUBLIC {
        let (status, _, body) = connection.get(path, &[]).await;
        assert_eq!((status.as_u16(), &body[..]), (200, &b"ok"[..]), "{path}");
    }
}

async fn creator(
    world: &World,
    identity: Option<&(String, String)>,
    headers: &[(&str, &str)],
) -> Result<String, u16> {
    use http_body_util::BodyExt;
    let mut connection = world.connect(identity).await.map_err(|_| 0_u16)?;
    let body = serde_json::to_vec(&group("a", 1)).unwrap();
    let path = "/apis/controlplane.antrea.io/v1beta2/addressgroups";
    let response = connection.send(Method::POST, path, headers, body).await.map_err(|_| 0_u16)?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let value: Value = serde_json::from_slice(&body).unwrap();
    if status == 201 {
        Ok(value["metadata"]["annotations"]["creator"].as_str().unwrap().to_owned())
    } else {
        Err(status)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_authenticate_gives_the_right_user() {
    let world = World::new().await;
    let forwarded = [("x-remote-user", "alice"), ("x-remote-group", "dev")];
    let proxy = world.proxy_ca.client("front-proxy-client", &[]);
    assert_eq!(creator(&world, Some(&proxy), &forwarded).await, Ok("alice".into()));
    let mallory = [("x-remote-user", "mallory")];
    assert_eq!(creator(&world, Some(&proxy), &mallory).await, Err(403));
    assert_eq!(creator(&world, Some(&proxy), &[]).await, Err(401), "the proxy speaks for nobody");
    assert_eq!(creator(&world, Some(&proxy), &[TOKEN]).await, Ok("agent".into()), "a token still counts");

    let other = world.proxy_ca.client("some-other-proxy", &[]);
    assert_eq!(creator(&world, Some(&other), &forwarded).await, Err(401), "name not allowed");
    let posing = world.client_ca.client("front-proxy-client", &[]);
    assert_eq!(creator(&world, Some(&posing), &forwarded).await, Err(403), "right name, wrong CA");

    let alice = world.client_ca.client("alice", &["dev"]);
    assert_eq!(creator(&world, Some(&alice), &[]).await, Ok("alice".into()));
    let bob = world.client_ca.client("bob", &[]);
    assert_eq!(creator(&world, Some(&bob), &forwarded).await, Err(403), "headers are ignored");
    let admin = world.client_ca.client("root", &["system:masters"]);
    assert_eq!(creator(&world, Some(&admin), &[]).await, Ok("root".into()));

    let unknown = common::Authority::new("unknown").client("alice", &["system:masters"]);
    assert_eq!(creator(&world, Some(&unknown), &[]).await, Err(0), "unknown CA: no connection");
    assert_eq!(creator(&world, None, &[TOKEN]).await, Ok("agent".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_follows_the_config_map_without_a_restart() {
    let world = World::new().await;
    let next = common::Authority::new("clients-2");
    let alice = next.client("alice", &[]);
    assert_eq!(creator(&world, Some(&alice), &[]).await, Err(0));
    let trust = apiserver_kit::tls::ClientTrust { client_ca: Some(next.pem.clone()), ..Default::default() };
    world.tls.set_trust(trust).unwrap();
    assert_eq!(creator(&world, Some(&alice), &[]).await, Ok("alice".into()));
    let proxy = world.proxy_ca.client("front-proxy-client", &[]);
    assert_eq!(creator(&world, Some(&proxy), &[("x-remote-user", "alice")]).await, Err(0));
    let broken = apiserver_kit::tls::ClientTrust { client_ca: Some("junk".into()), ..Default::default() };
    assert!(world.tls.set_trust(broken).is_err());
    assert_eq!(creator(&world, Some(&alice), &[]).await, Ok("alice".into()), "the last good trust stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_rotate_under_open_connections() {
    let world = World::new().await;
    let mut before = world.agent().await;
    let names = ["localhost".to_owned()];
    world.tls.set_cert(apiserver_kit::cert::ServingCert::issue("test", &names).unwrap()).unwrap();
    let mut after = world.agent().await;
    for connection in [&mut before, &mut after] {
        assert_eq!(connection.json("/version", "*/*").await["gitVersion"], "v1.2.3");
    }
    let broken = apiserver_kit::cert::ServingCert { key: "junk".into(), ..world.tls.cert() };
    assert!(world.tls.set_cert(broken).is_err());
    world.agent().await.json("/version", "*/*").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_and_malformed_bodies_are_refused() {
    let world = World::new().await;
    let mut connection = world.agent().await;
    let path = "/apis/controlplane.antrea.io/v1beta2/addressgroups";
    let json = ("content-type", "application/json");
    let protobuf = ("content-type", "application/vnd.kubernetes.protobuf");
    let cases: [((&str, &str), Vec<u8>, u16); 5] = [
        (json, vec![b' '; (3 << 20) + 1], 413),
        (json, b"{".to_vec(), 400),
        (protobuf, b"k8s\0\xff".to_vec(), 400),
        (protobuf, b"junk".to_vec(), 400),
        (("content-type", "text/plain"), b"x".to_vec(), 415),
    ];
    for (content_type, body, expected) in cases {
        let response = connection.send(Method::POST, path, &[TOKEN, content_type], body).await.unwrap();
        assert_eq!(response.status(), expected);
    }
}

/// M8: what is authorized is what is answered.
#[tokio::test(flavor = "multi_thread")]
async fn one_name_is_asked_for_and_answered() {
    let world = World::new().await;
    world.hub.update(|groups, _| groups.extend(["a", "b"].map(|name| group(name, 1))));
    let mut connection = world.connect(None).await.unwrap();
    let path = "/apis/controlplane.antrea.io/v1beta2/addressgroups?fieldSelector=";
    let only_a = ("authorization", "Bearer only-a-token");
    for (selector, expected) in [
        ("metadata.name%3Da", 200),
        ("metadata.name%3D%3Da", 200),
        ("metadata.name%3Db", 403),
        ("metadata.name%3Da,metadata.name%3Db", 400),
        ("metadata.name%3Da,metadata.name%3D%3Db", 400),
        ("metadata.name%3Da,+metadata.name%3Db", 400),
        ("metadata.name%3Db&fieldSelector=metadata.name%3Da", 403),
        ("metadata.name%3Da&fieldSelector=metadata.name%3Db", 200),
        ("metadata.name!%3Db", 400),
        ("", 403),
    ] {
        for watch in ["", "&watch=true&timeoutSeconds=1"] {
            let (status, _, body) = connection.get(&format!("{path}{selector}{watch}"), &[only_a]).await;
            let text = String::from_utf8_lossy(&body);
            assert_eq!(status, expected, "{selector}{watch}: {text}");
            assert!(!text.contains("\"name\":\"b\""), "{selector}{watch}: {text}");
        }
    }
}

/// L6: everybody learns whether, only who may learns why.
#[tokio::test(flavor = "multi_thread")]
async fn reasons_are_for_those_who_may_know() {
    let world = World::new().await;
    let _block = world.ready.block("watch");
    _block.set_reason("10.0.0.1: refused");
    let mut connection = world.connect(None).await.unwrap();
    let nobody = ("authorization", "Bearer nobody-token");
    for (path, headers, told) in [
        ("/readyz", &[][..], false),
        ("/readyz?verbose", &[], false),
        ("/readyz?verbose=1", &[nobody], false),
        ("/readyz?verbose", &[("authorization", "Bearer wrong")], false),
        ("/readyz", &[TOKEN], false),
        ("/readyz?verbose", &[TOKEN], true),
    ] {
        let (status, _, body) = connection.get(path, headers).await;
        assert_eq!(status, 500, "{path}");
        let text = String::from_utf8_lossy(&body);
        assert_eq!(text.contains("10.0.0.1") && text.contains("watch"), told, "{path} {headers:?}: {text}");
        assert_eq!(text.contains("10.0.0.1") || text.contains("watch"), told, "{path} {headers:?}: {text}");
    }
}

/// D2: who may impersonate is taken for whom he names, everybody else is refused; nothing is ignored.
#[tokio::test(flavor = "multi_thread")]
async fn impersonation_is_honoured_or_refused() {
    let world = World::new().await;
    let root = world.client_ca.client("root", &["system:masters"]);
    let agent = &[TOKEN, ("impersonate-user", "alice")][..];
    for (who, identity, headers, expected) in [
        ("the admin as somebody who may", Some(&root), &[("impersonate-user", "alice")][..], Ok("alice")),
        ("the admin as somebody who may not", Some(&root), &[("impersonate-user", "bob")], Err(403)),
        (
            "the admin as a group that may",
            Some(&root),
            &[("impersonate-user", "bob"), ("impersonate-group", "system:masters")],
            Ok("bob"),
        ),
        ("a group without a user", Some(&root), &[("impersonate-group", "dev")], Err(400)),
        ("extra without a user", Some(&root), &[("impersonate-extra-a", "b")], Err(400)),
        (
            "an unknown header",
            Some(&root),
            &[("impersonate-user", "alice"), ("impersonate-x", "y")],
            Err(400),
        ),
        ("who may not impersonate", None, agent, Err(403)),
        ("nobody", None, &[("impersonate-user", "alice")], Err(401)),
        (
            "who may impersonate alice and no group",
            None,
            &[
                ("authorization", "Bearer helper-token"),
                ("impersonate-user", "alice"),
                ("impersonate-group", "x"),
            ],
            Err(403),
        ),
        (
            "who may impersonate alice",
            None,
            &[("authorization", "Bearer helper-token"), ("impersonate-user", "alice")],
            Ok("alice"),
        ),
    ] {
        let done = creator(&world, identity, headers).await;
        assert_eq!(done, expected.map(str::to_owned), "{who}");
    }
}

/// Knows no token.
struct Nobody;

impl apiserver_kit::review::Reviewer for Nobody {
    fn token<'a>(
        &'a self,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Option<apiserver_kit::user::User>, apiserver_kit::review::Error>> {
        Box::pin(async { Ok(None) })
    }

    fn access<'a>(
        &'a self,
        _: &'a apiserver_kit::user::User,
        _: &'a apiserver_kit::user::Action,
    ) -> BoxFuture<'a, Result<Result<(), String>, apiserver_kit::review::Error>> {
        Box::pin(async { Ok(Err(String::new())) })
    }
}

/// D3: HTTP/2 takes a body that answers HEAD for a violation of the protocol; and axum's answer for a path without route
/// had one.
#[tokio::test(flavor = "multi_thread")]
async fn head_is_answered_without_a_body() {
    use http_body_util::BodyExt;
    let mut world = World::new().await;
    let mut connections = vec![world.connect(None).await.unwrap()];
    // As the agent's: without a fallback of its own.
    let routes = axum::Router::new().route("/long", axum::routing::get(async || "x".repeat(1000)));
    let metrics = antrea_runtime::metrics::Metrics::empty();
    let metrics = apiserver_kit::metrics::ServerMetrics::new(&metrics, []).unwrap();
    let auth = apiserver_kit::auth::Auth::new(std::sync::Arc::new(Nobody)).with_local_token("agent-token");
    let app = apiserver_kit::gate::protect(routes, auth, metrics.clone());
    let stop = tokio_util::sync::CancellationToken::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    world.port = listener.local_addr().unwrap().port();
    tokio::spawn(apiserver_kit::serve::serve(
        listener,
        world.tls.clone(),
        app,
        apiserver_kit::serve::Limits::NODE,
        metrics,
        stop.clone(),
    ));
    connections.push(world.connect(None).await.unwrap());
    for connection in &mut connections {
        for headers in [&[][..], &[TOKEN]] {
            let paths = PATHS.into_iter().chain(apiserver_kit::gate::PUBLIC);
            for path in paths.chain(["/nothing/here", "/long"]) {
                let response = connection.send(Method::HEAD, path, headers, "").await.unwrap();
                let body = response.into_body().collect().await;
                let body = body.unwrap_or_else(|error| panic!("{path} {headers:?}: {error}"));
                assert!(body.to_bytes().is_empty(), "{path}");
            }
        }
        assert_ne!(connection.get("/version", &[TOKEN]).await.0, 500, "the connection is still good");
    }
    stop.cancel();
}
