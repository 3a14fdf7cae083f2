//! A collector for tests: the gRPC service that exporters call, keeping what it gets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test support code")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

/// A span as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// `service.name` of its process.
    pub service: String,
    /// `k8s.node.name` of its process.
    pub node: String,
    pub name: String,
    /// Trace id in hex.
    pub trace: String,
    /// Span id in hex.
    pub id: String,
    /// Span id of the parent in hex, empty for the first of its trace.
    pub parent: String,
    /// Span ids that it is linked to, in hex.
    pub links: Vec<String>,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds since 1970.
    pub end: u64,
    /// Attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Whether it failed.
    pub failed: bool,
}

/// A collector; clones share what it got.
#[derive(Debug, Clone, Default)]
pub struct Collector {
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    /// Serves at a free port of loopback; returns the endpoint's URL.
    pub async fn start() -> (Self, String) {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        (Self::serve(listener), endpoint)
    }

    /// Serves on `listener` until the runtime ends.
    pub fn serve(listener: TcpListener) -> Self {
        let collector = Self::default();
        tokio::spawn(collector.clone().serve_on(TcpListenerStream::new(listener)));
        collector
    }

    /// Serves connections from `incoming`.
    pub async fn serve_on<IO, E>(self, incoming: impl Stream<Item = Result<IO, E>>)
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + tonic::transport::server::Connected,
        IO: Send + Unpin + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let service = TraceServiceServer::new(self);
        let incoming = incoming.filter(Result::is_ok);
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
    }

    /// Everything that arrived.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    /// Forgets what arrived.
    pub fn clear(&self) {
        self.spans.lock().unwrap().clear();
    }

    /// Waits until `find` finds something in what arrived, at most `limit`.
    pub async fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        mut find: impl FnMut(&[Span]) -> Option<T>,
    ) -> T {
        let start = Instant::now();
        loop {
            let spans = self.spans();
            if let Some(found) = find(&spans) {
                return found;
            }
            assert!(start.elapsed() < limit, "not within {limit:?}: {what}; spans:\n{}", show(&spans));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// One line for each span.
pub fn show(spans: &[Span]) -> String {
    let line = |span: &Span| {
        format!(
            "{} {}<-{} {}@{} {} {:?} {}µs\n",
            span.trace,
            span.id,
            span.parent,
            span.service,
            span.node,
            span.name,
            span.attributes,
            span.end.saturating_sub(span.start) / 1000
        )
    };
    spans.iter().map(line).collect()
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut spans = self.spans.lock().unwrap();
        for group in request.into_inner().resource_spans {
            let resource = texts(&group.resource.unwrap_or_default().attributes);
            let get = |key: &str| resource.get(key).cloned().unwrap_or_default();
            for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                spans.push(Span {
                    service: get("service.name"),
                    node: get("k8s.node.name"),
                    name: span.name,
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
                    start: span.start_time_unix_nano,
                    end: span.end_time_unix_nano,
                    attributes: texts(&span.attributes),
                    failed: span.status.is_some_and(|status| status.code == 2),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::BoolValue(value) => value.to_string(),
        Value::IntValue(value) => value.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .iter()
        .map(|attribute| {
            let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
            (attribute.key.clone(), value.map(text).unwrap_or_default())
        })
        .collect()
}
