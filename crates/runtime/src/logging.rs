//! Logs: text or JSON on standard error, with a level that changes at run time.

use std::{
    fmt,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt, filter_fn},
    fmt as fmt_layer,
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::recent::Recent;

/// Target of spans that are for export. The log does not show them, whatever its level: they cost nothing
/// where nothing is exported.
pub const SPANS: &str = "antrea::trace";

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(Error::Format(text.to_owned())),
        }
    }
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not a format.
    #[error("log format {0:?} is neither text nor json")]
    Format(String),
    /// Not a level.
    #[error(
        "log level {0:?}: want error, warn, info, debug, trace, a number from 0 to 10, or a filter such as info,kube=debug"
    )]
    Level(String),
    /// A subscriber is installed already.
    #[error("logging is initialised already")]
    Initialised,
    /// The process lost its subscriber.
    #[error("logging is gone")]
    Gone,
}

/// Changes the level of a running process; shared by clones.
#[derive(Clone)]
pub struct LogHandle {
    reload: reload::Handle<EnvFilter, Registry>,
    level: Arc<Mutex<String>>,
    recent: Recent,
}

impl fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogHandle").field("level", &self.level()).finish_non_exhaustive()
    }
}

impl LogHandle {
    /// The level as it was last given.
    pub fn level(&self) -> String {
        self.level.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The level as a klog verbosity: as it was given, or the least that shows as much.
    pub fn verbosity(&self) -> u8 {
        let level = self.level();
        level.parse().unwrap_or_else(|_| {
            let most = filter(&level).ok().and_then(|filter| filter.max_level_hint());
            match most.and_then(|most| most.into_level()) {
                Some(tracing::Level::TRACE) => 6,
                Some(tracing::Level::DEBUG) => 4,
                _ => 0,
            }
        })
    }

    /// The last lines, up to a mebibyte of them; with `since` only those that were not written before.
    pub fn recent(&self, since: Option<SystemTime>) -> String {
        self.recent.text(since)
    }

    /// Sets the level from here on.
    ///
    /// # Errors
    /// `level` is malformed; the level stays as it was.
    pub fn set_level(&self, level: &str) -> Result<(), Error> {
        self.reload.reload(filter(level)?).map_err(|_| Error::Gone)?;
        *self.level.lock().unwrap_or_else(PoisonError::into_inner) = level.to_owned();
        Ok(())
    }
}

/// Turns a level into a filter. Numbers are klog verbosities, which existing tools send: up to 3 info,
/// 4 and 5 debug, above trace.
fn filter(level: &str) -> Result<EnvFilter, Error> {
    let directives = match level.parse::<u8>() {
        Ok(0..=3) => "info",
        Ok(4..=5) => "debug",
        Ok(6..=10) => "trace",
        Ok(_) => return Err(Error::Level(level.to_owned())),
        Err(_) if level.is_empty() => return Err(Error::Level(level.to_owned())),
        Err(_) => level,
    };
    // A bare word that is no level would be taken as a target name and silence everything else.
    if !directives.contains(['=', ',']) && directives.parse::<tracing::level_filters::LevelFilter>().is_err()
    {
        return Err(Error::Level(level.to_owned()));
    }
    let directives = match directives {
        // kube logs every failed attempt before it returns the error, which we log with its meaning.
        "error" | "warn" | "info" => format!("{directives},kube_client=off"),
        // Below trace the HTTP/2 and TLS internals only bury our own lines.
        "debug" => "debug,h2=info,hyper=info,hyper_util=info,rustls=info,tower=info".to_owned(),
        other => other.to_owned(),
    };
    EnvFilter::try_new(directives).map_err(|_| Error::Level(level.to_owned()))
}

/// Installs the process's subscriber: lines go to standard error and say which `component` wrote them.
///
/// # Errors
/// `level` is malformed, or a subscriber is there already.
pub fn init(component: &'static str, level: &str, format: Format) -> Result<LogHandle, Error> {
    init_with(component, level, format, None)
}

/// As [`init`], with a further layer (an exporter of spans).
///
/// # Errors
/// As [`init`].
pub fn init_with(
    component: &'static str,
    level: &str,
    format: Format,
    extra: Option<Box<dyn Layer<Registry> + Send + Sync>>,
) -> Result<LogHandle, Error> {
    let (filter_layer, reload) = reload::Layer::new(filter(level)?);
    let recent = Recent::default();
    let lines = match format {
        Format::Text => fmt_layer::layer().with_ansi(false).with_writer(recent.clone()).boxed(),
        Format::Json => fmt_layer::layer()
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .with_writer(recent.clone())
            .boxed(),
    };
    let filter_layer = filter_layer.and(filter_fn(|metadata| metadata.target() != SPANS));
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> =
        vec![lines.with_filter(filter_layer).boxed()];
    layers.extend(extra);
    tracing_subscriber::registry().with(layers).try_init().map_err(|_| Error::Initialised)?;
    tracing::info!(component, level, "logging started");
    Ok(LogHandle { reload, level: Arc::new(Mutex::new(level.to_owned())), recent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_levels_numbers_and_filters() {
        for (given, shown) in [
            ("info", "kube_client=off,info"),
            ("0", "kube_client=off,info"),
            ("6", "trace"),
            ("warn,kube=debug", "kube=debug,warn"),
        ] {
            assert_eq!(filter(given).unwrap().to_string(), shown);
        }
        assert!(filter("4").unwrap().to_string().contains("debug"));
        for bad in ["", "loud", "11", "256", "=,=", "a=b=c"] {
            assert!(filter(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_level_changes_at_run_time() {
        let handle = init("test", "warn", Format::Json).unwrap();
        assert!(!tracing::enabled!(tracing::Level::DEBUG));
        handle.set_level("trace").unwrap();
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        tracing::warn!("seen and kept");
        assert!(handle.recent(None).contains("seen and kept"));
        assert!(!tracing::enabled!(target: SPANS, tracing::Level::INFO), "nothing is exported");
        assert!(handle.set_level("loud").is_err());
        assert_eq!(handle.level(), "trace");
        assert!(matches!(init("test", "info", Format::Text), Err(Error::Initialised)));
    }

    /// The file is replaced as the kubelet replaces a ConfigMap's: by renaming a symbolic link.
    #[tokio::test]
    async fn the_level_follows_a_file() {
        let (_layer, reload) = reload::Layer::<EnvFilter, Registry>::new(filter("info").unwrap());
        let level = Arc::new(Mutex::new("info".to_owned()));
        let handle = LogHandle { reload, level, recent: Recent::default() };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.conf");
        let put = |text: &str| {
            let data =
                tempfile::NamedTempFile::new_in(folder.path()).unwrap().into_temp_path().keep().unwrap();
            std::fs::write(&data, text).unwrap();
            let link = folder.path().join("..data_tmp");
            std::os::unix::fs::symlink(data, &link).unwrap();
            std::fs::rename(link, &file).unwrap();
        };
        put("logLevel: info\nx: 1\n");
        let follower = crate::level::Follower::new(handle.clone(), &file, "info");
        let task = tokio::spawn(follower.run(std::time::Duration::from_millis(5)));
        let level = async |wanted: &str| {
            let reached = async {
                while handle.level() != wanted {
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            };
            let limit = std::time::Duration::from_secs(30);
            tokio::time::timeout(limit, reached).await.unwrap_or_else(|_| panic!("never {wanted}"));
        };
        // Set by hand, it stays until the file says something new.
        handle.set_level("warn").unwrap();
        put("logLevel: info\nx: 2\n");
        put("logLevel: debug\n");
        level("debug").await;
        put("logLevel: loud\n");
        put("logLevel: [\n");
        put("logLevel: error\n");
        level("error").await;
        std::fs::remove_file(&file).unwrap();
        put("logLevel: trace\n");
        level("trace").await;
        task.abort();
    }
}
