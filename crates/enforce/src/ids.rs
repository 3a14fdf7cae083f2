//! Ids of rules.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// How long an id rests after its rule is gone: packets and flow removals that name it may be under way.
const REST: Duration = Duration::from_secs(5);

/// Hands out ids from 1 on, the smallest free one first: dense ids share more flows.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    /// The largest id ever handed out.
    last: u32,
    free: BTreeSet<u32>,
    resting: VecDeque<(Instant, u32)>,
}

impl Ids {
    /// An id; none when all 2³²−1 are taken.
    pub(crate) fn take(&mut self, now: Instant) -> Option<u32> {
        while let Some((since, id)) = self.resting.front().copied()
            && now.saturating_duration_since(since) >= REST
        {
            self.resting.pop_front();
            self.free.insert(id);
        }
        if let Some(id) = self.free.pop_first() {
            return Some(id);
        }
        self.last = self.last.checked_add(1)?;
        Some(self.last)
    }

    /// Gives an id back.
    pub(crate) fn release(&mut self, id: u32, now: Instant) {
        self.resting.push_back((now, id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_dense_and_rest_before_they_come_again() {
        let (mut ids, start) = (Ids::default(), Instant::now());
        assert_eq!([1, 2, 3], [(); 3].map(|()| ids.take(start).unwrap()));
        ids.release(2, start);
        ids.release(1, start + Duration::from_secs(1));
        assert_eq!(ids.take(start + Duration::from_millis(4999)), Some(4));
        assert_eq!(ids.take(start + Duration::from_secs(5)), Some(2));
        assert_eq!(ids.take(start + Duration::from_secs(5)), Some(5));
        assert_eq!(ids.take(start + Duration::from_secs(6)), Some(1));
    }
}
