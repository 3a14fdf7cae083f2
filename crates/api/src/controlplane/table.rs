//! How objects of this API look as table rows.

use crate::{
    controlplane::{
        AddressGroup, AddressGroupPatch, AppliedToGroup, AppliedToGroupPatch, GroupMember, NetworkPolicy,
        NetworkPolicyStatus, NodeStatsSummary,
    },
    k8s::{Cell, ObjectMeta, Resource},
};

/// Members that a cell names before it only counts.
const SHOWN: usize = 3;

macro_rules! plain {
    ($($kind:ident),* $(,)?) => {
        $(impl Resource for $kind {
            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }
        })*
    };
}

plain!(AddressGroupPatch, AppliedToGroupPatch, NetworkPolicyStatus, NodeStatsSummary);

impl Resource for NetworkPolicy {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    /// Source, Applied To, Rules.
    fn cells(&self) -> Vec<Cell> {
        let source = self.source_ref.as_ref().map_or_else(String::new, |source| {
            let namespace =
                if source.namespace.is_empty() { String::new() } else { format!("{}/", source.namespace) };
            format!("{}:{namespace}{}", source.type_, source.name)
        });
        vec![Cell::Text(source), Cell::Number(self.applied_to_groups.len()), Cell::Number(self.rules.len())]
    }
}

impl Resource for AddressGroup {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    /// Members, Pods.
    fn cells(&self) -> Vec<Cell> {
        members(&self.group_members)
    }
}

impl Resource for AppliedToGroup {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    /// Members, Pods.
    fn cells(&self) -> Vec<Cell> {
        members(&self.group_members)
    }
}

fn members(members: &[GroupMember]) -> Vec<Cell> {
    let mut names: Vec<String> = members
        .iter()
        .filter_map(|member| member.pod.as_ref())
        .take(SHOWN)
        .map(|pod| format!("{}/{}", pod.namespace, pod.name))
        .collect();
    if members.len() > names.len() {
        names.push(format!("+{}", members.len() - names.len()));
    }
    vec![Cell::Number(members.len()), Cell::Text(names.join(","))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controlplane::ObjectReference;

    #[test]
    fn names_a_few_members_and_counts_the_rest() {
        let member = |name: &str| GroupMember {
            pod: Some(ObjectReference { name: name.into(), namespace: "ns".into() }),
            ..GroupMember::default()
        };
        let group = AddressGroup {
            group_members: ["a", "b", "c", "d", "e"].map(member).into(),
            ..AddressGroup::default()
        };
        assert_eq!(group.cells(), [Cell::Number(5), Cell::Text("ns/a,ns/b,ns/c,+2".into())]);
        assert_eq!(AddressGroup::default().cells(), [Cell::Number(0), Cell::Text(String::new())]);
    }
}
