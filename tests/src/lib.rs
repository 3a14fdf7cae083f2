//! Test kit: a lab of nodes as network namespaces, with real Open vSwitch, real agents and the real CNI
//! plugin, the real controller, and an API server reduced to storage.
//!
//! ```text
//!   underlay namespace: bridge, 172.31.N.1 ("the outside world"), API server and antrea-controller
//!        │ veth            │ veth
//!   node1 (172.31.N.11)   node2 (172.31.N.12)      each: ovsdb-server, ovs-vswitchd, antrea-agent
//!        │ br-int          │ br-int
//!   pods: namespaces of their own, attached by executing antrea-cni
//! ```
//!
//! Everything is made under names with the process id in them and removed when the [`lab::Lab`] is
//! dropped, also when a test panics. Nothing in the root namespace is touched but the list of names in
//! `/run/netns`. What cannot run fails; nothing is skipped.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "test support code")]

pub mod background;
pub mod crowd;
pub mod dial;
pub mod fake_api;
pub mod gate;
pub mod https;
pub mod iperf;
pub mod lab;
pub mod oracle;
pub mod ovs_container;
pub mod prober;
pub mod random;
pub mod raw;
pub mod station;
pub mod traces;
pub mod tracing;
pub mod traffic;
