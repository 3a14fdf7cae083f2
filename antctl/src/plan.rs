//! `antctl plan`: what the operator would change, as its status has it.

use std::fmt::Write as _;

use antrea_crds::{
    AntreaInstallation, INSTALLATION_NAME,
    installation::{ConditionType, PendingChange},
};
use kube::Api;

use crate::connect::Clients;

/// The plan of the cluster's AntreaInstallation.
pub(crate) async fn plan(clients: &Clients) -> anyhow::Result<String> {
    let cluster = clients.cluster().await?;
    let found = Api::<AntreaInstallation>::all(cluster.client.clone()).get(INSTALLATION_NAME).await;
    let found =
        found.map_err(|error| cluster.explain(&error, &format!("AntreaInstallation {INSTALLATION_NAME}")))?;
    Ok(text(&found))
}

/// What a class of change does while it is made.
fn interruption(class: &str) -> &'static str {
    match class {
        "Live" => "nothing restarts, nothing is interrupted",
        "Restart" => {
            "Pods of Antrea restart, agents Node by Node: while a Node's agent is away, Pods there keep their \
             connections on the kernel's datapath, and none are added; see docs/rollout.md"
        }
        "Disruptive" => {
            "as Restart, and traffic between changed and unchanged Nodes breaks until all are changed"
        }
        _ => "not known to this version of antctl",
    }
}

/// The plan as text: objects as a diff has them.
pub(crate) fn text(installation: &AntreaInstallation) -> String {
    let mut text = String::new();
    let Some(status) = &installation.status else {
        return "The operator has not looked at the AntreaInstallation yet.\n".to_owned();
    };
    let condition = |type_| status.conditions.iter().find(|condition| condition.type_ == type_);
    for type_ in [ConditionType::Progressing, ConditionType::Degraded] {
        if let Some(found) = condition(type_) {
            let _ = writeln!(text, "# {type_:?}={} {}: {}", found.status, found.reason, found.message);
        }
    }
    // What the status says is of another spec while this one has not been looked at.
    let looked_at = condition(ConditionType::Progressing).and_then(|found| found.observed_generation);
    if looked_at != installation.metadata.generation {
        let _ = writeln!(text, "# The spec has changed since; look again in a moment.");
    }
    if status.pending_changes.is_empty() {
        text.push_str("No object would change.\n");
        return text;
    }
    for change in &status.pending_changes {
        object(&mut text, change);
    }
    let mut classes: Vec<&str> = status.pending_changes.iter().map(|change| &*change.class).collect();
    classes.sort_unstable();
    classes.dedup();
    for class in classes {
        let _ = writeln!(text, "# {class}: {}", interruption(class));
    }
    if !status.planned_waves.is_empty() {
        text.push_str("# Order of Nodes:\n");
    }
    for wave in &status.planned_waves {
        let named = wave.first.join(", ");
        let more = usize::try_from(wave.nodes).unwrap_or_default().saturating_sub(wave.first.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = writeln!(text, "#   {} ({} Nodes, {}): {named}{more}", wave.name, wave.nodes, wave.reason);
    }
    text
}

fn object(text: &mut String, change: &PendingChange) {
    let sign = match change.action.as_str() {
        "Create" => '+',
        "Delete" => '-',
        _ => '~',
    };
    let _ = writeln!(text, "{sign} {} ({})", change.object, change.class);
    for field in &change.changes {
        let _ = writeln!(text, "  @@ {} @@", field.path);
        for (sign, value) in [('-', &field.from), ('+', &field.to)] {
            for line in value.iter().flat_map(|value| value.lines()) {
                let _ = writeln!(text, "  {sign} {line}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plan_reads_like_a_diff() {
        let installation = serde_json::from_value(json!({
            "apiVersion": "operator.antrea.io/v1alpha1", "kind": "AntreaInstallation",
            "metadata": {"name": "default", "generation": 7}, "spec": {"managementState": "Paused"},
            "status": {
                "conditions": [{"type": "Progressing", "status": "False", "reason": "Paused", "observedGeneration": 7,
                    "message": "paused; 2 objects would change", "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                "pendingChanges": [
                    {"object": "ConfigMap kube-system/antrea-config", "action": "Update", "class": "Live",
                     "changes": [{"path": "data.[antrea-agent.conf]", "from": "tunnelPort: 1", "to": "tunnelPort: 2\na: 1"}]},
                    {"object": "DaemonSet kube-system/antrea-agent", "action": "Update", "class": "Disruptive",
                     "changes": [{"path": "spec.x", "to": "1"}]}],
                "plannedWaves": [
                    {"name": "canary", "nodes": 1, "first": ["n3"], "reason": "spec.rollout.canary"},
                    {"name": "others", "nodes": 7, "first": ["n1", "n2"], "reason": "by name"}],
            },
        }))
        .unwrap();
        let expected = "\
# Progressing=False Paused: paused; 2 objects would change
~ ConfigMap kube-system/antrea-config (Live)
  @@ data.[antrea-agent.conf] @@
  - tunnelPort: 1
  + tunnelPort: 2
  + a: 1
~ DaemonSet kube-system/antrea-agent (Disruptive)
  @@ spec.x @@
  + 1
# Disruptive: as Restart, and traffic between changed and unchanged Nodes breaks until all are changed
# Live: nothing restarts, nothing is interrupted
# Order of Nodes:
#   canary (1 Nodes, spec.rollout.canary): n3
#   others (7 Nodes, by name): n1, n2 and 5 more
";
        assert_eq!(text(&installation), expected);
        let mut newer = installation;
        newer.metadata.generation = Some(8);
        assert!(text(&newer).contains("The spec has changed since"));
    }
}
