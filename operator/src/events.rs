//! Events of `events.k8s.io/v1` about the installation. (kube's recorder folds events that differ only in
//! their note into one, and the note is what says who changed which field.)

use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};

/// Whether somebody should look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// For the record.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Writes events in the operator's name.
#[derive(Clone)]
pub struct Recorder {
    client: Client,
    instance: String,
}

impl Recorder {
    /// `instance` names this process, such as its Pod.
    pub fn new(client: Client, instance: &str) -> Self {
        Self { client, instance: instance.to_owned() }
    }

    /// Writes one event. A failure is logged: no work waits for an event.
    pub async fn record(
        &self,
        regarding: &ObjectReference,
        related: Option<ObjectReference>,
        severity: Severity,
        reason: &str,
        note: &str,
    ) {
        let now = Timestamp::now();
        // Events about cluster-scoped objects live in "default".
        let namespace = regarding.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let name = regarding.name.as_deref().unwrap_or("antrea");
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}.{:x}", now.as_nanosecond())),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            action: Some(reason.to_owned()),
            event_time: Some(MicroTime(now)),
            note: Some(note.chars().take(1000).collect()),
            reason: Some(reason.to_owned()),
            regarding: Some(regarding.clone()),
            related,
            reporting_controller: Some("operator.antrea.io/antrea-operator".to_owned()),
            reporting_instance: Some(self.instance.clone()),
            type_: Some(format!("{severity:?}")),
            ..Event::default()
        };
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::warn!(%error, reason, note, "event not written");
        }
    }
}
