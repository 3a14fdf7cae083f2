//! Writes AntreaAgentInfo: conditions when they turn, everything else with the heartbeat.
//!
//! What it costs the API server per agent: one write per minute of a few kilobytes, and one or two for each
//! condition that turns. Heartbeats are spread over the minute by the node's name, and so is, over two
//! seconds, what all agents see at the same time: that the controller went or came.

use std::convert::Infallible;
use std::time::Duration;

use antrea_crds::AntreaAgentInfo;
use antrea_crds::probes::{REPORT, Report, TAKER};
use antrea_runtime::client::describe;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use sha1::{Digest, Sha1};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::facts::{Facts, Health, Identity, NetworkFacts, REPAIRED, Reporter, compose, conditions, overall};
use crate::metrics::AgentMetrics;

/// Upstream's interval.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Changes that follow each other within this time are written together.
const DEBOUNCE: Duration = Duration::from_millis(300);

/// Changes that every agent sees at once are written within this time.
const SHARED: Duration = Duration::from_secs(2);

/// Shortest time between two writes, however often conditions turn.
const GAP: Duration = Duration::from_secs(1);

/// A write without an answer for so long has failed. A connection that the network cut would hang for
/// minutes.
const LIMIT: Duration = Duration::from_secs(4);

/// Wait after a write that failed, and for an object that the controller has not made yet.
const RETRY: Duration = Duration::from_secs(2);

/// Reason of an outage of the API server.
const UNREACHABLE: &str = "APIServerUnreachable";

/// How long a past outage of the API server is told of.
const TOLD: Duration = Duration::from_secs(3);

/// Shows conditions as metrics for ever.
///
/// # Errors
/// None.
pub async fn measure(mut facts: watch::Receiver<Facts>, metrics: AgentMetrics) -> Result<(), Infallible> {
    loop {
        let now = conditions(&facts.borrow_and_update(), Timestamp::now());
        metrics.conditions(&now);
        if facts.changed().await.is_err() {
            return Ok(());
        }
    }
}

/// Keeps the object up to date.
///
/// # Errors
/// None: writes are retried for ever.
pub async fn publish(client: Client, identity: Identity, reporter: Reporter) -> Result<(), Infallible> {
    let mut facts = reporter.subscribe();
    let mut writer = Writer { api: Api::all(client), identity, object: None };
    let share = share(&writer.identity.node);
    // Agents that a rollout or a power cut starts together must not beat together for ever.
    let mut pause = HEARTBEAT.mul_f64(0.25 + 0.75 * share);
    let mut next = facts.borrow_and_update().clone();
    let mut outage: Option<Timestamp> = None;
    loop {
        match writer.write(&next).await {
            Ok(()) => {}
            Err(Failure::Absent) => {
                sleep(RETRY.mul_f64(0.5 + share)).await;
                next = following(Some(next), facts.borrow_and_update().clone());
                continue;
            }
            Err(Failure::Api(error)) => {
                tracing::debug!(error, "AntreaAgentInfo not written");
                let since = *outage.get_or_insert_with(Timestamp::now);
                reporter.update(|facts| facts.api = unreachable(since, &error));
                sleep(RETRY.mul_f64(0.5 + share)).await;
                next = following(Some(next), facts.borrow_and_update().clone());
                continue;
            }
        }
        let written = Instant::now();
        // An outage that was told has to be taken back.
        let beat = written + if outage.is_some() { TOLD } else { std::mem::replace(&mut pause, HEARTBEAT) };
        let first = tokio::select! {
            () = sleep_until(beat) => None,
            changed = facts.wait_for(|now| urgent(&next, now)) => match changed {
                Ok(now) => Some(now.clone()),
                Err(_) => return Ok(()),
            },
        };
        if let Some(first) = &first {
            sleep_until((Instant::now() + delay(&next, first, share)).max(written + GAP)).await;
        }
        if outage.take().is_some() {
            reporter.update(|facts| facts.api = Health::Good);
        }
        next = following(first, facts.borrow_and_update().clone());
    }
}

/// What to write of the first change since the last write, or of what could not be written, and of what is true now: what failed and works again
/// has happened all the same; that it works follows at once. Not so of an outage of the API server, whose end
/// would be no news: of that, only what is true now.
fn following(first: Option<Facts>, last: Facts) -> Facts {
    let first = first.map(|first| Facts { api: last.api.clone(), ..first });
    first.filter(|first| failures(first) > failures(&last)).unwrap_or(last)
}

fn unreachable(since: Timestamp, error: &str) -> Health {
    let message = format!(
        "the API server could not be reached from this node since {since:.0}: {error}; pods keep what they have, news of \
         nodes and policies comes late"
    );
    Health::bad(UNREACHABLE, message)
}

#[derive(Debug)]
enum Failure {
    /// There is no object yet.
    Absent,
    /// No answer, or a refusal.
    Api(String),
}

struct Writer {
    api: Api<AntreaAgentInfo>,
    identity: Identity,
    /// As the API server knows it.
    object: Option<AntreaAgentInfo>,
}

impl Writer {
    async fn write(&mut self, facts: &Facts) -> Result<(), Failure> {
        let known = self.object.take();
        let replace = async |mut object: AntreaAgentInfo| {
            object.spec = compose(&self.identity, facts, Timestamp::now());
            if let Some(capabilities) = &facts.capabilities {
                object.annotations_mut().extend(capabilities.to_annotations());
            }
            // What an agent of before has said of probes stays and is told from this by the Pod's name.
            object.annotations_mut().insert(TAKER.to_owned(), self.identity.pod.clone());
            if let Some(report) = &facts.probes {
                object.annotations_mut().insert(REPORT.to_owned(), report.to_annotation());
            }
            self.api.replace(&self.identity.node, &PostParams::default(), &object).await
        };
        let exchange = async {
            if let Some(known) = known {
                match replace(known).await {
                    // Somebody has put a label on it: what failed here is told all the same, and now.
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    other => return other,
                }
            }
            replace(self.api.get(&self.identity.node).await?).await
        };
        match timeout(LIMIT, exchange).await {
            Ok(Ok(stored)) => {
                self.object = Some(stored);
                Ok(())
            }
            // Changed or made anew by somebody else: it is read again.
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Err(Failure::Absent),
            Ok(Err(error)) => Err(Failure::Api(describe(&error))),
            Err(_) => Err(Failure::Api(format!("no answer within {LIMIT:?}"))),
        }
    }
}

/// Whether a change must be seen at once: a condition turned, or has another reason. Counts and messages can
/// wait for the next heartbeat, but for what is told of repairs, which is over before that.
fn urgent(before: &Facts, after: &Facts) -> bool {
    local(before) != local(after)
        || before.controller.reason() != after.controller.reason()
        || before.capabilities != after.capabilities
}

/// What concerns this node alone.
#[derive(PartialEq)]
struct Local<'a> {
    conditions: [Option<&'static str>; 3],
    repaired: Option<&'a str>,
    network: Option<&'a NetworkFacts>,
    probes: Option<&'a Report>,
}

fn local(facts: &Facts) -> Local<'_> {
    // An outage is told by whoever writes, and no news to it.
    let overall = overall(facts).reason().filter(|reason| *reason != UNREACHABLE);
    let repaired = match &facts.host {
        Health::Bad { reason: REPAIRED, message } => Some(message.as_str()),
        _ => None,
    };
    Local {
        conditions: [overall, facts.ovsdb.reason(), facts.openflow.reason()],
        repaired,
        network: facts.network_info.as_ref(),
        probes: facts.probes.as_ref(),
    }
}

fn delay(before: &Facts, after: &Facts, share: f64) -> Duration {
    if local(before) == local(after) { SHARED.mul_f64(share).max(DEBOUNCE) } else { DEBOUNCE }
}

/// How many conditions are False.
fn failures(facts: &Facts) -> usize {
    let conditions = [overall(facts), &facts.controller, &facts.ovsdb, &facts.openflow];
    conditions.into_iter().filter(|health| !health.is_good()).count()
}

/// A number from 0 to 1 that follows from the node's name.
fn share(node: &str) -> f64 {
    let digest = Sha1::digest(node.as_bytes());
    f64::from(u16::from_be_bytes([digest[0], digest[1]])) / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use antrea_crds::probes::Stage;

    use super::*;

    fn healthy() -> Facts {
        let good = || Health::Good;
        Facts { network: good(), ovsdb: good(), openflow: good(), controller: good(), ..Facts::default() }
    }

    #[test]
    fn counts_wait_and_conditions_do_not() {
        let before = healthy();
        let counts = Facts { local_pods: 3, ..healthy() };
        assert!(!urgent(&before, &counts));
        let broken = Facts { flows: Health::bad("FlowsDiffer", "2 flows"), ..healthy() };
        assert!(urgent(&before, &broken));
        let more = Facts { flows: Health::bad("FlowsDiffer", "3 flows"), ..healthy() };
        assert!(!urgent(&broken, &more), "the same failure in other words");
        let repaired = |what| Facts { host: Health::bad(REPAIRED, what), ..healthy() };
        assert!(urgent(&repaired("a route"), &repaired("a route; a link")), "more of the same mishap");
        let probed = Facts { probes: Some(Report::new("1", Stage::Answering, "")), ..healthy() };
        assert!(urgent(&before, &probed), "somebody waits for it");
        assert_eq!(delay(&before, &probed, 1.0), DEBOUNCE);
        let outage = Facts { api: Health::bad("APIServerUnreachable", "no answer"), ..healthy() };
        assert!(!urgent(&outage, &before), "the writer itself takes it back");
    }

    #[test]
    fn what_failed_for_a_moment_is_told_but_no_outage_twice() {
        let broken = || Facts { openflow: Health::bad("OpenflowDisconnected", "refused"), ..healthy() };
        let unreachable = || Health::bad(UNREACHABLE, "no answer");
        assert_eq!(following(None, healthy()), healthy());
        assert_eq!(following(Some(broken()), healthy()), broken());
        assert_eq!(following(Some(healthy()), broken()), broken());
        let during = Facts { api: unreachable(), ..healthy() };
        assert_eq!(following(Some(during), healthy()), healthy(), "nothing would take it back");
        let during = Facts { api: unreachable(), ..broken() };
        assert_eq!(following(Some(during), healthy()), broken());
    }

    #[test]
    fn what_all_agents_see_is_spread_and_what_one_sees_is_not() {
        let before = healthy();
        let lost = Facts { controller: Health::bad("ControllerNotFound", "no endpoint"), ..healthy() };
        assert!(urgent(&before, &lost));
        assert_eq!(delay(&before, &lost, 1.0), SHARED);
        let broken = Facts { openflow: Health::bad("OpenflowDisconnected", "refused"), ..lost.clone() };
        assert_eq!(delay(&before, &broken, 1.0), DEBOUNCE);
        assert!(failures(&broken) > failures(&lost) && failures(&lost) > failures(&before));

        let shares: Vec<_> = (0..100).map(|n| share(&format!("node{n}"))).collect();
        assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)));
        assert!(shares.iter().filter(|share| **share < 0.5).count() > 20);
        assert!(shares.iter().filter(|share| **share > 0.5).count() > 20);
    }
}
