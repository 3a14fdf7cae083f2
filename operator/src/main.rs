//! Runs the whole life of one Antrea installation.
fn main() {}
