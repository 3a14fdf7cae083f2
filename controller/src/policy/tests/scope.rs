//! L7: a token that is bound to a node opens what concerns that node.

use super::*;

pub(super) fn user(account: &str, node: Option<&str>) -> User {
    let node = node.map(|node| ("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()]));
    User {
        name: format!("system:serviceaccount:kube-system:{account}"),
        extra: node.into_iter().collect(),
        ..User::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_asks_for_its_own_node() {
    let inputs = Inputs::shop().await;
    let get = async |user: &User, path: &str| {
        call_as(&inputs.hub, user.clone(), Method::GET, path, "application/json", Vec::new()).await.0.as_u16()
    };
    let own = user("antrea-agent", Some("n1"));
    let base = "/apis/controlplane.antrea.io/v1beta2";
    for plural in PLURALS {
        for (query, expected) in [
            ("?fieldSelector=nodeName%3Dn1", 200),
            ("?watch=true&timeoutSeconds=1&fieldSelector=nodeName%3Dn0", 403),
            ("?fieldSelector=nodeName%3Dn0", 403),
            ("?fieldSelector=metadata.name%3Da", 403),
            ("", 403),
            ("/a", 403),
        ] {
            assert_eq!(get(&own, &format!("{base}/{plural}{query}")).await, expected, "{plural}{query}");
        }
        for other in [user("antrea-agent", None), user("admin", Some("n1")), User::default()] {
            assert_eq!(get(&other, &format!("{base}/{plural}")).await, 200, "{other:?}");
        }
    }
    assert_eq!(get(&own, "/podselection?node=n1&namespace=shop&pod=db").await, 200);
    assert_eq!(get(&own, "/podselection?node=n0&namespace=shop&pod=web-0").await, 403);
    assert_eq!(get(&own, "/podselection?namespace=shop&pod=web-0").await, 403);
    assert_eq!(get(&user("admin", Some("n1")), "/podselection?node=n0&namespace=shop&pod=web-0").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_reports_of_its_own_node() {
    let inputs = Inputs::shop().await;
    let report = async |node: &str| {
        let status =
            json!({ "metadata": { "name": "uid-allow" }, "nodes": [{ "nodeName": node, "generation": 1 }] });
        let path = "/apis/controlplane.antrea.io/v1beta2/networkpolicies/uid-allow/status";
        let body = status.to_string().into_bytes();
        let own = user("antrea-agent", Some("n1"));
        call_as(&inputs.hub, own, Method::POST, path, "application/json", body).await.0.as_u16()
    };
    assert_eq!((report("n1").await, report("n0").await), (201, 403));
}
