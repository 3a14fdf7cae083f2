//! Writes what the controller said to disk, one job at a time, as soon as it is said: an agent that is killed
//! and finds no controller afterwards must not know less than it has enforced.

use std::collections::HashSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::{JoinError, JoinHandle};

use super::files::{FileError, Files};
use antrea_enforce::cache::{Kind, Save};

/// What was to be saved, and whether it is.
type Saved = (Vec<Save>, Result<(), FileError>);

/// Whether the files say what is in force. They are marked as not to be believed before anything comes into force that is
/// not among them, and as complete when all of it is: whenever the agent ends, what it leaves is up to date or unbelieved.
#[derive(Debug)]
pub(super) struct Belief {
    files: Files,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How often something began to change.
    changes: u64,
    marked: bool,
}

impl Belief {
    /// Something that is not on disk is about to come into force. Waits for the disk.
    pub(super) fn changing(&self) {
        let mut state = self.state.lock();
        state.changes += 1;
        if state.marked && self.files.mark_incomplete() {
            state.marked = false;
        }
    }

    /// All of before the change of that number is on disk.
    fn saved(&self, changes: u64) -> Result<(), FileError> {
        let mut state = self.state.lock();
        if state.changes == changes {
            self.files.mark_complete()?;
            state.marked = true;
        }
        Ok(())
    }
}

/// See the module's description.
#[derive(Debug)]
pub(super) struct Saver {
    files: Files,
    belief: Arc<Belief>,
    running: Option<JoinHandle<Saved>>,
    /// In this life everything has been written once, and files of what is gone since the last life removed.
    complete: bool,
}

impl Saver {
    pub(super) fn new(files: Files) -> Self {
        // The last life may have marked its own.
        let state = Mutex::new(State { changes: 0, marked: true });
        let belief = Arc::new(Belief { files: files.clone(), state });
        Self { files, belief, running: None, complete: false }
    }

    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Tells whether the files are to be believed.
    pub(super) fn belief(&self) -> &Arc<Belief> {
        &self.belief
    }

    /// Whether a job is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Whether only what changes has to be written.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Whether the files are marked as complete.
    pub(super) fn is_believed(&self) -> bool {
        self.belief.state.lock().marked
    }

    /// Begins a job. `names`, of each kind, come with the first that saves everything: other files go.
    pub(super) fn start(&mut self, saves: Vec<Save>, names: Option<[(Kind, HashSet<Arc<str>>); 3]>) {
        self.complete |= names.is_some();
        let (files, belief) = (self.files.clone(), self.belief.clone());
        let changes = belief.state.lock().changes;
        self.running = Some(tokio::task::spawn_blocking(move || {
            let mut result = files.save(&saves);
            for (kind, names) in names.into_iter().flatten() {
                result = result.and(files.retain(kind, &names));
            }
            // Only now the files are all that there is.
            result = result.and_then(|()| belief.saved(changes));
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

    fn policy(name: &str) -> Save {
        let policy = NetworkPolicy { metadata: ObjectMeta::named(name), ..NetworkPolicy::default() };
        Save { kind: Kind::Policies, name: name.into(), bytes: Some(policy.seal()) }
    }

    fn all(names: &[&str]) -> Option<[(Kind, HashSet<Arc<str>>); 3]> {
        Some(Kind::ALL.map(|kind| {
            let names = names.iter().filter(|_| kind == Kind::Policies);
            (kind, names.map(|name| Arc::from(*name)).collect())
        }))
    }

    /// How many objects a life would go by that begins now, without a controller.
    fn believed(saver: &Saver) -> Option<usize> {
        saver.files().load().map(|events| events.len())
    }

    #[tokio::test]
    async fn a_life_that_ends_between_a_change_and_its_record_leaves_nothing_that_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let mut saver = Saver::new(Files::new(folder.path()));
        saver.belief().changing();
        saver.start(vec![policy("a")], all(&["a"]));
        assert!(saver.finished().await.unwrap().is_none());
        assert_eq!(believed(&saver), Some(1));
        // A life that heard nothing yet leaves it as it is.
        let mut saver = Saver::new(Files::new(folder.path()));
        assert_eq!(believed(&saver), Some(1));

        saver.belief().changing();
        assert_eq!(believed(&saver), None, "b is in force from now on");
        saver.start(vec![policy("b")], all(&["a", "b"]));
        saver.belief().changing();
        assert!(saver.finished().await.unwrap().is_none());
        assert_eq!(believed(&saver), None, "c came while b was written");
        assert!(!saver.is_believed());
        saver.start(vec![policy("c")], None);
        assert!(saver.finished().await.unwrap().is_none());
        assert_eq!(believed(&saver), Some(3));
    }

    #[tokio::test]
    async fn a_record_that_could_not_be_brought_up_to_date_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let mut saver = Saver::new(Files::new(folder.path()));
        saver.start(vec![policy("a")], all(&["a"]));
        assert!(saver.finished().await.unwrap().is_none());
        assert_eq!(saver.files().load().unwrap().len(), 1);

        // As on a full disk: a stricter policy cannot be written.
        let place = folder.path().join("network-policies");
        let aside = folder.path().join("aside");
        std::fs::rename(&place, &aside).unwrap();
        std::fs::write(&place, b"").unwrap();
        saver.belief().changing();
        saver.start(vec![policy("b")], None);
        let (unsaved, _) = saver.finished().await.unwrap().expect("it must fail");
        std::fs::remove_file(&place).unwrap();
        std::fs::rename(&aside, &place).unwrap();
        assert!(saver.files().load().is_none(), "policy b was in force and is not on disk");
        assert!(!saver.is_complete());

        saver.start(unsaved, all(&["a", "b"]));
        assert!(saver.finished().await.unwrap().is_none());
        assert_eq!(saver.files().load().unwrap().len(), 2);
    }
}
