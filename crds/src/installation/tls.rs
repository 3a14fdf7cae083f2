//! How agents and controller serve TLS.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// TLS on the ports of agents and controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.minVersion) && self.minVersion == 'VersionTLS13' && has(self.cipherSuites) && self.cipherSuites.size() > 0) || self.cipherSuites.exists(s, !s.startsWith('TLS_ECDHE_'))")
    .message("spec.tls.cipherSuites: names none of TLS 1.3, which spec.tls.minVersion asks for"))]
#[x_kube(validation = Rule::new("!has(self.cipherSuites) || self.cipherSuites.size() == 0 || self.cipherSuites.exists(s, !s.startsWith('TLS_ECDHE_RSA_'))")
    .message("spec.tls.cipherSuites: names only such that need an RSA key, and agents have ECDSA keys"))]
pub struct TlsSettings {
    /// Lowest version that is offered: "VersionTLS12" (default) or "VersionTLS13".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "TlsVersion")]
    pub min_version: Option<TlsVersion>,

    /// Cipher suites that are offered, by their IANA names; those of TLS 1.3 begin with "TLS_AES" or "TLS_CHACHA20".
    /// Default: all that the components have, which are those listed here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 9))]
    pub cipher_suites: Vec<CipherSuite>,

    /// Name of a Secret in the namespace kube-system with the controller's serving certificate: "tls.crt", "tls.key"
    /// and, under "ca.crt", what clients shall trust for it. The certificate must be valid for
    /// antrea.kube-system.svc, localhost and 127.0.0.1. A change of the Secret takes effect within two minutes and
    /// restarts nothing; without the Secret the controller does not start. Default: the controller issues its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"), length(max = 253))]
    pub controller_certificate_secret: Option<String>,
}

/// A version of TLS, as Kubernetes' own flags call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TlsVersion {
    /// RFC 5246.
    #[serde(rename = "VersionTLS12")]
    Tls12,
    /// RFC 8446.
    #[serde(rename = "VersionTLS13")]
    Tls13,
}

/// A cipher suite that the components have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum CipherSuite {
    /// TLS 1.3.
    #[serde(rename = "TLS_AES_128_GCM_SHA256")]
    Aes128,
    /// TLS 1.3.
    #[serde(rename = "TLS_AES_256_GCM_SHA384")]
    Aes256,
    /// TLS 1.3.
    #[serde(rename = "TLS_CHACHA20_POLY1305_SHA256")]
    Chacha20,
    /// TLS 1.2 with an ECDSA key.
    #[serde(rename = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256")]
    EcdsaAes128,
    /// TLS 1.2 with an ECDSA key.
    #[serde(rename = "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384")]
    EcdsaAes256,
    /// TLS 1.2 with an ECDSA key.
    #[serde(rename = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256")]
    EcdsaChacha20,
    /// TLS 1.2 with an RSA key.
    #[serde(rename = "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256")]
    RsaAes128,
    /// TLS 1.2 with an RSA key.
    #[serde(rename = "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384")]
    RsaAes256,
    /// TLS 1.2 with an RSA key.
    #[serde(rename = "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256")]
    RsaChacha20,
}
