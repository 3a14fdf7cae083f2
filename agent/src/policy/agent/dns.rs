//! What DNS tells, taken in and forgotten in its time.

use std::time::{Duration, Instant};

use antrea_enforce::dns::Remembered;
use antrea_enforce::reconciler::Reconciler;
use antrea_packet::DnsAnswer;

use super::{Ended, State};
use crate::policy::handle::Reply;

/// What is known if that changed since a version of it, and which one it is.
pub(super) fn since(reconciler: &Reconciler, version: u64) -> Option<(u64, Vec<Remembered>)> {
    let dns = reconciler.cache.dns();
    (dns.version() != version).then(|| (dns.version(), dns.remember(Instant::now())))
}

impl State {
    /// Has rules know what DNS told, and says so when the bridge has it.
    pub(super) async fn learn(
        &mut self,
        told: Vec<(Vec<DnsAnswer>, Duration, Reply<u64>)>,
    ) -> Result<(), Ended> {
        if told.is_empty() {
            return Ok(());
        }
        let mut replies = Vec::with_capacity(told.len());
        let mut answers = Vec::with_capacity(told.len());
        for (found, shortest, reply) in told {
            answers.push((found, shortest));
            replies.push(reply);
        }
        let (news, result) = self
            .step(move |reconciler| {
                let now = Instant::now();
                reconciler.cache.change_dns(|dns| {
                    for (found, shortest) in &answers {
                        found.iter().for_each(|answer| dns.learn(answer, *shortest, now));
                    }
                });
                reconciler.cache.dns().news()
            })
            .await?;
        for reply in replies {
            // A caller that is gone has nobody to tell.
            let _ = reply.send(result.clone().map(|()| news));
        }
        Ok(())
    }

    /// Takes addresses from rules whose time has passed.
    pub(super) async fn expire_dns(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        let end = self.reconciler.as_ref().and_then(|reconciler| reconciler.cache.dns().next_end());
        if end.is_none_or(|end| end > now) {
            return Ok(());
        }
        let _ = self.step(move |reconciler| reconciler.cache.change_dns(|dns| dns.expire(now))).await?;
        Ok(())
    }
}
