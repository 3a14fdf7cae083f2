//! Messages that change flows, groups and meters.

use crate::{Flow, Group, Message, PortNo};

/// `OFPT_FLOW_MOD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowMod {
    /// What to do.
    pub command: FlowCommand,
    /// The flow. For modify and delete without "strict" the priority does not count and the match is a
    /// filter; table 255 deletes in all tables.
    pub flow: Flow,
    /// Modify and delete touch only flows whose cookie has these bits of [`Flow::cookie`].
    pub cookie_mask: u64,
    /// Delete only flows that output here.
    pub out_port: Option<PortNo>,
    /// Delete only flows that use this group.
    pub out_group: Option<u32>,
    /// Apply to this buffered packet.
    pub buffer_id: Option<u32>,
}

/// Command of a flow-mod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowCommand {
    /// Adds or replaces.
    Add,
    /// Changes actions of all matching flows.
    Modify,
    /// Changes actions of the one flow with this key.
    ModifyStrict,
    /// Deletes all matching flows.
    Delete,
    /// Deletes the one flow with this key.
    DeleteStrict,
}

impl FlowMod {
    /// A command on a flow.
    pub fn new(command: FlowCommand, flow: Flow) -> FlowMod {
        FlowMod { command, flow, cookie_mask: 0, out_port: None, out_group: None, buffer_id: None }
    }

    /// Adds or replaces a flow.
    pub fn add(flow: Flow) -> FlowMod {
        Self::new(FlowCommand::Add, flow)
    }

    /// Deletes the flow with the key of this one.
    pub fn delete_strict(flow: &Flow) -> FlowMod {
        let bare = Flow::new(flow.table, flow.priority).matching(flow.matches.clone());
        Self::new(FlowCommand::DeleteStrict, bare)
    }

    /// Deletes all flows whose cookie has the bits of `mask` as in `cookie`.
    pub fn delete_by_cookie(cookie: u64, mask: u64) -> FlowMod {
        let all = Flow::new(255, 0).cookie(cookie);
        FlowMod { cookie_mask: mask, ..Self::new(FlowCommand::Delete, all) }
    }
}

impl From<FlowMod> for Message {
    fn from(m: FlowMod) -> Self {
        Message::FlowMod(m)
    }
}

/// `OFPT_GROUP_MOD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMod {
    /// What to do.
    pub command: GroupCommand,
    /// The group. For a delete only its id counts; for insert and remove of buckets the type does not.
    pub group: Group,
}

/// Command of a group-mod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupCommand {
    /// Adds; fails if there is one.
    Add,
    /// Replaces; fails if there is none.
    Modify,
    /// Replaces or adds (an extension of Open vSwitch).
    AddOrModify,
    /// Deletes, with the flows that use it; no error if there is none.
    Delete,
    /// Inserts buckets at a place.
    InsertBucket(BucketPos),
    RemoveBucket(BucketPos),
}

/// Which bucket a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BucketPos {
    /// Insert before the first; remove the first.
    First,
    /// Insert after the last; remove the last.
    Last,
    /// Remove all.
    All,
    /// Insert after this one; remove this one.
    Id(u32),
}

impl GroupMod {
    /// Every group, for a delete.
    pub const ALL: u32 = 0xffff_fffc;

    /// Adds or replaces a group.
    pub fn set(group: Group) -> GroupMod {
        GroupMod { command: GroupCommand::AddOrModify, group }
    }

    /// Deletes a group.
    pub fn delete(id: u32) -> GroupMod {
        GroupMod { command: GroupCommand::Delete, group: Group::new(id, crate::GroupType::All) }
    }

    /// Removes a bucket.
    pub fn remove_bucket(id: u32, bucket: u32) -> GroupMod {
        GroupMod {
            command: GroupCommand::RemoveBucket(BucketPos::Id(bucket)),
            group: Group::new(id, crate::GroupType::All),
        }
    }
}

impl From<GroupMod> for Message {
    fn from(m: GroupMod) -> Self {
        Message::GroupMod(m)
    }
}

/// Command of a meter-mod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MeterCommand {
    Add,
    /// Replaces.
    Modify,
    Delete,
}
