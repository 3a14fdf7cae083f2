//! Spans of other processes, by W3C Trace Context.

use std::fmt;

use opentelemetry::Context;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, Status, TraceContextExt, TraceFlags};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::logging::SPANS;

/// A span of another process.
#[derive(Debug, Clone, PartialEq)]
pub struct Remote(SpanContext);

impl From<SpanContext> for Remote {
    fn from(context: SpanContext) -> Self {
        Self(context)
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = self.0.trace_flags() & TraceFlags::SAMPLED;
        write!(f, "00-{}-{}-{:02x}", self.0.trace_id(), self.0.span_id(), flags)
    }
}

impl Remote {
    /// Reads a `traceparent`; none if it is malformed.
    pub fn parse(traceparent: &str) -> Option<Self> {
        let context =
            TraceContextPropagator::new().extract_with_context(&Context::new(), &Header(traceparent));
        let remote = context.span().span_context().clone();
        remote.is_valid().then_some(Self(remote))
    }

    /// The same span, recorded or not.
    #[must_use]
    pub fn with_sampled(self, sampled: bool) -> Self {
        let flags = self.0.trace_flags().with_sampled(sampled);
        let state = self.0.trace_state().clone();
        Self(SpanContext::new(self.0.trace_id(), self.0.span_id(), flags, true, state))
    }

    /// Whether it is recorded.
    pub fn is_sampled(&self) -> bool {
        self.0.is_sampled()
    }

    /// Makes it the parent of `span`, which must not have been entered yet.
    pub fn adopt(&self, span: &Span) {
        // Errors only say that spans are not exported, or this one is not.
        let _ = span.set_parent(Context::new().with_remote_span_context(self.0.clone()));
    }

    /// Makes it a further cause of `span`.
    pub fn link(&self, span: &Span) {
        span.add_link(self.0.clone());
    }

    pub(super) fn context(&self) -> &SpanContext {
        &self.0
    }
}

/// Whether spans are exported.
pub fn enabled() -> bool {
    tracing::span_enabled!(target: SPANS, tracing::Level::INFO)
}

/// The span for export that is entered now; none if there is none.
pub fn current() -> Span {
    if !enabled() {
        return Span::none();
    }
    let span = Span::current();
    if span.metadata().is_some_and(|metadata| metadata.target() == SPANS) { span } else { Span::none() }
}

/// Does `work` within `span`, which says so if it fails.
///
/// # Errors
/// What `work` returns.
pub async fn step<T, E: fmt::Display>(span: Span, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
    let result = work.instrument(span.clone()).await;
    if let Err(error) = &result {
        fail(&span, error);
    }
    result
}

/// A span as another process takes it up; none where it is not recorded.
pub fn traceparent(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let remote = Remote(context.span().span_context().clone());
    (remote.0.is_valid() && remote.is_sampled()).then(|| remote.to_string())
}

/// Marks a span as failed.
pub fn fail(span: &Span, error: &dyn fmt::Display) {
    if !span.is_disabled() {
        span.set_status(Status::error(error.to_string()));
    }
}

struct Header<'a>(&'a str);

impl Extractor for Header<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}
