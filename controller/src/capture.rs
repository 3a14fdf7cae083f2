//! PacketCaptures that no agent can tell of: what is wrong with their Pods, and silence.
//!
//! The agent of the Pod's Node does all else. What is decided follows from the objects and the time alone, so a controller
//! that starts anew goes on where the last one was.

use std::collections::BTreeMap;
use std::time::Duration;

use antrea_capture::request::{Name, Request};
use antrea_capture::status::{Outcome, Stage, deadline, status};
use antrea_crds::PacketCapture;
use antrea_crds::packet_capture::COMPLETE;
use antrea_runtime::client::{describe, describe_watch};
use antrea_runtime::tolerant::watch_all;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::runtime::watcher::Event;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use crate::MANAGER;

/// Limit of one request to the API server.
const LIMIT: Duration = Duration::from_secs(5);

/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What may have to be told, by name.
#[derive(Default)]
struct Open {
    captures: BTreeMap<String, PacketCapture>,
    /// Of a list under way.
    listing: Option<BTreeMap<String, PacketCapture>>,
    /// When those are ended again whose end could not be written. The others do not wait for them.
    later: BTreeMap<String, Timestamp>,
}

impl Open {
    /// Takes an event in, and returns captures that nobody has looked at.
    fn apply(&mut self, event: Event<PacketCapture>) -> Option<PacketCapture> {
        match event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(capture) => {
                self.listing.get_or_insert_default().insert(capture.name_any(), capture.clone());
                return is_new(&capture).then_some(capture);
            }
            Event::InitDone => self.captures = self.listing.take().unwrap_or_default(),
            Event::Apply(capture) => {
                let over = capture.status.as_ref().is_some_and(|status| status.is(COMPLETE));
                if over {
                    self.captures.remove(&capture.name_any());
                } else {
                    self.captures.insert(capture.name_any(), capture.clone());
                }
                return is_new(&capture).then_some(capture);
            }
            Event::Delete(capture) => drop(self.captures.remove(&capture.name_any())),
        }
        None
    }

    /// The next that has to be ended: when, which, and what its agent has not done.
    fn next(&self) -> Option<(Timestamp, &PacketCapture, &'static str)> {
        let due = self.captures.values().filter_map(|capture| {
            let (at, what) = deadline(capture)?;
            let later = self.later.get(&capture.name_any()).copied();
            Some((later.map_or(at, |later| at.max(later)), capture, what))
        });
        due.min_by_key(|(at, ..)| *at)
    }

    /// Its end is written, or is to be tried again.
    fn ended(&mut self, name: &str, written: bool, now: Timestamp) {
        if written {
            self.captures.remove(name);
            self.later.remove(name);
        } else {
            self.later.insert(name.to_owned(), now.saturating_add(RETRY).unwrap_or(Timestamp::MAX));
        }
        let Self { captures, later, .. } = self;
        later.retain(|name, _| captures.contains_key(name));
    }
}

fn is_new(capture: &PacketCapture) -> bool {
    capture.status.as_ref().is_none_or(|status| status.conditions.is_empty())
}

/// Sees to all captures. Never ends.
pub(crate) async fn run(client: Client) {
    let api: Api<PacketCapture> = Api::all(client.clone());
    let mut stream = watch_all(&client);
    let mut open = Open::default();
    loop {
        let due = open.next().map(|(at, ..)| at);
        tokio::select! {
            event = stream.next() => match event {
                Some(Ok(event)) => {
                    if let Some(capture) = open.apply(event)
                        && let Err(reason) = check(&client, &capture).await
                    {
                        let written = fail(&api, &capture, reason).await;
                        open.ended(&capture.name_any(), written, Timestamp::now());
                    }
                }
                Some(Err(error)) => {
                    tracing::debug!(error = describe_watch(&error), "watch of PacketCaptures failed");
                }
                None => stream = watch_all(&client),
            },
            () = sleep_until(due) => {
                let Some((_, capture, what)) = open.next() else { continue };
                let (capture, reason) = (capture.clone(), silence(&client, capture, what).await);
                let written = fail(&api, &capture, reason).await;
                open.ended(&capture.name_any(), written, Timestamp::now());
            }
        }
    }
}

async fn sleep_until(at: Option<Timestamp>) {
    match at {
        Some(at) => {
            tokio::time::sleep(Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default())
                .await;
        }
        None => std::future::pending().await,
    }
}

/// Whether there is a Pod at which can be captured, and on which Node. A Pod that cannot be asked about is taken to be there.
async fn check(client: &Client, capture: &PacketCapture) -> Result<Option<String>, String> {
    let request = Request::read(&capture.spec).map_err(|problem| problem.to_string())?;
    let field = format!("{}.pod", request.pod_field);
    let Some(pod) = get(client, &field, &request.pod).await? else { return Ok(None) };
    let spec = pod.spec.unwrap_or_default();
    if spec.host_network == Some(true) {
        return Err(format!("{field}: {} is on its Node's network and has no link of its own", request.pod));
    }
    match spec.node_name {
        Some(node) => Ok(Some(node)),
        None => Err(format!("{field}: {} is on no Node yet", request.pod)),
    }
}

async fn get(client: &Client, field: &str, name: &Name) -> Result<Option<Pod>, String> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &name.namespace);
    match tokio::time::timeout(LIMIT, api.get_opt(&name.name)).await {
        Ok(Ok(Some(pod))) => Ok(Some(pod)),
        Ok(Ok(None)) => Err(format!("{field}: there is no Pod {name}")),
        Ok(Err(error)) => {
            tracing::debug!(%name, error = describe(&error), "cannot ask about the Pod of a capture");
            Ok(None)
        }
        Err(_) => Ok(None),
    }
}

/// What to say of an agent that says nothing.
async fn silence(client: &Client, capture: &PacketCapture, what: &str) -> String {
    match check(client, capture).await {
        Err(reason) => reason,
        Ok(Some(node)) => format!(
            "the agent of Node {node} {what}: see whether it runs, with the feature gate PacketCapture, and knows the Pod"
        ),
        Ok(None) => format!("the agent of the Pod's Node {what}"),
    }
}

/// Whether it was written, or is gone.
async fn fail(api: &Api<PacketCapture>, capture: &PacketCapture, reason: String) -> bool {
    let name = capture.name_any();
    tracing::info!(capture = name, reason, "PacketCapture failed");
    let known = capture.status.as_ref();
    let number = known.and_then(|known| known.number_captured).and_then(|number| u32::try_from(number).ok());
    let stage = Stage::Ended {
        number: number.unwrap_or_default(),
        file: known.and_then(|known| known.file_path.clone()),
        outcome: Outcome::Failed(reason),
    };
    let body = json!({
        "apiVersion": "crd.antrea.io/v1alpha1", "kind": "PacketCapture",
        "metadata": {"name": name, "uid": capture.uid()},
        "status": status(known, &stage, Timestamp::now()),
    });
    let params = PatchParams::apply(MANAGER).force();
    match tokio::time::timeout(LIMIT, api.patch_status(&name, &params, &Patch::Apply(&body))).await {
        Ok(Ok(_)) => true,
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409 | 422) => true,
        Ok(Err(error)) => {
            tracing::warn!(capture = name, error = describe(&error), "status not written");
            false
        }
        Err(_) => {
            tracing::warn!(capture = name, "status not written within {LIMIT:?}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use antrea_crds::PacketCaptureSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn capture(name: &str, created: &str) -> PacketCapture {
        let mut capture = PacketCapture::new(name, PacketCaptureSpec::default());
        capture.metadata.creation_timestamp = Some(Time(created.parse().unwrap()));
        capture
    }

    #[test]
    fn the_first_to_be_silent_is_next() {
        let mut open = Open::default();
        let (a, b) = (capture("a", "2026-01-01T00:00:05Z"), capture("b", "2026-01-01T00:00:00Z"));
        assert!(open.apply(Event::Init).is_none());
        assert!(open.apply(Event::InitApply(a.clone())).is_some(), "nobody has looked at it");
        assert!(open.next().is_none(), "a list under way");
        open.apply(Event::InitDone);
        open.apply(Event::Apply(b.clone()));
        assert_eq!(open.next().map(|(_, capture, _)| capture.name_any()).as_deref(), Some("b"));
        let mut begun = b.clone();
        begun.status = Some(status(None, &Stage::Running(0), "2026-01-01T00:00:01Z".parse().unwrap()));
        assert!(open.apply(Event::Apply(begun)).is_none(), "its agent has it");
        assert_eq!(open.next().map(|(_, capture, _)| capture.name_any()).as_deref(), Some("a"));
        open.apply(Event::Delete(a));
        let mut ended = b;
        let stage = Stage::Ended { number: 1, file: None, outcome: Outcome::Succeeded };
        ended.status = Some(status(None, &stage, Timestamp::UNIX_EPOCH));
        open.apply(Event::Apply(ended));
        assert!(open.next().is_none());
    }

    #[test]
    fn what_cannot_be_written_holds_up_no_other() {
        let mut open = Open::default();
        for (name, created) in [("a", "2026-01-01T00:00:00Z"), ("b", "2026-01-01T00:00:05Z")] {
            open.apply(Event::Apply(capture(name, created)));
        }
        let next = |open: &Open| open.next().map(|(at, capture, _)| (capture.name_any(), at));
        let (first, due) = next(&open).unwrap();
        assert_eq!(first, "a");
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        open.ended("a", false, now);
        let (second, later) = next(&open).unwrap();
        assert_eq!(second, "b");
        assert!(due < later && later < now);
        open.ended("b", true, now);
        assert_eq!(next(&open), Some(("a".to_owned(), now.saturating_add(RETRY).unwrap())));
        open.apply(Event::Delete(capture("a", "2026-01-01T00:00:00Z")));
        open.ended("b", true, now);
        assert!(open.later.is_empty(), "of one that is gone");
    }
}
