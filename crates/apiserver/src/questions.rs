//! Questions to the API server: asked once at a time, so many at a time, and answers kept for a while.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::{cache::TtlCache, status::Failure};

/// How long an answer of the API server is used, as upstream's delegating servers do.
const TTL: Duration = Duration::from_secs(10);
/// Answers kept, of each kind. A cluster of 5,000 agents asks with as many tokens.
const CAPACITY: usize = 8192;
/// Questions that are put at the same time.
const AT_ONCE: usize = 32;
/// Questions that wait for their turn or their answer. Who asks another one is to come back later.
const WAITING: usize = 4096;
/// How long a question may take, with its wait.
const PATIENCE: Duration = Duration::from_secs(15);

/// Digest of a question.
pub(crate) type Key = [u8; 32];

type Answer<V> = Option<Result<V, Failure>>;

/// Questions of one kind with answers `V`.
pub(crate) struct Questions<V> {
    /// Answers that let somebody in. Those that do not are kept apart: a stranger may have any number of them.
    good: TtlCache<Key, V>,
    bad: TtlCache<Key, V>,
    is_good: fn(&V) -> bool,
    open: Mutex<HashMap<Key, watch::Receiver<Answer<V>>>>,
    slots: Semaphore,
}

impl<V: Clone + Send + Sync + 'static> Questions<V> {
    pub(crate) fn new(is_good: fn(&V) -> bool) -> Arc<Self> {
        Self::kept_for(TTL, is_good)
    }

    /// As [`Self::new`], with answers that are used for `ttl`.
    pub(crate) fn kept_for(ttl: Duration, is_good: fn(&V) -> bool) -> Arc<Self> {
        Arc::new(Self {
            good: TtlCache::new(CAPACITY, ttl),
            bad: TtlCache::new(CAPACITY, ttl),
            is_good,
            open: Mutex::default(),
            slots: Semaphore::new(AT_ONCE),
        })
    }

    /// The answer if it was given a while ago.
    pub(crate) fn known(&self, key: &Key) -> Option<V> {
        self.good.get(key).or_else(|| self.bad.get(key))
    }

    /// Puts a question, or waits for the answer to the same one.
    pub(crate) async fn ask(
        self: &Arc<Self>,
        key: Key,
        question: impl Future<Output = Result<V, Failure>> + Send + 'static,
    ) -> Result<V, Failure> {
        let mut answer = {
            let mut open = self.open.lock();
            match open.get(&key) {
                Some(answer) => answer.clone(),
                None if open.len() >= WAITING => {
                    return Err(Failure::too_many_requests("too many credentials are being checked"));
                }
                None => {
                    let (tell, answer) = watch::channel(None);
                    open.insert(key, answer.clone());
                    // In a task of its own: whoever asked may go away while others wait.
                    tokio::spawn(Arc::clone(self).put(key, question, tell));
                    answer
                }
            }
        };
        let told = answer.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
        told.unwrap_or_else(|| Err(Failure::unavailable("the credentials could not be checked")))
    }

    async fn put(
        self: Arc<Self>,
        key: Key,
        question: impl Future<Output = Result<V, Failure>>,
        tell: watch::Sender<Answer<V>>,
    ) {
        let turn = async {
            let _slot = self.slots.acquire().await;
            question.await
        };
        let late = |_| Err(Failure::unavailable("the API server does not answer"));
        let answer = tokio::time::timeout(PATIENCE, turn).await.unwrap_or_else(late);
        if let Ok(value) = &answer {
            let kept = if (self.is_good)(value) { &self.good } else { &self.bad };
            kept.insert(key, value.clone());
        }
        self.open.lock().remove(&key);
        tell.send_replace(Some(answer));
    }
}
