use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::iptables::{AddrType, CtState, Match, NatTo, Proto, SetDir, Target};

fn net(s: &str) -> ipnet::IpNet {
    s.parse().unwrap()
}

/// Most of what the agent of one node with a proxy wants.
pub(crate) fn node_rules(family: Family) -> Ruleset {
    let (pods, virtual_ip, egress): (_, IpAddr, IpAddr) = match family {
        Family::V4 => (net("10.10.0.0/24"), [169, 254, 0, 252].into(), [192, 0, 2, 7].into()),
        Family::V6 => {
            (net("fd00:10::/64"), "fc01::aabb:ccdd:eeff".parse().unwrap(), "2001:db8::7".parse().unwrap())
        }
    };
    let set = |name: &str| match family {
        Family::V4 => name.to_owned(),
        Family::V6 => format!("{name}6"),
    };
    let mut r = Ruleset::new(family);
    for (table, chains) in [
        (Table::Raw, &["PREROUTING", "OUTPUT"][..]),
        (Table::Mangle, &["PREROUTING", "OUTPUT"]),
        (Table::Filter, &["FORWARD", "INPUT", "OUTPUT"]),
        (Table::Nat, &["POSTROUTING"]),
    ] {
        for chain in chains {
            r.jump(
                table,
                chain,
                &format!("ANTREA-{chain}"),
                &format!("Antrea: jump to Antrea {chain} rules"),
            );
        }
    }
    for chain in ["PREROUTING", "OUTPUT"] {
        r.jump_first(Table::Nat, chain, &format!("ANTREA-{chain}"), "Antrea: jump to Antrea proxy rules");
        let notrack = Rule::new(Target::NoTrack)
            .comment("Antrea: do not track incoming encapsulation packets")
            .proto(Proto::UDP)
            .dst_ports(6081)
            .dst_type(AddrType::Local);
        r.rule(Table::Raw, &format!("ANTREA-{chain}"), notrack);
        let nodeport = Rule::new(Target::Dnat(virtual_ip.into()))
            .comment("Antrea: DNAT external to NodePort packets")
            .in_set(set("ANTREA-NODEPORT-IP"), [SetDir::Dst, SetDir::Dst]);
        r.rule(Table::Nat, &format!("ANTREA-{chain}"), nodeport);
    }
    let mark = Rule::new(Target::or_mark(0x8000_0000))
        .comment("Antrea: mark LOCAL output packets")
        .src_type(AddrType::Local)
        .out_iface("antrea-gw0");
    r.rule(Table::Mangle, "ANTREA-OUTPUT", mark);
    let filter = Table::Filter;
    r.rule(
        filter,
        "ANTREA-FORWARD",
        Rule::new(Target::Accept).in_iface("antrea-gw0").comment("Antrea: accept packets from local Pods"),
    );
    r.rule(
        filter,
        "ANTREA-FORWARD",
        Rule::new(Target::Accept).out_iface("antrea-gw0").comment("Antrea: accept packets to local Pods"),
    );
    r.rule(
        filter,
        "ANTREA-FORWARD",
        Rule {
            src_group: Some(Match::new(true, 0xa17)),
            ..Rule::new(Target::Drop).ct_state([CtState::Invalid, CtState::New])
        },
    );
    let snat = |random_fully| Target::Snat { to: egress.into(), random_fully };
    r.rule(Table::Nat, "ANTREA-POSTROUTING", Rule::new(snat(true)).not_out_iface("antrea-gw0").mark(1, 0xff));
    r.rule(
        Table::Nat,
        "ANTREA-POSTROUTING",
        Rule::new(Target::Masquerade { random_fully: true })
            .comment("Antrea: masquerade Pod to external packets")
            .src(pods)
            .not_in_set(set("ANTREA-POD-IP"), [SetDir::Dst])
            .not_out_iface("antrea-gw0"),
    );
    r.rule(
        Table::Nat,
        "ANTREA-POSTROUTING",
        Rule::new(Target::Dnat(NatTo { ip: virtual_ip, ports: Some((80, 80)) }))
            .proto(Proto::TCP)
            .dst_ports(8080),
    );
    // DNAT belongs to PREROUTING; here it would be refused by the kernel.
    let dnat = r.chain(Table::Nat, "ANTREA-POSTROUTING").pop().unwrap();
    r.rule(Table::Nat, "ANTREA-PREROUTING", dnat);
    r
}

#[test]
fn restore_text() {
    insta::assert_snapshot!("node_rules_v4", node_rules(Family::V4));
    insta::assert_snapshot!("node_rules_v6", node_rules(Family::V6));
}

/// A model of the kernel's tables: runs a plan as the tools would.
#[derive(Clone, Default)]
struct Kernel(BTreeMap<Table, BTreeMap<String, SavedChain>>);

impl Kernel {
    fn new() -> Self {
        let builtin = || SavedChain { builtin: true, rules: Vec::new() };
        let chains = |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), builtin())).collect();
        Self(BTreeMap::from([
            (Table::Filter, chains(&["INPUT", "FORWARD"])),
            (Table::Nat, chains(&["PREROUTING", "POSTROUTING"])),
        ]))
    }

    fn saved(&self) -> Saved {
        let mut text = String::from("# made by a model\n");
        for (table, chains) in &self.0 {
            text += &format!("*{table}\n");
            for (name, chain) in chains {
                text += &format!(":{name} {} [0:0]\n", if chain.builtin { "ACCEPT" } else { "-" });
            }
            for (name, chain) in chains {
                for rule in &chain.rules {
                    text += &format!("-A {name} {rule}\n");
                }
            }
            text += "COMMIT\n";
        }
        text.parse().unwrap()
    }

    fn run(&mut self, plan: &Plan) {
        for (table, text) in &plan.restore {
            for line in text.lines() {
                self.line(*table, line);
            }
        }
        for (table, jump) in &plan.jumps {
            let verb = if jump.first { format!("-I {} 1", jump.from) } else { format!("-A {}", jump.from) };
            self.line(*table, &format!("{verb} {}", jump.rule));
        }
    }

    fn line(&mut self, table: Table, line: &str) {
        let chains = self.0.entry(table).or_default();
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
        match verb {
            "-A" => chains.get_mut(chain).unwrap().rules.push(rule.to_owned()),
            "-I" => {
                chains.get_mut(chain).unwrap().rules.insert(0, rule.strip_prefix("1 ").unwrap().to_owned())
            }
            "-D" => {
                let rules = &mut chains.get_mut(chain).unwrap().rules;
                let at = rules.iter().position(|r| r == rule).expect("only what is there may be deleted");
                rules.remove(at);
            }
            "-X" => {
                assert!(chains[chain].rules.is_empty(), "{chain} has rules");
                let used =
                    chains.values().flat_map(|c| &c.rules).any(|r| r.ends_with(&format!("-j {chain}")));
                assert!(!used, "{chain} is used");
                chains.remove(chain);
            }
            _ => {
                if let Some(name) = verb.strip_prefix(':') {
                    chains.insert(name.to_owned(), SavedChain::default());
                } else {
                    assert!(verb.starts_with('*') || verb == "COMMIT", "{line}");
                }
            }
        }
    }
}

fn desired() -> impl Strategy<Value = Ruleset> {
    let rule = prop_oneof![
        Just(Rule::new(Target::Accept)),
        Just(Rule::new(Target::Drop).src(net("10.0.0.0/8")).comment("two words")),
        Just(Rule::jump("ANTREA-B")),
    ];
    let chain = prop::collection::vec(rule, 0..3);
    let table = (chain.clone(), prop::option::of(chain), 0u8..4, any::<bool>(), any::<bool>());
    (prop::option::of(table.clone()), prop::option::of(table)).prop_map(|(filter, nat)| {
        let mut r = Ruleset::new(Family::V4);
        for (table, from, wanted) in [(Table::Filter, "FORWARD", filter), (Table::Nat, "PREROUTING", nat)] {
            let Some((b, a, comment, jump, first)) = wanted else { continue };
            // Chain B is a leaf, so that the model's kernel needs no loop check.
            *r.chain(table, "ANTREA-B") =
                b.into_iter().filter(|r| !matches!(r.target, Some(Target::Jump(_)))).collect();
            if let Some(a) = a {
                *r.chain(table, "ANTREA-A") = a;
            }
            let comment = format!("comment {comment}");
            match (jump, first) {
                (true, true) => r.jump_first(table, from, "ANTREA-B", &comment),
                (true, false) => r.jump(table, from, "ANTREA-B", &comment),
                _ => &mut r,
            };
        }
        r
    })
}

#[test]
fn jumps_come_with_the_chains_and_alone_only_where_nothing_else_is_missing() {
    let mut wanted = Ruleset::new(Family::V4);
    for (table, from) in [(Table::Filter, "FORWARD"), (Table::Nat, "PREROUTING")] {
        wanted.rule(table, "ANTREA-B", Rule::new(Target::Accept));
        wanted.jump(table, from, "ANTREA-B", "ours");
    }
    let mut kernel = Kernel::new();
    let first = plan(&kernel.saved(), &wanted, "ANTREA-");
    assert_eq!((first.restored_jumps, first.jumps.len()), (2, 0));
    kernel.run(&first);

    let forward = kernel.0.get_mut(&Table::Filter).and_then(|table| table.get_mut("FORWARD")).unwrap();
    forward.rules.clear();
    let repair = plan(&kernel.saved(), &wanted, "ANTREA-");
    assert_eq!((repair.restore.len(), repair.jumps.len()), (0, 1), "{repair}");
}

proptest! {
    #[test]
    fn any_state_leads_to_any_other(states in prop::collection::vec(desired(), 1..5), noise in any::<bool>()) {
        let mut kernel = Kernel::new();
        kernel.line(Table::Filter, ":KUBE-X - [0:0]");
        for line in ["-A FORWARD -j KUBE-X", "-A KUBE-X -j DROP"] {
            kernel.line(Table::Filter, line);
        }
        for state in &states {
            if noise {
                // Somebody puts a rule before ours, and a jump to one of our chains that we do not want.
                kernel.line(Table::Nat, "-I PREROUTING 1 -j ACCEPT");
                kernel.line(Table::Filter, ":ANTREA-OLD - [0:0]");
                kernel.line(Table::Filter, "-A FORWARD -j ANTREA-OLD");
            }
            kernel.run(&plan(&kernel.saved(), state, "ANTREA-"));
            let left = plan(&kernel.saved(), state, "ANTREA-");
            prop_assert!(left.is_empty(), "{left}");
            for (table, rules) in &state.tables {
                for jump in &rules.jumps {
                    let chain = &kernel.0[table][&jump.from].rules;
                    let at = chain.iter().position(|r| *r == jump.rule.to_string());
                    prop_assert!(at.is_some() && (!jump.first || at == Some(0)), "{chain:?}");
                }
            }
            prop_assert_eq!(&kernel.0[&Table::Filter]["KUBE-X"].rules, &["-j DROP"]);
            prop_assert_eq!(&kernel.0[&Table::Filter]["FORWARD"].rules.iter().filter(|r| *r == "-j KUBE-X").count(), &1);
        }
        kernel.run(&plan(&kernel.saved(), &Ruleset::new(Family::V4), "ANTREA-"));
        let left = format!("{:?}", kernel.0);
        prop_assert!(!left.contains("ANTREA"), "{}", left);
    }
}

#[test]
fn only_what_differs_is_written() {
    let mut kernel = Kernel::new();
    let mut want = Ruleset::new(Family::V4);
    want.jump(Table::Filter, "FORWARD", "ANTREA-FORWARD", "Antrea: jump");
    want.rule(Table::Filter, "ANTREA-FORWARD", Rule::new(Target::Accept).in_iface("antrea-gw0"));
    want.rule(Table::Filter, "ANTREA-OTHER", Rule::new(Target::Drop));
    want.rule(Table::Nat, "ANTREA-POSTROUTING", Rule::new(Target::Return));
    kernel.run(&plan(&kernel.saved(), &want, "ANTREA-"));
    want.tables.remove(&Table::Nat);
    want.chain(Table::Filter, "ANTREA-OTHER").push(Rule::new(Target::Accept));
    insta::assert_snapshot!("difference", plan(&kernel.saved(), &want, "ANTREA-"));
}

#[test]
fn image_is_about_ours_only() {
    let text = "*filter\n:FORWARD ACCEPT [5:6]\n:ANTREA-FORWARD - [0:0]\n:KUBE-X - [0:0]\n-A FORWARD -j KUBE-X\n\
                -A FORWARD -m comment --comment \"-j ANTREA-X\" -j KUBE-X\n-A FORWARD -j ANTREA-FORWARD\n\
                -A ANTREA-FORWARD -j DROP\nCOMMIT\n*security\n:INPUT ACCEPT [0:0]\n-A INPUT -j X\nCOMMIT\n";
    let saved: Saved = text.parse().unwrap();
    assert_eq!(
        saved.image("ANTREA-"),
        "filter :ANTREA-FORWARD\nfilter ANTREA-FORWARD 0 -j DROP\nfilter FORWARD 2 -j ANTREA-FORWARD\n"
    );
    assert!("*filter\n-A NOWHERE -j DROP\n".parse::<Saved>().is_err());
    assert!("*filter\n:BAD\n".parse::<Saved>().is_err());
}
