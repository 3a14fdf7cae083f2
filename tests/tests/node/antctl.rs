//! antctl as people run it, in the containers of a real agent and a real controller.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use antrea_tests::lab::{AGENT_INFOS, Lab, binary, eventually, sh};
use serde_json::{Value, json};

mod explain;
mod installation;
mod top;

const LIMIT: Duration = Duration::from_secs(30);
const CONTROLLER_INFOS: &str = "apis/crd.antrea.io/v1beta1/antreacontrollerinfos";

/// A component's container: its namespace and what antctl finds in it.
struct Container<'a> {
    /// A command that enters it.
    enter: Vec<String>,
    environment: [(&'a str, &'a str); 2],
    /// Its configuration, which a container has under /etc/antrea.
    config: PathBuf,
    /// Its token for tools; none where its /run holds it.
    token: Option<PathBuf>,
    kubeconfig: &'a Path,
}

impl Container<'_> {
    fn try_run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        // The machine's own folders stay as they are: the mounts are the command's alone.
        let script = r#"
            mount -t tmpfs lab /etc && mkdir /etc/antrea && ln -s "$1" /etc/antrea/ || exit
            if [ -n "$2" ]; then
                mount -t tmpfs lab /run && mkdir -p /run/antrea/apiserver && ln -s "$2" /run/antrea/apiserver/ || exit
            fi
            shift 2
            exec "$@""#;
        let mut command = Command::new(&self.enter[0]);
        command
            .args(&self.enter[1..])
            .args(["unshare", "-m", "sh", "-c", script, "sh"])
            .arg(&self.config)
            .arg(self.token.as_deref().unwrap_or(Path::new("")))
            .arg(binary("antctl"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig)
            .args(args)
            .envs(self.environment)
            // Under /etc, which it does not have.
            .env("SSL_CERT_FILE", self.kubeconfig.with_extension("crt"));
        command
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        assert!(output.status.success(), "antctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        println!("antctl {}\n{text}{}", args.join(" "), String::from_utf8_lossy(&output.stderr));
        text
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[args, &["-o", "json"]].concat())).unwrap()
    }

    /// The cells of a table's only row.
    fn row(&self, args: &[&str]) -> Vec<String> {
        let text = self.run(args);
        let rows: Vec<&str> = text.lines().skip(1).collect();
        assert_eq!(rows.len(), 1, "{text}");
        rows[0].split_whitespace().map(str::to_owned).collect()
    }
}

/// Access to the lab's API server, with what antctl needs beside it.
fn kubeconfig(lab: &Lab) -> PathBuf {
    let kubeconfig = lab.nodes[0].dir.join("antctl.kubeconfig");
    let server = format!("http://{}:6443", lab.outside_ip());
    let access = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "lab",
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "clusters": [{"name": "lab", "cluster": {"server": server}}],
        "users": [{"name": "lab", "user": {"token": "lab-antrea-agent"}}],
    });
    std::fs::write(&kubeconfig, access.to_string()).unwrap();
    std::fs::copy("/etc/ssl/certs/ca-certificates.crt", kubeconfig.with_extension("crt")).unwrap();
    kubeconfig
}

fn words(line: String) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn in_agent<'a>(lab: &Lab, kubeconfig: &'a Path) -> Container<'a> {
    Container {
        enter: words(format!("ip netns exec {}", lab.nodes[0].netns)),
        environment: [("POD_NAME", "antrea-agent-node1"), ("NODE_NAME", "node1")],
        config: lab.nodes[0].dir.join("antrea-agent.conf"),
        token: Some(lab.nodes[0].dir.join("loopback-client-token")),
        kubeconfig,
    }
}

fn in_controller<'a>(lab: &Lab, kubeconfig: &'a Path) -> Container<'a> {
    Container {
        // With its /run, where it has left a token.
        enter: words(format!("nsenter -m -n -t {}", lab.controller_pid())),
        environment: [("POD_NAME", "antrea-controller-lab"), ("NODE_NAME", "")],
        config: lab.controller_log().with_file_name("antrea-controller.conf"),
        token: None,
        kubeconfig,
    }
}

/// An administrator's machine: no container, a kubeconfig, and Nodes that can be reached.
fn outside<'a>(lab: &Lab, kubeconfig: &'a Path) -> Container<'a> {
    Container {
        enter: words(format!("ip netns exec {}", lab.outside())),
        environment: [("POD_NAME", ""), ("NODE_NAME", "")],
        config: "/dev/null".into(),
        token: None,
        kubeconfig,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn antctl_shows_what_agent_and_controller_have() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    lab.put_policy(
        "shut",
        &json!({
            "podSelector": {"matchLabels": {"name": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"name": "friend"}}}]}],
        }),
    );
    let (web, _friend) = (lab.add_pod(0, "web"), lab.add_pod(0, "friend"));
    let told = |collection: &str, name: &str, of: fn(&Value) -> bool| {
        lab.api.get(collection, None, name).is_some_and(|info| of(&info))
    };
    let has_ca: fn(&Value) -> bool = |info| info["apiCABundle"].is_string();
    eventually("the agent's state", LIMIT, || told(AGENT_INFOS, "node1", has_ca)).await;
    let has_policy: fn(&Value) -> bool = |info| info["networkPolicyControllerInfo"]["networkPolicyNum"] == 1;
    eventually("the controller's state", LIMIT, || told(CONTROLLER_INFOS, "antrea-controller", has_policy))
        .await;

    let kubeconfig = kubeconfig(&lab);
    let (agent, controller) = (in_agent(&lab, &kubeconfig), in_controller(&lab, &kubeconfig));

    let version = env!("CARGO_PKG_VERSION");
    for (container, component) in [(&agent, "agent"), (&controller, "controller")] {
        let versions = container.json(&["version"]);
        assert_eq!(versions["antctlVersion"], version);
        assert_eq!(versions[format!("{component}Version")], version);
        let gates = container.json(&["get", "featuregates"]);
        let on = gates.as_array().unwrap().iter().find(|gate| gate["name"] == "AntreaPolicy");
        assert!(on.is_some(), "{gates}");
        let level = || container.run(&["log-level"]).trim().to_owned();
        let before = level();
        container.run(&["log-level", "error"]);
        assert_ne!(level(), before, "the lab's components log in detail");
        container.run(&["log-level", &before]);
        assert_eq!(level(), before);
        let refused = container.try_run(&["log-level", "deafening"]);
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("deafening"), "{refused:?}");
    }

    let row = agent.row(&["get", "agentinfo"]);
    assert!(row.contains(&"node1".to_owned()) && row.contains(&"10.244.1.0/24".to_owned()), "{row:?}");
    let pods = agent.json(&["get", "podinterface"]);
    assert_eq!(pods.as_array().unwrap().len(), 2, "{pods}");
    let row = agent.row(&["get", "podinterface", "web", "-n", "default"]);
    let port = web.result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    for cell in ["default", "web", &port, &web.ip.to_string(), &web.mac] {
        assert!(row.iter().any(|shown| shown == cell), "{cell} in {row:?}");
    }
    let number = lab.nodes[0].ovs.vsctl(&["get", "interface", &port, "ofport"]).unwrap();
    assert!(row.contains(&number.trim().to_owned()), "port {number} in {row:?}");
    for wrong in
        [&["get", "podinterface", "nobody"][..], &["get", "nonsense"], &["get", "agentinfo", "-o", "x"]]
    {
        let refused = agent.try_run(wrong);
        assert!(refused.status.code() == Some(1) && refused.stdout.is_empty(), "{wrong:?}: {refused:?}");
    }
    // What is said beside the answer is on stderr.
    let verbose = agent.try_run(&["-v", "get", "podinterface", "-o", "json"]);
    assert!(
        verbose.status.success() && serde_json::from_slice::<Value>(&verbose.stdout).is_ok(),
        "{verbose:?}"
    );
    assert!(String::from_utf8_lossy(&verbose.stderr).contains("127.0.0.1"), "{verbose:?}");
    let help = agent.try_run(&["get"]);
    assert!(help.status.success() && !help.stdout.is_empty(), "{help:?}");

    from_outside(&outside(&lab, &kubeconfig), &port);

    let row = controller.row(&["get", "controllerinfo"]);
    assert!(
        row.contains(&"antrea-controller-lab".to_owned()) && row.contains(&"Healthy".to_owned()),
        "{row:?}"
    );
    let row = controller.row(&["get", "networkpolicy", "shut", "-n", "default"]);
    assert!(row.iter().any(|cell| cell.contains("default/shut")), "{row:?}");
    let friend = controller.run(&["get", "addressgroup"]);
    let address =
        lab.api.get("api/v1/pods", Some("default"), "friend").unwrap()["status"]["podIPs"][0]["ip"].clone();
    assert!(friend.contains(address.as_str().unwrap()), "{friend}");
    let applied = controller.run(&["get", "appliedtogroup"]);
    assert!(applied.contains("default/web"), "{applied}");
    assert!(
        sh("mount").lines().all(|line| !line.contains(" on /etc ")),
        "the mount was not the command's alone"
    );
}

/// What of agents works from outside of them.
fn from_outside(outside: &Container<'_>, port: &str) {
    let row = outside.row(&["get", "podinterface", "web", "-n", "default", "--node", "node1"]);
    assert!(row.iter().any(|cell| cell == port), "{port} in {row:?}");
    let row = outside.row(&["get", "agentinfo", "--node", "node1"]);
    assert!(row.contains(&"node1".to_owned()) && row.contains(&"10.244.1.0/24".to_owned()), "{row:?}");
    let flows = outside.json(&["get", "ovsflows", "--node", "node1", "-T", "Classifier"]);
    assert!(flows.as_array().is_some_and(|flows| !flows.is_empty()), "{flows}");
    let row = outside.row(&["get", "networkpolicy", "shut", "-n", "default", "--node", "node1"]);
    assert!(row.iter().any(|cell| cell.contains("default/shut")), "{row:?}");
    assert!(outside.run(&["get", "appliedtogroup", "--node", "node1"]).contains("default/web"));
    assert!(outside.run(&["get", "addressgroup", "--node", "node1"]).contains("default/friend"));
    let traced = outside.run(&["trace-packet", "--node", "node1", "-S", "default/web", "-D", "10.244.1.1"]);
    assert!(traced.contains("Datapath actions"), "{traced}");
    let gates = outside.run(&["get", "featuregates", "--node", "node1"]);
    assert!(gates.contains("agent") && gates.contains("AntreaPolicy"), "{gates}");
    let before = outside.run(&["log-level", "--node", "node1"]).trim().to_owned();
    let set = outside.run(&["log-level", "error", "--node", "node1"]);
    assert_ne!(set.trim(), before, "the lab's components log in detail");
    outside.run(&["log-level", &before, "--node", "node1"]);
    let unknown = outside.try_run(&["get", "podinterface", "--node", "node9"]);
    assert!(unknown.status.code() == Some(1) && unknown.stdout.is_empty(), "{unknown:?}");
    let told = String::from_utf8_lossy(&unknown.stderr);
    assert!(told.lines().count() == 1 && told.contains("node9"), "{told}");
}

/// The files of an archive.
fn unpacked(archive: &Path) -> BTreeMap<String, String> {
    let into = tempfile::tempdir().unwrap();
    let done = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(into.path()).status().unwrap();
    assert!(done.success());
    let found = Command::new("find").args([".", "-type", "f"]).current_dir(into.path()).output().unwrap();
    let names = String::from_utf8(found.stdout).unwrap();
    let read = |name: &str| {
        let text = std::fs::read(into.path().join(name)).unwrap();
        (name.trim_start_matches("./").to_owned(), String::from_utf8(text).unwrap())
    };
    names.lines().map(read).collect()
}

/// What antctl fetches of a Node and of the controller helps, and holds no secret of theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_support_bundle_has_everything_but_secrets() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    lab.put_policy(
        "shut",
        &json!({
            "podSelector": {"matchLabels": {"name": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"name": "friend"}}}]}],
        }),
    );
    let (web, _friend) = (lab.add_pod(0, "web"), lab.add_pod(0, "friend"));
    let has_ca =
        || lab.api.get(AGENT_INFOS, None, "node1").is_some_and(|info| info["apiCABundle"].is_string());
    eventually("the agent's state", LIMIT, has_ca).await;
    let kubeconfig = kubeconfig(&lab);
    let (agent, controller) = (in_agent(&lab, &kubeconfig), in_controller(&lab, &kubeconfig));

    // Where secrets could be met: in the configuration, the database, the host's rules, and in what is logged.
    const PLANTED: &str = "Pl4ntedS3cretPl4nted";
    let jwt = format!("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.{PLANTED}");
    for container in [&agent, &controller] {
        let mut text = std::fs::read_to_string(&container.config).unwrap();
        text.push_str(&format!("\n# ipsecPSK: {PLANTED}\n# kubeconfig: Bearer {PLANTED}\n"));
        std::fs::write(&container.config, text).unwrap();
        // What is refused is logged nowhere or without its secrets.
        container.try_run(&["log-level", &format!("info,{jwt}=debug")]);
    }
    let planted = [
        format!("external_ids:ipsec_psk={PLANTED}"),
        format!("external_ids:note=\"{jwt}\""),
        format!("external_ids:api-token=\"{PLANTED} {PLANTED}\""),
    ];
    for setting in &planted {
        lab.nodes[0].ovs.vsctl(&["set", "Open_vSwitch", ".", setting]).unwrap();
    }
    sh(&format!(
        "ip netns exec {} iptables -w -A INPUT -s 192.0.2.9 -m comment --comment 'password={PLANTED}' -j ACCEPT",
        lab.nodes[0].netns
    ));

    let folder = lab.nodes[0].dir.join("bundles");
    let folder = folder.display().to_string();
    let outside = outside(&lab, &kubeconfig);
    let told = outside.try_run(&["supportbundle", "node1", "--since", "1h", "-d", &folder]);
    let lines = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.status.success() && told.stdout == format!("{folder}\n").as_bytes(), "{told:?}");
    assert!(lines.lines().count() == 2 && lines.contains("/2 node1: ") && !lines.contains('\x1b'), "{lines}");
    controller.run(&["supportbundle", "-d", &folder]);

    let path = |name: &str| Path::new(&folder).join(name);
    let of_agent = unpacked(&path("agent_node1.tar.gz"));
    let port = web.result["interfaces"][0]["name"].as_str().unwrap();
    for (file, holds) in [
        ("logs/agent/antrea-agent.log", "logging started"),
        ("config/antrea-agent.conf", "apiPort"),
        ("agentinfo", "node1"),
        ("podinterfaces", port),
        ("networkpolicies", "\"shut\""),
        ("addressgroups", "friend"),
        ("appliedtogroups", "web"),
        ("flows", "table=Classifier"),
        ("groups", ""),
        ("ovsdb", "Open_vSwitch table"),
        ("ovsports", port),
        ("ovs/dpif", "br-int"),
        ("ovs/coverage", "Event coverage"),
        ("iptables", "ANTREA"),
        ("nftables", "table"),
        ("network/addresses", "antrea-gw0"),
        ("network/links", port),
        ("network/routes", "default"),
        ("network/rules", "lookup"),
        ("network/neighbours", ""),
        ("conntrack", ""),
        ("memory/status", "VmRSS"),
        ("metrics", "antrea_agent_"),
    ] {
        let text = of_agent.get(file).unwrap_or_else(|| panic!("{file} in {:?}", of_agent.keys()));
        assert!(text.contains(holds), "{holds} in {file}:\n{text}");
    }
    let of_controller = unpacked(&path("controller.tar.gz"));
    for (file, holds) in [
        ("logs/controller/antrea-controller.log", "antrea-controller starts"),
        ("config/antrea-controller.conf", "apiPort"),
        ("controllerinfo", "antrea-controller"),
        ("networkpolicies", "\"shut\""),
        ("addressgroups", "friend"),
        ("appliedtogroups", "web"),
        ("memory/status", "VmRSS"),
        ("metrics", "antrea_controller_"),
    ] {
        let text = of_controller.get(file).unwrap_or_else(|| panic!("{file} in {:?}", of_controller.keys()));
        assert!(text.contains(holds), "{holds} in {file}:\n{text}");
    }
    let cluster = std::fs::read_to_string(path("clusterinfo")).unwrap();
    assert!(cluster.contains("node1"), "{cluster}");

    // What was planted was met, and the tokens of the lab are secrets as well.
    for (file, met) in
        [("config/antrea-agent.conf", "ipsecPSK"), ("ovsdb", "ipsec_psk"), ("iptables", "192.0.2.9")]
    {
        let lines = of_agent[file].lines();
        let found: Vec<&str> = lines.filter(|line| line.contains(met)).collect();
        assert!(
            !found.is_empty() && found.iter().all(|line| line.contains("[redacted]")),
            "{file}: {found:?}"
        );
    }
    let own = std::fs::read_to_string(agent.token.as_ref().unwrap()).unwrap();
    let texts = of_agent.iter().chain(&of_controller).map(|(name, text)| (name.as_str(), text.as_str()));
    for (name, text) in texts.chain([("clusterinfo", cluster.as_str())]) {
        for secret in [PLANTED, "lab-antrea-agent", own.trim(), "PRIVATE KEY-----\n"] {
            assert!(!text.contains(secret), "{secret} in {name}");
        }
    }
}
