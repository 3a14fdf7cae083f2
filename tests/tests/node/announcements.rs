//! A new pod tells its neighbours who has its addresses now, three times.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use antrea_tests::lab::Lab;
use antrea_tests::raw;
use netcfg::MacAddr;
use netcfg::garp::{gratuitous_arp, neighbour_advertisement};
use parking_lot::Mutex;

/// Between two announcements; a busy machine may be late, and never early.
const BETWEEN: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_announces_its_addresses_three_times() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[]).await;
    lab.add_ipv6();
    lab.start_agents().await;
    let neighbour = lab.add_pod(0, "neighbour");
    let heard: Arc<Mutex<Vec<(Instant, Vec<u8>)>>> = Arc::default();
    let (frames, socket) = (heard.clone(), raw::open(&neighbour.netns, "eth0").await);
    let listening = tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok(length) = socket.receive(&mut buffer).await {
            frames.lock().push((Instant::now(), buffer[..length].to_vec()));
        }
    });
    let pod = lab.add_pod(0, "new");
    let answered = Instant::now();
    tokio::time::sleep(Duration::from_secs(2)).await;
    listening.abort();

    let mac: MacAddr = pod.mac.parse().unwrap();
    for ip in pod.ips() {
        let announcement = match ip {
            IpAddr::V4(ip) => gratuitous_arp(mac, ip),
            IpAddr::V6(ip) => neighbour_advertisement(mac, ip),
        };
        let times: Vec<Instant> = {
            let heard = heard.lock();
            let of_pod = heard.iter().filter(|(_, frame)| frame.starts_with(&announcement));
            of_pod.map(|(time, _)| *time).collect()
        };
        assert_eq!(times.len(), 3, "{ip}");
        // The listener may have been late for the first.
        let span = times[2] - times[0];
        assert!(span > BETWEEN && span < BETWEEN * 20, "{ip}: {span:?}");
        assert!(times[2] > answered, "{ip}: ADD waited for the last");
    }
}
