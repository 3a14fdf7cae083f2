//! ICMP errors: whoever has a connection hears of it, and nobody else.

use super::*;
use support::packet::{checksum, ip_packet};

fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// "Host unreachable", which `router` sends to p1 through the gateway about a datagram that p1 sent to `dst`.
fn unreachable(router: IpAddr, dst: IpAddr, sport: u16, dport: u16) -> Vec<u8> {
    let me = pod(1);
    let src = me.ips[usize::from(dst.is_ipv6())];
    let udp: Vec<u8> = [sport, dport, 8, 0].into_iter().flat_map(u16::to_be_bytes).collect();
    let about = ip_packet(src, dst, 17, &udp);
    let (kind, proto, ethertype) =
        if src.is_ipv4() { ([3, 1], 1, [8, 0]) } else { ([1, 3], 58, [0x86, 0xdd]) };
    let mut icmp = [&kind[..], &[0; 6], &about].concat();
    let sum = match (router, src) {
        (IpAddr::V6(router), IpAddr::V6(src)) => {
            let length = (icmp.len() as u32).to_be_bytes();
            checksum(&[&router.octets(), &src.octets(), &length, &[0, 0, 0, 58], &icmp])
        }
        _ => checksum(&[&icmp]),
    };
    icmp[2..4].copy_from_slice(&sum);
    [&VIRTUAL_MAC.0[..], &gw_mac().0, &ethertype, &ip_packet(router, src, proto, &icmp)].concat()
}

/// An error about a connection that a pod has reaches it in spite of its isolation, from whichever router; one
/// about a connection that it has not, and a new connection that a tracker relates to a known one, do not.
#[test]
fn errors_reach_isolated_pods_only_about_what_they_have() -> Result<()> {
    let net = userspace();
    let mut sw = ready(&net)?;
    for n in families() {
        expect(&mut sw, "p1", &Frame::from_pod(1, n.outside, udp(1000, 80)), "gw", gw_mac(), 64);
    }
    sw.add_flows(isolation(&net)?)?;
    for (n, router) in families().into_iter().zip(["203.0.113.9", "2001:db8:9::9"].map(ip)) {
        let related = unreachable(router, n.outside, 1000, 80);
        let out = sw.receive_raw("gw", &hex(&related))?;
        let Some((port, packet, _)) = only(&out) else { panic!("from {router}: {out:?}") };
        assert_eq!((port, packet.eth_dst), ("p1", pod(1).mac), "{packet}");
        for (sport, dport) in [(1001, 80), (1000, 81)] {
            let out = sw.receive_raw("gw", &hex(&unreachable(router, n.outside, sport, dport)))?;
            assert!(out.is_empty(), "about a connection of nobody: {out:?}");
        }
        // Such as a helper of the tracker makes; the userspace tracker has none, so the state is given here.
        let (family, src, dst) = if router.is_ipv4() {
            ("tcp", format!("nw_src={}", n.outside), format!("nw_dst={}", n.p1))
        } else {
            ("tcp6", format!("ipv6_src={}", n.outside), format!("ipv6_dst={}", n.p1))
        };
        let packet = format!(
            "in_port=gw,{family},dl_src={},dl_dst={VIRTUAL_MAC},{src},{dst},nw_ttl=64,tp_dst=80",
            gw_mac()
        );
        let reaches = |states: &str| -> Result<bool> {
            let trace = sw.trace(&packet, &[states])?;
            let actions = trace.lines().rfind(|line| line.starts_with("Datapath actions"));
            Ok(!actions.unwrap_or_else(|| panic!("{trace}")).ends_with("drop"))
        };
        assert!(reaches("trk,rel")? && reaches("trk,est")?, "what the pod has");
        assert!(!reaches("trk,new,rel")? && !reaches("trk,new")?, "a new connection is policy's to judge");
    }
    Ok(())
}
