//! The text form: what `ovs-ofctl add-flow` reads and `dump-flows --no-stats` prints.
//!
//! ```text
//!   show_*  value ──► text      Display; `named(&names)` writes table names instead of numbers
//!   parse_* text  ──► value     FromStr; `parse_named(text, &names)` reads them too
//! ```
//! What is written is read back as the same value.

mod errors;
mod parse_action;
mod parse_flow;
mod parse_group;
mod parse_match;
mod show_action;
mod show_flow;
mod show_match;
mod token;
mod value;

use std::collections::BTreeMap;
use std::fmt::{self, Formatter};

pub use show_flow::Named;

/// Names of tables. Open vSwitch takes them from OVSDB (`Bridge.flow_tables`, `Flow_Table.name`) and
/// tells them in the table features; they cannot be set over OpenFlow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableNames {
    names: BTreeMap<u8, String>,
}

impl TableNames {
    /// No names.
    pub const fn new() -> Self {
        TableNames { names: BTreeMap::new() }
    }

    /// Names a table.
    pub fn insert(&mut self, table: u8, name: impl Into<String>) {
        self.names.insert(table, name.into());
    }

    /// The name of a table.
    pub fn name(&self, table: u8) -> Option<&str> {
        self.names.get(&table).map(String::as_str)
    }

    /// The table with this name.
    pub fn number(&self, name: &str) -> Option<u8> {
        self.names.iter().find(|(_, n)| *n == name).map(|(t, _)| *t)
    }

    fn show(&self, f: &mut Formatter<'_>, table: u8) -> fmt::Result {
        match self.name(table) {
            Some(n) if is_word(n) => f.write_str(n),
            Some(n) => write!(f, "{n:?}"),
            None => write!(f, "{table}"),
        }
    }

    fn parse(&self, text: &str) -> Result<u8, crate::ParseError> {
        let bare = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
        if let Some(t) = self.number(bare) {
            return Ok(t);
        }
        value::number(text, u8::MAX.into())
            .map(|n| n as u8)
            .map_err(|_| crate::ParseError::new("table", text, "neither a number up to 255 nor a known name"))
    }
}

impl<S: Into<String>> FromIterator<(u8, S)> for TableNames {
    fn from_iter<T: IntoIterator<Item = (u8, S)>>(iter: T) -> Self {
        TableNames { names: iter.into_iter().map(|(t, n)| (t, n.into())).collect() }
    }
}

/// Whether a name is written without quotes.
fn is_word(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
}
