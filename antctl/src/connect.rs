//! Who is asked, and with which credentials.

use std::{env, net::SocketAddr, path::PathBuf};

use antrea_runtime::{client, config};
use anyhow::{Context, anyhow, bail};
use http::{Method, Request, header::CONTENT_TYPE};
use kube::{Client, Config};
use serde::{Deserialize, Serialize};

/// Where antctl runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The controller's container.
    Controller,
    /// An agent's container.
    Agent,
    /// Anywhere else.
    Elsewhere,
}

/// What follows from where antctl runs.
#[derive(Debug, Clone)]
pub(crate) struct Environment {
    /// Where that is.
    pub(crate) place: Place,
    /// The Node, empty outside of Antrea's Pods.
    pub(crate) node: String,
    /// Configuration of the component in this container.
    pub(crate) configuration: PathBuf,
    /// The component's token for tools in its Pod.
    pub(crate) token: PathBuf,
}

impl Environment {
    /// From `POD_NAME` and `NODE_NAME`, which Antrea's manifests set.
    pub(crate) fn detect() -> Self {
        let pod = env::var("POD_NAME").unwrap_or_default();
        let (place, file) = match () {
            () if pod.starts_with("antrea-controller") => (Place::Controller, "antrea-controller.conf"),
            () if pod.starts_with("antrea-agent") => (Place::Agent, "antrea-agent.conf"),
            () => (Place::Elsewhere, ""),
        };
        Self {
            place,
            node: env::var("NODE_NAME").unwrap_or_default(),
            configuration: PathBuf::from("/etc/antrea").join(file),
            token: "/var/run/antrea/apiserver/loopback-client-token".into(),
        }
    }
}

/// The keys of a component's configuration that say where servers are.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Configuration {
    client_connection: ClientConnection,
    #[serde(rename = "kubeAPIServerOverride")]
    api_server: String,
    api_port: u16,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct ClientConnection {
    kubeconfig: PathBuf,
}

/// A server that answers requests.
pub(crate) struct Server {
    pub(crate) client: Client,
    /// What it is, for messages.
    pub(crate) kind: Kind,
}

/// What a server is.
pub(crate) enum Kind {
    /// The Kubernetes API server.
    Cluster,
    /// The component in this container.
    Component { name: &'static str, port: u16 },
    /// A component at its Node's address.
    Remote { name: String, address: SocketAddr },
}

/// Makes clients as they are needed.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    /// Where antctl runs.
    pub(crate) environment: Environment,
    pub(crate) kubeconfig: Option<PathBuf>,
}

impl Clients {
    /// Where antctl runs.
    pub(crate) fn place(&self) -> Place {
        self.environment.place
    }

    /// The Node of the agent in this container.
    pub(crate) fn node(&self) -> anyhow::Result<&str> {
        match self.environment.node.as_str() {
            "" => bail!("NODE_NAME is not set in this container, so the agent's Node is unknown"),
            node => Ok(node),
        }
    }

    /// The Kubernetes API server.
    pub(crate) async fn cluster(&self) -> anyhow::Result<Server> {
        let client = Client::try_from(self.cluster_config().await?)?;
        Ok(Server { client, kind: Kind::Cluster })
    }

    /// The component in this container.
    pub(crate) async fn local(&self) -> anyhow::Result<Server> {
        match self.place() {
            Place::Controller => self.component("antrea-controller", 10349),
            Place::Agent => self.component("antrea-agent", 10350),
            Place::Elsewhere => {
                bail!("this works only in a container of Antrea: run antctl there with kubectl exec")
            }
        }
    }

    /// How the Kubernetes API server is reached.
    pub(crate) async fn cluster_config(&self) -> anyhow::Result<Config> {
        let mut found = if self.kubeconfig.is_some() {
            client::config(self.kubeconfig.as_deref(), None).await?
        } else if self.place() == Place::Elsewhere {
            let advice = "no cluster is known: name a kubeconfig with --kubeconfig or KUBECONFIG";
            Config::infer().await.context(advice)?
        } else {
            let configured = self.configuration()?;
            let file = Some(configured.client_connection.kubeconfig).filter(|f| !f.as_os_str().is_empty());
            let server = Some(configured.api_server).filter(|server| !server.is_empty());
            client::config(file.as_deref(), server.as_deref()).await?
        };
        found.default_retry = false;
        Ok(found)
    }

    fn configuration(&self) -> anyhow::Result<Configuration> {
        let path = &self.environment.configuration;
        if path.exists() { Ok(config::load(path)?) } else { Ok(Configuration::default()) }
    }

    fn component(&self, name: &'static str, default_port: u16) -> anyhow::Result<Server> {
        let path = &self.environment.token;
        let token = std::fs::read_to_string(path)
            .with_context(|| format!("token {}: is {name} running here?", path.display()))?;
        let port = match self.configuration()?.api_port {
            0 => default_port,
            port => port,
        };
        let mut config = Config::new(format!("https://127.0.0.1:{port}").parse()?);
        // The token is good for the process that made it and nothing else, and that process holds the
        // port. The CA would have to come from the API server, which this way does without.
        config.accept_invalid_certs = true;
        config.auth_info.token = Some(token.into());
        config.default_retry = false;
        Ok(Server { client: Client::try_from(config)?, kind: Kind::Component { name, port } })
    }
}

impl Server {
    /// The body of the answer to a request without one.
    ///
    /// # Errors
    /// Says who did not answer or refused, and what to do about it.
    pub(crate) async fn ask(&self, method: Method, path: &str) -> anyhow::Result<String> {
        self.send(method, path, Vec::new()).await
    }

    /// The same for a request with a body of JSON.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<String> {
        let what = format!("{method} {path}");
        let mut request = Request::builder().method(method).uri(path);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        self.client.request_text(request.body(body)?).await.map_err(|error| self.explain(&error, &what))
    }

    /// An error of a request for `what`, with what to do.
    pub(crate) fn explain(&self, error: &kube::Error, what: &str) -> anyhow::Error {
        let said = client::describe(error);
        let code = match error {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        };
        let advice = match (&self.kind, code) {
            (Kind::Remote { name, address }, None) => {
                format!(
                    "{name} does not answer at {address}: does it run, and is its Node reachable from here?"
                )
            }
            (Kind::Remote { name, .. }, Some(401)) => format!("{name} does not accept the credentials"),
            (Kind::Cluster, None) => "is the API server reachable from here?".to_owned(),
            (Kind::Cluster, Some(401)) => "the API server does not accept the credentials".to_owned(),
            (Kind::Cluster | Kind::Remote { .. }, Some(403)) => "ask for a role that allows it".to_owned(),
            (Kind::Cluster, Some(404)) => "is the name right, and Antrea installed?".to_owned(),
            (Kind::Cluster, Some(502..=504)) => "the API server does not reach antrea-controller: see \
                 kubectl get apiservice v1beta2.controlplane.antrea.io"
                .to_owned(),
            (Kind::Component { name, port }, None) => {
                format!("{name} does not answer on port {port}: see its log")
            }
            (Kind::Component { name, .. }, Some(401)) => {
                format!("the token is of another {name}: was it restarted just now?")
            }
            _ => String::new(),
        };
        if advice.is_empty() { anyhow!("{what}: {said}") } else { anyhow!("{what}: {said} ({advice})") }
    }
}
