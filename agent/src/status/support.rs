//! What an agent's support bundle consists of. Upstream's names where it has the same.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use antrea_runtime::metrics::Metrics;
use antrea_support::{Collector, Part, collect};
use apiserver_kit::status::Failure;
use futures::future::BoxFuture;
use k8s_openapi::jiff::Timestamp;
use ovs::ctl;
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc::Sender;

use crate::facts::compose;
use crate::status::api::{ApiState, interface_rows};
use crate::status::bridge;

/// Longest answer of ovs-vswitchd that is taken, in octets.
const ANSWER: usize = 4 << 20;

/// What ovs-vswitchd is asked about itself: file, command.
const VSWITCHD: [(&str, &str); 5] = [
    ("ovs/dpif", "dpif/show"),
    ("ovs/upcall", "upcall/show"),
    ("ovs/coverage", "coverage/show"),
    ("ovs/memory", "memory/show"),
    ("ovs/tunnels", "ofproto/list-tunnels"),
];

/// What the host's tools tell: file, command line.
const HOST: [(&str, &[&str]); 12] = [
    ("iptables", &["iptables-save", "-c"]),
    ("ip6tables", &["ip6tables-save", "-c"]),
    ("nftables", &["nft", "list", "ruleset"]),
    ("ipset", &["ipset", "save"]),
    ("network/addresses", &["ip", "addr"]),
    ("network/links", &["ip", "-d", "-s", "link"]),
    ("network/routes", &["ip", "route", "show", "table", "all"]),
    ("network/routes6", &["ip", "-6", "route", "show", "table", "all"]),
    ("network/rules", &["ip", "rule"]),
    ("network/rules6", &["ip", "-6", "rule"]),
    ("network/neighbours", &["ip", "neigh"]),
    ("conntrack", &["conntrack", "-L"]),
];

/// Finds them.
pub struct Support {
    /// What the API shows.
    pub state: ApiState,
    /// The configuration file.
    pub config: PathBuf,
    /// The metrics, if they are shown at all.
    pub metrics: Option<Metrics>,
}

/// Nobody wants the bundle any more.
struct Unwanted;

impl Collector for Support {
    fn collect(&self, since: Option<SystemTime>, parts: Sender<Part>) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // Then there is nobody to be told.
            let _ = self.all(since, &parts).await;
        })
    }
}

impl Support {
    async fn all(&self, since: Option<SystemTime>, parts: &Sender<Part>) -> Result<(), Unwanted> {
        let put = async |part: Part| parts.send(part).await.map_err(|_| Unwanted);
        let state = &self.state;
        put(Part::new("logs/agent/antrea-agent.log", state.log.recent(since))).await?;
        put(collect::file("config/antrea-agent.conf", &self.config).await).await?;
        let facts = state.reporter.subscribe().borrow().clone();
        let info = compose(&state.identity, &facts, Timestamp::now());
        put(Part::new("agentinfo", format!("{:#}\n", json!(info)))).await?;
        match state.record.objects().await {
            Ok(objects) => {
                put(lines("networkpolicies", &objects.policies)).await?;
                put(lines("addressgroups", &objects.address_groups)).await?;
                put(lines("appliedtogroups", &objects.applied_to_groups)).await?;
            }
            Err(error) => put(Part::failed("networkpolicies", error)).await?,
        }
        let network = state.network.borrow().clone();
        match network {
            Some(network) => {
                let rows = interface_rows(&network.interfaces());
                put(collect::lines("podinterfaces", rows)).await?;
                put(text("flows", bridge::all_flows(&network).await)).await?;
                put(text("groups", bridge::all_groups(&network).await)).await?;
            }
            None => {
                for path in ["podinterfaces", "flows", "groups"] {
                    put(Part::failed(path, "the node's network is not up yet")).await?;
                }
            }
        }
        self.open_vswitch(parts).await?;
        for (path, line) in HOST {
            put(collect::program(path, line).await).await?;
        }
        for part in collect::memory().await {
            put(part).await?;
        }
        if let Some(metrics) = &self.metrics {
            put(match metrics.encode() {
                Ok(text) => Part::new("metrics", text),
                Err(error) => Part::failed("metrics", error),
            })
            .await?;
        }
        Ok(())
    }

    async fn open_vswitch(&self, parts: &Sender<Part>) -> Result<(), Unwanted> {
        let put = async |part: Part| parts.send(part).await.map_err(|_| Unwanted);
        let run_dir = &self.state.ovs_run_dir;
        let socket = |name: &str| format!("unix:{}", Path::new(run_dir).join(name).display());
        let (database, bridge) = (socket("db.sock"), socket(&format!("{}.mgmt", self.state.identity.bridge)));
        put(collect::program("ovsdb", &["ovsdb-client", "dump", &database]).await).await?;
        for (path, command) in
            [("ovsports", "dump-ports-desc"), ("ovs/ports", "dump-ports"), ("ovs/meters", "dump-meters")]
        {
            let line = ["ovs-ofctl", "-O", "OpenFlow15", command, &bridge];
            put(collect::program(path, &line).await).await?;
        }
        for (path, command) in VSWITCHD {
            put(match ctl::call_with_limit(run_dir, command, &[], ANSWER).await {
                Ok(text) => Part::new(path, text),
                Err(error) => Part::failed(path, error),
            })
            .await?;
        }
        Ok(())
    }
}

fn lines<T: Serialize>(path: &str, objects: &[T]) -> Part {
    collect::lines(path, objects.iter().map(|object| json!(object)))
}

fn text(path: &str, lines: Result<Vec<String>, Failure>) -> Part {
    match lines {
        Ok(lines) => Part::new(path, lines.join("\n") + "\n"),
        Err(error) => Part::failed(path, error),
    }
}
