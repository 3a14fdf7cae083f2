use std::{borrow::Borrow, fmt};

use openflow::{Action, Flow, FlowKey, Group, Message, Meter};

/// One thing that a bridge holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entry {
    Meter(Meter),
    /// A group. Its buckets may name meters, but no other group.
    Group(Group),
    Flow(Flow),
}

/// What makes two entries the same to the bridge.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    /// A meter's id.
    Meter(u32),
    /// A group's id.
    Group(u32),
    /// A flow's table, priority and match.
    Flow(FlowKey),
}

impl Entry {
    /// The identity of the entry.
    pub fn key(&self) -> Key {
        match self {
            Entry::Meter(meter) => Key::Meter(meter.id),
            Entry::Group(group) => Key::Group(group.id),
            Entry::Flow(flow) => Key::Flow(flow.key()),
        }
    }

    /// The groups and meters that have to be there before this entry.
    pub fn references(&self) -> Vec<Key> {
        let mut found = Vec::new();
        let mut see = |action: &Action| match action {
            Action::Group(id) => found.push(Key::Group(*id)),
            Action::Meter(id) => found.push(Key::Meter(*id)),
            Action::Controller(up) => found.extend(up.meter_id.map(Key::Meter)),
            _ => {}
        };
        match self {
            Entry::Meter(_) => {}
            Entry::Group(group) => {
                group.buckets.iter().for_each(|bucket| visit(bucket.actions.iter(), &mut see))
            }
            Entry::Flow(flow) => visit(flow.actions.iter(), &mut see),
        }
        found
    }
}

/// Shows each action, also those within others.
pub(super) fn visit<A: Borrow<Action>>(actions: impl IntoIterator<Item = A>, see: &mut impl FnMut(&Action)) {
    for action in actions {
        let action: &Action = action.borrow();
        see(action);
        match action {
            Action::Ct(ct) => visit(&ct.exec, see),
            Action::Clone(inner) | Action::WriteActions(inner) => visit(inner, see),
            _ => {}
        }
    }
}

impl From<Flow> for Entry {
    fn from(flow: Flow) -> Self {
        Entry::Flow(flow)
    }
}

impl From<Group> for Entry {
    fn from(group: Group) -> Self {
        Entry::Group(group)
    }
}

impl From<Meter> for Entry {
    fn from(meter: Meter) -> Self {
        Entry::Meter(meter)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Meter(meter) => write!(f, "{meter}"),
            Entry::Group(group) => write!(f, "{group}"),
            Entry::Flow(flow) => write!(f, "{flow}"),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Meter(id) => write!(f, "meter {id}"),
            Key::Group(id) => write!(f, "group {id}"),
            Key::Flow(key) => write!(f, "flow {key}"),
        }
    }
}

/// The entry that a message of [`super::Steps`] is about.
pub fn key_of(message: &Message) -> Option<Key> {
    match message {
        Message::FlowMod(change) => Some(Key::Flow(change.flow.key())),
        Message::GroupMod(change) => Some(Key::Group(change.group.id)),
        Message::MeterMod { meter, .. } => Some(Key::Meter(meter.id)),
        Message::BundleAdd { message, .. } => key_of(message),
        _ => None,
    }
}
