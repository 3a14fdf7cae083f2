//! Native policies from their watch to agents, and back to their status.

use antrea_crds::policy::Phase;
use antrea_policy::crd;

use super::*;
use crate::policy::native::{ClusterPolicy, NamespacedPolicy, Told, told};

fn native<T: Input>(namespace: Option<&str>, generation: i64, spec: Value) -> Watched<T> {
    let mut object = json!({
        "metadata": { "name": "guard", "uid": "uid-guard", "generation": generation, "resourceVersion": "1" },
        "spec": spec,
    });
    object["metadata"]["namespace"] = namespace.into();
    watched(object)
}

/// What a status is to say; none while the policy is not computed.
fn status(hub: &Arc<PolicyHub>, namespace: &str) -> Option<Told> {
    let (told, _) = hub
        .read(|state, _| state.index.native(namespace, "guard").map(|view| told(&view, &state.realization)));
    told
}

async fn report(hub: &Arc<PolicyHub>, node: &str, generation: i64, failure: bool) {
    let status = json!({
        "metadata": { "name": "uid-guard" },
        "nodes": [{ "nodeName": node, "generation": generation, "realizationFailure": failure, "message": "m" }],
    });
    let (code, _) = call(
        hub,
        Method::POST,
        "networkpolicies/uid-guard/status",
        "application/json",
        status.to_string().into(),
    )
    .await;
    assert_eq!(code, StatusCode::CREATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_policy_is_served_and_its_status_follows_the_reports() {
    let inputs = Inputs::shop().await;
    let hub = &inputs.hub;
    let (tell, _told) = mistakes();
    let tiers = start::<crd::Tier>(hub, &inputs.ready, &inputs.problems, &tell);
    let policies = start::<ClusterPolicy>(hub, &inputs.ready, &inputs.problems, &tell);
    list(&tiers, vec![watched(json!({ "metadata": { "name": "mine" }, "spec": { "priority": 20 } }))]);
    let spec = |rules: Value| {
        json!({ "tier": "mine", "priority": 7.5, "appliedTo": [{ "podSelector": { "matchLabels": { "app": "web" } } }],
            "ingress": rules })
    };
    let drop = json!({ "action": "Drop", "name": "all", "enableLogging": true });
    list(&policies, vec![native(None, 1, spec(json!([drop])))]);
    until(|| inputs.ready.is_ready()).await;

    let (_, served) = get(hub, "networkpolicies/uid-guard").await;
    assert_eq!(served["sourceRef"]["type"], "AntreaClusterNetworkPolicy");
    assert_eq!((&served["tierPriority"], &served["priority"]), (&json!(20), &json!(7.5)));
    let rule = &served["rules"][0];
    assert_eq!(
        (&rule["action"], &rule["name"], &rule["enableLogging"]),
        (&json!("Drop"), &json!("all"), &json!(true))
    );

    let told = status(hub, "").unwrap();
    assert_eq!((told.phase, told.current, told.desired), (Phase::Realizing, 0, 2));
    report(hub, "n0", 1, false).await;
    report(hub, "n1", 0, false).await;
    assert_eq!(status(hub, "").unwrap().current, 1, "of another generation");
    report(hub, "n1", 1, true).await;
    let told = status(hub, "").unwrap();
    assert_eq!((told.phase, &*told.failures), (Phase::Failed, "n1: m"));
    report(hub, "n1", 1, false).await;
    assert_eq!(status(hub, "").unwrap().phase, Phase::Realized);
    let (stale, _) = hub.read(|state, _| state.stale.names());
    assert_eq!(stale, ["guard"], "its status is to be written");

    // What cannot be enforced is told, and the rest of the policy stays in force.
    let l7 = json!({ "action": "Allow", "l7Protocols": [{ "http": {} }] });
    apply(&policies, native(None, 2, spec(json!([l7, drop]))));
    until(|| status(hub, "").is_some_and(|told| told.generation == 2)).await;
    let told = status(hub, "").unwrap();
    assert_eq!(told.phase, Phase::Failed);
    assert!(told.errors.starts_with("spec.ingress[0].l7Protocols: is not enforced"), "{}", told.errors);
    let (_, served) = get(hub, "networkpolicies/uid-guard").await;
    assert_eq!((served["rules"].as_array().unwrap().len(), &served["rules"][0]["priority"]), (1, &json!(1)));

    // Domain names go to agents as they compare them.
    let mut names = spec(json!([]));
    names["egress"] = json!([{ "action": "Drop", "to": [{ "fqdn": "*.Example.com" }] }]);
    apply(&policies, native(None, 3, names));
    until(|| status(hub, "").is_some_and(|told| told.generation == 3)).await;
    let (_, served) = get(hub, "networkpolicies/uid-guard").await;
    assert_eq!(served["rules"][0]["to"], json!({ "fqdns": ["*.example.com"] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreadable_native_policy_holds_up_nobody() {
    let inputs = Inputs::shop().await;
    let (tell, _told) = mistakes();
    let policies = start::<NamespacedPolicy>(&inputs.hub, &inputs.ready, &inputs.problems, &tell);
    let good =
        json!({ "priority": 1, "appliedTo": [{ "podSelector": {} }], "ingress": [{ "action": "Drop" }] });
    let mut bad = json!({ "metadata": { "name": "bad", "namespace": "shop" }, "spec": good });
    bad["spec"]["ingress"] = json!(7);
    list(&policies, vec![watched(bad), native(Some("shop"), 1, good)]);
    until(|| inputs.ready.is_ready()).await;
    assert_eq!(status(&inputs.hub, "shop").unwrap().desired, 2);
    until(|| !inputs.problems.is_ready()).await;
}

/// An API server that lets nobody write the status of `guard`; whose was written, or was to be, in order.
async fn answer(
    axum::extract::State(tried): axum::extract::State<Arc<parking_lot::Mutex<Vec<String>>>>,
    request: Request<Body>,
) -> (StatusCode, String) {
    let path = request.uri().path().trim_end_matches("/status");
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    if request.method() == Method::PATCH {
        tried.lock().push(name.clone());
        if name == "guard" {
            let refused = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure",
                "reason": "Forbidden", "message": "no", "code": 403 });
            return (StatusCode::FORBIDDEN, refused.to_string());
        }
    }
    let policy = json!({ "apiVersion": "crd.antrea.io/v1beta1", "kind": "ClusterNetworkPolicy",
        "metadata": { "name": name }, "spec": { "priority": 1 } });
    (StatusCode::OK, policy.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_cannot_be_written_holds_up_no_other() {
    let inputs = Inputs::shop().await;
    let hub = &inputs.hub;
    let tried = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let client = kube::Client::new(Router::new().fallback(answer).with_state(Arc::clone(&tried)), "default");
    let writing = tokio::spawn(crate::policy::write_statuses(Arc::clone(hub), client));
    let change = |name: &str| {
        let spec = json!({ "priority": 1, "appliedTo": [{ "podSelector": {} }] });
        let policy = json!({ "metadata": { "name": name, "uid": name }, "spec": spec });
        hub.update(|state, _| {
            state.index.apply_native(&serde_json::from_value(policy).unwrap());
            state.index.drain();
            state.stale.computed([("".into(), name.into())].into());
        });
    };
    let of = |name: &str| tried.lock().iter().filter(|tried| *tried == name).count();
    change("guard");
    until(|| of("guard") == 1).await;
    for name in ["other", "third"] {
        change(name);
        until(|| of(name) == 1).await;
    }
    let order = tried.lock().clone();
    assert_eq!(order, ["guard", "other", "third"]);
    // It is tried again.
    until(|| of("guard") > 1).await;
    writing.abort();
}

/// Services go to agents by name; Nodes are members of a group as Pods are, and it follows their labels.
#[tokio::test(flavor = "multi_thread")]
async fn services_are_told_by_name_and_nodes_by_their_addresses() {
    let inputs = Inputs::shop().await;
    let hub = &inputs.hub;
    let (tell, _told) = mistakes();
    let nodes = start::<k8s::Node>(hub, &inputs.ready, &inputs.problems, &tell);
    let policies = start::<ClusterPolicy>(hub, &inputs.ready, &inputs.problems, &tell);
    let node = |name: &str, zone: &str, ip: &str| {
        watched(json!({
            "metadata": { "name": name, "resourceVersion": "1", "labels": { "zone": zone } },
            "spec": { "podCIDRs": ["10.244.1.0/24"] },
            "status": { "addresses": [{ "type": "InternalIP", "address": ip }] },
        }))
    };
    list(&nodes, vec![node("n0", "a", "192.0.2.1"), node("n1", "b", "192.0.2.2")]);
    let service = json!({ "name": "db", "namespace": "shop" });
    let zone = json!({ "nodeSelector": { "matchLabels": { "zone": "a" } } });
    let spec = json!({ "priority": 1, "appliedTo": [{ "podSelector": { "matchLabels": { "app": "web" } } }],
        "egress": [{ "action": "Drop", "toServices": [service] }, { "action": "Drop", "to": [zone] }] });
    list(&policies, vec![native(None, 1, spec)]);
    until(|| inputs.ready.is_ready() && status(hub, "").is_some()).await;
    let (_, served) = get(hub, "networkpolicies/uid-guard").await;
    assert_eq!(served["rules"][0]["to"], json!({ "toServices": [service] }));
    let group = served["rules"][1]["to"]["addressGroups"][0].as_str().unwrap();
    let path = format!("addressgroups/{group}");
    let (_, served) = get(hub, &path).await;
    let members = served["groupMembers"].as_array().unwrap();
    assert!(members.iter().all(|member| member["node"] == json!({ "name": "n0" })), "{served}");
    assert_eq!(members.len(), 2, "its own address, and its gateway's: {served}");
    // It follows.
    apply(&nodes, node("n0", "b", "192.0.2.1"));
    let of_group = || {
        let name = group.parse().unwrap();
        hub.read(|state, _| state.index.address_group(&name).map_or(9, |group| group.members.len())).0
    };
    until(|| of_group() == 0).await;
    apply(&nodes, node("n1", "a", "192.0.2.2"));
    until(|| of_group() == 2).await;
}
