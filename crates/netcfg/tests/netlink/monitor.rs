//! Changes that others make, and what is told of them.

use super::*;

#[tokio::test]
async fn monitor_sees_changes_made_by_others() {
    use netcfg::nl::monitor::Event;

    let (host, _peer) = joined("gw", "eth0").await;
    let mut monitor = host.nl.monitor().await.unwrap();
    host.sh("ip addr add 10.10.0.1/24 dev gw; ip route add 10.10.1.0/24 via 10.10.0.2 proto 173").await;
    host.sh(
        "ip route del 10.10.1.0/24; ip addr del 10.10.0.1/24 dev gw; ip link set gw mtu 1400; ip link del gw",
    )
    .await;
    let mut seen = Vec::new();
    let wanted = |e: &Event| match e {
        Event::Address(a) if a.net == net("10.10.0.1/24") => Some("address"),
        Event::AddressRemoved(a) if a.net == net("10.10.0.1/24") => Some("address removed"),
        Event::Route(r) if r.dst == net("10.10.1.0/24") && r.proto == ANTREA_PROTOCOL => Some("route"),
        Event::RouteRemoved(r) if r.dst == net("10.10.1.0/24") => Some("route removed"),
        Event::Link(l) if l.name == "gw" && l.mtu == 1400 => Some("link"),
        Event::LinkRemoved(l) if l.name == "gw" => Some("link removed"),
        _ => None,
    };
    let read = async {
        while seen.last() != Some(&"link removed") {
            let event = monitor.next().await.expect("the socket must stay open");
            if let Some(name) = wanted(&event) {
                seen.push(name);
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), read).await.expect("events must come");
    seen.dedup();
    assert_eq!(seen, ["address", "route", "route removed", "address removed", "link", "link removed"]);
}

#[tokio::test]
async fn monitor_says_so_when_a_slow_reader_lost_events() {
    use netcfg::nl::monitor::Event;

    let (host, _peer) = joined("gw", "eth0").await;
    let mut monitor = host.nl.monitor().await.unwrap();
    let gw = host.nl.require_link("gw").await.unwrap().index;
    for round in 0..1500u32 {
        let route = Route::new(IpNet::new(IpAddr::from(0x0a00_0000_u32.to_be_bytes()), 8).unwrap())
            .dev(gw)
            .metric(round);
        host.nl.set_route(&route).await.unwrap();
    }
    let mut first = Vec::new();
    for _ in 0..3 {
        first.push(monitor.next().await.unwrap());
    }
    assert!(first.contains(&Event::Resync), "{first:?}");
}
