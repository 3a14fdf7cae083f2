//! Transactions (RFC 7047 §5.2): built operation by operation, errors traced back to the operation at fault.

use std::{fmt, sync::Arc};

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Atom, Datum, OpError, OvsdbError};

/// A row: one in the database, or one that the same transaction inserts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowId {
    Existing(Uuid),
    /// Row inserted by this transaction, by its name in it and the position of the insert.
    Inserted(Arc<str>, usize),
}

impl From<Uuid> for RowId {
    fn from(uuid: Uuid) -> Self {
        Self::Existing(uuid)
    }
}

impl From<RowId> for Atom {
    fn from(id: RowId) -> Self {
        match id {
            RowId::Existing(uuid) => Self::Uuid(uuid),
            RowId::Inserted(name, _) => Self::NamedUuid(name),
        }
    }
}

impl From<&RowId> for Atom {
    fn from(id: &RowId) -> Self {
        id.clone().into()
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Existing(uuid) => uuid.fmt(f),
            Self::Inserted(name, _) => name.fmt(f),
        }
    }
}

/// Conditions that rows have to meet, all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Where {
    clauses: Vec<Value>,
    subject: Option<Uuid>,
    text: String,
}

impl Where {
    /// Every row.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// No row but that of this id.
    #[must_use]
    pub fn row(id: impl Into<RowId>) -> Self {
        let id = id.into();
        let subject = match &id {
            RowId::Existing(uuid) => Some(*uuid),
            RowId::Inserted(..) => None,
        };
        let text = id.to_string();
        Self { clauses: vec![json!(["_uuid", "==", Atom::from(id).to_json()])], subject, text }
    }

    /// Rows whose column equals the value.
    #[must_use]
    pub fn eq(column: &str, value: impl Into<Datum>) -> Self {
        Self::default().and(column, "==", value)
    }

    /// Adds a condition; `function` is one of `<`, `<=`, `==`, `!=`, `>=`, `>`, `includes`, `excludes`.
    #[must_use]
    pub fn and(mut self, column: &str, function: &str, value: impl Into<Datum>) -> Self {
        let value = value.into().to_json();
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(&format!("{column}{function}{value}"));
        self.clauses.push(json!([column, function, value]));
        self
    }
}

/// How a `mutate` operation changes a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutator {
    /// Adds a number.
    Add,
    /// Subtracts a number.
    Subtract,
    /// Adds elements to a set or pairs to a map; pairs whose key exists are left alone.
    Insert,
    /// Removes elements of a set or pairs of a map; of a map also keys, given as a set.
    Delete,
}

impl Mutator {
    fn name(self) -> &'static str {
        match self {
            Self::Add => "+=",
            Self::Subtract => "-=",
            Self::Insert => "insert",
            Self::Delete => "delete",
        }
    }
}

#[derive(Clone, Debug)]
struct Op {
    json: Value,
    /// What an error message calls the operation.
    text: String,
    /// Existing row it is about.
    subject: Option<Uuid>,
}

/// A list of operations that take effect together or not at all.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    ops: Vec<Op>,
}

impl Transaction {
    /// A transaction without operations.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of operations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether there is no operation.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Inserts a row; columns not named take their type's default. The id returned is good within this transaction.
    pub fn insert<'a>(&mut self, table: &str, row: impl IntoIterator<Item = (&'a str, Datum)>) -> RowId {
        let index = self.ops.len();
        let name: Arc<str> = format!("row{index}").into();
        let row = row_json(row);
        let label = row.get("name").and_then(Value::as_str).unwrap_or(&name);
        let text = format!("insert {table} {label}");
        self.push(json!({ "op": "insert", "table": table, "row": row, "uuid-name": &*name }), text, None);
        RowId::Inserted(name, index)
    }

    /// Sets columns of the rows that match.
    pub fn update<'a>(&mut self, table: &str, rows: Where, row: impl IntoIterator<Item = (&'a str, Datum)>) {
        let text = format!("update {table} {}", rows.text);
        self.push(
            json!({ "op": "update", "table": table, "where": rows.clauses, "row": row_json(row) }),
            text,
            rows.subject,
        );
    }

    /// Changes columns of the rows that match; mutations are done in order.
    pub fn mutate<'a>(
        &mut self,
        table: &str,
        rows: Where,
        mutations: impl IntoIterator<Item = (&'a str, Mutator, Datum)>,
    ) {
        let text = format!("mutate {table} {}", rows.text);
        let mutations: Vec<Value> = mutations
            .into_iter()
            .map(|(column, mutator, value)| json!([column, mutator.name(), value.to_json()]))
            .collect();
        self.push(
            json!({ "op": "mutate", "table": table, "where": rows.clauses, "mutations": mutations }),
            text,
            rows.subject,
        );
    }

    /// Deletes the rows that match. In tables that are not root tables rows vanish by themselves when nothing
    /// refers to them.
    pub fn delete(&mut self, table: &str, rows: Where) {
        let text = format!("delete {table} {}", rows.text);
        self.push(json!({ "op": "delete", "table": table, "where": rows.clauses }), text, rows.subject);
    }

    /// Reads columns of the rows that match as the transaction sees them; the result is at the returned position.
    pub fn select(&mut self, table: &str, rows: Where, columns: &[&str]) -> usize {
        let index = self.ops.len();
        let text = format!("select {table} {}", rows.text);
        self.push(
            json!({ "op": "select", "table": table, "where": rows.clauses, "columns": columns }),
            text,
            rows.subject,
        );
        index
    }

    /// Refuses the whole transaction unless the columns of the rows that match are exactly `expected` now.
    pub fn wait_now(&mut self, table: &str, rows: Where, columns: &[&str], expected: &[Vec<(&str, Datum)>]) {
        let text = format!("wait {table} {}", rows.text);
        let expected: Vec<Value> =
            expected.iter().map(|row| Value::Object(row_json(row.iter().cloned()))).collect();
        self.push(
            json!({
                "op": "wait", "table": table, "where": rows.clauses, "columns": columns,
                "until": "==", "rows": expected, "timeout": 0,
            }),
            text,
            rows.subject,
        );
    }

    /// Refuses the transaction unless the row exists.
    pub fn wait_exists(&mut self, table: &str, row: Uuid) {
        self.wait_now(table, Where::row(row), &["_uuid"], &[vec![("_uuid", row.into())]]);
    }

    /// Records a remark in the database log.
    pub fn comment(&mut self, comment: &str) {
        self.push(json!({ "op": "comment", "comment": comment }), "comment".to_owned(), None);
    }

    fn push(&mut self, json: Value, text: String, subject: Option<Uuid>) {
        self.ops.push(Op { json, text, subject });
    }

    /// Parameters of the `transact` request.
    pub(super) fn params(&self, db: &str) -> Value {
        std::iter::once(Value::from(db)).chain(self.ops.iter().map(|op| op.json.clone())).collect()
    }

    /// Reads the result of the `transact` request.
    pub(super) fn read_reply(&self, result: Value) -> Result<TxnReply, OvsdbError> {
        let Value::Array(results) = result else {
            return Err(OvsdbError::Protocol(format!("result of a transaction is no array: {result}")));
        };
        let failed = results.iter().enumerate().find_map(|(index, result)| {
            let error = result.get("error")?.as_str()?.to_owned();
            let details = result.get("details").and_then(Value::as_str).unwrap_or_default().to_owned();
            Some((index, error, details))
        });
        if let Some((position, error, details)) = failed {
            let index =
                if position < self.ops.len() { Some(position) } else { self.blame(&results, &details) };
            let op = index.map_or_else(|| "commit".to_owned(), |index| self.ops[index].text.clone());
            return Err(OpError { index, op, error, details }.into());
        }
        if results.len() < self.ops.len() {
            return Err(OvsdbError::Protocol(format!(
                "{} results for {} operations",
                results.len(),
                self.ops.len()
            )));
        }
        Ok(TxnReply { results })
    }

    /// A commit error names rows by UUID. Finds the operation that inserted or touched the row named first.
    fn blame(&self, results: &[Value], details: &str) -> Option<usize> {
        let position = |uuid: Uuid| details.find(&uuid.to_string());
        self.ops
            .iter()
            .enumerate()
            .filter_map(|(index, op)| {
                let inserted =
                    results.get(index).and_then(result_uuid).and_then(position).map(|at| (0, at, index));
                inserted.or_else(|| op.subject.and_then(position).map(|at| (1, at, index)))
            })
            .min()
            .map(|(_, _, index)| index)
    }
}

fn row_json<'a>(row: impl IntoIterator<Item = (&'a str, Datum)>) -> Map<String, Value> {
    row.into_iter().map(|(column, datum)| (column.to_owned(), datum.to_json())).collect()
}

fn result_uuid(result: &Value) -> Option<Uuid> {
    match result.get("uuid")?.as_array()?.as_slice() {
        [_, Value::String(uuid)] => Uuid::parse_str(uuid).ok(),
        _ => None,
    }
}

/// Results of a transaction that took effect.
#[derive(Clone, Debug)]
pub struct TxnReply {
    results: Vec<Value>,
}

impl TxnReply {
    /// UUID of a row; of an inserted one the UUID that the server gave it.
    #[must_use]
    pub fn uuid(&self, id: &RowId) -> Option<Uuid> {
        match id {
            RowId::Existing(uuid) => Some(*uuid),
            RowId::Inserted(_, index) => self.results.get(*index).and_then(result_uuid),
        }
    }

    /// Number of rows that the update, mutation or deletion at a position matched.
    #[must_use]
    pub fn count(&self, index: usize) -> Option<u64> {
        self.results.get(index)?.get("count")?.as_u64()
    }

    /// Rows that the selection at a position found, as JSON objects.
    #[must_use]
    pub fn rows(&self, index: usize) -> &[Value] {
        self.results
            .get(index)
            .and_then(|result| result.get("rows"))
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Transaction, RowId) {
        let mut txn = Transaction::new();
        let iface = txn.insert("Interface", [("name", "p1".into()), ("options", Datum::map([("k", "v")]))]);
        txn.mutate("Bridge", Where::eq("name", "br0"), [("ports", Mutator::Insert, Datum::set([&iface]))]);
        (txn, iface)
    }

    #[test]
    fn builds_the_wire_form() {
        let (txn, _) = sample();
        assert_eq!(
            txn.params("Open_vSwitch"),
            json!([
                "Open_vSwitch",
                { "op": "insert", "table": "Interface", "uuid-name": "row0",
                  "row": { "name": "p1", "options": ["map", [["k", "v"]]] } },
                { "op": "mutate", "table": "Bridge", "where": [["name", "==", "br0"]],
                  "mutations": [["ports", "insert", ["named-uuid", "row0"]]] },
            ])
        );
    }

    #[test]
    fn an_error_names_its_operation() {
        let (txn, _) = sample();
        let error = txn
            .read_reply(
                json!([{ "uuid": ["uuid", Uuid::nil()] }, { "error": "domain error", "details": "no" }]),
            )
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"transaction refused: operation 1 (mutate Bridge name=="br0"): domain error: no"#
        );
    }

    #[test]
    fn a_commit_error_names_the_operation_of_its_row() {
        let (txn, iface) = sample();
        let uuid = Uuid::new_v4();
        let ok = [json!({ "uuid": ["uuid", uuid] }), json!({ "count": 1 })];
        assert_eq!(txn.read_reply(json!(ok)).unwrap().uuid(&iface), Some(uuid));
        assert_eq!(txn.read_reply(json!(ok)).unwrap().count(1), Some(1));
        let reply = |details: String| {
            let mut results = ok.to_vec();
            results.push(json!({ "error": "constraint violation", "details": details }));
            match txn.read_reply(json!(results)) {
                Err(OvsdbError::Operation(error)) => error,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(reply(format!("First row, with UUID {uuid}, was inserted")).index, Some(0));
        let unknown = reply("something else".to_owned());
        assert_eq!((unknown.index, unknown.op.as_str()), (None, "commit"));
    }
}
