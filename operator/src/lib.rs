//! The operator: from one `AntreaInstallation` to a running, healthy Antrea.
//!
//! ```text
//!  AntreaInstallation ─┐
//!  cluster facts ──────┼─► effective ─► render ─► plan ─► apply ─► observe ─► compose status
//!  operator's flags ───┘   (pure)      (pure)   (pure)   (edge)   (edge)     (pure)
//!                                                            └─► rollout: which agent Pod next (pure)
//! ```
//!
//! Invariants:
//! - Everything from spec to objects, from two states to a plan and from observations to conditions is a
//!   plain function; sockets are touched in `apply`, `controller` and `watches` only.
//! - A spec that cannot be used changes nothing: what ran goes on running and the condition says why.
//! - Nothing is written into the user's spec. Defaults in effect are in `status.computed`.
//! - Objects are applied server-side under one field manager; fields of others are left alone, fields of
//!   ours are put back and whoever changed them is named in an Event.
//! - Agents are replaced one Node at a time, by the operator, because a DaemonSet controller replaces
//!   unavailable Pods without counting them.

pub mod api;
pub mod apply;
pub mod capabilities;
pub mod cluster;
pub mod controller;
pub mod effective;
pub mod events;
pub mod fields;
pub mod metrics;
pub mod object;
pub mod openshift;
pub mod plan;
pub mod preflight;
pub mod removal;
pub mod render;
pub mod rollout;
pub mod status;
pub mod watches;

/// Namespace of everything namespaced that the operator installs, as upstream Antrea has it.
pub const NAMESPACE: &str = "kube-system";

/// Version of this build.
pub const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

/// Field manager of every server-side apply.
pub const FIELD_MANAGER: &str = "antrea-operator";

/// Label that marks an object as managed; its value is the installation's name.
pub const OWNER_LABEL: &str = "operator.antrea.io/installation";

/// Annotation of a managed object: hash of what was applied last.
pub const APPLIED_ANNOTATION: &str = "operator.antrea.io/applied-hash";

/// Annotation of a Pod template and its Pods: hash of the template.
pub const REVISION_ANNOTATION: &str = "operator.antrea.io/revision";

/// Annotation of a Pod template: hash of the configuration that its containers read at start.
pub const CONFIG_ANNOTATION: &str = "checksum/config";
