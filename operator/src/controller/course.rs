//! Which configuration is in effect, and what is remembered of bringing it to the Nodes.

use antrea_crds::{
    AntreaInstallation,
    installation::{AntreaInstallationSpec, PendingChange, RolloutStatus},
};
use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::{
    Context, Error,
    converge::{Rolled, revision_of},
    facts::Wanted,
};
use crate::{
    cluster::{AgentNode, Trouble},
    effective::{ConfigError, Effective, Facts, effective},
    object::Object,
    plan::{Class, Direction, Plan, class_of_config},
    render::{self, AGENT, CONTROLLER, PREFLIGHT},
    rollout::{
        decide::Failure,
        policy::Policy,
        progress::{self, Asked, Course, Waiting},
    },
    status::Observation,
};

/// How the change that is under way is brought to the Nodes.
pub(super) struct Going {
    pub(super) policy: Policy,
    /// What is remembered.
    pub(super) record: RolloutStatus,
    /// Whether what ran before is brought back after a failure.
    pub(super) back: bool,
    /// Why the spec is not in effect yet.
    pub(super) waiting: Option<Waiting>,
    /// The configuration that the spec asks for, if it is another than the one in effect.
    pub(super) asked: Option<Effective>,
}

impl Going {
    /// Which way the version goes.
    pub(super) fn direction(&self, cr: &AntreaInstallation, config: &Effective) -> Direction {
        let version = cr.status.as_ref().and_then(|status| status.version.as_deref());
        progress::direction(&self.record, version, &config.to_spec())
    }

    /// When the next Node has had its time, or the next trouble is old enough to be a failure of the change.
    pub(super) fn overdue(&self, seen: &Observation<'_>) -> Option<SignedDuration> {
        let turns = seen.record.turns.iter().map(|turn| turn.since.0);
        let agents = seen.nodes.iter().filter_map(AgentNode::trouble).chain(seen.controller_trouble.clone());
        let since = turns.chain(agents.map(|(_, since)| since)).filter(|_| !seen.record.done);
        let left = since.map(|since| self.policy.deadline - seen.now.duration_since(since));
        left.filter(SignedDuration::is_positive).min()
    }
}

impl Context {
    /// Decides what of `wanted` is to be in effect; replaces its configuration if that is another one.
    pub(super) fn course(&self, cr: &AntreaInstallation, wanted: &mut Option<Wanted>) -> Going {
        let status = cr.status.as_ref();
        let mut going = Going {
            policy: Policy::new(cr.spec.rollout.as_ref()),
            record: status.and_then(|status| status.rollout.clone()).unwrap_or_default(),
            back: false,
            waiting: None,
            asked: None,
        };
        let Some(found) = wanted else { return going };
        let Some(config) = found.config.clone() else { return going };
        let last = status.and_then(|status| status.computed.as_deref());
        let spec = config.to_spec();
        let seen = self.asked(cr, &spec, self.restarts(&config, last, found));
        let course =
            if found.refused.is_some() { Course::Make } else { progress::course(&going.policy, &seen) };
        let other = match course {
            Course::Make => None,
            Course::Wait(waiting) => {
                going.waiting = Some(waiting);
                last.map(of_status)
            }
            Course::Back(stable) => {
                going.back = true;
                Some(of_status(&stable))
            }
        };
        let held = match &going.waiting {
            Some(Waiting::Acknowledgement(held)) => Some(held.clone()),
            _ => None,
        };
        let other = match other.transpose() {
            Ok(other) => other,
            // Neither can it be kept in effect, nor is what is not to be in effect made instead.
            Err(error) => {
                let message = format!("this operator cannot keep what is in effect: {error}");
                found.config = None;
                found.refused = Some(Trouble::new("InvalidConfiguration", message));
                going.record.held = held;
                going.asked = Some(config);
                return going;
            }
        };
        let version = status.and_then(|status| status.version.as_deref());
        let in_effect = other.as_ref().unwrap_or(&config).to_spec();
        going.record = progress::begin(&seen, &in_effect, version, held);
        if let Some(other) = other {
            found.config = Some(other);
            going.asked = Some(config);
        }
        going
    }

    /// Whether Pods restart for a configuration.
    fn restarts(&self, config: &Effective, last: Option<&AntreaInstallationSpec>, wanted: &Wanted) -> bool {
        let Some(last) = last.filter(|last| **last != config.to_spec()) else { return false };
        // What cannot be told any more is taken for another.
        let Ok(last) = of_status(last) else { return true };
        let revisions = |config: &Effective| {
            let objects = render::objects(config, &wanted.around);
            [CONTROLLER, AGENT].map(|name| revision_of(&objects, name).map(str::to_owned))
        };
        revisions(config) != revisions(&last)
    }

    /// What a configuration that is not in effect would change.
    pub(super) async fn preview(
        &self,
        config: &Effective,
        objects: &[Object],
        previous: Option<&AntreaInstallationSpec>,
        direction: Direction,
    ) -> Result<Vec<PendingChange>, Error> {
        let mut owned = self.shared.with(|state| state.owned.clone());
        owned.retain(|key, _| !render::is_extra(key) && key.name != PREFLIGHT);
        let class = class_of_config(previous, &config.to_spec()).max(Class::Restart);
        let planned = self.applier.lock().await.compare(objects, &owned, class).await?;
        let plan = Plan::new(planned.iter().map(|item| item.change.clone()).collect(), direction);
        Ok(plan.pending())
    }

    /// What is remembered after `rolled`, and which Node does not come back while a change is taken back.
    pub(super) fn remember(
        &self,
        cr: &AntreaInstallation,
        config: Option<&Effective>,
        going: &Going,
        rolled: Option<&Rolled>,
        controller: Option<(Trouble, Timestamp)>,
    ) -> (RolloutStatus, Option<Failure>) {
        let record = going.record.clone();
        let Some(config) = config else { return (record, None) };
        let spec = config.to_spec();
        let seen = self.asked(cr, &spec, true);
        let decision = rolled.map(|rolled| &rolled.decision);
        progress::remember(&going.policy, &seen, record, decision, controller, going.back)
    }

    fn asked<'a>(
        &'a self,
        cr: &'a AntreaInstallation,
        wanted: &'a AntreaInstallationSpec,
        restarts: bool,
    ) -> Asked<'a> {
        let status = cr.status.as_ref();
        Asked {
            spec: &cr.spec,
            generation: cr.metadata.generation.unwrap_or_default(),
            wanted,
            last: status.and_then(|status| status.computed.as_deref()),
            record: status.and_then(|status| status.rollout.as_ref()),
            restarts,
            operator_version: &self.settings.operator_version,
            now: Timestamp::now(),
        }
    }
}

/// A configuration that was in effect before. It is complete: it needs no facts.
fn of_status(spec: &AntreaInstallationSpec) -> Result<Effective, ConfigError> {
    effective(spec, &Facts::default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        controller::testing::{Kube, context, installation},
        render::Surroundings,
    };

    fn wanted(spec: &AntreaInstallationSpec) -> Option<Wanted> {
        let facts = Facts { default_version: "v1.0.0".into(), ..Facts::default() };
        let config = effective(spec, &facts).unwrap();
        Some(Wanted { config: Some(config), refused: None, around: Surroundings::default() })
    }

    /// An installation of v1.0.0 that is asked for something else; `stored` is the status as the API server has it.
    fn asked(spec: serde_json::Value) -> AntreaInstallation {
        let mut cr = installation(spec);
        let last = wanted(&serde_json::from_value(json!({"version": "v1.0.0"})).unwrap());
        let computed = last.unwrap().config.unwrap().to_spec();
        cr.status = Some(serde_json::from_value(json!({"version": "v1.0.0", "computed": computed})).unwrap());
        cr
    }

    fn version(wanted: Option<Wanted>) -> String {
        wanted.unwrap().config.unwrap().version
    }

    /// The whole way by what is stored: it begins, fails, is taken back, stays so, and is forgotten with the spec.
    #[tokio::test]
    async fn a_failure_is_remembered_by_the_status_alone() {
        let kube = Kube::default();
        let mut cr = asked(json!({"version": "v2.0.0"}));
        let mut now = wanted(&cr.spec);
        let going = context(&kube).course(&cr, &mut now);
        let config = now.clone().unwrap().config.unwrap();
        assert_eq!((version(now), going.back), ("v2.0.0".to_owned(), false));
        let stable = going.record.stable.as_ref().unwrap();
        assert_eq!(
            (stable.version.as_deref(), going.record.newest_version.as_str()),
            (Some("v1.0.0"), "v2.0.0")
        );
        // The new controller has not worked for longer than it may.
        let trouble = Trouble::new("CrashLoopBackOff", "exited with code 1");
        let since = Timestamp::now() - SignedDuration::from_secs(299);
        let young = context(&kube).remember(&cr, Some(&config), &going, None, Some((trouble.clone(), since)));
        assert_eq!(young.0.failed, None);
        let since = Timestamp::now() - SignedDuration::from_secs(301);
        let (record, _) = context(&kube).remember(&cr, Some(&config), &going, None, Some((trouble, since)));
        let failed = record.failed.clone().unwrap();
        assert!(
            failed.rolled_back && failed.node == "antrea-controller" && failed.check == "CrashLoopBackOff"
        );
        let mut status = cr.status.take().unwrap();
        status.rollout = Some(record);
        status.computed = Some(Box::new(config.to_spec()));
        cr.status = Some(serde_json::from_value(serde_json::to_value(&status).unwrap()).unwrap());

        let mut now = wanted(&cr.spec);
        let going = context(&kube).course(&cr, &mut now);
        assert_eq!((version(now), going.back), ("v1.0.0".to_owned(), true));
        assert_eq!(going.record.newest_version, "v2.0.0", "agents go back before the controller");
        cr.spec.management_state = Some(antrea_crds::installation::ManagementState::Paused);
        let mut now = wanted(&cr.spec);
        assert!(context(&kube).course(&cr, &mut now).back, "pausing asks for nothing else");
        cr.spec.log_level = Some(antrea_crds::installation::LogLevel::Debug);
        let mut now = wanted(&cr.spec);
        let going = context(&kube).course(&cr, &mut now);
        assert_eq!((version(now), going.record.failed), ("v2.0.0".to_owned(), None));
    }

    #[tokio::test]
    async fn what_is_disruptive_waits_and_is_shown() {
        let kube = Kube::default();
        let cr = asked(json!({"version": "v1.0.0", "trafficEncapMode": "NoEncap"}));
        let mut now = wanted(&cr.spec);
        let going = context(&kube).course(&cr, &mut now);
        let config = now.unwrap().config.unwrap();
        assert_eq!(config.encap, antrea_crds::installation::TrafficEncapMode::Encap, "what runs goes on");
        assert_eq!(going.asked.unwrap().encap, antrea_crds::installation::TrafficEncapMode::NoEncap);
        assert_eq!(going.record.held.unwrap().generation, 1);
        let cr =
            asked(json!({"version": "v1.0.0", "trafficEncapMode": "NoEncap", "rollout": {"acknowledge": 1}}));
        let mut now = wanted(&cr.spec);
        assert!(context(&kube).course(&cr, &mut now).waiting.is_none());
        // The first installation breaks nobody's traffic.
        let fresh = installation(json!({"trafficEncapMode": "NoEncap"}));
        let mut now = wanted(&fresh.spec);
        assert!(context(&kube).course(&fresh, &mut now).waiting.is_none());
    }

    /// An operator of another version may refuse what is in effect: what waits, or was taken back, is not made instead.
    #[tokio::test]
    async fn what_is_in_effect_and_cannot_be_told_is_not_replaced_by_what_is_to_wait() {
        let kube = Kube::default();
        let mut cr = asked(json!({"version": "v1.0.0", "trafficEncapMode": "NoEncap"}));
        let computed = cr.status.as_mut().unwrap().computed.as_mut().unwrap();
        computed.feature_gates.insert("NoSuchGate".into(), true);
        let mut now = wanted(&cr.spec);
        let going = context(&kube).course(&cr, &mut now);
        let now = now.unwrap();
        assert!(now.config.is_none() && going.asked.is_some());
        let why = now.refused.unwrap().message;
        assert!(why.contains("cannot keep what is in effect") && why.contains("NoSuchGate"), "{why}");
        assert_eq!(going.record.held.unwrap().generation, 1, "it can be acknowledged");
        // A window holds what may restart Pods.
        let hour = (Timestamp::now().as_second().div_euclid(3600) + 2).rem_euclid(24);
        let window = json!({"start": format!("{hour:02}:00"), "end": format!("{hour:02}:30")});
        cr.spec =
            serde_json::from_value(json!({"version": "v1.0.0", "rollout": {"window": window}})).unwrap();
        let mut now = wanted(&cr.spec);
        assert!(context(&kube).course(&cr, &mut now).waiting.is_some() && now.unwrap().config.is_none());
    }

    /// Of a change that restarts nothing nobody has to wait for the window.
    #[tokio::test]
    async fn the_window_holds_only_what_restarts() {
        let kube = Kube::default();
        let hour = (Timestamp::now().as_second().div_euclid(3600) + 2).rem_euclid(24);
        let window = json!({"start": format!("{hour:02}:00"), "end": format!("{hour:02}:30")});
        for (field, value, waits) in [("mtu", json!(1400), true), ("logLevel", json!("Debug"), false)] {
            let cr = asked(json!({"version": "v1.0.0", field: value, "rollout": {"window": window}}));
            let mut now = wanted(&cr.spec);
            let going = context(&kube).course(&cr, &mut now);
            assert_eq!(matches!(going.waiting, Some(Waiting::Window(_))), waits, "{field}");
        }
    }
}
