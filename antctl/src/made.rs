//! Objects that antctl makes in a cluster for as long as it needs them.

use std::fmt::Debug;

use kube::{Api, Resource, api::DeleteParams};
use serde::de::DeserializeOwned;

use crate::connect::Server;

/// Does `work` with the object of this name, and then deletes that, however the work ends: by Ctrl-C as well, and where
/// `work` itself has a time limit. One that stays all the same is told.
///
/// # Errors
/// Those of `work`, or that it was interrupted.
pub(crate) async fn while_there<K, T>(
    cluster: &Server,
    api: &Api<K>,
    name: &str,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let done = unless_interrupted(work).await;
    let what = format!("delete {} {name}", K::kind(&()));
    let deleting = async {
        let deleted = api.delete(name, &DeleteParams::default()).await;
        deleted.map_err(|error| cluster.explain(&error, &what))
    };
    // Whoever does not want to wait for this either says so again.
    if let Err(error) = unless_interrupted(deleting).await {
        eprintln!("antctl: {error:#}");
    }
    done
}

pub(crate) async fn unless_interrupted<T>(
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    }
}
