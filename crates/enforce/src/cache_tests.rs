use antrea_api::controlplane::{Damaged, Event, GroupEvent};

use super::*;
use crate::testing::*;

fn feed(cache: &mut Cache, events: impl IntoIterator<Item = Event>) {
    for event in events {
        cache.apply(kind_of(&event), event).unwrap();
    }
}

fn list(cache: &mut Cache, events: impl IntoIterator<Item = Event>) {
    for kind in Kind::ALL {
        cache.begin(kind);
    }
    feed(cache, events);
    for kind in Kind::ALL {
        cache.apply(kind, Event::Bookmark).unwrap();
    }
}

fn ips(cache: &Cache, group: &str) -> Vec<String> {
    let mut ips: Vec<_> = cache.address_group(group).unwrap().ips().map(ToString::to_string).collect();
    ips.sort();
    ips
}

fn changed(cache: &mut Cache) -> (Vec<String>, Vec<String>, Vec<String>) {
    let changes = cache.take_changes();
    let text = |names: BTreeSet<Arc<str>>| names.iter().map(ToString::to_string).collect();
    let groups: BTreeSet<_> = changes.addresses.into_keys().collect();
    (text(changes.policies), text(changes.pods), text(groups))
}

#[test]
fn nothing_changes_before_all_lists_are_complete_and_only_differences_after() {
    let mut cache = Cache::default();
    let old = || [applied_to_group("a", &["p"]), address_group("g", vec![member("x", &["10.0.0.1"])])];
    list(&mut cache, old().into_iter().chain([Event::Policy(policy("P", 1, "a", &["g"]))]));
    list(&mut cache, old().into_iter().chain(["P", "Q"].map(|n| Event::Policy(policy(n, 1, "a", &["g"])))));
    assert_eq!(cache.counts(), [2, 1, 1]);
    cache.take_changes();
    cache.take_unsaved();

    for kind in Kind::ALL {
        cache.begin(kind);
    }
    feed(&mut cache, old());
    feed(&mut cache, [Event::Policy(policy("P", 1, "a", &["g"]))]);
    for kind in [Kind::Policies, Kind::AddressGroups] {
        cache.apply(kind, Event::Bookmark).unwrap();
        assert_eq!(cache.counts(), [2, 1, 1]);
    }
    // What happens while another list is under way is part of the list.
    feed(&mut cache, [address_patch("g", vec![], vec![member("y", &["10.0.0.2"])])]);
    assert_eq!(changed(&mut cache), (vec![], vec![], vec![]));
    cache.apply(Kind::AppliedToGroups, Event::Bookmark).unwrap();
    assert_eq!(cache.counts(), [1, 1, 1]);
    assert_eq!(ips(&cache, "g"), ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(changed(&mut cache), (vec!["Q".into()], vec![], vec!["g".into()]));
    let mut saves = cache.take_unsaved();
    saves.sort_by(|a, b| a.name.cmp(&b.name));
    let saved: Vec<_> = saves.iter().map(|save| (&*save.name, save.bytes.is_some())).collect();
    assert_eq!(saved, [("Q", false), ("g", true)]);

    // A session that ends while listing leaves everything in force.
    for kind in Kind::ALL {
        cache.begin(kind);
    }
    cache.apply(Kind::Policies, Event::Bookmark).unwrap();
    cache.abandon();
    assert_eq!(cache.counts(), [1, 1, 1]);
}

#[test]
fn one_watch_can_be_listed_again_alone() {
    let mut cache = Cache::default();
    list(&mut cache, [applied_to_group("a", &["p"]), Event::Policy(policy("P", 1, "a", &[]))]);
    cache.begin(Kind::AppliedToGroups);
    feed(&mut cache, [Event::Policy(policy("P", 2, "a", &[])), applied_to_group("a", &["p", "q"])]);
    assert_eq!(cache.policy("P").unwrap().generation, 2, "other watches go on");
    assert_eq!(cache.applied_to_group("a").unwrap().members().len(), 1);
    cache.apply(Kind::AppliedToGroups, Event::Bookmark).unwrap();
    assert_eq!(cache.applied_to_group("a").unwrap().members().len(), 2);
    assert_eq!(cache.commits(), 2);
}

#[test]
fn shared_addresses_stay_until_the_last_member_goes() {
    let mut cache = Cache::default();
    let (a, b) = (member("a", &["10.0.0.1"]), member("b", &["10.0.0.1", "10.0.0.2"]));
    feed(&mut cache, [address_group("g", vec![a.clone(), b.clone()])]);
    cache.take_changes();
    feed(&mut cache, [address_patch("g", vec![b], vec![])]);
    assert_eq!(ips(&cache, "g"), ["10.0.0.1"]);
    let touched = cache.take_changes().addresses.remove("g").unwrap();
    assert_eq!(touched, HashSet::from(["10.0.0.2".parse().unwrap()]));
    // A changed member is in both lists, with its old and its new content.
    feed(&mut cache, [address_patch("g", vec![a], vec![member("a", &["10.0.0.9"])])]);
    assert_eq!(ips(&cache, "g"), ["10.0.0.9"]);
}

#[test]
fn a_changed_policy_waits_for_its_groups_and_a_new_one_does_not() {
    let mut cache = Cache::default();
    feed(&mut cache, [Event::Policy(policy("P", 1, "a", &["g"]))]);
    assert!(cache.policy("P").is_some(), "a new policy isolates at once");
    assert!(cache.realizable("P").is_none());
    feed(&mut cache, [applied_to_group("a", &["p"]), address_group("g", vec![])]);
    assert_eq!(cache.realizable("P").unwrap().generation, 1);

    cache.take_changes();
    feed(&mut cache, [Event::Policy(policy("P", 2, "b", &["g"]))]);
    assert_eq!(cache.policy("P").unwrap().generation, 1);
    assert!(cache.realizable("P").is_none());
    // The old group is taken back before the new one is there.
    feed(&mut cache, [Event::AppliedToGroup(GroupEvent::Deleted("a".into()))]);
    assert_eq!(cache.applied_to_group("a").unwrap().members().len(), 1);
    assert!(!cache.names(Kind::AppliedToGroups).contains("a"));
    feed(&mut cache, [applied_to_group("b", &["p"])]);
    assert_eq!(cache.realizable("P").unwrap().generation, 2);
    assert!(cache.applied_to_group("a").is_none(), "nobody needs it any more");

    feed(&mut cache, [Event::Policy(policy("P", 3, "missing", &[]))]);
    feed(&mut cache, [Event::Policy(policy("P", 2, "b", &["g"]))]);
    assert_eq!(cache.realizable("P").unwrap().generation, 2, "the change was taken back");
    feed(&mut cache, [Event::Policy(policy("P", 4, "missing", &[])), Event::PolicyDeleted("P".into())]);
    assert_eq!(cache.counts()[0], 0);
    assert!(cache.applied_to.users.is_empty() && cache.address.users.is_empty());
    assert!(cache.fqdns.is_empty());
}

#[test]
fn a_change_of_an_unknown_group_is_an_error() {
    let mut cache = Cache::default();
    let patch = || applied_to_patch("a", vec![], vec![member("p", &[])]);
    assert!(matches!(cache.apply(Kind::AppliedToGroups, patch()), Err(CacheError::UnknownGroup { .. })));
    for kind in Kind::ALL {
        cache.begin(kind);
    }
    assert!(cache.apply(Kind::AppliedToGroups, patch()).is_err());
    cache.abandon();
    feed(&mut cache, [applied_to_group("a", &[]), Event::Policy(policy("P", 1, "a", &[]))]);
    feed(&mut cache, [Event::AppliedToGroup(GroupEvent::Deleted("a".into()))]);
    assert!(cache.apply(Kind::AppliedToGroups, patch()).is_err(), "it was taken back");
}

#[test]
fn unsaved_objects_are_not_lost_when_the_disk_is_full() {
    let mut cache = Cache::default();
    feed(&mut cache, [applied_to_group("a", &["p"]), Event::Policy(policy("P", 1, "a", &[]))]);
    let saves = cache.take_unsaved();
    feed(&mut cache, [Event::PolicyDeleted("P".into())]);
    cache.put_back(saves);
    let saves = cache.take_unsaved();
    assert_eq!(saves.len(), 2);
    let policy = saves.iter().find(|save| save.kind == Kind::Policies).unwrap();
    assert_eq!(policy.bytes, None, "what happened since wins");
}

#[test]
fn a_policy_that_does_not_decode_stays_as_it_was() {
    let mut cache = Cache::default();
    let take = |cache: &mut Cache, event: Event| cache.apply(kind_of(&event), event).unwrap();
    take(&mut cache, applied_to_group("a", &["p"]));
    take(&mut cache, address_group("g", vec![]));
    take(&mut cache, Event::Policy(policy("P", 1, "a", &["g"])));
    let before = cache.policy("P").unwrap().clone();
    take(&mut cache, damaged("P", "a"));
    assert_eq!(cache.policy("P"), Some(&before));
    assert_eq!(cache.damaged().len(), 1);
    // A list that has it does not remove it, and one that has it not does.
    for (list, kept) in [(vec![damaged("P", "a")], 1), (vec![], 0)] {
        cache.begin(Kind::Policies);
        for event in list {
            take(&mut cache, event);
        }
        cache.apply(Kind::Policies, Event::Bookmark).unwrap();
        assert_eq!((cache.counts()[0], cache.damaged().len()), (kept, kept));
    }
}

#[test]
fn a_policy_that_never_decoded_isolates() {
    let mut cache = Cache::default();
    let take = |cache: &mut Cache, event: Event| cache.apply(kind_of(&event), event).unwrap();
    take(&mut cache, applied_to_group("a", &["p"]));
    cache.begin(Kind::Policies);
    take(&mut cache, damaged("P", "a"));
    take(&mut cache, Event::Bookmark);
    let isolates = cache.policy("P").unwrap();
    assert_eq!(isolates.rules.len(), 2, "both directions");
    assert!(isolates.rules.iter().all(|rule| rule.groups.is_empty() && rule.nets.is_empty()));
    assert_eq!(isolates.applied_to_groups().next().map(|name| &**name), Some("a"));
    assert!(
        cache.take_unsaved().iter().any(|save| &*save.name == "P"),
        "kept for a start without controller"
    );
    take(&mut cache, Event::Policy(policy("P", 2, "a", &[])));
    assert_eq!((cache.policy("P").unwrap().generation, cache.damaged().len()), (2, 0));
}

#[test]
fn a_change_that_does_not_decode_needs_a_new_list() {
    let mut cache = Cache::default();
    cache.apply(Kind::AddressGroups, address_group("g", vec![member("p", &["10.0.0.1"])])).unwrap();
    let error = DecodeError::malformed("AddressGroupPatch", "members");
    let event = Event::Damaged(Damaged { name: "g".into(), error: error.clone(), rest: None });
    let lost = CacheError::Damaged { kind: Kind::AddressGroups, name: "g".into(), error };
    assert_eq!(cache.apply(Kind::AddressGroups, event), Err(lost));
    assert_eq!(cache.address_group("g").unwrap().members.len(), 1);
}
