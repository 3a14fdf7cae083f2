//! Addresses of a link.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
};
use nix::errno::Errno;
use rtnetlink::AddressMessageBuilder;

use super::link::LinkRef;
use crate::{NetcfgErrors, Netlink, Result};

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The local address with its prefix length.
    pub net: IpNet,
    /// The link's index.
    pub link: u32,
    /// IPv6 duplicate address detection has not finished: not usable yet.
    pub tentative: bool,
    /// IPv6 duplicate address detection found the address in use.
    pub dad_failed: bool,
}

/// What has to change for a link to carry exactly the desired addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressDiff {
    pub add: Vec<IpNet>,
    /// To be removed.
    pub remove: Vec<IpNet>,
}

impl AddressDiff {
    /// Whether nothing has to change.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// Compares what a link carries with what it should carry. IPv6 link-local addresses, which the kernel
/// makes itself, stay whether they are desired or not.
pub fn diff_addresses(existing: &[IpNet], desired: &[IpNet]) -> AddressDiff {
    let have: BTreeSet<_> = existing.iter().copied().collect();
    let want: BTreeSet<_> = desired.iter().copied().collect();
    AddressDiff {
        add: want.difference(&have).copied().collect(),
        remove: have.difference(&want).filter(|net| !is_link_local_v6(net)).copied().collect(),
    }
}

fn is_link_local_v6(net: &IpNet) -> bool {
    matches!(net.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local())
}

impl Netlink {
    /// The addresses of a link, both families.
    pub async fn addresses(&self, link: impl Into<LinkRef<'_>>) -> Result<Vec<Address>> {
        let index = self.index_of(link.into()).await?;
        let mut filter = AddressMessage::default();
        filter.header.index = index;
        let what = || format!("list addresses of link #{index}");
        let answers = self.dump(RouteNetlinkMessage::GetAddress(filter), what).await?;
        Ok(answers.into_iter().filter_map(as_address).filter(|a| a.link == index).collect())
    }

    /// Makes the link carry exactly `desired` (and its IPv6 link-local addresses). Goes on after a failure.
    ///
    /// IPv6 addresses are added without duplicate address detection: they come from an allocator, and a Pod
    /// must not wait a second for them.
    pub async fn apply_addresses(
        &self,
        link: impl Into<LinkRef<'_>>,
        desired: &[IpNet],
    ) -> Result<AddressDiff, NetcfgErrors> {
        let link = link.into();
        let index = self.index_of(link).await?;
        let nets = |addresses: Vec<Address>| addresses.into_iter().map(|a| a.net).collect::<Vec<_>>();
        let first = diff_addresses(&nets(self.addresses(index).await?), desired);
        let mut errors = NetcfgErrors::new();
        for net in &first.remove {
            errors.check(self.remove_address(index, *net).await);
        }
        // Removing a primary IPv4 address takes its secondaries along (unless promote_secondaries is set), so
        // look again before adding.
        let add = if first.remove.is_empty() {
            first.add
        } else {
            diff_addresses(&nets(self.addresses(index).await?), desired).add
        };
        for net in &add {
            errors.check(self.add_address(index, *net).await);
        }
        errors.finish(AddressDiff { add, remove: first.remove })
    }

    /// Adds an address; one that is there already is success.
    pub async fn add_address(&self, link: impl Into<LinkRef<'_>>, net: IpNet) -> Result<()> {
        let link = link.into();
        let message = RouteNetlinkMessage::NewAddress(address_message(self.index_of(link).await?, net));
        let what = || format!("add address {net} to link {link}");
        match self.request(message, NLM_F_CREATE | NLM_F_EXCL, what).await {
            Err(e) if e.errno() == Some(Errno::EEXIST) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Removes an address. Returns whether it was there.
    pub async fn remove_address(&self, link: impl Into<LinkRef<'_>>, net: IpNet) -> Result<bool> {
        let link = link.into();
        let message = RouteNetlinkMessage::DelAddress(address_message(self.index_of(link).await?, net));
        match self.request(message, 0, || format!("remove address {net} from link {link}")).await {
            Ok(_) => Ok(true),
            Err(e) if e.errno() == Some(Errno::EADDRNOTAVAIL) => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(crate) async fn index_of(&self, link: LinkRef<'_>) -> Result<u32> {
        match link {
            LinkRef::Index(index) => Ok(index),
            LinkRef::Name(_) => Ok(self.require_link(link).await?.index),
        }
    }
}

fn address_message(index: u32, net: IpNet) -> AddressMessage {
    let mut message = match net {
        IpNet::V4(net) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => {
            let mut message = AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(index)
                .address(net.addr(), net.prefix_len())
                .build();
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
        }
    };
    if net.addr().is_loopback() {
        message.header.scope = AddressScope::Host;
    } else if is_link_local_v6(&net) {
        message.header.scope = AddressScope::Link;
    }
    message
}

pub(crate) fn as_address(message: RouteNetlinkMessage) -> Option<Address> {
    match message {
        RouteNetlinkMessage::NewAddress(message) => address_of(&message),
        _ => None,
    }
}

pub(crate) fn address_of(message: &AddressMessage) -> Option<Address> {
    let mut local = None;
    let mut address = None;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // IFA_ADDRESS is the peer's address where both are present; IPv6 sends only IFA_ADDRESS.
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some(Address {
        net,
        link: message.header.index,
        tentative: flags.contains(AddressFlags::Tentative),
        dad_failed: flags.contains(AddressFlags::Dadfailed),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|t| t.parse().unwrap()).collect()
    }

    #[test]
    fn link_local_v6_stays() {
        let diff =
            diff_addresses(&nets(&["fe80::1/64", "10.0.0.1/24", "fd00::1/64"]), &nets(&["10.0.0.1/25"]));
        assert_eq!(diff.add, nets(&["10.0.0.1/25"]));
        assert_eq!(diff.remove, nets(&["10.0.0.1/24", "fd00::1/64"]));
    }

    fn net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (0u8..4, 8u8..=32).prop_map(|(i, p)| IpNet::new(IpAddr::from([10, 0, 0, i]), p).unwrap()),
            (0u16..4, 64u8..=128).prop_map(|(i, p)| IpNet::new(
                IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, i]),
                p
            )
            .unwrap()),
            (0u16..2).prop_map(|i| IpNet::new(IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, i]), 64).unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_desired_state(
            have in prop::collection::vec(net(), 0..8),
            want in prop::collection::vec(net(), 0..8),
        ) {
            let diff = diff_addresses(&have, &want);
            let mut state: BTreeSet<_> = have.iter().copied().collect();
            for gone in &diff.remove {
                prop_assert!(state.remove(gone) && !want.contains(gone));
            }
            for new in &diff.add {
                prop_assert!(state.insert(*new));
            }
            let state: Vec<_> = state.into_iter().collect();
            prop_assert!(want.iter().all(|w| state.contains(w)));
            prop_assert!(state.iter().all(|s| want.contains(s) || is_link_local_v6(s)));
            prop_assert!(diff_addresses(&state, &want).is_empty());
        }
    }
}
