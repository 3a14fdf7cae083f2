//! Traceflows: gives each its turn and its tag, and ends it. What decides is [`antrea_traceflow::turns`].
//!
//! The objects are all there is to know, so a controller that starts anew goes on where the last one was. A write that
//! somebody else was faster than is decided on again with the watch's next event.

use std::collections::BTreeMap;
use std::time::Duration;

use antrea_crds::Traceflow;
use antrea_crds::traceflow::{Phase, Status};
use antrea_runtime::client::{describe, describe_watch};
use antrea_runtime::tolerant::watch_all;
use antrea_traceflow::request::{End, Name, Request};
use antrea_traceflow::turns::{self, Plan};
use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client, Resource, ResourceExt, api::PostParams, runtime::watcher::Event};
use serde::de::DeserializeOwned;

/// Writes at the same time.
const CONCURRENCY: usize = 8;

/// Pause before what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Limit of one request to the API server.
const LIMIT: Duration = Duration::from_secs(5);

/// Traces as far as they are known.
#[derive(Default)]
struct Known {
    traces: BTreeMap<String, Traceflow>,
    /// Of a list under way; what is known stays until it is complete.
    listing: Option<BTreeMap<String, Traceflow>>,
    complete: bool,
}

/// The order of an object's versions.
fn version(trace: &Traceflow) -> u64 {
    trace.resource_version().and_then(|version| version.parse().ok()).unwrap_or(0)
}

impl Known {
    fn apply(&mut self, event: Event<Traceflow>) {
        match event {
            Event::Init => self.listing = Some(BTreeMap::new()),
            Event::InitApply(trace) => {
                self.listing.get_or_insert_default().insert(trace.name_any(), trace);
            }
            Event::InitDone => {
                let listed = self.listing.take().unwrap_or_default();
                self.traces.retain(|name, _| listed.contains_key(name));
                listed.into_values().for_each(|trace| self.take(trace));
                self.complete = true;
            }
            Event::Apply(trace) => self.take(trace),
            Event::Delete(trace) => {
                self.traces.remove(&trace.name_any());
            }
        }
    }

    /// Events may be behind what this controller itself has written.
    fn take(&mut self, trace: Traceflow) {
        let name = trace.name_any();
        let newer = |known: &Traceflow| known.uid() != trace.uid() || version(known) <= version(&trace);
        if self.traces.get(&name).is_none_or(newer) {
            self.traces.insert(name, trace);
        }
    }
}

/// Sees to all traces. Never ends.
pub(crate) async fn run(client: Client) {
    let api: Api<Traceflow> = Api::all(client.clone());
    let mut stream = watch_all(&client);
    let mut known = Known::default();
    let mut last = 0;
    let mut wake = None;
    loop {
        tokio::select! {
            event = stream.next() => match event {
                Some(Ok(event)) => known.apply(event),
                Some(Err(error)) => tracing::debug!(error = describe_watch(&error), "watch of Traceflows failed"),
                None => stream = watch_all(&client),
            },
            // Until it is known anew, nobody waits for it: it may be over while a list is under way.
            () = sleep_until(wake.take()) => {}
        }
        // What has come together is decided on together.
        while let Some(Some(Ok(event))) = stream.next().now_or_never() {
            known.apply(event);
        }
        if !known.complete || known.listing.is_some() {
            continue;
        }
        let now = Timestamp::now();
        let Plan { writes, wake: due } = turns::plan(&known.traces, last, now);
        last = writes
            .iter()
            .map(|(_, status)| status.dataplane_tag)
            .rfind(|tag| *tag != 0)
            .map_or(last, |tag| u8::try_from(tag).unwrap_or_default());
        let nothing = writes.is_empty();
        let written = write(&client, &api, &mut known, writes).await;
        let due = due.map(|due| Duration::try_from(due.duration_since(now)).unwrap_or_default());
        // A tag that came free has its next trace at once.
        let again = (!nothing).then_some(if written { Duration::ZERO } else { RETRY });
        wake = [due, again].into_iter().flatten().min().map(|pause| tokio::time::Instant::now() + pause);
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Writes statuses; whether all took effect.
async fn write(
    client: &Client,
    api: &Api<Traceflow>,
    known: &mut Known,
    writes: Vec<(String, Status)>,
) -> bool {
    let traces = writes.into_iter().filter_map(|(name, status)| {
        let mut trace = known.traces.get(&name)?.clone();
        trace.status = Some(status);
        Some(trace)
    });
    let traces: Vec<Traceflow> = traces.collect();
    let mut answers = futures::stream::iter(traces)
        .map(|mut trace| async move {
            if trace.status.as_ref().is_some_and(|status| status.phase == Some(Phase::Running))
                && let Err(reason) = check(client, &trace).await
            {
                trace.status = Some(Status { phase: Some(Phase::Failed), reason, ..Status::default() });
            }
            let name = trace.name_any();
            let params = PostParams::default();
            let answer = tokio::time::timeout(LIMIT, api.replace_status(&name, &params, &trace)).await;
            (name, answer)
        })
        .buffer_unordered(CONCURRENCY);
    let mut written = true;
    while let Some((name, answer)) = answers.next().await {
        match answer {
            Ok(Ok(trace)) => {
                let status = trace.status.clone().unwrap_or_default();
                tracing::info!(
                    trace = name, phase = ?status.phase, tag = status.dataplane_tag, reason = status.reason, "Traceflow"
                );
                known.take(trace);
            }
            Ok(Err(kube::Error::Api(status))) if status.code == 404 || status.code == 409 => {
                tracing::debug!(trace = name, code = status.code, "somebody was faster");
                written = false;
            }
            Ok(Err(error)) => {
                tracing::warn!(trace = name, error = describe(&error), "status of a Traceflow not written");
                written = false;
            }
            Err(_) => {
                tracing::warn!(trace = name, "status of a Traceflow not written within {LIMIT:?}");
                written = false;
            }
        }
    }
    written
}

/// Whether the trace can begin; an end that cannot be asked about is taken to be there.
async fn check(client: &Client, trace: &Traceflow) -> Result<(), String> {
    let request = Request::read(&trace.spec).map_err(|problem| problem.to_string())?;
    for (field, end) in [("spec.source.pod", &request.source), ("spec.destination.pod", &request.destination)]
    {
        let End::Pod(name) = end else { continue };
        let pod: Option<Pod> = get(client, field, name).await?;
        let on_host = pod.as_ref().and_then(|pod| pod.spec.as_ref()?.host_network).unwrap_or(false);
        if on_host && field == "spec.source.pod" {
            return Err(format!(
                "{field}: {name} is on its Node's network, from which Antrea connects nothing"
            ));
        }
        if pod.is_some_and(|pod| pod.spec.is_none_or(|spec| spec.node_name.is_none())) {
            return Err(format!("{field}: {name} is on no Node yet"));
        }
    }
    if let End::Service(name) = &request.destination {
        get::<Service>(client, "spec.destination.service", name).await?;
    }
    Ok(())
}

async fn get<K>(client: &Client, field: &str, name: &Name) -> Result<Option<K>, String>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), &name.namespace);
    match tokio::time::timeout(LIMIT, api.get(&name.name)).await {
        Ok(Ok(object)) => Ok(Some(object)),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
            Err(format!("{field}: there is no {} {name}", K::kind(&())))
        }
        Ok(Err(error)) => {
            tracing::debug!(%name, error = describe(&error), "cannot ask about an end of a trace");
            Ok(None)
        }
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Poll;

    use antrea_crds::TraceflowSpec;
    use axum::Router;
    use axum::extract::{Request, State};
    use axum::response::Response;
    use http::Method;
    use serde_json::json;
    use tokio::sync::Notify;

    use super::*;

    fn trace(name: &str, uid: &str, version: &str) -> Traceflow {
        let mut trace = Traceflow::new(name, TraceflowSpec::default());
        trace.metadata.uid = Some(uid.to_owned());
        trace.metadata.resource_version = Some(version.to_owned());
        trace
    }

    /// Lists one trace that has had its time, refuses to write it, ends the watch, and never lists again.
    async fn answer(State(api): State<Arc<(AtomicUsize, Notify)>>, request: Request) -> Response {
        let list = request.method() == Method::GET && !request.uri().query().unwrap_or("").contains("watch=");
        let (code, body) = if list && api.0.fetch_add(1, Ordering::Relaxed) > 0 {
            api.1.notify_one();
            std::future::pending().await
        } else if list {
            let mut trace = trace("a", "1", "5");
            let begun = Some("2026-01-01T00:00:00Z".to_owned());
            let running = Status { phase: Some(Phase::Running), start_time: begun, ..Status::default() };
            trace.status = Some(running);
            let metadata = json!({"resourceVersion": "5"});
            (200_u16, json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": [trace]}))
        } else {
            let gone = json!({
                "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Expired", "code": 410,
                "message": "too old",
            });
            match *request.method() {
                Method::GET => (200, json!({"type": "ERROR", "object": gone})),
                _ => (500, gone),
            }
        };
        Response::builder().status(code).body(format!("{body}\n").into()).unwrap()
    }

    /// What was due before a list began is due still while it is under way, and cannot be seen to.
    #[tokio::test]
    async fn a_list_that_takes_its_time_is_waited_for() {
        let server = Arc::new((AtomicUsize::new(0), Notify::new()));
        let client = Client::new(Router::new().fallback(answer).with_state(Arc::clone(&server)), "default");
        let mut task = std::pin::pin!(run(client));
        let mut while_listing = std::pin::pin!(async {
            server.1.notified().await;
            tokio::time::sleep(2 * RETRY).await;
        });
        let mut polls = 0;
        let quiet = std::future::poll_fn(|context| {
            polls += 1;
            assert!(task.as_mut().poll(context).is_pending());
            if polls > 10_000 {
                Poll::Ready(false)
            } else {
                while_listing.as_mut().poll(context).map(|()| true)
            }
        });
        assert!(quiet.await, "looked again and again");
    }

    fn versions(known: &Known) -> Vec<(&str, u64)> {
        known.traces.iter().map(|(name, trace)| (name.as_str(), version(trace))).collect()
    }

    #[test]
    fn an_event_that_is_behind_takes_nothing_back() {
        let mut known = Known::default();
        for event in [Event::Init, Event::InitApply(trace("a", "1", "5")), Event::InitDone] {
            known.apply(event);
        }
        known.take(trace("a", "1", "12"));
        known.apply(Event::Apply(trace("a", "1", "9")));
        assert_eq!(versions(&known), [("a", 12)]);
        known.apply(Event::Apply(trace("a", "2", "3")));
        assert_eq!(versions(&known), [("a", 3)], "another of that name");
        known.apply(Event::Init);
        known.apply(Event::InitApply(trace("b", "3", "20")));
        assert_eq!(versions(&known), [("a", 3)], "a list under way hides nothing");
        known.apply(Event::InitDone);
        assert_eq!(versions(&known), [("b", 20)]);
        known.apply(Event::Delete(trace("b", "3", "21")));
        assert!(known.traces.is_empty());
    }
}
