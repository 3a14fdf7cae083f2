//! What the controller said last, kept on disk for a start without one.

use std::sync::Arc;

use antrea_api::controlplane::Event;
use antrea_enforce::cache::{Kind, Save};

use super::{CacheEvent, Ended, State};
use crate::policy::files::FileError;
use crate::policy::saver::Belief;

impl State {
    /// The controller is not there: goes by what it said last. If that is not known either, everything stays as
    /// it is until the controller comes: the flows of the agent's last life, or in a new bridge none.
    pub(super) async fn load(&mut self) -> Result<(), Ended> {
        self.recalled = true;
        let files = self.saver.files().clone();
        let counts = self
            .with_reconciler(move |reconciler| {
                let events = files.load()?;
                let cache = &mut reconciler.cache;
                // A list may be under way: it comes later.
                cache.load(events);
                Some(cache.counts())
            })
            .await?;
        let Some(counts) = counts else {
            tracing::warn!("neither a controller nor a record of what one said: waiting for the controller");
            return Ok(());
        };
        tracing::warn!(?counts, "no controller: policies, address groups and applied-to groups from disk");
        self.known = true;
        self.attach_waiting().await
    }

    /// The record, if something else than it says may be in force after these. A list that is under way for the first time
    /// changes nothing before its end.
    pub(super) fn doubted_with(&self, events: &[CacheEvent]) -> Option<Arc<Belief>> {
        let heard = self.commits() > 0;
        let changes = |event: &CacheEvent| matches!(event, CacheEvent::Event(_, event) if heard || matches!(**event, Event::Bookmark));
        events.iter().any(changes).then(|| self.saver.belief().clone())
    }

    /// Begins to write what is not on disk yet, unless that is under way. What comes from the disk itself need
    /// not go there.
    pub(super) async fn save(&mut self) -> Result<(), Ended> {
        let heard = self.commits() > 0;
        let unsaved = self.reconciler.as_ref().is_some_and(|reconciler| reconciler.cache.has_unsaved());
        let is_saved = !unsaved && self.saver.is_complete() && self.saver.is_believed();
        if self.saver.is_busy() || !heard || is_saved {
            return Ok(());
        }
        let whole = !self.saver.is_complete();
        let (saves, names) = self
            .with_reconciler(move |reconciler| {
                let cache = &mut reconciler.cache;
                let names = whole.then(|| Kind::ALL.map(|kind| (kind, cache.names(kind))));
                (cache.take_unsaved(), names)
            })
            .await?;
        self.saver.start(saves, names);
        Ok(())
    }

    /// What could not be written is tried again later; what changed meanwhile is written now.
    pub(super) async fn saved(&mut self, failure: Option<(Vec<Save>, FileError)>) -> Result<(), Ended> {
        let Some((saves, error)) = failure else { return self.save().await };
        tracing::warn!(%error, "policies not kept on disk");
        self.with_reconciler(move |reconciler| reconciler.cache.put_back(saves)).await
    }
}
