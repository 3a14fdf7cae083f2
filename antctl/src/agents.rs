//! Agents' own API from outside of their Pods.
//!
//! An agent is as trustworthy as its Node: what it is shown must be worth nothing elsewhere. So it never gets what the
//! API server gets, but for a client certificate, which is proved and not handed over, and else a token of ServiceAccount
//! `antctl` that is good for this one agent for ten minutes. Whether the caller may have such a token, the API server
//! decides.

use std::{collections::BTreeMap, net::SocketAddr};

use antrea_api::agent::audience;
use anyhow::{Context, bail};
use http::Method;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Config, config::AuthInfo};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    connect::{Clients, Place, Server},
    get::{agent_of, the_controller},
    reach::{Target, node_address, port},
};

#[cfg(test)]
pub(crate) mod tests;

/// The account that callers borrow.
const ACCOUNT: &str = "antctl";

/// Where Antrea is, unless its controller says another Namespace.
const NAMESPACE: &str = "kube-system";

/// How long a token lives, in seconds: no API server gives out shorter ones.
const LIFE: u32 = 600;

impl Clients {
    /// The agent of `node`; in an agent's container, where none is named, that agent.
    ///
    /// # Errors
    /// Says how `what` is had where this is not the place for it; or that the agent cannot be asked.
    pub(crate) async fn agent(&self, node: Option<&str>, what: &str) -> anyhow::Result<Server> {
        match (self.place(), node) {
            (Place::Agent, None) => self.local().await,
            (Place::Agent, Some(node)) if node == self.node()? => self.local().await,
            (Place::Elsewhere, Some(node)) => self.remote_agent(node).await,
            (Place::Elsewhere, None) => bail!(
                "{what} is what an agent knows: name its Node with --node, or run antctl in its container"
            ),
            (Place::Agent, Some(_)) => bail!(
                "another Node's agent is not asked from an agent's container: run antctl in its own, or outside of the cluster"
            ),
            (Place::Controller, _) => bail!(
                "{what} is what an agent knows: run antctl in an antrea-agent container, or outside of the cluster with --node"
            ),
        }
    }

    async fn remote_agent(&self, name: &str) -> anyhow::Result<Server> {
        let cluster = self.cluster().await?;
        let node = async {
            let nodes: Api<Node> = Api::all(cluster.client.clone());
            nodes.get(name).await.map_err(|error| cluster.explain(&error, &format!("Node {name}")))
        };
        let (node, info) = tokio::try_join!(node, agent_of(self, name))?;
        let spec = info.spec;
        let ca = spec.api_ca_bundle.unwrap_or_default().0;
        let target = Target {
            name: format!("antrea-agent of {name}"),
            address: SocketAddr::new(node_address(&node)?, port(spec.api_port)?),
            server_name: "localhost".to_owned(),
            ca: &ca,
        };
        let own = self.cluster_config().await?;
        if let Some(certificate) = certificate(&own.auth_info) {
            let server = Self::at(&target, shown(&own, certificate)?)?;
            if accepts(&server).await? {
                return Ok(server);
            }
        }
        let token = AuthInfo { token: Some(self.token(&cluster, name).await?.into()), ..AuthInfo::default() };
        Self::at(&target, shown(&own, token)?)
    }

    /// A token that is good for the agent of `node` alone.
    async fn token(&self, cluster: &Server, node: &str) -> anyhow::Result<String> {
        let namespace = namespace(self).await;
        let wanted = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": [audience(node)], "expirationSeconds": LIFE},
        });
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{ACCOUNT}/token");
        let answer = cluster.send(Method::POST, &path, wanted.to_string().into_bytes()).await?;
        let answer: Value = serde_json::from_str(&answer).with_context(|| format!("answer to {path}"))?;
        let token = answer["status"]["token"].as_str().filter(|token| !token.is_empty());
        Ok(token.with_context(|| format!("{path}: no token in the answer"))?.to_owned())
    }
}

/// Where Antrea is. The controller alone writes that; what agents write of themselves could name any account.
pub(crate) async fn namespace(clients: &Clients) -> String {
    let service = the_controller(clients).await.ok().and_then(|info| info.spec.service_ref);
    service.and_then(|service| service.namespace).unwrap_or_else(|| NAMESPACE.to_owned())
}

/// What an agent is reached with: of the configuration for the API server only the proxy, and `auth`.
fn shown(own: &Config, auth: AuthInfo) -> anyhow::Result<Config> {
    let mut config = Config::new("https://localhost".parse()?);
    config.proxy_url = own.proxy_url.clone();
    config.default_retry = false;
    config.auth_info = auth;
    Ok(config)
}

/// The client certificate alone, with whom it may speak for.
fn certificate(own: &AuthInfo) -> Option<AuthInfo> {
    let found = AuthInfo {
        client_certificate: own.client_certificate.clone(),
        client_certificate_data: own.client_certificate_data.clone(),
        client_key: own.client_key.clone(),
        client_key_data: own.client_key_data.clone(),
        impersonate: own.impersonate.clone(),
        impersonate_uid: own.impersonate_uid.clone(),
        impersonate_groups: own.impersonate_groups.clone(),
        impersonate_user_extra: own.impersonate_user_extra.clone(),
        ..AuthInfo::default()
    };
    let whole = (found.client_certificate.is_some() || found.client_certificate_data.is_some())
        && (found.client_key.is_some() || found.client_key_data.is_some());
    whole.then_some(found)
}

/// Whether the agent knows the user by the certificate, which it does if it trusts the cluster's CA for clients. One of a
/// CA that it does not know ends the handshake; why else it may not answer shows with the token.
async fn accepts(server: &Server) -> anyhow::Result<bool> {
    let request = http::Request::get("/version").body(Vec::new())?;
    Ok(match server.client.request_text(request).await {
        Err(kube::Error::Api(status)) => status.code != 401,
        answer => answer.is_ok(),
    })
}

/// A list of the agent's: as such, or in a List.
pub(crate) async fn list<T: DeserializeOwned>(server: &Server, path: &str) -> anyhow::Result<Vec<T>> {
    let text = server.ask(Method::GET, path).await?;
    let value: Value = serde_json::from_str(&text).with_context(|| format!("answer of {path}"))?;
    let items = if value["items"].is_array() { value["items"].clone() } else { value };
    // An empty collection of Go is null.
    let items: Option<Vec<T>> = serde_json::from_value(items).with_context(|| format!("answer of {path}"))?;
    Ok(items.unwrap_or_default())
}

/// Shows the log level of each of these agents, or without any of the controller or this container's component, after
/// setting it if one is given. Who could not be asked is named on stderr, and at the end an error.
///
/// # Errors
/// One of them was not asked, or refused.
pub(crate) async fn log_level(
    clients: &Clients,
    level: Option<&str>,
    nodes: &[String],
) -> anyhow::Result<String> {
    let change = async |server: Server| {
        if let Some(level) = level {
            server.ask(Method::PUT, &format!("/loglevel?level={}", crate::get::escape(level))).await?;
        }
        anyhow::Ok(server.ask(Method::GET, "/loglevel").await?.trim_end().to_owned())
    };
    if nodes.is_empty() {
        let server = match clients.place() {
            Place::Elsewhere => clients.controller().await?,
            _ => clients.local().await?,
        };
        return Ok(format!("{}\n", change(server).await?));
    }
    let mut levels = BTreeMap::new();
    let mut failed = Vec::new();
    for node in nodes {
        let result = async { change(clients.agent(Some(node), "its level").await?).await }.await;
        match result {
            Ok(level) => drop(levels.insert(node, level)),
            Err(error) if nodes.len() == 1 => return Err(error),
            Err(error) => {
                eprintln!("antctl: {}", crate::told(&error));
                failed.push(node.as_str());
            }
        }
    }
    if !failed.is_empty() {
        bail!("not all agents answered: not of {}", failed.join(", "));
    }
    match levels.into_iter().collect::<Vec<_>>().as_slice() {
        [(_, level)] => Ok(format!("{level}\n")),
        all => Ok(all.iter().map(|(node, level)| format!("{node} {level}\n")).collect()),
    }
}
