//! Which datapath a node gets.

use antrea_tests::lab::{Datapath, Lab};
use antrea_tests::traffic::ping;
use serde_json::json;

/// What the machine is meant to have, where whoever runs the suite says it: a module that did not load then
/// fails the test, and does not make it another.
fn expected() -> Datapath {
    match std::env::var("ANTREA_TEST_DATAPATH").as_deref() {
        Ok("system") => Datapath::System,
        Ok("userspace") => Datapath::Userspace,
        Ok(other) => panic!("ANTREA_TEST_DATAPATH={other} is neither system nor userspace"),
        Err(_) => Datapath::here(),
    }
}

/// Datapath and bridge, as ovs-vswitchd has them and not as the database asks for them.
fn in_use(lab: &Lab) -> Datapath {
    let shown = lab.nodes[0].ovs.appctl(&["dpif/show"]).unwrap();
    assert!(shown.contains("br-int"), "{shown}");
    match shown.split('@').next() {
        Some("system") => Datapath::System,
        Some("netdev") => Datapath::Userspace,
        _ => panic!("neither: {shown}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn auto_takes_the_kernels_where_it_is() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    assert_eq!(Datapath::here(), expected(), "this machine");
    let lab = Lab::start(1, &[]).await;
    assert_eq!(in_use(&lab), expected());
}

#[tokio::test(flavor = "multi_thread")]
async fn userspace_by_choice_works_everywhere() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::start(1, &[("ovsDatapathType", json!("netdev"))]).await;
    assert_eq!(in_use(&lab), Datapath::Userspace);
    let (a, b) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"));
    assert!(ping(&a.netns, b.ip, 56, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kernels_by_choice_works_or_is_refused() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let config = [("ovsDatapathType", json!("system"))];
    if expected() == Datapath::System {
        let lab = Lab::start(1, &config).await;
        assert_eq!(in_use(&lab), Datapath::System);
        return;
    }
    let mut lab = Lab::without_agents(1, &config).await;
    lab.start_agent(0);
    let message = lab.wait_unhealthy(0, "KernelDatapathMissing").await;
    assert!(message.contains("openvswitch module"), "{message}");
}
