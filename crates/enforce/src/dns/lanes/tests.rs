use proptest::prelude::*;

use super::*;

fn answer() -> DnsAnswer {
    DnsAnswer { names: vec!["a.example".into()], ..DnsAnswer::default() }
}

fn packet(what: &'static str, in_stream: bool, came: Instant) -> Packet<&'static str> {
    Packet { what, in_stream, came }
}

fn whats(packets: Vec<Packet<&'static str>>) -> Vec<&'static str> {
    packets.into_iter().map(|packet| packet.what).collect()
}

fn ready(lanes: &mut Lanes<&'static str>) -> Vec<(u32, &'static str)> {
    lanes.ready().into_iter().map(|(receiver, packet)| (receiver, packet.what)).collect()
}

#[test]
fn a_lane_waits_for_its_own_news_and_holds_up_no_other() {
    let (mut lanes, start) = (Lanes::default(), Instant::now());
    // One whose question is never answered, one with news, one with what is known, one with nothing to tell.
    for (receiver, what) in [(1, "stuck"), (2, "new"), (3, "known")] {
        lanes.push(receiver, packet(what, false, start), vec![answer()]);
    }
    lanes.push(4, packet("nothing", false, start), vec![]);
    assert_eq!(ready(&mut lanes), [(4, "nothing")]);
    let questions = lanes.questions();
    assert_eq!(
        questions.iter().map(|q| (q.receiver, q.answers.len())).collect::<Vec<_>>(),
        [(1, 1), (2, 1), (3, 1)]
    );
    assert_eq!(lanes.learned(&questions[2], Some(&[Learned::Held(0)])), []);
    assert_eq!(lanes.learned(&questions[1], Some(&[Learned::Held(7)])), []);
    assert_eq!(ready(&mut lanes), [(3, "known")]);
    assert_eq!(lanes.unsettled(), Some(7));
    // What came later waits for what came before, with whatever it has to tell.
    lanes.push(2, packet("after", false, start), vec![]);
    lanes.push(2, packet("old", false, start), vec![answer(), answer()]);
    let [question] = &lanes.questions()[..] else { panic!() };
    assert_eq!((question.receiver, question.answers.len()), (2, 2));
    assert_eq!(lanes.learned(question, Some(&[Learned::Held(3), Learned::Held(4)])), []);
    assert_eq!(lanes.unsettled(), Some(7));
    lanes.settle(6);
    assert_eq!(ready(&mut lanes), []);
    lanes.settle(7);
    assert_eq!(ready(&mut lanes), [(2, "new"), (2, "after"), (2, "old")]);
    assert_eq!((lanes.unsettled(), lanes.deadline()), (None, Some(start + PATIENCE)));
    let lost = lanes.expire(start + PATIENCE);
    assert_eq!(lost, [(1, packet("stuck", false, start))]);
    // Late: there is nothing for it any more.
    assert_eq!(lanes.learned(&questions[0], Some(&[Learned::Held(9)])), []);
    assert_eq!((lanes.unsettled(), lanes.deadline(), lanes.by_receiver.len()), (None, None, 0));
}

#[test]
fn one_question_is_open_of_a_lane() {
    let (mut lanes, start) = (Lanes::default(), Instant::now());
    lanes.push(1, packet("first", false, start), vec![answer()]);
    let first = lanes.questions();
    lanes.push(1, packet("second", false, start), vec![answer()]);
    lanes.push(1, packet("third", false, start), vec![answer()]);
    assert_eq!(lanes.questions(), []);
    lanes.expire(start + PATIENCE);
    lanes.push(1, packet("fourth", false, start + PATIENCE), vec![answer()]);
    assert_eq!(lanes.questions(), [], "nor of one that nothing is left of");
    lanes.learned(&first[0], None);
    assert_eq!(lanes.questions()[0].of.len(), 1);
}

/// A copy of a segment tells nothing: it was read. Were it let go after the first was lost, the pod would have that unknown.
#[test]
fn what_is_lost_takes_along_what_came_later_in_its_stream() {
    let (mut lanes, start) = (Lanes::default(), Instant::now());
    let later = start + Duration::from_secs(1);
    let push = |lanes: &mut Lanes<_>, what, in_stream, answers: usize| {
        lanes.push(1, packet(what, in_stream, later), vec![answer(); answers]);
    };
    lanes.push(1, packet("before", true, start), vec![answer()]);
    push(&mut lanes, "lost", true, 2);
    push(&mut lanes, "udp", false, 1);
    push(&mut lanes, "copy", true, 0);
    push(&mut lanes, "more", true, 1);
    let question = lanes.questions().remove(0);
    let held = Learned::Held(1);
    let learned = [held, held, Learned::NoRoom, held, held];
    assert_eq!(whats(lanes.learned(&question, Some(&learned))), ["lost", "copy", "more"]);
    // By UDP each is for itself.
    push(&mut lanes, "full", false, 1);
    push(&mut lanes, "fine", true, 1);
    let question = lanes.questions().remove(0);
    assert_eq!(whats(lanes.learned(&question, Some(&[Learned::NoRoom, held]))), ["full"]);
    let lost = lanes.expire(start + PATIENCE);
    assert_eq!(whats(lost.into_iter().map(|(_, packet)| packet).collect()), ["before", "fine"]);
    lanes.settle(1);
    assert_eq!(ready(&mut lanes), [(1, "udp")]);
    // Rules could not be changed.
    push(&mut lanes, "refused", false, 1);
    let question = lanes.questions().remove(0);
    assert_eq!(whats(lanes.learned(&question, None)), ["refused"]);
    assert_eq!(lanes.waiting, 0);
}

#[test]
fn a_lane_that_is_full_takes_no_room_from_others() {
    let (mut lanes, start) = (Lanes::default(), Instant::now());
    let receivers = 1..100;
    let mut taken = [0; 101];
    for receiver in receivers.clone().cycle().take(100 * OF_ONE).chain([1; 50]) {
        if lanes.has_room(receiver) {
            lanes.push(receiver, packet("", false, start), vec![answer()]);
            taken[receiver as usize] += 1;
        }
    }
    assert_eq!(lanes.waiting, ALL);
    for _ in 0..5 {
        taken[100] += usize::from(lanes.has_room(100));
        lanes.push(100, packet("", false, start), vec![]);
    }
    assert_eq!((taken[100], receivers.map(|r| taken[r as usize]).min()), (SHARE, Some(SHARE)));
    let mut alone = Lanes::default();
    while alone.has_room(1) {
        alone.push(1, packet("", false, start), vec![answer()]);
    }
    assert_eq!(alone.waiting, OF_ONE);
}

proptest! {
    /// Whatever happens in whatever order: in each lane packets go in the order in which they came, none before rules and
    /// datapath have its news, and none is forgotten.
    #[test]
    fn nothing_goes_early_or_before_its_time(steps in prop::collection::vec((0u8..6, 1u32..4, 0u64..9), 0..80)) {
        let (mut lanes, start) = (Lanes::<(u32, usize)>::default(), Instant::now());
        let (mut open, mut now, mut settled) = (Vec::<Question>::new(), start, 0);
        // What has to be settled before each may go.
        let mut news: BTreeMap<usize, Option<u64>> = BTreeMap::new();
        let mut asked: BTreeMap<u64, usize> = BTreeMap::new();
        let (mut gone, mut count) = (Vec::new(), 0);
        for (step, receiver, n) in steps {
            match step {
                0 | 1 => {
                    let packet = Packet { what: (receiver, count), in_stream: n % 2 == 0, came: now };
                    asked.insert(lanes.next_id, count);
                    news.insert(count, (step == 0).then_some(0));
                    lanes.push(receiver, packet, if step == 0 { vec![] } else { vec![answer()] });
                    count += 1;
                }
                2 => open.extend(lanes.questions()),
                3 if !open.is_empty() => {
                    let question = open.remove(n as usize % open.len());
                    let held: Vec<Learned> = question.answers.iter().map(|_| Learned::Held(n)).collect();
                    for (id, _) in &question.of {
                        news.insert(asked[id], Some(n));
                    }
                    gone.extend(lanes.learned(&question, (n > 0).then_some(&held[..])).into_iter().map(|p| p.what));
                }
                4 => {
                    now += Duration::from_millis(n * 300);
                    gone.extend(lanes.expire(now).into_iter().map(|(_, packet)| packet.what));
                }
                _ => {
                    lanes.settle(n);
                    settled = n.max(settled);
                }
            }
            for (receiver, packet) in lanes.ready() {
                prop_assert_eq!(receiver, packet.what.0);
                prop_assert!(news[&packet.what.1].is_some_and(|news| news <= settled));
                let mut left = lanes.by_receiver.get(&receiver).into_iter().flat_map(|lane| &lane.waiting);
                prop_assert!(left.all(|other| other.packet.what.1 > packet.what.1));
                gone.push(packet.what);
            }
            let there = lanes.by_receiver.values().flat_map(|lane| &lane.waiting).count();
            prop_assert_eq!((lanes.waiting, there + gone.len()), (there, count));
            let mut questions: Vec<u32> = open.iter().map(|question| question.receiver).collect();
            questions.sort_unstable();
            questions.dedup();
            prop_assert_eq!(questions.len(), open.len(), "two questions of a lane");
        }
    }
}
