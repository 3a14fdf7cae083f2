//! A policy's trace from the watch event to the event that agents get.

use antrea_api::trace::ANNOTATION;
use antrea_runtime::trace::{
    Config, Counters, Identity, Remote, Tracing,
    testing::{Collector, Span},
};

use super::*;
use crate::policy::storage::watch;

/// An export to a collector, and a hub that traces.
async fn traced(sampling_percent: u8) -> (Collector, Tracing, Arc<PolicyHub>) {
    let (collector, otlp_endpoint) = Collector::start().await;
    let config = Config { otlp_endpoint, sampling_percent, ..Config::default() };
    let identity = Identity { service: "antrea-controller", version: "1", node: "n0".to_owned() };
    let counters = Counters::new(&Metrics::empty()).unwrap();
    let tracing = Tracing::start(&config, &identity, None, counters).unwrap();
    let hub = hub(PolicyMetrics::new(&Metrics::empty()).unwrap(), tracing.tracer());
    (collector, tracing, hub)
}

fn stamp(item: &Item) -> Option<String> {
    item.object().metadata().annotations.get(ANNOTATION).cloned()
}

async fn next(subscription: &mut Subscription) -> Arc<Item> {
    tokio::time::timeout(Duration::from_secs(30), subscription.next()).await.unwrap().unwrap()
}

/// Two nodes that a policy concerns, watched before the policy is there.
async fn two_nodes(hub: Arc<PolicyHub>) -> (Inputs, [Subscription; 2]) {
    let inputs = Inputs::on(hub);
    list(&inputs.namespaces, vec![namespace("shop")]);
    let pods = [("web-0", "n0"), ("web-1", "n1")];
    let pods = pods.map(|(name, node)| pod(name, json!({ "app": "web" }), node, "10.0.0.5"));
    list(&inputs.pods, pods.to_vec());
    list(&inputs.policies, Vec::new());
    until(|| inputs.ready.is_ready()).await;
    let watches = ["n0", "n1"].map(|node| watch(&inputs.hub, POLICY, Some(node)));
    (inputs, watches)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_carries_its_trace_to_every_node_and_lists_carry_none() {
    let (collector, tracing, hub) = traced(100).await;
    let (inputs, [mut first, mut second]) = two_nodes(hub).await;
    apply(&inputs.policies, policy("allow", 1, json!({ "app": "web" }), json!({ "app": "web" })));
    let (one, other) = (next(&mut first).await, next(&mut second).await);
    assert!(Arc::ptr_eq(&one, &other), "encoded once for all");
    let parent = Remote::parse(&stamp(&one).expect("the event is stamped")).unwrap();
    assert!(parent.is_sampled());
    let json: Value = serde_json::from_slice(&one.bytes(Encoding::Json)).unwrap();
    assert_eq!(json["object"]["metadata"]["annotations"][ANNOTATION], parent.to_string());
    let mut decoder = FrameDecoder::default();
    decoder.push(&one.bytes(Encoding::Protobuf));
    let (_, object) = decoder.next_event().unwrap().unwrap();
    assert_eq!(Event::metadata(&object).unwrap().annotations[ANNOTATION], parent.to_string());

    let listed = watch(&inputs.hub, POLICY, Some("n0"));
    assert_eq!(listed.snapshot.iter().map(|item| stamp(item)).collect::<Vec<_>>(), [None]);

    // Nothing follows from a change of what nobody looks at.
    apply(&inputs.policies, policy("allow", 1, json!({ "app": "web" }), json!({ "app": "web" })));
    inputs
        .policies
        .unbounded_send(Ok(watcher::Event::Delete(policy("allow", 1, json!({}), json!({})))))
        .unwrap();
    let gone = next(&mut first).await;
    assert_eq!(gone.kind(), EventType::Deleted);
    let later = Remote::parse(&stamp(&gone).expect("a deletion is stamped too")).unwrap();
    assert_ne!(parent.to_string(), later.to_string());

    tracing.finish().await;
    let spans = collector.spans();
    let of = |resource: &str| -> Vec<&Span> {
        let event = |span: &&Span| {
            span.name == "policy.event" && span.attributes["resource"] == resource && span.parent.is_empty()
        };
        spans.iter().filter(event).collect()
    };
    let events = of("networkpolicies");
    assert_eq!(events.len(), 2, "{spans:#?}");
    assert_eq!(events[0].attributes["object"], "shop/allow");
    for (event, remote) in events.iter().zip([parent, later]) {
        let within = |name: &str| {
            let found = |span: &&Span| span.name == name && span.parent == event.id;
            spans.iter().find(found).unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
        };
        let (compute, publish) = (within("policy.compute"), within("policy.publish"));
        assert_eq!(remote.to_string(), format!("00-{}-{}-01", event.trace, publish.id));
        assert!(event.start <= compute.start && compute.end <= publish.end && publish.end <= event.end);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_sampled_is_not_stamped() {
    let (collector, tracing, hub) = traced(0).await;
    let (inputs, [mut first, _]) = two_nodes(hub).await;
    apply(&inputs.policies, policy("allow", 1, json!({ "app": "web" }), json!({ "app": "web" })));
    assert_eq!(stamp(&*next(&mut first).await), None);
    tracing.finish().await;
    assert!(collector.spans().is_empty());
}
