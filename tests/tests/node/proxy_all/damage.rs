//! What somebody changes of a node that has both families and no kube-proxy is put back and told, whichever family it is
//! of. What a node has of IPv4 with kube-proxy is in [`crate::hostnet`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use antrea_tests::lab::families::iptables;
use antrea_tests::lab::{Datapath, Lab, eventually, sh};
use antrea_tests::traffic::{ping, quick_ping};
use netcfg::Family;
use serde_json::json;

use super::{
    PORT, cluster_ip, external_ip, gateway, lab, listen, put_endpoints, put_service, route_by, until,
};
use crate::health::{told_since, turns_back};
use crate::hostnet::{limit, state};

const NODE_PORT: [u16; 2] = [30_004, 30_006];

/// What is done at once, and what the messages have to name, no more than one of them does.
struct Damage {
    done: Vec<String>,
    told: Vec<String>,
    limit: Duration,
}

/// The kernel does not tell of sets: they are looked at every 15 s, and at once with rules.
fn set_limit() -> Duration {
    limit() + Duration::from_secs(15)
}

fn place(family: Family) -> usize {
    usize::from(family == Family::V6)
}

/// Addresses of links of nobody, which the host and the bridge have in common: what stands for node ports, and for whom
/// the bridge brings back.
fn stand_ins(family: Family) -> [&'static str; 2] {
    match family {
        Family::V4 => ["169.254.0.252", "169.254.0.253"],
        Family::V6 => ["fc01::aabb:ccdd:eefe", "fc01::aabb:ccdd:eeff"],
    }
}

fn damages(lab: &Lab) -> Vec<Damage> {
    let netns = &lab.nodes[0].netns;
    let one = |done: &[String], told: &[&str]| Damage {
        done: done.iter().map(|command| format!("ip netns exec {netns} {command}")).collect(),
        told: told.iter().map(|word| (*word).to_owned()).collect(),
        limit: limit(),
    };
    let ip =
        |family: Family, rest: &str| format!("ip {} {rest}", if family == Family::V4 { "-4" } else { "-6" });
    let v6 = |rest: &str| ip(Family::V6, rest);
    let both = |command: &dyn Fn(Family) -> String| Family::BOTH.map(command).to_vec();
    let in_both = |text: &str| Family::BOTH.map(|family| format!("{family} {text}")).to_vec();
    let tables = |rest: &str| both(&|family| format!("{} -w {rest}", iptables(family)));
    let services = ["10.96.0.0/16", "fd00:10:96::/112"];
    let external = Family::BOTH.map(|family| external_ip(family, 1).to_string());
    let owned = |done: Vec<String>, told: Vec<String>| {
        one(&done, &told.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let peer = lab.pod_cidr(1, Family::V6);
    let mut all = vec![
        // Of IPv6, what hostnet.rs does of IPv4.
        one(
            &[
                v6("addr del fd00:244:1::1/64 dev antrea-gw0"),
                v6("addr add 2001:db8:77::77/128 dev antrea-gw0 nodad"),
            ],
            &["lacked its address fd00:244:1::1/64", "foreign address 2001:db8:77::77/128"],
        ),
        one(&["ip link set antrea-gw0 down".into()], &["antrea-gw0 was down"]),
        one(&["sysctl -qw net.ipv6.conf.antrea-gw0.disable_ipv6=1".into()], &["antrea-gw0.disable_ipv6"]),
        one(&["sysctl -qw net.ipv6.conf.all.forwarding=0".into()], &["net.ipv6.conf.all.forwarding"]),
        one(&[v6(&format!("route del {peer}"))], &[&peer]),
        one(&[v6(&format!("route replace {peer} dev lo"))], &[&peer]),
        one(&["ip6tables -w -t raw -F".into()], &["IPv6 rules of chain ANTREA-PREROUTING in table raw"]),
        one(&["ip6tables -w -t filter -F FORWARD".into()], &["IPv6 jumps"]),
        one(&["ip6tables -w -t mangle -F".into()], &["IPv6 rules of chain ANTREA-FORWARD in table mangle"]),
        one(&["nft delete table ip6 ANTREA-EGRESS".into()], &["IPv6 table ANTREA-EGRESS"]),
        one(&["nft insert rule ip6 ANTREA-EGRESS JUDGE accept".into()], &["chain JUDGE"]),
        one(&["nft flush map ip6 ANTREA-EGRESS PODS".into()], &["map PODS"]),
        one(&[v6("neigh del fd00:244:2::1 dev antrea-gw0")], &["neighbour fd00:244:2::1"]),
        // Of the mode, in both families.
        owned(
            both(&|family| ip(family, &format!("route del {}", services[place(family)]))),
            services.map(|net| format!("route {net}")).to_vec(),
        ),
        owned(
            both(&|family| ip(family, &format!("route del {}", external[place(family)]))),
            external.iter().map(|net| format!("route {net}")).collect(),
        ),
        owned(
            both(&|family| ip(family, &format!("route replace {} dev lo", services[place(family)]))),
            services.map(|net| format!("route {net}")).to_vec(),
        ),
        owned(
            tables("-t nat -F ANTREA-PREROUTING"),
            in_both("rules of chain ANTREA-PREROUTING in table nat"),
        ),
        owned(tables("-t nat -F ANTREA-OUTPUT"), in_both("rules of chain ANTREA-OUTPUT in table nat")),
        owned(
            tables("-t nat -F ANTREA-POSTROUTING"),
            in_both("rules of chain ANTREA-POSTROUTING in table nat"),
        ),
        owned(tables("-t nat -F PREROUTING"), in_both("jumps to the agent's chains")),
    ];
    for family in Family::BOTH {
        let stand_ins = stand_ins(family);
        all.push(owned(
            stand_ins.map(|to| ip(family, &format!("route del {to}"))).to_vec(),
            stand_ins.map(|to| format!("route {to}")).to_vec(),
        ));
        all.push(owned(
            stand_ins.map(|of| ip(family, &format!("neigh del {of} dev antrea-gw0"))).to_vec(),
            stand_ins.map(|of| format!("neighbour {of}")).to_vec(),
        ));
        let number = if family == Family::V4 { "" } else { "6" };
        let set = |name: &str| format!("ANTREA-{name}-IP{number}");
        let foreign = if family == Family::V4 { "198.51.100.0/24" } else { "2001:db8:98::/64" };
        for done in [
            vec![
                format!("ipset flush {}", set("NODEPORT")),
                format!("ipset del {} {}", set("EXTERNAL"), external[place(family)]),
                format!("ipset add {} {foreign}", set("POD")),
            ],
            vec![
                format!("ipset del {} {}", set("NODE"), lab.node_ip(1, family)),
                format!("ipset del {} {}", set("POD"), lab.pod_cidr(1, family)),
            ],
        ] {
            let told =
                done.iter().map(|command| format!("set {} differed", command.split(' ').nth(2).unwrap()));
            let told = told.collect();
            all.push(Damage { limit: set_limit(), ..owned(done, told) });
        }
    }
    if Datapath::here() == Datapath::Userspace {
        all.extend([
            one(&[v6("rule del fwmark 0x80000000/0x80000000")], &["routing rule"]),
            one(&[v6("neigh del fe80::a27e:fe:fe dev antrea-gw0")], &["neighbour fe80::a27e:fe:fe"]),
            one(&[v6("route flush table 21730")], &["route 2001:db8:113::1/128"]),
            owned(
                both(&|family| {
                    let subnet = lab.pod_cidr(0, family);
                    ip(family, &format!("route replace {subnet} dev lo table 21730"))
                }),
                Family::BOTH.map(|family| format!("route {}", lab.pod_cidr(0, family))).to_vec(),
            ),
            one(&["ip link del antrea-gw0".into()], &["antrea-gw0 was gone"]),
        ]);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_change_of_either_family_is_put_back_and_told() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(2).await;
    for kind in ["AgentHealthy", "ControllerConnectionUp", "OVSDBConnectionUp", "OpenflowConnectionUp"] {
        turns_back(&lab, kind).await;
    }
    let (a, b) = (lab.add_pod(0, "a"), lab.add_pod(1, "b"));
    let (netns, outside) = (lab.nodes[0].netns.clone(), lab.outside());
    let listener = listen(&b.netns).await;
    listener.set_nonblocking(true).unwrap();
    // Whoever came and went waits to be taken, and few may wait.
    let take = || while listener.accept().is_ok() {};
    let (mut pings, mut connections) = (Vec::new(), Vec::new());
    for family in Family::BOTH {
        let name = format!("web{}", place(family));
        let (cluster, external) = (cluster_ip(family, 1), external_ip(family, 1));
        let port = NODE_PORT[place(family)];
        put_service(&lab, &name, cluster, port, &json!({"externalIPs": [external]}), &json!({}));
        put_endpoints(&lab, &name, &[(b.ip_of(family), "node2")]);
        route_by(&lab, external, 0);
        pings.extend([
            (a.netns.clone(), b.ip_of(family)),
            (a.netns.clone(), gateway(family, 0)),
            (netns.clone(), b.ip_of(family)),
            (netns.clone(), a.ip_of(family)),
        ]);
        connections.extend([
            (outside.clone(), SocketAddr::new(lab.node_ip(0, family), port)),
            (outside.clone(), SocketAddr::new(external, PORT)),
            (netns.clone(), SocketAddr::new(cluster, PORT)),
            (netns.clone(), SocketAddr::new(external, PORT)),
            (a.netns.clone(), SocketAddr::new(cluster, PORT)),
        ]);
    }
    for (client, to) in &connections {
        until(client, *to, Ok(())).await;
    }
    assert!(pings.iter().all(|(from, to)| ping(from, *to, 56, true)));
    let link = a.result["interfaces"][0]["name"].as_str().unwrap().to_owned();
    let good = state(&lab.nodes[0], &[&link]);
    for (what, times) in [("ANTREA-NODEPORT-IP6", 3), ("ANTREA-EXTERNAL-IP ", 2), ("fd00:10:96::/112", 2)] {
        assert!(good.matches(what).count() >= times, "{what} is not looked at: {good}");
    }
    for Damage { done, told, limit } in damages(&lab) {
        let (version, begin) = (lab.api.version(), Instant::now());
        for command in &done {
            sh(command);
        }
        assert!(begin.elapsed() < limit, "{done:?} takes longer than its repair may");
        let back = || state(&lab.nodes[0], &[&link]) == good;
        let begin = Instant::now();
        while !back() {
            let now = state(&lab.nodes[0], &[&link]);
            assert!(begin.elapsed() < limit, "{done:?} is not put back:\n{}", differing(&good, &now));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("{}: put back after {:.1?}", done.join("; "), begin.elapsed());
        for word in &told {
            told_since(version, &lab, "AgentHealthy", "HostNetworkRepaired", word).await;
        }
        for (from, to) in &pings {
            eventually("traffic as before", limit, || quick_ping(from, *to)).await;
        }
        for (client, to) in &connections {
            until(client, *to, Ok(())).await;
        }
        take();
        turns_back(&lab, "AgentHealthy").await;
    }
}

/// Lines that one has and the other has not.
fn differing(good: &str, now: &str) -> String {
    let only = |sign: &str, of: &str, other: &str| {
        let lines = of.lines().filter(|line| !other.lines().any(|known| known == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    only("-", good, now) + &only("+", now, good)
}
