//! Policy routing rules (`ip rule`), owned by protocol number.

use std::{collections::BTreeSet, fmt};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};
use nix::errno::Errno;

use super::route::ANTREA_PROTOCOL;
use crate::{Family, NetcfgErrors, Netlink, Result};

/// A rule that sends lookups to a table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoutingRule {
    /// Address family.
    pub family: Family,
    /// Place in the list, lower first.
    pub priority: u32,
    /// Source prefix.
    pub src: Option<IpNet>,
    /// Destination prefix.
    pub dst: Option<IpNet>,
    /// Incoming link's name.
    pub in_iface: Option<String>,
    /// Outgoing link's name, for sockets bound to it.
    pub out_iface: Option<String>,
    /// Packet mark and the mask it is compared under.
    pub mark: Option<(u32, u32)>,
    /// The table to look in.
    pub table: u32,
    /// Protocol number of the owner.
    pub proto: u8,
}

impl RoutingRule {
    /// A rule for every packet, owned by this project.
    pub fn new(family: Family, priority: u32, table: u32) -> Self {
        Self {
            family,
            priority,
            src: None,
            dst: None,
            in_iface: None,
            out_iface: None,
            mark: None,
            table,
            proto: ANTREA_PROTOCOL,
        }
    }

    /// Restricts to packets with this mark under this mask.
    pub fn mark(mut self, value: u32, mask: u32) -> Self {
        self.mark = Some((value, mask));
        self
    }

    /// Restricts to a source prefix.
    pub fn src(mut self, src: IpNet) -> Self {
        self.src = Some(src);
        self
    }

    /// Restricts to a destination prefix.
    pub fn dst(mut self, dst: IpNet) -> Self {
        self.dst = Some(dst);
        self
    }

    /// Restricts to packets that came in by a link.
    pub fn in_iface(mut self, name: impl Into<String>) -> Self {
        self.in_iface = Some(name.into());
        self
    }
}

impl fmt::Display for RoutingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: from ", self.priority)?;
        match self.src {
            Some(src) => write!(f, "{src}")?,
            None => f.write_str("all")?,
        }
        if let Some(dst) = self.dst {
            write!(f, " to {dst}")?;
        }
        if let Some((value, mask)) = self.mark {
            write!(f, " fwmark {value:#x}/{mask:#x}")?;
        }
        if let Some(name) = &self.in_iface {
            write!(f, " iif {name}")?;
        }
        if let Some(name) = &self.out_iface {
            write!(f, " oif {name}")?;
        }
        write!(f, " lookup {} proto {} ({})", self.table, self.proto, self.family)
    }
}

/// What has to change for the owned rules to be the desired ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoutingRuleDiff {
    pub add: Vec<RoutingRule>,
    /// To be removed.
    pub remove: Vec<RoutingRule>,
}

impl RoutingRuleDiff {
    /// Whether nothing has to change.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// Compares the owned rules that exist with the desired ones.
pub fn diff_rules(existing: &[RoutingRule], desired: &[RoutingRule]) -> RoutingRuleDiff {
    let want: BTreeSet<_> = desired.iter().collect();
    let mut have = BTreeSet::new();
    let mut remove = Vec::new();
    for rule in existing {
        // The kernel lets the same rule be there twice when it was added without NLM_F_EXCL.
        if !want.contains(rule) || !have.insert(rule) {
            remove.push(rule.clone());
        }
    }
    RoutingRuleDiff { add: want.difference(&have).map(|rule| (*rule).clone()).collect(), remove }
}

impl Netlink {
    /// The rules with this protocol number, both families. Rules that do other than look up a table are not
    /// listed.
    pub async fn rules(&self, proto: u8) -> Result<Vec<RoutingRule>> {
        let mut rules = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut message = RuleMessage::default();
            message.header.family = address_family(family);
            let listed = self.dump(RouteNetlinkMessage::GetRule(message), || format!("list {family} rules"));
            if let Some(answers) = of_family(listed.await)? {
                rules.extend(answers.into_iter().filter_map(as_rule).filter(|rule| rule.proto == proto));
            }
        }
        Ok(rules)
    }

    /// Adds a rule; one that is there already is success.
    pub async fn add_rule(&self, rule: &RoutingRule) -> Result<()> {
        let message = RouteNetlinkMessage::NewRule(rule_message(rule));
        match self.request(message, NLM_F_CREATE | NLM_F_EXCL, || format!("add rule {rule}")).await {
            Err(e) if e.errno() == Some(Errno::EEXIST) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Removes a rule. Returns whether it was there.
    pub async fn remove_rule(&self, rule: &RoutingRule) -> Result<bool> {
        let message = RouteNetlinkMessage::DelRule(rule_message(rule));
        match self.request(message, 0, || format!("remove rule {rule}")).await {
            Ok(_) => Ok(true),
            Err(e) if e.is_not_found() => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Makes the rules with protocol number [`ANTREA_PROTOCOL`] the desired ones. Goes on after a failure.
    pub async fn apply_rules(&self, desired: &[RoutingRule]) -> Result<RoutingRuleDiff, NetcfgErrors> {
        let diff = diff_rules(&self.rules(ANTREA_PROTOCOL).await?, desired);
        let mut errors = NetcfgErrors::new();
        for rule in &diff.add {
            errors.check(self.add_rule(rule).await);
        }
        for rule in &diff.remove {
            errors.check(self.remove_rule(rule).await);
        }
        errors.finish(diff)
    }
}

/// A kernel that was started with `ipv6.disable=1` knows nothing of rules of that family (`fib_nl_dumprule`), which is
/// nothing to repair.
fn of_family<T>(listed: Result<T>) -> Result<Option<T>> {
    match listed {
        Err(error) if error.errno() == Some(Errno::EAFNOSUPPORT) => Ok(None),
        listed => listed.map(Some),
    }
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

fn rule_message(rule: &RoutingRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = address_family(rule.family);
    message.header.action = RuleAction::ToTable;
    // Tables above 255 do not fit the header; FRA_TABLE overrides it.
    message.header.table = u8::try_from(rule.table).unwrap_or(0);
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Table(rule.table));
    attributes.push(RuleAttribute::Priority(rule.priority));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::from(rule.proto)));
    if let Some(src) = rule.src {
        message.header.src_len = src.prefix_len();
        attributes.push(RuleAttribute::Source(src.network()));
    }
    if let Some(dst) = rule.dst {
        message.header.dst_len = dst.prefix_len();
        attributes.push(RuleAttribute::Destination(dst.network()));
    }
    if let Some((value, mask)) = rule.mark {
        attributes.push(RuleAttribute::FwMark(value));
        attributes.push(RuleAttribute::FwMask(mask));
    }
    if let Some(name) = &rule.in_iface {
        attributes.push(RuleAttribute::Iifname(name.clone()));
    }
    if let Some(name) = &rule.out_iface {
        attributes.push(RuleAttribute::Oifname(name.clone()));
    }
    message
}

fn as_rule(message: RouteNetlinkMessage) -> Option<RoutingRule> {
    match message {
        RouteNetlinkMessage::NewRule(message) => rule_of(&message),
        _ => None,
    }
}

fn rule_of(message: &RuleMessage) -> Option<RoutingRule> {
    let family = match message.header.family {
        AddressFamily::Inet => Family::V4,
        AddressFamily::Inet6 => Family::V6,
        _ => return None,
    };
    if message.header.action != RuleAction::ToTable {
        return None;
    }
    let mut rule = RoutingRule::new(family, 0, u32::from(message.header.table));
    rule.proto = 0;
    let mut mark = None;
    let mut mask = None;
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Protocol(proto) => rule.proto = (*proto).into(),
            RuleAttribute::Source(ip) => rule.src = IpNet::new(*ip, message.header.src_len).ok(),
            RuleAttribute::Destination(ip) => rule.dst = IpNet::new(*ip, message.header.dst_len).ok(),
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::Iifname(name) => rule.in_iface = Some(name.clone()),
            RuleAttribute::Oifname(name) => rule.out_iface = Some(name.clone()),
            _ => {}
        }
    }
    // A mark without a mask is compared as a whole.
    if mark.is_some() || mask.is_some() {
        rule.mark = Some((mark.unwrap_or(0), mask.unwrap_or(u32::MAX)));
    }
    Some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn difference_and_text() {
        let keep = RoutingRule::new(Family::V4, 100, 300).mark(0x10, 0xff);
        let add = RoutingRule::new(Family::V6, 100, 101).src("fd00::/64".parse().unwrap());
        let gone = RoutingRule::new(Family::V4, 99, 101);
        let have = [keep.clone(), keep.clone(), gone.clone()];
        let diff = diff_rules(&have, &[keep.clone(), add.clone()]);
        assert_eq!(diff, RoutingRuleDiff { add: vec![add], remove: vec![keep.clone(), gone] });
        assert_eq!(keep.to_string(), "100: from all fwmark 0x10/0xff lookup 300 proto 173 (IPv4)");
        assert_eq!(rule_of(&rule_message(&keep)), Some(keep));
    }

    #[test]
    fn a_family_that_the_kernel_does_not_have_has_no_rules() {
        let refused = |errno| Err::<(), _>(crate::Error::errno_of("list IPv6 rules".to_owned(), errno));
        assert_eq!(of_family(Ok(1)).unwrap(), Some(1));
        assert_eq!(of_family(refused(Errno::EAFNOSUPPORT)).unwrap(), None);
        assert_eq!(of_family(refused(Errno::EPERM)).unwrap_err().errno(), Some(Errno::EPERM));
    }
}
