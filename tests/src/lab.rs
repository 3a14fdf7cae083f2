//! Nodes, pods and what is done with them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use antrea_operator::render::{AGENT_CAPABILITIES, OVS_CAPABILITIES};
use ovs::testing::{TestOvs, confinement};
use serde_json::{Value, json};

use crate::background::Background;
use crate::fake_api::FakeApi;

mod control_plane;
pub mod families;
mod node;
pub mod operator;

pub use self::node::LabNode;
use self::node::{end, last_lines, tail};
pub use control_plane::{NAMESPACES, NETWORK_POLICIES, PODS};

/// Collection path of Node objects.
pub const NODES: &str = "api/v1/nodes";

/// Collection path of AntreaAgentInfo objects.
pub const AGENT_INFOS: &str = "apis/crd.antrea.io/v1beta1/antreaagentinfos";

static NEXT_LAB: AtomicU32 = AtomicU32::new(1);

/// How OVS forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datapath {
    /// Kernel module.
    System,
    /// Userspace, with TSO.
    Userspace,
}

impl Datapath {
    /// What this machine has, as `Auto` would choose.
    pub fn here() -> Self {
        let kernel = netcfg::kernel_has_family("ovs_datapath").unwrap();
        if kernel { Self::System } else { Self::Userspace }
    }
}

/// A running lab.
pub struct Lab {
    /// The API server's objects.
    pub api: FakeApi,
    /// Nodes by order.
    pub nodes: Vec<LabNode>,
    id: String,
    subnet: u8,
    dir: tempfile::TempDir,
    control_plane: control_plane::ControlPlane,
    config: BTreeMap<String, Value>,
    /// Folder of agents and controllers that are started from now on, where they are not those under test.
    pub programs: Option<PathBuf>,
    /// What agents that are started from now on are told besides.
    pub agent_args: Vec<&'static str>,
    /// A folder in which agents find programs before others.
    agent_path: Option<PathBuf>,
    /// The collector of spans, where there is one.
    pub(crate) collector: Option<Background>,
}

/// A pod.
#[derive(Clone, Debug)]
pub struct Pod {
    pub name: String,
    pub container_id: String,
    /// Name of its network namespace.
    pub netns: String,
    /// Its first address.
    pub ip: IpAddr,
    pub mac: String,
    /// The result of the ADD.
    pub result: Value,
}

/// Runs a command and returns what it printed; a failure ends the test with everything it said.
pub fn run(command: &str, args: &[&str]) -> String {
    let output = Command::new(command).args(args).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(
        output.status.success(),
        "{command} {args:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// [`run`] for a line of words.
pub fn sh(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    run(words[0], &words[1..])
}

/// Runs a command in a namespace without judging its end.
pub fn try_in(netns: &str, args: &[&str]) -> Output {
    Command::new("ip").args(["netns", "exec", netns]).args(args).stdin(Stdio::null()).output().unwrap()
}

/// Waits until `check` holds, at most `limit`.
pub async fn eventually(what: &str, limit: Duration, mut check: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    loop {
        if check() {
            return start.elapsed();
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Where the binaries under test are: `ANTREA_BIN`, else where cargo puts them.
pub fn binary(name: &str) -> PathBuf {
    let folder = std::env::var_os("ANTREA_BIN").map(PathBuf::from).unwrap_or_else(|| {
        let exe = std::env::current_exe().unwrap();
        exe.parent().and_then(Path::parent).unwrap().to_owned()
    });
    let file = folder.join(name);
    assert!(file.is_file(), "{} is not built; run `make build` first or set ANTREA_BIN", file.display());
    file
}

/// Folder with host-local and the other reference plugins: `ANTREA_CNI_PLUGINS`.
pub fn plugins() -> PathBuf {
    let folder = PathBuf::from(
        std::env::var_os("ANTREA_CNI_PLUGINS").expect("ANTREA_CNI_PLUGINS must name the plugins' folder"),
    );
    assert!(folder.join("host-local").is_file(), "no host-local in {}", folder.display());
    folder
}

impl Lab {
    /// Starts a lab of `count` nodes with controller and agents that are ready. `config` is added to
    /// antrea-agent.conf.
    pub async fn start(count: usize, config: &[(&str, Value)]) -> Self {
        let mut lab = Self::without_agents(count, config).await;
        lab.start_agents().await;
        lab
    }

    /// Starts the agents of all nodes at once and waits until they are ready.
    pub async fn start_agents(&mut self) {
        for index in 0..self.nodes.len() {
            self.start_agent(index);
        }
        for index in 0..self.nodes.len() {
            self.wait_ready(index).await;
        }
    }

    /// As [`Self::start`], with no agent running yet. The controller is ready.
    pub async fn without_agents(count: usize, config: &[(&str, Value)]) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "the lab needs root");
        let number = NEXT_LAB.fetch_add(1, Ordering::Relaxed);
        let id = format!("al{}x{number}", std::process::id());
        let subnet = u8::try_from((std::process::id() + number) % 250 + 1).unwrap();
        let dir = tempfile::Builder::new().prefix("al").tempdir_in("/tmp").unwrap();
        let config = config.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        // Made first: whatever fails from here on, its drop cleans up.
        let api = FakeApi::default();
        let control_plane = control_plane::ControlPlane::default();
        let mut lab = Self {
            api,
            nodes: Vec::new(),
            id,
            subnet,
            dir,
            control_plane,
            config,
            programs: None,
            agent_args: Vec::new(),
            agent_path: None,
            collector: None,
        };
        let underlay = lab.outside();
        sh(&format!("ip netns add {underlay}"));
        for line in [
            "link set lo up".to_owned(),
            "link add underlay0 type bridge".to_owned(),
            format!("addr add 172.31.{subnet}.1/24 dev underlay0"),
            "link set underlay0 up".to_owned(),
        ] {
            sh(&format!("ip -n {underlay} {line}"));
        }
        lab.publish_cluster();
        lab.start_api().await;
        lab.start_controller();
        for _ in 0..count {
            lab.add_node();
        }
        lab.wait_controller().await;
        lab
    }

    /// Name of the namespace that stands for the world outside.
    pub fn outside(&self) -> String {
        format!("{}u", self.id)
    }

    /// The outside world's address.
    pub fn outside_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(172, 31, self.subnet, 1)
    }

    /// Adds a node with OVS, and its Node object.
    pub fn add_node(&mut self) -> usize {
        let number = self.nodes.len() + 1;
        let name = format!("node{number}");
        let netns = format!("{}n{number}", self.id);
        let underlay = self.outside();
        let ip = Ipv4Addr::new(172, 31, self.subnet, 10 + u8::try_from(number).unwrap());
        sh(&format!("ip netns add {netns}"));
        for line in [
            format!("-n {underlay} link add to{number} type veth peer name eth0 netns {netns}"),
            format!("-n {underlay} link set to{number} master underlay0 up"),
            format!("-n {netns} link set lo up"),
            format!("-n {netns} addr add {ip}/24 dev eth0"),
            format!("-n {netns} link set eth0 up"),
            format!("-n {netns} route add default via {}", self.outside_ip()),
        ] {
            sh(&format!("ip {line}"));
        }
        let dir = self.dir.path().join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        let mut ovs = TestOvs::start_db_only(&dir.join("ovs"), Some(&netns)).unwrap();
        // As start_ovs does in the image.
        let version = sh("ovs-vswitchd --version");
        let version = version.lines().next().and_then(|line| line.split(' ').next_back()).unwrap();
        let settings = ["other_config:userspace-tso-enable=true", "other_config:flow-restore-wait=true"];
        let set = ["--no-wait", "set", "Open_vSwitch", ".", &format!("ovs_version={version}")];
        ovs.vsctl(&[&set[..], &settings].concat()).unwrap();
        ovs.confine(OVS_CAPABILITIES);
        ovs.start_vswitchd().unwrap();
        let pod_cidr = format!("10.244.{number}.0/24");
        let api_port = 10_350;
        self.nodes.push(LabNode {
            name,
            netns,
            ip,
            pod_cidr,
            ovs,
            dir,
            api_port,
            cni_bin: plugins(),
            agent: None,
            pods: Vec::new(),
            lives: BTreeMap::new(),
            namespaces: BTreeMap::new(),
        });
        self.publish_node(number - 1);
        number - 1
    }

    /// Writes the Node object as its fields say.
    pub fn publish_node(&self, index: usize) {
        let node = &self.nodes[index];
        self.api.put(
            NODES,
            json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": node.name},
                "spec": {"podCIDR": node.pod_cidr, "podCIDRs": [node.pod_cidr]},
                "status": {"addresses": [{"type": "InternalIP", "address": node.ip.to_string()}]},
            }),
        );
    }

    /// The binary of an agent or a controller that is started now.
    fn program(&self, name: &str) -> PathBuf {
        self.programs.as_ref().map_or_else(|| binary(name), |folder| folder.join(name))
    }

    /// Adds to antrea-agent.conf of agents that are started from now on.
    pub fn configure(&mut self, key: &str, value: Value) {
        self.config.insert(key.to_owned(), value);
    }

    /// Starts a node's agent.
    pub fn start_agent(&mut self, index: usize) {
        let (access, program) = (kubeconfig(self.outside_ip()), self.program("antrea-agent"));
        let node = &mut self.nodes[index];
        assert!(node.agent.is_none(), "the agent of {} runs", node.name);
        let kubeconfig = node.dir.join("kubeconfig");
        std::fs::write(&kubeconfig, access).unwrap();
        let token = node.dir.join("token");
        let agent = format!("lab-system:serviceaccount:kube-system:antrea-agent@{}", node.name);
        std::fs::write(&token, agent).unwrap();
        let mut config = json!({
            "cniSocket": node.cni_socket(),
            "ovsRunDir": node.ovs.dir(),
            "clientConnection": {"kubeconfig": kubeconfig},
            "apiPort": node.api_port,
            "serviceCIDR": "10.96.0.0/16",
            // Who is to serve Services says so: else it is nobody, or what a test plays.
            "featureGates": {"AntreaProxy": false},
            "logLevel": "debug",
        });
        for (key, value) in &self.config {
            match value {
                Value::Object(values) if config[key].is_object() => {
                    values.iter().for_each(|(name, value)| config[key][name] = value.clone());
                }
                value => config[key] = value.clone(),
            }
        }
        let file = node.dir.join("antrea-agent.conf");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(node.log()).unwrap();
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let path = self.agent_path.iter().cloned().chain(std::env::split_paths(&inherited));
        let child = Command::new("ip")
            .args(["netns", "exec", &node.netns])
            .args(confinement(AGENT_CAPABILITIES))
            .arg(program)
            .arg("--config")
            .arg(&file)
            .arg("--cni-data-dir")
            .arg(node.dir.join("ipam"))
            .arg("--policy-dir")
            .arg(node.dir.join("networkpolicy"))
            .arg("--audit-log")
            .arg(node.dir.join("np.log"))
            .arg("--token-file")
            .arg(&token)
            .arg("--api-token-file")
            .arg(node.dir.join("loopback-client-token"))
            .args(&self.agent_args)
            .arg("--cni-bin-dir")
            .arg(&node.cni_bin)
            .env("NODE_NAME", &node.name)
            .env("POD_NAME", format!("antrea-agent-{}", node.name))
            .env("POD_NAMESPACE", "kube-system")
            .env("PATH", std::env::join_paths(path).unwrap())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        node.agent = Some(child);
    }

    /// Waits until the plugin's STATUS says that the network is up.
    pub async fn wait_ready(&mut self, index: usize) -> Duration {
        let start = Instant::now();
        loop {
            let node = &mut self.nodes[index];
            let asked = Instant::now();
            let (output, _) = node.cni("STATUS", "", "", "1.1.0", None);
            let took = asked.elapsed();
            if output.status.success() {
                return start.elapsed();
            }
            let ended = node.agent.as_mut().and_then(|agent| agent.try_wait().unwrap());
            let log = || std::fs::read_to_string(node.log()).unwrap_or_default();
            assert!(ended.is_none(), "the agent of {} ended: {ended:?}\n{}", node.name, log());
            assert!(start.elapsed() < Duration::from_secs(60), "{} is not ready\n{}", node.name, log());
            // A question is a process, which takes long in a virtual machine; most of the time is the agent's.
            tokio::time::sleep(Duration::from_millis(50).max(2 * took)).await;
        }
    }

    /// Waits until a node's AntreaAgentInfo says that it is unhealthy for `reason`; returns the message.
    pub async fn wait_unhealthy(&self, index: usize, reason: &str) -> String {
        let healthy = || {
            let object = self.api.get(AGENT_INFOS, None, &self.nodes[index].name)?;
            let conditions = object["agentConditions"].as_array()?.clone();
            conditions.into_iter().find(|condition| condition["type"] == "AgentHealthy")
        };
        let found = || healthy().is_some_and(|c| c["status"] == "False" && c["reason"] == reason);
        eventually(&format!("AgentHealthy=False for {reason}"), Duration::from_secs(30), found).await;
        healthy().unwrap()["message"].as_str().unwrap().to_owned()
    }

    /// Makes a namespace for a pod's sandbox.
    pub fn new_netns(&mut self, index: usize, name: &str) -> String {
        let netns = format!("{}p{name}", self.id);
        sh(&format!("ip netns add {netns}"));
        sh(&format!("ip -n {netns} link set lo up"));
        self.nodes[index].pods.push(netns.clone());
        netns
    }

    /// Makes a pod's namespace, and its Pod object if there is none.
    pub fn pod_netns(&mut self, index: usize, name: &str) -> String {
        let netns = self.new_netns(index, name);
        if self.api.get(PODS, Some(self.nodes[index].namespace(name)), name).is_none() {
            self.put_pod(index, name, &[("name", name)], None);
        }
        netns
    }

    /// Makes a pod's namespace and attaches it; its Pod object gets the addresses.
    pub fn add_pod(&mut self, index: usize, name: &str) -> Pod {
        let pod = self.attach_pod(index, name);
        self.report_pod_ips(name, &pod.ips());
        pod
    }

    /// The same before kubelet has written the pod's status.
    pub fn attach_pod(&mut self, index: usize, name: &str) -> Pod {
        let netns = self.pod_netns(index, name);
        self.attach_in(index, name, netns)
    }

    /// The same of a pod whose namespace is there ([`Lab::pod_netns`]).
    pub fn attach_in(&self, index: usize, name: &str, netns: String) -> Pod {
        let node = &self.nodes[index];
        let container_id = format!("{name}-0123456789abcdef");
        let (output, text) = node.cni("ADD", &container_id, &netns, "1.0.0", None);
        let log = std::fs::read_to_string(node.log()).unwrap_or_default();
        assert!(output.status.success(), "ADD {name}: {text}\nagent:\n{}", tail(&log, 60));
        let result: Value = serde_json::from_str(&text).unwrap();
        Pod::of(name, &container_id, netns, result)
    }

    /// Detaches a pod and removes its namespace and its Pod object.
    pub fn delete_pod(&mut self, index: usize, pod: &Pod) {
        self.api.delete(PODS, Some(self.nodes[index].namespace(&pod.name)), &pod.name);
        let node = &mut self.nodes[index];
        let (output, text) = node.cni("DEL", &pod.container_id, &pod.netns, "1.0.0", None);
        assert!(output.status.success(), "DEL {}: {text}", pod.name);
        node.remove_netns(&pod.netns);
    }
}

impl Pod {
    /// From the result of an ADD.
    pub fn of(name: &str, container_id: &str, netns: String, result: Value) -> Self {
        let address = result["ips"][0]["address"].as_str().unwrap();
        Self {
            name: name.to_owned(),
            container_id: container_id.to_owned(),
            netns,
            ip: address.split('/').next().unwrap().parse().unwrap(),
            mac: result["interfaces"][1]["mac"].as_str().unwrap().to_owned(),
            result,
        }
    }
}

/// A kubeconfig for the lab's API server.
fn kubeconfig(outside: Ipv4Addr) -> String {
    let server = format!("http://{outside}:6443");
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "clusters": [{"name": "lab", "cluster": {"server": server, "insecure-skip-tls-verify": true}}],
        "users": [{"name": "lab", "user": {}}],
    })
    .to_string()
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.controller_log()).unwrap_or_default();
            println!("=== last lines of the controller\n{}", last_lines(&log));
            for node in &mut self.nodes {
                let state = node.state_of_ovs();
                println!("=== Open vSwitch of {}\n{state}", node.name);
            }
        }
        drop(std::mem::take(&mut self.control_plane));
        for node in &mut self.nodes {
            node.end_agent(nix::sys::signal::Signal::SIGKILL);
            if std::thread::panicking() {
                let log = std::fs::read_to_string(node.log()).unwrap_or_default();
                println!("=== last lines of the agent of {}\n{}", node.name, last_lines(&log));
            }
            for netns in node.pods.drain(..).chain([node.netns.clone()]) {
                let _ = Command::new("ip").args(["netns", "del", &netns]).output();
            }
        }
        let _ = Command::new("ip").args(["netns", "del", &self.outside()]).output();
    }
}
