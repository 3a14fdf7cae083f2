//! Carries plans out: server-side apply, comparison by dry run, removal.
//!
//! Whether an object differs from what is wanted is for the API server to say: a dry run of the very apply
//! that would follow gives the object as it would be, with every default and every normal form, and that
//! is compared with the object as it is.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PropagationPolicy},
    core::DynamicObject,
};
use serde_json::Value;

use crate::{
    APPLIED_ANNOTATION, FIELD_MANAGER, OWNER_LABEL,
    fields::{self, Difference},
    object::{self, Key, Kind, Object},
    plan::{Action, Class, ObjectChange},
    render,
    watches::fingerprint,
};

/// Why an object could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{action} {key}: {}", explain(source))]
pub struct Error {
    /// What was tried.
    pub action: &'static str,
    /// On which object.
    pub key: Key,
    /// What the API server said.
    #[source]
    pub source: kube::Error,
}

/// The API server's own message where there is one.
fn explain(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

/// What was applied last: hash of what was wanted, fingerprint of what came of it.
type Applied = BTreeMap<Key, (String, String)>;

/// What somebody else changed and was put back.
#[derive(Clone, Debug, PartialEq)]
pub struct Repair {
    /// Object that it is in.
    pub key: Key,
    /// The field, what it had been changed to, and what it is again; none if the object was deleted.
    pub field: Option<Difference>,
    /// Who changed it, as far as managedFields tell.
    pub manager: Option<String>,
}

/// A change together with what is needed to make it.
pub struct Planned<'a> {
    pub change: ObjectChange,
    /// What is wanted, unless it is a removal.
    pub object: Option<&'a Object>,
    /// Who manages the fields of what is there.
    managers: Vec<ManagedFieldsEntry>,
}

/// Applies objects and remembers what came of it.
pub struct Applier {
    client: Client,
    applied: Applied,
}

impl Applier {
    /// Nothing is known to be applied yet.
    pub fn new(client: Client) -> Self {
        Self { client, applied: Applied::new() }
    }

    fn api(&self, kind: &Kind, key: &Key) -> Api<DynamicObject> {
        let resource = kind.api_resource();
        if kind.namespaced {
            Api::namespaced_with(self.client.clone(), &key.namespace, &resource)
        } else {
            Api::all_with(self.client.clone(), &resource)
        }
    }

    /// What differs between `objects` and the cluster, and which of our objects (`owned`, with their
    /// fingerprints) are not wanted any more. Objects that are as they were left are not looked at.
    /// `class` is the class of a change that restarts Pods.
    ///
    /// # Errors
    /// The first object that cannot be compared.
    pub async fn compare<'a>(
        &mut self,
        objects: &'a [Object],
        owned: &BTreeMap<Key, String>,
        class: Class,
    ) -> Result<Vec<Planned<'a>>, Error> {
        let mut planned = Vec::new();
        for object in objects {
            let key = object.key();
            let hash = object.hash();
            let known = self.applied.get(&key);
            if let (Some((applied, left)), Some(now)) = (known, owned.get(&key))
                && *applied == hash
                && left == now
            {
                continue;
            }
            if let Some(plan) = self.compare_one(object, class).await? {
                planned.push(plan);
            }
        }
        let wanted: std::collections::BTreeSet<Key> = objects.iter().map(Object::key).collect();
        for key in owned.keys().filter(|key| !wanted.contains(*key)) {
            let Some(kind) = object::kind(key.kind) else { continue };
            // Removing a definition removes every object of it.
            if kind.kind == crate::object::CRD.kind {
                continue;
            }
            let class = if kind.stage >= crate::object::Stage::Controller {
                class.max(Class::Restart)
            } else {
                Class::Live
            };
            let change = ObjectChange {
                key: key.clone(),
                stage: kind.stage,
                action: Action::Delete,
                class,
                fields: Vec::new(),
                drift: false,
            };
            planned.push(Planned { change, object: None, managers: Vec::new() });
        }
        Ok(planned)
    }

    async fn compare_one<'a>(
        &mut self,
        object: &'a Object,
        class: Class,
    ) -> Result<Option<Planned<'a>>, Error> {
        let key = object.key();
        let api = self.api(object.kind, &key);
        let fail = |action| move |source| Error { action, key: object.key(), source };
        let change = |action, class, fields, drift| ObjectChange {
            key: key.clone(),
            stage: object.kind.stage,
            action,
            class,
            fields,
            drift,
        };
        let Some(live) = api.get_opt(&object.name).await.map_err(fail("get"))? else {
            // What we applied and is gone was deleted by somebody else.
            let drift = self.applied.contains_key(&key);
            let change = change(Action::Create, Class::Live, Vec::new(), drift);
            return Ok(Some(Planned { change, object: Some(object), managers: Vec::new() }));
        };
        if render::is_others(&key)
            && live.metadata.labels.as_ref().is_none_or(|has| !has.contains_key(OWNER_LABEL))
        {
            return Ok(None);
        }
        let params = PatchParams { dry_run: true, ..params() };
        let target =
            api.patch(&object.name, &params, &Patch::Apply(&object.body)).await.map_err(fail("compare"))?;
        let found = fields::differences(&json(&live), &json(&target));
        if found.is_empty() {
            self.applied.insert(key, (object.hash(), fingerprint(&live.metadata)));
            return Ok(None);
        }
        let annotation =
            |name: &str| live.metadata.annotations.as_ref().and_then(|map| map.get(name)).cloned();
        // What was wanted last is wanted still, and yet it differs.
        let wanted = object.body["metadata"]["annotations"][APPLIED_ANNOTATION].as_str();
        let drift = wanted.is_some() && annotation(APPLIED_ANNOTATION).as_deref() == wanted;
        let restarts = render::revision(object).is_some_and(|revision| {
            let live = live.data.pointer("/spec/template/metadata/annotations");
            live.and_then(|map| map.get(crate::REVISION_ANNOTATION)).and_then(Value::as_str) != Some(revision)
        });
        let class = if restarts { class.max(Class::Restart) } else { Class::Live };
        let managers = live.metadata.managed_fields.clone().unwrap_or_default();
        Ok(Some(Planned {
            change: change(Action::Update, class, found, drift),
            object: Some(object),
            managers,
        }))
    }

    /// Makes a change and tells which fields were put back.
    ///
    /// # Errors
    /// The API server refused it.
    pub async fn apply(&mut self, planned: &Planned<'_>) -> Result<Vec<Repair>, Error> {
        let Some(object) = planned.object else {
            self.delete(&planned.change.key).await?;
            return Ok(Vec::new());
        };
        let key = object.key();
        let result = self
            .api(object.kind, &key)
            .patch(&object.name, &params(), &Patch::Apply(&object.body))
            .await
            .map_err(|source| Error { action: "apply", key: key.clone(), source })?;
        self.applied.insert(key.clone(), (object.hash(), fingerprint(&result.metadata)));
        if !planned.change.drift {
            return Ok(Vec::new());
        }
        let repair = |field: &Difference| Repair {
            key: key.clone(),
            manager: fields::manager(&planned.managers, &field.path, FIELD_MANAGER).map(str::to_owned),
            field: Some(field.clone()),
        };
        if planned.change.action == Action::Create {
            return Ok(vec![Repair { key, field: None, manager: None }]);
        }
        Ok(planned.change.fields.iter().map(repair).collect())
    }

    /// Removes an object with everything that belongs to it. It is no error that it is not there.
    ///
    /// # Errors
    /// The API server refused it.
    pub async fn delete(&mut self, key: &Key) -> Result<(), Error> {
        let Some(kind) = object::kind(key.kind) else { return Ok(()) };
        self.applied.remove(key);
        let params = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        match self.api(kind, key).delete(&key.name, &params).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(source) => Err(Error { action: "delete", key: key.clone(), source }),
        }
    }
}

fn params() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

fn json(object: &DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

impl Repair {
    /// What happened, for an Event.
    pub fn note(&self) -> String {
        let Some(field) = &self.field else { return format!("{} was deleted; created again", self.key) };
        let show = |value: &Option<Value>| match value {
            None => "removed".to_owned(),
            Some(Value::String(text)) => format!("\"{}\"", crate::cluster::shorten(text)),
            Some(other) => crate::cluster::shorten(&other.to_string()),
        };
        let who = self.manager.as_deref().unwrap_or("an unknown manager");
        let (from, to) = (show(&field.from), show(&field.to));
        let did = if field.from.is_some() { format!("set to {from}") } else { from };
        let back = if field.to.is_some() { format!("put back to {to}") } else { "removed again".to_owned() };
        format!("{}: field {} was {did} by {who}; {back}", self.key, field.path)
    }
}

#[cfg(test)]
mod tests;
