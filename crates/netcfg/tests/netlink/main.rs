//! The netlink layer against the kernel, judged by iproute2.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may")]

#[path = "../common/mod.rs"]
mod common;

mod monitor;

use std::net::IpAddr;

use common::{Host, joined, veth};
use ipnet::IpNet;
use netcfg::{
    ANTREA_PROTOCOL, Error, Family, FdbEntry, MAIN_TABLE, MacAddr, Neighbour, Netns, OperState, Route,
    RouteFilter, RouteKind, RoutingRule, VxlanSpec,
};
use nix::errno::Errno;
use serde_json::{Value, json};

fn net(s: &str) -> IpNet {
    s.parse().unwrap()
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn mac(s: &str) -> MacAddr {
    s.parse().unwrap()
}

#[tokio::test]
async fn namespaces_have_identity_and_errors_name_the_path() {
    let host = Host::new().await;
    let again = Netns::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&host.ns))).unwrap();
    assert_eq!(again.id(), host.ns.id());
    assert_ne!(again, Netns::unshare().await.unwrap());
    let missing = Netns::open("/run/netns/ncfg-no-such").unwrap_err();
    assert_eq!(missing.errno(), Some(Errno::ENOENT));
    assert!(missing.to_string().contains("/run/netns/ncfg-no-such"), "{missing}");
    let file = Netns::open("/etc/passwd").unwrap_err();
    assert!(file.to_string().contains("not a namespace file"), "{file}");
}

#[tokio::test]
async fn panicking_work_in_a_namespace_is_an_error() {
    let host = Host::new().await;
    let result: netcfg::Result<()> = host.ns.run(|| -> () { panic!("on purpose") }).await;
    assert!(result.is_err());
    assert_eq!(host.sh("ls /sys/class/net 2>/dev/null; ip -br link | wc -l").await.lines().last(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_handle_serves_many_tasks() {
    let (host, _peer) = joined("gw", "eth0").await;
    let gw = host.nl.require_link("gw").await.unwrap().index;
    let tasks: Vec<_> = (0..50u8)
        .map(|i| {
            let nl = host.nl.clone();
            tokio::spawn(async move {
                let route = Route::new(IpNet::new(IpAddr::from([10, 1, i, 0]), 24).unwrap()).dev(gw);
                nl.set_route(&route).await.unwrap();
                nl.add_address(gw, IpNet::new(IpAddr::from([10, 2, i, 1]), 24).unwrap()).await.unwrap();
                assert_eq!(nl.require_link("gw").await.unwrap().index, gw);
                nl.routes(&RouteFilter::owned()).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(host.json("ip -j route show proto 173").await.len(), 50);
    assert_eq!(host.nl.addresses(gw).await.unwrap().iter().filter(|a| a.net.addr().is_ipv4()).count(), 50);
}

#[tokio::test]
async fn abandoned_reads_do_not_disturb_later_ones() {
    let (host, _peer) = joined("gw", "eth0").await;
    let gw = host.nl.require_link("gw").await.unwrap().index;
    for metric in 0..2000 {
        let route = Route::new(net("10.0.0.0/8")).dev(gw).metric(metric);
        host.nl.set_route(&route).await.unwrap();
    }
    for _ in 0..20 {
        let filter = RouteFilter::owned();
        let abandoned = host.nl.routes(&filter);
        let _ = tokio::time::timeout(std::time::Duration::from_micros(100), abandoned).await;
        assert_eq!(host.nl.routes(&filter).await.unwrap().len(), 2000);
    }
}

#[tokio::test]
async fn veth_is_born_in_both_namespaces() {
    let host = Host::new().await;
    let pod = Host::new().await;
    let spec = netcfg::VethSpec {
        host_mac: Some(mac("02:00:00:00:00:01")),
        host_mtu: 1450,
        host_group: Some(17),
        peer_mac: Some(mac("02:00:00:00:00:02")),
        peer_mtu: 1400,
        ..veth("pod1-abcdef", "eth0", &pod.ns)
    };
    let pair = host.nl.create_veth(&spec).await.unwrap();
    assert_eq!(pair.host.name, "pod1-abcdef");
    assert_eq!(pair.host.mac, spec.host_mac);
    assert_eq!((pair.host.mtu, pair.host.group, pair.host.up), (1450, 17, false));
    assert_eq!(pair.host.kind.as_deref(), Some("veth"));
    assert!(pair.host.peer_netns_id.is_some());
    let inside = pod.nl.require_link("eth0").await.unwrap();
    assert_eq!((inside.index, inside.mtu, inside.mac), (pair.peer_index, 1400, spec.peer_mac));
    assert_eq!(inside.peer_index, Some(pair.host.index));

    let shown = &host.json("ip -j -d link show dev pod1-abcdef").await[0];
    assert_eq!(shown["address"], "02:00:00:00:00:01");
    assert_eq!(shown["mtu"], 1450);
    assert_eq!(shown["group"], "17");
    assert_eq!(shown["linkinfo"]["info_kind"], "veth");
    assert_eq!(pod.json("ip -j link show dev eth0").await[0]["address"], "02:00:00:00:00:02");

    host.nl.set_up("pod1-abcdef").await.unwrap();
    assert_ne!(host.nl.require_link("pod1-abcdef").await.unwrap().oper_state, OperState::Up);
    pod.nl.set_up(inside.index).await.unwrap();
    // The kernel moves the operational state from a work queue.
    let started = std::time::Instant::now();
    while host.nl.require_link("pod1-abcdef").await.unwrap().oper_state != OperState::Up {
        assert!(started.elapsed() < std::time::Duration::from_secs(5), "both ends are up, the link is not");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    pod.sh("ip link set eth0 down").await;
    assert!(!pod.nl.require_link("eth0").await.unwrap().up);

    let twice = host.nl.create_veth(&spec).await.unwrap_err();
    assert_eq!(twice.errno(), Some(Errno::EEXIST));
    assert!(twice.to_string().contains("pod1-abcdef") && twice.to_string().contains("EEXIST"), "{twice}");

    assert!(host.nl.delete_link("pod1-abcdef").await.unwrap());
    assert!(!host.nl.delete_link("pod1-abcdef").await.unwrap());
    assert_eq!(host.nl.link("pod1-abcdef").await.unwrap(), None);
    assert_eq!(pod.nl.link("eth0").await.unwrap(), None);
    assert!(matches!(host.nl.require_link("pod1-abcdef").await, Err(Error::LinkNotFound(_))));
}

#[tokio::test]
async fn link_attributes_are_set() {
    let host = Host::new().await;
    let other = Host::new().await;
    let link = host.nl.create_veth(&veth("port0", "eth0", &other.ns)).await.unwrap().host;
    host.nl.set_mac(&link, mac("02:aa:00:00:00:09")).await.unwrap();
    host.nl.set_mtu("port0", 1300).await.unwrap();
    host.nl.set_group("port0", 7).await.unwrap();
    let shown = &host.json("ip -j -d link show dev port0").await[0];
    assert_eq!(
        (&shown["address"], &shown["mtu"], &shown["group"]),
        (&json!("02:aa:00:00:00:09"), &json!(1300), &json!("7"))
    );
    let names: Vec<_> = host.nl.links().await.unwrap().into_iter().map(|l| l.name).collect();
    assert_eq!(names, ["lo", "port0"]);
    let too_big = host.nl.set_mtu("port0", 1 << 20).await.unwrap_err();
    assert_eq!(too_big.errno(), Some(Errno::EINVAL));
    assert!(too_big.to_string().contains("maximum"), "the kernel's explanation: {too_big}");
    assert!(host.nl.delete_link("port0").await.unwrap());
    let gone = host.nl.set_mtu("port0", 1400).await.unwrap_err();
    assert_eq!(gone.errno(), Some(Errno::ENODEV));
    assert!(gone.to_string().starts_with("set link port0 mtu 1400: ENODEV"), "{gone}");
}

#[tokio::test]
async fn vxlan_and_its_fdb() {
    let host = Host::new().await;
    let mut spec = VxlanSpec::new("antrea-tun0", 1, ip("192.0.2.1"));
    spec.mac = Some(mac("02:00:00:00:01:01"));
    spec.mtu = 1450;
    spec.group = Some(3);
    spec.udp_csum = false;
    let link = host.nl.create_vxlan(&spec).await.unwrap();
    let info = link.vxlan.clone().unwrap();
    assert_eq!((info.vni, info.port, info.local, info.learning), (1, 4789, Some(ip("192.0.2.1")), false));
    let shown = &host.json("ip -j -d link show dev antrea-tun0").await[0];
    let data = &shown["linkinfo"]["info_data"];
    assert_eq!(shown["address"], "02:00:00:00:01:01");
    assert_eq!((&data["id"], &data["port"], &data["local"]), (&json!(1), &json!(4789), &json!("192.0.2.1")));
    assert_eq!((&data["learning"], &data["udp_csum"]), (&json!(false), &json!(false)));

    let peer = |n: u8, dst: &str| FdbEntry { mac: MacAddr([2, 0, 0, 0, 9, n]), dst: ip(dst) };
    let flood = |dst: &str| FdbEntry { mac: MacAddr::ZERO, dst: ip(dst) };
    let first = [peer(1, "192.0.2.11"), peer(2, "192.0.2.12"), flood("192.0.2.11"), flood("192.0.2.12")];
    let diff = host.nl.apply_fdb("antrea-tun0", &first).await.unwrap();
    assert_eq!(diff.set.len(), 4);
    let dump = async || {
        let mut dump: Vec<_> = host
            .json("bridge -j fdb show dev antrea-tun0")
            .await
            .iter()
            .map(|e| {
                assert!(e["flags"].as_array().unwrap().contains(&json!("self")), "{e}");
                assert_eq!(e["state"], "permanent");
                format!("{} {}", e["mac"].as_str().unwrap(), e["dst"].as_str().unwrap())
            })
            .collect();
        dump.sort();
        dump
    };
    assert_eq!(
        dump().await,
        [
            "00:00:00:00:00:00 192.0.2.11",
            "00:00:00:00:00:00 192.0.2.12",
            "02:00:00:00:09:01 192.0.2.11",
            "02:00:00:00:09:02 192.0.2.12",
        ]
    );
    assert!(host.nl.apply_fdb(&link, &first).await.unwrap().is_empty());
    // A peer that moved, one that is gone.
    let second = [peer(1, "192.0.2.99"), flood("192.0.2.11")];
    let diff = host.nl.apply_fdb(&link, &second).await.unwrap();
    assert_eq!((diff.set.len(), diff.remove.len()), (1, 2));
    assert_eq!(dump().await, ["00:00:00:00:00:00 192.0.2.11", "02:00:00:00:09:01 192.0.2.99"]);
    assert!(!host.nl.remove_fdb("antrea-tun0", peer(2, "192.0.2.12")).await.unwrap());
    assert!(host.nl.apply_fdb(&link, &second).await.unwrap().is_empty());

    let v6 = host.nl.create_vxlan(&VxlanSpec::new("vx6", 2, ip("2001:db8::1"))).await.unwrap();
    assert_eq!(v6.vxlan.clone().unwrap().local, Some(ip("2001:db8::1")));
    let entries = [peer(1, "2001:db8::11"), flood("2001:db8::11")];
    host.nl.apply_fdb(&v6, &entries).await.unwrap();
    assert!(host.nl.apply_fdb(&v6, &entries).await.unwrap().is_empty());
    assert_eq!(host.json("bridge -j fdb show dev vx6").await.len(), 2);
}

#[tokio::test]
async fn addresses_converge_and_link_local_stays() {
    let (host, _pod) = joined("gw", "eth0").await;
    let want = [net("10.10.0.1/24"), net("10.10.1.1/24"), net("fd00:10::1/64")];
    let diff = host.nl.apply_addresses("gw", &want).await.unwrap();
    assert_eq!((diff.add.len(), diff.remove.len()), (3, 0));
    let shown = async || -> Vec<String> {
        let mut shown: Vec<_> = host.json("ip -j addr show dev gw").await[0]["addr_info"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|a| a["scope"] != "link")
            .map(|a| format!("{}/{}", a["local"].as_str().unwrap(), a["prefixlen"]))
            .collect();
        shown.sort();
        shown
    };
    assert_eq!(shown().await, ["10.10.0.1/24", "10.10.1.1/24", "fd00:10::1/64"]);
    let all = host.nl.addresses("gw").await.unwrap();
    assert!(all.iter().filter(|a| a.net == net("fd00:10::1/64")).all(|a| !a.tentative), "added without DAD");
    assert!(host.nl.apply_addresses("gw", &want).await.unwrap().is_empty());

    // Two in one subnet: removing the first takes the second along, which has to come back.
    host.sh("ip addr flush dev gw scope global; sysctl -qw net.ipv4.conf.gw.promote_secondaries=0").await;
    host.sh("ip addr add 10.20.0.1/24 dev gw; ip addr add 10.20.0.2/24 dev gw").await;
    host.nl.apply_addresses("gw", &[net("10.20.0.2/24")]).await.unwrap();
    assert_eq!(shown().await, ["10.20.0.2/24"]);
    assert!(host.nl.apply_addresses("gw", &[net("10.20.0.2/24")]).await.unwrap().is_empty());

    host.nl.apply_addresses("gw", &[]).await.unwrap();
    assert_eq!(shown().await, Vec::<String>::new());
    let left = host.nl.addresses("gw").await.unwrap();
    assert!(left.iter().any(|a| a.net.to_string().starts_with("fe80::")), "{left:?}");
    assert!(!host.nl.remove_address("gw", net("10.20.0.2/24")).await.unwrap());
    host.nl.add_address("gw", net("10.20.0.2/24")).await.unwrap();
    host.nl.add_address("gw", net("10.20.0.2/24")).await.unwrap();
    // Errors of several addresses are all reported, and the good one is still added.
    host.sh("sysctl -qw net.ipv6.conf.gw.disable_ipv6=1").await;
    let want = [net("fd00::1/64"), net("10.0.0.1/24"), net("fd00::2/64")];
    let errors = host.nl.apply_addresses("gw", &want).await.unwrap_err();
    assert_eq!(errors.errors().len(), 2, "{errors}");
    assert!(errors.to_string().contains("add address fd00::2/64 to link #"), "{errors}");
    assert!(errors.to_string().contains("EACCES"), "{errors}");
    assert_eq!(shown().await, ["10.0.0.1/24"]);
    let gone = host.nl.apply_addresses(4242, &want).await.unwrap_err();
    assert_eq!(gone.errors()[0].errno(), Some(Errno::ENODEV));
}

#[tokio::test]
async fn routes_converge_in_both_families() {
    let (host, _peer) = joined("gw", "eth0").await;
    let gw = host.nl.require_link("gw").await.unwrap().index;
    host.nl.apply_addresses(gw, &[net("10.10.0.1/24"), net("fd00:10::1/64")]).await.unwrap();
    host.sh("ip route add 172.16.0.0/16 dev gw proto static; ip -6 route add fd99::/64 dev gw").await;
    let owned = RouteFilter::owned();
    let want = vec![
        // Peer Pod CIDRs by encapsulation: the gateway is reached on the link.
        Route::new(net("10.10.1.0/24")).via_onlink(ip("10.10.1.1")).dev(gw),
        Route::new(net("10.10.2.0/24")).via(ip("10.10.0.2")).dev(gw).src(ip("10.10.0.1")).mtu(1400),
        Route::new(net("fd00:10:1::1/128")).dev(gw),
        Route::new(net("fd00:10:1::/64")).via(ip("fd00:10:1::1")).dev(gw),
        // Egress: a table beyond 255 and one below.
        Route::default_v4().via(ip("10.10.0.9")).dev(gw).table(101),
        Route::default_v6().via(ip("fd00:10::9")).dev(gw).table(70_000).metric(50),
        Route::new(net("10.11.0.0/16")).kind(RouteKind::Unreachable),
        Route::new(net("fd00:11::/48")).kind(RouteKind::Blackhole),
        // IPv4 through an IPv6 gateway.
        Route::new(net("10.12.0.0/16")).via(ip("fd00:10::9")).dev(gw),
    ];
    let diff = host.nl.apply_routes(&owned, &want).await.unwrap();
    assert_eq!((diff.set.len(), diff.remove.len()), (want.len(), 0));
    let again = host.nl.apply_routes(&owned, &want).await.unwrap();
    assert!(again.is_empty(), "not stable: {again:?}");

    let main = host.json("ip -j route show proto 173").await;
    let by_dst = |routes: &[Value], dst: &str| routes.iter().find(|r| r["dst"] == dst).cloned().unwrap();
    assert_eq!(main.len(), 4, "{main:?}");
    let onlink = by_dst(&main, "10.10.1.0/24");
    assert_eq!((&onlink["gateway"], &onlink["dev"]), (&json!("10.10.1.1"), &json!("gw")));
    assert!(onlink["flags"].as_array().unwrap().contains(&json!("onlink")));
    let src = by_dst(&main, "10.10.2.0/24");
    assert_eq!(src["prefsrc"], "10.10.0.1");
    assert_eq!(src["metrics"][0]["mtu"], 1400);
    assert_eq!(by_dst(&main, "10.11.0.0/16")["type"], "unreachable");
    assert_eq!(by_dst(&main, "10.12.0.0/16")["via"]["host"], "fd00:10::9");
    let six = host.json("ip -6 -j route show proto 173").await;
    assert_eq!(by_dst(&six, "fd00:10:1::/64")["gateway"], "fd00:10:1::1");
    assert_eq!(by_dst(&six, "fd00:11::/48")["type"], "blackhole");
    assert_eq!(host.json("ip -j route show table 101").await[0]["gateway"], "10.10.0.9");
    let high = &host.json("ip -6 -j route show table 70000").await[0];
    assert_eq!((&high["gateway"], &high["metric"]), (&json!("fd00:10::9"), &json!(50)));

    // Drift: a route changed, one lost, one added beside. And the desired state moves too.
    host.sh("ip route replace 10.10.1.0/24 dev gw proto 173; ip -6 route del fd00:10:1::/64").await;
    host.sh(
        "ip route append 10.10.2.0/24 via 10.10.0.3 proto 173; ip route add 10.77.0.0/16 dev gw proto 173",
    )
    .await;
    let diff = host.nl.apply_routes(&owned, &want).await.unwrap();
    assert_eq!((diff.set.len(), diff.remove.len()), (2, 2), "{diff:?}");
    assert!(host.nl.apply_routes(&owned, &want).await.unwrap().is_empty());

    // Only what the filter covers.
    let diff = host.nl.apply_routes(&owned.clone().table(101), &[]).await.unwrap();
    assert_eq!((diff.set.len(), diff.remove.len()), (0, 1));
    assert!(host.nl.routes(&RouteFilter::owned().table(4711)).await.unwrap().is_empty());
    assert_eq!(host.nl.routes(&owned.clone().dev(gw)).await.unwrap().len(), 6);
    assert_eq!(host.nl.routes(&owned.clone().table(MAIN_TABLE)).await.unwrap().len(), 7);

    let diff = host.nl.apply_routes(&owned, &[]).await.unwrap();
    assert_eq!((diff.set.len(), diff.remove.len()), (0, 8));
    assert!(host.json("ip -j route show proto 173").await.is_empty());
    assert!(host.json("ip -6 -j route show table all proto 173").await.is_empty());
    // Routes of others are as they were.
    assert_eq!(host.json("ip -j route show 172.16.0.0/16").await.len(), 1);
    assert_eq!(host.json("ip -6 -j route show fd99::/64").await.len(), 1);

    // A route that cannot be is reported, and the good one still made.
    let bad = Route::new(net("10.13.0.0/16")).via(ip("203.0.113.1")).dev(gw);
    let good = Route::new(net("10.14.0.0/16")).dev(gw);
    let errors = host.nl.apply_routes(&owned, &[bad, good.clone()]).await.unwrap_err();
    assert_eq!(errors.errors().len(), 1);
    let text = errors.to_string();
    assert!(
        text.contains("set route 10.13.0.0/16 via 203.0.113.1") && text.contains("ENETUNREACH"),
        "{text}"
    );
    assert_eq!(host.nl.routes(&owned).await.unwrap(), [good.normalized()]);
    assert!(!host.nl.remove_route(&Route::new(net("10.15.0.0/16")).dev(gw)).await.unwrap());
}

#[tokio::test]
async fn the_way_to_an_address_is_told_with_whom_it_leads_to() {
    let (host, peer) = joined("up0", "eth0").await;
    host.nl.apply_addresses("up0", &[net("10.10.0.1/24"), net("fd00:10::1/64")]).await.unwrap();
    peer.nl.apply_addresses("eth0", &[net("10.10.0.2/24")]).await.unwrap();
    host.sh("ip route add 10.11.0.0/16 via 10.10.0.2 mtu 1400").await;
    host.sh("ip route add blackhole 10.12.0.0/16").await;
    host.sh("ip route add prohibit 10.13.0.0/16").await;
    host.sh("ip route add unreachable 10.14.0.0/16").await;
    host.sh("ip -6 route add blackhole fd00:12::/32").await;
    let up = host.nl.require_link("up0").await.unwrap().index;
    let way = async |to: &str| host.nl.route_towards(ip(to)).await.unwrap();
    let far = way("10.11.0.9").await.unwrap();
    assert_eq!(
        (far.dev, far.via, far.src, far.mtu),
        (Some(up), Some(ip("10.10.0.2")), Some(ip("10.10.0.1")), Some(1400))
    );
    assert_eq!(way("fd00:10::2").await.unwrap().dev, Some(up));
    assert_eq!(way("10.10.0.1").await.unwrap().kind, RouteKind::Local);
    for nowhere in ["10.12.0.9", "10.13.0.9", "10.14.0.9", "203.0.113.1", "fd00:12::9", "2001:db8::1"] {
        assert_eq!(way(nowhere).await, None, "{nowhere}");
    }
    assert_eq!(host.nl.neighbour("up0", ip("10.10.0.2")).await.unwrap(), None);
    host.sh("ping -c1 -W2 10.10.0.2").await;
    let known = host.nl.neighbour(up, ip("10.10.0.2")).await.unwrap().unwrap();
    assert_eq!(known.mac, peer.nl.require_link("eth0").await.unwrap().mac);
    assert!(["REACHABLE", "DELAY", "STALE", "PROBE"].contains(&known.state), "{known:?}");
    host.sh("ping -c1 -W1 10.10.0.3 || true").await;
    let silent = host.nl.neighbour(up, ip("10.10.0.3")).await.unwrap().unwrap();
    assert!(silent.mac.is_none() && ["INCOMPLETE", "FAILED"].contains(&silent.state), "{silent:?}");
}

#[tokio::test]
async fn neighbours_converge() {
    let (host, _peer) = joined("gw", "eth0").await;
    host.nl.apply_addresses("gw", &[net("10.10.0.1/24"), net("fd00:10::1/64")]).await.unwrap();
    host.sh("ip neigh add 10.10.0.77 lladdr 02:00:00:00:00:77 dev gw nud permanent").await;
    let virtual_mac = mac("aa:bb:cc:dd:ee:ff");
    let want = [
        Neighbour { ip: ip("10.10.1.1"), mac: virtual_mac },
        Neighbour { ip: ip("fd00:10:1::1"), mac: virtual_mac },
    ];
    assert_eq!(host.nl.apply_neighbours("gw", &want).await.unwrap().set.len(), 2);
    assert!(host.nl.apply_neighbours("gw", &want).await.unwrap().is_empty());
    for (family, dst) in [("-4", "10.10.1.1"), ("-6", "fd00:10:1::1")] {
        let shown = host.json(&format!("ip -j {family} neigh show dev gw nud permanent")).await;
        let entry = shown.iter().find(|n| n["dst"] == dst).unwrap();
        assert_eq!(entry["lladdr"], "aa:bb:cc:dd:ee:ff");
    }
    host.sh("ip neigh replace 10.10.1.1 lladdr 02:00:00:00:00:01 dev gw nud permanent proto 173").await;
    let diff = host.nl.apply_neighbours("gw", &want[..1]).await.unwrap();
    assert_eq!((diff.set, diff.remove), (want[..1].to_vec(), want[1..].to_vec()));
    host.nl.apply_neighbours("gw", &[]).await.unwrap();
    let left = host.json("ip -j neigh show dev gw nud permanent").await;
    assert_eq!(left.len(), 1, "only the one of somebody else: {left:?}");
    assert!(!host.nl.remove_neighbour("gw", want[0]).await.unwrap());
}

#[tokio::test]
async fn rules_converge() {
    let host = Host::new().await;
    host.sh("ip rule add from 192.0.2.0/24 lookup 55").await;
    let want = [
        RoutingRule::new(Family::V4, 100, 300).mark(0x1f, 0xff),
        RoutingRule::new(Family::V4, 101, 101)
            .src(net("10.10.0.0/16"))
            .dst(net("192.0.2.0/24"))
            .in_iface("lo"),
        RoutingRule::new(Family::V6, 100, 70_000).mark(1, u32::MAX),
    ];
    assert_eq!(host.nl.apply_rules(&want).await.unwrap().add.len(), 3);
    let again = host.nl.apply_rules(&want).await.unwrap();
    assert!(again.is_empty(), "{again:?}");
    let four = host.json("ip -j -N rule show").await;
    let marked = four.iter().find(|r| r["priority"] == 100).unwrap();
    assert_eq!(
        (&marked["fwmark"], &marked["fwmask"], &marked["table"]),
        (&json!("0x1f"), &json!("0xff"), &json!("300"))
    );
    let six = host.json("ip -6 -j -N rule show").await;
    assert_eq!(six.iter().find(|r| r["priority"] == 100).unwrap()["table"], "70000");
    host.nl.add_rule(&want[0]).await.unwrap();
    assert_eq!(host.nl.rules(ANTREA_PROTOCOL).await.unwrap().len(), 3);
    let diff = host.nl.apply_rules(&want[1..]).await.unwrap();
    assert_eq!((diff.add.len(), diff.remove.len()), (0, 1));
    host.nl.apply_rules(&[]).await.unwrap();
    assert!(!host.nl.remove_rule(&want[0]).await.unwrap());
    assert_eq!(
        host.json("ip -j rule show").await.len(),
        4,
        "local, main, default and the one of somebody else"
    );
}

#[tokio::test]
async fn what_leaves_a_link_is_limited_once() {
    let (_host, peer) = joined("gw", "eth0").await;
    let limit = netcfg::tc::Limit { rate: 20_000_000, burst: 8_000_000 };
    for _ in 0..2 {
        netcfg::tc::limit_egress(&peer.ns, "eth0", limit).await.unwrap();
    }
    let shown = peer.sh("tc -j qdisc show dev eth0").await;
    let queues: Value = serde_json::from_str(&shown).unwrap();
    let queues = queues.as_array().unwrap();
    assert_eq!(queues.len(), 1, "{shown}");
    assert_eq!((&queues[0]["kind"], &queues[0]["root"]), (&json!("tbf"), &json!(true)), "{shown}");
    // Octets per second and octets.
    assert_eq!(queues[0]["options"]["rate"], 2_500_000, "{shown}");
    assert_eq!(queues[0]["options"]["burst"], 1_000_000, "{shown}");
    let error = netcfg::tc::limit_egress(&peer.ns, "eth9", limit).await.unwrap_err();
    assert!(error.to_string().contains("eth9"), "{error}");
}
