//! Ids of rules from one life of the agent to the next, so that flows go on counting for the rule that they have counted
//! for, and connections are accounted to the rule that allowed them.

use std::collections::BTreeSet;
use std::time::Duration;

use antrea_enforce::ids::RuleIds;
use antrea_flows::{Category, object_of};
use openflow::multipart::FlowFilter;
use ovs::of::OfError;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use super::handle::{PolicyHandle, Request};
use super::notes;
use crate::dataplane::Dataplane;

/// How soon after a change the ids are on disk. What gets one later than that before the process is killed counts anew.
const EVERY: Duration = Duration::from_secs(1);

/// How long the bridge is waited for.
const CONNECT_WAIT: Duration = Duration::from_secs(10);

/// Bits of a cookie that say what a flow is for.
pub(super) const CATEGORY: u64 = 0xff << 40;
pub(super) const POLICY: u64 = (Category::NetworkPolicy as u64) << 40;

/// Ids that were in use in the agent's last life.
#[derive(Clone, Debug, Default)]
pub struct IdsBefore {
    /// Of rules that are known.
    pub rules: RuleIds,
    /// That flows of the bridge name.
    pub used: BTreeSet<u32>,
}

impl PolicyHandle {
    /// What is known of the last life's ids, before the flows of it are replaced.
    ///
    /// # Errors
    /// The bridge is away: without it an id could come to mean two rules.
    pub async fn ids_before(&self, dataplane: &Dataplane) -> Result<IdsBefore, OfError> {
        let session = dataplane.session();
        session.wait_connected(CONNECT_WAIT).await?;
        let flows = session.flows(FlowFilter::cookie(POLICY, CATEGORY)).await?;
        let used = flows.iter().map(|entry| object_of(entry.flow.cookie)).filter(|id| *id != 0).collect();
        Ok(IdsBefore { rules: notes::read(&self.ids_file).await.unwrap_or_default(), used })
    }

    /// Keeps the ids on disk, for ever.
    pub async fn keep_rule_ids(&self) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut version = 0;
        loop {
            tick.tick().await;
            let (reply, answer) = oneshot::channel();
            if self.requests.send(Request::RuleIds(version, reply)).await.is_err() {
                return;
            }
            if let Ok(Some((now, ids))) = answer.await
                && notes::write(&self.ids_file, &ids).await
            {
                version = now;
            }
        }
    }
}
