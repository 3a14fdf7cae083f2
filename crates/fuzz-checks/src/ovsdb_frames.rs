//! Any bytes from ovsdb-server: nothing panics, messages do not depend on how reads cut the stream, a message
//! has balanced text only, a schema that is accepted can be used, and an update that is refused leaves the
//! cache as it was.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use ovs::db::{
    Cache, DbSchema,
    frame::{FrameError, Framer},
};
use serde_json::{Value, json};

/// Bound of one message in bytes: small, so that the bound is reached.
const MAX: usize = 4096;

/// Checks one input and returns how many of its messages mean something to the session.
pub fn check(data: &[u8]) -> usize {
    let (messages, end) = read(data, data.len());
    let cut = data.last().map_or(1, |byte| usize::from(*byte) % 61 + 1);
    let (pieces, piecewise_end) = read(data, cut);
    assert_eq!(pieces, messages);
    assert_eq!(piecewise_end, end);
    let mut cache = EMPTY.clone();
    messages
        .iter()
        .filter(|message| serde_json::from_slice(message).is_ok_and(|json| take(&mut cache, json)))
        .count()
}

fn read(data: &[u8], size: usize) -> (Vec<Bytes>, Option<FrameError>) {
    let mut framer = Framer::new(MAX);
    let mut seen = Vec::new();
    for piece in data.chunks(size.max(1)) {
        framer.push(piece);
        loop {
            match framer.next_message() {
                Ok(Some(message)) => {
                    assert!(message.len() <= MAX && message.starts_with(b"{"));
                    seen.push(message);
                }
                Ok(None) => break,
                Err(error) => return (seen, Some(error)),
            }
        }
    }
    (seen, None)
}

/// Takes a message as the session would: a schema, or rows of one of the three generations of monitor.
fn take(cache: &mut Cache, message: Value) -> bool {
    let method = message.get("method").and_then(Value::as_str).unwrap_or_default().to_owned();
    let rows = match (method.as_str(), message) {
        ("update" | "update2" | "update3", Value::Object(mut message)) => {
            message.get_mut("params").and_then(|params| params.as_array_mut()?.pop())
        }
        (_, Value::Object(mut message)) => match message.remove("result") {
            // monitor_cond_since: whether the transaction was found, the last one, the rows.
            Some(Value::Array(mut parts)) if parts.len() == 3 => parts.pop(),
            result => result,
        },
        _ => None,
    };
    let Some(rows) = rows else { return false };
    if rows.get("tables").is_some() {
        let Ok(schema) = DbSchema::from_json(rows.clone()) else { return false };
        for name in rows["tables"].as_object().into_iter().flatten().map(|(name, _)| name) {
            let table = schema.table(name).expect("every table of an accepted schema must be there");
            let columns: Vec<&str> = table.columns().iter().map(|(name, _)| &**name).collect();
            assert_eq!(table.restrict(&columns).as_ref(), Ok(table));
        }
        return true;
    }
    let before = cache.clone();
    match cache.apply(&rows, method != "update") {
        Ok(changes) => {
            // Every change is seen, though it may replace a row by an equal one.
            assert!(before.changes_to(cache).len() <= changes.len());
            true
        }
        Err(_) => {
            assert!(before.changes_to(cache).is_empty());
            false
        }
    }
}

static EMPTY: LazyLock<Cache> = LazyLock::new(|| {
    let column = |kind: Value| json!({ "type": kind });
    let schema = DbSchema::from_json(json!({
        "name": "D", "version": "1", "tables": { "T": { "columns": {
            "name": column(json!("string")),
            "flag": column(json!("boolean")),
            "speed": column(json!({ "key": "real", "min": 0, "max": 1 })),
            "numbers": column(json!({ "key": "integer", "min": 0, "max": "unlimited" })),
            "peers": column(json!({ "key": { "type": "uuid", "refTable": "T" }, "min": 0, "max": "unlimited" })),
            "ids": column(json!({ "key": "string", "value": "string", "min": 0, "max": "unlimited" })),
        } } },
    }));
    let table = schema.ok().and_then(|schema| schema.table("T").ok().cloned());
    Cache::new([Arc::new(table.expect("must be a valid schema"))])
});
