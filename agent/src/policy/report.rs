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
use antrea_enforce::spec::Policy;

/// Changes that follow each other within this time are posted together, each policy once.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// Posts under way at once. Every node reports, so this must be gentle on the controller.
const PARALLEL: usize = 4;

/// First and longest pause after a post that failed.
const RETRY: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(30)];

/// What is to be reported; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Board(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Policies in force.
    wanted: Mutex<HashMap<Arc<str>, Arc<Policy>>>,
    changed: Notify,
}

impl Board {
    /// Policies that are in force now, or gone.
    pub fn update(&self, policies: impl IntoIterator<Item = (Arc<str>, Option<Arc<Policy>>)>) {
        let mut wanted = self.0.wanted.lock();
        for (name, policy) in policies {
            match policy {
                // What the node adds to a policy's problems is added anew each time.
                Some(policy) if wanted.get(&name).is_some_and(|known| is_same(known, &policy)) => None,
                Some(policy) => wanted.insert(name, policy),
                None => wanted.remove(&name),
            };
        }
        self.0.changed.notify_one();
    }

    /// What is not sent yet. A policy that went and came back is another one, for the controller forgot what
    /// it was told: so pointers are compared.
    fn differing(&self, sent: &mut HashMap<Arc<str>, Arc<Policy>>) -> Vec<Arc<Policy>> {
        let wanted = self.0.wanted.lock();
        sent.retain(|name, _| wanted.contains_key(name));
        let is_sent =
            |policy: &&Arc<Policy>| sent.get(&policy.name).is_some_and(|sent| Arc::ptr_eq(sent, policy));
        wanted.values().filter(|policy| !is_sent(policy)).cloned().collect()
    }
}

fn is_same(known: &Arc<Policy>, policy: &Arc<Policy>) -> bool {
    Arc::ptr_eq(known, policy) || (!policy.problems.is_empty() && known == policy)
}

/// Posts what changed; everything in a new session, for the controller may be another one. Ends with the
/// sender of sessions.
pub async fn run(board: Board, node: String, mut sessions: watch::Receiver<Option<Session>>) {
    let mut sent = HashMap::new();
    let mut backoff = Backoff::new(RETRY[0], RETRY[1]);
    loop {
        if sessions.has_changed().unwrap_or(true) {
            sent.clear();
        }
        let session = sessions.borrow_and_update().clone();
        let mut failed = None;
        if let Some(session) = session {
            let posts = board.differing(&mut sent).into_iter().map(|policy| {
                let (session, node) = (&session, &node);
                async move {
                    let result = post(session, node, &policy).await;
                    (policy, result)
                }
            });
            let mut results = futures::stream::iter(posts).buffer_unordered(PARALLEL);
            while let Some((policy, result)) = results.next().await {
                match result {
                    // Not found: it is gone, and its deletion is on the way to us.
                    Ok(()) | Err(ClientError::Refused { code: StatusCode::NOT_FOUND, .. }) => {
                        sent.insert(policy.name.clone(), policy);
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

async fn post(session: &Session, node: &str, policy: &Policy) -> Result<(), ClientError> {
    let name = &*policy.name;
    let status = NetworkPolicyStatus {
        metadata: ObjectMeta::named(name),
        nodes: vec![NetworkPolicyNodeStatus {
            node_name: node.to_owned(),
            generation: policy.generation,
            realization_failure: !policy.problems.is_empty(),
            message: policy.problems.join("; "),
        }],
    };
    session.post(&format!("/apis/{API_VERSION}/networkpolicies/{name}/status"), status.seal()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use antrea_enforce::testing::policy;

    #[test]
    fn tells_again_of_a_policy_that_went_and_came_back() {
        let (board, mut sent) = (Board::default(), HashMap::new());
        let read = || Arc::new(Policy::read(&policy("P", 1, "a", &[])));
        let policy = read();
        board.update([(policy.name.clone(), Some(policy.clone()))]);
        for _ in 0..2 {
            assert_eq!(board.differing(&mut sent), std::slice::from_ref(&policy));
        }
        sent.insert(policy.name.clone(), policy.clone());
        board.update([(policy.name.clone(), Some(policy.clone()))]);
        assert!(board.differing(&mut sent).is_empty());
        board.update([(policy.name.clone(), None)]);
        board.update([(policy.name.clone(), Some(read()))]);
        assert_eq!(board.differing(&mut sent).len(), 1);
    }
}
