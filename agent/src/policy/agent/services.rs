//! Where Services are reached, for rules that name them.

use super::{Ended, State};
use crate::policy::handle::{Reached, Reply};

impl State {
    /// Has rules know of Services, and says so when the bridge has it.
    pub(super) async fn reach(&mut self, told: Vec<(Reached, Reply)>) -> Result<(), Ended> {
        if told.is_empty() {
            return Ok(());
        }
        let (told, replies): (Vec<Reached>, Vec<Reply>) = told.into_iter().unzip();
        let ((), result) = self
            .step(move |reconciler| {
                told.into_iter().for_each(|told| reconciler.cache.change_services(told.services, told.all));
            })
            .await?;
        for reply in replies {
            // A caller that is gone has nobody to tell.
            let _ = reply.send(result.clone());
        }
        Ok(())
    }
}
