//! Leader election by a `coordination.k8s.io/v1` Lease.
//!
//! ```text
//!  acquire: wait until the Lease is free, given up or not renewed for its duration ─► hold it
//!  hold:    renew every `retry`; not renewed for `renew_deadline` ─► Lost, the process must end
//!  shutdown: give it up, so that the next one need not wait
//! ```
//!
//! Clocks of different machines are never compared: whether a Lease has run out is judged by how long we
//! have seen it unchanged on our own monotonic clock. Every write carries the resourceVersion it is
//! based on, so of two that try one fails.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Who competes for which Lease.
#[derive(Debug, Clone)]
pub struct Config {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Name of this competitor, different from that of every other, such as the Pod's name.
    pub identity: String,
    /// Others may take the Lease when it was not renewed for this long.
    pub duration: Duration,
    /// The holder gives up when it could not renew for this long; shorter than `duration`.
    pub renew_deadline: Duration,
    /// Time between two tries.
    pub retry: Duration,
}

impl Config {
    /// The usual times: 15 s, 10 s and 2 s.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Leadership was lost; whatever only a leader may do has to end now.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The API server could not be reached, or refused, for the renew deadline.
    #[error("lease {name} could not be renewed for {after:?}")]
    NotRenewed {
        /// Name of the Lease.
        name: String,
        /// Time since it was renewed last.
        after: Duration,
    },
    /// Somebody else holds it.
    #[error("lease {name} is held by {holder}")]
    Taken {
        /// Name of the Lease.
        name: String,
        /// Identity of the holder.
        holder: String,
    },
}

/// A competitor for a Lease.
pub struct Elector {
    api: Api<Lease>,
    config: Config,
    /// When we last began what made or renewed the Lease. Others count from then: its answer may have come late.
    renewed: Instant,
    /// What the Lease said when it last changed, and when we saw that.
    seen: Option<(Record, Instant)>,
}

/// What tells one holding of a Lease from another.
#[derive(Debug, Clone, PartialEq)]
struct Record {
    holder: String,
    renewed: Option<MicroTime>,
    version: Option<String>,
}

/// What one try came to.
#[derive(Debug, PartialEq)]
enum Outcome {
    Held,
    HeldBy(String),
}

impl Elector {
    /// Does nothing until [`acquire`](Self::acquire).
    pub fn new(client: Client, config: Config) -> Self {
        let api = Api::namespaced(client, &config.namespace);
        Self { api, config, renewed: Instant::now(), seen: None }
    }

    /// Waits until the Lease is ours. Errors of the API server are logged and tried again.
    pub async fn acquire(&mut self) {
        let mut told = None;
        loop {
            match timeout(self.config.renew_deadline, self.attempt()).await {
                Ok(Ok(Outcome::Held)) => {
                    tracing::info!(lease = self.config.name, identity = self.config.identity, "leading");
                    return;
                }
                Ok(Ok(Outcome::HeldBy(holder))) => {
                    if told.as_ref() != Some(&holder) {
                        tracing::info!(lease = self.config.name, holder, "waiting for leadership");
                        told = Some(holder);
                    }
                }
                Ok(Err(error)) if is_conflict(&error) => {}
                Ok(Err(error)) => tracing::warn!(lease = self.config.name, %error, "lease"),
                Err(_) => tracing::warn!(lease = self.config.name, "lease: no answer"),
            }
            sleep(self.config.retry).await;
        }
    }

    /// Renews the Lease until `shutdown`, then gives it up.
    ///
    /// # Errors
    /// When it is ours no longer.
    pub async fn hold(mut self, shutdown: CancellationToken) -> Result<(), Lost> {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {
                    self.release().await;
                    return Ok(());
                }
                () = sleep(self.config.retry) => {}
            }
            let left = self.config.renew_deadline.saturating_sub(self.renewed.elapsed());
            match timeout(left, self.attempt()).await {
                Ok(Ok(Outcome::Held)) | Err(_) => {}
                Ok(Ok(Outcome::HeldBy(holder))) => {
                    return Err(Lost::Taken { name: self.config.name, holder });
                }
                Ok(Err(error)) => tracing::warn!(lease = self.config.name, %error, "lease not renewed"),
            }
            let after = self.renewed.elapsed();
            if after >= self.config.renew_deadline {
                return Err(Lost::NotRenewed { name: self.config.name, after });
            }
        }
    }

    /// Takes or renews the Lease if that is allowed.
    async fn attempt(&mut self) -> Result<Outcome, kube::Error> {
        let begun = Instant::now();
        let Some(lease) = self.api.get_opt(&self.config.name).await? else {
            let lease = self.claim(None);
            let created = self.api.create(&PostParams::default(), &lease).await?;
            self.observe(&created);
            self.renewed = begun;
            return Ok(Outcome::Held);
        };
        self.observe(&lease);
        let holder = holder(&lease);
        if holder != self.config.identity && !holder.is_empty() && !self.has_run_out(&lease) {
            return Ok(Outcome::HeldBy(holder.to_owned()));
        }
        let claim = self.claim(Some(lease));
        let replaced = self.api.replace(&self.config.name, &PostParams::default(), &claim).await?;
        self.observe(&replaced);
        self.renewed = begun;
        Ok(Outcome::Held)
    }

    fn observe(&mut self, lease: &Lease) {
        let record = Record {
            holder: holder(lease).to_owned(),
            renewed: lease.spec.as_ref().and_then(|spec| spec.renew_time.clone()),
            version: lease.metadata.resource_version.clone(),
        };
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != record) {
            self.seen = Some((record, Instant::now()));
        }
    }

    fn has_run_out(&self, lease: &Lease) -> bool {
        let given = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let duration =
            given.and_then(|s| u64::try_from(s).ok()).map_or(self.config.duration, Duration::from_secs);
        self.seen.as_ref().is_some_and(|(_, at)| at.elapsed() >= duration)
    }

    /// The Lease as it is when we hold it.
    fn claim(&self, current: Option<Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let ours = current.as_ref().is_some_and(|lease| holder(lease) == self.config.identity);
        let old = current.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
        let transitions = old.lease_transitions.unwrap_or(0) + i32::from(current.is_some() && !ours);
        let metadata = current.map_or_else(
            || ObjectMeta {
                name: Some(self.config.name.clone()),
                namespace: Some(self.config.namespace.clone()),
                ..ObjectMeta::default()
            },
            |lease| lease.metadata,
        );
        let spec = LeaseSpec {
            holder_identity: Some(self.config.identity.clone()),
            lease_duration_seconds: i32::try_from(self.config.duration.as_secs()).ok(),
            acquire_time: if ours { old.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        };
        Lease { metadata, spec: Some(spec) }
    }

    /// Best effort: if it fails, others wait until the Lease runs out.
    async fn release(&self) {
        let release = async {
            let mut lease = self.api.get(&self.config.name).await?;
            if holder(&lease) == self.config.identity {
                if let Some(spec) = lease.spec.as_mut() {
                    spec.holder_identity = Some(String::new());
                    spec.lease_duration_seconds = Some(1);
                    spec.renew_time = Some(MicroTime(Timestamp::now()));
                }
                self.api.replace(&self.config.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match timeout(self.config.retry, release).await {
            Ok(Ok(())) => tracing::debug!(lease = self.config.name, "given up"),
            Ok(Err(error)) => tracing::debug!(lease = self.config.name, %error, "not given up"),
            Err(_) => tracing::debug!(lease = self.config.name, "not given up in time"),
        }
    }
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::{
        Router,
        body::{Body, to_bytes},
        extract::{Request, State},
        http::Method,
        response::Response,
    };
    use serde_json::{Value, json};

    use super::*;

    /// An API server that holds one Lease and checks resourceVersions.
    #[derive(Clone, Default)]
    struct Server(Arc<Mutex<Stored>>);

    #[derive(Default)]
    struct Stored {
        lease: Option<Value>,
        /// When it was written last.
        written: Option<Instant>,
        down: bool,
    }

    impl Server {
        fn elector(&self, identity: &str) -> Elector {
            let router = Router::new().fallback(answer).with_state(self.clone());
            let config = Config {
                duration: Duration::from_secs(1),
                renew_deadline: Duration::from_millis(300),
                retry: Duration::from_millis(20),
                ..Config::new("ns", "lock", identity)
            };
            Elector::new(Client::new(router, "default"), config)
        }

        fn spec(&self, field: &str) -> Value {
            self.0.lock().unwrap().lease.as_ref().unwrap()["spec"][field].clone()
        }
    }

    fn respond(code: u16, value: &Value) -> Response {
        Response::builder().status(code).body(Body::from(value.to_string())).unwrap()
    }

    fn failure(code: u16, reason: &str) -> Response {
        let status = json!({
            "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": reason,
        });
        respond(code, &status)
    }

    async fn answer(State(server): State<Server>, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, 1 << 20).await.unwrap();
        let mut stored = server.0.lock().unwrap();
        if stored.down {
            return failure(403, "Forbidden");
        }
        if parts.method == Method::GET {
            return stored
                .lease
                .as_ref()
                .map_or_else(|| failure(404, "NotFound"), |lease| respond(200, lease));
        }
        let mut lease: Value = serde_json::from_slice(&body).unwrap();
        let version = |lease: &Value| lease["metadata"]["resourceVersion"].as_str().map(str::to_owned);
        let current = stored.lease.as_ref().and_then(version);
        if version(&lease) != current {
            return failure(409, "Conflict");
        }
        let next = current.map_or(1, |version| version.parse::<u64>().unwrap() + 1);
        lease["metadata"]["resourceVersion"] = next.to_string().into();
        stored.lease = Some(lease.clone());
        stored.written = Some(Instant::now());
        respond(200, &lease)
    }

    #[tokio::test]
    async fn one_holds_and_gives_up_at_shutdown() {
        let server = Server::default();
        let mut first = server.elector("a");
        let mut second = server.elector("b");
        first.acquire().await;
        assert_eq!(server.spec("holderIdentity"), "a");
        assert_eq!(second.attempt().await.unwrap(), Outcome::HeldBy("a".into()));

        let shutdown = CancellationToken::new();
        let holding = tokio::spawn(first.hold(shutdown.clone()));
        // Renewed all the time, it does not run out.
        assert!(timeout(Duration::from_millis(1300), second.acquire()).await.is_err());
        shutdown.cancel();
        holding.await.unwrap().unwrap();
        timeout(Duration::from_millis(500), second.acquire()).await.unwrap();
        assert_eq!(server.spec("holderIdentity"), "b");
        assert_eq!(server.spec("leaseTransitions"), 1);
    }

    #[tokio::test]
    async fn a_dead_holder_is_replaced_after_the_duration_and_not_before() {
        let server = Server::default();
        server.elector("a").acquire().await;
        let mut second = server.elector("b");
        let start = Instant::now();
        second.acquire().await;
        assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
        assert_eq!(server.spec("holderIdentity"), "b");
    }

    #[tokio::test]
    async fn a_holder_that_cannot_renew_says_so_before_others_may_take_over() {
        let server = Server::default();
        let mut first = server.elector("a");
        first.acquire().await;
        server.0.lock().unwrap().down = true;
        let start = Instant::now();
        let lost = first.hold(CancellationToken::new()).await.unwrap_err();
        assert!(matches!(lost, Lost::NotRenewed { .. }), "{lost}");
        assert!(start.elapsed() < Duration::from_secs(1));
    }

    /// Others may take over a while after what they see, which is older than the answer that says so.
    #[tokio::test]
    async fn the_time_of_a_holder_begins_before_that_of_the_others() {
        let server = Server::default();
        let mut first = server.elector("a");
        first.acquire().await;
        let begun = first.renewed;
        assert!(begun <= server.0.lock().unwrap().written.unwrap(), "made");
        assert_eq!(first.attempt().await.unwrap(), Outcome::Held);
        assert!(
            begun < first.renewed && first.renewed <= server.0.lock().unwrap().written.unwrap(),
            "renewed"
        );
    }

    #[tokio::test]
    async fn a_holder_that_was_replaced_notices() {
        let server = Server::default();
        let mut first = server.elector("a");
        first.acquire().await;
        {
            let mut stored = server.0.lock().unwrap();
            let lease = stored.lease.as_mut().unwrap();
            lease["spec"]["holderIdentity"] = "b".into();
        }
        let lost = first.hold(CancellationToken::new()).await.unwrap_err();
        assert_eq!(lost.to_string(), "lease lock is held by b");
    }

    /// Of two that find the Lease free at the same moment, one gets it.
    #[tokio::test]
    async fn a_stale_write_is_refused() {
        let server = Server::default();
        let first = server.elector("a");
        let second = server.elector("b");
        let (one, two) = (first.claim(None), second.claim(None));
        first.api.create(&PostParams::default(), &one).await.unwrap();
        let error = second.api.create(&PostParams::default(), &two).await.unwrap_err();
        assert!(is_conflict(&error), "{error}");
    }
}
