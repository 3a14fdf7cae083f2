//! `antctl packetcapture`: makes a PacketCapture, waits for its end and fetches the file.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use antrea_crds::AntreaAgentInfo;
use antrea_crds::packet_capture::{
    COMPLETE, CaptureConfig, CapturePoint, Direction, End, FirstN, Icmp, IcmpMessage, IpFamily, Packet,
    PacketCapture, PacketCaptureSpec, PodReference, STARTED, Status, Tcp, TcpFlags, TransportHeader, Udp,
};
use anyhow::{Context, bail};
use clap::ValueEnum;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use kube::api::{ListParams, PostParams};

use crate::connect::{Clients, Server};
use crate::get::escape;
use crate::made;
use crate::support;
use crate::traceflow::prefix;

/// How often the capture is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What agent and controller get beside the capture's own time.
const MORE: Duration = Duration::from_secs(20);

/// Longest capture that there can be, in seconds.
const LONGEST: u64 = 300;

/// A capture. How long it may take is for --timeout to say.
#[derive(Debug, clap::Args)]
pub(crate) struct Capture {
    /// Where packets come from: a Pod, namespace/name, or an address; anywhere by default.
    #[arg(long, short = 'S', default_value = "")]
    source: String,
    /// Where they go, in the same way. One of both is a Pod.
    #[arg(long, short = 'D', default_value = "")]
    destination: String,
    /// How many packets.
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    number: i32,
    /// Which packets, such as tcp,tcp_dst=80,tcp_flags=+syn-ack or icmp,icmp_type=icmp-echo; all by default.
    #[arg(long, short, default_value = "")]
    flow: String,
    /// At which Pod: the source, or the destination. By default at the source if that is a Pod.
    #[arg(long, short = 'p', value_enum, ignore_case = true)]
    capture_point: Option<Point>,
    /// Which way they go.
    #[arg(long, short, value_enum, ignore_case = true, default_value = "SourceToDestination")]
    direction: Way,
    /// Only start the capture and print its name; it is then for you to delete.
    #[arg(long)]
    nowait: bool,
    /// Folder for the file.
    #[arg(long, short, default_value = ".")]
    output_dir: PathBuf,
}

/// As upstream writes them.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum Point {
    Source,
    Destination,
}

/// As upstream writes them.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum Way {
    SourceToDestination,
    DestinationToSource,
    Both,
}

/// Runs a capture and returns what is to be printed.
///
/// # Errors
/// It did not get as many packets as were asked for; those that it got are in the file all the same.
pub(crate) async fn run(clients: &Clients, asked: &Capture, limit: Duration) -> anyhow::Result<String> {
    let wanted = spec(asked, limit)?;
    let cluster = clients.cluster().await?;
    let captures: Api<PacketCapture> = Api::all(cluster.client.clone());
    let mut capture = PacketCapture::new("", wanted);
    capture.metadata.name = None;
    capture.metadata.generate_name = Some(prefix(&asked.source, &asked.destination));
    let made = captures.create(&PostParams::default(), &capture).await;
    let made = made.map_err(|error| cluster.explain(&error, "create a PacketCapture"))?;
    let name = made.metadata.name.context("the API server has given the PacketCapture no name")?;
    if asked.nowait {
        return Ok(format!("{name}\n"));
    }
    // Its file goes with it, which is here then.
    let (status, file) = made::while_there(&cluster, &captures, &name, async {
        let status = wait(&cluster, &captures, &name, limit).await?;
        let file = match &status.file_path {
            Some(path) if status.number_captured != Some(0) => {
                Some(fetch(clients, &cluster, &name, path, &asked.output_dir).await?)
            }
            _ => None,
        };
        Ok((status, file))
    })
    .await?;
    told(&name, &status, file.as_deref())
}

fn told(name: &str, status: &Status, file: Option<&Path>) -> anyhow::Result<String> {
    let number = status.number_captured.unwrap_or_default();
    let text = file.map(|file| format!("{}\n", file.display())).unwrap_or_default();
    let end = status.condition(COMPLETE).context("the PacketCapture has no end")?;
    if end.reason == "Succeed" {
        return Ok(text);
    }
    std::io::stdout().write_all(text.as_bytes()).context("write to stdout")?;
    bail!("PacketCapture {name} ended as {} with {number} packets: {}", end.reason, end.message);
}

/// Its status when it is over.
async fn wait(
    cluster: &Server,
    captures: &Api<PacketCapture>,
    name: &str,
    limit: Duration,
) -> anyhow::Result<Status> {
    let mut begun = Instant::now();
    loop {
        let found = captures.get(name).await;
        let found = found.map_err(|error| cluster.explain(&error, &format!("PacketCapture {name}")))?;
        let status = found.status.unwrap_or_default();
        if status.is(COMPLETE) {
            return Ok(status);
        }
        if status.condition(STARTED).is_some_and(|started| started.status == "False") {
            // It waits for its turn, which takes as long as others do.
            begun = Instant::now();
        }
        if begun.elapsed() > limit + MORE {
            bail!("nothing is told of PacketCapture {name}: is the feature gate PacketCapture on?");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Fetches the file of a capture from the agent whose Pod `path` names.
async fn fetch(
    clients: &Clients,
    cluster: &Server,
    name: &str,
    path: &str,
    folder: &Path,
) -> anyhow::Result<PathBuf> {
    let pod = path.split_once(':').map(|(pod, _)| pod);
    let pod = pod.with_context(|| format!("{path} names no Pod"))?;
    let infos = Api::<AntreaAgentInfo>::all(cluster.client.clone()).list(&ListParams::default()).await;
    let infos = infos.map_err(|error| cluster.explain(&error, "list AntreaAgentInfos"))?;
    let has =
        |info: &&AntreaAgentInfo| info.spec.pod_ref.as_ref().and_then(|pod| pod.name.as_deref()) == Some(pod);
    let node = infos.iter().find(has).and_then(|info| info.metadata.name.clone());
    let node = node.with_context(|| format!("no agent runs in Pod {pod} any more, and {path} is gone"))?;
    let agent = clients.agent(Some(&node), "the file of a capture").await?;
    let octets = support::download(&agent, &format!("/packetcaptures?name={}", escape(name))).await?;
    let file = format!("{name}.pcapng");
    tokio::fs::create_dir_all(folder).await.with_context(|| folder.display().to_string())?;
    support::write(folder, &file, &octets).await?;
    Ok(folder.join(file))
}

/// An end of the flow.
fn end(text: &str) -> Option<End> {
    if text.is_empty() {
        return None;
    }
    if text.parse::<IpAddr>().is_ok() {
        return Some(End { ip: Some(text.to_owned()), pod: None });
    }
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name.to_owned()),
        None => (None, text.to_owned()),
    };
    Some(End { pod: Some(PodReference { namespace, name }), ip: None })
}

/// The spec that the command line asks for.
fn spec(asked: &Capture, limit: Duration) -> anyhow::Result<PacketCaptureSpec> {
    let (source, destination) = (end(&asked.source), end(&asked.destination));
    let is_pod = |end: &Option<End>| end.as_ref().is_some_and(|end| end.pod.is_some());
    if !is_pod(&source) && !is_pod(&destination) {
        bail!("--source, --destination: packets are captured at a Pod: name one, as namespace/name");
    }
    let capture_point = match asked.capture_point {
        Some(Point::Source) if !is_pod(&source) => bail!("--capture-point Source: --source names no Pod"),
        Some(Point::Destination) if !is_pod(&destination) => {
            bail!("--capture-point Destination: --destination names no Pod")
        }
        Some(Point::Source) => Some(CapturePoint::Source),
        Some(Point::Destination) => Some(CapturePoint::Destination),
        None => None,
    };
    let seconds = limit.as_secs().clamp(1, LONGEST);
    Ok(PacketCaptureSpec {
        source,
        destination,
        direction: Some(match asked.direction {
            Way::SourceToDestination => Direction::SourceToDestination,
            Way::DestinationToSource => Direction::DestinationToSource,
            Way::Both => Direction::Both,
        }),
        capture_point,
        packet: packet(&asked.flow)?,
        capture_config: CaptureConfig { first_n: FirstN { number: asked.number } },
        timeout: Some(i64::try_from(seconds)?),
        file_server: None,
    })
}

const FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

/// Flags such as +syn-ack: those that are set, and those that are not.
fn flags(text: &str) -> anyhow::Result<TcpFlags> {
    let (mut value, mut mask) = (0, 0);
    let mut rest = text;
    while !rest.is_empty() {
        let set = match rest.as_bytes().first() {
            Some(b'+') => true,
            Some(b'-') => false,
            _ => bail!("--flow: tcp_flags: {text} is none; such as +syn-ack"),
        };
        let word = &rest[1..];
        let word = &word[..word.find(['+', '-']).unwrap_or(word.len())];
        let number = FLAGS.iter().position(|flag| *flag == word);
        let number = number.with_context(|| {
            format!("--flow: tcp_flags: {word} is no flag; there are {}", FLAGS.join(", "))
        })?;
        mask |= 1 << number;
        value |= i64::from(set) << number;
        rest = &rest[1 + word.len()..];
    }
    Ok(TcpFlags { value, mask: Some(mask) })
}

/// Packets in the words of `ovs-ofctl`, such as `tcp,tcp_dst=80`.
fn packet(flow: &str) -> anyhow::Result<Option<Packet>> {
    let mut protocol = None;
    let mut family = None;
    let mut fields = BTreeMap::new();
    for word in flow.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word.split_once('=') {
            Some((key, value)) => drop(fields.insert(key, value)),
            None => match word {
                "ip" => family = Some(IpFamily::V4),
                "ipv6" => family = Some(IpFamily::V6),
                "tcp" | "udp" | "icmp" => protocol = Some(word),
                "tcp6" | "udp6" | "icmp6" => {
                    (protocol, family) = (Some(&word[..word.len() - 1]), Some(IpFamily::V6));
                }
                _ => bail!("--flow: {word} is no protocol; there are ip, ipv6, icmp, tcp and udp"),
            },
        }
    }
    if protocol.is_none() && family.is_none() && fields.is_empty() {
        return Ok(None);
    }
    let mut number = |key: &str, most: i64| match fields.remove(key) {
        None => Ok(None),
        Some(value) => {
            let hex = value.strip_prefix("0x").map(|hex| i64::from_str_radix(hex, 16));
            let number = hex.unwrap_or_else(|| value.parse()).ok().filter(|n| (0..=most).contains(n));
            let number =
                number.with_context(|| format!("--flow: {key}: {value} is no number up to {most}"))?;
            anyhow::Ok(Some(number))
        }
    };
    let tcp = (number("tcp_src", 65_535)?, number("tcp_dst", 65_535)?);
    let udp = (number("udp_src", 65_535)?, number("udp_dst", 65_535)?);
    let code = number("icmp_code", 255)?;
    let flags = fields.remove("tcp_flags").map(flags).transpose()?;
    let kind = fields.remove("icmp_type").map(|value| match value.parse::<u8>() {
        Ok(number) => IntOrString::Int(number.into()),
        Err(_) => IntOrString::String(value.to_owned()),
    });
    if let Some(key) = fields.keys().next() {
        bail!(
            "--flow: {key} is not known; there are tcp_src, tcp_dst, tcp_flags, udp_src, udp_dst, icmp_type and icmp_code"
        );
    }
    if code.is_some() && kind.is_none() {
        bail!("--flow: icmp_code: needs icmp_type");
    }
    let header = TransportHeader {
        tcp: (tcp != (None, None) || flags.is_some()).then(|| Tcp {
            src_port: tcp.0,
            dst_port: tcp.1,
            flags: flags.into_iter().collect(),
        }),
        udp: (udp != (None, None)).then_some(Udp { src_port: udp.0, dst_port: udp.1 }),
        icmp: kind.map(|type_| Icmp { messages: vec![IcmpMessage { type_, code }] }),
    };
    Ok(Some(Packet {
        ip_family: family,
        protocol: protocol.map(|protocol| IntOrString::String(protocol.to_uppercase())),
        transport_header: (header != TransportHeader::default()).then_some(header),
    }))
}

#[cfg(test)]
mod tests;
