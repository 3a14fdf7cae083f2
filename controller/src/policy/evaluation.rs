//! What policies have to do with a Pod, and which rule decides between two, for `antctl query`.
//!
//! Upstream looks for one rule among those of both ends, so that what one end allows hides what the other denies, and
//! leaves address blocks out. Here each end decides, and the answer is where it is denied.

use std::sync::Arc;

use antrea_api::{
    controlplane::{
        API_VERSION, GROUP, VERSION,
        evaluation::{Answer, Entity, NO_RULE, NetworkPolicyEvaluation, RuleReference},
    },
    endpoint::{Endpoint, EndpointQuery, Found, PATH, Rule},
};
use antrea_policy::{
    Peering,
    evaluate::{self, Candidate, Cause, Decision},
    model::{Direction, NetworkPolicy, PolicyKind},
};
use apiserver_kit::{
    object::Object,
    status::Failure,
    storage::{Create, Resource, Storage},
};
use axum::{
    Json, Router,
    extract::{Query, State as Shared},
    routing::get,
};
use futures::future::BoxFuture;

use super::{PolicyHub, convert, storage::synced};

/// Namespace of a Pod that is asked for without one.
const DEFAULT_NAMESPACE: &str = "default";

/// [`PATH`]. It goes behind [`apiserver_kit::gate::protect`].
pub fn router(hub: &Arc<PolicyHub>) -> Router {
    Router::new().route(PATH, get(endpoint)).with_state(Arc::clone(hub))
}

fn namespace(name: &str) -> &str {
    if name.is_empty() { DEFAULT_NAMESPACE } else { name }
}

fn unknown(namespace: &str, pod: &str) -> Failure {
    let message = format!(
        "Pod {namespace}/{pod}: no policy concerns it, for it is not known, has ended, or is in its Node's network"
    );
    Failure { message, ..Failure::not_found("pods", pod) }
}

async fn endpoint(
    Shared(hub): Shared<Arc<PolicyHub>>,
    Query(query): Query<EndpointQuery>,
) -> Result<Json<Found>, Failure> {
    let (namespace, pod) = (namespace(&query.namespace), query.pod.as_str());
    if pod.is_empty() {
        return Err(Failure::bad_request("pod must be provided"));
    }
    let (found, _) = hub.read(|state, _| {
        synced(state)?;
        Ok::<_, Failure>(state.index.endpoint(namespace, pod).zip(state.index.peerings(namespace, pod)))
    });
    let (found, peerings) = found?.ok_or_else(|| unknown(namespace, pod))?;
    let policies = found.policies.iter().map(|policy| convert::reference(&policy.source)).collect();
    let (ingress, egress): (Vec<Peering>, Vec<Peering>) =
        peerings.into_iter().partition(|found| found.policy.rules[found.rule].direction == Direction::In);
    let endpoint = Endpoint {
        namespace: namespace.to_owned(),
        name: pod.to_owned(),
        policies,
        ingress_source_rules: ingress.iter().map(rule).collect(),
        egress_destination_rules: egress.iter().map(rule).collect(),
    };
    Ok(Json(Found { endpoints: vec![endpoint] }))
}

fn rule(found: &Peering) -> Rule {
    Rule {
        policy: convert::reference(&found.policy.source),
        direction: convert::direction(found.policy.rules[found.rule].direction).to_owned(),
        index: evaluate::index(&found.policy, found.rule),
    }
}

/// The resource `networkpolicyevaluation`: it is posted, answered and forgotten.
pub(super) const RESOURCE: Resource = Resource {
    group: GROUP,
    version: VERSION,
    api_version: API_VERSION,
    plural: "networkpolicyevaluation",
    singular: "networkpolicyevaluation",
    kind: "NetworkPolicyEvaluation",
    description: "NetworkPolicyEvaluation asks which rule of which policy decides about traffic between two Pods.",
    namespaced: false,
    short_names: &[],
    verbs: &["create"],
    columns: &[],
    fields: &[],
    subresources: &[],
};

/// Answers evaluations.
pub(super) struct Evaluations {
    hub: Arc<PolicyHub>,
}

impl Evaluations {
    pub(super) fn new(hub: &Arc<PolicyHub>) -> Arc<Self> {
        Arc::new(Self { hub: Arc::clone(hub) })
    }
}

impl Storage for Evaluations {
    fn create(&self, create: Create) -> BoxFuture<'_, Result<Arc<dyn Object>, Failure>> {
        Box::pin(async move {
            let mut evaluation: NetworkPolicyEvaluation = create.body.decode()?;
            let asked = evaluation.request.clone().unwrap_or_default();
            let source = pod("request.source.pod", &asked.source)?;
            let destination = pod("request.destination.pod", &asked.destination)?;
            let (response, _) = self.hub.read(|state, _| {
                synced(state)?;
                let end = |(namespace, pod): (&str, &str)| {
                    state.index.endpoint(namespace, pod).ok_or_else(|| unknown(namespace, pod))
                };
                let (from, to) = (end(source)?, end(destination)?);
                let decided = evaluate::evaluate(&from, &to, None);
                // What a Pod sends to itself does not leave it.
                let deciding = decided.deciding().filter(|_| source != destination);
                Ok::<_, Failure>(deciding.and_then(|(direction, decision)| answer(direction, decision)))
            });
            evaluation.response = response?;
            Ok(Arc::new(evaluation) as Arc<dyn Object>)
        })
    }
}

fn pod<'a>(field: &str, entity: &'a Entity) -> Result<(&'a str, &'a str), Failure> {
    let named = entity.pod.as_ref().filter(|pod| !pod.name.is_empty());
    let pod = named.ok_or_else(|| Failure::bad_request(format_args!("{field}.name: must be provided")))?;
    Ok((namespace(&pod.namespace), &pod.name))
}

fn answer(direction: Direction, decision: &Decision) -> Option<Answer> {
    let of = |policy: &NetworkPolicy, rule_index, rule| Answer {
        network_policy: convert::reference(&policy.source),
        rule_index,
        rule: RuleReference { direction: convert::direction(direction).to_owned(), ..rule },
    };
    match &decision.cause {
        Cause::Nothing => None,
        Cause::Isolated(policies) => {
            policies.first().map(|policy| of(policy, NO_RULE, RuleReference::default()))
        }
        Cause::Rule(found) => {
            let index = i32::try_from(found.index()).unwrap_or(i32::MAX);
            Some(of(&found.policy, index, described(found)))
        }
    }
}

fn described(found: &Candidate) -> RuleReference {
    let native = found.policy.source.kind != PolicyKind::K8sNetworkPolicy;
    RuleReference {
        name: found.rule().name.as_deref().unwrap_or_default().to_owned(),
        action: native.then(|| convert::action(found.action()).to_owned()),
        ..RuleReference::default()
    }
}
