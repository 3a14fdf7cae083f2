//! Lets an ovs-vswitchd that was started anew forward.
//!
//! The container antrea-ovs sets `flow-restore-wait` before it starts ovs-vswitchd, so that no packet meets a
//! bridge without flows. At the agent's own start bring-up clears it; when only Open vSwitch has been started
//! anew, this does.

use std::time::Duration;

use ovs::Vswitch;
use tokio::sync::broadcast::error::RecvError;

use crate::dataplane::Dataplane;

/// Key of `other_config`.
pub const FLOW_RESTORE_WAIT: &str = "flow-restore-wait";

/// Pause before the next try.
const RETRY: Duration = Duration::from_millis(200);

/// Follows OVSDB until its session ends.
pub async fn follow(vswitch: &Vswitch, dataplane: &Dataplane) {
    let mut changes = vswitch.subscribe();
    loop {
        let info = vswitch.open_vswitch_info();
        if info.is_some_and(|info| info.other_config.get(FLOW_RESTORE_WAIT).is_some_and(|v| v == "true")) {
            if release(vswitch, dataplane).await {
                tracing::info!("ovs-vswitchd was started anew and has its flows: it forwards");
            } else {
                tokio::time::sleep(RETRY).await;
            }
            continue;
        }
        if matches!(changes.recv().await, Err(RecvError::Closed)) {
            return;
        }
    }
}

async fn release(vswitch: &Vswitch, dataplane: &Dataplane) -> bool {
    if let Err(error) = dataplane.verify().await {
        tracing::debug!(%error, "flows are not in the bridge yet");
        return false;
    }
    if let Err(error) = vswitch.remove_other_config(FLOW_RESTORE_WAIT).await {
        tracing::debug!(%error, "cannot let ovs-vswitchd forward yet");
        return false;
    }
    true
}
