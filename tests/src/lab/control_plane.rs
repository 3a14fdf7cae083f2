//! The lab's API server and controller: objects that a cluster would have, and starting and stopping both.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netcfg::Netns;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::{Lab, LabNode, end, kubeconfig, tail};
use crate::background::Background;
use crate::https::{self, Endpoint};
use crate::oracle::{Labels, PodFacts};

/// Collection path of Namespaces.
pub const NAMESPACES: &str = "api/v1/namespaces";
/// Collection path of Pods.
pub const PODS: &str = "api/v1/pods";
/// Collection path of NetworkPolicies.
pub const NETWORK_POLICIES: &str = "apis/networking.k8s.io/v1/networkpolicies";
const CONFIG_MAPS: &str = "api/v1/configmaps";
const ENDPOINT_SLICES: &str = "apis/discovery.k8s.io/v1/endpointslices";
const API_SERVICES: &str = "apis/apiregistration.k8s.io/v1/apiservices";
const SYSTEM: &str = "kube-system";

/// Port of the controller.
const CONTROLLER_PORT: u16 = 10_349;

/// What of the control plane runs.
#[derive(Debug, Default)]
pub(super) struct ControlPlane {
    pub(super) server: Option<Background>,
    controller: Option<Child>,
    /// Whether the controller has been ready since it was started.
    ready: bool,
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        end(&mut self.controller, Signal::SIGKILL);
    }
}

impl Lab {
    /// Puts the objects that a cluster has before anything of ours runs.
    pub(super) fn publish_cluster(&self) {
        for name in ["default", SYSTEM] {
            self.put_namespace(name, &[]);
        }
        self.api.put(
            API_SERVICES,
            json!({
                "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
                "metadata": {"name": "v1beta2.controlplane.antrea.io"},
                "spec": {
                    "group": "controlplane.antrea.io", "version": "v1beta2",
                    "groupPriorityMinimum": 100, "versionPriority": 100,
                    "service": {"name": "antrea", "namespace": SYSTEM},
                },
            }),
        );
        self.publish_endpoint();
    }

    /// Writes a Namespace.
    pub fn put_namespace(&self, name: &str, labels: &[(&str, &str)]) {
        let labels: Value = labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let metadata = json!({"name": name, "labels": labels});
        self.api.put(NAMESPACES, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}));
    }

    /// Writes a Pod of namespace `default`, on a node, as scheduler and kubelet leave it.
    pub fn put_pod(&self, index: usize, name: &str, labels: &[(&str, &str)], ip: Option<std::net::IpAddr>) {
        let labels: Value = labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let ips: Vec<Value> = ip.iter().map(|ip| json!({"ip": ip.to_string()})).collect();
        let phase = if ip.is_some() { "Running" } else { "Pending" };
        self.api.put(
            PODS,
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": name, "namespace": "default", "labels": labels,
                    "uid": self.nodes[index].pod_uid(name).to_string(),
                },
                "spec": {"nodeName": self.nodes[index].name, "containers": [{"name": "c", "image": "none"}]},
                "status": {"phase": phase, "podIPs": ips},
            }),
        );
    }

    /// Writes a Pod of any namespace, whose name no pod of another namespace may have. An address that it has stays.
    pub fn put_pod_of(&mut self, index: usize, pod: &PodFacts, labels: &Labels) {
        self.nodes[index].namespaces.insert(pod.name.clone(), pod.namespace.clone());
        let status = match self.api.get(PODS, Some(&pod.namespace), &pod.name) {
            Some(known) => known["status"].clone(),
            None => json!({"phase": "Pending"}),
        };
        let port = |(name, protocol, number): &_| json!({"name": name, "protocol": protocol, "containerPort": number});
        let ports: Vec<Value> = pod.ports.iter().map(port).collect();
        self.api.put(
            PODS,
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": pod.name, "namespace": pod.namespace, "labels": labels,
                    "uid": self.nodes[index].pod_uid(&pod.name).to_string(),
                },
                "spec": {
                    "nodeName": self.nodes[index].name,
                    "containers": [{"name": "c", "image": "none", "ports": ports}],
                },
                "status": status,
            }),
        );
    }

    /// Deletes a Pod and creates another of its name, as a StatefulSet does.
    pub fn recreate_pod(&mut self, index: usize, name: &str, labels: &[(&str, &str)]) {
        self.api.delete(PODS, Some("default"), name);
        *self.nodes[index].lives.entry(name.to_owned()).or_default() += 1;
        self.put_pod(index, name, labels, None);
    }

    /// Says in a Pod's status which addresses it has, as kubelet does when the sandbox is made.
    pub fn report_pod_ips(&self, name: &str, ips: &[std::net::IpAddr]) {
        let of = |node: &LabNode| node.namespaces.get(name).cloned();
        let namespace = self.nodes.iter().find_map(of).unwrap_or_else(|| "default".to_owned());
        if let Some(mut pod) = self.api.get(PODS, Some(&namespace), name) {
            let ips: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            pod["status"] = json!({"phase": "Running", "podIPs": ips});
            self.api.put(PODS, pod);
        }
    }

    /// Writes a NetworkPolicy of namespace `default`.
    pub fn put_policy(&self, name: &str, spec: &Value) {
        self.put_policy_of("default", name, spec);
    }

    /// Writes a NetworkPolicy.
    pub fn put_policy_of(&self, namespace: &str, name: &str, spec: &Value) {
        self.api.put(
            NETWORK_POLICIES,
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"name": name, "namespace": namespace, "generation": 1},
                "spec": spec,
            }),
        );
    }

    /// Starts serving the objects.
    pub async fn start_api(&mut self) {
        assert!(self.control_plane.server.is_none(), "the API server runs");
        let address = SocketAddr::from((self.outside_ip(), 6443));
        let bind = move || std::net::TcpListener::bind(address);
        let listener =
            Netns::open(format!("/run/netns/{}", self.outside())).unwrap().run(bind).await.unwrap().unwrap();
        listener.set_nonblocking(true).unwrap();
        self.control_plane.server = Some(self.api.serve(listener));
        self.publish_endpoint();
    }

    /// Stops serving; connections are cut.
    pub fn stop_api(&mut self) {
        self.control_plane.server = None;
    }

    /// Starts the controller in the outside namespace.
    pub fn start_controller(&mut self) {
        assert!(self.control_plane.controller.is_none(), "the controller runs");
        let dir = self.dir.path().join("controller");
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("kubeconfig");
        std::fs::write(&file, kubeconfig(self.outside_ip())).unwrap();
        let level = self.config.get("logLevel").and_then(Value::as_str).unwrap_or("debug");
        let mut config = json!({
            "apiPort": CONTROLLER_PORT, "clientConnection": {"kubeconfig": file}, "logLevel": level,
        });
        for name in ["tracing", "featureGates"] {
            if let Some(value) = self.config.get(name) {
                config[name] = value.clone();
            }
        }
        let file = dir.join("antrea-controller.conf");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.controller_log()).unwrap();
        // It leaves a token for antctl under /run, which here is its own.
        let script = "mount -t tmpfs lab /run && exec \"$@\"";
        let child = Command::new("ip")
            .args(["netns", "exec", &self.outside(), "sh", "-c", script, "sh"])
            .arg(self.program("antrea-controller"))
            .arg("--config")
            .arg(&file)
            .env("POD_NAME", "antrea-controller-lab")
            .env("POD_NAMESPACE", SYSTEM)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.control_plane.controller = Some(child);
    }

    /// Ends the controller without warning. Its endpoint goes as kubelet and the endpoints controller would
    /// see to it, if there is an API server.
    pub fn kill_controller(&mut self) {
        end(&mut self.control_plane.controller, Signal::SIGKILL);
        self.control_plane.ready = false;
        if self.control_plane.server.is_some() {
            self.publish_endpoint();
        }
    }

    /// Stops and continues the controller's process: it keeps its connections and answers nothing.
    pub fn freeze_controller(&self, frozen: bool) {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        nix::sys::signal::kill(Pid::from_raw(i32::try_from(self.controller_pid()).unwrap()), signal).unwrap();
    }

    /// Process id of the controller.
    pub fn controller_pid(&self) -> u32 {
        self.control_plane.controller.as_ref().expect("the controller must run").id()
    }

    /// The controller's log.
    pub fn controller_log(&self) -> std::path::PathBuf {
        self.dir.path().join("controller/controller.log")
    }

    /// Waits until the controller's readiness probe succeeds; then agents find it.
    pub async fn wait_controller(&mut self) -> Duration {
        let start = Instant::now();
        let log = self.controller_log();
        let log = || tail(&std::fs::read_to_string(&log).unwrap_or_default(), 40);
        loop {
            let answer = match self.controller_endpoint(None) {
                Some(endpoint) => https::get(&endpoint, "/readyz").await,
                None => Err("no CA is published".to_owned()),
            };
            if matches!(answer, Ok((200, _))) {
                break;
            }
            let ended = self.control_plane.controller.as_mut().and_then(|child| child.try_wait().unwrap());
            assert!(ended.is_none(), "the controller ended: {ended:?}\n{}", log());
            assert!(start.elapsed() < Duration::from_secs(60), "not ready: {answer:?}\n{}", log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.control_plane.ready = true;
        self.publish_endpoint();
        start.elapsed()
    }

    /// How to ask the controller something as the user of `token`; none until its CA is published.
    pub fn controller_endpoint(&self, token: Option<&str>) -> Option<Endpoint> {
        let map = self.api.get(CONFIG_MAPS, Some(SYSTEM), "antrea-ca")?;
        Some(Endpoint {
            netns: self.outside(),
            address: (self.outside_ip(), CONTROLLER_PORT).into(),
            name: "antrea.kube-system.svc",
            ca: map["data"]["ca.crt"].as_str()?.to_owned(),
            token: token.map(str::to_owned),
        })
    }

    /// The sum of the controller's samples whose lines have all these parts, the first at their beginning.
    pub async fn controller_metric(&self, parts: &[&str]) -> f64 {
        let endpoint = self.controller_endpoint(Some("lab-scraper")).expect("the controller's CA");
        let (status, text) = https::get(&endpoint, "/metrics").await.unwrap();
        assert_eq!(status, 200, "{text}");
        sum(&text, parts)
    }

    /// How to ask an agent something as the user of `token`; its AntreaAgentInfo must be written.
    pub fn agent_endpoint(&self, index: usize, token: Option<&str>) -> Endpoint {
        let node = &self.nodes[index];
        let info = self.api.get(super::AGENT_INFOS, None, &node.name).expect("AntreaAgentInfo");
        let bundle = serde_json::from_value::<k8s_openapi::ByteString>(info["apiCABundle"].clone()).unwrap();
        Endpoint {
            netns: node.netns.clone(),
            address: ([127, 0, 0, 1], node.api_port).into(),
            name: "localhost",
            ca: String::from_utf8(bundle.0).unwrap(),
            token: token.map(str::to_owned),
        }
    }

    /// The sum of an agent's samples whose lines begin with `prefix`.
    pub async fn agent_metric(&self, index: usize, prefix: &str) -> f64 {
        let endpoint = self.agent_endpoint(index, Some("lab-scraper"));
        let (status, text) = https::get(&endpoint, "/metrics").await.unwrap();
        assert_eq!(status, 200, "{text}");
        sum(&text, &[prefix])
    }

    /// Writes the controller's EndpointSlice as it is now.
    fn publish_endpoint(&self) {
        let ready = self.control_plane.ready;
        let endpoints = if ready {
            json!([{"addresses": [self.outside_ip().to_string()], "conditions": {"ready": true}}])
        } else {
            json!([])
        };
        self.api.put(
            ENDPOINT_SLICES,
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": {
                    "name": "antrea-lab", "namespace": SYSTEM,
                    "labels": {"kubernetes.io/service-name": "antrea"},
                },
                "endpoints": endpoints,
                "ports": [{"name": "https", "port": CONTROLLER_PORT, "protocol": "TCP"}],
            }),
        );
    }
}

pub(super) fn sum(text: &str, parts: &[&str]) -> f64 {
    let wanted = |line: &&str| line.starts_with(parts[0]) && parts.iter().all(|part| line.contains(part));
    let samples = text.lines().filter(wanted);
    samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}
