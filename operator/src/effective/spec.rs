//! The configuration in effect, read as a spec again.

use antrea_crds::installation::{
    AntreaInstallationSpec, HeadlampPlugin, ImageOverride, Images, ManagementState, Monitoring, Ovs,
    PodCidrSource, PodCidrs, PullSecret, TlsSettings, Ui, Workload,
};
use ipnet::IpNet;

use super::{Effective, EffectiveWorkload};

impl Effective {
    /// Whether the agents trace packets.
    pub fn traceflow(&self) -> bool {
        antrea_api::features::is_on(antrea_api::features::Component::Agent, "Traceflow", &self.gates)
    }

    /// Whether the agents capture packets.
    pub fn packet_capture(&self) -> bool {
        antrea_api::features::is_on(antrea_api::features::Component::Agent, "PacketCapture", &self.gates)
    }

    /// Whether the controller takes in policies with an order.
    pub fn policies(&self) -> bool {
        antrea_api::features::is_on(antrea_api::features::Component::Controller, "AntreaPolicy", &self.gates)
    }

    /// Whether the Kubernetes project's ClusterNetworkPolicies are among them.
    pub fn standard_policies(&self) -> bool {
        use antrea_api::features::{Component, is_on};
        self.policies() && is_on(Component::Controller, "ClusterNetworkPolicy", &self.gates)
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
                ui: self.ui_image.as_deref().and_then(exact),
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
            audit_logging: self.audit_logging.clone(),
            fqdn_cache_min_ttl: self.fqdn_cache_min_ttl,
            tracing: self.tracing.clone(),
            ui: self.ui_image.as_ref().map(|_| Ui {
                headlamp: self.headlamp.clone().map(|namespace| HeadlampPlugin { namespace }),
            }),
            feature_gates: self.gates.clone(),
            proxy: Some(self.proxy.to_spec()),
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
