//! The CNI plugin that kubelet's runtime executes.
fn main() {}
