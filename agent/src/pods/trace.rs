//! Spans of a call: the plugin's, which it cannot export itself, and the agent's below it.

use antrea_api::cni::CniCmdArgs;
use antrea_api::cni::span::PluginSpan;
use antrea_runtime::trace::{self, KeyValue, Relayed, Remote, Tracer};
use antrea_runtime::trace_span;
use tonic::metadata::MetadataMap;
use tracing::Span;

use super::attach::AttachError;
use super::naming::PodArgs;

/// A call under way.
#[derive(Debug)]
pub(super) struct CallSpan {
    /// The agent's span; disabled where nothing is exported.
    pub(super) span: Span,
    tracer: Tracer,
    plugin: Option<Relayed>,
}

impl CallSpan {
    /// Begins the span of a call of `verb`.
    pub(super) fn begin(
        tracer: &Tracer,
        verb: Verb,
        metadata: &MetadataMap,
        args: Option<&CniCmdArgs>,
    ) -> Self {
        let mut call = Self { span: Span::none(), tracer: tracer.clone(), plugin: None };
        let Some(args) = args.filter(|_| tracer.is_on()) else { return call };
        let pod = PodArgs::parse(&args.args);
        call.span = trace_span!(
            "cni",
            otel.name = verb.agent(),
            otel.kind = "server",
            k8s.pod.name = pod.name,
            k8s.namespace.name = pod.namespace,
            container.id = args.container_id,
        );
        let remote = |parent: antrea_api::trace::TraceParent| Remote::parse(&parent.to_string());
        match PluginSpan::read(metadata) {
            Some(plugin) => {
                let Some(own) = remote(plugin.own) else { return call };
                // Who has no caller is sampled here; the plugin knows nothing of it.
                let sampled = plugin.parent.map_or_else(|| tracer.samples(&own), |parent| parent.sampled);
                let own = own.with_sampled(sampled);
                own.adopt(&call.span);
                let attributes = vec![
                    KeyValue::new("k8s.pod.name", pod.name),
                    KeyValue::new("k8s.namespace.name", pod.namespace),
                    KeyValue::new("container.id", args.container_id.clone()),
                ];
                let (name, parent, start) = (verb.plugin(), plugin.parent.and_then(remote), plugin.start);
                call.plugin = Some(Relayed { name, own, parent, start, attributes, failure: None });
            }
            // A caller that is no plugin of ours exports its own span.
            None => {
                let parent = metadata.get("traceparent").and_then(|value| value.to_str().ok());
                if let Some(parent) = parent.and_then(Remote::parse) {
                    parent.adopt(&call.span);
                }
            }
        }
        call
    }

    /// Ends both spans.
    pub(super) fn end(self, result: &Result<Vec<u8>, AttachError>) {
        let Self { span, tracer, plugin } = self;
        let failure = result.as_ref().err().map(ToString::to_string);
        if let Some(message) = &failure {
            trace::fail(&span, message);
        }
        drop(span);
        if let Some(plugin) = plugin {
            tracer.relay(Relayed { failure, ..plugin });
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Check,
    Del,
    Gc,
}

impl Verb {
    fn agent(self) -> &'static str {
        match self {
            Self::Add => "cni.add",
            Self::Check => "cni.check",
            Self::Del => "cni.del",
            Self::Gc => "cni.gc",
        }
    }

    fn plugin(self) -> &'static str {
        match self {
            Self::Add => "antrea-cni ADD",
            Self::Check => "antrea-cni CHECK",
            Self::Del => "antrea-cni DEL",
            Self::Gc => "antrea-cni GC",
        }
    }
}
