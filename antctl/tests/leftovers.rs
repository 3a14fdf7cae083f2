//! What antctl makes in a cluster goes with it, however it ends: the binary against an API server that has nobody behind it.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Method, StatusCode, Uri};
use axum::{Json, Router};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

/// An API server that holds two Pods, and one Traceflow and PacketCapture that never end.
struct Cluster {
    folder: TempDir,
    /// Methods and paths, in order.
    asked: Arc<Mutex<Vec<String>>>,
}

fn answer(path: &str) -> Option<Value> {
    let object = |version: &str, kind: &str, spec: Value| json!({"apiVersion": format!("crd.antrea.io/{version}"), "kind": kind, "metadata": {"name": "own"}, "spec": spec});
    let pod = |name: &str, ip: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": name},
               "spec": {"nodeName": "n1", "containers": []}, "status": {"phase": "Running", "podIPs": [{"ip": ip}]}})
    };
    match path {
        TRACES | TRACE => Some(object("v1beta1", "Traceflow", json!({}))),
        CAPTURES | CAPTURE => {
            Some(object("v1alpha1", "PacketCapture", json!({"captureConfig": {"firstN": {"number": 1}}})))
        }
        "/api/v1/namespaces/shop/pods/web" => Some(pod("web", "10.10.0.5")),
        "/api/v1/namespaces/shop/pods/db" => Some(pod("db", "10.10.0.4")),
        _ => None,
    }
}

const TRACES: &str = "/apis/crd.antrea.io/v1beta1/traceflows";
const TRACE: &str = "/apis/crd.antrea.io/v1beta1/traceflows/own";
const CAPTURES: &str = "/apis/crd.antrea.io/v1alpha1/packetcaptures";
const CAPTURE: &str = "/apis/crd.antrea.io/v1alpha1/packetcaptures/own";

impl Cluster {
    async fn new() -> Self {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = Arc::clone(&asked);
        let router = Router::new().fallback(async move |method: Method, uri: Uri| {
            heard.lock().unwrap().push(format!("{method} {}", uri.path()));
            answer(uri.path()).map(Json).ok_or(StatusCode::NOT_FOUND)
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let folder = tempfile::tempdir().unwrap();
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "u", "user": {}}],
        });
        std::fs::write(folder.path().join("kubeconfig"), text.to_string()).unwrap();
        Self { folder, asked }
    }

    fn antctl(&self, words: &str) -> Child {
        Command::new(env!("CARGO_BIN_EXE_antctl"))
            .args(words.split_whitespace())
            .arg("--kubeconfig")
            .arg(self.folder.path().join("kubeconfig"))
            .env_remove("POD_NAME")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    fn was_asked(&self, what: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|asked| asked == what)
    }
}

/// All that it has said, and its exit code.
async fn ended(antctl: Child) -> (String, Option<i32>) {
    let limit = Duration::from_secs(30);
    let Output { status, stdout, stderr } =
        tokio::time::timeout(limit, antctl.wait_with_output()).await.unwrap().unwrap();
    (String::from_utf8([stdout, stderr].concat()).unwrap(), status.code())
}

#[tokio::test]
async fn a_trace_that_nobody_ends() {
    let cluster = Cluster::new().await;
    let (said, code) = ended(cluster.antctl("traceflow -S shop/web -D 192.0.2.1 -t 1s")).await;
    assert!(said.contains("nobody has ended Traceflow own"), "{said}");
    assert_eq!(code, Some(1));
    assert!(cluster.was_asked(&format!("DELETE {TRACE}")));
}

#[tokio::test]
async fn a_packet_of_explain_that_nobody_sends() {
    let cluster = Cluster::new().await;
    let (said, code) = ended(cluster.antctl("explain shop/web shop/db -p 80 --send -t 3s")).await;
    assert!(said.contains("none was sent: nobody has ended Traceflow own"), "{said}");
    assert_eq!(code, Some(2));
    assert!(cluster.was_asked(&format!("DELETE {TRACE}")));
}

#[tokio::test]
async fn who_is_interrupted() {
    let cluster = Cluster::new().await;
    for (words, path) in
        [("traceflow -S shop/web -D 192.0.2.1", TRACE), ("packetcapture -S shop/web", CAPTURE)]
    {
        let antctl = cluster.antctl(words);
        while !cluster.was_asked(&format!("GET {path}")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let kill = format!("kill -INT {}", antctl.id().unwrap());
        assert!(Command::new("sh").args(["-c", &kill]).status().await.unwrap().success());
        let (said, code) = ended(antctl).await;
        assert_eq!((&said[..], code), ("antctl: interrupted\n", Some(1)));
        assert!(cluster.was_asked(&format!("DELETE {path}")), "{words}");
    }
}
