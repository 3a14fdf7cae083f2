use antrea_api::controlplane::{IpBlock, NetworkPolicyPeer, NetworkPolicyReference, NetworkPolicyRule};
use antrea_api::k8s::{IntOrString, ObjectMeta};

use antrea_flows::policy::{PortRange, Service};

use super::*;

fn cidr(text: &str) -> controlplane::IpNet {
    let net: IpNet = text.parse().unwrap();
    let ip = match net.addr() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    controlplane::IpNet { ip, prefix_length: net.prefix_len().into() }
}

fn read(rule: NetworkPolicyRule) -> Policy {
    Policy::read(&controlplane::NetworkPolicy {
        metadata: ObjectMeta { generation: 3, ..ObjectMeta::named("uid") },
        rules: vec![rule],
        applied_to_groups: vec!["a".into()],
        source_ref: Some(NetworkPolicyReference {
            type_: controlplane::K8S_NETWORK_POLICY.into(),
            ..NetworkPolicyReference::default()
        }),
        ..controlplane::NetworkPolicy::default()
    })
}

fn rule(peer: NetworkPolicyPeer, services: Vec<controlplane::Service>) -> NetworkPolicyRule {
    NetworkPolicyRule { direction: "In".into(), from: peer, services, ..NetworkPolicyRule::default() }
}

fn block(cidr_: &str, except: &[&str]) -> NetworkPolicyPeer {
    let block = IpBlock { cidr: cidr(cidr_), except: except.iter().map(|text| cidr(text)).collect() };
    NetworkPolicyPeer { ip_blocks: vec![block], ..NetworkPolicyPeer::default() }
}

#[test]
fn reads_blocks_ports_and_names() {
    let service = |port, end_port| controlplane::Service { port, end_port, ..Default::default() };
    let policy = read(rule(
        block("10.0.0.0/30", &["10.0.0.1/32"]),
        vec![service(Some(IntOrString::int(80)), Some(90)), service(Some(IntOrString::string("web")), None)],
    ));
    assert!(policy.problems.is_empty(), "{:?}", policy.problems);
    let rule = &policy.rules[0];
    let nets: Vec<_> = rule.nets.iter().map(ToString::to_string).collect();
    assert_eq!(nets, ["10.0.0.0/32", "10.0.0.2/31"]);
    let ports = PortRange::new(80, 90).unwrap();
    assert_eq!(rule.services[0], NamedService::Plain(Service::to(Protocol::Tcp, ports)));
    assert!(rule.has_named_ports());
    assert_eq!(&*rule.applied_to[0], "a");
    assert_eq!(policy.generation, 3);
}

#[test]
fn mistakes_isolate_and_are_named() {
    // An exception outside the block would allow more if it were ignored.
    let policy = read(rule(block("10.0.0.0/24", &["10.1.0.0/32"]), vec![]));
    assert!(policy.rules[0].nets.is_empty() && policy.problems[0].contains("ipBlock"));

    let bad = controlplane::Service { protocol: Some("XTP".into()), ..Default::default() };
    let policy = read(rule(block("10.0.0.0/24", &[]), vec![bad]));
    assert!(policy.rules[0].nets.is_empty(), "no services must not mean all services");
    assert!(policy.problems[0].contains("XTP"));

    for port in [-1, 65_536] {
        let bad = controlplane::Service { port: Some(IntOrString::int(port)), ..Default::default() };
        let policy = read(rule(block("10.0.0.0/24", &[]), vec![bad]));
        assert!(policy.rules[0].nets.is_empty() && policy.problems.len() == 1);
    }

    let odd = NetworkPolicyRule { direction: "Up".into(), ..rule(block("10.0.0.0/24", &[]), vec![]) };
    let directions: Vec<_> = read(odd).rules.iter().map(|rule| rule.direction).collect();
    assert_eq!(directions, [Direction::In, Direction::Out]);

    let drop = NetworkPolicyRule { action: Some("Drop".into()), ..rule(block("10.0.0.0/24", &[]), vec![]) };
    assert!(read(drop).rules[0].nets.is_empty());

    let native = controlplane::NetworkPolicy {
        source_ref: Some(NetworkPolicyReference { type_: "AdminNetworkPolicy".into(), ..Default::default() }),
        ..controlplane::NetworkPolicy::default()
    };
    assert!(Policy::read(&native).problems[0].contains("AdminNetworkPolicy"));
}

/// What the controller sends, byte by byte: its tests make the same file.
fn sent() -> Vec<u8> {
    let text = include_str!("../../api/testdata/networkpolicy.hex");
    let digits: String = text.split_ascii_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn reads_what_the_controller_sends() {
    let message = antrea_api::k8s::open(sent().into()).unwrap().decode().unwrap();
    let policy = Policy::read(&message);
    assert!(policy.problems.is_empty(), "{:?}", policy.problems);
    assert_eq!((&*policy.name, policy.generation, policy.rules.len()), ("uid-p", 7, 3));
    let [ingress, egress, all] = &policy.rules[..] else { panic!("{:?}", policy.rules) };
    let to = |protocol, first, last| {
        NamedService::Plain(Service::to(protocol, PortRange::new(first, last).unwrap()))
    };
    let contains =
        |rule: &RuleSpec, ip: &str| rule.nets.iter().any(|net| net.contains(&ip.parse::<IpAddr>().unwrap()));

    assert_eq!(
        (ingress.direction, egress.direction, all.direction),
        (Direction::In, Direction::Out, Direction::Out)
    );
    for (ip, allowed) in [
        ("10.20.0.0", true),
        ("10.20.255.255", true),
        ("10.20.4.255", true),
        ("10.20.5.0", false),
        ("10.20.5.255", false),
        ("10.20.6.0", true),
        ("10.20.7.7", false),
        ("10.20.7.8", true),
        ("10.19.255.255", false),
        ("10.21.0.0", false),
        ("::1", false),
    ] {
        assert_eq!(contains(ingress, ip), allowed, "{ip}");
    }
    assert_eq!(
        ingress.services,
        [to(Protocol::Tcp, 8000, 8999), to(Protocol::Udp, 53, 53), to(Protocol::Sctp, 3868, 3870)]
    );
    for (ip, allowed) in [
        ("fd00:10::", true),
        ("fd00:10:4:ffff::1", true),
        ("fd00:10:5::", false),
        ("fd00:10:5:ffff::1", false),
        ("fd00:10:6::", true),
        ("fd00:11::", false),
        ("10.20.0.1", false),
    ] {
        assert_eq!(contains(egress, ip), allowed, "{ip}");
    }
    let udp =
        Service { protocol: Protocol::Udp, ports: None, src_ports: None, icmp_type: None, icmp_code: None };
    assert_eq!(egress.services, [NamedService::Plain(udp), to(Protocol::Tcp, 65_534, 65_535)]);
    let nets: Vec<_> = all.nets.iter().map(ToString::to_string).collect();
    assert_eq!((nets.as_slice(), all.services.len()), (&["0.0.0.0/0".to_owned(), "::/0".to_owned()][..], 0));
}

#[test]
fn ipv4_in_sixteen_bytes() {
    let mapped = [[0; 10].as_slice(), &[0xff, 0xff, 10, 244, 1, 0]].concat();
    let read = |ip: &[u8], prefix_length| net(&controlplane::IpNet { ip: ip.to_vec(), prefix_length });
    let v4 = "10.244.1.0/24".parse().ok();
    // As Go writes `10.244.1.0/24` and `::ffff:10.244.1.0/120`.
    assert_eq!([read(&mapped, 24), read(&mapped, 120), read(&[10, 244, 1, 0], 24)], [v4; 3]);
    assert_eq!(read(&mapped, 95), "::fffe:0:0/95".parse().ok());
    assert_eq!(read(&[0; 16], 0), "::/0".parse().ok());
    assert_eq!(
        [read(&mapped, 129), read(&[10, 244, 1, 0], 33), read(&[10], 8), read(&mapped, -1)],
        [None; 4]
    );
}

#[test]
fn a_rule_that_is_too_large_isolates_and_is_named() {
    let spread = |n: u32, step: u32| {
        let except =
            (0..n).map(|i| (i * step).to_be_bytes()).map(|[_, a, b, c]| format!("10.{a}.{b}.{c}/32"));
        except.collect::<Vec<_>>()
    };
    let except = spread(30_000, 500);
    let except: Vec<_> = except.iter().map(String::as_str).collect();
    let policy = read(rule(block("10.0.0.0/8", &except), vec![]));
    assert_eq!(policy.rules.len(), 1);
    assert!(policy.rules[0].nets.is_empty());
    let expected = "rule 0: the rule needs more than 4096 matches of addresses and ports and allows nothing";
    assert_eq!(policy.problems, [expected]);

    // Neither blocks nor port ranges are a way round.
    let blocks = NetworkPolicyPeer {
        ip_blocks: (0..5000u32)
            .map(|i| IpBlock { cidr: cidr(&format!("10.0.{}.{}/32", i >> 8, i & 255)), except: vec![] })
            .collect(),
        ..NetworkPolicyPeer::default()
    };
    let ranges = (1..200).map(|i| controlplane::Service {
        port: Some(IntOrString::int(i)),
        end_port: Some(65_535 - i),
        ..Default::default()
    });
    for large in [rule(blocks, vec![]), rule(block("10.0.0.0/8", &[]), ranges.collect())] {
        let policy = read(large);
        assert!(policy.rules[0].says_nothing(), "{:?}", policy.rules[0].nets.len());
        assert_eq!(policy.problems, [expected]);
    }
    // As many as there may be.
    let few = NetworkPolicyPeer {
        ip_blocks: (0..4096u32)
            .map(|i| IpBlock { cidr: cidr(&format!("10.0.{}.{}/32", i >> 8, i & 255)), except: vec![] })
            .collect(),
        ..NetworkPolicyPeer::default()
    };
    let policy = read(rule(few, vec![]));
    assert_eq!((policy.rules[0].nets.len(), policy.problems.len()), (4096, 0));
}

#[test]
fn a_policy_has_a_limit_too() {
    let mut message = controlplane::NetworkPolicy {
        applied_to_groups: vec!["a".into()],
        source_ref: Some(NetworkPolicyReference {
            type_: controlplane::K8S_NETWORK_POLICY.into(),
            ..NetworkPolicyReference::default()
        }),
        ..controlplane::NetworkPolicy::default()
    };
    message.rules = vec![rule(block("10.0.0.0/8", &[]), vec![]); 20_000];
    let policy = Policy::read(&message);
    // One rule stands for all that only isolate.
    assert_eq!(policy.rules.len(), 16_385);
    assert!(policy.rules[16_384].says_nothing());
    assert_eq!(policy.problems.len(), reader::PROBLEMS + 1);
    assert!(policy.problems[0].starts_with("rule 16384: the policy needs more than 16384 matches"));
    assert_eq!(policy.problems[reader::PROBLEMS], "3600 more");
}

#[test]
fn members_keep_what_matters() {
    let message = GroupMember {
        pod: Some(ObjectReference { name: "web".into(), namespace: "ns".into() }),
        ips: vec![vec![10, 0, 0, 1], [[0; 10].as_slice(), &[0xff, 0xff, 10, 0, 0, 2]].concat(), vec![1]],
        ports: vec![
            controlplane::NamedPort { port: 80, name: "web".into(), protocol: "TCP".into() },
            controlplane::NamedPort { port: 70_000, name: "bad".into(), protocol: "TCP".into() },
        ],
        ..GroupMember::default()
    };
    let (key, member) = Member::read(&message);
    let ips: Vec<_> = member.ips.iter().map(ToString::to_string).collect();
    assert_eq!(ips, ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(member.ports.len(), 1);
    assert_eq!(Member::read(&member.write(&key)), (key, member));
}

fn native(rule: NetworkPolicyRule) -> Policy {
    Policy::read(&crate::testing::native("acnp", (250, 5.0), "a", vec![rule]))
}

#[test]
fn reads_native_rules() {
    let to_web = controlplane::Service {
        port: Some(IntOrString::string("web")),
        src_port: Some(1000),
        src_end_port: Some(1999),
        ..Default::default()
    };
    let ping = controlplane::Service {
        protocol: Some("ICMP".into()),
        icmp_type: Some(8),
        icmp_code: Some(0),
        ..Default::default()
    };
    for (text, action) in [
        (Some("Allow"), Action::Allow),
        (Some("Drop"), Action::Drop),
        (Some("Pass"), Action::Pass),
        (None, Action::Allow),
    ] {
        let of_rule = NetworkPolicyRule {
            action: text.map(Into::into),
            applied_to_groups: vec!["b".into()],
            ..rule(block("10.0.0.0/24", &[]), vec![to_web.clone(), ping.clone()])
        };
        let policy = native(of_rule);
        assert!(policy.problems.is_empty() && policy.native, "{:?}", policy.problems);
        let [spec] = &policy.rules[..] else { panic!("{:?}", policy.rules) };
        assert_eq!((spec.action, &*spec.applied_to[0]), (action, "b"));
        assert_eq!(spec.standing, Standing::Native(Rank::new(250, 5.0, 0, action)));
        let src_ports = Some(PortRange::new(1000, 1999).unwrap());
        let web = NamedService::Named { protocol: Protocol::Tcp, name: "web".into(), src_ports };
        let ping = Service { icmp_type: Some(8), icmp_code: Some(0), ..Service::all(Protocol::Icmp) };
        assert_eq!(spec.services, [web, NamedService::Plain(ping)]);
    }
    let baseline = crate::testing::native("b", (253, 5.0), "a", vec![rule(block("0.0.0.0/0", &[]), vec![])]);
    assert!(matches!(Policy::read(&baseline).rules[0].standing, Standing::Baseline(_)));
}

/// What cannot be read is nobody's to allow, and everybody's to deny. Each is told.
#[test]
fn mistakes_in_native_rules_never_open_anything() {
    let service =
        |protocol: &str| controlplane::Service { protocol: Some(protocol.into()), ..Default::default() };
    let good = || rule(block("10.0.0.0/24", &[]), vec![service("UDP")]);
    let is_everybody =
        |spec: &RuleSpec| spec.nets.len() == 2 && spec.nets.iter().all(|net| net.prefix_len() == 0);
    type Damage = fn(&mut NetworkPolicyRule);
    let many = || IpBlock {
        cidr: cidr("10.0.0.0/8"),
        except: (0..5000u32).map(|i| cidr(&format!("10.{}.{}.1/32", i / 250, i % 250))).collect(),
    };
    let damages: [(&str, Damage); 6] = [
        ("FQDN", |rule| rule.from.fqdns.push("example.org".into())),
        ("Services as sources", |rule| rule.from.to_services.push(controlplane::ObjectReference::default())),
        ("label identities", |rule| rule.from.label_identities.push(7)),
        ("ipBlock", |rule| rule.from.ip_blocks[0].cidr.prefix_length = 99),
        ("XTP", |rule| rule.services[0].protocol = Some("XTP".into())),
        ("port 70000", |rule| rule.services[0].port = Some(IntOrString::int(70_000))),
    ];
    let mut too_large = good();
    too_large.from.ip_blocks = vec![many()];
    let cases = damages.into_iter().map(|(text, damage)| {
        let mut rule = good();
        damage(&mut rule);
        (text, rule)
    });
    for (text, rule) in cases.chain([("4096", too_large)]) {
        let of = |action: &str| native(NetworkPolicyRule { action: Some(action.into()), ..rule.clone() });
        let told = |policy: &Policy| policy.problems.iter().any(|problem| problem.contains(text));
        let allow = of("Allow");
        assert!(told(&allow), "{text}: {:?}", allow.problems);
        for spec in &allow.rules {
            assert!(!is_everybody(spec) && spec.services.len() == 1, "{text}: {spec:?}");
        }
        for action in ["Drop", "Pass", "Sing"] {
            let policy = of(action);
            assert!(told(&policy), "{text}: {:?}", policy.problems);
            let [spec] = &policy.rules[..] else { panic!("{text}: {:?}", policy.rules) };
            assert_eq!(spec.action, Action::Drop, "{text}: {action}");
            assert!(is_everybody(spec) || spec.services.is_empty(), "{text}: {spec:?}");
            assert!(spec.groups.is_empty() || !is_everybody(spec));
        }
    }

    // IGMP as a whole stands for a part of it.
    let igmp = |action: &str| {
        native(NetworkPolicyRule {
            action: Some(action.into()),
            ..rule(block("224.0.0.0/4", &[]), vec![service("IGMP")])
        })
    };
    assert!(igmp("Allow").rules.is_empty() && !igmp("Allow").problems.is_empty());
    assert_eq!(igmp("Drop").rules[0].services, [NamedService::Plain(Service::all(Protocol::Igmp))]);

    let up = |action: &str| {
        native(NetworkPolicyRule { action: Some(action.into()), direction: "Up".into(), ..good() })
    };
    assert!(up("Allow").rules.is_empty());
    assert_eq!(up("Drop").rules.len(), 2);
    assert!(up("Drop").rules.iter().all(is_everybody));

    // Who does not say where he stands denies before all others, and does nothing else.
    let nowhere = |action: &str| {
        let rule = NetworkPolicyRule { action: Some(action.into()), ..good() };
        let message = crate::testing::native("n", (250, f64::NAN), "a", vec![rule]);
        Policy::read(&message)
    };
    assert!(nowhere("Allow").rules.is_empty() && nowhere("Allow").problems.len() == 1);
    for action in ["Drop", "Pass"] {
        let policy = nowhere(action);
        assert_eq!(
            (policy.rules[0].action, policy.rules[0].standing),
            (Action::Drop, Standing::Native(Rank::first(0)))
        );
    }
    let last = crate::testing::native(
        "b",
        (253, 1.0),
        "a",
        vec![NetworkPolicyRule { action: Some("Pass".into()), ..good() }],
    );
    assert_eq!(Policy::read(&last).rules[0].action, Action::Drop);
    assert!(Policy::read(&last).problems[0].contains("baseline"));
}
