//! The gRPC service that antrea-cni calls.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use antrea_api::cni::cni_server::{Cni, CniServer};
use antrea_api::cni::{CniCmdRequest, CniCmdResponse, Error, ErrorCode, SPEC_VERSIONS};
use antrea_runtime::trace::Tracer;
use netcfg::tc::Limit;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use super::attach::{self, AttachError, Call};
use super::result::CniResult;
use super::trace::{CallSpan, Verb};
use crate::pods::network::NodeNetwork;

/// How long after a call has come the node's network is waited for, before the runtime is told to try again.
const NETWORK_WAIT: Duration = Duration::from_secs(30);

/// The node's network once it is up.
pub type NetworkState = watch::Receiver<Option<Arc<NodeNetwork>>>;

/// Serves calls of the plugin; those of one container one after the other, in the order in which they came.
#[derive(Debug)]
pub struct CniService {
    network: NetworkState,
    /// One lock for each container that has a call under way.
    locks: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    /// For each GC under way the containers of which an ADD came after it.
    newcomers: Mutex<Vec<Weak<Mutex<BTreeSet<String>>>>>,
    tracer: Tracer,
}

/// The parts of a network configuration that the agent reads.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct NetworkConfiguration {
    cni_version: String,
    ipam: Ipam,
    runtime_config: RuntimeConfig,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments")]
    valid_attachments: Option<Vec<ValidAttachment>>,
}

/// What the runtime passes because the configuration says that the plugin is capable of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RuntimeConfig {
    bandwidth: Bandwidth,
}

/// From the pod's annotations `kubernetes.io/egress-bandwidth` and, for the plugin that is chained behind
/// ours, `kubernetes.io/ingress-bandwidth`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Bandwidth {
    /// Bits per second that may leave the pod; 0 = no limit. containerd writes it with a capital letter, which
    /// plugins in Go do not notice.
    #[serde(alias = "EgressRate")]
    egress_rate: u64,
    /// Bits that may leave at once.
    #[serde(alias = "EgressBurst")]
    egress_burst: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ipam {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

impl Bandwidth {
    fn limit(&self) -> Option<Limit> {
        (self.egress_rate > 0).then_some(Limit { rate: self.egress_rate, burst: self.egress_burst })
    }
}

impl CniService {
    /// A service for a network that may not be up yet.
    pub fn new(network: NetworkState, tracer: Tracer) -> Self {
        Self { network, locks: Mutex::default(), newcomers: Mutex::default(), tracer }
    }

    async fn network(&self, wait: Duration) -> Result<Arc<NodeNetwork>, AttachError> {
        let mut network = self.network.clone();
        let up = tokio::time::timeout(wait, network.wait_for(Option::is_some)).await;
        match up {
            Ok(Ok(state)) => state.clone().ok_or_else(not_ready),
            _ => Err(not_ready()),
        }
    }

    fn lock_of(&self, container_id: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock();
        if let Some(lock) = locks.get(container_id).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::new(tokio::sync::Mutex::new(()));
        locks.insert(container_id.to_owned(), Arc::downgrade(&lock));
        lock
    }

    /// Waits until earlier calls about the container have ended, and then for what is left of [`NETWORK_WAIT`] for the
    /// network. Were it the other way round, an ADD whose caller has given up could be done after the DEL that was to undo
    /// it, and nobody would take away what it made.
    async fn turn(&self, container_id: &str) -> Result<(Arc<NodeNetwork>, OwnedMutexGuard<()>), AttachError> {
        let until = Instant::now() + NETWORK_WAIT;
        let turn = self.lock_of(container_id).lock_owned().await;
        let node = self.network(until.saturating_duration_since(Instant::now())).await?;
        Ok((node, turn))
    }

    /// Tells every GC under way of a container.
    fn tell_collectors(&self, container_id: &str) {
        self.newcomers.lock().retain(|newcomers| {
            let newcomers = newcomers.upgrade();
            newcomers.is_some_and(|newcomers| {
                newcomers.lock().insert(container_id.to_owned());
                true
            })
        });
    }

    async fn add(&self, request: CniCmdRequest) -> Result<Vec<u8>, AttachError> {
        let (call, configuration) = read(request)?;
        self.tell_collectors(&call.container_id);
        if configuration.ipam.kind != "host-local" {
            return Err(AttachError::new(
                ErrorCode::UnsupportedField,
                format!("ipam.type {:?} is not supported; it must be host-local", configuration.ipam.kind),
            ));
        }
        let (node, _turn) = self.turn(&call.container_id).await?;
        // The caller may be gone by now; its request is finished all the same, or undone by its own DEL.
        let result = attach::add(&node, &call).await?;
        tracing::info!(container = call.container_id, ips = ?result.ips.iter().map(|ip| ip.address.to_string()).collect::<Vec<_>>(), args = call.args, "added");
        Ok(result.to_json(&configuration.cni_version).to_string().into_bytes())
    }

    async fn del(&self, request: CniCmdRequest) -> Result<Vec<u8>, AttachError> {
        let (call, _) = read(request)?;
        let (node, _turn) = self.turn(&call.container_id).await?;
        attach::del(&node, &call).await?;
        tracing::info!(container = call.container_id, args = call.args, "deleted");
        Ok(Vec::new())
    }

    async fn check(&self, request: CniCmdRequest) -> Result<Vec<u8>, AttachError> {
        let (call, configuration) = read(request)?;
        let (node, _turn) = self.turn(&call.container_id).await?;
        let previous = configuration.prev_result.ok_or_else(|| {
            AttachError::new(ErrorCode::InvalidNetworkConfig, "CHECK needs prevResult in the configuration")
        })?;
        let previous = CniResult::parse(&previous)
            .map_err(|error| AttachError::new(ErrorCode::DecodingFailure, error))?;
        attach::check(&node, &call, &previous).await?;
        Ok(Vec::new())
    }

    async fn status(&self) -> Result<Vec<u8>, AttachError> {
        self.network(Duration::ZERO)
            .await
            .map_err(|error| AttachError { code: ErrorCode::PluginNotAvailable, message: error.message })?;
        Ok(Vec::new())
    }

    /// Removes every attachment and allocation that the runtime does not list. A runtime that gives no list,
    /// as cnitool, says nothing about what is alive: then those go that have no namespace any more. Nor does a list say
    /// anything of what is added later: a runtime waits with that for the end of its GC, unless it has given it up.
    async fn gc(&self, request: CniCmdRequest) -> Result<Vec<u8>, AttachError> {
        let (call, configuration) = read(request)?;
        let newcomers = Arc::default();
        self.newcomers.lock().push(Arc::downgrade(&newcomers));
        let node = self.network(NETWORK_WAIT).await?;
        let valid = configuration.valid_attachments.map(|valid| {
            valid.into_iter().map(|item| (item.container_id, item.ifname)).collect::<BTreeSet<_>>()
        });
        node.free_damaged_leases().await;
        let mut failures = Vec::new();
        for attachment in node.known_attachments().await {
            if valid.as_ref().is_some_and(|valid| valid.contains(&attachment)) {
                continue;
            }
            let (container_id, ifname) = attachment;
            let lock = self.lock_of(&container_id);
            let _held = lock.lock().await;
            // Only now: an ADD may have been under way.
            if newcomers.lock().contains(&container_id) {
                continue;
            }
            if valid.is_none() && attach::has_namespace(&node, &container_id, &ifname) {
                continue;
            }
            let stale = Call { container_id, ifname, netns: String::new(), ..call.clone() };
            match attach::del(&node, &stale).await {
                Ok(()) => tracing::info!(container = stale.container_id, "collected"),
                Err(error) => failures.push(format!("{}: {error}", stale.container_id)),
            }
        }
        if failures.is_empty() {
            return Ok(Vec::new());
        }
        Err(AttachError::new(ErrorCode::IoFailure, failures.join("; ")))
    }
}

fn not_ready() -> AttachError {
    AttachError::new(
        ErrorCode::TryAgainLater,
        "the node's network is not ready: antrea-agent is still connecting to OVS, has no pod subnet, or knows no \
         policies yet",
    )
}

fn read(request: CniCmdRequest) -> Result<(Call, NetworkConfiguration), AttachError> {
    let args = request
        .cni_args
        .ok_or_else(|| AttachError::new(ErrorCode::DecodingFailure, "request without cni_args"))?;
    let configuration: NetworkConfiguration =
        serde_json::from_slice(&args.network_configuration).map_err(|error| {
            AttachError::new(ErrorCode::DecodingFailure, format!("network configuration: {error}"))
        })?;
    if !SPEC_VERSIONS.contains(&configuration.cni_version.as_str()) {
        return Err(AttachError::new(
            ErrorCode::IncompatibleCniVersion,
            format!("cniVersion {:?} is not supported", configuration.cni_version),
        ));
    }
    let call = Call {
        container_id: args.container_id,
        netns: args.netns,
        ifname: args.ifname,
        args: args.args,
        path: args.path,
        egress: configuration.runtime_config.bandwidth.limit(),
    };
    Ok((call, configuration))
}

type Answer = Result<Response<CniCmdResponse>, Status>;

fn answer(result: Result<Vec<u8>, AttachError>) -> Answer {
    Ok(Response::new(match result {
        Ok(cni_result) => CniCmdResponse { cni_result, error: None },
        Err(error) => CniCmdResponse {
            cni_result: Vec::new(),
            error: Some(Error { code: error.code.into(), message: error.message, details: Vec::new() }),
        },
    }))
}

/// A newtype, so that one service can be shared by the requests' own tasks.
#[derive(Debug, Clone)]
struct Shared(Arc<CniService>);

impl Shared {
    /// Runs a call to its end even when the caller hangs up, so that it is never left half done.
    async fn run<F>(
        &self,
        verb: Verb,
        request: Request<CniCmdRequest>,
        call: impl FnOnce(Arc<CniService>, CniCmdRequest) -> F,
    ) -> Answer
    where
        F: Future<Output = Result<Vec<u8>, AttachError>> + Send + 'static,
    {
        let args = request.get_ref().cni_args.as_ref();
        let traced = CallSpan::begin(&self.0.tracer, verb, request.metadata(), args);
        let call = call(self.0.clone(), request.into_inner()).instrument(traced.span.clone());
        let task = tokio::spawn(async move {
            let result = call.await;
            traced.end(&result);
            result
        });
        answer(task.await.map_err(|error| Status::internal(error.to_string()))?)
    }
}

#[tonic::async_trait]
impl Cni for Shared {
    async fn cmd_add(&self, request: Request<CniCmdRequest>) -> Answer {
        self.run(Verb::Add, request, |service, request| async move { service.add(request).await }).await
    }

    async fn cmd_check(&self, request: Request<CniCmdRequest>) -> Answer {
        self.run(Verb::Check, request, |service, request| async move { service.check(request).await }).await
    }

    async fn cmd_del(&self, request: Request<CniCmdRequest>) -> Answer {
        self.run(Verb::Del, request, |service, request| async move { service.del(request).await }).await
    }

    async fn cmd_status(&self, _: Request<CniCmdRequest>) -> Answer {
        // Runtimes poll it; a trace of it would tell nothing.
        answer(self.0.status().await)
    }

    async fn cmd_gc(&self, request: Request<CniCmdRequest>) -> Answer {
        self.run(Verb::Gc, request, |service, request| async move { service.gc(request).await }).await
    }
}

/// Listens at `socket` until `shutdown`.
///
/// # Errors
/// The socket cannot be made, or the server failed.
pub async fn serve(
    socket: &Path,
    network: NetworkState,
    tracer: Tracer,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    if let Some(folder) = socket.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    // A socket file outlives its listener; binding anew needs it gone.
    match tokio::fs::remove_file(socket).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(socket)?;
    let service = CniServer::new(Shared(Arc::new(CniService::new(network, tracer))));
    tonic::transport::Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), shutdown.cancelled_owned())
        .await
        .map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use antrea_api::cni::CniCmdArgs;

    use super::*;
    use crate::pods::attach::rollback_tests::Lab;

    fn request(call: Call) -> CniCmdRequest {
        let Call { container_id, netns, ifname, args, path, .. } = call;
        let network_configuration = br#"{"cniVersion": "1.1.0", "ipam": {"type": "host-local"}}"#.to_vec();
        let args = CniCmdArgs { container_id, netns, ifname, args, path, network_configuration };
        CniCmdRequest { cni_args: Some(args) }
    }

    /// Both wait for the network, and the DEL looks first when it is up.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_del_is_done_after_the_add_that_came_before_it() {
        let lab = Lab::start().await;
        let (up, network) = watch::channel(None);
        let service = CniService::new(network, Tracer::default());
        let mut add = pin!(service.add(request(lab.call(""))));
        let mut del = pin!(service.del(request(lab.call(""))));
        assert!(futures::poll!(&mut add).is_pending());
        assert!(futures::poll!(&mut del).is_pending());
        up.send_replace(Some(lab.node.clone()));
        let (deleted, added) = futures::join!(del, add);
        added.unwrap();
        deleted.unwrap();
        assert_eq!(lab.node.interfaces(), [], "nothing is left of it");
    }

    /// Its caller has given up before the network was up.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_added_after_a_gc_has_begun_stays() {
        let lab = Lab::start().await;
        let (up, network) = watch::channel(None);
        let service = CniService::new(network, Tracer::default());
        let mut list = request(lab.call(""));
        let configuration = br#"{"cniVersion": "1.1.0", "cni.dev/valid-attachments": []}"#;
        list.cni_args.as_mut().unwrap().network_configuration = configuration.to_vec();
        let mut gc = pin!(service.gc(list.clone()));
        assert!(futures::poll!(&mut gc).is_pending());
        let mut add = pin!(service.add(request(lab.call(""))));
        assert!(futures::poll!(&mut add).is_pending());
        up.send_replace(Some(lab.node.clone()));
        add.await.unwrap();
        gc.await.unwrap();
        assert_eq!(lab.node.interfaces().len(), 1, "it runs");
        service.gc(list).await.unwrap();
        assert_eq!(lab.node.interfaces(), [], "the next one says that it does not");
    }

    #[test]
    fn a_bandwidth_limit_comes_with_the_runtime_configuration() {
        let limit = |text: &str| {
            let configuration: NetworkConfiguration = serde_json::from_str(text).unwrap();
            configuration.runtime_config.bandwidth.limit()
        };
        let text = r#"{"cniVersion": "1.1.0", "runtimeConfig": {"bandwidth":
            {"ingressRate": 1, "ingressBurst": 2, "egressRate": 20000000, "egressBurst": 4294967295}}}"#;
        assert_eq!(limit(text), Some(Limit { rate: 20_000_000, burst: 4_294_967_295 }));
        let capitals = text.replace("egress", "Egress").replace("ingress", "Ingress");
        assert_eq!(limit(&capitals), limit(text));
        assert_eq!(limit(r#"{"runtimeConfig": {"bandwidth": {"ingressRate": 1}}}"#), None);
        assert_eq!(limit("{}"), None);
    }
}
