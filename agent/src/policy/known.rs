//! What the controller said last, for whoever asks the agent: its record on disk, which follows what is said at once.

use std::path::Path;

use antrea_api::controlplane::{AddressGroup, AppliedToGroup, Event, GroupEvent, NetworkPolicy};
use tokio::task::JoinError;

use super::files::Files;

/// What the controller said last, on disk.
#[derive(Clone, Debug)]
pub struct Record(Files);

/// What it holds, each kind in the order of names.
#[derive(Debug, Default)]
pub struct Objects {
    /// Computed policies.
    pub policies: Vec<NetworkPolicy>,
    /// Computed groups of peers.
    pub address_groups: Vec<AddressGroup>,
    /// Computed groups that policies apply to.
    pub applied_to_groups: Vec<AppliedToGroup>,
}

impl Record {
    /// In this folder.
    pub fn at(folder: &Path) -> Self {
        Self(Files::new(folder))
    }

    /// Reads it. What is unreadable is left out; the log says why.
    ///
    /// # Errors
    /// The runtime ends.
    pub async fn objects(&self) -> Result<Objects, JoinError> {
        let files = self.0.clone();
        tokio::task::spawn_blocking(move || {
            let mut objects = Objects::default();
            for (_, event) in files.read().0 {
                match event {
                    Event::Policy(policy) => objects.policies.push(policy),
                    Event::AddressGroup(GroupEvent::Added(group)) => objects.address_groups.push(group),
                    Event::AppliedToGroup(GroupEvent::Added(group)) => objects.applied_to_groups.push(group),
                    _ => {}
                }
            }
            objects
        })
        .await
    }
}
