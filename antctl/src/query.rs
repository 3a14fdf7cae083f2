//! `antctl query`: what policies have to do with a Pod, and which rule decides between two.

use antrea_api::{
    controlplane::{
        API_VERSION, NetworkPolicyReference, ObjectReference,
        evaluation::{Entity, EvaluationRequest, NetworkPolicyEvaluation},
    },
    endpoint::{self, Endpoint, Found},
    k8s::Object as _,
};
use anyhow::{Context, bail};
use clap::Subcommand;
use http::Method;
use serde_json::Value;

use crate::{
    cli::Format,
    connect::{Clients, Place},
    get::escape,
    output::Output,
};

/// What is asked, and how the answer looks.
#[derive(Debug, clap::Args)]
pub(crate) struct Query {
    /// Which question.
    #[command(subcommand)]
    question: Question,
    /// Output form.
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// A question.
#[derive(Debug, Subcommand)]
#[command(rename_all = "lower")]
enum Question {
    /// Policies that apply to a Pod, and rules that name it on their other side.
    Endpoint {
        /// Name of the Pod.
        #[arg(long, short)]
        pod: String,
        /// Its Namespace.
        #[arg(long, short, default_value = "default")]
        namespace: String,
    },
    /// Which rule of which policy decides about what one Pod sends to another, whatever the port.
    #[command(visible_alias = "netpoleval")]
    NetworkPolicyEvaluation {
        /// Who sends: namespace/name of a Pod.
        #[arg(long, short = 'S')]
        source: String,
        /// To whom: namespace/name of a Pod.
        #[arg(long, short = 'D')]
        destination: String,
    },
}

/// Asks and returns what is to be printed.
pub(crate) async fn run(clients: &Clients, query: &Query) -> anyhow::Result<String> {
    if clients.place() == Place::Agent {
        bail!(
            "query is answered by antrea-controller: run antctl in its container or outside of the cluster"
        );
    }
    match &query.question {
        Question::Endpoint { pod, namespace } => found(clients, namespace, pod, query.output).await,
        Question::NetworkPolicyEvaluation { source, destination } => {
            evaluation(clients, source, destination).await?.render(query.output)
        }
    }
}

async fn found(clients: &Clients, namespace: &str, pod: &str, format: Format) -> anyhow::Result<String> {
    let path = format!("{}?namespace={}&pod={}", endpoint::PATH, escape(namespace), escape(pod));
    let answer = clients.controller().await?.ask(Method::GET, &path).await?;
    let value: Value = serde_json::from_str(&answer).with_context(|| format!("answer to {path}"))?;
    if format != Format::Table {
        return Output { columns: &[], rows: Vec::new(), value }.render(format);
    }
    let found: Found = serde_json::from_value(value).with_context(|| format!("answer to {path}"))?;
    Ok(found.endpoints.iter().map(sections).collect())
}

/// As upstream lays it out.
fn sections(found: &Endpoint) -> String {
    let policy = |policy: &NetworkPolicyReference| {
        vec![policy.name.clone(), policy.namespace.clone(), policy.uid.clone()]
    };
    let rules = |rules: &[endpoint::Rule]| -> Vec<Vec<String>> {
        let row = |rule: &endpoint::Rule| {
            let [name, namespace, uid] =
                [&rule.policy.name, &rule.policy.namespace, &rule.policy.uid].map(String::clone);
            vec![name, namespace, rule.index.to_string(), uid]
        };
        rules.iter().map(row).collect()
    };
    let of_rules: &[&str] = &["Name", "Namespace", "Index", "UID"];
    let sections = [
        (
            "Applied Policies on Endpoint:",
            &["Name", "Namespace", "UID"][..],
            found.policies.iter().map(policy).collect(),
        ),
        (
            "Egress Rules Referencing Endpoint as Destination:",
            of_rules,
            rules(&found.egress_destination_rules),
        ),
        ("Ingress Rules Referencing Endpoint as Source:", of_rules, rules(&found.ingress_source_rules)),
    ];
    let mut text = format!("Endpoint {}/{}\n", found.namespace, found.name);
    for (title, columns, mut rows) in sections {
        rows.sort();
        text.push_str(title);
        text.push_str(if rows.is_empty() { " None\n" } else { "\n" });
        if !rows.is_empty() {
            text.push_str(&narrow(columns, &rows));
        }
        text.push('\n');
    }
    text
}

/// A table with one space between columns.
fn narrow(columns: &[&str], rows: &[Vec<String>]) -> String {
    let shown = |cell: &str| if cell.is_empty() { "<NONE>".to_owned() } else { cell.to_owned() };
    let header = columns.iter().map(ToString::to_string).collect::<Vec<_>>();
    let lines: Vec<Vec<String>> =
        [&header].into_iter().chain(rows).map(|row| row.iter().map(|cell| shown(cell)).collect()).collect();
    let width = |at: usize| lines.iter().filter_map(|line| Some(line.get(at)?.chars().count())).max();
    let widths: Vec<usize> = (0..columns.len()).map(|at| width(at).unwrap_or_default()).collect();
    let line = |cells: &Vec<String>| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", padded.join(" ").trim_end())
    };
    lines.iter().map(line).collect()
}

async fn evaluation(clients: &Clients, source: &str, destination: &str) -> anyhow::Result<Output> {
    let request = EvaluationRequest {
        source: entity("--source", source)?,
        destination: entity("--destination", destination)?,
    };
    let asked = NetworkPolicyEvaluation { request: Some(request), response: None };
    let mut body = serde_json::to_value(&asked)?;
    body["kind"] = NetworkPolicyEvaluation::KIND.into();
    body["apiVersion"] = API_VERSION.into();
    let path = format!("/apis/{API_VERSION}/networkpolicyevaluation");
    let server =
        if clients.place() == Place::Controller { clients.local().await? } else { clients.cluster().await? };
    let answer = server.send(Method::POST, &path, body.to_string().into_bytes()).await?;
    let value: Value = serde_json::from_str(&answer).with_context(|| format!("answer to {path}"))?;
    let decided: NetworkPolicyEvaluation =
        serde_json::from_value(value.clone()).with_context(|| format!("answer to {path}"))?;
    let row = decided.response.map(|decided| {
        let policy = decided.network_policy;
        let index = decided.rule_index.to_string();
        vec![policy.name, policy.namespace, policy.type_, index, decided.rule.direction]
    });
    let columns = &["NAME", "NAMESPACE", "POLICY-TYPE", "RULE-INDEX", "DIRECTION"];
    let rows = vec![row.unwrap_or_else(|| vec![String::new(); columns.len()])];
    Ok(Output { columns, rows, value })
}

/// A Pod by namespace and name; without the former in `default`.
fn entity(argument: &str, text: &str) -> anyhow::Result<Entity> {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        bail!("{argument}: {text:?} is no namespace/name of a Pod");
    }
    let pod = ObjectReference { name: name.to_owned(), namespace: namespace.to_owned() };
    Ok(Entity { pod: Some(pod) })
}

#[cfg(test)]
mod tests {
    use apiserver_kit::cert::ServingCert;
    use axum::{Json, Router, extract::RawQuery, routing::get};
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;
    use crate::tests::{Cluster, Fixture};

    fn reference(name: &str, namespace: &str) -> NetworkPolicyReference {
        NetworkPolicyReference {
            type_: "K8sNetworkPolicy".into(),
            namespace: namespace.into(),
            name: name.into(),
            uid: format!("uid-{name}"),
        }
    }

    #[test]
    fn sections_are_upstreams() {
        let rule = |name: &str, index| endpoint::Rule {
            policy: reference(name, ""),
            direction: "Out".into(),
            index,
        };
        let mut found = Endpoint {
            namespace: "shop".into(),
            name: "db".into(),
            policies: vec![reference("b", "shop"), reference("allow-web", "shop")],
            egress_destination_rules: vec![rule("cluster", 2)],
            ..Endpoint::default()
        };
        assert_eq!(
            sections(&found),
            "Endpoint shop/db\n\
             Applied Policies on Endpoint:\n\
             Name      Namespace UID\n\
             allow-web shop      uid-allow-web\n\
             b         shop      uid-b\n\
             \n\
             Egress Rules Referencing Endpoint as Destination:\n\
             Name    Namespace Index UID\n\
             cluster <NONE>    2     uid-cluster\n\
             \n\
             Ingress Rules Referencing Endpoint as Source: None\n\
             \n"
        );
        found.policies.clear();
        assert!(sections(&found).contains("Applied Policies on Endpoint: None\n\n"));
    }

    #[test]
    fn ends_are_pods() {
        let named = |text: &str| entity("--source", text).map(|end| end.pod.unwrap_or_default());
        assert_eq!(named("shop/web").unwrap().namespace, "shop");
        assert_eq!(named("web").unwrap().namespace, "default");
        for wrong in ["", "/", "shop/", "/web", "a/b/c"] {
            assert!(named(wrong).unwrap_err().to_string().starts_with("--source: "), "{wrong}");
        }
    }

    const EVALUATION: &str = "POST /apis/controlplane.antrea.io/v1beta2/networkpolicyevaluation";

    #[tokio::test]
    async fn the_rule_that_decides_is_a_row() {
        let response = json!({
            "networkPolicy": {"type": "K8sNetworkPolicy", "namespace": "shop", "name": "deny", "uid": "u"},
            "ruleIndex": -1, "rule": {"direction": "In"},
        });
        let answers = [(EVALUATION.to_owned(), json!({"response": response}))].into();
        let fixture = Fixture::new(Cluster { answers, ..Cluster::default() }).await;
        let line = "antctl query networkpolicyevaluation -S shop/web -D shop/db";
        let text = fixture.run(Place::Elsewhere, line).await.unwrap();
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["NAME", "NAMESPACE", "POLICY-TYPE", "RULE-INDEX", "DIRECTION"]);
        assert_eq!(rows[1], ["deny", "shop", "K8sNetworkPolicy", "-1", "In"]);
        let text = fixture.run(Place::Elsewhere, "antctl query netpoleval -S a -D b -o json").await.unwrap();
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["response"], response);
        let error = fixture.fails(Place::Elsewhere, "antctl query netpoleval -S a/b/c -D b").await;
        assert!(error.starts_with("--source: "), "{error}");
        assert!(fixture.fails(Place::Agent, line).await.contains("antrea-controller"));
        let nothing = [(EVALUATION.to_owned(), json!({}))].into();
        let fixture = Fixture::new(Cluster { answers: nothing, ..Cluster::default() }).await;
        let text = fixture.run(Place::Elsewhere, line).await.unwrap();
        assert_eq!(text.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>(), ["-"; 5]);
    }

    /// A cluster whose controller is at `address` of the Node "n1" and verified by `ca`.
    fn cluster(port: u16, ca: &str, allows: bool) -> Cluster {
        let reference = |name: &str| json!({"name": name, "namespace": "kube-system"});
        let info = json!({"metadata": {"name": "antrea-controller"}, "nodeRef": {"name": "n1"},
            "serviceRef": reference("antrea"), "apiPort": port});
        let node = json!({"metadata": {"name": "n1"},
            "status": {"addresses": [{"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "127.0.0.1"}]}});
        let map = json!({"metadata": reference("antrea-ca"), "data": {"ca.crt": ca}});
        let answers = [
            ("/apis/crd.antrea.io/v1beta1/antreacontrollerinfos/antrea-controller", info),
            ("/api/v1/nodes/n1", node),
            ("/api/v1/namespaces/kube-system/configmaps/antrea-ca", map),
        ];
        let answers = answers.map(|(path, answer)| (format!("GET {path}"), answer)).into();
        Cluster { answers, allows, ..Cluster::default() }
    }

    async fn endpoint_of(names: &[String], trusted: bool, allows: bool) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let cert = ServingCert::issue("antrea", names).unwrap();
        let other = ServingCert::issue("antrea", names).unwrap();
        let fixture = Fixture::new(cluster(port, if trusted { &cert.ca } else { &other.ca }, allows)).await;
        let asked = get(async |RawQuery(query): RawQuery| {
            Json(json!({"endpoints": [{"namespace": "shop", "name": query.unwrap_or_default()}]}))
        });
        fixture.serve(cert, listener, None, Router::new().route("/endpoint", asked)).await;
        let done = fixture.run(Place::Elsewhere, "antctl query endpoint -p db -n shop").await;
        done.map_err(|error| crate::told(&error))
    }

    #[tokio::test]
    async fn the_controller_is_asked_at_its_node_and_has_to_prove_itself() {
        let names = ["antrea.kube-system.svc".to_owned()];
        let text = endpoint_of(&names, true, true).await.unwrap();
        assert!(text.starts_with("Endpoint shop/namespace=shop&pod=db\nApplied Policies"), "{text}");
        let error = endpoint_of(&names, false, true).await.unwrap_err();
        assert!(error.contains("antrea-controller does not answer at 127.0.0.1:"), "{error}");
        let error = endpoint_of(&["other.kube-system.svc".to_owned()], true, true).await.unwrap_err();
        assert!(error.contains("antrea-controller does not answer"), "{error}");
        let error = endpoint_of(&names, true, false).await.unwrap_err();
        assert!(error.contains("ask for a role"), "{error}");
    }
}
