//! Whatever callers want, in whatever batches and however often it is refused: the bridge holds what they are told.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::sync::PART;
use super::*;

/// What the bridge refuses in these tests: it has no such group.
fn missing() -> Action {
    Action::Group(4711)
}

/// Entries of one owner, of which all that is named is there but for [`missing`].
fn wants() -> impl Strategy<Value = Vec<Entry>> {
    vec((0u32..6, 1u32..4, 0u32..8, any::<[bool; 2]>(), 0u32..12, 0u32..8), 0..4).prop_map(|wants| {
        let mut all = BTreeMap::new();
        for (reg, id, variant, [grouped, metered], curse, large) in wants {
            // Mostly the same under one key, so that owners mostly share.
            let variant = u32::from(variant == 0);
            let mut actions = Vec::new();
            if metered {
                actions.push(Action::Meter(id));
                let entry = Entry::Meter(meter(id, 100 + variant));
                all.entry(entry.key()).or_insert(entry);
            }
            if grouped {
                actions.push(Action::Group(id));
                let entry = Entry::Group(group(id, 10 + variant as u16));
                all.entry(entry.key()).or_insert(entry);
            }
            let table = (reg % 3) as u8;
            if curse == 0 {
                actions.push(missing());
            }
            let entry = Entry::Flow(Flow {
                table,
                cookie: u64::from(variant),
                actions: actions.into_iter().chain([Action::GotoTable(table + 1)]).collect(),
                ..flow(100 * u32::from(metered) + 10 * u32::from(grouped) + reg)
            });
            all.insert(entry.key(), entry);
            // Now and then what goes in parts.
            let many = if large == 0 { 0..3 * PART as u32 } else { 0..0 };
            all.extend(
                many.map(|n| Entry::Flow(flow(1000 + 100 * reg + n))).map(|entry| (entry.key(), entry)),
            );
        }
        all.into_values().collect()
    })
}

fn any_owner() -> impl Strategy<Value = Owner> {
    prop_oneof![
        Just(Owner::Node),
        Just(Owner::Policy),
        (0..3).prop_map(|n| pod(&format!("p{n}"))),
        (0..2).prop_map(|n| peer(&format!("n{n}"))),
    ]
}

type Wanted = BTreeMap<Owner, Vec<Entry>>;

/// Batches of which each is what is required and what may fail alone.
fn batches() -> impl Strategy<Value = Vec<(Wanted, Wanted)>> {
    let some = |max: usize| proptest::collection::btree_map(any_owner(), wants(), 0..max);
    vec((some(2), some(4)), 1..4).prop_map(|mut batches| {
        // An owner comes once: what the next batch takes back the bridge may never see, and not refuse.
        let mut seen = BTreeSet::new();
        for (required, others) in &mut batches {
            required.retain(|owner, _| seen.insert(owner.clone()));
            others.retain(|owner, _| seen.insert(owner.clone()));
        }
        batches
    })
}

fn is_refused(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| entry.references().contains(&Key::Group(4711)))
}

/// The way from what an owner has to what it wants.
fn diff(has: &[Entry], wants: &[Entry]) -> antrea_flows::Diff {
    let by_key = |entries: &[Entry]| -> BTreeMap<Key, Entry> {
        entries.iter().map(|entry| (entry.key(), entry.clone())).collect()
    };
    let (has, wants) = (by_key(has), by_key(wants));
    let mut diff = antrea_flows::Diff::default();
    for (key, entry) in &wants {
        match has.get(key) {
            None => diff.adds.push(entry.clone()),
            Some(old) if old != entry => diff.mods.push(entry.clone()),
            Some(_) => {}
        }
    }
    diff.deletes.extend(has.into_keys().filter(|key| !wants.contains_key(key)));
    diff
}

/// How batches are applied.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// Owners say how what they want differs from what they have, instead of all of it.
    differences: bool,
    /// The connection may be lost meanwhile: then nothing of a batch is taken.
    cut: bool,
}

/// Applies the batches together, notes in `told` what their callers are told, and checks who failed and why.
async fn apply_all(dataplane: &Dataplane, batches: Vec<(Wanted, Wanted)>, way: Way, told: &mut Wanted) {
    let change = |owner: &Owner, entries: &Vec<Entry>| {
        if way.differences {
            let has = told.get(owner).map_or(&[][..], Vec::as_slice);
            Change::Diff(diff(has, entries))
        } else {
            Change::Whole(entries.clone())
        }
    };
    let requests = batches.iter().map(|(required, others)| {
        let with = |batch: Batch, (owner, entries): (&Owner, &Vec<Entry>)| {
            batch.with(owner.clone(), change(owner, entries))
        };
        let batch = required.iter().fold(Batch::default(), |batch, (owner, entries)| {
            batch.require(owner.clone(), change(owner, entries))
        });
        soon(dataplane.apply(others.iter().fold(batch, with)))
    });
    let answers = join_all(requests).await;
    for ((required, others), answer) in batches.into_iter().zip(answers) {
        let cursed = required.values().any(|entries| is_refused(entries));
        let failures = match answer {
            Ok(failures) => failures,
            Err(DataplaneError::OpenFlow(error)) if way.cut && error.is_connection() => continue,
            Err(DataplaneError::OpenFlow(error)) => {
                assert!(cursed, "held up by somebody else: {error}");
                continue;
            }
            Err(DataplaneError::Conflict(conflict)) => {
                assert!(required.contains_key(&conflict.second), "{conflict}");
                continue;
            }
            Err(error) => panic!("{error}"),
        };
        assert!(!cursed, "what the bridge refuses was told to be there");
        told.extend(required);
        for (owner, entries) in others {
            let refused = is_refused(&entries);
            match failures.iter().find(|(failed, _)| *failed == owner) {
                None => {
                    assert!(!refused, "what the bridge refuses was told to be there");
                    told.insert(owner, entries);
                }
                Some((_, DataplaneError::OpenFlow(error))) => {
                    assert!(refused, "held up by somebody else: {error}");
                }
                Some((_, DataplaneError::Conflict(conflict))) => assert_eq!(conflict.second, owner),
                Some((_, error)) => panic!("{error}"),
            }
        }
    }
}

fn union(told: &Wanted) -> Vec<Entry> {
    let all: BTreeMap<Key, Entry> =
        told.values().flatten().map(|entry| (entry.key(), entry.clone())).collect();
    all.into_values().collect()
}

/// What happens around some batches.
#[derive(Clone, Copy, Debug)]
enum Event {
    Nothing,
    /// Afterwards the bridge is another and has nothing.
    Restart,
    /// Afterwards it has what nobody wants.
    Foreign,
    /// While the batches are under way, after so many turns of the other tasks, the connection is lost, and with it
    /// perhaps everything.
    Cut(u8, bool),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Nothing),
        1 => Just(Event::Restart),
        1 => Just(Event::Foreign),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(turns, everything)| Event::Cut(turns, everything)),
    ]
}

/// Brings the bridge to what the store says, over whatever connection there is by then.
async fn verified(rig: &Rig) {
    loop {
        match soon(rig.dataplane.verify()).await {
            Ok(()) => return,
            Err(DataplaneError::OpenFlow(error)) if error.is_connection() => {}
            Err(error) => panic!("{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever owners want, whole or as a difference, at once or one after the other, in parts, whatever conflicts,
    /// whatever the bridge refuses or forgets and whenever the connection is lost: nobody is held up by somebody else,
    /// after each message everything has what it names, and in the end the bridge holds what callers were told.
    #[test]
    fn the_bridge_holds_what_callers_are_told(rounds in vec((batches(), any::<bool>(), any_event()), 1..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let rig = Rig::started().await;
            let mut told = Wanted::new();
            for (batches, differences, event) in rounds {
                let way = Way { differences, cut: matches!(event, Event::Cut(..)) };
                let cut = async {
                    let Event::Cut(turns, everything) = event else { return };
                    for _ in 0..turns {
                        tokio::task::yield_now().await;
                    }
                    rig.switch.disconnect();
                    if everything {
                        rig.switch.clear();
                    }
                };
                tokio::join!(apply_all(&rig.dataplane, batches, way, &mut told), cut);
                match event {
                    Event::Nothing => {}
                    Event::Restart => {
                        assert_eq!(rig.switch.entries(), union(&told));
                        rig.restart_switch().await;
                    }
                    Event::Foreign => {
                        assert_eq!(rig.switch.entries(), union(&told));
                        rig.switch.put(meter(3, 7));
                        rig.switch.put(group(9, 9));
                    }
                    Event::Cut(..) => {}
                }
                if !matches!(event, Event::Nothing) {
                    verified(&rig).await;
                }
                assert_eq!(rig.switch.entries(), union(&told));
            }
            let before = rig.switch.committed();
            soon(rig.dataplane.verify()).await.unwrap();
            assert_eq!(rig.switch.committed(), before, "the store is what the bridge has");
            assert!(rig.switch.violations().is_empty(), "{:?}", rig.switch.violations());
        });
    }
}

#[test]
fn a_real_bridge_holds_what_callers_are_told() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let real = runtime.block_on(Real::started());
    let config = ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(rounds in vec((batches(), any::<bool>()), 1..8))| {
        runtime.block_on(async {
            let mut told = Wanted::new();
            for (batches, differences) in rounds {
                let way = Way { differences, ..Way::default() };
                apply_all(&real.dataplane, batches, way, &mut told).await;
                assert_eq!(real.entries().await, union(&told));
            }
            let nothing = told.into_keys().fold(Batch::default(), |batch, owner| {
                batch.require(owner, Change::nothing())
            });
            assert!(soon(real.dataplane.apply(nothing)).await.unwrap().is_empty());
            assert!(real.entries().await.is_empty());
        });
    });
}
