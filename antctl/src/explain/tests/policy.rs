//! What policies decide, where all that should follow them does.

use super::*;

fn in_rule(group: &str, port: i32) -> wire::NetworkPolicyRule {
    rule("In", group, tcp(IntOrString::int(port)))
}

fn denied_at_db(policies: &[wire::NetworkPolicy]) -> Facts {
    receives(with(facts(), policies), traced(Table::IngressDefaultRule, End::Drop))
}

#[test]
fn without_policies_all_is_allowed() {
    let explained = says(&facts(), Verdict::Allowed, "no policy selects shop/db for ingress");
    assert_eq!(explained.findings.iter().filter(|finding| finding.result != Mark::Ok).count(), 0);
    says(&on_one_node(), Verdict::Allowed, "the bridge of node1 gives it to shop/db");
}

#[test]
fn the_rule_that_allows_is_named() {
    let allows = with(facts(), &[policy_of("db", "clients", vec![in_rule("web", 5432)])]);
    says(&allows, Verdict::Allowed, "NetworkPolicy shop/clients, ingress rule 0, allows it");
    let named = rule("In", "web", tcp(IntOrString::string("pg")));
    says(&with(facts(), &[policy_of("db", "clients", vec![named])]), Verdict::Allowed, "shop/clients");
}

#[test]
fn a_wrong_port_is_told_with_the_right_one() {
    let policy = policy_of("db", "clients", vec![in_rule("web", 5433)]);
    let explained = says(&denied_at_db(&[policy]), Verdict::Denied, "is about shop/web, but only TCP 5433");
    let advice = explained.findings.iter().find_map(|finding| finding.advice.clone()).unwrap();
    assert!(advice.ends_with("add TCP 5432 to NetworkPolicy shop/clients, ingress rule 0"), "{advice}");
}

#[test]
fn a_port_that_nobody_calls_so_is_told() {
    let named = rule("In", "web", tcp(IntOrString::string("postgres")));
    let policy = policy_of("db", "clients", vec![named]);
    says(&denied_at_db(&[policy]), Verdict::Denied, "port \"postgres\", which the destination does not have");
}

#[test]
fn other_peers_are_told() {
    let policy = policy_of("db", "clients", vec![in_rule("nobody", 5432)]);
    says(&denied_at_db(&[policy]), Verdict::Denied, "shop/clients, ingress rule 0, is about others");
    let many = (0..11).map(|_| in_rule("nobody", 5432)).collect();
    says(&denied_at_db(&[policy_of("db", "clients", many)]), Verdict::Denied, "and 3 rules more");
}

#[test]
fn policies_at_the_source_decide_first() {
    let policy = policy_of("web", "quiet", vec![rule("Out", "", Vec::new())]);
    let denied = with(facts(), std::slice::from_ref(&policy));
    let denied = sends(denied, traced(Table::EgressDefaultRule, End::Drop));
    let explained = says(&denied, Verdict::Denied, "no rule allows TCP 5432 to shop/db");
    assert!(
        explained.reason.starts_with("NetworkPolicy shop/quiet isolates shop/web"),
        "{}",
        explained.reason
    );
    // Both ends, each with its reason.
    let both = [policy, policy_of("db", "deny", vec![rule("In", "", Vec::new())])];
    let denied = sends(with(facts(), &both), traced(Table::EgressDefaultRule, End::Drop));
    let explained = says(&denied, Verdict::Denied, "NetworkPolicy shop/deny isolates shop/db");
    assert_eq!(explained.findings.iter().filter(|finding| finding.result == Mark::Denied).count(), 2);
}

#[test]
fn egress_to_the_destination_is_allowed_by_its_group() {
    let policy = policy_of("web", "out", vec![rule("Out", "db", tcp(IntOrString::string("pg")))]);
    says(&with(facts(), &[policy]), Verdict::Allowed, "NetworkPolicy shop/out, egress rule 0, allows it");
}

/// It selects Pods of its own, and only names these as peers.
#[test]
fn a_policy_of_others_decides_nothing() {
    let mut policy = policy_of("vault", "deny", vec![in_rule("web", 1), rule("In", "", Vec::new())]);
    policy.source_ref.as_mut().unwrap().namespace = "bank".into();
    let explained =
        says(&with(facts(), &[policy]), Verdict::Allowed, "no policy selects shop/db for ingress");
    assert!(!super::super::render::text(&explained, false).contains("bank"));
}

#[test]
fn native_rules_deny_in_their_words() {
    let deny = |action: &str| wire::NetworkPolicyRule {
        action: Some(action.into()),
        name: "no-db".into(),
        priority: 0,
        ..in_rule("web", 5432)
    };
    let metric = |end| traced(Table::IngressMetric, end);
    let dropped =
        receives(with(facts(), &[native("db", "guard", 50, vec![deny("Drop")])]), metric(End::Drop));
    says(
        &dropped,
        Verdict::Denied,
        "ClusterNetworkPolicy guard, ingress rule 0 (no-db), drops TCP 5432 from shop/web",
    );
    let rejected = with(facts(), &[native("db", "guard", 50, vec![deny("Reject")])]);
    says(&receives(rejected, metric(End::Reject)), Verdict::Denied, "rejects TCP 5432 from shop/web");
    let baseline = receives(
        with(facts(), &[native("db", "floor", 253, vec![deny("Drop")])]),
        traced(Table::IngressMetric, End::Drop),
    );
    says(&baseline, Verdict::Denied, "allow it by a NetworkPolicy, which comes before it");
}

#[test]
fn a_native_rule_leaves_it_to_kubernetes_policies() {
    let pass = wire::NetworkPolicyRule { action: Some("Pass".into()), priority: 0, ..in_rule("web", 5432) };
    let both =
        [native("db", "guard", 50, vec![pass]), policy_of("db", "deny", vec![rule("In", "", Vec::new())])];
    let text = "ClusterNetworkPolicy guard, ingress rule 0, leaves it to NetworkPolicies";
    says(&denied_at_db(&both), Verdict::Denied, text);
}

#[test]
fn icmp_is_no_port() {
    let mut denied = denied_at_db(&[policy_of("db", "clients", vec![in_rule("web", 5432)])]);
    denied.packet = Packet { protocol: Protocol::Icmp, port: 0 };
    says(&denied, Verdict::Denied, "no rule allows ICMP echo from shop/web");
}

#[test]
fn blocks_have_exceptions() {
    let block = |except: &[u8]| {
        let mut blocked = rule("In", "", Vec::new());
        let net = |ip: [u8; 4], prefix_length| wire::IpNet { ip: ip.to_vec(), prefix_length };
        let except = except.iter().map(|last| net([10, 10, 1, *last], 32)).collect();
        blocked.from.ip_blocks = vec![wire::IpBlock { cidr: net([10, 10, 0, 0], 16), except }];
        [policy_of("db", "range", vec![blocked])]
    };
    says(
        &with(facts(), &block(&[])),
        Verdict::Allowed,
        "NetworkPolicy shop/range, ingress rule 0, allows it",
    );
    says(&denied_at_db(&block(&[6])), Verdict::Denied, "shop/range, ingress rule 0, is about others");
}

#[test]
fn nodes_own_processes_are_exempt_at_home_alone() {
    let isolated = [policy_of("db", "deny", vec![rule("In", "", Vec::new())])];
    let host = |mut facts: Facts| {
        facts.source.host_network = true;
        facts.source.ips = vec![ip("192.0.2.1")];
        facts.ways[0].sent = None;
        facts.ways[0].received = None;
        with(facts, &isolated)
    };
    let words = "what processes of node1 send to its own Pods is exempt";
    says(&host(on_one_node()), Verdict::Allowed, words);
    says(&host(facts()), Verdict::Denied, "or of that Node's gateway");
}

#[test]
fn a_destination_in_the_nodes_network_has_no_ingress_policy() {
    let mut there = sends(facts(), to_host());
    let pod = there.ways[0].pod.as_mut().unwrap();
    pod.host_network = true;
    pod.ips = vec![ip("192.0.2.2")];
    there.ways[0].address = Some(ip("192.0.2.2"));
    let isolated = with(there, &[policy_of("db", "deny", vec![rule("In", "", Vec::new())])]);
    says(&isolated, Verdict::Allowed, "in the Node's network: no policy selects it");
}

#[test]
fn a_pod_reaches_itself_whatever_policies_say() {
    let mut alone = facts();
    alone.ways[0] = Way {
        address: Some(alone.source.ips[0]),
        port: 80,
        pod: Some(alone.source.clone()),
        ..Way::default()
    };
    let alone = with(alone, &[policy_of("web", "deny", vec![rule("In", "", Vec::new())])]);
    says(&alone, Verdict::Allowed, "what a Pod sends to itself does not leave it");
}

#[test]
fn an_address_outside_is_met_by_blocks_alone() {
    let mut outside = sends(facts(), to_host());
    outside.target = Target::Address;
    outside.ways[0].address = Some(ip("198.51.100.9"));
    outside.ways[0].pod = None;
    says(&outside, Verdict::Allowed, "from there on routes and masquerading of the Node decide");
    let policy = policy_of("web", "inside", vec![rule("Out", "db", Vec::new())]);
    let denied = sends(with(outside, &[policy]), traced(Table::EgressDefaultRule, End::Drop));
    says(&denied, Verdict::Denied, "no rule allows TCP 5432 to 198.51.100.9");
}

/// Only the agent knows which addresses a name has.
#[test]
fn of_domain_names_the_bridge_tells() {
    let mut named = rule("Out", "", Vec::new());
    named.to.fqdns = vec!["*.example.com".into()];
    let policies = [
        native("web", "names", 50, vec![named]),
        policy_of("web", "quiet", vec![rule("Out", "", Vec::new())]),
    ];
    let words = "rules with domain names apply to shop/web";
    says(&with(facts(), &policies), Verdict::Allowed, words);
    let denied = sends(with(facts(), &policies), traced(Table::EgressDefaultRule, End::Drop));
    says(&denied, Verdict::Denied, "in table EgressDefaultRule: egress policy denies it");
}

/// A rule without what cannot be read of it would be about more.
#[test]
fn what_cannot_be_read_decides_nothing() {
    let words = "what policies decide at shop/db is not known: one of them says what this antctl cannot read";
    let strange =
        |service: wire::Service| [policy_of("db", "clients", vec![rule("In", "web", vec![service])])];
    let of_a_kind = |protocol: &str| wire::Service { protocol: Some(protocol.into()), ..Default::default() };
    says(&with(facts(), &strange(of_a_kind("X"))), Verdict::Unknown, words);
    says(&with(facts(), &strange(of_a_kind("TCP"))), Verdict::Allowed, "ingress rule 0, allows it");
    let from_port = wire::Service { src_port: Some(70_000), ..of_a_kind("TCP") };
    says(&with(facts(), &strange(from_port)), Verdict::Unknown, words);
    let mut blocked = rule("In", "", Vec::new());
    let net = |ip: &[u8], prefix_length| wire::IpNet { ip: ip.to_vec(), prefix_length };
    let except = vec![net(&[10, 10, 1], 24)];
    blocked.from.ip_blocks = vec![wire::IpBlock { cidr: net(&[10, 10, 0, 0], 16), except }];
    says(&with(facts(), &[policy_of("db", "range", vec![blocked])]), Verdict::Unknown, words);
    let mut unheard = policy_of("db", "new", Vec::new());
    unheard.source_ref.as_mut().unwrap().type_ = "Unheard".into();
    says(&with(facts(), &[unheard]), Verdict::Unknown, words);
    // It is of the other direction, or of another Pod.
    let mut out = strange(of_a_kind("X"));
    out[0].rules[0].direction = "Out".into();
    says(&with(facts(), &out), Verdict::Allowed, "no policy selects shop/db for ingress");
    let mut others = strange(of_a_kind("X"));
    others[0].applied_to_groups = vec!["to-nobody".into()];
    says(&with(facts(), &others), Verdict::Allowed, "no policy selects shop/db for ingress");
}

/// Rules about Services are about what is sent to their addresses, where the bridge serves them.
#[test]
fn rules_about_services_decide_of_what_is_sent_to_one() {
    let named = |action: &str, service: &str| {
        let mut named = rule("Out", "", Vec::new());
        named.action = Some(action.into());
        named.to.to_services = vec![wire::ObjectReference { name: service.into(), namespace: "shop".into() }];
        named
    };
    let policies = |service: &str| [native("web", "gate", 50, vec![named("Drop", service)])];
    let served = || {
        let mut all = service();
        let served = Features { services: true, ..FEATURES };
        for agent in all.nodes.values_mut().filter_map(|node| node.agent.as_mut().ok()) {
            agent.tables =
                Pipeline::new(served).tables().iter().map(|table| table.name().to_owned()).collect();
        }
        all
    };
    let words = "ClusterNetworkPolicy gate, egress rule 0, drops TCP 5432 to shop/db";
    says(&with(served(), &policies("db")), Verdict::Denied, words);
    // The same to the endpoints, and to another Service.
    let about = "the egress rule that applies to shop/web is about something else";
    says(&with(facts(), &policies("db")), Verdict::Allowed, "does not serve Services");
    let explained = explain(&with(served(), &policies("other")));
    assert!(super::super::render::text(&explained, false).contains(about));
}

#[test]
fn of_a_service_each_endpoint_is_told() {
    says(&service(), Verdict::Allowed, "where kube-proxy gives it an endpoint");
    says(&service(), Verdict::Allowed, "Service shop/db has 2 ready endpoints, 0 others");
    let policies =
        ["db", "db2"].map(|name| policy_of(name, &format!("deny-{name}"), vec![rule("In", "", Vec::new())]));
    let drop = traced(Table::IngressDefaultRule, End::Drop);
    let mut all = with(service(), &policies);
    all.ways[0].sent = Some(Ok(drop.clone()));
    all.ways[1].received = Some(Ok(drop.clone()));
    says(&all, Verdict::Denied, "NetworkPolicy shop/deny-db2 isolates shop/db2");
    let mut one = with(service(), &policies[..1]);
    one.ways[0].sent = Some(Ok(drop));
    let explained =
        says(&one, Verdict::Broken, "of 2 endpoints 1 cannot be reached: connections fail now and then");
    assert!(explained.findings.iter().any(|finding| finding.check == "ingress policy shop/db"));
}
