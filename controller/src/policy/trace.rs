//! Spans of what a watch's event changes, and how agents learn of them.

use std::time::SystemTime;

use antrea_api::{k8s::ObjectMeta, trace::ANNOTATION};
use antrea_runtime::trace::{KeyValue, Kind, Open, Tracer};

/// What is taken in together.
pub(super) struct Batch<'a> {
    /// Number of changes.
    pub(super) size: usize,
    /// When it was received.
    pub(super) received: SystemTime,
    /// Resource in the Kubernetes API.
    pub(super) resource: &'static str,
    /// The first object of it, `NAMESPACE/NAME`; empty for a whole list.
    pub(super) object: &'a dyn Fn() -> String,
}

/// The spans of a batch that changed something. They end together, the inner one first.
pub(super) struct Spans {
    publish: Option<Open>,
    _event: Open,
}

impl Spans {
    /// For a batch whose computation began at `computing` and ends now; none where nothing is exported.
    pub(super) fn begin(tracer: &Tracer, batch: &Batch<'_>, computing: SystemTime) -> Option<Self> {
        if !tracer.is_on() {
            return None;
        }
        let attributes = vec![
            KeyValue::new("resource", batch.resource),
            KeyValue::new("object", (batch.object)()),
            KeyValue::new("events", i64::try_from(batch.size).unwrap_or(i64::MAX)),
        ];
        let event = tracer.since("policy.event", Kind::Consumer, batch.received, attributes)?;
        drop(event.child("policy.compute", Kind::Internal, computing));
        let publish = event.child("policy.publish", Kind::Producer, SystemTime::now());
        Some(Self { publish, _event: event })
    }

    /// What events say of their cause.
    pub(super) fn stamp(&self) -> Option<String> {
        self.publish.as_ref().map(Open::traceparent)
    }
}

/// Puts a stamp on an event's object. It is of the event: lists have none.
pub(super) fn stamped(mut metadata: ObjectMeta, stamp: Option<&str>) -> ObjectMeta {
    if let Some(stamp) = stamp {
        metadata.annotations.insert(ANNOTATION.to_owned(), stamp.to_owned());
    }
    metadata
}
