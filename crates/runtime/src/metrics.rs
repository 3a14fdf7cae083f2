//! Prometheus metrics on a registry of our own, never the global one.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector, proto::MetricType,
};

use crate::process::Process;

/// Buckets for durations in milliseconds, from 50 µs to 10 s.
pub const MILLISECOND_BUCKETS: &[f64] =
    &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 10_000.0];

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A registry and short constructors for what goes into it.
///
/// The constructors fail when a name is not a metric name or is taken already: both are mistakes in the
/// program that its tests find by building the component's metrics once.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    definitions: Arc<Mutex<Vec<Definition>>>,
}

/// What a metric is, whether or not it has a value yet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Definition {
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels, in order.
    pub labels: Vec<String>,
    /// What it says.
    pub help: String,
}

/// Result of a constructor.
pub type Result<T> = prometheus::Result<T>;

impl Metrics {
    /// A registry that holds process metrics (`process_*`) and
    /// `<component>_build_info{version}` with the value 1.
    ///
    /// # Errors
    /// `component` is not fit to be a metric name.
    pub fn new(component: &str, version: &str) -> Result<Self> {
        let metrics = Self::empty();
        metrics.register(Process::new()?)?;
        let info = metrics.gauge_vec(
            &format!("{component}_build_info"),
            "Always 1; the labels say what is running.",
            &["version"],
        )?;
        info.with_label_values(&[version]).set(1);
        Ok(metrics)
    }

    /// A registry with nothing in it, for tests.
    pub fn empty() -> Self {
        Self { registry: Registry::new(), definitions: Arc::default() }
    }

    /// Adds any collector.
    ///
    /// # Errors
    /// Its name is taken.
    pub fn register(&self, collector: impl Collector + 'static) -> Result<()> {
        let kinds = collector.collect();
        let kind = |name: &str| {
            let family = kinds.iter().find(|family| family.name() == name)?;
            Some(match family.get_field_type() {
                MetricType::COUNTER => "counter",
                MetricType::HISTOGRAM => "histogram",
                _ => "gauge",
            })
        };
        self.define(&collector, kind);
        self.registry.register(Box::new(collector))
    }

    fn add<C: Collector + Clone + 'static>(&self, kind: &'static str, collector: C) -> Result<C> {
        self.registry.register(Box::new(collector.clone()))?;
        self.define(&collector, |_| Some(kind));
        Ok(collector)
    }

    fn define(&self, collector: &impl Collector, kind: impl Fn(&str) -> Option<&'static str>) {
        let mut definitions = self.definitions.lock().unwrap_or_else(PoisonError::into_inner);
        definitions.extend(collector.desc().into_iter().map(|desc| Definition {
            name: desc.fq_name.clone(),
            kind: kind(&desc.fq_name).unwrap_or("gauge"),
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        }));
    }

    /// Every metric that is registered, by name.
    pub fn definitions(&self) -> Vec<Definition> {
        let mut all = self.definitions.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort();
        all
    }

    /// The registry itself.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A counter.
    ///
    /// # Errors
    /// The name is malformed or taken; so for the functions below.
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter> {
        self.add("counter", IntCounter::with_opts(Opts::new(name, help))?)
    }

    /// A counter per label set.
    #[expect(clippy::missing_errors_doc, reason = "see counter")]
    pub fn counter_vec(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        self.add("counter", IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    /// A gauge, which is there with 0 from the beginning.
    #[expect(clippy::missing_errors_doc, reason = "see counter")]
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        self.add("gauge", IntGauge::with_opts(Opts::new(name, help))?)
    }

    /// A gauge per label set.
    #[expect(clippy::missing_errors_doc, reason = "see counter")]
    pub fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        self.add("gauge", IntGaugeVec::new(Opts::new(name, help), labels)?)
    }

    /// A histogram with the given upper bounds.
    #[expect(clippy::missing_errors_doc, reason = "see counter")]
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram> {
        self.add("histogram", Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?)
    }

    /// A histogram per label set.
    #[expect(clippy::missing_errors_doc, reason = "see counter")]
    pub fn histogram_vec(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> Result<HistogramVec> {
        self.add(
            "histogram",
            HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?,
        )
    }

    /// All metrics in the text exposition format ([`CONTENT_TYPE`]).
    ///
    /// # Errors
    /// A collector produced something that cannot be written.
    pub fn encode(&self) -> Result<String> {
        let mut text = Vec::with_capacity(8 << 10);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|e| prometheus::Error::Msg(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_once_and_encodes() {
        let metrics = Metrics::new("sample", "1.2.3").unwrap();
        metrics.counter("sample_things_total", "Things.").unwrap().inc();
        assert!(metrics.counter("sample_things_total", "Again.").is_err());
        metrics
            .histogram_vec("sample_ms", "Time.", &["op"], MILLISECOND_BUCKETS)
            .unwrap()
            .with_label_values(&["add"])
            .observe(3.0);
        let text = metrics.encode().unwrap();
        assert!(text.contains("sample_build_info{version=\"1.2.3\"} 1"), "{text}");
        assert!(text.contains("sample_things_total 1"));
        assert!(text.contains("sample_ms_bucket{op=\"add\",le=\"5\"} 1"));
        assert!(text.contains("process_resident_memory_bytes"));

        metrics.gauge_vec("sample_absent", "Nothing yet.", &["a", "b"]).unwrap();
        let definitions = metrics.definitions();
        let kind = |name: &str| definitions.iter().find(|one| one.name == name).map(|one| one.kind);
        assert_eq!(kind("sample_things_total"), Some("counter"));
        assert_eq!(kind("sample_ms"), Some("histogram"));
        assert_eq!(kind("process_cpu_seconds_total"), Some("counter"));
        let absent = definitions.iter().find(|one| one.name == "sample_absent").unwrap();
        assert_eq!((absent.kind, absent.labels.len(), absent.help.as_str()), ("gauge", 2, "Nothing yet."));
    }
}
