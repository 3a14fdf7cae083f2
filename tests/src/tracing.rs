//! A collector of spans in a lab.

use antrea_runtime::trace::testing::{Collector, Span};
use netcfg::Netns;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

use crate::background::Background;
use crate::lab::Lab;

/// Starts a collector in the lab's outside world. What is started from now on exports to it; the controller is
/// started anew.
pub async fn trace(lab: &mut Lab) -> Collector {
    let address = std::net::SocketAddr::from((lab.outside_ip(), 4317));
    let bind = move || std::net::TcpListener::bind(address);
    let listener =
        Netns::open(format!("/run/netns/{}", lab.outside())).unwrap().run(bind).await.unwrap().unwrap();
    listener.set_nonblocking(true).unwrap();
    let collector = Collector::default();
    let serving = collector.clone();
    lab.collector = Some(Background::run(move || {
        let incoming = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
        serving.serve_on(incoming)
    }));
    lab.configure("tracing", json!({"otlpEndpoint": format!("http://{address}")}));
    lab.kill_controller();
    lab.start_controller();
    lab.wait_controller().await;
    collector
}

/// The span that `span` is a part of.
pub fn parent<'a>(spans: &'a [Span], span: &Span) -> Option<&'a Span> {
    spans.iter().find(|other| other.trace == span.trace && other.id == span.parent)
}

/// Names of a span and of what it is a part of, outwards, each with its service.
pub fn path(spans: &[Span], span: &Span) -> Vec<String> {
    let mut names = vec![format!("{}: {}", span.service, span.name)];
    let mut at = span;
    while let Some(outer) = parent(spans, at) {
        names.push(format!("{}: {}", outer.service, outer.name));
        at = outer;
    }
    names
}
