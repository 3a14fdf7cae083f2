//! The configuration in effect: the spec with every default filled in and every contradiction refused.

mod problems;
mod proxy;
mod spec;
mod workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use antrea_api::features;
use antrea_crds::installation::{
    AntreaInstallationSpec, AuditLogging, CipherSuite, Datapath, ImageOverride, Images, LogFormat, LogLevel,
    PullPolicy, Resources, TlsVersion, Toleration, Tracing, TrafficEncapMode, TunnelType,
};
use apiserver_kit::tls::Offer;
use ipnet::IpNet;

use self::{
    problems::Problems,
    workload::{agent_defaults, controller_defaults, requests, workload},
};
pub use self::{
    problems::{ConfigError, Problem},
    proxy::EffectiveProxy,
};

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
    pub node_pod_cidrs: Vec<(String, IpNet)>,
    pub node_addresses: Vec<(String, IpAddr)>,
    /// Namespace that the operator runs in; empty if it does not run in one.
    pub operator_namespace: String,
}

/// A range of a ServiceCIDR object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRange {
    /// Name of the object.
    pub object: String,
    pub cidr: IpNet,
}

/// References that stand in for `antrea/<name>:<default version>`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RelatedImages {
    /// Agent, Open vSwitch and CNI installer.
    pub agent: Option<String>,
    pub controller: Option<String>,
}

/// A spec with nothing left open.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// Version to run.
    pub version: String,
    pub agent_image: String,
    pub controller_image: String,
    /// The image with plugins for user interfaces, which the operator does not run; none: none are asked for.
    pub ui_image: Option<String>,
    /// Namespace of Headlamp's plugin, if that is wanted.
    pub headlamp: Option<String>,
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
    /// Limits of the audit log of policies; none: the agents' own.
    pub audit_logging: Option<AuditLogging>,
    /// Seconds for which agents keep what DNS tells, at least; none: their own default.
    pub fqdn_cache_min_ttl: Option<u32>,
    /// Where spans go, with its share; none: nowhere.
    pub tracing: Option<Tracing>,
    /// How agents and controller serve TLS.
    pub tls: EffectiveTls,
    /// Gates that the user set.
    pub gates: BTreeMap<String, bool>,
    /// Who serves Services.
    pub proxy: EffectiveProxy,
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
    pub priority_class_name: String,
    /// How much is logged.
    pub log_level: LogLevel,
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
    let (proxy, gates) = proxy::proxy(spec, &mut problems);
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
        ui_image: spec
            .ui
            .as_ref()
            .map(|_| image("antrea-ui", &images, images.ui.as_ref(), None, spec, &version)),
        headlamp: spec.ui.as_ref().and_then(|ui| Some(ui.headlamp.as_ref()?.namespace.clone())),
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
        audit_logging: spec.audit_logging.as_ref().map(|limits| AuditLogging {
            max_size: Some(limits.max_size.unwrap_or(500)),
            max_backups: Some(limits.max_backups.unwrap_or(3)),
            max_age: Some(limits.max_age.unwrap_or(28)),
            compress: Some(limits.compress.unwrap_or(true)),
        }),
        fqdn_cache_min_ttl: spec.fqdn_cache_min_ttl,
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

#[cfg(test)]
mod tests;
