//! Services and EndpointSlices that nobody should have written: what is wrong is left out and told, all else is served, and
//! no other Service notices.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use antrea_tests::background::Background;
use antrea_tests::dial::{Dialed, Dialer, servers};
use antrea_tests::lab::{Lab, Pod};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::proxy::{SERVICES, SLICES, at, connect};

const LIMIT: Duration = Duration::from_secs(30);
/// Ports of servers, by which they are told apart.
const AT_B: u16 = 8_081;
const AT_C: u16 = 8_082;
const INVALID: &str = "antrea_proxy_invalid_objects";
const MANY: usize = 5_000;

fn service(lab: &Lab, name: &str, created: u32, ip: &str, more: &Value) {
    let mut spec = json!({"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
                          "ports": [{"name": "tcp", "protocol": "TCP", "port": 80}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let created = format!("2026-01-01T00:00:{created:02}Z");
    let metadata = json!({"namespace": "default", "name": name, "creationTimestamp": created});
    lab.api.put(SERVICES, json!({"metadata": metadata, "spec": spec}));
}

fn slice(lab: &Lab, name: &str, of: &str, endpoints: &Value, ports: &Value) {
    lab.api.put(
        SLICES,
        json!({
            "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": of}},
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports,
        }),
    );
}

fn ready(pod: &Pod) -> Value {
    json!({"addresses": [pod.ip], "conditions": {"ready": true}})
}

fn unready(pod: &Pod) -> Value {
    json!({"addresses": [pod.ip], "conditions": {"ready": false, "serving": false}})
}

fn port(number: u16) -> Value {
    json!([{"name": "tcp", "protocol": "TCP", "port": number}])
}

/// Which server answers at an address of a Service.
async fn reached(client: &Pod, to: SocketAddr) -> Result<u16, String> {
    let mut stream = connect(&client.netns, to).await.map_err(|error| error.to_string())?;
    let mut number = [0; 2];
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    stream.read_exact(&mut number).map_err(|error| error.to_string())?;
    Ok(u16::from_be_bytes(number))
}

async fn until_reached(client: &Pod, to: SocketAddr, wanted: u16) {
    let end = Instant::now() + LIMIT;
    loop {
        let found = reached(client, to).await;
        if found == Ok(wanted) {
            return;
        }
        assert!(Instant::now() < end, "{to}: {found:?} instead of {wanted}");
    }
}

async fn until_metric(lab: &Lab, name: &str, wanted: f64) {
    let end = Instant::now() + LIMIT;
    loop {
        let found = lab.agent_metric(0, name).await;
        if (found - wanted).abs() < 0.5 {
            return;
        }
        assert!(Instant::now() < end, "{name} is {found}, not {wanted}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Connects all the time, until it is told to stop.
async fn connections(to: SocketAddr, mut stop: oneshot::Receiver<()>, done: oneshot::Sender<Vec<Dialed>>) {
    let (dialer, mut made) = (Dialer::default(), Vec::new());
    while stop.try_recv().is_err() {
        made.push(dialer.dial(to).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let _ = done.send(made);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_left_out_and_told_and_nobody_else_notices() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[("featureGates", json!({"AntreaProxy": true}))]).await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(0, "c"));
    let _servers = [servers(&b.netns, std::iter::once(AT_B)), servers(&c.netns, std::iter::once(AT_C))];
    let (good, text) = ("10.96.0.70", "10.96.0.73");
    service(&lab, "good", 10, good, &json!({}));
    slice(&lab, "good-1", "good", &json!([ready(&b)]), &port(AT_B));
    service(&lab, "text", 10, text, &json!({}));
    slice(&lab, "text-1", "text", &json!([ready(&c)]), &port(AT_C));
    until_reached(&a, at(good), AT_B).await;
    until_reached(&a, at(text), AT_C).await;
    until_metric(&lab, INVALID, 0.0).await;
    let ((stop, stopped), (done, made)) = (oneshot::channel(), oneshot::channel());
    let _connecting = Background::run_in(&a.netns, move || connections(at(good), stopped, done));

    // An address that another has; the rest of the Service is its own.
    service(&lab, "clash", 11, good, &json!({"externalIPs": ["198.18.0.71", "127.0.0.1", "nonsense"]}));
    slice(&lab, "clash-1", "clash", &json!([ready(&c)]), &port(AT_C));
    until_reached(&a, at("198.18.0.71"), AT_C).await;
    // Ports that are none, a timeout before the beginning; one port is as it should be.
    let odd = json!([{"name": "none", "port": 0}, {"name": "large", "port": 70_000},
                     {"name": "else", "port": 80, "protocol": "IPX"}, {"name": "tcp", "port": 80},
                     {"name": "again", "port": 80}]);
    let affinity = json!({"clientIP": {"timeoutSeconds": -5}});
    let more = json!({"ports": odd, "sessionAffinity": "ClientIP", "sessionAffinityConfig": affinity});
    service(&lab, "odd", 12, "10.96.0.72", &more);
    slice(&lab, "odd-1", "odd", &json!([ready(&c)]), &port(AT_C));
    until_reached(&a, at("10.96.0.72"), AT_C).await;
    // A port that is no number: the Service stays as it was.
    service(&lab, "text", 10, text, &json!({"ports": [{"name": "tcp", "port": "http"}]}));
    // Slices that disagree on an endpoint, and each on the number of the port: what one of them has ready is.
    service(&lab, "split", 13, "10.96.0.74", &json!({}));
    slice(&lab, "split-1", "split", &json!([ready(&b)]), &port(AT_B));
    slice(&lab, "split-2", "split", &json!([unready(&b), unready(&c)]), &port(AT_B));
    slice(&lab, "split-3", "split", &json!([unready(&b), ready(&c), ready(&c)]), &port(AT_C));
    for wanted in [AT_B, AT_C] {
        until_reached(&a, at("10.96.0.74"), wanted).await;
    }
    for _ in 0..20 {
        let found = reached(&a, at("10.96.0.74")).await;
        assert!(found == Ok(AT_B) || found == Ok(AT_C), "an endpoint that no slice has ready: {found:?}");
    }
    // Endpoints that are none, a port that is none, a Service that is none.
    service(&lab, "bad", 14, "10.96.0.75", &json!({}));
    let endpoints = json!([{"addresses": ["nonsense"]}, {"addresses": ["fd00::1"]}, {"addresses": ["224.0.0.1"]},
                           {"addresses": []}, ready(&c)]);
    let ports = json!([{"name": "tcp", "protocol": "TCP", "port": AT_C}, {"name": "odd", "port": -1}]);
    slice(&lab, "bad-1", "bad", &endpoints, &ports);
    slice(&lab, "nobodys", "nobody", &json!([ready(&c)]), &port(AT_C));
    slice(&lab, "bad-2", "bad", &Value::Null, &Value::Null);
    until_reached(&a, at("10.96.0.75"), AT_C).await;
    until_metric(&lab, &format!("{INVALID}{{resource=\"services\"}}"), 3.0).await;
    until_metric(&lab, &format!("{INVALID}{{resource=\"endpointslices\"}}"), 1.0).await;

    many_endpoints(&lab, &a, &c).await;

    // However often they change: a cause is told once.
    for n in 0..20 {
        let more = json!({"conditions": {"ready": true}, "addresses": [format!("198.18.9.{n}")]});
        slice(&lab, "clash-1", "clash", &json!([ready(&c), more]), &port(AT_C));
        slice(&lab, "bad-1", "bad", &json!([{"addresses": ["nonsense"]}, more, ready(&c)]), &ports);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let log = std::fs::read_to_string(lab.nodes[0].log()).unwrap();
    for (cause, times) in [
        ("10.96.0.70 TCP port 80 is already served for the older Service default/good", 1),
        ("cannot be an address of a Service", 1),
        ("port 70000 is none", 1),
        ("is unknown; the port is not served", 1),
        ("TCP port 80 is there twice", 1),
        ("Service default/text: all of it: does not decode, what was known of it stays", 1),
        ("is no IPv4 address of an endpoint", 3),
        ("-1 is no port", 1),
    ] {
        let lines = log.lines().filter(|line| line.contains(cause) && line.contains("not served")).count();
        assert_eq!(lines, times, "{cause}");
    }
    assert_eq!(reached(&a, at(text)).await, Ok(AT_C), "as it was");

    stop.send(()).unwrap();
    let made = made.await.unwrap();
    let lost: Vec<&Dialed> = made.iter().filter(|one| one.reached != Ok(AT_B)).collect();
    assert!(
        lost.is_empty(),
        "{} of {} connections to another Service: {:?}",
        lost.len(),
        made.len(),
        lost.first()
    );
    assert!(made.len() > 100, "only {} connections were made", made.len());

    // What is put right is told no more, and who stood back gets what is free.
    for name in ["odd", "text"] {
        lab.api.delete(SERVICES, Some("default"), name);
    }
    lab.api.delete(SLICES, Some("default"), "bad-1");
    service(&lab, "clash", 11, good, &json!({}));
    lab.api.delete(SERVICES, Some("default"), "good");
    until_reached(&a, at(good), AT_C).await;
    until_metric(&lab, INVALID, 0.0).await;
    let repaired = lab.agent_metric(0, "antrea_agent_ovs_flow_repairs_total").await;
    assert_eq!(repaired, 0.0, "what was refused was taken for drift");
}

/// A Service of 5,000 endpoints, which come in slices of 1,000, and of one again.
async fn many_endpoints(lab: &Lab, client: &Pod, server: &Pod) {
    let installed = "antrea_proxy_total_endpoints_installed{ip_family=\"v4\"}";
    let before = lab.agent_metric(0, installed).await;
    service(lab, "many", 15, "10.96.0.76", &json!({}));
    let slices = 5;
    for part in 0..slices {
        let endpoint = |n: usize| {
            let [.., high, low] = (part * MANY / slices + n).to_be_bytes();
            json!({"addresses": [IpAddr::from([198, 19, high, low])], "conditions": {"ready": true}})
        };
        let endpoints: Vec<Value> = (0..MANY / slices).map(endpoint).collect();
        slice(lab, &format!("many-{part}"), "many", &endpoints.into(), &port(AT_C));
    }
    until_metric(lab, installed, before + MANY as f64).await;
    slice(lab, "many-0", "many", &json!([ready(server)]), &port(AT_C));
    for part in 1..slices {
        slice(lab, &format!("many-{part}"), "many", &json!([]), &port(AT_C));
    }
    until_reached(client, at("10.96.0.76"), AT_C).await;
    until_metric(lab, installed, before + 1.0).await;
}
