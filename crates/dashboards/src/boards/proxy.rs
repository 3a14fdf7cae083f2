use super::quantile;
use crate::{Board, Panel};

const SYNC: &str = "antrea_proxy_sync_proxy_rules_duration_seconds";

pub(super) fn board() -> Board {
    Board {
        uid: "antrea-proxy",
        title: "Antrea / Services",
        description: "Services that Open vSwitch serves: how many, how fast they change, and what is not served. Empty where kube-proxy serves all of them.",
        every: "antrea_proxy_refused_services",
        rows: vec![("Served", served()), ("Changes", changes()), ("Not served", unserved())],
    }
}

fn served() -> Vec<Panel> {
    vec![
        Panel::lines("Ports of Services", "Ports of Services with an endpoint, on each Node.")
            .query("sum by (instance) (antrea_proxy_total_services_installed{@})", "{{instance}}"),
        Panel::lines("Endpoints", "Endpoints of these ports; one that several ports have counts for each.")
            .query("sum by (instance) (antrea_proxy_total_endpoints_installed{@})", "{{instance}}"),
        Panel::stacked("By family", "Ports of Services on all selected Nodes, by family of addresses.")
            .query("sum by (ip_family) (antrea_proxy_total_services_installed{@})", "{{ip_family}}"),
        Panel::stacked("Flows", "Flows that translate, by table, on all selected Nodes. Those of SessionAffinity are clients that keep their endpoint.")
            .query(
                "sum by (table_name) (antrea_agent_ovs_flow_count{@, table_name=~\"ServiceState|SessionAffinity|ServiceLB|EndpointDNAT|SNAT\"})",
                "{{table_name}}",
            ),
    ]
}

fn changes() -> Vec<Panel> {
    vec![
        Panel::lines("Events of Services", "As the API server tells of them; a listing counts each Service.")
            .unit("ops")
            .query(
                "sum by (instance) (rate(antrea_proxy_total_services_updates{@}[$__rate_interval]))",
                "{{instance}}",
            ),
        Panel::lines(
            "Events of EndpointSlices",
            "As the API server tells of them; a listing counts each slice.",
        )
        .unit("ops")
        .query(
            "sum by (instance) (rate(antrea_proxy_total_endpoints_updates{@}[$__rate_interval]))",
            "{{instance}}",
        ),
        Panel::lines("Batches", "Changes that were taken into the bridge together.")
            .unit("ops")
            .query(&format!("sum by (instance) (rate({SYNC}_count{{@}}[$__rate_interval]))"), "{{instance}}"),
        Panel::lines("From change to flow", "Time that a batch takes from its computation into the bridge.")
            .unit("s")
            .query(&quantile("0.5", SYNC, "instance"), "median {{instance}}")
            .query(&quantile("0.99", SYNC, "instance"), "99th percentile {{instance}}"),
    ]
}

fn unserved() -> Vec<Panel> {
    vec![
        Panel::lines("Refused", "Services of which Open vSwitch refused flows or groups; they have what they had before.")
            .query("antrea_proxy_refused_services{@}", "{{instance}}"),
        Panel::lines(
            "Invalid objects",
            "Services and EndpointSlices of which a part is not served: what is wrong is in the log of every agent.",
        )
        .query("max by (resource) (antrea_proxy_invalid_objects{@})", "{{resource}}"),
        Panel::lines(
            "Refusals that were left out",
            "Packets to Services without endpoints that got no answer, because there were more than some 500 a second.",
        )
        .width(24)
        .query("sum(antrea_agent_ovs_meter_packet_dropped_count{@, meter_id=\"260\"}) or vector(0)", "packets"),
    ]
}
