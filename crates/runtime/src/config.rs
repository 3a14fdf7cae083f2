//! Configuration files in YAML, with unknown keys reported instead of refused.
//!
//! Components of neighbouring versions read each other's files during an upgrade, so a key that this
//! version does not know is no error; a key that is given twice or holds the wrong type is.

use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Why a configuration could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// Not YAML, a duplicate key, or a value of the wrong type.
    #[error("configuration {name}: {message}")]
    Invalid {
        /// The file's name.
        name: String,
        /// Says where and what.
        message: String,
    },
}

/// Reads `path` and logs every key that `T` does not know. `T` has to serialize all its fields.
///
/// # Errors
/// The file is unreadable or [invalid](parse).
pub fn load<T: DeserializeOwned + Serialize>(path: &Path) -> Result<T, Error> {
    let (config, unknown) = read(path)?;
    report(path, &unknown);
    Ok(config)
}

/// Reads `path`, as [`parse`] does, for who sets up the log by it.
///
/// # Errors
/// The file is unreadable or [invalid](parse).
pub fn read<T: DeserializeOwned + Serialize>(path: &Path) -> Result<(T, Vec<String>), Error> {
    let text =
        std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    parse(&path.display().to_string(), &text)
}

/// Logs keys of `path` that nobody knows.
pub fn report(path: &Path, unknown: &[String]) {
    for key in unknown {
        tracing::warn!(key, file = %path.display(), "unknown configuration key is ignored");
    }
}

/// Parses `text` and returns the configuration with the paths of unknown keys (`a.b.c`).
///
/// # Errors
/// Not YAML, a duplicate key, or a value of the wrong type; the message names the place.
pub fn parse<T: DeserializeOwned + Serialize>(name: &str, text: &str) -> Result<(T, Vec<String>), Error> {
    let invalid = |message: String| Error::Invalid { name: name.to_owned(), message };
    let mut given: Value = if text.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#')) {
        Value::Null
    } else {
        serde_saphyr::from_str(text).map_err(|e| invalid(e.to_string()))?
    };
    if given.is_null() {
        given = Value::Object(serde_json::Map::new());
    }
    drop_nulls(&mut given);
    // A block that is written with all its keys commented out is null in YAML and means "defaults".
    let config: T = serde_json::from_value(given.clone()).map_err(|e| invalid(e.to_string()))?;
    let known = serde_json::to_value(&config).map_err(|e| invalid(e.to_string()))?;
    let mut unknown = Vec::new();
    diff_keys("", &given, &known, &mut unknown);
    Ok((config, unknown))
}

fn drop_nulls(value: &mut Value) {
    if let Value::Object(map) = value {
        map.retain(|_, v| !v.is_null());
        map.values_mut().for_each(drop_nulls);
    }
}

fn diff_keys(prefix: &str, given: &Value, known: &Value, unknown: &mut Vec<String>) {
    let (Value::Object(given), Value::Object(known)) = (given, known) else { return };
    for (key, value) in given {
        match known.get(key) {
            Some(inner) => diff_keys(&format!("{prefix}{key}."), value, inner, unknown),
            None => unknown.push(format!("{prefix}{key}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, serde::Deserialize, Serialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Sample {
        api_port: u16,
        client_connection: Client,
    }

    #[derive(Debug, Default, PartialEq, serde::Deserialize, Serialize)]
    #[serde(default)]
    struct Client {
        kubeconfig: String,
    }

    #[test]
    fn reports_unknown_keys_and_takes_commented_blocks_as_defaults() {
        let text = "apiPort: 10349\nclientConnection:\n  kubeconfig: /k\n  burst: 7\nnodeIPAM:\n  # x: y\nfuture: [1]\n";
        let (config, unknown) = parse::<Sample>("c", text).unwrap();
        assert_eq!(config, Sample { api_port: 10349, client_connection: Client { kubeconfig: "/k".into() } });
        assert_eq!(unknown, ["clientConnection.burst", "future"]);
        let (config, _) = parse::<Sample>("c", "clientConnection:\n#  kubeconfig: x\n").unwrap();
        assert_eq!(config, Sample::default());
    }

    #[test]
    fn empty_files_are_defaults_and_bad_ones_are_refused() {
        assert_eq!(parse::<Sample>("c", "# only\n\n").unwrap().0, Sample::default());
        assert_eq!(parse::<Sample>("c", "").unwrap().0, Sample::default());
        assert!(parse::<Sample>("c", "apiPort: 1\napiPort: 2\n").is_err());
        let error = parse::<Sample>("c.conf", "apiPort: many\n").unwrap_err().to_string();
        assert!(error.contains("c.conf"), "{error}");
    }
}
