//! What policies allowed and denied, as agents told it, summed up: `stats.antrea.io/v1alpha1`.
//!
//! Agents post what came since they posted last. The sums begin anew with each controller, as upstream's.

use std::{
    collections::{BTreeMap, HashMap},
    marker::PhantomData,
    sync::Arc,
};

use antrea_api::{
    controlplane as wire,
    k8s::{ObjectMeta, Time},
    stats::{
        API_VERSION, AntreaClusterNetworkPolicyStats, AntreaNetworkPolicyStats, GROUP, NetworkPolicyStats,
        RuleTrafficStats, TrafficStats, VERSION,
    },
};
use antrea_policy::model::{NetworkPolicy, PolicyChange, PolicyKind};
use apiserver_kit::{
    api::Api,
    object::{Column, Object},
    status::Failure,
    storage::{Create, List, Resource, Selection, Storage},
};
use futures::future::BoxFuture;
use jiff::Timestamp;

use super::{PolicyHub, scope, storage::synced};

/// Traffic of one policy.
#[derive(Clone, Debug, Default)]
struct Sum {
    since: Time,
    total: TrafficStats,
    rules: BTreeMap<Box<str>, TrafficStats>,
}

/// Sums of policies of which something was told, by the policy's internal name.
#[derive(Default)]
pub(super) struct Statistics(HashMap<Arc<str>, Sum>);

impl Statistics {
    /// Forgets a policy that is gone.
    pub(super) fn follow(&mut self, policy: &str, change: &PolicyChange) {
        if let PolicyChange::Deleted { .. } = change {
            self.0.remove(policy);
        }
    }

    /// Adds what a node told. Rules that the policy does not have are left out: what is kept is bounded by what policies
    /// say.
    fn add(&mut self, policy: &NetworkPolicy, told: &wire::NetworkPolicyStats, now: Time) {
        let sum = self.0.entry(policy.name.clone()).or_insert_with(|| Sum { since: now, ..Sum::default() });
        sum.total.add(&told.traffic_stats);
        for rule in &told.rule_traffic_stats {
            if policy.rules.iter().any(|known| known.name.as_deref() == Some(&*rule.name)) {
                sum.rules.entry(rule.name.as_str().into()).or_default().add(&rule.traffic_stats);
            }
        }
    }
}

// === what agents post ===

const SUMMARIES: Resource = Resource {
    group: wire::GROUP,
    version: wire::VERSION,
    api_version: wire::API_VERSION,
    plural: "nodestatssummaries",
    singular: "nodestatssummary",
    kind: "NodeStatsSummary",
    description: "NodeStatsSummary is what the policies of a node allowed and denied since its agent told of it last.",
    namespaced: false,
    short_names: &[],
    verbs: &["create"],
    columns: &[],
    fields: &[],
    subresources: &[],
};

struct Intake {
    hub: Arc<PolicyHub>,
    agents: Arc<str>,
}

impl Storage for Intake {
    fn create(&self, create: Create) -> BoxFuture<'_, Result<Arc<dyn Object>, Failure>> {
        Box::pin(async move { self.take(&create) })
    }
}

impl Intake {
    fn take(&self, create: &Create) -> Result<Arc<dyn Object>, Failure> {
        let summary: wire::NodeStatsSummary = create.body.decode()?;
        if let Some(own) = create.user.node_of(&self.agents) {
            scope::own(own, Some(&summary.metadata.name))?;
        }
        let lists = [
            (PolicyKind::K8sNetworkPolicy, &summary.network_policies),
            (PolicyKind::AntreaClusterNetworkPolicy, &summary.antrea_cluster_network_policies),
            (PolicyKind::AntreaNetworkPolicy, &summary.antrea_network_policies),
        ];
        let told = || lists.iter().flat_map(|(kind, list)| list.iter().map(move |told| (*kind, told)));
        if let Some((_, wrong)) = told().find(|(_, told)| is_negative(told)) {
            let name = &wrong.network_policy.name;
            return Err(Failure::bad_request(format_args!("traffic of policy {name:?} is negative")));
        }
        let now = Time { seconds: Timestamp::now().as_second(), nanos: 0 };
        self.hub.update(|state, _| {
            for (kind, told) in told() {
                // One that is gone meanwhile is of no interest any more.
                let policy = state.index.network_policy(&told.network_policy.uid);
                if let Some(policy) = policy.filter(|policy| policy.source.kind == kind) {
                    state.statistics.add(&policy, told, now);
                }
            }
        });
        Ok(Arc::new(summary))
    }
}

fn is_negative(told: &wire::NetworkPolicyStats) -> bool {
    let mut all = told.rule_traffic_stats.iter().map(|rule| &rule.traffic_stats).chain([&told.traffic_stats]);
    all.any(|stats| stats.packets < 0 || stats.bytes < 0 || stats.sessions < 0)
}

// === what people read ===

/// A kind of policy and how its statistics are told.
trait Told: Send + Sync + 'static {
    const KIND: PolicyKind;
    const RESOURCE: Resource;

    fn object(metadata: ObjectMeta, sum: Sum) -> Arc<dyn Object>;
}

const BASE: Resource = Resource {
    group: GROUP,
    version: VERSION,
    api_version: API_VERSION,
    namespaced: true,
    verbs: &["get", "list"],
    columns: &[
        Column::new("Sessions", "integer", "Connections."),
        Column::new("Packets", "integer", "Packets."),
        Column::new("Bytes", "integer", "Bytes."),
        Column::new("Created At", "string", "When the controller was told of traffic first."),
    ],
    ..SUMMARIES
};

fn by_rule(sum: &Sum) -> Vec<RuleTrafficStats> {
    let rules = sum.rules.iter();
    rules.map(|(name, stats)| RuleTrafficStats { name: name.to_string(), traffic_stats: *stats }).collect()
}

struct OfKubernetes;

impl Told for OfKubernetes {
    const KIND: PolicyKind = PolicyKind::K8sNetworkPolicy;
    const RESOURCE: Resource = Resource {
        plural: "networkpolicystats",
        singular: "networkpolicystats",
        kind: "NetworkPolicyStats",
        description: "NetworkPolicyStats is what a Kubernetes NetworkPolicy allowed.",
        ..BASE
    };

    fn object(metadata: ObjectMeta, sum: Sum) -> Arc<dyn Object> {
        Arc::new(NetworkPolicyStats { metadata, traffic_stats: sum.total })
    }
}

struct OfCluster;

impl Told for OfCluster {
    const KIND: PolicyKind = PolicyKind::AntreaClusterNetworkPolicy;
    const RESOURCE: Resource = Resource {
        plural: "antreaclusternetworkpolicystats",
        singular: "antreaclusternetworkpolicystats",
        kind: "AntreaClusterNetworkPolicyStats",
        description: "AntreaClusterNetworkPolicyStats is what a ClusterNetworkPolicy allowed and denied.",
        namespaced: false,
        ..BASE
    };

    fn object(metadata: ObjectMeta, sum: Sum) -> Arc<dyn Object> {
        let rule_traffic_stats = by_rule(&sum);
        Arc::new(AntreaClusterNetworkPolicyStats { metadata, traffic_stats: sum.total, rule_traffic_stats })
    }
}

struct OfNamespace;

impl Told for OfNamespace {
    const KIND: PolicyKind = PolicyKind::AntreaNetworkPolicy;
    const RESOURCE: Resource = Resource {
        plural: "antreanetworkpolicystats",
        singular: "antreanetworkpolicystats",
        kind: "AntreaNetworkPolicyStats",
        description: "AntreaNetworkPolicyStats is what a NetworkPolicy of crd.antrea.io allowed and denied.",
        ..BASE
    };

    fn object(metadata: ObjectMeta, sum: Sum) -> Arc<dyn Object> {
        let rule_traffic_stats = by_rule(&sum);
        Arc::new(AntreaNetworkPolicyStats { metadata, traffic_stats: sum.total, rule_traffic_stats })
    }
}

/// The policies of one kind.
struct Sums<K> {
    hub: Arc<PolicyHub>,
    kind: PhantomData<K>,
}

impl<K: Told> Storage for Sums<K> {
    fn list(&self, selection: &Selection) -> Result<List, Failure> {
        let (found, resource_version) = self.hub.read(|state, _| {
            synced(state)?;
            let wanted = |policy: &&Arc<NetworkPolicy>| {
                let source = &policy.source;
                let namespace = source.namespace.as_deref().unwrap_or_default();
                source.kind == K::KIND
                    && (selection.namespace.is_empty() || selection.namespace == namespace)
                    && selection.name.as_deref().is_none_or(|name| *source.name == *name)
            };
            let mut found: Vec<_> = state
                .index
                .network_policies()
                .filter(wanted)
                .map(|policy| {
                    let sum = state.statistics.0.get(&policy.name);
                    (policy.source.clone(), sum.cloned())
                })
                .collect();
            found.sort_by(|(a, _), (b, _)| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
            Ok::<_, Failure>(found)
        });
        let object = |(source, sum): (antrea_policy::model::PolicyReference, Option<Sum>)| {
            let metadata = ObjectMeta {
                namespace: source.namespace.as_deref().unwrap_or_default().to_owned(),
                uid: source.uid.to_string(),
                creation_timestamp: sum.as_ref().map(|sum| sum.since),
                ..ObjectMeta::named(&*source.name)
            };
            K::object(metadata, sum.unwrap_or_default())
        };
        Ok(List { resource_version, objects: found?.into_iter().map(object).collect() })
    }

    fn get(&self, namespace: &str, name: &str) -> Result<Arc<dyn Object>, Failure> {
        let selection = Selection {
            namespace: namespace.to_owned(),
            name: Some(name.to_owned()),
            ..Selection::default()
        };
        let mut list = self.list(&selection)?;
        list.objects.pop().ok_or_else(|| Failure::not_found(K::RESOURCE.plural, name))
    }
}

/// Adds what people read to `api` and, if traffic is `counted`, what agents post. The former is there in any case: an API
/// that is registered and not served would hold up the deletion of namespaces. Agents are ServiceAccounts in
/// `namespace`.
pub fn statistics(api: Api, hub: &Arc<PolicyHub>, namespace: &str, counted: bool) -> Api {
    fn sums<K: Told>(api: Api, hub: &Arc<PolicyHub>) -> Api {
        api.with(K::RESOURCE, Arc::new(Sums { hub: Arc::clone(hub), kind: PhantomData::<K> }))
    }
    let intake = || Arc::new(Intake { hub: Arc::clone(hub), agents: scope::agents(namespace) });
    let api = if counted { api.with(SUMMARIES, intake()) } else { api };
    sums::<OfNamespace>(sums::<OfCluster>(sums::<OfKubernetes>(api, hub), hub), hub)
}
