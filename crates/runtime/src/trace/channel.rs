//! The connection to the collector: made when it is first used, and again whenever it is lost.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use super::{Config, Error};

/// For TCP and TLS.
const CONNECT: Duration = Duration::from_secs(5);

/// Port of OTLP over gRPC.
const PORT: u16 = 4317;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A channel to the configured endpoint.
pub(super) fn lazy(config: &Config) -> Result<Channel, Error> {
    let invalid = |message: &str| Error::Endpoint {
        endpoint: config.otlp_endpoint.clone(),
        message: message.to_owned(),
    };
    let uri: Uri = config.otlp_endpoint.parse().map_err(|_| invalid("is no URL"))?;
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(|| invalid("has no host"))?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(invalid("must not hold credentials"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(invalid("OTLP over gRPC has no path"));
    }
    let tls = match uri.scheme_str() {
        Some("http") => None,
        Some("https") => Some(connector(&config.ca_bundle)?),
        _ => return Err(invalid("must begin with http:// or https://")),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|_| invalid("has no usable host name"))?;
    let port = uri.port_u16().unwrap_or(PORT);
    let connect = tower::service_fn(move |_| {
        let (host, name, tls) = (host.clone(), name.clone(), tls.clone());
        async move {
            let stream = TcpStream::connect((host.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            let stream: Box<dyn Stream> = match tls {
                None => Box::new(stream),
                Some(tls) => Box::new(tls.connect(name, stream).await?),
            };
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    // The address is a placeholder: the connector goes where it goes, and does TLS itself.
    let endpoint = Endpoint::from_static("http://collector").origin(uri).connect_timeout(CONNECT);
    Ok(endpoint.connect_with_connector_lazy(connect))
}

fn connector(bundle: &str) -> Result<TlsConnector, Error> {
    let mut roots = RootCertStore::empty();
    if bundle.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(Error::Ca("is empty, and the system has no certificates either".to_owned()));
        }
    } else {
        for certificate in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
            let certificate = certificate.map_err(|error| Error::Ca(error.to_string()))?;
            roots.add(certificate).map_err(|error| Error::Ca(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(Error::Ca("holds no certificate in PEM".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Ca(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
