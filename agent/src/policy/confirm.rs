//! Whether the controller has told all that it has to tell of a pod that is about to be connected.
//!
//! Kubelet, controller and agent learn of a pod by different ways, and nothing says which is the first. So
//! the agent asks the controller what selects the pod, and the pod is connected when the cache holds that: the
//! answer is a fact of the moment, and the watches bring what comes after. While nobody answers, a pod that the
//! controller has told everything of before (the same UID, in a new sandbox) goes by what was said last, as do
//! all pods that run; any other has to wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antrea_api::controlplane::ObjectReference;
use antrea_api::selection::{PodQuery, PodSelection};
use antrea_enforce::kept::Doubt;
use antrea_runtime::backoff::Backoff;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::client::{ClientError, Session};
use super::handle::{PolicyError, PolicyHandle, Request};

/// How long a pod is held back before the runtime is told to try again; antrea-cni waits for 60 s.
const WAIT: Duration = Duration::from_secs(20);

/// First and longest pause between questions.
const PAUSE: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(500)];

/// Pods that are remembered. A node has a few hundred; those that are forgotten have to wait for the controller.
const REMEMBERED: usize = 4096;

/// Why a pod is not connected yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unconfirmed {
    /// Nobody to ask.
    #[error("there is no connection to the controller")]
    NoController,
    /// The controller did not answer, or cannot at present.
    #[error("the controller does not answer: {0}")]
    NoAnswer(String),
    /// The controller's watch is behind, or there is no such pod.
    #[error("the controller does not know this pod on this node yet")]
    Unknown,
    /// The agent's watches are behind.
    #[error("not all policies that the controller has for it have arrived")]
    Behind,
    /// No such name exists in Kubernetes.
    #[error("its name is malformed")]
    Malformed,
}

impl Unconfirmed {
    /// Whether the controller is as good as away.
    fn is_silence(&self) -> bool {
        matches!(self, Self::NoController | Self::NoAnswer(_))
    }
}

/// A pod as the runtime names it.
#[derive(Clone, Copy, Debug)]
pub struct PodName<'a> {
    pub namespace: &'a str,
    /// Name; empty for a container that is no pod.
    pub name: &'a str,
    /// UID; empty where the runtime does not tell.
    pub uid: &'a str,
}

/// Asks the controller.
#[derive(Debug)]
pub(super) struct Confirmer {
    pub(super) node: String,
    pub(super) sessions: watch::Receiver<Option<Session>>,
    confirmed: Mutex<Confirmed>,
}

/// UIDs of pods that the controller has told everything of, the oldest first.
#[derive(Debug, Default)]
struct Confirmed(VecDeque<Box<str>>);

impl Confirmed {
    fn insert(&mut self, uid: &str) {
        if uid.is_empty() || self.contains(uid) {
            return;
        }
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(uid.into());
    }

    fn contains(&self, uid: &str) -> bool {
        self.0.iter().any(|known| **known == *uid)
    }
}

impl Confirmer {
    pub(super) fn new(node: String, sessions: watch::Receiver<Option<Session>>) -> Self {
        Self { node, sessions, confirmed: Mutex::default() }
    }
}

/// What the controller says of a pod that lost a policy.
#[derive(Debug)]
pub(super) enum Life {
    /// It knows the pod, and what selects it.
    Known(PodSelection),
    /// It knows no such pod, or knows that it has ended.
    Unknown,
    /// Nobody answered.
    Silence,
}

impl Confirmer {
    /// Asks about a pod, once.
    pub(super) async fn life(&self, doubt: &Doubt) -> Life {
        let query = PodQuery {
            node: self.node.clone(),
            namespace: doubt.pod.namespace.clone(),
            pod: doubt.pod.name.clone(),
            uid: doubt.uid.clone(),
        };
        let session = self.sessions.borrow().clone();
        let (Some(path), Some(session)) = (query.path(), session) else { return Life::Silence };
        match ask(&session, &path).await {
            Ok(selection) => Life::Known(selection),
            Err(Unconfirmed::Unknown) => Life::Unknown,
            Err(why) => {
                tracing::debug!(pod = doubt.pod.name, %why, "whether the pod is alive");
                Life::Silence
            }
        }
    }
}

impl PolicyHandle {
    /// These pods were connected in an earlier life of the agent.
    pub fn remember_confirmed<'a>(&self, uids: impl IntoIterator<Item = &'a str>) {
        let mut confirmed = self.confirmer.confirmed.lock();
        uids.into_iter().for_each(|uid| confirmed.insert(uid));
    }

    /// Waits until all policies that select the pod are known here, at most 20 s. To be called before
    /// [`Self::install_pod`].
    ///
    /// # Errors
    /// They are not: the pod must not be connected. The process ends.
    pub async fn confirm_pod(&self, pod: PodName<'_>) -> Result<(), PolicyError> {
        let PodName { namespace, name, uid } = pod;
        if name.is_empty() {
            return Ok(());
        }
        let reference = ObjectReference { name: name.to_owned(), namespace: namespace.to_owned() };
        let query = PodQuery {
            node: self.confirmer.node.clone(),
            namespace: namespace.to_owned(),
            pod: name.to_owned(),
            uid: uid.to_owned(),
        };
        let failed = |why| PolicyError::Unconfirmed { pod: format!("{namespace}/{name}").into(), why };
        let path = query.path().ok_or_else(|| failed(Unconfirmed::Malformed))?;
        let end = Instant::now() + WAIT;
        let mut backoff = Backoff::new(PAUSE[0], PAUSE[1]);
        let mut sessions = self.confirmer.sessions.clone();
        loop {
            let session = sessions.borrow_and_update().clone();
            let why = match session {
                None => Unconfirmed::NoController,
                Some(session) => match ask(&session, &path).await {
                    Ok(selection) => {
                        if self.holds(&reference, selection).await? {
                            self.confirmer.confirmed.lock().insert(uid);
                            return Ok(());
                        }
                        Unconfirmed::Behind
                    }
                    Err(why) => why,
                },
            };
            if why.is_silence() && self.confirmer.confirmed.lock().contains(uid) {
                tracing::warn!(namespace, name, %why, "the pod goes by the policies that were told last");
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(failed(why));
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_delay().min(left)) => {}
                changed = sessions.changed() => if changed.is_err() {
                    return Err(PolicyError::Closed);
                }
            }
        }
    }

    async fn holds(&self, pod: &ObjectReference, selection: PodSelection) -> Result<bool, PolicyError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        let request = Request::Holds(pod.clone(), selection, reply);
        self.requests.send(request).await.map_err(|_| PolicyError::Closed)?;
        answer.await.map_err(|_| PolicyError::Closed)
    }
}

async fn ask(session: &Session, path: &str) -> Result<PodSelection, Unconfirmed> {
    let silence = |error: &dyn std::fmt::Display| Unconfirmed::NoAnswer(error.to_string());
    match session.get(path).await {
        Ok(body) => serde_json::from_slice(&body).map_err(|error| silence(&error)),
        Err(ClientError::Refused { code: StatusCode::NOT_FOUND, .. }) => Err(Unconfirmed::Unknown),
        Err(error) => Err(silence(&error)),
    }
}

/// Shared by clones of the handle.
pub(super) type SharedConfirmer = Arc<Confirmer>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut confirmed = Confirmed::default();
        confirmed.insert("");
        for n in 0..=REMEMBERED {
            confirmed.insert(&n.to_string());
            confirmed.insert(&n.to_string());
        }
        assert_eq!(confirmed.0.len(), REMEMBERED);
        assert!(!confirmed.contains("") && !confirmed.contains("0") && confirmed.contains("1"));
    }
}
