//! What may become of a probe while policy changes, and whether that is what became of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use antrea_tests::prober::{Outcome, Probe};

/// What may become of a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct May {
    pub(super) pass: bool,
    pub(super) fail: bool,
}

/// What may become of all probes, from a moment on.
pub(super) struct Epoch {
    since: Instant,
    may: Vec<May>,
}

#[derive(Default)]
pub(super) struct Judge {
    pub(super) number: BTreeMap<Probe, usize>,
    pub(super) epochs: Vec<Epoch>,
    /// Probes that had to arrive, and that had not to.
    pub(super) arrived: u64,
    pub(super) refused: u64,
    /// Those of which both was right, for they met a change.
    pub(super) either: u64,
    pub(super) faults: Vec<String>,
}

impl Judge {
    pub(super) fn epoch(&mut self, since: Instant, may: Vec<May>) {
        // No probe takes as long as the epochs that are kept.
        if self.epochs.len() > 64 {
            self.epochs.drain(..32);
        }
        self.epochs.push(Epoch { since, may });
    }

    /// What was right of a probe in all of its time.
    fn may(&self, outcome: &Outcome) -> May {
        let at = self.number[&outcome.probe];
        let mut may = May::default();
        for (i, epoch) in self.epochs.iter().enumerate() {
            let until = self.epochs.get(i + 1).map(|next| next.since);
            if epoch.since <= outcome.ended && until.is_none_or(|until| until >= outcome.sent) {
                may.pass |= epoch.may[at].pass;
                may.fail |= epoch.may[at].fail;
            }
        }
        may
    }

    pub(super) fn judge(&mut self, what: &str, outcome: &Outcome, say: impl Fn(Probe) -> String) {
        let fault = match self.may(outcome) {
            May { pass: true, fail: true } => {
                self.either += 1;
                return;
            }
            May { pass: true, .. } => {
                self.arrived += 1;
                (!outcome.answered).then_some("refused")
            }
            _ => {
                self.refused += 1;
                outcome.arrived.then_some("LEAKED")
            }
        };
        if let Some(fault) = fault {
            let took = outcome.ended - outcome.sent;
            let when = self.when(outcome);
            self.faults.push(format!("{what}: {} {fault} after {took:?}, {when}", say(outcome.probe)));
        }
    }

    /// How long after the last change a probe was sent, and how long after that was taken for being in force.
    fn when(&self, outcome: &Outcome) -> String {
        let mut times = self.epochs.iter().rev().filter(|epoch| epoch.since <= outcome.sent);
        let ago = times.next().map(|epoch| outcome.sent - epoch.since);
        let before = times.next().map(|epoch| outcome.sent - epoch.since);
        format!("sent {ago:?} into its state, {before:?} into the one before")
    }
}

#[test]
fn what_a_change_leaves_open_is_not_judged() {
    let probe = Probe { from: 0, to: 1, service: None };
    let mut judge = Judge { number: [(probe, 0)].into(), ..Judge::default() };
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    let (yes, no) = (May { pass: true, fail: false }, May { pass: false, fail: true });
    for (since, may) in [(0, yes), (100, May { pass: true, fail: true }), (200, no)] {
        judge.epoch(at(since), vec![may]);
    }
    let mut faults = |sent, ended, arrived| {
        let outcome = Outcome { probe, sent: at(sent), ended: at(ended), arrived, answered: arrived };
        judge.judge("", &outcome, |_| String::new());
        judge.faults.len()
    };
    assert_eq!(faults(10, 90, true), 0);
    assert_eq!(faults(10, 90, false), 1);
    assert_eq!((faults(90, 110, false), faults(90, 110, true), faults(150, 250, true)), (1, 1, 1));
    assert_eq!((faults(210, 250, false), faults(210, 250, true)), (1, 2));
}
