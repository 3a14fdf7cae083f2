//! OpenFlow session with a bridge of ovs-vswitchd over its management socket (`<bridge>.mgmt`).
//!
//! [`OfSession::spawn`] starts the task that owns the connection; [`OfHandle`] is what everybody else uses. After each
//! connect [`OfState::Connected`] has a new generation: whoever programs the bridge compares it with the one it last
//! programmed, and replays.

mod batch;
mod codec;
mod connection;
mod error;
mod handle;
mod session;

pub use error::{OfError, Rejection};
pub use handle::{BundleInParts, OfHandle};
pub use session::{OfConfig, OfSession, OfState};
