//! What somebody changes of the node's own network is put back within seconds, and told.

use std::collections::BTreeMap;
use std::time::Duration;

use antrea_tests::lab::{Datapath, Lab, eventually, run, sh, try_in};
use antrea_tests::traffic::{ping, quick_ping};
use serde_json::Value;

use crate::health::{lab_with_status, turns, turns_back};

/// The goal is two seconds; a loaded machine gets more before the test fails, and one in software, which is what has the
/// kernel's datapath, several times that. The figure is printed.
fn limit() -> Duration {
    Duration::from_secs(if std::env::var_os("ANTREA_TEST_DATAPATH").is_some() { 30 } else { 6 })
}

fn json(netns: &str, arguments: &str) -> Vec<Value> {
    let text = sh(&format!("ip -n {netns} -j {arguments}"));
    serde_json::from_str::<Value>(&text)
        .map(|value| value.as_array().cloned().unwrap_or_default())
        .unwrap_or_default()
}

/// Links and addresses without what changes by itself.
fn links(netns: &str, pods: &[&str]) -> BTreeMap<String, String> {
    let ours = |name: &str| ["antrea-gw0", "antrea-tun0"].contains(&name) || pods.contains(&name);
    json(netns, "addr show")
        .iter()
        .filter_map(|link| {
            let name = link["ifname"].as_str()?.to_owned();
            let up = link["flags"].as_array()?.iter().any(|flag| flag == "UP");
            // A tunnel that is made anew has another hardware address, which nobody uses.
            let mac = if name == "antrea-gw0" { link["address"].to_string() } else { String::new() };
            let addresses: Vec<_> =
                link["addr_info"].as_array()?.iter().filter(|a| a["scope"] != "link").collect();
            let addresses: Vec<_> =
                addresses.iter().map(|a| format!("{}/{}", a["local"], a["prefixlen"])).collect();
            let text = format!("{up} {mac} {} {:?} {}", link["mtu"], addresses, link["group"]);
            ours(&name).then_some((name, text))
        })
        .collect()
}

/// Everything that the agent keeps on a node, as text.
fn state(netns: &str, pods: &[&str]) -> String {
    let rules = run("ip", &["netns", "exec", netns, "iptables-save"]);
    let rules: Vec<&str> =
        rules.lines().filter(|line| line.contains("ANTREA-") && !line.starts_with(':')).collect();
    let sets = run("ip", &["netns", "exec", netns, "ipset", "save", "ANTREA-POD-IP"]);
    let mut sets: Vec<&str> = sets.lines().filter(|line| line.starts_with("add")).collect();
    sets.sort_unstable();
    let mut routes: Vec<_> =
        sh(&format!("ip -n {netns} route show proto 173")).lines().map(str::to_owned).collect();
    routes.sort();
    let fdb = sh(&format!("bridge -n {netns} fdb show"));
    let mut fdb: Vec<&str> = fdb.lines().filter(|line| line.contains("dst")).collect();
    fdb.sort_unstable();
    let setting = |name: &str| {
        let file = format!("/proc/sys/net/ipv4/{name}");
        // The link may be gone for a moment.
        String::from_utf8_lossy(&try_in(netns, &["cat", &file]).stdout).trim().to_owned()
    };
    let settings = ["ip_forward", "conf/antrea-gw0/rp_filter"].map(setting);
    format!("{:#?}\n{routes:#?}\n{fdb:#?}\n{rules:#?}\n{sets:#?}\n{settings:?}", links(netns, pods))
}

/// What is done to a node, and a word that the message has to have; empty where Open vSwitch itself puts it back.
fn damages(lab: &Lab, pod: &str) -> Vec<(String, &'static str)> {
    let node = &lab.nodes[0];
    let ip = |rest: &str| format!("ip -n {} {rest}", node.netns);
    let exec = |rest: &str| format!("ip netns exec {} {rest}", node.netns);
    let mut all = vec![
        (ip("addr del 10.244.1.1/24 dev antrea-gw0"), "10.244.1.1/24"),
        (ip("addr add 192.0.2.77/32 dev antrea-gw0"), "192.0.2.77/32"),
        (ip("link set antrea-gw0 down"), "antrea-gw0"),
        (ip("link set antrea-gw0 mtu 1300"), ""),
        (ip("link set antrea-gw0 address 02:00:00:00:00:99"), ""),
        (ip(&format!("link set {pod} down")), "down"),
        (ip("route del 10.244.2.0/24"), "10.244.2.0/24"),
        (ip("route replace 10.244.2.0/24 dev lo"), "10.244.2.0/24"),
        (exec("iptables -t raw -F"), "raw"),
        (exec("iptables -t nat -F POSTROUTING"), "jumps"),
        (exec("sysctl -qw net.ipv4.ip_forward=0"), "ip_forward"),
        (exec("sysctl -qw net.ipv4.conf.antrea-gw0.rp_filter=1"), "rp_filter"),
    ];
    if Datapath::here() == Datapath::Userspace {
        let fdb = sh(&format!("bridge -n {} fdb show dev antrea-tun0", node.netns));
        let entry = fdb.lines().find(|line| line.contains(&format!("dst {}", lab.nodes[1].ip))).unwrap();
        let mac = entry.split(' ').next().unwrap();
        all.extend([
            (ip("link set antrea-tun0 down"), "antrea-tun0"),
            (ip("link set antrea-tun0 mtu 1200"), "MTU"),
            (
                format!("bridge -n {} fdb del {mac} dev antrea-tun0 dst {}", node.netns, lab.nodes[1].ip),
                "forwarding",
            ),
            (ip("link del antrea-tun0"), "antrea-tun0 was gone"),
            (ip("link del antrea-gw0"), "antrea-gw0 was gone"),
        ]);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_change_is_put_back_and_told() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab_with_status(2).await;
    let a = lab.add_pod(0, "a");
    let b = lab.add_pod(1, "b");
    assert!(ping(&a.netns, b.ip, 56, true));
    let netns = lab.nodes[0].netns.clone();
    let link = a.result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let good = state(&netns, &[&link]);
    let probes = [(a.netns.clone(), b.ip), (netns.clone(), b.ip), (netns.clone(), a.ip)];
    let mut named = 0;
    for (damage, word) in damages(&lab, &link) {
        sh(&damage);
        let back = eventually(&damage, limit(), || state(&netns, &[&link]) == good).await;
        println!("{damage}: put back after {back:.1?}");
        if word.is_empty() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            turns_back(&lab, "AgentHealthy").await;
            continue;
        }
        let message = turns(&lab, "AgentHealthy", "HostNetworkRepaired").await;
        assert!(message.contains(word), "{damage}: {message}");
        named += usize::from(message.contains("changed by iptables"));
        for (from, to) in &probes {
            eventually("traffic as before", limit(), || quick_ping(from, *to)).await;
        }
        turns_back(&lab, "AgentHealthy").await;
    }
    // A look that was due anyway may come before the kernel's message.
    assert!(named > 0, "it is not told that iptables did it");
    // What the agent does itself is not told.
    let c = lab.add_pod(0, "c");
    lab.delete_pod(0, &c);
    let log = std::fs::read_to_string(lab.nodes[0].log()).unwrap();
    let told = || log.matches("differed from what was made").count();
    let before = told();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(told(), before);
}
