//! What is counted of datapath probes.

use antrea_crds::probes::{Finding, Outcome, Probe};
use antrea_runtime::metrics::{self, Metrics};
use prometheus::IntCounterVec;

/// Counts of probes that this node's agent made.
#[derive(Clone, Debug)]
pub struct ProbeMetrics(IntCounterVec);

impl ProbeMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken.
    pub fn new(metrics: &Metrics) -> metrics::Result<Self> {
        let made = metrics.counter_vec(
            "antrea_agent_datapath_probes_total",
            "Datapath probes that the operator asked for, by probe and result (passed, failed, left-out).",
            &["probe", "result"],
        )?;
        for (probe, finding) in
            Probe::ALL.iter().flat_map(|probe| Finding::ALL.map(|finding| (probe, finding)))
        {
            made.with_label_values(&[probe.name(), finding.name()]);
        }
        Ok(Self(made))
    }

    /// These came of a run.
    pub fn count(&self, outcomes: &[Outcome]) {
        for Outcome { probe, finding, .. } in outcomes {
            self.0.with_label_values(&[probe.name(), finding.name()]).inc();
        }
    }
}
