//! The runtimes' own code path: cnitool (libcni) with the files that `install_cni` puts on a node, from the
//! configuration that the operator renders.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use antrea_operator::effective::{Facts, ServiceRange};
use antrea_operator::render::render;
use antrea_tests::lab::{Lab, LabNode, binary, plugins, sh};
use antrea_tests::traces::Traces;
use antrea_tests::traffic::{ping, tcp};
use serde_json::{Value, json};

const INSTALL_CNI: &str = include_str!("../../../build/install_cni");
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
/// Reached through the node's address by portmap.
const HOST_PORT: u16 = 7300;

/// Runs in namespaces of mounts of its own: libcni keeps its results below /var/lib/cni, the configuration
/// names the agent's socket below /run, iptables has its lock there; none of it may reach the host.
const ISOLATED: &str = r#"
root=$1; shift
mount --rbind /run/netns "$root/run/netns"
mount --rbind "$root/run" /run
mount --bind "$root/lib" /var/lib
exec "$@"
"#;

/// cnitool on one node.
struct Tool {
    root: PathBuf,
    netns: String,
    /// What the runtime passes to plugins that have a capability.
    capabilities: Value,
}

impl Tool {
    /// Installs plugins and configuration as the init container of the agent does.
    fn install(node: &LabNode) -> Self {
        let root = node.dir.join("cnitool");
        for folder in ["bin", "conf", "lib", "run/netns", "run/antrea"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::os::unix::fs::symlink(node.cni_socket(), root.join("run/antrea/cni.sock")).unwrap();
        let conflist = root.join("antrea-cni.conflist");
        std::fs::write(&conflist, rendered()).unwrap();
        let output = Command::new("sh")
            .args(["-c", INSTALL_CNI])
            .env("CNI_BIN_DIR", root.join("bin"))
            .env("CNI_CONF_DIR", root.join("conf"))
            .env("CNI_CONFLIST", conflist)
            .env("ANTREA_CNI", binary("antrea-cni"))
            .env("CNI_CHAINED_DIR", plugins())
            .output()
            .unwrap();
        assert!(output.status.success(), "install_cni: {}", said(&output));
        let ports = json!([{"hostPort": HOST_PORT, "containerPort": HOST_PORT, "protocol": "tcp"}]);
        let (rate, burst) = (80_000_000, 8_000_000);
        let bandwidth =
            json!({"ingressRate": rate, "ingressBurst": burst, "egressRate": rate, "egressBurst": burst});
        let capabilities = json!({"portMappings": ports, "bandwidth": bandwidth});
        Self { root, netns: node.netns.clone(), capabilities }
    }

    fn conflist(&self) -> PathBuf {
        self.root.join("conf/10-antrea.conflist")
    }

    /// Makes the installed configuration one of a single version, as runtimes without `cniVersions` read it.
    fn set_version(&self, version: &str) {
        let mut conflist: Value = serde_json::from_slice(&std::fs::read(self.conflist()).unwrap()).unwrap();
        conflist.as_object_mut().unwrap().remove("cniVersions");
        conflist["cniVersion"] = version.into();
        std::fs::write(self.conflist(), conflist.to_string()).unwrap();
    }

    fn run(&self, verb: &str, netns: &str) -> Output {
        Command::new("ip")
            .args(["netns", "exec", &self.netns, "sh", "-ec", ISOLATED, "sh"])
            .arg(&self.root)
            .arg(plugins().join("cnitool"))
            .args([verb, "antrea", &format!("/run/netns/{netns}")])
            .env("NETCONFPATH", self.root.join("conf"))
            .env("CNI_PATH", self.root.join("bin"))
            .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=tool")
            .env("CAP_ARGS", self.capabilities.to_string())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn good(&self, verb: &str, netns: &str) -> String {
        let output = self.run(verb, netns);
        assert!(output.status.success(), "cnitool {verb}: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn bad(&self, verb: &str, netns: &str) -> String {
        let output = self.run(verb, netns);
        assert!(!output.status.success(), "cnitool {verb} succeeded: {}", said(&output));
        said(&output)
    }

    fn add(&self, netns: &str) -> Value {
        serde_json::from_str(&self.good("add", netns)).unwrap()
    }

    /// What the chained plugins made: rules and shapers that have to do with pods.
    fn chained(&self, ip: IpAddr) -> Vec<String> {
        let in_node = |line: &str| sh(&format!("ip netns exec {} {line}", self.netns));
        let address = ip.to_string();
        let rules = in_node("iptables-save -t nat");
        let rules = rules.lines().filter(|line| line.contains(&address)).map(str::to_owned);
        let shapers = in_node("tc qdisc show");
        let shapers = shapers.lines().filter(|line| line.contains("tbf")).map(str::to_owned);
        rules.chain(shapers).collect()
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The conflist in the ConfigMap of an installation with an empty spec.
fn rendered() -> String {
    let facts = Facts {
        default_version: "v0.0.0".to_owned(),
        service_cidrs: vec![ServiceRange {
            object: "kubernetes".to_owned(),
            cidr: "10.96.0.0/16".parse().unwrap(),
        }],
        ..Facts::default()
    };
    let objects = render(&Default::default(), &facts).unwrap();
    let conflists = objects.iter().filter_map(|object| object.body["data"]["antrea-cni.conflist"].as_str());
    conflists.map(str::to_owned).next().expect("the operator must render a conflist")
}

fn address(result: &Value) -> IpAddr {
    let text = result["ips"][0]["address"].as_str().unwrap();
    text.split('/').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn cnitool_with_the_installed_conflist() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    let other = lab.add_pod(0, "other");
    let mut tool = Tool::install(&lab.nodes[0]);
    let before = Traces::of(&lab.nodes[0]);
    let netns = lab.pod_netns(0, "tool");

    tool.good("status", &netns);
    let result = tool.add(&netns);
    assert_eq!(result["cniVersion"], "1.1.0", "libcni takes the highest of cniVersions");
    let ip = address(&result);
    assert!(ping(&netns, other.ip, 56, true));
    let node_ip = lab.nodes[0].ip.into();
    tcp(&lab.outside(), &netns, node_ip, HOST_PORT, 100_000).await.unwrap();
    let chained = tool.chained(ip);
    let has = |what: &str| chained.iter().any(|line| line.contains(what));
    assert!(has("DNAT") && has("tbf"), "{chained:?}");
    tool.good("check", &netns);

    sh(&format!("ip -n {netns} route del default"));
    let text = tool.bad("check", &netns);
    assert!(text.contains("default route"), "{text}");
    for _ in 0..2 {
        tool.good("del", &netns);
    }
    assert_eq!(Traces::of(&lab.nodes[0]).since(&before), [""; 0]);
    assert!(tool.chained(ip).is_empty(), "{:?}", tool.chained(ip));

    // cnitool's GC deletes what libcni remembers, and gives the plugins no list: then what has lost its
    // namespace goes, and nothing else. The chained plugins collect nothing, so they are given nothing to do.
    tool.capabilities = json!({});
    let (kept, lost) = (lab.pod_netns(0, "kept"), lab.pod_netns(0, "lost"));
    tool.add(&kept);
    tool.add(&lost);
    std::fs::remove_dir_all(tool.root.join("lib/cni/results")).unwrap();
    lab.nodes[0].remove_netns(&lost);
    tool.good("gc", &kept);
    let after = Traces::of(&lab.nodes[0]);
    assert_eq!(after.addresses.len(), before.addresses.len() + 1);
    assert_eq!(after.ports.len(), before.ports.len() + 1);
    assert!(ping(&kept, other.ip, 56, true), "GC took a living pod");
    tool.good("del", &kept);
    tool.add(&kept);
    tool.good("gc", &kept);
    assert_eq!(Traces::of(&lab.nodes[0]).since(&before), [""; 0]);

    // Without the agent: a plain error, and nothing half done.
    lab.nodes[0].stop_agent();
    for verb in ["status", "add"] {
        let text = tool.bad(verb, &netns);
        assert!(text.contains("antrea-agent is not available"), "{verb}: {text}");
    }
    lab.start_agent(0);
    lab.wait_ready(0).await;
    assert_eq!(Traces::of(&lab.nodes[0]).since(&before), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn cnitool_with_every_version() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    let tool = Tool::install(&lab.nodes[0]);
    let before = Traces::of(&lab.nodes[0]);
    let netns = lab.pod_netns(0, "tool");
    for version in VERSIONS {
        tool.set_version(version);
        let result = tool.add(&netns);
        assert_eq!(result["cniVersion"], version);
        // The first interface of the container, whose index CHECK and later plugins go by.
        let interface = &result["interfaces"][1];
        assert_eq!(
            (&interface["name"], &result["ips"][0]["interface"]),
            (&json!("eth0"), &json!(1)),
            "{version}"
        );
        if version < "0.4.0" {
            let text = tool.bad("check", &netns);
            assert!(text.contains("does not support the CHECK command"), "{version}: {text}");
        } else {
            tool.good("check", &netns);
        }
        tool.good("status", &netns);
        for _ in 0..2 {
            tool.good("del", &netns);
        }
        assert_eq!(Traces::of(&lab.nodes[0]).since(&before), [""; 0], "{version}");
        tool.add(&netns);
        tool.good("gc", &netns);
        assert_eq!(Traces::of(&lab.nodes[0]).since(&before), [""; 0], "{version}, GC");
    }
}
