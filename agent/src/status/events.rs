//! Events of the Node about what was put back, and about policy that has no room. A condition says what is wrong now and turns back within seconds; whoever
//! asks the next morning why connections broke finds the Event.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use antrea_runtime::client::describe;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::facts::{Facts, Health, Identity};

/// What belongs to one mishap is found within this time, and told together.
const TOGETHER: Duration = Duration::from_secs(1);

/// Shortest time between two Events of one reason: whoever changes the same thing again and again is told of by the
/// condition meanwhile.
const GAP: Duration = Duration::from_secs(30);

/// A write without an answer for so long has failed.
const LIMIT: Duration = Duration::from_secs(4);

/// Longest note that the API server takes, in octets.
const MAX_NOTE: usize = 1024;

/// Reasons that are told of, and what is done then.
const REASONS: [(&str, &str); 4] = [
    ("HostNetworkRepaired", "Repair"),
    ("FlowsRepaired", "Repair"),
    ("DatapathFlowsWrong", "Repair"),
    ("EgressRulesLeftOut", "Refuse"),
];

/// Writes Events for ever.
///
/// # Errors
/// None: what cannot be written is in the log.
pub async fn publish(
    client: Client,
    identity: Identity,
    mut facts: watch::Receiver<Facts>,
) -> Result<(), Infallible> {
    let api = Api::<Event>::namespaced(client, "default");
    let mut told = Told::default();
    loop {
        let now = facts.borrow_and_update().clone();
        told.over(&now);
        if occurrences(&now).next().is_some() {
            sleep(TOGETHER).await;
            // What is taken back already was there all the same.
            let later = facts.borrow_and_update().clone();
            for (reason, note) in told.news(Instant::now(), &now, &later) {
                write(&api, &event(&identity, reason, &note, Timestamp::now())).await;
            }
        }
        if facts.changed().await.is_err() {
            return Ok(());
        }
    }
}

async fn write(api: &Api<Event>, event: &Event) {
    let error = match timeout(LIMIT, api.create(&PostParams::default(), event)).await {
        Ok(Ok(_)) => return,
        Ok(Err(error)) => describe(&error),
        Err(_) => format!("no answer within {LIMIT:?}"),
    };
    tracing::warn!(error, reason = event.reason, note = event.note, "Event not written");
}

/// What is to be told, by reason.
fn occurrences(facts: &Facts) -> impl Iterator<Item = (&'static str, &str)> {
    let healths = [&facts.host, &facts.flows, &facts.datapath_flows, &facts.egress];
    healths.into_iter().filter_map(|health| match health {
        Health::Bad { reason, message } if action(reason).is_some() => Some((*reason, message.as_str())),
        _ => None,
    })
}

fn action(reason: &str) -> Option<&'static str> {
    REASONS.iter().find(|(known, _)| *known == reason).map(|(_, action)| *action)
}

/// What was told.
#[derive(Debug, Default)]
struct Told {
    /// Of each reason when, and whether the condition has said since that it is over.
    last: BTreeMap<&'static str, (Instant, bool)>,
}

impl Told {
    /// What is to be told of a mishap that was `first` seen, and is `later` known better.
    fn news(&mut self, now: Instant, first: &Facts, later: &Facts) -> Vec<(&'static str, String)> {
        let mut notes: BTreeMap<_, _> = occurrences(first).collect();
        notes.extend(occurrences(later));
        notes.retain(|reason, _| self.last.get(reason).is_none_or(|(at, over)| *over && now - *at >= GAP));
        self.last.extend(notes.keys().map(|reason| (*reason, (now, false))));
        notes.into_iter().map(|(reason, note)| (reason, note.to_owned())).collect()
    }

    /// Notes what is over.
    fn over(&mut self, facts: &Facts) {
        let current: Vec<_> = occurrences(facts).map(|(reason, _)| reason).collect();
        for (_, (_, over)) in self.last.iter_mut().filter(|(reason, _)| !current.contains(reason)) {
            *over = true;
        }
    }
}

fn event(identity: &Identity, reason: &str, note: &str, now: Timestamp) -> Event {
    let node = identity.node.clone();
    let mut note = note.to_owned();
    note.truncate(note.floor_char_boundary(MAX_NOTE));
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{node}.{:x}", now.as_nanosecond())),
            // Where Events about objects without a namespace live.
            namespace: Some("default".to_owned()),
            ..ObjectMeta::default()
        },
        action: action(reason).map(str::to_owned),
        event_time: Some(MicroTime(now)),
        note: Some(note),
        reason: Some(reason.to_owned()),
        regarding: Some(ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.clone()),
            // As kubelet's: by it `kubectl describe node` finds them.
            uid: Some(node),
            ..ObjectReference::default()
        }),
        reporting_controller: Some("antrea.io/antrea-agent".to_owned()),
        reporting_instance: Some(
            if identity.pod.is_empty() { "antrea-agent" } else { &identity.pod }.to_owned(),
        ),
        type_: Some("Warning".to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(message: &str) -> Facts {
        Facts { host: Health::bad("HostNetworkRepaired", message), ..Facts::default() }
    }

    #[test]
    fn one_mishap_is_one_event() {
        let (mut told, start) = (Told::default(), Instant::now());
        let news = told.news(start, &host("a route was missing"), &host("a route was missing; a rule"));
        assert_eq!(news, [("HostNetworkRepaired", "a route was missing; a rule".to_owned())]);
        let later = start + GAP;
        assert_eq!(told.news(later, &host("x"), &host("x")), [], "it was never over");
        told.over(&Facts::default());
        assert_eq!(
            told.news(start + GAP / 2, &host("x"), &host("x")),
            [],
            "somebody does it again and again"
        );
        // Taken back within the second.
        assert_eq!(told.news(later, &host("x"), &Facts::default()).len(), 1);
        // What stays wrong for long hides nothing else.
        let standing = |host: Facts| Facts { egress: Health::bad("EgressRulesLeftOut", "ports"), ..host };
        let (mut told, put_back) = (Told::default(), standing(host("x")));
        assert_eq!(told.news(start, &put_back, &put_back).len(), 2);
        told.over(&standing(Facts::default()));
        assert_eq!(told.news(later, &put_back, &put_back), [("HostNetworkRepaired", "x".to_owned())]);
        let failed = Facts { host: Health::bad("HostNetworkFailed", "add route"), ..Facts::default() };
        assert_eq!(occurrences(&failed).count(), 0, "nothing was put back");
    }

    #[test]
    fn an_event_is_the_nodes_and_fits() {
        let identity = Identity { node: "n1".into(), pod: "antrea-agent-x".into(), ..Identity::default() };
        let event = event(&identity, "HostNetworkRepaired", &"ä".repeat(2000), Timestamp::UNIX_EPOCH);
        assert!(event.note.unwrap().len() <= MAX_NOTE);
        let regarding = event.regarding.unwrap();
        assert_eq!((regarding.kind.as_deref(), regarding.name.as_deref()), (Some("Node"), Some("n1")));
        assert_eq!(event.reporting_instance.as_deref(), Some("antrea-agent-x"));
    }
}
