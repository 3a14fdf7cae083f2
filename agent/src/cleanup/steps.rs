//! What has to be removed, in which order: a pure function of what there is.

use std::fmt;
use std::path::PathBuf;

use netcfg::{Family, Link, Route, RoutingRule};

use super::Remains;
use crate::ovs::links::POD_LINK_GROUP;

/// The kernel's datapath as `ovs-dpctl` names it, and its own link.
const DATAPATH: &str = "system@ovs-system";
const DATAPATH_LINK: &str = "ovs-system";
/// The userspace datapath's own link: a tap, which outlives ovs-vswitchd as all of its taps do. Two of them
/// cannot be on one node, so that it is ours where there is no datapath of the kernel's.
const USERSPACE_LINK: &str = "ovs-netdev";
/// Kind of the links that a datapath itself makes.
const INTERNAL: &str = "openvswitch";
/// Kinds of the links that ovs-vswitchd makes for tunnels, all with `_sys` in their names.
const TUNNELS: [&str; 5] = ["geneve", "vxlan", "gretap", "ip6gretap", "erspan"];

/// Names of a node's links that the configuration decides.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// OVS bridge.
    pub bridge: &'a str,
    pub gateway: &'a str,
    pub tunnel: &'a str,
}

/// One removal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A file, or a folder with all that is in it.
    File(PathBuf),
    Link {
        name: String,
        /// What it is, for people.
        role: &'static str,
    },
    /// A port of a datapath that others use too.
    DatapathPort {
        datapath: &'static str,
        port: String,
    },
    /// A datapath with all of its ports.
    Datapath(&'static str),
    Route(Route),
    Rule(RoutingRule),
    /// All iptables chains of ours, and the jumps to them.
    Chains,
    /// The table of nftables.
    Table(Family),
    /// An ipset.
    Set(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Link { name, role } => write!(f, "{role} link {name}"),
            Self::DatapathPort { datapath, port } => write!(f, "port {port} of datapath {datapath}"),
            Self::Datapath(name) => write!(f, "datapath {name}"),
            Self::Route(route) => write!(f, "route {route}"),
            Self::Rule(rule) => write!(f, "routing rule {rule}"),
            Self::Chains => f.write_str("iptables chains"),
            Self::Table(family) => write!(f, "{family} table of nftables"),
            Self::Set(name) => write!(f, "ipset {name}"),
        }
    }
}

/// What has to be removed. Files that make the runtime call the plugin come first, and state last. Links of
/// pods go before the rules that keep the host away from them, and rules before the sets that they use.
pub fn plan(facts: &Remains, names: Names<'_>) -> Vec<Step> {
    let file = |path: &PathBuf| Step::File(path.clone());
    let mut steps: Vec<Step> = facts.installed.iter().map(file).collect();
    steps.extend(links(&facts.links, names));
    steps.extend(facts.routes.iter().cloned().map(Step::Route));
    steps.extend(facts.rules.iter().cloned().map(Step::Rule));
    steps.extend(facts.chains.then_some(Step::Chains));
    steps.extend(facts.tables.iter().copied().map(Step::Table));
    steps.extend(facts.sets.iter().cloned().map(Step::Set));
    steps.extend(facts.state.iter().map(file));
    steps
}

/// Whose a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// A pod, or the tunnel of the userspace datapath.
    Pod,
    /// Our bridge, our gateway, our tunnel under its own name, or the userspace datapath.
    Named,
    /// ovs-vswitchd, for a tunnel of the kernel's datapath.
    Tunnel,
    Datapath,
    /// Somebody else, but in the datapath.
    Guest,
    /// Somebody else.
    Other,
}

fn owner(link: &Link, datapath: Option<u32>, names: Names<'_>) -> Owner {
    let kind = link.kind.as_deref().unwrap_or_default();
    if link.group == POD_LINK_GROUP {
        Owner::Pod
    } else if [names.bridge, names.gateway, names.tunnel].contains(&link.name.as_str())
        || datapath.is_none() && link.name == USERSPACE_LINK && kind == "tun"
    {
        Owner::Named
    } else if link.name == DATAPATH_LINK && kind == INTERNAL {
        Owner::Datapath
    } else if datapath.is_some() && link.controller == datapath {
        if TUNNELS.contains(&kind) && link.name.contains("_sys") { Owner::Tunnel } else { Owner::Guest }
    } else if kind == INTERNAL {
        Owner::Guest
    } else {
        Owner::Other
    }
}

fn links(links: &[Link], names: Names<'_>) -> Vec<Step> {
    let datapath = links.iter().find(|link| link.name == DATAPATH_LINK).map(|link| link.index);
    let of = |owned: Owner| links.iter().filter(move |link| owner(link, datapath, names) == owned);
    let delete = |link: &Link, role| Step::Link { name: link.name.clone(), role };
    let mut steps: Vec<Step> = of(Owner::Pod).map(|link| delete(link, "pod")).collect();
    let internal = |link: &&Link| link.kind.as_deref() == Some(INTERNAL);
    // A switch of somebody else's shares the kernel's datapath, and with it the tunnels.
    let shared = of(Owner::Guest).next().is_some();
    if shared {
        steps.extend(
            of(Owner::Named)
                .filter(internal)
                .map(|link| Step::DatapathPort { datapath: DATAPATH, port: link.name.clone() }),
        );
    } else {
        steps.extend(of(Owner::Tunnel).map(|link| delete(link, "tunnel")));
        steps.extend(of(Owner::Datapath).map(|_| Step::Datapath(DATAPATH)));
    }
    steps.extend(of(Owner::Named).filter(|link| !internal(link)).map(|link| delete(link, "network")));
    steps
}

#[cfg(test)]
mod tests;
