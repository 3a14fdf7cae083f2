//! Any sequence of events ends in the state that follows from the objects that are left, and the drained changes
//! lead a replica to the same state.
//!
//! `oracle` computes that state in the plainest way: every selector is tried on every Pod, nothing is remembered,
//! and no code of the crate is used but its input types.

#[allow(clippy::unwrap_used, clippy::panic, reason = "the parts of a test")]
mod support;

use proptest::prelude::*;
use support::{
    events::{Event, events},
    oracle,
    replica::{self, Replica},
    world::World,
};

fn check(limit: usize, events: Vec<Event>) -> Result<(), TestCaseError> {
    let mut index = antrea_policy::Index::with_scan_limit(limit);
    let mut world = World::default();
    let mut replica = Replica::default();
    // Native policies are computed with the next drain.
    let mut settled = true;
    for event in events.into_iter().chain([Event::Drain]) {
        if !matches!(event, Event::Drain | Event::Peek) {
            world.play(&event, &mut index);
            settled &= matches!(
                event,
                Event::Pod(..)
                    | Event::Node(..)
                    | Event::ResetNodes(..)
                    | Event::Policy(..)
                    | Event::ResetPods(..)
                    | Event::ResetPolicies(..)
            );
            continue;
        }
        let expected = oracle::state(&world);
        if settled {
            prop_assert_eq!(&replica::state_of(&index), &expected, "queries");
        }
        if matches!(event, Event::Peek) {
            continue;
        }
        for change in index.drain() {
            replica.fold(change).map_err(TestCaseError::fail)?;
        }
        settled = true;
        prop_assert_eq!(&replica.state, &expected, "replica");
        prop_assert_eq!(&replica::state_of(&index), &expected, "queries after draining");
        prop_assert_eq!(index.drain(), vec![], "drained twice");
        replica::check_views(&index, &world, &expected)?;
    }
    world.delete_all(&mut index);
    for change in index.drain() {
        replica.fold(change).map_err(TestCaseError::fail)?;
    }
    prop_assert_eq!(&replica.state, &oracle::State::default());
    prop_assert!(index.is_empty(), "something is left: {:?}", index);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 800, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn events_converge(limit in 0usize..4, events in events(1..60)) {
        check(limit, events)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn long_histories_converge(limit in 0usize..4, events in events(400..800)) {
        check(limit, events)?;
    }
}
