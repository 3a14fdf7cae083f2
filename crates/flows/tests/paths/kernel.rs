//! What is otherwise on the kernel's datapath: marks of the host, and a tunnel whose peer a flow chooses.

use super::*;

/// On the kernel datapath the host's mark decides.
#[test]
fn kernel_probes_go_by_mark() -> Result<()> {
    let net = network(Datapath::Kernel, TunnelKind::FlowBased);
    let sw = ready(&net)?;
    sw.add_flows(isolation(&net)?)?;
    let probe = "in_port=32769,tcp,dl_src=0a:00:00:00:01:01,dl_dst=0a:00:00:00:01:11,nw_src=10.244.1.1,\
                 nw_dst=10.244.1.11,tp_src=1000,tp_dst=80,nw_ttl=64";
    let out = sw.trace(&format!("{probe},pkt_mark=0x80000000"), &["trk,new"])?;
    assert!(out.contains("output port is 1\n"), "{out}");
    for unmarked in ["", ",pkt_mark=0x4000"] {
        let out = sw.trace(&format!("{probe}{unmarked}"), &["trk,new"])?;
        assert!(out.trim_end().ends_with("Datapath actions: drop"), "{out}");
    }
    // Only the host can mark.
    let from_pod =
        probe.replace("in_port=32769", "in_port=2").replace("0a:00:00:00:01:01", "0a:00:00:00:01:12");
    let from_pod = from_pod.replace("nw_src=10.244.1.1,", "nw_src=10.244.1.12,");
    let out = sw.trace(&format!("{from_pod},pkt_mark=0x80000000"), &["trk,new"])?;
    assert!(out.trim_end().ends_with("Datapath actions: drop"), "{out}");
    Ok(())
}

/// What a pod sends to itself through a Service comes back from the host with the gateway's address, and with
/// the mark that it left with. That passes isolation, and nobody else's.
#[test]
fn kernel_own_service_passes_isolation() -> Result<()> {
    let net = network(Datapath::Kernel, TunnelKind::FlowBased);
    let sw = ready(&net)?;
    sw.add_flows(isolation(&net)?)?;
    for n in [1, 2] {
        let out = sw.trace(
            &format!(
                "in_port={n},tcp,dl_src=0a:00:00:00:01:1{n},dl_dst=0a:00:00:00:01:01,nw_src=10.244.1.1{n},\
                 nw_dst=10.96.0.10,tp_src=1000,tp_dst=80,nw_ttl=64"
            ),
            &["trk,new"],
        )?;
        assert!(out.contains(&format!("set(skb_mark(0x400{n}0000/0x7fff0000))")), "{out}");
    }
    let back = |source: &str, mark: u32| {
        let packet = format!(
            "in_port=32769,tcp,dl_src=0a:00:00:00:01:01,dl_dst=0a:00:00:00:01:11,nw_src={source},\
             nw_dst=10.244.1.11,tp_src=1000,tp_dst=80,nw_ttl=64,pkt_mark={mark:#x}"
        );
        sw.trace(&packet, &["trk,new"])
    };
    // Also with what kube-proxy adds.
    for mark in [0x4001_0000, 0x4001_c000] {
        let out = back("10.244.1.1", mark)?;
        assert!(out.contains("output port is 1\n"), "{mark:#x}: {out}");
    }
    // Another pod's, one without number, one of somebody else's bits, one from elsewhere.
    for (source, mark) in [
        ("10.244.1.1", 0x4002_0000),
        ("10.244.1.1", 0x4000_0000),
        ("10.244.1.1", 0x0001_0000),
        ("10.244.1.12", 0x4001_0000),
        ("198.51.100.1", 0x4001_0000),
    ] {
        let out = back(source, mark)?;
        assert!(out.trim_end().ends_with("Datapath actions: drop"), "{source} {mark:#x}: {out}");
    }
    Ok(())
}

/// The kernel's tracker may take a SYN for a packet of an earlier connection with the same addresses and ports.
#[test]
fn a_syn_begins_a_connection_whatever_the_tracker_says() -> Result<()> {
    let net = network(Datapath::Kernel, TunnelKind::FlowBased);
    let sw = ready(&net)?;
    let to_first = |flags: &str, state: &str| {
        let packet = format!(
            "in_port=2,tcp,dl_src=0a:00:00:00:01:12,dl_dst=0a:00:00:00:01:11,nw_src=10.244.1.12,\
             nw_dst=10.244.1.11,tp_src=1000,tp_dst=80,nw_ttl=64,tcp_flags={flags}"
        );
        sw.trace(&packet, &[state]).map(|out| out.contains("output port is 1\n"))
    };
    for flags in ["syn", "ack", "syn|ack", "rst"] {
        assert!(to_first(flags, "trk,est")?, "{flags} before anybody is isolated");
    }
    sw.add_flows(isolation(&net)?)?;
    for state in ["trk,est", "trk,est,rpl"] {
        assert!(!to_first("syn", state)?, "{state}");
        for goes_on in ["ack", "syn|ack", "fin|ack", "rst"] {
            assert!(to_first(goes_on, state)?, "{goes_on} {state}");
        }
    }
    Ok(())
}

/// With a tunnel port of OVS's own, the flow says where to.
#[test]
fn flow_based_tunnel() -> Result<()> {
    let net = network(Datapath::Kernel, TunnelKind::FlowBased);
    let sw = ready(&net)?;
    let out = sw.trace(
        "in_port=1,tcp,dl_src=0a:00:00:00:01:11,dl_dst=0a:00:00:00:01:01,nw_src=10.244.1.11,\
         nw_dst=10.244.2.7,tp_src=1000,tp_dst=80,nw_ttl=64",
        &["trk,new"],
    )?;
    for step in [
        "set_field:172.30.0.11->tun_src",
        "set_field:172.30.0.12->tun_dst",
        "set_field:aa:bb:cc:dd:ee:ff->eth_dst",
        "dec_ttl",
        "output port is 32768\n",
    ] {
        assert!(out.contains(step), "{step}: {out}");
    }
    let from = |sender: &str| {
        let packet = format!(
            "in_port=32768,tcp,dl_src=0a:00:00:00:02:01,dl_dst=aa:bb:cc:dd:ee:ff,nw_src=10.244.2.7,\
             nw_dst=10.244.1.11,tp_src=1000,tp_dst=80,nw_ttl=64,{sender}"
        );
        sw.trace(&packet, &["trk,new"])
    };
    // Either address of a peer, and one that is reached without a tunnel.
    for peer in ["tun_src=172.30.0.12", "tun_ipv6_src=fd30::12", "tun_src=172.30.0.13"] {
        let out = from(peer)?;
        assert!(out.contains("output port is 1\n"), "{peer}: {out}");
    }
    // Somebody else, the node itself, and a packet that does not say.
    for stranger in ["tun_src=172.30.0.99", "tun_ipv6_src=fd30::99", "tun_src=172.30.0.11", "tun_src=0.0.0.0"]
    {
        let out = from(stranger)?;
        assert!(out.trim_end().ends_with("Datapath actions: drop"), "{stranger}: {out}");
    }
    Ok(())
}
