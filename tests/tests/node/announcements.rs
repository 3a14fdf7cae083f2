//! A new pod tells its neighbours who has its addresses now, three times.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antrea_tests::lab::{Lab, Pod};
use antrea_tests::raw;
use netcfg::MacAddr;
use netcfg::garp::{gratuitous_arp, neighbour_advertisement};
use parking_lot::Mutex;
use tokio::net::UnixDatagram;
use tokio::task::JoinHandle;

/// Between two announcements; a busy machine may be late, and never early.
const BETWEEN: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_announces_its_addresses_three_times() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[]).await;
    lab.add_ipv6();
    lab.start_agents().await;
    let neighbour = lab.add_pod(0, "neighbour");
    let netns = lab.pod_netns(0, "new");
    let sent = Heard::of(raw::listen(&netns).await);
    let arrived = Heard::of(raw::listen(&neighbour.netns).await);
    let (output, text) = lab.nodes[0].cni("ADD", "new-0123456789abcdef", &netns, "1.0.0", None);
    assert!(output.status.success(), "{text}");
    let pod = Pod::of("new", "new-0123456789abcdef", netns, serde_json::from_str(&text).unwrap());
    tokio::time::sleep(Duration::from_secs(2)).await;

    let mac: MacAddr = pod.mac.parse().unwrap();
    for ip in pod.ips() {
        let announcement = match ip {
            IpAddr::V4(ip) => gratuitous_arp(mac, ip),
            IpAddr::V6(ip) => neighbour_advertisement(mac, ip),
        };
        let times = sent.times(&announcement);
        assert_eq!(times.len(), 3, "{ip}");
        let span = times[2] - times[0];
        // The task that sends may be late once and on time again.
        assert!(span > BETWEEN && span < BETWEEN * 20, "{ip}: {span:?}");
        // The bridge drops a frame that comes while it takes a new port in. That is why there are three.
        let arrived = arrived.times(&announcement).len();
        assert!((1..=3).contains(&arrived), "{ip}: {arrived} announcements arrived");
    }
}

/// Frames and when they were heard.
struct Heard {
    frames: Arc<Mutex<Vec<(Instant, Vec<u8>)>>>,
    listening: JoinHandle<()>,
}

impl Heard {
    fn of(socket: UnixDatagram) -> Self {
        let frames: Arc<Mutex<Vec<(Instant, Vec<u8>)>>> = Arc::default();
        let heard = frames.clone();
        let listening = tokio::spawn(async move {
            let mut buffer = [0; 2048];
            while let Ok(length) = socket.recv(&mut buffer).await {
                heard.lock().push((Instant::now(), buffer[..length].to_vec()));
            }
        });
        Self { frames, listening }
    }

    /// When frames that begin like this were heard.
    fn times(&self, beginning: &[u8]) -> Vec<Instant> {
        let frames = self.frames.lock();
        frames.iter().filter(|(_, frame)| frame.starts_with(beginning)).map(|(time, _)| *time).collect()
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.listening.abort();
    }
}
