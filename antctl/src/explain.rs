//! `antctl explain`: why a Pod reaches somebody, or does not.
//!
//! ```text
//!  API server ─ Pods, Service, endpoints ─┐
//!  controller ─ what it has computed ─────┼─► Facts ─► judge ─► Explanation ─► text, JSON, YAML
//!  agents ─ what they have, their state, ─┤                        └─► exit code
//!           their bridges' ofproto/trace, │
//!           their hosts' routes and rules ┘
//! ```
//!
//! Invariants:
//! - What could not be asked is a finding like all others; the rest of the answer is given.
//! - A change that is under way is no fault: what differs is looked at twice.
//! - Allowed is only what everybody who was to be asked says. Where something is broken, that outweighs what policy denies.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use antrea_policy::model::Protocol;
use anyhow::bail;
use clap::ValueEnum;
use serde_json::json;

use crate::cli::Format;
use crate::connect::{Clients, Place};
use crate::output::Output;

mod asked;
mod bridge;
mod computed;
mod facts;
mod finding;
mod gather;
mod host;
mod judge;
mod nodes;
mod objects;
mod probe;
mod render;
#[cfg(test)]
mod tests;
mod trace;
mod words;

use finding::Verdict;

/// The exit code of what is broken, and where nothing can be said, as of wrong arguments.
pub(crate) const FAILED: u8 = 2;

/// After this, what controller, agents and bridges do not agree about is looked at again. A change takes milliseconds, the
/// repair of a flow a second.
const AGAIN: Duration = Duration::from_millis(1200);

/// Who is slow is not asked twice: the first answer would be lost when time runs out.
const PATIENCE: Duration = Duration::from_secs(8);

/// Which packet.
#[derive(Debug, clap::Args)]
pub(crate) struct Explain {
    /// Pod that sends: namespace/name.
    #[arg(value_name = "SRC")]
    source: String,
    /// Whom it is for: namespace/name of a Pod or else a Service, svc/namespace/name of a Service, or an address.
    #[arg(value_name = "DST")]
    destination: String,
    /// Number or name of the port; may be left out where there is only one.
    #[arg(long, short)]
    port: Option<String>,
    /// Protocol; TCP, or what the Service's port is of.
    #[arg(long, value_enum)]
    protocol: Option<Sent>,
    /// Also sends such a packet, by a Traceflow: that alone shows what the network between Nodes does with it.
    #[arg(long)]
    send: bool,
    /// Output form; by default text.
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

impl Explain {
    /// Whether something is made in the cluster.
    pub(crate) fn sends(&self) -> bool {
        self.send
    }
}

/// A protocol on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sent {
    Tcp,
    Udp,
    Sctp,
    /// An echo request.
    Icmp,
}

impl From<Sent> for Protocol {
    fn from(sent: Sent) -> Self {
        match sent {
            Sent::Tcp => Self::Tcp,
            Sent::Udp => Self::Udp,
            Sent::Sctp => Self::Sctp,
            Sent::Icmp => Self::Icmp,
        }
    }
}

/// The answer, where it is not that all is well.
#[derive(Debug)]
pub(crate) struct NotAllowed {
    /// What to print.
    pub(crate) text: String,
    /// How the process ends: 1 if policy denies it, else [`FAILED`].
    pub(crate) code: u8,
    reason: String,
}

impl std::fmt::Display for NotAllowed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for NotAllowed {}

/// Explains, and returns what is to be printed. Nothing is sent when this time is over.
///
/// # Errors
/// [`NotAllowed`] with the answer where something denies the packet or is broken; others say why there is no answer.
pub(crate) async fn run(clients: &Clients, asked: &Explain, limit: Duration) -> anyhow::Result<String> {
    if clients.place() != Place::Elsewhere {
        bail!("explain asks several Nodes: run antctl outside of Antrea's containers");
    }
    let begun = Instant::now();
    let until = begun + limit;
    let mut explained = judge::explain(&gather::gather(clients, asked, until).await?);
    if explained.may_pass() && begun.elapsed() < PATIENCE {
        tokio::time::sleep(AGAIN).await;
        explained = judge::explain(&gather::gather(clients, asked, until).await?);
    }
    let text = match asked.output {
        Format::Table => {
            let colours = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            render::text(&explained, colours)
        }
        format => Output { columns: &[], rows: Vec::new(), value: json!(explained) }.render(format)?,
    };
    if explained.verdict == Verdict::Allowed {
        return Ok(text);
    }
    let code = explained.verdict.exit_code();
    Err(NotAllowed { text, code, reason: explained.reason }.into())
}
