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
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::sync::mpsc;

use crate::object::Item;
use routes::Queue;
pub use routes::{Delta, Filter, Render, Routes};

/// Octets (of the events' protobuf, and [`EVENT`] for each) that a watcher may be behind before it is cut off. What
/// follows from one change, as the thousands of policies of a deleted namespace, has to fit: it is published in one
/// go, and no watcher can read in between. Events are shared by watchers, so that this bounds the time that a watcher
/// may be behind rather than the memory of all of them.
pub const QUEUE: usize = 8 << 20;

/// What an event costs in a queue apart from its contents.
const EVENT: usize = 256;

/// How much is in a queue.
type Load = Arc<AtomicUsize>;

fn weight(item: &Item) -> usize {
    EVENT + item.size()
}

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
    events: mpsc::UnboundedReceiver<Arc<Item>>,
    load: Load,
    /// Resource version of the snapshot.
    pub resource_version: u64,
    leave: Option<Box<dyn FnOnce() + Send + Sync>>,
}

impl Subscription {
    /// The next change. None when the watcher fell behind or the hub was closed.
    pub async fn next(&mut self) -> Option<Arc<Item>> {
        let item = self.events.recv().await?;
        self.load.fetch_sub(weight(&item), Ordering::Relaxed);
        Some(item)
    }

    /// The next change if there is one already.
    ///
    /// # Errors
    /// There is none yet, or the watch has ended.
    pub fn try_next(&mut self) -> Result<Arc<Item>, mpsc::error::TryRecvError> {
        let item = self.events.try_recv()?;
        self.load.fetch_sub(weight(&item), Ordering::Relaxed);
        Ok(item)
    }
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

    /// As [`Hub::new`], with another bound of queues than [`QUEUE`].
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
        let (sender, events) = mpsc::unbounded_channel();
        let load = Load::default();
        let queue = Queue { sender, load: Arc::clone(&load), limit: self.queue };
        let (id, snapshot, resource_version) = self.guarded.with(|guarded| {
            let snapshot = snapshot(&mut guarded.state);
            let names = snapshot.iter().map(|item| item.object().metadata().name.as_str());
            let id = guarded.routes.enter(filter, queue, names);
            (id, snapshot, guarded.version)
        });
        let hub = Arc::downgrade(self);
        let leave = move || {
            if let Some(hub) = hub.upgrade() {
                hub.guarded.with(|guarded| guarded.routes.leave(id));
            }
        };
        Subscription { snapshot, events, load, resource_version, leave: Some(Box::new(leave)) }
    }

    /// Ends every watch.
    pub fn close(&self) {
        self.guarded.with(|guarded| guarded.routes.clear());
    }
}

#[cfg(test)]
mod tests;
