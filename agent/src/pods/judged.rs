//! Whose addresses the host's egress policy speaks of.
//!
//! The host learns of a pod that is gone after the bridge, and when it is busy much later. What it said of the pod's
//! address must not be said of the next one that gets it: a first packet that it lets through begins a connection that
//! it lets through for ever.

use std::collections::BTreeSet;
use std::net::IpAddr;

use tokio::sync::watch;

/// Addresses of pods in the rules that are in force at the host; clones share it.
#[derive(Clone, Debug)]
pub struct JudgedAddresses(watch::Sender<Option<BTreeSet<IpAddr>>>);

impl Default for JudgedAddresses {
    /// Of rules that nobody has made in this life.
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl JudgedAddresses {
    /// Rules for `pods` are about to be made: they and those of before may be in force.
    pub fn begin(&self, pods: &BTreeSet<IpAddr>) {
        self.0.send_modify(|judged| judged.iter_mut().for_each(|judged| judged.extend(pods)));
    }

    /// Those for `pods` are in force, and no others.
    pub fn end(&self, pods: &BTreeSet<IpAddr>) {
        self.0.send_replace(Some(pods.clone()));
    }

    /// Waits until the rules say nothing of `ips`.
    pub async fn without(&self, ips: &[IpAddr]) {
        let is_without = |judged: &Option<BTreeSet<IpAddr>>| {
            judged.as_ref().is_some_and(|judged| !ips.iter().any(|ip| judged.contains(ip)))
        };
        // Never an error: this is a sender.
        let _ = self.0.subscribe().wait_for(is_without).await;
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn an_address_is_free_when_no_rule_in_force_has_it() {
        let judged = JudgedAddresses::default();
        let [one, two]: [IpAddr; 2] = [[10, 0, 0, 1], [10, 0, 0, 2]].map(IpAddr::from);
        let free = |ips: &[IpAddr]| judged.without(ips).now_or_never().is_some();
        judged.begin(&[two].into());
        assert!(!free(&[one]), "nothing is known of rules of a life before");
        judged.end(&[one].into());
        assert!(free(&[two]) && !free(&[two, one]));
        judged.begin(&[two].into());
        assert!(!free(&[one]) && !free(&[two]), "either may be in force");
        judged.end(&[two].into());
        assert!(free(&[one]) && !free(&[two]));
    }

    #[tokio::test]
    async fn who_waits_is_told() {
        let judged = JudgedAddresses::default();
        let ip = IpAddr::from([10, 0, 0, 1]);
        judged.end(&[ip].into());
        let ips = [ip];
        let mut waiting = std::pin::pin!(judged.without(&ips));
        assert!(waiting.as_mut().now_or_never().is_none());
        judged.end(&BTreeSet::new());
        assert!(waiting.now_or_never().is_some());
    }
}
