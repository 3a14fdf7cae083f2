//! What comes in: events, and lists that replace what is known when they are complete.

use std::collections::{BTreeMap, HashMap, HashSet};

use antrea_api::controlplane::{self, Damaged, Event, GroupEvent, GroupMember};
use antrea_api::k8s::DecodeError;

use super::{Cache, CacheError, Kind};
use crate::spec::{Member, MemberKey};

/// Objects of one kind that a node may have. Far above any real number; a controller that sends more is
/// broken, and the agent must not die with it.
const MAX_OBJECTS: usize = 200_000;

/// Members of one group.
const MAX_MEMBERS: usize = 1_000_000;

/// A list under way.
#[derive(Debug, Default)]
pub(super) struct Staged {
    complete: bool,
    policies: HashMap<String, controlplane::NetworkPolicy>,
    groups: HashMap<String, HashMap<MemberKey, Member>>,
    /// In the list, but to be left as they are known.
    kept: HashSet<String>,
    damaged: BTreeMap<String, DecodeError>,
}

impl Staged {
    fn has(&self, name: &str) -> bool {
        self.policies.contains_key(name) || self.groups.contains_key(name) || self.kept.contains(name)
    }
}

impl Cache {
    /// A list of `kind` begins. Until all lists that have begun are complete, what is known stays.
    pub fn begin(&mut self, kind: Kind) {
        self.staged.insert(kind, Staged::default());
    }

    /// The session ended: lists under way are worth nothing.
    pub fn abandon(&mut self) {
        self.staged.clear();
    }

    /// Puts in what was on disk. A list that is under way comes later and replaces it.
    pub fn load(&mut self, events: Vec<(Kind, Event)>) {
        let staged = std::mem::take(&mut self.staged);
        for (kind, event) in events {
            if let Err(error) = self.apply(kind, event) {
                tracing::warn!(%error, "skipping");
            }
        }
        self.staged = staged;
        // It comes from the disk.
        self.unsaved.clear();
    }

    /// Takes an event of the watch on `kind`.
    ///
    /// # Errors
    /// It does not fit. What is known is then as before, but of no use for further events.
    pub fn apply(&mut self, kind: Kind, event: Event) -> Result<(), CacheError> {
        if let Some(name) = event.settles() {
            match self.staged.get_mut(&kind) {
                Some(staged) => {
                    staged.damaged.remove(name);
                    staged.kept.remove(name);
                }
                None => {
                    self.damaged.remove(&(kind, name.to_owned()));
                }
            }
        }
        match event {
            Event::Damaged(damaged) => self.take_damaged(kind, damaged)?,
            Event::Policy(policy) => {
                let staged = self.staged.get_mut(&Kind::Policies);
                let count = staged.as_ref().map_or(self.policies.len(), |staged| staged.policies.len());
                if count >= MAX_OBJECTS {
                    return Err(CacheError::TooMany { kind: Kind::Policies, limit: MAX_OBJECTS });
                }
                match staged {
                    Some(staged) => {
                        staged.policies.insert(policy.metadata.name.clone(), policy);
                    }
                    None => self.put_policy(&policy),
                }
            }
            Event::PolicyDeleted(name) => match self.staged.get_mut(&Kind::Policies) {
                Some(staged) => {
                    staged.policies.remove(&name);
                }
                None => self.delete_policy(&name),
            },
            Event::AddressGroup(GroupEvent::Added(group)) => {
                self.added(Kind::AddressGroups, group.metadata.name, &group.group_members)?;
            }
            Event::AppliedToGroup(GroupEvent::Added(group)) => {
                self.added(Kind::AppliedToGroups, group.metadata.name, &group.group_members)?;
            }
            Event::AddressGroup(GroupEvent::Patched(patch)) => self.patched(
                Kind::AddressGroups,
                &patch.metadata.name,
                &patch.removed_group_members,
                &patch.added_group_members,
            )?,
            Event::AppliedToGroup(GroupEvent::Patched(patch)) => self.patched(
                Kind::AppliedToGroups,
                &patch.metadata.name,
                &patch.removed_group_members,
                &patch.added_group_members,
            )?,
            Event::AddressGroup(GroupEvent::Deleted(name)) => self.deleted(Kind::AddressGroups, &name),
            Event::AppliedToGroup(GroupEvent::Deleted(name)) => self.deleted(Kind::AppliedToGroups, &name),
            Event::Bookmark => {
                if let Some(staged) = self.staged.get_mut(&kind) {
                    staged.complete = true;
                }
                if !self.staged.is_empty() && self.staged.values().all(|staged| staged.complete) {
                    self.commit();
                }
            }
            Event::Error(_) => {}
        }
        Ok(())
    }

    /// What is known of the object stays. If nothing is, it is taken for what is left of it.
    fn take_damaged(&mut self, kind: Kind, damaged: Damaged) -> Result<(), CacheError> {
        let Damaged { name, error, rest } = damaged;
        let Some(rest) = rest else { return Err(CacheError::Damaged { kind, name, error }) };
        tracing::error!(resource = kind.resource(), name, %error, "does not decode; what is known of it stays");
        let known = match kind {
            Kind::Policies => self.policies.contains_key(&*name),
            _ => self.groups(kind).is_there(&name),
        };
        if !known {
            self.apply(kind, *rest)?;
            if kind == Kind::AddressGroups && !self.staged.contains_key(&kind) {
                self.partial.insert(name.clone());
            }
        }
        match self.staged.get_mut(&kind) {
            Some(staged) => {
                if known {
                    staged.kept.insert(name.clone());
                }
                staged.damaged.insert(name, error);
            }
            None => {
                self.damaged.insert((kind, name), error);
            }
        }
        Ok(())
    }

    /// Makes the complete lists all there is, of their kinds. New groups come first and stale ones go last,
    /// so that no policy is without its groups on the way.
    fn commit(&mut self) {
        self.commits += 1;
        let mut lists = std::mem::take(&mut self.staged);
        for (kind, staged) in &mut lists {
            self.damaged.retain(|(of, _), _| of != kind);
            let damaged = std::mem::take(&mut staged.damaged);
            self.damaged.extend(damaged.into_iter().map(|(name, error)| ((*kind, name), error)));
        }
        let (mut stale_groups, mut partial) = (Vec::new(), Vec::new());
        for kind in [Kind::AppliedToGroups, Kind::AddressGroups] {
            let Some(staged) = lists.remove(&kind) else { continue };
            let stale = self.groups(kind).by_name.keys().filter(|name| !staged.has(name));
            stale_groups.extend(stale.cloned().map(|name| (kind, name)));
            for (name, members) in staged.groups {
                let key = (kind, name);
                self.put_group(kind, &key.1, members);
                if kind == Kind::AddressGroups && self.damaged.contains_key(&key) {
                    partial.push(key.1);
                }
            }
        }
        self.partial.extend(partial);
        if let Some(staged) = lists.remove(&Kind::Policies) {
            let stale: Vec<_> = self.policies.keys().filter(|name| !staged.has(name)).cloned().collect();
            for policy in staged.policies.values() {
                self.put_policy(policy);
            }
            for name in stale {
                self.delete_policy(&name);
            }
        }
        for (kind, name) in stale_groups {
            self.delete_group(kind, &name);
        }
    }

    fn added(&mut self, kind: Kind, name: String, members: &[GroupMember]) -> Result<(), CacheError> {
        let staged = self.staged.get(&kind).map(|staged| staged.groups.len());
        if staged.unwrap_or(self.groups(kind).by_name.len()) >= MAX_OBJECTS {
            return Err(CacheError::TooMany { kind, limit: MAX_OBJECTS });
        }
        if members.len() > MAX_MEMBERS {
            return Err(CacheError::TooMany { kind, limit: MAX_MEMBERS });
        }
        let members = members.iter().map(Member::read).collect();
        match self.staged.get_mut(&kind) {
            Some(staged) => {
                staged.groups.insert(name, members);
            }
            None => self.put_group(kind, &name, members),
        }
        Ok(())
    }

    fn patched(
        &mut self,
        kind: Kind,
        name: &str,
        removed: &[GroupMember],
        added: &[GroupMember],
    ) -> Result<(), CacheError> {
        let unknown = || CacheError::UnknownGroup { kind, name: name.to_owned() };
        if let Some(staged) = self.staged.get_mut(&kind) {
            let members = staged.groups.get_mut(name).ok_or_else(unknown)?;
            for member in removed {
                members.remove(&Member::read(member).0);
            }
            members.extend(added.iter().map(Member::read));
            return Ok(());
        }
        let groups = if kind == Kind::AppliedToGroups { &mut self.applied_to } else { &mut self.address };
        let (name, mut group) = groups.by_name.remove_entry(name).ok_or_else(unknown)?;
        if group.doomed || group.members.len() + added.len() > MAX_MEMBERS {
            let doomed = group.doomed;
            groups.by_name.insert(name.clone(), group);
            return Err(if doomed { unknown() } else { CacheError::TooMany { kind, limit: MAX_MEMBERS } });
        }
        let (mut left, mut joined, mut touched) = (Vec::new(), Vec::new(), HashSet::new());
        for member in removed {
            let (key, _) = Member::read(member);
            if group.remove(&key, &mut touched).is_some() {
                left.push(key);
            }
        }
        for member in added {
            let (key, member) = Member::read(member);
            group.insert(key.clone(), member, &mut touched);
            joined.push(key);
        }
        groups.by_name.insert(name.clone(), group);
        self.group_changed(kind, &name, &left, &joined, touched);
        Ok(())
    }

    fn deleted(&mut self, kind: Kind, name: &str) {
        match self.staged.get_mut(&kind) {
            Some(staged) => {
                staged.groups.remove(name);
            }
            None => self.delete_group(kind, name),
        }
    }
}
