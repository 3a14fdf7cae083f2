//! Carries out what [`removal`] decides, and says how far it is.

use std::time::Duration;

use antrea_crds::{
    AntreaInstallation, AntreaInstallationStatus,
    installation::{
        CLEAN_FINALIZER, ConditionType, DEFINITION, FINALIZER, InstallationCondition,
        goes_with_its_definition,
    },
};
use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use serde_json::json;

use super::{Context, Error, api_error, facts::to_clean};
use crate::{
    NAMESPACE,
    api::CONTROLLER_CA,
    effective::Effective,
    events::Severity,
    object::{CONFIG_MAP, Key},
    plan::Class,
    removal::{self, Cleaned, Removal, Seen},
    render,
};

impl Context {
    /// Both finalizers at once: none can be added any more when the object is being deleted.
    pub(super) async fn ensure_finalizer(&self, cr: &AntreaInstallation) -> Result<(), Error> {
        let mut finalizers = cr.finalizers().to_vec();
        let missing = [FINALIZER, CLEAN_FINALIZER].into_iter().filter(|name| !has(cr, name));
        finalizers.extend(missing.map(str::to_owned));
        if finalizers.len() == cr.finalizers().len() {
            return Ok(());
        }
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

    async fn drop_finalizer(&self, cr: &AntreaInstallation, name: &str) -> Result<(), Error> {
        let others: Vec<String> = cr.finalizers().iter().filter(|other| *other != name).cloned().collect();
        self.set_finalizers(cr, &others).await
    }

    pub(super) async fn uninstall(&self, cr: &AntreaInstallation) -> Result<Action, Error> {
        if !has(cr, FINALIZER) {
            return Ok(Action::await_change());
        }
        let asked = cr.metadata.deletion_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        if goes_with_its_definition(asked, self.definition_deleted().await?) {
            return self.let_go(cr).await;
        }
        let now = Timestamp::now();
        let overdue = self.shared.with(|state| removal::is_overdue(&state.cluster, asked, now));
        // Nothing is left behind because it was not seen yet.
        if !overdue && !self.shared.monitoring_unlisted().is_empty() {
            return Ok(Action::requeue(Duration::from_secs(1)));
        }
        // Without a configuration that ever was in effect there is nothing on any Node. What the spec says by now
        // does not matter, nor what else is known of the cluster.
        let config = to_clean(cr, &self.settings.facts);
        let step = self.shared.with(|state| {
            let cluster = &state.cluster;
            let owned: Vec<Key> = state.owned.keys().cloned().collect();
            let nodes = config.as_ref().map(|config| {
                removal::nodes(cluster, &config.agent.node_selector, &config.agent.tolerations)
            });
            removal::next(&Seen {
                owned: &owned,
                cleaning: has(cr, CLEAN_FINALIZER),
                agents: removal::reachable(cluster, cluster.agent_pods.values()),
                controllers: removal::reachable(cluster, cluster.controller_pods.values()),
                cleaners: removal::reachable(cluster, cluster.cleanup_pods.values()),
                nodes: &nodes.unwrap_or_default(),
                overdue,
            })
        });
        match step {
            Removal::Delete(keys) => {
                let mut applier = self.applier.lock().await;
                for key in &keys {
                    tracing::info!(object = %key, "removing");
                    applier.delete(key).await?;
                    self.metrics.changes.with_label_values(&[key.kind, "Delete"]).inc();
                }
                Ok(Action::requeue(Duration::from_secs(1)))
            }
            Removal::Clean => {
                if let Some(config) = &config {
                    self.start_cleaning(config).await?;
                }
                Ok(Action::requeue(Duration::from_secs(1)))
            }
            Removal::Cleaned(left) => {
                self.report(cr, &left).await;
                self.drop_finalizer(cr, CLEAN_FINALIZER).await?;
                Ok(Action::requeue(Duration::from_secs(1)))
            }
            Removal::Wait(what) => {
                let message = format!("removing: waiting for {what}");
                if let Some(status) = told(cr.status.as_ref(), cr.metadata.generation, &message, now) {
                    self.write_status(cr, status).await?;
                }
                Ok(Action::requeue(Duration::from_secs(2)))
            }
            Removal::Done => {
                // The controller's own work, with no label that would make it one of ours.
                self.applier.lock().await.delete(&controller_ca()).await?;
                self.leave_openshift(&self.surroundings().await?).await?;
                let note = "removed; custom resource definitions stay";
                self.recorder.record(&cr.object_ref(&()), None, Severity::Normal, "Uninstalled", note).await;
                self.drop_finalizer(cr, FINALIZER).await?;
                Ok(Action::await_change())
            }
        }
    }

    /// When the deletion of the AntreaInstallations' definition was asked for, if it was.
    async fn definition_deleted(&self) -> Result<Option<Timestamp>, Error> {
        let definitions = Api::<CustomResourceDefinition>::all(self.client.clone());
        let definition =
            definitions.get_metadata_opt(DEFINITION).await.map_err(api_error("get the definition"))?;
        Ok(definition.and_then(|definition| definition.metadata.deletion_timestamp).map(|time| time.0))
    }

    /// Lets the installation go and leaves the network as it is. If this is not permitted any more, the controller
    /// does it.
    async fn let_go(&self, cr: &AntreaInstallation) -> Result<Action, Error> {
        let note = "the definition of AntreaInstallations is deleted: the network stays as it is";
        tracing::warn!("{note}");
        self.recorder.record(&cr.object_ref(&()), None, Severity::Warning, "NetworkLeft", note).await;
        let ours = |name: &&String| *name != FINALIZER && *name != CLEAN_FINALIZER;
        let others: Vec<String> = cr.finalizers().iter().filter(ours).cloned().collect();
        self.set_finalizers(cr, &others).await?;
        Ok(Action::await_change())
    }

    async fn start_cleaning(&self, config: &Effective) -> Result<(), Error> {
        let objects = [render::cleanup(config, &self.surroundings().await?)];
        let mut applier = self.applier.lock().await;
        for planned in applier.compare(&objects, &std::collections::BTreeMap::new(), Class::Live).await? {
            tracing::info!(object = %planned.change.key, "cleaning Nodes");
            applier.apply(&planned).await?;
        }
        // The watches tell of its Pods later than of the DaemonSet itself.
        self.shared.with(|state| state.cluster.cleaning_since = Some(Timestamp::now()));
        Ok(())
    }

    async fn report(&self, cr: &AntreaInstallation, left: &[Cleaned]) {
        if left.is_empty() {
            tracing::info!("Nodes are clean");
            return;
        }
        let note = format!(
            "{} Nodes keep links, rules and files of Antrea: {}; `antrea-agent cleanup` there removes them, and \
             another installation takes them over",
            left.len(),
            removal::name(left)
        );
        tracing::warn!(note, "Nodes are not clean");
        self.recorder.record(&cr.object_ref(&()), None, Severity::Warning, "NodesNotCleaned", &note).await;
    }
}

/// The ConfigMap in which the controller publishes its CA.
fn controller_ca() -> Key {
    Key { kind: CONFIG_MAP.kind, namespace: NAMESPACE.to_owned(), name: CONTROLLER_CA.to_owned() }
}

fn has(cr: &AntreaInstallation, finalizer: &str) -> bool {
    cr.finalizers().iter().any(|name| name == finalizer)
}

/// The status that says what removal waits for; `None` if it says so already, or there never was one.
fn told(
    previous: Option<&AntreaInstallationStatus>,
    generation: Option<i64>,
    message: &str,
    now: Timestamp,
) -> Option<AntreaInstallationStatus> {
    let previous = previous.filter(|status| status.message.as_deref() != Some(message))?;
    let mut status = previous.clone();
    status.message = Some(message.to_owned());
    status.conditions.retain(|condition| condition.type_ != ConditionType::Progressing);
    let before = previous.conditions.iter().find(|condition| condition.type_ == ConditionType::Progressing);
    let since =
        before.filter(|before| before.status == "True").map(|before| before.last_transition_time.clone());
    status.conditions.push(InstallationCondition {
        type_: ConditionType::Progressing,
        status: "True".to_owned(),
        observed_generation: generation,
        last_transition_time: since
            .unwrap_or_else(|| Time(Timestamp::from_second(now.as_second()).unwrap_or(now))),
        reason: "Uninstalling".to_owned(),
        message: message.to_owned(),
    });
    Some(status)
}

#[cfg(test)]
mod tests {
    use antrea_crds::AntreaInstallationSpec;
    use k8s_openapi::jiff::SignedDuration;

    use super::*;
    use crate::{
        cluster::Node,
        controller::testing::{Answer, Kube, context, installation},
        effective::Facts,
    };

    const CR: &str = "/apis/operator.antrea.io/v1alpha1/antreainstallations/default";
    const CRD: &str =
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/antreainstallations.operator.antrea.io";

    /// What is written when the deletion of the installation was asked for at second 10 and that of its definition
    /// at `definition`, on a cluster with an agent's DaemonSet.
    async fn uninstalled(definition: Option<i64>) -> (Vec<String>, Vec<String>) {
        let mut cr = installation(json!({}));
        cr.metadata.finalizers = Some(vec![FINALIZER.into(), "other/x".into(), CLEAN_FINALIZER.into()]);
        cr.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(10).unwrap()));
        let kube = Kube::default();
        kube.on(CR, Answer::Ok(serde_json::to_value(&cr).unwrap()));
        let deleted = definition.map(|seconds| Timestamp::from_second(seconds).unwrap().to_string());
        kube.on(
            CRD,
            Answer::Ok(json!({
                "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
                "metadata": {"name": DEFINITION, "deletionTimestamp": deleted},
            })),
        );
        let context = context(&kube);
        let agents = Key { kind: "DaemonSet", namespace: NAMESPACE.into(), name: render::AGENT.into() };
        context.shared.with(|state| state.owned.insert(agents, String::new()));
        context.uninstall(&cr).await.unwrap();
        let written = kube.written();
        let deleted = written.iter().filter_map(|(what, _)| what.strip_prefix("DELETE ").map(str::to_owned));
        let finalizers = written.iter().filter(|(what, _)| what == &format!("PATCH {CR}"));
        let left = finalizers.map(|(_, body)| body["metadata"]["finalizers"].to_string());
        (deleted.collect(), left.collect())
    }

    /// Deleting the whole manifest deletes the definition; the installation then goes after it.
    #[tokio::test]
    async fn an_installation_that_goes_with_its_definition_leaves_the_network() {
        for definition in [10, 8] {
            let (deleted, finalizers) = uninstalled(Some(definition)).await;
            assert!(deleted.is_empty(), "{deleted:?}");
            assert_eq!(finalizers, [r#"["other/x"]"#], "{definition}");
        }
    }

    #[tokio::test]
    async fn an_installation_that_somebody_deletes_takes_the_network_with_it() {
        for definition in [None, Some(11)] {
            let (deleted, finalizers) = uninstalled(definition).await;
            assert_eq!(
                deleted,
                ["/apis/apps/v1/namespaces/kube-system/daemonsets/antrea-agent"],
                "{definition:?}"
            );
            assert!(finalizers.is_empty());
        }
    }

    /// Agents may take all of their time to end, and an operator may have been away: Nodes are cleaned all the same.
    #[tokio::test]
    async fn cleaning_that_begins_late_has_its_time() {
        let config = crate::effective::effective(
            &AntreaInstallationSpec::default(),
            &Facts { default_version: "v1.0.0".into(), ..Facts::default() },
        );
        let mut cr = installation(json!({}));
        cr.metadata.finalizers = Some(vec![FINALIZER.into(), CLEAN_FINALIZER.into()]);
        let asked = Timestamp::now() - SignedDuration::from_secs(200);
        cr.metadata.deletion_timestamp = Some(Time(asked));
        let status = json!({"computed": config.unwrap().to_spec()});
        cr.status = Some(serde_json::from_value(status).unwrap());
        let kube = Kube::default();
        kube.on(CR, Answer::Ok(serde_json::to_value(&cr).unwrap()));
        kube.on(&format!("{CR}/status"), Answer::Ok(serde_json::to_value(&cr).unwrap()));
        let cleaner = Key { kind: "DaemonSet", namespace: NAMESPACE.into(), name: render::CLEANUP.into() };
        let path = format!("/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets/{}", render::CLEANUP);
        let made =
            json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": render::CLEANUP}});
        kube.on(&format!("PATCH {path}"), Answer::Ok(made));
        let context = context(&kube);
        context.shared.with(|state| {
            state.cluster.started = asked;
            let node = Node {
                labels: [("kubernetes.io/os".to_owned(), "linux".to_owned())].into(),
                taints: Vec::new(),
                reachable: true,
                pod_cidrs: Vec::new(),
                addresses: Vec::new(),
                created: Timestamp::UNIX_EPOCH,
            };
            state.cluster.nodes.insert("a".into(), node);
        });
        context.uninstall(&cr).await.unwrap();
        // The watch knows the DaemonSet, and no Pod of it yet.
        context.shared.with(|state| state.owned.insert(cleaner, String::new()));
        context.uninstall(&cr).await.unwrap();
        let written: Vec<String> = kube.written().into_iter().map(|(what, _)| what).collect();
        assert_eq!(written[0], format!("PATCH {path}"), "{written:?}");
        assert!(!written.contains(&format!("PATCH {CR}")), "a finalizer is gone: {written:?}");
    }

    /// Without an answer nothing is decided.
    #[tokio::test]
    async fn nothing_is_removed_while_the_definition_cannot_be_read() {
        let kube = Kube::default();
        kube.on(CRD, Answer::Fail(500, "no"));
        let mut cr = installation(json!({}));
        cr.metadata.finalizers = Some(vec![FINALIZER.into()]);
        cr.metadata.deletion_timestamp = Some(Time(Timestamp::from_second(10).unwrap()));
        let error = context(&kube).uninstall(&cr).await.unwrap_err();
        assert_eq!(error.to_string(), "get the definition: no");
        assert!(kube.written().is_empty());
    }

    #[test]
    fn the_status_says_what_is_waited_for_and_is_written_once() {
        let now = Timestamp::from_second(1_000).unwrap();
        assert_eq!(told(None, None, "x", now), None);
        let before = AntreaInstallationStatus::default();
        let first = told(Some(&before), Some(3), "waiting for a", now).unwrap();
        let condition = &first.conditions[0];
        assert_eq!(
            (condition.reason.as_str(), condition.message.as_str()),
            ("Uninstalling", "waiting for a")
        );
        assert_eq!(told(Some(&first), Some(3), "waiting for a", now), None);
        let later = Timestamp::from_second(2_000).unwrap();
        let second = told(Some(&first), Some(3), "waiting for b", later).unwrap();
        assert_eq!(second.conditions.len(), 1);
        assert_eq!(second.conditions[0].last_transition_time, condition.last_transition_time);
    }
}
