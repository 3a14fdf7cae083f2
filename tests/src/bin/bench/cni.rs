//! CNI ADD and DEL: executed as kubelet's runtime does, asked of the agent over gRPC, and the floor.
//!
//! The floor is what no plugin can do without: a veth pair into the container's namespace, an address and a
//! route in it, a port in OVSDB, the wait for its OpenFlow number, and host-local executed for the address.
//! Steps overlap wherever none needs the other's result, so that the floor is the fastest way to do them.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antrea_api::cni::cni_client::CniClient;
use antrea_api::cni::{CniCmdArgs, CniCmdRequest};
use antrea_tests::lab::{Datapath, Lab, LabNode, plugins};
use anyhow::{Context, ensure};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use netcfg::nl::link::VethSpec;
use netcfg::nl::route::Route;
use netcfg::{Netlink, Netns};
use ovs::Vswitch;
use ovs::vswitch::{BridgeSpec, FailMode, PortSpec};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};

use crate::report::{Figure, Goal, Report, percentile};

/// Containers that exist at the same time.
const BATCH: usize = 20;
/// Batches: 200 of each operation.
const ROUNDS: usize = 10;
const GOAL: Goal = Goal::RatioAtMost(1.5);
const LIMIT: Duration = Duration::from_secs(20);

/// A container without its network.
#[derive(Clone, Debug)]
struct Slot {
    id: String,
    netns: String,
}

impl Slot {
    fn path(&self) -> String {
        format!("/run/netns/{}", self.netns)
    }

    fn args(&self) -> String {
        let pod = self.id.split('-').next().unwrap_or_default();
        format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={pod}")
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verb {
    Add,
    Del,
}

impl Verb {
    fn text(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
        }
    }
}

/// A way to attach containers.
#[derive(Clone)]
enum Way {
    /// antrea-cni executed.
    Plugin(Arc<Lab>),
    /// gRPC to the agent.
    Agent(Arc<Agent>),
    /// Without us.
    Floor(Arc<Floor>),
}

impl Way {
    async fn run(self, verb: Verb, slot: Slot) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        match self {
            Self::Plugin(lab) => {
                let (output, text) =
                    tokio::task::spawn_blocking(move || execute(&lab.nodes[0], verb, &slot)).await?;
                ensure!(output.status.success(), "antrea-cni {}: {text}", verb.text());
            }
            Self::Agent(agent) => agent.call(verb, &slot).await?,
            Self::Floor(floor) => match verb {
                Verb::Add => floor.add(&slot).await?,
                Verb::Del => floor.del(&slot).await?,
            },
        }
        Ok(begin.elapsed())
    }

    async fn batch(&self, verb: Verb, slots: &[Slot], at_once: bool) -> anyhow::Result<Vec<Duration>> {
        let mut times = Vec::with_capacity(slots.len());
        if at_once {
            let tasks: Vec<_> =
                slots.iter().map(|slot| tokio::spawn(self.clone().run(verb, slot.clone()))).collect();
            for task in tasks {
                times.push(task.await??);
            }
        } else {
            for slot in slots {
                times.push(self.clone().run(verb, slot.clone()).await?);
            }
        }
        Ok(times)
    }
}

fn execute(node: &LabNode, verb: Verb, slot: &Slot) -> (std::process::Output, String) {
    node.cni(verb.text(), &slot.id, &slot.netns, "1.0.0", None)
}

/// One connection to the agent, kept open.
struct Agent {
    client: CniClient<Channel>,
    configuration: Vec<u8>,
}

impl Agent {
    async fn connect(node: &LabNode) -> anyhow::Result<Self> {
        let socket = node.cni_socket();
        let configuration = json!({
            "cniVersion": "1.0.0", "name": "antrea", "type": "antrea",
            "ipam": {"type": "host-local"}, "cniSocket": socket,
        });
        // The address is a placeholder; the connector goes to the socket.
        let channel = Endpoint::from_static("http://agent")
            .connect_with_connector(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await?;
        Ok(Self { client: CniClient::new(channel), configuration: configuration.to_string().into_bytes() })
    }

    async fn call(&self, verb: Verb, slot: &Slot) -> anyhow::Result<()> {
        let arguments = CniCmdArgs {
            container_id: slot.id.clone(),
            netns: slot.path(),
            ifname: "eth0".to_owned(),
            args: slot.args(),
            path: plugins().display().to_string(),
            network_configuration: self.configuration.clone(),
        };
        let request = tonic::Request::new(CniCmdRequest { cni_args: Some(arguments) });
        let mut client = self.client.clone();
        let answer = match verb {
            Verb::Add => client.cmd_add(request).await,
            Verb::Del => client.cmd_del(request).await,
        };
        let error = answer.with_context(|| format!("{} {}", verb.text(), slot.id))?.into_inner().error;
        ensure!(error.is_none(), "{} {}: {error:?}", verb.text(), slot.id);
        Ok(())
    }
}

/// A node without an agent.
struct Floor {
    netlink: Netlink,
    vswitch: Vswitch,
    subnet: IpNet,
    gateway: std::net::IpAddr,
    data_dir: PathBuf,
    host_local: PathBuf,
    mtu: u32,
    _session: DropGuard,
}

impl Floor {
    const BRIDGE: &str = "br-floor";

    async fn new(node: &LabNode, mtu: u32) -> anyhow::Result<Self> {
        let cancel = CancellationToken::new();
        let (vswitch, _) = Vswitch::spawn(node.ovs.db_sock(), cancel.clone());
        vswitch.wait_synced(LIMIT).await?;
        let spec = BridgeSpec {
            name: Self::BRIDGE.to_owned(),
            datapath_type: datapath_type().to_owned(),
            fail_mode: Some(FailMode::Secure),
            ..BridgeSpec::default()
        };
        vswitch.ensure_bridge(&spec).await?;
        vswitch.remove_other_config("flow-restore-wait").await?;
        vswitch.wait_applied(LIMIT).await?;
        let node_netns = Netns::open(format!("/run/netns/{}", node.netns))?;
        let subnet: IpNet = node.pod_cidr.parse()?;
        let gateway = subnet.hosts().next().context("the node's subnet is empty")?;
        Ok(Self {
            netlink: node_netns.spawn_netlink().await?,
            vswitch,
            subnet,
            gateway,
            data_dir: node.dir.join("floor-ipam"),
            host_local: plugins().join("host-local"),
            mtu,
            _session: cancel.drop_guard(),
        })
    }

    fn link(slot: &Slot) -> &str {
        // An Open vSwitch port and a link: at most 15 characters.
        slot.id.get(..15).unwrap_or(&slot.id)
    }

    async fn add(&self, slot: &Slot) -> anyhow::Result<()> {
        let netns = Netns::open(slot.path())?;
        let veth = VethSpec {
            host_name: Self::link(slot),
            host_mac: None,
            host_mtu: self.mtu,
            host_group: None,
            peer_name: "eth0",
            peer_mac: None,
            peer_mtu: self.mtu,
            peer_ns: &netns,
        };
        let link = async {
            self.netlink.create_veth(&veth).await?;
            self.netlink.set_up(Self::link(slot)).await
        };
        let (allocated, link) = tokio::join!(self.host_local("ADD", slot), link);
        link?;
        let allocated: Value = serde_json::from_slice(&allocated?)?;
        let address: IpNet =
            allocated["ips"][0]["address"].as_str().context("host-local gave no address")?.parse()?;
        let (container, port) = tokio::join!(self.container(&netns, address), self.port(slot));
        container?;
        port
    }

    async fn container(&self, netns: &Netns, address: IpNet) -> anyhow::Result<()> {
        let netlink = netns.spawn_netlink().await?;
        let link = netlink.require_link("eth0").await?.index;
        netlink.add_address(link, address).await?;
        netlink.set_up(link).await?;
        netlink.set_route(&Route::default_v4().via(self.gateway).dev(link)).await?;
        Ok(())
    }

    async fn port(&self, slot: &Slot) -> anyhow::Result<()> {
        let name = Self::link(slot).to_owned();
        let spec = PortSpec { bridge: Self::BRIDGE.to_owned(), name: name.clone(), ..PortSpec::default() };
        self.vswitch.add_port(&spec).await?;
        self.vswitch.wait_ofport(&name, LIMIT).await?;
        Ok(())
    }

    /// In turn: an address must not be free before the port that used it is gone.
    async fn del(&self, slot: &Slot) -> anyhow::Result<()> {
        self.vswitch.delete_port(Self::BRIDGE, Self::link(slot)).await?;
        self.netlink.delete_link(Self::link(slot)).await?;
        self.host_local("DEL", slot).await.map(drop)
    }

    async fn host_local(&self, verb: &str, slot: &Slot) -> anyhow::Result<Vec<u8>> {
        let configuration = json!({
            "cniVersion": "1.0.0", "name": "floor", "type": "floor",
            "ipam": {
                "type": "host-local", "dataDir": self.data_dir,
                "ranges": [[{"subnet": self.subnet, "gateway": self.gateway}]],
            },
        });
        let mut child = tokio::process::Command::new(&self.host_local)
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", &slot.id)
            .env("CNI_NETNS", slot.path())
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.host_local.parent().context("host-local has no folder")?)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("host-local")?;
        let mut stdin = child.stdin.take().context("host-local's standard input")?;
        stdin.write_all(configuration.to_string().as_bytes()).await?;
        drop(stdin);
        let output = child.wait_with_output().await?;
        let said = || String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "host-local {verb} {}: {}", slot.id, said());
        Ok(output.stdout)
    }
}

/// `datapath_type` of this machine's bridges.
pub(crate) fn datapath_type() -> &'static str {
    match Datapath::here() {
        Datapath::System => "system",
        Datapath::Userspace => "netdev",
    }
}

/// MTU of a pod's link.
pub(crate) async fn mtu_of(netns: &str) -> anyhow::Result<u32> {
    let netlink = Netns::open(format!("/run/netns/{netns}"))?.spawn_netlink().await?;
    Ok(netlink.require_link("eth0").await?.mtu)
}

/// Samples of one way.
#[derive(Default)]
struct Samples {
    add: Vec<Duration>,
    del: Vec<Duration>,
}

/// Measures CNI ADD and DEL.
///
/// # Errors
/// An operation failed.
pub(crate) async fn run(report: Report) -> anyhow::Result<()> {
    let mut lab = Lab::without_agents(2, &[("logLevel", json!("info"))]).await;
    // Node 1 has the agent, node 2 is the floor's.
    lab.start_agent(0);
    lab.wait_ready(0).await;
    let probe = lab.add_pod(0, "probe");
    let mtu = mtu_of(&probe.netns).await?;
    lab.delete_pod(0, &probe);
    let slots = |lab: &mut Lab, node: usize, prefix: &str| -> Vec<Slot> {
        let name = |n: usize| format!("{prefix}{n}");
        (0..BATCH)
            .map(|n| Slot {
                id: format!("{}-0123456789abcdef", name(n)),
                netns: lab.pod_netns(node, &name(n)),
            })
            .collect()
    };
    let (ours, theirs) = (slots(&mut lab, 0, "c"), slots(&mut lab, 1, "f"));
    let floor = Arc::new(Floor::new(&lab.nodes[1], mtu).await?);
    let agent = Arc::new(Agent::connect(&lab.nodes[0]).await?);
    let lab = Arc::new(lab);
    let ways = [
        ("antrea-cni executed", Way::Plugin(lab.clone()), &ours),
        ("gRPC to the agent", Way::Agent(agent), &ours),
        ("floor", Way::Floor(floor), &theirs),
    ];
    for (mode, at_once) in [("serial", false), ("20 at once", true)] {
        let mut samples: [Samples; 3] = Default::default();
        // One round that does not count, then all in turns.
        for round in 0..=ROUNDS {
            for ((_, way, slots), samples) in ways.iter().zip(&mut samples) {
                let add = way.batch(Verb::Add, slots, at_once).await?;
                let del = way.batch(Verb::Del, slots, at_once).await?;
                if round > 0 {
                    samples.add.extend(add);
                    samples.del.extend(del);
                }
            }
            report.say(&format!("CNI, {mode}: {} of {} done", round * BATCH, ROUNDS * BATCH));
        }
        let [executed, called, floor] = &samples;
        let pick = |samples: &Samples, verb: Verb, percent: usize| {
            percentile(if verb == Verb::Add { &samples.add } else { &samples.del }, percent)
        };
        for (how, way, goal) in
            [("antrea-cni executed", executed, true), ("gRPC to the agent", called, false)]
        {
            for verb in [Verb::Add, Verb::Del] {
                for percent in [50, 99] {
                    let name = format!("CNI {}, {how}, {mode}, p{percent}", verb.text());
                    let figure = Figure::new(name, "ms", pick(way, verb, percent))
                        .peer(pick(floor, verb, percent))
                        .note("peer: veth + OVSDB port + host-local without us");
                    report.add(if goal { figure.goal(GOAL) } else { figure });
                }
            }
        }
    }
    Ok(())
}
