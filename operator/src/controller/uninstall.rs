//! Removal: agents first, then the controller, then what they needed; definitions and their objects stay.
//!
//! It ends, also when a Node is gone and its Pod never goes: after a while nobody is waited for any more.

use std::time::Duration;

use antrea_crds::AntreaInstallation;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use serde_json::json;

use super::{Context, Error, FINALIZER, api_error};
use crate::{
    events::Severity,
    object::{CRD, KINDS, Key, Stage},
};

/// Pods are waited for this long, counted from the request to delete.
const LIMIT: SignedDuration = SignedDuration::from_secs(120);

/// What of the installation is left and what is to go next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// Delete these.
    Delete(Vec<Key>),
    /// Wait for Pods to end.
    Wait(&'static str),
    /// Nothing is left.
    Done,
}

/// What to do next, given the managed objects that are left and whether Pods are.
pub(super) fn next(owned: &[Key], agent_pods: bool, controller_pods: bool, overdue: bool) -> Removal {
    for (stage, pods, who) in [
        (Stage::Agents, agent_pods, "agents"),
        (Stage::Controller, controller_pods, "the controller"),
        (Stage::Base, false, ""),
    ] {
        let of_stage = |key: &&Key| {
            KINDS.iter().any(|kind| kind.kind == key.kind && kind.stage == stage && kind.kind != CRD.kind)
        };
        let left: Vec<Key> = owned.iter().filter(of_stage).cloned().collect();
        if !left.is_empty() {
            return Removal::Delete(left);
        }
        if pods && !overdue {
            return Removal::Wait(who);
        }
    }
    Removal::Done
}

impl Context {
    pub(super) async fn ensure_finalizer(&self, cr: &AntreaInstallation) -> Result<(), Error> {
        if cr.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(());
        }
        let mut finalizers = cr.finalizers().to_vec();
        finalizers.push(FINALIZER.to_owned());
        self.set_finalizers(cr, &finalizers).await
    }

    async fn set_finalizers(&self, cr: &AntreaInstallation, finalizers: &[String]) -> Result<(), Error> {
        let patch = json!({"metadata": {"finalizers": finalizers, "resourceVersion": cr.resource_version()}});
        let api = Api::<AntreaInstallation>::all(self.client.clone());
        api.patch(&cr.name_any(), &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map(drop)
            .map_err(api_error("set finalizers"))
    }

    pub(super) async fn uninstall(&self, cr: &AntreaInstallation) -> Result<Action, Error> {
        if !cr.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(Action::await_change());
        }
        let asked = cr.metadata.deletion_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let overdue = Timestamp::now().duration_since(asked) > LIMIT;
        let (owned, agents, controllers) = self.shared.with(|state| {
            let owned: Vec<Key> = state.owned.keys().cloned().collect();
            (owned, !state.cluster.agent_pods.is_empty(), !state.cluster.controller_pods.is_empty())
        });
        match next(&owned, agents, controllers, overdue) {
            Removal::Delete(keys) => {
                let mut applier = self.applier.lock().await;
                for key in &keys {
                    tracing::info!(object = %key, "removing");
                    applier.delete(key).await?;
                    self.metrics.changes.with_label_values(&[key.kind, "Delete"]).inc();
                }
                Ok(Action::requeue(Duration::from_secs(1)))
            }
            Removal::Wait(who) => {
                tracing::info!(who, "waiting for Pods to end");
                Ok(Action::requeue(Duration::from_secs(2)))
            }
            Removal::Done => {
                let note = if overdue {
                    "removed; some Pods did not end in time"
                } else {
                    "removed; custom resource definitions stay"
                };
                self.recorder.record(&cr.object_ref(&()), None, Severity::Normal, "Uninstalled", note).await;
                let finalizers: Vec<String> =
                    cr.finalizers().iter().filter(|name| *name != FINALIZER).cloned().collect();
                self.set_finalizers(cr, &finalizers).await?;
                Ok(Action::await_change())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: &'static str) -> Key {
        Key { kind, namespace: String::new(), name: "x".into() }
    }

    #[test]
    fn agents_go_first_and_permissions_last() {
        let all = [key("ClusterRole"), key("CustomResourceDefinition"), key("DaemonSet"), key("Deployment")];
        assert_eq!(next(&all, true, true, false), Removal::Delete(vec![key("DaemonSet")]));
        let rest = [key("ClusterRole"), key("CustomResourceDefinition"), key("Deployment")];
        assert_eq!(next(&rest, true, true, false), Removal::Wait("agents"));
        assert_eq!(next(&rest, false, true, false), Removal::Delete(vec![key("Deployment")]));
        let rest = [key("ClusterRole"), key("CustomResourceDefinition")];
        assert_eq!(next(&rest, false, true, false), Removal::Wait("the controller"));
        assert_eq!(next(&rest, false, false, false), Removal::Delete(vec![key("ClusterRole")]));
        assert_eq!(next(&[key("CustomResourceDefinition")], false, false, false), Removal::Done);
    }

    #[test]
    fn nobody_is_waited_for_for_ever() {
        assert_eq!(next(&[], true, true, true), Removal::Done);
        assert_eq!(next(&[key("Deployment")], true, true, true), Removal::Delete(vec![key("Deployment")]));
    }
}
