//! Flows.

use std::str::FromStr;

use super::TableNames;
use super::parse_action::parse_all;
use super::parse_match::MatchParser;
use super::show_action::NO_NAMES;
use super::show_flow::FLAGS;
use super::token::Tokens;
use crate::{Flow, FlowKey, ParseError};

/// Words of a dump that say nothing about the flow itself.
const STATS: [&str; 6] = ["duration", "n_packets", "n_bytes", "idle_age", "hard_age", "n_offload_packets"];

impl Flow {
    /// Reads a flow as `ovs-ofctl add-flow` does, or a line of `dump-flows`, whose counters are left out.
    /// Tables may go by name. Without a priority it is [`Flow::DEFAULT_PRIORITY`]; without actions it drops.
    ///
    /// # Errors
    /// Says what could not be read and why.
    pub fn parse_named(text: &str, names: &TableNames) -> Result<Flow, ParseError> {
        let mut flow = Flow::new(0, Flow::DEFAULT_PRIORITY);
        let mut matches = MatchParser::default();
        let (head, actions) = split_actions(text);
        for t in Tokens::new(head) {
            let t = t?;
            match t.key {
                "table" => flow.table = names.parse(t.value("table")?)?,
                "priority" => flow.priority = t.u16("priority")?,
                "cookie" => flow.cookie = t.number("cookie", u64::MAX.into())? as u64,
                "idle_timeout" => flow.idle_timeout = t.u16("idle_timeout")?,
                "hard_timeout" => flow.hard_timeout = t.u16("hard_timeout")?,
                "importance" => flow.importance = t.u16("importance")?,
                key if STATS.contains(&key) && t.value.is_some() => {}
                key => {
                    if let Some((flag, _)) = FLAGS.iter().find(|(_, word)| *word == key && t.value.is_none())
                    {
                        flow.flags = flow.flags | *flag;
                    } else if !matches.take(&t)? {
                        return Err(ParseError::new("flow", t.text, "unknown field"));
                    }
                }
            }
        }
        flow.matches = matches.finish()?;
        flow.actions = parse_all(actions.unwrap_or("drop"), names)?.into();
        Ok(flow)
    }
}

/// What is before and after `actions=`.
pub(super) fn split_actions(text: &str) -> (&str, Option<&str>) {
    for word in ["actions=", "action="] {
        let mut from = 0;
        while let Some(at) = text.get(from..).and_then(|t| t.find(word)).map(|i| i + from) {
            let (head, tail) = text.split_at(at);
            if head.is_empty() || head.ends_with([' ', ',', '\t', '\n']) {
                return (head, tail.get(word.len()..));
            }
            from = at + word.len();
        }
    }
    (text, None)
}

impl FromStr for Flow {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        Flow::parse_named(s, NO_NAMES)
    }
}

impl FromStr for FlowKey {
    type Err = ParseError;

    /// Reads what [`FlowKey`] writes. Actions are not allowed.
    fn from_str(s: &str) -> Result<Self, ParseError> {
        if split_actions(s).1.is_some() {
            return Err(ParseError::new("flow key", s, "has actions"));
        }
        let f: Flow = s.parse()?;
        Ok(FlowKey { table: f.table, priority: f.priority, matches: f.matches })
    }
}
