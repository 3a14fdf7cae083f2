//! The log of what policies decide, in upstream's format: `/var/log/antrea/networkpolicy/np.log`.
//!
//! ```text
//!  packet-ins ─► queue ─► what the rule is, who the pod is ─► lines, merged ─► queue ─► a thread that writes
//! ```
//!
//! A flood costs what the meter lets through; what does not fit into a queue, or cannot be written, is counted and lost.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use antrea_enforce::logged::Logged;
use antrea_flows::policy::{Action, Direction};
use antrea_flows::{Judged, Network};
use jiff::Zoned;
use openflow::PacketIn2;
use tokio::sync::mpsc;

use self::file::LogFile;
use self::line::{Waiting, line};
use super::handle::LoggedRules;
use crate::config::AuditLogging;
use crate::metrics::PacketInMetrics;

mod file;
mod line;

/// Packets that wait to be told of, and lines that wait to be written.
const PACKETS: usize = 1024;
const LINES: usize = 4096;

/// Date and time before each line, of the agent's time zone.
const TIME: &str = "%Y/%m/%d %H:%M:%S%.6f";

/// Who gives packets to the log.
#[derive(Clone, Debug)]
pub struct DecisionLog {
    packets: mpsc::Sender<(Judged, PacketIn2)>,
    metrics: PacketInMetrics,
}

/// What makes lines of them.
#[derive(Debug)]
pub struct LineMaker {
    packets: mpsc::Receiver<(Judged, PacketIn2)>,
    rules: LoggedRules,
    lines: SyncSender<String>,
    metrics: PacketInMetrics,
}

impl DecisionLog {
    /// The log in a file; nothing is written, and no file made, before there is something to tell.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn new(
        file: PathBuf,
        limits: AuditLogging,
        rules: LoggedRules,
        metrics: PacketInMetrics,
    ) -> std::io::Result<(Self, LineMaker)> {
        let (packets, queue) = mpsc::channel(PACKETS);
        let (lines, to_write) = sync_channel(LINES);
        let counts = metrics.clone();
        std::thread::Builder::new()
            .name("np-log".to_owned())
            .spawn(move || write(&file, limits, &to_write, &counts))?;
        Ok((Self { packets, metrics: metrics.clone() }, LineMaker { packets: queue, rules, lines, metrics }))
    }

    /// Has a packet told of, if there is room for it.
    pub(super) fn take(&self, judged: Judged, packet: PacketIn2) {
        if self.packets.try_send((judged, packet)).is_err() {
            self.metrics.unlogged(1);
        }
    }
}

impl LineMaker {
    /// Makes lines, for ever. `pod_at` says whose an address is, as namespace and name.
    pub async fn run(mut self, network: &Network, pod_at: impl Fn(IpAddr) -> Option<String>) {
        let mut waiting = Waiting::default();
        loop {
            let due = waiting.due();
            tokio::select! {
                packet = self.packets.recv() => match packet {
                    Some((judged, packet)) => self.tell(network, &pod_at, judged, &packet, &mut waiting),
                    None => return,
                },
                () = sleep_until(due) => {
                    let now = Instant::now();
                    while let Some(line) = waiting.pop(now) {
                        self.write(&line);
                    }
                }
            }
        }
    }

    fn tell(
        &self,
        network: &Network,
        pod_at: impl Fn(IpAddr) -> Option<String>,
        judged: Judged,
        packet: &PacketIn2,
        waiting: &mut Waiting,
    ) {
        let Some(headers) = antrea_packet::parse(&packet.packet) else { return };
        let logged = match judged.rule {
            Some(rule) => self.rules.borrow().get(&rule).cloned(),
            None => network.pipeline.table(judged.table).and_then(Logged::isolation),
        };
        // A rule that is gone meanwhile has nothing to say.
        let Some(logged) = logged else { return };
        let own = match logged.direction {
            Direction::In => headers.dst,
            Direction::Out => headers.src,
        };
        let line = line(&logged, pod_at(own).as_deref(), &headers);
        if logged.action == Action::Allow {
            self.write(&line);
        } else if let Some(line) = waiting.take(line, Instant::now()) {
            self.write(&line);
        }
    }

    fn write(&self, line: &str) {
        if self.lines.try_send(format!("{} {line}\n", Zoned::now().strftime(TIME))).is_err() {
            self.metrics.unlogged(1);
        }
    }
}

/// Writes lines until nobody makes any. Of a disk that is full the first refusal is told, and then each that follows a
/// line that was written.
fn write(file: &std::path::Path, limits: AuditLogging, lines: &Receiver<String>, metrics: &PacketInMetrics) {
    // What an earlier life of the agent did not come to the end of.
    if let Err(error) = file::tidy_aside(file, limits) {
        tracing::warn!(file = %file.display(), %error, "old audit logs stay as they are");
    }
    let (mut log, mut failing) = (None, false);
    for line in lines {
        let written = match &mut log {
            Some(log) => LogFile::write(log, &line),
            none => LogFile::open(file, limits).and_then(|log| none.insert(log).write(&line)),
        };
        if let Err(error) = written {
            metrics.unlogged(1);
            log = None;
            if !std::mem::replace(&mut failing, true) {
                tracing::warn!(file = %file.display(), %error, "decisions of policies are not logged");
            }
        } else {
            failing = false;
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
