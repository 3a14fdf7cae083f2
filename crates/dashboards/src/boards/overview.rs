use super::process;
use crate::{Board, Panel};

pub(super) fn board() -> Board {
    Board {
        uid: "antrea-overview",
        title: "Antrea / Overview",
        description: "Whether the network of the cluster is well, at a glance.",
        every: "{__name__=~\"antrea_(agent|controller|operator)_build_info\"}",
        rows: vec![("Health", health()), ("Network", network()), process()],
    }
}

fn health() -> Vec<Panel> {
    vec![
        Panel::number("Available", "Pods get networked and policy is computed, as the operator sees it.")
            .query("max(antrea_operator_condition{@, type=\"Available\"})", "")
            .name(0, "No", "red")
            .name(1, "Yes", "green"),
        Panel::number("Degraded", "Something is wrong and needs a person; the AntreaInstallation says what.")
            .query("max(antrea_operator_condition{@, type=\"Degraded\"})", "")
            .name(0, "No", "green")
            .name(1, "Yes", "red"),
        Panel::number(
            "Agents that do not answer",
            "Nodes that shall run an agent, less the agents that Prometheus reaches.",
        )
        .query("sum(antrea_operator_nodes{@, state=\"desired\"}) - count(antrea_agent_build_info{@})", "")
        .bad_from(1.0),
        Panel::number("Unhealthy agents", "Agents that say that something is wrong; their AntreaAgentInfo says what.")
            .query("count(antrea_agent_condition{@, type=\"AgentHealthy\"} == 0) or vector(0)", "")
            .bad_from(1.0),
        Panel::number("Controllers", "Controllers that Prometheus reaches.")
            .query("count(antrea_controller_build_info{@})", "")
            .good_from(1.0),
        Panel::number(
            "Versions",
            "Versions of agents and controller that run at the same time; more than one is normal during an upgrade only.",
        )
        .query("count(count by (version) ({__name__=~\"antrea_(agent|controller)_build_info\", job=~\"$job\", instance=~\"$instance\"}))", "")
        .bad_from(2.0),
        Panel::lines("Nodes", "Nodes by the state of their agent.")
            .query("sum by (state) (antrea_operator_nodes{@})", "{{state}}"),
        Panel::table("What runs where", "Version of every process.")
            .width(12)
            .query("max by (job, instance, version) ({__name__=~\"antrea_(agent|controller|operator)_build_info\", job=~\"$job\", instance=~\"$instance\"})", "")
            .without(&["Value"]),
    ]
}

fn network() -> Vec<Panel> {
    vec![
        Panel::stacked("Pods", "Pods that each agent connects; host-network Pods do not count.")
            .query("antrea_agent_local_pod_count{@}", "{{instance}}"),
        Panel::lines("Flows", "Flows of Open vSwitch on each Node.")
            .query("antrea_agent_ovs_total_flow_count{@}", "{{instance}}"),
        Panel::lines("NetworkPolicies", "Policies that select Pods of a Node.")
            .query("antrea_agent_networkpolicy_count{@}", "{{instance}}"),
        Panel::lines(
            "Repairs",
            "Flows that somebody else changed and the agent put back, and objects that the operator put back.",
        )
        .unit("cps")
        .query("sum(rate(antrea_agent_ovs_flow_repairs_total{@}[$__rate_interval]))", "flows")
        .query("sum(rate(antrea_operator_drift_repairs_total{@}[$__rate_interval])) or vector(0)", "objects"),
    ]
}
