//! Owns the tasks of a process.

use std::{fmt::Display, future::Future, time::Duration};

use futures::future::select_all;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Time that tasks get to end after the shutdown token is cancelled.
const GRACE: Duration = Duration::from_secs(5);

/// A set of long-lived tasks of which none may end before the shutdown token is cancelled.
pub struct Supervisor {
    tasks: JoinSet<(&'static str, Result<(), String>)>,
    shutdown: CancellationToken,
    grace: Duration,
}

/// Why [`Supervisor::run`] ended the process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A task returned without an error although nobody asked it to end.
    #[error("task {0} ended unexpectedly")]
    Ended(&'static str),
    /// A task failed.
    #[error("task {name} failed: {cause}")]
    Failed {
        /// Name given to [`Supervisor::spawn`].
        name: &'static str,
        /// The task's error with its causes.
        cause: String,
    },
    /// A task panicked.
    #[error("a task panicked: {0}")]
    Panicked(String),
}

impl Supervisor {
    /// Tasks end when `shutdown` is cancelled; it is cancelled here when a task ends by itself.
    pub fn new(shutdown: CancellationToken) -> Self {
        Self { tasks: JoinSet::new(), shutdown, grace: GRACE }
    }

    /// The token that tells tasks to end.
    pub fn token(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Starts a task. It has to return soon after the shutdown token is cancelled.
    pub fn spawn<E: Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (name, task.await.map_err(|e| format!("{e:#}"))) });
    }

    /// Starts a task that knows nothing of shutdown and is dropped at its next await point then.
    pub fn spawn_abortable<E: Display>(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let shutdown = self.shutdown.clone();
        self.spawn(name, async move {
            tokio::select! {
                () = shutdown.cancelled() => Ok(()),
                result = task => result.map_err(|e| format!("{e:#}")),
            }
        });
    }

    /// Waits until shutdown is asked for or a task ends, then for the others to end (5 s, after which
    /// they are aborted).
    ///
    /// # Errors
    /// The first task that ended by itself.
    pub async fn run(mut self) -> Result<(), Error> {
        let shutdown = self.shutdown.clone();
        let mut result = Ok(());
        tokio::select! {
            () = shutdown.cancelled() => {}
            ended = self.tasks.join_next(), if !self.tasks.is_empty() => {
                if !shutdown.is_cancelled() && let Some(ended) = ended {
                    result = Err(match ended {
                        Ok((name, Ok(()))) => Error::Ended(name),
                        Ok((name, Err(cause))) => Error::Failed { name, cause },
                        Err(join) => Error::Panicked(join.to_string()),
                    });
                }
                shutdown.cancel();
            }
        }
        let drained = tokio::time::timeout(self.grace, async {
            while let Some(ended) = self.tasks.join_next().await {
                match ended {
                    Ok((name, Ok(()))) => tracing::debug!(task = name, "ended"),
                    Ok((name, Err(cause))) => tracing::warn!(task = name, cause, "failed during shutdown"),
                    Err(join) => tracing::error!(%join, "panicked during shutdown"),
                }
            }
        });
        if drained.await.is_err() {
            tracing::warn!(left = self.tasks.len(), "tasks did not end in time and are aborted");
            self.tasks.shutdown().await;
        }
        result
    }
}

/// Tasks without which one that is supervised is of no use: it looks out for the end of any of them ([`Self::ended`]).
/// Dropping this leaves them alone.
#[derive(Debug, Default)]
pub struct Needed(Vec<(&'static str, JoinHandle<()>)>);

impl Needed {
    /// Starts one.
    pub fn spawn(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.add(name, tokio::spawn(task));
    }

    /// Takes in one that was started.
    pub fn add(&mut self, name: &'static str, task: JoinHandle<()>) {
        self.0.push((name, task));
    }

    /// Waits until one ends, in whatever way; for ever if there is none.
    pub async fn ended(self) -> Error {
        if self.0.is_empty() {
            return std::future::pending().await;
        }
        let (names, tasks): (Vec<_>, Vec<_>) = self.0.into_iter().unzip();
        match select_all(tasks).await {
            (Ok(()), at, _) => Error::Ended(names[at]),
            (Err(join), ..) => Error::Panicked(join.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_takes_the_rest_down() {
        let mut tasks = Supervisor::new(CancellationToken::new());
        let token = tasks.token().clone();
        let seen = token.clone();
        tasks.spawn("waits", async move {
            seen.cancelled().await;
            Ok::<_, String>(())
        });
        tasks.spawn("fails", async { Err("disk on fire") });
        let error = tasks.run().await.unwrap_err();
        assert_eq!(error.to_string(), "task fails failed: disk on fire");
        assert!(token.is_cancelled());
    }

    #[tokio::test]
    async fn an_early_return_is_an_error_and_a_shutdown_is_not() {
        let mut tasks = Supervisor::new(CancellationToken::new());
        tasks.spawn("early", async { Ok::<_, String>(()) });
        assert!(matches!(tasks.run().await, Err(Error::Ended("early"))));

        let token = CancellationToken::new();
        let mut tasks = Supervisor::new(token.clone());
        tasks.spawn_abortable("forever", std::future::pending::<Result<(), String>>());
        token.cancel();
        tasks.run().await.unwrap();
    }

    #[tokio::test]
    async fn the_end_of_a_needed_task_is_seen() {
        let mut needed = Needed::default();
        needed.spawn("stays", std::future::pending());
        needed.spawn("goes", async {});
        assert_eq!(needed.ended().await.to_string(), "task goes ended unexpectedly");

        let mut needed = Needed::default();
        needed.spawn("stays", std::future::pending());
        needed.add("breaks", tokio::spawn(async { panic!("in the middle") }));
        assert!(matches!(needed.ended().await, Error::Panicked(why) if why.contains("in the middle")));
    }

    #[tokio::test]
    async fn a_task_that_ignores_shutdown_is_aborted() {
        let token = CancellationToken::new();
        let mut tasks = Supervisor { grace: Duration::from_millis(20), ..Supervisor::new(token.clone()) };
        tasks.spawn("deaf", std::future::pending::<Result<(), String>>());
        token.cancel();
        tasks.run().await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_is_reported() {
        let mut tasks = Supervisor::new(CancellationToken::new());
        tasks.spawn("panics", async {
            if true {
                panic!("boom");
            }
            Ok::<_, String>(())
        });
        assert!(matches!(tasks.run().await, Err(Error::Panicked(_))));
    }
}
