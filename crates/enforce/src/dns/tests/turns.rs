//! Whose question is asked again when.

use super::*;

/// What becomes of a question to a server.
type Server = fn(&mut DnsCache, &Again, Instant);

const TICK: Duration = Duration::from_millis(250);
const SILENCE: Duration = Duration::from_secs(2);

fn silent(server: IpAddr) -> bool {
    server != ip(53)
}

/// Goes on for so long as the agent does: what is answered makes room at once, what is not after two seconds. Returns when
/// each question was asked.
fn refresh(cache: &mut DnsCache, start: Instant, long: Duration, answer: Server) -> Vec<(Duration, Again)> {
    let (mut under_way, mut asked) = (Vec::<(Instant, Again)>::new(), Vec::new());
    let mut now = start;
    while now < start + long {
        under_way.retain(|(end, _)| *end > now);
        cache.expire(now);
        loop {
            let due = cache.due(now, &under_way.iter().map(|(_, again)| again.clone()).collect::<Vec<_>>());
            if due.is_empty() {
                break;
            }
            for again in due {
                asked.push((now - start, again.clone()));
                if silent(again.server) {
                    under_way.push((now + SILENCE, again));
                } else {
                    answer(cache, &again, now);
                }
            }
        }
        now += TICK;
    }
    asked
}

fn answered(cache: &mut DnsCache, again: &Again, now: Instant) {
    let told = DnsAnswer {
        names: vec![again.name.to_string()],
        addresses: vec![(ip(1), 30)],
        server: Some(again.server),
    };
    assert_ne!(cache.learn(&Some(again.pod.clone()), &told, NONE, now), Learned::NoRoom);
}

/// However many others ask whom nobody hears, an address that DNS goes on telling stays.
#[test]
fn what_is_answered_is_asked_in_time_beside_a_thousand_that_are_not() {
    // All of one server, or each pod of its own.
    for servers in [1, 16] {
        let mut cache = wanting(&["*"]);
        let start = Instant::now();
        for n in 0..1000_u32 {
            let (asker, server) = ((n / 63) as u8, 100 + (n / 63) as u8 % servers);
            let learned = cache.learn(
                &pod(asker),
                &from_server(server, &[&format!("n{n}")], &[(2, 604_800)]),
                NONE,
                start,
            );
            assert_ne!(learned, Learned::NoRoom);
            // So that all are due at once.
            let again = from_server(server, &[&format!("n{n}")], &[(2, 1)]);
            cache.learn(&pod(asker), &again, NONE, start);
        }
        cache.learn(&pod(99), &from_server(53, &["good"], &[(1, 30)]), NONE, start);
        let long = seconds(600);
        let asked = refresh(&mut cache, start, long, answered);
        let good: Vec<Duration> =
            asked.iter().filter(|(_, again)| &*again.name == "good").map(|(at, _)| *at).collect();
        let mut before = NONE;
        for at in &good {
            assert!(*at - before <= seconds(17), "{at:?} after {before:?}");
            before = *at;
        }
        assert!(good.len() >= 35, "{good:?}");
        assert_eq!(of_pods(&cache, &[99], "*"), [ip(1)].into());
        // The others are all asked, less and less often.
        let late = |(at, _): &&(Duration, Again)| *at > seconds(300);
        let rate = asked.iter().filter(late).count();
        assert!(asked.len() > 1000 && rate < 300 * 8 / 2 + good.len(), "{} {rate}", asked.len());
        let at_first: HashSet<&str> = asked.iter().map(|(_, again)| &*again.name).collect();
        assert!(at_first.len() > 1000, "{}", at_first.len());
    }
}

#[test]
fn who_is_silent_is_asked_less_and_less_often() {
    let mut cache = wanting(&["*"]);
    let start = Instant::now();
    cache.learn(&pod(1), &from_server(66, &["a"], &[(1, 20)]), NONE, start);
    cache.learn(&pod(1), &from_server(66, &["a"], &[(1, 604_800)]), NONE, start);
    cache.learn(&pod(1), &from_server(66, &["a"], &[(1, 20)]), NONE, start);
    let asked = refresh(&mut cache, start, seconds(210), answered);
    let at: Vec<u64> = asked.iter().map(|(at, _)| at.as_secs()).collect();
    assert_eq!(at, [10, 15, 25, 45, 85, 145, 205]);
    let doubtful: Vec<bool> = asked.iter().map(|(_, again)| again.doubtful).collect();
    assert_eq!(doubtful[..3], [false, true, true]);
    // Whoever is told it begins anew.
    let now = start + seconds(210);
    cache.learn(&pod(1), &from_server(66, &["a"], &[(1, 20)]), NONE, now);
    let asked = refresh(&mut cache, now, seconds(20), answered);
    assert_eq!(asked.iter().map(|(at, _)| at.as_secs()).collect::<Vec<_>>(), [10, 15]);
    assert!(!asked[0].1.doubtful);
}

#[test]
fn no_pod_and_no_server_has_all_that_is_under_way() {
    let mut cache = wanting(&["*"]);
    let start = Instant::now();
    for n in 0..100_u8 {
        let told = from_server(53 + n % 2, &[&format!("n{n}")], &[(1, 2)]);
        cache.learn(&pod(if n < 20 { 0 } else { n }), &told, NONE, start);
    }
    let due = cache.due(start + seconds(2), &[]);
    let of = |asker: u8| due.iter().filter(|again| Some(&again.pod) == pod(asker).as_ref()).count();
    let to = |server: u8| due.iter().filter(|again| again.server == ip(server)).count();
    assert_eq!((due.len(), to(53), to(54)), (16, 8, 8));
    assert!((1..=4).contains(&of(0)), "{}", of(0));
    assert_eq!(cache.due(start + seconds(2), &due), [], "there is no room");
    let left = cache.due(start + seconds(2), &due[..1]);
    assert!(left.len() == 15 && left.iter().all(|again| !due.contains(again)), "each once: {left:?}");
}

/// What is told of most names ends with its time to live; what needs it soonest is asked again.
#[test]
fn what_is_asked_again_is_bounded_for_each_pod() {
    let mut cache = wanting(&["*"]);
    let start = Instant::now();
    let learn = |cache: &mut DnsCache, name: &str, ttl| {
        cache.learn(&pod(1), &from_server(53, &[name], &[(1, ttl)]), NONE, start);
    };
    (0..200).for_each(|n| learn(&mut cache, &format!("long{n}"), 5000));
    learn(&mut cache, "what?ever", 50);
    learn(&mut cache, "short", 50);
    learn(&mut cache, "longer", 6000);
    let asked = refresh(&mut cache, start, seconds(4000), |_, _, _| {});
    let names: HashSet<&str> = asked.iter().map(|(_, again)| &*again.name).collect();
    assert_eq!((names.len(), names.contains("short"), names.contains("longer")), (64, true, false));
    assert!(!names.contains("what?ever"));
}
