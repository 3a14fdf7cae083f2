//! What policies allowed and denied, from the counters of rules' flows.
//!
//! Counters belong to rule ids. An id stays with a policy while the policy has rules for it, and its flow keeps counting
//! when the policy changes, also in the agent's next life ([`crate::ids`]); an id that another policy has got has new
//! flows, which count from 0. So does everything after Open vSwitch has started anew.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use antrea_api::controlplane::{
    ANTREA_CLUSTER_NETWORK_POLICY, ANTREA_NETWORK_POLICY, K8S_NETWORK_POLICY, NetworkPolicyStats,
    NodeStatsSummary,
};
use antrea_api::k8s::ObjectMeta;
use antrea_api::stats::{RuleTrafficStats, TrafficStats};
use serde::{Deserialize, Serialize};

use crate::spec::Policy;

/// Whose rule an id is.
#[derive(Clone, Debug)]
pub struct Counted {
    pub policy: Arc<Policy>,
    /// Name of the rule, for native ones.
    pub rule: Option<Arc<str>>,
}

/// What was read of an id, and of which policy it was then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    policy: Arc<str>,
    packets: i64,
    bytes: i64,
    sessions: i64,
}

impl Seen {
    fn stats(&self) -> TrafficStats {
        TrafficStats { packets: self.packets, bytes: self.bytes, sessions: self.sessions }
    }
}

/// What the controller has been told of, kept for the agent's next life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Told(BTreeMap<u32, Seen>);

/// Traffic that the controller has not been told of yet.
#[derive(Debug, Default)]
pub struct Tally {
    seen: BTreeMap<u32, Seen>,
    /// Whether all ids were looked at before: one that was not there then has counted from 0.
    looked: bool,
    due: BTreeMap<Arc<str>, Due>,
}

#[derive(Debug)]
struct Due {
    policy: Arc<Policy>,
    total: TrafficStats,
    rules: BTreeMap<Arc<str>, TrafficStats>,
}

impl Tally {
    /// Goes on from what was told in the agent's last life.
    #[must_use]
    pub fn after(told: Told) -> Self {
        Self { seen: told.0, looked: true, due: BTreeMap::new() }
    }

    /// Takes in what the flows of each id have counted. Ids that are nobody's are passed over.
    pub fn take(&mut self, read: &HashMap<u32, TrafficStats>, owners: &HashMap<u32, Counted>) {
        let before = std::mem::take(&mut self.seen);
        for (id, now) in read {
            let Some(owner) = owners.get(id) else { continue };
            let news = match before.get(id) {
                Some(last) if last.policy == owner.policy.name => since(&last.stats(), now),
                None if !self.looked => TrafficStats::default(),
                Some(_) | None => *now,
            };
            let TrafficStats { packets, bytes, sessions } = *now;
            self.seen.insert(*id, Seen { policy: owner.policy.name.clone(), packets, bytes, sessions });
            if news != TrafficStats::default() {
                self.add(owner, &news);
            }
        }
        self.looked = true;
    }

    fn add(&mut self, owner: &Counted, news: &TrafficStats) {
        let due = self.due.entry(owner.policy.name.clone()).or_insert_with(|| Due {
            policy: owner.policy.clone(),
            total: TrafficStats::default(),
            rules: BTreeMap::new(),
        });
        due.policy = owner.policy.clone();
        due.total.add(news);
        if let Some(rule) = &owner.rule {
            due.rules.entry(rule.clone()).or_default().add(news);
        }
    }

    /// What there is to tell of this node; none if that is nothing.
    #[must_use]
    pub fn summary(&self, node: &str) -> Option<NodeStatsSummary> {
        if self.due.is_empty() {
            return None;
        }
        let mut summary =
            NodeStatsSummary { metadata: ObjectMeta::named(node), ..NodeStatsSummary::default() };
        for due in self.due.values() {
            let network_policy = due.policy.reference();
            let list = match &*network_policy.type_ {
                K8S_NETWORK_POLICY => &mut summary.network_policies,
                ANTREA_CLUSTER_NETWORK_POLICY => &mut summary.antrea_cluster_network_policies,
                ANTREA_NETWORK_POLICY => &mut summary.antrea_network_policies,
                _ => continue,
            };
            let rule = |(name, stats): (&Arc<str>, &TrafficStats)| RuleTrafficStats {
                name: name.to_string(),
                traffic_stats: *stats,
            };
            list.push(NetworkPolicyStats {
                network_policy,
                traffic_stats: due.total,
                rule_traffic_stats: due.rules.iter().map(rule).collect(),
            });
        }
        Some(summary)
    }

    /// The controller has taken the last [`Self::summary`], or there was none; what to keep for the next life.
    pub fn delivered(&mut self) -> Told {
        self.due.clear();
        Told(self.seen.clone())
    }
}

/// What came after `last`. Flows that were made anew have counted less.
fn since(last: &TrafficStats, now: &TrafficStats) -> TrafficStats {
    let anew = now.packets < last.packets || now.bytes < last.bytes || now.sessions < last.sessions;
    if anew {
        return *now;
    }
    TrafficStats {
        packets: now.packets - last.packets,
        bytes: now.bytes - last.bytes,
        sessions: now.sessions - last.sessions,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::policy;

    fn counted(uid: &str, rule: Option<&str>) -> Counted {
        Counted { policy: Arc::new(Policy::read(&policy(uid, 1, "a", &[]))), rule: rule.map(Into::into) }
    }

    fn stats(packets: i64, sessions: i64) -> TrafficStats {
        TrafficStats { packets, bytes: packets * 100, sessions }
    }

    fn owners(list: &[(u32, &Counted)]) -> HashMap<u32, Counted> {
        list.iter().map(|(id, counted)| (*id, (*counted).clone())).collect()
    }

    /// What is told now: packets by policy.
    fn told(tally: &Tally) -> BTreeMap<String, i64> {
        let summary = tally.summary("n1").unwrap_or_default();
        let all = summary.network_policies.iter().chain(&summary.antrea_network_policies);
        all.map(|one| (one.network_policy.uid.clone(), one.traffic_stats.packets)).collect()
    }

    fn of(list: &[(&str, i64)]) -> BTreeMap<String, i64> {
        list.iter().map(|(uid, packets)| ((*uid).to_owned(), *packets)).collect()
    }

    #[test]
    fn each_packet_is_told_once() {
        let (a, b) = (counted("A", None), counted("B", None));
        let mut tally = Tally::default();
        let both = owners(&[(1, &a), (2, &b)]);
        tally.take(&HashMap::from([(1, stats(5, 1)), (2, stats(7, 1))]), &both);
        assert_eq!(tally.summary("n1"), None, "of which life that is nobody knows");
        tally.take(&HashMap::from([(1, stats(9, 1)), (2, stats(7, 1))]), &both);
        assert_eq!(told(&tally), of(&[("A", 4)]));
        // The controller is away.
        tally.take(&HashMap::from([(1, stats(10, 1)), (2, stats(8, 1))]), &both);
        assert_eq!(told(&tally), of(&[("A", 5), ("B", 1)]));
        tally.delivered();
        assert_eq!(tally.summary("n1"), None);
        // Open vSwitch started anew.
        tally.take(&HashMap::from([(1, stats(3, 1)), (2, stats(0, 0))]), &both);
        assert_eq!(told(&tally), of(&[("A", 3)]));
    }

    #[test]
    fn an_id_that_goes_to_another_policy_counts_for_that_from_0() {
        let (a, b) = (counted("A", None), counted("B", None));
        let mut tally = Tally::default();
        tally.take(&HashMap::from([(1, stats(5, 1))]), &owners(&[(1, &a)]));
        tally.take(&HashMap::from([(1, stats(6, 1))]), &owners(&[(1, &b)]));
        assert_eq!(told(&tally), of(&[("B", 6)]));
        // An id that was nobody's for a while, too.
        tally.delivered();
        tally.take(&HashMap::new(), &HashMap::new());
        tally.take(&HashMap::from([(1, stats(8, 1))]), &owners(&[(1, &b)]));
        assert_eq!(told(&tally), of(&[("B", 8)]));
    }

    #[test]
    fn the_next_life_goes_on_where_this_one_ended() {
        let (a, b) = (counted("A", None), counted("B", None));
        let mut tally = Tally::default();
        tally.take(&HashMap::from([(1, stats(5, 1)), (2, stats(5, 1))]), &owners(&[(1, &a), (2, &a)]));
        tally.take(&HashMap::from([(1, stats(9, 1)), (2, stats(9, 1))]), &owners(&[(1, &a), (2, &a)]));
        let text = serde_json::to_string(&tally.delivered()).unwrap();
        let mut next = Tally::after(serde_json::from_str(&text).unwrap());
        let now = HashMap::from([(1, stats(12, 2)), (2, stats(12, 2)), (3, stats(6, 1))]);
        next.take(&now, &owners(&[(1, &a), (2, &b), (3, &b)]));
        // Id 2 went to B after that look, before the life ended; 3 was nobody's.
        assert_eq!(told(&next), of(&[("A", 3), ("B", 18)]));
    }

    #[test]
    fn rules_of_native_policies_are_told_apart() {
        let mut message = policy("N", 1, "a", &[]);
        let source = message.source_ref.as_mut().unwrap();
        source.type_ = ANTREA_NETWORK_POLICY.to_owned();
        (source.namespace, source.name, source.uid) = ("shop".into(), "web".into(), "N".into());
        let policy = Arc::new(Policy::read(&message));
        let rule = |name: &str| Counted { policy: policy.clone(), rule: Some(name.into()) };
        let owners = owners(&[(1, &rule("in")), (2, &rule("in")), (3, &rule("out"))]);
        let mut tally = Tally::default();
        tally.take(&HashMap::new(), &owners);
        tally.take(&HashMap::from([(1, stats(1, 1)), (2, stats(2, 1)), (3, stats(4, 1))]), &owners);
        let summary = tally.summary("n1").unwrap();
        let told = &summary.antrea_network_policies[0];
        assert_eq!((told.traffic_stats.packets, told.traffic_stats.sessions), (7, 3));
        let rules: Vec<_> =
            told.rule_traffic_stats.iter().map(|rule| (&*rule.name, rule.traffic_stats.packets)).collect();
        assert_eq!(rules, [("in", 3), ("out", 4)]);
        let source = message.source_ref.unwrap();
        assert_eq!(told.network_policy, source, "as the controller knows it");
    }
}
