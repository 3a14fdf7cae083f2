//! Where spans go.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Export of traces by OpenTelemetry. With it agents, controller and CNI plugin say what a Pod's start and a
/// policy's change spent their time on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.caBundle) || self.otlpEndpoint.startsWith('https://')")
    .message("spec.tracing.caBundle: makes no sense without an https endpoint"))]
pub struct Tracing {
    /// URL of an OTLP endpoint that speaks gRPC, "http://HOST:PORT" or "https://HOST:PORT", such as
    /// "http://192.0.2.10:4317". Every Node must reach it without Pod network and cluster DNS; the port is 4317
    /// unless given.
    #[schemars(length(max = 255))]
    #[x_kube(validation = Rule::new("isURL(self) && (self.startsWith('http://') || self.startsWith('https://')) && url(self).getHostname() != '' && url(self).getEscapedPath() in ['', '/'] && !self.contains('@') && !self.contains('?')")
        .message("spec.tracing.otlpEndpoint: must be a URL such as http://192.0.2.10:4317, without path, query and credentials"))]
    pub otlp_endpoint: String,

    /// Share of traces that are recorded, in percent, 0 to 100. Default: 100. A trace that the container runtime
    /// began follows its decision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub sampling_percent: Option<u8>,

    /// Certificates in PEM that the certificate of an https endpoint is checked against. Default: those of the
    /// components' images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    #[x_kube(validation = Rule::new("self.contains('-----BEGIN CERTIFICATE-----')")
        .message("spec.tracing.caBundle: must hold a certificate in PEM"))]
    pub ca_bundle: Option<String>,
}
