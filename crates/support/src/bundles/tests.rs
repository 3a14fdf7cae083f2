//! A bundle from POST to its end, through the routes that serve it.

use antrea_runtime::metrics::Metrics;
use apiserver_kit::metrics::ServerMetrics;
use apiserver_kit::request::ResourceRequest;
use apiserver_kit::user::User;
use axum::body::Body;
use axum::extract::Request;
use http::Method;
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::Semaphore;
use tower::ServiceExt;

use super::*;

/// Finds one part, when it is let.
struct Parts {
    go: Arc<Semaphore>,
}

impl Collector for Parts {
    fn collect(&self, since: Option<SystemTime>, parts: mpsc::Sender<Part>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let _ = parts.send(Part::new("since", format!("{}", since.is_some()))).await;
            let Ok(permit) = self.go.acquire().await else { return };
            permit.forget();
            let _ = parts.send(Part::new("logs/agent", "Bearer S3CRETS3CRETS3CRET")).await;
            let _ = parts.send(Part::failed("flows", "no bridge")).await;
        })
    }
}

struct Fixture {
    router: Router,
    go: Arc<Semaphore>,
}

impl Fixture {
    fn new(kept: Duration, longest: Duration) -> Self {
        let go = Arc::new(Semaphore::new(0));
        let bundles = Bundles::with_limits("agent", Parts { go: Arc::clone(&go) }, kept, longest);
        let api = Api::new("v1", ServerMetrics::new(&Metrics::empty(), []).unwrap());
        Self { router: bundles.serve(api).router().merge(bundles.download()), go }
    }

    async fn send(&self, method: Method, path: &str, body: &str) -> (u16, Vec<u8>) {
        let path = format!("/apis/system.antrea.io/v1beta1/supportbundles{path}");
        let mut request =
            Request::builder().method(&method).uri(&path).body(Body::from(body.to_owned())).unwrap();
        request.extensions_mut().insert(User::default());
        request.extensions_mut().insert(ResourceRequest::parse(&method, &path, None).unwrap().unwrap());
        let answer = self.router.clone().oneshot(request).await.unwrap();
        (answer.status().as_u16(), answer.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    async fn json(&self, method: Method, path: &str, body: &str) -> (u16, Value) {
        let (status, body) = self.send(method, path, body).await;
        (status, serde_json::from_slice(&body).unwrap())
    }

    async fn begin(&self) -> Value {
        let (status, bundle) =
            self.json(Method::POST, "", r#"{"metadata":{"name":"agent"},"since":"1h"}"#).await;
        assert_eq!(status, 201, "{bundle}");
        bundle
    }

    async fn reaches(&self, wanted: &str) -> Value {
        let begun = std::time::Instant::now();
        loop {
            let (_, bundle) = self.json(Method::GET, "/agent", "").await;
            if bundle["status"] == wanted {
                return bundle;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{bundle}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_bundle_is_made_once_fetched_and_deleted() {
    let fixture = Fixture::new(LONG, LONG);
    let (status, none) = fixture.json(Method::GET, "/agent", "").await;
    assert_eq!((status, &none["status"], &none["kind"]), (200, &json!("None"), &json!("SupportBundle")));
    assert_eq!(none["metadata"], json!({"name": "agent"}));
    assert_eq!(fixture.send(Method::GET, "/agent/download", "").await.0, 404);
    assert_eq!(fixture.begin().await["status"], "Collecting");
    // Who asks again gets the one that is being made.
    assert_eq!(fixture.begin().await["status"], "Collecting");
    assert_eq!(fixture.send(Method::GET, "/agent/download", "").await.0, 404);
    fixture.go.add_permits(1);
    let bundle = fixture.reaches("Collected").await;
    let (status, archive) = fixture.send(Method::GET, "/agent/download", "").await;
    assert_eq!((status, bundle["size"].as_u64()), (200, Some(archive.len() as u64)));
    let sum: String = Sha256::digest(&archive).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(bundle["sum"], sum);
    let parts = crate::archive::read(&archive);
    assert_eq!(parts["since"], "true");
    assert_eq!(parts["logs/agent"], "Bearer [redacted]");
    assert_eq!(parts["flows"], "error: no bridge\n");
    let (status, done) = fixture.json(Method::DELETE, "/agent", "").await;
    assert_eq!((status, &done["status"]), (200, &json!("Success")));
    assert_eq!(fixture.send(Method::GET, "/agent/download", "").await.0, 404);
    // One that is deleted while it is made does not come back.
    fixture.begin().await;
    fixture.send(Method::DELETE, "/agent", "").await;
    fixture.go.add_permits(1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    fixture.reaches("None").await;
}

#[tokio::test]
async fn what_takes_too_long_is_given_up_and_what_is_old_is_forgotten() {
    let fixture = Fixture::new(Duration::from_millis(300), Duration::from_millis(30));
    fixture.begin().await;
    fixture.reaches("Collected").await;
    let (_, archive) = fixture.send(Method::GET, "/agent/download", "").await;
    let parts = crate::archive::read(&archive);
    assert!(parts["incomplete"].contains("not everything") && parts.contains_key("since"), "{parts:?}");
    let bundle = fixture.reaches("None").await;
    assert_eq!((&bundle["size"], &bundle["sum"]), (&Value::Null, &Value::Null));
    assert_eq!(fixture.send(Method::GET, "/agent/download", "").await.0, 404);
}

#[tokio::test]
async fn wrong_requests_are_refused() {
    let fixture = Fixture::new(LONG, LONG);
    for (method, path, body, expected) in [
        (Method::POST, "", r#"{"metadata":{"name":"controller"}}"#, 403),
        (Method::POST, "", r#"{"metadata":{"name":"agent"},"since":"yesterday"}"#, 400),
        (Method::POST, "", "nonsense", 400),
        (Method::GET, "/controller", "", 404),
        (Method::GET, "/controller/download", "", 404),
        (Method::DELETE, "/controller", "", 404),
        (Method::GET, "", "", 405),
    ] {
        let (status, answer) = fixture.json(method.clone(), path, body).await;
        assert_eq!(status, expected, "{method} {path} {body}: {answer}");
        assert_eq!(answer["kind"], "Status");
    }
    fixture.reaches("None").await;
}
