//! Readiness and liveness as guards.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

/// The set of things that a process still waits for, or that are wrong now. Empty means ready.
///
/// Liveness is another value of the same type whose guards are taken only while something is broken
/// beyond repair.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    blocks: Arc<Mutex<Blocks>>,
}

#[derive(Debug, Default)]
struct Blocks {
    next: u64,
    pending: BTreeMap<u64, (String, String)>,
    /// Counts changes.
    version: watch::Sender<u64>,
}

/// Holds readiness back until it is dropped.
#[derive(Debug)]
#[must_use = "readiness is held back only as long as the guard lives"]
pub struct BlockReady {
    blocks: Arc<Mutex<Blocks>>,
    id: u64,
}

impl Readiness {
    /// Nothing pending.
    pub fn new() -> Self {
        Self::default()
    }

    /// Holds readiness back under `name` until the guard is dropped.
    pub fn block(&self, name: impl Into<String>) -> BlockReady {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let id = blocks.next;
        blocks.next += 1;
        blocks.pending.insert(id, (name.into(), String::new()));
        blocks.version.send_modify(|v| *v += 1);
        BlockReady { blocks: Arc::clone(&self.blocks), id }
    }

    /// Whether nothing holds readiness back.
    pub fn is_ready(&self) -> bool {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).pending.is_empty()
    }

    /// Tells of every change: a guard taken, dropped or given another reason.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).version.subscribe()
    }

    /// Name and reason (may be empty) of everything that holds readiness back, oldest first.
    pub fn pending(&self) -> Vec<(String, String)> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).pending.values().cloned().collect()
    }
}

impl BlockReady {
    /// Says why readiness is held back; shown by `/readyz?verbose`.
    pub fn set_reason(&self, reason: impl Into<String>) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let reason = reason.into();
        if let Some((_, text)) = blocks.pending.get_mut(&self.id)
            && *text != reason
        {
            *text = reason;
            blocks.version.send_modify(|v| *v += 1);
        }
    }
}

impl Drop for BlockReady {
    fn drop(&mut self) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((name, _)) = blocks.pending.remove(&self.id) {
            let left = blocks.pending.len();
            blocks.version.send_modify(|v| *v += 1);
            tracing::debug!(name, left, "no longer holds readiness back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_guard_is_dropped() {
        let ready = Readiness::new();
        assert!(ready.is_ready());
        let mut changes = ready.subscribe();
        let first = ready.block("watch");
        let second = ready.block("ovs");
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        second.set_reason("db.sock: no such file");
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        second.set_reason("db.sock: no such file");
        assert!(!changes.has_changed().unwrap());
        drop(first);
        assert!(!ready.is_ready());
        assert_eq!(ready.pending(), [("ovs".to_owned(), "db.sock: no such file".to_owned())]);
        drop(second);
        assert!(ready.is_ready());
    }
}
