//! What `spec.rollout` says, with its defaults, and the order of Nodes that follows from it.

use std::collections::BTreeMap;

use antrea_crds::installation::{Amount, Day, PlannedWave, RolloutPolicy, Window};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// A [`RolloutPolicy`] with nothing left open.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Labels of the Nodes that are changed first; empty: there are none.
    pub canary: BTreeMap<String, String>,
    /// Agents that worked and may be away at the same time.
    pub max_unavailable: Amount,
    /// Label whose values make the waves.
    pub order_by: Option<String>,
    /// Time between two waves.
    pub pause: SignedDuration,
    /// How long a new agent has to be ready.
    pub min_ready: SignedDuration,
    /// How long a Node has for its new agent to work.
    pub deadline: SignedDuration,
    /// When changes may start.
    pub window: Option<Window>,
    /// Whether what fails is taken back; none: if it changes images.
    pub auto_rollback: Option<bool>,
    /// Whether a changed Node is probed.
    pub probes: bool,
    /// Generation whose disruptive change shall be made.
    pub acknowledge: Option<i64>,
}

impl Policy {
    /// Fills in defaults.
    pub fn new(asked: Option<&RolloutPolicy>) -> Self {
        let asked = asked.cloned().unwrap_or_default();
        // No clock can tell the times that an older definition may have let in.
        let seconds = |given: Option<i64>, default| {
            SignedDuration::from_secs(given.unwrap_or(default).clamp(0, LONGEST))
        };
        Self {
            canary: asked.canary.map(|canary| canary.node_selector).unwrap_or_default(),
            max_unavailable: asked.max_unavailable.unwrap_or(Amount::Number(1)),
            order_by: asked.order_by_label,
            pause: seconds(asked.pause_seconds, 0),
            min_ready: seconds(asked.min_ready_seconds, 3),
            deadline: seconds(asked.deadline_seconds, 300),
            window: asked.window,
            auto_rollback: asked.auto_rollback,
            probes: asked.probes.unwrap_or(true),
            acknowledge: asked.acknowledge,
        }
    }

    /// How long until a change may start; none: it may now.
    pub fn opens_in(&self, now: Timestamp) -> Option<SignedDuration> {
        self.window.as_ref().and_then(|window| opens_in(window, now))
    }
}

const DAY: i64 = 86_400;

/// Longest time of a policy, in seconds.
const LONGEST: i64 = 7 * DAY;

fn opens_in(window: &Window, now: Timestamp) -> Option<SignedDuration> {
    // What the API server would not have let in never opens.
    let (Some(start), Some(end)) = (time_of_day(&window.start), time_of_day(&window.end)) else {
        return Some(SignedDuration::from_secs(DAY));
    };
    let length = if end > start { end - start } else { end - start + DAY };
    let now = now.as_second();
    let today = now.div_euclid(DAY);
    // Yesterday's may be open still; in eight days each weekday begins once more.
    let begins = (today - 1..=today + 8).filter(|day| on_day(window, *day)).map(|day| day * DAY + start);
    let next = begins.filter(|begin| now < begin + length).min()?;
    (next > now).then(|| SignedDuration::from_secs(next - now))
}

/// Whether the window begins on a day, counted since 1970-01-01, which was a Thursday.
fn on_day(window: &Window, day: i64) -> bool {
    const WEEK: [Day; 7] =
        [Day::Thursday, Day::Friday, Day::Saturday, Day::Sunday, Day::Monday, Day::Tuesday, Day::Wednesday];
    let weekday = usize::try_from(day.rem_euclid(7)).ok().and_then(|index| WEEK.get(index));
    window.days.is_empty() || weekday.is_some_and(|day| window.days.contains(day))
}

/// Seconds since midnight of a time such as "22:00".
fn time_of_day(text: &str) -> Option<i64> {
    let (hours, minutes) = text.split_once(':')?;
    Some(hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60)
}

/// The wave of Nodes that are changed first.
pub const CANARY: &str = "canary";

/// Nodes in the order in which they are changed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waves {
    /// Names of the waves, in order.
    pub names: Vec<String>,
    /// Position of each Node's wave in `names`.
    of: BTreeMap<String, usize>,
}

impl Waves {
    /// The waves of Nodes, each with its labels.
    pub fn new<'a>(
        policy: &Policy,
        nodes: impl Iterator<Item = (&'a str, &'a BTreeMap<String, String>)>,
    ) -> Self {
        let key = |labels: &BTreeMap<String, String>| {
            let chosen = |(key, value): (&String, &String)| labels.get(key) == Some(value);
            if !policy.canary.is_empty() && policy.canary.iter().all(chosen) {
                return (0, CANARY.to_owned());
            }
            let label = policy.order_by.as_ref().and_then(|label| Some((label, labels.get(label)?)));
            label.map_or_else(|| (2, "others".to_owned()), |(label, value)| (1, format!("{label}={value}")))
        };
        let keys: BTreeMap<&str, (u8, String)> = nodes.map(|(name, labels)| (name, key(labels))).collect();
        let mut order: Vec<&(u8, String)> = keys.values().collect();
        order.sort();
        order.dedup();
        let position = |key: &(u8, String)| order.binary_search(&key).unwrap_or(usize::MAX);
        Self {
            of: keys.iter().map(|(name, key)| ((*name).to_owned(), position(key))).collect(),
            names: order.iter().map(|(_, name)| name.clone()).collect(),
        }
    }

    /// For the status: the waves with their Nodes and why they are where they are.
    pub fn planned(&self) -> Vec<PlannedWave> {
        let wave = |(index, name): (usize, &String)| {
            let nodes =
                || self.of.iter().filter(move |(_, wave)| **wave == index).map(|(node, _)| node.clone());
            let reason = match name.as_str() {
                CANARY => "they go first, spec.rollout.canary",
                name if name.contains('=') => "by spec.rollout.orderByLabel, within it by name",
                _ => "by name",
            };
            PlannedWave {
                name: name.clone(),
                nodes: i32::try_from(nodes().count()).unwrap_or(i32::MAX),
                first: nodes().take(5).collect(),
                reason: reason.to_owned(),
            }
        };
        self.names.iter().enumerate().take(20).map(wave).collect()
    }

    /// Position of a Node's wave.
    pub fn of(&self, node: &str) -> usize {
        self.of.get(node).copied().unwrap_or(usize::MAX)
    }

    /// Name of a wave.
    pub fn name(&self, wave: usize) -> Option<&str> {
        self.names.get(wave).map(String::as_str)
    }

    /// Whether a wave is that of the Nodes that are changed first.
    pub fn is_canary(&self, wave: usize) -> bool {
        self.name(wave) == Some(CANARY)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(value: serde_json::Value) -> Policy {
        Policy::new(Some(&serde_json::from_value(value).unwrap()))
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn times_are_those_that_a_clock_can_tell() {
        let times = |seconds: i64| {
            let all =
                json!({"pauseSeconds": seconds, "minReadySeconds": seconds, "deadlineSeconds": seconds});
            let policy = policy(all);
            [policy.pause, policy.min_ready, policy.deadline].map(|time| time.as_secs())
        };
        assert_eq!((times(60), times(i64::MAX), times(i64::MIN)), ([60; 3], [LONGEST; 3], [0; 3]));
    }

    #[test]
    fn a_window_opens_and_closes_by_day_and_time() {
        let always = Policy::new(None);
        assert_eq!(always.opens_in(at("2026-11-28T12:00:00Z")), None);
        // 2026-11-28 is a Saturday.
        let night = policy(json!({"window": {"days": ["Friday"], "start": "22:00", "end": "04:00"}}));
        let hours = |text| night.opens_in(at(text)).map(|left| left.as_secs() as f64 / 3600.0);
        assert_eq!(hours("2026-11-27T21:30:00Z"), Some(0.5));
        assert_eq!(hours("2026-11-27T22:00:00Z"), None);
        assert_eq!(hours("2026-11-28T03:59:59Z"), None, "it goes over midnight");
        assert_eq!(hours("2026-11-28T04:00:00Z"), Some(6.0 * 24.0 + 18.0));
        let day = policy(json!({"window": {"start": "09:00", "end": "17:00"}}));
        assert_eq!(day.opens_in(at("2026-11-28T08:00:00Z")), Some(SignedDuration::from_hours(1)));
        assert_eq!(day.opens_in(at("2026-11-28T16:59:59Z")), None);
        assert_eq!(day.opens_in(at("2026-11-28T17:00:00Z")), Some(SignedDuration::from_hours(16)));
    }

    #[test]
    fn the_canary_goes_first_and_nodes_without_the_label_last() {
        let policy = policy(json!({"canary": {"nodeSelector": {"tier": "test"}}, "orderByLabel": "zone"}));
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let nodes = [
            ("n1", labels(&[("zone", "b")])),
            ("n2", labels(&[("zone", "b"), ("tier", "test")])),
            ("n3", labels(&[])),
            ("n4", labels(&[("zone", "a"), ("tier", "prod")])),
        ];
        let waves = Waves::new(&policy, nodes.iter().map(|(name, labels)| (*name, labels)));
        assert_eq!(waves.names, ["canary", "zone=a", "zone=b", "others"]);
        assert_eq!(["n1", "n2", "n3", "n4"].map(|node| waves.of(node)), [2, 0, 3, 1]);
        assert!(waves.is_canary(0) && !waves.is_canary(1));
        let planned = waves.planned();
        assert_eq!((planned[0].nodes, &*planned[0].first), (1, &["n2".to_owned()][..]));
        assert_eq!(planned[3].reason, "by name");
    }

    #[test]
    fn a_share_is_rounded_down_and_at_least_one() {
        for (value, all, expected) in
            [(json!(3), 10, 3), (json!("10%"), 500, 50), (json!("10%"), 19, 1), (json!("1%"), 3, 1)]
        {
            assert_eq!(policy(json!({"maxUnavailable": value})).max_unavailable.of(all), expected);
        }
    }
}
