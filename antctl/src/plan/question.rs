//! The question to the operator: an annotation of the AntreaInstallation, whose answer is in the status.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use antrea_crds::{
    AntreaInstallation, INSTALLATION_NAME,
    installation::{PROPOSAL, Proposal},
};
use anyhow::{Context, bail};
use http::{Method, Request, header::CONTENT_TYPE};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use crate::connect::Server;
use crate::made;

const PATH: &str = "/apis/operator.antrea.io/v1alpha1/antreainstallations/default";

/// What errors are about.
const WHAT: &str = "AntreaInstallation default";

/// Checks, and changes nothing.
const TRY: &str = "?dryRun=All&fieldValidation=Strict";

/// How often the answer is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Octets of a file: what the annotations of an object may have together.
const LARGEST: u64 = 256 << 10;

/// The spec in a file.
pub(super) fn read(file: &Path) -> anyhow::Result<Value> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().take(LARGEST + 1).read_to_string(&mut text)?;
    } else {
        std::fs::File::open(file)?.take(LARGEST + 1).read_to_string(&mut text)?;
    }
    if text.len() as u64 > LARGEST {
        bail!("has more than {LARGEST} octets");
    }
    of_text(&text)
}

fn of_text(text: &str) -> anyhow::Result<Value> {
    let mut object: Value = serde_saphyr::from_str(text)?;
    if object["kind"] != "AntreaInstallation" {
        bail!("kind: {} is no AntreaInstallation", object["kind"]);
    }
    let name = &object["metadata"]["name"];
    if name != INSTALLATION_NAME {
        bail!("metadata.name: {name} is not {INSTALLATION_NAME:?}, which is the only one that there is");
    }
    Ok(match object["spec"].take() {
        Value::Null => json!({}),
        spec => spec,
    })
}

/// Has the API server check the spec, asks the operator, and takes the question away again.
pub(super) async fn ask(
    cluster: &Server,
    spec: Value,
    id: String,
    limit: Duration,
) -> anyhow::Result<Proposal> {
    let api = Api::<AntreaInstallation>::all(cluster.client.clone());
    let within = |what: &str| format!("{what} within {limit:?}; --timeout allows more");
    let tried = tokio::time::timeout(limit, tried(cluster, &spec)).await;
    let spec = tried.with_context(|| within("the API server does not look at the spec"))??;
    // As it is: the operator may know fields that are not known here.
    let question = json!({"id": id, "spec": spec}).to_string();

    let asked = async {
        let annotate = json!({"metadata": {"annotations": {PROPOSAL: question}}});
        let annotated = api.patch(INSTALLATION_NAME, &PatchParams::default(), &Patch::Merge(&annotate)).await;
        annotated.map_err(|error| cluster.explain(&error, WHAT))?;
        answer(&api, &question, &id).await
    };
    let answered = made::unless_interrupted(async {
        tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| {
            bail!("no answer within {limit:?}: does antrea-operator run, and does it know the annotation {PROPOSAL}?")
        })
    });
    let answered = answered.await;
    // Whether it was asked or not, which an error does not say.
    let withdrawn = made::unless_interrupted(async {
        let withdrawn = tokio::time::timeout(limit, withdraw(&api, &question)).await;
        withdrawn.with_context(|| within("no answer"))?.map_err(|error| cluster.explain(&error, WHAT))
    });
    if let Err(error) = withdrawn.await {
        eprintln!("antctl: the annotation {PROPOSAL} stays: {error:#}");
    }
    answered
}

/// The spec as the API server would store it.
async fn tried(cluster: &Server, spec: &Value) -> anyhow::Result<Value> {
    loop {
        let mut whole: Value = serde_json::from_str(&cluster.ask(Method::GET, PATH).await?)?;
        whole["spec"] = spec.clone();
        let request = Request::put(format!("{PATH}{TRY}")).header(CONTENT_TYPE, "application/json");
        let request = request.body(serde_json::to_vec(&whole)?)?;
        match cluster.client.request::<Value>(request).await {
            Ok(mut stored) => return Ok(stored["spec"].take()),
            // The operator has written the status meanwhile.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(cluster.explain(&error, WHAT)),
        }
    }
}

/// Removes the question, unless it is somebody else's by now.
async fn withdraw(api: &Api<AntreaInstallation>, question: &str) -> kube::Result<()> {
    loop {
        let seen = api.get(INSTALLATION_NAME).await?;
        if seen.annotations().get(PROPOSAL).is_none_or(|asked| asked != question) {
            return Ok(());
        }
        let version = &seen.metadata.resource_version;
        let remove = json!({"metadata": {"resourceVersion": version, "annotations": {PROPOSAL: null}}});
        match api.patch(INSTALLATION_NAME, &PatchParams::default(), &Patch::Merge(&remove)).await {
            // The operator has written the status meanwhile.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            done => return done.map(drop),
        }
    }
}

async fn answer(api: &Api<AntreaInstallation>, question: &str, id: &str) -> anyhow::Result<Proposal> {
    loop {
        let seen = api.get(INSTALLATION_NAME).await.context("look for the answer")?;
        if let Some(answer) =
            seen.status.as_ref().and_then(|status| status.proposal.clone()).filter(|answer| answer.id == id)
        {
            return Ok(answer);
        }
        if seen.annotations().get(PROPOSAL).is_none_or(|asked| asked != question) {
            bail!("somebody else has asked for a plan meanwhile: ask again");
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::Place;
    use crate::tests::{Cluster, Fixture};

    #[test]
    fn only_the_one_installation_is_looked_at() {
        let object = "kind: AntreaInstallation\nmetadata: {name: default}\nspec: {mtu: 1400}\n";
        assert_eq!(of_text(object).unwrap(), json!({"mtu": 1400}));
        let none = "kind: AntreaInstallation\nmetadata: {name: default}\n";
        assert_eq!(of_text(none).unwrap(), json!({}));
        for (text, why) in [
            ("kind: ConfigMap\nmetadata: {name: default}\n", "kind"),
            ("kind: AntreaInstallation\nmetadata: {name: mine}\n", "metadata.name"),
            ("mtu: 1400\n", "kind"),
        ] {
            assert!(of_text(text).unwrap_err().to_string().starts_with(why), "{text}");
        }
    }

    async fn asked(annotations: Value, status: Value) -> anyhow::Result<Proposal> {
        let object = json!({
            "apiVersion": "operator.antrea.io/v1alpha1", "kind": "AntreaInstallation",
            "metadata": {"name": "default", "annotations": annotations}, "spec": {"later": 1}, "status": status,
        });
        let mut cluster = Cluster::default();
        cluster.answers.insert(format!("GET {PATH}"), object.clone());
        for asked in [format!("PUT {PATH}{TRY}"), format!("PATCH {PATH}?"), format!("PATCH {PATH}")] {
            cluster.answers.insert(asked, object.clone());
        }
        let fixture = Fixture::new(cluster).await;
        let server = fixture.clients(Place::Elsewhere).cluster().await?;
        ask(&server, json!({"later": 1}), "7".to_owned(), Duration::from_millis(300)).await
    }

    #[tokio::test]
    async fn the_answer_is_that_of_this_question() {
        // Field by field as the API server has it, also what only a later version knows.
        let question = json!({"id": "7", "spec": {"later": 1}}).to_string();
        let annotations = json!({PROPOSAL: question});
        let told = asked(annotations.clone(), json!({"proposal": {"id": "7", "refused": "x"}})).await;
        assert_eq!(told.unwrap().refused.as_deref(), Some("x"));
        let error = asked(annotations, json!({"proposal": {"id": "6"}})).await.unwrap_err();
        assert!(error.to_string().contains("no answer within 300ms"), "{error}");
        let error = asked(json!({PROPOSAL: "another"}), json!({})).await.unwrap_err();
        assert!(error.to_string().contains("somebody else"), "{error}");
    }
}
