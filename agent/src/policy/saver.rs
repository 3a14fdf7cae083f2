//! Writes what the controller said to disk, one job at a time, as soon as it is said: an agent that is killed
//! and finds no controller afterwards must not know less than it has enforced.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::task::{JoinError, JoinHandle};

use super::files::{FileError, Files};
use antrea_enforce::cache::{Kind, Save};

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
            if result.is_err() {
                // What is on disk is older than what is in force: a start without the controller must not go by it.
                files.mark_incomplete();
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

#[cfg(test)]
mod tests {
    use antrea_api::controlplane::NetworkPolicy;
    use antrea_api::k8s::{Object, ObjectMeta};

    use super::*;

    #[tokio::test]
    async fn a_record_that_could_not_be_brought_up_to_date_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let mut saver = Saver::new(Files::new(folder.path()));
        let policy = |name: &str| {
            let policy = NetworkPolicy { metadata: ObjectMeta::named(name), ..NetworkPolicy::default() };
            Save { kind: Kind::Policies, name: name.into(), bytes: Some(policy.seal()) }
        };
        let all = |names: &[&str]| {
            Kind::ALL.map(|kind| {
                let names = names.iter().filter(|_| kind == Kind::Policies);
                (kind, names.map(|name| Arc::from(*name)).collect())
            })
        };
        saver.start(vec![policy("a")], Some(all(&["a"])));
        assert!(saver.finished().await.unwrap().is_none());
        assert_eq!(saver.files().load().unwrap().len(), 1);

        // As on a full disk: a stricter policy cannot be written.
        let place = folder.path().join("network-policies");
        let aside = folder.path().join("aside");
        std::fs::rename(&place, &aside).unwrap();
        std::fs::write(&place, b"").unwrap();
        saver.start(vec![policy("b")], None);
        let (unsaved, _) = saver.finished().await.unwrap().expect("it must fail");
        std::fs::remove_file(&place).unwrap();
        std::fs::rename(&aside, &place).unwrap();
        assert!(saver.files().load().is_none(), "policy b was in force and is not on disk");
        assert!(!saver.is_complete());

        saver.start(unsaved, Some(all(&["a", "b"])));
        assert!(saver.finished().await.unwrap().is_none());
        assert_eq!(saver.files().load().unwrap().len(), 2);
    }
}
