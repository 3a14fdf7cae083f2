//! Octant's view of Antrea.
//!
//! ```text
//!  Octant ── executes, cookie ──► plugin ── "1|1|unix|SOCKET|grpc|CERT" on stdout
//!         ── gRPC, SOCKET ──────► dashboard.Plugin: pages, actions, what belongs to a Node
//!         ◄── gRPC, 127.0.0.1 ─── proto.Dashboard: list, create, delete objects; alerts
//! ```
//!
//! Octant ended in 2023 with v0.25.1; the plugin is for those who still run it.
//!
//! Invariants:
//! - Nothing of the cluster is kept between calls: when Octant goes to another cluster, so do the pages.
//! - What one browser does is not shown to another.
//! - Nothing that is sent ends the process but Shutdown, and whatever is open then ends within a second.
//! - The pages are `antrea-ui-model`'s; here they only become Octant's components.

mod actions;
mod cluster;
mod components;
mod handshake;
mod octant;
mod pages;
mod process;
mod service;
mod tls;

pub use handshake::{COOKIE, COOKIE_VALUE, Environment, HandshakeError};
pub use process::{log, run};

/// Messages and services, from the .proto files beside this crate.
#[allow(clippy::doc_markdown, reason = "generated; the .proto files have the comments")]
pub mod proto {
    /// `dashboard.Plugin`
    pub mod dashboard {
        tonic::include_proto!("dashboard");
    }
    /// `proto.Dashboard`
    pub mod octant {
        tonic::include_proto!("proto");
    }
    /// go-plugin's own services
    pub mod plugin {
        tonic::include_proto!("plugin");
    }
    /// gRPC's health protocol
    pub mod health {
        tonic::include_proto!("grpc.health.v1");
    }
}

/// Name of the plugin, and first part of its pages' paths.
pub const NAME: &str = "antrea-octant-plugin";

/// An error with its causes in one line.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
