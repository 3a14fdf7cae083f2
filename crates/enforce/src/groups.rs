//! Groups: members, their addresses, and which policies name them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::spec::{Member, MemberKey};

/// An AddressGroup or AppliedToGroup as the controller told it last.
#[derive(Debug, Default)]
pub struct Group {
    pub(super) members: HashMap<MemberKey, Member>,
    /// Addresses, with the number of members that have each: pods on the host's network share theirs.
    pub(super) ips: HashMap<IpAddr, u32>,
    /// The controller took it back, but a policy in force names it.
    pub(super) doomed: bool,
}

impl Group {
    /// Who is in it, those on other nodes included.
    pub fn members(&self) -> &HashMap<MemberKey, Member> {
        &self.members
    }

    /// Its addresses, each once.
    pub fn ips(&self) -> impl Iterator<Item = &IpAddr> {
        self.ips.keys()
    }

    /// Whether its members are no Pods: what the bridge never sees of what is sent to them may be the host's to judge.
    pub fn is_of_others(&self) -> bool {
        self.members.keys().next().is_some_and(|member| !matches!(member, MemberKey::Pod(_)))
    }

    /// Whether a member has this address.
    pub fn contains(&self, ip: &IpAddr) -> bool {
        self.ips.contains_key(ip)
    }

    /// Takes a member out; addresses that nobody has then are put into `touched`.
    pub(super) fn remove(&mut self, key: &MemberKey, touched: &mut HashSet<IpAddr>) -> Option<Member> {
        let old = self.members.remove(key)?;
        for ip in &old.ips {
            if let Some(count) = self.ips.get_mut(ip) {
                *count -= 1;
                if *count == 0 {
                    self.ips.remove(ip);
                    touched.insert(*ip);
                }
            }
        }
        Some(old)
    }

    /// Puts a member in; addresses that nobody had are put into `touched`.
    pub(super) fn insert(
        &mut self,
        key: MemberKey,
        member: Member,
        touched: &mut HashSet<IpAddr>,
    ) -> Option<Member> {
        let old = self.remove(&key, touched);
        for ip in &member.ips {
            let count = self.ips.entry(*ip).or_insert(0);
            *count += 1;
            if *count == 1 {
                touched.insert(*ip);
            }
        }
        self.members.insert(key, member);
        old
    }
}

/// The groups of one kind.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) by_name: HashMap<Arc<str>, Group>,
    pub(super) users: Users,
}

/// Policies that name something, in force or held.
#[derive(Debug, Default)]
pub(super) struct Users(HashMap<Arc<str>, BTreeSet<Arc<str>>>);

impl Groups {
    /// Whether the controller wants the group here.
    pub(super) fn is_there(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|group| !group.doomed)
    }

    /// Policies that name a group.
    pub(super) fn users(&self, name: &str) -> impl Iterator<Item = &Arc<str>> {
        self.users.of(name)
    }
}

impl Users {
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Policies that name this.
    pub(super) fn of(&self, name: &str) -> impl Iterator<Item = &Arc<str>> {
        self.0.get(name).into_iter().flatten()
    }

    /// Policies that name anything, with repetitions.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<str>> {
        self.0.values().flatten()
    }

    /// A policy names `after` now, and `before` until now.
    pub(super) fn index(
        &mut self,
        policy: &Arc<str>,
        before: &BTreeSet<Arc<str>>,
        after: &BTreeSet<Arc<str>>,
    ) {
        for name in before.difference(after) {
            if let Some(users) = self.0.get_mut(name) {
                users.remove(policy);
                if users.is_empty() {
                    self.0.remove(name);
                }
            }
        }
        for name in after.difference(before) {
            self.0.entry(name.clone()).or_default().insert(policy.clone());
        }
    }
}
