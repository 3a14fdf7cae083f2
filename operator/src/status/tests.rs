use super::*;
use crate::{
    cluster::Pod,
    rollout::{Proven, Rollout, probes::Verdict},
};

const GRACE: SignedDuration = SignedDuration::from_secs(30);

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn agent(name: &str, revision: &str, ready: bool, since: i64) -> AgentNode {
    let pod = Pod {
        name: format!("antrea-agent-{name}"),
        uid: name.into(),
        node: name.into(),
        image: "agent:1".into(),
        revision: revision.into(),
        ready,
        since: at(since),
        deleting: false,
        ended: false,
        trouble: (!ready)
            .then(|| Trouble::new("CrashLoopBackOff", "container antrea-agent: exited with code 1")),
    };
    AgentNode {
        name: name.into(),
        reachable: true,
        created: at(0),
        vacant_since: at(0),
        pod: Some(pod),
        unhealthy: None,
    }
}

fn ready_controller() -> ControllerState {
    ControllerState { revision: "c".into(), updated: true, ready: true }
}

struct World {
    nodes: Vec<AgentNode>,
    controller: Option<ControllerState>,
    controller_trouble: Option<(Trouble, Timestamp)>,
    controller_updated: bool,
    version: &'static str,
    revision: &'static str,
    refused: Option<Trouble>,
    monitoring_error: Option<String>,
    paused: bool,
    taken: BTreeSet<String>,
    not_admitted: Option<String>,
    preflight: Option<Preflight>,
    waiting: Option<Waiting>,
    status: Option<AntreaInstallationStatus>,
}

impl World {
    fn new() -> Self {
        Self {
            nodes: vec![agent("node1", "r1", true, 0), agent("node2", "r1", true, 0)],
            controller: Some(ready_controller()),
            controller_trouble: None,
            controller_updated: true,
            version: "v1.0.0",
            revision: "r1",
            refused: None,
            monitoring_error: None,
            paused: false,
            taken: BTreeSet::new(),
            not_admitted: None,
            preflight: None,
            waiting: None,
            status: None,
        }
    }

    /// Composes at `seconds` and keeps the result as the previous status.
    fn tick(&mut self, seconds: i64) -> AntreaInstallationStatus {
        let rollout = Rollout {
            nodes: &self.nodes,
            revision: self.revision,
            taken: &self.taken,
            proven: &Proven::new(),
            failed_on: None,
            has_images: &|_| true,
            turn: &|_| Some(0),
            probed: &|_| Verdict::Unasked,
            max_unavailable: 1,
            min_ready: SignedDuration::from_secs(3),
            since: Timestamp::UNIX_EPOCH,
            now: at(seconds),
        };
        let (rollout, mut taken) = (rollout.next(), rollout.still_taken());
        if let Step::Announce { node } = &rollout {
            taken.insert(node.clone());
        }
        self.taken = taken;
        let seen = Observation {
            generation: Some(7),
            refused: self.refused.clone(),
            apply_error: None,
            monitoring_error: self.monitoring_error.clone(),
            paused: self.paused,
            pending: Vec::new(),
            computed: Some(AntreaInstallationSpec {
                version: Some(self.version.into()),
                ..Default::default()
            }),
            operator_version: "v1.0.0",
            controller: self.controller.as_ref(),
            controller_current: self.controller_updated,
            controller_updated: self.controller_updated,
            controller_trouble: self.controller_trouble.clone(),
            nodes: &self.nodes,
            revision: Some(self.revision),
            rollout: self.preflight.is_none().then_some(&rollout),
            taken: &self.taken,
            not_admitted: self.not_admitted.clone(),
            preflight: self.preflight.as_ref(),
            planned_waves: Vec::new(),
            proposal: None,
            record: self.status.as_ref().and_then(|status| status.rollout.clone()).unwrap_or_default(),
            waiting: self.waiting.as_ref(),
            hold: None,
            probed: None,
            stuck: None,
            grace: GRACE,
            now: at(seconds),
        };
        let status = compose(self.status.as_ref(), &seen);
        self.status = Some(status.clone());
        status
    }
}

/// "A" available, "P" progressing, "D" degraded; what is false is left out.
fn letters(status: &AntreaInstallationStatus) -> String {
    let letter = |(type_, letter)| if condition_is(status, type_) { letter } else { "" };
    [(ConditionType::Available, "A"), (ConditionType::Progressing, "P"), (ConditionType::Degraded, "D")]
        .map(letter)
        .concat()
}

fn of(status: &AntreaInstallationStatus, type_: ConditionType) -> &InstallationCondition {
    status.conditions.iter().find(|condition| condition.type_ == type_).unwrap()
}

#[test]
fn an_installation_becomes_available_when_all_is_ready() {
    let mut world = World::new();
    world.nodes[1] = agent("node2", "r1", false, 0);
    let status = world.tick(1);
    assert_eq!(letters(&status), "P");
    assert_eq!(status.version, None);
    assert_eq!(status.message.as_deref(), Some("installing v1.0.0: 1 of 2 agents are ready"));
    world.nodes[1] = agent("node2", "r1", true, 2);
    let status = world.tick(3);
    assert_eq!(letters(&status), "A");
    assert_eq!(status.version.as_deref(), Some("v1.0.0"));
    assert_eq!(status.nodes.unwrap().summary, "2/2");
    assert_eq!(status.observed_generation, Some(7));
}

/// The sequence that a user of a dashboard sees during an upgrade.
#[test]
fn an_upgrade_is_available_all_the_way_and_the_version_changes_last() {
    let mut world = World::new();
    world.tick(0);
    (world.version, world.revision, world.controller_updated) = ("v1.1.0", "r2", false);
    world.controller.as_mut().unwrap().ready = false;
    let mut seen = vec![world.tick(1)];
    (world.controller, world.controller_updated) = (Some(ready_controller()), true);
    seen.push(world.tick(10));
    for (i, name) in ["node1", "node2"].into_iter().enumerate() {
        let start = 20 + 20 * i as i64;
        world.nodes[i].pod = None;
        world.nodes[i].vacant_since = at(start);
        seen.push(world.tick(start));
        world.nodes[i] = agent(name, "r2", false, start + 1);
        seen.push(world.tick(start + 2));
        world.nodes[i] = agent(name, "r2", true, start + 5);
        if i == 0 {
            seen.push(world.tick(start + 15));
        }
    }
    for status in &seen {
        assert_eq!(letters(status), "AP", "{:?}", status.message);
        assert_eq!(status.version.as_deref(), Some("v1.0.0"));
        assert_eq!(status.target_version.as_deref(), Some("v1.1.0"));
    }
    assert_eq!(seen[4].message.as_deref(), Some("changing version to v1.1.0 (1/2 Nodes, now node2)"));
    let status = world.tick(60);
    assert_eq!((letters(&status).as_str(), status.version.as_deref()), ("A", Some("v1.1.0")));
    assert_eq!(of(&status, ConditionType::Available).last_transition_time.0, at(0), "never flapped");
}

/// The version does not tell, so nothing but the last Node can.
#[test]
fn a_change_that_is_no_upgrade_progresses_until_the_last_node_is_done() {
    let mut world = World::new();
    world.tick(0);
    world.revision = "r2";
    let mut seen = vec![world.tick(1)];
    for (i, name) in ["node1", "node2"].into_iter().enumerate() {
        let start = 20 + 20 * i as i64;
        world.nodes[i].pod = None;
        world.nodes[i].vacant_since = at(start);
        seen.push(world.tick(start));
        world.nodes[i] = agent(name, "r2", false, start + 1);
        seen.push(world.tick(start + 2));
        world.nodes[i] = agent(name, "r2", true, start + 5);
        seen.push(world.tick(start + 6));
        if i == 0 {
            seen.push(world.tick(start + 15));
        }
    }
    for status in &seen {
        assert_eq!(letters(status), "AP", "{:?}", status.message);
        assert_eq!(status.nodes.as_ref().unwrap().replacing.len(), 1, "{:?}", status.message);
    }
    let last = seen.last().unwrap().message.clone();
    assert_eq!(last.as_deref(), Some("applying the configuration (2/2 Nodes, now node2)"));
    let status = world.tick(60);
    assert_eq!(letters(&status), "A");
    assert!(status.nodes.unwrap().replacing.is_empty());
}

/// A Node whose agent never worked is told, and is no reason to say for ever that something is under way.
#[test]
fn an_upgrade_ends_although_one_node_is_sick() {
    let mut world = World::new();
    world.tick(0);
    (world.version, world.revision) = ("v1.1.0", "r2");
    world.nodes = vec![agent("node1", "r2", true, 0), agent("node2", "r2", false, 0)];
    let status = world.tick(100);
    assert_eq!((letters(&status).as_str(), status.version.as_deref()), ("AD", Some("v1.1.0")));
    assert_eq!(of(&status, ConditionType::Degraded).reason, "AgentsFailing");
}

#[test]
fn what_is_not_admitted_is_told_with_the_cause() {
    let mut world = World::new();
    world.tick(0);
    world.revision = "r2";
    world.not_admitted = Some("pods \"x\" is forbidden: exceeded quota: q".into());
    let status = world.tick(1);
    assert_eq!(letters(&status), "APD");
    let degraded = of(&status, ConditionType::Degraded);
    assert_eq!(degraded.reason, "AgentNotAdmitted");
    assert!(degraded.message.contains("exceeded quota: q"), "{}", degraded.message);
}

/// What people read first must not contradict what agents and the controller's Node say.
#[test]
fn nobody_is_called_ready_who_is_not() {
    let mut world = World::new();
    assert_eq!(world.tick(0).message.as_deref(), Some("controller and 2 agents are ready"));
    world.controller.as_mut().unwrap().ready = false;
    let status = world.tick(1);
    assert_eq!(status.message.as_deref(), Some("the controller is not ready; 2 of 2 agents are ready"));
    world.controller = Some(ready_controller());
    world.nodes[0].unhealthy = Some((Trouble::new("ControllerConnectionDown", "x"), at(1)));
    assert_eq!(world.tick(2).message.as_deref(), Some("1 of 2 agents are ready"));
}

#[test]
fn a_failing_agent_is_named_after_the_grace_period_and_clears_by_itself() {
    let mut world = World::new();
    world.tick(0);
    world.nodes[1] = agent("node2", "r1", false, 10);
    assert_eq!(letters(&world.tick(11)), "A");
    assert_eq!(letters(&world.tick(39)), "A");
    let status = world.tick(40);
    assert_eq!(letters(&status), "AD");
    assert_eq!(
        status.message.as_deref(),
        Some("1 of 2 agents fail: node2: CrashLoopBackOff: container antrea-agent: exited with code 1")
    );
    assert_eq!(status.nodes.as_ref().unwrap().failing[0].name, "node2");
    world.nodes[1] = agent("node2", "r1", true, 50);
    assert_eq!(letters(&world.tick(51)), "A");
}

#[test]
fn what_the_agent_says_is_told() {
    let mut world = World::new();
    world.tick(0);
    let trouble = Trouble::new("TunnelUnsupported", "this Open vSwitch has no STT");
    world.nodes[0].unhealthy = Some((trouble, at(5)));
    let status = world.tick(40);
    let degraded = of(&status, ConditionType::Degraded);
    assert_eq!(degraded.reason, "AgentsFailing");
    assert!(
        degraded.message.contains("node1: TunnelUnsupported: this Open vSwitch has no STT"),
        "{}",
        degraded.message
    );
}

#[test]
fn messages_are_bounded() {
    let mut world = World::new();
    world.nodes = (0..30).map(|i| agent(&format!("node{i:02}"), "r1", false, 0)).collect();
    let status = world.tick(100);
    assert!(status.message.as_ref().unwrap().ends_with("(and 27 more)"));
    assert_eq!(status.nodes.unwrap().failing.len(), 10);
}

#[test]
fn a_lost_or_new_node_is_neither_progress_nor_failure() {
    let mut world = World::new();
    world.tick(0);
    world.nodes[1].reachable = false;
    world.nodes[1].pod.as_mut().unwrap().ready = false;
    assert_eq!(letters(&world.tick(100)), "A");
    world.nodes[1] = agent("node2", "r1", true, 100);
    world.nodes.push(AgentNode {
        name: "node3".into(),
        reachable: true,
        created: at(200),
        vacant_since: at(200),
        pod: None,
        unhealthy: None,
    });
    assert_eq!(letters(&world.tick(201)), "A");
    let status = world.tick(230);
    assert_eq!(letters(&status), "AD");
    assert!(status.message.unwrap().contains("node3: NoPod"));
}

#[test]
fn a_refused_spec_is_degraded_and_not_observed() {
    let mut world = World::new();
    world.tick(0);
    world.refused = Some(Trouble::new("InvalidConfiguration", "spec.tunnelType: no"));
    world.status.as_mut().unwrap().observed_generation = Some(6);
    let status = world.tick(1);
    assert_eq!(letters(&status), "AD");
    assert_eq!(status.observed_generation, Some(6));
    let degraded = of(&status, ConditionType::Degraded);
    assert_eq!((degraded.reason.as_str(), degraded.observed_generation), ("InvalidConfiguration", Some(7)));
    assert_eq!(degraded.message, "spec.tunnelType: no; the last good configuration stays in effect");
}

#[test]
fn a_dead_controller_is_tolerated_for_a_while() {
    let mut world = World::new();
    world.tick(0);
    world.controller.as_mut().unwrap().ready = false;
    world.controller_trouble =
        Some((Trouble::new("ImagePullBackOff", "container antrea-controller: no such image"), at(10)));
    assert_eq!(letters(&world.tick(20)), "A");
    let status = world.tick(40);
    assert_eq!(letters(&status), "D");
    assert!(status.message.unwrap().contains("no such image"));
}

#[test]
fn pausing_is_no_progress() {
    let mut world = World::new();
    world.tick(0);
    (world.paused, world.revision) = (true, "r2");
    let status = world.tick(1);
    assert_eq!(letters(&status), "A");
    assert_eq!(of(&status, ConditionType::Progressing).reason, "Paused");
}

#[test]
fn the_same_observation_gives_the_same_status() {
    let mut world = World::new();
    let first = world.tick(0);
    assert_eq!(world.tick(1), world.tick(2));
    assert_eq!(first.conditions, world.tick(3).conditions);
}

#[test]
fn grace_periods_set_the_next_look() {
    let nodes = [agent("a", "r1", false, 0), agent("b", "r1", false, 10)];
    let seen = Observation {
        generation: None,
        refused: None,
        apply_error: None,
        monitoring_error: None,
        paused: false,
        pending: Vec::new(),
        computed: None,
        operator_version: "",
        controller: None,
        controller_current: false,
        controller_updated: false,
        controller_trouble: None,
        nodes: &nodes,
        revision: None,
        rollout: None,
        taken: &BTreeSet::new(),
        not_admitted: None,
        preflight: None,
        planned_waves: Vec::new(),
        proposal: None,
        record: RolloutStatus::default(),
        waiting: None,
        hold: None,
        probed: None,
        stuck: None,
        grace: GRACE,
        now: at(12),
    };
    assert_eq!(look_again(&seen), Some(SignedDuration::from_secs(18)));
    assert_eq!(look_again(&Observation { now: at(35), ..seen.clone() }), Some(SignedDuration::from_secs(5)));
    assert_eq!(look_again(&Observation { now: at(50), ..seen }), None);
}

/// What no Node can pull changes nothing, and is told with Node and cause once it has lasted.
#[test]
fn missing_images_are_told_and_what_runs_is_available() {
    let mut world = World::new();
    world.tick(0);
    world.revision = "r2";
    world.preflight = Some(Preflight {
        missing: vec![Missing {
            node: "node1".into(),
            trouble: Trouble::new("ErrImagePull", "container antrea-agent: no such host"),
            since: at(10),
        }],
        ..Preflight::default()
    });
    let status = world.tick(20);
    assert_eq!(letters(&status), "AP");
    assert_eq!(status.message.as_deref(), Some("applying the configuration: fetching images (0/2 Nodes)"));
    let status = world.tick(50);
    assert_eq!(letters(&status), "APD");
    let degraded = of(&status, ConditionType::Degraded);
    assert_eq!(degraded.reason, "ImagesMissing");
    assert_eq!(
        degraded.message,
        "1 of 2 Nodes cannot get the images of the change: node1: ErrImagePull: container antrea-agent: no such host; \
         what runs goes on"
    );
    world.revision = "r1";
    world.preflight = None;
    assert_eq!(letters(&world.tick(60)), "A");
}

/// Prometheus's webhook being away must not look like a network that is.
#[test]
fn monitoring_objects_degrade_and_hold_up_nothing() {
    let mut world = World::new();
    assert_eq!(letters(&world.tick(0)), "A");
    world.monitoring_error = Some("apply PrometheusRule kube-system/antrea: denied".into());
    world.version = "v1.1.0";
    let status = world.tick(1);
    assert_eq!(letters(&status), "AD");
    assert_eq!(status.version.as_deref(), Some("v1.1.0"));
    assert_eq!(status.observed_generation, Some(7));
    let degraded = status.conditions.iter().find(|one| one.type_ == ConditionType::Degraded).unwrap();
    assert_eq!(degraded.reason, "MonitoringFailed");
    assert!(degraded.message.contains("PrometheusRule kube-system/antrea"), "{}", degraded.message);
}

mod change;
