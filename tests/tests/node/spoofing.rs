//! A pod sends only as itself.

use antrea_tests::lab::{Lab, sh, try_in};
use antrea_tests::traffic::{ping, udp};

#[tokio::test(flavor = "multi_thread")]
async fn forged_sources_go_nowhere() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[]).await;
    let a = lab.add_pod(0, "a");
    let b = lab.add_pod(0, "b");
    let c = lab.add_pod(1, "c");
    assert!(ping(&a.netns, b.ip, 56, true) && ping(&a.netns, c.ip, 56, true));

    // An address of nobody, and that of a neighbour.
    for forged in ["10.244.1.200", &b.ip.to_string()] {
        sh(&format!("ip -n {} addr add {forged}/32 dev eth0", a.netns));
        for to in [c.ip, lab.outside_ip().into()] {
            let output =
                try_in(&a.netns, &["ping", "-n", "-c", "1", "-W", "1", "-I", forged, &to.to_string()]);
            assert!(!output.status.success(), "{forged} reached {to}");
        }
        let before = counted(&lab);
        assert!(before > 0, "the spoof guard saw no packet of {forged}");
        sh(&format!("ip -n {} addr del {forged}/32 dev eth0", a.netns));
    }

    // Another MAC, with the right address.
    sh(&format!("ip -n {} link set eth0 address 02:11:22:33:44:55", a.netns));
    assert!(!ping(&a.netns, c.ip, 56, true), "a forged MAC passed");
    sh(&format!("ip -n {} link set eth0 address {}", a.netns, a.mac));
    assert!(ping(&a.netns, c.ip, 56, true), "the right MAC does not pass any more");

    // ARP that claims the neighbour's address does not reach a third pod's table.
    let d = lab.add_pod(0, "d");
    assert!(udp(&d.netns, &b.netns, b.ip, 7000, 10).await.is_ok());
    let netns = netcfg::Netns::open(format!("/run/netns/{}", a.netns)).unwrap();
    netcfg::garp::announce(&netns, "eth0", &[b.ip]).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let table = sh(&format!("ip -n {} neigh show {}", d.netns, b.ip));
    assert!(table.contains(&b.mac) && !table.contains(&a.mac), "{table}");
    // The same frame with the pod's own address is let through, so the test would see it.
    netcfg::garp::announce(&netns, "eth0", &[a.ip]).await.unwrap();
    let arp = lab.nodes[0].ofctl("dump-flows", &["--names"]);
    let dropped = arp
        .lines()
        .filter(|line| line.contains("table=ARPSpoofGuard") && line.contains("actions=drop"))
        .any(|line| !line.contains("n_packets=0,"));
    assert!(dropped, "no forged ARP was dropped\n{arp}");
}

/// Packets that the tables which guard against forged sources dropped.
fn counted(lab: &Lab) -> u64 {
    let dump = lab.nodes[0].ofctl("dump-flows", &["--names"]);
    dump.lines()
        .filter(|line| line.contains("table=SpoofGuard") && line.contains("actions=drop"))
        .filter_map(|line| line.split("n_packets=").nth(1)?.split(',').next()?.parse::<u64>().ok())
        .sum()
}
