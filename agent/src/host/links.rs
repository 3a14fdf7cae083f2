//! Links and their addresses as they should be, and how they differ. Plain data: no socket here.

use std::fmt;

use ipnet::IpNet;
use netcfg::{Link, MacAddr, VxlanInfo, diff_addresses};

/// A link as it should be; it is always up. What is `None` is not the agent's to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DesiredLink {
    pub name: String,
    /// Hardware address.
    pub mac: Option<MacAddr>,
    /// MTU in octets.
    pub mtu: Option<u32>,
    /// Device group.
    pub group: Option<u32>,
    /// Addresses, exactly these but for IPv6 link-local ones.
    pub addresses: Option<Vec<IpNet>>,
    /// Parameters that a link is made with: another link has to take its place if they differ.
    pub vxlan: Option<VxlanInfo>,
}

/// How a link differs from what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// There is no such link.
    Gone,
    /// It is another VXLAN link than it should be, or none.
    Other,
    /// It is administratively down.
    Down,
    /// It has another hardware address than this.
    Mac(MacAddr),
    /// It has another MTU than this.
    Mtu(u32),
    /// It is in another group than this.
    Group(u32),
    /// It lacks this address.
    Lacks(IpNet),
    /// It has this address besides.
    Extra(IpNet),
}

/// A difference of one link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LinkFault {
    /// The link's name.
    pub link: String,
    /// Its index, where there is one.
    pub index: Option<u32>,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for LinkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { link, fault, .. } = self;
        match fault {
            Fault::Gone => write!(f, "link {link} was gone"),
            Fault::Other => write!(f, "link {link} was another one"),
            Fault::Down => write!(f, "link {link} was down"),
            Fault::Mac(mac) => write!(f, "link {link} had another hardware address than {mac}"),
            Fault::Mtu(mtu) => write!(f, "link {link} had another MTU than {mtu}"),
            Fault::Group(group) => write!(f, "link {link} was not in device group {group:#x}"),
            Fault::Lacks(net) => write!(f, "link {link} lacked its address {net}"),
            Fault::Extra(net) => write!(f, "link {link} had the foreign address {net}"),
        }
    }
}

impl DesiredLink {
    /// How the link differs. `addresses` are those of the link that has the name.
    pub(super) fn compare(&self, found: Option<&Link>, addresses: &[IpNet]) -> Vec<LinkFault> {
        let index = found.map(|link| link.index);
        let fault = |fault| LinkFault { link: self.name.clone(), index, fault };
        let Some(link) = found else { return vec![fault(Fault::Gone)] };
        if self.vxlan.is_some() && link.vxlan != self.vxlan {
            return vec![fault(Fault::Other)];
        }
        let mut faults = Vec::new();
        faults.extend(self.mac.filter(|mac| link.mac != Some(*mac)).map(Fault::Mac));
        faults.extend(self.mtu.filter(|mtu| link.mtu != *mtu).map(Fault::Mtu));
        faults.extend(self.group.filter(|group| link.group != *group).map(Fault::Group));
        // Up before addresses: IPv6 ones of a link that is down are taken away by the kernel.
        faults.extend((!link.up).then_some(Fault::Down));
        if let Some(wanted) = &self.addresses {
            let diff = diff_addresses(addresses, wanted);
            faults.extend(diff.remove.into_iter().map(Fault::Extra));
            faults.extend(diff.add.into_iter().map(Fault::Lacks));
        }
        faults.into_iter().map(fault).collect()
    }
}

#[cfg(test)]
mod tests {
    use netcfg::OperState;

    use super::*;

    fn link() -> Link {
        Link {
            index: 7,
            name: "antrea-gw0".into(),
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            mtu: 1450,
            up: true,
            oper_state: OperState::Up,
            kind: None,
            peer_index: None,
            peer_netns_id: None,
            controller: None,
            group: 0,
            vxlan: None,
        }
    }

    fn desired() -> DesiredLink {
        DesiredLink {
            name: "antrea-gw0".into(),
            mac: Some(MacAddr([2, 0, 0, 0, 0, 1])),
            mtu: Some(1450),
            addresses: Some(vec!["10.244.1.1/24".parse().unwrap()]),
            ..DesiredLink::default()
        }
    }

    fn text(faults: &[LinkFault]) -> Vec<String> {
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_link_as_it_should_be_has_no_fault() {
        let own: IpNet = "10.244.1.1/24".parse().unwrap();
        assert!(desired().compare(Some(&link()), &[own, "fe80::1/64".parse().unwrap()]).is_empty());
    }

    #[test]
    fn every_difference_is_named() {
        let bad = Link { mac: None, mtu: 1400, up: false, ..link() };
        let foreign: IpNet = "192.0.2.1/32".parse().unwrap();
        let faults = desired().compare(Some(&bad), &[foreign]);
        assert_eq!(
            text(&faults),
            [
                "link antrea-gw0 had another hardware address than 02:00:00:00:00:01",
                "link antrea-gw0 had another MTU than 1450",
                "link antrea-gw0 was down",
                "link antrea-gw0 had the foreign address 192.0.2.1/32",
                "link antrea-gw0 lacked its address 10.244.1.1/24",
            ]
        );
        assert!(faults.iter().all(|fault| fault.index == Some(7)));
        assert_eq!(text(&desired().compare(None, &[])), ["link antrea-gw0 was gone"]);
        let grouped = DesiredLink { group: Some(0xa27e), addresses: None, ..desired() };
        assert_eq!(
            text(&grouped.compare(Some(&link()), &[])),
            ["link antrea-gw0 was not in device group 0xa27e"]
        );
    }

    #[test]
    fn a_tunnel_of_other_parameters_is_another_link() {
        let wanted = VxlanInfo { vni: 0, port: 4789, local: None, learning: false };
        let tunnel = DesiredLink { vxlan: Some(wanted.clone()), ..desired() };
        let other = Link { vxlan: Some(VxlanInfo { port: 8472, ..wanted }), up: false, ..link() };
        assert_eq!(text(&tunnel.compare(Some(&other), &[])), ["link antrea-gw0 was another one"]);
    }
}
