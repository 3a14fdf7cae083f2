use antrea_crds::installation::{HeldChange, RolloutFailure};

use super::*;

/// Everything that a change which is taken back says, in order.
#[test]
fn a_change_that_is_taken_back_turns_each_condition_once() {
    let mut world = World::new();
    world.tick(0);
    let mut seen: Vec<String> = Vec::new();
    let mut note = |status: &AntreaInstallationStatus| {
        let progressing = of(status, ConditionType::Progressing);
        let degraded = of(status, ConditionType::Degraded);
        let text = format!("{} {} {}", letters(status), progressing.reason, degraded.reason);
        if seen.last() != Some(&text) {
            seen.push(text);
        }
    };
    note(&world.tick(1));
    (world.version, world.revision) = ("v2.0.0", "r2");
    note(&world.tick(2));
    world.nodes[0] = agent("node1", "r2", false, 3);
    note(&world.tick(4));
    note(&world.tick(40));
    let failed = RolloutFailure {
        spec: "x".into(),
        version: "v2.0.0".into(),
        canary: true,
        node: "node1".into(),
        check: "CrashLoopBackOff".into(),
        message: "exited with code 1".into(),
        at: Time(at(303)),
        rolled_back: true,
    };
    let record = |done| RolloutStatus { done, failed: Some(failed.clone()), ..RolloutStatus::default() };
    let store = |world: &mut World, record| world.status.as_mut().unwrap().rollout = Some(record);
    store(&mut world, record(false));
    (world.version, world.revision) = ("v1.0.0", "r1");
    let status = world.tick(304);
    note(&status);
    assert_eq!(
        of(&status, ConditionType::Degraded).message,
        "v2.0.0 failed on node1: CrashLoopBackOff: exited with code 1; going back to v1.0.0"
    );
    world.nodes[0] = agent("node1", "r1", false, 305);
    note(&world.tick(306));
    world.nodes[0] = agent("node1", "r1", true, 306);
    for second in [310, 311, 400] {
        note(&world.tick(second));
    }
    let status = world.tick(401);
    assert!(status.rollout.as_ref().unwrap().done);
    assert_eq!(status.version.as_deref(), Some("v1.0.0"));
    assert!(
        status
            .message
            .unwrap()
            .ends_with("v1.0.0 runs again, and the change is not tried again until the spec changes")
    );
    let expected = [
        "A Done AsExpected",
        "AP Upgrading AsExpected",
        "APD Upgrading AgentsFailing",
        "APD RollingBack CanaryFailed",
        "AD RolledBack CanaryFailed",
    ];
    assert_eq!(seen, expected);
}

#[test]
fn what_waits_is_no_progress_and_nothing_wrong() {
    let mut world = World::new();
    world.tick(0);
    let held = HeldChange { generation: 7, target: "x".into() };
    for (waiting, reason, says) in [
        (Waiting::Acknowledgement(held), "AcknowledgementNeeded", "spec.rollout.acknowledge is 7"),
        (Waiting::Window(SignedDuration::from_secs(60)), "WaitingForWindow", "1970-01-12T13:47:50Z"),
    ] {
        world.status.as_mut().unwrap().observed_generation = Some(6);
        world.waiting = Some(waiting);
        let status = world.tick(10);
        assert_eq!(letters(&status), "A");
        let progressing = of(&status, ConditionType::Progressing);
        assert_eq!(progressing.reason, reason);
        assert!(progressing.message.contains(says), "{}", progressing.message);
        assert_eq!(status.observed_generation, Some(6), "the spec is not applied");
    }
}
