//! antctl as people run it, in the containers of a real agent and a real controller.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use antrea_tests::lab::{AGENT_INFOS, Lab, binary, eventually, sh};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);
const CONTROLLER_INFOS: &str = "apis/crd.antrea.io/v1beta1/antreacontrollerinfos";

/// A component's container: its namespace and what antctl finds in it.
struct Container<'a> {
    /// A command that enters it.
    enter: Vec<String>,
    environment: [(&'a str, &'a str); 2],
    /// Its configuration, which a container has under /etc/antrea.
    config: &'a Path,
    /// Its token for tools; none where its /run holds it.
    token: Option<&'a Path>,
    kubeconfig: &'a Path,
}

impl Container<'_> {
    fn try_run(&self, args: &[&str]) -> Output {
        // The machine's own folders stay as they are: the mounts are the command's alone.
        let script = r#"
            mount -t tmpfs lab /etc && mkdir /etc/antrea && ln -s "$1" /etc/antrea/ || exit
            if [ -n "$2" ]; then
                mount -t tmpfs lab /run && mkdir -p /run/antrea/apiserver && ln -s "$2" /run/antrea/apiserver/ || exit
            fi
            shift 2
            exec "$@""#;
        Command::new(&self.enter[0])
            .args(&self.enter[1..])
            .args(["unshare", "-m", "sh", "-c", script, "sh"])
            .arg(self.config)
            .arg(self.token.unwrap_or(Path::new("")))
            .arg(binary("antctl"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig)
            .args(args)
            .envs(self.environment)
            // Under /etc, which it does not have.
            .env("SSL_CERT_FILE", self.kubeconfig.with_extension("crt"))
            .output()
            .unwrap()
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
    let words = |line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let agent = Container {
        enter: words(format!("ip netns exec {}", lab.nodes[0].netns)),
        environment: [("POD_NAME", "antrea-agent-node1"), ("NODE_NAME", "node1")],
        config: &lab.nodes[0].dir.join("antrea-agent.conf"),
        token: Some(&lab.nodes[0].dir.join("loopback-client-token")),
        kubeconfig: &kubeconfig,
    };
    let controller = Container {
        // With its /run, where it has left a token.
        enter: words(format!("nsenter -m -n -t {}", lab.controller_pid())),
        environment: [("POD_NAME", "antrea-controller-lab"), ("NODE_NAME", "")],
        config: &lab.controller_log().with_file_name("antrea-controller.conf"),
        token: None,
        kubeconfig: &kubeconfig,
    };

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

    from_outside(&lab, &kubeconfig, &port);

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

/// An administrator's machine: no container, a kubeconfig, and Nodes that can be reached.
fn from_outside(lab: &Lab, kubeconfig: &Path, port: &str) {
    let outside = Container {
        enter: ["ip", "netns", "exec", &lab.outside()].map(str::to_owned).to_vec(),
        environment: [("POD_NAME", ""), ("NODE_NAME", "")],
        config: Path::new("/dev/null"),
        token: None,
        kubeconfig,
    };
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
