//! iptables (both backends), ipset, sysctl and announcements against the kernel, judged by the tools.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may")]

#[path = "../common/mod.rs"]
mod common;

mod host;
mod nft;

use std::{net::IpAddr, time::Instant};

use common::{Host, joined};
use ipnet::IpNet;
use netcfg::{
    Error, Family, garp,
    ipset::{IpSet, Ipsets, Member, SetType},
    iptables::{
        AddrType, Backend, CtState, Iptables, Mark, Match, NatTo, Ports, Proto, RejectWith, Rule, Ruleset,
        SetDir, Table, Target, cleanup_all,
    },
    sysctl::{Sysctl, Tree},
};
use nix::errno::Errno;

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn not<T>(value: T) -> Option<Match<T>> {
    Some(Match { negated: true, value })
}

/// Every match and target this crate can make, in tables and chains where the kernel takes them.
fn everything(family: Family) -> Ruleset {
    let v4 = family == Family::V4;
    let pick = |four: &str, six: &str| if v4 { four.to_owned() } else { six.to_owned() };
    let pods = net(&pick("10.10.0.0/24", "fd00:10::/64"));
    let single = net(&pick("10.10.0.7/32", "fd00:10::7/128"));
    let virtual_ip = ip(&pick("169.254.0.252", "fc01::aabb:ccdd:eefe"));
    let nets = pick("NCFG-NET", "NCFG-NET6");
    let ports = pick("NCFG-PORT", "NCFG-PORT6");
    let mut r = Ruleset::new(family);
    r.jump(Table::Raw, "PREROUTING", "ANTREA-PREROUTING", "Antrea: jump to Antrea prerouting rules");
    r.jump(Table::Mangle, "OUTPUT", "ANTREA-OUTPUT", "Antrea: jump to Antrea output rules");
    r.jump(Table::Filter, "FORWARD", "ANTREA-FORWARD", "Antrea: jump to Antrea forwarding rules");
    r.jump_first(Table::Nat, "PREROUTING", "ANTREA-PREROUTING", "Antrea: jump to Antrea prerouting rules");
    r.jump(Table::Nat, "POSTROUTING", "ANTREA-POSTROUTING", "Antrea: jump to Antrea postrouting rules");
    r.chain(Table::Filter, "ANTREA-EMPTY");

    let mut add = |table, chain: &str, rule| {
        r.rule(table, chain, rule);
    };
    add(
        Table::Raw,
        "ANTREA-PREROUTING",
        Rule::new(Target::NoTrack).proto(Proto::UDP).dst_ports(6081).dst_type(AddrType::Local),
    );
    let mangle = Table::Mangle;
    let output = "ANTREA-OUTPUT";
    add(
        mangle,
        output,
        Rule::new(Target::or_mark(0x8000_0000)).src_type(AddrType::Local).out_iface("antrea-gw0"),
    );
    add(mangle, output, Rule::new(Target::SaveMark(0xff)).mark(5, 0xff));
    add(
        mangle,
        output,
        Rule::new(Target::RestoreMark(0xff)).connmark(5, 0xff).ct_state([CtState::Established]),
    );
    add(mangle, output, Rule::new(Target::SaveMark(u32::MAX)));
    add(
        mangle,
        output,
        Rule {
            mark: not(Mark { value: 1, mask: u32::MAX }),
            ..Rule::new(Target::ConnMark(Mark { value: 1, mask: 3 }))
        },
    );

    let forward = "ANTREA-FORWARD";
    let filter = Table::Filter;
    add(
        filter,
        forward,
        Rule::new(Target::Accept).in_iface("antrea-gw0").comment("Antrea: accept packets from local Pods"),
    );
    add(filter, forward, Rule::new(Target::Accept).comment("it's a \"quoted\" \\ comment"));
    add(filter, forward, Rule::new(Target::Accept).comment("simple"));
    add(filter, forward, Rule::new(Target::Drop).src_group(23).dst_group(24));
    let new = Rule::new(Target::Drop).ct_state([CtState::Invalid, CtState::New]);
    add(filter, forward, Rule { src_group: not(0), ..new });
    add(filter, forward, Rule { dst: not(single), ..Rule::new(Target::Return).src(pods) });
    add(filter, forward, Rule::new(Target::Return).not_src(pods).dst(single));
    add(filter, forward, Rule::new(Target::Accept).src("::/0".parse().unwrap()).not_in_iface("eth+"));
    for proto in [Proto::TCP, Proto::UDP, Proto::SCTP] {
        add(
            filter,
            forward,
            Rule::new(Target::Accept).proto(proto).dst_ports(80).src_ports(Ports(vec![(1024, 65535)])),
        );
        let many = Ports(vec![(80, 80), (443, 443), (8000, 8100)]);
        add(filter, forward, Rule::new(Target::Accept).proto(proto).dst_ports(many));
    }
    let (icmp, port_unreachable, prohibited) = if v4 {
        (Proto::ICMP, RejectWith::PortUnreachable, RejectWith::AdminProhibited)
    } else {
        (Proto::ICMPV6, RejectWith::PortUnreachable6, RejectWith::AdminProhibited6)
    };
    add(filter, forward, Rule::new(Target::Accept).proto(icmp).icmp(3, Some(1)));
    add(filter, forward, Rule::new(Target::Accept).proto(icmp).icmp(if v4 { 8 } else { 128 }, None));
    add(filter, forward, Rule::new(Target::Drop).syn());
    add(filter, forward, Rule { syn: Some(false), ..Rule::new(Target::Accept) }.proto(Proto::TCP));
    add(filter, forward, Rule::new(Target::Accept).proto(Proto::ESP));
    add(filter, forward, Rule::new(Target::Accept).proto(Proto::GRE));
    add(filter, forward, Rule::new(Target::Accept).proto(Proto(99)));
    add(filter, forward, Rule::new(Target::Reject(port_unreachable)));
    add(filter, forward, Rule::new(Target::Reject(prohibited)));
    add(filter, forward, Rule::new(Target::Reject(RejectWith::TcpReset)).proto(Proto::TCP));
    add(filter, forward, Rule::new(Target::Log("Antrea: dropped ".to_owned())));
    add(filter, forward, Rule::jump("ANTREA-EMPTY"));
    add(filter, forward, Rule::new(Target::Goto("ANTREA-EMPTY".to_owned())));
    add(filter, forward, Rule { target: None, ..Rule::default() }.src(pods));
    add(
        filter,
        forward,
        Rule::new(Target::Accept).in_set(nets.clone(), [SetDir::Src]).not_in_set(nets.clone(), [SetDir::Dst]),
    );
    add(filter, forward, Rule::new(Target::Accept).in_set(ports, [SetDir::Dst, SetDir::Dst]));

    let post = "ANTREA-POSTROUTING";
    let nat = Table::Nat;
    add(
        nat,
        post,
        Rule::new(Target::Masquerade { random_fully: true })
            .src(pods)
            .not_in_set(nets, [SetDir::Dst])
            .not_out_iface("antrea-gw0"),
    );
    add(
        nat,
        post,
        Rule::new(Target::Masquerade { random_fully: false })
            .not_src_type(AddrType::Local)
            .dst_type(AddrType::Unicast),
    );
    add(nat, post, Rule::new(Target::Snat { to: virtual_ip.into(), random_fully: true }).mark(1, 0xff));
    let to = NatTo { ip: virtual_ip, ports: Some((1000, 2000)) };
    add(nat, post, Rule::new(Target::Snat { to, random_fully: false }).proto(Proto::UDP));
    let pre = "ANTREA-PREROUTING";
    add(nat, pre, Rule::new(Target::Dnat(virtual_ip.into())));
    let to = NatTo { ip: virtual_ip, ports: Some((80, 80)) };
    add(nat, pre, Rule::new(Target::Dnat(to)).proto(Proto::TCP).dst_ports(8080));
    r
}

async fn make_sets(host: &Host) {
    let sets = [
        IpSet::new("NCFG-NET", SetType::HashNet, Family::V4, [net("10.0.0.0/8")]).unwrap(),
        IpSet::new("NCFG-NET6", SetType::HashNet, Family::V6, [net("fd00::/8")]).unwrap(),
        IpSet::new(
            "NCFG-PORT",
            SetType::HashIpPort,
            Family::V4,
            [Member::IpPort(ip("10.0.0.1"), Proto::TCP, 80)],
        )
        .unwrap(),
        IpSet::new(
            "NCFG-PORT6",
            SetType::HashIpPort,
            Family::V6,
            [Member::IpPort(ip("fd00::1"), Proto::TCP, 80)],
        )
        .unwrap(),
    ];
    Ipsets::new(host.ns.clone()).apply(&sets).await.unwrap();
}

/// Rules and chains of a backend without counters, comments and what differs from run to run.
async fn shown(host: &Host, backend: Backend, family: Family) -> String {
    let text = host.sh(backend.save(family)).await;
    text.lines().filter(|l| !l.starts_with('#')).map(|l| format!("{l}\n")).collect()
}

async fn converges(backend: Backend, family: Family) {
    let host = Host::new().await;
    make_sets(&host).await;
    let program = backend.program(family);
    // What others have: a rule in a built-in chain, a chain of their own.
    host.sh(&format!("{program} -A FORWARD -j ACCEPT; {program} -t nat -N KUBE-SERVICES; {program} -t nat -A PREROUTING -j KUBE-SERVICES")).await;
    let before = shown(&host, backend, family).await;
    let iptables = Iptables::new(host.ns.clone(), backend, family);
    let want = everything(family);

    let begin = Instant::now();
    let applied = iptables.apply(&want).await.unwrap();
    let write = begin.elapsed();
    assert_eq!(applied.jumps_added, 5);
    // A new handle remembers nothing: every rule is read back and understood.
    let fresh = Iptables::new(host.ns.clone(), backend, family);
    let begin = Instant::now();
    let again = fresh.apply(&want).await.unwrap();
    println!("{program}: first {:.1?}, unchanged {:.1?}", write, begin.elapsed());
    assert!(again.is_unchanged(), "{program}: not stable: {}", again.restored);
    let text = shown(&host, backend, family).await;
    for (table, rules) in &want.tables {
        let section = text.split(&format!("*{table}\n")).nth(1).unwrap().split("COMMIT").next().unwrap();
        for (chain, rules) in &rules.chains {
            let count = section.lines().filter(|l| l.starts_with(&format!("-A {chain} "))).count();
            assert_eq!(count, rules.len(), "{table} {chain}");
        }
    }
    // What is printed most plainly is printed as we print it.
    assert!(
        text.contains(
            "-A ANTREA-PREROUTING -p udp -m udp --dport 6081 -m addrtype --dst-type LOCAL -j CT --notrack"
        ),
        "{text}"
    );
    let prerouting: Vec<_> =
        text.split("*nat").nth(1).unwrap().lines().filter(|l| l.starts_with("-A PREROUTING")).collect();
    assert!(
        prerouting[0].ends_with("-j ANTREA-PREROUTING") && prerouting[1].ends_with("-j KUBE-SERVICES"),
        "{prerouting:?}"
    );

    // Drift of every sort.
    host.sh(&format!(
        "{program} -D FORWARD -m comment --comment 'Antrea: jump to Antrea forwarding rules' -j ANTREA-FORWARD
         {program} -F ANTREA-FORWARD
         {program} -A ANTREA-EMPTY -j DROP
         {program} -N ANTREA-STALE; {program} -A ANTREA-STALE -j DROP; {program} -I FORWARD -j ANTREA-STALE
         {program} -t nat -I PREROUTING -p tcp -j ACCEPT
         {program} -t mangle -A OUTPUT -m comment --comment 'Antrea: jump to Antrea output rules' -j ANTREA-OUTPUT"
    ))
    .await;
    let repaired = iptables.apply(&want).await.unwrap();
    assert!(!repaired.restored.contains("*raw"), "untouched tables are not written: {}", repaired.restored);
    assert_eq!(repaired.jumps_added, 1);
    assert!(fresh.apply(&want).await.unwrap().is_unchanged());
    assert!(iptables.apply(&want).await.unwrap().is_unchanged());
    let text = shown(&host, backend, family).await;
    assert!(!text.contains("STALE"));
    assert_eq!(
        text.matches("-A OUTPUT -m comment --comment \"Antrea: jump to Antrea output rules\"").count(),
        1
    );
    let prerouting: Vec<_> =
        text.split("*nat").nth(1).unwrap().lines().filter(|l| l.starts_with("-A PREROUTING")).collect();
    assert!(prerouting[0].ends_with("-j ANTREA-PREROUTING"), "back in the first place: {prerouting:?}");
    host.sh(&format!("{program} -t nat -D PREROUTING -p tcp -j ACCEPT")).await;

    // Less is desired: a whole table goes.
    let mut less = want.clone();
    less.tables.remove(&Table::Mangle);
    less.chain(Table::Filter, "ANTREA-FORWARD").truncate(2);
    iptables.apply(&less).await.unwrap();
    assert!(fresh.apply(&less).await.unwrap().is_unchanged());
    let text = shown(&host, backend, family).await;
    assert!(
        !text.split("*mangle").nth(1).is_some_and(|t| t.split("COMMIT").next().unwrap().contains("ANTREA"))
    );

    // A rule the kernel refuses changes nothing and is named.
    let mut bad = less.clone();
    bad.rule(
        Table::Filter,
        "ANTREA-FORWARD",
        Rule::new(Target::Accept).in_set("NCFG-NO-SUCH-SET", [SetDir::Src]),
    );
    let error = iptables.apply(&bad).await.unwrap_err();
    assert!(matches!(error, Error::Command { .. }), "{error}");
    assert!(error.to_string().contains("NCFG-NO-SUCH-SET"), "{error}");
    assert!(iptables.apply(&less).await.unwrap().is_unchanged(), "the refused change left something");

    iptables.cleanup().await.unwrap();
    iptables.cleanup().await.unwrap();
    let after = shown(&host, backend, family).await;
    let rules = |text: &str| {
        text.lines()
            .filter(|l| l.starts_with('-') || l.contains("KUBE"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(rules(&after), rules(&before));
    assert!(!after.contains("ANTREA"), "{after}");
}

#[tokio::test]
async fn nft_v4_converges() {
    converges(Backend::Nft, Family::V4).await;
}

#[tokio::test]
async fn nft_v6_converges() {
    converges(Backend::Nft, Family::V6).await;
}

#[tokio::test]
async fn legacy_v4_converges() {
    converges(Backend::Legacy, Family::V4).await;
}

#[tokio::test]
async fn legacy_v6_converges() {
    converges(Backend::Legacy, Family::V6).await;
}

#[tokio::test]
async fn cleanup_reports_what_others_still_use_and_removes_the_rest() {
    for backend in Backend::BOTH {
        let host = Host::new().await;
        let program = backend.program(Family::V4);
        let iptables = Iptables::new(host.ns.clone(), backend, Family::V4);
        let mut want = Ruleset::new(Family::V4);
        want.jump(Table::Filter, "FORWARD", "ANTREA-FORWARD", "Antrea: jump");
        want.jump(Table::Nat, "POSTROUTING", "ANTREA-POSTROUTING", "Antrea: jump");
        iptables.apply(&want).await.unwrap();
        host.sh(&format!("{program} -N OTHERS; {program} -A OTHERS -j ANTREA-FORWARD")).await;
        let errors = cleanup_all(&host.ns).await.unwrap_err();
        assert_eq!(errors.errors().len(), 1, "{errors}");
        let left = shown(&host, backend, Family::V4).await;
        assert!(left.contains("ANTREA-FORWARD") && !left.contains("ANTREA-POSTROUTING"), "{left}");
        host.sh(&format!("{program} -F OTHERS")).await;
        cleanup_all(&host.ns).await.unwrap();
        assert!(!shown(&host, backend, Family::V4).await.contains("ANTREA"));
    }
}

#[tokio::test]
async fn a_rule_that_is_shown_otherwise_is_not_written_again() {
    let host = Host::new().await;
    let iptables = Iptables::new(host.ns.clone(), Backend::Nft, Family::V4);
    let mut want = Ruleset::new(Family::V4);
    // Protocol 0 means any: it is accepted, and absent from what is read back.
    want.rule(Table::Filter, "ANTREA-FORWARD", Rule::new(Target::Accept).proto(Proto(0)));
    assert!(!iptables.apply(&want).await.unwrap().is_unchanged());
    assert!(iptables.apply(&want).await.unwrap().is_unchanged());
    host.sh("iptables-nft -A ANTREA-FORWARD -j DROP").await;
    assert!(!iptables.apply(&want).await.unwrap().is_unchanged(), "but drift is repaired");
    assert!(iptables.apply(&want).await.unwrap().is_unchanged());
}

#[tokio::test]
async fn a_handle_is_for_one_family_and_for_any_task() {
    let host = Host::new().await;
    let iptables = Iptables::new(host.ns.clone(), Backend::Nft, Family::V4);
    let error = iptables.apply(&Ruleset::new(Family::V6)).await.unwrap_err();
    assert!(error.to_string().contains("another family"), "{error}");
    let task = tokio::spawn(async move { iptables.apply(&Ruleset::new(Family::V4)).await });
    assert!(task.await.unwrap().unwrap().is_unchanged(), "usable from a spawned task");
}

#[tokio::test]
async fn the_backend_is_that_of_the_node() {
    let host = Host::new().await;
    assert_eq!(Backend::detect(&host.ns).await.unwrap(), Backend::Nft);
    host.sh("iptables-legacy -A FORWARD -j ACCEPT").await;
    assert_eq!(Backend::detect(&host.ns).await.unwrap(), Backend::Legacy);
    host.sh("ip6tables-nft -A FORWARD -j ACCEPT; ip6tables-nft -A FORWARD -j ACCEPT").await;
    assert_eq!(Backend::detect(&host.ns).await.unwrap(), Backend::Nft);
    host.sh("iptables-legacy -t mangle -N KUBE-IPTABLES-HINT").await;
    assert_eq!(Backend::detect(&host.ns).await.unwrap(), Backend::Legacy);
    host.sh("ip6tables-nft -t mangle -N KUBE-IPTABLES-HINT").await;
    assert_eq!(Backend::detect(&host.ns).await.unwrap(), Backend::Nft);
}

#[tokio::test]
async fn thousands_of_rules_go_in_one_run() {
    let host = Host::new().await;
    let iptables = Iptables::new(host.ns.clone(), Backend::Nft, Family::V4);
    let mut want = Ruleset::new(Family::V4);
    for i in 0..5000u32 {
        let peer = IpNet::from(IpAddr::from((0x0a00_0000 + i).to_be_bytes()));
        want.rule(
            Table::Filter,
            "ANTREA-POL-INGRESS-RULES",
            Rule::new(Target::Accept).src(peer).comment("a policy"),
        );
    }
    let begin = Instant::now();
    iptables.apply(&want).await.unwrap();
    let first = begin.elapsed();
    let begin = Instant::now();
    assert!(iptables.apply(&want).await.unwrap().is_unchanged());
    println!("5000 rules: first {first:.1?}, unchanged {:.1?}", begin.elapsed());
    let count = host.sh("iptables-nft-save | grep -c 'ANTREA-POL-INGRESS-RULES -s'").await;
    assert_eq!(count.trim(), "5000");
}
