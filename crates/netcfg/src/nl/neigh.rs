//! Permanent neighbours, and the forwarding database of a VXLAN link.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::RouteProtocol,
};

use super::{link::LinkRef, route::ANTREA_PROTOCOL};
use crate::{MacAddr, NetcfgErrors, Netlink, Result};

/// A permanent neighbour: an address on a link whose hardware address is known and never asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Neighbour {
    /// Protocol address.
    pub ip: IpAddr,
    /// Hardware address.
    pub mac: MacAddr,
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lladdr {}", self.ip, self.mac)
    }
}

/// What the kernel knows of a neighbour, whoever told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownNeighbour {
    /// Hardware address; none until somebody has answered for it.
    pub mac: Option<MacAddr>,
    /// State as `ip neigh` writes it: `REACHABLE`, `STALE`, `DELAY`, `PROBE`, `PERMANENT`, `NOARP`; nobody answers where it
    /// is `INCOMPLETE` or `FAILED`.
    pub state: &'static str,
}

/// An entry of a VXLAN link's FDB (`bridge fdb … self`): frames for `mac` go to the endpoint `dst`.
///
/// A unicast address has one endpoint; an all-zero or multicast address may have several, each its own entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FdbEntry {
    /// Inner destination address.
    pub mac: MacAddr,
    /// Outer destination address.
    pub dst: IpAddr,
}

impl FdbEntry {
    fn single_destination(&self) -> bool {
        self.mac != MacAddr::ZERO && !self.mac.is_multicast()
    }
}

impl fmt::Display for FdbEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dst {}", self.mac, self.dst)
    }
}

/// What has to change, for neighbours and FDB entries alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryDiff<T> {
    /// To be added or put in place of the entry with the same key.
    pub set: Vec<T>,
    /// To be removed.
    pub remove: Vec<T>,
}

impl<T> EntryDiff<T> {
    /// Whether nothing has to change.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }
}

/// Compares neighbours; the address is the key. Of several desired ones for an address the last counts.
pub fn diff_neighbours(existing: &[Neighbour], desired: &[Neighbour]) -> EntryDiff<Neighbour> {
    let have: BTreeMap<_, _> = existing.iter().map(|n| (n.ip, *n)).collect();
    let want: BTreeMap<_, _> = desired.iter().map(|n| (n.ip, *n)).collect();
    EntryDiff {
        set: want.values().filter(|n| have.get(&n.ip) != Some(n)).copied().collect(),
        remove: have.values().filter(|n| !want.contains_key(&n.ip)).copied().collect(),
    }
}

/// Compares FDB entries. A unicast address is its own key, of several desired entries for it the last counts.
pub fn diff_fdb(existing: &[FdbEntry], desired: &[FdbEntry]) -> EntryDiff<FdbEntry> {
    let have: BTreeSet<_> = existing.iter().copied().collect();
    let mut want = BTreeSet::new();
    let mut single = BTreeMap::new();
    for entry in desired {
        if entry.single_destination() {
            single.insert(entry.mac, *entry);
        } else {
            want.insert(*entry);
        }
    }
    want.extend(single.values().copied());
    EntryDiff {
        set: want.difference(&have).copied().collect(),
        remove: have.difference(&want).filter(|e| !single.contains_key(&e.mac)).copied().collect(),
    }
}

impl Netlink {
    /// The permanent neighbours of a link that this project made.
    pub async fn neighbours(&self, link: impl Into<LinkRef<'_>>) -> Result<Vec<Neighbour>> {
        let index = self.index_of(link.into()).await?;
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = NeighbourMessage::default();
            filter.header.family = family;
            filter.attributes.push(NeighbourAttribute::IfIndex(index));
            let what = || format!("list neighbours of link #{index}");
            for answer in self.dump(RouteNetlinkMessage::GetNeighbour(filter), what).await? {
                let RouteNetlinkMessage::NewNeighbour(message) = answer else { continue };
                let ours = message
                    .attributes
                    .iter()
                    .any(|a| matches!(a, NeighbourAttribute::Protocol(p) if u8::from(*p) == ANTREA_PROTOCOL));
                if ours
                    && message.header.ifindex == index
                    && message.header.state == NeighbourState::Permanent
                    && let (Some(mac), Some(ip)) = (mac_of(&message), destination_of(&message))
                {
                    found.push(Neighbour { ip, mac });
                }
            }
        }
        Ok(found)
    }

    /// What is known of a neighbour on a link; `None` if nothing is.
    ///
    /// # Errors
    /// The kernel cannot say.
    pub async fn neighbour(
        &self,
        link: impl Into<LinkRef<'_>>,
        ip: IpAddr,
    ) -> Result<Option<KnownNeighbour>> {
        let link = link.into();
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(ip);
        message.header.ifindex = self.index_of(link).await?;
        message.attributes.push(NeighbourAttribute::Destination(ip.into()));
        let what = || format!("look up neighbour {ip} dev {link}");
        match self.request(RouteNetlinkMessage::GetNeighbour(message), 0, what).await {
            Ok(answers) => Ok(answers.into_iter().find_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(message) => Some(known(&message)),
                _ => None,
            })),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Adds a permanent neighbour, or replaces the entry of its address.
    pub async fn set_neighbour(&self, link: impl Into<LinkRef<'_>>, neighbour: Neighbour) -> Result<()> {
        let link = link.into();
        let index = self.index_of(link).await?;
        let message = RouteNetlinkMessage::NewNeighbour(neighbour_message(index, neighbour));
        let what = || format!("set neighbour {neighbour} dev {link}");
        self.request(message, NLM_F_CREATE | NLM_F_REPLACE, what).await.map(drop)
    }

    /// Removes a neighbour. Returns whether it was there.
    pub async fn remove_neighbour(&self, link: impl Into<LinkRef<'_>>, neighbour: Neighbour) -> Result<bool> {
        let link = link.into();
        let index = self.index_of(link).await?;
        let message = RouteNetlinkMessage::DelNeighbour(neighbour_message(index, neighbour));
        absent_is_false(self.request(message, 0, || format!("remove neighbour {neighbour} dev {link}")).await)
    }

    /// Makes this project's permanent neighbours of a link the desired ones. Goes on after a failure.
    pub async fn apply_neighbours(
        &self,
        link: impl Into<LinkRef<'_>>,
        desired: &[Neighbour],
    ) -> Result<EntryDiff<Neighbour>, NetcfgErrors> {
        let index = self.index_of(link.into()).await?;
        let diff = diff_neighbours(&self.neighbours(index).await?, desired);
        let mut errors = NetcfgErrors::new();
        for neighbour in &diff.set {
            errors.check(self.set_neighbour(index, *neighbour).await);
        }
        for neighbour in &diff.remove {
            errors.check(self.remove_neighbour(index, *neighbour).await);
        }
        errors.finish(diff)
    }

    /// The static FDB entries of a VXLAN link (`bridge fdb show dev NAME`, those with `dst`).
    pub async fn fdb(&self, link: impl Into<LinkRef<'_>>) -> Result<Vec<FdbEntry>> {
        let index = self.index_of(link.into()).await?;
        let mut filter = NeighbourMessage::default();
        filter.header.family = AddressFamily::Bridge;
        filter.header.ifindex = index;
        let what = || format!("list fdb of link #{index}");
        let answers = self.dump(RouteNetlinkMessage::GetNeighbour(filter), what).await?;
        let entries = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewNeighbour(message)
                if message.header.ifindex == index
                    && message.header.state == NeighbourState::Permanent
                    && message.header.flags.contains(NeighbourFlags::Own) =>
            {
                Some(FdbEntry { mac: mac_of(&message)?, dst: destination_of(&message)? })
            }
            _ => None,
        });
        Ok(entries.collect())
    }

    /// Adds an FDB entry (`bridge fdb append MAC dev LINK dst DST self permanent`); for a unicast address it
    /// replaces the endpoint.
    pub async fn set_fdb(&self, link: impl Into<LinkRef<'_>>, entry: FdbEntry) -> Result<()> {
        let link = link.into();
        let index = self.index_of(link).await?;
        // vxlan_fdb_update() refuses APPEND for unicast and REPLACE for other addresses.
        let mode = if entry.single_destination() { NLM_F_REPLACE } else { NLM_F_APPEND };
        let message = RouteNetlinkMessage::NewNeighbour(fdb_message(index, entry));
        let what = || format!("set fdb entry {entry} dev {link}");
        self.request(message, NLM_F_CREATE | mode, what).await.map(drop)
    }

    /// Removes an FDB entry. Returns whether it was there.
    pub async fn remove_fdb(&self, link: impl Into<LinkRef<'_>>, entry: FdbEntry) -> Result<bool> {
        let link = link.into();
        let index = self.index_of(link).await?;
        let message = RouteNetlinkMessage::DelNeighbour(fdb_message(index, entry));
        absent_is_false(self.request(message, 0, || format!("remove fdb entry {entry} dev {link}")).await)
    }

    /// Makes the static FDB entries of a VXLAN link the desired ones. Goes on after a failure.
    pub async fn apply_fdb(
        &self,
        link: impl Into<LinkRef<'_>>,
        desired: &[FdbEntry],
    ) -> Result<EntryDiff<FdbEntry>, NetcfgErrors> {
        let index = self.index_of(link.into()).await?;
        let diff = diff_fdb(&self.fdb(index).await?, desired);
        let mut errors = NetcfgErrors::new();
        for entry in &diff.set {
            errors.check(self.set_fdb(index, *entry).await);
        }
        for entry in &diff.remove {
            errors.check(self.remove_fdb(index, *entry).await);
        }
        errors.finish(diff)
    }
}

fn absent_is_false<T>(result: Result<T>) -> Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(e) if e.is_not_found() => Ok(false),
        Err(e) => Err(e),
    }
}

fn family_of(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn neighbour_message(index: u32, neighbour: Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family_of(neighbour.ip);
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![
        NeighbourAttribute::Destination(neighbour.ip.into()),
        NeighbourAttribute::LinkLayerAddress(neighbour.mac.0.to_vec()),
        NeighbourAttribute::Protocol(RouteProtocol::from(ANTREA_PROTOCOL)),
    ];
    message
}

fn fdb_message(index: u32, entry: FdbEntry) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![
        NeighbourAttribute::LinkLayerAddress(entry.mac.0.to_vec()),
        NeighbourAttribute::Destination(entry.dst.into()),
    ];
    message
}

fn known(message: &NeighbourMessage) -> KnownNeighbour {
    let state = match message.header.state {
        NeighbourState::Incomplete => "INCOMPLETE",
        NeighbourState::Reachable => "REACHABLE",
        NeighbourState::Stale => "STALE",
        NeighbourState::Delay => "DELAY",
        NeighbourState::Probe => "PROBE",
        NeighbourState::Failed => "FAILED",
        NeighbourState::Noarp => "NOARP",
        NeighbourState::Permanent => "PERMANENT",
        _ => "NONE",
    };
    KnownNeighbour { mac: mac_of(message), state }
}

fn mac_of(message: &NeighbourMessage) -> Option<MacAddr> {
    message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(octets) => {
            <[u8; 6]>::try_from(octets.as_slice()).ok().map(MacAddr)
        }
        _ => None,
    })
}

fn destination_of(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some((*ip).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some((*ip).into()),
        // In AF_BRIDGE messages the family says nothing about the endpoint's; its length does.
        NeighbourAttribute::Destination(NeighbourAddress::Other(octets)) => {
            if let Ok(v4) = <[u8; 4]>::try_from(octets.as_slice()) {
                Some(v4.into())
            } else {
                <[u8; 16]>::try_from(octets.as_slice()).ok().map(IpAddr::from)
            }
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = FdbEntry> {
        (0u8..3, 0u8..3).prop_map(|(mac, dst)| FdbEntry {
            mac: [MacAddr::ZERO, MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])][usize::from(mac)],
            dst: IpAddr::from([192, 0, 2, dst]),
        })
    }

    proptest! {
        #[test]
        fn fdb_difference_gives_the_desired_state(
            have in prop::collection::vec(entry(), 0..6),
            want in prop::collection::vec(entry(), 0..6),
        ) {
            // The kernel's table: one endpoint per unicast address.
            let mut table: BTreeSet<FdbEntry> = BTreeSet::new();
            let put = |table: &mut BTreeSet<FdbEntry>, e: FdbEntry| {
                if e.single_destination() {
                    table.retain(|x| x.mac != e.mac);
                }
                table.insert(e);
            };
            have.iter().for_each(|e| put(&mut table, *e));
            let diff = diff_fdb(&table.iter().copied().collect::<Vec<_>>(), &want);
            diff.set.iter().for_each(|e| put(&mut table, *e));
            for e in &diff.remove {
                prop_assert!(table.remove(e));
            }
            let mut expected = BTreeSet::new();
            want.iter().for_each(|e| put(&mut expected, *e));
            prop_assert_eq!(&table, &expected);
            prop_assert!(diff_fdb(&table.into_iter().collect::<Vec<_>>(), &want).is_empty());
        }
    }

    #[test]
    fn neighbours_are_keyed_by_address() {
        let ip = IpAddr::from([10, 0, 0, 1]);
        let old = Neighbour { ip, mac: MacAddr([2, 0, 0, 0, 0, 1]) };
        let new = Neighbour { ip, mac: MacAddr([2, 0, 0, 0, 0, 2]) };
        let gone = Neighbour { ip: IpAddr::from([10, 0, 0, 9]), ..old };
        let diff = diff_neighbours(&[old, gone], &[new]);
        assert_eq!(diff, EntryDiff { set: vec![new], remove: vec![gone] });
        assert!(diff_neighbours(&[new], &[new]).is_empty());
    }
}
