//! A stand-in for Octant drives the plugin's own binary: handshake, registration, pages, actions, what goes wrong.

#[path = "octant/host.rs"]
mod host;

use std::time::{Duration, Instant};

use antrea_octant_plugin::proto::{
    dashboard::{
        ContentRequest, HandleActionRequest, NavigationRequest, ObjectRequest, RegisterRequest, WatchRequest,
    },
    health::{HealthCheckRequest, health_client::HealthClient},
    plugin::{
        ConnInfo, Empty, grpc_broker_client::GrpcBrokerClient, grpc_controller_client::GrpcControllerClient,
        grpc_stdio_client::GrpcStdioClient,
    },
};
use anyhow::{Context, Result, ensure};
use host::{Fake, Plugin, agent, controller};
use serde_json::{Value, json};
use tokio::io::AsyncBufReadExt;
use tonic::Code;

fn state(client: &str) -> Vec<u8> {
    json!({"clientID": client, "filters": [], "namespace": "default", "contextName": "here"})
        .to_string()
        .into_bytes()
}

async fn content(plugin: &Plugin, path: &str, client: &str) -> Result<Value> {
    let request = ContentRequest { path: path.to_owned(), client_state: state(client) };
    let answer = plugin.client().content(request).await?.into_inner();
    Ok(serde_json::from_slice(&answer.content_response)?)
}

async fn act(plugin: &Plugin, action: &str, form: Value, client: &str) -> Result<(), tonic::Status> {
    let request = HandleActionRequest {
        action_name: action.to_owned(),
        payload: form.to_string().into_bytes(),
        client_state: state(client),
    };
    plugin.client().handle_action(request).await.map(drop)
}

/// Every component of a page, however deep.
fn components<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    if value["metadata"]["type"].is_string() {
        found.push(value);
    }
    match value {
        Value::Array(list) => list.iter().for_each(|one| components(one, found)),
        Value::Object(map) => map.values().for_each(|one| components(one, found)),
        _ => {}
    }
}

/// The tables of a page by title: number of rows, and the first row's texts by column.
fn table(page: &Value, title: &str) -> Result<(usize, Value)> {
    let mut all = Vec::new();
    components(page, &mut all);
    let table = all
        .into_iter()
        .find(|one| {
            one["metadata"]["type"] == "table"
                && one["metadata"]["title"][0]["config"]["value"]
                    .as_str()
                    .is_some_and(|text| text.starts_with(title))
        })
        .with_context(|| format!("no table {title}: {page}"))?;
    let rows = table["config"]["rows"].as_array().context("rows")?;
    let first = rows.first().cloned().unwrap_or_default();
    let texts = first.as_object().into_iter().flatten().map(|(name, one)| {
        let config = &one["config"];
        (
            name.clone(),
            if config["value"].is_null() { config["timestamp"].clone() } else { config["value"].clone() },
        )
    });
    Ok((rows.len(), Value::Object(texts.collect())))
}

#[test]
fn alone_it_says_what_it_is() -> Result<()> {
    for (cookie, versions, told) in [
        (None, "1", "plugin for Octant"),
        (Some("x"), "1", "plugin for Octant"),
        (Some("dashboard"), "2", "PLUGIN_PROTOCOL_VERSIONS"),
    ] {
        let mut command = std::process::Command::new(host::BINARY);
        command.env_remove("DASHBOARD_PLUGIN").env("PLUGIN_PROTOCOL_VERSIONS", versions);
        if let Some(cookie) = cookie {
            command.env("DASHBOARD_PLUGIN", cookie);
        }
        let output = command.output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1) && output.stdout.is_empty(), "{output:?}");
        ensure!(stderr.contains(told), "{stderr}");
    }
    Ok(())
}

#[tokio::test]
async fn go_plugin_finds_what_it_expects() -> Result<()> {
    let plugin = Plugin::start(&[]).await?;
    let mut health = HealthClient::new(plugin.channel());
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    ensure!(health.check(ask("plugin")).await?.into_inner().status == 1);
    ensure!(health.check(ask("other")).await.is_err_and(|status| status.code() == Code::NotFound));
    ensure!(
        health
            .watch(ask("plugin"))
            .await?
            .into_inner()
            .message()
            .await?
            .is_some_and(|answer| answer.status == 1)
    );

    // The broker's stream stays open for as long as ours; the other way nothing comes.
    let (say, said) = tokio::sync::mpsc::channel(4);
    let mut stream = GrpcBrokerClient::new(plugin.channel())
        .start_stream(tokio_stream::wrappers::ReceiverStream::new(said))
        .await?
        .into_inner();
    say.send(ConnInfo { service_id: 1, network: "unix".into(), address: "/nowhere".into() }).await?;
    ensure!(
        tokio::time::timeout(Duration::from_millis(200), stream.message()).await.is_err(),
        "it stays open"
    );
    drop(say);
    ensure!(
        tokio::time::timeout(Duration::from_secs(5), stream.message()).await??.is_none(),
        "it ends with ours"
    );
    let mut stdio = GrpcStdioClient::new(plugin.channel()).stream_stdio(()).await?.into_inner();
    ensure!(tokio::time::timeout(Duration::from_millis(200), stdio.message()).await.is_err());

    // With a stream open, and asked by another call.
    let begun = Instant::now();
    GrpcControllerClient::new(plugin.channel()).shutdown(Empty {}).await?;
    let (status, folder) = plugin.ended().await?;
    ensure!(
        status.success() && begun.elapsed() < Duration::from_secs(2),
        "{status} after {:?}",
        begun.elapsed()
    );
    ensure!(!folder.exists(), "{} is left", folder.display());
    Ok(())
}

#[tokio::test]
async fn sigint_is_not_for_it_and_sigterm_is() -> Result<()> {
    let plugin = Plugin::start(&[]).await?;
    plugin.signal(nix::sys::signal::Signal::SIGINT)?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    ensure!(HealthClient::new(plugin.channel()).check(HealthCheckRequest::default()).await.is_ok());
    let begun = Instant::now();
    plugin.signal(nix::sys::signal::Signal::SIGTERM)?;
    let (status, folder) = plugin.ended().await?;
    ensure!(status.success() && begun.elapsed() < Duration::from_secs(2) && !folder.exists());
    Ok(())
}

/// Octant that was killed cannot ask for the end.
#[tokio::test]
async fn it_does_not_outlive_its_parent() -> Result<()> {
    let mut shell = tokio::process::Command::new("sh")
        .args(["-c", "\"$0\" & wait", host::BINARY])
        .env("DASHBOARD_PLUGIN", "dashboard")
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = tokio::io::BufReader::new(shell.stdout.take().context("stdout")?).lines();
    let line =
        tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await??.context("no handshake")?;
    let socket = std::path::PathBuf::from(line.split('|').nth(3).context("no address")?);
    ensure!(socket.exists());
    shell.kill().await?;
    // Its stdout ends with it.
    ensure!(tokio::time::timeout(Duration::from_secs(5), lines.next_line()).await??.is_none());
    ensure!(!socket.exists(), "{} is left", socket.display());
    Ok(())
}

#[tokio::test]
async fn pages_show_the_cluster() -> Result<()> {
    let octant = Fake::start()?;
    octant.set("AntreaControllerInfo", vec![controller(30, "True")]);
    octant.set(
        "AntreaAgentInfo",
        vec![
            agent("node2", 30, "True"),
            agent("node1", 600, "True"),
            json!({"metadata": {"name": "bad"}, "localPodNum": "many"}),
        ],
    );
    let plugin = Plugin::start(&[]).await?;
    let registered = plugin.register(&octant.address()).await?;
    ensure!(registered.plugin_name == "antrea-octant-plugin");
    let capabilities = registered.capabilities.context("capabilities")?;
    ensure!(capabilities.is_module && capabilities.action_names.len() == 4, "{capabilities:?}");

    let navigation =
        plugin.client().navigation(NavigationRequest { client_state: state("a") }).await?.into_inner();
    let navigation = navigation.navigation.context("navigation")?;
    let titles: Vec<&str> = navigation.children.iter().map(|child| child.title.as_str()).collect();
    ensure!(
        navigation.title == "Antrea" && titles == ["Overview", "Controller Info", "Agent Info", "Traceflow"]
    );
    for child in &navigation.children {
        let path = child.path.strip_prefix("antrea-octant-plugin").context("paths begin with the name")?;
        let page = content(&plugin, path, "a").await?;
        ensure!(page["title"][0]["config"]["value"] == *child.title, "{page}");
        let mut all = Vec::new();
        components(&page, &mut all);
        ensure!(all.iter().all(|one| one["config"].is_object()), "{page}");
    }

    let overview = content(&plugin, "", "a").await?;
    let (count, row) = table(&overview, "Antrea Controller Info")?;
    ensure!(count == 1 && row["Health"] == "Healthy" && row["Pod"] == "antrea-controller-0", "{row}");
    let (count, row) = table(&overview, "Antrea Agent Info")?;
    ensure!(count == 2 && row["Node"] == "node1", "{row}");
    ensure!(row["Health"].as_str().is_some_and(|text| text.starts_with("Stale: ")), "{row}");
    let text = overview.to_string();
    ensure!(text.contains("AntreaAgentInfo bad: "), "the object that does not decode is named: {text}");
    ensure!(text.contains("graph antrea"), "the network is drawn");
    // What there was before is not kept.
    octant.set("AntreaAgentInfo", Vec::new());
    ensure!(table(&content(&plugin, "/components/agent", "a").await?, "Antrea Agent Info")?.0 == 0);
    Ok(())
}

#[tokio::test]
async fn a_large_cluster_fits_into_a_message() -> Result<()> {
    let octant = Fake::start()?;
    octant.set("AntreaControllerInfo", vec![controller(30, "True")]);
    octant.set(
        "AntreaAgentInfo",
        (0..5_000).map(|number| agent(&format!("node{number:05}"), 30, "True")).collect(),
    );
    let plugin = Plugin::start(&[]).await?;
    plugin.register(&octant.address()).await?;
    let page = content(&plugin, "/components/agent", "a").await?;
    ensure!(table(&page, "Antrea Agent Info (the first 1000 of 5000)")?.0 == 1_000);
    ensure!(page.to_string().len() < 4 << 20, "{}", page.to_string().len());
    Ok(())
}

#[tokio::test]
async fn a_node_tells_of_its_agent() -> Result<()> {
    let octant = Fake::start()?;
    octant.set("AntreaAgentInfo", vec![agent("node1", 30, "False")]);
    let plugin = Plugin::start(&[]).await?;
    plugin.register(&octant.address()).await?;
    let object = |kind: &str, name: &str| ObjectRequest {
        object: json!({"kind": kind, "metadata": {"name": name}}).to_string().into_bytes(),
        client_state: state("a"),
    };
    let mut client = plugin.client();
    let print = client.print(object("Node", "node1")).await?.into_inner();
    ensure!(print.status.len() == 1 && print.status[0].header == "Antrea agent");
    let component: Value = serde_json::from_slice(&print.status[0].component)?;
    ensure!(component["config"]["value"] == "Unhealthy: Broken: by hand", "{component}");
    let tabs = client.print_tabs(object("Node", "node1")).await?.into_inner().tabs;
    let layout: Value = serde_json::from_slice(&tabs[0].layout)?;
    ensure!(layout["metadata"]["type"] == "flexlayout" && table(&layout, "Conditions")?.0 == 1, "{layout}");
    ensure!(table(&layout, "Flow tables")?.0 == 1);
    let status = client.object_status(object("Node", "node1")).await?.into_inner().object_status;
    ensure!(serde_json::from_slice::<Value>(&status)?["status"] == "error");
    // Nodes without an agent, and objects that have none.
    for other in [object("Node", "node9"), object("Pod", "node1")] {
        ensure!(client.print(other.clone()).await?.into_inner().status.is_empty());
        ensure!(client.print_tabs(other.clone()).await?.into_inner().tabs.is_empty());
        ensure!(client.object_status(other).await?.into_inner().object_status == b"{}");
    }
    for bad in ["", "[]", "{\"kind\":1}"] {
        let request = ObjectRequest { object: bad.as_bytes().to_vec(), client_state: Vec::new() };
        let status = client.print(request).await.err().context("accepted")?;
        ensure!(
            status.code() == Code::InvalidArgument && status.message().starts_with("object: "),
            "{status}"
        );
    }
    let watch = WatchRequest { watch_id: "w".into(), object: b"not JSON".to_vec() };
    client.watch_add(watch.clone()).await?;
    client.watch_update(watch.clone()).await?;
    client.watch_delete(watch).await?;
    Ok(())
}

#[tokio::test]
async fn actions_make_and_show_traces() -> Result<()> {
    let octant = Fake::start()?;
    let plugin = Plugin::start(&[]).await?;
    plugin.register(&octant.address()).await?;
    act(&plugin, "traceflow/runTraceAgain", json!({}), "a").await?;
    ensure!(
        octant.last_alert().is_some_and(|(type_, text, client)| type_ == "ERROR"
            && text.contains("no trace")
            && client == "a")
    );
    let form = json!({"action": "traceflow/addTf", "sourceNamespace": "shop", "sourcePod": "web",
        "destinationType": ["Pod"], "destinationNamespace": "shop", "destination": "db", "protocol": ["TCP"], "destinationPort": "5432"});
    act(&plugin, "traceflow/addTf", form.clone(), "a").await?;
    let made = octant.get("Traceflow");
    ensure!(made.len() == 1 && made[0]["apiVersion"] == "crd.antrea.io/v1beta1", "{made:?}");
    let name = made[0]["metadata"]["name"].as_str().context("name")?.to_owned();
    ensure!(name.starts_with("web-db-"), "{name}");
    ensure!(octant.last_alert().is_some_and(|(type_, text, _)| type_ == "SUCCESS" && text.contains(&name)));
    // The browser that made it sees its path, another does not.
    let drawn = |page: &Value| page.to_string().contains("digraph trace");
    ensure!(drawn(&content(&plugin, "/components/traceflow", "a").await?));
    ensure!(!drawn(&content(&plugin, "/components/traceflow", "b").await?));
    act(&plugin, "traceflow/showGraphAction", json!({"name": [name]}), "b").await?;
    ensure!(drawn(&content(&plugin, "/components/traceflow", "b").await?));
    // The name has seconds.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    act(&plugin, "traceflow/runTraceAgain", json!({}), "b").await?;
    let made = octant.get("Traceflow");
    ensure!(made.len() == 2 && made[0]["spec"] == made[1]["spec"], "{made:?}");
    act(
        &plugin,
        "traceflow/addLiveTf",
        json!({"sourceNamespace": "shop", "sourcePod": "web", "timeout": "30"}),
        "a",
    )
    .await?;
    ensure!(octant.get("Traceflow")[2]["spec"]["liveTraffic"] == true);
    // What is refused is told to whoever asked, with the field.
    let mut bad = form;
    bad["destinationPort"] = json!("70000");
    act(&plugin, "traceflow/addTf", bad, "c").await?;
    let (type_, text, client) = octant.last_alert().context("alert")?;
    ensure!(type_ == "ERROR" && text.contains("destinationPort") && client == "c", "{text}");
    octant.refuse_to_create("the server could not find the requested resource");
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    act(&plugin, "traceflow/runTraceAgain", json!({}), "a").await?;
    ensure!(
        octant
            .last_alert()
            .is_some_and(|(type_, text, _)| type_ == "ERROR" && text.contains("could not find"))
    );
    ensure!(octant.get("Traceflow").len() == 3);
    Ok(())
}

#[tokio::test]
async fn bad_input_ends_nothing() -> Result<()> {
    let plugin = Plugin::start(&[]).await?;
    let mut client = plugin.client();
    let early =
        HandleActionRequest { action_name: "traceflow/addTf".into(), ..HandleActionRequest::default() };
    ensure!(client.handle_action(early).await.is_err_and(|status| status.code() == Code::FailedPrecondition));
    ensure!(content(&plugin, "", "a").await?.to_string().contains("not registered"));
    for address in ["", "192.0.2.1:1", "x"] {
        let request = RegisterRequest { dashboard_api_address: address.into() };
        let status = client.register(request).await.err().context("accepted")?;
        ensure!(
            status.code() == Code::InvalidArgument && status.message().contains("dashboardAPIAddress"),
            "{status}"
        );
    }
    let bad_state = ContentRequest { path: String::new(), client_state: b"{".to_vec() };
    let status = client.content(bad_state).await.err().context("accepted")?;
    ensure!(
        status.code() == Code::InvalidArgument && status.message().starts_with("client_state"),
        "{status}"
    );
    let no_page = ContentRequest { path: "/components/none".into(), client_state: Vec::new() };
    ensure!(client.content(no_page).await.is_err_and(|status| status.code() == Code::NotFound));
    let large = ContentRequest { path: "x".repeat(5 << 20), client_state: Vec::new() };
    ensure!(client.content(large).await.is_err_and(|status| status.code() == Code::OutOfRange));

    let octant = Fake::start()?;
    plugin.register(&octant.address()).await?;
    for (action, payload) in [("traceflow/none", "{}"), ("traceflow/addTf", "["), ("traceflow/addTf", "{}")] {
        let request = HandleActionRequest {
            action_name: action.into(),
            payload: payload.as_bytes().to_vec(),
            client_state: state("a"),
        };
        client.handle_action(request).await?;
        ensure!(
            octant.last_alert().is_some_and(|(type_, text, _)| type_ == "ERROR" && text.starts_with(action))
        );
    }
    ensure!(HealthClient::new(plugin.channel()).check(HealthCheckRequest::default()).await.is_ok());
    Ok(())
}

#[tokio::test]
async fn octant_may_go_and_come_back() -> Result<()> {
    let mut octant = Fake::start()?;
    octant.set("AntreaAgentInfo", vec![agent("node1", 30, "True")]);
    let plugin = Plugin::start(&[]).await?;
    plugin.register(&octant.address()).await?;
    ensure!(table(&content(&plugin, "/components/agent", "a").await?, "Antrea Agent Info")?.0 == 1);
    octant.stop().await?;
    let begun = Instant::now();
    let page = content(&plugin, "/components/agent", "a").await?;
    ensure!(page.to_string().contains("Octant does not answer"), "{page}");
    let failed =
        act(&plugin, "traceflow/addTf", json!({}), "a").await.err().context("done without Octant")?;
    ensure!(failed.message().contains("sourceNamespace"), "{failed}");
    ensure!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    octant.start_again()?;
    ensure!(table(&content(&plugin, "/components/agent", "a").await?, "Antrea Agent Info")?.0 == 1);
    Ok(())
}

#[tokio::test]
async fn with_tls_only_the_host_gets_in() -> Result<()> {
    let (mine, stranger) = (host::Identity::new()?, host::Identity::new()?);
    let plugin = Plugin::start(&[("PLUGIN_CLIENT_CERT", &mine.pem)]).await?;
    ensure!(plugin.certificate.len() > 50, "{}", plugin.certificate);
    let channel = plugin.secured(&mine).await?;
    ensure!(HealthClient::new(channel).check(HealthCheckRequest::default()).await.is_ok());
    for refused in [plugin.secured(&stranger).await, plugin.connect().await] {
        let asked = match refused {
            Ok(channel) => HealthClient::new(channel).check(HealthCheckRequest::default()).await.map(drop),
            Err(_) => continue,
        };
        ensure!(asked.is_err(), "let in");
    }
    // Those did not hold it up.
    ensure!(
        HealthClient::new(plugin.secured(&mine).await?).check(HealthCheckRequest::default()).await.is_ok()
    );
    Ok(())
}
