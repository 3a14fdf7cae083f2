//! What a rule rejects ends, and the agent's answer gets where the packet came from, whatever policy says of it.

use antrea_flows::field::Source;

use super::*;
use support::packet::frame;

/// A reset from `src` to `dst` as the agent has it sent.
fn answer(net: &Network, source: Source, src: IpAddr, dst: IpAddr) -> openflow::PacketOut {
    let segment = [0, 80, 0x03, 0xe8, 0, 0, 0, 0, 0, 0, 0, 1, 0x50, 0x14, 0, 0, 0, 0, 0, 0];
    let make = |by, to| Some(frame((by, src), (to, dst), 6, &segment));
    antrea_flows::refusal(net, source, make).unwrap()
}

#[test]
fn an_answer_goes_back_the_way_that_the_packet_came() -> Result<()> {
    let net = userspace();
    let mut sw = ready(&net)?;
    let mut realizer = Realizer::new(&net);
    for (id, direction) in [(1, Direction::In), (2, Direction::Out)] {
        realizer.upsert_rule(Rule {
            id,
            direction,
            class: Class::Native { priority: 1000 },
            action: Action::Reject,
            pods: [1, 2].map(|n| (n, pod(n).ips.into())).into(),
            peers: Peers::Any,
            services: vec![],
            logs: false,
        })?;
    }
    sw.add_flows(realizer.flows().iter().map(ToString::to_string))?;
    // Isolated besides: nothing but the answer's own mark lets it pass.
    sw.add_flows(isolation(&net)?)?;
    let peer = tunnel_mac(ip("172.30.0.12"));
    for n in families() {
        for (port, refused, source, to, mac) in [
            ("p1", Frame::from_pod(1, n.p2, syn(1000, 80)), Source::Pod, "p1", pod(1).mac),
            ("p1", Frame::from_pod(1, n.outside, syn(1000, 80)), Source::Pod, "p1", pod(1).mac),
            ("p1", Frame::from_pod(1, n.remote, syn(1000, 80)), Source::Pod, "p1", pod(1).mac),
            ("tun", Frame::from_tunnel(n.remote, n.p1, syn(1000, 80)), Source::Tunnel, "tun", peer),
            ("tun", Frame::from_tunnel(n.remote_gw, n.p1, syn(1000, 80)), Source::Tunnel, "tun", peer),
            ("gw", Frame::from_host(n.outside, n.p1, syn(1000, 80)), Source::Gateway, "gw", gw_mac()),
            // The host has translated what p1 sent to a Service; it knows the way back.
            ("gw", Frame::from_host(n.p1, n.p2, syn(1000, 80)), Source::Gateway, "gw", gw_mac()),
            ("gw", Frame::from_host(n.direct, n.p1, syn(1000, 80)), Source::Gateway, "gw", gw_mac()),
        ] {
            dropped(&mut sw, port, &refused.text());
            let out = sw.packet_out(&answer(&net, source, refused.dst, refused.src))?;
            let Some((got, packet, _)) = only(&out) else { panic!("{refused:?}: {out:?}") };
            assert_eq!((got, packet.eth_dst), (to, mac), "{refused:?}: {packet}");
            let Body::Ip { src, dst, .. } = packet.body else { panic!("{packet}") };
            assert_eq!((src, dst), (refused.dst, refused.src));
        }
        // Of the answer's actions the first is the mark.
        let mut unmarked = answer(&net, Source::Pod, n.p2, n.p1);
        unmarked.actions.remove(0);
        assert!(sw.packet_out(&unmarked)?.is_empty(), "policy judges what has no mark");
        // To nobody here.
        let stranger = if n.p1.is_ipv4() { ip("10.244.1.99") } else { ip("fd00:1::99") };
        assert!(sw.packet_out(&answer(&net, Source::Pod, n.p2, stranger))?.is_empty());
    }
    assert_eq!(sw.connections()?, "", "neither the packet nor its answer is a connection");
    Ok(())
}
