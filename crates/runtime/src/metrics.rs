//! Prometheus metrics on a registry of our own, never the global one.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder, core::Collector,
};

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
        let metrics = Self { registry: Registry::new() };
        metrics.register(prometheus::process_collector::ProcessCollector::for_self())?;
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
        Self { registry: Registry::new() }
    }

    /// Adds any collector.
    ///
    /// # Errors
    /// Its name is taken.
    pub fn register(&self, collector: impl Collector + 'static) -> Result<()> {
        self.registry.register(Box::new(collector))
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
        let metric = IntCounter::with_opts(Opts::new(name, help))?;
        self.register(metric.clone())?;
        Ok(metric)
    }

    /// A counter per label set.
    #[expect(clippy::missing_errors_doc, reason = "see counter")]
    pub fn counter_vec(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec> {
        let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.register(metric.clone())?;
        Ok(metric)
    }

    /// A gauge.
    #[expect(clippy::missing_errors_doc, reason = "see counter")]
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge> {
        let metric = IntGauge::with_opts(Opts::new(name, help))?;
        self.register(metric.clone())?;
        Ok(metric)
    }

    /// A gauge per label set.
    #[expect(clippy::missing_errors_doc, reason = "see counter")]
    pub fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec> {
        let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.register(metric.clone())?;
        Ok(metric)
    }

    /// A histogram with the given upper bounds.
    #[expect(clippy::missing_errors_doc, reason = "see counter")]
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Result<Histogram> {
        let metric = Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?;
        self.register(metric.clone())?;
        Ok(metric)
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
        let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
        self.register(metric.clone())?;
        Ok(metric)
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
    }
}
