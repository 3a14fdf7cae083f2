//! Open vSwitch's daemons are killed and their container starts them again, or the container is killed and started
//! again; agents and pods come back.

use std::time::{Duration, Instant};

use antrea_tests::lab::{Datapath, Lab, eventually};
use antrea_tests::ovs_container::{Daemon, OvsContainer};
use antrea_tests::traffic::{Pinger, Stream, ping, quick_ping};

/// README: traffic is back 0.3 s after Open vSwitch is up. A loaded machine gets more before the test fails, and the
/// figure is printed.
const BACK: Duration = Duration::from_secs(5);

/// For what is not measured.
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn each_daemon_and_both() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(2, &[]).await;
    let mut container = OvsContainer::take_over(&mut lab.nodes[0], 5);
    lab.start_agents().await;
    let a = lab.add_pod(0, "a");
    let b = lab.add_pod(0, "b");
    let c = lab.add_pod(1, "c");
    assert!(ping(&a.netns, c.ip, 56, true) && ping(&a.netns, b.ip, 56, true));
    let flows = crate::restart::flows(&lab.nodes[0]);
    let mut stream = Stream::open(&a.netns, &c.netns, c.ip, 7000).await;

    let cases: [(&[Daemon], Option<Duration>); 4] = [
        (&[Daemon::Vswitchd], None),
        (&[Daemon::OvsdbServer], None),
        (&[Daemon::Vswitchd, Daemon::OvsdbServer], None),
        // The whole container. The kubelet waits longer with each crash: whoever tries to connect must not wait even
        // longer.
        (&[], Some(Duration::from_secs(20))),
    ];
    for (number, (killed, pause)) in cases.into_iter().enumerate() {
        let pinger = Pinger::start(&a.netns, c.ip, 60);
        // The kernel's datapath goes on with what it has: let it have this.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let crash = Instant::now();
        if let Some(pause) = pause {
            container.crash();
            tokio::time::sleep(pause).await;
            container.start();
        } else {
            container.kill(killed);
        }
        let (down, up) = (crash.elapsed(), Instant::now());
        // Nobody waits for a kubelet; the container looks five times a second, and a busy machine takes its time.
        assert!(pause.is_some() || down < BACK, "{killed:?} killed: back after {down:?}");
        eventually("traffic between nodes", BACK, || quick_ping(&a.netns, c.ip)).await;
        let (since_up, since_crash) = (up.elapsed(), crash.elapsed());
        eventually("traffic on the node", LIMIT, || quick_ping(&a.netns, b.ip)).await;
        println!(
            "{killed:?} killed, or the container for {pause:?}: Open vSwitch up again after {down:?}; traffic {since_up:?} \
             later, {since_crash:?} after the crash"
        );
        let count = pinger.stop();
        let lost = count.sent - count.received;
        println!("meanwhile, 10 ms ping: {} sent, {lost} lost", count.sent);
        let limit = match Datapath::here() {
            // It goes on with what it has; README: 6 to 18.
            Datapath::System => Duration::from_secs(1),
            // Away is away.
            Datapath::Userspace => since_crash + Duration::from_secs(1),
        };
        let least = Duration::from_millis(10) * lost;
        assert!(least <= limit, "{lost} pings lost: {least:?} without an answer, {limit:?} allowed");
        // The second before the crash alone has a hundred on a machine that has nothing else to do.
        assert!(count.received >= 10, "{count:?}");
        stream.exchange(LIMIT).unwrap();
        // The kernel's datapath forwards before the flows are back: it kept what it had.
        let same = || crate::restart::try_flows(&lab.nodes[0]).is_some_and(|now| now == flows);
        let took = eventually(&format!("the same flows after {killed:?}"), LIMIT, same).await;
        println!("the same flows as before after another {took:?}");
        let pod = lab.add_pod(0, &format!("n{number}"));
        assert!(ping(&pod.netns, c.ip, 56, true), "a pod added after {killed:?}");
        lab.delete_pod(0, &pod);
    }
}

/// A daemon that cannot live is not started for ever: whoever runs the container has to see it.
#[tokio::test(flavor = "multi_thread")]
async fn the_container_ends_when_its_daemons_die_too_often() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[]).await;
    let mut container = OvsContainer::take_over(&mut lab.nodes[0], 2);
    assert_eq!(container.exhaust(), 3, "{}", container.said());
    let said = container.said();
    assert!(said.contains("starting both again (2 of 2 times") && said.contains("died 3 times"), "{said}");
    container.start();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_deleted_meanwhile_keeps_its_address_until_it_is_gone() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[]).await;
    let mut container = OvsContainer::take_over(&mut lab.nodes[0], 5);
    lab.start_agent(0);
    lab.wait_ready(0).await;
    let pod = lab.add_pod(0, "a");
    let allocation = lab.nodes[0].dir.join(format!("ipam/antrea/{}", pod.ip));
    let delete = || lab.nodes[0].cni("DEL", &pod.container_id, &pod.netns, "1.0.0", None);
    assert!(allocation.exists());

    container.crash();
    let (output, text) = delete();
    assert!(!output.status.success(), "nothing was left to delete: {text}");
    // Its flows may be in force: who gets the address next would get what they let through.
    assert!(allocation.exists(), "the address is free although the pod's flows are not known to be gone");

    container.start();
    let gone = || delete().0.status.success() && !allocation.exists();
    let took = eventually("the pod is gone", LIMIT, gone).await;
    println!("gone {took:?} after Open vSwitch is back");
    let ports = lab.nodes[0].ovs.vsctl(&["list-ports", "br-int"]).unwrap();
    assert!(!ports.contains(pod.result["interfaces"][0]["name"].as_str().unwrap()), "{ports}");
    let flows = lab.nodes[0].ofctl("dump-flows", &["--no-stats"]);
    assert!(!flows.contains(&format!("{}", pod.ip)), "{flows}");
}

/// The agent believes what OVSDB says of Open vSwitch, and does not connect pods by one that forwards what is forbidden.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_open_vswitch_is_refused_and_named() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[]).await;
    let say = |lab: &Lab, version: &str| {
        let value = format!("ovs_version={version}");
        lab.nodes[0].ovs.vsctl(&["--no-wait", "set", "Open_vSwitch", ".", &value]).unwrap();
    };
    say(&lab, "3.1.0");
    lab.start_agent(0);
    let message = lab.wait_unhealthy(0, "OpenVSwitchTooOld").await;
    assert!(message.contains("3.1.0") && message.contains("3.1.3"), "{message}");
    let (output, text) = lab.nodes[0].cni("STATUS", "", "", "1.1.0", None);
    assert!(!output.status.success(), "{text}");
    // One that is replaced is looked at again.
    say(&lab, "3.5.0");
    lab.wait_ready(0).await;
}
