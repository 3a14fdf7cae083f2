//! What of a NetworkPolicy cannot be honoured, told to whoever wrote it: in the log, as an Event of the object, and
//! for as long as it is so by the condition NetworkPoliciesValid of AntreaControllerInfo.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use antrea_policy::{error::PolicyError, k8s::NetworkPolicy};
use antrea_runtime::client::describe;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::mpsc;

use super::undecoded::{self, Key};

/// Policies whose Events wait to be written. Of more, as after a start in a cluster full of mistakes, only the log tells.
const WAITING: usize = 256;
/// Pause between two Events: nobody waits for them, and the API server has other things to do.
const PAUSE: Duration = Duration::from_millis(100);
/// Longest note that the API server takes, in octets.
const MAX_NOTE: usize = 1024;
/// Longest part of an Event's name that is the policy's.
const MAX_NAME: usize = 200;
/// Longest text that is kept of a policy, in octets: a tenant chooses how many policies there are and how wrong.
const MAX_KEPT: usize = 256;
/// Policies that the condition names; of the others it tells the number.
const NAMED: usize = 3;

/// The policies that are in force without a part.
#[derive(Debug, Default)]
pub(super) struct Partial(BTreeMap<Key, String>);

impl Partial {
    /// A policy is in force, with what is wrong with it.
    pub(super) fn set(&mut self, policy: &NetworkPolicy, errors: &[PolicyError]) {
        let key = (policy.namespace.to_string(), policy.name.to_string());
        if errors.is_empty() {
            self.0.remove(&key);
        } else {
            let mut text = joined(errors);
            text.truncate(text.floor_char_boundary(MAX_KEPT));
            self.0.insert(key, text);
        }
    }

    /// A policy is gone.
    pub(super) fn remove(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// Forgets all but these, of which nothing new is known.
    pub(super) fn keep(&mut self, kept: &[Key]) {
        let known = kept.iter().filter_map(|key| self.0.remove_entry(key)).collect();
        self.0 = known;
    }

    /// Number of policies.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The first of them by name and what is wrong, and how many there are besides; empty if all are whole.
    pub(super) fn message(&self) -> String {
        let named = self.0.iter().take(NAMED).map(|(key, text)| format!("{}: {text}", undecoded::text(key)));
        let more = self.0.len().saturating_sub(NAMED);
        named.chain((more > 0).then(|| format!("{more} more"))).collect::<Vec<_>>().join(", ")
    }
}

/// What is wrong, each with its field.
fn joined(errors: &[PolicyError]) -> String {
    let texts: Vec<String> =
        errors.iter().map(|error| format!("{}: {}", error.path, error.problem)).collect();
    texts.join("; ")
}

/// A policy and what is wrong with it.
#[derive(Debug)]
pub struct Mistaken {
    namespace: String,
    name: String,
    uid: String,
    generation: i64,
    errors: String,
}

/// Takes mistakes from the feed, which never waits for it.
#[derive(Clone, Debug)]
pub struct Mistakes(mpsc::Sender<Mistaken>);

/// The two ends.
pub fn channel() -> (Mistakes, mpsc::Receiver<Mistaken>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (Mistakes(sender), receiver)
}

impl Mistakes {
    /// Tells what is wrong with a policy.
    pub(super) fn tell(&self, policy: &NetworkPolicy, errors: &[PolicyError]) {
        let errors = joined(errors);
        tracing::warn!(namespace = %policy.namespace, name = %policy.name, errors, "a part of the policy is unusable");
        let mistaken = Mistaken {
            namespace: policy.namespace.to_string(),
            name: policy.name.to_string(),
            uid: policy.uid.to_string(),
            generation: policy.generation,
            errors,
        };
        if self.0.try_send(mistaken).is_err() {
            tracing::debug!(namespace = %policy.namespace, name = %policy.name, "no Event: too many wait");
        }
    }
}

/// Writes an Event for each policy; ends with the sender. `instance` names this process, such as its Pod.
pub async fn write_events(mut mistakes: mpsc::Receiver<Mistaken>, client: Client, instance: String) {
    while let Some(mistaken) = mistakes.recv().await {
        let api = Api::<Event>::namespaced(client.clone(), &mistaken.namespace);
        let event = event(&mistaken, &instance, MicroTime(jiff::Timestamp::now()));
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {}
            // Told by the life before this one, or before a watch began anew.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => {
                tracing::warn!(error = describe(&error), policy = mistaken.name, "Event not written")
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The Event: the same mistakes of the same object have one name.
fn event(mistaken: &Mistaken, instance: &str, now: MicroTime) -> Event {
    let Mistaken { namespace, name, uid, generation, errors } = mistaken;
    let mut hasher = DefaultHasher::new();
    (uid, generation, errors).hash(&mut hasher);
    let end = name.floor_char_boundary(MAX_NAME);
    let mut note = format!("In force without: {errors}");
    note.truncate(note.floor_char_boundary(MAX_NOTE));
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:016x}", name[..end].trim_end_matches(['.', '-']), hasher.finish())),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        action: Some("Compute".to_owned()),
        event_time: Some(now),
        note: Some(note),
        reason: Some("InvalidPolicy".to_owned()),
        regarding: Some(ObjectReference {
            api_version: Some("networking.k8s.io/v1".to_owned()),
            kind: Some("NetworkPolicy".to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid: Some(uid.clone()),
            ..ObjectReference::default()
        }),
        reporting_controller: Some("antrea.io/antrea-controller".to_owned()),
        reporting_instance: Some(if instance.is_empty() { "antrea-controller" } else { instance }.to_owned()),
        type_: Some("Warning".to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistaken(name: &str, errors: &str) -> Mistaken {
        let (namespace, uid) = ("shop".to_owned(), "u1".to_owned());
        Mistaken { namespace, name: name.to_owned(), uid, generation: 3, errors: errors.to_owned() }
    }

    #[test]
    fn an_event_fits_and_is_written_once() {
        let now = || MicroTime(jiff::Timestamp::UNIX_EPOCH);
        let name = |mistaken: &Mistaken| event(mistaken, "pod", now()).metadata.name.unwrap();
        let one = mistaken("web", "spec.ingress[0]: too much");
        assert_eq!(name(&one), name(&one));
        assert_ne!(name(&one), name(&mistaken("web", "spec.ingress[1]: too much")));
        assert!(name(&mistaken(&"a.".repeat(126), "")).len() <= 253);
        let long = event(&mistaken("web", &"ä".repeat(2000)), "", now());
        assert!(long.note.unwrap().len() <= 1024);
        let written = event(&one, "pod", now());
        assert_eq!(written.note.as_deref(), Some("In force without: spec.ingress[0]: too much"));
        assert_eq!(
            written.metadata.namespace,
            written.regarding.unwrap().namespace,
            "an Event lives beside its object"
        );
    }
}
