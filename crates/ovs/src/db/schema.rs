//! Column types of a database, taken from the schema the server reports.

use std::{collections::HashMap, sync::Arc};

use ovsdb::schema::{Atomic, Kind, Schema};
use serde_json::{Map, Value};

/// A schema that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// Not of the form RFC 7047 §3.2 gives.
    #[error("{0}")]
    Malformed(String),
    /// A table that is needed does not exist.
    #[error("no table {0}")]
    NoTable(String),
    /// A column that is needed does not exist.
    #[error("no column {column} in table {table}")]
    NoColumn {
        /// Table that was looked into.
        table: String,
        /// Column that is missing.
        column: String,
    },
}

/// What an element of a column is (RFC 7047, 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomType {
    /// 64-bit signed integer.
    Integer,
    /// 64-bit float.
    Real,
    /// `true` or `false`.
    Boolean,
    /// Unicode string.
    String,
    /// Row reference or plain UUID.
    Uuid,
}

impl From<Atomic> for AtomType {
    fn from(atomic: Atomic) -> Self {
        match atomic {
            Atomic::Boolean => Self::Boolean,
            Atomic::Integer => Self::Integer,
            Atomic::Real => Self::Real,
            Atomic::String => Self::String,
            Atomic::Uuid => Self::Uuid,
        }
    }
}

/// What a column may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnType {
    /// Element type of a set, key type of a map.
    pub key: AtomType,
    /// Value type of a map; `None` makes the column a set.
    pub value: Option<AtomType>,
    /// Exactly one element ("scalar" in RFC 7047).
    pub scalar: bool,
    /// May hold more than one element. Differences of such columns are element-wise, of others whole values.
    pub composite: bool,
}

impl From<&Kind> for ColumnType {
    fn from(kind: &Kind) -> Self {
        Self {
            key: kind.key().kind().into(),
            value: kind.value().map(|value| value.kind().into()),
            scalar: kind.is_scalar(),
            composite: kind.is_composite(),
        }
    }
}

/// Columns of one table that are held in the cache, in a fixed order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableSchema {
    pub name: Arc<str>,
    columns: Vec<(Arc<str>, ColumnType)>,
    by_name: HashMap<Arc<str>, usize>,
}

impl TableSchema {
    fn new(name: &str, mut columns: Vec<(Arc<str>, ColumnType)>) -> Self {
        columns.sort_by(|a, b| a.0.cmp(&b.0));
        let by_name = columns.iter().enumerate().map(|(index, (name, _))| (name.clone(), index)).collect();
        Self { name: name.into(), columns, by_name }
    }

    /// Columns and their types, sorted by name.
    #[must_use]
    pub fn columns(&self) -> &[(Arc<str>, ColumnType)] {
        &self.columns
    }

    /// Position of a column.
    #[must_use]
    pub fn position(&self, column: &str) -> Option<usize> {
        self.by_name.get(column).copied()
    }

    /// The same table with only the columns named.
    ///
    /// # Errors
    /// [`SchemaError::NoColumn`].
    pub fn restrict(&self, columns: &[&str]) -> Result<Self, SchemaError> {
        let picked = columns
            .iter()
            .map(|column| {
                self.position(column).map(|index| self.columns[index].clone()).ok_or_else(|| {
                    SchemaError::NoColumn { table: self.name.to_string(), column: (*column).to_owned() }
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self::new(&self.name, picked))
    }
}

/// Schema of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DbSchema {
    /// Database name.
    pub name: String,
    /// Schema version, e.g. `8.3.1`.
    pub version: String,
    tables: HashMap<String, TableSchema>,
}

impl DbSchema {
    /// Reads a `get_schema` result.
    ///
    /// # Errors
    /// [`SchemaError::Malformed`].
    pub fn from_json(mut json: Value) -> Result<Self, SchemaError> {
        normalise(&mut json)?;
        let schema: Schema =
            serde_json::from_value(json).map_err(|error| SchemaError::Malformed(error.to_string()))?;
        let tables = schema
            .tables()
            .iter()
            .map(|table| {
                let columns = table
                    .columns()
                    .iter()
                    .map(|column| (column.name().into(), column.kind().into()))
                    .collect();
                (table.name().to_owned(), TableSchema::new(table.name(), columns))
            })
            .collect();
        Ok(Self { name: schema.name().to_owned(), version: schema.version().to_owned(), tables })
    }

    /// A table of the schema.
    ///
    /// # Errors
    /// [`SchemaError::NoTable`].
    pub fn table(&self, name: &str) -> Result<&TableSchema, SchemaError> {
        self.tables.get(name).ok_or_else(|| SchemaError::NoTable(name.to_owned()))
    }
}

/// Makes the schema acceptable to the `ovsdb` crate: it panics where an object is missing, knows no one-element
/// `enum`, takes an unlimited column for one that is not composite, and refuses members it does not know.
fn normalise(json: &mut Value) -> Result<(), SchemaError> {
    let malformed = |what: &str| SchemaError::Malformed(format!("{what} is malformed"));
    let tables = json
        .get_mut("tables")
        .and_then(Value::as_object_mut)
        .ok_or_else(|| malformed("the list of tables"))?;
    for (name, table) in tables {
        let columns = table
            .get_mut("columns")
            .and_then(Value::as_object_mut)
            .ok_or_else(|| malformed(&format!("the list of columns of {name}")))?;
        for column in columns.values_mut().filter_map(Value::as_object_mut) {
            column.retain(|member, _| matches!(member.as_str(), "type" | "ephemeral" | "mutable"));
            if let Some(kind) = column.get_mut("type").and_then(Value::as_object_mut) {
                match kind.get_mut("max") {
                    Some(max) if max == "unlimited" => *max = Value::from(i64::MAX),
                    Some(max) if !max.is_i64() => {
                        return Err(malformed(&format!("upper bound {max} in {name}")));
                    }
                    _ => {}
                }
                for member in ["key", "value"] {
                    if let Some(base) = kind.get_mut(member) {
                        *base = without_constraints(base.take());
                    }
                }
            }
        }
    }
    if let Some(top) = json.as_object_mut()
        && !top.contains_key("cksum")
    {
        top.insert("cksum".to_owned(), Value::String(String::new()));
    }
    Ok(())
}

/// The cache needs the atom type only; the server checks the constraints.
fn without_constraints(base: Value) -> Value {
    match base {
        Value::Object(mut object) => {
            let kept: Map<String, Value> = ["type", "refTable", "refType"]
                .into_iter()
                .filter_map(|member| object.remove_entry(member))
                .collect();
            Value::Object(kept)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_types() {
        let schema = DbSchema::from_json(json!({
            "name": "D", "version": "1.0.0",
            "tables": { "T": { "columns": {
                "s": { "type": "string" },
                "o": { "type": { "key": { "type": "integer", "minInteger": 1 }, "min": 0, "max": 1 } },
                "e": { "type": { "key": { "type": "string", "enum": "only" } }, "unknown": 1 },
                "m": { "type": { "key": "string", "value": "uuid", "min": 0, "max": "unlimited" } },
            } } },
        }))
        .unwrap();
        let table = schema.table("T").unwrap();
        let kind = |name| table.columns()[table.position(name).unwrap()].1;
        assert!(kind("s").scalar && kind("e").scalar);
        assert_eq!(
            kind("o"),
            ColumnType { key: AtomType::Integer, value: None, scalar: false, composite: false }
        );
        assert_eq!(
            kind("m"),
            ColumnType { key: AtomType::String, value: Some(AtomType::Uuid), scalar: false, composite: true }
        );
        assert_eq!(table.restrict(&["m", "s"]).unwrap().columns().len(), 2);
        assert_eq!(
            table.restrict(&["x"]),
            Err(SchemaError::NoColumn { table: "T".to_owned(), column: "x".to_owned() })
        );
    }

    #[test]
    fn malformed_is_an_error_not_a_panic() {
        for json in
            [json!({}), json!({"name": "D", "version": "1", "tables": []}), json!({"tables": {"T": 1}})]
        {
            assert!(matches!(DbSchema::from_json(json), Err(SchemaError::Malformed(_))));
        }
    }
}
