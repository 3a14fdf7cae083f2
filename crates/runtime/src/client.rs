//! Connection to the Kubernetes API server that works before any Service network exists.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use kube::{Client, Config, config::KubeConfigOptions, config::Kubeconfig};

use crate::backoff::Backoff;

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig named in the configuration is unusable.
    #[error("kubeconfig {path}: {message}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// Neither a kubeconfig nor a service account.
    #[error("in-cluster configuration: {0}")]
    InCluster(#[from] kube::config::InClusterError),
    /// `kubeAPIServerOverride` is no URL.
    #[error("kubeAPIServerOverride {value:?}: {message}")]
    Override {
        /// As configured.
        value: String,
        /// What is wrong with it.
        message: String,
    },
    /// The TLS stack refused the configuration.
    #[error("kubernetes client: {0}")]
    Client(#[from] kube::Error),
}

/// Configuration for a client: from `kubeconfig` if given, else the Pod's service account.
///
/// `override_url` (`kubeAPIServerOverride`; a URL, or `host:port` that is taken as https) replaces the
/// server's address, so that a Pod on the host network needs no ClusterIP. Without it the address is
/// `KUBERNETES_SERVICE_HOST` and `_PORT`, which the operator may set to the real endpoint.
///
/// # Errors
/// Names the input that is unusable.
pub async fn config(kubeconfig: Option<&Path>, override_url: Option<&str>) -> Result<Config, Error> {
    let mut config = match kubeconfig {
        Some(path) => {
            let error = |message: String| Error::Kubeconfig { path: path.display().to_string(), message };
            let file = Kubeconfig::read_from(path).map_err(|e| error(e.to_string()))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|e| error(e.to_string()))?
        }
        // With an override the environment is not needed, only the token and the CA.
        None if override_url.is_some() => Config::incluster_dns()?,
        None => Config::incluster_env()?,
    };
    if let Some(value) = override_url {
        let url = if value.contains("://") { value.to_owned() } else { format!("https://{value}") };
        config.cluster_url =
            url.parse().map_err(|e| Error::Override { value: value.to_owned(), message: format!("{e}") })?;
    }
    Ok(config)
}

/// A client of [`config`].
///
/// # Errors
/// As [`config`], or TLS material that cannot be used.
pub async fn connect(kubeconfig: Option<&Path>, override_url: Option<&str>) -> Result<Client, Error> {
    Ok(Client::try_from(config(kubeconfig, override_url).await?)?)
}

/// Pauses of a watch that fails: from half a second to five, so that what happened while the API server
/// was away is known soon after it is back. After a minute without a failure it starts over; sooner it
/// does not, as a watch that lists well and then fails at once would list a large cluster all the time.
#[derive(Debug)]
pub struct WatchBackoff {
    delays: Backoff,
    last: Option<Instant>,
}

/// Longest pause of [`WatchBackoff`].
pub const WATCH_PAUSE: Duration = Duration::from_secs(5);

impl Default for WatchBackoff {
    fn default() -> Self {
        Self { delays: Backoff::new(Duration::from_millis(500), WATCH_PAUSE), last: None }
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.last.replace(now).is_some_and(|last| now - last > Duration::from_secs(60)) {
            self.delays.reset();
        }
        Some(self.delays.next_delay())
    }
}

impl kube::runtime::utils::Backoff for WatchBackoff {
    fn reset(&mut self) {}
}

/// A client's error in one line: what the API server said, without the whole Status around it.
pub fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => {
            let mut text = other.to_string();
            let mut cause = std::error::Error::source(other);
            while let Some(error) = cause {
                let next = error.to_string();
                if !text.contains(&next) {
                    text.push_str(": ");
                    text.push_str(&next);
                }
                cause = error.source();
            }
            text
        }
    }
}

/// A watch's error in one line.
pub fn describe_watch(error: &kube::runtime::watcher::Error) -> String {
    use kube::runtime::watcher::Error;
    match error {
        Error::InitialListFailed(error) | Error::WatchStartFailed(error) | Error::WatchFailed(error) => {
            describe(error)
        }
        Error::WatchError(status) => status.message.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn watches_pause_no_longer_than_five_seconds() {
        let mut pauses = WatchBackoff::default();
        let first = pauses.next().unwrap();
        assert!(first <= Duration::from_millis(500));
        kube::runtime::utils::Backoff::reset(&mut pauses);
        assert!(pauses.next().unwrap() > first, "one success is not enough to start over");
        let later: Vec<_> = pauses.by_ref().take(10).collect();
        assert!(later.iter().all(|pause| *pause <= WATCH_PAUSE) && later[9] >= WATCH_PAUSE * 3 / 4);
        pauses.last = Instant::now().checked_sub(Duration::from_secs(61));
        assert!(pauses.next().unwrap() <= Duration::from_millis(500));
    }

    #[tokio::test]
    async fn reads_a_kubeconfig_and_overrides_the_server() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(
            file,
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\n\
             clusters: [{{name: k, cluster: {{server: 'https://10.0.0.1:6443'}}}}]\nusers: [{{name: u, user: {{token: t}}}}]\n"
        )
        .unwrap();
        let plain = config(Some(file.path()), None).await.unwrap();
        assert_eq!(plain.cluster_url.to_string(), "https://10.0.0.1:6443/");
        let moved = config(Some(file.path()), Some("192.0.2.1:6443")).await.unwrap();
        assert_eq!(moved.cluster_url.to_string(), "https://192.0.2.1:6443/");
        let error = config(Some(file.path()), Some("http://[")).await.unwrap_err().to_string();
        assert!(error.contains("kubeAPIServerOverride"), "{error}");
        let error = config(Some(Path::new("/nonexistent/kc")), None).await.unwrap_err().to_string();
        assert!(error.contains("/nonexistent/kc"), "{error}");
    }
}
