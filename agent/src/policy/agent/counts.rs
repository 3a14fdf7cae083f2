//! How much there is, for metrics and status.

use super::State;
use crate::facts::Health;

impl State {
    /// Publishes counts.
    pub(super) fn count(&self) {
        let Some(reconciler) = &self.reconciler else { return };
        let counts = reconciler.cache.counts();
        self.metrics.set(counts[0], reconciler.rule_counts());
        let dns = reconciler.cache.dns();
        self.metrics.dns.remembered(dns.size(), dns.forgotten());
        let counts = counts.map(|count| i32::try_from(count).unwrap_or(i32::MAX));
        let damaged = reconciler.cache.damaged();
        self.metrics.undecodable.set(i64::try_from(damaged.len()).unwrap_or(i64::MAX));
        let objects = match damaged.iter().next() {
            None => Health::Good,
            Some(((kind, name), error)) => {
                let (resource, more) = (kind.resource(), damaged.len() - 1);
                Health::bad(
                    "UndecodableObjects",
                    format_args!("{resource} {name}: {error} (and {more} more)"),
                )
            }
        };
        self.reporter.update(|facts| {
            facts.policies = counts;
            facts.objects = objects;
        });
    }
}
