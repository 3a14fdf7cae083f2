//! Lets an AntreaInstallation go whose operator cannot do it any more.
//!
//! Whoever deletes the operator's whole manifest deletes its definition, its permissions and its Deployment in one
//! breath. Then the installation waits for its finalizers, and the definition for the installation, for ever, while
//! the network runs on. The controller is part of that network, not of the manifest: it is there as long as
//! somebody may have to do this. It takes the finalizers off and nothing else; the network stays as it is.

use std::time::Duration;

use antrea_crds::{
    AntreaInstallation, INSTALLATION_NAME,
    installation::{CLEAN_FINALIZER, DEFINITION, FINALIZER, goes_with_its_definition},
};
use antrea_runtime::client::describe;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    core::PartialObjectMeta,
};
use serde_json::json;

/// Interval at which the installation is looked at.
const LOOK: Duration = Duration::from_secs(15);

/// An operator that is there lets go within seconds.
const AFTER: SignedDuration = SignedDuration::from_secs(30);

/// An operator that is there has removed the network by then.
const AFTER_REMOVAL: SignedDuration = SignedDuration::from_secs(600);

/// Looks for ever.
pub(crate) async fn run(client: Client) {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(error) = look(&client, Timestamp::now()).await {
            tracing::debug!(error = describe(&error), "the AntreaInstallation cannot be looked at");
        }
    }
}

/// Whether nobody else is going to let the installation go. `asked` and `definition`: when its deletion and that of
/// its definition were asked for.
fn is_abandoned(asked: Option<Timestamp>, definition: Option<Timestamp>, now: Timestamp) -> bool {
    let (Some(asked), Some(deleted)) = (asked, definition) else { return false };
    let limit = if goes_with_its_definition(asked, definition) { AFTER } else { AFTER_REMOVAL };
    now.duration_since(asked.max(deleted)) >= limit
}

async fn look(client: &Client, now: Timestamp) -> kube::Result<()> {
    let installations = Api::<AntreaInstallation>::all(client.clone());
    let Some(installation) = installations.get_metadata_opt(INSTALLATION_NAME).await? else { return Ok(()) };
    let Some(asked) = deletion(&installation) else { return Ok(()) };
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    let definition = definitions.get_metadata_opt(DEFINITION).await?;
    if !is_abandoned(Some(asked), definition.as_ref().and_then(deletion), now) {
        return Ok(());
    }
    let ours = |name: &&String| *name != FINALIZER && *name != CLEAN_FINALIZER;
    let others: Vec<&String> = installation.finalizers().iter().filter(ours).collect();
    tracing::warn!(
        "the AntreaInstallation goes with its definition and no operator lets it: the network stays"
    );
    let patch = json!({
        "metadata": {"finalizers": others, "resourceVersion": installation.resource_version()},
    });
    installations
        .patch_metadata(INSTALLATION_NAME, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .map(drop)
}

fn deletion<K>(object: &PartialObjectMeta<K>) -> Option<Timestamp> {
    object.metadata.deletion_timestamp.as_ref().map(|time| time.0)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::{
        Json, Router,
        body::to_bytes,
        extract::{Request, State},
        http::StatusCode,
    };
    use serde_json::Value;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn only_what_goes_with_its_definition_is_let_go() {
        for (asked, definition, now, abandoned) in [
            (None, None, 1_000, false),
            (None, Some(0), 1_000, false),
            // Somebody wants the network removed and the operator is away: it will be back.
            (Some(0), None, 100_000, false),
            (Some(10), Some(10), 39, false),
            (Some(10), Some(10), 40, true),
            (Some(12), Some(10), 42, true),
            // Removal was asked for first: an operator that is there gets the time to do it.
            (Some(9), Some(10), 609, false),
            (Some(9), Some(10), 610, true),
        ] {
            let decided = is_abandoned(asked.map(at), definition.map(at), at(now));
            assert_eq!(decided, abandoned, "{asked:?} {definition:?} {now}");
        }
    }

    /// Answers for an installation with a finalizer of somebody else's, and keeps what it is patched with.
    type Cluster = Arc<Mutex<(Option<i64>, Option<i64>, Vec<Value>)>>;

    async fn answer(State(cluster): State<Cluster>, request: Request) -> (StatusCode, Json<Value>) {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        let mut cluster = cluster.lock().unwrap();
        let object = |name: &str, deleted: Option<i64>| {
            json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {
                    "name": name, "resourceVersion": "7", "finalizers": [FINALIZER, "other/x", CLEAN_FINALIZER],
                    "deletionTimestamp": deleted.map(|seconds| at(seconds).to_string()),
                },
            })
        };
        let (installation, definition) = (cluster.0, cluster.1);
        let object = match parts.uri.path() {
            "/apis/operator.antrea.io/v1alpha1/antreainstallations/default" => {
                if parts.method == "PATCH" {
                    cluster.2.push(serde_json::from_slice(&body).unwrap());
                }
                object("default", installation)
            }
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/antreainstallations.operator.antrea.io" => {
                object(DEFINITION, definition)
            }
            other => panic!("{other}"),
        };
        (StatusCode::OK, Json(object))
    }

    #[tokio::test]
    async fn finalizers_of_the_operator_and_no_others_are_taken_off() {
        let cluster = Cluster::default();
        let client = Client::new(Router::new().fallback(answer).with_state(Arc::clone(&cluster)), "default");
        for (installation, definition, patches) in
            [(None, None, 0), (Some(0), None, 0), (Some(0), Some(0), 1)]
        {
            cluster.lock().unwrap().0 = installation;
            cluster.lock().unwrap().1 = definition;
            look(&client, at(60)).await.unwrap();
            assert_eq!(cluster.lock().unwrap().2.len(), patches, "{installation:?} {definition:?}");
        }
        let expected = json!({"metadata": {"finalizers": ["other/x"], "resourceVersion": "7"}});
        assert_eq!(cluster.lock().unwrap().2, [expected]);
    }
}
