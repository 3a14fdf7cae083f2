//! TLS state of the server and what is known of a peer.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    ProtocolVersion, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion,
    crypto::CryptoProvider,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};

use crate::{
    cert::{self, Error, ServingCert},
    user::User,
};

/// Who may authenticate with a client certificate: ConfigMap
/// `kube-system/extension-apiserver-authentication`, parsed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientTrust {
    /// PEM of the CAs whose certificates name the user themselves (CN is the name, O the groups).
    pub client_ca: Option<String>,
    /// PEM of the CAs of the front proxy.
    pub proxy_ca: Option<String>,
    /// Common names that the front proxy may have; empty means any.
    pub proxy_names: Vec<String>,
    /// Headers that carry the user's name, in the order they are tried.
    pub username_headers: Vec<String>,
    /// Headers that carry groups.
    pub group_headers: Vec<String>,
    /// Prefixes of headers that carry extra attributes.
    pub extra_prefixes: Vec<String>,
}

/// What the certificate of a peer proves. Made once per connection.
#[derive(Debug, Clone, Default)]
pub struct Proven {
    /// The header names to read, if the peer is the front proxy.
    pub front_proxy: Option<Arc<ClientTrust>>,
    /// The user that the certificate names, if it is a client certificate.
    pub user: Option<User>,
}

/// Versions of TLS and cipher suites that a server offers.
#[derive(Debug, Clone)]
pub struct Offer {
    versions: Vec<&'static SupportedProtocolVersion>,
    provider: Arc<CryptoProvider>,
}

/// A setting of what is offered cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct OfferError {
    /// Key of the configuration file.
    pub key: &'static str,
    /// What is wrong with it.
    pub message: String,
}

impl Default for Offer {
    /// All that there is.
    fn default() -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Self { versions: rustls::ALL_VERSIONS.to_vec(), provider }
    }
}

impl Offer {
    /// From `tlsMinVersion` (`VersionTLS12`, `VersionTLS13`, or empty for the lowest) and `tlsCipherSuites` (IANA names,
    /// comma separated, or empty for all).
    ///
    /// # Errors
    /// A name that is unknown, or not available because it is not safe; nothing is left to offer.
    pub fn new(min_version: &str, suites: &str) -> Result<Self, OfferError> {
        let mut offer = Self::default();
        let lowest = match min_version {
            "" | "VersionTLS12" => ProtocolVersion::TLSv1_2,
            "VersionTLS13" => ProtocolVersion::TLSv1_3,
            other => {
                let message = format!("{other:?} is not offered; VersionTLS12 and VersionTLS13 are");
                return Err(OfferError { key: "tlsMinVersion", message });
            }
        };
        let refused = |message: String| OfferError { key: "tlsCipherSuites", message };
        let wanted: Vec<&str> = suites.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
        if !wanted.is_empty() {
            let known = &offer.provider.cipher_suites;
            if let Some(unknown) =
                wanted.iter().find(|name| !known.iter().any(|suite| iana_name(*suite) == **name))
            {
                let all: Vec<String> = known.iter().copied().map(iana_name).collect();
                return Err(refused(format!("{unknown:?} is not offered; these are: {}", all.join(", "))));
            }
            let chosen: Vec<SupportedCipherSuite> =
                known.iter().copied().filter(|suite| wanted.contains(&iana_name(*suite).as_str())).collect();
            // What is issued here has ECDSA keys.
            if chosen.iter().all(|suite| iana_name(*suite).starts_with("TLS_ECDHE_RSA_")) {
                return Err(refused("all of these need a certificate with an RSA key".to_owned()));
            }
            offer.provider = Arc::new(CryptoProvider { cipher_suites: chosen, ..(*offer.provider).clone() });
        }
        let has_suite = |version: ProtocolVersion| {
            offer.provider.cipher_suites.iter().any(|suite| suite.version().version == version)
        };
        let offered =
            |version: ProtocolVersion| u16::from(version) >= u16::from(lowest) && has_suite(version);
        offer.versions.retain(|version| offered(version.version));
        if offer.versions.is_empty() {
            return Err(refused(format!("none of these is of a version from {min_version} on")));
        }
        Ok(offer)
    }
}

/// rustls says `TLS13_` where IANA says `TLS_`.
fn iana_name(suite: SupportedCipherSuite) -> String {
    let name = suite.suite().as_str().unwrap_or_default();
    name.strip_prefix("TLS13_").map_or_else(|| name.to_owned(), |rest| format!("TLS_{rest}"))
}

/// The part that is swapped when a certificate or a CA changes. Connections keep the one they began with.
struct State {
    config: Arc<ServerConfig>,
    trust: Arc<ClientTrust>,
    client: Option<Arc<dyn ClientCertVerifier>>,
    proxy: Option<Arc<dyn ClientCertVerifier>>,
}

/// The server's TLS state, shared by clones; read at every accept.
#[derive(Clone)]
pub struct Tls {
    state: Arc<ArcSwap<State>>,
    inputs: Arc<parking_lot::Mutex<(ServingCert, ClientTrust)>>,
    offer: Offer,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("cert", &self.inputs.lock().0).finish_non_exhaustive()
    }
}

impl Tls {
    /// Offers all that there is.
    ///
    /// # Errors
    /// The certificate, the key or a CA cannot be used.
    pub fn new(cert: ServingCert, trust: ClientTrust) -> Result<Self, Error> {
        Self::offering(cert, trust, Offer::default())
    }

    /// Offers what `offer` says.
    ///
    /// # Errors
    /// The certificate, the key or a CA cannot be used.
    pub fn offering(cert: ServingCert, trust: ClientTrust, offer: Offer) -> Result<Self, Error> {
        let state = State::new(&cert, &trust, &offer)?;
        Ok(Self {
            state: Arc::new(ArcSwap::from_pointee(state)),
            inputs: Arc::new(parking_lot::Mutex::new((cert, trust))),
            offer,
        })
    }

    /// Serves `cert` from the next connection on.
    ///
    /// # Errors
    /// It cannot be used; the previous one stays.
    pub fn set_cert(&self, cert: ServingCert) -> Result<(), Error> {
        let mut inputs = self.inputs.lock();
        self.state.store(Arc::new(State::new(&cert, &inputs.1, &self.offer)?));
        inputs.0 = cert;
        Ok(())
    }

    /// Trusts the clients that `trust` names from the next connection on.
    ///
    /// # Errors
    /// A CA cannot be used; the previous ones stay.
    pub fn set_trust(&self, trust: ClientTrust) -> Result<(), Error> {
        let mut inputs = self.inputs.lock();
        if inputs.1 != trust {
            self.state.store(Arc::new(State::new(&inputs.0, &trust, &self.offer)?));
            inputs.1 = trust;
        }
        Ok(())
    }

    /// The certificate that is served now.
    pub fn cert(&self) -> ServingCert {
        self.inputs.lock().0.clone()
    }

    /// Configuration for one connection and the means to judge its peer.
    pub(crate) fn accept(&self) -> (Arc<ServerConfig>, impl FnOnce(Option<&[CertificateDer<'_>]>) -> Proven) {
        let state = self.state.load_full();
        (Arc::clone(&state.config), move |chain| chain.map(|chain| state.judge(chain)).unwrap_or_default())
    }
}

impl State {
    fn new(cert: &ServingCert, trust: &ClientTrust, offer: &Offer) -> Result<Self, Error> {
        let client = trust.client_ca.as_deref().map(|pem| verifier(&[("client CA", pem)])).transpose()?;
        let proxy = trust.proxy_ca.as_deref().map(|pem| verifier(&[("front proxy CA", pem)])).transpose()?;
        let all: Vec<_> = [("client CA", &trust.client_ca), ("front proxy CA", &trust.proxy_ca)]
            .into_iter()
            .filter_map(|(what, pem)| pem.as_deref().map(|pem| (what, pem)))
            .collect();

        let builder = ServerConfig::builder_with_provider(Arc::clone(&offer.provider))
            .with_protocol_versions(&offer.versions)
            .map_err(|e| Error::Tls(e.to_string()))?;
        let builder = if all.is_empty() {
            builder.with_no_client_auth()
        } else {
            builder.with_client_cert_verifier(verifier(&all)?)
        };
        let mut config = builder
            .with_single_cert(cert.chain()?, cert.private_key()?)
            .map_err(|e| Error::Tls(e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        // Resumption would let a client skip the certificate check that its ticket was issued under.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), trust: Arc::new(trust.clone()), client, proxy })
    }

    /// Which CA signed the peer's certificate decides what it may claim. The handshake has already
    /// checked the chain against the union of both, and that the peer holds the key.
    fn judge(&self, chain: &[CertificateDer<'_>]) -> Proven {
        let Some((leaf, intermediates)) = chain.split_first() else { return Proven::default() };
        let signed_by = |verifier: &Option<Arc<dyn ClientCertVerifier>>| {
            verifier
                .as_ref()
                .is_some_and(|v| v.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok())
        };
        let user = subject(leaf);
        let front_proxy = signed_by(&self.proxy)
            && (self.trust.proxy_names.is_empty()
                || user.as_ref().is_some_and(|user| self.trust.proxy_names.contains(&user.name)));
        Proven {
            front_proxy: front_proxy.then(|| Arc::clone(&self.trust)),
            user: user.filter(|_| signed_by(&self.client)),
        }
    }
}

fn verifier(bundles: &[(&'static str, &str)]) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    for (what, pem) in bundles {
        for ca in cert::certificates(what, pem.as_bytes())? {
            roots.add(ca).map_err(|e| Error::Parse { what, message: e.to_string() })?;
        }
    }
    WebPkiClientVerifier::builder(Arc::new(roots))
        .allow_unauthenticated()
        .build()
        .map_err(|e| Error::Tls(e.to_string()))
}

/// CN as the name and every O as a group. No certificate without a CN names a user.
fn subject(leaf: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups =
        subject.iter_organization().filter_map(|o| o.as_str().ok()).map(str::to_owned).collect::<Vec<_>>();
    (!name.is_empty()).then(|| User { name, groups, ..User::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_what_it_is_told_and_refuses_the_rest_by_name() {
        let refused = |min: &str, suites: &str| Offer::new(min, suites).unwrap_err().to_string();
        assert_eq!(Offer::new("", "").unwrap().versions.len(), 2);
        assert_eq!(Offer::new("", "").unwrap().provider.cipher_suites.len(), 9);
        assert_eq!(Offer::new("VersionTLS13", "").unwrap().versions, [&rustls::version::TLS13]);
        let two =
            Offer::new("VersionTLS12", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 , TLS_AES_256_GCM_SHA384")
                .unwrap();
        assert_eq!((two.provider.cipher_suites.len(), two.versions.len()), (2, 2));
        // A version none of whose suites is offered is not offered either.
        let old = Offer::new("", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256").unwrap();
        assert_eq!(old.versions, [&rustls::version::TLS12]);
        assert!(refused("VersionTLS11", "").starts_with("tlsMinVersion: \"VersionTLS11\" is not offered"));
        let weak = refused("", "TLS_AES_128_GCM_SHA256,TLS_RSA_WITH_AES_128_CBC_SHA");
        assert!(
            weak.starts_with("tlsCipherSuites: \"TLS_RSA_WITH_AES_128_CBC_SHA\" is not offered; these are: "),
            "{weak}"
        );
        assert!(refused("", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256").contains("RSA"));
        let none = refused("VersionTLS13", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256");
        assert!(none.contains("none of these is of a version from VersionTLS13 on"), "{none}");
    }
    #[tokio::test]
    async fn a_handshake_is_of_what_is_offered() {
        let cert = ServingCert::issue("test", &["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(cert::certificates("ca", cert.ca.as_bytes()).unwrap().remove(0)).unwrap();
        let shake = async |min: &str, suites: &str, client: &'static SupportedProtocolVersion| {
            let offer = Offer::new(min, suites).unwrap();
            let tls = Tls::offering(cert.clone(), ClientTrust::default(), offer).unwrap();
            let client = rustls::ClientConfig::builder_with_provider(Offer::default().provider)
                .with_protocol_versions(&[client])
                .unwrap()
                .with_root_certificates(roots.clone())
                .with_no_client_auth();
            let (near, far) = tokio::io::duplex(1 << 16);
            let server = tokio_rustls::TlsAcceptor::from(tls.accept().0);
            let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
            let (client, _) = tokio::join!(connector.connect(name, near), server.accept(far));
            client.ok().and_then(|stream| Some(stream.get_ref().1.negotiated_cipher_suite()?.suite()))
        };
        let (old, new) = (&rustls::version::TLS12, &rustls::version::TLS13);
        assert!(shake("", "", old).await.is_some());
        assert_eq!(shake("VersionTLS13", "", old).await, None);
        assert!(shake("VersionTLS13", "", new).await.is_some());
        let chacha = shake("", "TLS_CHACHA20_POLY1305_SHA256", new).await;
        assert_eq!(chacha, Some(rustls::CipherSuite::TLS13_CHACHA20_POLY1305_SHA256));
        assert_eq!(shake("", "TLS_CHACHA20_POLY1305_SHA256", old).await, None);
    }
}
