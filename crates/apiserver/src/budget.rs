//! How often somebody may be wrong.

use std::{
    collections::HashMap,
    hash::Hash,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Wrong guesses that everybody has in hand, and with them questions that are open at the same time.
const BURST: u32 = 32;
/// One more after this time.
const EVERY: Duration = Duration::from_millis(500);
/// Who is remembered.
const CAPACITY: usize = 4096;

/// Buckets of wrong guesses by whoever makes them. Who has none left is not let through to the API server: what he may
/// cost there is bounded whatever he sends.
pub(crate) struct Budget<K>(Mutex<HashMap<K, Bucket>>);

impl<K> Default for Budget<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

struct Bucket {
    left: u32,
    since: Instant,
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let more = now.saturating_duration_since(self.since).as_millis() / EVERY.as_millis();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(BURST);
            self.since = now;
        }
    }
}

impl<K: Eq + Hash> Budget<K> {
    /// Takes one guess from `who`; false if there is none left.
    pub(crate) fn take(&self, who: K, now: Instant) -> bool {
        let mut buckets = self.0.lock();
        if buckets.len() >= CAPACITY && !buckets.contains_key(&who) {
            buckets.retain(|_, bucket| {
                bucket.refill(now);
                bucket.left < BURST
            });
            if buckets.len() >= CAPACITY {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(who).or_insert(Bucket { left: BURST, since: now });
        bucket.refill(now);
        let some = bucket.left > 0;
        bucket.left = bucket.left.saturating_sub(1);
        some
    }

    /// Gives a guess back, for it was right.
    pub(crate) fn give_back(&self, who: &K) {
        if let Some(bucket) = self.0.lock().get_mut(who) {
            bucket.left = (bucket.left + 1).min(BURST);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn an_address_is_wrong_only_so_often_and_others_do_not_mind() {
        let (budget, now) = (Budget::default(), Instant::now());
        let [bad, other] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        assert_eq!((0..1000).filter(|_| budget.take(bad, now)).count(), 32);
        assert!(budget.take(other, now));
        budget.give_back(&bad);
        assert!(budget.take(bad, now) && !budget.take(bad, now));
        assert!(budget.take(bad, now + EVERY));
        for number in 0..100_000_u32 {
            budget.take(IpAddr::from(number.to_be_bytes()), now);
        }
        assert!(budget.0.lock().len() <= CAPACITY);
    }
}
