//! ConfigMap `antrea-cluster-identity`: a UUID by which what Antrea exports tells one cluster from another.
//!
//! It is made once and nobody changes it afterwards, which the API server sees to, for the ConfigMap is immutable. It is
//! no part of what the operator installs, so it outlives an uninstallation, and a later installation finds it.

use std::time::Duration;

use antrea_runtime::{backoff::Backoff, client::describe};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, api::PostParams};
use serde_json::json;
use uuid::Uuid;

/// Name of the ConfigMap, and the key in it.
const NAME: &str = "antrea-cluster-identity";
const KEY: &str = "uuid";

/// Interval at which it is looked at, for somebody may delete it.
const LOOK: Duration = Duration::from_secs(300);

/// Keeps it there, with the UUID that was seen or made first.
pub(crate) async fn run(client: Client, namespace: String) {
    let maps = Api::namespaced(client, &namespace);
    let (mut known, mut retry) = (None, Backoff::new(Duration::from_secs(1), LOOK));
    loop {
        let pause = match ensure(&maps, &mut known).await {
            Ok(()) => {
                retry.reset();
                LOOK
            }
            Err(error) => {
                tracing::warn!(error = describe(&error), "ConfigMap {NAME} cannot be read or made");
                retry.next_delay()
            }
        };
        tokio::time::sleep(pause).await;
    }
}

async fn ensure(maps: &Api<ConfigMap>, known: &mut Option<Uuid>) -> kube::Result<()> {
    if let Some(map) = maps.get_opt(NAME).await? {
        let text = map.data.unwrap_or_default().remove(KEY).unwrap_or_default();
        match text.parse() {
            Ok(uuid) => *known = Some(uuid),
            // Whatever it is, it was not made here, and somebody may go by it.
            Err(_) => tracing::warn!("ConfigMap {NAME} has no UUID under {KEY:?}: {text:?}"),
        }
        return Ok(());
    }
    let uuid = *known.get_or_insert_with(Uuid::new_v4);
    let map = json!({
        "metadata": {"name": NAME, "labels": {"app": "antrea"}},
        "data": {KEY: uuid.to_string()},
        "immutable": true,
    });
    let map = serde_json::from_value(map).map_err(kube::Error::SerdeError)?;
    match maps.create(&PostParams::default(), &map).await {
        // Another was faster: the next look takes his.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            *known = None;
            Ok(())
        }
        made => made.map(|_| tracing::info!(%uuid, "this cluster has an identity now")),
    }
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

    type Cluster = Arc<Mutex<Option<Value>>>;

    async fn answer(State(cluster): State<Cluster>, request: Request) -> (StatusCode, Json<Value>) {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        let mut map = cluster.lock().unwrap();
        let missing = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404, "message": "",
        });
        match parts.method.as_str() {
            "POST" => {
                assert_eq!(parts.uri.path(), "/api/v1/namespaces/kube-system/configmaps");
                *map = Some(serde_json::from_slice(&body).unwrap());
                (StatusCode::CREATED, Json(map.clone().unwrap()))
            }
            "GET" => match &*map {
                Some(map) => (StatusCode::OK, Json(map.clone())),
                None => (StatusCode::NOT_FOUND, Json(missing)),
            },
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn it_is_made_once_and_comes_back_as_it_was() {
        let cluster = Cluster::default();
        let client = Client::new(Router::new().fallback(answer).with_state(Arc::clone(&cluster)), "default");
        let maps = Api::namespaced(client, "kube-system");
        let uuid =
            || cluster.lock().unwrap().as_ref().map(|map| map["data"]["uuid"].as_str().unwrap().to_owned());
        let mut known = None;
        ensure(&maps, &mut known).await.unwrap();
        let first = uuid().unwrap();
        assert!(
            first.parse::<Uuid>().is_ok() && cluster.lock().unwrap().as_ref().unwrap()["immutable"] == true
        );
        // Another life of the controller.
        let mut again = None;
        ensure(&maps, &mut again).await.unwrap();
        assert_eq!(
            (uuid().unwrap(), again.map(|uuid| uuid.to_string())),
            (first.clone(), Some(first.clone()))
        );
        *cluster.lock().unwrap() = None;
        ensure(&maps, &mut again).await.unwrap();
        assert_eq!(uuid().unwrap(), first, "deleted by somebody");
        // What somebody else wrote stays.
        *cluster.lock().unwrap() = Some(json!({"metadata": {"name": NAME}, "data": {"uuid": "mine"}}));
        ensure(&maps, &mut again).await.unwrap();
        assert_eq!(uuid().unwrap(), "mine");
    }
}
