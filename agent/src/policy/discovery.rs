//! Where the controller is, and which CA vouches for it.
//!
//! The pods behind Service `antrea` are dialled directly: an agent must reach the controller before any
//! Service network works, and that is what it is there to make.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use antrea_runtime::tolerant::Tolerant;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::watch;

/// Service of the controller.
pub const SERVICE: &str = "antrea";

/// ConfigMap with the CA that signs the controller's serving certificate, and its key.
const CA_CONFIG_MAP: &str = "antrea-ca";
const CA_KEY: &str = "ca.crt";

/// Where to connect to and whom to believe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Ready endpoints, sorted.
    pub endpoints: Vec<SocketAddr>,
    /// PEM certificates; empty until the controller has published them.
    pub ca: Arc<str>,
}

/// Follows Service and ConfigMap until the receiver is gone.
///
/// # Errors
/// None: watches are retried for ever.
pub async fn follow(
    client: Client,
    namespace: &str,
    target: &watch::Sender<Target>,
) -> Result<(), Infallible> {
    let slices = Api::<Tolerant<EndpointSlice>>::namespaced(client.clone(), namespace);
    let config = watcher::Config::default().labels(&format!("kubernetes.io/service-name={SERVICE}"));
    let slices = watcher(slices, config).default_backoff().map_ok(Either::Slices);
    let maps = Api::<Tolerant<ConfigMap>>::namespaced(client, namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={CA_CONFIG_MAP}"));
    let maps = watcher(maps, config).default_backoff().map_ok(Either::Ca);

    let mut events = pin!(futures::stream::select(slices.boxed(), maps.boxed()));
    let mut index = Index::default();
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                index.apply(event);
                let now = index.target();
                target.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
            }
            Err(error) => tracing::debug!(%error, "watch on the controller's endpoints and CA"),
        }
    }
    Ok(())
}

enum Either {
    Slices(Event<Tolerant<EndpointSlice>>),
    Ca(Event<Tolerant<ConfigMap>>),
}

#[derive(Default)]
struct Index {
    slices: BTreeMap<String, Vec<SocketAddr>>,
    listed: BTreeMap<String, Vec<SocketAddr>>,
    ca: Arc<str>,
}

impl Index {
    fn apply(&mut self, event: Either) {
        match event {
            Either::Slices(Event::Init) => self.listed.clear(),
            Either::Slices(Event::InitApply(slice)) => {
                let (name, found) = self.read(&slice);
                self.listed.insert(name, found);
            }
            Either::Slices(Event::InitDone) => self.slices = std::mem::take(&mut self.listed),
            Either::Slices(Event::Apply(slice)) => {
                let (name, found) = self.read(&slice);
                self.slices.insert(name, found);
            }
            Either::Slices(Event::Delete(slice)) => {
                self.slices.remove(&slice.key().1);
            }
            Either::Ca(Event::Apply(map) | Event::InitApply(map)) => {
                let Ok(map) = map.object else { return };
                let ca = map.data.as_ref().and_then(|data| data.get(CA_KEY));
                self.ca = ca.map_or("", String::as_str).into();
            }
            // The last CA that was published is worth more than none.
            Either::Ca(_) => {}
        }
    }

    /// Name and endpoints of a slice; one that does not decode is as it was.
    fn read(&self, slice: &Tolerant<EndpointSlice>) -> (String, Vec<SocketAddr>) {
        let (_, name) = slice.key();
        let found = match &slice.object {
            Ok(slice) => endpoints(slice),
            Err(error) => {
                tracing::error!(slice = name, %error, "does not decode; what is known of it stays");
                self.slices.get(&name).cloned().unwrap_or_default()
            }
        };
        (name, found)
    }

    fn target(&self) -> Target {
        let mut endpoints: Vec<_> = self.slices.values().flatten().copied().collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        Target { endpoints, ca: self.ca.clone() }
    }
}

fn endpoints(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let port = slice
        .ports
        .iter()
        .flatten()
        .filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"))
        .find_map(|port| u16::try_from(port.port?).ok());
    let Some(port) = port else { return Vec::new() };
    slice
        .endpoints
        .iter()
        .flatten()
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|c| c.ready) != Some(false))
        .flat_map(|endpoint| &endpoint.addresses)
        .filter_map(|address| Some(SocketAddr::new(address.parse::<IpAddr>().ok()?, port)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(name: &str, addresses: &[(&str, Option<bool>)]) -> Tolerant<EndpointSlice> {
        let endpoints: Vec<_> = addresses
            .iter()
            .map(|(address, ready)| serde_json::json!({ "addresses": [address], "conditions": { "ready": ready } }))
            .collect();
        serde_json::from_value(serde_json::json!({
            "metadata": { "name": name }, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{ "port": 53, "protocol": "UDP" }, { "port": 10349, "protocol": "TCP" }],
        }))
        .unwrap()
    }

    fn ca(text: &str) -> Tolerant<ConfigMap> {
        serde_json::from_value(serde_json::json!({ "data": { "ca.crt": text } })).unwrap()
    }

    #[test]
    fn finds_ready_pods_and_keeps_the_last_ca() {
        let mut index = Index::default();
        index.apply(Either::Slices(Event::Init));
        let both = [("192.0.2.2", Some(true)), ("192.0.2.1", None), ("192.0.2.3", Some(false))];
        index.apply(Either::Slices(Event::InitApply(slice("a", &both))));
        assert!(index.target().endpoints.is_empty(), "a list under way says nothing");
        index.apply(Either::Slices(Event::InitDone));
        index.apply(Either::Ca(Event::InitApply(ca("pem"))));
        let target = index.target();
        let text: Vec<_> = target.endpoints.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["192.0.2.1:10349", "192.0.2.2:10349"]);

        let malformed = serde_json::json!({ "metadata": { "name": "a" }, "endpoints": 5 });
        index.apply(Either::Slices(Event::Apply(serde_json::from_value(malformed).unwrap())));
        index.apply(Either::Ca(Event::Apply(
            serde_json::from_value(serde_json::json!({ "data": 5 })).unwrap(),
        )));
        assert_eq!(index.target(), target, "what does not decode changes nothing");

        index.apply(Either::Ca(Event::Delete(ca("pem"))));
        index.apply(Either::Ca(Event::Init));
        index.apply(Either::Ca(Event::InitDone));
        assert_eq!(&*index.target().ca, "pem");
        index.apply(Either::Slices(Event::Delete(slice("a", &[]))));
        assert!(index.target().endpoints.is_empty());
    }
}
