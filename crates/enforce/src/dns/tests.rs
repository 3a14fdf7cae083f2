use proptest::prelude::*;

use super::*;

fn ip(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

fn answer(names: &[&str], addresses: &[(u8, u32)]) -> DnsAnswer {
    DnsAnswer {
        names: names.iter().map(ToString::to_string).collect(),
        addresses: addresses.iter().map(|(n, ttl)| (ip(*n), *ttl)).collect(),
        ..DnsAnswer::default()
    }
}

fn wanting(fqdns: &[&str]) -> DnsCache {
    let mut cache = DnsCache::default();
    fqdns.iter().for_each(|fqdn| cache.want(&Arc::from(*fqdn)));
    cache
}

fn of(cache: &DnsCache, fqdn: &str) -> BTreeSet<IpAddr> {
    cache.addresses(&[fqdn.into()]).copied().collect()
}

const NONE: Duration = Duration::ZERO;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn an_address_belongs_to_whoever_means_one_of_the_names_until_its_time_has_passed() {
    let mut cache = wanting(&["*.example.com", "cdn.example.net", "a.example.com"]);
    let start = Instant::now();
    cache.learn(&answer(&["a.example.com", "cdn.example.net"], &[(1, 10), (2, 20)]), NONE, start);
    cache.learn(&answer(&["b.example.com"], &[(2, 5)]), NONE, start);
    cache.learn(&answer(&["elsewhere.example.org"], &[(3, 5)]), NONE, start);
    assert_eq!(of(&cache, "*.example.com"), [ip(1), ip(2)].into());
    assert_eq!(of(&cache, "cdn.example.net"), [ip(1), ip(2)].into());
    assert_eq!(of(&cache, "a.example.com"), [ip(1), ip(2)].into());
    assert_eq!(cache.size(), 5, "of names that nobody means nothing is kept");
    assert_eq!(cache.take_touched().len(), 3);

    // That of b.example.com goes first, and stays for its other name.
    cache.expire(start + seconds(6));
    assert_eq!((of(&cache, "*.example.com").len(), cache.take_touched().len()), (2, 0));
    cache.expire(start + seconds(10));
    assert_eq!(of(&cache, "a.example.com").len(), 2, "a second more than was told");
    cache.expire(start + seconds(11));
    assert_eq!(of(&cache, "a.example.com"), [ip(2)].into());
    assert_eq!(cache.take_touched()["*.example.com"], HashSet::from([ip(1)]));
    assert_eq!(cache.forgotten(), Forgotten { expired: 3, crowded_out: 0 });
    assert_eq!(cache.next_end(), Some(start + seconds(21)));
    cache.expire(start + seconds(21));
    assert_eq!((cache.size(), cache.names.len(), cache.next_end()), (0, 0, None));
}

#[test]
fn a_time_to_live_is_never_shortened_and_has_limits() {
    let mut cache = wanting(&["*"]);
    let start = Instant::now();
    let name = ["a.example.com"];
    cache.learn(&answer(&name, &[(1, 100)]), NONE, start);
    let version = cache.version();
    assert_eq!(cache.news(), 1);
    cache.learn(&answer(&name, &[(1, 10)]), NONE, start);
    assert_eq!((cache.next_end(), cache.version()), (Some(start + seconds(101)), version));
    cache.learn(&answer(&name, &[(1, 10)]), seconds(300), start);
    assert_eq!(cache.next_end(), Some(start + seconds(301)), "the shortest that is configured");
    cache.learn(&answer(&name, &[(1, u32::MAX)]), NONE, start);
    assert_eq!(cache.next_end(), Some(start + LONGEST + GRACE));
    assert_eq!((cache.news(), cache.size()), (1, 1), "the address is known");
    cache.learn(&answer(&name, &[(1, 10), (2, 10)]), NONE, start);
    assert_eq!(cache.news(), 2);
    cache.learn(&answer(&["b.example.com"], &[(1, 10)]), NONE, start);
    assert_eq!(cache.news(), 3, "another rule may mean that name");
}

#[test]
fn who_comes_later_is_told_what_is_known_and_what_is_not_wanted_is_not_told() {
    let mut cache = wanting(&["a.example.com"]);
    let start = Instant::now();
    cache.learn(&answer(&["a.example.com"], &[(1, 10)]), NONE, start);
    cache.want(&"*.com".into());
    assert_eq!(of(&cache, "*.com"), [ip(1)].into());
    cache.unwant("a.example.com");
    cache.unwant("*.com");
    assert!(cache.take_touched().is_empty());
    cache.learn(&answer(&["a.example.com"], &[(2, 10)]), NONE, start);
    assert!(of(&cache, "*.com").is_empty() && cache.size() == 1);
    // A policy that is replaced finds what its old form had.
    cache.want(&"a.example.com".into());
    assert_eq!(of(&cache, "a.example.com"), [ip(1)].into());
}

#[test]
fn what_was_known_in_the_last_life_is_known_before_policies_are() {
    let mut before = wanting(&["*.example.com"]);
    let start = Instant::now();
    before.learn(&answer(&["a.example.com"], &[(1, 10), (2, 30)]), NONE, start);
    let mut cache = DnsCache::default();
    cache.recall(before.remember(start + seconds(5)), start);
    cache.want(&"*.example.com".into());
    assert_eq!(of(&cache, "*.example.com"), [ip(1), ip(2)].into());
    assert_eq!(cache.next_end(), Some(start + seconds(6)));
}

#[test]
fn beyond_what_is_kept_goes_what_would_go_first() {
    let mut cache = wanting(&["*"]);
    let start = Instant::now();
    let many = DnsAnswer {
        names: vec!["a".into()],
        addresses: (0..=ADDRESSES as u32).map(|n| (IpAddr::from(n.to_be_bytes()), 1000 - n)).collect(),
        ..DnsAnswer::default()
    };
    cache.learn(&many, NONE, start);
    assert_eq!((cache.size(), cache.forgotten().crowded_out), (ADDRESSES, 1));
    assert!(!cache.has("*", &many.addresses[ADDRESSES - 1].0) && cache.has("*", &many.addresses[0].0));
    for n in 0..NAMES as u32 {
        cache.learn(&answer(&[&format!("n{n}")], &[(1, 2000 + n)]), NONE, start);
    }
    // All of the name that had to go first.
    assert_eq!((cache.names.len(), cache.size()), (NAMES, NAMES));
    assert_eq!(cache.forgotten().crowded_out, 1 + ADDRESSES as u64);
    assert!(!cache.has("*", &many.addresses[0].0));
}

#[derive(Clone, Debug)]
enum Step {
    Want(&'static str),
    Unwant(&'static str),
    Learn(&'static str, u8, u32),
    Pass(u64),
}

const FQDNS: [&str; 4] = ["*", "*.a", "x.a", "x*"];
const WORDS: [&str; 4] = ["x.a", "y.a", "x.b", "a"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    use prop::sample::select;
    let step = prop_oneof![
        select(&FQDNS[..]).prop_map(Step::Want),
        select(&FQDNS[..]).prop_map(Step::Unwant),
        (select(&WORDS[..]), 0u8..4, 1u32..6).prop_map(|(name, n, ttl)| Step::Learn(name, n, ttl)),
        (1u64..5).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 0..40)
}

fn from_server(n: u8, names: &[&str], addresses: &[(u8, u32)]) -> DnsAnswer {
    DnsAnswer { server: Some(ip(n)), ..answer(names, addresses) }
}

#[test]
fn what_a_policy_means_is_asked_for_again_before_it_ends() {
    let mut cache = wanting(&["*.example.com"]);
    let start = Instant::now();
    let due = |cache: &mut DnsCache, n: u64| cache.due(start + seconds(n), 9);
    // By the name that was asked for, although the policy means what it is an alias of; of who told it last.
    cache.learn(&from_server(52, &["www.example", "a.example.com"], &[(1, 100), (2, 20)]), NONE, start);
    cache.learn(&from_server(53, &["www.example", "a.example.com"], &[(1, 100), (2, 20)]), NONE, start);
    cache.learn(&from_server(53, &["elsewhere.example"], &[(3, 20)]), NONE, start);
    cache.learn(&answer(&["b.example.com"], &[(4, 20)]), NONE, start);
    assert_eq!(due(&mut cache, 9), []);
    let asked = vec![(Arc::from("www.example"), ip(53))];
    assert_eq!(due(&mut cache, 10), asked);
    // Nobody has answered.
    assert_eq!((due(&mut cache, 14), due(&mut cache, 15)), (vec![], asked.clone()));
    cache.learn(&from_server(53, &["www.example", "a.example.com"], &[(1, 1)]), NONE, start + seconds(16));
    assert_eq!((due(&mut cache, 17), due(&mut cache, 18)), (vec![], asked.clone()), "not more often");
    // Known again after a restart.
    let mut next = DnsCache::default();
    next.recall(cache.remember(start + seconds(18)), start + seconds(18));
    assert_eq!(next.due(start + seconds(20), 9), [], "no policy is known yet");
    let mut next = wanting(&["*.example.com"]);
    next.recall(cache.remember(start + seconds(18)), start + seconds(18));
    assert_eq!(due(&mut next, 20), asked);
    // Until nothing of it is left, or nobody wants it.
    cache.expire(start + seconds(30));
    assert_eq!(due(&mut cache, 40), asked, "the longest time to live counts");
    cache.expire(start + seconds(101));
    assert_eq!((due(&mut cache, 120), due(&mut cache, 200)), (vec![], vec![]));
    next.unwant("*.example.com");
    assert_eq!(due(&mut next, 60), []);
}

#[test]
fn what_is_asked_again_is_bounded() {
    let mut cache = wanting(&["*"]);
    let start = Instant::now();
    for n in 0..1500 {
        cache.learn(&from_server(53, &[&format!("n{n}")], &[(1, 50)]), NONE, start);
    }
    cache.learn(&from_server(53, &["what?ever"], &[(1, 50)]), NONE, start);
    let first = cache.due(start + seconds(25), 16);
    assert_eq!(first.len(), 16);
    let rest = cache.due(start + seconds(25), 5000);
    assert_eq!((rest.len(), rest.iter().filter(|asked| first.contains(asked)).count()), (1024 - 16, 0));
}

proptest! {
    /// Whatever comes in whatever order, a domain name has what a list of all that was told says, and who follows what is
    /// touched knows the same.
    #[test]
    fn it_is_what_was_told_and_has_not_passed(steps in steps()) {
        let start = Instant::now();
        let (mut cache, mut now) = (DnsCache::default(), start);
        let mut wanted: BTreeSet<&str> = BTreeSet::new();
        let mut told: BTreeMap<(&str, u8), Instant> = BTreeMap::new();
        let mut followed: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Want(fqdn) => {
                    cache.want(&fqdn.into());
                    if wanted.insert(fqdn) {
                        followed.insert(fqdn, of(&cache, fqdn));
                    }
                }
                Step::Unwant(fqdn) => {
                    cache.unwant(fqdn);
                    wanted.remove(fqdn);
                    followed.remove(fqdn);
                }
                Step::Learn(name, n, ttl) => {
                    cache.learn(&answer(&[name], &[(n, ttl)]), NONE, now);
                    if wanted.iter().any(|fqdn| is_meant(fqdn, name)) {
                        let end = now + seconds(ttl.into()) + GRACE;
                        let known = told.entry((name, n)).or_insert(end);
                        *known = end.max(*known);
                    }
                }
                Step::Pass(n) => {
                    now += seconds(n);
                    cache.expire(now);
                    told.retain(|_, end| *end > now);
                }
            }
            for (fqdn, touched) in cache.take_touched() {
                let (fqdn, addresses) = followed.get_key_value(&*fqdn).map(|(f, a)| (*f, a.clone())).unwrap();
                let (here, gone): (BTreeSet<IpAddr>, BTreeSet<IpAddr>) =
                    touched.into_iter().partition(|address| cache.has(fqdn, address));
                let addresses = addresses.union(&here).copied().filter(|address| !gone.contains(address));
                followed.insert(fqdn, addresses.collect());
            }
            for fqdn in &wanted {
                let expected: BTreeSet<IpAddr> =
                    told.keys().filter(|(name, _)| is_meant(fqdn, name)).map(|(_, n)| ip(*n)).collect();
                prop_assert_eq!(&of(&cache, fqdn), &expected, "{}", fqdn);
                prop_assert_eq!(&followed[fqdn], &expected, "{}", fqdn);
            }
            prop_assert_eq!(cache.size(), told.len());
        }
    }
}
