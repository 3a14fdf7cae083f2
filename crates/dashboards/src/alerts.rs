//! Alerts: what is worth calling a person for.

use serde_json::{Value, json};

/// Where runbook pages are unless somebody says otherwise; a page has the name of its alert.
pub const RUNBOOKS: &str = "https://github.com/antrea-io/antrea-rs/blob/main/docs/runbooks";

/// How urgent an alert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Pods lose their network, or soon will: now.
    Critical,
    /// Something does not work as it should: on the same day.
    Warning,
    /// Worth knowing.
    Info,
}

/// An alert as Prometheus evaluates it, with its runbook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    pub name: &'static str,
    /// How urgent it is.
    pub severity: Severity,
    /// PromQL; it fires for each series.
    pub expr: &'static str,
    /// How long that has to hold, in minutes.
    pub minutes: u32,
    /// One line, with Prometheus's templates.
    pub summary: &'static str,
    /// What it means and where to look first, with Prometheus's templates.
    pub description: &'static str,
}

impl Severity {
    /// Value of the label `severity`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

impl Alert {
    fn json(&self, runbooks: &str) -> Value {
        let mut rule = json!({
            "alert": self.name,
            "expr": self.expr,
            "labels": {"severity": self.severity.label()},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": format!("{}/{}.md", runbooks.trim_end_matches('/'), self.name),
            },
        });
        if self.minutes > 0 {
            rule["for"] = format!("{}m", self.minutes).into();
        }
        rule
    }
}

/// The rules as Prometheus and a PrometheusRule have them: `{"groups": [...]}`. Runbook pages are in the folder
/// `runbooks`, a URL.
pub fn rules(runbooks: &str) -> Value {
    let group = |(name, alerts): (&str, Vec<Alert>)| {
        let rules: Vec<Value> = alerts.iter().map(|alert| alert.json(runbooks)).collect();
        json!({"name": name, "rules": rules})
    };
    json!({"groups": alerts().into_iter().map(group).collect::<Vec<_>>()})
}

/// All alerts by group.
pub fn alerts() -> Vec<(&'static str, Vec<Alert>)> {
    vec![
        ("antrea.availability", availability()),
        ("antrea.agent", agent()),
        ("antrea.proxy", proxy()),
        ("antrea.controller", controller()),
        ("antrea.operator", operator()),
    ]
}

fn availability() -> Vec<Alert> {
    vec![
        Alert {
            name: "AntreaAgentDown",
            severity: Severity::Critical,
            expr: "up{job=\"antrea-agent\"} == 0",
            minutes: 5,
            summary: "The agent on {{ $labels.instance }} does not answer.",
            description: "Prometheus has not reached the Antrea agent on {{ $labels.instance }} for 5 minutes. \
                Pods there keep their network, but new Pods do not get one and policy is not updated.",
        },
        Alert {
            name: "AntreaControllerDown",
            severity: Severity::Critical,
            expr: "absent(up{job=\"antrea-controller\"} == 1)",
            minutes: 5,
            summary: "The Antrea controller does not answer.",
            description: "Prometheus has not reached the Antrea controller for 5 minutes. Agents enforce what they \
                know; changes of policy and new Pods that policy selects are not computed.",
        },
        Alert {
            name: "AntreaOperatorDown",
            severity: Severity::Warning,
            expr: "absent(up{job=\"antrea-operator\"} == 1)",
            minutes: 15,
            summary: "The Antrea operator does not answer.",
            description: "Prometheus has not reached the Antrea operator for 15 minutes. The network goes on working; \
                upgrades, changes of configuration and repairs of drift wait.",
        },
        Alert {
            name: "AntreaAgentCountBelowNodes",
            severity: Severity::Warning,
            expr: "max(antrea_operator_nodes{state=\"desired\"}) - sum(up{job=\"antrea-agent\"}) > 0",
            minutes: 15,
            summary: "{{ $value }} Nodes have no agent that answers.",
            description: "Fewer agents answer than there are Nodes that shall run one. A Pod may be missing on a Node, \
                or Prometheus does not find it.",
        },
        Alert {
            name: "AntreaCertificateExpiry",
            severity: Severity::Warning,
            expr: "{__name__=~\"antrea_(agent|controller|operator)_certificate_expiration_timestamp_seconds\"} - time() < 1209600",
            minutes: 60,
            summary: "Certificate {{ $labels.certificate }} of {{ $labels.job }} expires soon.",
            description: "The certificate {{ $labels.certificate }} of {{ $labels.job }} ({{ $labels.instance }}) expires \
                in {{ $value | humanizeDuration }}. It should have been renewed by now.",
        },
        Alert {
            name: "AntreaVersionSkew",
            severity: Severity::Warning,
            expr: "count(count by (version) ({__name__=~\"antrea_(agent|controller)_build_info\"})) > 1",
            minutes: 60,
            summary: "{{ $value }} versions of Antrea run at the same time.",
            description: "Agents and controller have not been of one version for an hour. An upgrade may be stuck.",
        },
    ]
}

fn agent() -> Vec<Alert> {
    vec![
        Alert {
            name: "AntreaAgentUnhealthy",
            severity: Severity::Warning,
            expr: "antrea_agent_condition{type=\"AgentHealthy\"} == 0",
            minutes: 5,
            summary: "The agent on {{ $labels.instance }} is not well.",
            description: "The agent on {{ $labels.instance }} has been saying for 5 minutes that something is wrong. The \
                condition AgentHealthy of its AntreaAgentInfo names what.",
        },
        Alert {
            name: "AntreaDatapathSelfTestFailing",
            severity: Severity::Critical,
            expr: "sum by (instance) (increase(antrea_agent_datapath_self_test_failures_total[5m])) > 2",
            minutes: 0,
            summary: "The datapath on {{ $labels.instance }} does not forward.",
            description: "Test frames that the agent on {{ $labels.instance }} sends through its bridge do not come back. \
                Pods there are probably cut off.",
        },
        Alert {
            name: "AntreaDatapathFlowsWrong",
            severity: Severity::Critical,
            expr: "sum by (instance) (increase(antrea_agent_datapath_flows_wrong_total[10m])) > 0",
            minutes: 0,
            summary: "The datapath on {{ $labels.instance }} did something else than flows say.",
            description: "The agent on {{ $labels.instance }} has found and removed flows of the datapath that differed \
                from what the bridge decides. Until then packets may have passed that policy forbids.",
        },
        Alert {
            name: "AntreaConntrackNearlyFull",
            severity: Severity::Warning,
            expr: "antrea_agent_conntrack_total_connection_count / antrea_agent_conntrack_max_connection_count > 0.8",
            minutes: 5,
            summary: "Connection tracking on {{ $labels.instance }} is nearly full.",
            description: "{{ $value | humanizePercentage }} of the connection tracking table on {{ $labels.instance }} \
                is taken. When it is full, new connections of all Pods there fail.",
        },
        Alert {
            name: "AntreaOVSFlowOpsErrors",
            severity: Severity::Warning,
            expr: "sum by (instance, operation) (increase(antrea_agent_ovs_flow_ops_error_count[10m])) > 0",
            minutes: 0,
            summary: "Open vSwitch on {{ $labels.instance }} refuses flows.",
            description: "Open vSwitch on {{ $labels.instance }} refused operations ({{ $labels.operation }}) in the \
                last 10 minutes. The Pods or policies concerned are not as they should be.",
        },
        Alert {
            name: "AntreaFlowsRepaired",
            severity: Severity::Warning,
            expr: "sum by (instance) (increase(antrea_agent_ovs_flow_repairs_total[30m])) > 0",
            minutes: 0,
            summary: "Somebody changes flows on {{ $labels.instance }}.",
            description: "The agent on {{ $labels.instance }} had to put back flows in the last 30 minutes. Something \
                else writes to its bridge, or Open vSwitch loses flows; until a repair, traffic may be wrong.",
        },
        Alert {
            name: "AntreaFlowLatencyHigh",
            severity: Severity::Warning,
            expr: "histogram_quantile(0.99, sum by (le, instance) (rate(antrea_agent_ovs_flow_ops_latency_milliseconds_bucket[10m]))) > 1000",
            minutes: 15,
            summary: "Open vSwitch on {{ $labels.instance }} is slow.",
            description: "The slowest hundredth of the bundles on {{ $labels.instance }} takes more than a second. New \
                Pods and changes of policy wait for that long; the Node may be overloaded.",
        },
    ]
}

fn proxy() -> Vec<Alert> {
    vec![
        Alert {
            name: "AntreaServicesRefused",
            severity: Severity::Warning,
            expr: "antrea_proxy_refused_services > 0",
            minutes: 5,
            summary: "{{ $value }} Services are not served as they should be on {{ $labels.instance }}.",
            description: "Open vSwitch on {{ $labels.instance }} has been refusing flows of {{ $value }} Services for 5 \
                minutes. They go on as they were before: connections may go to endpoints that are gone.",
        },
        Alert {
            name: "AntreaServicesInvalid",
            severity: Severity::Info,
            expr: "max by (resource) (antrea_proxy_invalid_objects) > 0",
            minutes: 15,
            summary: "{{ $value }} objects of {{ $labels.resource }} are not served as they are written.",
            description: "Antrea leaves out a part of {{ $value }} objects ({{ $labels.resource }}): another Service has \
                the address and port, a field cannot be read, or there are too many endpoints. The agents' log names all of it.",
        },
        Alert {
            name: "AntreaServiceSyncSlow",
            severity: Severity::Warning,
            expr: "histogram_quantile(0.99, sum by (le, instance) (rate(antrea_proxy_sync_proxy_rules_duration_seconds_bucket[10m]))) > 1",
            minutes: 15,
            summary: "Services on {{ $labels.instance }} follow their endpoints slowly.",
            description: "The slowest hundredth of the changes of Services on {{ $labels.instance }} takes more than a \
                second into the bridge. For that long connections go to endpoints that are gone.",
        },
    ]
}

fn controller() -> Vec<Alert> {
    vec![
        Alert {
            name: "AntreaControllerUnhealthy",
            severity: Severity::Warning,
            expr: "antrea_controller_condition{type=\"ControllerHealthy\"} == 0",
            minutes: 5,
            summary: "The Antrea controller is not well.",
            description: "The controller has been saying for 5 minutes that something is wrong. The condition \
                ControllerHealthy of the AntreaControllerInfo names what.",
        },
        Alert {
            name: "AntreaControllerQueueStuck",
            severity: Severity::Critical,
            expr: "min_over_time(antrea_controller_length_network_policy_queue[10m]) > 0 \
                and on (instance) increase(antrea_controller_network_policy_processed[10m]) == 0",
            minutes: 5,
            summary: "The Antrea controller computes no policy.",
            description: "Changes have been waiting in the controller for 10 minutes and none was computed. Agents go \
                on enforcing policy as it was.",
        },
        Alert {
            name: "AntreaSyncLatencyHigh",
            severity: Severity::Warning,
            expr: "histogram_quantile(0.99, sum by (le) (rate(antrea_controller_network_policy_sync_duration_milliseconds_bucket[10m]))) > 1000",
            minutes: 15,
            summary: "Policy takes more than a second to compute.",
            description: "The slowest hundredth of the changes takes the controller more than a second. Pods may start \
                before the policy that selects them is in force.",
        },
    ]
}

fn operator() -> Vec<Alert> {
    vec![
        Alert {
            name: "AntreaNotAvailable",
            severity: Severity::Critical,
            expr: "max(antrea_operator_condition{type=\"Available\"}) == 0",
            minutes: 5,
            summary: "Antrea is not available.",
            description: "The AntreaInstallation has not been Available for 5 minutes: Pods get no network or policy is \
                not computed. Its status says what is wrong.",
        },
        Alert {
            name: "AntreaOperatorDegraded",
            severity: Severity::Warning,
            expr: "max(antrea_operator_condition{type=\"Degraded\"}) == 1",
            minutes: 10,
            summary: "The Antrea installation is degraded.",
            description: "The AntreaInstallation has been Degraded for 10 minutes. The condition's message names what \
                is wrong, and Nodes whose agent fails.",
        },
        Alert {
            name: "AntreaRolloutStuck",
            severity: Severity::Warning,
            expr: "max(antrea_operator_nodes{state=\"desired\"}) - max(antrea_operator_nodes{state=\"updated\"}) > 0 \
                and sum(increase(antrea_operator_agent_pods_replaced_total[30m])) == 0",
            minutes: 30,
            summary: "{{ $value }} Nodes wait for their agent to be replaced.",
            description: "A rollout has not replaced an agent for half an hour although some are not of the wanted \
                revision. The operator waits for an agent that does not become ready.",
        },
        Alert {
            name: "AntreaDriftRepeated",
            severity: Severity::Warning,
            expr: "sum by (kind) (increase(antrea_operator_drift_repairs_total[1h])) > 5",
            minutes: 0,
            summary: "Somebody keeps changing what the Antrea operator manages.",
            description: "The operator put back objects of kind {{ $labels.kind }} more than 5 times in an hour. Two \
                controllers fight over them; the operator's Events name the other one.",
        },
        Alert {
            name: "AntreaReconcileErrors",
            severity: Severity::Warning,
            expr: "sum(increase(antrea_operator_reconcile_duration_seconds_count{result=\"error\"}[15m])) > 3",
            minutes: 15,
            summary: "The Antrea operator cannot do its work.",
            description: "Reconciliations keep failing. The operator's log and the condition Degraded say why.",
        },
    ]
}
