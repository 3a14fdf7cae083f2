//! Traces from end to end, as a collector sees them, and the log level that follows the configuration.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use antrea_runtime::trace::testing::{Span, show};
use antrea_tests::https;
use antrea_tests::lab::{Lab, eventually};
use antrea_tests::tracing::{parent, path, trace};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

/// The trace whose first span has this name, once it has a span of each of `parts`.
fn whole(spans: &[Span], first: &str, parts: &[&str]) -> Option<Vec<Span>> {
    let first = spans.iter().find(|span| span.name == first)?;
    let all: Vec<Span> = spans.iter().filter(|span| span.trace == first.trace).cloned().collect();
    let there = parts.iter().all(|part| all.iter().any(|span| span.name == *part));
    (there && is_whole(&all, &first.id)).then_some(all)
}

/// Spans end, and arrive, before the one that they are a part of.
fn is_whole(spans: &[Span], first: &str) -> bool {
    spans.iter().all(|span| span.id == first || parent(spans, span).is_some())
}

fn one<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let mut found = spans.iter().filter(|span| span.name == name);
    let span = found.next().unwrap_or_else(|| panic!("no {name}:\n{}", show(spans)));
    assert_eq!(found.next(), None, "{name} twice:\n{}", show(spans));
    span
}

/// Every span but the first lies within its parent.
fn assert_nested(spans: &[Span], first: &str) {
    for span in spans.iter().filter(|span| span.name != first) {
        let outer =
            parent(spans, span).unwrap_or_else(|| panic!("{} is an orphan:\n{}", span.name, show(spans)));
        assert!(outer.start <= span.start, "{} begins before {}", span.name, outer.name);
        assert!(span.end <= outer.end, "{} ends after {}", span.name, outer.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_one_trace_from_the_plugin_to_open_vswitch() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[]).await;
    let collector = trace(&mut lab).await;
    lab.start_agent(0);
    lab.wait_ready(0).await;

    let before = now();
    let pod = lab.add_pod(0, "web");
    let after = now();
    let parts = [
        "ipam.add",
        "veth.create",
        "netns.configure",
        "ovsdb.transact",
        "ovsdb.wait_ofport",
        "policy.confirm",
        "openflow.install",
        "openflow.bundle",
        "cni.add",
    ];
    let add = |spans: &[Span]| whole(spans, "antrea-cni ADD", &parts);
    let spans = collector.wait_for("the trace of an ADD", LIMIT, add).await;
    println!("{}", show(&spans));
    let plugin = one(&spans, "antrea-cni ADD");
    assert_eq!((&*plugin.parent, &*plugin.service, &*plugin.node), ("", "antrea-cni", "node1"));
    assert!(before <= plugin.start && plugin.end <= after, "the plugin's own times");
    for part in &parts[..7] {
        let path = path(&spans, one(&spans, part));
        assert_eq!(path[1..], ["antrea-agent: cni.add", "antrea-cni: antrea-cni ADD"], "{part}");
    }
    let bundle = path(&spans, one(&spans, "openflow.bundle"));
    assert_eq!(bundle[1..3], ["antrea-agent: openflow.install", "antrea-agent: cni.add"]);
    assert!(one(&spans, "openflow.bundle").attributes["flows.added"].parse::<u32>().unwrap() > 0);
    assert_nested(&spans, "antrea-cni ADD");
    for span in [plugin, one(&spans, "cni.add")] {
        assert_eq!(span.attributes["k8s.pod.name"], "web");
        assert_eq!(span.attributes["k8s.namespace.name"], "default");
        assert_eq!(span.attributes["container.id"], pod.container_id);
    }
    assert!(spans.iter().all(|span| !span.failed), "{}", show(&spans));

    lab.delete_pod(0, &pod);
    let parts =
        ["ipam.del", "veth.delete", "ovsdb.transact", "openflow.remove", "openflow.bundle", "cni.del"];
    let del = |spans: &[Span]| whole(spans, "antrea-cni DEL", &parts);
    let spans = collector.wait_for("the trace of a DEL", LIMIT, del).await;
    let bundle = path(&spans, one(&spans, "openflow.bundle"));
    assert_eq!(bundle[1..3], ["antrea-agent: openflow.remove", "antrea-agent: cni.del"]);
    assert_nested(&spans, "antrea-cni DEL");

    // A runtime that traces is the parent, and its decision counts.
    collector.clear();
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    for (sampled, name) in [("00", "quiet"), ("01", "loud")] {
        let netns = lab.pod_netns(0, name);
        let id = format!("{name}-0123456789abcdef");
        let (output, _) =
            lab.nodes[0].cni_traced("ADD", &id, &netns, &format!("00-{trace}-{span}-{sampled}"));
        assert!(output.status.success(), "{output:?}");
    }
    let spans = collector.wait_for("the runtime's trace", LIMIT, add).await;
    let plugin = one(&spans, "antrea-cni ADD");
    assert_eq!((&*plugin.trace, &*plugin.parent, &*plugin.attributes["k8s.pod.name"]), (trace, span, "loud"));

    // What fails says so in every span around it.
    collector.clear();
    let (output, _) = lab.nodes[0].cni("ADD", "lost-0123456789abcdef", "no-such-namespace", "1.0.0", None);
    assert!(!output.status.success());
    let failed = |spans: &[Span]| whole(spans, "antrea-cni ADD", &["cni.add"]);
    let spans = collector.wait_for("the trace of a failure", LIMIT, failed).await;
    assert!(one(&spans, "antrea-cni ADD").failed && one(&spans, "cni.add").failed, "{}", show(&spans));

    assert!(lab.agent_metric(0, "antrea_otlp_spans_exported_total").await > 0.0);
    assert_eq!(lab.agent_metric(0, "antrea_otlp_spans_dropped_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_one_trace_from_the_watch_event_to_the_bundle_on_each_node() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[]).await;
    let collector = trace(&mut lab).await;
    for index in 0..2 {
        lab.start_agent(index);
    }
    for (index, name) in ["a", "b"].into_iter().enumerate() {
        lab.wait_ready(index).await;
        lab.put_pod(index, name, &[("app", "web")], None);
        lab.add_pod(index, name);
    }
    let spec = |port: u16| {
        json!({
            "podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": "198.18.0.1/32"}}], "ports": [{"port": port}]}],
        })
    };
    for (generation, port) in [("created", 80), ("changed", 81)] {
        collector.clear();
        lab.put_policy("allow", &spec(port));
        let found = |spans: &[Span]| {
            let event = |span: &&Span| {
                span.name == "policy.event"
                    && span.attributes.get("object").is_some_and(|o| o == "default/allow")
            };
            let event = spans.iter().find(event)?;
            let all: Vec<Span> = spans.iter().filter(|span| span.trace == event.trace).cloned().collect();
            let bundle = |node: &str| all.iter().any(|s| s.name == "openflow.bundle" && s.node == node);
            (bundle("node1") && bundle("node2") && is_whole(&all, &event.id)).then_some(all)
        };
        let spans = collector.wait_for(&format!("the trace of a policy {generation}"), LIMIT, found).await;
        println!("{generation}\n{}", show(&spans));
        let event = one(&spans, "policy.event");
        assert_eq!((&*event.service, &*event.parent), ("antrea-controller", ""));
        assert_eq!(event.attributes["resource"], "networkpolicies");
        let way = ["antrea-controller: policy.publish", "antrea-controller: policy.event"];
        let computed = |span: &&Span| span.service == "antrea-controller" && span.name == "policy.compute";
        let computed = spans.iter().find(computed).expect("the controller computes");
        assert_eq!(path(&spans, computed)[1..], way[1..]);
        for node in ["node1", "node2"] {
            let on_node: Vec<&Span> = spans.iter().filter(|span| span.node == node).collect();
            for (name, outer) in [
                ("policy.receive", None),
                ("policy.compute", Some("antrea-agent: policy.realize")),
                ("openflow.bundle", Some("antrea-agent: policy.realize")),
            ] {
                let mut found = on_node.iter().filter(|span| span.name == name).peekable();
                assert!(found.peek().is_some(), "no {name} on {node}:\n{}", show(&spans));
                for span in found {
                    let path = path(&spans, span);
                    let expected: Vec<&str> = outer.into_iter().chain(way).collect();
                    assert_eq!(path[1..], expected, "{name} on {node}");
                    assert!(span.start >= event.start, "{name} on {node} before its cause");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_changes_nothing() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[]).await;
    // Nobody listens there.
    lab.configure("tracing", json!({"otlpEndpoint": format!("http://{}:4999", lab.outside_ip())}));
    lab.start_agent(0);
    lab.wait_ready(0).await;
    let pod = lab.add_pod(0, "web");
    lab.delete_pod(0, &pod);
    let start = std::time::Instant::now();
    while lab.agent_metric(0, "antrea_otlp_spans_dropped_total").await == 0.0 {
        assert!(start.elapsed() < LIMIT, "what is lost is counted");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let pod = lab.add_pod(0, "again");
    lab.delete_pod(0, &pod);
    // It ends although there is something left to send.
    lab.nodes[0].stop_agent();
}

/// Changes `logLevel` in a configuration file.
fn set_level(file: &Path, level: &str) {
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    config["logLevel"] = json!(level);
    std::fs::write(file, config.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_log_level_is_followed_by_what_runs() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[("logLevel", json!("warn"))]).await;
    lab.start_agent(0);
    lab.wait_ready(0).await;
    let pids = [lab.nodes[0].agent_pid(), lab.controller_pid()];
    let token = Some("lab-scraper");
    let endpoints = [lab.agent_endpoint(0, token), lab.controller_endpoint(token).unwrap()];
    let files = [
        lab.nodes[0].dir.join("antrea-agent.conf"),
        lab.controller_log().with_file_name("antrea-controller.conf"),
    ];
    let logs = [lab.nodes[0].log(), lab.controller_log()];
    for ((endpoint, file), log) in endpoints.iter().zip(&files).zip(&logs) {
        let (status, level) = https::get(endpoint, "/loglevel").await.unwrap();
        assert_eq!((status, level.trim()), (200, "0"));
        set_level(file, "debug");
        let said = || std::fs::read_to_string(log).unwrap().contains("log level changed");
        eventually("the level is followed", LIMIT, said).await;
        let (_, level) = https::get(endpoint, "/loglevel").await.unwrap();
        assert_eq!(level.trim(), "4");
    }
    lab.add_pod(0, "web");
    // At the former level it would not say so.
    let text = std::fs::read_to_string(&logs[0]).unwrap();
    assert!(text.contains("added container=\"web-"), "{text}");
    assert_eq!(pids, [lab.nodes[0].agent_pid(), lab.controller_pid()]);
}
