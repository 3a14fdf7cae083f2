//! Tables as people see them, against an API server in this process.

use serde_json::{Value, json};

use crate::{
    cli,
    connect::Place,
    tests::{Cluster, Fixture},
};

/// Policies of all kinds and Tiers, in no order, and the groups that they apply to.
fn answer(plural: &str, _: Option<String>) -> Value {
    let policy = |uid: &str, source: [&str; 3], order: Option<(i32, f64)>, group: &str| {
        let mut policy = json!({
            "metadata": {"name": uid}, "appliedToGroups": [group], "rules": [{"direction": "In"}],
            "sourceRef": {"type": source[0], "namespace": source[1], "name": source[2]},
        });
        if let Some((tier, priority)) = order {
            policy["tierPriority"] = tier.into();
            policy["priority"] = priority.into();
        }
        policy
    };
    let [cluster, own, kubernetes] =
        ["AntreaClusterNetworkPolicy", "AntreaNetworkPolicy", "K8sNetworkPolicy"];
    let mut of_rule = policy("u5", [own, "shop", "rules"], Some((250, 5.0)), "g1");
    of_rule["appliedToGroups"] = json!([]);
    of_rule["rules"][0]["appliedToGroups"] = json!(["g2"]);
    let items = match plural {
        "networkpolicies" => json!([
            policy("u1", [cluster, "", "base"], Some((253, 1.0)), "g1"),
            policy("u2", [kubernetes, "shop", "deny"], None, "g2"),
            policy("u3", [cluster, "", "late"], Some((100, 10.0)), "g1"),
            policy("u4", [cluster, "", "early"], Some((100, 9.5)), "g1"),
            of_rule,
            policy("u6", [kubernetes, "bank", "deny"], None, "g1"),
            policy("u7", ["ClusterNetworkPolicy", "", "probes"], Some((251, 7.0)), "g3"),
        ]),
        _ => json!([
            {"metadata": {"name": "g1"}, "groupMembers": [{"pod": {"name": "web", "namespace": "bank"}}]},
            {"metadata": {"name": "g2"}, "groupMembers": [{"pod": {"name": "web", "namespace": "shop"}}]},
        ]),
    };
    json!({ "items": items })
}

async fn fixture() -> Fixture {
    let member = |name: &str, ips: &[&str]| json!({"pod": {"name": name, "namespace": "shop"}, "ips": ips});
    let both = json!({
        "kind": "ClusterGroupMembers", "metadata": {"name": "web"},
        "effectiveMembers": [member("web-0", &["CgoABQ==", "/QAAAAAAAAAAAAAAAAAAAQ=="]), member("web-1", &["CgoABg=="])],
        "effectiveIPBlocks": [{"ip": "wAACAA==", "prefixLength": 24}],
        "totalMembers": 2, "totalPages": 1, "currentPage": 1,
    });
    let part = json!({
        "kind": "GroupMembers", "metadata": {"name": "web", "namespace": "shop"},
        "effectiveMembers": [member("web-1", &["CgoABg=="])],
        "totalMembers": 2, "totalPages": 2, "currentPage": 2,
    });
    let below = "GET /apis/controlplane.antrea.io/v1beta2";
    let answers = [
        (format!("{below}/clustergroupmembers/web"), both),
        (format!("{below}/namespaces/shop/groupmembers/web?limit=1&page=2"), part),
    ];
    Fixture::new(Cluster { computed: Some(answer), answers: answers.into(), ..Cluster::default() }).await
}

#[tokio::test]
async fn policies_in_the_order_of_their_evaluation() {
    let fixture = fixture().await;
    let table = fixture.run(Place::Elsewhere, "antctl get networkpolicy --sort-by effectivePriority").await;
    let golden = "\
NAME   SOURCE                             APPLIED-TO   RULES   TIER-PRIORITY   PRIORITY
u4     AntreaClusterNetworkPolicy:early   1            1       100             9.5
u3     AntreaClusterNetworkPolicy:late    1            1       100             10
u5     AntreaNetworkPolicy:shop/rules     0            1       250             5
u7     ClusterNetworkPolicy:probes        1            1       251             7
u2     K8sNetworkPolicy:shop/deny         1            1       -               -
u6     K8sNetworkPolicy:bank/deny         1            1       -               -
u1     AntreaClusterNetworkPolicy:base    1            1       253             1
";
    assert_eq!(table.unwrap(), golden);
    let table = fixture.run(Place::Elsewhere, "antctl get networkpolicy").await.unwrap();
    let names: Vec<&str> = table.lines().skip(1).map(|line| &line[..2]).collect();
    assert_eq!(names, ["u1", "u4", "u3", "u7", "u6", "u2", "u5"], "{table}");
}

#[tokio::test]
async fn policies_by_source_kind_and_pod() {
    let fixture = fixture().await;
    for (words, wanted) in [
        ("-T k8snp", vec!["u6", "u2"]),
        ("-T ACNP --sort-by effectivePriority", vec!["u4", "u3", "u1"]),
        ("--type ANNP", vec!["u5"]),
        ("-T cnp", vec!["u7"]),
        ("-S deny -n shop", vec!["u2"]),
        ("-S u2", vec![]),
        ("-p shop/web", vec!["u2", "u5"]),
        ("-p shop/web -T ANNP", vec!["u5"]),
        ("-p shop/db", vec![]),
    ] {
        let table = fixture.run(Place::Elsewhere, &format!("antctl get np {words}")).await.unwrap();
        let names: Vec<&str> = table.lines().skip(1).map(|line| &line[..2]).collect();
        assert_eq!(names, wanted, "{words}");
    }
}

#[tokio::test]
async fn members_of_a_group_and_a_page_of_them() {
    let fixture = fixture().await;
    let table = fixture.run(Place::Elsewhere, "antctl get clustergroupmembers web").await.unwrap();
    let golden = "\
KIND      NAME         ADDRESSES
Pod       shop/web-0   10.10.0.5,fd00::1
Pod       shop/web-1   10.10.0.6
IPBlock   -            192.0.2.0/24
";
    assert_eq!(table, golden);
    let line = "antctl get groupmembers web -n shop --limit 1 --page 2";
    let table = fixture.run(Place::Elsewhere, line).await.unwrap();
    assert_eq!(table, "KIND   NAME         ADDRESSES\nPod    shop/web-1   10.10.0.6\n");
    let json = fixture.run(Place::Elsewhere, "antctl get clustergroupmembers web -o raw").await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["totalMembers"], 2);

    let error = fixture.fails(Place::Elsewhere, "antctl get clustergroupmembers none").await;
    assert!(
        error.starts_with("GET /apis/controlplane.antrea.io/v1beta2/clustergroupmembers/none: "),
        "{error}"
    );
    let error = fixture.fails(Place::Elsewhere, "antctl get clustergroupmembers web --node n1").await;
    assert_eq!(error, "members of groups are what antrea-controller knows: leave --node out");
    let error = fixture.fails(Place::Agent, "antctl get groupmembers web").await;
    assert!(error.starts_with("members of groups are what antrea-controller knows: run antctl"), "{error}");
}

/// The first line says which argument is wrong, and why.
#[test]
fn wrong_arguments_are_named() {
    for (words, told) in [
        ("np --sort-by name", "error: invalid value 'name' for '--sort-by <ORDER>'"),
        ("np -T NP", "error: invalid value 'NP' for '--type <TYPE>'"),
        ("np -p web", "error: invalid value 'web' for '--pod <POD>': namespace/name of a Pod is needed"),
        ("np -p shop/", "error: invalid value 'shop/' for '--pod <POD>': namespace/name of a Pod is needed"),
        ("np a -S b", "error: the argument '[NAME]' cannot be used with '--source <SOURCE>'"),
        ("clustergroupmembers", "error: the following required arguments were not provided:"),
        (
            "clustergroupmembers web --limit 0",
            "error: invalid value '0' for '--limit <LIMIT>': 0 is not in 1..=4294967295",
        ),
        ("clustergroupmembers web --page 2", "error: the following required arguments were not provided:"),
        ("clustergroupmembers web -n shop", "error: unexpected argument '-n' found"),
    ] {
        let line = ["antctl", "get"].into_iter().chain(words.split(' ')).map(Into::into);
        let ended = cli::parse(Place::Elsewhere, line).unwrap_err();
        assert_eq!((ended.text.lines().next().unwrap(), ended.code), (told, 1), "{}", ended.text);
    }
    let line = ["antctl", "get", "np", "--sort-by", "name"].map(Into::into);
    let ended = cli::parse(Place::Elsewhere, line).unwrap_err();
    assert_eq!(ended.text.lines().nth(1).unwrap(), "  [possible values: effectivePriority]");
}
