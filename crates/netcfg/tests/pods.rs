//! What a CNI ADD asks of this crate, 200 times; alone in its process because it counts open files.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may")]

mod common;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use common::{Host, veth};
use ipnet::IpNet;
use netcfg::{MacAddr, Neighbour, Netns, Route};

#[tokio::test]
async fn pods_come_and_go_and_leave_nothing() {
    const PODS: usize = 200;
    let fds_before = open_files();
    let host = Host::new().await;
    let links_before = host.nl.links().await.unwrap().len();
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut pods = Vec::new();
    for i in 0..PODS {
        let pod = Netns::unshare().await.unwrap();
        let begin = Instant::now();
        let name = format!("pod{i}-abcdef");
        let pair = host.nl.create_veth(&veth(&name, "eth0", &pod)).await.unwrap();
        host.nl.set_up(pair.host.index).await.unwrap();
        let nl = pod.spawn_netlink().await.unwrap();
        nl.set_up(pair.peer_index).await.unwrap();
        let address = IpNet::new(IpAddr::from([10, 10, 0, (i + 2) as u8]), 24).unwrap();
        nl.apply_addresses(pair.peer_index, &[address]).await.unwrap();
        let gateway = IpAddr::from([10, 10, 0, 1]);
        nl.set_route(&Route::default_v4().via(gateway).dev(pair.peer_index)).await.unwrap();
        nl.set_neighbour(pair.peer_index, Neighbour { ip: gateway, mac: MacAddr([2, 0, 0, 0, 0, 0xfe]) })
            .await
            .unwrap();
        slowest = slowest.max(begin.elapsed());
        pods.push((pod, name));
    }
    let up = started.elapsed();
    assert_eq!(host.nl.links().await.unwrap().len(), links_before + PODS);
    let begin = Instant::now();
    for (_, name) in &pods {
        assert!(host.nl.delete_link(name).await.unwrap());
    }
    let down = begin.elapsed();
    println!(
        "{PODS} pods: set-up {:.2} ms each (slowest {:.2} ms, with namespace creation), delete {:.2} ms each",
        up.as_secs_f64() * 1e3 / PODS as f64,
        slowest.as_secs_f64() * 1e3,
        down.as_secs_f64() * 1e3 / PODS as f64
    );
    let last_links = pods[PODS - 1].0.spawn_netlink().await.unwrap().links().await.unwrap();
    assert_eq!(last_links.len(), 1, "only lo is left inside");
    drop(pods);
    assert_eq!(host.nl.links().await.unwrap().len(), links_before);
    drop((last_links, host));
    // Sockets close when their aborted drivers are polled.
    for _ in 0..100 {
        if open_files() <= fds_before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(open_files() <= fds_before, "{fds_before} files open before, {} after", open_files());
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
