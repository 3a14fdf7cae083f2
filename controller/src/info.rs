//! Publishes AntreaControllerInfo.

use std::time::Duration;

use antrea_crds::{
    AntreaControllerInfo, CONTROLLER_INFO_NAME, ControllerCondition, ControllerConditionType, ControllerInfo,
};
use antrea_runtime::{backoff::Backoff, client::describe, health::Readiness};
use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

use crate::{MANAGER, Process, VERSION};

/// The object is written at least this often; a reader takes an older one for dead.
pub const HEARTBEAT: Duration = Duration::from_secs(60);
/// Longest pause after a failure: a condition that changed while the API server was away is told soon.
const RETRY: Duration = Duration::from_secs(5);
/// Changes are collected for this long before they are written.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// Numbers move all the time in a busy cluster: they alone are written no more often than this.
const COUNTS_EVERY: Duration = Duration::from_secs(10);

/// Numbers that the object shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Computed NetworkPolicies.
    pub network_policies: usize,
    /// Computed AddressGroups.
    pub address_groups: usize,
    /// Computed AppliedToGroups.
    pub applied_to_groups: usize,
    /// Agents with an open watch.
    pub connected_agents: usize,
    /// NetworkPolicies that are in force without a part, and what is wrong with them; empty if there are none.
    pub invalid_policies: String,
}

/// What the object is made of.
#[derive(Clone)]
pub struct Facts {
    base: ControllerInfo,
    health: Readiness,
    counts: watch::Receiver<Counts>,
}

/// Writes the object on change and as a heartbeat.
pub struct Publisher {
    api: Api<AntreaControllerInfo>,
    facts: Facts,
}

impl Facts {
    /// `health` holds what is wrong with the controller now.
    pub fn new(process: &Process, api_port: u16, health: Readiness, counts: watch::Receiver<Counts>) -> Self {
        let reference = |kind: &str, name: &str, namespace: Option<&str>| {
            (!name.is_empty()).then(|| ObjectReference {
                kind: Some(kind.to_owned()),
                name: Some(name.to_owned()),
                namespace: namespace.map(str::to_owned),
                ..ObjectReference::default()
            })
        };
        let namespace = Some(process.namespace.as_str());
        let base = ControllerInfo {
            version: VERSION.to_owned(),
            pod_ref: reference("Pod", &process.pod, namespace),
            node_ref: reference("Node", &process.node, None),
            service_ref: reference("Service", "antrea", namespace),
            api_port: i32::from(api_port),
            ..ControllerInfo::default()
        };
        Self { base, health, counts }
    }

    /// The object as it is now.
    ///
    /// # Errors
    /// It has no form in JSON.
    pub fn now(&self) -> serde_json::Result<Value> {
        self.with(&self.counts.borrow())
    }

    fn with(&self, counts: &Counts) -> serde_json::Result<Value> {
        compose(&self.base, counts, &self.health.pending(), Time(jiff::Timestamp::now()))
    }
}

impl Publisher {
    /// Of these facts.
    pub fn new(client: Client, facts: Facts) -> Self {
        Self { api: Api::all(client), facts }
    }

    /// Never ends. Failures are logged and tried again.
    pub async fn run(mut self) {
        let mut changes = self.facts.health.subscribe();
        let mut backoff = Backoff::new(Duration::from_secs(1), RETRY);
        loop {
            changes.mark_unchanged();
            let counts = self.facts.counts.borrow_and_update().clone();
            let pause = match self.write(&counts).await {
                Ok(()) => {
                    backoff.reset();
                    HEARTBEAT
                }
                Err(error) => {
                    let pause = backoff.next_delay();
                    tracing::warn!(
                        error = describe(&error),
                        ?pause,
                        "AntreaControllerInfo not written: trying again"
                    );
                    pause
                }
            };
            let written = Instant::now();
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                Ok(()) = changes.changed() => tokio::time::sleep(DEBOUNCE).await,
                Ok(()) = self.facts.counts.changed() => {
                    tokio::select! {
                        () = tokio::time::sleep_until(written + COUNTS_EVERY) => {}
                        Ok(()) = changes.changed() => tokio::time::sleep(DEBOUNCE).await,
                    }
                }
            }
        }
    }

    async fn write(&self, counts: &Counts) -> kube::Result<()> {
        let info = self.facts.with(counts).map_err(kube::Error::SerdeError)?;
        // Applied, so that the object is made when it is missing and foreign labels stay.
        let params = PatchParams::apply(MANAGER).force();
        self.api.patch(CONTROLLER_INFO_NAME, &params, &Patch::Apply(&info)).await.map(drop)
    }
}

/// The object for these inputs.
fn compose(
    base: &ControllerInfo,
    counts: &Counts,
    problems: &[(String, String)],
    now: Time,
) -> serde_json::Result<Value> {
    let (status, reason, message) = match problems {
        [] => ("True", String::new(), String::new()),
        [(first, _), ..] => {
            let list: Vec<String> = problems
                .iter()
                .map(
                    |(name, reason)| {
                        if reason.is_empty() { name.clone() } else { format!("{name}: {reason}") }
                    },
                )
                .collect();
            ("False", camel_case(first), list.join("; "))
        }
    };
    let condition = |type_, status: &str, reason: String, message: String| ControllerCondition {
        type_,
        status: status.to_owned(),
        last_heartbeat_time: Some(now.clone()),
        reason,
        message,
    };
    let invalid = &counts.invalid_policies;
    let (valid, cause) = if invalid.is_empty() { ("True", "") } else { ("False", "InvalidPolicy") };
    let mut spec = base.clone();
    spec.controller_conditions = vec![
        condition(ControllerConditionType::ControllerHealthy, status, reason, message),
        condition(ControllerConditionType::NetworkPoliciesValid, valid, cause.to_owned(), invalid.clone()),
    ];
    let mut info = serde_json::to_value(AntreaControllerInfo::new(CONTROLLER_INFO_NAME, spec))?;
    // Zeros have to be told: a field that was applied and is then left out is taken away, and of an object
    // that loses all of its fields the API server makes a null, which it then refuses.
    info["connectedAgentNum"] = counts.connected_agents.into();
    info["networkPolicyControllerInfo"] = json!({
        "networkPolicyNum": counts.network_policies,
        "addressGroupNum": counts.address_groups,
        "appliedToGroupNum": counts.applied_to_groups,
    });
    Ok(info)
}

/// `pod watch` becomes `PodWatch`.
fn camel_case(text: &str) -> String {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .filter_map(|word| {
            let mut chars = word.chars();
            Some(format!("{}{}", chars.next()?.to_ascii_uppercase(), chars.as_str()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_derived_and_names_every_cause() {
        let base = ControllerInfo { version: "v1".into(), api_port: 10349, ..ControllerInfo::default() };
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        let counts = Counts { network_policies: 3, connected_agents: 2, ..Counts::default() };
        let well = compose(&base, &counts, &[], now.clone()).unwrap();
        assert_eq!(well["metadata"]["name"], "antrea-controller");
        assert_eq!(well["connectedAgentNum"], 2);
        let numbers = json!({ "networkPolicyNum": 3, "addressGroupNum": 0, "appliedToGroupNum": 0 });
        assert_eq!(well["networkPolicyControllerInfo"], numbers, "zeros are told");
        for condition in [0, 1] {
            assert_eq!(well["controllerConditions"][condition]["status"], "True");
        }
        // What is sent is what the type says.
        assert!(serde_json::from_value::<AntreaControllerInfo>(well).is_ok());

        let problems =
            [("pod watch".to_owned(), "403 forbidden".to_owned()), ("certificate".to_owned(), String::new())];
        let counts = Counts { invalid_policies: "shop/web: spec.ingress[0]: too much".into(), ..counts };
        let ill = compose(&base, &counts, &problems, now).unwrap();
        let condition = &ill["controllerConditions"][0];
        assert_eq!(condition["status"], "False");
        assert_eq!(condition["reason"], "PodWatch");
        assert_eq!(condition["message"], "pod watch: 403 forbidden; certificate");
        let condition = &ill["controllerConditions"][1];
        assert_eq!(condition["type"], ControllerConditionType::NetworkPoliciesValid.name());
        assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("InvalidPolicy")));
        assert_eq!(condition["message"], "shop/web: spec.ingress[0]: too much");
    }
}
