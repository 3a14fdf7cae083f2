//! What the pages show, fetched anew for each.

use antrea_crds::{AntreaAgentInfo, AntreaControllerInfo, AntreaInstallation, INSTALLATION_NAME};
use antrea_ui_model::{Input, View, trace::Traceflow};
use jiff::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};

use crate::octant::{Kind, Octant, OctantError};

pub(crate) const CONTROLLER: Kind =
    Kind { api_version: "crd.antrea.io/v1beta1", kind: "AntreaControllerInfo" };
pub(crate) const AGENT: Kind = Kind { api_version: "crd.antrea.io/v1beta1", kind: "AntreaAgentInfo" };
pub(crate) const TRACEFLOW: Kind = Kind { api_version: "crd.antrea.io/v1beta1", kind: "Traceflow" };
const INSTALLATION: Kind = Kind { api_version: "operator.antrea.io/v1alpha1", kind: "AntreaInstallation" };

/// Problems that a page tells at most.
const MAX_PROBLEMS: usize = 5;

/// A page's data, with what of it could not be had.
pub(crate) struct Fetched<T> {
    pub(crate) data: T,
    pub(crate) problems: Vec<String>,
}

/// Controller, agents, installation.
pub(crate) async fn view(octant: Result<Octant, OctantError>, now: Timestamp) -> Fetched<View> {
    let mut problems = Vec::new();
    let (mut controllers, mut agents, mut installations) = (Vec::new(), Vec::new(), Vec::new());
    match octant {
        Err(error) => problems.push(error.to_string()),
        Ok(octant) => {
            let lists = tokio::join!(octant.list(CONTROLLER), octant.list(AGENT), octant.list(INSTALLATION));
            controllers = decoded(CONTROLLER, lists.0, &mut problems);
            agents = decoded(AGENT, lists.1, &mut problems);
            installations = decoded(INSTALLATION, lists.2, &mut problems);
        }
    }
    let controller = controllers.into_iter().find(|one: &AntreaControllerInfo| {
        one.metadata.name.as_deref() == Some(antrea_crds::CONTROLLER_INFO_NAME)
    });
    let installation = installations
        .into_iter()
        .find(|one: &AntreaInstallation| one.metadata.name.as_deref() == Some(INSTALLATION_NAME));
    let agents: Vec<AntreaAgentInfo> = agents;
    let input = Input { now, controller, agents, installation, gates: Vec::new() };
    Fetched { data: View::of(&input), problems: bounded(problems) }
}

/// Traceflows.
pub(crate) async fn traces(octant: Result<Octant, OctantError>) -> Fetched<Vec<Traceflow>> {
    let mut problems = Vec::new();
    let data = match octant {
        Err(error) => {
            problems.push(error.to_string());
            Vec::new()
        }
        Ok(octant) => decoded(TRACEFLOW, octant.list(TRACEFLOW).await, &mut problems),
    };
    Fetched { data, problems: bounded(problems) }
}

/// One object that does not decode hides no other.
fn decoded<T: DeserializeOwned>(
    kind: Kind,
    list: Result<Vec<Vec<u8>>, OctantError>,
    problems: &mut Vec<String>,
) -> Vec<T> {
    let list = list.unwrap_or_else(|error| {
        problems.push(format!("{}: {error}", kind.kind));
        Vec::new()
    });
    let mut decoded = Vec::with_capacity(list.len());
    for object in list {
        match serde_json::from_slice(&object) {
            Ok(object) => decoded.push(object),
            Err(error) => problems.push(format!("{} {}: {error}", kind.kind, name_of(&object))),
        }
    }
    decoded
}

fn bounded(mut problems: Vec<String>) -> Vec<String> {
    if problems.len() > MAX_PROBLEMS {
        let more = problems.len() - MAX_PROBLEMS;
        problems.truncate(MAX_PROBLEMS);
        problems.push(format!("and {more} more"));
    }
    problems
}

/// The name of an object of which no more can be read.
fn name_of(object: &[u8]) -> String {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Named {
        metadata: Metadata,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Metadata {
        name: String,
    }
    serde_json::from_slice(object).map(|named: Named| named.metadata.name).unwrap_or_default()
}
