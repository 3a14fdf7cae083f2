//! Feature gates.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A gate as a component reports it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GateReport {
    /// `agent` or `controller`.
    pub component: String,
    pub name: String,
    /// `Enabled` or `Disabled`.
    pub status: String,
    /// `ALPHA`, `BETA` or `GA`.
    pub version: String,
}

/// A gate with what both components say of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GateRow {
    pub name: String,
    /// Maturity.
    pub stage: String,
    /// On in the controller; `None` where it has no such gate.
    pub controller: Option<bool>,
    /// The same in the agents.
    pub agent: Option<bool>,
}

/// One row per gate, by name.
pub(crate) fn rows(reports: &[GateReport]) -> Vec<GateRow> {
    let mut rows: BTreeMap<&str, GateRow> = BTreeMap::new();
    for report in reports {
        let row = rows.entry(&report.name).or_insert_with(|| GateRow {
            name: report.name.clone(),
            stage: report.version.clone(),
            controller: None,
            agent: None,
        });
        let side = match report.component.as_str() {
            "controller" => &mut row.controller,
            "agent" => &mut row.agent,
            _ => continue,
        };
        *side = Some(report.status == "Enabled");
    }
    rows.into_values().filter(|row| row.controller.is_some() || row.agent.is_some()).collect()
}
