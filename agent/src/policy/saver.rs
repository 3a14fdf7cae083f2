//! Writes what the controller said to disk, one job at a time, as soon as it is said: an agent that is killed
//! and finds no controller afterwards must not know less than it has enforced.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::task::{JoinError, JoinHandle};

use super::cache::{Kind, Save};
use super::files::{FileError, Files};

/// What was to be saved, and whether it is.
type Saved = (Vec<Save>, Result<(), FileError>);

/// See the module's description.
#[derive(Debug)]
pub(super) struct Saver {
    files: Files,
    running: Option<JoinHandle<Saved>>,
    /// In this life everything has been written once, and files of what is gone since the last life removed.
    complete: bool,
}

impl Saver {
    pub(super) fn new(files: Files) -> Self {
        Self { files, running: None, complete: false }
    }

    /// The files.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Whether a job is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Whether only what changes has to be written.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Begins a job. `names`, of each kind, come with the first that saves everything: other files go.
    pub(super) fn start(&mut self, saves: Vec<Save>, names: Option<[(Kind, HashSet<Arc<str>>); 3]>) {
        self.complete |= names.is_some();
        let files = self.files.clone();
        self.running = Some(tokio::task::spawn_blocking(move || {
            let mut result = files.save(&saves);
            if let Some(names) = names {
                for (kind, names) in names {
                    result = result.and(files.retain(kind, &names));
                }
                // Only now the files are all that there is.
                result = result.and_then(|()| files.mark_complete());
            }
            (saves, result)
        }));
    }

    /// Waits for the job under way, for ever if there is none; returns what could not be saved, and why.
    /// Nothing is lost by dropping the future.
    ///
    /// # Errors
    /// The job panicked.
    pub(super) async fn finished(&mut self) -> Result<Option<(Vec<Save>, FileError)>, JoinError> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let done = running.await;
        self.running = None;
        let (saves, result) = done?;
        Ok(result.err().map(|error| {
            self.complete = false;
            (saves, error)
        }))
    }
}
