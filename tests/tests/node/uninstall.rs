//! Removal for good: the node is as it was before its first agent, and can have another one at once.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use antrea_operator::render::CLEANUP_CAPABILITIES;
use antrea_tests::lab::{Lab, LabNode, Pod, binary, try_in};
use antrea_tests::traffic::ping;
use ovs::testing::confinement;

/// What somebody who looks at the node's network sees, one thing per line.
fn look(netns: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |what: &str, command: &[&str], keep: fn(&str) -> Option<String>| {
        let output = try_in(netns, command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        lines.extend(text.lines().filter_map(keep).map(|line| format!("{what} {line}")));
    };
    add("link", &["ip", "-o", "link"], |line| {
        line.split(':').nth(1).map(|name| name.split('@').next().unwrap_or_default().trim().to_owned())
    });
    add("route", &["ip", "-4", "route", "show", "table", "all"], |line| Some(line.trim().to_owned()));
    // Link-local ones of the kernel's own come and go as links settle.
    add("route", &["ip", "-6", "route", "show", "table", "all"], |line| {
        (!line.contains("proto kernel")).then(|| line.trim().to_owned())
    });
    add("rule", &["ip", "rule"], |line| Some(line.to_owned()));
    add("set", &["ipset", "list", "-n"], |line| Some(line.to_owned()));
    add("nft", &["nft", "list", "tables"], |line| line.contains("ANTREA").then(|| line.to_owned()));
    for program in
        ["iptables-nft-save", "ip6tables-nft-save", "iptables-legacy-save", "ip6tables-legacy-save"]
    {
        add(program, &[program], |line| line.contains("ANTREA").then(|| line.to_owned()));
    }
    lines.sort();
    lines
}

/// As the clean-up's container runs it, with the test's folders. Programs are first looked for in `programs`.
fn clean(node: &LabNode, root: &Path, programs: &Path) -> Output {
    let config = node.dir.join("antrea-agent.conf");
    Command::new("ip")
        .args(["netns", "exec", &node.netns])
        .args(confinement(CLEANUP_CAPABILITIES))
        .arg(binary("antrea-agent"))
        .args([Path::new("--config"), &config, Path::new("--node-name"), Path::new(&node.name)])
        .arg("cleanup")
        .args([Path::new("--cni-conf-dir"), &root.join("net.d")])
        .args([Path::new("--cni-plugin-dir"), &root.join("bin")])
        .args([Path::new("--ipam-dir"), &node.dir.join("ipam")])
        .args([Path::new("--state-dir"), &root.join("state")])
        .env("PATH", format!("{}:{}", programs.display(), std::env::var("PATH").unwrap()))
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn install_files(root: &Path) {
    for file in ["net.d/10-antrea.conflist", "net.d/99-other.conf", "bin/antrea", "bin/loopback", "state/a/b"]
    {
        let file = root.join(file);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, "").unwrap();
    }
}

/// Programs that fail.
fn broken(folder: &Path, programs: &[&str]) {
    std::fs::create_dir_all(folder).unwrap();
    for program in programs {
        let file = folder.join(program);
        std::fs::write(&file, "#!/bin/sh\necho $0 is broken >&2; exit 1\n").unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn files(root: &Path) -> Vec<String> {
    let mut found: Vec<String> = ["net.d", "bin", "state"]
        .into_iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).unwrap())
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    found.sort();
    found
}

fn talk(a: &Pod, b: &Pod) -> bool {
    ping(&a.netns, b.ip, 56, true)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_left_as_it_was_and_can_be_used_again() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[]).await;
    let before = look(&lab.nodes[0].netns);
    lab.start_agents().await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    assert!(talk(&a, &b) && talk(&a, &c));
    let root = lab.nodes[0].dir.join("host");
    install_files(&root);
    let installed = look(&lab.nodes[0].netns);
    for what in ["link antrea-gw0", "link br-int", "set ANTREA-POD-IP", "ANTREA-FORWARD", "10.244.2.0/24"] {
        assert!(installed.iter().any(|line| line.contains(what)), "{what} is not there: {installed:#?}");
    }

    // While an agent runs, nothing is touched: it would make all of it again.
    let [programs, none] = ["broken", "none"].map(|name| lab.nodes[0].dir.join(name));
    let refused = clean(&lab.nodes[0], &root, &none);
    assert!(!refused.status.success(), "{}", said(&refused));
    assert!(said(&refused).contains("an agent runs on this node"), "{}", said(&refused));
    assert_eq!(look(&lab.nodes[0].netns), installed);
    assert!(talk(&a, &b));

    lab.nodes[0].stop_agent();
    lab.nodes[0].ovs.kill_vswitchd().unwrap();
    lab.nodes[0].ovs.kill_db().unwrap();
    // What cannot be looked at may be left; what can be goes all the same.
    let tools = ["ipset", "nft", "iptables-legacy-save"];
    broken(&programs, &tools);
    let output = clean(&lab.nodes[0], &root, &programs);
    assert!(!output.status.success(), "{}", said(&output));
    for tool in tools {
        assert!(said(&output).contains(&format!("{tool} is broken")), "{tool}: {}", said(&output));
    }
    assert_eq!(files(&root), ["99-other.conf", "loopback"]);
    let left = look(&lab.nodes[0].netns);
    assert!(!left.iter().any(|line| line.contains("antrea-gw0")), "{left:#?}");
    assert!(left.iter().any(|line| line.contains("set ANTREA-POD-IP")), "{left:#?}");

    let output = clean(&lab.nodes[0], &root, &none);
    assert!(output.status.success(), "{}", said(&output));
    println!("{}", said(&output));
    assert_eq!(look(&lab.nodes[0].netns), before);
    assert_eq!(files(&root), ["99-other.conf", "loopback"]);
    assert!(!lab.nodes[0].dir.join("ipam/antrea").exists());
    let link = try_in(&a.netns, &["ip", "link", "show", "eth0"]);
    assert!(!link.status.success(), "a pod's link leads nowhere: {}", said(&link));

    let again = clean(&lab.nodes[0], &root, &none);
    assert!(again.status.success() && said(&again).contains("steps=0"), "{}", said(&again));

    // Installed again: the old pods' addresses are free, and new pods reach the other node.
    std::fs::remove_file(lab.nodes[0].ovs.dir().join("conf.db")).unwrap();
    lab.nodes[0].ovs.create_db().unwrap();
    lab.nodes[0].ovs.start_vswitchd().unwrap();
    lab.start_agent(0);
    lab.wait_ready(0).await;
    let (d, e) = (lab.add_pod(0, "d"), lab.add_pod(0, "e"));
    assert_eq!(d.ip, a.ip);
    assert!(talk(&d, &e) && talk(&d, &c));
}
