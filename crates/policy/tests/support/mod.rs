//! The parts of the convergence test.

pub(crate) mod events;
pub(crate) mod natives;
pub(crate) mod oracle;
pub(crate) mod replica;
pub(crate) mod world;
