//! Objects for Prometheus, Grafana and user interfaces. The network does not depend on them: what goes wrong here is told and tried
//! again, and holds up nothing.

use std::{collections::BTreeMap, time::Duration};

use antrea_crds::{AntreaInstallation, installation::PendingChange};

use super::{Context, Error, TRANSIENT};
use crate::{
    effective::Effective,
    object::{Key, Object},
    plan::{Class, Plan},
    render,
};

/// What failed for good is tried again after this long.
const AGAIN: Duration = Duration::from_secs(60);

/// What may pass by itself is tried again after this long.
const SOON: Duration = Duration::from_secs(5);

/// What is left to do.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    /// Changes that are not made because the installation is paused.
    pub(super) held: Vec<PendingChange>,
    /// What is wrong.
    pub(super) error: Option<String>,
    /// When to try again.
    pub(super) again: Option<Duration>,
}

impl Context {
    /// Compares and, unless paused, changes.
    pub(super) async fn converge_monitoring(
        &self,
        cr: &AntreaInstallation,
        config: &Effective,
        paused: bool,
    ) -> Unfinished {
        // What is not listed yet could be taken for what is not there, and be left behind.
        let unlisted = self.shared.monitoring_unlisted();
        if !unlisted.is_empty() {
            let error = unlisted.into_iter().find(|(_, reason)| !reason.is_empty());
            let error = error.map(|(name, reason)| format!("watch {name}: {reason}"));
            return Unfinished { again: error.is_some().then_some(SOON), error, held: Vec::new() };
        }
        let (owned, served) = self.shared.with(|state| {
            let mut owned = state.owned.clone();
            owned.retain(|key, _| render::is_extra(key));
            (owned, state.served)
        });
        let objects = render::extras(config, served, &self.settings.facts.operator_namespace);
        let mut outcome = Unfinished::default();
        let mut failure = None;
        // One by one: a namespace or a webhook that refuses one object does not keep the others away.
        for object in &objects {
            let known =
                owned.get(&object.key()).map(|print| (object.key(), print.clone())).into_iter().collect();
            if let Err(error) =
                self.converge_some(cr, std::slice::from_ref(object), &known, paused, &mut outcome).await
            {
                failure.get_or_insert(error);
            }
        }
        let wanted: Vec<Key> = objects.iter().map(Object::key).collect();
        let mut unwanted = owned;
        unwanted.retain(|key, _| !wanted.contains(key));
        if let Err(error) = self.converge_some(cr, &[], &unwanted, paused, &mut outcome).await {
            failure.get_or_insert(error);
        }
        let failures = self.memory(|memory| {
            memory.monitoring_failures = if failure.is_some() { memory.monitoring_failures + 1 } else { 0 };
            memory.monitoring_failures
        });
        if let Some(error) = failure {
            tracing::warn!(%error, "objects for others");
            outcome.again = Some(if error.is_transient() { SOON } else { AGAIN });
            outcome.error = (!error.is_transient() || failures > TRANSIENT).then(|| error.to_string());
        }
        outcome
    }

    async fn converge_some(
        &self,
        cr: &AntreaInstallation,
        objects: &[Object],
        owned: &BTreeMap<Key, String>,
        paused: bool,
        outcome: &mut Unfinished,
    ) -> Result<(), Error> {
        let mut applier = self.applier.lock().await;
        for item in applier.compare(objects, owned, Class::Live).await? {
            let change = &item.change;
            if paused {
                outcome.held.extend(Plan { changes: vec![change.clone()] }.pending());
                continue;
            }
            tracing::info!(object = %change.key, action = %change.action, drift = change.drift, "applying");
            let repairs = applier.apply(&item).await?;
            self.metrics.changes.with_label_values(&[change.key.kind, &change.action.to_string()]).inc();
            self.record_repairs(cr, &change.key, &repairs).await;
        }
        Ok(())
    }
}
