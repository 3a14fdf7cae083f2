//! What of the cache is to be on disk.

use std::sync::Arc;

use antrea_api::controlplane;
use antrea_api::k8s::{Object, ObjectMeta};

use super::{Cache, Kind};

/// An object's new form for the disk.
#[derive(Debug, PartialEq, Eq)]
pub struct Save {
    pub kind: Kind,
    pub name: Arc<str>,
    /// Its envelope; none: it is gone.
    pub bytes: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(super) enum Unsaved {
    Policy(Vec<u8>),
    Group,
    Gone,
}

impl Cache {
    /// Whether something is not on disk yet.
    pub fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }

    /// What is not on disk yet; it counts as saved from now on.
    pub fn take_unsaved(&mut self) -> Vec<Save> {
        let unsaved = std::mem::take(&mut self.unsaved);
        unsaved
            .into_iter()
            .map(|((kind, name), unsaved)| {
                let bytes = match unsaved {
                    Unsaved::Policy(bytes) => Some(bytes),
                    Unsaved::Gone => None,
                    Unsaved::Group => self.encode_group(kind, &name),
                };
                Save { kind, name, bytes }
            })
            .collect()
    }

    /// What [`Self::take_unsaved`] gave could not be saved.
    pub fn put_back(&mut self, saves: Vec<Save>) {
        for Save { kind, name, bytes } in saves {
            self.unsaved.entry((kind, name)).or_insert(match (kind, bytes) {
                (_, None) => Unsaved::Gone,
                (Kind::Policies, Some(bytes)) => Unsaved::Policy(bytes),
                _ => Unsaved::Group,
            });
        }
    }

    fn encode_group(&mut self, kind: Kind, name: &Arc<str>) -> Option<Vec<u8>> {
        let group = self.groups(kind).by_name.get(name).filter(|group| !group.doomed)?;
        let metadata = ObjectMeta::named(&**name);
        let group_members = group.members.iter().map(|(key, member)| member.write(key)).collect();
        Some(match kind {
            Kind::AppliedToGroups => controlplane::AppliedToGroup { metadata, group_members }.seal(),
            _ => controlplane::AddressGroup { metadata, group_members }.seal(),
        })
    }
}
