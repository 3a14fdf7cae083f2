//! When the bridge is compared with what is intended, and what is told of the outcome.
//!
//! The bridge tells of every flow that somebody else changes, so a comparison follows a change within a
//! second; the periodic one is for what it could not tell, groups and meters among it.

use std::time::Duration;

use tokio::time::Instant;

use crate::facts::Health;

/// Between comparisons that nothing calls for.
const PERIOD: Duration = Duration::from_secs(60);

/// Changes by others that follow each other within this time are looked at together.
const SETTLE: Duration = Duration::from_millis(200);

/// Shortest time between the end of one comparison and the next.
const GAP: Duration = Duration::from_secs(1);

/// A comparison may take this part of one core's time while somebody changes flows all the time: a tenth.
const SHARE: u32 = 10;

/// How long a difference is told of at least, and the time after which a repair is looked at again.
const CONFIRM: Duration = Duration::from_secs(5);

/// What a comparison came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing differs, or nothing had to be the same.
    Same,
    /// Flows differed and are as they should be.
    Repaired {
        /// How many.
        flows: usize,
        /// The first, for people.
        first: String,
    },
    /// Flows differ and the bridge refused the repair.
    Differs {
        /// How many.
        flows: usize,
        /// The first, for people.
        first: String,
        /// What the bridge said.
        error: String,
    },
    /// The bridge did not answer; the state of the connection is told elsewhere.
    Unknown,
}

/// Times of comparisons.
#[derive(Debug)]
pub struct Schedule {
    period: Duration,
    due: Instant,
    earliest: Instant,
}

impl Schedule {
    /// The first comparison is due in a minute.
    pub fn new(now: Instant) -> Self {
        Self::every(now, PERIOD)
    }

    /// The same with another time between looks that nothing calls for.
    pub fn every(now: Instant, period: Duration) -> Self {
        Self { period, due: now + period, earliest: now }
    }

    /// When the next one is due.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Somebody else changed flows.
    pub fn suspect(&mut self, now: Instant) {
        self.due = self.due.min((now + SETTLE).max(self.earliest));
    }

    /// A look that took `cost` has ended at `now`. Those that nothing calls for take a hundredth of one core's
    /// time at most. `again`: what was found has to be looked at again so soon.
    pub fn looked(&mut self, now: Instant, cost: Duration, again: Option<Duration>) {
        self.earliest = now + GAP.max(cost * SHARE);
        self.due = now + again.unwrap_or_else(|| self.period.max(cost * 10 * SHARE));
    }

    /// A comparison that took `cost` has ended at `now`.
    pub fn compared(&mut self, now: Instant, cost: Duration, finding: &Finding) {
        self.earliest = now + GAP.max(cost * SHARE);
        let pause = if *finding == Finding::Same { self.period } else { CONFIRM };
        self.due = (now + pause).max(self.earliest);
    }
}

impl Finding {
    /// The health to tell; `None` leaves it as it is.
    pub fn health(&self, bridge: &str) -> Option<Health> {
        match self {
            Self::Same => Some(Health::Good),
            Self::Repaired { flows, first } => Some(Health::bad(
                "FlowsRepaired",
                format!(
                    "{flows} flows, groups or meters of {bridge} were not as the agent had installed them and were put back, the first \
                     {first}; something else changes the bridge: look for ovs-ofctl or another controller on this node"
                ),
            )),
            Self::Differs { flows, first, error } => Some(Health::bad(
                "FlowsDiffer",
                format!(
                    "{flows} flows, groups or meters of {bridge} are not as intended, the first {first}, and Open vSwitch refused the \
                     repair: {error}"
                ),
            )),
            Self::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repaired() -> Finding {
        Finding::Repaired { flows: 2, first: "missing: table=0".to_owned() }
    }

    #[test]
    fn a_change_by_others_is_looked_at_soon_and_a_storm_does_not_eat_the_core() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        assert_eq!(schedule.due(), start + PERIOD);
        schedule.suspect(start);
        assert_eq!(schedule.due(), start + SETTLE);
        // A further change does not put it off.
        schedule.suspect(start + SETTLE / 2);
        assert_eq!(schedule.due(), start + SETTLE);

        let cost = Duration::from_millis(300);
        schedule.compared(start, cost, &Finding::Same);
        schedule.suspect(start);
        assert_eq!(schedule.due(), start + cost * SHARE);
        schedule.compared(start, Duration::from_millis(1), &Finding::Same);
        schedule.suspect(start);
        assert_eq!(schedule.due(), start + GAP);
    }

    #[test]
    fn a_repair_is_told_until_it_is_confirmed() {
        let start = Instant::now();
        let mut schedule = Schedule::new(start);
        schedule.compared(start, Duration::ZERO, &repaired());
        assert_eq!(schedule.due(), start + CONFIRM);
        let Some(Health::Bad { reason, message }) = repaired().health("br-int") else { panic!("not told") };
        assert_eq!(reason, "FlowsRepaired");
        assert!(message.contains("br-int") && message.contains("missing: table=0"), "{message}");
        assert_eq!(Finding::Same.health("br-int"), Some(Health::Good));
        assert_eq!(Finding::Unknown.health("br-int"), None);
    }
}
