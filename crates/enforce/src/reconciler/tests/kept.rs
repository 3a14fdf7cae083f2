//! Pods that keep a policy which the controller took from them, until somebody knows that it was meant.

use super::*;

/// A pod is deleted by force: the controller knows it no more, its policy goes with it, and only then its sandbox.
#[test]
fn a_pod_keeps_its_policy_until_its_interface_is_gone() {
    let ends = [
        vec![applied_to_patch("a", vec![member("p", &[])], vec![]), Event::PolicyDeleted("P".into())],
        vec![Event::PolicyDeleted("P".into()), Event::AppliedToGroup(GroupEvent::Deleted("a".into()))],
    ];
    for end in ends {
        let mut node = Node::new();
        node.pods(&[("p", 7, "10.0.0.7"), ("q", 8, "10.0.0.8")]);
        node.event(applied_to_group("a", &["p", "q"]));
        node.event(address_group("g", vec![member("x", &["10.0.1.1"])]));
        node.event(Event::Policy(policy("P", 1, "a", &["g"])));
        node.gone.insert("p");
        for event in end {
            node.event(event);
            node.event(address_patch("g", vec![], vec![]));
            assert!(node.isolates(7) && node.allows(7, "10.0.1.1"), "{:?}", node.rules());
            assert!(!node.allows(7, "10.0.1.2"));
        }
        node.event(Event::AddressGroup(GroupEvent::Deleted("g".into())));
        assert!(node.isolates(7) && !node.isolates(8), "the other was meant");
        // Its port and address are somebody else's now.
        node.pods(&[("r", 7, "10.0.0.7"), ("q", 8, "10.0.0.8")]);
        assert!(node.rules().is_empty() && node.flows.is_empty());
    }
}

/// An answer says nothing of what a pod loses after the question, nor counts before all that it names has arrived.
#[test]
fn an_answer_is_about_what_was_lost_before_the_question() {
    let egress = |name: &str, group: &str| {
        let mut policy = policy(name, 1, group, &[]);
        policy.rules[0].direction = "Out".into();
        policy
    };
    let mut node = Node::new();
    node.gone.insert("p");
    node.pods(&[("p", 7, "10.0.0.7")]);
    node.event(applied_to_group("a", &["p"]));
    node.event(applied_to_group("b", &["p"]));
    node.event(Event::Policy(policy("P", 1, "a", &[])));
    node.event(Event::Policy(egress("Q", "b")));
    node.event(applied_to_patch("a", vec![member("p", &[])], vec![]));
    let question = node.reconciler.doubts();
    let [(doubt, at)] = &question.into_iter().collect::<Vec<_>>()[..] else { panic!("one pod") };
    node.event(applied_to_patch("b", vec![member("p", &[])], vec![]));
    assert_eq!(node.rules().len(), 2);
    let selection = PodSelection { policies: vec!["P".into()], applied_to_groups: vec!["a".into()] };
    assert!(!node.reconciler.release(doubt, *at, &selection));
    node.settle();
    assert_eq!(node.rules().len(), 2, "P is about to select it again");
    assert!(node.reconciler.release(doubt, *at, &PodSelection::default()));
    node.settle();
    assert!(!node.isolates(7) && node.rules().len() == 1, "Q was lost after the question");
    // Selected again, it is like any other.
    node.gone.clear();
    node.event(applied_to_patch("b", vec![], vec![member("p", &[])]));
    node.event(applied_to_patch("b", vec![member("p", &[])], vec![]));
    assert!(node.rules().is_empty());
}

/// Policies allow in union: what is kept beside another one would let through what nobody allows any more.
#[test]
fn nothing_is_kept_of_what_another_policy_isolates() {
    let mut node = Node::new();
    node.gone.insert("p");
    node.pods(&[("p", 7, "10.0.0.7")]);
    for (policy_name, group, address) in [("P", "a", "10.0.1.1"), ("Q", "b", "10.0.1.2")] {
        node.event(applied_to_group(group, &["p"]));
        node.event(address_group(policy_name, vec![member("x", &[address])]));
        node.event(Event::Policy(policy(policy_name, 1, group, &[policy_name])));
    }
    node.event(applied_to_patch("a", vec![member("p", &[])], vec![]));
    assert!(node.isolates(7) && node.allows(7, "10.0.1.2") && !node.allows(7, "10.0.1.1"));
    assert!(node.reconciler.doubts().is_empty(), "there is nothing to ask about");
    node.event(Event::PolicyDeleted("Q".into()));
    assert!(node.isolates(7) && node.allows(7, "10.0.1.2"), "the last one is kept");
    // Another one comes instead.
    node.event(applied_to_patch("a", vec![], vec![member("p", &[])]));
    assert!(node.allows(7, "10.0.1.1") && !node.allows(7, "10.0.1.2"));
    assert!(node.reconciler.doubts().is_empty());
}

/// A process that starts anew does not know why a pod was isolated; that it was is enough.
#[test]
fn who_was_isolated_in_the_last_life_stays_so_until_the_pod_is_known_or_gone() {
    let mut last = Node::new();
    last.pods(&[("p", 7, "10.0.0.7"), ("q", 8, "10.0.0.8"), ("r", 9, "10.0.0.9"), ("s", 10, "10.0.0.10")]);
    last.event(applied_to_group("a", &["p", "q", "r"]));
    last.event(address_group("g", vec![member("x", &["10.0.1.1"])]));
    last.event(Event::Policy(policy("P", 1, "a", &["g"])));
    // One keeps it already.
    last.gone.insert("p");
    last.event(applied_to_patch("a", vec![member("p", &[])], vec![]));
    let isolation = last.reconciler.isolation();
    assert_eq!(isolation.len(), 3, "{isolation:?}");

    let begin = || {
        let mut node = Node::new();
        node.gone.extend(["p", "q"]);
        node.reconciler.recall(isolation.clone());
        node.pods(&[
            ("p", 7, "10.0.0.7"),
            ("q", 8, "10.0.0.8"),
            ("r", 9, "10.0.0.9"),
            ("s", 10, "10.0.0.10"),
        ]);
        assert!(node.isolates(7) && node.isolates(8) && !node.isolates(9) && !node.isolates(10));
        assert!(!node.allows(7, "10.0.1.1") && !node.allows(8, "10.0.1.1"));
        assert!(node.rules().iter().all(|rule| rule.direction == Direction::In), "egress was free");
        assert_eq!(node.reconciler.isolation().len(), 2);
        node
    };
    // The interface goes, and another pod gets the port.
    let mut node = begin();
    node.pods(&[("t", 7, "10.0.0.7"), ("q", 8, "10.0.0.8")]);
    assert!(!node.isolates(7) && node.isolates(8));
    node.pods(&[]);
    assert!(node.rules().is_empty() && node.flows.is_empty());
    // The pod is known after all.
    let mut node = begin();
    node.gone.clear();
    node.settle();
    assert!(node.rules().is_empty() && node.flows.is_empty());
    // Policy isolates it: what was is no matter then, nor later.
    let mut node = begin();
    node.event(applied_to_group("a", &["p", "q"]));
    node.event(address_group("g", vec![member("x", &["10.0.1.1"])]));
    node.event(Event::Policy(policy("P", 1, "a", &["g"])));
    assert!(node.allows(7, "10.0.1.1") && node.allows(8, "10.0.1.1"));
    node.gone.clear();
    node.event(Event::PolicyDeleted("P".into()));
    assert!(node.rules().is_empty() && node.flows.is_empty());
    // The pipeline is replaced, and what was is told again.
    let mut node = begin();
    node.reconciler.attach(&network());
    node.reconciler.recall(isolation);
    node.flows.clear();
    node.settle();
    assert!(node.isolates(7) && node.isolates(8) && !node.isolates(9));
    node.pods(&[]);
    assert!(node.rules().is_empty() && node.flows.is_empty());
}
