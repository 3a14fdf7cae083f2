//! The handle that the CNI server and bring-up have of policy.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use antrea_api::controlplane::ObjectReference;
use antrea_api::selection::PodSelection;
use antrea_enforce::dns::{Again, Learned, Receiver, Remembered};
use antrea_enforce::egress::HostEgress;
use antrea_enforce::established::Resets;
use antrea_enforce::ids::RuleIds;
use antrea_enforce::isolation::Isolation;
use antrea_enforce::logged::Logged;
use antrea_enforce::pods::LocalPod;
use antrea_enforce::reconciler::Reconciler;
use antrea_enforce::tally::Counted;
use antrea_flows::policy::{Direction, RuleError, Targets};
use antrea_flows::{Change, Network, Owner};
use antrea_packet::DnsAnswer;
use antrea_runtime::trace;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use prometheus::{Histogram, IntCounterVec};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::Span;

use super::confirm::{SharedConfirmer, Unconfirmed};
use super::files::Files;
use super::rule_ids::IdsBefore;
use crate::dataplane::{Batch, Dataplane, DataplaneError, Failures};
use crate::metrics::PolicyMetrics;

/// Why policy is not in force.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PolicyError {
    /// The pipeline cannot hold the rules.
    #[error("policy: {0}")]
    Rule(#[from] RuleError),
    /// The bridge did not take the flows.
    #[error("policy: {0}")]
    Dataplane(#[from] DataplaneError),
    /// What selects the pod is not known.
    #[error("pod {pod} has to wait for policy: {why}")]
    Unconfirmed {
        /// Namespace and name.
        pod: Arc<str>,
        /// What is missing.
        why: Unconfirmed,
    },
    /// A pod before [`PolicyHandle::attach`].
    #[error("policy: the node's network is not up")]
    NotAttached,
    /// The process ends.
    #[error("policy: the agent is shutting down")]
    Closed,
}

/// Where flows go.
pub trait Sink: Send + Sync {
    /// See [`Dataplane::apply`].
    fn apply(&self, batch: Batch) -> BoxFuture<'_, Result<Failures, DataplaneError>>;
}

impl Sink for Dataplane {
    fn apply(&self, batch: Batch) -> BoxFuture<'_, Result<Failures, DataplaneError>> {
        Box::pin(Dataplane::apply(self, batch))
    }
}

/// The node's network, as far as policy has to do with it.
pub struct Site {
    /// What flows are made for.
    pub pipeline: Arc<Network>,
    /// Takes them.
    pub sink: Box<dyn Sink>,
    /// The pods that are connected.
    pub pods: Box<dyn Fn() -> Vec<LocalPod> + Send + Sync>,
    /// Changes with the pods.
    pub changes: watch::Receiver<usize>,
    /// Which pods were isolated in the agent's last life.
    pub isolated: Isolation,
    /// Ids of rules in the agent's last life.
    pub ids: IdsBefore,
    /// What DNS had told in the agent's last life.
    pub dns: Vec<Remembered>,
}

/// Where Services, by namespace and name, are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// These changed; without targets they are gone.
    pub services: Vec<(Arc<str>, Targets)>,
    /// There are no others.
    pub all: bool,
}

/// Tells the caller.
pub(super) type Reply<T = ()> = oneshot::Sender<Result<T, PolicyError>>;

/// Rules whose decisions are logged, by id.
pub type LoggedRules = watch::Receiver<Arc<HashMap<u32, Logged>>>;

/// What a caller wants.
pub(super) enum Request {
    /// See [`PolicyHandle::attach`].
    Attach(Site, Reply),
    /// The pods that are about to be connected changed, and one of them gets its flows, as a part of what the span
    /// is of.
    Install((Owner, Change), Reply, Span),
    /// Whether everything that selects a pod is known here.
    Holds(ObjectReference, PodSelection, oneshot::Sender<bool>),
    /// See [`PolicyHandle::explain`].
    Explain(Question, oneshot::Sender<Explanation>),
    /// Whose rule each id is.
    Owners(oneshot::Sender<HashMap<u32, Counted>>),
    /// The ids of rules if they changed since a version of them, and which one that is.
    RuleIds(u64, oneshot::Sender<Option<(u64, RuleIds)>>),
    /// DNS told somebody this; addresses remain for so long at least. The answer comes when the bridge has them, and says
    /// what became of each answer.
    Learn(Receiver, Vec<DnsAnswer>, Duration, Reply<Vec<Learned>>),
    /// See [`PolicyHandle::tell_services`].
    Services(Reached, Reply),
    /// What DNS has to be asked again and may be, beside what is under way.
    DnsDue(Vec<Again>, oneshot::Sender<Vec<Again>>),
    /// What DNS has told if that changed since a version of it, and which one it is.
    Dns(u64, oneshot::Sender<Option<(u64, Vec<Remembered>)>>),
}

/// What a packet met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    pub rules: Vec<u32>,
    /// A port that its policies isolate.
    pub isolated: Option<(u32, Direction)>,
}

/// Whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The policy of each rule; none of a rule that is gone.
    pub rules: Vec<Option<Arc<str>>>,
    /// The policies that isolate the port.
    pub isolating: Vec<Arc<str>>,
}

impl Question {
    pub(super) fn answer(&self, reconciler: &Reconciler) -> Explanation {
        let isolated = self.isolated.map(|(ofport, direction)| reconciler.isolating(ofport, direction));
        Explanation {
            rules: self.rules.iter().map(|rule| reconciler.source_of(*rule).cloned()).collect(),
            isolating: isolated.into_iter().flatten().collect(),
        }
    }
}

/// Pods that are about to be connected.
#[derive(Debug, Default)]
pub(super) struct PreparedPods {
    pub(super) pods: Mutex<BTreeMap<u64, LocalPod>>,
    /// Key of the next one.
    next: AtomicU64,
    pub(super) changed: Notify,
}

/// What the rules in force come to, as it changes.
#[derive(Clone)]
pub(super) struct InForce {
    pub(super) egress: watch::Receiver<HostEgress>,
    pub(super) isolation: watch::Receiver<Option<Isolation>>,
    pub(super) logged: LoggedRules,
    /// Whose connections policies end.
    pub(super) resets: watch::Receiver<Arc<Resets>>,
}

/// Handle to policy; clones share the task.
#[derive(Clone)]
pub struct PolicyHandle {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) confirmer: SharedConfirmer,
    prepared: Arc<PreparedPods>,
    pub(super) in_force: InForce,
    pub(super) ended: IntCounterVec,
    pub(super) address_told: Histogram,
    /// Where the ids of rules are kept.
    pub(super) ids_file: Arc<Path>,
    /// Where what DNS has told is kept.
    pub(super) dns_file: Arc<Path>,
    /// Where it is kept which connections ended.
    pub(super) ended_file: Arc<Path>,
}

impl std::fmt::Debug for PolicyHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyHandle").field("prepared", &self.prepared.pods.lock().len()).finish()
    }
}

/// Keeps policy prepared for a pod. Drop it when the pod is remembered among the site's pods or has
/// failed: policy then goes by what is remembered.
#[derive(Debug)]
#[must_use = "policy is prepared for the pod only as long as this lives"]
pub struct Prepared {
    key: u64,
    prepared: Arc<PreparedPods>,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        self.prepared.pods.lock().remove(&self.key);
        self.prepared.changed.notify_one();
    }
}

impl PolicyHandle {
    pub(super) fn new(
        requests: mpsc::Sender<Request>,
        prepared: Arc<PreparedPods>,
        confirmer: SharedConfirmer,
        in_force: InForce,
        metrics: &PolicyMetrics,
        files: &Files,
    ) -> Self {
        let (ids_file, dns_file, ended_file) =
            (files.rule_ids().into(), files.dns().into(), files.ended().into());
        let (ended, address_told) = (metrics.ended.clone(), metrics.address_told.clone());
        Self { requests, confirmer, prepared, in_force, ended, address_told, ids_file, dns_file, ended_file }
    }

    /// Egress policy as far as the host enforces it, as it changes. It says of a pod what it will as soon as
    /// [`Self::install_pod`] has returned.
    pub fn host_egress(&self) -> watch::Receiver<HostEgress> {
        self.in_force.egress.clone()
    }

    /// Which pods are isolated, as it changes; `None` before that is known.
    pub fn isolation(&self) -> watch::Receiver<Option<Isolation>> {
        self.in_force.isolation.clone()
    }

    /// Rules in force whose decisions are logged, by id, as they change.
    pub fn logged(&self) -> LoggedRules {
        self.in_force.logged.clone()
    }

    /// Installs the flows of all policies for the pods of `site`, staged if its dataplane has not
    /// started. Waits until the controller has said everything or, 5 s after the start, until what it
    /// said in the agent's last life is loaded. Where nothing is known of that it waits for the controller.
    ///
    /// # Errors
    /// The flows were not taken.
    pub async fn attach(&self, site: Site) -> Result<(), PolicyError> {
        self.request(|reply| Request::Attach(site, reply)).await
    }

    /// Connects a pod: installs the flows of all policies that select it and, in the same transaction, its own.
    /// Without the former it does not get the latter.
    ///
    /// # Errors
    /// The flows were not taken: the pod must not be connected.
    pub async fn install_pod(&self, pod: LocalPod, flows: (Owner, Change)) -> Result<Prepared, PolicyError> {
        let key = self.prepared.next.fetch_add(1, Ordering::Relaxed);
        self.prepared.pods.lock().insert(key, pod);
        let guard = Prepared { key, prepared: self.prepared.clone() };
        let span = trace::current();
        self.request(|reply| Request::Install(flows, reply, span)).await.map(|()| guard)
    }

    /// Has rules that name Services know where these are reached. Until all there are have been told, such rules deny what
    /// they might.
    ///
    /// # Errors
    /// The flows were not taken; they are offered again.
    pub async fn tell_services(&self, reached: Reached) -> Result<(), PolicyError> {
        self.request(|reply| Request::Services(reached, reply)).await
    }

    /// Which policies something is of; nothing is known of what is gone meanwhile.
    pub async fn explain(&self, question: Question) -> Explanation {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Request::Explain(question, reply)).await.is_err() {
            return Explanation::default();
        }
        answer.await.unwrap_or_default()
    }

    pub(super) async fn request<T>(&self, make: impl FnOnce(Reply<T>) -> Request) -> Result<T, PolicyError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(make(reply)).await.map_err(|_| PolicyError::Closed)?;
        answer.await.map_err(|_| PolicyError::Closed)?
    }
}
