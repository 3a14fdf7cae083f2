//! State that is watched, and who watches it.
//!
//! ```text
//!            ┌───────────── one lock ─────────────┐
//! update ───►│ state ─ changes ─► routes ─ offer ─┼─► bounded queue ─► watcher
//! subscribe ►│ snapshot, then enters the routes   │
//!            └────────────────────────────────────┘
//! ```
//!
//! Because a snapshot is taken and the watcher entered under the lock that updates take too, the watcher
//! gets every change after its snapshot exactly once. What is sent out under the lock is a pointer;
//! encoding is left to the watchers' tasks.

mod routes;

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::mpsc;

use crate::object::Item;
pub use routes::{Delta, Filter, Render, Routes};

/// Events that a watcher may be behind before it is cut off.
pub const QUEUE: usize = 1000;

/// Mutual exclusion, so that tests can put a model checker's lock in place of the real one.
pub trait Lock<T> {
    /// Puts `value` behind a lock.
    fn new(value: T) -> Self;
    /// Runs `work` with the lock held.
    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R;
}

impl<T> Lock<T> for parking_lot::Mutex<T> {
    fn new(value: T) -> Self {
        Self::new(value)
    }

    fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.lock())
    }
}

/// What is behind the lock of a [`Hub`].
pub struct Guarded<S> {
    state: S,
    routes: Routes,
    version: u64,
}

/// State `S` with its watchers.
pub struct Hub<S, L = parking_lot::Mutex<Guarded<S>>> {
    guarded: L,
    queue: usize,
    state: std::marker::PhantomData<fn(S)>,
}

/// A watch: what there was when it began, then what changed.
pub struct Subscription {
    /// The initial set, as ADDED events.
    pub snapshot: Vec<Arc<Item>>,
    /// Later events. Ends when the watcher fell behind or the hub was closed.
    pub events: mpsc::Receiver<Arc<Item>>,
    /// Resource version of the snapshot.
    pub resource_version: u64,
    leave: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(leave) = self.leave.take() {
            leave();
        }
    }
}

impl<S, L> Hub<S, L>
where
    S: 'static,
    L: Lock<Guarded<S>> + Send + Sync + 'static,
{
    /// A hub for `resources` kinds of objects, which are told apart by their number.
    pub fn new(state: S, resources: usize) -> Arc<Self> {
        Self::with_queue(state, resources, QUEUE)
    }

    /// As [`Hub::new`], with another length of queues.
    pub fn with_queue(state: S, resources: usize, queue: usize) -> Arc<Self> {
        // Versions grow across restarts, should a client compare them.
        let started = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_secs() << 20);
        let guarded = Guarded { state, routes: Routes::new(resources), version: started };
        Arc::new(Self { guarded: L::new(guarded), queue, state: std::marker::PhantomData })
    }

    /// Changes the state and publishes what follows.
    pub fn update<R>(&self, work: impl FnOnce(&mut S, &mut Routes) -> R) -> R {
        self.guarded.with(|guarded| {
            guarded.version += 1;
            work(&mut guarded.state, &mut guarded.routes)
        })
    }

    /// Looks at the state; also returns its resource version.
    pub fn read<R>(&self, work: impl FnOnce(&S, &Routes) -> R) -> (R, u64) {
        self.guarded.with(|guarded| (work(&guarded.state, &guarded.routes), guarded.version))
    }

    /// Begins a watch with the set that `snapshot` takes of the state.
    pub fn subscribe(
        self: &Arc<Self>,
        filter: Filter,
        snapshot: impl FnOnce(&mut S) -> Vec<Arc<Item>>,
    ) -> Subscription {
        let (sender, events) = mpsc::channel(self.queue);
        let (id, snapshot, resource_version) = self.guarded.with(|guarded| {
            let snapshot = snapshot(&mut guarded.state);
            let names = snapshot.iter().map(|item| item.object().metadata().name.as_str());
            let id = guarded.routes.enter(filter, sender, names);
            (id, snapshot, guarded.version)
        });
        let hub = Arc::downgrade(self);
        let leave = move || {
            if let Some(hub) = hub.upgrade() {
                hub.guarded.with(|guarded| guarded.routes.leave(id));
            }
        };
        Subscription { snapshot, events, resource_version, leave: Some(Box::new(leave)) }
    }

    /// Ends every watch.
    pub fn close(&self) {
        self.guarded.with(|guarded| guarded.routes.clear());
    }
}

#[cfg(test)]
mod tests;
