//! Links: veth, VXLAN; their attributes; listing.

use std::{fmt, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State},
};
use rtnetlink::{LinkUnspec, LinkVeth, LinkVxlan};

use crate::{Error, MacAddr, Netlink, Netns, Result};

/// A link as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique in its namespace.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Hardware address, for Ethernet-like links.
    pub mac: Option<MacAddr>,
    /// MTU in octets.
    pub mtu: u32,
    /// Administrative state (`IFF_UP`).
    pub up: bool,
    /// Operational state (RFC 2863).
    pub oper_state: OperState,
    /// Driver kind: `veth`, `vxlan`, `bridge`, `tun`, …; none for physical links and `lo`.
    pub kind: Option<String>,
    /// The other end of a veth pair (an index in the peer's namespace), or the lower device (`IFLA_LINK`).
    pub peer_index: Option<u32>,
    /// The namespace id under which this namespace knows the peer's (`IFLA_LINK_NETNSID`).
    pub peer_netns_id: Option<i32>,
    /// The bridge or other device this link is a port of (`IFLA_MASTER`).
    pub controller: Option<u32>,
    /// Device group, matched by iptables `-m devgroup`.
    pub group: u32,
    /// Parameters of a VXLAN link.
    pub vxlan: Option<VxlanInfo>,
}

/// Operational state of a link (RFC 2863 `ifOperStatus`, `IF_OPER_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperState {
    /// The driver does not say (`lo`, tap, VXLAN).
    Unknown,
    /// Passes packets.
    Up,
    /// Administratively down.
    Down,
    /// The lower layer, such as the peer of a veth, is down.
    LowerLayerDown,
    /// Some other state, by its `IF_OPER_*` number.
    Other(u8),
}

/// What a VXLAN link was made with.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct VxlanInfo {
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// UDP destination port.
    pub port: u16,
    /// Source address of the outer header.
    pub local: Option<IpAddr>,
    /// Whether source addresses of received frames enter the FDB.
    pub learning: bool,
}

/// A veth pair to create, one end in the socket's namespace, the other in `peer_ns`.
#[derive(Clone, Debug)]
pub struct VethSpec<'a> {
    /// Name of the end in the socket's namespace.
    pub host_name: &'a str,
    /// Its address; random if not given.
    pub host_mac: Option<MacAddr>,
    /// Its MTU in octets; 0 leaves the kernel's 1500.
    pub host_mtu: u32,
    /// Its device group.
    pub host_group: Option<u32>,
    /// Name of the other end.
    pub peer_name: &'a str,
    /// Its address; random if not given.
    pub peer_mac: Option<MacAddr>,
    /// Its MTU in octets; 0 leaves the kernel's 1500.
    pub peer_mtu: u32,
    /// The namespace it is created in.
    pub peer_ns: &'a Netns,
}

/// A VXLAN link to create. The kernel computes outer UDP checksums unless told otherwise.
#[derive(Clone, Debug)]
pub struct VxlanSpec<'a> {
    /// Interface name.
    pub name: &'a str,
    /// Network identifier, 24 bits.
    pub vni: u32,
    /// UDP destination port; IANA's is 4789.
    pub port: u16,
    /// Source address of the outer header; it also decides the outer family.
    pub local: IpAddr,
    /// Hardware address; random if not given.
    pub mac: Option<MacAddr>,
    /// MTU in octets; 0 lets the kernel derive it.
    pub mtu: u32,
    /// Whether to learn addresses from received frames. Off when the FDB is managed.
    pub learning: bool,
    /// Device group.
    pub group: Option<u32>,
    /// Outer UDP checksum over IPv4.
    pub udp_csum: bool,
    /// Send zero UDP checksums over IPv6.
    pub udp6_zero_csum_tx: bool,
    /// Accept zero UDP checksums over IPv6.
    pub udp6_zero_csum_rx: bool,
}

impl<'a> VxlanSpec<'a> {
    /// A VXLAN link on port 4789 with checksums on and learning off.
    pub fn new(name: &'a str, vni: u32, local: IpAddr) -> Self {
        Self {
            name,
            vni,
            port: 4789,
            local,
            mac: None,
            mtu: 0,
            learning: false,
            group: None,
            udp_csum: true,
            udp6_zero_csum_tx: false,
            udp6_zero_csum_rx: false,
        }
    }
}

/// A veth pair that was created.
#[derive(Clone, Debug)]
pub struct VethPair {
    /// The end in the socket's namespace.
    pub host: Link,
    /// The index of the other end in its namespace.
    pub peer_index: u32,
}

/// How a call names its link. Index and name are equally good; the name is what errors show.
#[derive(Clone, Copy, Debug)]
pub enum LinkRef<'a> {
    Index(u32),
    Name(&'a str),
}

impl From<u32> for LinkRef<'_> {
    fn from(index: u32) -> Self {
        LinkRef::Index(index)
    }
}

impl<'a> From<&'a str> for LinkRef<'a> {
    fn from(name: &'a str) -> Self {
        LinkRef::Name(name)
    }
}

impl<'a> From<&'a String> for LinkRef<'a> {
    fn from(name: &'a String) -> Self {
        LinkRef::Name(name)
    }
}

impl<'a> From<&'a Link> for LinkRef<'a> {
    fn from(link: &'a Link) -> Self {
        LinkRef::Index(link.index)
    }
}

impl fmt::Display for LinkRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkRef::Index(index) => write!(f, "#{index}"),
            LinkRef::Name(name) => f.write_str(name),
        }
    }
}

impl LinkRef<'_> {
    fn message(self) -> LinkMessage {
        match self {
            LinkRef::Index(index) => LinkUnspec::new_with_index(index).build(),
            LinkRef::Name(name) => LinkUnspec::new_with_name(name).build(),
        }
    }
}

/// Checks a name by the kernel's rule (`dev_valid_name`: 1 to 15 octets, not `.` or `..`, no `/`, `:` or space).
pub fn check_link_name(name: &str) -> Result<()> {
    let reason = match name {
        "" => "empty",
        "." | ".." => "reserved",
        _ if name.len() > 15 => "longer than 15 octets",
        _ if name.contains(|c: char| c == '/' || c == ':' || c.is_ascii_whitespace() || c == '\0') => {
            "contains '/', ':' or white space"
        }
        _ => return Ok(()),
    };
    Err(Error::Invalid { what: "interface name", value: name.to_owned(), reason })
}

impl Netlink {
    /// Creates a veth pair, both ends down. The peer is born in its namespace: no rename, no move.
    pub async fn create_veth(&self, spec: &VethSpec<'_>) -> Result<VethPair> {
        use std::os::fd::AsRawFd;

        check_link_name(spec.host_name)?;
        check_link_name(spec.peer_name)?;
        let mut peer = LinkUnspec::new_with_name(spec.peer_name).setns_by_fd(spec.peer_ns.as_raw_fd());
        let mut host = LinkVeth::new(spec.host_name, spec.peer_name);
        if let Some(mac) = spec.peer_mac {
            peer = peer.address(mac.0.to_vec());
        }
        if spec.peer_mtu != 0 {
            peer = peer.mtu(spec.peer_mtu);
        }
        if let Some(mac) = spec.host_mac {
            host = host.address(mac.0.to_vec());
        }
        if spec.host_mtu != 0 {
            host = host.mtu(spec.host_mtu);
        }
        if let Some(group) = spec.host_group {
            host = host.link_group(group);
        }
        let host = host.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        let what =
            || format!("create veth {} with peer {} in {}", spec.host_name, spec.peer_name, spec.peer_ns);
        self.new_link(host.build(), what).await?;
        let host = self.require_link(spec.host_name).await?;
        let peer_index =
            host.peer_index.ok_or_else(|| Error::LinkNotFound(format!("peer of {}", host.name)))?;
        Ok(VethPair { host, peer_index })
    }

    /// Creates a VXLAN link, down.
    pub async fn create_vxlan(&self, spec: &VxlanSpec<'_>) -> Result<Link> {
        check_link_name(spec.name)?;
        let mut link = LinkVxlan::new(spec.name, spec.vni)
            .port(spec.port)
            .learning(spec.learning)
            .udp_csum(spec.udp_csum)
            .udp_zero_csum6_tx(spec.udp6_zero_csum_tx)
            .udp_zero_csum6_rx(spec.udp6_zero_csum_rx);
        link = match spec.local {
            IpAddr::V4(local) => link.local(local),
            IpAddr::V6(local) => link.local6(local),
        };
        if let Some(mac) = spec.mac {
            link = link.address(mac.0.to_vec());
        }
        if spec.mtu != 0 {
            link = link.mtu(spec.mtu);
        }
        if let Some(group) = spec.group {
            link = link.link_group(group);
        }
        let what = || format!("create vxlan {} vni {} local {}", spec.name, spec.vni, spec.local);
        self.new_link(link.build(), what).await?;
        self.require_link(spec.name).await
    }

    async fn new_link(&self, message: LinkMessage, what: impl Fn() -> String) -> Result<()> {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.request(RouteNetlinkMessage::NewLink(message), flags, what).await.map(drop)
    }

    /// Deletes a link (and with one end of a veth, the other). Returns whether there was one.
    pub async fn delete_link(&self, link: impl Into<LinkRef<'_>>) -> Result<bool> {
        let link = link.into();
        let what = || format!("delete link {link}");
        match self.request(RouteNetlinkMessage::DelLink(link.message()), 0, what).await {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Sets a link administratively up.
    pub async fn set_up(&self, link: impl Into<LinkRef<'_>>) -> Result<()> {
        let link = link.into();
        let mut message = link.message();
        message.header.change_mask |= LinkFlags::Up;
        message.header.flags |= LinkFlags::Up;
        let what = || format!("set link {link} up");
        self.request(RouteNetlinkMessage::NewLink(message), 0, what).await.map(drop)
    }

    /// Sets the hardware address. Drivers other than veth may want the link down.
    pub async fn set_mac(&self, link: impl Into<LinkRef<'_>>, mac: MacAddr) -> Result<()> {
        self.set(link.into(), LinkAttribute::Address(mac.0.to_vec()), &format!("address {mac}")).await
    }

    /// Sets the MTU in octets.
    pub async fn set_mtu(&self, link: impl Into<LinkRef<'_>>, mtu: u32) -> Result<()> {
        self.set(link.into(), LinkAttribute::Mtu(mtu), &format!("mtu {mtu}")).await
    }

    /// Sets the device group.
    pub async fn set_group(&self, link: impl Into<LinkRef<'_>>, group: u32) -> Result<()> {
        self.set(link.into(), LinkAttribute::Group(group), &format!("group {group}")).await
    }

    async fn set(&self, link: LinkRef<'_>, attribute: LinkAttribute, change: &str) -> Result<()> {
        let mut message = link.message();
        message.attributes.push(attribute);
        let what = || format!("set link {link} {change}");
        self.request(RouteNetlinkMessage::NewLink(message), 0, what).await.map(drop)
    }

    /// Looks a link up; `None` if there is none.
    pub async fn link(&self, link: impl Into<LinkRef<'_>>) -> Result<Option<Link>> {
        let link = link.into();
        let message = RouteNetlinkMessage::GetLink(link.message());
        match self.request(message, 0, || format!("get link {link}")).await {
            Ok(answers) => Ok(answers.into_iter().find_map(as_link)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Looks a link up that has to be there.
    pub async fn require_link(&self, link: impl Into<LinkRef<'_>>) -> Result<Link> {
        let link = link.into();
        self.link(link).await?.ok_or_else(|| Error::LinkNotFound(link.to_string()))
    }

    /// All links of the namespace, by index.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let message = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.dump(message, || "list links".to_owned()).await?;
        Ok(answers.into_iter().filter_map(as_link).collect())
    }
}

fn as_link(message: RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(Link::from(message)),
        _ => None,
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            oper_state: OperState::Unknown,
            kind: None,
            peer_index: None,
            peer_netns_id: None,
            controller: None,
            group: 0,
            vxlan: None,
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(octets) => link.mac = <[u8; 6]>::try_from(octets).ok().map(MacAddr),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::OperState(state) => link.oper_state = state.into(),
                LinkAttribute::Link(index) => link.peer_index = Some(index),
                LinkAttribute::LinkNetNsId(id) => link.peer_netns_id = Some(id),
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::Group(group) => link.group = group,
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(InfoKind::Other(kind)) => link.kind = Some(kind),
                            LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                            LinkInfo::Data(InfoData::Vxlan(data)) => link.vxlan = Some(data.into()),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link
    }
}

impl From<Vec<InfoVxlan>> for VxlanInfo {
    fn from(data: Vec<InfoVxlan>) -> Self {
        let mut info = VxlanInfo::default();
        for attribute in data {
            match attribute {
                InfoVxlan::Id(vni) => info.vni = vni,
                InfoVxlan::Port(port) => info.port = port,
                InfoVxlan::Local(ip) => info.local = Some(ip.into()),
                InfoVxlan::Local6(ip) => info.local = Some(ip.into()),
                InfoVxlan::Learning(on) => info.learning = on,
                _ => {}
            }
        }
        info
    }
}

impl From<State> for OperState {
    fn from(state: State) -> Self {
        match state {
            State::Unknown => OperState::Unknown,
            State::Up => OperState::Up,
            State::Down => OperState::Down,
            State::LowerLayerDown => OperState::LowerLayerDown,
            other => OperState::Other(other.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check_link_name;

    #[test]
    fn names_follow_the_kernels_rule() {
        for good in ["a", "antrea-gw0", "eth0.100", "fifteen-octets-"] {
            assert!(check_link_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "sixteen-octets--", "a/b", "a b", "a:b", "a\0"] {
            assert!(check_link_name(bad).is_err(), "{bad:?}");
        }
    }
}
