//! Octant's own API: objects by the user's kubeconfig, in the cluster that Octant shows, and alerts.

use std::{error::Error as _, net::SocketAddr, time::Duration};

use jiff::Timestamp;
use serde_json::Value;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use crate::{
    proto::octant::{AlertRequest, CreateRequest, KeyRequest, dashboard_client::DashboardClient},
    told,
};

/// Octant answers from its cache.
const CALL: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(3);

/// What Octant sends at most by default.
const MAX_ANSWER: usize = 16 << 20;

/// How long an alert stays.
const ALERT: Duration = Duration::from_secs(15);

/// What goes wrong when Octant is asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OctantError {
    /// The address that Octant gave.
    #[error("dashboardAPIAddress {0:?} is no address of this host, such as 127.0.0.1:7777")]
    Address(String),
    /// Octant calls Register first.
    #[error("Octant has not registered the plugin yet")]
    NotRegistered,
    /// Octant is gone, or stuck.
    #[error("Octant does not answer: {0}")]
    Away(String),
    /// Octant or Kubernetes refused.
    #[error("{0}")]
    Refused(String),
}

/// A kind of objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) api_version: &'static str,
    pub(crate) kind: &'static str,
}

/// Severity of an alert.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Severity {
    Error,
    Success,
}

/// A client; it connects when it is used, and again after a connection was lost.
#[derive(Clone, Debug)]
pub(crate) struct Octant(DashboardClient<Channel>);

impl Octant {
    /// For the address that Octant gave. The user's rights are behind it, so it has to be one of this host.
    pub(crate) fn at(address: &str) -> Result<Self, OctantError> {
        let bad = || OctantError::Address(address.chars().take(100).collect());
        let parsed: SocketAddr = address.parse().map_err(|_| bad())?;
        if !parsed.ip().is_loopback() || parsed.port() == 0 {
            return Err(bad());
        }
        let endpoint = Endpoint::from_shared(format!("http://{parsed}")).map_err(|_| bad())?;
        let channel = endpoint.connect_timeout(CONNECT).timeout(CALL).connect_lazy();
        Ok(Self(DashboardClient::new(channel).max_decoding_message_size(MAX_ANSWER)))
    }

    /// All objects of a kind without namespace, as JSON.
    pub(crate) async fn list(&self, kind: Kind) -> Result<Vec<Vec<u8>>, OctantError> {
        let answer = self.0.clone().list(key(kind, "")).await.map_err(|status| failed(&status))?;
        Ok(answer.into_inner().objects)
    }

    /// Creates an object.
    pub(crate) async fn create(&self, object: &Value) -> Result<(), OctantError> {
        let request = CreateRequest { object: object.to_string().into_bytes() };
        self.0.clone().create(request).await.map(drop).map_err(|status| failed(&status))
    }

    /// Deletes an object without namespace.
    pub(crate) async fn delete(&self, kind: Kind, name: &str) -> Result<(), OctantError> {
        self.0.clone().delete(key(kind, name)).await.map(drop).map_err(|status| failed(&status))
    }

    /// Tells the user of one browser.
    pub(crate) async fn alert(
        &self,
        client: &str,
        severity: Severity,
        message: &str,
    ) -> Result<(), OctantError> {
        let until = Timestamp::now().as_second() + i64::try_from(ALERT.as_secs()).unwrap_or_default();
        let request = AlertRequest {
            r#type: match severity {
                Severity::Error => "ERROR",
                Severity::Success => "SUCCESS",
            }
            .to_owned(),
            message: message.to_owned(),
            expiration: Some(prost_types::Timestamp { seconds: until, nanos: 0 }),
            client_id: client.to_owned(),
        };
        self.0.clone().send_alert(request).await.map(drop).map_err(|status| failed(&status))
    }
}

fn key(kind: Kind, name: &str) -> KeyRequest {
    KeyRequest {
        api_version: kind.api_version.to_owned(),
        kind: kind.kind.to_owned(),
        name: name.to_owned(),
        ..KeyRequest::default()
    }
}

/// A connection that breaks under a call has any code, mostly "unknown"; what tells it from Octant's own word is that it has
/// a cause in this process.
fn failed(status: &Status) -> OctantError {
    let away = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled);
    if !away && status.source().is_none() {
        return OctantError::Refused(status.message().to_owned());
    }
    OctantError::Away(match status.message() {
        "" => told(status),
        message => message.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_breaks_is_not_octants_word() {
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let broken = Status::from_error(Box::new(broken));
        assert_eq!(broken.code(), Code::Unknown);
        assert!(matches!(failed(&broken), OctantError::Away(_)));
        assert!(matches!(failed(&Status::unknown("not found")), OctantError::Refused(_)));
    }

    #[tokio::test]
    async fn only_this_host_is_octant() {
        for good in ["127.0.0.1:7777", "[::1]:1"] {
            assert!(Octant::at(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "127.0.0.1",
            "127.0.0.1:0",
            "192.0.2.1:80",
            "localhost:80",
            "127.0.0.1:99999",
            "http://127.0.0.1:1",
        ] {
            let error = Octant::at(bad).expect_err(bad).to_string();
            assert!(error.starts_with("dashboardAPIAddress"), "{error}");
        }
    }
}
