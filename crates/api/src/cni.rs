//! The CNI service between `antrea-cni` and the agent (package
//! `antrea_io.antrea.pkg.apis.cni.v1beta1`, `proto/cni/v1beta1/cni.proto`).

#![allow(unreachable_pub, clippy::doc_markdown, reason = "generated code")]

pub mod span;

tonic::include_proto!("antrea_io.antrea.pkg.apis.cni.v1beta1");

/// Where the agent listens. Upstream's path: a plugin of theirs finds our agent and the reverse.
pub const SOCKET: &str = "/var/run/antrea/cni.sock";

/// CNI specification versions that plugin and agent speak, oldest first.
pub const SPEC_VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
