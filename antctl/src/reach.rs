//! The components' own APIs from elsewhere: at the address of their Node. Who answers has to show a certificate of what
//! the component has published of itself. The controller is shown what the API server is; agents: [`crate::agents`].

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, anyhow, bail};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::{Api, Client, Config};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{
    connect::{Clients, Kind, Place, Server},
    get::the_controller,
};

/// Where the controller publishes what verifies its certificate.
const CONTROLLER_CA: (&str, &str) = ("antrea-ca", "ca.crt");

/// A component's API.
pub(crate) struct Target<'a> {
    /// For messages.
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    /// A name that its certificate has.
    pub(crate) server_name: String,
    /// PEM that verifies the certificate.
    pub(crate) ca: &'a [u8],
}

impl Clients {
    /// The controller's own API, from its container or elsewhere.
    pub(crate) async fn controller(&self) -> anyhow::Result<Server> {
        if self.place() == Place::Controller {
            return self.local().await;
        }
        let cluster = self.cluster().await?;
        let info = the_controller(self).await?.spec;
        let node = info.node_ref.and_then(|node| node.name).context("AntreaControllerInfo names no Node")?;
        let namespace = info.service_ref.and_then(|service| service.namespace);
        let namespace = namespace.context("AntreaControllerInfo names no Service")?;
        let (name, key) = CONTROLLER_CA;
        let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &namespace);
        let map = maps.get(name).await;
        let map = map.map_err(|error| cluster.explain(&error, &format!("ConfigMap {namespace}/{name}")))?;
        let ca = map.data.and_then(|mut data| data.remove(key));
        let ca = ca.with_context(|| format!("ConfigMap {namespace}/{name} has no {key}"))?;
        let node: Node = Api::all(cluster.client.clone())
            .get(&node)
            .await
            .map_err(|error| cluster.explain(&error, &format!("Node {node}")))?;
        let target = Target {
            name: "antrea-controller".to_owned(),
            address: SocketAddr::new(node_address(&node)?, port(info.api_port)?),
            server_name: format!("antrea.{namespace}.svc"),
            ca: ca.as_bytes(),
        };
        Self::at(&target, self.cluster_config().await?)
    }

    /// A component at its Node's address, with the credentials of `config`.
    ///
    /// # Errors
    /// There is nothing that verifies it. Whether it answers shows when it is asked.
    pub(crate) fn at(target: &Target<'_>, mut config: Config) -> anyhow::Result<Server> {
        let certificates: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(target.ca).map(|found| found.map(|der| der.to_vec())).collect();
        let certificates =
            certificates.map_err(|error| anyhow!("what verifies {} is not PEM: {error}", target.name))?;
        if certificates.is_empty() {
            bail!("{} has not published what verifies its API", target.name);
        }
        config.cluster_url = format!("https://{}", target.address).parse()?;
        config.root_cert = Some(certificates);
        config.root_cert_file = None;
        config.tls_server_name = Some(target.server_name.clone());
        config.accept_invalid_certs = false;
        let kind = Kind::Remote { name: target.name.clone(), address: target.address };
        Ok(Server { client: Client::try_from(config)?, kind })
    }
}

/// The port that a component tells.
pub(crate) fn port(told: i32) -> anyhow::Result<u16> {
    u16::try_from(told).ok().filter(|port| *port != 0).with_context(|| format!("API port {told} is none"))
}

/// The address by which Nodes reach each other.
pub(crate) fn node_address(node: &Node) -> anyhow::Result<IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let internal = addresses.filter(|address| address.type_ == "InternalIP");
    let found = internal.filter_map(|address| address.address.parse().ok()).next();
    found
        .with_context(|| format!("Node {} has no address", node.metadata.name.as_deref().unwrap_or_default()))
}
