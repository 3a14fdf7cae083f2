//! The configuration in effect: the spec with every default filled in and every contradiction refused.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use antrea_api::features;
use antrea_crds::installation::{
    AntreaInstallationSpec, CipherSuite, Datapath, ImageOverride, Images, LogFormat, LogLevel,
    ManagementState, Monitoring, Ovs, PodCidrSource, PodCidrs, Proxy, ProxyMode, PullPolicy, PullSecret,
    Resources, TlsSettings, TlsVersion, Toleration, TolerationEffect, TolerationOperator, Tracing,
    TrafficEncapMode, TunnelType, Workload,
};
use apiserver_kit::tls::Offer;
use ipnet::IpNet;
use serde_json::json;

/// What the operator knows besides the spec.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// URL of the API server that the operator was told to use, if any.
    pub api_server: Option<String>,
    /// Version to install when the spec names none.
    pub default_version: String,
    /// Complete image references, such as a mirror's by digest, for the default version.
    pub related: RelatedImages,
    /// Service ranges that the API server publishes, the one that it began with first.
    pub service_cidrs: Vec<ServiceRange>,
    /// Pod ranges of the Nodes.
    pub node_pod_cidrs: Vec<(String, IpNet)>,
    /// Addresses of the Nodes.
    pub node_addresses: Vec<(String, IpAddr)>,
    /// Namespace that the operator runs in; empty if it does not run in one.
    pub operator_namespace: String,
}

/// A range of a ServiceCIDR object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRange {
    /// Name of the object.
    pub object: String,
    /// The range.
    pub cidr: IpNet,
}

/// References that stand in for `antrea/<name>:<default version>`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RelatedImages {
    /// Agent, Open vSwitch and CNI installer.
    pub agent: Option<String>,
    /// Controller.
    pub controller: Option<String>,
}

/// A spec with nothing left open.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// Version to run.
    pub version: String,
    /// The agent's image.
    pub agent_image: String,
    /// The controller's image.
    pub controller_image: String,
    /// When Nodes pull images.
    pub pull_policy: PullPolicy,
    /// Secrets with credentials.
    pub pull_secrets: Vec<String>,
    /// How traffic travels between Nodes.
    pub encap: TrafficEncapMode,
    /// Tunnel protocol; none where no traffic is tunnelled or each node chooses by its datapath.
    pub tunnel: Option<TunnelType>,
    /// The tunnel's port, where one is known.
    pub tunnel_port: Option<u16>,
    /// Interface that carries traffic between Nodes, if told.
    pub transport_interface: Option<String>,
    /// Ranges of which one holds its address, if told.
    pub transport_cidrs: Vec<IpNet>,
    /// MTU of Pod interfaces in bytes; 0 = each agent finds out.
    pub mtu: i32,
    /// Service ranges; the first of each IP family is the primary one.
    pub service_cidrs: Vec<IpNet>,
    /// Ranges that hold all Pod addresses, if told.
    pub pod_cidrs: Vec<IpNet>,
    /// Open vSwitch datapath.
    pub datapath: Datapath,
    /// Bridge name.
    pub bridge: String,
    /// Gateway interface name.
    pub gateway: String,
    /// URL of the API server for the components, if the usual one does not do.
    pub api_server: Option<String>,
    /// Form of log lines.
    pub log_format: LogFormat,
    /// Where spans go, with its share; none: nowhere.
    pub tracing: Option<Tracing>,
    /// How agents and controller serve TLS.
    pub tls: EffectiveTls,
    /// Gates that the user set.
    pub gates: BTreeMap<String, bool>,
    /// Who serves Services.
    pub proxy: ProxyMode,
    /// Whether metrics are served.
    pub metrics: bool,
    /// Objects for Prometheus and Grafana.
    pub monitoring: EffectiveMonitoring,
    /// Resources of antrea-ovs.
    pub ovs_resources: Resources,
    /// The agent's Pods.
    pub agent: EffectiveWorkload,
    /// The controller's Pod.
    pub controller: EffectiveWorkload,
}

/// A [`TlsSettings`] with nothing left open.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveTls {
    /// Lowest version.
    pub min_version: TlsVersion,
    /// IANA names of cipher suites; none: all that there are.
    pub cipher_suites: Vec<CipherSuite>,
    /// Secret with the controller's certificate; none: it issues its own.
    pub controller_secret: Option<String>,
}

/// A [`Monitoring`] with nothing left open.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveMonitoring {
    /// Whether there are ServiceMonitors where the cluster knows them.
    pub service_monitors: bool,
    /// Whether there is a PrometheusRule where the cluster knows it.
    pub alerts: bool,
    /// Whether there are Grafana boards.
    pub dashboards: bool,
    /// Namespace of all of them, if told.
    pub namespace: Option<String>,
    /// Labels for them.
    pub labels: BTreeMap<String, String>,
    /// Annotations for them.
    pub annotations: BTreeMap<String, String>,
    /// Folder of runbook pages.
    pub runbook_url: String,
}

/// A [`Workload`] with nothing left open.
#[derive(Clone, Debug, PartialEq)]
pub struct EffectiveWorkload {
    /// Resources of the main container.
    pub resources: Resources,
    /// Labels that a Node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints put up with.
    pub tolerations: Vec<Toleration>,
    /// PriorityClass.
    pub priority_class_name: String,
    /// How much is logged.
    pub log_level: LogLevel,
}

/// One thing that is wrong with a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// A spec that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Everything that is wrong, never empty.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{}: {}", if i == 0 { "" } else { "; " }, problem.path, problem.message)?;
        }
        Ok(())
    }
}

/// Most Service ranges that agents are given.
const MAX_SERVICE_CIDRS: usize = 16;

/// Nodes that are named for one range.
const NAMED: usize = 3;

/// Port that a tunnel protocol has when nobody says otherwise.
fn default_port(tunnel: TunnelType) -> Option<u16> {
    match tunnel {
        TunnelType::Geneve => Some(6081),
        TunnelType::Vxlan => Some(4789),
        TunnelType::Gre => None,
        TunnelType::Stt => Some(7471),
    }
}

/// Fills in defaults and refuses contradictions.
///
/// # Errors
/// Everything that is wrong, by path.
pub fn effective(spec: &AntreaInstallationSpec, facts: &Facts) -> Result<Effective, ConfigError> {
    let mut problems = Problems::default();
    let images = spec.images.clone().unwrap_or_default();
    let version = spec.version.clone().unwrap_or_else(|| facts.default_version.clone());
    let ovs = spec.ovs.clone().unwrap_or_default();
    let encap = spec.traffic_encap_mode.unwrap_or(TrafficEncapMode::Encap);
    let datapath = ovs.datapath.unwrap_or(Datapath::Auto);
    let log_level = spec.log_level.unwrap_or(LogLevel::Info);
    let (tunnel, tunnel_port) = tunnel(spec, encap, datapath, &mut problems);

    let services = service_ranges(spec, facts, &mut problems);
    let pod = spec.pod_cidrs.clone().unwrap_or_default();
    let pod_cidrs = problems.cidrs("spec.podCIDRs.cluster", &pod.cluster);
    check_ranges(&services, &pod_cidrs, facts, &mut problems);
    let service_cidrs: Vec<IpNet> = services.into_iter().map(|(_, cidr)| cidr).collect();

    let transport_cidrs = problems.cidrs("spec.transportInterfaceCIDRs", &spec.transport_interface_cidrs);
    if spec.transport_interface.is_some() && !transport_cidrs.is_empty() {
        problems.add("spec.transportInterfaceCIDRs", "may not be set together with spec.transportInterface");
    }

    let mtu = spec.mtu.unwrap_or(0);
    if mtu != 0
        && mtu < 1280
        && service_cidrs.iter().chain(&pod_cidrs).any(|cidr| matches!(cidr, IpNet::V6(_)))
    {
        problems.add("spec.mtu", format!("{mtu} is less than the 1280 bytes that IPv6 needs"));
    }
    for (name, on) in &spec.feature_gates {
        if let Err(error) = features::check(name, *on) {
            problems.add(&format!("spec.featureGates.{name}"), error.to_string());
        }
    }
    let (proxy, gates) = proxy(spec, &mut problems);
    let bridge = ovs.bridge.unwrap_or_else(|| "br-int".into());
    let gateway = ovs.gateway.unwrap_or_else(|| "antrea-gw0".into());
    if bridge == gateway {
        problems.add("spec.ovs.gateway", format!("{gateway} is the name of the bridge too"));
    }

    let metrics = spec.monitoring.as_ref().and_then(|monitoring| monitoring.metrics).unwrap_or(true);
    let effective = Effective {
        agent_image: image(
            "antrea-agent",
            &images,
            images.agent.as_ref(),
            facts.related.agent.as_deref(),
            spec,
            &version,
        ),
        controller_image: image(
            "antrea-controller",
            &images,
            images.controller.as_ref(),
            facts.related.controller.as_deref(),
            spec,
            &version,
        ),
        version,
        pull_policy: images.pull_policy.unwrap_or(PullPolicy::IfNotPresent),
        pull_secrets: images.pull_secrets.iter().map(|secret| secret.name.clone()).collect(),
        encap,
        tunnel,
        tunnel_port,
        transport_interface: spec.transport_interface.clone(),
        transport_cidrs,
        mtu,
        service_cidrs,
        pod_cidrs,
        datapath,
        bridge,
        gateway,
        api_server: spec.kube_api_server_override.clone().or_else(|| facts.api_server.clone()),
        log_format: spec.log_format.unwrap_or(LogFormat::Text),
        tracing: spec.tracing.clone().map(|tracing| Tracing {
            sampling_percent: Some(tracing.sampling_percent.unwrap_or(100)),
            ..tracing
        }),
        tls: tls(spec, &mut problems),
        proxy,
        gates,
        metrics,
        monitoring: monitoring(spec, metrics),
        ovs_resources: ovs.resources.unwrap_or_else(|| requests("200m", "64Mi")),
        agent: workload(spec.agent.as_ref(), log_level, agent_defaults()),
        controller: workload(spec.controller.as_ref(), log_level, controller_defaults()),
    };
    problems.into_result(effective)
}

/// Who serves Services, by the mode or by upstream's gate, and the gates that go with it.
fn proxy(spec: &AntreaInstallationSpec, problems: &mut Problems) -> (ProxyMode, BTreeMap<String, bool>) {
    const GATE: &str = "AntreaProxy";
    const PATH: &str = "spec.proxy.mode";
    let mut gates = spec.feature_gates.clone();
    let asked = spec.proxy.as_ref().and_then(|proxy| proxy.mode);
    let mode = match (asked, gates.get(GATE)) {
        (None, Some(true)) => ProxyMode::Services,
        (mode, _) => mode.unwrap_or_default(),
    };
    match (mode, gates.get(GATE)) {
        (ProxyMode::All, _) => {
            problems.add(PATH, "this version does not implement All; choose Services and run kube-proxy");
        }
        (ProxyMode::KubeProxy, Some(true)) | (ProxyMode::Services, Some(false)) => {
            problems.add(PATH, "contradicts spec.featureGates.AntreaProxy; remove the gate");
        }
        (ProxyMode::KubeProxy, _) => {}
        (ProxyMode::Services, _) => {
            gates.insert(GATE.to_owned(), true);
        }
    }
    (mode, gates)
}

/// Tunnel protocol and port, and what contradicts them.
fn tunnel(
    spec: &AntreaInstallationSpec,
    encap: TrafficEncapMode,
    datapath: Datapath,
    problems: &mut Problems,
) -> (Option<TunnelType>, Option<u16>) {
    if encap == TrafficEncapMode::NoEncap {
        if spec.tunnel_type.is_some() {
            problems.add(
                "spec.tunnelType",
                "there is no tunnel with trafficEncapMode NoEncap; remove it or use Encap or Hybrid",
            );
        }
        if spec.tunnel_port.is_some() {
            problems.add(
                "spec.tunnelPort",
                "there is no tunnel with trafficEncapMode NoEncap; remove it or use Encap or Hybrid",
            );
        }
        return (None, None);
    }
    let chosen = match (spec.tunnel_type, datapath) {
        (Some(tunnel), Datapath::Userspace) if tunnel != TunnelType::Vxlan => {
            problems.add(
                "spec.tunnelType",
                "spec.ovs.datapath Userspace has a kernel VXLAN device as its tunnel; choose VXLAN or leave it out",
            );
            Some(tunnel)
        }
        (Some(tunnel), _) => Some(tunnel),
        (None, Datapath::System) => Some(TunnelType::Geneve),
        (None, Datapath::Userspace) => Some(TunnelType::Vxlan),
        // Each node takes the one that goes with the datapath it has.
        (None, Datapath::Auto) => None,
    };
    if chosen == Some(TunnelType::Gre) && spec.tunnel_port.is_some() {
        problems.add("spec.tunnelPort", "GRE has no port");
    }
    (chosen, spec.tunnel_port.or(chosen.and_then(default_port)))
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The Service ranges, each once, with the path or the object that it comes from.
fn service_ranges(
    spec: &AntreaInstallationSpec,
    facts: &Facts,
    problems: &mut Problems,
) -> Vec<(String, IpNet)> {
    let mut ranges: Vec<(String, IpNet)> = if spec.service_cidrs.is_empty() {
        let named = |range: &ServiceRange| (format!("ServiceCIDR {}", range.object), range.cidr.trunc());
        facts.service_cidrs.iter().map(named).collect()
    } else {
        let path = "spec.serviceCIDRs";
        problems.cidrs(path, &spec.service_cidrs).into_iter().map(|cidr| (path.to_owned(), cidr)).collect()
    };
    let mut seen = BTreeSet::new();
    ranges.retain(|(_, cidr)| seen.insert(*cidr));
    if ranges.len() > MAX_SERVICE_CIDRS {
        problems.add(
            "spec.serviceCIDRs",
            format!("there are {} Service ranges; at most {MAX_SERVICE_CIDRS} can be served", ranges.len()),
        );
    }
    ranges
}

/// Pod and Service ranges must not meet, no Node's address lies in a Service range, and each Node's range lies in
/// the cluster's.
fn check_ranges(services: &[(String, IpNet)], pods: &[IpNet], facts: &Facts, problems: &mut Problems) {
    for (pod, (_, service)) in pods.iter().flat_map(|pod| services.iter().map(move |service| (pod, service)))
    {
        if overlap(pod, service) {
            problems.add("spec.podCIDRs.cluster", format!("{pod} overlaps the Service range {service}"));
        }
    }
    for (i, a) in pods.iter().enumerate() {
        for b in &pods[i + 1..] {
            if overlap(a, b) {
                problems.add("spec.podCIDRs.cluster", format!("{a} and {b} overlap"));
            }
        }
    }
    for (path, service) in services {
        let pods = facts.node_pod_cidrs.iter().filter(|(_, cidr)| overlap(cidr, service));
        for (node, cidr) in pods.take(NAMED) {
            problems.add(path, format!("{service} overlaps the Pod range {cidr} of Node {node}"));
        }
        // What is sent there would be taken for a Service's, from Pods and from Nodes.
        let addresses = facts.node_addresses.iter().filter(|(_, address)| service.contains(address));
        for (node, address) in addresses.take(NAMED) {
            problems.add(path, format!("{service} contains the address {address} of Node {node}"));
        }
    }
}

/// The reference of one image.
fn image(
    name: &str,
    images: &Images,
    special: Option<&ImageOverride>,
    related: Option<&str>,
    spec: &AntreaInstallationSpec,
    version: &str,
) -> String {
    // A related image is meant for the default version; what the user says goes first.
    if let Some(related) = related
        && spec.version.is_none()
        && special.is_none_or(|special| *special == ImageOverride::default())
    {
        return match &images.registry {
            None => related.to_owned(),
            Some(registry) => format!("{registry}/{}", without_registry(related)),
        };
    }
    let special = special.cloned().unwrap_or_default();
    let repository = special.repository.unwrap_or_else(|| match &images.registry {
        Some(registry) => format!("{registry}/antrea/{name}"),
        None => format!("antrea/{name}"),
    });
    match (special.digest, special.tag) {
        (Some(digest), _) => format!("{repository}@{digest}"),
        (None, Some(tag)) => format!("{repository}:{tag}"),
        (None, None) => format!("{repository}:{version}"),
    }
}

/// Cuts the host off a reference: the first part, if it has a dot, a colon or is "localhost".
fn without_registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => rest,
        _ => reference,
    }
}

fn requests(cpu: &str, memory: &str) -> Resources {
    let requests = BTreeMap::from([("cpu".to_owned(), json!(cpu)), ("memory".to_owned(), json!(memory))]);
    Resources { requests, limits: BTreeMap::new() }
}

fn tolerate(key: Option<&str>, effect: Option<TolerationEffect>, seconds: Option<i64>) -> Toleration {
    Toleration {
        key: key.map(str::to_owned),
        operator: Some(TolerationOperator::Exists),
        value: None,
        effect,
        toleration_seconds: seconds,
    }
}

fn agent_defaults() -> EffectiveWorkload {
    EffectiveWorkload {
        resources: requests("200m", "32Mi"),
        node_selector: BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]),
        // A Node without its agent has no network, whatever else is wrong with it.
        tolerations: vec![
            tolerate(Some("CriticalAddonsOnly"), None, None),
            tolerate(None, Some(TolerationEffect::NoSchedule), None),
            tolerate(None, Some(TolerationEffect::NoExecute), None),
        ],
        priority_class_name: "system-node-critical".into(),
        log_level: LogLevel::Info,
    }
}

fn controller_defaults() -> EffectiveWorkload {
    let no_schedule = Some(TolerationEffect::NoSchedule);
    EffectiveWorkload {
        resources: requests("200m", "64Mi"),
        node_selector: BTreeMap::from([("kubernetes.io/os".to_owned(), "linux".to_owned())]),
        tolerations: vec![
            tolerate(Some("CriticalAddonsOnly"), None, None),
            tolerate(Some("node-role.kubernetes.io/control-plane"), no_schedule, None),
            tolerate(Some("node-role.kubernetes.io/master"), no_schedule, None),
            // It starts before there is a network.
            tolerate(Some("node.kubernetes.io/not-ready"), no_schedule, None),
            tolerate(Some("node.kubernetes.io/network-unavailable"), no_schedule, None),
            // There is one controller: move it at once when its Node is lost.
            tolerate(Some("node.kubernetes.io/unreachable"), Some(TolerationEffect::NoExecute), Some(0)),
        ],
        priority_class_name: "system-cluster-critical".into(),
        log_level: LogLevel::Info,
    }
}

/// What the schema refuses at apply is refused here too: an older definition may be in the cluster.
fn tls(spec: &AntreaInstallationSpec, problems: &mut Problems) -> EffectiveTls {
    let given = spec.tls.clone().unwrap_or_default();
    let tls = EffectiveTls {
        min_version: given.min_version.unwrap_or(TlsVersion::Tls12),
        cipher_suites: given.cipher_suites,
        controller_secret: given.controller_certificate_secret,
    };
    if let Err(error) = Offer::new(&tls.min_version(), &tls.suites()) {
        problems.add("spec.tls", error.to_string());
    }
    tls
}

impl EffectiveTls {
    /// As the components' files have it.
    pub fn min_version(&self) -> String {
        name(self.min_version)
    }

    /// As the components' files have it.
    pub fn suites(&self) -> String {
        self.cipher_suites.iter().map(name).collect::<Vec<_>>().join(",")
    }
}

/// The name under which an enumeration's value is written.
fn name(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

/// Without metrics there is nothing to scrape, to alert of or to show, unless somebody asks for boards.
fn monitoring(spec: &AntreaInstallationSpec, metrics: bool) -> EffectiveMonitoring {
    let given = spec.monitoring.clone().unwrap_or_default();
    EffectiveMonitoring {
        service_monitors: given.service_monitors.unwrap_or(metrics),
        alerts: given.alerts.unwrap_or(metrics),
        dashboards: given.dashboards.unwrap_or(metrics),
        namespace: given.namespace,
        labels: given.labels,
        annotations: given.annotations,
        runbook_url: given.runbook_url.unwrap_or_else(|| dashboards::RUNBOOKS.to_owned()),
    }
}

fn workload(given: Option<&Workload>, log_level: LogLevel, defaults: EffectiveWorkload) -> EffectiveWorkload {
    let given = given.cloned().unwrap_or_default();
    let mut node_selector = defaults.node_selector;
    node_selector.extend(given.node_selector);
    EffectiveWorkload {
        resources: given.resources.unwrap_or(defaults.resources),
        node_selector,
        tolerations: given.tolerations.unwrap_or(defaults.tolerations),
        priority_class_name: given.priority_class_name.unwrap_or(defaults.priority_class_name),
        log_level: given.log_level.unwrap_or(log_level),
    }
}

impl Effective {
    /// Whether the agents trace packets.
    pub fn traceflow(&self) -> bool {
        antrea_api::features::is_on(antrea_api::features::Component::Agent, "Traceflow", &self.gates)
    }

    /// As a spec, for `status.computed`. A Pod MTU that each agent finds out by itself stays absent.
    pub fn to_spec(&self) -> AntreaInstallationSpec {
        let exact = |reference: &str| {
            let (name, digest) = match reference.split_once('@') {
                Some((name, digest)) => (name, Some(digest.to_owned())),
                None => (reference, None),
            };
            let (repository, tag) = match name.rsplit_once(':') {
                Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag.to_owned())),
                _ => (name, None),
            };
            let tag = tag.filter(|_| digest.is_none());
            Some(ImageOverride { repository: Some(repository.to_owned()), tag, digest })
        };
        let workload = |workload: &EffectiveWorkload| {
            Some(Workload {
                resources: Some(workload.resources.clone()),
                node_selector: workload.node_selector.clone(),
                tolerations: Some(workload.tolerations.clone()),
                priority_class_name: Some(workload.priority_class_name.clone()),
                log_level: Some(workload.log_level),
            })
        };
        AntreaInstallationSpec {
            version: Some(self.version.clone()),
            management_state: Some(ManagementState::Managed),
            // How a change comes about is no part of what it comes to.
            rollout: None,
            images: Some(Images {
                registry: None,
                pull_policy: Some(self.pull_policy),
                pull_secrets: self
                    .pull_secrets
                    .iter()
                    .map(|name| PullSecret { name: name.clone() })
                    .collect(),
                agent: exact(&self.agent_image),
                controller: exact(&self.controller_image),
            }),
            traffic_encap_mode: Some(self.encap),
            tunnel_type: self.tunnel,
            tunnel_port: self.tunnel_port,
            transport_interface: self.transport_interface.clone(),
            transport_interface_cidrs: self.transport_cidrs.iter().map(IpNet::to_string).collect(),
            mtu: (self.mtu != 0).then_some(self.mtu),
            service_cidrs: self.service_cidrs.iter().map(IpNet::to_string).collect(),
            pod_cidrs: Some(PodCidrs {
                source: Some(PodCidrSource::NodeSpec),
                cluster: self.pod_cidrs.iter().map(IpNet::to_string).collect(),
            }),
            ovs: Some(Ovs {
                datapath: Some(self.datapath),
                bridge: Some(self.bridge.clone()),
                gateway: Some(self.gateway.clone()),
                resources: Some(self.ovs_resources.clone()),
            }),
            kube_api_server_override: self.api_server.clone(),
            log_level: None,
            log_format: Some(self.log_format),
            tls: Some(TlsSettings {
                min_version: Some(self.tls.min_version),
                cipher_suites: self.tls.cipher_suites.clone(),
                controller_certificate_secret: self.tls.controller_secret.clone(),
            }),
            tracing: self.tracing.clone(),
            feature_gates: self.gates.clone(),
            proxy: Some(Proxy { mode: Some(self.proxy) }),
            agent: workload(&self.agent),
            controller: workload(&self.controller),
            monitoring: Some(Monitoring {
                metrics: Some(self.metrics),
                service_monitors: Some(self.monitoring.service_monitors),
                alerts: Some(self.monitoring.alerts),
                dashboards: Some(self.monitoring.dashboards),
                namespace: self.monitoring.namespace.clone(),
                labels: self.monitoring.labels.clone(),
                annotations: self.monitoring.annotations.clone(),
                runbook_url: Some(self.monitoring.runbook_url.clone()),
            }),
        }
    }
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, path: &str, message: impl Into<String>) {
        self.0.push(Problem { path: path.to_owned(), message: message.into() });
    }

    fn cidrs(&mut self, path: &str, given: &[String]) -> Vec<IpNet> {
        let mut nets = Vec::new();
        for text in given {
            match text.parse::<IpNet>() {
                Ok(net) => nets.push(net.trunc()),
                Err(_) => self.add(path, format!("{text:?} is no CIDR")),
            }
        }
        nets
    }

    fn into_result<T>(self, value: T) -> Result<T, ConfigError> {
        if self.0.is_empty() { Ok(value) } else { Err(ConfigError { problems: self.0 }) }
    }
}

#[cfg(test)]
mod tests;
