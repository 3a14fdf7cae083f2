//! What is counted of DNS's answers to pods to which rules with domain names apply.

use std::time::Duration;

use antrea_enforce::dns::Forgotten;
use antrea_runtime::metrics::{self, Metrics};
use prometheus::{Histogram, IntCounterVec, IntGauge};

/// Buckets for the time for which an answer is held.
const HELD_SECONDS: &[f64] = &[0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0];

/// What became of a name that was asked for again.
const AGAIN: [&str; 2] = ["answered", "unanswered"];

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It went on, known.
    Delivered,
    /// It is of a TCP stream that cannot be read: the connection was ended in its place.
    Ended,
    /// Something before it in its TCP stream is missing: it is lost, and will be sent again.
    Early,
    /// Rules could not have its addresses, or not in time, or the bridge did not take it: it is lost.
    NotRealized,
    /// Too many wait: it is lost.
    Crowded,
    /// It is no DNS message: it is lost.
    Malformed,
}

impl Outcome {
    const ALL: [Self; 6] =
        [Self::Delivered, Self::Ended, Self::Early, Self::NotRealized, Self::Crowded, Self::Malformed];

    fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Ended => "ended",
            Self::Early => "early",
            Self::NotRealized => "not_realized",
            Self::Crowded => "crowded",
            Self::Malformed => "malformed",
        }
    }
}

/// Counts of answers and addresses.
#[derive(Clone, Debug)]
pub struct DnsMetrics {
    answers: IntCounterVec,
    again: IntCounterVec,
    held: Histogram,
    size: IntGauge,
    forgotten: IntCounterVec,
}

impl DnsMetrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name is taken.
    pub fn new(metrics: &Metrics) -> metrics::Result<Self> {
        let made = Self {
            answers: metrics.counter_vec(
                "antrea_agent_dns_answers_total",
                "Packets from DNS servers to Pods that rules with domain names apply to, by what became of them: they went \
                 on when rules had their addresses (\"delivered\"), were replaced by a reset because their TCP stream \
                 cannot be read (\"ended\"), are lost because something before them in their TCP stream is missing \
                 (\"early\"), because rules could not have their addresses, or not in time (\"not_realized\"), because too \
                 many wait for the same Pod (\"crowded\"), or because they are no DNS messages (\"malformed\").",
                &["outcome"],
            )?,
            again: metrics.counter_vec(
                "antrea_agent_dns_refreshes_total",
                "Names that the agent asked DNS for again before what Pods were told of them had ended, by whether it said \
                 something (\"answered\") or nothing within two seconds (\"unanswered\").",
                &["outcome"],
            )?,
            held: metrics.histogram(
                "antrea_agent_dns_answer_held_duration_seconds",
                "How long the agent held a packet from a DNS server.",
                HELD_SECONDS,
            )?,
            size: metrics.gauge(
                "antrea_agent_fqdn_cache_size",
                "Number of addresses that are known of domain names in policies.",
            )?,
            forgotten: metrics.counter_vec(
                "antrea_agent_fqdn_cache_eviction_count",
                "Addresses of domain names in policies that were forgotten: their time to live had passed (\"expired\"), or \
                 there was no room (\"full\").",
                &["reason"],
            )?,
        };
        for outcome in Outcome::ALL {
            made.answers.with_label_values(&[outcome.name()]);
        }
        for outcome in AGAIN {
            made.again.with_label_values(&[outcome]);
        }
        made.remembered(0, Forgotten::default());
        Ok(made)
    }

    /// An answer was held for so long.
    pub fn answered(&self, outcome: Outcome, held: Duration) {
        self.answers.with_label_values(&[outcome.name()]).inc();
        self.held.observe(held.as_secs_f64());
    }

    /// A name was asked for again.
    pub fn asked_again(&self, replied: bool) {
        self.again.with_label_values(&[AGAIN[usize::from(!replied)]]).inc();
    }

    /// How many addresses are known, and how many were forgotten since the start.
    pub fn remembered(&self, size: usize, forgotten: Forgotten) {
        self.size.set(i64::try_from(size).unwrap_or(i64::MAX));
        for (reason, count) in [("expired", forgotten.expired), ("full", forgotten.crowded_out)] {
            let counter = self.forgotten.with_label_values(&[reason]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }
}
