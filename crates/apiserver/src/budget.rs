//! How often an address may be wrong.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Wrong guesses that an address has in hand.
const BURST: u32 = 32;
/// One more after this time.
const EVERY: Duration = Duration::from_millis(500);
/// Addresses that are remembered.
const CAPACITY: usize = 4096;

/// Buckets of wrong guesses by address. An address that has none left is not let down to the API server: what it may
/// cost there is bounded whatever it sends.
#[derive(Default)]
pub(crate) struct Budget(Mutex<HashMap<IpAddr, Bucket>>);

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

impl Budget {
    /// Takes one guess from an address; false if it has none left.
    pub(crate) fn take(&self, address: IpAddr, now: Instant) -> bool {
        let mut buckets = self.0.lock();
        if buckets.len() >= CAPACITY && !buckets.contains_key(&address) {
            buckets.retain(|_, bucket| {
                bucket.refill(now);
                bucket.left < BURST
            });
            if buckets.len() >= CAPACITY {
                buckets.clear();
            }
        }
        let bucket = buckets.entry(address).or_insert(Bucket { left: BURST, since: now });
        bucket.refill(now);
        let some = bucket.left > 0;
        bucket.left = bucket.left.saturating_sub(1);
        some
    }

    /// Gives a guess back, for it was right.
    pub(crate) fn give_back(&self, address: IpAddr) {
        if let Some(bucket) = self.0.lock().get_mut(&address) {
            bucket.left = (bucket.left + 1).min(BURST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_wrong_only_so_often_and_others_do_not_mind() {
        let (budget, now) = (Budget::default(), Instant::now());
        let [bad, other] = [1, 2].map(|last| IpAddr::from([10, 0, 0, last]));
        assert_eq!((0..1000).filter(|_| budget.take(bad, now)).count(), 32);
        assert!(budget.take(other, now));
        budget.give_back(bad);
        assert!(budget.take(bad, now) && !budget.take(bad, now));
        assert!(budget.take(bad, now + EVERY));
        for number in 0..100_000_u32 {
            budget.take(IpAddr::from(number.to_be_bytes()), now);
        }
        assert!(budget.0.lock().len() <= CAPACITY);
    }
}
