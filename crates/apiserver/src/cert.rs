//! Serving certificates: a private CA that signs one leaf, and reading of provided ones.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// How long an issued certificate is valid.
pub const VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// A serving certificate with its key and the CA that clients should trust for it, all PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct ServingCert {
    /// One or more CA certificates. During a rotation the previous CA follows the new one.
    pub ca: String,
    /// The leaf, followed by intermediates if any.
    pub cert: String,
    /// The leaf's private key.
    pub key: String,
}

impl std::fmt::Debug for ServingCert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServingCert").field("expires_in", &self.expires_in()).finish_non_exhaustive()
    }
}

/// Why a certificate cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name is not fit for a certificate, or key generation failed.
    #[error("issue certificate: {0}")]
    Issue(#[from] rcgen::Error),
    /// PEM or DER that cannot be read.
    #[error("{what}: {message}")]
    Parse {
        /// Which input.
        what: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// rustls refused the material.
    #[error("tls configuration: {0}")]
    Tls(String),
}

impl ServingCert {
    /// Makes a CA named `name` and a leaf for `names` (DNS names or IP addresses). The CA's key is
    /// dropped afterwards: nothing else can ever be signed with it.
    ///
    /// # Errors
    /// A name that is neither a DNS name nor an address.
    pub fn issue(name: &str, names: &[String]) -> Result<Self, Error> {
        Self::issue_for(name, names, VALIDITY)
    }

    /// As [`ServingCert::issue`], valid for `validity`.
    ///
    /// # Errors
    /// A name that is neither a DNS name nor an address.
    pub fn issue_for(name: &str, names: &[String], validity: Duration) -> Result<Self, Error> {
        let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(unix_now().unsigned_abs());
        // Clocks differ.
        let (not_before, not_after) = (now - Duration::from_secs(24 * 3600), now + validity);

        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::default();
        ca.distinguished_name.push(DnType::CommonName, format!("{name}-ca@{}", unix_now()));
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        (ca.not_before, ca.not_after) = (not_before, not_after);
        let ca_cert = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);

        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(names.to_vec())?;
        leaf.distinguished_name.push(DnType::CommonName, name);
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        (leaf.not_before, leaf.not_after) = (not_before, not_after);
        let cert = leaf.signed_by(&key, &issuer)?;

        Ok(Self { ca: ca_cert.pem(), cert: cert.pem(), key: key.serialize_pem() })
    }

    /// The leaf and its chain.
    ///
    /// # Errors
    /// Not PEM certificates.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        certificates("serving certificate", self.cert.as_bytes())
    }

    /// The private key.
    ///
    /// # Errors
    /// Not a PEM private key.
    pub fn private_key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|e| Error::Parse { what: "serving key", message: e.to_string() })
    }

    /// When the leaf expires, in seconds since 1970; 0 when it cannot be read.
    pub fn expires_at(&self) -> i64 {
        first_expiry(&self.cert)
    }

    /// Time until the leaf expires; zero when it has, or when it cannot be read.
    pub fn expires_in(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.expires_at() - unix_now()).unwrap_or(0))
    }

    /// Whether the leaf is valid for every one of `names`.
    pub fn covers(&self, names: &[String]) -> bool {
        let Some(leaf) = self.chain().ok().and_then(|chain| chain.into_iter().next()) else { return false };
        let Ok(parsed) = rustls::server::ParsedCertificate::try_from(&leaf) else { return false };
        names.iter().all(|name| {
            rustls_pki_types::ServerName::try_from(name.as_str())
                .is_ok_and(|name| rustls::client::verify_server_name(&parsed, &name).is_ok())
        })
    }
}

/// When the first certificate of a PEM text expires, in seconds since 1970; 0 when it cannot be read.
pub fn first_expiry(pem: &str) -> i64 {
    let Some(first) = certificates("certificate", pem.as_bytes()).ok().and_then(|all| all.into_iter().next())
    else {
        return 0;
    };
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(&first) else { return 0 };
    parsed.validity().not_after.timestamp()
}

/// Reads every certificate of a PEM text.
///
/// # Errors
/// Malformed PEM, or none at all.
pub fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|e| Error::Parse { what, message: e.to_string() })?;
    if found.is_empty() {
        return Err(Error::Parse { what, message: "holds no certificate".to_owned() });
    }
    Ok(found)
}

fn unix_now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issues_for_the_given_names_only() {
        let names = ["antrea.kube-system.svc".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let cert = ServingCert::issue("antrea", &names).unwrap();
        assert!(cert.covers(&names));
        assert!(!cert.covers(&["antrea.other.svc".to_owned()]));
        assert!(cert.expires_in() > Duration::from_secs(363 * 86_400));
        assert!(cert.expires_in() <= VALIDITY);
        assert!(!format!("{cert:?}").contains("PRIVATE"));
        assert!(ServingCert::issue("antrea", &["not a name".to_owned()]).is_ok_and(|c| !c.covers(&names)));
    }

    #[test]
    fn unreadable_material_counts_as_expired() {
        let cert = ServingCert { ca: String::new(), cert: "junk".into(), key: String::new() };
        assert_eq!(cert.expires_in(), Duration::ZERO);
        assert!(cert.chain().is_err() && cert.private_key().is_err());
        assert!(!cert.covers(&["a".to_owned()]));
    }
}
