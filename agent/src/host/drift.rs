//! What is told of a look at the node's own network.

use std::time::Duration;

use tokio::time::Instant;

use crate::facts::{Health, REPAIRED};

/// How long a repair is told of at least.
const TOLD: Duration = Duration::from_secs(5);

/// Differences that a message names; of more it says how many.
const NAMED: usize = 3;

/// Differences that are kept of what is told together.
const KEPT: usize = 64;

/// What a look came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// What differed and was put back, for people.
    pub repaired: Vec<String>,
    /// What could not be done.
    pub problems: Vec<String>,
    /// Who changed it, where that is known.
    pub by: Option<String>,
}

/// Makes health of what looks come to.
#[derive(Debug, Default)]
pub(super) struct Teller {
    until: Option<Instant>,
    /// What is told: of one mishap, several looks may find a part.
    told: Findings,
}

impl Teller {
    /// The health to tell after a look at `now`, which was at everything if `whole`; `None` leaves it as it is.
    pub(super) fn judge(&mut self, now: Instant, whole: bool, findings: &Findings) -> Option<Health> {
        let Findings { repaired, problems, by } = findings;
        if let Some(first) = problems.first() {
            self.until = None;
            let count = problems.len();
            return Some(Health::bad("HostNetworkFailed", format!("{count} problems, the first: {first}")));
        }
        if !repaired.is_empty() {
            if self.until.replace(now + TOLD).is_none() {
                self.told = Findings::default();
            }
            let room = KEPT.saturating_sub(self.told.repaired.len());
            self.told.repaired.extend(repaired.iter().take(room).cloned());
            self.told.by = self.told.by.take().or_else(|| by.clone());
            let text = repaired_text(&self.told.repaired, self.told.by.as_deref());
            return Some(Health::bad(REPAIRED, text));
        }
        // What else the mishap did may not have been seen yet, if it came by messages that are late.
        if self.until.is_some_and(|until| now < until || !whole) {
            return None;
        }
        self.until = None;
        Some(Health::Good)
    }

    /// When a repair has been told of long enough, if a look at everything then confirms it.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Whether that look is due.
    pub(super) fn confirms(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

fn repaired_text(repaired: &[String], by: Option<&str>) -> String {
    let named = repaired.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("; ");
    let more = match repaired.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let who = by.map_or_else(
        || {
            "find what else configures this node's network (a network manager, a firewall, a script)"
                .to_owned()
        },
        |by| format!("changed by {by}"),
    );
    format!("{named}{more}: put back; {who}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repair_is_told_for_a_while_and_a_problem_until_it_is_gone() {
        let mut teller = Teller::default();
        let start = Instant::now();
        let clean = Findings::default();
        assert_eq!(teller.judge(start, false, &clean), Some(Health::Good));
        let repaired = Findings { repaired: vec!["link antrea-gw0 was down".into()], ..Findings::default() };
        let Some(Health::Bad { reason, message }) = teller.judge(start, false, &repaired) else {
            panic!("not told")
        };
        assert_eq!(reason, "HostNetworkRepaired");
        assert!(message.starts_with("link antrea-gw0 was down: put back"), "{message}");
        assert_eq!(teller.judge(start + TOLD / 2, true, &clean), None, "still told");
        let more =
            Findings { repaired: vec!["a setting differed".into()], by: Some("x".into()), ..clean.clone() };
        let Some(Health::Bad { message, .. }) = teller.judge(start, false, &more) else { panic!("not told") };
        assert_eq!(message, "link antrea-gw0 was down; a setting differed: put back; changed by x");
        assert_eq!(teller.judge(start + TOLD, true, &clean), Some(Health::Good));
        assert_eq!(teller.until(), None);
        let failed = Findings { problems: vec!["add route".into()], ..repaired };
        let Some(Health::Bad { reason, .. }) = teller.judge(start, false, &failed) else {
            panic!("not told")
        };
        assert_eq!(reason, "HostNetworkFailed");
        assert_eq!(teller.judge(start, false, &clean), Some(Health::Good));
    }

    #[test]
    fn what_a_slow_node_finds_late_of_a_mishap_is_told_with_the_rest() {
        let mut teller = Teller::default();
        let start = Instant::now();
        let found = |what: &str| Findings { repaired: vec![what.into()], ..Findings::default() };
        assert!(teller.judge(start, false, &found("address was missing")).is_some());
        let late = start + TOLD * 3;
        assert!(teller.confirms(late));
        assert_eq!(teller.judge(late, false, &Findings::default()), None, "only a part was looked at");
        let Some(Health::Bad { message, .. }) = teller.judge(late, true, &found("route was missing")) else {
            panic!("not told")
        };
        assert!(message.starts_with("address was missing; route was missing: put back"), "{message}");
        assert!(!teller.confirms(late));
        assert_eq!(teller.judge(late + TOLD, true, &Findings::default()), Some(Health::Good));
        let Some(Health::Bad { message, .. }) = teller.judge(late + TOLD, false, &found("x")) else {
            panic!("not told")
        };
        assert!(message.starts_with("x: put back"), "another mishap: {message}");
    }

    #[test]
    fn who_did_it_is_named_and_a_flood_is_cut() {
        let repaired: Vec<_> = (0..9).map(|n| format!("thing {n}")).collect();
        let text = repaired_text(&repaired, Some("iptables (process 42)"));
        assert_eq!(
            text,
            "thing 0; thing 1; thing 2 (and 6 more): put back; changed by iptables (process 42)"
        );
    }
}
