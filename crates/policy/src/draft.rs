//! Policies in the form that the index takes, whatever their kind: selectors where the internal policy will have
//! the names of groups.

use std::{fmt, sync::Arc};

use uuid::Uuid;

use crate::{
    labels::Selector,
    model::{Action, Direction, GroupName, IpBlock, PolicyReference, Service, ServiceName},
};

/// The namespace of the UUIDs of groups. It is Antrea's, so groups keep their names across a migration.
pub const GROUP_NAMESPACE: Uuid = Uuid::from_u128(0xe4f2_4a48_ca1f_4d5b_819c_ea76_32b2_2115);

/// In which namespaces a selector looks for Pods.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Scope {
    /// In this one.
    Namespace(Arc<str>),
    /// In those with matching labels. Namespaces the index has not been told of do not match.
    NamespaceSelector(Selector),
    /// In all of them.
    All,
    /// In none: Nodes are meant, as peers.
    Nodes,
}

/// What a group selects.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct GroupSelector {
    /// Where.
    pub scope: Scope,
    /// Which Pods; none takes all, as does an empty selector, but the group's name differs.
    pub pods: Option<Selector>,
}

impl GroupSelector {
    /// The name of the group: UUIDv5 of the normalised text.
    #[must_use]
    pub fn name(&self) -> GroupName {
        self.name_with(&mut String::new())
    }

    /// How much there is of it: itself, and what its selectors require.
    pub(crate) fn parts(&self) -> usize {
        let namespaces = match &self.scope {
            Scope::NamespaceSelector(selector) => selector.parts(),
            Scope::Namespace(_) | Scope::All | Scope::Nodes => 0,
        };
        1 + namespaces + self.pods.as_ref().map_or(0, Selector::parts)
    }

    /// As [`Self::name`], with a buffer to reuse.
    pub(crate) fn name_with(&self, buffer: &mut String) -> GroupName {
        use fmt::Write;
        buffer.clear();
        let _ = write!(buffer, "{self}");
        GroupName::Selector(Uuid::new_v5(&GROUP_NAMESPACE, buffer.as_bytes()))
    }
}

/// The normalised text, such as `namespace=shop And podSelector=app=web`.
impl fmt::Display for GroupSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scoped = match &self.scope {
            Scope::Namespace(name) => {
                f.write_str("namespace=")?;
                f.write_str(name)?;
                true
            }
            Scope::NamespaceSelector(selector) => {
                f.write_str("namespaceSelector=")?;
                selector.fmt(f)?;
                true
            }
            Scope::All => false,
            Scope::Nodes => {
                f.write_str("nodeSelector=")?;
                return self.pods.as_ref().map_or(Ok(()), |nodes| nodes.fmt(f));
            }
        };
        let Some(pods) = &self.pods else { return Ok(()) };
        f.write_str(if scoped { " And podSelector=" } else { "podSelector=" })?;
        pods.fmt(f)
    }
}

/// The other side of a rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PeerDraft {
    /// Pods by selector.
    pub groups: Vec<GroupSelector>,
    pub ip_blocks: Vec<IpBlock>,
    /// Domain names, as [`crate::model::Peer`] has them.
    pub fqdns: Vec<Box<str>>,
    pub to_services: Vec<ServiceName>,
}

/// A rule; see [`crate::model::Rule`].
#[derive(Clone, Debug, PartialEq)]
pub struct RuleDraft {
    pub direction: Direction,
    /// The other side; nothing listed matches nothing.
    pub peer: PeerDraft,
    /// Services; empty matches all traffic.
    pub services: Vec<Service>,
    /// Order in the policy.
    pub priority: i32,
    /// What to do.
    pub action: Action,
    /// Whether matches are logged.
    pub enable_logging: bool,
    /// Pods of this rule alone; empty means those of the policy.
    pub applied_to: Vec<GroupSelector>,
    /// As [`crate::model::Rule`] has them.
    pub on_services: Vec<ServiceName>,
    pub name: Option<Box<str>>,
    pub log_label: Option<Box<str>>,
}

/// A policy; see [`crate::model::NetworkPolicy`].
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyDraft {
    /// The source. Kind, namespace and name identify the policy.
    pub source: PolicyReference,
    /// The source's generation.
    pub generation: i64,
    /// Priority in the tier.
    pub priority: Option<f64>,
    pub tier_priority: Option<i32>,
    /// Whether connections that its rules deny end, also those that were there before.
    pub resets_established: bool,
    /// The Pods of rules that name none themselves.
    pub applied_to: Vec<GroupSelector>,
    pub rules: Vec<RuleDraft>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Issues, labels::LabelSelector};

    fn selector(labels: &[(&str, &str)]) -> Selector {
        let selector =
            LabelSelector { match_labels: labels.iter().copied().collect(), match_expressions: vec![] };
        Selector::parse(&selector, &mut Issues::new("x").top())
    }

    #[test]
    fn names_are_antreas() {
        let name = |scope, pods: Option<Selector>| {
            let selector = GroupSelector { scope, pods };
            (selector.to_string(), selector.name().to_string())
        };
        let expect = |text: &str, name: &str| (text.to_owned(), name.to_owned());
        // The UUIDs were computed with Python's uuid.uuid5 from the texts.
        assert_eq!(
            name(Scope::Namespace("ns1".into()), Some(selector(&[("app", "web")]))),
            expect("namespace=ns1 And podSelector=app=web", "9cc04338-f6fd-5350-b4bf-a29575ada8df")
        );
        assert_eq!(
            name(Scope::Namespace("ns1".into()), Some(selector(&[]))),
            expect("namespace=ns1 And podSelector=", "55a46915-4c86-52f5-be2a-a86451399111")
        );
        assert_eq!(
            name(Scope::NamespaceSelector(selector(&[])), None),
            expect("namespaceSelector=", "946d5846-ff34-5a8c-ab0b-2c6c271b0778")
        );
        assert_eq!(
            name(Scope::NamespaceSelector(selector(&[])), Some(selector(&[]))),
            expect("namespaceSelector= And podSelector=", "3531148b-82bf-5ed7-96d1-2b55af7949de")
        );
        assert_eq!(name(Scope::All, Some(selector(&[("a", "b")]))).0, "podSelector=a=b");
        assert_eq!(name(Scope::Nodes, Some(selector(&[("a", "b")]))).0, "nodeSelector=a=b");
    }
}
