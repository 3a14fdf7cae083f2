//! Events as upstream's agent has to find them, octet by octet. The expected ones are put together from the table of
//! field numbers (Kubernetes' `ObjectMeta`, `WatchEvent` and `Unknown`; Antrea's `controlplane.v1beta2`) by the few
//! lines here, not by the encoder that is tested.

use super::*;

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

/// Field `number` of the wire type with a length.
fn field(number: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [&[number << 3 | 2][..], &varint(content.len()), content].concat()
}

fn number(number: u8, value: usize) -> Vec<u8> {
    [vec![number << 3], varint(value)].concat()
}

/// An event of a watch stream: `WatchEvent` type 1, object 2 → `RawExtension` raw 1 → magic, `Unknown` typeMeta 1
/// (apiVersion 1, kind 2), raw 2.
fn event(what: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let type_meta = [field(1, "controlplane.antrea.io/v1beta2"), field(2, kind)].concat();
    let sealed = [&b"k8s\0"[..], &field(1, type_meta), &field(2, message)].concat();
    let event = [field(1, what), field(2, field(1, sealed))].concat();
    [&u32::try_from(event.len()).unwrap().to_be_bytes()[..], &event].concat()
}

/// metadata 1: name 1, uid 5, generation 7 (left out when 0).
fn metadata(name: &str, uid: &str, generation: usize) -> Vec<u8> {
    let generation = if generation == 0 { Vec::new() } else { number(7, generation) };
    field(1, [field(1, name), field(5, uid), generation].concat())
}

/// sourceRef 6: type 1, namespace 2, name 3, uid 4.
fn source_ref() -> Vec<u8> {
    let parts = [field(1, "K8sNetworkPolicy"), field(2, "shop"), field(3, "allow"), field(4, "uid-allow")];
    field(6, parts.concat())
}

async fn next(watch: &mut Subscription, kind: EventType) -> Vec<u8> {
    loop {
        let item = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap().unwrap();
        if item.kind() == kind {
            return item.bytes(Encoding::Protobuf).to_vec();
        }
    }
}

/// D1: upstream's agent looks up the source of a policy that is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_still_says_what_it_was() {
    let inputs = Inputs::shop().await;
    let mut watches = [POLICY, ADDRESS, APPLIED_TO].map(|of| storage::watch(&inputs.hub, of, Some("n1")));
    let names = watches.each_ref().map(|watch| watch.snapshot[0].object().metadata().name.clone());
    let gone = policy("allow", 3, json!({ "app": "db" }), json!({ "app": "web" }));
    apply(&inputs.policies, gone);
    next(&mut watches[POLICY], EventType::Modified).await;
    list(&inputs.policies, vec![]);

    let policy = [metadata("uid-allow", "uid-allow", 3), source_ref()].concat();
    let told = next(&mut watches[POLICY], EventType::Deleted).await;
    assert_eq!(told, event("DELETED", "NetworkPolicy", &policy));
    for (resource, kind) in [(ADDRESS, "AddressGroup"), (APPLIED_TO, "AppliedToGroup")] {
        let told = next(&mut watches[resource], EventType::Deleted).await;
        assert_eq!(told, event("DELETED", kind, &metadata(&names[resource], &names[resource], 0)));
    }
}

/// The same of a native policy, which has no namespace.
#[tokio::test(flavor = "multi_thread")]
async fn a_native_policy_that_is_deleted_still_says_what_it_was() {
    let inputs = Inputs::shop().await;
    let policies = start::<crate::policy::native::ClusterPolicy>(
        &inputs.hub,
        &inputs.ready,
        &inputs.problems,
        &mistakes().0,
    );
    let guard = json!({
        "metadata": { "name": "guard", "uid": "uid-guard", "generation": 4, "resourceVersion": "1" },
        "spec": {
            "priority": 7,
            "appliedTo": [{ "podSelector": { "matchLabels": { "app": "web" } } }],
            "ingress": [{ "action": "Drop" }],
        },
    });
    list(&policies, vec![watched(guard)]);
    until(|| inputs.ready.is_ready()).await;
    let mut watch = storage::watch(&inputs.hub, POLICY, Some("n1"));
    list(&policies, vec![]);

    let parts = [field(1, "AntreaClusterNetworkPolicy"), field(3, "guard"), field(4, "uid-guard")];
    let policy = [metadata("uid-guard", "uid-guard", 4), field(6, parts.concat())].concat();
    assert_eq!(next(&mut watch, EventType::Deleted).await, event("DELETED", "NetworkPolicy", &policy));
}

/// The same for a node that does not need a policy any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_needs_no_more_still_says_what_it_was() {
    let inputs = Inputs::shop().await;
    let mut watch = storage::watch(&inputs.hub, POLICY, Some("n1"));
    apply(&inputs.pods, pod("db", json!({ "app": "cache" }), "n1", "10.0.1.6"));
    let policy = [metadata("uid-allow", "uid-allow", 1), source_ref()].concat();
    assert_eq!(next(&mut watch, EventType::Deleted).await, event("DELETED", "NetworkPolicy", &policy));
}

/// A whole policy and a patch of a group.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_added_and_patched_is_as_upstreams() {
    let inputs = Inputs::shop().await;
    let mut watches = [POLICY, ADDRESS, APPLIED_TO].map(|of| storage::watch(&inputs.hub, of, Some("n1")));
    let [_, addresses, applied_to] =
        watches.each_ref().map(|watch| watch.snapshot[0].object().metadata().name.clone());
    // NetworkPolicyRule: direction 1, from 2 (addressGroups 1), to 3, services 4 (protocol 1, port 2: type 1, intVal 2,
    // strVal 3), priority 5, action 6, enableLogging 7 (left out when false).
    let service = [field(1, "TCP"), field(2, [number(1, 1), field(3, "http")].concat())].concat();
    let rule = [
        field(1, "In"),
        field(2, field(1, &addresses)),
        field(3, ""),
        field(4, service),
        vec![5 << 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        field(6, "Allow"),
    ];
    let policy =
        [metadata("uid-allow", "uid-allow", 1), field(2, rule.concat()), field(3, &applied_to), source_ref()];
    let told = watches[POLICY].snapshot[0].bytes(Encoding::Protobuf);
    assert_eq!(told.to_vec(), event("ADDED", "NetworkPolicy", &policy.concat()));

    // AddressGroupPatch: metadata 1, addedGroupMembers 2 (pod 1: name 1, namespace 2; ips 3; ports 4: port 1, name 2,
    // protocol 3), removedGroupMembers 3.
    apply(&inputs.pods, pod("web-2", json!({ "app": "web" }), "n2", "10.0.2.5"));
    let reference = field(1, [field(1, "web-2"), field(2, "shop")].concat());
    let port = field(4, [number(1, 80), field(2, "http"), field(3, "TCP")].concat());
    let member = [reference, field(3, [10, 0, 2, 5]), port].concat();
    let patch = [metadata(&addresses, &addresses, 0), field(2, member)].concat();
    let told = next(&mut watches[ADDRESS], EventType::Modified).await;
    assert_eq!(told, event("MODIFIED", "AddressGroupPatch", &patch));
}
