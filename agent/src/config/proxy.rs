//! The block `antreaProxy`.

use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Invalid;

/// What AntreaProxy serves, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AntreaProxy {
    /// Everybody; there is no kube-proxy.
    pub proxy_all: bool,
    /// Ranges of the node's addresses that have node ports; none: all but loopback.
    pub node_port_addresses: Vec<String>,
    /// Do not tell how the proxy is.
    pub disable_service_health_check_server: bool,
    /// Where it is told.
    pub service_health_check_server_bind_address: String,
}

impl Default for AntreaProxy {
    fn default() -> Self {
        Self {
            proxy_all: false,
            node_port_addresses: Vec::new(),
            disable_service_health_check_server: false,
            service_health_check_server_bind_address: "0.0.0.0:10256".into(),
        }
    }
}

impl AntreaProxy {
    /// `nodePortAddresses`, read.
    ///
    /// # Errors
    /// One is no CIDR.
    pub fn node_port_addresses(&self) -> Result<Vec<IpNet>, Invalid> {
        let key = "antreaProxy.nodePortAddresses";
        let parse = |text: &String| {
            text.parse().map_err(|_| Invalid { key, message: format!("{text:?} is no CIDR") })
        };
        self.node_port_addresses.iter().map(parse).collect()
    }

    /// Where it is told how the proxy is, if anywhere.
    ///
    /// # Errors
    /// It is no address with a port.
    pub fn health_address(&self) -> Result<Option<SocketAddr>, Invalid> {
        if self.disable_service_health_check_server {
            return Ok(None);
        }
        let text = &self.service_health_check_server_bind_address;
        let key = "antreaProxy.serviceHealthCheckServerBindAddress";
        let message = format!("{text:?} is no IP address with a port");
        text.parse().map(Some).map_err(|_| Invalid { key, message })
    }
}
