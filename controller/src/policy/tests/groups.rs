//! Who is in a group, asked of the API.

use super::*;
use crate::policy::native::{ClusterGroup, NamespacedGroup};

fn names(found: &Value) -> Vec<&str> {
    found["associatedGroups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["name"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_groups_and_groups_of_members() {
    let inputs = Inputs::shop().await;
    let hub = &inputs.hub;
    let (tell, _told) = mistakes();
    let cluster = start::<ClusterGroup>(hub, &inputs.ready, &inputs.problems, &tell);
    let own = start::<NamespacedGroup>(hub, &inputs.ready, &inputs.problems, &tell);
    let web = json!({ "podSelector": { "matchLabels": { "app": "web" } } });
    let group = |name: &str, namespace: Option<&str>, spec: &Value| {
        let metadata = json!({ "name": name, "namespace": namespace, "uid": format!("uid-{name}") });
        json!({ "metadata": metadata, "spec": spec })
    };
    let blocks = json!({ "ipBlocks": [{ "cidr": "192.0.2.0/24" }] });
    let both = json!({ "childGroups": ["web", "blocks"] });
    list(
        &cluster,
        [("web", &web), ("blocks", &blocks), ("both", &both)]
            .map(|(name, spec)| watched(group(name, None, spec)))
            .into(),
    );
    let services = start::<k8s::Service>(hub, &inputs.ready, &inputs.problems, &tell);
    let behind = json!({ "serviceReference": { "name": "front" } });
    list(
        &own,
        vec![
            watched(group("shop-web", Some("shop"), &web)),
            watched(group("shop-front", Some("shop"), &behind)),
        ],
    );
    list(
        &services,
        vec![watched(json!({ "metadata": { "name": "front", "namespace": "shop", "resourceVersion": "1" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] } }))],
    );
    until(|| inputs.ready.is_ready()).await;

    let (status, found) = get(hub, "clustergroupmembers/both").await;
    assert_eq!((status, &found["kind"]), (StatusCode::OK, &json!("ClusterGroupMembers")));
    let total = found["totalMembers"].as_u64().unwrap();
    let members = found["effectiveMembers"].as_array().unwrap();
    assert!(total > 1 && members.len() as u64 == total, "{found}");
    assert!(members.iter().all(|member| member["pod"]["name"].as_str().unwrap().starts_with("web-")));
    assert_eq!(found["effectiveIPBlocks"], json!([{ "ip": "wAACAA==", "prefixLength": 24 }]));
    let (_, page) = get(hub, "clustergroupmembers/both?limit=1&page=2").await;
    assert_eq!((&page["effectiveMembers"][0], &page["totalPages"]), (&members[1], &json!(total)));
    assert_eq!(get(hub, "clustergroupmembers/both?limit=x").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(get(hub, "clustergroupmembers/none").await.0, StatusCode::NOT_FOUND);
    let (_, found) = get(hub, "namespaces/shop/groupmembers/shop-web").await;
    assert_eq!(found["totalMembers"], total);
    let (_, found) = get(hub, "namespaces/shop/groupmembers/shop-front").await;
    assert_eq!(found["totalMembers"], total);
    assert_eq!(get(hub, "namespaces/blog/groupmembers/shop-web").await.0, StatusCode::NOT_FOUND);

    let (_, found) = get(hub, "namespaces/shop/groupassociations/web-0").await;
    assert_eq!(names(&found), ["both", "web", "shop-front", "shop-web"]);
    assert_eq!(
        found["associatedGroups"][3],
        json!({ "namespace": "shop", "name": "shop-web", "uid": "uid-shop-web" })
    );
    let (_, found) = get(hub, "namespaces/shop/groupassociations/nobody").await;
    assert_eq!(names(&found), [""; 0]);
    let (_, found) = get(hub, "ipgroupassociations/192.0.2.7").await;
    assert_eq!(names(&found), ["blocks", "both"]);
    assert_eq!(get(hub, "ipgroupassociations/web").await.0, StatusCode::BAD_REQUEST);
}
