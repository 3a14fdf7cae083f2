//! What an agent is told of a pod that it is about to connect.

use super::*;

async fn ask(hub: &Arc<PolicyHub>, query: &str) -> (StatusCode, Value) {
    let request = Request::get(format!("/podselection?{query}")).body(Body::empty()).unwrap();
    let response = lookup(hub).oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn is_known_when_the_pod_is_known_on_its_node() {
    let unsynced = new_hub();
    assert_eq!(ask(&unsynced, "node=n1&namespace=shop&pod=db").await.0, StatusCode::SERVICE_UNAVAILABLE);

    let inputs = Inputs::shop().await;
    let hub = &inputs.hub;
    let (status, db) = ask(hub, "node=n1&namespace=shop&pod=db&uid=").await;
    assert_eq!((status, &db["policies"]), (StatusCode::OK, &json!(["uid-allow"])));
    let groups = db["appliedToGroups"].as_array().unwrap().clone();
    assert_eq!(groups.len(), 1);
    let held = Node::join(hub, "n1").agent.applied_to;
    assert!(held.contains_key(groups[0].as_str().unwrap()), "named as agents know it");
    let (status, web) = ask(hub, "node=n0&namespace=shop&pod=web-0").await;
    assert_eq!((status, web), (StatusCode::OK, json!({ "policies": [], "appliedToGroups": [] })));
    for unknown in ["node=n0&namespace=shop&pod=db", "node=n1&namespace=shop&pod=new", "node=n1&pod=db", ""] {
        assert_eq!(ask(hub, unknown).await.0, StatusCode::NOT_FOUND, "{unknown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_pod_of_the_name_is_not_known() {
    let inputs = Inputs::shop().await;
    let uids = ["7d9f2a1c-8c0b-4d5e-9f10-2b3c4d5e6f70", "7d9f2a1c-8c0b-4d5e-9f10-2b3c4d5e6f71"];
    let known = async |uid: &str| {
        ask(&inputs.hub, &format!("node=n1&namespace=shop&pod=db&uid={uid}")).await.0 == StatusCode::OK
    };
    for uid in uids {
        let mut object = json!({
            "metadata": { "name": "db", "namespace": "shop", "resourceVersion": "2", "labels": { "app": "db" } },
            "spec": { "nodeName": "n1" },
        });
        object["metadata"]["uid"] = uid.into();
        apply(&inputs.pods, watched(object));
        for _ in 0..500 {
            if known(uid).await && !known(uids[usize::from(uid == uids[0])]).await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(known(uid).await, "{uid}");
        assert!(!known(uids[usize::from(uid == uids[0])]).await, "{uid}");
        assert!(known("").await, "a runtime that tells no UID");
    }
}
