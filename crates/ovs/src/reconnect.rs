//! The life of a session's task, whatever the protocol: connect, serve, lose the connection, wait, connect again.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::backoff::{Backoff, BackoffConfig};

/// Why the service of a connection ended.
pub(crate) enum End<E> {
    /// Cancelled, or no handle is left.
    Finished,
    Lost(E),
}

/// Connections so far, and the delay before the next try.
pub(crate) struct Attempts {
    backoff: Backoff,
    generation: u64,
}

impl Attempts {
    /// A connection is of use. Returns its number, from 1.
    pub(crate) fn connected(&mut self) -> u64 {
        self.backoff.reset();
        self.generation += 1;
        self.generation
    }
}

/// A task that owns one connection at a time.
pub(crate) trait Reconnect {
    type Error;

    /// One connection, from connecting to its loss.
    async fn serve(&mut self, attempts: &mut Attempts) -> End<Self::Error>;

    /// Tells everybody that the connection is lost; the next try comes after `delay`. Returns why, as text.
    fn lost(&mut self, error: Self::Error, delay: Duration) -> Arc<str>;

    /// Answers the next request with an error. False when no handle is left. Cancel safe.
    async fn refuse(&mut self, reason: &str) -> bool;

    /// Takes no more requests, and tells everybody.
    fn end(&mut self);
}

/// Keeps `task` connected until `cancel` fires or no handle is left.
pub(crate) async fn run(mut task: impl Reconnect, backoff: BackoffConfig, cancel: CancellationToken) {
    let mut attempts = Attempts { backoff: Backoff::new(backoff), generation: 0 };
    loop {
        let end = tokio::select! {
            () = cancel.cancelled() => End::Finished,
            end = task.serve(&mut attempts) => end,
        };
        let End::Lost(error) = end else { break };
        let delay = attempts.backoff.next_delay();
        let reason = task.lost(error, delay);
        let refused = async { while task.refuse(&reason).await {} };
        tokio::select! {
            () = cancel.cancelled() => break,
            () = sleep(delay) => {}
            () = refused => break,
        }
    }
    task.end();
}
