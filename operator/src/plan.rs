//! What would change, of which class, in which order: a value that can be shown, held back or carried out.

use std::{cmp::Ordering, fmt};

use antrea_crds::installation::{AntreaInstallationSpec, FieldChange, PendingChange};

use serde_json::Value;

use crate::{
    APPLIED_ANNOTATION, REVISION_ANNOTATION,
    fields::Difference,
    object::{Key, Stage},
    preflight::Preflight,
};

/// What happens to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is not there yet.
    Create,
    /// Some of its fields differ.
    Update,
    /// It is ours and not wanted any more.
    Delete,
}

/// What a change does to traffic, the mildest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Nothing restarts.
    Live,
    /// Pods restart, one by one.
    Restart,
    /// Traffic between changed and unchanged Nodes breaks until all are changed.
    Disruptive,
}

/// What has to be done to one object, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectChange {
    /// Which object.
    pub key: Key,
    /// When it is its turn.
    pub stage: Stage,
    /// What happens to it.
    pub action: Action,
    /// What that does to traffic.
    pub class: Class,
    /// Fields that differ from what is there, for an update.
    pub fields: Vec<Difference>,
    /// Whether what is wanted is what was applied before: then somebody else changed the object.
    pub drift: bool,
}

/// Changes in the order in which they are made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// In order.
    pub changes: Vec<ObjectChange>,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "Create",
            Self::Update => "Update",
            Self::Delete => "Delete",
        })
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "Live",
            Self::Restart => "Restart",
            Self::Disruptive => "Disruptive",
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            writeln!(f, "{} {} ({})", change.action, change.key, change.class)?;
            for field in &change.fields {
                let show =
                    |value: &Option<Value>| value.as_ref().map_or_else(|| "-".into(), ToString::to_string);
                writeln!(f, "  {}: {} → {}", field.path, show(&field.from), show(&field.to))?;
            }
        }
        Ok(())
    }
}

impl Plan {
    /// Puts changes in order: stage by stage; a removal comes after everything else, last stage first. When
    /// a version goes back, agents change before the controller, because an agent must not be newer than
    /// the controller.
    pub fn new(mut changes: Vec<ObjectChange>, direction: Direction) -> Self {
        changes.sort_by_key(|change| {
            let rank = rank(change.stage, direction);
            if change.action == Action::Delete { (1, -rank) } else { (0, rank) }
        });
        Self { changes }
    }

    /// The worst of its classes.
    pub fn class(&self) -> Class {
        self.changes.iter().map(|change| change.class).max().unwrap_or(Class::Live)
    }

    /// For `status.pendingChanges`.
    pub fn pending(&self) -> Vec<PendingChange> {
        // Marks of our own would only tell that something else differs.
        let ours = |path: &String| path.contains(APPLIED_ANNOTATION) || path.contains(REVISION_ANNOTATION);
        let pending = |change: &ObjectChange| PendingChange {
            object: change.key.to_string(),
            action: change.action.to_string(),
            class: change.class.to_string(),
            fields: change
                .fields
                .iter()
                .map(|field| field.path.to_string())
                .filter(|path| !ours(path))
                .take(5)
                .collect(),
            changes: change
                .fields
                .iter()
                .filter(|field| !ours(&field.path.to_string()))
                .take(PENDING_FIELDS)
                .map(|field| {
                    let (from, to) = changed_lines(field);
                    FieldChange { path: field.path.to_string(), from: from.map(shown), to: to.map(shown) }
                })
                .collect(),
        };
        self.changes.iter().take(20).map(pending).collect()
    }
}

/// Fields with their values that are shown of one object.
const PENDING_FIELDS: usize = 10;

/// Characters of a value that are shown.
const PENDING_VALUE: usize = 512;

/// Both values of a field; of texts of several lines, such as a file in a ConfigMap, the lines that differ.
fn changed_lines(field: &Difference) -> (Option<String>, Option<String>) {
    if let (Some(Value::String(from)), Some(Value::String(to))) = (&field.from, &field.to)
        && from.contains('\n')
        && to.contains('\n')
    {
        let only = |one: &str, other: &str| {
            let lines: Vec<&str> = one.lines().filter(|line| !other.lines().any(|l| l == *line)).collect();
            (!lines.is_empty()).then(|| lines.join("\n"))
        };
        return (only(from, to), only(to, from));
    }
    (field.from.as_ref().map(Value::to_string), field.to.as_ref().map(Value::to_string))
}

fn shown(text: String) -> String {
    if text.chars().count() <= PENDING_VALUE {
        return text;
    }
    text.chars().take(PENDING_VALUE - 1).chain(['…']).collect()
}

/// Position of a stage in the order of changes.
pub fn rank(stage: Stage, direction: Direction) -> i8 {
    match (stage, direction) {
        (Stage::Crds, _) => 0,
        (Stage::Base, _) => 1,
        (Stage::Controller, Direction::Back) => 3,
        (Stage::Agents, Direction::Back) => 2,
        (Stage::Controller, _) => 2,
        (Stage::Agents, _) => 3,
    }
}

/// Which way a change of version goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Nothing runs yet.
    Fresh,
    /// To the same or a newer version.
    Forward,
    /// To an older version.
    Back,
}

/// How far controller and agents are on the way to what is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Which way the version goes.
    pub direction: Direction,
    /// Whether the wanted controller runs, alone and ready.
    pub controller_done: bool,
    /// Whether every agent that can be reached is the wanted one.
    pub agents_done: bool,
    /// What is known of the images, if they change.
    pub preflight: Option<&'a Preflight>,
    /// Whether what restarts may start now.
    pub may_start: bool,
}

/// Whether a change has to wait: the later of controller and agents for the earlier to be done everywhere, and both
/// for their images.
pub fn must_wait(change: &ObjectChange, progress: &Progress<'_>) -> bool {
    let turn = match (progress.direction, change.stage) {
        (Direction::Forward, Stage::Agents) => progress.controller_done,
        (Direction::Back, Stage::Controller) => progress.agents_done,
        _ => true,
    };
    !turn
        || progress.preflight.is_some_and(|seen| !may_replace(change, seen))
        || !progress.may_start && restarts(change)
}

/// Whether Pods that run are replaced for a change.
fn restarts(change: &ObjectChange) -> bool {
    change.action == Action::Update
        && change.class != Class::Live
        && matches!(change.stage, Stage::Controller | Stage::Agents)
}

/// Whether a change may be made as far as images are concerned. Where there is nothing yet, or nothing
/// restarts, there is nothing to lose.
fn may_replace(change: &ObjectChange, preflight: &Preflight) -> bool {
    match change.stage {
        _ if change.action != Action::Update || change.class == Class::Live => true,
        Stage::Controller => preflight.allows_controller(),
        Stage::Agents => preflight.allows_agents(),
        Stage::Crds | Stage::Base => true,
    }
}

/// Most minor versions that an agent may be behind the controller.
const MAX_SKEW: u64 = 4;

/// Major, minor and patch of a version such as "v1.2.3-4-gabc"; none for what is no version.
fn numbers(version: &str) -> Option<[u64; 3]> {
    let core = version.trim_start_matches('v').split(['-', '+']).next()?;
    let mut parts = core.split('.').map(str::parse);
    let numbers = [parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?];
    parts.next().is_none().then_some(numbers)
}

/// Whether it can be told which of two versions is the newer one.
pub fn comparable(one: &str, other: &str) -> bool {
    numbers(one).is_some() && numbers(other).is_some()
}

/// Which way from `running` to `wanted`. Versions that cannot be compared count as forward.
pub fn direction(running: Option<&str>, wanted: &str) -> Direction {
    let Some(running) = running else { return Direction::Fresh };
    match (numbers(running), numbers(wanted)) {
        (Some(running), Some(wanted)) if wanted.cmp(&running) == Ordering::Less => Direction::Back,
        _ => Direction::Forward,
    }
}

/// Why the change from `running` to `wanted` must not be made, if so: while it is under way, agents and
/// controller differ by it, and they understand each other only over [`MAX_SKEW`] minor versions.
pub fn refuse(running: Option<&str>, wanted: &str) -> Option<String> {
    let ([major, minor, _], [to_major, to_minor, _]) = (numbers(running?)?, numbers(wanted)?);
    if major != to_major {
        return (major.abs_diff(to_major) > 1).then(|| {
            format!(
                "spec.version: from {} to {wanted} is more than one major version",
                running.unwrap_or_default()
            )
        });
    }
    (minor.abs_diff(to_minor) > MAX_SKEW).then(|| {
        format!(
            "spec.version: from {} to {wanted} is more than {MAX_SKEW} minor versions; go by way of v{major}.{}.x",
            running.unwrap_or_default(),
            if to_minor > minor { minor + MAX_SKEW } else { minor - MAX_SKEW },
        )
    })
}

/// Class of going from one configuration to another, as far as Nodes have to agree on it.
pub fn class_of_config(from: Option<&AntreaInstallationSpec>, to: &AntreaInstallationSpec) -> Class {
    let Some(from) = from else { return Class::Live };
    let ovs = |spec: &AntreaInstallationSpec| {
        spec.ovs.as_ref().map(|ovs| (ovs.datapath, ovs.bridge.clone(), ovs.gateway.clone()))
    };
    let mode =
        |spec: &AntreaInstallationSpec| spec.proxy.as_ref().and_then(|proxy| proxy.mode).unwrap_or_default();
    let disruptive = from.traffic_encap_mode != to.traffic_encap_mode
        || from.tunnel_type != to.tunnel_type
        || from.tunnel_port != to.tunnel_port
        || from.transport_interface != to.transport_interface
        || from.transport_interface_cidrs != to.transport_interface_cidrs
        || ovs(from) != ovs(to)
        // What Open vSwitch translated is unknown to kube-proxy: established connections to Services break.
        || mode(to) < mode(from);
    if disruptive { Class::Disruptive } else { Class::Restart }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: &'static str, stage: Stage, action: Action) -> ObjectChange {
        let key = Key { kind, namespace: String::new(), name: "x".into() };
        ObjectChange { key, stage, action, class: Class::Live, fields: Vec::new(), drift: false }
    }

    fn order(direction: Direction) -> Vec<&'static str> {
        let changes = vec![
            change("DaemonSet", Stage::Agents, Action::Update),
            change("ClusterRole", Stage::Base, Action::Delete),
            change("Deployment", Stage::Controller, Action::Update),
            change("CustomResourceDefinition", Stage::Crds, Action::Create),
            change("OldDaemonSet", Stage::Agents, Action::Delete),
            change("ConfigMap", Stage::Base, Action::Update),
        ];
        Plan::new(changes, direction).changes.iter().map(|change| change.key.kind).collect()
    }

    #[test]
    fn the_controller_goes_first_and_back_last() {
        let base = ["CustomResourceDefinition", "ConfigMap"];
        let gone = ["OldDaemonSet", "ClusterRole"];
        assert_eq!(order(Direction::Forward), [&base[..], &["Deployment", "DaemonSet"], &gone].concat());
        assert_eq!(order(Direction::Fresh), [&base[..], &["Deployment", "DaemonSet"], &gone].concat());
        assert_eq!(order(Direction::Back), [&base[..], &["DaemonSet", "Deployment"], &gone].concat());
    }

    /// "controller first, then agents", and back the other way round; nothing that restarts goes before its image.
    #[test]
    fn who_waits_for_whom() {
        let (base, controller, agents) = (Stage::Base, Stage::Controller, Stage::Agents);
        let (none, all) =
            (Preflight::default(), Preflight { ready_on: ["a".to_owned()].into(), ..Preflight::default() });
        let restart = |stage| ObjectChange { class: Class::Restart, ..change("X", stage, Action::Update) };
        let live = |stage| change("X", stage, Action::Update);
        let create = |stage| ObjectChange { class: Class::Restart, ..change("X", stage, Action::Create) };
        use Direction::{Back, Forward, Fresh};
        for (change, direction, controller_done, agents_done, preflight, waits) in [
            (restart(agents), Forward, false, false, None, true),
            (restart(agents), Forward, false, true, None, true),
            (restart(agents), Forward, true, false, None, false),
            (live(agents), Forward, false, false, None, true),
            (restart(controller), Forward, false, false, None, false),
            (restart(base), Forward, false, false, None, false),
            (restart(controller), Back, false, false, None, true),
            (restart(controller), Back, true, false, None, true),
            (restart(controller), Back, false, true, None, false),
            (restart(agents), Back, false, false, None, false),
            (restart(agents), Fresh, false, false, None, false),
            (restart(controller), Fresh, false, false, None, false),
            (restart(controller), Forward, false, false, Some(&none), true),
            (restart(controller), Forward, false, false, Some(&all), false),
            (live(controller), Forward, false, false, Some(&none), false),
            (create(controller), Forward, false, false, Some(&none), false),
            (restart(agents), Forward, true, false, Some(&none), true),
            (restart(agents), Forward, true, false, Some(&all), false),
            (restart(agents), Forward, false, false, Some(&all), true),
            (restart(base), Forward, false, false, Some(&none), false),
        ] {
            let progress = Progress { direction, controller_done, agents_done, preflight, may_start: true };
            assert_eq!(must_wait(&change, &progress), waits, "{change:?} {progress:?}");
        }
    }

    /// Outside of the window nothing restarts; what restarts nothing goes on.
    #[test]
    fn what_may_not_start_waits() {
        let closed = Progress {
            direction: Direction::Forward,
            controller_done: true,
            agents_done: true,
            preflight: None,
            may_start: false,
        };
        for (stage, action, class, waits) in [
            (Stage::Controller, Action::Update, Class::Restart, true),
            (Stage::Agents, Action::Update, Class::Disruptive, true),
            (Stage::Agents, Action::Update, Class::Live, false),
            (Stage::Agents, Action::Create, Class::Live, false),
            (Stage::Base, Action::Update, Class::Restart, false),
        ] {
            let change = ObjectChange { class, ..change("X", stage, action) };
            assert_eq!(must_wait(&change, &closed), waits, "{change:?}");
        }
    }

    #[test]
    fn versions_are_compared_by_number() {
        assert_eq!(direction(None, "v1.0.0"), Direction::Fresh);
        assert_eq!(direction(Some("v1.9.0"), "v1.10.0"), Direction::Forward);
        assert_eq!(direction(Some("v1.10.0"), "v1.9.3"), Direction::Back);
        assert_eq!(direction(Some("v1.0.0"), "v1.0.0"), Direction::Forward);
        assert_eq!(direction(Some("v0.1.0-3-gabc"), "v0.1.0-4-gdef"), Direction::Forward);
        assert_eq!(direction(Some("main"), "v0.1.0"), Direction::Forward);
    }

    #[test]
    fn too_far_is_refused_with_a_way_to_go() {
        assert_eq!(refuse(None, "v2.0.0"), None);
        assert_eq!(refuse(Some("v1.0.0"), "v1.4.0"), None);
        assert_eq!(refuse(Some("v1.8.0"), "v2.0.0"), None);
        let message = refuse(Some("v1.0.0"), "v1.5.0").unwrap();
        assert!(message.contains("spec.version") && message.contains("v1.4.x"), "{message}");
        assert!(refuse(Some("v1.9.0"), "v1.2.0").unwrap().contains("v1.5.x"));
        assert!(refuse(Some("v1.0.0"), "v3.0.0").is_some());
        assert_eq!(refuse(Some("dev"), "v3.0.0"), None);
    }

    #[test]
    fn what_nodes_must_agree_on_is_disruptive() {
        let spec = |value| serde_json::from_value::<AntreaInstallationSpec>(value).unwrap();
        let base =
            spec(serde_json::json!({"tunnelType": "Geneve", "mtu": 1400, "proxy": {"mode": "KubeProxy"}}));
        let mtu =
            spec(serde_json::json!({"tunnelType": "Geneve", "mtu": 1450, "proxy": {"mode": "KubeProxy"}}));
        let tunnel = spec(serde_json::json!({"tunnelType": "VXLAN", "mtu": 1400}));
        assert_eq!(class_of_config(None, &base), Class::Live);
        assert_eq!(class_of_config(Some(&base), &mtu), Class::Restart);
        assert_eq!(class_of_config(Some(&base), &tunnel), Class::Disruptive);
        let transport =
            spec(serde_json::json!({"tunnelType": "Geneve", "mtu": 1400, "transportInterface": "eth1"}));
        assert_eq!(class_of_config(Some(&base), &transport), Class::Disruptive);
        let served = spec(serde_json::json!({"tunnelType": "Geneve", "mtu": 1400}));
        assert_eq!(
            class_of_config(Some(&base), &served),
            Class::Restart,
            "kube-proxy's connections stay with it"
        );
        assert_eq!(class_of_config(Some(&served), &base), Class::Disruptive);
        let all = spec(serde_json::json!({"tunnelType": "Geneve", "mtu": 1400, "proxy": {"mode": "All"}}));
        for before in [&base, &served] {
            assert_eq!(class_of_config(Some(before), &all), Class::Restart);
            assert_eq!(class_of_config(Some(&all), before), Class::Disruptive);
        }
    }
}
