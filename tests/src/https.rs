//! GET over TLS from inside a namespace, as a scraper or a probe does it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use netcfg::Netns;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Longest wait for an answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Where to ask and whom to believe.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Namespace from which the connection is made.
    pub netns: String,
    /// The server.
    pub address: SocketAddr,
    /// A name in its certificate.
    pub name: &'static str,
    /// PEM certificates that vouch for it.
    pub ca: String,
    /// Bearer token, if one is shown.
    pub token: Option<String>,
}

/// Status and body of a path.
///
/// # Errors
/// What failed, as text.
pub async fn get(endpoint: &Endpoint, path: &str) -> Result<(u16, String), String> {
    tokio::time::timeout(LIMIT, exchange(endpoint, path)).await.map_err(|_| "no answer".to_owned())?
}

/// Sends the request; what comes next is the server's answer, which ends with the connection.
///
/// # Errors
/// What failed, as text.
pub async fn open(endpoint: &Endpoint, path: &str) -> Result<TlsStream<TcpStream>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(endpoint.ca.as_bytes()) {
        roots.add(certificate.map_err(|e| text(&e))?).map_err(|e| text(&e))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| text(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let address = endpoint.address;
    let netns = Netns::open(format!("/run/netns/{}", endpoint.netns)).map_err(|e| text(&e))?;
    let stream = netns
        .run(move || std::net::TcpStream::connect_timeout(&address, LIMIT))
        .await
        .map_err(|e| text(&e))?
        .map_err(|e| text(&e))?;
    stream.set_nonblocking(true).map_err(|e| text(&e))?;
    // The request follows the end of the handshake at once.
    stream.set_nodelay(true).map_err(|e| text(&e))?;
    let stream = TcpStream::from_std(stream).map_err(|e| text(&e))?;
    let name = ServerName::try_from(endpoint.name).map_err(|e| text(&e))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(name, stream).await.map_err(|e| text(&e))?;
    let token = endpoint.token.iter().map(|token| format!("Authorization: Bearer {token}\r\n"));
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: {}\r\n{}\r\n", endpoint.name, token.collect::<String>());
    stream.write_all(request.as_bytes()).await.map_err(|e| text(&e))?;
    Ok(stream)
}

async fn exchange(endpoint: &Endpoint, path: &str) -> Result<(u16, String), String> {
    let mut stream = open(endpoint, path).await?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer).await {
        // Servers that close without ceremony have still sent everything.
        Err(error) if answer.is_empty() => return Err(error.to_string()),
        _ => {}
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no head in the answer")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("no status")?;
    Ok((status, body.to_owned()))
}
