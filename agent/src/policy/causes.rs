//! Why policy changes: spans of the controller, followed to the flows of this node.

use antrea_api::controlplane::Event;
use antrea_api::k8s::Unknown;
use antrea_runtime::trace::{self, Remote};
use antrea_runtime::trace_span;
use tracing::Span;

use antrea_enforce::cache::Kind;

/// Causes of one step that are told. Steps take hundreds of events, most of few causes.
const LINKS: usize = 32;

/// An event that the controller traced, on its way to the cache.
#[derive(Debug)]
pub struct Received {
    cause: Remote,
    /// From the event's arrival until it is taken.
    _span: Span,
}

impl Received {
    /// Begins the span of an event's reception; none if the controller did not trace it or nothing is
    /// exported here.
    pub(super) fn of(kind: Kind, object: &Unknown) -> Option<Box<Self>> {
        if !trace::enabled() {
            return None;
        }
        let meta = Event::metadata(object)?;
        let cause = Remote::parse(meta.annotations.get(antrea_api::trace::ANNOTATION)?)?;
        let span = trace_span!(
            "policy.receive",
            otel.kind = "consumer",
            resource = kind.resource(),
            object = meta.name,
        );
        cause.adopt(&span);
        Some(Box::new(Self { cause, _span: span }))
    }
}

/// Begins the span of realising what was received, whose reception ends with this. The first cause is the
/// parent and the others are linked.
#[expect(clippy::vec_box, reason = "as they come")]
pub(super) fn realize(received: Vec<Box<Received>>) -> Span {
    let mut causes: Vec<Remote> = Vec::new();
    for event in received {
        if causes.len() < LINKS && !causes.contains(&event.cause) {
            causes.push(event.cause);
        }
    }
    let Some((first, others)) = causes.split_first() else { return Span::none() };
    let span = trace_span!("policy.realize");
    first.adopt(&span);
    others.iter().for_each(|cause| cause.link(&span));
    span
}
