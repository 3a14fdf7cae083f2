//! The host's table of connections.
//!
//! To look through it takes the kernel milliseconds, whatever is in it: it goes through all of its buckets. So all who wait
//! have it looked through together, and whoever gets an address does not wait at all if its last owner's connections were
//! forgotten when it went. None comes up in between: nobody can send by an address that no port has, what is sent to it has
//! no answer and stays new to the host's rules, and whatever translates to it (hostPort, kube-proxy) takes that away itself,
//! hostPort's before the agent hears that the pod goes.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netcfg::{Netns, conntrack};
use parking_lot::Mutex;
use tokio::sync::oneshot::{self, error::TryRecvError};

/// Who waits for addresses to be forgotten.
type Waiting = (Vec<IpAddr>, oneshot::Sender<Result<(), Arc<netcfg::Error>>>);

#[derive(Debug)]
pub(super) struct Host {
    netns: Netns,
    waiting: Mutex<Vec<Waiting>>,
    /// Held while the table is looked through.
    turn: tokio::sync::Mutex<()>,
    used: Mutex<Used>,
}

impl Host {
    pub(super) fn new(netns: Netns) -> Self {
        Self { netns, waiting: Mutex::default(), turn: tokio::sync::Mutex::default(), used: Mutex::default() }
    }

    pub(super) async fn begin(
        &self,
        subnets: &[IpNet],
        held: BTreeSet<IpAddr>,
    ) -> Result<(), Arc<netcfg::Error>> {
        conntrack::forget_unless_held(&self.netns, subnets.to_vec(), held.clone()).await?;
        self.used.lock().begin(held);
        Ok(())
    }

    pub(super) async fn take(&self, ips: &[IpAddr]) -> Result<(), Arc<netcfg::Error>> {
        let may_have_some = self.used.lock().take(ips);
        if may_have_some { self.forget(ips).await } else { Ok(()) }
    }

    pub(super) async fn left(&self, ips: &[IpAddr]) -> Result<(), Arc<netcfg::Error>> {
        let uses = self.used.lock().of(ips);
        self.forget(ips).await?;
        self.used.lock().forgotten(&uses);
        Ok(())
    }

    async fn forget(&self, ips: &[IpAddr]) -> Result<(), Arc<netcfg::Error>> {
        loop {
            let (told, mut forgotten) = oneshot::channel();
            self.waiting.lock().push((ips.to_vec(), told));
            let turn = self.turn.lock().await;
            match forgotten.try_recv() {
                // Along with those of whoever had the turn before.
                Ok(done) => return done,
                // Who went away in the middle of it.
                Err(TryRecvError::Closed) => continue,
                Err(TryRecvError::Empty) => {}
            }
            let together = std::mem::take(&mut *self.waiting.lock());
            let all: Vec<IpAddr> = together.iter().flat_map(|(ips, _)| ips.iter().copied()).collect();
            let done = conntrack::forget(&self.netns, &all).await.map(drop).map_err(Arc::new);
            for (_, told) in together {
                // Who went away has nothing to wait for.
                let _ = told.send(done.clone());
            }
            drop(turn);
            return done;
        }
    }
}

/// Which addresses of pods the host may track connections of. At most those of the node's subnets that pods had.
#[derive(Debug, Default)]
struct Used {
    /// False until the table was looked through for those that no pod has: any may have some.
    begun: bool,
    /// By which use: one that goes may be another's before its connections are forgotten.
    uses: HashMap<IpAddr, u64>,
    last: u64,
}

impl Used {
    fn begin(&mut self, held: BTreeSet<IpAddr>) {
        self.begun = true;
        self.uses.extend(held.into_iter().map(|ip| (ip, 0)));
    }

    /// Whoever has these may make connections from now on. Returns whether there may be some of a former owner.
    fn take(&mut self, ips: &[IpAddr]) -> bool {
        self.last += 1;
        let had = ips.iter().filter(|ip| self.uses.insert(**ip, self.last).is_some()).count();
        !self.begun || had > 0
    }

    fn of(&self, ips: &[IpAddr]) -> Vec<(IpAddr, u64)> {
        ips.iter().filter_map(|ip| Some((*ip, *self.uses.get(ip)?))).collect()
    }

    fn forgotten(&mut self, uses: &[(IpAddr, u64)]) {
        for (ip, of) in uses {
            if self.uses.get(ip) == Some(of) {
                self.uses.remove(ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 244, 1, last])
    }

    #[test]
    fn only_an_address_that_was_forgotten_since_its_last_owner_is_free_of_connections() {
        let mut used = Used::default();
        assert!(used.take(&[ip(2)]), "nothing was looked through yet");
        used.begin([ip(9)].into());
        assert!(used.take(&[ip(9)]) && used.take(&[ip(2)]), "held since before");
        assert!(!used.take(&[ip(3)]), "nobody had it");
        assert!(used.take(&[ip(3)]), "its owner's were not forgotten");
        let uses = used.of(&[ip(3)]);
        used.forgotten(&uses);
        assert!(!used.take(&[ip(3)]));
        assert!(used.take(&[ip(4), ip(3)]), "one of two");
    }

    #[test]
    fn what_the_former_owner_left_says_nothing_of_the_next_one() {
        let mut used = Used::default();
        used.begin(BTreeSet::new());
        used.take(&[ip(3)]);
        let gone = used.of(&[ip(3)]);
        assert!(used.take(&[ip(3)]), "taken while the former owner's are looked for");
        used.forgotten(&gone);
        assert!(used.take(&[ip(3)]), "those of the second may still be there");
    }
}
