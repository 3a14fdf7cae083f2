//! An agent that is killed during ADD, at every step, leaves nothing.
//!
//! Each step waits for somebody else: host-local, ovsdb-server, ovs-vswitchd. So the test holds that one up,
//! waits until the agent has come as far as it can, and kills it there.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use antrea_tests::gate::Gate;
use antrea_tests::lab::{Lab, LabNode, eventually, plugins, sh};
use antrea_tests::traces::{Traces, addresses};
use antrea_tests::traffic::ping;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

/// Where ADD is when the agent is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// host-local has been started and has allocated nothing; the links are there.
    Allocating,
    /// host-local has allocated and not answered.
    Allocated,
    /// The container is configured; the port is asked for and not in the database.
    AddingPort,
    /// The port is in the database and has no OpenFlow number.
    Numbering,
    /// The port has its number; the flows are sent and not in the bridge.
    SendingFlows,
    /// The flows are in the bridge and the agent does not know.
    Confirming,
}

const STEPS: [Step; 6] = [
    Step::Allocating,
    Step::Allocated,
    Step::AddingPort,
    Step::Numbering,
    Step::SendingFlows,
    Step::Confirming,
];

/// host-local behind a script that can be held up before and after the real one.
struct SlowIpam {
    dir: PathBuf,
}

impl SlowIpam {
    fn install(node: &mut LabNode) -> Self {
        let dir = node.dir.join("slow-ipam");
        std::fs::create_dir(&dir).unwrap();
        let script = format!(
            r#"#!/bin/sh
at() {{
    [ "$CNI_COMMAND" = ADD ] || return 0
    while [ -e {dir}/hold-$1 ]; do
        echo $$ >{dir}/at-$1.$CNI_CONTAINERID
        sleep 0.02
    done
}}
at before
result=$({real})
status=$?
at after
printf '%s' "$result"
exit $status
"#,
            dir = dir.display(),
            real = plugins().join("host-local").display(),
        );
        let file = dir.join("host-local");
        std::fs::write(&file, script).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        node.cni_bin = dir.clone();
        Self { dir }
    }

    fn hold(&self, when: &str) {
        std::fs::write(self.dir.join(format!("hold-{when}")), "").unwrap();
    }

    /// Process ids of those that are held.
    fn held(&self) -> Vec<Pid> {
        let entries = std::fs::read_dir(&self.dir).unwrap().map(|entry| entry.unwrap());
        let at = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("at-"));
        at.filter_map(|entry| std::fs::read_to_string(entry.path()).ok()?.trim().parse().ok())
            .map(Pid::from_raw)
            .collect()
    }

    /// Ends those that are held: in the container they end with the agent.
    fn end(&self) {
        for pid in self.held() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        for entry in std::fs::read_dir(&self.dir).unwrap().map(|entry| entry.unwrap()) {
            if entry.file_name() != "host-local" {
                std::fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

/// A daemon of the node that does not run for a while.
fn pause(pid: Option<u32>, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid.unwrap()).unwrap()), signal).unwrap();
}

struct Hold<'a> {
    ipam: &'a SlowIpam,
    gate: &'a Gate,
    step: Step,
}

impl Hold<'_> {
    fn begin(&self, node: &LabNode) {
        match self.step {
            Step::Allocating => self.ipam.hold("before"),
            Step::Allocated => self.ipam.hold("after"),
            Step::AddingPort => pause(node.ovs.db_pid(), Signal::SIGSTOP),
            Step::Numbering => pause(node.ovs.vswitchd_pid(), Signal::SIGSTOP),
            Step::SendingFlows => self.gate.requests.close(),
            Step::Confirming => self.gate.answers.close_at_commit(),
        }
    }

    /// Whether all of `pods` wait at the step; at the last one, where one bundle is waited for, any.
    fn reached(&self, node: &LabNode, before: &Traces, pods: &[&str]) -> bool {
        let linked = |netns: &&str| sh(&format!("ip -n {netns} link")).contains("eth0");
        let configured = |netns: &&str| sh(&format!("ip -n {netns} addr")).contains("10.244.");
        let new_ports = || -> Vec<String> {
            let ports = node.ovs.vsctl(&["--no-wait", "list-ports", "br-int"]).unwrap();
            ports.lines().filter(|port| !before.ports.contains(*port)).map(str::to_owned).collect()
        };
        let numbered = |port: &String| {
            let number = node.ovs.vsctl(&["get", "interface", port, "ofport"]).unwrap();
            number.trim().parse::<u32>().is_ok()
        };
        let new_addresses = || -> Vec<IpAddr> {
            addresses(node).into_iter().filter(|ip| !before.addresses.contains(ip)).collect()
        };
        match self.step {
            Step::Allocating => {
                self.ipam.held().len() == pods.len() && pods.iter().all(linked) && new_addresses().is_empty()
            }
            Step::Allocated => {
                self.ipam.held().len() == pods.len()
                    && pods.iter().all(linked)
                    && new_addresses().len() == pods.len()
            }
            Step::AddingPort => pods.iter().all(configured),
            Step::Numbering => new_ports().len() == pods.len() && !new_ports().iter().any(numbered),
            Step::SendingFlows => {
                new_ports().len() == pods.len()
                    && new_ports().iter().all(numbered)
                    && self.gate.requests.has_waiting()
            }
            Step::Confirming => {
                let flows = node.ofctl("dump-flows", &[]);
                self.gate.answers.has_waiting()
                    && new_addresses().iter().any(|ip| flows.contains(&ip.to_string()))
            }
        }
    }

    fn end(&self, node: &LabNode) {
        match self.step {
            Step::Allocating | Step::Allocated => self.ipam.end(),
            Step::AddingPort => pause(node.ovs.db_pid(), Signal::SIGCONT),
            Step::Numbering => pause(node.ovs.vswitchd_pid(), Signal::SIGCONT),
            Step::SendingFlows => self.gate.requests.open(),
            Step::Confirming => self.gate.answers.open(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_killed_at_each_step_of_add_leaves_nothing() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[]).await;
    let ipam = SlowIpam::install(&mut lab.nodes[0]);
    let gate = Gate::start(&lab.nodes[0].dir.join("gate"), lab.nodes[0].ovs.dir(), "br-int");
    lab.configure("ovsRunDir", json!(gate.dir()));
    lab.start_agent(0);
    lab.wait_ready(0).await;
    let keeper = lab.add_pod(0, "keeper");
    let before = Traces::of(&lab.nodes[0]);

    for step in STEPS {
        // One whose ADD the runtime gives up with a DEL, and one whose sandbox is gone with the crash.
        let number = STEPS.iter().position(|other| *other == step).unwrap();
        let pods = [format!("d{number}"), format!("g{number}")];
        let spaces = pods.clone().map(|name| lab.pod_netns(0, &name));
        let hold = Hold { ipam: &ipam, gate: &gate, step };
        hold.begin(&lab.nodes[0]);
        let outcomes: Vec<(bool, String)> = {
            let node = &lab.nodes[0];
            let names: Vec<&str> = spaces.iter().map(String::as_str).collect();
            std::thread::scope(|scope| {
                let adds: Vec<_> = pods
                    .iter()
                    .zip(&spaces)
                    .map(|(name, netns)| {
                        scope.spawn(move || node.cni("ADD", &format!("{name}-id"), netns, "1.0.0", None))
                    })
                    .collect();
                let end = std::time::Instant::now() + LIMIT;
                let mut reached = false;
                while !reached && std::time::Instant::now() < end {
                    std::thread::sleep(Duration::from_millis(20));
                    reached = hold.reached(node, &before, &names);
                }
                pause(Some(node.agent_pid()), Signal::SIGKILL);
                hold.end(node);
                assert!(reached, "ADD did not come to {step:?}");
                adds.into_iter()
                    .map(|add| add.join().unwrap())
                    .map(|(o, text)| (o.status.success(), text))
                    .collect()
            })
        };
        for (success, text) in outcomes {
            assert!(!success, "{step:?}: ADD succeeded without an agent: {text}");
            assert!(text.contains("try again later"), "{step:?}: {text}");
        }
        lab.nodes[0].kill_agent();
        lab.nodes[0].remove_netns(&spaces[1]);
        lab.start_agent(0);
        let took = lab.wait_ready(0).await;
        println!("{step:?}: ready again after {took:?}");
        let node = &lab.nodes[0];
        let (output, text) = node.cni("DEL", &format!("{}-id", pods[0]), &spaces[0], "1.0.0", None);
        assert!(output.status.success(), "{step:?}: {text}");
        // The switch forgets a port on its own time.
        eventually(&format!("no trace after {step:?}"), LIMIT, || Traces::of(node).since(&before).is_empty())
            .await;
        assert!(ping(&node.netns, keeper.ip, 56, true), "{step:?}: the pod that was there");
        // The same sandbox can be attached now.
        let (output, text) = node.cni("ADD", &format!("{}-id", pods[0]), &spaces[0], "1.0.0", None);
        assert!(output.status.success(), "{step:?}: {text}");
        assert!(ping(&spaces[0], keeper.ip, 56, true), "{step:?}: a pod added afterwards");
        let (output, text) = node.cni("DEL", &format!("{}-id", pods[0]), &spaces[0], "1.0.0", None);
        assert!(output.status.success(), "{step:?}: {text}");
        assert_eq!(Traces::of(node).since(&before), [""; 0], "{step:?}");
    }
}
