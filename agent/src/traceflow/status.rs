//! Writing a trace's status, which the controller and other nodes write too.

use std::time::Duration;

use antrea_crds::Traceflow;
use antrea_crds::traceflow::Status;
use antrea_runtime::backoff::spread;
use antrea_runtime::client::describe;
use kube::api::PostParams;
use kube::{Api, ResourceExt};

/// Tries of one write. Whoever writes at the same time is a node that saw the packet, or the controller.
const TRIES: usize = 8;

/// Limit of one request.
const LIMIT: Duration = Duration::from_secs(5);

/// The pause before a try is a random part of this, more with each.
const PAUSE: Duration = Duration::from_millis(50);

/// Reads the trace, changes its status and writes it, again if somebody was faster. `change` says whether there is
/// anything to write. A trace that is gone, or another of its name, is left alone.
pub(super) async fn update(
    api: &Api<Traceflow>,
    name: &str,
    uid: &str,
    change: impl Fn(&mut Status) -> bool,
) {
    let mut pause = PAUSE;
    for _ in 0..TRIES {
        match once(api, name, uid, &change).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!(trace = name, error, "status not written, trying again"),
        }
        tokio::time::sleep(spread(pause)).await;
        pause *= 2;
    }
    tracing::error!(trace = name, "status not written, giving up");
}

/// False: somebody was faster.
async fn once(
    api: &Api<Traceflow>,
    name: &str,
    uid: &str,
    change: impl Fn(&mut Status) -> bool,
) -> Result<bool, String> {
    let late = |_| format!("the API server did not answer in {LIMIT:?}");
    let found = tokio::time::timeout(LIMIT, api.get_opt(name)).await.map_err(late)?;
    let Some(mut trace) = found.map_err(|error| describe(&error))? else { return Ok(true) };
    if trace.uid().as_deref() != Some(uid) || !change(trace.status.get_or_insert_default()) {
        return Ok(true);
    }
    let written = tokio::time::timeout(LIMIT, api.replace_status(name, &PostParams::default(), &trace)).await;
    match written.map_err(late)? {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(describe(&error)),
    }
}
