//! TLS in both directions, where the host asks for it (go-plugin's AutoMTLS): each side has made a certificate for this
//! one connection and knows the other's.
//!
//! go-plugin's host has a key on the curve P-521, which ring does not know; so its signatures are checked by the crate
//! p521.

use std::sync::Arc;

use p521::ecdsa::{Signature, VerifyingKey, signature::Verifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime, pem::PemObject},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use x509_parser::prelude::{FromDer, X509Certificate};

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    /// What the host sent is no certificate.
    #[error("PLUGIN_CLIENT_CERT is no certificate in PEM")]
    Client(#[source] rustls::pki_types::pem::Error),
    /// The own certificate.
    #[error("cannot make a certificate")]
    Own(#[from] rcgen::Error),
    /// Both together.
    #[error("cannot set up TLS")]
    Config(#[from] Error),
}

/// What the plugin serves with, and its certificate for the handshake's line.
pub(crate) struct Tls {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) certificate: String,
}

/// TLS for a host with the certificate `client`, in PEM.
pub(crate) fn for_host(client: &str) -> Result<Tls, TlsError> {
    let pinned = CertificateDer::from_pem_slice(client.as_bytes()).map_err(TlsError::Client)?;
    // The host looks for this name.
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Pinned { pinned: pinned.into_owned(), provider: Arc::clone(&provider) });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![own.cert.der().clone()], key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Tls { config: Arc::new(config), certificate: without_padding(&own.cert.pem()) })
}

/// The base64 within PEM.
fn without_padding(pem: &str) -> String {
    let text: String = pem.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    text.trim_end_matches('=').to_owned()
}

/// Lets the one client in whose certificate is known, if it has the key.
#[derive(Debug)]
struct Pinned {
    pinned: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if *end_entity == self.pinned {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match signed.scheme {
            SignatureScheme::ECDSA_NISTP521_SHA512 => verify_p521(message, certificate, signed.signature()),
            _ => {
                let algorithms = &self.provider.signature_verification_algorithms;
                verify_tls12_signature(message, certificate, signed, algorithms)
            }
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match signed.scheme {
            SignatureScheme::ECDSA_NISTP521_SHA512 => verify_p521(message, certificate, signed.signature()),
            _ => {
                let algorithms = &self.provider.signature_verification_algorithms;
                verify_tls13_signature(message, certificate, signed, algorithms)
            }
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let mut schemes = self.provider.signature_verification_algorithms.supported_schemes();
        schemes.push(SignatureScheme::ECDSA_NISTP521_SHA512);
        schemes
    }
}

fn verify_p521(
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &[u8],
) -> Result<HandshakeSignatureValid, Error> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| Error::from(CertificateError::BadEncoding))?;
    let point = &parsed.public_key().subject_public_key.data;
    let bad = |_| Error::from(CertificateError::BadSignature);
    let key = VerifyingKey::from_sec1_bytes(point).map_err(bad)?;
    key.verify(message, &Signature::from_der(signature).map_err(bad)?).map_err(bad)?;
    Ok(HandshakeSignatureValid::assertion())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate as go-plugin makes it, and a signature by its key, both by OpenSSL.
    #[test]
    fn signatures_on_p521_are_checked() {
        let certificate = CertificateDer::from_pem_slice(include_bytes!("../testdata/p521.pem")).unwrap();
        let signature = include_bytes!("../testdata/p521.sig");
        assert!(verify_p521(b"what the handshake signs", &certificate, signature).is_ok());
        assert!(verify_p521(b"what another signs", &certificate, signature).is_err());
        let mut other = signature.to_vec();
        *other.last_mut().unwrap() ^= 1;
        for wrong in [&other[..], &[], &signature[1..]] {
            assert!(verify_p521(b"what the handshake signs", &certificate, wrong).is_err());
        }
        let p256 = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        assert!(verify_p521(b"what the handshake signs", p256.cert.der(), signature).is_err());
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        for bad in ["", "x", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----"] {
            assert!(matches!(for_host(bad), Err(TlsError::Client(_))), "{bad}");
        }
    }
}
