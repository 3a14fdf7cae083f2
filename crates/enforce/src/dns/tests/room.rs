//! What there is room for, and whom what has none costs something.

use super::*;

fn name(n: u32) -> String {
    format!("n{n}.a.example")
}

/// So many addresses.
fn many(name: &str, first: u32, count: usize, ttl: u32) -> DnsAnswer {
    let addresses = (first..).take(count).map(|n| (IpAddr::from((0x0a00_0000 + n).to_be_bytes()), ttl));
    DnsAnswer { names: vec![name.into()], addresses: addresses.collect(), ..DnsAnswer::default() }
}

/// Whoever fills what there is, with whatever times to live: another pod's next answer is known, or is said not to be.
#[test]
fn a_pod_that_fills_what_there_is_takes_nothing_from_others() {
    let mut cache = wanting(&["*.a.example", "bad.b"]);
    let mut now = Instant::now();
    for n in 0..NAMES as u32 {
        let learned = cache.learn(&pod(1), &answer(&[&name(n)], &[(1, 604_800)]), NONE, now);
        assert_ne!(learned, Learned::NoRoom);
    }
    // In one step.
    let bad = cache.learn(&pod(2), &answer(&["bad.b"], &[(2, 5)]), NONE, now);
    let more = cache.learn(&pod(1), &answer(&["c.a.example"], &[(3, 5)]), NONE, now);
    assert!(matches!(bad, Learned::Held(_)));
    assert_eq!(of_pods(&cache, &[2], "bad.b"), [ip(2)].into());
    // Nothing that may still be held back goes either.
    assert_eq!(more, Learned::NoRoom);
    assert!(!of(&cache, "*.a.example").contains(&ip(3)));
    now += FRESH;
    for n in 0..9 {
        let learned = cache.learn(&pod(1), &answer(&[&format!("c{n}.a.example")], &[(3 + n, 5)]), NONE, now);
        assert!(matches!(learned, Learned::Held(_)));
    }
    // What it was not told for longest went, and not what ends first.
    let known = of(&cache, "*.a.example");
    assert!((3..12).all(|n| known.contains(&ip(n))), "{known:?}");
    assert_eq!((cache.pods[&pod(1)].names.len(), cache.forgotten().crowded_out), (NAMES, 9));
    assert_eq!(of_pods(&cache, &[2], "bad.b"), [ip(2)].into());
}

#[test]
fn an_answer_that_has_no_room_is_not_known_and_costs_nothing() {
    let mut cache = wanting(&["*"]);
    let start = Instant::now();
    let learn =
        |cache: &mut DnsCache, told: DnsAnswer, n: u64| cache.learn(&pod(1), &told, NONE, start + seconds(n));
    assert_ne!(learn(&mut cache, many("a", 0, ADDRESSES, 600), 0), Learned::NoRoom);
    assert_eq!(learn(&mut cache, many("b", 0, ADDRESSES + 1, 600), 0), Learned::NoRoom);
    assert_eq!((cache.size(), cache.forgotten().crowded_out), (ADDRESSES, 0));
    // One more of the same name: not at once, for it may be told to a pod that waits.
    assert_eq!(learn(&mut cache, many("a", 500, 1, 600), 3), Learned::NoRoom);
    assert_ne!(learn(&mut cache, many("a", 500, 1, 600), 4), Learned::NoRoom);
    assert_eq!((cache.size(), cache.forgotten().crowded_out), (ADDRESSES, 1));
    // Aliases are names.
    let mut aliases = many("c0", 0, ADDRESSES, 600);
    aliases.names = (0..32).map(|n| format!("c{n}")).collect();
    assert_eq!(learn(&mut cache, aliases, 5), Learned::NoRoom);
    assert_eq!(cache.pods[&pod(1)].names.len(), 1);
}

#[test]
fn what_no_policy_means_any_more_goes_first() {
    let mut cache = wanting(&["*.old", "*.a.example"]);
    let start = Instant::now();
    for n in 0..NAMES as u32 - 1 {
        cache.learn(&pod(1), &answer(&[&name(n)], &[(1, 600)]), NONE, start);
    }
    cache.learn(&pod(1), &answer(&["x.old"], &[(2, 600)]), NONE, start + seconds(1));
    cache.unwant("*.old");
    cache.learn(&pod(1), &answer(&["new.a.example"], &[(3, 600)]), NONE, start + seconds(9));
    let names = &cache.pods[&pod(1)].names;
    assert!(names.len() == NAMES && names.contains_key("n0.a.example") && !names.contains_key("x.old"));
}

/// Of all together there is a bound, beyond which each has its share.
#[test]
fn of_all_pods_so_much_is_kept_and_a_share_of_each_always() {
    let mut cache = wanting(&["*"]);
    let mut now = Instant::now();
    let pods = (ALL / OF_A_POD) as u8;
    for n in 0..=pods {
        for at in 0..(OF_A_POD / ADDRESSES) as u32 + 1 {
            cache.learn(&pod(n), &many(&name(at), at * 200, ADDRESSES, 600), NONE, now);
        }
        now += FRESH;
    }
    let size = |cache: &DnsCache, n: u8| cache.pods[&pod(n)].size;
    assert!((0..pods).all(|n| size(&cache, n) == OF_A_POD));
    assert_eq!((size(&cache, pods), cache.size()), (SHARE, ALL + SHARE));
    // Nobody loses anything for that. Who has more than the share goes on with what there is.
    assert_ne!(cache.learn(&pod(0), &many("more", 9000, 5, 600), NONE, now), Learned::NoRoom);
    assert_eq!((size(&cache, 0), cache.size()), (OF_A_POD, ALL + SHARE));
    assert_eq!(cache.learn(&pod(pods), &many("more", 9000, 5, 600), NONE, now), Learned::Held(cache.news));
    assert_eq!(size(&cache, pods), SHARE);
}

/// What is there stays, and stays for longer when it is told again, although its pod would not get as much any more.
#[test]
fn what_a_pod_has_it_is_told_again_whatever_others_have_taken() {
    let mut cache = wanting(&["*"]);
    let mut now = Instant::now();
    let mut aliases = many("c0", 0, 50, 600);
    aliases.names = (0..4).map(|n| format!("c{n}")).collect();
    let victim = pod(200);
    assert!(matches!(cache.learn(&victim, &aliases, NONE, now), Learned::Held(_)));
    for n in 0..=(ALL / OF_A_POD) as u8 {
        for at in 0..(OF_A_POD / ADDRESSES) as u32 {
            cache.learn(&pod(n), &many(&name(at), at * 200, ADDRESSES, 600), NONE, now);
        }
        now += FRESH;
    }
    assert!(cache.most(&victim) < 200, "{}", cache.most(&victim));
    let ends = |cache: &DnsCache| cache.pods[&victim].all().into_iter().map(|(_, _, end)| end).min().unwrap();
    let before = ends(&cache);
    assert!(matches!(cache.learn(&victim, &aliases, NONE, now), Learned::Held(_)));
    assert!(ends(&cache) > before);
}
