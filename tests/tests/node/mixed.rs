//! Two versions together, as in each upgrade: the other one has a field more in every message and another version number.
//! `ANTREA_FUTURE_BIN` names the folder of its binaries, which `make test-all` builds.

use std::path::PathBuf;
use std::time::Duration;

use antrea_tests::lab::{AGENT_INFOS, Lab, NETWORK_POLICIES, eventually};
use antrea_tests::station::{Station, until_isolated};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

struct Scene {
    lab: Lab,
    future: PathBuf,
    /// On each node one that is isolated by a policy, and one that tries to reach all of these.
    quiet: Vec<Station>,
    loud: Vec<Station>,
    names: Vec<String>,
}

impl Scene {
    async fn new() -> Self {
        let future = std::env::var_os("ANTREA_FUTURE_BIN")
            .expect("ANTREA_FUTURE_BIN names the other version's folder");
        let future = PathBuf::from(future);
        let mut lab = Lab::without_agents(2, &[]).await;
        lab.start_agent(0);
        lab.programs = Some(future.clone());
        lab.start_agent(1);
        for index in 0..2 {
            lab.wait_ready(index).await;
        }
        let version = |name: &str| lab.api.get(AGENT_INFOS, None, name).map(|info| info["version"].clone());
        let nodes: Vec<String> = lab.nodes.iter().map(|node| node.name.clone()).collect();
        eventually("both agents are told of", LIMIT, || nodes.iter().all(|name| version(name).is_some()))
            .await;
        assert_ne!(version(&nodes[0]), version(&nodes[1]), "it is the same version");
        let mut add = |index: usize, kind: &str| {
            let name = format!("{kind}{index}");
            lab.put_pod(index, &name, &[("role", kind)], None);
            lab.add_pod(index, &name)
        };
        let quiet = [0, 1].map(|index| add(index, "quiet"));
        let loud = [0, 1].map(|index| add(index, "loud"));
        let names = quiet.iter().map(|pod| pod.ip.to_string()).collect();
        let start =
            |pods: &[antrea_tests::lab::Pod]| pods.iter().map(|pod| Station::start(&pod.netns)).collect();
        let (at_quiet, at_loud): (Vec<Station>, Vec<Station>) = (start(&quiet), start(&loud));
        at_loud.iter().for_each(|station| station.aim(quiet.iter().map(|pod| pod.ip)));
        Self { lab, future, quiet: at_quiet, loud: at_loud, names }
    }

    fn is_open(&self) -> bool {
        self.quiet.iter().all(|station| {
            let arrived = station.arrived();
            arrived.len() == self.loud.len() && arrived.values().all(|met| met.tcp > 2 && met.udp > 2)
        })
    }

    /// A policy comes and goes, and both nodes do what it says.
    async fn obeys(&self, what: &str) {
        eventually(&format!("{what}: open"), LIMIT, || self.is_open()).await;
        self.lab.put_policy(
            "quiet",
            &json!({"podSelector": {"matchLabels": {"role": "quiet"}}, "policyTypes": ["Ingress"]}),
        );
        self.holds(what).await;
        self.lab.api.delete(NETWORK_POLICIES, Some("default"), "quiet");
        self.quiet.iter().for_each(Station::forget);
        eventually(&format!("{what}: open again"), LIMIT, || self.is_open()).await;
    }

    /// Nothing gets through, of at least 200 probes.
    async fn holds(&self, what: &str) {
        let stations: Vec<&Station> = self.quiet.iter().chain(&self.loud).collect();
        let leaks = || self.quiet.iter().any(|station| !station.arrived().is_empty());
        until_isolated(&stations, leaks).await;
        let sent = || self.loud.iter().map(Station::sent).sum::<u64>();
        let before = sent();
        eventually("200 probes are sent", LIMIT, || sent() - before > 200).await;
        let arrived: Vec<_> = self.quiet.iter().map(Station::arrived).collect();
        assert!(!leaks(), "{what}: to {:?}: {arrived:?}", self.names);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_controllers_of_two_versions_work_together() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut scene = Scene::new().await;
    scene.obeys("the controller is the older").await;

    scene.lab.kill_controller();
    scene.lab.programs = Some(scene.future.clone());
    scene.lab.start_controller();
    scene.lab.wait_controller().await;
    scene.obeys("the controller is the later").await;

    // What the later version has written down is read by the older, without a controller: a way back.
    scene.lab.put_policy(
        "quiet",
        &json!({"podSelector": {"matchLabels": {"role": "quiet"}}, "policyTypes": ["Ingress"]}),
    );
    scene.holds("before the way back").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    scene.lab.kill_controller();
    for index in 0..2 {
        scene.lab.nodes[index].kill_agent();
    }
    scene.lab.programs = None;
    for index in 0..2 {
        scene.lab.start_agent(index);
    }
    for index in 0..2 {
        scene.lab.wait_ready(index).await;
    }
    scene.holds("the older agent reads what the later wrote").await;
    scene.lab.start_controller();
    scene.lab.wait_controller().await;
    scene.lab.api.delete(NETWORK_POLICIES, Some("default"), "quiet");
    scene.obeys("everything is the older again").await;
}
