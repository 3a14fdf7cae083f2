//! Does the datapath do what the flows say? What it holds is a cache of decisions, and one that went wrong goes on
//! forwarding what flows forbid, while flows, self-test and every counter look right.
//!
//! Every few seconds a sample of the datapath's flows is compared with what Open vSwitch decides for the same key now
//! (`ofproto/trace`, which takes a datapath flow's key as it is dumped, recirculation and connection state included).
//! All packets of a datapath flow must be treated alike, so one key stands for them. Open vSwitch brings its cache up
//! to date some time after flows changed: only a difference that stays the same over several looks, and then does not
//! cease for a moment, is one. Then the cache is emptied (`revalidator/purge`), which costs one decision per flow, and it
//! is told.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ovs::ctl::{self, CtlError};

use self::judge::{Auditor, DatapathFlow, Wrong, decision, flows, ports};
use crate::facts::{Health, Reporter};
use crate::metrics::AuditMetrics;
use crate::ovs::bridge::Datapath;

mod judge;

/// Between looks.
const PERIOD: Duration = Duration::from_secs(5);

/// For how long such a difference is then watched, and how often. Flows that change to and fro differ at every look by
/// chance, but not all of the time: Open vSwitch follows within half a second.
const WATCHED: Duration = Duration::from_secs(2);
const GLANCE: Duration = Duration::from_millis(150);

/// How long it is told after the last flow that was wrong.
const TOLD: Duration = Duration::from_secs(60);

/// Longest dump that is read, in octets: some 10,000 flows. Of a datapath that has more, one port's flows are read at a
/// time.
const DUMP: usize = 8 << 20;

/// Longest answer to the other questions, in octets.
const ANSWER: usize = 1 << 20;

/// The datapath of a bridge, over ovs-vswitchd's control socket.
#[derive(Debug)]
pub struct Audit {
    run_dir: PathBuf,
    bridge: String,
    datapath: Datapath,
    auditor: Auditor,
    /// Which of the ports is read next, where not all can be at once.
    turn: Option<usize>,
}

impl Audit {
    /// Of this bridge.
    pub fn new(run_dir: PathBuf, bridge: String, datapath: Datapath) -> Self {
        Self { run_dir, bridge, datapath, auditor: Auditor::default(), turn: None }
    }

    /// Looks for ever.
    ///
    /// # Errors
    /// None: what is found is told, and a look that fails is followed by another.
    pub async fn run(mut self, reporter: &Reporter, metrics: &AuditMetrics) -> Infallible {
        let mut told: Option<Instant> = None;
        loop {
            tokio::time::sleep(PERIOD).await;
            match self.look(metrics).await {
                Ok(wrong) if !wrong.is_empty() => {
                    for wrong in &wrong {
                        tracing::error!(wrong, "the datapath does not do what flows say");
                    }
                    metrics.wrong(wrong.len());
                    if let Err(error) = self.ask("revalidator/purge", &[], ANSWER).await {
                        tracing::error!(%error, "the datapath's flows are not renewed");
                    }
                    told = Some(Instant::now());
                    let first = &wrong[0];
                    let health = Health::bad(
                        "DatapathFlowsWrong",
                        format_args!(
                            "{} of the datapath's flows differ from what the bridge's flows decide, and were removed; \
                             the first: {first}; if it comes again, restart the container antrea-ovs, and look for a \
                             newer Open vSwitch",
                            wrong.len()
                        ),
                    );
                    reporter.update(|facts| facts.datapath_flows = health);
                }
                Ok(_) => {
                    if told.is_none_or(|told| told.elapsed() > TOLD) {
                        reporter.update(|facts| facts.datapath_flows = Health::Good);
                    }
                }
                // ovs-vswitchd's own condition tells of it when it is away.
                Err(error) => tracing::debug!(%error, "datapath flows are not compared"),
            }
        }
    }

    async fn ask(&self, method: &str, arguments: &[&str], limit: usize) -> Result<String, CtlError> {
        ctl::call_with_limit(&self.run_dir, method, arguments, limit).await
    }

    /// Compares a sample; returns what is wrong.
    async fn look(&mut self, metrics: &AuditMetrics) -> Result<Vec<String>, CtlError> {
        let ports = ports(&self.ask("dpif/show", &[], ANSWER).await?, &self.bridge);
        let (found, read) = self.dump(&ports).await?;
        // A port that the bridge has no more has no flows.
        let sample = self.auditor.sample(found, |port| read.contains(&port) || !ports.contains(&port));
        let mut wrong = Vec::new();
        for flow in sample {
            let Some(decided) = self.decided(&flow.key).await? else { continue };
            metrics.compared();
            if self.auditor.judge(Instant::now(), &flow, &decided) {
                wrong.push(Wrong { flow, decided });
            }
        }
        let begin = Instant::now();
        while !wrong.is_empty() && begin.elapsed() < WATCHED {
            tokio::time::sleep(GLANCE).await;
            let mut left = Vec::with_capacity(wrong.len());
            for wrong in wrong {
                let dump = self.dump_port(wrong.flow.in_port).await?;
                if wrong.stays(&dump, self.decided(&wrong.flow.key).await?.as_deref()) {
                    left.push(wrong);
                }
            }
            wrong = left;
        }
        Ok(wrong.iter().map(Wrong::told).collect())
    }

    /// What the flows decide for packets of a key; none if that cannot be said.
    async fn decided(&self, key: &str) -> Result<Option<String>, CtlError> {
        match self.ask("ofproto/trace", &[self.datapath.backer(), key], ANSWER).await {
            Ok(trace) => Ok(decision(&trace)),
            // Gone since, with what it continued.
            Err(CtlError::Refused { message, .. }) => {
                tracing::debug!(key, message, "a datapath flow cannot be traced");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Flows of the ports, and of which ports these are all.
    async fn dump(&mut self, ports: &BTreeSet<u32>) -> Result<(Vec<DatapathFlow>, BTreeSet<u32>), CtlError> {
        let of_bridge = |dump: &str| flows(dump).filter(|flow| ports.contains(&flow.in_port)).collect();
        if self.turn.is_none() {
            let words = ["-m", "--no-names", self.datapath.dpif()];
            match self.ask("dpctl/dump-flows", &words, DUMP).await {
                Err(CtlError::TooLong { .. }) => self.turn = Some(0),
                answer => return Ok((of_bridge(&answer?), ports.clone())),
            }
        }
        let turn = self.turn.unwrap_or_default();
        // After all ports it may be fewer flows.
        self.turn = Some(turn + 1).filter(|turn| *turn < ports.len());
        let mut wanted = self.auditor.suspected();
        wanted.extend(ports.iter().nth(turn));
        let (mut found, mut read): (Vec<DatapathFlow>, _) = (Vec::new(), BTreeSet::new());
        for port in wanted.intersection(ports) {
            match self.dump_port(*port).await {
                Ok(dump) => {
                    let flows: Vec<DatapathFlow> = of_bridge(&dump);
                    found.extend(flows);
                    read.insert(*port);
                }
                // This one's cannot be looked at; those of others can.
                Err(CtlError::TooLong { .. }) => tracing::debug!(port, "too many datapath flows to compare"),
                Err(error) => return Err(error),
            }
        }
        Ok((found, read))
    }

    /// Flows of what comes in by a port.
    async fn dump_port(&self, port: u32) -> Result<String, CtlError> {
        let filter = format!("filter=in_port={port}");
        self.ask("dpctl/dump-flows", &["-m", "--no-names", self.datapath.dpif(), &filter], DUMP).await
    }
}
