//! `dashboard.Plugin`.

use std::{collections::VecDeque, time::Duration};

use antrea_ui_model::AgentRow;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::{
    NAME,
    actions::{self, Action, ActionError},
    cluster::{self, TRACEFLOW},
    octant::{Octant, OctantError, Severity},
    pages::{self, Page},
    process::log,
    proto::dashboard::{
        ContentRequest, ContentResponse, Empty, HandleActionRequest, HandleActionResponse, NavigationRequest,
        NavigationResponse, ObjectRequest, ObjectStatusResponse, PrintResponse, PrintTab, PrintTabResponse,
        RegisterRequest, RegisterResponse, WatchRequest,
        plugin_server::Plugin,
        print_response::SummaryItem,
        register_response::{Capabilities, GroupVersionKind},
    },
};

/// Browsers whose choice is kept.
const MAX_CLIENTS: usize = 64;

/// How long a trace is kept in the cluster, and how many wait for their end at most.
const KEPT: Duration = Duration::from_secs(300);
const MAX_KEPT: usize = 64;

/// The trace that a browser made or chose last.
#[derive(Clone, Debug)]
struct Chosen {
    client: Client,
    name: String,
    spec: Value,
}

/// What Octant says of the browser.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Client {
    #[serde(rename = "clientID")]
    id: String,
    #[serde(rename = "contextName")]
    context: String,
}

/// The plugin's pages.
pub(crate) struct Pages {
    octant: Mutex<Option<Octant>>,
    chosen: Mutex<VecDeque<Chosen>>,
    expiring: mpsc::Sender<(Octant, String)>,
}

impl Pages {
    /// Pages of a plugin that has not been registered. What they made is deleted until `end`.
    pub(crate) fn new(end: CancellationToken) -> Self {
        let (expiring, expired) = mpsc::channel(MAX_KEPT);
        tokio::spawn(end.run_until_cancelled_owned(later(KEPT, expired, delete)));
        Self { octant: Mutex::new(None), chosen: Mutex::default(), expiring }
    }

    fn octant(&self) -> Result<Octant, OctantError> {
        self.octant.lock().clone().ok_or(OctantError::NotRegistered)
    }

    fn chosen(&self, client: &Client) -> Option<Chosen> {
        self.chosen.lock().iter().find(|one| one.client == *client).cloned()
    }

    fn choose(&self, client: Client, name: String, spec: Value) {
        let mut all = self.chosen.lock();
        all.retain(|one| one.client != client);
        if all.len() >= MAX_CLIENTS {
            all.pop_front();
        }
        all.push_back(Chosen { client, name, spec });
    }

    async fn page(&self, page: Page, client: &Client) -> Value {
        let view = async || cluster::view(self.octant(), Timestamp::now()).await;
        let traces = async || cluster::traces(self.octant()).await;
        match page {
            Page::Overview => {
                let (view, traces) = tokio::join!(view(), traces());
                pages::overview(&view, &traces)
            }
            Page::Controller => pages::controller(&view().await),
            Page::Agents => pages::agents(&view().await),
            Page::Traceflow => {
                let chosen = self.chosen(client).map(|one| one.name);
                pages::traceflow(&traces().await, chosen.as_deref())
            }
        }
    }

    /// Does it; what to tell the user.
    async fn act(&self, octant: &Octant, client: Client, action: Action) -> Result<String, ActError> {
        let spec = match action {
            Action::Create(spec) => *spec,
            Action::Again => self.chosen(&client).ok_or(ActError::NoTrace)?.spec,
            Action::Show(name) => {
                let spec = find(octant, &name).await?;
                let text = format!("The path of {name} is shown.");
                self.choose(client, name, spec);
                return Ok(text);
            }
        };
        let slot = self.expiring.try_reserve().map_err(|_| ActError::TooMany)?;
        let name = actions::trace_name(&spec, Timestamp::now());
        let object = json!({"apiVersion": TRACEFLOW.api_version, "kind": TRACEFLOW.kind,
            "metadata": {"name": name}, "spec": spec});
        octant.create(&object).await?;
        slot.send((octant.clone(), name.clone()));
        let text = format!("Traceflow {name} was created.");
        self.choose(client, name, spec);
        Ok(text)
    }

    /// The agent on a Node.
    async fn agent(&self, request: &ObjectRequest) -> Result<Option<AgentRow>, Status> {
        let node: Object = serde_json::from_slice(&request.object)
            .map_err(|error| Status::invalid_argument(format!("object: {error}")))?;
        if node.kind != "Node" {
            return Ok(None);
        }
        let view = cluster::view(self.octant(), Timestamp::now()).await;
        if let (true, Some(problem)) = (view.data.agents.is_empty(), view.problems.first()) {
            return Err(Status::unavailable(problem.clone()));
        }
        Ok(view.data.agents.into_iter().find(|row| row.name == node.metadata.name))
    }
}

#[derive(Deserialize)]
struct Object {
    kind: String,
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

/// Why an action was not done.
#[derive(Debug, thiserror::Error)]
enum ActError {
    #[error(transparent)]
    Form(#[from] ActionError),
    #[error("there is no trace to run again: start one, or choose one by Generate Trace Graph")]
    NoTrace,
    #[error("there is no trace {0}; traces are deleted after five minutes")]
    Gone(String),
    #[error("{MAX_KEPT} traces of the last five minutes are enough for now")]
    TooMany,
    #[error(transparent)]
    Octant(#[from] OctantError),
}

/// The specification of a trace.
async fn find(octant: &Octant, name: &str) -> Result<Value, ActError> {
    let list = octant.list(TRACEFLOW).await?;
    let objects = list.iter().filter_map(|object| serde_json::from_slice::<Value>(object).ok());
    let found = objects.into_iter().find(|object| object["metadata"]["name"] == name);
    found.map(|mut object| object["spec"].take()).ok_or_else(|| ActError::Gone(name.to_owned()))
}

/// Does `then` with what arrives, each `kept` later. All wait for the same time, so the first is always due first.
async fn later<T>(kept: Duration, mut arriving: mpsc::Receiver<T>, then: impl AsyncFn(T)) {
    let mut waiting: VecDeque<(Instant, T)> = VecDeque::new();
    loop {
        let due = waiting.front().map(|(due, _)| *due);
        tokio::select! {
            one = arriving.recv(), if waiting.len() < MAX_KEPT => {
                let Some(one) = one else { return };
                waiting.push_back((Instant::now() + kept, one));
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                if let Some((_, one)) = waiting.pop_front() {
                    then(one).await;
                }
            }
        }
    }
}

async fn delete((octant, name): (Octant, String)) {
    if let Err(error) = octant.delete(TRACEFLOW, &name).await {
        log("info", &format!("Traceflow {name} was not deleted: {error}"));
    }
}

fn client(state: &[u8]) -> Result<Client, Status> {
    if state.is_empty() {
        return Ok(Client::default());
    }
    serde_json::from_slice(state).map_err(|error| Status::invalid_argument(format!("client_state: {error}")))
}

fn bytes(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

#[tonic::async_trait]
impl Plugin for Pages {
    async fn register(
        &self,
        request: Request<RegisterRequest>,
    ) -> Result<Response<RegisterResponse>, Status> {
        let octant = Octant::at(&request.get_ref().dashboard_api_address)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        *self.octant.lock() = Some(octant);
        let node = || {
            let [group, version, kind] = ["", "v1", "Node"].map(str::to_owned);
            vec![GroupVersionKind { group, version, kind }]
        };
        Ok(Response::new(RegisterResponse {
            plugin_name: NAME.to_owned(),
            description: format!(
                "Antrea: health, run-time information, Traceflow; {}",
                env!("CARGO_PKG_VERSION")
            ),
            capabilities: Some(Capabilities {
                supports_printer_status: node(),
                supports_object_status: node(),
                supports_tab: node(),
                is_module: true,
                action_names: actions::NAMES.map(str::to_owned).to_vec(),
                ..Capabilities::default()
            }),
        }))
    }

    async fn navigation(
        &self,
        request: Request<NavigationRequest>,
    ) -> Result<Response<NavigationResponse>, Status> {
        client(&request.get_ref().client_state)?;
        Ok(Response::new(NavigationResponse { navigation: Some(pages::navigation()) }))
    }

    async fn content(&self, request: Request<ContentRequest>) -> Result<Response<ContentResponse>, Status> {
        let request = request.get_ref();
        let client = client(&request.client_state)?;
        let page = Page::at(&request.path).ok_or_else(|| {
            let path: String = request.path.chars().take(200).collect();
            Status::not_found(format!("{NAME} has no page {path:?}"))
        })?;
        let content = self.page(page, &client).await;
        Ok(Response::new(ContentResponse { content_response: bytes(&content) }))
    }

    async fn handle_action(
        &self,
        request: Request<HandleActionRequest>,
    ) -> Result<Response<HandleActionResponse>, Status> {
        let request = request.get_ref();
        let client = client(&request.client_state)?;
        let octant = self.octant().map_err(|error| Status::failed_precondition(error.to_string()))?;
        let id = client.id.clone();
        let done = match actions::read(&request.action_name, &request.payload) {
            Ok(action) => self.act(&octant, client, action).await,
            Err(error) => Err(error.into()),
        };
        let (severity, text) = match &done {
            Ok(text) => (Severity::Success, text.clone()),
            Err(error) => (Severity::Error, format!("{}: {error}", request.action_name)),
        };
        // Who asked is told; where that fails, Octant's log is what is left.
        match (octant.alert(&id, severity, &text).await, done) {
            (Ok(()), _) | (Err(_), Ok(_)) => Ok(Response::new(HandleActionResponse {})),
            (Err(_), Err(ActError::Form(_))) => Err(Status::invalid_argument(text)),
            (Err(_), Err(_)) => Err(Status::unavailable(text)),
        }
    }

    async fn print(&self, request: Request<ObjectRequest>) -> Result<Response<PrintResponse>, Status> {
        let row = self.agent(request.get_ref()).await?;
        let status = row.as_ref().map(|row| {
            let (header, component) = pages::node_status(row);
            SummaryItem { header: header.to_owned(), component: bytes(&component) }
        });
        Ok(Response::new(PrintResponse { status: status.into_iter().collect(), ..PrintResponse::default() }))
    }

    async fn object_status(
        &self,
        request: Request<ObjectRequest>,
    ) -> Result<Response<ObjectStatusResponse>, Status> {
        let row = self.agent(request.get_ref()).await?;
        let status = row.as_ref().map_or_else(|| json!({}), pages::object_status);
        Ok(Response::new(ObjectStatusResponse { object_status: bytes(&status) }))
    }

    async fn print_tabs(
        &self,
        request: Request<ObjectRequest>,
    ) -> Result<Response<PrintTabResponse>, Status> {
        let row = self.agent(request.get_ref()).await?;
        let tab = row
            .as_ref()
            .map(|row| PrintTab { name: "Antrea".to_owned(), layout: bytes(&pages::agent_tab(row)) });
        Ok(Response::new(PrintTabResponse { tabs: tab.into_iter().collect() }))
    }

    // Octant tells of objects whether or not they matter to a plugin; each page is made of what is there.
    async fn watch_add(&self, _: Request<WatchRequest>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn watch_update(&self, _: Request<WatchRequest>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn watch_delete(&self, _: Request<WatchRequest>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn traces_end_in_order_and_in_time() {
        let (made, arriving) = mpsc::channel(4);
        let ended = Mutex::new(Vec::new());
        let kept = Duration::from_millis(200);
        let begun = Instant::now();
        let work = later(kept, arriving, async |name| ended.lock().push((name, begun.elapsed())));
        let traces = async {
            for name in ["first", "second"] {
                made.send(name).await.unwrap();
            }
            tokio::time::sleep(kept / 2).await;
            assert!(ended.lock().is_empty());
            tokio::time::sleep(kept).await;
            drop(made);
        };
        tokio::join!(work, traces);
        let ended = ended.into_inner();
        assert_eq!(ended.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["first", "second"]);
        assert!(ended.iter().all(|(_, after)| *after >= kept), "{ended:?}");
    }
}
