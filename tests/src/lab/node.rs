//! A node of the lab: its agent, its Open vSwitch, calls of its CNI plugin.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use ovs::testing::TestOvs;
use serde_json::{Value, json};

use super::*;

/// A node.
pub struct LabNode {
    /// Node name, also of the Node object.
    pub name: String,
    /// Name of its network namespace.
    pub netns: String,
    /// Its underlay address.
    pub ip: Ipv4Addr,
    pub pod_cidr: String,
    /// Its Open vSwitch.
    pub ovs: TestOvs,
    /// Its folder.
    pub dir: PathBuf,
    pub api_port: u16,
    /// Folder of the agent's IPAM plugin.
    pub cni_bin: PathBuf,
    pub(super) agent: Option<Child>,
    pub(super) pods: Vec<String>,
    /// How often pods were created again under their name.
    pub(super) lives: BTreeMap<String, u32>,
    /// Namespaces of pods that are not in `default`.
    pub(super) namespaces: BTreeMap<String, String>,
}

/// Ends a process if it runs.
pub(super) fn end(child: &mut Option<Child>, signal: nix::sys::signal::Signal) {
    if let Some(mut child) = child.take() {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
        let _ = nix::sys::signal::kill(pid, signal);
        child.wait().unwrap();
    }
}

pub(super) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

impl LabNode {
    /// The agent's CNI socket.
    pub fn cni_socket(&self) -> PathBuf {
        self.dir.join("cni.sock")
    }

    /// The agent's log.
    pub fn log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// host-local's records of the node's pods.
    pub fn ipam_dir(&self) -> PathBuf {
        self.dir.join("ipam").join("antrea")
    }

    /// Removes a pod's namespace, attached or not.
    pub fn remove_netns(&mut self, netns: &str) {
        self.pods.retain(|known| known != netns);
        sh(&format!("ip netns del {netns}"));
    }

    /// Process id of the agent.
    pub fn agent_pid(&self) -> u32 {
        self.agent.as_ref().expect("the agent must run").id()
    }

    /// Ends the agent as kubelet does.
    pub fn stop_agent(&mut self) {
        self.end_agent(nix::sys::signal::Signal::SIGTERM);
    }

    /// Ends the agent without warning.
    pub fn kill_agent(&mut self) {
        self.end_agent(nix::sys::signal::Signal::SIGKILL);
    }

    pub(super) fn end_agent(&mut self, signal: nix::sys::signal::Signal) {
        end(&mut self.agent, signal);
    }

    /// `CNI_ARGS` as containerd passes them.
    pub(super) fn cni_args(&self, pod: &str) -> String {
        let (namespace, uid) = (self.namespace(pod), self.pod_uid(pod));
        format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={pod};K8S_POD_UID={uid}")
    }

    /// Namespace of a pod of this node.
    pub(super) fn namespace(&self, pod: &str) -> &str {
        self.namespaces.get(pod).map_or("default", String::as_str)
    }

    /// UID of a pod of this node: another for each [`Lab::recreate_pod`].
    pub(super) fn pod_uid(&self, pod: &str) -> uuid::Uuid {
        let life = self.lives.get(pod).copied().unwrap_or_default();
        uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, format!("{pod}/{life}").as_bytes())
    }

    /// Starts ovsdb-server and ovs-vswitchd as `start_ovs` does in the image.
    pub fn restart_ovs(&mut self) {
        self.ovs.start_db().unwrap();
        let setting = "other_config:flow-restore-wait=true";
        self.ovs.vsctl(&["--no-wait", "set", "Open_vSwitch", ".", setting]).unwrap();
        self.ovs.start_vswitchd().unwrap();
    }

    /// Executes the plugin; returns its end and what it printed.
    pub fn cni(
        &self,
        verb: &str,
        container_id: &str,
        netns: &str,
        version: &str,
        extra: Option<(&str, Value)>,
    ) -> (Output, String) {
        self.execute(verb, container_id, netns, version, extra, None)
    }

    /// [`Self::cni`] by a runtime that traces.
    pub fn cni_traced(
        &self,
        verb: &str,
        container_id: &str,
        netns: &str,
        traceparent: &str,
    ) -> (Output, String) {
        self.execute(verb, container_id, netns, "1.0.0", None, Some(traceparent))
    }

    fn execute(
        &self,
        verb: &str,
        container_id: &str,
        netns: &str,
        version: &str,
        extra: Option<(&str, Value)>,
        traceparent: Option<&str>,
    ) -> (Output, String) {
        let mut config = json!({
            "cniVersion": version, "name": "antrea", "type": "antrea",
            "ipam": {"type": "host-local"}, "cniSocket": self.cni_socket(),
        });
        if let Some((key, value)) = extra {
            config[key] = value;
        }
        let pod = container_id.split('-').next().unwrap_or_default();
        let mut child = Command::new(binary("antrea-cni"))
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container_id)
            .env("CNI_NETNS", format!("/run/netns/{netns}"))
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", plugins())
            .env("CNI_ARGS", self.cni_args(pod))
            .envs(traceparent.map(|parent| ("TRACEPARENT", parent)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), config.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output, text)
    }

    /// Runs `ovs-ofctl` against the bridge.
    pub fn ofctl(&self, verb: &str, args: &[&str]) -> String {
        let target = format!("unix:{}", self.ovs.mgmt_sock("br-int").display());
        let mut all = vec!["-O", "OpenFlow15", verb, &target];
        all.extend(args);
        run("ovs-ofctl", &all)
    }

    /// [`Self::ofctl`] where the bridge may be away.
    pub fn try_ofctl(&self, verb: &str, args: &[&str]) -> Option<String> {
        let target = format!("unix:{}", self.ovs.mgmt_sock("br-int").display());
        let output = Command::new("ovs-ofctl")
            .args(["-O", "OpenFlow15", verb, &target])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What a failed test wants to know of Open vSwitch: whether it waits for flows, what it forwards and what it lost.
    pub(super) fn state_of_ovs(&mut self) -> String {
        let shown = |what: &str, said: std::io::Result<String>| {
            let text = said.unwrap_or_else(|error| error.to_string());
            let lines: Vec<&str> = text.lines().take(25).collect();
            format!("--- {what}\n{}\n", lines.join("\n"))
        };
        let gateway = ["in_port=antrea-gw0"];
        let post_mortem = self.ovs.post_mortem();
        [
            format!("{post_mortem}\n"),
            shown("other_config", self.ovs.vsctl(&["get", "Open_vSwitch", ".", "other_config"])),
            shown("ports", self.ovs.appctl(&["--timeout=5", "dpif/show"])),
            shown("upcalls", self.ovs.appctl(&["--timeout=5", "upcall/show"])),
            shown(
                "flows of the gateway",
                self.ovs.ofctl(&["--timeout=5", "--names", "dump-flows"], "br-int", &gateway),
            ),
            shown(
                "counters of the gateway",
                self.ovs.ofctl(&["--timeout=5", "dump-ports"], "br-int", &["antrea-gw0"]),
            ),
        ]
        .concat()
    }
}

/// The last lines of a log, and of those before them what is more than detail.
pub(super) fn last_lines(log: &str) -> String {
    let notable: String = log
        .lines()
        .filter(|line| [" INFO ", " WARN ", "ERROR "].iter().any(|level| line.contains(level)))
        .collect::<Vec<_>>()
        .join("\n");
    format!("{}\n...\n{}", tail(&notable, 25), tail(log, 10))
}
