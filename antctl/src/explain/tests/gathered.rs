//! What is asked of whom, and arguments.

use std::sync::{Arc, Mutex};

use apiserver_kit::tls::ClientTrust;
use axum::extract::RawQuery;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use super::super::gather::{Named, destination, source};
use super::super::objects::{self, EndpointSlice, Wanted, endpoints};
use super::super::{FAILED, NotAllowed, trace};
use super::*;
use crate::agents::tests::Lab;
use crate::get::escape;
use crate::tests::{Cluster, NARROW};

/// Addresses of Pods and of the Service, as far as a cluster has both families.
const WEB: [&str; 2] = ["10.10.0.5", "fd00:10::5"];
const DB: [&str; 2] = ["10.10.0.4", "fd00:10::4"];
const FRONT: [&str; 2] = ["10.96.0.10", "fd00:96::a"];

fn agent() -> Router {
    let interface = |name: &str, ips: [&str; 2], port: u32| {
        json!({"name": name, "podNamespace": "shop", "interfaceName": "x", "ips": ips, "mac": "0a:00:00:00:00:01",
               "ofPort": port, "containerID": "c"})
    };
    let interfaces = json!([interface("web", WEB, 5), interface("db", DB, 6)]);
    let tables: Vec<Value> =
        Pipeline::new(FEATURES).names().into_iter().map(|(_, name)| json!({"flow": name})).collect();
    let answer = |value: Value| get(async move || Json(value));
    let traced_packet = async |RawQuery(query): RawQuery| {
        let query = query.unwrap_or_default();
        let gateway = FRONT.map(|ip| format!("source=shop%2Fweb&destination={}&", escape(ip)));
        let gateway = gateway.iter().any(|start| query.starts_with(start));
        Json(json!({"result": traced(Table::Output, End::Port(if gateway { 2 } else { 6 }))}))
    };
    let host_path = async |RawQuery(query): RawQuery| {
        let rules = json!({"by": "nftables", "found": true, "endpoints": ["10.10.0.4:5432"]});
        let of_service = query.unwrap_or_default().ends_with("&from=10.10.0.5&service=10.96.0.10&port=80");
        Json(if of_service { json!({"service": rules}) } else { json!({}) })
    };
    Router::new()
        .route("/agentinfo", answer(json!(info())))
        .route("/podinterfaces", answer(interfaces))
        .route("/networkpolicies", answer(json!({"items": []})))
        .route("/appliedtogroups", answer(json!({"items": []})))
        .route("/addressgroups", answer(json!({"items": []})))
        .route("/ovsflows", answer(tables.into()))
        .route("/ovstracing", get(traced_packet))
        .route("/hostpath", get(host_path))
}

fn pod_object(name: &str, ips: &[&str]) -> Value {
    let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    json!({"metadata": {"namespace": "shop", "name": name},
           "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "pg", "containerPort": 5432, "protocol": "TCP"}]}]},
           "status": {"phase": "Running", "podIPs": ips, "conditions": [{"type": "Ready", "status": "True"}]}})
}

fn service_object(ips: &[&str]) -> Value {
    json!({"metadata": {"namespace": "shop", "name": "front"},
           "spec": {"type": "ClusterIP", "clusterIPs": ips, "selector": {"app": "db"},
                    "ports": [{"name": "sql", "port": 80, "protocol": "TCP", "targetPort": "pg"}]}})
}

fn slices(ready: bool) -> Value {
    let [ipv4, ipv6] = [("IPv4", DB[0]), ("IPv6", DB[1])].map(|(family, ip)| slice(ready, family, ip));
    json!({"items": [ipv4, ipv6]})
}

fn slice(ready: bool, family: &str, ip: &str) -> Value {
    json!({"addressType": family, "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}],
           "endpoints": [{"addresses": [ip], "conditions": {"ready": ready},
                          "targetRef": {"kind": "Pod", "namespace": "shop", "name": "db"}}]})
}

/// One Node with web and db, which the Service front selects; without `controller`, that does not answer.
async fn cluster(controller: bool, ready: bool) -> Lab {
    cluster_with(controller, ready, 1, |_| {}).await
}

/// The same with as many families, and more that the API server holds.
async fn cluster_with(
    controller: bool,
    ready: bool,
    families: usize,
    more: impl FnOnce(&mut Cluster),
) -> Lab {
    let [web, db, front] = [WEB, DB, FRONT].map(|ips| ips[..families].to_vec());
    Lab::beside(Some(NARROW), true, ClientTrust::default(), agent(), |cluster| {
        let slices_path = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices\
                           ?labelSelector=kubernetes.io%2Fservice-name%3Dfront";
        let node = json!({"metadata": {"name": "n1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}]}});
        for (path, answer) in [
            ("/api/v1/namespaces/shop/pods/web", pod_object("web", &web)),
            ("/api/v1/namespaces/shop/pods/db", pod_object("db", &db)),
            ("/api/v1/namespaces/shop/services/front", service_object(&front)),
            (slices_path, slices(ready)),
            ("/api/v1/pods?fieldSelector=status.podIP%3D10.10.0.4", json!({"items": [pod_object("db", &db)]})),
            ("/api/v1/services?fieldSelector=spec.clusterIP%3D10.10.0.4", json!({"items": []})),
            ("/api/v1/nodes/n1", node),
        ] {
            cluster.answers.insert(format!("GET {path}"), answer);
        }
        if controller {
            cluster.computed = Some(|_, query| {
                assert_eq!(query.as_deref(), Some("fieldSelector=nodeName%3Dn1"));
                json!({"items": []})
            });
        }
        more(cluster);
    })
    .await
}

#[tokio::test]
async fn everybody_is_asked_and_the_answer_put_together() {
    let lab = cluster(true, true).await;
    for destination in ["shop/db", "pod/shop/db", "10.10.0.4"] {
        let text = lab.run(&format!("explain shop/web {destination}")).await;
        assert!(text.contains("allowed: ") && text.contains(", TCP 5432\n"), "{text}");
        assert!(text.contains("the bridge of n1 gives it to shop/db"), "{text}");
    }
    let text = lab.run("explain shop/web shop/front").await;
    assert!(
        text.starts_with("shop/web (10.10.0.5 on n1) -> Service shop/front (10.96.0.10), TCP 80\n"),
        "{text}"
    );
    assert!(text.contains("where kube-proxy gives it an endpoint"), "{text}");
    assert!(text.contains("kube-proxy (nftables) of n1 gives 10.96.0.10:80 one of 1 endpoint"), "{text}");
    let value: Value =
        serde_json::from_str(&lab.run("explain shop/web svc/shop/front --port sql -o json").await).unwrap();
    assert_eq!(value["verdict"], "allowed");
}

/// Selectors know the first address alone.
#[tokio::test]
async fn second_addresses_are_found() {
    let lab = cluster_with(true, true, 2, |cluster| {
        for (path, answer) in [
            ("services?limit=500", json!({"items": [service_object(&FRONT)]})),
            ("pods?limit=500", json!({"metadata": {"continue": "a/b"}, "items": [pod_object("web", &WEB)]})),
            ("pods?limit=500&continue=a%2Fb", json!({"items": [pod_object("db", &DB)]})),
        ] {
            cluster.answers.insert(format!("GET /api/v1/{path}"), answer);
        }
    })
    .await;
    let text = lab.run("explain shop/web fd00:10::4").await;
    assert!(
        text.contains("-> fd00:10::4, which is shop/db (10.10.0.4, fd00:10::4 on n1), TCP 5432\n"),
        "{text}"
    );
    assert!(text.contains("ingress policy") && text.contains("gives it to shop/db"), "{text}");
    let text = lab.run("explain shop/web fd00:96::a").await;
    assert!(text.contains("-> Service shop/front (fd00:96::a), TCP 80\n"), "{text}");
    assert!(text.contains("gives it to shop/db"), "{text}");
    // Nobody's.
    let answer = lab.tries("explain shop/web fd00:99::1 --port 80").await.unwrap_err();
    let answer = answer.downcast::<NotAllowed>().unwrap();
    assert!(answer.text.contains("no Pod has the address fd00:99::1"), "{}", answer.text);
    // Where nobody has two, nobody is looked for in this way.
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let lab = cluster_with(true, true, 1, |cluster| cluster.asked = Arc::clone(&asked)).await;
    drop(lab.tries("explain shop/web 192.0.2.1 --port 80").await);
    assert!(!asked.lock().unwrap().iter().any(|what| what.contains("limit=")), "{asked:?}");
}

#[tokio::test]
async fn who_does_not_answer_leaves_the_rest() {
    let lab = cluster(false, true).await;
    let answer = lab.tries("explain shop/web shop/db").await.unwrap_err().downcast::<NotAllowed>().unwrap();
    assert_eq!(answer.code, FAILED);
    assert!(answer.text.contains("not known: what the controller has computed for n1"), "{}", answer.text);
    assert!(answer.text.contains("the bridge of n1 gives it to shop/db"), "{}", answer.text);
    let lab = cluster(true, false).await;
    let answer =
        lab.tries("explain shop/web shop/front").await.unwrap_err().downcast::<NotAllowed>().unwrap();
    assert!(answer.text.contains("no ready endpoint; 1 are not ready"), "{}", answer.text);
}

#[tokio::test]
async fn wrong_arguments_are_one_line() {
    let lab = cluster(true, true).await;
    for (words, says) in [
        ("shop/none shop/db", "there is no Pod shop/none"),
        ("shop/web shop/none", "there is neither a Pod nor a Service shop/none"),
        ("shop/web svc/shop/none", "there is no Service shop/none"),
        ("shop/web pod/shop/none", "there is no Pod shop/none"),
        ("10.0.0.1 shop/db", "SRC \"10.0.0.1\" is no"),
        ("shop/web a/b/c", "DST \"a/b/c\" is no"),
        ("shop/web shop/", "a name is missing"),
        ("shop/web shop/db --port none", "shop/db, which declares TCP 5432 (pg)"),
        ("shop/web shop/db --protocol udp", "shop/db, which declares TCP 5432 (pg)"),
        ("shop/web shop/db --protocol icmp --port 1", "ICMP has none"),
        ("shop/web shop/front --port 81", "Service shop/front, which has TCP 80 (sql)"),
        ("shop/web shop/front --protocol icmp", "nobody answers that"),
    ] {
        let error = lab.fails(&format!("explain {words}")).await;
        assert!(error.contains(says) && error.lines().count() == 1, "{words}: {error}");
    }
}

#[test]
fn ends_are_read() {
    let either = |namespace: &str, name: &str| Named::Either(namespace.into(), name.into());
    assert_eq!(destination("web").unwrap(), either("default", "web"));
    assert_eq!(destination("svc/web").unwrap(), either("svc", "web"));
    assert_eq!(destination("svc/shop/web").unwrap(), Named::Service("shop".into(), "web".into()));
    assert_eq!(destination("fd00::1").unwrap(), Named::Address(ip("fd00::1")));
    assert_eq!(source("pod/shop/web").unwrap(), ("shop".to_owned(), "web".to_owned()));
    assert!(source("svc/shop/web").is_err() && source("192.0.2.1").is_err());
}

#[test]
fn packets_are_described_as_bridges_want_them() {
    let packet = |protocol| Packet { protocol, port: 0 };
    let (web, db) = (pod("web", "node1", "10.10.1.6"), pod("db", "node2", "10.10.2.7"));
    assert_eq!(
        trace::of_pod(&web, db.ips[0], None, packet(Protocol::Tcp), 80),
        "/ovstracing?source=shop%2Fweb&destination=10.10.2.7&flow=tcp%2Ctcp_src%3D40000%2Ctcp_dst%3D80%2Ctcp_flags%3Dsyn"
    );
    assert_eq!(
        trace::of_host(web.ips[0], db.ips[0], Some(&db), packet(Protocol::Icmp), 0),
        "/ovstracing?source=10.10.1.6&destination=shop%2Fdb&flow=icmp%2Cicmp_type%3D8%2Cicmp_code%3D0"
    );
    assert_eq!(
        trace::of_tunnel(ip("fd00::6"), &db, Some(ip("192.0.2.1")), packet(Protocol::Udp), 53),
        "/ovstracing?source=fd00%3A%3A6&destination=shop%2Fdb&flow=udp6%2Cudp_src%3D40000%2Cudp_dst%3D53\
         %2Cin_port%3Dantrea-tun0%2Cdl_dst%3Daa%3Abb%3Acc%3Add%3Aee%3Aff%2Ctun_src%3D192.0.2.1"
    );
}

#[test]
fn endpoints_are_those_of_the_port() {
    let service: objects::Service = serde_json::from_value(service_object(&FRONT[..1])).unwrap();
    let (port, protocol) = service.port(&Wanted::default()).unwrap();
    let list =
        |value: Value| -> Vec<EndpointSlice> { serde_json::from_value(value["items"].clone()).unwrap() };
    let found = endpoints(&list(slices(true)), &port, protocol, false);
    assert_eq!((found.len(), found[0].port, found[0].ready), (1, 5432, true));
    let found = endpoints(&list(slices(true)), &port, protocol, true);
    assert_eq!(found.iter().map(|found| found.address).collect::<Vec<_>>(), [ip(DB[1])]);
    assert!(endpoints(&list(slices(true)), &port, Protocol::Udp, false).is_empty());
    // A Service that selects nobody has one such slice.
    let empty = json!({"items": [{"addressType": "IPv4", "endpoints": null, "ports": null}]});
    assert!(endpoints(&list(empty), &port, protocol, false).is_empty());
    let external = json!({"metadata": {"name": "x", "namespace": "shop"}, "spec": {"type": "ExternalName", "externalName": "db.example"}});
    let external: objects::Service = serde_json::from_value(external).unwrap();
    assert!(external.port(&Wanted::default()).unwrap_err().to_string().contains("a name for db.example"));
}
