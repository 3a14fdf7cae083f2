//! The node suite: agents, CNI plugin and real Open vSwitch on nodes that are network namespaces. It runs
//! on whichever datapath the machine has: userspace here, the kernel's in the virtual machine.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::type_complexity, reason = "tests")]

mod announcements;
mod antctl;
mod audit;
mod bandwidth;
mod cni;
mod cnitool;
mod connectivity;
mod controller;
mod datapath;
mod departed;
mod endpoint_churn;
mod established;
mod failclosed;
mod forwarded;
mod fqdn;
mod fragments;
mod hairpin;
mod handover;
mod health;
mod hostile;
mod hostnet;
mod ipvs;
mod isolation;
mod kill;
mod mixed;
mod native;
mod newcomer;
mod node_peers;
mod noipv6;
mod np_log;
mod ovs;
mod ownership;
mod packetcapture;
mod packetcapture_upload;
mod peers;
mod probes;
mod proxy;
mod proxy_all;
mod proxy_bad_input;
mod random;
mod reachability;
mod reject;
mod replaced;
mod restart;
mod services;
mod spoofing;
mod standard;
mod statistics;
mod to_services;
mod traceflow;
mod tracing;
mod tunnel;
mod uninstall;

/// Labs share two cores: one at a time gives each the time that its limits assume.
static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
