//! ipsets: desired sets, compared with `ipset save`, applied with one `ipset restore`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::{Error, Family, NetcfgErrors, Netns, Result, iptables::Proto, process};

/// Longest name of a set in octets (`IPSET_MAXNAMELEN` less its NUL).
const MAX_NAME: usize = 31;
/// The kernel's default limit of members.
const DEFAULT_MAXELEM: usize = 65_536;

/// What the members of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetType {
    /// Prefixes.
    HashNet,
    HashIp,
    /// An address with a protocol and port.
    HashIpPort,
}

impl SetType {
    fn name(self) -> &'static str {
        match self {
            SetType::HashNet => "hash:net",
            SetType::HashIp => "hash:ip",
            SetType::HashIpPort => "hash:ip,port",
        }
    }
}

/// A member. Prints as `ipset save` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// A prefix, or an address as one of full length.
    Net(IpNet),
    /// An address with a protocol (TCP, UDP or SCTP) and port.
    IpPort(IpAddr, Proto, u16),
}

impl From<IpNet> for Member {
    fn from(net: IpNet) -> Self {
        Member::Net(net)
    }
}

impl From<IpAddr> for Member {
    fn from(ip: IpAddr) -> Self {
        Member::Net(ip.into())
    }
}

impl Member {
    fn family(&self) -> Family {
        match self {
            Member::Net(net) => (*net).into(),
            Member::IpPort(ip, ..) => (*ip).into(),
        }
    }

    fn fits(&self, kind: SetType) -> bool {
        match (self, kind) {
            (Member::Net(_), SetType::HashNet) | (Member::IpPort(..), SetType::HashIpPort) => true,
            (Member::Net(net), SetType::HashIp) => net.prefix_len() == net.max_prefix_len(),
            _ => false,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some((ip, port)) = text.split_once(',') {
            let (proto, port) = port.split_once(':')?;
            let proto = Proto::NAMES.iter().find(|(name, _)| *name == proto)?.1;
            return Some(Member::IpPort(ip.parse().ok()?, proto, port.parse().ok()?));
        }
        match text.contains('/') {
            true => text.parse().ok().map(Member::Net),
            false => text.parse::<IpAddr>().ok().map(Member::from),
        }
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Member::Net(net) if net.prefix_len() == net.max_prefix_len() => write!(f, "{}", net.addr()),
            Member::Net(net) => write!(f, "{net}"),
            Member::IpPort(ip, proto, port) => write!(f, "{ip},{proto}:{port}"),
        }
    }
}

/// A set as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpSet {
    name: String,
    kind: SetType,
    family: Family,
    members: BTreeSet<Member>,
}

impl IpSet {
    /// A set; its name has 1 to 31 octets without white space.
    pub fn new(
        name: impl Into<String>,
        kind: SetType,
        family: Family,
        members: impl IntoIterator<Item = impl Into<Member>>,
    ) -> Result<Self> {
        let name = name.into();
        if name.is_empty()
            || name.len() > MAX_NAME
            || name.contains(|c: char| c.is_whitespace() || c.is_control())
        {
            return Err(Error::Invalid {
                what: "ipset name",
                value: name,
                reason: "needs 1 to 31 octets without white space",
            });
        }
        let mut set = Self { name, kind, family, members: BTreeSet::new() };
        for member in members {
            set.insert(member.into())?;
        }
        Ok(set)
    }

    /// Adds a member, which has to be of the set's family and type.
    pub fn insert(&mut self, member: Member) -> Result<()> {
        if member.family() != self.family || !member.fits(self.kind) {
            return Err(Error::Invalid {
                what: "ipset member",
                value: format!("{} {member}", self.name),
                reason: "not of the set's family and type",
            });
        }
        match member {
            // hash:net has no room for a prefix of length zero; its two halves are the same.
            Member::Net(net) if net.prefix_len() == 0 => {
                let halves: [IpAddr; 2] = match net {
                    IpNet::V4(_) => [Ipv4Addr::UNSPECIFIED.into(), Ipv4Addr::new(128, 0, 0, 0).into()],
                    IpNet::V6(_) => {
                        [Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::new(0x8000, 0, 0, 0, 0, 0, 0, 0).into()]
                    }
                };
                self.members.extend(halves.iter().filter_map(|ip| IpNet::new(*ip, 1).ok()).map(Member::Net));
            }
            Member::Net(net) => {
                self.members.insert(Member::Net(net.trunc()));
            }
            other => {
                self.members.insert(other);
            }
        }
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn members(&self) -> &BTreeSet<Member> {
        &self.members
    }

    /// Room for twice the members, so that growing rarely means a new set.
    fn maxelem(&self) -> usize {
        (self.members.len() * 2).next_power_of_two().max(DEFAULT_MAXELEM)
    }

    fn write_create(&self, name: &str, out: &mut String) {
        let family = match self.family {
            Family::V4 => "inet",
            Family::V6 => "inet6",
        };
        let _ = writeln!(
            out,
            "create {name} {} family {family} hashsize 1024 maxelem {}",
            self.kind.name(),
            self.maxelem()
        );
    }
}

/// A set as `ipset save` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct SavedSet {
    /// Type, e.g. `hash:net`.
    pub kind: String,
    /// Family of the members; `None` if the type has none.
    pub family: Option<Family>,
    /// Limit of members.
    pub maxelem: usize,
    /// Members as text.
    pub members: BTreeSet<String>,
}

impl SavedSet {
    fn is_like(&self, set: &IpSet) -> bool {
        self.kind == set.kind.name() && self.family == Some(set.family)
    }
}

/// Reads the output of `ipset save`.
pub fn parse_save(text: &str) -> Result<BTreeMap<String, SavedSet>> {
    let mut sets: BTreeMap<String, SavedSet> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let bad = |reason: &str| Error::Parse {
            what: "ipset save".to_owned(),
            line: line.to_owned(),
            reason: reason.to_owned(),
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["create", name, kind, options @ ..] => {
                let option = |key: &str| {
                    options.iter().position(|o| *o == key).and_then(|at| options.get(at + 1).copied())
                };
                let family = match option("family") {
                    Some("inet") => Some(Family::V4),
                    Some("inet6") => Some(Family::V6),
                    _ => None,
                };
                let maxelem = option("maxelem").and_then(|n| n.parse().ok()).unwrap_or(DEFAULT_MAXELEM);
                let set = SavedSet { kind: (*kind).to_owned(), family, maxelem, members: BTreeSet::new() };
                sets.insert((*name).to_owned(), set);
            }
            ["add", name, member, ..] => {
                let set = sets.get_mut(*name).ok_or_else(|| bad("no such set before"))?;
                set.members.insert((*member).to_owned());
            }
            _ => return Err(bad("neither create nor add")),
        }
    }
    Ok(sets)
}

/// Input for `ipset restore -exist` that makes the desired sets from the existing ones; empty if they are.
/// Other sets are not touched.
///
/// A set that became too small is swapped for a larger one while rules use it. One of another type or family
/// is destroyed first, which the kernel refuses while rules use it.
pub fn diff_sets(existing: &BTreeMap<String, SavedSet>, desired: &[IpSet]) -> String {
    let mut out = String::new();
    for set in desired {
        match existing.get(&set.name) {
            Some(have) if have.is_like(set) && have.maxelem >= set.members.len() => {
                write_members(set, have, &mut out);
            }
            Some(have) if have.is_like(set) => {
                let spare = spare_name(&set.name, existing, desired);
                set.write_create(&spare, &mut out);
                for member in &set.members {
                    let _ = writeln!(out, "add {spare} {member}");
                }
                let _ = writeln!(out, "swap {spare} {}\ndestroy {spare}", set.name);
            }
            other => {
                if other.is_some() {
                    let _ = writeln!(out, "destroy {}", set.name);
                }
                set.write_create(&set.name, &mut out);
                write_members(set, &SavedSet::default(), &mut out);
            }
        }
    }
    out
}

/// Names of those of `desired` that the input of [`diff_sets`] changes.
pub fn changed<'a>(desired: &'a [IpSet], input: &str) -> Vec<&'a str> {
    // A set that is swapped for a larger one has the second place.
    let words: BTreeSet<&str> = input.lines().flat_map(|line| line.split(' ').skip(1).take(2)).collect();
    desired.iter().map(IpSet::name).filter(|name| words.contains(name)).collect()
}

/// Removals come first, so that a set near its limit has room.
fn write_members(set: &IpSet, have: &SavedSet, out: &mut String) {
    let mut known = BTreeSet::new();
    for text in &have.members {
        match Member::parse(text).filter(|member| set.members.contains(member)) {
            Some(member) => {
                known.insert(member);
            }
            None => {
                let _ = writeln!(out, "del {} {text}", set.name);
            }
        }
    }
    for member in set.members.difference(&known) {
        let _ = writeln!(out, "add {} {member}", set.name);
    }
}

fn spare_name(name: &str, existing: &BTreeMap<String, SavedSet>, desired: &[IpSet]) -> String {
    let stem: String = name.chars().take(MAX_NAME - 7).filter(char::is_ascii).collect();
    (0..)
        .map(|n: u32| format!("{stem}-t{n}"))
        .find(|spare| !existing.contains_key(spare) && desired.iter().all(|set| set.name != *spare))
        .expect("there must be a free name among unlimited ones")
}

/// The ipsets of one namespace.
#[derive(Clone, Debug)]
pub struct Ipsets {
    netns: Netns,
}

impl Ipsets {
    /// The sets of a namespace.
    pub fn new(netns: Netns) -> Self {
        Self { netns }
    }

    /// Reads all sets.
    pub async fn save(&self) -> Result<BTreeMap<String, SavedSet>> {
        parse_save(&process::run(&self.netns, "ipset", &["save"], None).await?)
    }

    /// Makes the desired sets; other sets are not touched. Returns the input given to `ipset restore`, empty
    /// if nothing had to change. To be done before rules are applied that use a new set.
    pub async fn apply(&self, desired: &[IpSet]) -> Result<String> {
        let text = diff_sets(&self.save().await?, desired);
        if !text.is_empty() {
            process::run(&self.netns, "ipset", &["restore", "-exist"], Some(text.clone()))
                .await
                .map_err(|e| process::show_line(e, &text))?;
        }
        Ok(text)
    }

    /// Destroys the sets that `owned` claims. Goes on after a failure (a set that a rule still uses). Returns
    /// the names of those destroyed. To be done after rules that used them are gone.
    pub async fn destroy(&self, owned: impl Fn(&str) -> bool) -> Result<Vec<String>, NetcfgErrors> {
        let mut errors = NetcfgErrors::new();
        let mut destroyed = Vec::new();
        for name in self.save().await?.into_keys().filter(|name| owned(name)) {
            if errors.check(process::run(&self.netns, "ipset", &["destroy", &name], None).await).is_some() {
                destroyed.push(name);
            }
        }
        errors.finish(destroyed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(name: &str, members: &[&str]) -> IpSet {
        let members = members.iter().map(|m| Member::parse(m).unwrap());
        IpSet::new(name, SetType::HashNet, Family::V4, members).unwrap()
    }

    #[test]
    fn text() {
        let mut existing = parse_save(
            "create ANTREA-POD-IP hash:net family inet hashsize 1024 maxelem 65536 bucketsize 12 initval 0x1\n\
             add ANTREA-POD-IP 10.10.0.0/24\nadd ANTREA-POD-IP 10.10.9.0/24\nadd ANTREA-POD-IP 192.0.2.1\n\
             create SMALL hash:net family inet hashsize 64 maxelem 1\nadd SMALL 10.0.0.1\n\
             create KUBE hash:ip,port family inet hashsize 1024 maxelem 65536 timeout 5\n\
             add KUBE 10.0.0.1,tcp:80 timeout 3\n\
             create OTHER bitmap:port range 0-1024\n",
        )
        .unwrap();
        let ports = IpSet::new(
            "ANTREA-NODEPORT-IP6",
            SetType::HashIpPort,
            Family::V6,
            [Member::IpPort("fd00::1".parse().unwrap(), Proto::TCP, 30080)],
        )
        .unwrap();
        let wrong_type =
            IpSet::new("OTHER", SetType::HashIp, Family::V4, [IpAddr::from([10, 0, 0, 1])]).unwrap();
        let desired = [
            set("ANTREA-POD-IP", &["10.10.0.0/24", "10.10.1.5/24", "192.0.2.1/32"]),
            set("SMALL", &["0.0.0.0/0"]),
            ports,
            wrong_type,
        ];
        let input = diff_sets(&existing, &desired);
        insta::assert_snapshot!("ipset_restore", input);
        assert_eq!(changed(&desired, &input), ["ANTREA-POD-IP", "SMALL", "ANTREA-NODEPORT-IP6", "OTHER"]);
        assert_eq!(changed(&desired, "swap SMALL-t0 SMALL\ndestroy SMALL-t0\n"), ["SMALL"]);
        assert_eq!(changed(&desired, ""), Vec::<&str>::new());
        existing.retain(|name, _| name == "ANTREA-POD-IP");
        assert_eq!(
            diff_sets(&existing, &[set("ANTREA-POD-IP", &["10.10.0.0/24", "10.10.9.0/24", "192.0.2.1"])]),
            ""
        );
    }

    #[test]
    fn members_have_to_fit() {
        let mut ips = IpSet::new("A", SetType::HashIp, Family::V4, std::iter::empty::<Member>()).unwrap();
        assert!(ips.insert(Member::parse("10.0.0.0/24").unwrap()).is_err());
        assert!(ips.insert(Member::parse("fd00::1").unwrap()).is_err());
        assert!(ips.insert(Member::parse("10.0.0.1").unwrap()).is_ok());
        assert!(IpSet::new("a b", SetType::HashIp, Family::V4, std::iter::empty::<Member>()).is_err());
        assert!(
            IpSet::new("x".repeat(32), SetType::HashIp, Family::V4, std::iter::empty::<Member>()).is_err()
        );
        for bad in ["add NOWHERE 10.0.0.1", "create", "flush X"] {
            assert!(parse_save(bad).is_err(), "{bad}");
        }
    }

    fn member() -> impl Strategy<Value = Member> {
        (0u8..8, 0u8..=32)
            .prop_map(|(i, p)| Member::Net(IpNet::new(IpAddr::from([i << 5, 0, 0, 1]), p).unwrap()))
    }

    proptest! {
        #[test]
        fn applying_the_difference_gives_the_desired_set(
            have in prop::collection::vec(member(), 0..8),
            want in prop::collection::vec(member(), 0..8),
            small in any::<bool>(),
        ) {
            let have = IpSet::new("A", SetType::HashNet, Family::V4, have).unwrap();
            let want = IpSet::new("A", SetType::HashNet, Family::V4, want).unwrap();
            let mut text = String::new();
            have.write_create("A", &mut text);
            for m in &have.members {
                let _ = writeln!(text, "add A {m}");
            }
            let mut saved = parse_save(&text).unwrap();
            if small {
                saved.get_mut("A").unwrap().maxelem = have.members.len();
            }
            // A model of `ipset restore`.
            for line in diff_sets(&saved, std::slice::from_ref(&want)).lines() {
                let words: Vec<_> = line.split(' ').collect();
                match words.as_slice() {
                    ["create", ..] => saved.extend(parse_save(line).unwrap()),
                    ["add", name, m] => {
                        let set = saved.get_mut(*name).unwrap();
                        prop_assert!(set.members.insert((*m).to_owned()));
                        prop_assert!(set.members.len() <= set.maxelem);
                    }
                    ["del", name, m] => prop_assert!(saved.get_mut(*name).unwrap().members.remove(*m)),
                    ["swap", a, b] => {
                        let (x, y) = (saved.remove(*a).unwrap(), saved.remove(*b).unwrap());
                        saved.insert((*a).to_owned(), y);
                        saved.insert((*b).to_owned(), x);
                    }
                    ["destroy", name] => prop_assert!(saved.remove(*name).is_some()),
                    _ => prop_assert!(false, "{}", line),
                }
            }
            prop_assert_eq!(saved.len(), 1);
            let expected: BTreeSet<_> = want.members.iter().map(Member::to_string).collect();
            prop_assert_eq!(&saved["A"].members, &expected);
            prop_assert_eq!(diff_sets(&saved, &[want]), "");
        }
    }
}
