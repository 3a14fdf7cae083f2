//! Tells the controller which addresses this node's pods have, so that peers' policies know them before kubelet has
//! written them into the pods' status.
//!
//! Each time all of them are told, which replaces what was told before: what is lost is said again with the next change
//! and in the next session, for the controller may be another one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use antrea_api::addresses::{self, Answer, MAX_PODS, PodAddress, PodAddresses};
use antrea_enforce::pods::LocalPod;
use antrea_runtime::backoff::Backoff;
use tokio::sync::watch;

use super::client::{ClientError, Session};
use super::handle::PolicyHandle;

/// First and longest pause after a try that failed. kubelet's word comes anyway.
const RETRY: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(30)];

impl PolicyHandle {
    /// Tells the addresses of `pods` whenever `changes` says that they changed, for ever.
    pub async fn tell_addresses(
        &self,
        pods: impl Fn() -> Vec<LocalPod>,
        mut changes: watch::Receiver<usize>,
    ) {
        let Some(path) = addresses::path(&self.confirmer.node) else { return std::future::pending().await };
        let mut sessions = self.confirmer.sessions.clone();
        let mut backoff = Backoff::new(RETRY[0], RETRY[1]);
        let mut told = None;
        let mut since = Instant::now();
        loop {
            if sessions.has_changed().unwrap_or(true) {
                told = None;
            }
            let session = sessions.borrow_and_update().clone();
            changes.borrow_and_update();
            let now = list(&pods());
            let mut pause = Duration::MAX;
            if let Some(session) = session
                && told.as_ref() != Some(&now)
            {
                match tell(&session, &path, &now).await {
                    Ok(answer) => {
                        self.address_told.observe(since.elapsed().as_secs_f64());
                        if let Some(first) = answer.refused.first() {
                            tracing::warn!(first, "the controller does not believe what addresses pods have");
                        }
                        told = Some(now);
                        backoff.reset();
                    }
                    Err(error) => {
                        tracing::debug!(%error, "addresses of pods not told");
                        pause = backoff.next_delay();
                    }
                }
            }
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    since = Instant::now();
                }
                changed = sessions.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    told = None;
                    since = Instant::now();
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}

async fn tell(session: &Session, path: &str, now: &PodAddresses) -> Result<Answer, ClientError> {
    let body = session.put_json(path, now).await?;
    // A later controller may say more than this agent reads.
    Ok(serde_json::from_slice(&body).unwrap_or_default())
}

/// What is told of these attachments. A pod with more than one is not told of: a sandbox may be about to replace another,
/// and which it will be is kubelet's to say.
fn list(pods: &[LocalPod]) -> PodAddresses {
    let mut of_pod: BTreeMap<(&str, &str), Vec<&LocalPod>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !pod.uid.is_empty() && !pod.ips.is_empty()) {
        of_pod.entry((&pod.pod.namespace, &pod.pod.name)).or_default().push(pod);
    }
    let single = of_pod.into_values().filter_map(|attachments| match attachments[..] {
        [pod] => Some(pod),
        _ => None,
    });
    let pods = single.take(MAX_PODS).map(|pod| PodAddress {
        namespace: pod.pod.namespace.clone(),
        name: pod.pod.name.clone(),
        uid: pod.uid.clone(),
        ips: pod.ips.clone(),
    });
    PodAddresses { pods: pods.collect() }
}

#[cfg(test)]
mod tests {
    use antrea_api::controlplane::ObjectReference;

    use super::*;

    #[test]
    fn a_pod_with_one_attachment_and_a_uid_is_told_of() {
        let pod = |name: &str, uid: &str, container: &str, ips: &[&str]| LocalPod {
            pod: ObjectReference { name: name.into(), namespace: "shop".into() },
            ofport: 1,
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            uid: uid.into(),
            attachment: (container.into(), "eth0".into()),
        };
        let told = list(&[
            pod("web", "u1", "c1", &["10.244.1.2", "fd00::2"]),
            pod("nameless", "", "c2", &["10.244.1.3"]),
            pod("twice", "u3", "c3", &["10.244.1.4"]),
            pod("twice", "u3", "c4", &["10.244.1.5"]),
            pod("bare", "u4", "c5", &[]),
        ]);
        let names: Vec<_> = told.pods.iter().map(|pod| (&*pod.name, &*pod.uid, pod.ips.len())).collect();
        assert_eq!(names, [("web", "u1", 2)]);
    }
}
