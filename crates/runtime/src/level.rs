//! A log level that follows a configuration file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{config, logging::LogHandle};

/// How often the file is looked at. The kubelet brings a ConfigMap's change within about a minute, so that
/// this adds little; a look costs some microseconds.
pub const EVERY: Duration = Duration::from_secs(10);

/// The one key that is read again.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Level {
    log_level: String,
}

/// Follows `logLevel` of a file.
#[derive(Debug)]
pub struct Follower {
    log: LogHandle,
    file: PathBuf,
    /// What the file said last.
    seen: String,
}

impl Follower {
    /// Follows `file`, which said `seen` when the process read it. A level that is set in another way stays
    /// until the file says something else than before.
    pub fn new(log: LogHandle, file: &Path, seen: &str) -> Self {
        Self { log, file: file.to_owned(), seen: seen.to_owned() }
    }

    /// Looks at the file again and again, for ever.
    pub async fn run(mut self, every: Duration) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(every).await;
            match tokio::fs::read_to_string(&self.file).await {
                Ok(text) => self.take(&text),
                Err(error) => tracing::debug!(file = %self.file.display(), %error, "cannot look at logLevel"),
            }
        }
    }

    fn take(&mut self, text: &str) {
        let name = self.file.display().to_string();
        let level = match config::parse::<Level>(&name, text) {
            Ok((level, _)) => level.log_level,
            Err(error) => return tracing::debug!(%error, "cannot look at logLevel"),
        };
        if level.is_empty() || level == self.seen {
            return;
        }
        match self.log.set_level(&level) {
            Ok(()) => tracing::info!(level, file = name, "log level changed"),
            Err(error) => tracing::warn!(%error, file = name, "logLevel is unusable, the level stays"),
        }
        self.seen = level;
    }
}
