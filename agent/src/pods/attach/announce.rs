//! Neighbours hear who has an address now.

use std::time::Duration;

use netcfg::Netns;

use crate::pods::interfaces::PodInterface;

/// How often a new pod's addresses are announced, and the pause in between.
const ANNOUNCEMENTS: u32 = 3;
const BETWEEN_ANNOUNCEMENTS: Duration = Duration::from_millis(50);

/// Tells neighbours of an earlier owner's address, in the background: a pod is ready without it, and the bridge's flows
/// need no learning. Several times, as upstream: any one may be lost. A container that is gone meanwhile ends it.
pub(super) fn announce(interface: &PodInterface, netns: Netns) {
    let (ifname, ips) = (interface.ifname.clone(), interface.ips.clone());
    tokio::spawn(async move {
        for again in (0..ANNOUNCEMENTS).rev() {
            if let Err(error) = netcfg::garp::announce(&netns, &ifname, &ips).await {
                tracing::debug!(%error, ifname, "cannot announce");
                return;
            }
            if again > 0 {
                tokio::time::sleep(BETWEEN_ANNOUNCEMENTS).await;
            }
        }
    });
}
