//! The boards, one file each.

use crate::{Board, Panel};

mod agent;
mod controller;
mod operator;
mod overview;
mod ovs;
mod policy;
mod proxy;

/// Every board, in the order in which a reader goes from the whole to the parts.
pub fn boards() -> Vec<Board> {
    vec![
        overview::board(),
        agent::board(),
        controller::board(),
        ovs::board(),
        policy::board(),
        proxy::board(),
        operator::board(),
    ]
}

/// What each process says of itself.
fn process() -> (&'static str, Vec<Panel>) {
    let panels = vec![
        Panel::lines("CPU", "Share of one core that the process uses.")
            .unit("percentunit")
            .query("rate(process_cpu_seconds_total{@}[$__rate_interval])", "{{instance}}"),
        Panel::lines("Memory", "Resident memory of the process.")
            .unit("bytes")
            .query("process_resident_memory_bytes{@}", "{{instance}}"),
        Panel::lines(
            "Open files",
            "File descriptors, sockets among them. A number that only grows is a leak; at the limit nothing works.",
        )
        .query("process_open_fds{@}", "{{instance}}"),
        Panel::lines("Time since start", "Falls to zero when the process restarts.")
            .unit("s")
            .query("time() - process_start_time_seconds{@}", "{{instance}}"),
    ];
    ("Process", panels)
}

/// The `quantile` of a histogram by `label`.
fn quantile(quantile: &str, histogram: &str, label: &str) -> String {
    format!(
        "histogram_quantile({quantile}, sum by (le, {label}) (rate({histogram}_bucket{{@}}[$__rate_interval])))"
    )
}
