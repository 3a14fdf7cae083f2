//! ClusterOperator `antrea`: what the cluster's version operator and administrators look at.
//!
//! By the contract of these objects a normal upgrade shows neither Available=False nor Degraded=True, Degraded is for
//! what lasts, and the version stays the old one until nothing old runs any more.

use antrea_crds::{AntreaInstallationStatus, installation::ConditionType};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{
    NAMESPACE,
    render::{AGENT, CONTROLLER},
};

/// Name of the object.
pub const NAME: &str = "antrea";

/// An installation is Degraded for this long before its ClusterOperator is: somebody may be called then.
const LASTING: SignedDuration = SignedDuration::from_secs(120);

/// Reasons of an installation's Degraded for which a cluster must not be upgraded either.
const BLOCKING: [&str; 3] = ["InvalidConfiguration", "UpgradeRefused", "ApplyFailed"];

/// The status after `before`, and when it changes although nothing else does.
pub fn next(
    before: &Value,
    seen: &AntreaInstallationStatus,
    operator_version: &str,
    operator_namespace: &str,
    now: Timestamp,
) -> (Value, Option<SignedDuration>) {
    let condition = |type_: ConditionType| seen.conditions.iter().find(|one| one.type_ == type_);
    let is = |type_| condition(type_).is_some_and(|one| one.status == "True");
    let said = |type_| {
        condition(type_).map_or(("Unknown", "the operator has not looked yet"), |one| {
            (one.reason.as_str(), one.message.as_str())
        })
    };

    let degraded_for = condition(ConditionType::Degraded)
        .filter(|one| one.status == "True")
        .map(|one| now.duration_since(one.last_transition_time.0));
    let lasting = degraded_for.is_some_and(|time| time >= LASTING);
    let again = degraded_for.filter(|time| *time < LASTING).map(|time| LASTING - time);

    let (available, progressing) = (said(ConditionType::Available), said(ConditionType::Progressing));
    let degraded = if lasting || degraded_for.is_none() {
        said(ConditionType::Degraded)
    } else {
        ("AsExpected", "nothing has been wrong for long")
    };
    let blocked = is(ConditionType::Degraded) && BLOCKING.contains(&said(ConditionType::Degraded).0);
    let paused = progressing.0 == "Paused";
    let upgradeable = if blocked {
        said(ConditionType::Degraded)
    } else if paused {
        ("Paused", "the AntreaInstallation is paused; set spec.managementState to Managed")
    } else {
        ("AsExpected", "")
    };

    let conditions = [
        ("Available", is(ConditionType::Available), available),
        ("Progressing", is(ConditionType::Progressing), progressing),
        ("Degraded", lasting, degraded),
        ("Upgradeable", !blocked && !paused, upgradeable),
    ];
    let conditions: Vec<Value> = conditions
        .into_iter()
        .map(|(type_, status, (reason, message))| {
            let status = if status { "True" } else { "False" };
            let old = before["conditions"].as_array().into_iter().flatten().find(|old| old["type"] == type_);
            let since =
                old.filter(|old| old["status"] == status).map(|old| old["lastTransitionTime"].clone());
            let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
            json!({
                "type": type_,
                "status": status,
                "lastTransitionTime": since.unwrap_or_else(|| now.to_string().into()),
                "reason": reason,
                "message": message,
            })
        })
        .collect();
    let status = json!({
        "conditions": conditions,
        "versions": versions(before, seen, operator_version),
        "relatedObjects": related(operator_namespace),
    });
    (status, again)
}

/// A version is told when all of what it is about runs it; until then what was told before stands.
fn versions(before: &Value, seen: &AntreaInstallationStatus, operator_version: &str) -> Vec<Value> {
    let done = seen.version.is_some()
        && seen.version == seen.target_version
        && seen.operator_version.as_deref() == Some(operator_version)
        && seen.conditions.iter().any(|one| one.type_ == ConditionType::Progressing && one.status == "False");
    if !done {
        return before["versions"].as_array().cloned().unwrap_or_default();
    }
    [("operator", Some(operator_version)), ("antrea", seen.version.as_deref())]
        .into_iter()
        .filter_map(|(name, version)| Some(json!({"name": name, "version": version?})))
        .collect()
}

/// What must-gather collects.
fn related(operator_namespace: &str) -> Vec<Value> {
    let object = |group: &str, resource: &str, namespace: &str, name: &str| {
        let mut object = json!({"group": group, "resource": resource, "name": name});
        if !namespace.is_empty() {
            object["namespace"] = namespace.into();
        }
        object
    };
    let mut objects = vec![
        object("operator.antrea.io", "antreainstallations", "", antrea_crds::INSTALLATION_NAME),
        object("crd.antrea.io", "antreaagentinfos", "", ""),
        object("crd.antrea.io", "antreacontrollerinfos", "", ""),
        object("apps", "daemonsets", NAMESPACE, AGENT),
        object("apps", "deployments", NAMESPACE, CONTROLLER),
        object("", "configmaps", NAMESPACE, "antrea-config"),
    ];
    if !operator_namespace.is_empty() {
        objects.push(object("", "namespaces", "", operator_namespace));
    }
    objects
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An installation that says this of Available, Progressing and Degraded, each since `since`.
    fn seen(version: &str, says: [(&str, &str); 3], since: i64) -> AntreaInstallationStatus {
        let types = ["Available", "Progressing", "Degraded"];
        let conditions: Vec<Value> = types
            .iter()
            .zip(says)
            .map(|(type_, (status, reason))| {
                let since = Timestamp::from_second(since).unwrap().to_string();
                json!({"type": type_, "status": status, "reason": reason, "message": "m", "lastTransitionTime": since})
            })
            .collect();
        let mut status = json!({
            "targetVersion": "v2", "operatorVersion": "v2", "conditions": conditions,
        });
        if !version.is_empty() {
            status["version"] = version.into();
        }
        serde_json::from_value(status).unwrap()
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn step(before: &Value, seen: &AntreaInstallationStatus, now: i64) -> Value {
        next(before, seen, "v2", "antrea-operator", at(now)).0
    }

    fn is(status: &Value, type_: &str) -> String {
        let conditions = status["conditions"].as_array().unwrap();
        conditions.iter().find(|one| one["type"] == type_).unwrap()["status"].as_str().unwrap().to_owned()
    }

    fn version(status: &Value, name: &str) -> Option<String> {
        let versions = status["versions"].as_array().unwrap();
        Some(versions.iter().find(|one| one["name"] == name)?["version"].as_str()?.to_owned())
    }

    const OK: (&str, &str) = ("False", "AsExpected");
    const UP: (&str, &str) = ("True", "ComponentsReady");

    /// A recorder over an upgrade in which an agent fails for a while: what the contract forbids is never seen.
    #[test]
    fn an_upgrade_by_the_contract() {
        let before =
            json!({"versions": [{"name": "operator", "version": "v1"}, {"name": "antrea", "version": "v1"}]});
        let upgrading = ("True", "Upgrading");
        let story = [
            (0, seen("v1", [UP, upgrading, OK], 0)),
            (60, seen("v1", [UP, upgrading, ("True", "AgentsFailing")], 60)),
            (100, seen("v1", [UP, upgrading, ("True", "AgentsFailing")], 60)),
            (130, seen("v1", [UP, upgrading, OK], 130)),
            (200, seen("v2", [UP, ("False", "Done"), OK], 200)),
        ];
        let mut status = before;
        for (now, seen) in story {
            status = step(&status, &seen, now);
            assert_eq!(
                (is(&status, "Available"), is(&status, "Degraded")),
                ("True".into(), "False".into()),
                "{now}"
            );
            assert_eq!(is(&status, "Upgradeable"), "True");
            let expected = if now < 200 { "v1" } else { "v2" };
            assert_eq!(version(&status, "operator").as_deref(), Some(expected), "{now}");
            assert_eq!(version(&status, "antrea").as_deref(), Some(expected), "{now}");
        }
    }

    #[test]
    fn what_lasts_is_told_and_somebody_looks_again_then() {
        let failing = seen("v2", [UP, ("False", "Done"), ("True", "AgentsFailing")], 0);
        let (early, again) = next(&Value::Null, &failing, "v2", "", at(20));
        assert_eq!((is(&early, "Degraded"), again), ("False".into(), Some(SignedDuration::from_secs(100))));
        let (late, again) = next(&early, &failing, "v2", "", at(120));
        assert_eq!((is(&late, "Degraded"), again), ("True".into(), None));
        assert_eq!(is(&late, "Upgradeable"), "True", "a Node in trouble holds up no upgrade");
    }

    #[test]
    fn a_time_of_transition_is_that_of_a_transition() {
        let well = seen("v2", [UP, ("False", "Done"), OK], 0);
        let first = step(&Value::Null, &well, 10);
        assert_eq!(step(&first, &well, 99), first);
        let down = step(&first, &seen("v2", [("False", "NoAgentReady"), ("False", "Done"), OK], 50), 50);
        let time = |status: &Value, i: usize| status["conditions"][i]["lastTransitionTime"].clone();
        assert_eq!(time(&down, 0), "1970-01-01T00:00:50Z");
        assert_eq!(time(&down, 1), "1970-01-01T00:00:10Z");
    }

    #[test]
    fn what_an_administrator_must_mend_first_blocks_upgrades() {
        for (says, reason) in [
            ([UP, ("False", "Blocked"), ("True", "InvalidConfiguration")], "InvalidConfiguration"),
            ([UP, ("False", "Paused"), OK], "Paused"),
        ] {
            let status = step(&Value::Null, &seen("v2", says, 0), 0);
            assert_eq!(is(&status, "Upgradeable"), "False");
            assert_eq!(status["conditions"][3]["reason"], reason);
            assert!(status["conditions"][3]["message"].as_str().is_some_and(|text| !text.is_empty()));
        }
    }

    /// The first installation has no version before it is complete.
    #[test]
    fn no_version_before_the_first_is_installed() {
        let installing = seen("", [("False", "AgentsNotReady"), ("True", "Installing"), OK], 0);
        let status = step(&Value::Null, &installing, 0);
        assert_eq!(status["versions"], json!([]));
        assert!(status["relatedObjects"].as_array().unwrap().len() > 5);
    }
}
