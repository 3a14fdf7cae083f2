//! What this node made of each policy, posted to `networkpolicies/{name}/status`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use antrea_api::controlplane::{API_VERSION, NetworkPolicyNodeStatus, NetworkPolicyStatus};
use antrea_api::k8s::{Object, ObjectMeta};
use antrea_runtime::backoff::Backoff;
use futures::StreamExt;
use http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::client::{ClientError, Session};
use super::spec::Policy;

/// Changes that follow each other within this time are posted together, each policy once.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Posts under way at once. Every node reports, so this must be gentle on the controller.
const PARALLEL: usize = 4;

/// First and longest pause after a post that failed.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// What is to be reported; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Board(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    wanted: Mutex<HashMap<Arc<str>, Realised>>,
    changed: Notify,
}

/// Generation that is in force, and what of it could not be realised.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Realised {
    generation: i64,
    problems: String,
}

impl Board {
    /// Policies that are in force now, or gone.
    pub(crate) fn update(&self, policies: impl IntoIterator<Item = (Arc<str>, Option<Arc<Policy>>)>) {
        let mut wanted = self.0.wanted.lock();
        for (name, policy) in policies {
            match policy {
                Some(policy) => wanted.insert(
                    name,
                    Realised { generation: policy.generation, problems: policy.problems.join("; ") },
                ),
                None => wanted.remove(&name),
            };
        }
        self.0.changed.notify_one();
    }

    fn differing(&self, sent: &mut HashMap<Arc<str>, Realised>) -> Vec<(Arc<str>, Realised)> {
        let wanted = self.0.wanted.lock();
        sent.retain(|name, _| wanted.contains_key(name));
        wanted
            .iter()
            .filter(|(name, realised)| sent.get(*name) != Some(*realised))
            .map(|(name, realised)| (name.clone(), realised.clone()))
            .collect()
    }
}

/// Posts what changed; everything in a new session, for the controller may be another one. Ends with the
/// sender of sessions.
pub(crate) async fn run(board: Board, node: String, mut sessions: watch::Receiver<Option<Session>>) {
    let mut sent = HashMap::new();
    let mut backoff = Backoff::new(RETRY[0], RETRY[1]);
    loop {
        if sessions.has_changed().unwrap_or(true) {
            sent.clear();
        }
        let session = sessions.borrow_and_update().clone();
        let mut failed = None;
        if let Some(session) = session {
            let posts = board.differing(&mut sent).into_iter().map(|(name, realised)| {
                let (session, node) = (&session, &node);
                async move {
                    let result = post(session, node, &name, &realised).await;
                    (name, realised, result)
                }
            });
            let mut results = futures::stream::iter(posts).buffer_unordered(PARALLEL);
            while let Some((name, realised, result)) = results.next().await {
                match result {
                    Ok(()) => {
                        sent.insert(name, realised);
                    }
                    // It is gone, and its deletion is on the way to us.
                    Err(ClientError::Refused { code: StatusCode::NOT_FOUND, .. }) => {
                        sent.insert(name, realised);
                    }
                    Err(error) => failed = Some(error),
                }
            }
        }
        let pause = match failed {
            Some(error) => {
                tracing::debug!(%error, "status of a policy not reported");
                backoff.next_delay()
            }
            None => {
                backoff.reset();
                Duration::MAX
            }
        };
        tokio::select! {
            changed = sessions.changed() => match changed {
                Ok(()) => sent.clear(),
                Err(_) => return,
            },
            () = board.0.changed.notified() => tokio::time::sleep(DEBOUNCE).await,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn post(session: &Session, node: &str, name: &str, realised: &Realised) -> Result<(), ClientError> {
    let status = NetworkPolicyStatus {
        metadata: ObjectMeta::named(name),
        nodes: vec![NetworkPolicyNodeStatus {
            node_name: node.to_owned(),
            generation: realised.generation,
            realization_failure: !realised.problems.is_empty(),
            message: realised.problems.clone(),
        }],
    };
    session.post(&format!("/apis/{API_VERSION}/networkpolicies/{name}/status"), status.seal()).await
}
