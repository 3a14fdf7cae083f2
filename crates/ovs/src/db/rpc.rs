//! JSON-RPC 1.0 messages (RFC 7047 §4).

use serde::Deserialize;
use serde_json::{Value, json};

use super::OvsdbError;

/// A received message.
#[derive(Debug)]
pub(super) enum Message {
    Request { id: Value, method: String },
    Notification { method: String, params: Vec<Value> },
    Response { id: u64, outcome: Result<Value, Value> },
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default)]
    id: Value,
    method: Option<String>,
    #[serde(default)]
    params: Value,
    #[serde(default)]
    result: Value,
    #[serde(default)]
    error: Value,
}

pub(super) fn decode(text: &[u8]) -> Result<Message, OvsdbError> {
    let raw: Raw = serde_json::from_slice(text).map_err(|error| OvsdbError::Protocol(error.to_string()))?;
    match (raw.method, raw.id) {
        (Some(method), Value::Null) => match raw.params {
            Value::Array(params) => Ok(Message::Notification { method, params }),
            _ => Err(OvsdbError::Protocol(format!("parameters of {method} are no array"))),
        },
        (Some(method), id) => Ok(Message::Request { id, method }),
        // All our requests have unsigned integers as ids.
        (None, id) => match id.as_u64() {
            Some(id) => Ok(Message::Response {
                id,
                outcome: if raw.error.is_null() { Ok(raw.result) } else { Err(raw.error) },
            }),
            None => Err(OvsdbError::Protocol(format!("message with neither method nor known id: {id}"))),
        },
    }
}

pub(super) fn request(id: u64, method: &str, params: &Value) -> Vec<u8> {
    json!({ "id": id, "method": method, "params": params }).to_string().into_bytes()
}

pub(super) fn reply(id: &Value, outcome: Result<Value, &str>) -> Vec<u8> {
    let (result, error) = match outcome {
        Ok(result) => (result, Value::Null),
        Err(error) => (Value::Null, Value::from(error)),
    };
    json!({ "id": id, "result": result, "error": error }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_the_three_kinds_apart() {
        assert!(matches!(
            decode(br#"{"id":"echo","method":"echo","params":[]}"#).unwrap(),
            Message::Request { id, method } if id == "echo" && method == "echo"
        ));
        assert!(matches!(
            decode(br#"{"id":null,"method":"update2","params":[1,{}]}"#).unwrap(),
            Message::Notification { params, .. } if params.len() == 2
        ));
        assert!(matches!(
            decode(br#"{"id":7,"result":null,"error":"canceled"}"#).unwrap(),
            Message::Response { id: 7, outcome: Err(_) }
        ));
        assert!(decode(br#"{"id":"x","result":1}"#).is_err());
        assert!(decode(br#"{"id":null,"method":"update","params":"x"}"#).is_err());
    }
}
