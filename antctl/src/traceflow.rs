//! `antctl traceflow`: makes a Traceflow, waits for its end and shows the way of the packet.

use std::net::IpAddr;
use std::time::Duration;

use antrea_crds::traceflow::{
    Destination, Icmp, IpHeader, Ipv6Header, Observation, Packet, Phase, Source, Status, Tcp, Traceflow,
    TraceflowSpec, TransportHeader, Udp,
};
use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use crate::cli::Trace;
use crate::connect::{Clients, Server};
use crate::made;
use crate::output::Output;

/// How often the trace is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Longest trace that there can be, in seconds.
const LONGEST: u64 = 300;

/// What the controller gets beside the trace's own time to tell its end.
const MORE: Duration = Duration::from_secs(5);

/// Runs a trace and returns what is to be printed.
pub(crate) async fn run(clients: &Clients, asked: &Trace, limit: Duration) -> anyhow::Result<String> {
    let mut wanted = spec(asked, limit)?;
    let (cluster, name) = crate::within(limit, async {
        let cluster = clients.cluster().await?;
        if let Some(destination) = &mut wanted.destination {
            find_service(&cluster, destination).await?;
        }
        let name = create(&cluster, prefix(&asked.source, &asked.destination), wanted).await?;
        Ok((cluster, name))
    })
    .await?;
    if asked.nowait {
        return Ok(format!("{name}\n"));
    }
    let ended = end_of(&cluster, &name, limit + MORE).await?;
    let status = ended.status.clone().unwrap_or_default();
    let text = output(&name, &ended, asked).render(asked.output)?;
    if status.phase == Some(Phase::Failed) {
        eprint!("{text}");
        bail!("Traceflow {name} failed: {}", status.reason);
    }
    Ok(text)
}

/// Makes one whose name begins so, and returns its name.
async fn create(cluster: &Server, prefix: String, wanted: TraceflowSpec) -> anyhow::Result<String> {
    let traces: Api<Traceflow> = Api::all(cluster.client.clone());
    let mut trace = Traceflow::new("", wanted);
    trace.metadata.name = None;
    trace.metadata.generate_name = Some(prefix);
    let made = traces.create(&PostParams::default(), &trace).await;
    let made = made.map_err(|error| cluster.explain(&error, "create a Traceflow"))?;
    made.metadata.name.context("the API server has given the Traceflow no name")
}

/// Waits for its end, for as long as that may take, and removes it.
async fn end_of(cluster: &Server, name: &str, limit: Duration) -> anyhow::Result<Traceflow> {
    let traces: Api<Traceflow> = Api::all(cluster.client.clone());
    made::while_there(cluster, &traces, name, async {
        match tokio::time::timeout(limit, wait(cluster, &traces, name)).await {
            Ok(ended) => ended,
            Err(_) => bail!("nobody has ended Traceflow {name}: does the controller run?"),
        }
    })
    .await
}

/// Sends a packet, and returns what became of it. The destination's name is a Service's, or else a Pod's. The trace has the
/// time of `limit`, and the controller as much again to tell its end.
///
/// # Errors
/// The API server takes no Traceflow, or nobody ends it.
pub(crate) async fn fate(
    cluster: &Server,
    asked: &Trace,
    is_service: bool,
    limit: Duration,
) -> anyhow::Result<Status> {
    let mut wanted = spec(asked, limit)?;
    if let Some(destination) = wanted.destination.as_mut().filter(|_| is_service) {
        destination.service = destination.pod.take();
    }
    let name = create(cluster, prefix(&asked.source, &asked.destination), wanted).await?;
    Ok(end_of(cluster, &name, 2 * limit).await?.status.unwrap_or_default())
}

async fn wait(cluster: &Server, traces: &Api<Traceflow>, name: &str) -> anyhow::Result<Traceflow> {
    loop {
        let found = traces.get(name).await;
        let found = found.map_err(|error| cluster.explain(&error, &format!("Traceflow {name}")))?;
        let phase = found.status.as_ref().and_then(|status| status.phase);
        if matches!(phase, Some(Phase::Succeeded | Phase::Failed)) {
            return Ok(found);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A name that is no Pod's is a Service's.
async fn find_service(cluster: &Server, destination: &mut Destination) -> anyhow::Result<()> {
    let Some(name) = destination.pod.clone() else { return Ok(()) };
    let namespace = destination.namespace.as_deref().unwrap_or("default");
    let found = Api::<Pod>::namespaced(cluster.client.clone(), namespace).get_opt(&name).await;
    match found {
        Ok(Some(_)) => {}
        Ok(None) => destination.service = destination.pod.take(),
        // Whoever may not look at Pods means one.
        Err(kube::Error::Api(status)) if status.code == 403 => {}
        Err(error) => return Err(cluster.explain(&error, &format!("Pod {namespace}/{name}"))),
    }
    Ok(())
}

/// Beginning of the name of an object for a flow between these ends.
pub(crate) fn prefix(source: &str, destination: &str) -> String {
    let end = |text: &str| {
        let name = text.rsplit('/').next().unwrap_or_default().to_lowercase();
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let name: String = name.trim_matches('-').chars().take(24).collect();
        if name.is_empty() { "any".to_owned() } else { name }
    };
    format!("{}-to-{}-", end(source), end(destination))
}

/// The spec that the command line asks for.
pub(crate) fn spec(asked: &Trace, limit: Duration) -> anyhow::Result<TraceflowSpec> {
    let named = |text: &str| match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), Some(name.to_owned())),
        None => (None, Some(text.to_owned())),
    };
    let source = match asked.source.as_str() {
        "" => None,
        text if text.parse::<IpAddr>().is_ok() => {
            Some(Source { ip: Some(text.to_owned()), ..Source::default() })
        }
        text => {
            let (namespace, pod) = named(text);
            Some(Source { namespace, pod, ip: None })
        }
    };
    let destination = match asked.destination.as_str() {
        "" => None,
        text if text.parse::<IpAddr>().is_ok() => {
            Some(Destination { ip: Some(text.to_owned()), ..Destination::default() })
        }
        text => {
            let (namespace, pod) = named(text);
            Some(Destination { namespace, pod, ..Destination::default() })
        }
    };
    if !asked.live_traffic && source.as_ref().is_none_or(|source| source.pod.is_none()) {
        bail!("--source: name the Pod that sends the packet, or watch traffic with --live-traffic");
    }
    if !asked.live_traffic && destination.is_none() {
        bail!("--destination: name a Pod, a Service or an address, or watch traffic with --live-traffic");
    }
    if asked.dropped_only && !asked.live_traffic {
        bail!("--dropped-only: applies to --live-traffic only");
    }
    let seconds = limit.as_secs().clamp(1, LONGEST);
    Ok(TraceflowSpec {
        source,
        destination,
        packet: packet(&asked.flow)?,
        live_traffic: asked.live_traffic,
        dropped_only: asked.dropped_only,
        timeout: Some(i64::try_from(seconds)?),
    })
}

/// A packet in the words of `ovs-ofctl`, such as `tcp,tcp_dst=80`. A field of a protocol names it as well.
fn packet(flow: &str) -> anyhow::Result<Option<Packet>> {
    let mut v6 = false;
    // Which protocol each word is of. ICMP has none, for the family decides which of both it is.
    let mut of: Vec<(Option<i64>, &str)> = Vec::new();
    let (mut tcp, mut udp, mut icmp) = (Tcp::default(), Udp::default(), Icmp::default());
    for word in flow.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let Some((key, value)) = word.split_once('=') else {
            v6 |= matches!(word, "ipv6" | "icmp6" | "tcp6" | "udp6");
            match word {
                "ip" | "ipv6" => {}
                "icmp" | "icmp6" => of.push((None, word)),
                "tcp" | "tcp6" => of.push((Some(6), word)),
                "udp" | "udp6" => of.push((Some(17), word)),
                _ => bail!("--flow: {word} is no protocol; there are ip, ipv6, icmp, tcp and udp"),
            }
            continue;
        };
        let most = if matches!(key, "tcp_flags" | "nw_proto") { 255 } else { 65_535 };
        let text = value.strip_prefix("0x").map(|hex| i64::from_str_radix(hex, 16));
        let number = text.unwrap_or_else(|| value.parse());
        let number = number.ok().filter(|n| (0..=most).contains(n));
        let number = number.with_context(|| format!("--flow: {key}: {value} is no number up to {most}"))?;
        let (field, protocol) = match key {
            "tcp_src" => (&mut tcp.src_port, Some(6)),
            "tcp_dst" => (&mut tcp.dst_port, Some(6)),
            "tcp_flags" => (&mut tcp.flags, Some(6)),
            "udp_src" => (&mut udp.src_port, Some(17)),
            "udp_dst" => (&mut udp.dst_port, Some(17)),
            "icmp_id" => (&mut icmp.id, None),
            "icmp_seq" => (&mut icmp.sequence, None),
            "nw_proto" => {
                of.push((Some(number), key));
                continue;
            }
            _ => bail!(
                "--flow: {key} is not known; there are tcp_src, tcp_dst, tcp_flags, udp_src, udp_dst, icmp_id, \
                 icmp_seq and nw_proto"
            ),
        };
        *field = Some(number);
        of.push((protocol, key));
    }
    let of_family = |protocol: Option<i64>| protocol.unwrap_or(if v6 { 58 } else { 1 });
    let protocol = of.first().map(|(protocol, _)| of_family(*protocol));
    if let [(_, first), rest @ ..] = &of[..]
        && let Some((_, other)) = rest.iter().find(|(other, _)| Some(of_family(*other)) != protocol)
    {
        bail!("--flow: {other}: is of another protocol than {first}");
    }
    if !v6 && protocol.is_none() {
        return Ok(None);
    }
    let transport = match protocol {
        Some(6) => Some(TransportHeader { tcp: Some(tcp), ..TransportHeader::default() }),
        Some(17) => Some(TransportHeader { udp: Some(udp), ..TransportHeader::default() }),
        Some(1 | 58) => Some(TransportHeader { icmp: Some(icmp), ..TransportHeader::default() }),
        _ => None,
    };
    Ok(Some(Packet {
        ip_header: (!v6).then(|| IpHeader { protocol, ..IpHeader::default() }),
        ipv6_header: v6.then(|| Ipv6Header { next_header: protocol, ..Ipv6Header::default() }),
        transport_header: transport,
        ..Packet::default()
    }))
}

/// What else an observation says.
fn detail(seen: &Observation) -> String {
    let parts = [
        ("policy", &seen.network_policy),
        ("rule", &seen.network_policy_rule),
        ("pod", &seen.pod),
        ("to", &seen.translated_dst_ip),
        ("from", &seen.translated_src_ip),
        ("tunnel", &seen.tunnel_dst_ip),
    ];
    let told = parts.iter().filter(|(_, value)| !value.is_empty());
    told.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

fn output(name: &str, trace: &Traceflow, asked: &Trace) -> Output {
    let status = trace.status.clone().unwrap_or_default();
    let mut value = json!({
        "name": name, "phase": status.phase, "source": asked.source, "destination": asked.destination,
        "results": status.results,
    });
    if !status.reason.is_empty() {
        value["reason"] = status.reason.clone().into();
    }
    if let Some(packet) = &status.captured_packet {
        value["capturedPacket"] = json!(packet);
    }
    Output {
        columns: &["NODE", "ROLE", "COMPONENT", "TABLE", "ACTION", "DETAIL"],
        rows: rows(&status),
        value,
    }
}

/// The sender's first.
pub(crate) fn rows(status: &Status) -> Vec<Vec<String>> {
    let mut results: Vec<_> = status.results.iter().collect();
    results.sort_by_key(|result| result.role != "sender");
    let of = |result: &antrea_crds::traceflow::NodeResult| {
        let (node, role) = (result.node.clone(), result.role.clone());
        let row = move |seen: &Observation| {
            let cells = [&node, &role, &seen.component, &seen.component_info, &seen.action, &detail(seen)];
            cells.into_iter().cloned().collect()
        };
        result.observations.iter().map(row).collect::<Vec<Vec<String>>>()
    };
    results.into_iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Format;

    fn asked(source: &str, destination: &str, flow: &str) -> Trace {
        Trace {
            source: source.into(),
            destination: destination.into(),
            flow: flow.into(),
            live_traffic: false,
            dropped_only: false,
            nowait: false,
            output: Format::Yaml,
        }
    }

    fn json_of(asked: &Trace) -> serde_json::Value {
        serde_json::to_value(spec(asked, Duration::from_secs(10)).unwrap()).unwrap()
    }

    #[test]
    fn the_spec_of_a_command_line() {
        assert_eq!(
            json_of(&asked("shop/web", "db", "tcp,tcp_dst=80,tcp_flags=0x2")),
            json!({
                "source": {"namespace": "shop", "pod": "web"}, "destination": {"pod": "db"}, "timeout": 10,
                "packet": {"ipHeader": {"protocol": 6}, "transportHeader": {"tcp": {"dstPort": 80, "flags": 2}}},
            })
        );
        assert_eq!(
            json_of(&asked("a", "fd00::1", "ipv6,udp,udp_dst=53"))["packet"],
            json!({"ipv6Header": {"nextHeader": 17}, "transportHeader": {"udp": {"dstPort": 53}}})
        );
        let live = Trace { live_traffic: true, dropped_only: true, ..asked("", "b", "") };
        assert_eq!(
            json_of(&live),
            json!({"destination": {"pod": "b"}, "liveTraffic": true, "droppedOnly": true, "timeout": 10})
        );
        assert_eq!(prefix("shop/web", "192.0.2.1"), "web-to-192-0-2-1-");
    }

    #[test]
    fn a_field_names_its_protocol() {
        let packet = |flow: &str| json_of(&asked("a", "b", flow))["packet"].clone();
        let tcp = json!({"tcp": {"dstPort": 80}});
        assert_eq!(packet("tcp_dst=80"), json!({"ipHeader": {"protocol": 6}, "transportHeader": tcp}));
        assert_eq!(
            packet("ipv6,tcp_dst=80"),
            json!({"ipv6Header": {"nextHeader": 6}, "transportHeader": tcp})
        );
        assert_eq!(packet("nw_proto=6,tcp_dst=80"), packet("tcp_dst=80"));
        let icmp = json!({"icmp": {"id": 7}});
        assert_eq!(packet("icmp_id=7"), json!({"ipHeader": {"protocol": 1}, "transportHeader": icmp}));
        let v6 = json!({"ipv6Header": {"nextHeader": 58}, "transportHeader": icmp});
        for flow in ["icmp_id=7,ipv6", "icmp,icmp_id=7,ipv6", "icmp6,icmp_id=7"] {
            assert_eq!(packet(flow), v6, "{flow}");
        }
        assert_eq!(packet("ip"), serde_json::Value::Null);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (asked, named) in [
            (asked("", "b", ""), "--source"),
            (asked("192.0.2.1", "b", ""), "--source"),
            (asked("a", "", ""), "--destination"),
            (Trace { dropped_only: true, ..asked("a", "b", "") }, "--dropped-only"),
            (asked("a", "b", "gre"), "--flow: gre"),
            (asked("a", "b", "tcp,tcp_dst=x"), "--flow: tcp_dst: x"),
            (asked("a", "b", "tcp,port=1"), "--flow: port"),
            (asked("a", "b", "tcp,udp_dst=53"), "--flow: udp_dst: is of another protocol than tcp"),
            (asked("a", "b", "icmp_id=1,tcp_dst=80"), "--flow: tcp_dst"),
            (asked("a", "b", "nw_proto=132,tcp_dst=80"), "--flow: tcp_dst"),
            (asked("a", "b", "tcp,udp"), "--flow: udp"),
            (asked("a", "b", "nw_proto=256"), "--flow: nw_proto: 256 is no number up to 255"),
            (asked("a", "b", "tcp_flags=0x100"), "--flow: tcp_flags: 0x100 is no number up to 255"),
        ] {
            let error = spec(&asked, Duration::from_secs(1)).unwrap_err().to_string();
            assert!(error.starts_with(named), "{error}");
        }
    }
}
