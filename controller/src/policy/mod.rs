//! NetworkPolicy: from watches through the index to the agents.
//!
//! ```text
//!  watch (Pods, Namespaces, policies, groups, Tiers) ─ batches ─► Hub<State>: index.apply, index.drain
//!                                                           │ publish: one event, whoever needs it
//!  networkpolicies/addressgroups/appliedtogroups ◄─ storage ┘
//!  networkpolicies/{name}/status ─► realization ─► status of native policies ◄─ native
//!  nodestatssummaries ─► statistics ─► networkpolicystats of stats.antrea.io
//!  networkpolicyevaluation, /endpoint ◄─ evaluation        *groupmembers, *groupassociations ◄─ groups
//!  /podselection ◄─ lookup                                 Events of NetworkPolicies ◄─ mistakes
//!  /podaddresses ─► addresses ─► Hub<State>       /validate, /mutate ◄─ admission
//! ```

mod addresses;
mod admission;
mod convert;
mod evaluation;
mod feed;
mod groups;
mod lookup;
mod mistakes;
mod native;
mod publish;
mod realization;
mod resources;
mod scope;
mod source;
mod statistics;
mod storage;
mod trace;
mod undecoded;

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use antrea_policy::Index;
use antrea_runtime::metrics::{MILLISECOND_BUCKETS, Metrics, Result};
use antrea_runtime::trace::Tracer;
use apiserver_kit::hub::{Hub, Routes};
use prometheus::{Histogram, IntCounter, IntGauge};

pub use addresses::{Subnets, router as addresses};
pub use admission::{AdmissionMetrics, router as admission};
pub use evaluation::router as endpoints;
pub use feed::{Feed, Native, feeds};
pub use groups::write_group_statuses;
pub use lookup::router as lookup;
pub use mistakes::{Mistakes, channel as mistakes, write_events};
pub use native::{keep_tiers, write_statuses};
pub(crate) use resources::PLURALS;
pub use scope::own_node;
pub use statistics::statistics;
pub use storage::{api, dump};

use self::resources::{METRICS, NetworkPolicies, Served, Whole};
use crate::info::Counts;

/// The hub of computed policy.
pub type PolicyHub = Hub<State>;

/// What is behind the hub's lock.
pub struct State {
    index: Index,
    /// Bit per [`Feed`] whose first list has been taken in.
    synced: u16,
    /// Of those that there are.
    wanted: u16,
    /// AddressGroups that are being sent to somebody, so that a thousand agents that list at once share
    /// one copy.
    whole: Whole,
    partial: mistakes::Partial,
    realization: realization::Realization,
    stale: native::Stale,
    statistics: statistics::Statistics,
    metrics: PolicyMetrics,
    tracer: Tracer,
}

impl State {
    /// Whether every input is known. Before that nothing is served: an agent would take an incomplete
    /// set for the complete one and stop enforcing.
    pub fn is_synced(&self) -> bool {
        self.synced & self.wanted == self.wanted
    }

    fn counts(&self, routes: &Routes) -> Counts {
        let sizes = self.index.sizes();
        Counts {
            network_policies: sizes.network_policies,
            address_groups: sizes.address_groups,
            applied_to_groups: sizes.applied_to_groups,
            connected_agents: routes.nodes(NetworkPolicies::NUMBER),
            invalid_policies: self.partial.message(),
        }
    }
}

/// A hub that knows nothing yet.
pub fn hub(metrics: PolicyMetrics, tracer: Tracer) -> Arc<PolicyHub> {
    let state = State {
        index: Index::new(),
        synced: 0,
        wanted: Feed::bits(&Feed::KUBERNETES),
        whole: Whole::new(),
        partial: mistakes::Partial::default(),
        realization: realization::Realization::default(),
        stale: native::Stale::default(),
        statistics: statistics::Statistics::default(),
        metrics,
        tracer,
    };
    Hub::new(state, METRICS.len())
}

/// How much there is now.
pub fn counts(hub: &PolicyHub) -> Counts {
    hub.read(State::counts).0
}

/// Takes changes into the index and sends out what follows.
fn update(hub: &PolicyHub, batch: &trace::Batch<'_>, work: impl FnOnce(&mut State)) {
    hub.update(|state, routes| {
        let (begin, computing) = (Instant::now(), SystemTime::now());
        let size = i64::try_from(batch.size).unwrap_or(i64::MAX);
        state.metrics.queues.iter().for_each(|queue| queue.set(size));
        work(state);
        publish::publish(state, routes, begin, |tracer| trace::Spans::begin(tracer, batch, computing));
        let computed = state.index.take_computed();
        state.stale.computed(computed);
        state.metrics.queues.iter().for_each(|queue| queue.set(0));
    });
}

/// Upstream's metrics of the computation. There is one queue, that of events not yet taken in, so the three
/// queue lengths are the same.
#[derive(Clone)]
pub struct PolicyMetrics {
    processed: [IntCounter; METRICS.len()],
    duration: [Histogram; METRICS.len()],
    queues: [IntGauge; METRICS.len()],
    /// In the order of [`Feed`].
    undecodable: [IntGauge; Feed::COUNT],
    /// NetworkPolicies in force without a part.
    invalid: IntGauge,
    /// Pods whose addresses agents told: believed, refused.
    addresses: [IntCounter; 2],
}

impl PolicyMetrics {
    /// Registers with `metrics`.
    ///
    /// # Errors
    /// The names are taken.
    pub fn new(metrics: &Metrics) -> Result<Self> {
        let counter = |kind: &str| {
            let name = format!("antrea_controller_{kind}_processed");
            metrics.counter(&name, "Objects computed and sent out.")
        };
        let histogram = |kind: &str| {
            let name = format!("antrea_controller_{kind}_sync_duration_milliseconds");
            metrics.histogram(&name, "From taking in the change to having sent it out.", MILLISECOND_BUCKETS)
        };
        let gauge = |kind: &str| {
            let name = format!("antrea_controller_length_{kind}_queue");
            metrics.gauge(&name, "Events being taken in.")
        };
        let [a, b, c] = METRICS;
        let undecodable = metrics.gauge_vec(
            "antrea_controller_undecodable_objects",
            "Objects of the Kubernetes API that do not decode; what was known of them stays in force.",
            &["resource"],
        )?;
        let undecodable = Feed::ALL.map(|feed| undecodable.with_label_values(&[feed.resource()]));
        let invalid = metrics.gauge(
            "antrea_controller_invalid_network_policies",
            "Kubernetes NetworkPolicies of which a part cannot be honoured; what it would have allowed is not.",
        )?;
        let addresses = metrics.counter_vec(
            "antrea_controller_told_pod_addresses_total",
            "Pods without an address in their status of whose addresses agents told, by whether it was believed; a pod \
             counts again each time.",
            &["result"],
        )?;
        let addresses = ["believed", "refused"].map(|result| addresses.with_label_values(&[result]));
        Ok(Self {
            addresses,
            processed: [counter(a)?, counter(b)?, counter(c)?],
            duration: [histogram(a)?, histogram(b)?, histogram(c)?],
            queues: [gauge(a)?, gauge(b)?, gauge(c)?],
            undecodable,
            invalid,
        })
    }

    fn done(&self, resource: usize, begin: Instant) {
        self.processed[resource].inc();
        self.duration[resource].observe(begin.elapsed().as_secs_f64() * 1000.0);
    }
}

#[cfg(test)]
mod tests;
