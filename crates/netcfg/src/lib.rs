//! Linux host networking: desired state, difference, application.
//!
//! ```text
//!   desired state ──┐
//!                   ├─► diff (pure) ──► changes ──► one request each ──► kernel
//!   read back ──────┘
//! ```
//!
//! - [`Netns`] – a namespace: identity, threads inside it, a netlink socket bound to it.
//! - [`Netlink`] – links, addresses, routes, neighbours, FDB, rules, and a [`monitor`](nl::monitor) of changes.
//! - [`iptables`] and [`ipset`] – typed rules and sets, compared with what the save tools print and applied in
//!   bulk by the restore tools, through the backend (nft or legacy) that the node uses.
//! - [`nft`] – tables of nftables of our own, and who changes what.
//! - [`sysctl`] – kernel parameters, read before they are written.
//! - [`FrameSocket`] – frames of a protocol of our own on a link.
//! - [`conntrack`] – tracked connections of an address: which there are, and forgetting them.
//! - [`garp`] – gratuitous ARP and unsolicited neighbour advertisements.
//!
//! Invariants:
//! - `setns` happens only on threads made for it; a runtime thread never leaves its namespace.
//! - Removal is limited to what carries our mark: protocol number 173 on routes, rules and neighbours, the
//!   prefix `ANTREA-` on iptables chains, and the names the caller claims of ipsets and tables of nftables.
//! - What is unchanged is not written again; what is absent is removed successfully.
//! - Application and teardown go on after a failure and report every error ([`NetcfgErrors`]).
//!
//! This crate knows nothing of Pods, Nodes or policies, and touches nothing it was not told to.

pub mod conntrack;
mod error;
mod families;
mod family;
mod frames;
pub mod garp;
pub mod ipset;
pub mod iptables;
mod mac;
mod netns;
mod nfnetlink;
pub mod nft;
pub mod nl;
mod packets;
mod process;
pub mod sysctl;
pub mod tc;

pub use error::{Error, NetcfgErrors, Result};
pub use families::kernel_has_family;
pub use family::Family;
pub use frames::FrameSocket;
pub use mac::MacAddr;
pub use netns::{Netns, NetnsId};
pub use nfnetlink::{Part, kernel_has};
pub use nl::{
    Netlink,
    addr::{Address, AddressDiff, diff_addresses},
    link::{Link, LinkRef, OperState, VethPair, VethSpec, VxlanInfo, VxlanSpec, check_link_name},
    monitor::{Event, Monitor},
    neigh::{EntryDiff, FdbEntry, KnownNeighbour, Neighbour, diff_fdb, diff_neighbours},
    route::{ANTREA_PROTOCOL, MAIN_TABLE, Route, RouteDiff, RouteFilter, RouteKind, Scope, diff_routes},
    rule::{RoutingRule, RoutingRuleDiff, diff_rules},
};
pub use packets::{FilterInstruction, Heard, PacketSocket};
