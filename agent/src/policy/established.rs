//! Ends connections that policies with `established: Reset` deny.
//!
//! When what is denied has changed, and the datapath goes by it, what the tracker knows is judged ([`Resets`]). A connection
//! that is denied is taken from the tracker, so that its client's next packet is judged like a first one. Before that the
//! bridge is told what else may come of it (`antrea_flows::ended`), which lasts for hours. It is on disk before the tracker
//! forgets: the flows of an agent's life go with it, and in the next one nobody else would know.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use antrea_enforce::established::{Connection, Resets};
use antrea_flows::policy::{Direction, Frontend, Protocol};
use antrea_flows::{Change, Ended, Owner, REFUSED_FOR};
use ovs::ctl::CtlError;
use prometheus::IntCounterVec;
use serde::{Deserialize, Serialize};

use super::{PolicyHandle, notes};
use crate::dataplane::{Dataplane, DataplaneError};
use crate::ovs::bridge::Datapath;
use crate::ovs::connections::Connections;
use crate::ovs::settled::Settled;
use crate::ovs::tracked::{Tracked, TrackedIn};

/// Connections that are ended in one bundle.
const TOGETHER: usize = 512;

/// Connections of which packets may still be met. Of more the pod that has most loses its first, as the tracker forgets one
/// that is silent.
const REMEMBERED: usize = 4096;

/// Before what failed is tried again.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum EndError {
    #[error("what the bridge tracks: {0}")]
    List(#[from] CtlError),
    #[error(transparent)]
    Bridge(#[from] DataplaneError),
    #[error("connections of the bridge: {0}")]
    Forget(#[from] ovs::of::OfError),
    #[error("the process ends")]
    Closed,
}

/// A connection that is to end.
struct Denied {
    connection: Connection,
    direction: Direction,
    policy: Arc<str>,
}

impl Denied {
    /// The address of the pod that its policy applies to.
    fn pod(&self) -> IpAddr {
        match self.direction {
            Direction::In => self.connection.server.ip(),
            Direction::Out => self.connection.client.ip(),
        }
    }
}

/// A connection that ended, on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    protocol: String,
    client: SocketAddr,
    server: SocketAddr,
    /// The second of Unix time.
    at: u64,
    /// The address of the pod for whose policy it ended. Agents of before did not note it.
    pod: Option<IpAddr>,
}

/// Connections that ended, [`REMEMBERED`] at most.
#[derive(Debug, Default, PartialEq)]
struct Known {
    /// By the address of the pod for whose policy they ended, the first first, and in which second of Unix time: what ends
    /// for one pod, which may be as many as somebody likes to begin, must not make another's forgotten.
    of: BTreeMap<IpAddr, VecDeque<(Ended, u64)>>,
    all: HashSet<Ended>,
}

impl Known {
    fn insert(&mut self, pod: IpAddr, ended: Ended, at: u64) {
        if !self.all.insert(ended) {
            return;
        }
        self.of.entry(pod).or_default().push_back((ended, at));
        if self.all.len() > REMEMBERED
            && let Some(most) = self.of.values_mut().max_by_key(|of| of.len())
            && let Some((first, _)) = most.pop_front()
        {
            self.all.remove(&first);
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Ended> {
        self.of.values().flatten().map(|(ended, _)| ended)
    }
}

fn notes_of(known: &Known) -> Vec<Note> {
    let note = |pod: IpAddr, (Ended { protocol, client, server }, at): &(Ended, u64)| Note {
        protocol: protocol.as_str().to_owned(),
        client: *client,
        server: *server,
        at: *at,
        pod: Some(pod),
    };
    known.of.iter().flat_map(|(pod, of)| of.iter().map(move |ended| note(*pod, ended))).collect()
}

/// What is still to be known of what was noted.
fn recalled(notes: Vec<Note>, now: u64) -> Known {
    let recent = notes.into_iter().filter(|note| now.saturating_sub(note.at) < REFUSED_FOR.into());
    let mut known = Known::default();
    for Note { protocol, client, server, at, pod } in recent {
        if let Some(protocol) = Protocol::transport(&protocol) {
            known.insert(pod.unwrap_or(client.ip()), Ended { protocol, client, server }, at);
        }
    }
    known
}

fn unix_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The bridge, as far as connections through it have to do with it.
#[derive(Debug)]
pub struct Ways {
    pub dataplane: Dataplane,
    /// What it tracks.
    pub connections: Connections,
    /// Whether the datapath goes by its flows.
    pub settled: Settled,
    /// Where Open vSwitch takes commands.
    pub run_dir: PathBuf,
    pub datapath: Datapath,
}

/// Ends connections; see the module's description.
struct Ender {
    ways: Ways,
    ended: Known,
    file: Arc<Path>,
    count: IntCounterVec,
}

impl PolicyHandle {
    /// Has the connections of this node end that policies want to, for ever.
    pub async fn end_connections(&self, ways: Ways) {
        let count = self.ended.clone();
        let (ended, file) = (self.ended_before().await, self.ended_file.clone());
        let mut ender = Ender { ways, ended, file, count };
        let mut resets = self.in_force.resets.clone();
        loop {
            let now = resets.borrow_and_update().clone();
            let done = ender.follow(now).await;
            if let Err(error) = &done {
                tracing::warn!(%error, "connections that policy denies are not ended yet");
            }
            tokio::select! {
                changed = resets.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(AGAIN), if done.is_err() => {}
            }
        }
    }
}

/// What was sent to, by the protocol, who sent it and where it went. A pod can begin millions of connections, so only hashes
/// of them are kept, under a key that it cannot know: 12 octets for each.
struct Frontends {
    hasher: RandomState,
    /// Place of what was sent to.
    of: HashMap<u64, u32>,
    named: Vec<Frontend>,
}

type Way = (Protocol, SocketAddr, SocketAddr);

impl Frontends {
    /// None yet of connections to these.
    fn new(named: HashSet<Frontend>) -> Self {
        let mut named: Vec<_> = named.into_iter().collect();
        named.sort_unstable();
        Self { hasher: RandomState::new(), of: HashMap::new(), named }
    }

    /// Takes note of a connection, if it is to one of those.
    fn insert(&mut self, way: Way, frontend: Frontend) {
        if let Ok(place) = self.named.binary_search(&frontend) {
            self.of.insert(self.hasher.hash_one(way), u32::try_from(place).unwrap_or(u32::MAX));
        }
    }

    fn get(&self, way: Way) -> Option<SocketAddr> {
        let place = usize::try_from(*self.of.get(&self.hasher.hash_one(way))?).ok()?;
        Some(self.named.get(place)?.address)
    }
}

/// Those that are to end, of what pods of this node have begun or are the destination of, but for what the node itself has
/// begun: it may ask its pods, whatever policy says.
fn denied(resets: &Resets, frontends: &Frontends, own: &[IpAddr], tracked: &[Tracked]) -> Vec<Denied> {
    let others = tracked.iter().filter(|known| {
        let (client, server) = known.original;
        client.ip() != server.ip() && !(known.from_host && own.contains(&client.ip()))
    });
    let judged = others.filter_map(|known| {
        let (protocol, (client, server), icmp) = (known.protocol, known.original, known.icmp);
        let frontend = frontends.get((protocol, client, server));
        let connection = Connection { protocol, client, server, icmp, frontend };
        let (policy, direction) = resets.denies(&connection)?;
        Some(Denied { connection, direction, policy: policy.clone() })
    });
    judged.collect()
}

impl PolicyHandle {
    async fn ended_before(&self) -> Known {
        recalled(notes::read(&self.ended_file).await.unwrap_or_default(), unix_time())
    }

    /// Has the bridge know, before it forwards by the flows of this life, what it may still meet of connections that ended
    /// in the last one.
    ///
    /// # Errors
    /// The bridge is away or refuses.
    pub async fn stage_ended(&self, dataplane: &Dataplane) -> Result<(), DataplaneError> {
        remember(dataplane, &self.ended_before().await).await
    }
}

/// Has the bridge know what of the ended connections it may still meet.
async fn remember(dataplane: &Dataplane, known: &Known) -> Result<(), DataplaneError> {
    let flows = antrea_flows::ended(dataplane.network(), known.iter());
    dataplane.set(Owner::Ended, Change::flows(flows)).await
}

impl Ender {
    async fn follow(&mut self, resets: Arc<Resets>) -> Result<(), EndError> {
        if resets.is_empty() {
            let ended = std::mem::take(&mut self.ended);
            if !ended.all.is_empty()
                && let Err(error) = self.remember().await
            {
                // The bridge has them still, and the next try takes them away.
                self.ended = ended;
                return Err(error.into());
            }
            return Ok(());
        }
        // What the tracker takes in until then may still be by the rules of before.
        self.ways.settled.wait().await;
        let families: Vec<_> = self.ways.dataplane.network().pipeline.families().collect();
        for family in families {
            let frontends = self.frontends(family.service_zone(), resets.named_services()).await?;
            let frontends = Arc::new(frontends);
            let mut tracked = TrackedIn::zone(&self.ways.run_dir, self.ways.datapath, family.zone()).await?;
            while let Some(some) = tracked.next().await? {
                let (resets, frontends, own) = (resets.clone(), frontends.clone(), self.own());
                let judged = move || denied(&resets, &frontends, &own, &some);
                let denied = tokio::task::spawn_blocking(judged).await.map_err(|_| EndError::Closed)?;
                for denied in denied.chunks(TOGETHER) {
                    self.end(denied).await?;
                }
            }
        }
        Ok(())
    }

    /// Addresses of the node at which its pods see it.
    fn own(&self) -> Vec<IpAddr> {
        self.ways.dataplane.network().node.gateway.ips.clone()
    }

    /// Connections to these Services, as the bridge translates them.
    async fn frontends(&self, zone: u16, named: HashSet<Frontend>) -> Result<Frontends, CtlError> {
        let mut frontends = Frontends::new(named);
        if frontends.named.is_empty() {
            return Ok(frontends);
        }
        let mut tracked = TrackedIn::zone(&self.ways.run_dir, self.ways.datapath, zone).await?;
        while let Some(some) = tracked.next().await? {
            for Tracked { protocol, original: (client, address), reply: (server, _), .. } in some {
                frontends.insert((protocol, client, server), Frontend { protocol, address });
            }
        }
        Ok(frontends)
    }

    async fn end(&mut self, denied: &[Denied]) -> Result<(), EndError> {
        let now = unix_time();
        for denied in denied {
            let Connection { protocol, client, server, .. } = denied.connection;
            self.ended.insert(denied.pod(), Ended { protocol, client, server }, now);
        }
        self.remember().await?;
        let connections: Vec<_> = denied.iter().map(|denied| denied.connection).collect();
        self.ways.connections.end(&connections).await?;
        let mut counts: HashMap<(&Arc<str>, Direction), u64> = HashMap::new();
        for denied in denied {
            *counts.entry((&denied.policy, denied.direction)).or_default() += 1;
        }
        for ((policy, direction), count) in counts {
            let direction = match direction {
                Direction::In => "ingress",
                Direction::Out => "egress",
            };
            self.count.with_label_values(&[direction]).inc_by(count);
            tracing::info!(%policy, direction, count, "established connections ended");
        }
        Ok(())
    }

    /// Has the bridge, and the agent's next life, know of them.
    async fn remember(&self) -> Result<(), DataplaneError> {
        remember(&self.ways.dataplane, &self.ended).await?;
        // That it cannot be kept is told, and no reason to let a connection live.
        notes::write(&self.file, &notes_of(&self.ended)).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use antrea_runtime::metrics::Metrics;
    use netcfg::Netns;

    use super::*;
    use crate::dataplane::fake::{Rig, deletes};
    use crate::metrics::PolicyMetrics;

    /// What the bridge does not let go now is no longer wanted all the same.
    #[tokio::test]
    async fn what_the_bridge_did_not_forget_is_forgotten_later() {
        let folder = tempfile::tempdir().unwrap();
        let rig = Rig::started().await;
        let ways = Ways {
            dataplane: rig.dataplane.clone(),
            connections: Connections::new(rig.session.clone(), Netns::open("/proc/self/ns/net").unwrap()),
            settled: Settled::new(rig.session.clone(), folder.path().into(), rig.dataplane.network()),
            run_dir: folder.path().into(),
            datapath: Datapath::Userspace,
        };
        let [client, server]: [SocketAddr; 2] = ["10.0.0.1:9", "10.0.0.2:80"].map(|end| end.parse().unwrap());
        let mut ended = Known::default();
        ended.insert(client.ip(), Ended { protocol: Protocol::Tcp, client, server }, unix_time());
        let file = Arc::from(folder.path().join("ended.json"));
        let count = PolicyMetrics::new(&Metrics::empty()).unwrap().ended;
        let mut ender = Ender { ways, ended, file, count };
        ender.remember().await.unwrap();
        assert!(!rig.switch.flows().is_empty());
        rig.switch.refuse(deletes);
        ender.follow(Arc::default()).await.unwrap_err();
        rig.switch.refuse(|_| false);
        ender.follow(Arc::default()).await.unwrap();
        assert!(rig.switch.flows().is_empty(), "{:?}", rig.switch.flows());
    }

    #[test]
    fn what_ended_is_known_again_for_as_long_as_its_packets_are_refused() {
        let ended = |protocol, port| Ended {
            protocol,
            client: SocketAddr::new("10.0.0.1".parse().unwrap(), port),
            server: SocketAddr::new("2001:db8::1".parse().unwrap(), 80),
        };
        let [tcp, udp] = [(ended(Protocol::Tcp, 1), 1_000), (ended(Protocol::Udp, 2), 2_000)];
        let pod = tcp.0.server.ip();
        let known = |of: &[(Ended, u64)]| {
            let mut known = Known::default();
            of.iter().for_each(|(ended, at)| known.insert(pod, *ended, *at));
            known
        };
        let text =
            serde_json::to_string(&notes_of(&known(&[tcp, udp, (ended(Protocol::Icmp, 3), 2_000)]))).unwrap();
        let read = || serde_json::from_str::<Vec<Note>>(&text).unwrap();
        let lasts = u64::from(REFUSED_FOR);
        assert_eq!(recalled(read(), 1_000 + lasts - 1), known(&[tcp, udp]), "nothing comes of ICMP");
        assert_eq!(recalled(read(), 1_000 + lasts), known(&[udp]));
        // A clock that was put back makes nothing forgotten.
        assert_eq!(recalled(read(), 0), known(&[tcp, udp]));
        let before =
            r#"[{"protocol": "TCP", "client": "10.0.0.1:1", "server": "[2001:db8::1]:80", "at": 1000}]"#;
        let of_before = recalled(serde_json::from_str(before).unwrap(), 1_000);
        assert_eq!(of_before.iter().collect::<Vec<_>>(), [&tcp.0], "without a pod");
    }

    #[test]
    fn what_ends_for_one_pod_makes_no_other_ones_forgotten() {
        let denied = |direction, port: u16| Denied {
            connection: Connection {
                protocol: Protocol::Tcp,
                client: SocketAddr::new("10.0.0.1".parse().unwrap(), port),
                server: "10.0.0.2:80".parse().unwrap(),
                icmp: None,
                frontend: None,
            },
            direction,
            policy: "a policy".into(),
        };
        let mut known = Known::default();
        let mut end = |denied: Denied| {
            let Connection { protocol, client, server, .. } = denied.connection;
            let ended = Ended { protocol, client, server };
            known.insert(denied.pod(), ended, 0);
            ended
        };
        let of_server = end(denied(Direction::In, 1));
        let of_client: Vec<_> = (1_000..6_000).map(|port| end(denied(Direction::Out, port))).collect();
        let kept: HashSet<_> = known.iter().copied().collect();
        assert!(kept.contains(&of_server));
        assert_eq!(kept.len(), REMEMBERED);
        let (forgotten, remembered) = of_client.split_at(of_client.len() - (REMEMBERED - 1));
        assert!(remembered.iter().all(|ended| kept.contains(ended)));
        assert!(!forgotten.iter().any(|ended| kept.contains(ended)), "its first are");
    }
}
