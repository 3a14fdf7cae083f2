//! Webhooks of the API server: what is wrong with a native policy, a group or a Tier is said to whoever writes it, and
//! rules get names.
//!
//! The API server shows no credentials, so anybody who reaches the port may ask. Nothing is told that the question does
//! not hold but names of Tiers and of policies in them, and all that questions cost is bounded.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use antrea_policy::{Findings, crd, error::PolicyError, limits};
use antrea_runtime::metrics::{Metrics, Result as MetricsResult};
use apiserver_kit::{share, status::Failure};
use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, header::CONTENT_LENGTH},
    routing::post,
};
use http_body_util::BodyExt;
use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionResponse, AdmissionReview, Operation},
};
use parking_lot::Mutex;
use prometheus::IntCounterVec;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{PolicyHub, State as PolicyState, storage::synced};

/// Longest question, in octets: what the API server takes of an object, twice, and who asks.
const MAX_BODY: usize = 4 << 20;
/// Questions up to this size do not wait for longer ones.
const SMALL: usize = 64 << 10;
/// Octets of questions in hand at the same time, by whether they are small. They count as they come: what somebody only
/// says that he will send keeps nobody waiting.
const IN_HAND: [usize; 2] = [16 << 20, 32 << 20];
/// Questions of one address at the same time, and their octets: less than there is, for others ask as well.
const PER_ADDRESS: Held = Held { questions: 16, octets: 8 << 20 };
/// A question has to be there within this time.
const READ: Duration = Duration::from_secs(3);
/// Findings that an answer names.
const NAMED: usize = 10;
/// Longest warning that the API server hands on, in octets.
const MAX_WARNING: usize = 256;

/// Questions answered.
#[derive(Clone)]
pub struct AdmissionMetrics(IntCounterVec);

impl AdmissionMetrics {
    /// Registers with `metrics`.
    ///
    /// # Errors
    /// The name is taken.
    pub fn new(metrics: &Metrics) -> MetricsResult<Self> {
        let help =
            "Questions of the API server about policies, groups and Tiers that somebody writes, by answer.";
        Ok(Self(metrics.counter_vec(
            "antrea_controller_admission_reviews_total",
            help,
            &["resource", "result"],
        )?))
    }
}

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Tier,
    Policy,
    Group,
}

/// The last part of a path, and the kind behind it.
const KINDS: [(&str, Kind); 5] = [
    ("tier", Kind::Tier),
    ("acnp", Kind::Policy),
    ("annp", Kind::Policy),
    ("clustergroup", Kind::Group),
    ("group", Kind::Group),
];

/// What requests need.
struct Desk {
    hub: Arc<PolicyHub>,
    metrics: AdmissionMetrics,
    in_hand: [Semaphore; 2],
    askers: Mutex<HashMap<IpAddr, Held>>,
}

/// What an address has at the desk.
#[derive(Clone, Copy, Default)]
struct Held {
    questions: usize,
    octets: usize,
}

/// `/validate/{kind}` and `/mutate/{kind}`, as upstream's. They are asked without credentials.
pub fn router(hub: &Arc<PolicyHub>, metrics: AdmissionMetrics) -> Router {
    let desk = Desk {
        hub: Arc::clone(hub),
        metrics,
        in_hand: IN_HAND.map(Semaphore::new),
        askers: Mutex::default(),
    };
    Router::new()
        .route("/validate/{kind}", post(validate))
        .route("/mutate/{kind}", post(mutate))
        .with_state(Arc::new(desk))
}

type Review = AdmissionReview<DynamicObject>;
type Request = AdmissionRequest<DynamicObject>;

async fn validate(
    State(desk): State<Arc<Desk>>,
    Path(kind): Path<String>,
    from: Option<Extension<SocketAddr>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Review>, Failure> {
    let kind = known(&kind)?;
    let question = desk.read(from, &headers, body).await?;
    let (decided, _) = desk.hub.read(|state, _| {
        synced(state)?;
        decide(state, kind, &question).map_err(Failure::bad_request)
    });
    let found = decided?;
    let result = if found.errors.is_empty() { "allowed" } else { "refused" };
    desk.metrics.0.with_label_values(&[name(kind), result]).inc();
    let mut answer = AdmissionResponse::from(&question);
    if !found.errors.is_empty() {
        answer = answer.deny(texts(&found.errors, NAMED).join("; "));
    }
    if !found.warnings.is_empty() {
        answer.warnings = Some(texts(&found.warnings, NAMED).into_iter().map(shorten).collect());
    }
    Ok(Json(answer.into_review()))
}

async fn mutate(
    State(desk): State<Arc<Desk>>,
    Path(kind): Path<String>,
    from: Option<Extension<SocketAddr>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Review>, Failure> {
    if known(&kind)? != Kind::Policy {
        return Err(Failure::no_such_path());
    }
    let question = desk.read(from, &headers, body).await?;
    let changes = question.object.as_ref().map(|object| defaults(&object.data["spec"])).unwrap_or_default();
    desk.metrics.0.with_label_values(&[name(Kind::Policy), "completed"]).inc();
    let answer = AdmissionResponse::from(&question);
    if changes.is_empty() {
        return Ok(Json(answer.into_review()));
    }
    let failed = |error: &dyn std::fmt::Display| Failure::bad_request(format_args!("the defaults: {error}"));
    let patch = serde_json::from_value(Value::Array(changes)).map_err(|error| failed(&error))?;
    let answer = answer.with_patch(patch).map_err(|error| failed(&error))?;
    Ok(Json(answer.into_review()))
}

fn known(kind: &str) -> Result<Kind, Failure> {
    let found = KINDS.iter().find(|(name, _)| *name == kind);
    found.map(|(_, kind)| *kind).ok_or_else(Failure::no_such_path)
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Tier => "tier",
        Kind::Policy => "policy",
        Kind::Group => "group",
    }
}

/// A question of an address at the desk.
struct Asker<'a> {
    desk: &'a Desk,
    address: IpAddr,
    octets: usize,
}

impl Asker<'_> {
    /// Takes so many more octets in, if the address may have them.
    fn take(&mut self, octets: usize) -> bool {
        let mut askers = self.desk.askers.lock();
        let held = askers.entry(self.address).or_default();
        if held.octets + octets > PER_ADDRESS.octets {
            return false;
        }
        held.octets += octets;
        self.octets += octets;
        true
    }
}

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        let mut askers = self.desk.askers.lock();
        if let Some(held) = askers.get_mut(&self.address) {
            held.questions -= 1;
            held.octets -= self.octets;
            if held.questions == 0 {
                askers.remove(&self.address);
            }
        }
    }
}

fn busy() -> Failure {
    Failure::unavailable("too many policies, groups and Tiers are being looked at")
}

impl Desk {
    fn enter(&self, address: IpAddr) -> Option<Asker<'_>> {
        let mut askers = self.askers.lock();
        let held = askers.entry(address).or_default();
        if held.questions >= PER_ADDRESS.questions {
            return None;
        }
        held.questions += 1;
        Some(Asker { desk: self, address, octets: 0 })
    }

    async fn read(
        &self,
        from: Option<Extension<SocketAddr>>,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Request, Failure> {
        // Without an address it is a test, or nobody that can be told apart.
        let address = from.map_or(IpAddr::from([0, 0, 0, 0]), |Extension(from)| share(from.ip()));
        let mut asker = self.enter(address).ok_or_else(busy)?;
        let said = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        let length = said.unwrap_or(MAX_BODY);
        if length > MAX_BODY {
            return Err(Failure::bad_request(format_args!("{length} octets are more than {MAX_BODY}")));
        }
        let in_hand = &self.in_hand[usize::from(length > SMALL)];
        let read = tokio::time::timeout(READ, collect(&mut asker, in_hand, length, body)).await;
        let late = |_| Failure::bad_request(format_args!("not read within {READ:?}"));
        let (body, _permit) = read.map_err(late)??;
        let review: Review = serde_json::from_slice(&body).map_err(Failure::bad_request)?;
        let request: Result<Request, _> = review.try_into();
        request.map_err(Failure::bad_request)
    }
}

/// The body, and the place that it takes. It waits where there is none.
async fn collect<'a>(
    asker: &mut Asker<'_>,
    in_hand: &'a Semaphore,
    length: usize,
    mut body: Body,
) -> Result<(Vec<u8>, Option<SemaphorePermit<'a>>), Failure> {
    let mut read = Vec::new();
    let mut place: Option<SemaphorePermit<'a>> = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(Failure::bad_request)?.into_data() else { continue };
        if read.len() + data.len() > length {
            return Err(Failure::bad_request(format_args!("more than {length} octets")));
        }
        if !asker.take(data.len()) {
            return Err(busy());
        }
        let more = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let more = in_hand.acquire_many(more).await.map_err(|_| busy())?;
        match &mut place {
            Some(place) => place.merge(more),
            None => place = Some(more),
        }
        read.extend_from_slice(&data);
    }
    Ok((read, place))
}

/// What is wrong with what is asked about. Nothing, where its spec stays as it was: whoever takes away a finalizer or
/// changes a label is not held up by what an earlier version let through.
fn decide(state: &PolicyState, kind: Kind, question: &Request) -> Result<Findings, serde_json::Error> {
    if question.operation == Operation::Delete {
        let found = (kind == Kind::Tier).then(|| state.index.review_tier_deletion(&question.name));
        return Ok(found.unwrap_or_default());
    }
    let Some(object) = &question.object else { return Ok(Findings::default()) };
    if question.old_object.as_ref().is_some_and(|old| old.data["spec"] == object.data["spec"]) {
        return Ok(Findings::default());
    }
    Ok(match kind {
        Kind::Tier => state.index.review_tier(&read(question, object)?),
        Kind::Policy => state.index.review_native(&read(question, object)?),
        Kind::Group => state.index.review_group(&read(question, object)?),
    })
}

/// The object as the index reads it. One that the API server is to name has no name yet.
fn read<T: DeserializeOwned>(question: &Request, object: &DynamicObject) -> Result<T, serde_json::Error> {
    let named = object.metadata.name.as_deref().or(object.metadata.generate_name.as_deref());
    serde_json::from_value(json!({
        "metadata": {
            "name": named.unwrap_or(&question.name),
            "namespace": question.namespace,
            "uid": object.metadata.uid,
            "generation": object.metadata.generation.unwrap_or_default(),
        },
        "spec": object.data["spec"],
    }))
}

/// What a policy gets that does not say it: its Tier, and names of its rules, by which logs and statistics tell them.
fn defaults(spec: &Value) -> Vec<Value> {
    let mut changes = Vec::new();
    let add = |path: String, value: &str| json!({"op": "add", "path": path, "value": value});
    if spec["tier"].as_str().unwrap_or_default().is_empty() {
        changes.push(add("/spec/tier".to_owned(), crd::DEFAULT_TIER));
    }
    let rules = ["ingress", "egress"].map(|direction| (direction, spec[direction].as_array()));
    let all = || rules.iter().flat_map(|(_, rules)| rules.iter().copied().flatten());
    // What is to be refused needs no names.
    if all().count() > limits::POLICY {
        return changes;
    }
    let mut taken: HashSet<String> =
        all().filter_map(|rule| rule["name"].as_str().map(str::to_owned)).collect();
    let mut numbers: HashMap<String, usize> = HashMap::new();
    for (direction, rules) in rules {
        for (i, rule) in rules.into_iter().flatten().enumerate() {
            if !rule["name"].as_str().unwrap_or_default().is_empty() {
                continue;
            }
            let base = rule_name(direction, rule);
            // Rules that are the same differ in their place alone.
            let number = numbers.entry(base.clone()).or_default();
            let name = loop {
                *number += 1;
                let name = if *number == 1 { base.clone() } else { format!("{base}-{number}") };
                if taken.insert(name.clone()) {
                    break name;
                }
            };
            changes.push(add(format!("/spec/{direction}/{i}/name"), &name));
        }
    }
    changes
}

/// Such as `ingress-drop-3f2a91c`: the same for the same rule, whatever is before and after it.
fn rule_name(direction: &str, rule: &Value) -> String {
    let mut rule = rule.clone();
    if let Some(fields) = rule.as_object_mut() {
        fields.remove("name");
    }
    let digest = Sha256::digest(rule.to_string().as_bytes());
    let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let action = rule["action"].as_str().unwrap_or_default().to_ascii_lowercase();
    format!("{direction}-{action}-{}", &hash[..7])
}

fn texts(found: &[PolicyError], limit: usize) -> Vec<String> {
    let text = |error: &PolicyError| format!("{}: {}", error.path, error.problem);
    let mut texts: Vec<String> = found.iter().take(limit).map(text).collect();
    if found.len() > limit {
        texts.push(format!("{} more", found.len() - limit));
    }
    texts
}

fn shorten(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_WARNING));
    text
}
