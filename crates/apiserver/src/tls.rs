//! TLS state of the server and what is known of a peer.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
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
pub struct Peer {
    /// The header names to read, if the peer is the front proxy.
    pub front_proxy: Option<Arc<ClientTrust>>,
    /// The user that the certificate names, if it is a client certificate.
    pub user: Option<User>,
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
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("cert", &self.inputs.lock().0).finish_non_exhaustive()
    }
}

impl Tls {
    /// # Errors
    /// The certificate, the key or a CA cannot be used.
    pub fn new(cert: ServingCert, trust: ClientTrust) -> Result<Self, Error> {
        let state = State::new(&cert, &trust)?;
        Ok(Self {
            state: Arc::new(ArcSwap::from_pointee(state)),
            inputs: Arc::new(parking_lot::Mutex::new((cert, trust))),
        })
    }

    /// Serves `cert` from the next connection on.
    ///
    /// # Errors
    /// It cannot be used; the previous one stays.
    pub fn set_cert(&self, cert: ServingCert) -> Result<(), Error> {
        let mut inputs = self.inputs.lock();
        self.state.store(Arc::new(State::new(&cert, &inputs.1)?));
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
            self.state.store(Arc::new(State::new(&inputs.0, &trust)?));
            inputs.1 = trust;
        }
        Ok(())
    }

    /// The certificate that is served now.
    pub fn cert(&self) -> ServingCert {
        self.inputs.lock().0.clone()
    }

    /// Configuration for one connection and the means to judge its peer.
    pub(crate) fn accept(&self) -> (Arc<ServerConfig>, impl FnOnce(Option<&[CertificateDer<'_>]>) -> Peer) {
        let state = self.state.load_full();
        (Arc::clone(&state.config), move |chain| chain.map(|chain| state.judge(chain)).unwrap_or_default())
    }
}

impl State {
    fn new(cert: &ServingCert, trust: &ClientTrust) -> Result<Self, Error> {
        let client = trust.client_ca.as_deref().map(|pem| verifier(&[("client CA", pem)])).transpose()?;
        let proxy = trust.proxy_ca.as_deref().map(|pem| verifier(&[("front proxy CA", pem)])).transpose()?;
        let all: Vec<_> = [("client CA", &trust.client_ca), ("front proxy CA", &trust.proxy_ca)]
            .into_iter()
            .filter_map(|(what, pem)| pem.as_deref().map(|pem| (what, pem)))
            .collect();

        let builder = ServerConfig::builder();
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
    fn judge(&self, chain: &[CertificateDer<'_>]) -> Peer {
        let Some((leaf, intermediates)) = chain.split_first() else { return Peer::default() };
        let signed_by = |verifier: &Option<Arc<dyn ClientCertVerifier>>| {
            verifier
                .as_ref()
                .is_some_and(|v| v.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok())
        };
        let user = subject(leaf);
        let front_proxy = signed_by(&self.proxy)
            && (self.trust.proxy_names.is_empty()
                || user.as_ref().is_some_and(|user| self.trust.proxy_names.contains(&user.name)));
        Peer {
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
