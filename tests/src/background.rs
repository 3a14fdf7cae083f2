//! What serves while a test blocks.

use std::fs::File;

use nix::sched::{CloneFlags, setns};
use tokio_util::sync::CancellationToken;

/// A thread with a runtime of its own, for whoever uses the lab blocks the thread that it is used from, and what a
/// blocked worker of a runtime had in its hands waits for as long. Dropped, the future ends, and with it what it spawned.
#[derive(Debug)]
pub struct Background {
    stop: CancellationToken,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Background {
    /// Runs what `make` returns, within the runtime.
    pub fn run<F: Future>(make: impl FnOnce() -> F + Send + 'static) -> Self {
        Self::start(None, make)
    }

    /// The same in a network namespace: sockets are opened there.
    pub fn run_in<F: Future>(netns: &str, make: impl FnOnce() -> F + Send + 'static) -> Self {
        Self::start(Some(File::open(format!("/run/netns/{netns}")).unwrap()), make)
    }

    fn start<F: Future>(netns: Option<File>, make: impl FnOnce() -> F + Send + 'static) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            if let Some(netns) = netns {
                setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                stopped.run_until_cancelled(make()).await;
            });
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
