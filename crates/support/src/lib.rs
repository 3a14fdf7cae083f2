//! Support bundles: what helps to find out what is wrong with a component, as one archive. `supportbundles` of
//! `system.antrea.io/v1beta1`, with upstream's paths and bodies.
//!
//! ```text
//!  POST ─► Bundles ─► Collector ─ parts ─► redaction ─► tar, gzip ─► memory ─► GET …/download
//!             ▲         (async)   one waits   (a blocking thread)       │
//!             └── GET: None, Collecting, Collected ◄── 30 minutes later ┘
//! ```
//!
//! Invariants:
//! - A component has at most one bundle, and makes at most one at a time: who asks while it is made gets that one.
//! - Time and size are bounded, of each part and of the whole. What is too long is cut off and says so.
//! - Every part passes the redaction. A part that cannot be had is in the archive as the reason, and the rest goes on.
//! - Nothing touches a disk, and nothing is left after 30 minutes or a DELETE.

mod archive;
mod bundles;
pub mod collect;
mod since;

pub use bundles::{Bundles, Collector, Part};
