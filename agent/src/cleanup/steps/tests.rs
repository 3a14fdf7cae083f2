use netcfg::{Family, OperState};

use super::*;

const NAMES: Names<'static> = Names { bridge: "br-int", gateway: "antrea-gw0", tunnel: "antrea-tun0" };

fn link(index: u32, name: &str, kind: &str) -> Link {
    Link {
        index,
        name: name.into(),
        mac: None,
        mtu: 1500,
        up: true,
        oper_state: OperState::Up,
        kind: (!kind.is_empty()).then(|| kind.to_owned()),
        peer_index: None,
        peer_netns_id: None,
        controller: None,
        group: 0,
        vxlan: None,
    }
}

fn pod(index: u32, name: &str) -> Link {
    Link { group: POD_LINK_GROUP, ..link(index, name, "veth") }
}

fn port(index: u32, name: &str, kind: &str) -> Link {
    Link { controller: Some(2), ..link(index, name, kind) }
}

/// One line for each step: what a person would read.
fn text(facts: &Remains) -> String {
    plan(facts, NAMES).iter().map(|step| format!("{step}\n")).collect()
}

#[test]
fn a_node_of_the_userspace_datapath() {
    let facts = Remains {
        installed: ["/host/etc/cni/net.d/10-antrea.conflist", "/host/opt/cni/bin/antrea"]
            .map(Into::into)
            .to_vec(),
        state: ["/var/lib/cni/networks/antrea", "/var/run/antrea/cni.sock"].map(Into::into).to_vec(),
        links: vec![
            link(1, "lo", ""),
            link(2, "eth0", "veth"),
            pod(7, "web-1a2b3c"),
            Link { group: POD_LINK_GROUP, ..link(8, "antrea-tun0", "vxlan") },
            link(10, "ovs-netdev", "tun"),
            link(11, "br-int", "tun"),
            link(12, "antrea-gw0", "tun"),
            link(9, "docker0", "bridge"),
        ],
        routes: vec![Route::new("10.244.2.0/24".parse().unwrap()).via("172.30.0.12".parse().unwrap())],
        rules: vec![RoutingRule::new(Family::V4, 100, 7)],
        chains: true,
        tables: vec![Family::V4],
        sets: vec!["ANTREA-POD-IP".into()],
    };
    let expected = "\
file /host/etc/cni/net.d/10-antrea.conflist
file /host/opt/cni/bin/antrea
pod link web-1a2b3c
pod link antrea-tun0
network link ovs-netdev
network link br-int
network link antrea-gw0
route 10.244.2.0/24 via 172.30.0.12 proto 173
routing rule 100: from all lookup 7 proto 173 (IPv4)
iptables chains
IPv4 table of nftables
ipset ANTREA-POD-IP
file /var/lib/cni/networks/antrea
file /var/run/antrea/cni.sock
";
    assert_eq!(text(&facts), expected);
}

fn kernel() -> Vec<Link> {
    vec![
        link(1, "eth0", ""),
        link(2, "ovs-system", "openvswitch"),
        link(3, "br-int", "openvswitch"),
        link(4, "antrea-gw0", "openvswitch"),
        port(5, "genev_sys_6081", "geneve"),
        Link { controller: Some(2), ..pod(6, "web-1a2b3c") },
        link(7, "vxlan.calico", "vxlan"),
    ]
}

#[test]
fn a_node_of_the_kernels_datapath() {
    let facts = Remains { links: kernel(), ..Remains::default() };
    let expected = "\
pod link web-1a2b3c
tunnel link genev_sys_6081
datapath system@ovs-system
";
    assert_eq!(text(&facts), expected);
}

#[test]
fn the_datapath_stays_while_somebody_else_uses_it() {
    let bridge = link(8, "br-vms", "openvswitch");
    let uplink = port(9, "eth1", "");
    for guest in [bridge, uplink] {
        let facts = Remains { links: kernel().into_iter().chain([guest]).collect(), ..Remains::default() };
        let expected = "\
pod link web-1a2b3c
port br-int of datapath system@ovs-system
port antrea-gw0 of datapath system@ovs-system
";
        assert_eq!(text(&facts), expected);
    }
}

#[test]
fn a_node_that_never_had_an_agent_is_left_alone() {
    let links =
        vec![link(1, "lo", ""), link(2, "eth0", ""), link(3, "cni0", "bridge"), link(4, "vxlan0", "vxlan")];
    assert_eq!(text(&Remains { links, ..Remains::default() }), "");
}
