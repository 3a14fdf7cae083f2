//! From ended spans to the collector.

use std::time::Duration;

use opentelemetry::Context;
use opentelemetry_otlp::{WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter, SpanProcessor};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{Counters, Error};

/// Spans that wait, about 1 KiB each. What ends beyond that is dropped.
const QUEUE: usize = 1024;

/// Spans of one request.
const BATCH: usize = 256;

/// How long a span waits for others to go along.
const LINGER: Duration = Duration::from_secs(1);

/// For one request with its retries.
const REQUEST: Duration = Duration::from_secs(10);

/// An exporter on a channel.
pub(super) fn exporter(
    channel: Channel,
    resource: &Resource,
) -> Result<opentelemetry_otlp::SpanExporter, Error> {
    let mut exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_channel(channel)
        .with_timeout(REQUEST)
        .build()
        .map_err(|error| Error::Exporter(error.to_string()))?;
    exporter.set_resource(resource);
    Ok(exporter)
}

/// Where ended spans go. The SDK's own processor has a thread and does not tell what it drops.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    counters: Counters,
}

impl Queue {
    /// A queue and the task that empties it until `stop`, then sends the rest.
    pub(super) fn new(
        exporter: impl SpanExporter + 'static,
        counters: Counters,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (spans, queue) = mpsc::channel(QUEUE);
        let worker = Worker { exporter, queue, counters: counters.clone(), failing: false };
        (Self { spans, counters }, worker.run(stop))
    }

    /// Never waits.
    pub(super) fn offer(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.counters.full.inc();
        }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() {
            self.offer(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

struct Worker<E> {
    exporter: E,
    queue: mpsc::Receiver<SpanData>,
    counters: Counters,
    failing: bool,
}

impl<E: SpanExporter> Worker<E> {
    async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        while let Some(Some(first)) = stop.run_until_cancelled(self.queue.recv()).await {
            batch.push(first);
            let linger = tokio::time::sleep(LINGER);
            tokio::pin!(linger);
            while batch.len() < BATCH {
                let room = BATCH - batch.len();
                tokio::select! {
                    () = &mut linger => break,
                    () = stop.cancelled() => break,
                    count = self.queue.recv_many(&mut batch, room) => if count == 0 { break },
                }
            }
            self.send(std::mem::take(&mut batch)).await;
        }
        // From here on nothing more is taken, so that this has an end.
        self.queue.close();
        while self.queue.recv_many(&mut batch, BATCH).await > 0 {
            self.send(std::mem::take(&mut batch)).await;
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        match self.exporter.export(batch).await {
            Ok(()) => {
                self.counters.exported.inc_by(count);
                if std::mem::take(&mut self.failing) {
                    tracing::info!("spans are exported again");
                }
            }
            Err(error) => {
                self.counters.failed.inc_by(count);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "spans cannot be exported and are dropped");
                }
            }
        }
    }
}
