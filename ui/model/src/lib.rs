//! What every user interface shows of Antrea, as plain data: rows, verdicts on health, the network's graph.
//!
//! ```text
//!  AntreaControllerInfo ─┐
//!  AntreaAgentInfos ─────┼─► View::of(input) ─► rows, verdicts, graph, installation, gates ─► a plugin draws them
//!  AntreaInstallation ───┤
//!  /featuregates ────────┘        Traceflow ─► trace::rows, trace::dot
//! ```
//!
//! Invariants:
//! - No I/O and no clock: the time is an argument.
//! - A verdict is healthy only if somebody said so within the last three minutes.
//! - `vectors/` holds inputs with what must come out; a user interface in another language checks itself by them.

mod gates;
mod graph;
mod health;
mod installation;
mod rows;
pub mod trace;

use antrea_crds::{AntreaAgentInfo, AntreaControllerInfo, AntreaInstallation};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use gates::{GateReport, GateRow};
pub use graph::{Edge, Graph, Kind, Vertex};
pub use health::{Condition, Health, Verdict};
pub use installation::{InstallationView, Pending, Rollout, Trouble};
pub use rows::{AgentRow, ControllerRow, FlowTable, Network, ObjectName, PolicyCounts};

/// What a view is made of.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    /// The present.
    pub now: Timestamp,
    /// The AntreaControllerInfo, if there is one.
    #[serde(default)]
    pub controller: Option<AntreaControllerInfo>,
    /// Every AntreaAgentInfo, in any order.
    #[serde(default)]
    pub agents: Vec<AntreaAgentInfo>,
    /// The AntreaInstallation, if there is one: Antrea can be installed without the operator.
    #[serde(default)]
    pub installation: Option<AntreaInstallation>,
    /// What the components answer under `/featuregates`, one after the other.
    #[serde(default)]
    pub gates: Vec<GateReport>,
}

/// What is shown.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// The controller and all agents in one word: the worst of them.
    pub health: Health,
    /// How many agents have which verdict.
    pub counts: Counts,
    pub controller: Option<ControllerRow>,
    /// The agents by name.
    pub agents: Vec<AgentRow>,
    /// How the nodes hang together.
    pub graph: Graph,
    pub installation: Option<InstallationView>,
    /// Feature gates by name.
    pub gates: Vec<GateRow>,
}

/// Numbers of agents by verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Well.
    pub healthy: usize,
    /// Working, with something wrong.
    pub degraded: usize,
    /// Not working, by their own account.
    pub unhealthy: usize,
    /// Silent.
    pub stale: usize,
    /// Never heard of, or with a clock that cannot be trusted.
    pub unknown: usize,
}

impl View {
    /// The view of `input`.
    pub fn of(input: &Input) -> Self {
        let controller = input.controller.as_ref().map(|info| rows::controller(info, input.now));
        let version = controller.as_ref().map(|row| row.version.as_str());
        let mut agents: Vec<AgentRow> =
            input.agents.iter().map(|info| rows::agent(info, version, input.now)).collect();
        agents.sort_by(|a, b| a.name.cmp(&b.name));
        let counts = count(&agents);
        Self {
            health: overall(controller.as_ref(), &agents, counts),
            counts,
            graph: graph::of(controller.as_ref(), &agents),
            installation: input.installation.as_ref().map(installation::view),
            gates: gates::rows(&input.gates),
            controller,
            agents,
        }
    }
}

fn count(agents: &[AgentRow]) -> Counts {
    let mut counts = Counts::default();
    for row in agents {
        *match row.health.verdict {
            Verdict::Healthy => &mut counts.healthy,
            Verdict::Degraded => &mut counts.degraded,
            Verdict::Unhealthy => &mut counts.unhealthy,
            Verdict::Stale => &mut counts.stale,
            Verdict::Unknown => &mut counts.unknown,
        } += 1;
    }
    counts
}

/// The worst verdict, and whose it is; the controller's where it is as bad as an agent's.
fn overall(controller: Option<&ControllerRow>, agents: &[AgentRow], counts: Counts) -> Health {
    let Some(controller) = controller else {
        return Health::new(Verdict::Unknown, "there is no AntreaControllerInfo: is Antrea installed?");
    };
    let Some(worst) = agents.iter().map(|row| row.health.verdict).max() else {
        return Health::new(Verdict::Unknown, "there is no AntreaAgentInfo");
    };
    if worst > controller.health.verdict {
        let ill = agents.len() - counts.healthy;
        Health::new(worst, &format!("{ill} of {} agents are not healthy", agents.len()))
    } else if controller.health.verdict == Verdict::Healthy {
        Health::new(Verdict::Healthy, "")
    } else {
        controller.health.told_of("controller")
    }
}
