use proptest::prelude::*;

use super::*;

mod room;
mod turns;

fn ip(n: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, n])
}

/// A pod that asks.
fn pod(n: u8) -> Asker {
    Some(Arc::new((format!("c{n}"), "eth0".into())))
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

/// What a rule that applies to these pods has of a domain name.
fn of_pods(cache: &DnsCache, pods: &[u8], fqdn: &str) -> BTreeSet<IpAddr> {
    let pods: Vec<Asker> = pods.iter().map(|n| pod(*n)).collect();
    let pods: HashSet<&Attachment> = pods.iter().flatten().map(|pod| &**pod).collect();
    let found: BTreeSet<IpAddr> = cache.addresses(&[fqdn.into()], &pods).copied().collect();
    assert!(found.iter().all(|address| cache.has(fqdn, address, &pods)));
    found
}

fn of(cache: &DnsCache, fqdn: &str) -> BTreeSet<IpAddr> {
    of_pods(cache, &[1], fqdn)
}

const NONE: Duration = Duration::ZERO;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn an_address_belongs_to_whoever_means_one_of_the_names_until_its_time_has_passed() {
    let mut cache = wanting(&["*.example.com", "cdn.example.net", "a.example.com"]);
    let start = Instant::now();
    let mut learn = |names: &[&str], addresses: &[(u8, u32)]| {
        cache.learn(&pod(1), &answer(names, addresses), NONE, start)
    };
    learn(&["a.example.com", "cdn.example.net"], &[(1, 10), (2, 20)]);
    learn(&["b.example.com"], &[(2, 5)]);
    assert_eq!(learn(&["elsewhere.example.org"], &[(3, 5)]), Learned::Held(0));
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
    assert_eq!((cache.size(), cache.pods.len(), cache.next_end()), (0, 0, None));
}

#[test]
fn what_one_pod_is_told_is_nothing_to_others_and_goes_with_it() {
    let mut cache = wanting(&["api.bank.example"]);
    let start = Instant::now();
    let told = answer(&["api.bank.example"], &[(1, u32::MAX)]);
    cache.learn(&pod(1), &told, NONE, start);
    assert_eq!(of_pods(&cache, &[1], "api.bank.example"), [ip(1)].into());
    assert!(of_pods(&cache, &[2], "api.bank.example").is_empty());
    assert_eq!(of_pods(&cache, &[2, 1], "api.bank.example"), [ip(1)].into());
    cache.take_touched();
    // To rules of the other it comes now, and it stays there when the first is gone.
    cache.learn(&pod(2), &told, NONE, start);
    assert_eq!(cache.take_touched()["api.bank.example"], HashSet::from([ip(1)]));
    let (version, left) = (cache.version(), pod(2));
    cache.keep_pods(&left.iter().map(|pod| &**pod).collect());
    assert!(cache.version() > version, "nor is it on disk");
    assert_eq!(cache.take_touched()["api.bank.example"], HashSet::from([ip(1)]));
    assert!(of_pods(&cache, &[1], "api.bank.example").is_empty());
    assert_eq!(of_pods(&cache, &[2], "api.bank.example"), [ip(1)].into());
    assert_eq!((cache.size(), cache.by_end.len()), (1, 1));
    cache.keep_pods(&HashSet::new());
    assert_eq!((cache.size(), cache.pods.len(), cache.fqdns["api.bank.example"].len()), (0, 0, 0));
    assert_eq!(cache.forgotten(), Forgotten::default());
}

#[test]
fn a_time_to_live_is_never_shortened_and_has_limits() {
    let mut cache = wanting(&["*"]);
    let start = Instant::now();
    let name = ["a.example.com"];
    let learn = |cache: &mut DnsCache, names: &[&str], addresses: &[(u8, u32)], shortest| {
        cache.learn(&pod(1), &answer(names, addresses), shortest, start)
    };
    learn(&mut cache, &name, &[(9, 0)], NONE);
    assert_eq!(cache.next_end(), Some(start + FRESH), "what is held meanwhile must not be let go unknown");
    cache.expire(start + FRESH);
    assert_eq!(learn(&mut cache, &name, &[(1, 100), (1, 3)], NONE), Learned::Held(2));
    let version = cache.version();
    assert_eq!(learn(&mut cache, &name, &[(1, 10)], NONE), Learned::Held(2), "it is no news");
    assert_eq!((cache.next_end(), cache.version()), (Some(start + seconds(101)), version));
    learn(&mut cache, &name, &[(1, 10)], seconds(300));
    assert_eq!(cache.next_end(), Some(start + seconds(301)), "the shortest that is configured");
    learn(&mut cache, &name, &[(1, u32::MAX)], NONE);
    assert_eq!(cache.next_end(), Some(start + LONGEST + GRACE));
    assert_eq!(cache.size(), 1, "the address is known");
    assert_eq!(learn(&mut cache, &name, &[(1, 10), (2, 10)], NONE), Learned::Held(3));
    let other = learn(&mut cache, &["b.example.com"], &[(1, 10)], NONE);
    assert_eq!(other, Learned::Held(4), "another rule may mean that name");
    // Others' news are not this answer's.
    assert_eq!(learn(&mut cache, &name, &[(1, 10)], NONE), Learned::Held(2));
}

#[test]
fn who_comes_later_is_told_what_is_known_and_what_is_not_wanted_is_not_told() {
    let mut cache = wanting(&["a.example.com"]);
    let start = Instant::now();
    let told = answer(&["a.example.com"], &[(1, 10)]);
    cache.learn(&pod(1), &told, NONE, start);
    cache.want(&"*.com".into());
    assert_eq!(of(&cache, "*.com"), [ip(1)].into());
    assert_eq!(cache.learn(&pod(1), &told, NONE, start), Learned::Held(2), "it is news to those rules");
    cache.unwant("a.example.com");
    cache.unwant("*.com");
    assert!(cache.take_touched().is_empty());
    cache.learn(&pod(1), &answer(&["a.example.com"], &[(2, 10)]), NONE, start);
    assert!(of(&cache, "*.com").is_empty() && cache.size() == 1);
    // A policy that is replaced finds what its old form had.
    cache.want(&"a.example.com".into());
    assert_eq!(of(&cache, "a.example.com"), [ip(1)].into());
}

#[test]
fn what_was_known_in_the_last_life_is_known_before_policies_are() {
    let mut before = wanting(&["*.example.com"]);
    let start = Instant::now();
    before.learn(&pod(1), &answer(&["a.example.com"], &[(1, 10), (2, 30)]), NONE, start);
    let mut cache = DnsCache::default();
    let mut remembered = before.remember(start + seconds(5));
    cache.recall(remembered.clone(), start);
    cache.want(&"*.example.com".into());
    assert_eq!(of(&cache, "*.example.com"), [ip(1), ip(2)].into());
    assert!(of_pods(&cache, &[2], "*.example.com").is_empty());
    assert_eq!(cache.next_end(), Some(start + seconds(6)));
    // What was kept without saying who was told goes for everybody, and with no pod.
    remembered[0].pod = None;
    let mut cache = wanting(&["*.example.com"]);
    cache.recall(remembered, start);
    cache.keep_pods(&HashSet::new());
    assert_eq!(of_pods(&cache, &[7], "*.example.com"), [ip(1), ip(2)].into());
    cache.expire(start + seconds(30));
    assert_eq!(cache.pods.len(), 0);
}

fn from_server(n: u8, names: &[&str], addresses: &[(u8, u32)]) -> DnsAnswer {
    DnsAnswer { server: Some(ip(n)), ..answer(names, addresses) }
}

#[test]
fn what_a_policy_means_is_asked_for_again_before_it_ends() {
    let mut cache = wanting(&["*.example.com"]);
    let start = Instant::now();
    let due = |cache: &mut DnsCache, n: u64| -> Vec<_> {
        let due = cache.due(start + seconds(n), &[]).into_iter();
        due.map(|again| (again.pod, again.name, again.server)).collect()
    };
    let learn = |cache: &mut DnsCache, told: DnsAnswer, n: u64| {
        cache.learn(&pod(1), &told, NONE, start + seconds(n));
    };
    // By the name that was asked for, although the policy means what it is an alias of; of who told it last.
    let names = ["www.example", "a.example.com"];
    learn(&mut cache, from_server(52, &names, &[(1, 100), (2, 20)]), 0);
    learn(&mut cache, from_server(53, &names, &[(1, 100), (2, 20)]), 0);
    learn(&mut cache, from_server(53, &["elsewhere.example"], &[(3, 20)]), 0);
    learn(&mut cache, answer(&["b.example.com"], &[(4, 20)]), 0);
    // Who tells another pod is nothing to this one.
    cache.learn(&pod(2), &from_server(66, &names, &[(5, 5000)]), NONE, start);
    assert_eq!(due(&mut cache, 9), []);
    let asked = vec![(pod(1).unwrap(), Arc::from("www.example"), ip(53))];
    assert_eq!(due(&mut cache, 10), asked);
    // Nobody has answered.
    assert_eq!((due(&mut cache, 14), due(&mut cache, 15)), (vec![], asked.clone()));
    learn(&mut cache, from_server(53, &names, &[(1, 1)]), 16);
    assert_eq!((due(&mut cache, 17), due(&mut cache, 18)), (vec![], asked.clone()), "not more often");
    // Known again after a restart.
    let mut next = DnsCache::default();
    next.recall(cache.remember(start + seconds(18)), start + seconds(18));
    assert_eq!(due(&mut next, 20), [], "no policy is known yet");
    let mut next = wanting(&["*.example.com"]);
    next.recall(cache.remember(start + seconds(18)), start + seconds(18));
    next.pods.remove(&pod(2));
    assert_eq!(due(&mut next, 20), asked);
    // Until nothing of it is left, or nobody wants it.
    cache.expire(start + seconds(30));
    assert_eq!(due(&mut cache, 40), asked, "the longest time to live counts");
    cache.expire(start + seconds(101));
    assert_eq!((due(&mut cache, 120), due(&mut cache, 200)), (vec![], vec![]));
    next.unwant("*.example.com");
    assert_eq!(due(&mut next, 60), []);
}

#[derive(Clone, Debug)]
enum Step {
    Want(&'static str),
    Unwant(&'static str),
    Learn(u8, &'static str, u8, u32),
    Pass(u64),
    Gone(u8),
}

const FQDNS: [&str; 4] = ["*", "*.a", "x.a", "x*"];
const WORDS: [&str; 4] = ["x.a", "y.a", "x.b", "a"];
const PODS: [u8; 3] = [1, 2, 3];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    use prop::sample::select;
    let step = prop_oneof![
        select(&FQDNS[..]).prop_map(Step::Want),
        select(&FQDNS[..]).prop_map(Step::Unwant),
        (select(&PODS[..]), select(&WORDS[..]), 0u8..4, 1u32..9)
            .prop_map(|(pod, name, n, ttl)| Step::Learn(pod, name, n, ttl)),
        (1u64..7).prop_map(Step::Pass),
        select(&PODS[..]).prop_map(Step::Gone),
    ];
    prop::collection::vec(step, 0..40)
}

proptest! {
    /// Whatever comes in whatever order, a domain name has for each rule what a list of all that its pods were told says, and
    /// who follows what is touched knows the same.
    #[test]
    fn it_is_what_was_told_and_has_not_passed(steps in steps()) {
        // The pods that rules apply to.
        const RULES: [&[u8]; 4] = [&[1], &[2], &[1, 2], &[1, 2, 3]];
        let start = Instant::now();
        let (mut cache, mut now) = (DnsCache::default(), start);
        let mut wanted: BTreeSet<&str> = BTreeSet::new();
        let mut told: BTreeMap<(u8, &str, u8), Instant> = BTreeMap::new();
        let mut followed: BTreeMap<(&[u8], &str), BTreeSet<IpAddr>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Want(fqdn) => {
                    cache.want(&fqdn.into());
                    if wanted.insert(fqdn) {
                        followed.extend(RULES.map(|pods| ((pods, fqdn), of_pods(&cache, pods, fqdn))));
                    }
                }
                Step::Unwant(fqdn) => {
                    cache.unwant(fqdn);
                    wanted.remove(fqdn);
                    followed.retain(|(_, of), _| *of != fqdn);
                }
                Step::Learn(n, name, address, ttl) => {
                    let learned = cache.learn(&pod(n), &answer(&[name], &[(address, ttl)]), NONE, now);
                    prop_assert_ne!(learned, Learned::NoRoom);
                    if wanted.iter().any(|fqdn| is_meant(fqdn, name)) {
                        let end = now + (seconds(ttl.into()) + GRACE).max(FRESH);
                        let known = told.entry((n, name, address)).or_insert(end);
                        *known = end.max(*known);
                    }
                }
                Step::Pass(n) => {
                    now += seconds(n);
                    cache.expire(now);
                    told.retain(|_, end| *end > now);
                }
                Step::Gone(gone) => {
                    let left: Vec<Asker> = PODS.into_iter().filter(|n| *n != gone).map(pod).collect();
                    cache.keep_pods(&left.iter().flatten().map(|pod| &**pod).collect());
                    told.retain(|(n, ..), _| *n != gone);
                }
            }
            let touched = cache.take_touched();
            for ((pods, fqdn), known) in &mut followed {
                let now = of_pods(&cache, pods, fqdn);
                for address in touched.get(*fqdn).into_iter().flatten() {
                    if now.contains(address) { known.insert(*address) } else { known.remove(address) };
                }
                let means = |(n, name, _): &&(u8, &str, u8)| pods.contains(n) && is_meant(fqdn, name);
                let expected: BTreeSet<IpAddr> =
                    told.keys().filter(means).map(|(.., address)| ip(*address)).collect();
                prop_assert_eq!(&now, &expected, "{} of {:?}", fqdn, pods);
                prop_assert_eq!(&*known, &expected, "{} of {:?}", fqdn, pods);
            }
            prop_assert_eq!((cache.size(), cache.by_end.len()), (told.len(), told.len()));
            let sizes: usize = cache.pods.values().map(|pod| pod.size).sum();
            prop_assert_eq!(sizes, told.len());
        }
    }
}
