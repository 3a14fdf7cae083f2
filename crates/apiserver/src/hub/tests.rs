use std::collections::{BTreeMap, BTreeSet};

use antrea_api::{
    controlplane::AddressGroup,
    k8s::{EventType, ObjectMeta},
};
use proptest::prelude::*;

use super::*;

/// Objects with a value and the nodes that need them.
type State = BTreeMap<String, (i64, BTreeSet<&'static str>)>;

const NODES: [&str; 3] = ["n0", "n1", "n2"];

/// About the weight of an event of these tests.
const SMALL: usize = EVENT + 32;

fn item(kind: EventType, name: &str, value: i64) -> Arc<Item> {
    let metadata = ObjectMeta { name: name.to_owned(), generation: value, ..ObjectMeta::default() };
    Item::new(kind, AddressGroup { metadata, ..AddressGroup::default() }, &[])
}

struct Events<'a>(&'a str, i64, bool);

impl Render for Events<'_> {
    fn added(&mut self, _: Option<&str>) -> Option<Arc<Item>> {
        Some(item(EventType::Added, self.0, self.1))
    }

    fn modified(&mut self, _: Option<&str>) -> Option<Arc<Item>> {
        self.2.then(|| item(EventType::Modified, self.0, self.1))
    }

    fn deleted(&mut self) -> Option<Arc<Item>> {
        Some(item(EventType::Deleted, self.0, 0))
    }
}

fn names(nodes: impl IntoIterator<Item = &'static str>) -> Vec<Arc<str>> {
    nodes.into_iter().map(Arc::from).collect()
}

/// Sets an object's value and nodes, or deletes it, and publishes the difference.
fn put(state: &mut State, routes: &mut Routes, name: &str, wanted: Option<(i64, BTreeSet<&'static str>)>) {
    let before = match &wanted {
        Some(wanted) => state.insert(name.to_owned(), wanted.clone()),
        None => state.remove(name),
    };
    match (before, wanted) {
        (None, Some((value, span))) => {
            let span = names(span);
            routes.publish(0, name, Delta::Created { span: &span }, &mut Events(name, value, true));
        }
        (Some((old, before)), Some((value, span))) => {
            let added = names(span.difference(&before).copied());
            let removed = names(before.difference(&span).copied());
            let delta = Delta::Updated { added: &added, removed: &removed };
            routes.publish(0, name, delta, &mut Events(name, value, old != value));
        }
        (Some(_), None) => routes.publish(0, name, Delta::Deleted, &mut Events(name, 0, true)),
        (None, None) => {}
    }
}

fn select(state: &State, filter: &Filter) -> BTreeMap<String, i64> {
    state
        .iter()
        .filter(|(name, (_, span))| {
            filter.name.as_ref().is_none_or(|wanted| wanted == *name)
                && filter.node.as_deref().is_none_or(|node| span.contains(node))
        })
        .map(|(name, (value, _))| (name.clone(), *value))
        .collect()
}

fn snapshot(state: &State, filter: &Filter) -> Vec<Arc<Item>> {
    select(state, filter).iter().map(|(name, value)| item(EventType::Added, name, *value)).collect()
}

/// What a client knows. Strict: an event that does not fit is a mistake of the hub.
struct Replica {
    subscription: Subscription,
    filter: Filter,
    known: BTreeMap<String, i64>,
}

impl Replica {
    fn new<L: Lock<Guarded<State>> + Send + Sync + 'static>(
        hub: &Arc<Hub<State, L>>,
        filter: Filter,
    ) -> Self {
        let mut subscription = hub.subscribe(filter.clone(), |state| snapshot(state, &filter));
        let mut replica = |known: &mut BTreeMap<String, i64>| {
            for item in std::mem::take(&mut subscription.snapshot) {
                fold(known, &item);
            }
        };
        let mut known = BTreeMap::new();
        replica(&mut known);
        Self { subscription, filter, known }
    }

    /// Takes in everything queued. False if the watch has ended.
    fn catch_up(&mut self) -> bool {
        loop {
            match self.subscription.try_next() {
                Ok(item) => fold(&mut self.known, &item),
                Err(mpsc::error::TryRecvError::Empty) => return true,
                Err(mpsc::error::TryRecvError::Disconnected) => return false,
            }
        }
    }
}

fn fold(known: &mut BTreeMap<String, i64>, item: &Item) {
    let meta = item.object().metadata();
    let before = known.get(&meta.name).copied();
    match item.kind() {
        EventType::Added => assert_eq!(before, None, "{item:?} although it is known"),
        EventType::Modified => {
            assert!(before.is_some_and(|b| b != meta.generation), "{item:?} over {before:?}")
        }
        EventType::Deleted => assert!(before.is_some(), "{item:?} although it is not known"),
        other => panic!("{other:?}"),
    }
    if item.kind() == EventType::Deleted {
        known.remove(&meta.name);
    } else {
        known.insert(meta.name.clone(), meta.generation);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, Option<(i64, BTreeSet<&'static str>)>),
    Join(Option<&'static str>, Option<u8>),
    Leave(usize),
    Read(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let span = proptest::collection::btree_set(prop::sample::select(&NODES[..]), 0..=3);
    prop_oneof![
        4 => (0_u8..4, proptest::option::weighted(0.8, (0_i64..3, span))).prop_map(|(n, v)| Step::Put(n, v)),
        2 => (proptest::option::of(prop::sample::select(&NODES[..])), proptest::option::weighted(0.2, 0_u8..4))
            .prop_map(|(node, name)| Step::Join(node, name)),
        1 => any::<usize>().prop_map(Step::Leave),
        1 => any::<usize>().prop_map(Step::Read),
    ]
}

proptest! {
    /// Whatever happens in whatever order, every watcher that was not cut off knows what it selects.
    #[test]
    fn watchers_converge(steps in proptest::collection::vec(step(), 1..60), queue in prop_oneof![Just(2 * SMALL), Just(QUEUE)]) {
        let hub = Hub::<State>::with_queue(State::new(), 1, queue);
        let mut replicas: Vec<Replica> = Vec::new();
        let mut cut = 0;
        for step in steps {
            match step {
                Step::Put(name, wanted) => {
                    hub.update(|state, routes| put(state, routes, &format!("o{name}"), wanted));
                }
                Step::Join(node, name) => {
                    let name = name.map(|name| format!("o{name}"));
                    replicas.push(Replica::new(&hub, Filter { resource: 0, node: node.map(Arc::from), name }));
                }
                Step::Leave(at) if !replicas.is_empty() => {
                    let at = at % replicas.len();
                    drop(replicas.swap_remove(at));
                }
                Step::Read(at) if !replicas.is_empty() => {
                    let at = at % replicas.len();
                    if !replicas[at].catch_up() {
                        drop(replicas.swap_remove(at));
                        cut += 1;
                    }
                }
                Step::Leave(_) | Step::Read(_) => {}
            }
        }
        for replica in &mut replicas {
            if replica.catch_up() {
                let (wanted, _) = hub.read(|state, _| select(state, &replica.filter));
                prop_assert_eq!(&replica.known, &wanted);
            } else {
                cut += 1;
            }
        }
        let ((), _) = hub.read(|_, routes| assert!(routes.cut_off() >= cut));
        drop(replicas);
        let (empty, _) = hub.read(|_, routes| routes.is_empty());
        prop_assert!(empty);
    }
}

#[test]
fn an_event_is_encoded_once_for_all() {
    let hub = Hub::<State>::new(State::new(), 1);
    let mut subscriptions: Vec<_> = (0..3)
        .map(|_| hub.subscribe(Filter { node: Some("n0".into()), ..Filter::default() }, |_| Vec::new()))
        .collect();
    struct Once(Option<Arc<Item>>, usize);
    impl Render for Once {
        fn added(&mut self, _: Option<&str>) -> Option<Arc<Item>> {
            if self.0.is_none() {
                self.1 += 1;
                self.0 = Some(item(EventType::Added, "o", 1));
            }
            self.0.clone()
        }
        fn modified(&mut self, _: Option<&str>) -> Option<Arc<Item>> {
            None
        }
        fn deleted(&mut self) -> Option<Arc<Item>> {
            None
        }
    }
    let mut render = Once(None, 0);
    hub.update(|_, routes| routes.publish(0, "o", Delta::Created { span: &names(["n0"]) }, &mut render));
    assert_eq!(render.1, 1);
    let bytes: Vec<_> = subscriptions
        .iter_mut()
        .map(|s| s.try_next().unwrap().bytes(crate::object::Encoding::Protobuf))
        .collect();
    assert!(bytes.iter().all(|b| b.as_ptr() == bytes[0].as_ptr()), "the same memory");
}

#[test]
fn a_slow_watcher_is_cut_off_and_others_go_on() {
    let hub = Hub::<State>::with_queue(State::new(), 1, 4 * SMALL);
    let filter = Filter { node: Some("n1".into()), ..Filter::default() };
    let (mut slow, mut quick) = (Replica::new(&hub, filter.clone()), Replica::new(&hub, filter));
    for value in 0..20 {
        hub.update(|state, routes| put(state, routes, "o", Some((value, BTreeSet::from(["n1"])))));
        assert!(quick.catch_up());
    }
    assert!(!slow.catch_up());
    assert_eq!(quick.known["o"], 19);
    assert_eq!(hub.read(|_, routes| (routes.nodes(0), routes.cut_off())).0, (1, 1));
    hub.close();
    assert!(!quick.catch_up());
}

/// D1: a namespace with thousands of policies is deleted in one go, and nobody can read in between.
#[test]
fn thousands_of_events_at_once_cut_off_nobody() {
    const POLICIES: i64 = 10_000;
    let hub = Hub::<State>::new(State::new(), 1);
    let filter = Filter { node: Some("n1".into()), ..Filter::default() };
    let mut watcher = Replica::new(&hub, filter);
    let all = |wanted: Option<(i64, BTreeSet<&'static str>)>| {
        hub.update(|state, routes| {
            for number in 0..POLICIES {
                put(state, routes, &format!("policy-{number}"), wanted.clone());
            }
        });
    };
    all(Some((1, BTreeSet::from(["n1"]))));
    assert!(watcher.catch_up());
    all(None);
    assert!(watcher.catch_up());
    assert!(watcher.known.is_empty());
    // One that never reads is cut off all the same.
    let lazy = Replica::new(&hub, Filter::default());
    for value in 0..8 {
        all(Some((value, BTreeSet::from(["n1"]))));
        assert!(watcher.catch_up());
    }
    assert_eq!(hub.read(|_, routes| routes.cut_off()).0, 1);
    drop(lazy);
}

mod model {
    use super::*;

    struct LoomLock<T>(loom::sync::Mutex<T>);

    impl<T> Lock<T> for LoomLock<T> {
        fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
            work(&mut self.0.lock().unwrap())
        }
    }

    type LoomHub = Hub<State, LoomLock<Guarded<State>>>;

    /// Every interleaving of two publishers, a watcher that joins among them, and one that leaves.
    #[test]
    fn no_event_is_lost_or_doubled_when_joining() {
        loom::model(|| {
            let hub: Arc<LoomHub> = Hub::with_queue(State::new(), 1, 8 * SMALL);
            let node = || Filter { node: Some("n0".into()), ..Filter::default() };
            let leaving = Replica::new(&hub, node());
            let publish = |hub: &Arc<LoomHub>, name: &'static str| {
                let hub = Arc::clone(hub);
                loom::thread::spawn(move || {
                    let span = BTreeSet::from(["n0"]);
                    hub.update(|state, routes| put(state, routes, name, Some((1, span.clone()))));
                    hub.update(|state, routes| put(state, routes, name, Some((2, span))));
                })
            };
            let publishers = [publish(&hub, "a"), publish(&hub, "b")];
            drop(leaving);
            let mut joined = Replica::new(&hub, node());
            publishers.into_iter().for_each(|thread| thread.join().unwrap());
            assert!(joined.catch_up());
            let (wanted, _) = hub.read(|state, _| select(state, &joined.filter));
            assert_eq!(joined.known, wanted);
        });
    }

    /// A watcher that is cut off while it leaves, and an update in between, leave nothing behind.
    #[test]
    fn cutting_off_races_with_leaving() {
        loom::model(|| {
            let hub: Arc<LoomHub> = Hub::with_queue(State::new(), 1, SMALL);
            let slow = Replica::new(&hub, Filter::default());
            let publisher = {
                let hub = Arc::clone(&hub);
                loom::thread::spawn(move || {
                    for value in 0..3 {
                        hub.update(|state, routes| put(state, routes, "a", Some((value, BTreeSet::new()))));
                    }
                })
            };
            drop(slow);
            publisher.join().unwrap();
            assert!(hub.read(|_, routes| routes.is_empty()).0);
        });
    }
}
