//! Typed copy of the monitored rows.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Atom, Datum, OvsdbError, TableSchema};

/// One row. Columns not monitored are absent.
#[derive(Clone, Debug)]
pub struct Row {
    schema: Arc<TableSchema>,
    uuid: Uuid,
    values: Box<[Datum]>,
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.uuid == other.uuid && self.values == other.values
    }
}

impl Row {
    /// The row's UUID.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// A column's content.
    #[must_use]
    pub fn get(&self, column: &str) -> Option<&Datum> {
        self.schema.position(column).map(|index| &self.values[index])
    }

    /// The string of a scalar or optional column.
    #[must_use]
    pub fn str(&self, column: &str) -> Option<&str> {
        self.atoms(column).first().and_then(Atom::as_str)
    }

    /// The integer of a scalar or optional column.
    #[must_use]
    pub fn int(&self, column: &str) -> Option<i64> {
        self.atoms(column).first().and_then(Atom::as_int)
    }

    /// Elements of a set column; empty for others.
    #[must_use]
    pub fn atoms(&self, column: &str) -> &[Atom] {
        self.get(column).map(Datum::atoms).unwrap_or_default()
    }

    /// UUIDs in a set column.
    pub fn uuids(&self, column: &str) -> impl Iterator<Item = Uuid> {
        self.atoms(column).iter().filter_map(Atom::as_uuid)
    }

    /// Strings in a set column, sorted.
    #[must_use]
    pub fn strings(&self, column: &str) -> Vec<String> {
        self.atoms(column).iter().filter_map(Atom::as_str).map(str::to_owned).collect()
    }

    /// A map column from string to string.
    #[must_use]
    pub fn string_map(&self, column: &str) -> BTreeMap<String, String> {
        let pairs = self.get(column).map(Datum::pairs).unwrap_or_default();
        pairs.iter().filter_map(|(k, v)| Some((k.as_str()?.to_owned(), v.as_str()?.to_owned()))).collect()
    }
}

/// What happened to one row.
#[derive(Clone, Debug)]
pub struct RowChange {
    /// Table of the row.
    pub table: Arc<str>,
    /// Row before; `None` when it was inserted.
    pub old: Option<Arc<Row>>,
    /// Row after; `None` when it was deleted.
    pub new: Option<Arc<Row>>,
}

/// Changes that took effect together.
pub type Changes = Vec<RowChange>;

#[derive(Clone, Debug)]
struct Table {
    schema: Arc<TableSchema>,
    rows: HashMap<Uuid, Arc<Row>>,
    by_name: HashMap<Arc<str>, Uuid>,
}

impl Table {
    fn name_of(row: &Row) -> Option<Arc<str>> {
        match row.atoms("name") {
            [Atom::String(name)] => Some(name.clone()),
            _ => None,
        }
    }

    fn put(&mut self, uuid: Uuid, new: Option<Arc<Row>>) -> Option<Arc<Row>> {
        let old = match &new {
            Some(row) => self.rows.insert(uuid, row.clone()),
            None => self.rows.remove(&uuid),
        };
        let old_name = old.as_deref().and_then(Self::name_of);
        let new_name = new.as_deref().and_then(Self::name_of);
        if old_name != new_name
            && let Some(name) = old_name
            // A row that replaces another under the same name may have come first.
            && self.by_name.get(&name) == Some(&uuid)
        {
            self.by_name.remove(&name);
        }
        if let Some(name) = new_name {
            self.by_name.insert(name, uuid);
        }
        old
    }
}

/// The rows of one table.
#[derive(Clone, Copy, Debug)]
pub struct TableView<'a>(Option<&'a Table>);

impl<'a> TableView<'a> {
    /// Row by UUID.
    #[must_use]
    pub fn get(self, uuid: Uuid) -> Option<&'a Arc<Row>> {
        self.0?.rows.get(&uuid)
    }

    /// Row by its `name` column.
    #[must_use]
    pub fn named(self, name: &str) -> Option<&'a Arc<Row>> {
        let table = self.0?;
        table.rows.get(table.by_name.get(name)?)
    }

    /// All rows, in no order.
    pub fn rows(self) -> impl Iterator<Item = &'a Arc<Row>> {
        self.0.into_iter().flat_map(|table| table.rows.values())
    }

    /// Number of rows.
    #[must_use]
    pub fn len(self) -> usize {
        self.0.map_or(0, |table| table.rows.len())
    }

    /// Whether there is no row.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// The monitored rows of a database.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    tables: HashMap<Arc<str>, Table>,
}

enum Staged {
    Put(Box<[Datum]>),
    Gone,
}

impl Cache {
    /// A cache without rows.
    #[must_use]
    pub fn new(schemas: impl IntoIterator<Item = Arc<TableSchema>>) -> Self {
        let tables = schemas
            .into_iter()
            .map(|schema| {
                (schema.name.clone(), Table { schema, rows: HashMap::new(), by_name: HashMap::new() })
            })
            .collect();
        Self { tables }
    }

    /// A table; one that is not monitored has no rows.
    #[must_use]
    pub fn table(&self, name: &str) -> TableView<'_> {
        TableView(self.tables.get(name))
    }

    /// Whether both hold the same tables with the same columns.
    pub(super) fn same_schema(&self, other: &Self) -> bool {
        self.tables.len() == other.tables.len()
            && self.tables.iter().all(|(name, table)| {
                other.tables.get(name).is_some_and(|theirs| theirs.schema.columns() == table.schema.columns())
            })
    }

    /// Applies `<table-updates2>` (`v2`) or `<table-updates>`. On an error nothing is changed.
    ///
    /// # Errors
    /// [`OvsdbError::Protocol`] or [`OvsdbError::Value`] when the updates do not fit to the rows held.
    pub fn apply(&mut self, updates: &Value, v2: bool) -> Result<Changes, OvsdbError> {
        let mut staged = Vec::new();
        for (name, rows) in object(updates)? {
            let (key, table) = self
                .tables
                .get_key_value(name.as_str())
                .ok_or_else(|| OvsdbError::Protocol(format!("update of unmonitored table {name}")))?;
            for (uuid, update) in object(rows)? {
                let uuid = Uuid::parse_str(uuid)
                    .map_err(|error| OvsdbError::Protocol(format!("row {uuid} of {name}: {error}")))?;
                let update = object(update)?;
                let stage = if v2 { stage_v2(table, uuid, update)? } else { stage_v1(table, update)? };
                staged.push((key.clone(), uuid, stage));
            }
        }
        let mut changes = Vec::with_capacity(staged.len());
        for (name, uuid, stage) in staged {
            let Some(table) = self.tables.get_mut(&name) else { continue };
            let new = match stage {
                Staged::Put(values) => Some(Arc::new(Row { schema: table.schema.clone(), uuid, values })),
                Staged::Gone => None,
            };
            let old = table.put(uuid, new.clone());
            if old.is_some() || new.is_some() {
                changes.push(RowChange { table: name, old, new });
            }
        }
        Ok(changes)
    }

    /// What turns `self` into `new`.
    #[must_use]
    pub fn changes_to(&self, new: &Self) -> Changes {
        let mut changes = Vec::new();
        for (name, table) in &new.tables {
            for (uuid, row) in &table.rows {
                let old = self.table(name).get(*uuid);
                if old.is_none_or(|old| old.values != row.values) {
                    changes.push(RowChange {
                        table: name.clone(),
                        old: old.cloned(),
                        new: Some(row.clone()),
                    });
                }
            }
        }
        for (name, table) in &self.tables {
            let gone = table.rows.iter().filter(|(uuid, _)| new.table(name).get(**uuid).is_none());
            changes.extend(gone.map(|(_, row)| RowChange {
                table: name.clone(),
                old: Some(row.clone()),
                new: None,
            }));
        }
        changes
    }
}

fn object(value: &Value) -> Result<&Map<String, Value>, OvsdbError> {
    value.as_object().ok_or_else(|| OvsdbError::Protocol(format!("no object in an update: {value}")))
}

fn complete_row(table: &Table, row: &Value) -> Result<Box<[Datum]>, OvsdbError> {
    let row = object(row)?;
    table
        .schema
        .columns()
        .iter()
        .map(|(name, kind)| match row.get(&**name) {
            Some(value) => Ok(Datum::from_json(value, *kind)?),
            None => Ok(Datum::default_of(*kind)),
        })
        .collect()
}

fn stage_v2(table: &Table, uuid: Uuid, update: &Map<String, Value>) -> Result<Staged, OvsdbError> {
    let Some((kind, row)) = update.iter().next() else {
        return Err(OvsdbError::Protocol(format!("empty update of row {uuid}")));
    };
    match kind.as_str() {
        "initial" | "insert" => Ok(Staged::Put(complete_row(table, row)?)),
        "delete" => Ok(Staged::Gone),
        "modify" => {
            let old = table.rows.get(&uuid).ok_or_else(|| {
                OvsdbError::Protocol(format!("modification of unknown row {uuid} of {}", table.schema.name))
            })?;
            let mut values = old.values.clone();
            for (column, diff) in object(row)? {
                if let Some(index) = table.schema.position(column) {
                    let kind = table.schema.columns()[index].1;
                    values[index].apply_diff(Datum::from_json(diff, kind)?, kind);
                }
            }
            Ok(Staged::Put(values))
        }
        other => Err(OvsdbError::Protocol(format!("unknown kind of row update: {other}"))),
    }
}

/// In RFC 7047's first form `new` holds every monitored column.
fn stage_v1(table: &Table, update: &Map<String, Value>) -> Result<Staged, OvsdbError> {
    match update.get("new") {
        Some(row) => Ok(Staged::Put(complete_row(table, row)?)),
        None => Ok(Staged::Gone),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::DbSchema, *};

    fn empty() -> Cache {
        let schema = DbSchema::from_json(json!({
            "name": "D", "version": "1",
            "tables": { "T": { "columns": {
                "name": { "type": "string" },
                "n": { "type": { "key": "integer", "min": 0, "max": 1 } },
                "m": { "type": { "key": "string", "value": "string", "min": 0, "max": "unlimited" } },
            } } },
        }))
        .unwrap();
        Cache::new([Arc::new(schema.table("T").unwrap().clone())])
    }

    #[test]
    fn follows_update2() {
        let (a, b) = (Uuid::new_v4(), Uuid::new_v4());
        let mut cache = empty();
        let id = a.to_string();
        cache
            .apply(
                &json!({"T": {&id: {"initial": {"name": "x", "m": ["map", [["k", "1"], ["l", "2"]]]}}}}),
                true,
            )
            .unwrap();
        cache.apply(&json!({"T": {&id: {"modify": {"n": 7, "m": ["map", [["k", "1"], ["l", "3"], ["o", "4"]]]}}}}), true).unwrap();
        let row = cache.table("T").named("x").unwrap().clone();
        assert_eq!((row.uuid(), row.int("n"), row.str("name")), (a, Some(7), Some("x")));
        assert_eq!(row.string_map("m"), [("l".into(), "3".into()), ("o".into(), "4".into())].into());
        // Replacement under the same name within one update.
        let changes = cache
            .apply(&json!({"T": {b.to_string(): {"insert": {"name": "x"}}, &id: {"delete": null}}}), true)
            .unwrap();
        assert_eq!(changes.len(), 2);
        assert_eq!(cache.table("T").named("x").map(|row| row.uuid()), Some(b));
        assert_eq!(cache.table("T").len(), 1);
        assert_eq!(cache.table("T").named("x").unwrap().int("n"), None);
    }

    #[test]
    fn follows_update1() {
        let mut cache = empty();
        let id = Uuid::new_v4().to_string();
        let old = cache.clone();
        cache.apply(&json!({"T": {&id: {"new": {"name": "x", "n": 1, "m": ["map", []]}}}}), false).unwrap();
        cache
            .apply(&json!({"T": {&id: {"old": {"n": 1}, "new": {"name": "x", "n": ["set", []], "m": ["map", []]}}}}), false)
            .unwrap();
        assert_eq!(cache.table("T").named("x").unwrap().int("n"), None);
        assert_eq!(old.changes_to(&cache).len(), 1);
        cache.apply(&json!({"T": {&id: {"old": {}}}}), false).unwrap();
        assert!(cache.table("T").is_empty());
        assert!(cache.table("T").named("x").is_none());
    }

    #[test]
    fn a_bad_update_changes_nothing() {
        let mut cache = empty();
        let (good, bad) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
        for update in [
            json!({"T": {&good: {"insert": {"name": "g"}}, &bad: {"modify": {"n": 1}}}}),
            json!({"T": {&good: {"insert": {"name": 1}}}}),
            json!({"U": {}}),
            json!({"T": {"zz": {"delete": null}}}),
            json!([]),
        ] {
            assert!(cache.apply(&update, true).is_err(), "{update}");
            assert!(cache.table("T").is_empty());
        }
    }
}
