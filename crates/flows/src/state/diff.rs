use std::cmp::Reverse;

use openflow::{Flow, FlowCommand, FlowKey, FlowMod, GroupMod, Message, Meter, MeterCommand, MeterFlags};

use super::{Entry, Key};

/// The way from one state to another. Every entry is in one of the lists at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    pub adds: Vec<Entry>,
    /// Entries that exist and shall be otherwise. Adding a flow whose match exists replaces it and keeps its
    /// counters (unless it has `reset_counts`), so flows are sent like additions; that also holds when the switch
    /// has lost the flow, where `modify_strict` would do nothing. Groups likewise.
    pub mods: Vec<Entry>,
    /// Entries to delete; flows with their exact priority and match (`delete_strict`).
    pub deletes: Vec<Key>,
}

/// The messages of a difference, to be sent in this order. Open vSwitch takes no meters in bundles.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Meters to set, each by itself.
    pub before: Vec<Message>,
    /// What goes together: groups, flows, flows to delete, groups to delete.
    pub bundle: Vec<Message>,
    /// Meters to delete, each by itself.
    pub after: Vec<Message>,
}

impl Diff {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.adds.is_empty() && self.mods.is_empty() && self.deletes.is_empty()
    }

    /// Number of entries touched.
    pub fn len(&self) -> usize {
        self.adds.len() + self.mods.len() + self.deletes.len()
    }

    /// The entries that are there afterwards.
    pub fn puts(&self) -> impl Iterator<Item = &Entry> {
        self.adds.iter().chain(&self.mods)
    }

    /// The messages that carry the difference out, in an order that is safe even if each took effect alone: what
    /// flows name comes before them and goes after them; flows of later tables come before those of earlier ones,
    /// which may send packets there, and go after them.
    pub fn steps(self) -> Steps {
        let Self { adds, mods, deletes } = self;
        let mut steps = Steps::default();
        let (mut groups, mut flows) = (Vec::new(), Vec::new());
        let adds = adds.into_iter().map(|entry| (entry, MeterCommand::Add));
        for (entry, command) in adds.chain(mods.into_iter().map(|entry| (entry, MeterCommand::Modify))) {
            match entry {
                Entry::Meter(meter) => steps.before.push(Message::MeterMod { command, meter }),
                Entry::Group(group) => groups.push(Message::from(GroupMod::set(group))),
                Entry::Flow(flow) => flows.push(flow),
            }
        }
        let (mut gone_flows, mut gone_groups) = (Vec::new(), Vec::new());
        for key in deletes {
            match key {
                Key::Meter(id) => steps.after.push(delete_meter(id)),
                Key::Group(id) => gone_groups.push(Message::from(GroupMod::delete(id))),
                Key::Flow(key) => gone_flows.push(key),
            }
        }
        flows.sort_by_key(|flow: &Flow| Reverse(flow.table));
        gone_flows.sort_by_key(|key: &FlowKey| key.table);
        let gone_flows = gone_flows.into_iter().map(|key| {
            let flow = Flow::new(key.table, key.priority).matching(key.matches);
            Message::from(FlowMod::new(FlowCommand::DeleteStrict, flow))
        });
        steps.bundle = groups;
        steps.bundle.extend(flows.into_iter().map(|flow| Message::from(FlowMod::add(flow))));
        steps.bundle.extend(gone_flows);
        steps.bundle.extend(gone_groups);
        steps
    }
}

/// Succeeds also where there is no such meter.
pub(super) fn delete_meter(id: u32) -> Message {
    let meter = Meter { id, flags: MeterFlags::default(), bands: Vec::new() };
    Message::MeterMod { command: MeterCommand::Delete, meter }
}
