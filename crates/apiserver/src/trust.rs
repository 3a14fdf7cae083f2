//! Follows ConfigMap `kube-system/extension-apiserver-authentication`.

use antrea_runtime::client::WatchBackoff;
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    runtime::{WatchStreamExt, watcher},
};

use crate::tls::{ClientTrust, Tls};

/// Where Kubernetes publishes the CAs of clients and of the front proxy.
pub const NAMESPACE: &str = "kube-system";
/// Name of the ConfigMap.
pub const NAME: &str = "extension-apiserver-authentication";

impl ClientTrust {
    /// Reads the ConfigMap's keys. Missing ones leave that way of authentication off.
    pub fn from_config_map(map: &ConfigMap) -> Self {
        let get = |key: &str| map.data.as_ref().and_then(|data| data.get(key));
        let pem = |key: &str| get(key).filter(|pem| !pem.trim().is_empty()).cloned();
        let list = |key: &str| {
            get(key)
                .map(|json| {
                    serde_json::from_str::<Vec<String>>(json).unwrap_or_else(|error| {
                        tracing::warn!(key, %error, "{NAMESPACE}/{NAME} holds a malformed list");
                        Vec::new()
                    })
                })
                .unwrap_or_default()
        };
        // A list of allowed names that cannot be read must not become "any name".
        let names_usable = get("requestheader-allowed-names")
            .is_none_or(|json| serde_json::from_str::<Vec<String>>(json).is_ok());
        Self {
            client_ca: pem("client-ca-file"),
            proxy_ca: pem("requestheader-client-ca-file").filter(|_| names_usable),
            proxy_names: list("requestheader-allowed-names"),
            username_headers: list("requestheader-username-headers"),
            group_headers: list("requestheader-group-headers"),
            extra_prefixes: list("requestheader-extra-headers-prefix"),
        }
    }
}

/// Reads the trust once, for the start.
///
/// # Errors
/// The ConfigMap cannot be read: role `extension-apiserver-authentication-reader` is needed.
pub async fn fetch(client: &Client) -> kube::Result<ClientTrust> {
    let map = Api::<ConfigMap>::namespaced(client.clone(), NAMESPACE).get(NAME).await?;
    Ok(ClientTrust::from_config_map(&map))
}

/// Keeps `tls` in step with the ConfigMap. Never ends; on errors, and when the ConfigMap disappears, the
/// last trust stays.
pub async fn follow(client: Client, tls: Tls) {
    let api = Api::<ConfigMap>::namespaced(client, NAMESPACE);
    let mut events = std::pin::pin!(watcher::watch_object(api, NAME).backoff(WatchBackoff::default()));
    while let Some(event) = events.next().await {
        match event {
            Ok(Some(map)) => {
                if let Err(error) = tls.set_trust(ClientTrust::from_config_map(&map)) {
                    tracing::warn!(%error, "{NAMESPACE}/{NAME} is unusable: the last one stays");
                }
            }
            Ok(None) => tracing::warn!("{NAMESPACE}/{NAME} is gone: the last one stays"),
            Err(error) => tracing::debug!(%error, "watch of {NAMESPACE}/{NAME} failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> ConfigMap {
        let data = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        ConfigMap { data: Some(data), ..ConfigMap::default() }
    }

    #[test]
    fn reads_the_keys_and_never_widens_on_a_malformed_list() {
        let trust = ClientTrust::from_config_map(&map(&[
            ("client-ca-file", "C"),
            ("requestheader-client-ca-file", "P"),
            ("requestheader-allowed-names", r#"["front-proxy-client"]"#),
            ("requestheader-username-headers", r#"["X-Remote-User"]"#),
        ]));
        assert_eq!(trust.client_ca.as_deref(), Some("C"));
        assert_eq!(trust.proxy_ca.as_deref(), Some("P"));
        assert_eq!(trust.proxy_names, ["front-proxy-client"]);
        assert_eq!(trust.username_headers, ["X-Remote-User"]);

        let broken = ClientTrust::from_config_map(&map(&[
            ("requestheader-client-ca-file", "P"),
            ("requestheader-allowed-names", "front-proxy-client"),
        ]));
        assert_eq!(broken.proxy_ca, None);
        assert_eq!(ClientTrust::from_config_map(&ConfigMap::default()), ClientTrust::default());
    }
}
