//! How the index takes in native policies, groups and Tiers.

use antrea_crds::{
    policy::{self as crds, Tier},
    standard as crds_standard,
};
use antrea_policy::{Index, crd, error::PolicyError, standard};
use serde::Deserialize;
use serde_json::Value;

use crate::policy::{
    feed::{Feed, Input, borrowed},
    source::Source,
    undecoded::Key,
};

macro_rules! input {
    ($(#[$doc:meta])* $name:ident($inner:ty), $full:ty, $feed:ident, $apply:ident, $has:ident, $delete:ident, $reset:ident($cluster:literal)) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Deserialize)]
        #[serde(transparent)]
        pub(in crate::policy) struct $name($inner);

        impl Source for $name {
            type Full = $full;

            /// Nothing can be said of what does not decode, neither who is meant nor what.
            fn salvage(_: &Value) -> Option<Self> {
                None
            }
        }

        impl Input for $name {
            const FEED: Feed = Feed::$feed;

            fn apply(&self, index: &mut Index) -> Vec<PolicyError> {
                index.$apply(&self.0);
                Vec::new()
            }

            fn is_known((namespace, name): &Key, index: &Index) -> bool {
                index.$has(namespace, name)
            }

            fn delete((namespace, name): &Key, index: &mut Index) {
                index.$delete(namespace, name);
            }

            fn reset(objects: &[&Self], kept: &[Key], index: &mut Index) -> Vec<PolicyError> {
                index.$reset($cluster, objects.iter().map(|object| &object.0), borrowed(kept));
                Vec::new()
            }
        }
    };
}

input!(
    /// A ClusterNetworkPolicy.
    ClusterPolicy(crd::Policy), crds::ClusterNetworkPolicy, ClusterNetworkPolicies,
    apply_native, has_native, delete_native, reset_natives(true)
);
input!(
    /// A NetworkPolicy of `crd.antrea.io`.
    NamespacedPolicy(crd::Policy), crds::NetworkPolicy, AntreaNetworkPolicies,
    apply_native, has_native, delete_native, reset_natives(false)
);
input!(
    /// A ClusterGroup.
    ClusterGroup(crd::Group), crds::ClusterGroup, ClusterGroups,
    apply_group, has_group, delete_group, reset_groups(true)
);
input!(
    NamespacedGroup(crd::Group),
    crds::Group,
    Groups,
    apply_group,
    has_group,
    delete_group,
    reset_groups(false)
);

impl Source for crd::Tier {
    type Full = Tier;

    fn salvage(_: &Value) -> Option<Self> {
        None
    }
}

impl Input for crd::Tier {
    const FEED: Feed = Feed::Tiers;

    fn apply(&self, index: &mut Index) -> Vec<PolicyError> {
        index.apply_tier(self);
        Vec::new()
    }

    fn is_known((_, name): &Key, index: &Index) -> bool {
        index.has_tier(name)
    }

    fn delete((_, name): &Key, index: &mut Index) {
        index.delete_tier(name);
    }

    fn reset(objects: &[&Self], kept: &[Key], index: &mut Index) -> Vec<PolicyError> {
        index.reset_tiers(objects.iter().copied(), borrowed(kept).map(|(_, name)| name));
        Vec::new()
    }
}

impl Source for standard::Policy {
    type Full = crds_standard::ClusterNetworkPolicy;

    fn salvage(_: &Value) -> Option<Self> {
        None
    }
}

impl Input for standard::Policy {
    const FEED: Feed = Feed::StandardPolicies;

    fn apply(&self, index: &mut Index) -> Vec<PolicyError> {
        index.apply_standard(self);
        Vec::new()
    }

    fn is_known((_, name): &Key, index: &Index) -> bool {
        index.has_native(crd::STANDARD, name)
    }

    fn delete((_, name): &Key, index: &mut Index) {
        index.delete_native(crd::STANDARD, name);
    }

    fn reset(objects: &[&Self], kept: &[Key], index: &mut Index) -> Vec<PolicyError> {
        index.reset_standard(objects.iter().copied(), borrowed(kept).map(|(_, name)| name));
        Vec::new()
    }
}
