//! `antctl check installation` on real bridges. Kubelet and kube-proxy are played: a Pod that it makes becomes a namespace
//! in which its command runs, and a Service the rules that kube-proxy would have.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use antrea_tests::lab::{Lab, NAMESPACES, NODES, PODS, binary, sh};
use antrea_tests::oracle::PodFacts;
use serde_json::{Value, json};

use super::{kubeconfig, outside};

const SERVICES: &str = "api/v1/services";
const LONGEST: Duration = Duration::from_secs(180);

/// Who plays the cluster.
struct Players {
    pods: BTreeSet<String>,
    services: BTreeSet<String>,
    processes: Vec<Child>,
    /// Whether Services are served.
    proxy: bool,
}

impl Drop for Players {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn text<'a>(value: &'a Value, path: &str) -> &'a str {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default()
}

fn index(lab: &Lab, node: &str) -> usize {
    lab.nodes.iter().position(|known| known.name == node).unwrap()
}

impl Players {
    fn playing(proxy: bool) -> Self {
        Self { pods: BTreeSet::new(), services: BTreeSet::new(), processes: Vec::new(), proxy }
    }

    /// Does what new objects ask for.
    fn play(&mut self, lab: &mut Lab) {
        for service in lab.api.all(SERVICES) {
            let name = text(&service, "/metadata/name").to_owned();
            if self.services.insert(name) {
                let number = self.services.len();
                self.publish(lab, service, number);
            }
        }
        for pod in lab.api.all(PODS) {
            let name = text(&pod, "/metadata/name").to_owned();
            if text(&pod, "/metadata/labels/app") == "antctl-check" && self.pods.insert(name.clone()) {
                self.start(lab, &name, &pod);
            }
        }
    }

    fn publish(&self, lab: &Lab, mut service: Value, number: usize) {
        assert_eq!(service["spec"]["type"], "NodePort");
        service["spec"]["clusterIP"] = format!("10.96.0.{}", 60 + number).into();
        service["spec"]["ports"][0]["nodePort"] = (30_000 + number).into();
        lab.api.put(SERVICES, service);
    }

    fn start(&mut self, lab: &mut Lab, name: &str, pod: &Value) {
        let namespace = text(pod, "/metadata/namespace").to_owned();
        let index = index(lab, text(pod, "/spec/nodeName"));
        let on_host = pod["spec"]["hostNetwork"] == true;
        let (netns, ip) = if on_host {
            (lab.nodes[index].netns.clone(), IpAddr::from(lab.nodes[index].ip))
        } else {
            let labels = pod["metadata"]["labels"].as_object().unwrap();
            let labels = labels.iter().map(|(key, value)| (key.clone(), value.as_str().unwrap().to_owned()));
            let facts = PodFacts { name: name.to_owned(), namespace: namespace.clone(), ports: Vec::new() };
            let mut pending = pod.clone();
            pending["status"] = json!({"phase": "Pending"});
            lab.api.put(PODS, pending);
            // With the UID that the runtime will name.
            lab.put_pod_of(index, &facts, &labels.collect());
            let made = lab.attach_pod(index, name);
            (made.netns, made.ip)
        };
        let log: PathBuf = lab.nodes[index].dir.join(format!("{name}.log"));
        let container = &pod["spec"]["containers"][0];
        assert_eq!((text(container, "/image"), text(container, "/command/0")), ("agents/image:1", "antctl"));
        let words =
            container["command"].as_array().unwrap().iter().skip(1).map(|word| word.as_str().unwrap());
        let process = Command::new("ip")
            .args(["netns", "exec", &netns])
            .arg(binary("antctl"))
            .args(words)
            .stdin(Stdio::null())
            .stdout(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        self.processes.push(process);
        lab.api.log_pod(&namespace, name, log);
        if let Some(service) = lab.api.get(SERVICES, Some(&namespace), name)
            && self.proxy
        {
            proxy(lab, &service, ip);
        }
        let mut now = lab.api.get(PODS, Some(&namespace), name).unwrap();
        now["status"] =
            json!({"phase": "Running", "podIP": ip.to_string(), "podIPs": [{"ip": ip.to_string()}]});
        lab.api.put(PODS, now);
    }
}

/// What kube-proxy has on each node for a Service with this endpoint.
fn proxy(lab: &Lab, service: &Value, endpoint: IpAddr) {
    let (address, port) = (text(service, "/spec/clusterIP"), &service["spec"]["ports"][0]["nodePort"]);
    for node in &lab.nodes {
        let mut rules = vec![
            format!("-A POSTROUTING -s {endpoint} -d {endpoint} -j MASQUERADE"),
            format!("-A POSTROUTING -m conntrack --ctstate DNAT --ctorigdstport {port} -j MASQUERADE"),
        ];
        for chain in ["PREROUTING", "OUTPUT"] {
            rules.push(format!(
                "-A {chain} -d {address} -p tcp --dport 80 -j DNAT --to-destination {endpoint}:8080"
            ));
            rules.push(format!(
                "-A {chain} -d {} -p tcp --dport {port} -j DNAT --to-destination {endpoint}:8080",
                node.ip
            ));
        }
        for rule in rules {
            sh(&format!("ip netns exec {} iptables -w -t nat {rule}", node.netns));
        }
    }
}

fn publish_facts(lab: &Lab) {
    for index in 0..lab.nodes.len() {
        let mut node = lab.api.get(NODES, None, &lab.nodes[index].name).unwrap();
        node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        node["status"]["nodeInfo"] = json!({
            "architecture": "", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "",
            "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "linux",
            "osImage": "", "systemUUID": "",
        });
        lab.api.put(NODES, node);
    }
    let containers = json!([{"name": "antrea-agent", "image": "agents/image:1"}]);
    lab.api.put(
        "apis/apps/v1/daemonsets",
        json!({
            "metadata": {"namespace": "kube-system", "name": "antrea-agent"},
            "spec": {"selector": {}, "template": {"spec": {"containers": containers}}},
        }),
    );
}

/// Runs it to its end.
async fn check(lab: &mut Lab, players: &mut Players, words: &[&str]) -> (Output, String) {
    publish_facts(lab);
    let kubeconfig = kubeconfig(lab);
    let mut command = outside(lab, &kubeconfig).command(&[&["check", "installation"], words].concat());
    let mut antctl = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while antctl.try_wait().unwrap().is_none() {
        players.play(lab);
        if begun.elapsed() > LONGEST {
            let _ = antctl.kill();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let output = antctl.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{told}{}", String::from_utf8_lossy(&output.stderr));
    let left = lab.api.all(NAMESPACES);
    let left = left.iter().filter(|ns| text(ns, "/metadata/name").starts_with("antrea-test-")).count();
    assert_eq!(left, 0, "the Namespace is there still");
    (output, told)
}

/// Check and verdict of each row.
fn verdicts(told: &str) -> Vec<(&str, &str)> {
    let rows = told.lines().skip(1).filter_map(|line| {
        let mut cells = line.split_whitespace();
        Some((cells.next()?, cells.next()?))
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_it_works_here() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[]).await;
    let mut players = Players::playing(true);
    let (output, told) = check(&mut lab, &mut players, &[]).await;
    assert!(output.status.success());
    let expected: Vec<(&str, &str)> = [
        "pod-to-pod-same-node",
        "pod-to-pod-across-nodes",
        "pod-to-service-same-node",
        "pod-to-service-across-nodes",
        "pod-to-itself-by-service",
        "pod-to-nodeport-own-node",
        "pod-to-nodeport-other-node",
        "host-to-pod-same-node",
        "host-to-pod-across-nodes",
        "host-to-service",
        "egress-deny-policy",
        "ingress-deny-policy",
        "ingress-allow-policy",
    ]
    .map(|check| (check, "ok"))
    .to_vec();
    assert_eq!(verdicts(&told), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_work_is_named() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[]).await;
    // The underlay loses what goes through the tunnel, and nobody serves Services.
    for node in &lab.nodes {
        sh(&format!("ip netns exec {} iptables -w -I OUTPUT -p udp --dport 4789 -j DROP", node.netns));
        sh(&format!("ip netns exec {} iptables -w -I OUTPUT -p udp --dport 6081 -j DROP", node.netns));
    }
    let mut players = Players::playing(false);
    let wanted = "pod-to-*,host-to-pod-same-node,ingress-deny-policy";
    let (output, told) = check(&mut lab, &mut players, &["-t", "6s", "--run", wanted]).await;
    assert_eq!(output.status.code(), Some(1));
    let found = verdicts(&told);
    for (check, verdict) in [
        ("pod-to-pod-same-node", "ok"),
        ("host-to-pod-same-node", "ok"),
        ("pod-to-pod-across-nodes", "failed"),
        ("pod-to-service-same-node", "failed"),
        // Without the other Node's Pod it is not to be seen that only one is shut off.
        ("ingress-deny-policy", "failed"),
    ] {
        assert!(found.contains(&(check, verdict)), "{check}\n{told}");
    }
    assert!(told.contains("far does not answer: no answer in 1s"), "{told}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("checks failed"), "{told}");
}
