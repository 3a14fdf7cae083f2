//! Computes NetworkPolicy and distributes it.
fn main() {}
