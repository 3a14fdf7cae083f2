//! Command line client of controller and agents.
fn main() {}
