//! Spans, exported by OTLP over gRPC where an endpoint is configured.
//!
//! ```text
//!  trace_span!(…) ─► OpenTelemetry layer ─┐                     ┌─► collector
//!  Tracer::since(…) ──────────────────────┼─► bounded queue ─► task, batches
//!  Tracer::relay(…) (another process's) ──┘   full: counted, dropped
//! ```
//!
//! Without an endpoint no layer is installed: [`trace_span!`](crate::trace_span) makes nothing, for no
//! layer asks for its target, and the log has no part in it. An exporter that fails costs spans and
//! never time: nobody waits for it but [`Tracing::finish`], and that at most [`FLUSH`].

mod channel;
mod export;
mod remote;
#[cfg(feature = "testing")]
pub mod testing;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider,
};
use opentelemetry::{Context, InstrumentationScope};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    Sampler, SdkTracer, SdkTracerProvider, ShouldSample, SpanData, SpanEvents, SpanLinks,
};
use prometheus::IntCounter;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::{Layer, Registry, filter::filter_fn};

use crate::logging::SPANS;
use crate::metrics::{self, Metrics};
use export::Queue;
pub use opentelemetry::KeyValue;
pub use remote::{Remote, current, enabled, fail, step, traceparent};

/// How long [`Tracing::finish`] waits for what is still to be sent.
pub const FLUSH: Duration = Duration::from_secs(2);

/// A span for export. It is enabled only while spans are exported, and the log does not show it. Takes
/// what `tracing::info_span!` takes after the target; `otel.kind` and `otel.name` mean what
/// `tracing-opentelemetry` says.
#[macro_export]
macro_rules! trace_span {
    ($($arguments:tt)*) => {
        $crate::reexport::tracing::info_span!(target: $crate::logging::SPANS, $($arguments)*)
    };
}

/// As [`trace_span!`](crate::trace_span) within a trace that is under way; outside of one it makes nothing.
#[macro_export]
macro_rules! trace_child {
    ($($arguments:tt)*) => {{
        let parent = $crate::trace::current();
        if parent.is_disabled() {
            $crate::reexport::tracing::Span::none()
        } else {
            $crate::trace_span!(parent: &parent, $($arguments)*)
        }
    }};
}

/// `tracing` in a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// URL of an OTLP gRPC endpoint, `http://HOST:PORT` or `https://HOST:PORT`; empty: nothing is exported.
    pub otlp_endpoint: String,
    /// Share of the traces begun here that are recorded, in percent, 0 to 100. Traces that somebody else
    /// began follow that one's decision.
    pub sampling_percent: u8,
    /// Certificates in PEM that the endpoint's is checked against; empty: the system's.
    pub ca_bundle: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { otlp_endpoint: String::new(), sampling_percent: 100, ca_bundle: String::new() }
    }
}

/// Why spans cannot be exported. Each names the key that is wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not an endpoint.
    #[error("tracing.otlpEndpoint {endpoint:?}: {message}")]
    Endpoint {
        /// As configured.
        endpoint: String,
        /// What is wrong with it.
        message: String,
    },
    /// More than all.
    #[error("tracing.samplingPercent: {0} is not 0 to 100")]
    Sampling(u8),
    /// No certificate to check the endpoint's against.
    #[error("tracing.caBundle: {0}")]
    Ca(String),
    /// The exporter refused its settings.
    #[error("OTLP exporter: {0}")]
    Exporter(String),
}

/// What spans say of the process that made them.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `service.name`.
    pub service: &'static str,
    /// `service.version`.
    pub version: &'static str,
    /// `k8s.node.name`; empty: unknown.
    pub node: String,
}

impl Identity {
    fn resource(&self, service: &'static str) -> Resource {
        let node = (!self.node.is_empty()).then(|| KeyValue::new("k8s.node.name", self.node.clone()));
        Resource::builder_empty()
            .with_attribute(KeyValue::new("service.name", service))
            .with_attribute(KeyValue::new("service.version", self.version))
            .with_attributes(node)
            .build()
    }
}

/// What became of spans. `antrea_otlp_spans_exported_total` and `antrea_otlp_spans_dropped_total`, whose
/// label `reason` is `queue_full` or `export_failed`.
#[derive(Debug, Clone)]
pub struct Counters {
    exported: IntCounter,
    full: IntCounter,
    failed: IntCounter,
}

impl Counters {
    /// Registers with `metrics`.
    ///
    /// # Errors
    /// The names are taken.
    pub fn new(metrics: &Metrics) -> metrics::Result<Self> {
        let exported =
            metrics.counter("antrea_otlp_spans_exported_total", "Spans that the collector took.")?;
        let help = "Spans that were dropped: the queue was full, or the export failed.";
        let dropped = metrics.counter_vec("antrea_otlp_spans_dropped_total", help, &["reason"])?;
        let reason = |reason| dropped.with_label_values(&[reason]);
        Ok(Self { exported, full: reason("queue_full"), failed: reason("export_failed") })
    }

    /// Spans that were dropped.
    pub fn dropped(&self) -> u64 {
        self.full.get() + self.failed.get()
    }

    /// Spans that the collector took.
    pub fn exported(&self) -> u64 {
        self.exported.get()
    }
}

/// The export of a process; to be [finished](Self::finish) when the process ends.
#[derive(Debug)]
pub struct Tracing {
    tracer: Tracer,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

/// A layer for [`crate::logging::init_with`].
pub type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

impl Tracing {
    /// Begins to export what `config` asks for, if it asks for anything. `relayed` is the `service.name` of
    /// spans that come by [`Tracer::relay`]. The connection is made when there is something to send. Must
    /// be called within a tokio runtime.
    ///
    /// # Errors
    /// The key that is wrong.
    pub fn start(
        config: &Config,
        identity: &Identity,
        relayed: Option<&'static str>,
        counters: Counters,
    ) -> Result<Self, Error> {
        let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
        if config.sampling_percent > 100 {
            return Err(Error::Sampling(config.sampling_percent));
        }
        if config.otlp_endpoint.is_empty() {
            return Ok(Self { tracer: Tracer::default(), tasks, stop });
        }
        let channel = channel::lazy(config)?;
        let mut queue = |service| {
            let exporter = export::exporter(channel.clone(), &identity.resource(service))?;
            let (queue, task) = Queue::new(exporter, counters.clone(), stop.clone());
            tasks.spawn(task);
            Ok::<_, Error>(queue)
        };
        let sampler = Sampler::TraceIdRatioBased(f64::from(config.sampling_percent) / 100.0);
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(Box::new(sampler.clone())))
            .with_resource(identity.resource(identity.service))
            .with_span_processor(queue(identity.service)?)
            .build();
        let relay = relayed.map(&mut queue).transpose()?;
        let tracer = provider.tracer(identity.service);
        let inner = Inner { tracer, sampler, relay, _provider: provider };
        Ok(Self { tracer: Tracer(Some(Arc::new(inner))), tasks, stop })
    }

    /// As [`Self::start`], but what cannot be used exports nothing, with the reason for whoever sets up the log:
    /// a daemon has better things to do than to fail for want of traces.
    pub fn start_or_off(
        config: &Config,
        identity: &Identity,
        relayed: Option<&'static str>,
        counters: Counters,
    ) -> (Self, Option<Error>) {
        match Self::start(config, identity, relayed, counters) {
            Ok(tracing) => (tracing, None),
            Err(error) => {
                let (tasks, stop) = (JoinSet::new(), CancellationToken::new());
                (Self { tracer: Tracer::default(), tasks, stop }, Some(error))
            }
        }
    }

    /// The layer to install beside the log's; none where nothing is exported.
    pub fn layer(&self) -> Option<BoxedLayer> {
        let inner = self.tracer.0.as_ref()?;
        let layer = tracing_opentelemetry::layer()
            .with_tracer(inner.tracer.clone())
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false);
        Some(layer.with_filter(filter_fn(|metadata| metadata.target() == SPANS)).boxed())
    }

    /// Makes spans where tracing's own do not fit.
    pub fn tracer(&self) -> Tracer {
        self.tracer.clone()
    }

    /// Sends what is queued, at most for [`FLUSH`].
    pub async fn finish(mut self) {
        self.stop.cancel();
        let done = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(FLUSH, done).await.is_err() {
            tracing::warn!("the collector does not answer; the last spans are lost");
            self.tasks.shutdown().await;
        }
    }
}

#[derive(Debug)]
struct Inner {
    tracer: SdkTracer,
    sampler: Sampler,
    relay: Option<Queue>,
    /// Ends the export when it is dropped, so it lives as long as its tracer.
    _provider: SdkTracerProvider,
}

/// Makes spans whose beginning is past; clones share it. The default makes none.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

/// A span that has not ended; it ends when it is dropped.
#[derive(Debug)]
pub struct Open {
    inner: Arc<Inner>,
    context: Context,
}

/// A span that another process began and cannot export itself.
#[derive(Debug, Clone)]
pub struct Relayed {
    pub name: &'static str,
    /// Its ids.
    pub own: Remote,
    /// Its parent, if it has one.
    pub parent: Option<Remote>,
    /// When it began. It ends when it is relayed.
    pub start: SystemTime,
    /// What is said of it.
    pub attributes: Vec<KeyValue>,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

impl Tracer {
    /// Whether spans are exported.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A span that began at `begin`, the first of its trace. None where nothing is exported or the trace is
    /// not sampled.
    pub fn since(
        &self,
        name: &'static str,
        kind: SpanKind,
        begin: SystemTime,
        attributes: Vec<KeyValue>,
    ) -> Option<Open> {
        let inner = self.0.as_ref()?;
        Open::new(inner, &Context::new(), name, kind, begin, attributes)
    }

    /// Whether a trace that another process began without deciding so itself is recorded.
    pub fn samples(&self, trace: &Remote) -> bool {
        use opentelemetry_sdk::trace::SamplingDecision::RecordAndSample;
        self.0.as_ref().is_some_and(|inner| {
            let id = trace.context().trace_id();
            let result = inner.sampler.should_sample(None, id, "", &SpanKind::Client, &[], &[]);
            result.decision == RecordAndSample
        })
    }

    /// Exports a span of another process that ends now.
    pub fn relay(&self, span: Relayed) {
        let Some(queue) = self.0.as_ref().and_then(|inner| inner.relay.as_ref()) else { return };
        let own: &SpanContext = span.own.context();
        if !own.is_sampled() {
            return;
        }
        queue.offer(SpanData {
            span_context: own.clone(),
            parent_span_id: span.parent.as_ref().map_or(SpanId::INVALID, |parent| parent.context().span_id()),
            parent_span_is_remote: span.parent.is_some(),
            span_kind: SpanKind::Client,
            name: span.name.into(),
            start_time: span.start,
            end_time: SystemTime::now(),
            attributes: span.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: span.failure.map_or(Status::Unset, Status::error),
            instrumentation_scope: InstrumentationScope::default(),
        });
    }
}

impl Open {
    fn new(
        inner: &Arc<Inner>,
        parent: &Context,
        name: &'static str,
        kind: SpanKind,
        begin: SystemTime,
        attributes: Vec<KeyValue>,
    ) -> Option<Self> {
        let builder =
            SpanBuilder::from_name(name).with_kind(kind).with_start_time(begin).with_attributes(attributes);
        let span = inner.tracer.build_with_context(builder, parent);
        let context = parent.with_span(span);
        context.span().is_recording().then(|| Self { inner: Arc::clone(inner), context })
    }

    /// A span within this one that began at `begin`.
    pub fn child(&self, name: &'static str, kind: SpanKind, begin: SystemTime) -> Option<Self> {
        Self::new(&self.inner, &self.context, name, kind, begin, Vec::new())
    }

    /// As another process takes it up.
    pub fn traceparent(&self) -> String {
        Remote::from(self.context.span().span_context().clone()).to_string()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.context.span().end();
    }
}

pub use opentelemetry::trace::SpanKind as Kind;

#[cfg(test)]
mod tests;
