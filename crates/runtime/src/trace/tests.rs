use std::time::Duration;

use opentelemetry_sdk::trace::SpanExporter;
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

use super::testing::{Collector, Span};
use super::*;

const LIMIT: Duration = Duration::from_secs(30);

fn identity() -> Identity {
    Identity { service: "sample", version: "1.2.3", node: "node1".to_owned() }
}

fn to(endpoint: &str) -> Config {
    Config { otlp_endpoint: endpoint.to_owned(), ..Config::default() }
}

fn counters() -> Counters {
    Counters::new(&Metrics::empty()).unwrap()
}

/// As `logging::init_with`, for one thread and not for the process.
fn subscribe(tracing: &Tracing) -> tracing::subscriber::DefaultGuard {
    let layers: Vec<BoxedLayer> = tracing.layer().into_iter().collect();
    tracing::subscriber::set_default(tracing_subscriber::registry().with(layers))
}

fn named<'a>(spans: &'a [Span], name: &str) -> Option<&'a Span> {
    spans.iter().find(|span| span.name == name)
}

#[tokio::test]
async fn spans_arrive_with_parents_across_processes() {
    let (collector, endpoint) = Collector::start().await;
    let counters = counters();
    let tracing = Tracing::start(&to(&endpoint), &identity(), Some("plugin"), counters.clone()).unwrap();
    let subscribed = subscribe(&tracing);
    let own = Remote::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
    let start = SystemTime::now() - Duration::from_millis(5);
    let server = trace_span!("server", otel.kind = "server", pod = "web");
    own.adopt(&server);
    assert!(trace_child!("orphan").is_disabled());
    let failing = async { step(trace_child!("inner"), async { Err::<(), _>("out of order") }).await };
    failing.instrument(server.clone()).await.unwrap_err();
    let handed_on = traceparent(&server).unwrap();
    assert!(handed_on.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{handed_on}");
    drop(server);
    tracing.tracer().relay(Relayed {
        name: "client",
        own,
        parent: None,
        start,
        attributes: vec![KeyValue::new("container", "abc")],
        failure: None,
    });
    drop(subscribed);
    tracing.finish().await;
    let spans = collector.spans();
    let [client, server, inner] = ["client", "server", "inner"].map(|name| named(&spans, name).unwrap());
    assert_eq!((&*client.service, &*client.parent, &*client.id), ("plugin", "", "b7ad6b7169203331"));
    assert_eq!((&*server.service, &*server.node, &*server.parent), ("sample", "node1", &*client.id));
    assert_eq!(inner.parent, server.id);
    assert!(handed_on.contains(&server.id) && inner.failed && !server.failed);
    assert!(spans.iter().all(|span| span.trace == client.trace));
    assert!(client.start <= server.start && client.end >= server.end);
    assert_eq!((&*server.attributes["pod"], &*client.attributes["container"]), ("web", "abc"));
    assert_eq!((spans.len(), counters.exported(), counters.dropped()), (3, 3, 0));
}

#[tokio::test]
async fn a_span_can_begin_in_the_past_and_have_children() {
    let (collector, endpoint) = Collector::start().await;
    let tracing = Tracing::start(&to(&endpoint), &identity(), None, counters()).unwrap();
    let begin = SystemTime::now() - Duration::from_secs(1);
    let event = tracing.tracer().since("event", Kind::Consumer, begin, Vec::new()).unwrap();
    let publish = event.child("publish", Kind::Producer, SystemTime::now()).unwrap();
    let remote = Remote::parse(&publish.traceparent()).unwrap();
    drop(publish);
    drop(event);
    tracing.finish().await;
    let spans = collector.spans();
    let (event, publish) = (named(&spans, "event").unwrap(), named(&spans, "publish").unwrap());
    assert_eq!(publish.parent, event.id);
    assert_eq!(remote.to_string(), format!("00-{}-{}-01", publish.trace, publish.id));
    assert!(publish.start - event.start >= 1_000_000_000 && event.end >= publish.end);
}

#[tokio::test]
async fn off_makes_no_span_and_no_layer() {
    let tracing = Tracing::start(&Config::default(), &identity(), Some("plugin"), counters()).unwrap();
    assert!(tracing.layer().is_none() && !tracing.tracer().is_on());
    let _subscribed = subscribe(&tracing);
    let span = trace_span!("nothing", cost = panics_if_evaluated());
    assert!(span.is_disabled() && traceparent(&span).is_none() && !enabled());
    assert!(tracing.tracer().since("nothing", Kind::Internal, SystemTime::now(), Vec::new()).is_none());
    tracing.finish().await;
}

fn panics_if_evaluated() -> u64 {
    panic!("a field of a span that nobody wants was evaluated")
}

#[tokio::test]
async fn sampling_goes_by_the_caller_then_by_the_share() {
    let (collector, endpoint) = Collector::start().await;
    let config = Config { sampling_percent: 0, ..to(&endpoint) };
    let tracing = Tracing::start(&config, &identity(), Some("plugin"), counters()).unwrap();
    let _subscribed = subscribe(&tracing);
    let sampled = Remote::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").unwrap();
    assert!(!tracing.tracer().samples(&sampled));
    drop(trace_span!("own"));
    let followed = trace_span!("followed");
    sampled.adopt(&followed);
    drop(followed);
    let refused = trace_span!("refused");
    sampled.with_sampled(false).adopt(&refused);
    assert!(traceparent(&refused).is_none());
    drop(refused);
    tracing.finish().await;
    let names: Vec<_> = collector.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["followed"]);

    let half = Config { sampling_percent: 50, ..to(&endpoint) };
    let tracing = Tracing::start(&half, &identity(), None, counters()).unwrap();
    let trace = |number: u64| {
        let id = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Remote::parse(&format!("00-{number:016x}{id:016x}-b7ad6b7169203331-01")).unwrap()
    };
    let count = (1..=1000).filter(|number| tracing.tracer().samples(&trace(*number))).count();
    assert!((400..=600).contains(&count), "{count} of 1000");
}

#[test]
fn malformed_parents_are_no_parents() {
    for bad in
        ["", "00", "00-0-0-01", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "zz-ü-01", "-----"]
    {
        assert!(Remote::parse(bad).is_none(), "{bad:?}");
    }
}

#[tokio::test]
async fn names_the_setting_that_is_wrong() {
    let ca = |bundle: &str| Config { ca_bundle: bundle.to_owned(), ..to("https://collector") };
    for (config, message) in [
        (to("collector:4317"), "tracing.otlpEndpoint"),
        (to("ftp://collector"), "must begin with http"),
        (to("http://user:secret@collector:4317"), "credentials"),
        (to("http://collector:4317/v1/traces"), "has no path"),
        (to("http://"), "tracing.otlpEndpoint"),
        (Config { sampling_percent: 101, ..Config::default() }, "tracing.samplingPercent"),
        (ca("no certificate"), "tracing.caBundle"),
        (ca("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "tracing.caBundle"),
    ] {
        let error = Tracing::start(&config, &identity(), None, counters()).unwrap_err().to_string();
        assert!(error.contains(message), "{config:?}: {error}");
        let (tracing, refused) = Tracing::start_or_off(&config, &identity(), None, counters());
        assert!(refused.is_some() && tracing.layer().is_none());
        tracing.finish().await;
    }
}

#[tokio::test]
async fn https_checks_the_collectors_certificate() {
    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio_stream::StreamExt;

    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], private)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener).then(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            let mut sealed = acceptor.accept(stream?).await?;
            let (mut near, far) = tokio::io::duplex(64 << 10);
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut sealed, &mut near).await });
            Ok::<_, std::io::Error>(far)
        }
    });
    let collector = Collector::default();
    tokio::spawn(collector.clone().serve_on(incoming));

    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    for (bundle, arrives) in [(other.cert.pem(), 0), (key.cert.pem(), 1)] {
        let config = Config { ca_bundle: bundle, ..to(&endpoint) };
        let tracing = Tracing::start(&config, &identity(), None, counters()).unwrap();
        drop(tracing.tracer().since("sealed", Kind::Internal, SystemTime::now(), Vec::new()));
        tracing.finish().await;
        assert_eq!(collector.spans().len(), arrives);
    }
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    // A port that nobody listens at: bound, and closed again.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = to(&format!("http://127.0.0.1:{port}"));
    let metrics = Metrics::empty();
    let counters = Counters::new(&metrics).unwrap();
    let tracing = Tracing::start(&config, &identity(), None, counters.clone()).unwrap();
    let tracer = tracing.tracer();
    for _ in 0..5000 {
        drop(tracer.since("lost", Kind::Internal, SystemTime::now(), Vec::new()).unwrap());
    }
    assert!(counters.full.get() > 0, "the queue has an end");
    tokio::time::timeout(LIMIT, tracing.finish()).await.expect("the end does not wait for the collector");
    assert_eq!(counters.exported(), 0);
    let text = metrics.encode().unwrap();
    assert!(text.contains("antrea_otlp_spans_exported_total 0"), "{text}");
    let full = format!("antrea_otlp_spans_dropped_total{{reason=\"queue_full\"}} {}", counters.full.get());
    assert!(text.contains(&full) && text.contains("{reason=\"export_failed\"}"), "{text}");
}

/// Takes nothing.
#[derive(Debug)]
struct Failing;

impl SpanExporter for Failing {
    async fn export(&self, _: Vec<SpanData>) -> opentelemetry_sdk::error::OTelSdkResult {
        Err(opentelemetry_sdk::error::OTelSdkError::InternalFailure("no".to_owned()))
    }
}

#[tokio::test]
async fn what_an_export_loses_is_counted() {
    let counters = counters();
    let stop = CancellationToken::new();
    let (queue, task) = Queue::new(Failing, counters.clone(), stop.clone());
    let worker = tokio::spawn(task);
    let provider = SdkTracerProvider::builder().with_span_processor(queue).build();
    for _ in 0..7 {
        drop(provider.tracer("x").start("lost"));
    }
    stop.cancel();
    worker.await.unwrap();
    assert_eq!((counters.failed.get(), counters.full.get(), counters.exported()), (7, 0, 0));
}
