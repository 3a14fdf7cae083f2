//! What stands beside the rules: sets, settings, announcements, tracked connections.

use super::*;

#[tokio::test]
async fn ipsets_converge() {
    let host = Host::new().await;
    let ipsets = Ipsets::new(host.ns.clone());
    host.sh("ipset create KUBE-X hash:ip,port; ipset add KUBE-X 10.0.0.9,tcp:80").await;
    let pods = |members: &[&str]| {
        IpSet::new("ANTREA-POD-IP", SetType::HashNet, Family::V4, members.iter().map(|m| net(m))).unwrap()
    };
    let rest = [
        IpSet::new("ANTREA-POD-IP6", SetType::HashNet, Family::V6, [net("fd00:10::/64"), net("::/0")])
            .unwrap(),
        IpSet::new("CLUSTER-NODE-IP", SetType::HashIp, Family::V4, [ip("192.0.2.1"), ip("192.0.2.2")])
            .unwrap(),
        IpSet::new(
            "ANTREA-NODEPORT-IP",
            SetType::HashIpPort,
            Family::V4,
            [(Proto::TCP, 80), (Proto::UDP, 53), (Proto::SCTP, 9)]
                .map(|(p, n)| Member::IpPort(ip("192.0.2.1"), p, n)),
        )
        .unwrap(),
        IpSet::new(
            "ANTREA-NODEPORT-IP6",
            SetType::HashIpPort,
            Family::V6,
            [Member::IpPort(ip("2001:db8::1"), Proto::TCP, 80)],
        )
        .unwrap(),
    ];
    let all = |first: IpSet| [&[first][..], &rest[..]].concat();
    let first = all(pods(&["10.10.0.0/24", "10.10.1.0/24", "0.0.0.0/0", "192.0.2.7/32"]));
    ipsets.apply(&first).await.unwrap();
    assert_eq!(ipsets.apply(&first).await.unwrap(), "", "nothing to do the second time");
    let text = host.sh("ipset save").await;
    for line in [
        "add ANTREA-POD-IP 0.0.0.0/1",
        "add ANTREA-POD-IP 192.0.2.7",
        "add ANTREA-POD-IP6 8000::/1",
        "add CLUSTER-NODE-IP 192.0.2.2",
        "add ANTREA-NODEPORT-IP 192.0.2.1,sctp:9",
        "add ANTREA-NODEPORT-IP6 2001:db8::1,tcp:80",
        "add KUBE-X 10.0.0.9,tcp:80",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    host.sh("ipset del ANTREA-POD-IP 10.10.1.0/24; ipset add ANTREA-POD-IP 10.99.0.0/16").await;
    let second = all(pods(&["10.10.1.0/24", "10.10.2.0/24"]));
    let text = ipsets.apply(&second).await.unwrap();
    assert_eq!(text.lines().count(), 4 + 1 + 2, "{text}");
    assert_eq!(ipsets.apply(&second).await.unwrap(), "");

    // A set in use grows past its limit.
    host.sh("ipset create BIG hash:net maxelem 2; iptables-nft -A INPUT -m set --match-set BIG src -j DROP")
        .await;
    let big = IpSet::new(
        "BIG",
        SetType::HashNet,
        Family::V4,
        (0..1000u32).map(|i| IpNet::from(IpAddr::from((0x0b00_0000 + i).to_be_bytes()))),
    )
    .unwrap();
    ipsets.apply(std::slice::from_ref(&big)).await.unwrap();
    assert_eq!(ipsets.apply(std::slice::from_ref(&big)).await.unwrap(), "");
    assert_eq!(ipsets.save().await.unwrap()["BIG"].members.len(), 1000);
    assert!(!host.sh("ipset list -n").await.contains("BIG-t"));

    // One of another type is replaced, but not while a rule uses it.
    let other = IpSet::new("BIG", SetType::HashIp, Family::V6, [ip("fd00::1")]).unwrap();
    let error = ipsets.apply(std::slice::from_ref(&other)).await.unwrap_err();
    assert!(error.to_string().contains("[destroy BIG]"), "{error}");
    let errors = ipsets.destroy(|name| name.starts_with("ANTREA-") || name == "BIG").await.unwrap_err();
    assert_eq!(errors.errors().len(), 1, "{errors}");
    host.sh("iptables-nft -F INPUT").await;
    ipsets.apply(std::slice::from_ref(&other)).await.unwrap();
    assert_eq!(ipsets.destroy(|name| name == "BIG" || name == "CLUSTER-NODE-IP").await.unwrap().len(), 2);
    assert_eq!(host.sh("ipset list -n").await.trim(), "KUBE-X");
}

#[tokio::test]
async fn sysctls_are_written_only_when_they_differ() {
    let (host, _peer) = joined("eth0.100", "eth0").await;
    let want = || {
        [
            (Sysctl::ipv4_forward(), 1),
            (Sysctl::ipv6_forward(), 1),
            (Sysctl::rp_filter("eth0.100").unwrap(), 2),
            (Sysctl::arp_ignore("eth0.100").unwrap(), 1),
            (Sysctl::arp_announce("eth0.100").unwrap(), 1),
            (Sysctl::disable_ipv6("eth0.100").unwrap(), 1),
        ]
    };
    let outside =
        Tree::default().read(&netcfg::Netns::current().unwrap(), &Sysctl::ipv4_forward()).await.unwrap();
    host.sh("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0").await;
    let written = Tree::default().ensure(&host.ns, want()).await.unwrap();
    assert!(written.len() >= 5, "{written:?}");
    assert!(Tree::default().ensure(&host.ns, want()).await.unwrap().is_empty());
    assert_eq!(host.sh("cat /proc/sys/net/ipv4/conf/eth0.100/rp_filter").await.trim(), "2");
    assert_eq!(host.sh("sysctl -n net.ipv4.ip_forward net.ipv6.conf.all.forwarding").await, "1\n1\n");
    assert_eq!(
        Tree::default().read(&netcfg::Netns::current().unwrap(), &Sysctl::ipv4_forward()).await.unwrap(),
        outside
    );
    let ports = [(Sysctl::new(["net", "ipv4", "ip_local_port_range"]).unwrap(), "20000 30000")];
    assert_eq!(Tree::default().ensure(&host.ns, ports.clone()).await.unwrap().len(), 1);
    assert!(Tree::default().ensure(&host.ns, ports).await.unwrap().is_empty());
    let bad = [
        (Sysctl::rp_filter("nosuch0").unwrap(), 1),
        (Sysctl::rp_filter("eth0.100").unwrap(), 1),
        (Sysctl::ipv4_conf("eth0.100", "nosuch").unwrap(), 1),
    ];
    let errors = Tree::default().ensure(&host.ns, bad).await.unwrap_err();
    assert_eq!(errors.errors().len(), 2);
    assert!(errors.errors()[0].is_not_found());
    assert!(errors.to_string().contains("net.ipv4.conf.nosuch0.rp_filter"), "{errors}");
    assert_eq!(host.sh("cat /proc/sys/net/ipv4/conf/eth0.100/rp_filter").await.trim(), "1");
}

#[tokio::test]
async fn announcements_reach_the_neighbours() {
    let (host, peer) = joined("gw", "eth0").await;
    host.nl.apply_addresses("gw", &[net("10.10.0.1/24"), net("fd00:10::1/64")]).await.unwrap();
    peer.nl.apply_addresses("eth0", &[net("10.10.0.2/24"), net("fd00:10::2/64")]).await.unwrap();
    // The peer knows a stale hardware address and has to learn the new one from the announcement alone.
    peer.sh("ip neigh add 10.10.0.1 lladdr 02:00:00:00:00:99 dev eth0 nud stale
         ip neigh add fd00:10::1 lladdr 02:00:00:00:00:99 dev eth0 nud stale")
        .await;
    let mac = host.nl.require_link("gw").await.unwrap().mac.unwrap().to_string();
    let begin = Instant::now();
    garp::announce(&host.ns, "gw", &[ip("10.10.0.1"), ip("fd00:10::1")]).await.unwrap();
    println!("announcement: {:.2?}", begin.elapsed());
    let learnt = async |family: &str, ip: &str| {
        let shown = peer.json(&format!("ip -j {family} neigh show {ip} dev eth0")).await;
        shown[0]["lladdr"].as_str().unwrap().to_owned()
    };
    for (family, ip) in [("-4", "10.10.0.1"), ("-6", "fd00:10::1")] {
        for _ in 0..100 {
            if learnt(family, ip).await == mac {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(learnt(family, ip).await, mac, "{ip}");
    }
    assert!(matches!(
        garp::announce(&host.ns, "nosuch0", &[ip("10.0.0.1")]).await,
        Err(Error::LinkNotFound(_))
    ));
    host.sh("ip link set gw down").await;
    let down = garp::announce(&host.ns, "gw", &[ip("10.10.0.1")]).await.unwrap_err();
    assert_eq!(down.errno(), Some(Errno::ENETDOWN), "{down}");
}

/// Those of the address, begun by it, sent to it and translated to it, and no others: neither of another address nor of a
/// zone, which another program uses. A table that is large is read in another way.
#[tokio::test]
async fn connections_of_an_address_are_forgotten() {
    let host = Host::new().await;
    let insert = |from: &str, to: &str, answers: &str, more: &str| {
        format!(
            "-I -p udp -t 600 -s {from} -d {to} -r {answers} -q {from} --sport 5000 --dport 53 \
             --reply-port-src 53 --reply-port-dst 5000 {more}"
        )
    };
    let (client, node, pod, other) = ("192.0.2.9", "192.0.2.1", "10.10.0.7", "10.10.0.8");
    let of_pod = [
        insert(pod, client, client, ""),
        insert(client, pod, pod, ""),
        insert("192.0.2.12", node, pod, ""),
        insert("fd00:10::7", "2001:db8::9", "2001:db8::9", ""),
    ];
    let of_others = [
        insert(other, client, client, ""),
        insert("192.0.2.10", node, other, ""),
        insert(pod, "192.0.2.11", "192.0.2.11", "-w 65520"),
        insert("fd00:10::8", "2001:db8::9", "2001:db8::9", ""),
    ];
    for line in &of_others {
        host.sh(&format!("conntrack {line}")).await;
    }
    for line in &of_pod {
        host.sh(&format!("conntrack {line}")).await;
    }
    let to = std::collections::BTreeSet::from([ip(client), ip("192.0.2.11"), ip("2001:db8::9")]);
    let begun = async |from: &str, most| {
        let (found, more) = netcfg::conntrack::begun_by(&host.ns, ip(from), to.clone(), most).await.unwrap();
        (found.iter().map(|seen| (seen.original.1.ip(), seen.zone)).collect::<Vec<_>>(), more)
    };
    assert_eq!(begun(pod, 8).await, (vec![(ip(client), None), (ip("192.0.2.11"), Some(65_520))], false));
    assert!(begun(pod, 1).await.1, "there are more");
    assert_eq!(begun("fd00:10::7", 8).await, (vec![(ip("2001:db8::9"), None)], false));
    assert_eq!(begun("192.0.2.99", 8).await, (vec![], false));
    netcfg::conntrack::forget(&host.ns, &[ip(pod), ip("fd00:10::7")]).await.unwrap();
    let one = insert("198.18.$a.$b", client, client, "");
    let many = format!("for a in $(seq 0 33); do for b in $(seq 250); do echo \"{one}\"; done; done");
    for large in [false, true] {
        for line in &of_pod {
            host.sh(&format!("conntrack {line}")).await;
        }
        if large {
            host.sh(&format!("({many}) | conntrack -R /dev/stdin")).await;
            let count = host.sh("cat /proc/sys/net/netfilter/nf_conntrack_count").await;
            assert!(count.trim().parse::<u32>().unwrap() > 8192, "{count}");
        }
        let gone = netcfg::conntrack::forget(&host.ns, &[ip(pod), ip("fd00:10::7")]).await.unwrap();
        let left = host.sh("conntrack -L 2>/dev/null").await;
        assert_eq!(gone, of_pod.len());
        let sources =
            |line: &str| line.split(' ').find_map(|word| word.strip_prefix("src=")).map(str::to_owned);
        let mut left: Vec<_> =
            left.lines().filter_map(sources).filter(|ip| !ip.starts_with("198.18.")).collect();
        left.sort();
        assert_eq!(left, ["10.10.0.7", "10.10.0.8", "192.0.2.10", "fd00:10::8"], "the first is of a zone");
        assert_eq!(netcfg::conntrack::forget(&host.ns, &[ip(pod)]).await.unwrap(), 0);
    }
    // All but one that somebody has.
    for line in &of_pod {
        host.sh(&format!("conntrack {line}")).await;
    }
    let networks = ["10.10.0.0/24", "fd00:10::/64"].map(|network| network.parse().unwrap()).to_vec();
    let gone = netcfg::conntrack::forget_unless_held(&host.ns, networks, [ip(other)].into()).await.unwrap();
    assert_eq!(gone, of_pod.len() + 1, "those of fd00:10::8 too");
    let left = host.sh("conntrack -L 2>/dev/null | grep -c src=10.10.0.8").await;
    assert_eq!(left.trim(), "2", "what it began and what it answers");
}
