//! Questions about pods that lost a policy and are still here.

use std::collections::BTreeMap;

use antrea_api::selection::PodSelection;
use antrea_enforce::kept::Doubt;
use tokio::task::JoinSet;

use crate::policy::confirm::{Life, SharedConfirmer};

/// Questions under way at once.
const AT_ONCE: usize = 8;

/// A pod that the controller knows.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) doubt: Doubt,
    /// See [`antrea_enforce::reconciler::Reconciler::release`].
    pub(super) at: u64,
    /// What selects it.
    pub(super) selection: PodSelection,
}

/// Open questions and those under way; bounded by the node's pods.
pub(super) struct Doubts {
    confirmer: SharedConfirmer,
    open: BTreeMap<Doubt, u64>,
    asked: JoinSet<(Doubt, u64, Life)>,
}

impl Doubts {
    pub(super) fn new(confirmer: SharedConfirmer) -> Self {
        Self { confirmer, open: BTreeMap::new(), asked: JoinSet::new() }
    }

    /// Whether somebody is to be asked about who was not.
    pub(super) fn are_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Asks about these pods too.
    pub(super) fn add(&mut self, doubts: BTreeMap<Doubt, u64>) {
        if !doubts.is_empty() {
            self.open.extend(doubts);
            self.ask();
        }
    }

    /// Asks again, later.
    pub(super) fn reopen(&mut self, doubt: Doubt, at: u64) {
        self.open.entry(doubt).or_insert(at);
    }

    /// Asks as many open questions as may be under way.
    pub(super) fn ask(&mut self) {
        while self.asked.len() < AT_ONCE
            && let Some((doubt, at)) = self.open.pop_first()
        {
            let confirmer = self.confirmer.clone();
            self.asked.spawn(async move {
                let life = confirmer.life(&doubt).await;
                (doubt, at, life)
            });
        }
    }

    /// The next answer, if it changes anything. Waits for ever while nothing is asked. A pod that is not known keeps
    /// what it had; where nobody answers, the question stays open.
    pub(super) async fn answer(&mut self) -> Option<Known> {
        let Some(answered) = self.asked.join_next().await else { return std::future::pending().await };
        let (doubt, at, life) = answered.ok()?;
        let known = match life {
            Life::Known(selection) => Some(Known { doubt, at, selection }),
            Life::Unknown => {
                let (namespace, pod) = (&doubt.pod.namespace, &doubt.pod.name);
                tracing::info!(
                    namespace,
                    pod,
                    "the pod is no more but its sandbox is: it keeps its policies"
                );
                None
            }
            Life::Silence => {
                self.reopen(doubt, at);
                return None;
            }
        };
        self.ask();
        known
    }
}
