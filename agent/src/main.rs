//! Wires pods into Open vSwitch on one node.
fn main() {}
