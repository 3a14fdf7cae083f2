//! Discovery, negotiation and watches as kubectl, the aggregator and agents use them.
#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "a test from top to bottom")]

#[allow(dead_code, reason = "each suite uses a part")]
mod common;

use std::{sync::Arc, time::Duration};

use antrea_api::{
    controlplane::{AddressGroup, AddressGroupList, Event, GroupEvent},
    k8s::{EventType, FrameDecoder, INITIAL_EVENTS_END, Unknown, open},
};
use apiserver_kit::hub::Delta;
use common::{Change, Connection, TOKEN, World, group};
use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;

const BASE: &str = "/apis/controlplane.antrea.io/v1beta2/addressgroups";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

fn add(world: &World, name: &str, nodes: &[&str]) {
    let span: Vec<Arc<str>> = nodes.iter().map(|n| Arc::from(*n)).collect();
    world.hub.update(|groups, routes| {
        groups.push(group(name, 1));
        routes.publish(0, name, Delta::Created { span: &span }, &mut Change(group(name, 1)));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_gets_in_every_encoding() {
    let world = World::new().await;
    add(&world, "a", &["n1"]);
    add(&world, "b", &["n1"]);
    let mut connection = world.agent().await;

    let list = connection.json(BASE, "application/json").await;
    assert_eq!(
        (list["kind"].as_str(), list["items"].as_array().unwrap().len()),
        (Some("AddressGroupList"), 2)
    );
    assert_eq!(list["items"][0]["metadata"]["name"], "a");
    assert!(list["items"][0].get("kind").is_none());
    assert!(!list["metadata"]["resourceVersion"].as_str().unwrap().is_empty());

    let (status, headers, body) = connection.get(BASE, &[TOKEN, ("accept", PROTOBUF)]).await;
    assert_eq!((status.as_u16(), headers["content-type"].as_str()), (200, PROTOBUF));
    let list: AddressGroupList = open(body).unwrap().decode().unwrap();
    assert_eq!(list.items, [group("a", 1), group("b", 1)]);

    let table = connection.json(BASE, TABLE).await;
    assert_eq!(table["kind"], "Table");
    let headings: Vec<_> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].clone()).collect();
    assert_eq!(headings, ["Name", "Members", "Pods"]);
    assert_eq!(table["rows"][0]["cells"], serde_json::json!(["a", 0, ""]));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");

    let one = connection.json(&format!("{BASE}/b"), "*/*").await;
    assert_eq!(
        (one["kind"].as_str(), one["apiVersion"].as_str()),
        (Some("AddressGroup"), Some("controlplane.antrea.io/v1beta2"))
    );
    let selected = connection.json(&format!("{BASE}?fieldSelector=metadata.name%3Db"), "*/*").await;
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);

    for (selector, expected) in
        [("a%3Db", 0), ("a!%3Db", 2), ("!a", 2), ("a+in+(b,c)", 0), ("a+notin+(b,c)", 2), ("a", 0)]
    {
        let selected = connection.json(&format!("{BASE}?labelSelector={selector}"), "*/*").await;
        assert_eq!(selected["items"].as_array().unwrap().len(), expected, "{selector}");
    }

    for (path, accept, expected) in [
        (format!("{BASE}/none"), "*/*", 404),
        (BASE.to_owned(), "text/html", 406),
        (format!("{BASE}?fieldSelector=spec.x%3D1"), "*/*", 400),
        (format!("{BASE}?fieldSelector=nodeName%21%3Dn1"), "*/*", 400),
        (format!("{BASE}?labelSelector=a%20b"), "*/*", 400),
        ("/apis/controlplane.antrea.io/v1beta2/unknown".to_owned(), "*/*", 404),
        ("/apis/controlplane.antrea.io/v1".to_owned(), "*/*", 404),
    ] {
        let (status, _, body) = connection.get(&path, &[TOKEN, ("accept", accept)]).await;
        assert_eq!(status, expected, "{path}");
        let failure: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            (failure["kind"].as_str(), failure["code"].as_u64()),
            (Some("Status"), Some(u64::from(expected)))
        );
    }
    let response = connection.send(Method::DELETE, &format!("{BASE}/a"), &[TOKEN], "").await.unwrap();
    assert_eq!(response.status(), 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_and_openapi() {
    let world = World::new().await;
    let mut connection = world.agent().await;
    let groups = connection.json("/apis", "application/json").await;
    assert_eq!(groups["groups"][0]["preferredVersion"]["groupVersion"], "controlplane.antrea.io/v1beta2");
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = connection.json("/apis", v2).await;
    let parsed: kube::core::discovery::v2::APIGroupDiscoveryList =
        serde_json::from_value(aggregated.clone()).unwrap();
    assert_eq!(aggregated["apiVersion"], "apidiscovery.k8s.io/v2");
    let resource = &parsed.items[0].versions[0].resources[0];
    assert_eq!(
        (resource.resource.as_deref(), resource.scope.as_deref()),
        (Some("addressgroups"), Some("Cluster"))
    );
    let resources = connection.json("/apis/controlplane.antrea.io/v1beta2", "*/*").await;
    assert_eq!(resources["resources"][0]["verbs"], serde_json::json!(["get", "list", "watch", "create"]));
    assert_eq!(connection.json("/apis/controlplane.antrea.io", "*/*").await["kind"], "APIGroup");
    let index = connection.json("/openapi/v3", "*/*").await;
    let url = index["paths"]["apis/controlplane.antrea.io/v1beta2"]["serverRelativeURL"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(connection.json(&url, "*/*").await["openapi"], "3.0.0");
    assert_eq!(connection.json("/openapi/v2", "*/*").await["swagger"], "2.0");
    let (_, _, metrics) = connection.get("/metrics", &[TOKEN]).await;
    let metrics = String::from_utf8(metrics.to_vec()).unwrap();
    assert!(
        metrics.contains("apiserver_request_total{code=\"200\",resource=\"\",verb=\"path\"}"),
        "{metrics}"
    );
}

/// A protobuf watch as an agent runs it.
struct Watch {
    body: Incoming,
    decoder: FrameDecoder,
}

impl Watch {
    async fn open(connection: &mut Connection, query: &str) -> Self {
        let headers = [TOKEN, ("accept", PROTOBUF)];
        let path = format!("{BASE}?watch=true{query}");
        let response = connection.send(Method::GET, &path, &headers, "").await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/vnd.kubernetes.protobuf;stream=watch");
        Self { body: response.into_body(), decoder: FrameDecoder::default() }
    }

    /// The next event, or `None` at the end.
    async fn next(&mut self) -> Option<(EventType, Unknown)> {
        loop {
            if let Some(event) = self.decoder.next_event().unwrap() {
                return Some(event);
            }
            let frame = tokio::time::timeout(Duration::from_secs(5), self.body.frame())
                .await
                .expect("an event in time");
            self.decoder.push(frame?.ok()?.data_ref()?);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_the_set_then_a_bookmark_then_changes() {
    let world = World::new().await;
    add(&world, "a", &["n1"]);
    let mut connection = world.agent().await;
    let mut watch = Watch::open(&mut connection, "&fieldSelector=nodeName%3Dn1&sendInitialEvents=true").await;

    let (kind, object) = watch.next().await.unwrap();
    let added = |g: AddressGroup| Event::AddressGroup(GroupEvent::Added(g));
    assert_eq!(Event::decode(kind, &object).unwrap(), added(group("a", 1)));
    let (kind, bookmark) = watch.next().await.unwrap();
    assert_eq!(kind, EventType::Bookmark);
    let bookmark: AddressGroup = bookmark.decode().unwrap();
    assert_eq!(bookmark.metadata.annotations[INITIAL_EVENTS_END], "true");
    assert!(bookmark.metadata.resource_version.parse::<u64>().unwrap() > 0);

    add(&world, "elsewhere", &["n2"]);
    add(&world, "b", &["n1", "n2"]);
    let (kind, object) = watch.next().await.unwrap();
    assert_eq!(Event::decode(kind, &object).unwrap(), added(group("b", 1)));
    world.hub.update(|_, routes| {
        let removed = [Arc::from("n1")];
        let delta = Delta::Updated { added: &[], removed: &removed };
        routes.publish(0, "b", delta, &mut Change(group("b", 2)));
        routes.publish(0, "a", Delta::Updated { added: &[], removed: &[] }, &mut Change(group("a", 3)));
        routes.publish(0, "b", Delta::Updated { added: &[], removed: &[] }, &mut Change(group("b", 4)));
    });
    assert_eq!(watch.next().await.unwrap().0, EventType::Deleted);
    let (kind, object) = watch.next().await.unwrap();
    assert_eq!((kind, object.decode::<AddressGroup>().unwrap()), (EventType::Modified, group("a", 3)));
    world.hub.close();
    assert!(watch.next().await.is_none());
}

/// D3: what follows of an object is shown to whom the object was shown, whatever labels the event has.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_by_label_shows_what_is_selected() {
    let world = World::new().await;
    let mut web = group("web", 1);
    web.metadata.labels.insert("app".to_owned(), "web".to_owned());
    world.hub.update(|groups, _| groups.extend([group("plain", 1), web]));
    let mut connection = world.agent().await;
    let mut selected = Watch::open(&mut connection, "&labelSelector=app%3Dweb").await;
    let mut others = Watch::open(&mut connection, "&labelSelector=!app").await;
    let change = |name: &str, delta: Delta<'_>| {
        world.hub.update(|_, routes| routes.publish(0, name, delta, &mut Change(group(name, 2))));
    };
    change("late", Delta::Created { span: &[] });
    for name in ["plain", "web"] {
        change(name, Delta::Updated { added: &[], removed: &[] });
        change(name, Delta::Deleted);
    }
    world.hub.close();
    let told = async |watch: &mut Watch| {
        let mut told = Vec::new();
        while let Some((kind, object)) = watch.next().await {
            let name = object.decode::<AddressGroup>().unwrap().metadata.name;
            told.push(format!("{} {name}", kind.as_str()));
        }
        told.join(", ")
    };
    assert_eq!(told(&mut selected).await, "ADDED web, BOOKMARK , MODIFIED web, DELETED web");
    let all = "ADDED plain, BOOKMARK , ADDED late, MODIFIED plain, DELETED plain";
    assert_eq!(told(&mut others).await, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_watch_is_lines_and_ends_at_its_timeout() {
    let world = World::new().await;
    add(&world, "a", &["n1"]);
    let mut connection = world.agent().await;
    let path = format!("{BASE}?watch=1&timeoutSeconds=1");
    let (status, headers, body) = connection.get(&path, &[TOKEN]).await;
    assert_eq!((status.as_u16(), headers["content-type"].as_str()), (200, "application/json;stream=watch"));
    let lines: Vec<serde_json::Value> = body
        .split(|b| *b == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    assert_eq!(
        (lines[0]["type"].as_str(), lines[0]["object"]["metadata"]["name"].as_str()),
        (Some("ADDED"), Some("a"))
    );
    assert_eq!((lines[1]["type"].as_str(), lines.len()), (Some("BOOKMARK"), 2));
    // kube's own client understands it.
    let event: kube::core::WatchEvent<kube::core::DynamicObject> =
        serde_json::from_value(lines[1].clone()).unwrap();
    assert!(matches!(event, kube::core::WatchEvent::Bookmark(_)));
    let table = connection.get(&path, &[TOKEN, ("accept", TABLE)]).await.2;
    let first: serde_json::Value =
        serde_json::from_slice(table.split(|b| *b == b'\n').next().unwrap()).unwrap();
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
}

/// Longer than any clock can tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_for_ever_is_a_watch() {
    let world = World::new().await;
    for seconds in [u64::MAX / 2, u64::MAX] {
        let mut connection = world.agent().await;
        let mut watch = Watch::open(&mut connection, &format!("&timeoutSeconds={seconds}")).await;
        assert_eq!(watch.next().await.map(|(kind, _)| kind.as_str()), Some("BOOKMARK"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_hangs_is_cut_off_and_others_are_not() {
    let world = World::new().await;
    add(&world, "a", &["n1"]);
    let (mut slow, mut quick) = (world.agent().await, world.agent().await);
    let mut hanging = Watch::open(&mut slow, "&fieldSelector=nodeName%3Dn1").await;
    let mut reading = Watch::open(&mut quick, "&fieldSelector=nodeName%3Dn1").await;
    let hub = Arc::clone(&world.hub);
    let padding = "x".repeat(4096);
    let publisher = tokio::spawn(async move {
        for n in 1..=3000 {
            let mut changed = group("a", n);
            changed.metadata.annotations.insert("padding".into(), padding.clone());
            hub.update(|_, routes| {
                let delta = Delta::Updated { added: &[], removed: &[] };
                routes.publish(0, "a", delta, &mut Change(changed));
            });
            if n % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    });
    let mut last = 0;
    while last < 3000 {
        let (_, object) = reading.next().await.expect("the reader is not cut off");
        last = last.max(object.decode::<AddressGroup>().unwrap().metadata.generation);
    }
    publisher.await.unwrap();
    assert_eq!(world.hub.read(|_, routes| routes.cut_off()).0, 1);
    let mut got = 0;
    while hanging.next().await.is_some() {
        got += 1;
    }
    assert!((1000..3000).contains(&got), "{got}");
}
