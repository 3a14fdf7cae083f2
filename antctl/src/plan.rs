//! `antctl plan`: what the operator would change, as its status has it; for a spec in a file, as it answers when asked.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use antrea_crds::{
    AntreaInstallation, INSTALLATION_NAME,
    installation::{ConditionType, PendingChange, PlannedWave, Proposal},
};
use anyhow::{Context, bail};
use k8s_openapi::jiff::Timestamp;
use kube::Api;

use crate::connect::Clients;

mod question;

/// The plan of the cluster's AntreaInstallation.
pub(crate) async fn plan(clients: &Clients, limit: Duration) -> anyhow::Result<String> {
    let cluster = clients.cluster().await?;
    let api = Api::<AntreaInstallation>::all(cluster.client.clone());
    let found = tokio::time::timeout(limit, api.get(INSTALLATION_NAME)).await;
    let found = found.with_context(|| format!("no answer within {limit:?}; --timeout allows more"))?;
    let found =
        found.map_err(|error| cluster.explain(&error, &format!("AntreaInstallation {INSTALLATION_NAME}")))?;
    Ok(text(&found))
}

/// What the spec in a file would change. The operator looks at it and applies nothing.
pub(crate) async fn of_file(clients: &Clients, file: &Path, limit: Duration) -> anyhow::Result<String> {
    let spec = question::read(file).with_context(|| file.display().to_string())?;
    let cluster = clients.cluster().await?;
    let id = format!("antctl-{}-{}", std::process::id(), Timestamp::now().as_nanosecond());
    proposed(&question::ask(&cluster, spec, id, limit).await?)
}

/// A proposal as text.
fn proposed(proposal: &Proposal) -> anyhow::Result<String> {
    if let Some(why) = &proposal.refused {
        bail!("the operator would not take it: {why}");
    }
    let mut text = "# Not applied.\n".to_owned();
    for what in &proposal.waits_for {
        let _ = writeln!(text, "# It would wait for {what}.");
    }
    changes(&mut text, &proposal.pending_changes, &proposal.planned_waves);
    Ok(text)
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
    changes(&mut text, &status.pending_changes, &status.planned_waves);
    text
}

fn changes(text: &mut String, pending: &[PendingChange], waves: &[PlannedWave]) {
    if pending.is_empty() {
        text.push_str("No object would change.\n");
        return;
    }
    for change in pending {
        object(text, change);
    }
    let mut classes: Vec<&str> = pending.iter().map(|change| &*change.class).collect();
    classes.sort_unstable();
    classes.dedup();
    for class in classes {
        let _ = writeln!(text, "# {class}: {}", interruption(class));
    }
    if !waves.is_empty() {
        text.push_str("# Order of Nodes:\n");
    }
    for wave in waves {
        let named = wave.first.join(", ");
        let more = usize::try_from(wave.nodes).unwrap_or_default().saturating_sub(wave.first.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = writeln!(text, "#   {} ({} Nodes, {}): {named}{more}", wave.name, wave.nodes, wave.reason);
    }
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
    fn what_is_only_asked_about_says_so_and_what_it_would_wait_for() {
        let proposal = json!({"id": "1", "waitsFor": ["spec.rollout.acknowledge: 1"], "pendingChanges": [
            {"object": "ConfigMap kube-system/antrea-config", "action": "Update", "class": "Live"}]});
        let proposal: Proposal = serde_json::from_value(proposal).unwrap();
        let text = proposed(&proposal).unwrap();
        assert_eq!(
            text,
            "# Not applied.\n# It would wait for spec.rollout.acknowledge: 1.\n\
             ~ ConfigMap kube-system/antrea-config (Live)\n\
             # Live: nothing restarts, nothing is interrupted\n"
        );
        let refused = Proposal { refused: Some("UpgradeRefused: no".into()), ..Proposal::default() };
        let error = proposed(&refused).unwrap_err().to_string();
        assert_eq!(error, "the operator would not take it: UpgradeRefused: no");
    }

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
