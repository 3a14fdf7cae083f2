//! Each rule of validation, by an object that breaks it: what the API server is told, word for word.

use std::collections::BTreeSet;

use antrea_policy::{Findings, error::Problem};

use super::{
    admission::{Cluster, review},
    *,
};

mod cases;

macro_rules! rules {
    ($($rule:ident),* $(,)?) => {
        /// The names of all rules. One that is new does not compile before it is here.
        const RULES: &[&str] = &[$(stringify!($rule)),*];

        fn rule(problem: &Problem) -> &'static str {
            match problem {
                $(Problem::$rule { .. } => stringify!($rule)),*
            }
        }
    };
}

rules!(
    Operator,
    ValuesRequired,
    ValuesForbidden,
    LabelKey,
    LabelValue,
    Cidr,
    Except,
    TooLarge,
    EmptyPeer,
    MixedPeer,
    Protocol,
    Port,
    PortName,
    EndPort,
    EndPortAlone,
    PolicyType,
    Established,
    Unsupported,
    Action,
    NothingToPassTo,
    NoTier,
    NoGroup,
    UnknownService,
    SelectsNothing,
    NestedGroup,
    AddressesAppliedTo,
    EmptyAppliedTo,
    MixedAppliedTo,
    MixedTargets,
    EgressOfServices,
    ServicesAreNotLast,
    PortsOfServices,
    PeersOfServices,
    NoServiceAccount,
    NoService,
    MixedToServices,
    ClusterOnly,
    StandardTier,
    StandardAction,
    StandardPods,
    StandardPart,
    EgressOnly,
    Fqdn,
    EmptyNativePeer,
    MixedNativePeer,
    MixedNamespaces,
    PeerNamespaces,
    Misplaced,
    Icmp,
    IcmpCodeAlone,
    ProtocolMatch,
    RuleName,
    IsChild,
    TierPriority,
    Tiers,
    StaticTier,
    TierInUse,
    Uid,
    More,
);

/// Rules that no webhook asks: those of Kubernetes' policies, the namespaced and the others, and what is found when an object
/// is taken in.
const NOT_ASKED: [&str; 8] = [
    "EmptyPeer",
    "MixedPeer",
    "PolicyType",
    "StandardTier",
    "StandardAction",
    "StandardPods",
    "StandardPart",
    "Uid",
];

/// Which rules the object breaks, as the webhook finds it.
fn broken(cluster: &Cluster, kind: &str, name: &str, spec: &Value) -> Vec<&'static str> {
    let namespace = if matches!(kind, "annp" | "group") { "shop" } else { "" };
    let object = json!({"metadata": {"name": name, "namespace": namespace, "uid": "u"}, "spec": spec});
    let found = cluster.inputs.hub.read(|state, _| match kind {
        "tier" => state.index.review_tier(&serde_json::from_value(object).unwrap()),
        "acnp" | "annp" => state.index.review_native(&serde_json::from_value(object).unwrap()),
        _ => state.index.review_group(&serde_json::from_value(object).unwrap()),
    });
    names(&found.0)
}

fn names(found: &Findings) -> Vec<&'static str> {
    found.errors.iter().chain(&found.warnings).map(|error| rule(&error.problem)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rule_is_told_word_for_word() {
    let cluster = Cluster::new().await;
    let mut hit = BTreeSet::new();
    for (kind, spec, message) in cases::refused() {
        assert_eq!(cluster.made(kind, "new", spec.clone()).await, (message.to_owned(), vec![]), "{kind}");
        hit.extend(broken(&cluster, kind, "new", &spec));
    }
    for (kind, spec, message) in cases::warned() {
        let told = (String::new(), vec![message.to_owned()]);
        assert_eq!(cluster.made(kind, "new", spec.clone()).await, told, "{kind}");
        hit.extend(broken(&cluster, kind, "new", &spec));
    }
    // A group that is in another cannot have others in it.
    let parent = json!({"childGroups": ["blocks"]});
    let message = "spec.childGroups: a group that is in another (parent) cannot have childGroups itself";
    assert_eq!(cluster.made("clustergroup", "child", parent.clone()).await, (message.to_owned(), vec![]));
    hit.extend(broken(&cluster, "clustergroup", "child", &parent));
    // More mistakes than are kept, and than are named.
    let many = json!({"priority": 5, "appliedTo": [{"podSelector": {}}], "ingress": vec![json!({"action": "Deny"}); 70]});
    let named = (0..10)
        .map(|i| format!("spec.ingress[{i}].action: \"Deny\" is not one of Allow, Drop, Reject, Pass"));
    let message = named.chain(["55 more".to_owned()]).collect::<Vec<_>>().join("; ");
    assert_eq!(cluster.made("acnp", "new", many.clone()).await, (message, vec![]));
    hit.extend(broken(&cluster, "acnp", "new", &many));
    // Tiers that stay, and no more of them than there may be.
    let delete = |name: &str| review("DELETE", name, None, Value::Null, json!({"priority": 60}));
    for (name, message) in [
        ("gold", "metadata.name: policies are in this Tier: ClusterNetworkPolicy used"),
        ("emergency", "metadata.name: this Tier always exists"),
    ] {
        let answer = cluster.answer("/validate/tier", &delete(name)).await;
        assert_eq!((&answer["allowed"], &answer["status"]["message"]), (&json!(false), &json!(message)));
        hit.extend(names(&cluster.inputs.hub.read(|state, _| state.index.review_tier_deletion(name)).0));
    }
    assert_eq!(cluster.answer("/validate/tier", &delete("silver")).await["allowed"], true);
    cluster.inputs.hub.update(|state, _| {
        for priority in 1..=13 {
            let tier = json!({"metadata": {"name": format!("t{priority}")}, "spec": {"priority": priority}});
            state.index.apply_tier(&serde_json::from_value(tier).unwrap());
        }
    });
    let message = "metadata.name: there are 20 Tiers with those that always exist, and no more are possible";
    let tier = json!({"priority": 61});
    assert_eq!(cluster.made("tier", "new", tier.clone()).await, (message.to_owned(), vec![]));
    hit.extend(broken(&cluster, "tier", "new", &tier));
    // One's own priority is free, and one's own place.
    assert_eq!(cluster.made("tier", "gold", json!({"priority": 60})).await.0, "");

    let asked: BTreeSet<&str> = RULES.iter().copied().filter(|rule| !NOT_ASKED.contains(rule)).collect();
    assert_eq!(hit, asked, "each rule has a case");
}
