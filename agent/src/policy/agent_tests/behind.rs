//! What the bridge, or its datapath, takes later than it was told.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use openflow::{Field, Match, PacketIn2, SubField};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;
use crate::dataplane::fake::Rig;
use crate::metrics::DnsMetrics;
use crate::ovs::settled::Settled;

/// Open vSwitch's socket for commands; counts the comparisons that were waited for.
fn comparisons(folder: &Path) -> Arc<AtomicUsize> {
    std::fs::write(folder.join("ovs-vswitchd.pid"), "42").unwrap();
    let listener = UnixListener::bind(folder.join("ovs-vswitchd.42.ctl")).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counting = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 256]).await;
            counting.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(b"{\"id\": 0, \"result\": \"\", \"error\": null}").await;
        }
    });
    count
}

const UDP: u8 = 17;
const TCP: u8 = 6;
const SYN: u8 = 2;
const ACK: u8 = 16;
const RST: u8 = 4;

/// What a server says: a name and an address of it.
fn message(name: &str, address: &str) -> Vec<u8> {
    let mut message = antrea_packet::dns_query(1, name, antrea_packet::DnsQuestion::A).unwrap();
    // An answer, of one record.
    message[2] |= 0x80;
    message[7] = 1;
    let address: Ipv4Addr = address.parse().unwrap();
    message.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4]);
    message.extend(address.octets());
    message
}

/// A packet of a server's port to a pod's, as the bridge sends it up.
fn sent_up(ofport: u32, protocol: u8, segment: &[u8]) -> PacketIn2 {
    let mut frame = [&[2; 12][..], &[8, 0, 0x45, 0]].concat();
    frame.extend(u16::try_from(20 + segment.len()).unwrap().to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 198, 18, 0, 53, 10, 0, 0, 21]);
    frame.extend(segment);
    PacketIn2 {
        userdata: vec![antrea_flows::DNS_PACKET_IN].into(),
        metadata: Match::new().bits(SubField::whole(Field::Reg1), ofport.into()),
        packet: frame.into(),
        ..PacketIn2::default()
    }
}

fn by_udp(ofport: u32, name: &str, address: &str) -> PacketIn2 {
    let message = message(name, address);
    let length = u16::try_from(8 + message.len()).unwrap().to_be_bytes();
    sent_up(ofport, UDP, &[&[0, 53, 16, 0, length[0], length[1], 0, 0][..], &message].concat())
}

fn by_tcp(ofport: u32, sequence: u32, flags: u8, data: &[u8]) -> PacketIn2 {
    let header = [&[0, 53, 16, 0][..], &sequence.to_be_bytes(), &[0, 0, 0, 9, 0x50, flags, 2, 0, 0, 0, 0, 0]];
    sent_up(ofport, TCP, &[&header.concat(), data].concat())
}

/// Frames, and whom they went to.
type Delivered = Arc<Mutex<Vec<(u32, Vec<u8>)>>>;

/// Two pods that a rule with domain names applies to, on a node that holds what they are answered.
struct Held {
    node: Node,
    answers: tokio::sync::mpsc::Sender<PacketIn2>,
    delivered: Delivered,
    metrics: Metrics,
    holding: JoinHandle<()>,
    _controller: Fake,
    _folder: tempfile::TempDir,
}

impl Held {
    async fn start<S: Future<Output = ()> + Send + 'static>(
        settle: impl Fn() -> S + Clone + Send + Sync + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut rule = native_rule("Drop", &[]);
        (rule.direction, rule.from) = ("Out".into(), NetworkPolicyPeer::default());
        rule.to.fqdns = vec!["*.example.com".into()];
        let pods = applied_to_group("a", &["web-0", "web-1"]);
        let controller =
            Fake::start(vec![pods, Event::Policy(native("N", (250, 5.0), "a", vec![rule]))]).await;
        let node = Node::start(folder.path(), controller.target(), LONG);
        node.remember(local_pod("web-0", 21, "10.0.0.21"));
        node.remember(local_pod("web-1", 22, "10.0.0.22"));
        node.attach().await.unwrap();
        let (answers, queue) = tokio::sync::mpsc::channel(256);
        let delivered = Delivered::default();
        let metrics = Metrics::empty();
        let counts = DnsMetrics::new(&metrics).unwrap();
        let (handle, took) = (node.handle.clone(), delivered.clone());
        let holding = tokio::spawn(async move {
            let deliver = |ofport, frame| {
                took.lock().push((ofport, frame));
                std::future::ready(true)
            };
            handle.hold(queue, (Duration::ZERO, 1500), settle, deliver, &counts).await;
        });
        Self { node, answers, delivered, metrics, holding, _controller: controller, _folder: folder }
    }

    async fn answer(&self, packet: PacketIn2) {
        self.answers.send(packet).await.unwrap();
    }

    fn count(&self, ofport: u32) -> usize {
        self.delivered.lock().iter().filter(|(to, _)| *to == ofport).count()
    }

    async fn until_delivered(&self, ofport: u32, count: usize) {
        eventually("delivered", || self.count(ofport) >= count).await;
        assert_eq!(self.count(ofport), count);
    }

    fn outcome(&self, name: &str) -> usize {
        let line = format!("antrea_agent_dns_answers_total{{outcome=\"{name}\"}} ");
        let text = self.metrics.encode().unwrap();
        text.lines().find_map(|text| text.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    async fn stop(self) {
        drop(self.answers);
        self.holding.await.unwrap();
        self.node.stop().await;
    }
}

/// Whoever made an address known: no answer goes on before the datapath goes by the rules that have it.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_the_datapath_whoever_told_of_its_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::started().await;
    let asked = comparisons(folder.path());
    let settled = Settled::new(rig.session.clone(), folder.path().into(), rig.dataplane.network());
    let settle = move || {
        let settled = settled.clone();
        async move { settled.wait().await }
    };
    let held = Held::start(settle).await;
    // Known for the first time; the same; known by somebody who did not wait; known without time to wait.
    let cases =
        [("192.0.2.1", false, 2), ("192.0.2.1", false, 2), ("192.0.2.2", true, 4), ("192.0.2.2", false, 4)];
    for (count, (address, told_before, comparisons)) in (1..).zip(cases) {
        if told_before {
            let addresses = vec![(address.parse().unwrap(), 300)];
            let names = vec!["www.example.com".into()];
            let answers = vec![DnsAnswer { names, addresses, ..DnsAnswer::default() }];
            let pod = Receiver::Port(21);
            let learn = held.node.handle.request(|reply| Request::Learn(pod, answers, Duration::ZERO, reply));
            learn.await.unwrap();
        }
        held.answer(by_udp(21, "www.example.com", address)).await;
        held.until_delivered(21, count).await;
        assert_eq!(asked.load(Ordering::Relaxed), comparisons, "{address}");
    }
    held.stop().await;
}

/// One pod's answers wait for rules, or for ever: another's go on, and what was read of its streams is not forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn a_pods_answers_do_not_wait_for_anothers_and_are_not_lost_with_them() {
    let stuck = Arc::new(AtomicBool::new(false));
    let is_stuck = stuck.clone();
    let settle = move || {
        let is_stuck = is_stuck.clone();
        async move {
            while is_stuck.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
    };
    let held = Held::start(settle).await;
    held.answer(by_udp(22, "known.example.com", "192.0.2.1")).await;
    held.until_delivered(22, 1).await;
    // Half an answer by TCP.
    let message = message("known.example.com", "192.0.2.1");
    let octets = [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat();
    let (first, second) = octets.split_at(20);
    held.answer(by_tcp(22, 99, SYN | ACK, &[])).await;
    held.answer(by_tcp(22, 100, ACK, first)).await;
    held.until_delivered(22, 3).await;

    stuck.store(true, Ordering::Relaxed);
    let begin = Instant::now();
    for n in 0..40 {
        held.answer(by_udp(21, &format!("new{n}.example.com"), "192.0.2.2")).await;
    }
    held.answer(by_udp(22, "known.example.com", "192.0.2.1")).await;
    held.until_delivered(22, 4).await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!((held.count(21), held.outcome("not_realized"), held.outcome("crowded")), (0, 0, 8));
    eventually("lost", || held.outcome("not_realized") == 32).await;
    assert!(begin.elapsed() >= Duration::from_secs(3));
    held.answer(by_tcp(22, 100 + 20, ACK, second)).await;
    held.until_delivered(22, 5).await;
    let last = held.delivered.lock().last().cloned().unwrap().1;
    assert_eq!((last[47] & RST, held.outcome("ended")), (0, 0), "it was ended");

    // What rules know, and the datapath does not go by, waits again.
    held.answer(by_udp(21, "new0.example.com", "192.0.2.2")).await;
    held.answer(by_udp(22, "known.example.com", "192.0.2.1")).await;
    held.until_delivered(22, 6).await;
    assert_eq!(held.count(21), 0);
    stuck.store(false, Ordering::Relaxed);
    held.until_delivered(21, 1).await;
    held.stop().await;
}
