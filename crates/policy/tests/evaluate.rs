//! Which rule decides between two Pods, from the API server's JSON.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use antrea_policy::{
    Index, crd,
    evaluate::{Cause, Decision, Endpoint, Evaluation, Fit, Stage, Traffic, evaluate},
    k8s,
    model::{Action, Direction, Protocol},
};
use proptest::prelude::*;
use serde_json::{Value, json};

fn pod(name: &str, app: &str, ip: &str) -> k8s::Pod {
    let ips = if ip.is_empty() { json!([]) } else { json!([{"ip": ip}]) };
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
        "spec": {"nodeName": "n1", "containers": [{"ports": [{"name": "http", "containerPort": 80}]}]},
        "status": {"podIPs": ips},
    }))
    .unwrap()
}

fn k8s_policy(name: &str, spec: Value) -> k8s::NetworkPolicy {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "uid": name, "generation": 1}, "spec": spec,
    }))
    .unwrap()
}

fn native(name: &str, spec: Value) -> crd::Policy {
    let metadata = json!({"name": name, "uid": name, "generation": 1});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

/// "web" and "db" of the Namespace "shop", and policies.
fn index(kubernetes: &[(&str, Value)], natives: &[(&str, Value)]) -> Index {
    let mut index = Index::new();
    index.apply_namespace(&serde_json::from_value(json!({"metadata": {"name": "shop"}})).unwrap());
    index.apply_pod(&pod("web", "web", "10.0.0.1"));
    index.apply_pod(&pod("db", "db", "10.0.0.2"));
    for (name, spec) in kubernetes {
        assert!(index.apply_network_policy(&k8s_policy(name, spec.clone())).is_empty());
    }
    for (name, spec) in natives {
        index.apply_native(&native(name, spec.clone()));
    }
    index.drain();
    index
}

fn tcp(dst: u16) -> Option<Traffic> {
    Some(Traffic::Transport { protocol: Protocol::Tcp, src: 40_000, dst })
}

fn of(index: &Index, traffic: Option<Traffic>) -> Evaluation {
    let end = |name: &str| index.endpoint("shop", name).unwrap();
    evaluate(&end("web"), &end("db"), traffic)
}

/// Allowed or not, and by what.
fn told(decision: &Decision) -> String {
    let rule = |rule: &antrea_policy::evaluate::Candidate| format!("{}[{}]", rule.policy.name, rule.index());
    let cause = match &decision.cause {
        Cause::Nothing => "nothing".to_owned(),
        Cause::Rule(found) => rule(found),
        Cause::Isolated(policies) => {
            let names: Vec<&str> = policies.iter().map(|policy| &*policy.name).collect();
            format!("isolated by {}", names.join(","))
        }
    };
    let passed = decision.passed.as_ref().map(|found| format!(" after {}", rule(found))).unwrap_or_default();
    format!("{:?} {cause}{passed}", decision.action)
}

const ICMP: Option<Traffic> = Some(Traffic::Icmp { kind: 8, code: 0 });

fn from_web(ports: Value) -> Value {
    json!({"podSelector": {"matchLabels": {"app": "db"}}, "policyTypes": ["Ingress"],
           "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": ports}]})
}

#[test]
fn without_policies_all_is_allowed() {
    let found = of(&index(&[], &[]), tcp(80));
    assert_eq!([told(&found.egress), told(&found.ingress)], ["Allow nothing", "Allow nothing"]);
    assert_eq!(found.deciding(), None);
}

#[test]
fn kubernetes_policies_isolate_and_allow() {
    let index =
        index(&[("allow", from_web(json!([{"port": "http"}]))), ("deny", json!({"podSelector": {}}))], &[]);
    let found = of(&index, tcp(80));
    assert_eq!([told(&found.egress), told(&found.ingress)], ["Allow nothing", "Allow allow[0]"]);
    let found = of(&index, tcp(81));
    assert_eq!(told(&found.ingress), "Drop isolated by allow,deny");
    let fits: Vec<&Fit> = found.ingress.considered.iter().map(|rule| &rule.fit).collect();
    assert_eq!(fits, [&Fit::OtherService, &Fit::OtherPeer]);
    assert_eq!(told(&of(&index, ICMP).ingress), "Drop isolated by allow,deny");
    assert_eq!(told(&of(&index, None).ingress), "Allow allow[0]", "whatever the port");
    let web = index.endpoint("shop", "web").unwrap();
    let back = evaluate(&index.endpoint("shop", "db").unwrap(), &web, tcp(80));
    assert_eq!(told(&back.ingress), "Drop isolated by deny");
    assert_eq!(back.deciding().unwrap().0, Direction::In);
}

#[test]
fn a_port_that_the_destination_does_not_name_is_told() {
    let index = index(&[("allow", from_web(json!([{"port": "https"}])))], &[]);
    let found = of(&index, tcp(443));
    assert_eq!(found.ingress.considered[0].fit, Fit::UnknownPort("https".into()));
    assert!(!found.ingress.is_allowed());
}

fn cluster(tier: &str, priority: f64, rules: Value) -> Value {
    json!({"tier": tier, "priority": priority, "appliedTo": [{"podSelector": {"matchLabels": {"app": "db"}}}],
           "ingress": rules})
}

#[test]
fn native_tiers_come_first_and_pass_leaves_it_to_kubernetes() {
    let allow = || ("allow", from_web(json!([{"port": 80}])));
    let drop = ("drop", cluster("securityops", 5.0, json!([{"action": "Drop"}])));
    let found = of(&index(&[allow()], std::slice::from_ref(&drop)), tcp(80));
    assert_eq!(told(&found.ingress), "Drop drop[0]");
    assert_eq!(found.ingress.considered[0].stage(), Stage::Native);
    let pass = (
        "pass",
        cluster("emergency", 9.0, json!([{"action": "Allow", "ports": [{"port": 22}]}, {"action": "Pass"}])),
    );
    let both = index(&[allow()], &[drop, pass.clone()]);
    assert_eq!(told(&of(&both, tcp(80)).ingress), "Allow allow[0] after pass[1]");
    assert_eq!(told(&of(&both, tcp(81)).ingress), "Drop isolated by allow after pass[1]");
    assert_eq!(told(&of(&both, tcp(22)).ingress), "Allow pass[0]");
    let baseline = ("baseline", cluster("baseline", 1.0, json!([{"action": "Reject"}])));
    let alone = index(&[], &[pass.clone(), baseline.clone()]);
    assert_eq!(told(&of(&alone, tcp(80)).ingress), "Reject baseline[0] after pass[1]");
    let isolated = index(&[allow()], &[baseline]);
    assert_eq!(told(&of(&isolated, tcp(80)).ingress), "Allow allow[0]");
    assert_eq!(told(&of(&isolated, tcp(81)).ingress), "Drop isolated by allow", "baseline comes too late");
}

#[test]
fn of_two_that_allow_the_one_is_told_that_is_looked_at_first() {
    let out = json!({"tier": "platform", "priority": 1, "appliedTo": [{"podSelector": {"matchLabels": {"app": "web"}}}],
                     "egress": [{"action": "Allow"}]});
    let into = cluster("securityops", 7.0, json!([{"action": "Allow"}]));
    let found = of(&index(&[], &[("out", out.clone()), ("in", into)]), tcp(80));
    assert_eq!(
        found.deciding().map(|(end, decision)| (end, told(decision))),
        Some((Direction::In, "Allow in[0]".to_owned()))
    );
    let found = of(&index(&[], &[("out", out)]), tcp(80));
    assert_eq!(found.deciding().map(|(end, _)| end), Some(Direction::Out));
}

#[test]
fn of_equal_rank_what_denies_is_first() {
    let rules = |action: &str| cluster("platform", 5.0, json!([{"action": action}]));
    let found = of(&index(&[], &[("a", rules("Allow")), ("b", rules("Drop"))]), tcp(80));
    assert_eq!(told(&found.ingress), "Drop b[0]");
}

#[test]
fn blocks_have_exceptions_and_no_named_ports() {
    let to = |except: Value, port: Value| {
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "policyTypes": ["Egress"],
               "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/24", "except": except}}], "ports": [{"port": port}]}]})
    };
    let egress = |except, port| told(&of(&index(&[("out", to(except, port))], &[]), tcp(80)).egress);
    assert_eq!(egress(json!([]), json!(80)), "Allow out[0]");
    assert_eq!(egress(json!(["10.0.0.2/32"]), json!(80)), "Drop isolated by out");
    assert_eq!(egress(json!([]), json!("http")), "Drop isolated by out", "whose port would it be?");
    let ranges = json!({"podSelector": {}, "policyTypes": ["Egress"],
                        "egress": [{"ports": [{"port": 8000, "endPort": 8010}, {"protocol": "UDP", "port": 53}]}]});
    let index = index(&[("out", ranges)], &[]);
    assert_eq!(told(&of(&index, tcp(8010)).egress), "Allow out[0]");
    assert_eq!(told(&of(&index, tcp(53)).egress), "Drop isolated by out");
    let dns = Some(Traffic::Transport { protocol: Protocol::Udp, src: 1, dst: 53 });
    let outside = Endpoint { ips: vec!["192.0.2.1".parse().unwrap()], ..Endpoint::default() };
    assert!(evaluate(&index.endpoint("shop", "web").unwrap(), &outside, dns).egress.is_allowed());
}

#[test]
fn a_pod_without_an_address_is_nobodys_peer() {
    let mut index = index(&[("allow", from_web(json!([])))], &[]);
    index.apply_pod(&pod("web", "web", ""));
    assert_eq!(told(&of(&index, tcp(80)).ingress), "Drop isolated by allow");
    assert_eq!(index.endpoint("shop", "nobody"), None);
}

#[test]
fn a_rule_applies_to_what_it_names_itself() {
    let spec = json!({"tier": "platform", "priority": 1, "ingress": [
        {"action": "Drop", "appliedTo": [{"podSelector": {"matchLabels": {"app": "web"}}}]},
        {"action": "Allow", "appliedTo": [{"podSelector": {"matchLabels": {"app": "db"}}}], "protocols": [{"icmp": {"icmpType": 8}}]},
    ]});
    let index = index(&[], &[("each", spec)]);
    assert_eq!(told(&of(&index, tcp(80)).ingress), "Allow nothing");
    assert_eq!(told(&of(&index, ICMP).ingress), "Allow each[1]");
}

/// A native rule: tier, priority of the policy, action, port.
type Drawn = (usize, u8, usize, Option<u16>);

const TIERS: [&str; 3] = ["emergency", "application", "baseline"];
const ACTIONS: [&str; 4] = ["Allow", "Drop", "Reject", "Pass"];

/// As a person would go through the policies, one after the other.
fn walk(rules: &[Drawn], isolated: Option<u16>, port: u16) -> Action {
    let action = |action: usize| [Action::Allow, Action::Drop, Action::Reject, Action::Pass][action];
    let mut ordered: Vec<&Drawn> = rules.iter().filter(|rule| rule.3.is_none_or(|own| own == port)).collect();
    ordered.sort_by_key(|rule| (rule.0, rule.1, usize::from(!(1..3).contains(&rule.2))));
    let native = ordered.iter().find(|rule| rule.0 < 2).map(|rule| action(rule.2));
    if let Some(action) = native.filter(|action| *action != Action::Pass) {
        return action;
    }
    if let Some(allowed) = isolated {
        return if allowed == port { Action::Allow } else { Action::Drop };
    }
    let last = ordered.iter().find(|rule| rule.0 == 2);
    match last.map(|rule| action(rule.2)) {
        None => Action::Allow,
        Some(Action::Pass) => Action::Drop,
        Some(action) => action,
    }
}

proptest! {
    #[test]
    fn decides_as_one_who_walks_through_the_policies(
        rules in proptest::collection::vec((0..3_usize, 0..3_u8, 0..4_usize, proptest::option::of(80..82_u16)), 0..8),
        isolated in proptest::option::of(80..82_u16),
        port in 80..83_u16,
    ) {
        let kubernetes: Vec<_> = isolated.map(|port| ("k8s", from_web(json!([{"port": port}])))).into_iter().collect();
        let names: Vec<String> = (0..rules.len()).map(|n| format!("p{n}")).collect();
        let natives: Vec<(&str, Value)> = names.iter().zip(&rules).map(|(name, (tier, priority, action, port))| {
            let mut rule = json!({"action": ACTIONS[*action]});
            if let Some(port) = port {
                rule["ports"] = json!([{"port": port}]);
            }
            (name.as_str(), cluster(TIERS[*tier], f64::from(*priority), json!([rule])))
        }).collect();
        let found = of(&index(&kubernetes, &natives), tcp(port)).ingress;
        let expected = walk(&rules, isolated, port);
        // Of equal rank Drop and Reject both deny.
        prop_assert_eq!(found.is_allowed(), expected == Action::Allow, "{:?} is not {:?}", found, expected);
    }
}
