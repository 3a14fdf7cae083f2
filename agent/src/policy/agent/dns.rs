//! What DNS tells, taken in and forgotten in its time.

use std::time::{Duration, Instant};

use antrea_enforce::dns::{Learned, Receiver, Remembered};
use antrea_enforce::reconciler::Reconciler;
use antrea_packet::DnsAnswer;
use tokio::sync::oneshot;

use super::{Ended, State};
use crate::policy::handle::Reply;

/// Is told what is known, and which version of it this is, if it is another than the one that was named.
type Shown = oneshot::Sender<Option<(u64, Vec<Remembered>)>>;

/// What DNS told somebody, for how long it remains at least, and who is told what became of it.
type Told = (Receiver, Vec<DnsAnswer>, Duration, Reply<Vec<Learned>>);

impl State {
    /// Has rules know what DNS told, and says so when the bridge has it.
    pub(super) async fn learn(&mut self, told: Vec<Told>) -> Result<(), Ended> {
        // It is the same for all.
        let Some(shortest) = told.iter().map(|(_, _, shortest, _)| *shortest).max() else { return Ok(()) };
        let mut replies = Vec::with_capacity(told.len());
        let mut answers = Vec::with_capacity(told.len());
        for (receiver, found, _, reply) in told {
            answers.push((receiver, found));
            replies.push(reply);
        }
        let learn =
            move |reconciler: &mut Reconciler| reconciler.learn_dns(&answers, shortest, Instant::now());
        let (learned, result) = self.step(learn).await?;
        for (learned, reply) in learned.into_iter().zip(replies) {
            // A caller that is gone has nobody to tell.
            let _ = reply.send(result.clone().map(|()| learned));
        }
        Ok(())
    }

    /// Tells what is known. It may be much, so it is put together on a thread that may block.
    pub(super) async fn show_dns(&mut self, asked: Vec<(u64, Shown)>) -> Result<(), Ended> {
        for (version, reply) in asked {
            let is_new = self.reconciler.as_ref().is_some_and(|r| r.cache.dns().version() != version);
            let show = |reconciler: &mut Reconciler| {
                let dns = reconciler.cache.dns();
                (dns.version(), dns.remember(Instant::now()))
            };
            let known = if is_new { Some(self.with_reconciler(show).await?) } else { None };
            let _ = reply.send(known);
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
