//! What breaks when something restarts: nothing that was established.

use std::time::{Duration, Instant};

use antrea_tests::iperf;
use antrea_tests::lab::{Datapath, Lab, LabNode, eventually};
use antrea_tests::traffic::{Pinger, Stream, ping, quick_ping};

/// An established connection answers at once; a busy machine takes this long.
const ANSWER: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_restart_breaks_nothing() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[]).await;
    let a = lab.add_pod(0, "a");
    let c = lab.add_pod(1, "c");
    assert!(ping(&a.netns, c.ip, 56, true));
    let mut stream = Stream::open(&a.netns, &c.netns, c.ip, 7000).await;
    let pinger = Pinger::start(&a.netns, c.ip, 240);
    for _ in 0..2 {
        restart_agents(&mut lab, &mut stream).await;
    }
    let count = pinger.stop();
    println!("agent restart, 10 ms ping: {} sent, {} lost", count.sent, count.sent - count.received);
    assert!(count.sent > 50, "{count:?}");
    // What stops forwarding while no agent runs loses ten times as many.
    assert!((count.sent - count.received) * 100 <= count.sent, "lost pings: {count:?}");

    // Beside a stream a queue may overflow on a busy machine; what stops forwarding loses far more.
    let load = iperf::Stream::start(&a.netns, &c.netns, c.ip);
    let pinger = Pinger::start(&a.netns, c.ip, 240);
    for _ in 0..2 {
        restart_agents(&mut lab, &mut stream).await;
    }
    let count = pinger.stop();
    let carried = load.stop().unwrap();
    let lost = count.sent - count.received;
    println!("agent restart, 10 ms ping beside iperf3: {} sent, {lost} lost", count.sent);
    println!("agent restart, iperf3: {carried:?}");
    let still = carried.seconds.windows(2).any(|pair| pair == [0, 0]);
    assert!(!still, "the stream stood still: {carried:?}");
    assert!(lost * 20 < count.sent, "{lost} of {} pings lost", count.sent);

    // Flows are of the new round only, and a new pod works.
    let round = lab.nodes[0].ovs.vsctl(&["get", "bridge", "br-int", "external_ids:roundNum"]).unwrap();
    assert_eq!(round.trim().trim_matches('"'), "5");
    let flows = lab.nodes[0].ofctl("dump-flows", &[]);
    for line in flows.lines().filter(|line| line.contains("cookie=")) {
        assert!(line.contains("cookie=0x5"), "a flow of an earlier round: {line}");
    }
    let b = lab.add_pod(0, "b");
    assert!(ping(&b.netns, c.ip, 56, true));
}

/// Ends both agents and starts them again; an established connection works all the time.
async fn restart_agents(lab: &mut Lab, stream: &mut Stream) {
    for index in 0..2 {
        lab.nodes[index].stop_agent();
    }
    // Without agents pods keep talking.
    stream.exchange(ANSWER).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    for index in 0..2 {
        lab.start_agent(index);
    }
    for index in 0..2 {
        let took = lab.wait_ready(index).await;
        println!("node{} ready after {took:?}", index + 1);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stream.exchange(ANSWER).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_ovsdb_server() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(2, &[]).await;
    let a = lab.add_pod(0, "a");
    let c = lab.add_pod(1, "c");
    assert!(ping(&a.netns, c.ip, 56, true));
    let pinger = Pinger::start(&a.netns, c.ip, 30);
    lab.nodes[0].ovs.kill_db().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let count = pinger.stop();
    println!("without ovsdb-server, 10 ms ping: {} sent, {} lost", count.sent, count.sent - count.received);
    // ovs-vswitchd stops its main loop while it does not hold the database's lock. The kernel goes on
    // without it; the userspace datapath is that loop.
    if Datapath::here() == Datapath::System {
        assert_eq!(count.sent, count.received, "the kernel's datapath needs no ovsdb-server");
    }
    lab.nodes[0].ovs.start_db().unwrap();
    let up = Instant::now();
    let b = lab.add_pod(0, "b");
    eventually("traffic after ovsdb-server", Duration::from_secs(20), || quick_ping(&b.netns, c.ip)).await;
    println!("ovsdb-server alone started again: a pod attached {:?} after it was up", up.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn drifted_flows_are_repaired() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[]).await;
    let a = lab.add_pod(0, "a");
    let b = lab.add_pod(0, "b");
    let good = flows(&lab.nodes[0]);
    // The bridge tells the agent of changes by others.
    lab.nodes[0].ofctl("del-flows", &[]);
    eventually("flows as before", Duration::from_secs(20), || {
        lab.nodes[0].try_ofctl("dump-flows", &["--no-stats"]).is_some_and(|dump| sorted(&dump) == good)
    })
    .await;
    eventually("traffic as before", Duration::from_secs(10), || quick_ping(&a.netns, b.ip)).await;
}

/// The bridge's flows without their counters.
pub(crate) fn flows(node: &LabNode) -> Vec<String> {
    sorted(&node.ofctl("dump-flows", &["--no-stats"]))
}

/// The same of a bridge that may be away.
pub(crate) fn try_flows(node: &LabNode) -> Option<Vec<String>> {
    node.try_ofctl("dump-flows", &["--no-stats"]).map(|dump| sorted(&dump))
}

fn sorted(dump: &str) -> Vec<String> {
    let mut lines: Vec<String> = dump.lines().filter(|l| l.contains("cookie=")).map(str::to_owned).collect();
    lines.sort();
    lines
}
