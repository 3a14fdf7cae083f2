//! Tables of nftables against the kernel.

use std::{net::IpAddr, time::Instant};

use netcfg::{
    Family,
    nft::{Chain, Hook, Match, Nft, Rule, Set, Table, Verdict},
};

use crate::{common::Host, ip, net};

const NFT: &str = "NCFG-TEST";

/// A table with every match, verdict and kind of set that this crate can make.
fn every_match(family: Family) -> Table {
    let v4 = family == Family::V4;
    let pick = |four: &str, six: &str| if v4 { four.to_owned() } else { six.to_owned() };
    let (pods, pod) = (net(&pick("10.10.0.0/24", "fd00:10::/64")), ip(&pick("10.10.0.7", "fd00:10::7")));
    let jump = |name: &str| Rule::new(Verdict::Jump(name.into()));
    let ports =
        |which, ranges: &[(u16, u16)]| Match::Ports { protocol: "tcp", which, ranges: ranges.to_vec() };
    let rules = vec![
        jump("C").when(Match::InIface("antrea-gw0".into())).when(Match::NotOutIface("antrea-gw0".into())),
        jump("C").when(Match::Src(pods)).when(Match::NotSrc(pod)).when(Match::Dst(pods)),
        jump("C").when(Match::DstIn("S".into())).when(Match::Translated),
        jump("C").when(Match::AsSent(pod)).when(Match::Protocol(17)).when(Match::NotSentTo(30_000, 32_767)),
        Rule::new(Verdict::Accept).when(Match::Known).when(Match::TcpGoesOn),
        Rule::new(Verdict::Accept).when(Match::Known).when(Match::NotProtocol(6)),
        Rule::new(Verdict::Drop).when(Match::Tracked).when(Match::Protocol(17)),
        Rule::new(Verdict::OfSource("M".into())),
        Rule::new(Verdict::Goto("D".into())).when(Match::DstIn("G".into())),
    ];
    let hook = |name, priority| Some(Hook { name, priority });
    let leaf = vec![
        Rule::new(Verdict::Drop).when(Match::Protocol(6)).when(ports("dport", &[(80, 90), (443, 443)])),
        Rule::new(Verdict::Drop).when(ports("sport", &[(5, 5)])),
        Rule::new(Verdict::Drop).when(Match::Protocol(if v4 { 1 } else { 58 })).when(Match::IcmpType(8, 8)),
        Rule::new(Verdict::Drop).when(Match::IcmpType(133, 137)).when(Match::IcmpCode(0)),
    ];
    let map =
        [(pod, Verdict::Goto("C".into())), (pods.addr(), Verdict::Drop), (pods.broadcast(), Verdict::Accept)];
    Table {
        family,
        name: NFT,
        chains: [
            ("FORWARD".into(), Chain { hook: hook("forward", -150), rules: rules.clone() }),
            ("INPUT".into(), Chain { hook: hook("input", 110), rules }),
            ("C".into(), Chain { hook: None, rules: leaf }),
            ("D".into(), Chain::default()),
        ]
        .into(),
        sets: [
            ("S".into(), Set::of_nets([pods, net(&pick("192.0.2.0/31", "2001:db8::/32"))])),
            ("ALL".into(), Set::of_nets([net(&pick("0.0.0.0/0", "::/0"))])),
            ("G".into(), Set::Addresses([pod].into())),
        ]
        .into(),
        maps: [("M".into(), map.into())].into(),
    }
}

#[tokio::test]
async fn nftables_converge_and_what_differs_is_put_back() {
    let host = Host::new().await;
    for family in Family::BOTH {
        let keyword = if family == Family::V4 { "ip" } else { "ip6" };
        let nft = Nft::new(host.ns.clone(), family, NFT);
        assert!(!nft.exists().await.unwrap());
        let wanted = every_match(family);
        assert_eq!(nft.apply(&wanted).await.unwrap().len(), 1);
        assert_eq!(nft.apply(&wanted).await.unwrap(), [""; 0], "it is as it was written");
        // Another process finds the same.
        let other = Nft::new(host.ns.clone(), family, NFT);
        assert_eq!(other.apply(&wanted).await.unwrap(), [""; 0]);

        for (damage, told) in [
            ("flush chain {} FORWARD", "rules of chain FORWARD differed"),
            ("insert rule {} C accept", "rules of chain C differed"),
            ("add rule {} D drop", "rules of chain D differed"),
            ("flush map {} M", "verdicts of map M differed"),
            ("flush set {} G", "members of set G differed"),
            ("add chain {} X; add rule {} X jump C; add rule {} C jump D", "chain X was not wanted"),
            ("add set {} X { type inet_service; }", "set X was not wanted"),
            ("add map {} X { type inet_service : verdict; }", "map X was not wanted"),
            ("flush set {} S", "was another one"),
            ("add counter {} x", "was another one"),
            ("chain {} INPUT { policy drop; }", "was another one"),
            ("delete table {}", "was missing"),
            ("flush ruleset", "was missing"),
        ] {
            let commands = damage.replace("{}", &format!("{keyword} {NFT}"));
            host.sh(&format!("nft '{commands}'")).await;
            let found = nft.apply(&wanted).await.unwrap();
            assert!(found.iter().any(|text| text.contains(told)), "{damage}: {found:?}");
            assert_eq!(nft.apply(&wanted).await.unwrap(), [""; 0], "{damage}");
        }

        // From one table to another, whole ones and parts, and back.
        let mut less = wanted.clone();
        less.maps.get_mut("M").unwrap().pop_first();
        less.maps.get_mut("M").unwrap().values_mut().for_each(|verdict| *verdict = Verdict::Drop);
        less.chains.get_mut("FORWARD").unwrap().rules.clear();
        less.chains.get_mut("INPUT").unwrap().rules.truncate(5);
        for name in ["C", "D"] {
            less.chains.remove(name);
        }
        less.chains.get_mut("INPUT").unwrap().rules.retain(|rule| !matches!(rule.verdict, Verdict::Jump(_)));
        less.sets.clear();
        for table in [&less, &wanted, &less] {
            assert!(!nft.apply(table).await.unwrap().is_empty());
            assert_eq!(other.apply(table).await.unwrap(), [""; 0], "{table}");
        }

        // What cannot be installed changes nothing.
        let mut broken = wanted.clone();
        broken.chains.get_mut("C").unwrap().rules.push(Rule::new(Verdict::Jump("NOWHERE".into())));
        nft.apply(&broken).await.unwrap_err();
        assert_eq!(other.apply(&less).await.unwrap(), [""; 0], "the one before is in force");
        nft.delete().await.unwrap();
        nft.delete().await.unwrap();
        assert!(!nft.exists().await.unwrap());
    }
}

/// Time for a table of a node that is full, and for one more pod.
#[tokio::test]
async fn a_large_table_is_quick() {
    let host = Host::new().await;
    let nft = Nft::new(host.ns.clone(), Family::V4, NFT);
    let mut table = every_match(Family::V4);
    let pods = (0..250_u8).map(|last| IpAddr::from([10, 11, 0, last]));
    table.maps.insert("PODS".into(), pods.map(|pod| (pod, Verdict::Goto("BIG".into()))).collect());
    let rule =
        |port| Rule::new(Verdict::Accept).when(Match::Protocol(port)).when(Match::DstIn("MANY".into()));
    let big = (0..1000_u16).map(|n| rule(n.to_be_bytes()[1]));
    table.chains.insert("BIG".into(), Chain { hook: None, rules: big.collect() });
    let many = (0..10_000_u16).map(|n| IpAddr::from([10, 12, n.to_be_bytes()[0], n.to_be_bytes()[1]]));
    table.sets.insert("MANY".into(), Set::Addresses(many.collect()));
    let judge = Rule::new(Verdict::OfSource("PODS".into()));
    table.chains.get_mut("FORWARD").unwrap().rules.push(judge);
    let start = Instant::now();
    nft.apply(&table).await.unwrap();
    let first = start.elapsed();
    table.maps.get_mut("PODS").unwrap().insert(ip("10.11.1.1"), Verdict::Accept);
    let start = Instant::now();
    assert_eq!(nft.apply(&table).await.unwrap(), ["verdicts of map PODS differed"]);
    println!("1,000 rules, 10,000 addresses, 250 pods: {first:.1?}; one more pod: {:.1?}", start.elapsed());
}
