//! Tells the controller what policies allowed and denied on this node, from the counters of rules' flows.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use antrea_api::controlplane::API_VERSION;
use antrea_api::k8s::Object;
use antrea_api::stats::TrafficStats;
use antrea_enforce::tally::{Counted, Tally, Told};
use antrea_flows::{Table, object_of};
use openflow::multipart::{FlowEntry, FlowFilter};
use openflow::{CtState, Field};
use ovs::of::OfError;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use super::handle::{PolicyHandle, Request};
use super::notes;
use super::rule_ids::{CATEGORY, POLICY};
use crate::dataplane::Dataplane;

impl PolicyHandle {
    /// Looks and tells, for ever. What was told is kept in `file`, so that nothing is told twice by the agent's next life
    /// and what was counted in between is not lost.
    pub async fn tell_statistics(&self, dataplane: &Dataplane, file: &Path, every: Duration) {
        let mut sessions = self.confirmer.sessions.clone();
        let mut written: Option<Told> = notes::read(file).await;
        let mut tally = written.clone().map_or_else(Tally::default, Tally::after);
        let mut tick = tokio::time::interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match counters(dataplane).await {
                Ok(read) => tally.take(&read, &self.owners().await),
                Err(error) => tracing::debug!(%error, "counters of policies not read"),
            }
            let session = sessions.borrow_and_update().clone();
            if let Some(summary) = tally.summary(&self.confirmer.node) {
                let Some(session) = session else { continue };
                let path = format!("/apis/{API_VERSION}/nodestatssummaries");
                if let Err(error) = session.post(&path, summary.seal()).await {
                    tracing::debug!(%error, "statistics of policies not told");
                    continue;
                }
            }
            let told = tally.delivered();
            if written.as_ref() != Some(&told) && notes::write(file, &told).await {
                written = Some(told);
            }
        }
    }

    /// Whose rule each id is; nobody's at the end of the process.
    async fn owners(&self) -> HashMap<u32, Counted> {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Request::Owners(reply)).await.is_err() {
            return HashMap::new();
        }
        answer.await.unwrap_or_default()
    }
}

/// What the flows of each rule have counted.
async fn counters(dataplane: &Dataplane) -> Result<HashMap<u32, TrafficStats>, OfError> {
    let mut found = HashMap::new();
    for table in [Table::EgressMetric, Table::IngressMetric] {
        let filter = FlowFilter {
            table: dataplane.network().pipeline.number(table),
            ..FlowFilter::cookie(POLICY, CATEGORY)
        };
        for entry in dataplane.session().flows(filter).await? {
            count(&entry, &mut found);
        }
    }
    Ok(found)
}

/// A connection is what begins: the first packet of one that is allowed, and each that is denied.
fn count(entry: &FlowEntry, found: &mut HashMap<u32, TrafficStats>) {
    let id = object_of(entry.flow.cookie);
    let number = |count: Option<u64>| i64::try_from(count.unwrap_or_default()).unwrap_or(i64::MAX);
    let (packets, bytes) = (number(entry.stats.packets), number(entry.stats.bytes));
    let state = entry.flow.matches.get(Field::CtState);
    let goes_on = state.is_some_and(|state| state.value & u128::from(CtState::NEW) == 0);
    let sessions = if goes_on { 0 } else { packets };
    found.entry(id).or_default().add(&TrafficStats { packets, bytes, sessions });
}
