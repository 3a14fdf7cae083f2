//! The parts of the benchmark.

pub(crate) mod report;
pub(crate) mod shapes;
