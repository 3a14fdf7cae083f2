//! When which part of the node's own network is looked at.

use std::time::Duration;

use tokio::time::Instant;

use crate::dataplane::schedule::Schedule;

/// Between looks at links, addresses, routes and neighbours that no message called for.
const LINKS: Duration = Duration::from_secs(60);

/// Between looks at the parameters below /proc/sys, of whose changes the kernel says nothing.
const SETTINGS: Duration = Duration::from_millis(1500);

/// Between looks at rules where the kernel tells of their changes; sets are looked at with them.
const RULES: Duration = Duration::from_secs(15);

/// The same where it does not (iptables-legacy).
const DEAF: Duration = Duration::from_secs(2);

/// Pause before the next try of something that failed.
const RETRY: Duration = Duration::from_secs(2);

/// What is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Scope {
    /// Links, addresses, routes, neighbours, forwarding entries.
    pub links: bool,
    /// Parameters below /proc/sys.
    pub settings: bool,
    /// Sets and iptables' rules.
    pub rules: bool,
}

impl Scope {
    /// Everything.
    pub(super) const ALL: Self = Self { links: true, settings: true, rules: true };
}

/// Times of looks.
#[derive(Debug)]
pub(super) struct Times {
    links: Schedule,
    settings: Schedule,
    rules: Schedule,
    /// Who changed rules since they were looked at, where that is known.
    suspect: Option<String>,
}

impl Times {
    /// Everything has been looked at `now`. `hears_rules`: the kernel tells of changes of rules.
    pub(super) fn new(now: Instant, hears_rules: bool) -> Self {
        Self {
            links: Schedule::every(now, LINKS),
            settings: Schedule::every(now, SETTINGS),
            rules: Schedule::every(now, if hears_rules { RULES } else { DEAF }),
            suspect: None,
        }
    }

    /// When something is due.
    pub(super) fn due(&self) -> Instant {
        self.links.due().min(self.settings.due()).min(self.rules.due())
    }

    /// What is due.
    pub(super) fn scope(&self, now: Instant) -> Scope {
        let due = |schedule: &Schedule| schedule.due() <= now;
        Scope { links: due(&self.links), settings: due(&self.settings), rules: due(&self.rules) }
    }

    /// Somebody may have changed links, addresses, routes or neighbours.
    pub(super) fn suspect_links(&mut self, now: Instant) {
        self.links.suspect(now);
    }

    /// Somebody may have changed rules. Who was first is remembered: what follows may be the repair.
    pub(super) fn suspect_rules(&mut self, now: Instant, who: Option<String>) {
        self.rules.suspect(now);
        self.suspect = self.suspect.take().or(who);
    }

    /// Who is to blame for what a look at `scope` finds of rules. A look at something else leaves it to the next.
    pub(super) fn take_suspect(&mut self, scope: Scope) -> Option<String> {
        self.suspect.take_if(|_| scope.rules)
    }

    /// A look that took `cost` has ended. `good`: all that differed could be put back.
    pub(super) fn looked(&mut self, now: Instant, scope: Scope, cost: Duration, good: bool) {
        let parts = [
            (scope.links, &mut self.links, cost),
            // A few small files: what a look takes, others take.
            (scope.settings, &mut self.settings, Duration::ZERO),
            (scope.rules, &mut self.rules, cost),
        ];
        for (looked_at, schedule, cost) in parts {
            if looked_at {
                schedule.looked(now, cost, (!good).then_some(RETRY));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_hastens_its_part_alone() {
        let start = Instant::now();
        let mut times = Times::new(start, true);
        assert_eq!(times.due(), start + SETTINGS);
        times.suspect_links(start);
        let due = times.due();
        assert!(due < start + Duration::from_secs(1), "a repair is to be done within two");
        assert_eq!(times.scope(due), Scope { links: true, ..Scope::default() });
        times.looked(due, Scope { links: true, ..Scope::default() }, Duration::ZERO, true);
        assert_eq!(times.scope(start + SETTINGS), Scope { settings: true, ..Scope::default() });
        assert_eq!(times.scope(start + LINKS * 2), Scope::ALL);
        assert_eq!(Times::new(start, false).rules.due(), start + DEAF);
    }

    #[test]
    fn who_changed_rules_is_known_until_they_are_looked_at() {
        let start = Instant::now();
        let mut times = Times::new(start, true);
        times.suspect_rules(start, Some("iptables".into()));
        times.suspect_rules(start, Some("iptables-restore".into()));
        let settings = Scope { settings: true, ..Scope::default() };
        assert_eq!(times.take_suspect(settings), None);
        times.looked(start, settings, Duration::ZERO, true);
        assert_eq!(times.take_suspect(Scope::ALL).as_deref(), Some("iptables"));
        assert_eq!(times.take_suspect(Scope::ALL), None);
    }

    #[test]
    fn what_failed_is_tried_again_and_a_costly_look_is_rare() {
        let start = Instant::now();
        let mut times = Times::new(start, false);
        times.looked(start, Scope::ALL, Duration::ZERO, false);
        assert_eq!(times.scope(start + RETRY), Scope::ALL);
        times.looked(start, Scope::ALL, Duration::from_secs(1), true);
        let later = times.scope(start + Duration::from_secs(99));
        assert!(later.settings && !later.rules);
    }
}
