//! `antctl check installation`: whether Pods reach each other and policy holds, by Pods that try it. All is in a Namespace of
//! its own, which is deleted in the end, whatever that is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{DeleteParams, LogParams, PostParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::objects::{self, PORT, Role};
use super::plan::{ASKS, Ask, Change, Judged, Step, policies};
use super::probe::Round;
use super::{Finding, Verdict, list, name, runs_linux};
use crate::agents;
use crate::connect::{Clients, Server};
use crate::made;
use crate::reach::node_address;
use crate::support::fits;

/// How often Pods and their logs are looked at.
const LOOK: Duration = Duration::from_millis(300);

/// What is tried, and how.
#[derive(Debug, clap::Args)]
pub(crate) struct Installation {
    /// Image of the test Pods, which has antctl; by default that of the agents, which Nodes have.
    #[arg(long, value_name = "IMAGE")]
    test_image: Option<String>,
    /// Only checks of these names; a * stands for any part of one.
    #[arg(long, short, value_name = "NAME", value_delimiter = ',')]
    run: Vec<String>,
    /// Also whether Pods reach this address outside, ADDRESS:PORT.
    #[arg(long, value_name = "ADDRESS:PORT")]
    internet: Option<String>,
}

impl Installation {
    fn wants(&self, check: &str) -> bool {
        match check {
            "pod-to-internet" if self.internet.is_none() => false,
            _ => self.run.is_empty() || self.run.iter().any(|pattern| fits(pattern, check)),
        }
    }

    /// What is tried with so many Nodes.
    fn asks(&self, nodes: usize) -> Vec<Ask> {
        ASKS.into_iter().filter(|ask| self.wants(ask.check) && (nodes > 1 || !ask.far)).collect()
    }
}

/// Tries all, and returns what was found.
///
/// # Errors
/// Nothing could be tried.
pub(super) async fn run(
    clients: &Clients,
    asked: &Installation,
    limit: Duration,
) -> anyhow::Result<Vec<Finding>> {
    let all =
        ASKS.iter().map(|ask| ask.check).chain(policies().iter().map(|judged| judged.0)).collect::<Vec<_>>();
    if !all.iter().any(|check| asked.wants(check)) {
        bail!("--run: no check is named so; there are {}", all.join(", "));
    }
    let cluster = clients.cluster().await?;
    let image = match &asked.test_image {
        Some(image) => image.clone(),
        None => agents_image(clients, &cluster).await?,
    };
    let nodes = chosen(list(&cluster, "list Nodes").await?)?;
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    let made =
        namespaces.create(&PostParams::default(), &serde_json::from_value(objects::namespace())?).await;
    let made = made.map_err(|error| cluster.explain(&error, "create a Namespace"))?;
    let namespace = made.metadata.name.context("the API server has given the Namespace no name")?;
    eprintln!("antctl: test Pods of {image} in Namespace {namespace}");
    let site = Site { cluster: &cluster, namespace: namespace.clone(), limit };
    made::while_there(&cluster, &namespaces, &namespace, site.all(asked, &nodes, &image)).await
}

/// The image that every Node has.
async fn agents_image(clients: &Clients, cluster: &Server) -> anyhow::Result<String> {
    let namespace = agents::namespace(clients).await;
    let sets: Api<DaemonSet> = Api::namespaced(cluster.client.clone(), &namespace);
    let set = sets.get("antrea-agent").await;
    let set = set.map_err(|error| cluster.explain(&error, &format!("DaemonSet {namespace}/antrea-agent")))?;
    let containers = set.spec.and_then(|spec| spec.template.spec).map(|spec| spec.containers);
    let agent = containers.into_iter().flatten().find(|container| container.name == "antrea-agent");
    let image = agent.and_then(|container| container.image);
    image.with_context(|| {
        format!("DaemonSet {namespace}/antrea-agent has no image: name one with --test-image")
    })
}

/// One or two Nodes that are ready, those without taints first.
fn chosen(nodes: Vec<Node>) -> anyhow::Result<Vec<Node>> {
    let ready = |node: &Node| {
        let conditions =
            node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let mut nodes: Vec<Node> = nodes.into_iter().filter(|node| ready(node) && runs_linux(node)).collect();
    nodes.sort_by_key(|node| {
        let spec = node.spec.as_ref();
        let tainted = spec.is_some_and(|spec| spec.taints.as_ref().is_some_and(|taints| !taints.is_empty()));
        (tainted, name(node).to_owned())
    });
    nodes.truncate(2);
    if nodes.is_empty() {
        bail!("no Node with Linux is ready");
    }
    Ok(nodes)
}

struct Site<'a> {
    cluster: &'a Server,
    namespace: String,
    limit: Duration,
}

impl Site<'_> {
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.cluster.client.clone(), &self.namespace)
    }

    async fn all(&self, asked: &Installation, nodes: &[Node], image: &str) -> anyhow::Result<Vec<Finding>> {
        let asks = asked.asks(nodes.len());
        let far = nodes.get(1);
        let mut targets = BTreeMap::new();
        let mut services = vec![(Role::Near, "service-near")];
        services.extend(far.map(|_| (Role::Far, "service-far")));
        for (role, target) in services {
            let service = self.service(role).await?;
            targets.insert(target, socket(&service.ip, 80));
            if role == Role::Near {
                let port = service.node_port;
                targets.insert("nodeport-near", socket(&node_address(&nodes[0])?.to_string(), port));
                if let Some(far) = far {
                    targets.insert("nodeport-far", socket(&node_address(far)?.to_string(), port));
                }
            }
        }
        if let Some(internet) = &asked.internet {
            targets.insert("internet", internet.clone());
        }
        // Whoever is asked by address has to be there first.
        let mut servers = vec![(Role::Near, &nodes[0])];
        servers.extend(far.map(|far| (Role::Far, far)));
        for (role, node) in &servers {
            self.start(*role, node, image, &asks, &targets).await?;
        }
        for (role, _) in &servers {
            match self.address(*role).await? {
                Ok(ip) => drop(targets.insert(role.name(), socket(&ip, PORT))),
                Err(why) => return Ok(vec![not_started(*role, why)]),
            }
        }
        for role in [Role::Client, Role::Host] {
            if role == Role::Client || asks.iter().any(|ask| ask.who == role) {
                self.start(role, &nodes[0], image, &asks, &targets).await?;
                if let Err(why) = self.address(role).await? {
                    return Ok(vec![not_started(role, why)]);
                }
            }
        }
        let mut findings = self.ask_all(&asks).await?;
        let reached = |target: &str| targets.contains_key(target);
        for judged in policies() {
            if asked.wants(judged.0) {
                findings.push(self.judge(judged, &reached).await?);
            }
        }
        Ok(findings)
    }

    /// Creates an object. A new Namespace takes Pods only once it has its ServiceAccount, a moment later.
    async fn create<K>(&self, object: Value) -> anyhow::Result<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + Serialize,
    {
        let what =
            format!("create {} {}", object["kind"].as_str().unwrap_or_default(), object["metadata"]["name"]);
        let object: K = serde_json::from_value(object)?;
        let begun = Instant::now();
        loop {
            match self.api::<K>().create(&PostParams::default(), &object).await {
                Err(kube::Error::Api(status))
                    if status.code == 403
                        && status.message.contains("serviceaccount")
                        && begun.elapsed() < self.limit =>
                {
                    tokio::time::sleep(LOOK).await;
                }
                made => return made.map_err(|error| self.cluster.explain(&error, &what)),
            }
        }
    }

    async fn service(&self, role: Role) -> anyhow::Result<Served> {
        let mut service: Service = self.create(objects::service(role)).await?;
        let begun = Instant::now();
        loop {
            if let Some(served) = Served::of(&service) {
                return Ok(served);
            }
            if begun.elapsed() > self.limit {
                bail!("Service {} has got no address within {:?}", role.name(), self.limit);
            }
            tokio::time::sleep(LOOK).await;
            let found = self.api::<Service>().get(role.name()).await;
            service =
                found.map_err(|error| self.cluster.explain(&error, &format!("Service {}", role.name())))?;
        }
    }

    /// Creates a Pod that asks what is to be asked of there, and of the client what policies are about.
    async fn start(
        &self,
        role: Role,
        node: &Node,
        image: &str,
        asks: &[Ask],
        known: &BTreeMap<&'static str, String>,
    ) -> anyhow::Result<()> {
        let always = ["near", "far", "service-near", "service-far"];
        let wanted = known.iter().filter(|(target, _)| {
            role == Role::Client && always.contains(*target)
                || asks.iter().any(|ask| ask.who == role && ask.whom == **target)
        });
        let targets: Vec<(String, String)> =
            wanted.map(|(name, address)| ((*name).to_owned(), address.clone())).collect();
        self.create::<Pod>(objects::pod(role, name(node), image, &targets)).await.map(drop)
    }

    /// The address of a Pod once it runs; or why it does not.
    async fn address(&self, role: Role) -> anyhow::Result<Result<String, String>> {
        let begun = Instant::now();
        loop {
            let found = self.api::<Pod>().get(role.name()).await;
            let pod = found.map_err(|error| self.cluster.explain(&error, &format!("Pod {}", role.name())))?;
            let state = state(&pod);
            match state {
                Ok(ip) => return Ok(Ok(ip)),
                Err(why) if begun.elapsed() > self.limit => {
                    return Ok(Err(format!("does not run within {:?}: {why}", self.limit)));
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// The last round of a Pod, if there was one.
    async fn round(&self, role: Role) -> anyhow::Result<Option<Round>> {
        let params = LogParams { tail_lines: Some(1), ..LogParams::default() };
        let log = self.api::<Pod>().logs(role.name(), &params).await;
        let log =
            log.map_err(|error| self.cluster.explain(&error, &format!("log of Pod {}", role.name())))?;
        Ok(log.lines().last().and_then(|line| serde_json::from_str(line).ok()))
    }

    /// Waits until all are answered, as long as there is time; and says of each whether it is.
    async fn ask_all(&self, asks: &[Ask]) -> anyhow::Result<Vec<Finding>> {
        let begun = Instant::now();
        loop {
            let mut rounds = BTreeMap::new();
            for who in asks.iter().map(|ask| ask.who).collect::<BTreeSet<Role>>() {
                rounds.insert(who, self.round(who).await?.unwrap_or_default());
            }
            let findings: Vec<Finding> =
                asks.iter().map(|ask| answered(ask.check, &rounds[&ask.who], ask.whom)).collect();
            let all = findings.iter().all(|finding| finding.verdict == Verdict::Ok);
            if all || begun.elapsed() > self.limit {
                return Ok(findings);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Takes all steps, and looks after each at what the client sees. Whatever that is, no policy is left.
    async fn judge(&self, (check, steps): Judged, reached: &dyn Fn(&str) -> bool) -> anyhow::Result<Finding> {
        let there = |targets: &[&'static str]| -> Vec<&'static str> {
            targets.iter().copied().filter(|target| reached(target)).collect()
        };
        let begun = Instant::now();
        let mut left = Vec::new();
        let mut failed = None;
        for Step { change, answered, denied } in steps {
            let what = match change {
                Change::Create(policy) => {
                    let made: NetworkPolicy = self.create(policy).await?;
                    let policy = made.metadata.name.unwrap_or_default();
                    let what = format!("with {policy}");
                    left.push(policy);
                    what
                }
                Change::Delete(policy) => {
                    self.delete(policy).await?;
                    left.retain(|left| left != policy);
                    format!("without {policy}")
                }
            };
            if let Err(why) = self.sees(&there(answered), &there(denied)).await? {
                failed = Some(format!("{what}: {why}"));
                break;
            }
        }
        for policy in left {
            self.delete(&policy).await?;
        }
        Ok(match failed {
            Some(detail) => Finding { check, verdict: Verdict::Failed, detail },
            None => {
                let detail = format!("in {:.1} s", begun.elapsed().as_secs_f64());
                Finding { check, verdict: Verdict::Ok, detail }
            }
        })
    }

    async fn delete(&self, policy: &str) -> anyhow::Result<()> {
        let gone = self.api::<NetworkPolicy>().delete(policy, &DeleteParams::default()).await;
        let gone =
            gone.map_err(|error| self.cluster.explain(&error, &format!("delete NetworkPolicy {policy}")));
        gone.map(drop)
    }

    /// Waits until the client gets answers of these and none of those; or says what is otherwise.
    async fn sees(&self, these: &[&str], those: &[&str]) -> anyhow::Result<Result<(), String>> {
        let begun = Instant::now();
        loop {
            let round = self.round(Role::Client).await?.unwrap_or_default();
            match differs(&round, these, those) {
                None => return Ok(Ok(())),
                Some(why) if begun.elapsed() > self.limit => return Ok(Err(why)),
                Some(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }
}

/// What of a round is not as it has to be.
fn differs(round: &Round, these: &[&str], those: &[&str]) -> Option<String> {
    let answers = |target: &str| round.answered.iter().any(|answered| answered == target);
    let silent = these.iter().find(|target| !answers(target));
    let silent = silent.map(|target| {
        let why = round.unanswered.get(*target).map_or("not asked yet", String::as_str);
        format!("{target} does not answer: {why}")
    });
    let missing = || those.iter().find(|target| !answers(target) && !round.unanswered.contains_key(**target));
    silent
        .or_else(|| those.iter().find(|target| answers(target)).map(|target| format!("{target} answers")))
        .or_else(|| missing().map(|target| format!("{target} was not asked yet")))
}

fn answered(check: &'static str, round: &Round, whom: &str) -> Finding {
    match differs(round, &[whom], &[]) {
        None => Finding { check, verdict: Verdict::Ok, detail: String::new() },
        Some(why) => Finding { check, verdict: Verdict::Failed, detail: why },
    }
}

fn not_started(role: Role, why: String) -> Finding {
    let detail = format!("Pod {} {why}", role.name());
    Finding { check: "test Pods", verdict: Verdict::Failed, detail }
}

/// The address of a Pod that runs, or what is the matter with it.
fn state(pod: &Pod) -> Result<String, String> {
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_default();
    match (phase.as_str(), status.pod_ip) {
        ("Running", Some(ip)) => Ok(ip),
        _ => {
            let containers = status.container_statuses.unwrap_or_default();
            let waiting = containers.into_iter().find_map(|container| container.state?.waiting);
            let waiting = waiting.map(|waiting| {
                let message = waiting.message.map(|message| format!(": {message}")).unwrap_or_default();
                format!("{}{message}", waiting.reason.unwrap_or_default())
            });
            let said = status.message.or(status.reason);
            Err(waiting.or(said).unwrap_or(if phase.is_empty() {
                "no kubelet has taken it".to_owned()
            } else {
                phase
            }))
        }
    }
}

/// Where a Service is.
#[derive(Debug, PartialEq, Eq)]
struct Served {
    ip: String,
    node_port: u16,
}

impl Served {
    fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let ip = spec.cluster_ip.clone().filter(|ip| !ip.is_empty())?;
        let port = spec.ports.as_ref()?.first()?.node_port?;
        Some(Self { ip, node_port: u16::try_from(port).ok()? })
    }
}

fn socket(ip: &str, port: u16) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

#[cfg(test)]
mod tests;
