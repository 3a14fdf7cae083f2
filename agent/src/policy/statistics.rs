//! Tells the controller what policies allowed and denied on this node, from the counters of rules' flows.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use antrea_api::controlplane::API_VERSION;
use antrea_api::k8s::Object;
use antrea_api::stats::TrafficStats;
use antrea_enforce::tally::{Counted, Tally, Told};
use antrea_flows::{Category, Table, object_of};
use openflow::multipart::{FlowEntry, FlowFilter};
use openflow::{CtState, Field};
use ovs::of::OfError;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use super::handle::{PolicyHandle, Request};
use crate::dataplane::Dataplane;

/// Bits of a cookie that say what a flow is for.
const CATEGORY: u64 = 0xff << 40;

impl PolicyHandle {
    /// Looks and tells, for ever. What was told is kept in `file`, so that nothing is told twice by the agent's next life
    /// and what was counted in between is not lost.
    pub async fn tell_statistics(&self, dataplane: &Dataplane, file: &Path, every: Duration) {
        let mut sessions = self.confirmer.sessions.clone();
        let mut written = read(file).await;
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
            if written.as_ref() != Some(&told) {
                match write(file, &told).await {
                    Ok(()) => written = Some(told),
                    Err(error) => tracing::warn!(file = %file.display(), %error, "what was told is not kept"),
                }
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

async fn read(file: &Path) -> Option<Told> {
    let text = tokio::fs::read(file).await.ok()?;
    serde_json::from_slice(&text)
        .inspect_err(|error| tracing::warn!(file = %file.display(), %error, "statistics begin anew"))
        .ok()
}

async fn write(file: &Path, told: &Told) -> std::io::Result<()> {
    let part = file.with_extension("part");
    if let Some(folder) = file.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    tokio::fs::write(&part, serde_json::to_vec(told)?).await?;
    tokio::fs::rename(&part, file).await
}

/// What the flows of each rule have counted.
async fn counters(dataplane: &Dataplane) -> Result<HashMap<u32, TrafficStats>, OfError> {
    let mut found = HashMap::new();
    for table in [Table::EgressMetric, Table::IngressMetric] {
        let filter = FlowFilter {
            table: dataplane.network().pipeline.number(table),
            ..FlowFilter::cookie((Category::NetworkPolicy as u64) << 40, CATEGORY)
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
