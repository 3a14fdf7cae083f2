//! What a spec would change that is not applied: asked by an annotation, answered in the status, by what plans and applies.

use antrea_crds::{
    AntreaInstallation, AntreaInstallationSpec,
    installation::{ManagementState, PROPOSAL, Proposal, ProposalRequest},
};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::{Context, Error, facts::Wanted};
use crate::{
    plan::Class,
    render,
    rollout::{
        policy::Policy,
        progress::{self, whole_seconds},
    },
};

/// Characters of a question's id.
const ID: usize = 64;

impl Context {
    /// The answer to the question that an AntreaInstallation has, if it has one.
    pub(super) async fn proposal(&self, cr: &AntreaInstallation) -> Option<Proposal> {
        let asked: ProposalRequest = match serde_json::from_str(cr.annotations().get(PROPOSAL)?) {
            Ok(asked) => asked,
            Err(error) => return Some(refusal(String::new(), format!("annotation {PROPOSAL}: {error}"))),
        };
        let id: String = asked.id.chars().take(ID).collect();
        let before = cr.status.as_ref().and_then(|status| status.proposal.as_ref());
        if let Some(before) = before.filter(|before| before.id == id) {
            return Some(before.clone());
        }
        Some(match self.would_change(cr, asked.spec).await {
            Ok(answer) => Proposal { id, ..answer },
            Err(error) => refusal(id, error.to_string()),
        })
    }

    async fn would_change(
        &self,
        cr: &AntreaInstallation,
        spec: AntreaInstallationSpec,
    ) -> Result<Proposal, Error> {
        let asked = AntreaInstallation { spec, ..cr.clone() };
        let Wanted { config, refused, around } = self.configuration(&asked).await?;
        let (None, Some(config)) = (&refused, config) else {
            let why = refused.map_or_else(|| "nothing comes of it".to_owned(), |why| why.to_string());
            return Ok(refusal(String::new(), why));
        };
        let status = cr.status.as_ref();
        let record = status.and_then(|status| status.rollout.clone()).unwrap_or_default();
        let version = status.and_then(|status| status.version.as_deref());
        let previous = status.and_then(|status| status.computed.as_deref());
        let direction = progress::direction(&record, version, &config.to_spec());
        let objects = render::objects(&config, &around);
        let pending_changes = self.preview(&config, &objects, previous, direction).await?;

        let policy = Policy::new(asked.spec.rollout.as_ref());
        let is = |class: Class| {
            let class = class.to_string();
            move |change: &antrea_crds::installation::PendingChange| change.class == class
        };
        let restarts = !pending_changes.iter().all(is(Class::Live));
        let planned_waves = if restarts && previous.is_some() {
            self.waves(&self.agents(&config), &policy).planned()
        } else {
            Vec::new()
        };
        let mut waits_for = Vec::new();
        if asked.spec.management_state == Some(ManagementState::Paused) {
            waits_for.push("spec.managementState: Managed".to_owned());
        }
        if previous.is_some() && pending_changes.iter().any(is(Class::Disruptive)) {
            waits_for.push("spec.rollout.acknowledge: the generation that the spec gets".to_owned());
        }
        let now = Timestamp::now();
        if let Some(left) = policy.opens_in(now).filter(|_| restarts) {
            waits_for.push(format!("spec.rollout.window, which opens at {}", whole_seconds(now + left)));
        }
        Ok(Proposal { pending_changes, planned_waves, waits_for, ..Proposal::default() })
    }
}

fn refusal(id: String, why: String) -> Proposal {
    Proposal { id, refused: Some(why), ..Proposal::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::testing::{Answer, Kube, context, installation};

    /// An installation that is asked what another spec would change.
    fn asked(request: &str) -> AntreaInstallation {
        let mut cr = installation(json!({"serviceCidrs": ["10.96.0.0/16"]}));
        cr.annotations_mut().insert(PROPOSAL.into(), request.into());
        cr
    }

    fn request(spec: &Value) -> String {
        json!({"id": "7", "spec": spec}).to_string()
    }

    #[tokio::test]
    async fn a_spec_is_looked_at_and_nothing_is_written() {
        let kube = Kube::default();
        let spec = json!({"serviceCidrs": ["10.96.0.0/16"], "mtu": 1400, "managementState": "Paused"});
        let cr = asked(&request(&spec));
        let answer = context(&kube).proposal(&cr).await.unwrap();
        assert_eq!((answer.id.as_str(), &answer.refused), ("7", &None));
        assert!(!answer.pending_changes.is_empty());
        assert_eq!(answer.waits_for, ["spec.managementState: Managed"]);
        assert!(answer.pending_changes.iter().all(|change| change.action == "Create"), "{answer:?}");
        let written = kube.written();
        assert!(written.iter().all(|(what, _)| what.ends_with("(dry)")), "{written:?}");
    }

    #[tokio::test]
    async fn what_would_be_refused_says_why() {
        for (request, why) in [
            (request(&json!({"featureGates": {"NoSuchGate": true}})), "NoSuchGate"),
            (request(&json!({"version": "v9.0.0"})), "v9.0.0"),
            (r#"{"id": "7", "spec": {"mtu": "x"}}"#.to_owned(), PROPOSAL),
            ("{".to_owned(), PROPOSAL),
        ] {
            let mut cr = asked(&request);
            cr.status = Some(serde_json::from_value(json!({"version": "v1.0.0"})).unwrap());
            let answer = context(&Kube::default()).proposal(&cr).await.unwrap();
            assert!(answer.refused.as_ref().is_some_and(|text| text.contains(why)), "{request}: {answer:?}");
            assert!(answer.pending_changes.is_empty());
        }
    }

    /// What cannot be found out is no plan without changes.
    #[tokio::test]
    async fn a_server_that_cannot_say_is_told() {
        let kube = Kube::default();
        kube.on("/apis/networking.k8s.io/v1/servicecidrs", Answer::Fail(500, "etcd is away"));
        let answer = context(&kube).proposal(&asked(&request(&json!({})))).await.unwrap();
        assert!(answer.refused.unwrap().contains("etcd is away"));
    }

    #[tokio::test]
    async fn a_question_is_answered_once_and_forgotten_with_its_annotation() {
        let mut cr = asked(&request(&json!({})));
        let known = json!({"proposal": {"id": "7", "refused": "as before"}});
        cr.status = Some(serde_json::from_value(known).unwrap());
        let context = context(&Kube::default());
        assert_eq!(context.proposal(&cr).await.unwrap().refused.as_deref(), Some("as before"));
        cr.annotations_mut().clear();
        assert_eq!(context.proposal(&cr).await, None);
    }
}
