//! Answers of DNS servers to pods to which rules with domain names apply: each waits here until the rules have its addresses.
//!
//! An answer is let go only when policy knows all that it says: a rule that denies would else come after the connection that
//! it is about. What cannot be known in time or for want of room, or be read, is not let go, and the pod asks again.
//!
//! A TCP stream waits from the segment on that completes an answer: of a pod that has an answer to wait for nothing that came
//! later goes before it, for it may be the same segment again.

mod again;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use antrea_enforce::dns::{Learned, Receiver, Remembered};
use antrea_enforce::pods::Attachment;
use antrea_packet::{DnsAnswer, DnsPacket, DnsStreams};
use openflow::PacketIn2;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use super::handle::{PolicyError, PolicyHandle, Request};
use super::notes;
use crate::dataplane::{Dataplane, Subscriber};
use crate::metrics::{DnsMetrics, Outcome};
use crate::ovs::settled::Settled;

/// How long an answer waits for its rules and for the datapath. Resolvers ask again after five seconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// Answers that wait together.
const TOGETHER: usize = 64;

/// How soon after a change what is known is on disk.
const EVERY: Duration = Duration::from_secs(1);

/// Addresses, and until which second of Unix time each is one.
type Until = BTreeMap<IpAddr, u64>;

/// What is kept on disk.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Record {
    Pods {
        pods: Vec<OfPod>,
    },
    /// As agents wrote it that did not keep whom it was told.
    Names(Names),
}

/// What is kept of names.
type Names = BTreeMap<Arc<str>, Noted>;

/// What is kept of what a pod was told.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct OfPod {
    /// Container id and name of the interface in it; none where nobody knows who was told.
    attachment: Option<Arc<Attachment>>,
    names: Names,
}

/// What is kept of a name.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Noted {
    /// With the name that was asked for, and of whom.
    Asked { until: Until, asked: Option<(Arc<str>, IpAddr)> },
    /// As agents wrote it that did not ask again.
    Told(Until),
}

/// How answers are dealt with.
#[derive(Clone, Debug)]
pub struct DnsSettings {
    /// For how long addresses remain at least.
    pub shortest: Duration,
    /// Octets of the longest packet that pods take.
    pub mtu: usize,
    /// The datapath.
    pub settled: Settled,
}

/// An answer that waits.
struct Held {
    ofport: u32,
    frames: Vec<Vec<u8>>,
    outcome: Outcome,
}

impl PolicyHandle {
    /// Holds answers until rules know them, for ever.
    pub async fn follow_dns(&self, dataplane: &Dataplane, settings: DnsSettings, metrics: &DnsMetrics) {
        let mut queue = dataplane.subscribe(Subscriber::Dns);
        let mut packets = Vec::with_capacity(TOGETHER);
        let mut streams = DnsStreams::default();
        // Of so many addresses that rules were given, the datapath goes by the rules.
        let mut settled = 0;
        while queue.recv_many(&mut packets, TOGETHER).await > 0 {
            let begin = Instant::now();
            let (mut told, mut waiting) = (Vec::new(), Vec::<Held>::new());
            for packet in packets.drain(..) {
                let (held, found) = match read(&packet, &mut streams, settings.mtu, begin) {
                    Ok(read) => read,
                    Err(outcome) => {
                        metrics.answered(outcome, begin.elapsed());
                        continue;
                    }
                };
                if found.is_empty() && waiting.iter().all(|before| before.ofport != held.ofport) {
                    deliver(dataplane, held, begin, metrics).await;
                } else {
                    told.push((held.ofport, found));
                    waiting.push(held);
                }
            }
            if waiting.is_empty() {
                continue;
            }
            let known = self.learn(told, &settings, &mut settled);
            let known = tokio::time::timeout(PATIENCE, known).await.unwrap_or_default();
            let mut lost = BTreeSet::new();
            for (at, held) in waiting.into_iter().enumerate() {
                if known.get(at) == Some(&true) && !lost.contains(&held.ofport) {
                    deliver(dataplane, held, begin, metrics).await;
                } else {
                    streams.forget(held.ofport);
                    metrics.answered(Outcome::NotRealized, begin.elapsed());
                    lost.insert(held.ofport);
                }
            }
            if !lost.is_empty() {
                tracing::warn!(pods = lost.len(), "rules cannot have DNS's answers: pods have to ask again");
            }
        }
    }

    /// Has rules know what DNS told pods, in the bridge and in what the datapath has made of it; says of what each was told
    /// whether they know all of it.
    /// What others have made rules know (as who asks again), or what was known without time to wait for the datapath, is
    /// waited for here, too.
    pub(super) async fn learn(
        &self,
        told: Vec<(u32, Vec<DnsAnswer>)>,
        settings: &DnsSettings,
        settled: &mut u64,
    ) -> Vec<bool> {
        let learn = |(ofport, answers)| {
            let receiver = Receiver::Port(ofport);
            self.request(move |reply| Request::Learn(receiver, answers, settings.shortest, reply))
        };
        let learned = futures::future::join_all(told.into_iter().map(learn)).await;
        let news: Vec<Option<u64>> = learned.into_iter().map(held).collect();
        let newest = news.iter().flatten().copied().max().unwrap_or_default();
        if newest > *settled {
            settings.settled.wait().await;
            *settled = newest;
        }
        news.into_iter().map(|news| news.is_some()).collect()
    }

    /// Keeps what is known on disk, for ever.
    pub async fn keep_dns(&self) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut version = 0;
        loop {
            tick.tick().await;
            let (reply, answer) = oneshot::channel();
            if self.requests.send(Request::Dns(version, reply)).await.is_err() {
                return;
            }
            if let Ok(Some((now, names))) = answer.await
                && notes::write(&self.dns_file, &record(names, unix_time())).await
            {
                version = now;
            }
        }
    }

    /// What was known in the agent's last life.
    pub async fn dns_before(&self) -> Vec<Remembered> {
        let record: Option<Record> = notes::read(&self.dns_file).await;
        record.map(|record| recalled(record, unix_time())).unwrap_or_default()
    }
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// The last news of what was learned; none if not all of it is held.
fn held(learned: Result<Vec<Learned>, PolicyError>) -> Option<u64> {
    let news = |learned: Learned| if let Learned::Held(news) = learned { Some(news) } else { None };
    learned.ok()?.into_iter().map(news).try_fold(0, |newest, news| Some(news?.max(newest)))
}

fn record(remembered: Vec<Remembered>, now: Duration) -> Record {
    let until = |left: Duration| (now + left).as_secs() + 1;
    let mut pods: BTreeMap<Option<Arc<Attachment>>, Names> = BTreeMap::new();
    for Remembered { pod, name, addresses, asked } in remembered {
        let until = addresses.into_iter().map(|(ip, left)| (ip, until(left))).collect();
        pods.entry(pod).or_default().insert(name, Noted::Asked { until, asked });
    }
    Record::Pods { pods: pods.into_iter().map(|(attachment, names)| OfPod { attachment, names }).collect() }
}

fn recalled(record: Record, now: Duration) -> Vec<Remembered> {
    let pods = match record {
        Record::Pods { pods } => pods,
        Record::Names(names) => vec![OfPod { attachment: None, names }],
    };
    let left = |until: u64| Duration::from_secs(until).checked_sub(now);
    let remembered = |pod: Option<Arc<Attachment>>, name, noted| {
        let (all, asked) = match noted {
            Noted::Asked { until, asked } => (until, asked),
            Noted::Told(until) => (until, None),
        };
        let addresses = all.into_iter().filter_map(|(ip, until)| Some((ip, left(until)?))).collect();
        Remembered { pod, name, addresses, asked }
    };
    pods.into_iter()
        .flat_map(|OfPod { attachment, names }| {
            names.into_iter().map(move |(name, noted)| remembered(attachment.clone(), name, noted))
        })
        .collect()
}

/// What a packet-in brings for its receiver, and what it tells; what becomes of it where nothing is to be let go.
fn read(
    packet: &PacketIn2,
    streams: &mut DnsStreams,
    mtu: usize,
    now: Instant,
) -> Result<(Held, Vec<DnsAnswer>), Outcome> {
    let ofport = antrea_flows::dns_receiver(packet).ok_or(Outcome::Malformed)?;
    match streams.read(ofport, &packet.packet, now) {
        DnsPacket::Answers(mut found) => {
            let server = antrea_packet::parse(&packet.packet).map(|headers| headers.src);
            found.iter_mut().for_each(|answer| answer.server = server);
            // The packet does not come to a card any more that could do the rest.
            let frames = antrea_packet::without_offload(&packet.packet, mtu).ok_or(Outcome::Malformed)?;
            Ok((Held { ofport, frames, outcome: Outcome::Delivered }, found))
        }
        DnsPacket::Ended(reset) => {
            Ok((Held { ofport, frames: vec![reset], outcome: Outcome::Ended }, Vec::new()))
        }
        DnsPacket::Early => Err(Outcome::Early),
        DnsPacket::Malformed => Err(Outcome::Malformed),
    }
}

async fn deliver(dataplane: &Dataplane, held: Held, begin: Instant, metrics: &DnsMetrics) {
    let Held { ofport, frames, outcome } = held;
    for frame in frames {
        let sent = dataplane.session().packet_out(antrea_flows::deliver_dns(ofport, frame)).await;
        if let Err(error) = sent {
            tracing::debug!(%error, "a pod does not get DNS's answer");
            return metrics.answered(Outcome::NotRealized, begin.elapsed());
        }
    }
    metrics.answered(outcome, begin.elapsed());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_known_is_known_again_for_the_time_that_is_left() {
        let now = Duration::from_millis(1_000_400);
        let [a, b]: [IpAddr; 2] = ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        let pod = Arc::new(("c1".to_owned(), "eth0".to_owned()));
        let names = vec![Remembered {
            pod: Some(pod.clone()),
            name: "a.example".into(),
            addresses: vec![(a, Duration::from_secs(30)), (b, Duration::from_secs(3))],
            asked: Some(("www.example".into(), b)),
        }];
        let written = record(names.clone(), now);
        let Record::Pods { pods } = &written else { panic!("{written:?}") };
        // Whole seconds, rounded up: nothing goes early.
        let until = [(a, 1031), (b, 1004)].into();
        let noted = Noted::Asked { until, asked: names[0].asked.clone() };
        assert_eq!(
            pods[..],
            [OfPod { attachment: Some(pod.clone()), names: [("a.example".into(), noted)].into() }]
        );
        let text = serde_json::to_string(&written).unwrap();
        let read: Record = serde_json::from_str(&text).unwrap();
        let later = recalled(read, now + Duration::from_secs(10));
        assert_eq!(later[0].addresses, [(a, Duration::from_millis(20_600))]);
        assert_eq!((&later[0].pod, &later[0].asked), (&Some(pod), &names[0].asked));
        // As it was written before it was asked again, and before it was kept whom it was told.
        let before = [
            "{\"a.example\": {\"192.0.2.1\": 1031}}",
            "{\"a.example\": {\"until\": {\"192.0.2.1\": 1031}, \"asked\": [\"www.example\", \"2001:db8::1\"]}}",
        ];
        for (text, asked) in before.into_iter().zip([&None, &names[0].asked]) {
            let old = recalled(serde_json::from_str(text).unwrap(), now);
            assert_eq!((old[0].addresses.len(), &old[0].asked, &old[0].pod), (1, asked, &None));
        }
        assert!(recalled(serde_json::from_str("{}").unwrap(), now).is_empty());
    }
}
