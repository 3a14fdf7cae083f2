//! Exponential backoff with jitter.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

/// Delays that double from `min` to `max`, each shortened by up to a quarter at random so that peers
/// which failed together do not come back together.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
    random: RandomState,
    count: u64,
}

impl Backoff {
    /// `min` is the first delay, `max` the ceiling. A zero `min` is taken as one millisecond.
    pub fn new(min: Duration, max: Duration) -> Self {
        let min = min.max(Duration::from_millis(1));
        Self { min, max: max.max(min), next: min, random: RandomState::new(), count: 0 }
    }

    /// The next delay: between ¾ of the nominal value and the nominal value.
    pub fn next_delay(&mut self) -> Duration {
        let nominal = self.next;
        self.next = (nominal * 2).min(self.max);
        nominal - self.fraction(nominal / 4)
    }

    /// Back to the first delay. Call it after a success.
    pub fn reset(&mut self) {
        self.next = self.min;
    }

    /// Sleeps for the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next_delay()).await;
    }

    /// A random part of `span`. `RandomState` is keyed from the OS, which is random enough for jitter.
    fn fraction(&mut self, span: Duration) -> Duration {
        self.count = self.count.wrapping_add(1);
        let mut hasher = self.random.build_hasher();
        hasher.write_u64(self.count);
        span.mul_f64((hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

/// A random duration in `0..span`, for spreading work that many nodes do at the same interval.
pub fn spread(span: Duration) -> Duration {
    Backoff::new(span, span).fraction(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_ceiling_and_resets() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(100), ms(1000));
        for nominal in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.next_delay();
            assert!(delay <= ms(nominal) && delay >= ms(nominal * 3 / 4), "{delay:?} for {nominal}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= ms(100));
    }

    #[test]
    fn jitter_differs_between_calls() {
        let mut backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(60));
        let delays: std::collections::HashSet<_> = (0..50).map(|_| backoff.next_delay()).collect();
        assert!(delays.len() > 40);
    }
}
