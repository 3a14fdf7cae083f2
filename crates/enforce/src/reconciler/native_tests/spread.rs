//! Policies whose AppliedToGroups are spread over nodes: a node is told of those that have members on it.

use antrea_api::controlplane::GroupEvent;

use super::*;

fn drops(applied_to: &[&str]) -> Event {
    let mut policy = native("N", (250, 5.0), "", vec![native_rule("Drop", &["g"])]);
    policy.applied_to_groups = applied_to.iter().map(ToString::to_string).collect();
    Event::Policy(policy)
}

fn is_denied(node: &Node, ofport: u32) -> bool {
    !verdict(node, ofport, "10.0.1.1", 80)
}

/// Nobody says that a group has no member here.
#[test]
fn a_policy_does_not_wait_for_groups_of_other_nodes() {
    let mut node = node();
    node.event(drops(&["a", "elsewhere"]));
    assert!(is_denied(&node, 7) && is_denied(&node, 8) && !is_denied(&node, 9));
    assert!(node.reconciler.cache.realizable("N").is_some());
    node.event(applied_to_group("elsewhere", &["r"]));
    assert!(is_denied(&node, 9), "it has one here now");
}

/// The last member of one of its groups has gone from here, and the policy stays for those of the other.
#[test]
fn a_group_that_goes_takes_its_pods_along_when_they_are_known_to_be_meant() {
    let mut node = node();
    node.event(drops(&["a", "b"]));
    assert!(is_denied(&node, 7) && is_denied(&node, 9));
    node.gone.insert("r");
    node.event(Event::AppliedToGroup(GroupEvent::Deleted("b".into())));
    assert!(is_denied(&node, 9), "r has no object any more, which says nothing of its sandbox");
    node.gone.clear();
    node.settle();
    assert!(!is_denied(&node, 9) && is_denied(&node, 7) && is_denied(&node, 8));
}

/// The policy may be told of before the group, or there may be none to tell of.
#[test]
fn a_pod_stays_denied_while_a_new_group_may_be_on_its_way() {
    let mut node = node();
    node.event(drops(&["a"]));
    node.gone.extend(["p", "q"]);
    node.event(drops(&["late"]));
    assert!(is_denied(&node, 7) && is_denied(&node, 8), "which of them are in it is not known");
    node.event(applied_to_group("late", &["p"]));
    assert!(is_denied(&node, 7) && is_denied(&node, 8));
    node.gone.clear();
    node.settle();
    assert!(is_denied(&node, 7) && !is_denied(&node, 8), "it is now");
    // What has not come before does not come for a change of something else.
    node.event(drops(&["late", "elsewhere"]));
    node.gone.extend(["p", "q"]);
    let mut changed = native("N", (250, 6.0), "", vec![native_rule("Drop", &["h"])]);
    changed.applied_to_groups = vec!["late".into(), "elsewhere".into()];
    node.event(Event::Policy(changed));
    assert!(is_denied(&node, 7) && !is_denied(&node, 8));
    assert!(node.reconciler.doubts().is_empty(), "nobody is asked about");
}
