//! The operator's port: health for kubelet, metrics for who may read them, over TLS.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use antrea_runtime::{
    client::describe,
    health::Readiness,
    http::{health_router, metrics_router},
    metrics::Metrics,
};
use apiserver_kit::{
    auth::Auth,
    cert, gate,
    metrics::{CertificateExpiry, ServerMetrics},
    publish::{CertManager, Source},
    review::KubeReviewer,
    serve,
    tls::Tls,
};
use axum::Router;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{FIELD_MANAGER, NAMESPACE};

/// ConfigMap in the operator's namespace with the CA of its serving certificate, under `ca.crt`.
pub const CA_CONFIG_MAP: &str = "antrea-operator-ca";

/// Secret in the operator's namespace with its serving certificate.
pub const CERT_SECRET: &str = "antrea-operator-tls";

/// Service of this port.
pub const SERVICE: &str = "antrea-operator";

/// ConfigMap in which the controller publishes its CA.
pub(crate) const CONTROLLER_CA: &str = "antrea-ca";

/// Interval at which the controller's CA is looked at.
const LOOK: Duration = Duration::from_secs(300);

/// The same while it cannot be read.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// What decides who may read, and by which certificate the port is known.
pub fn certificates(client: Client, namespace: &str) -> CertManager {
    CertManager {
        client,
        namespace: namespace.to_owned(),
        source: Source::Issued {
            name: SERVICE.to_owned(),
            names: vec![
                format!("{SERVICE}.{namespace}.svc"),
                format!("{SERVICE}.{namespace}.svc.cluster.local"),
                "localhost".to_owned(),
                "127.0.0.1".to_owned(),
                "::1".to_owned(),
            ],
            secret: CERT_SECRET.to_owned(),
        },
        config_map: CA_CONFIG_MAP.to_owned(),
        webhooks: Vec::new(),
        api_services: Vec::new(),
        manager: FIELD_MANAGER.to_owned(),
    }
}

/// Health for everybody; metrics for whom the API server knows and allows to get `/metrics`.
pub fn app(auth: Auth, metrics: Metrics, server: ServerMetrics, ready: Readiness) -> Router {
    let routes = health_router(ready, Readiness::new()).merge(metrics_router(metrics));
    gate::protect(routes, auth, server)
}

/// Authentication and authorization by the API server.
pub fn delegated(client: Client) -> Auth {
    Auth::new(Arc::new(KubeReviewer::new(client)))
}

/// Serves `app` on `port` of every address until `shutdown`.
///
/// # Errors
/// The port is taken.
pub async fn serve(
    port: u16,
    tls: Tls,
    app: Router,
    metrics: ServerMetrics,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listener: TcpListener = serve::listen(port).await?;
    serve::serve(listener, tls, app, serve::Limits::NODE, metrics, shutdown).await
}

/// Shows for ever when the certificates expire: this port's, and the controller's CA as it is published.
///
/// # Errors
/// None: what cannot be read is tried again.
pub async fn watch_expiry(client: Client, tls: Tls, expiry: CertificateExpiry) -> Result<(), Infallible> {
    let maps = Api::<ConfigMap>::namespaced(client, NAMESPACE);
    loop {
        expiry.set("api", tls.cert().expires_at());
        let published = maps.get_opt(CONTROLLER_CA).await;
        let pause = match published.map(|map| map.and_then(|map| map.data?.remove("ca.crt"))) {
            Ok(Some(pem)) => {
                expiry.set("controller-ca", cert::first_expiry(&pem));
                LOOK
            }
            Ok(None) => LOOK_AGAIN,
            Err(error) => {
                tracing::debug!(error = describe(&error), "the controller's CA cannot be read");
                LOOK_AGAIN
            }
        };
        tokio::time::sleep(pause).await;
    }
}
