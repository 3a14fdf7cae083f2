//! Exponential back-off with jitter.
//!
//! `crates/runtime` has one for remote ends, which takes a quarter off at most. This one's end is on the same host and one
//! process: it tries soon, and does without all that a daemon needs, as this crate does.

use std::time::Duration;

/// Limits of a [`Backoff`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackoffConfig {
    /// Upper bound of the first delay.
    pub first: Duration,
    /// Upper bound of every delay.
    pub max: Duration,
}

impl Default for BackoffConfig {
    /// 100 ms, doubling up to 1 s: a try costs next to nothing on the same host, and pods of the userspace datapath
    /// are cut off until it succeeds.
    fn default() -> Self {
        Self { first: Duration::from_millis(100), max: Duration::from_secs(1) }
    }
}

/// Yields growing delays: the n-th lies between half and all of `min(first * 2^n, max)`.
#[derive(Clone, Debug)]
pub struct Backoff {
    config: BackoffConfig,
    bound: Duration,
}

impl Backoff {
    /// A back-off at its first delay.
    #[must_use]
    pub fn new(config: BackoffConfig) -> Self {
        Self { config, bound: config.first.min(config.max) }
    }

    /// The delay to wait now; the next one is twice as long.
    pub fn next_delay(&mut self) -> Duration {
        let half = self.bound / 2;
        // Version 4 UUIDs are the random source the crate has anyway; 32 bits of one are plenty for jitter.
        let fraction = f64::from(uuid::Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
        let delay = half + half.mul_f64(fraction);
        self.bound = (self.bound * 2).min(self.config.max);
        delay
    }

    /// Starts again at the first delay, after a success.
    pub fn reset(&mut self) {
        self.bound = self.config.first.min(self.config.max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_the_maximum_and_resets() {
        let mut backoff = Backoff::new(BackoffConfig::default());
        for expected in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.next_delay().as_millis();
            assert!(
                delay >= expected / 2 && delay <= expected,
                "{delay} outside of half to all of {expected}"
            );
        }
        backoff.reset();
        assert!(backoff.next_delay() <= Duration::from_millis(100));
    }

    #[test]
    fn is_jittered() {
        let delays: std::collections::HashSet<_> =
            (0..16).map(|_| Backoff::new(BackoffConfig::default()).next_delay()).collect();
        assert!(delays.len() > 8, "16 fresh back-offs gave only {} delays", delays.len());
    }
}
