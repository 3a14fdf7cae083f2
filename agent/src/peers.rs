//! The other nodes: the watch on Node objects, what follows from one, and keeping flows in step with them.

pub mod follow;
pub mod watch;
pub mod wiring;
