//! The verbs against servers in this process.

use apiserver_kit::auth::local_token;
use clap::Parser;
use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    cli::{Args, command},
    connect::Place,
    get, told,
};

mod servers;

pub(crate) use servers::{Cluster, Fixture, NARROW, agent_info};
use servers::{certificate, policies};

#[test]
fn only_what_works_is_listed_and_the_unknown_is_refused() {
    command(Place::Elsewhere).debug_assert();
    for words in
        ["get np -n shop -o yaml", "get atg x -k f", "get ag", "get ci", "get ai n1", "log-level debug"]
    {
        Args::try_parse_from(["antctl"].into_iter().chain(words.split(' '))).unwrap();
    }
    for words in
        ["traceflow -S a -D b -f tcp,tcp_dst=80 -o json -t 10s", "tf -D b --live-traffic --dropped-only"]
    {
        Args::try_parse_from(["antctl"].into_iter().chain(words.split(' '))).unwrap();
    }
    for words in [
        "get pi --node n1",
        "get --node n1 of -T 0",
        "tp --node n1 -S a",
        "log-level 4 --nodes n1,n2",
        "proxy --controller --port 0",
        "proxy --agent-node n1 --address ::1",
        "supportbundle n1 *worker* -d x --since 1h",
        "supportbundle -l a=b",
        "packetcapture -S a -D shop/b -f tcp,tcp_dst=80 -n 5 -t 10s --nowait -o /tmp -p Source -d Both",
        "explain shop/web svc/shop/db --port http --protocol udp -o json",
    ] {
        Args::try_parse_from(["antctl"].into_iter().chain(words.split(' '))).unwrap();
    }
    for words in ["get ag -v", "-v version", "version -t 10s", "version -t 2m", "version --timeout 500ms"] {
        Args::try_parse_from(["antctl"].into_iter().chain(words.split(' '))).unwrap();
    }
    for words in ["version -t 0", "version -t 1d", "version -t -1s", "version -t s"] {
        assert!(Args::try_parse_from(["antctl"].into_iter().chain(words.split(' '))).is_err(), "{words}");
    }
    for words in [
        "supportbundle --controller-only n1",
        "proxy",
        "proxy --controller --agent-node n1",
        "proxy --controller --address here",
        "get egress",
        "get ovsflows -p web",
        "get ovsflows -T 0 -G 1",
        "get np -o xml",
        "get ag -n shop",
        "version -t 0",
        "get",
        "",
    ] {
        let line = ["antctl"].into_iter().chain(words.split_whitespace());
        assert!(Args::try_parse_from(line).is_err(), "{words}");
    }
    let listed = |place| {
        let mut command = command(place);
        let get = command.find_subcommand_mut("get").unwrap().render_help().to_string();
        let get_lists = |name: &str| get.contains(&format!("\n  {name} "));
        ["controllerinfo", "podinterface", "ovsflows", "featuregates", "networkpolicy"].map(get_lists)
    };
    assert_eq!(listed(Place::Elsewhere), [true; 5]);
    assert_eq!(listed(Place::Agent), [false, true, true, true, true]);
    assert_eq!(listed(Place::Controller), [true, false, false, true, true]);
    for place in [Place::Elsewhere, Place::Agent, Place::Controller] {
        let verbs = command(place).render_help().to_string();
        for verb in ["proxy", "check", "explain", "packetcapture", "top"] {
            assert_eq!(verbs.contains(&format!("\n  {verb} ")), place == Place::Elsewhere, "{verbs}");
        }
        for name in ["get", "log-level"] {
            let help = command(place).find_subcommand_mut(name).unwrap().render_help().to_string();
            assert_eq!(help.contains("--node"), place == Place::Elsewhere, "{help}");
        }
    }
}

/// As scripts for upstream's antctl expect it.
#[test]
fn help_is_success_and_anything_wrong_is_one() {
    for (words, code) in [
        ("", 0),
        ("get", 0),
        ("help", 0),
        ("get --help", 0),
        ("--version", 0),
        ("explain --help", 0),
        ("supportbundle -l", 1),
        ("get egress", 1),
        ("get np -o xml", 1),
        ("version --nonsense", 1),
        // There 1 means that policy denies.
        ("explain a b --protocol gre", 2),
    ] {
        let line = ["antctl"].into_iter().chain(words.split_whitespace()).map(Into::into);
        let ended = crate::cli::parse(Place::Elsewhere, line).unwrap_err();
        assert_eq!(ended.code, code, "{words}: {}", ended.text);
        assert!(!ended.text.is_empty());
    }
}

#[test]
fn causes_are_told_once() {
    let error = anyhow::anyhow!("refused").context("connect: refused").context("GET /x");
    assert_eq!(told(&error), "GET /x: connect: refused");
}

#[test]
fn a_heart_that_stopped_is_not_healthy() {
    let now: Timestamp = "2026-01-01T00:10:00Z".parse().unwrap();
    let at = |text: &str| Time(text.parse().unwrap());
    let shown = |status, time: &Time| get::shown_health(Some((status, Some(time))), now).join(" ");
    assert_eq!(shown("True", &at("2026-01-01T00:09:55Z")), "Healthy 5s");
    assert_eq!(shown("False", &at("2026-01-01T00:07:30Z")), "Unhealthy 2m");
    assert_eq!(shown("True", &at("2026-01-01T00:06:59Z")), "Unknown 3m");
    assert_eq!(shown("True", &at("2025-12-29T00:00:00Z")), "Unknown 3d");
    assert_eq!(get::shown_health(None, now), ["Unknown", ""]);
}

#[tokio::test]
async fn agents_and_their_absence_through_the_api_server() {
    let now = Timestamp::now();
    let agents = vec![agent_info("n2", now, 0, ""), agent_info("n1", Timestamp::UNIX_EPOCH, 0, "")];
    let fixture = Fixture::new(Cluster { agents, ..Cluster::default() }).await;
    let text = fixture.run(Place::Elsewhere, "antctl get agentinfo").await.unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!(lines[1][..3], ["antrea-agent-n1", "n1", "Unknown"]);
    assert_eq!(lines[2][..3], ["antrea-agent-n2", "n2", "Healthy"]);
    assert_eq!(lines[2][4..], ["10.10.0.0/24", "2", "0", "0", "3", "0.1.0"]);
    let own = fixture.run(Place::Agent, "antctl get agentinfo -o raw").await.unwrap();
    assert_eq!(serde_json::from_str::<Value>(&own).unwrap()["metadata"]["name"], "n1");
    let version = fixture.run(Place::Agent, "antctl version -o raw").await.unwrap();
    assert_eq!(version, "{\"agentVersion\":\"0.1.0\",\"antctlVersion\":\"0.1.0\"}\n");
    let text = fixture.run(Place::Elsewhere, "antctl get controllerinfo").await.unwrap();
    let row: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[..3].join(" "), row[4..].join(" ")), ("- n1 Unhealthy".into(), "2 4 3 5 v0.1.0".into()));
    let version = fixture.run(Place::Controller, "antctl version").await.unwrap();
    assert!(version.ends_with("\ncontroller   0.1.0\n"), "{version}");
    assert!(fixture.fails(Place::Agent, "antctl get controllerinfo").await.contains("not for agents"));
    let error = fixture.fails(Place::Elsewhere, "antctl get agentinfo n9").await;
    assert!(error.starts_with("AntreaAgentInfo n9: ") && error.contains("Antrea installed?"), "{error}");
    let error = fixture.fails(Place::Elsewhere, "antctl get np").await;
    assert!(error.contains("/networkpolicies: ") && error.contains("kubectl get apiservice"), "{error}");
    for line in ["antctl get podinterface", "antctl get ovsflows", "antctl trace-packet -S 10.0.0.1"] {
        let error = fixture.fails(Place::Elsewhere, line).await;
        assert!(error.contains("--node") && error.contains("container"), "{line}: {error}");
    }
}

#[tokio::test]
async fn computed_objects_are_filtered() {
    let computed = Some(
        (|plural: &str, query| match (plural, query.as_deref()) {
            ("networkpolicies", None) => policies(),
            _ => {
                let member =
                    |n| json!({"pod": {"name": format!("p{n}"), "namespace": "shop"}, "ips": ["CgoABQ=="]});
                json!({"items": [{"metadata": {"name": "g1"}, "groupMembers": [member(1), member(2)]}]})
            }
        }) as fn(&str, Option<String>) -> Value,
    );
    let fixture = Fixture::new(Cluster { computed, ..Cluster::default() }).await;
    let text = fixture.run(Place::Elsewhere, "antctl get np").await.unwrap();
    let names: Vec<&str> = text.lines().skip(1).map(|line| &line[..2]).collect();
    assert_eq!(names, ["u1", "u3", "u2"], "{text}");
    let text = fixture.run(Place::Elsewhere, "antctl get np deny -n shop").await.unwrap();
    let lines: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines, [["u2", "K8sNetworkPolicy:shop/deny", "1", "1", "-", "-"]], "{text}");
    let error = fixture.fails(Place::Elsewhere, "antctl get np deny -n nowhere").await;
    assert_eq!(error, "no computed NetworkPolicy is named \"deny\" in the Namespace \"nowhere\"");
    let text = fixture.run(Place::Elsewhere, "antctl get ag").await.unwrap();
    assert!(text.ends_with("g1     2         shop/p1,shop/p2   10.10.0.5,10.10.0.5\n"), "{text}");
    let text = fixture.run(Place::Elsewhere, "antctl get atg g1 -o json").await.unwrap();
    let groups: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(groups[0]["groupMembers"][1]["pod"]["name"], "p2");
    assert!(fixture.fails(Place::Elsewhere, "antctl get atg g2").await.contains("g2"));
}

#[tokio::test]
async fn the_agents_local_token_opens_its_api() {
    let fixture = Fixture::new(Cluster::default()).await;
    let error = fixture.fails(Place::Agent, "antctl get podinterface").await;
    assert!(error.contains("token") && error.contains("antrea-agent running"), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let clients = fixture.clients(Place::Agent);
    std::fs::write(&clients.environment.configuration, format!("apiPort: {port}\n")).unwrap();
    let token = local_token(&clients.environment.token).unwrap();
    fixture.component(certificate(), listener, Some(&token)).await;
    let text = fixture.run(Place::Agent, "antctl get podinterface").await.unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[1], ["shop", "db", "db-1a2b", "10.10.0.4", "0a:00:00:00:00:01", "7", "0123456789ab"]);
    assert_eq!((lines.len(), lines[2][1]), (3, "web"));
    let text = fixture.run(Place::Agent, "antctl get podinterface web -n shop").await.unwrap();
    assert!(text.contains("web-1a2b") && !text.contains("db-1a2b"), "{text}");
    assert!(fixture.fails(Place::Agent, "antctl get podinterface nobody").await.contains("\"nobody\""));
    for (words, asked) in [
        ("get of", "FLOW\n-\n"),
        ("get ovsflows -p web -n shop", "FLOW\npod=web&namespace=shop\n"),
        ("get ovsflows -T Classifier,0", "FLOW\ntable=Classifier%2C0\n"),
        ("get ovsflows -G all", "GROUP\ngroups=all\n"),
        ("get ovsflows --table-names-only", "TABLE\ntable-names-only\n"),
        (
            "tp -S shop/web -D 10.0.0.1 -f tcp,tcp_dst=80",
            "Flow: source=shop%2Fweb&destination=10.0.0.1&flow=tcp%2Ctcp_dst%3D80\n",
        ),
        ("trace-packet -p a-1b -F 6 -o raw", "{\"result\":\"Flow: port=a-1b&addressFamily=6\\n\"}\n"),
    ] {
        assert_eq!(fixture.run(Place::Agent, &format!("antctl {words}")).await.unwrap(), asked);
    }
    assert!(fixture.fails(Place::Agent, "antctl trace-packet").await.contains("--source"));
}

#[tokio::test]
async fn the_controllers_local_token_opens_its_api() {
    let fixture = Fixture::new(Cluster::default()).await;
    let error = fixture.fails(Place::Controller, "antctl log-level").await;
    assert!(error.contains("token") && error.contains("antrea-controller running"), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let clients = fixture.clients(Place::Controller);
    std::fs::write(&clients.environment.configuration, format!("apiPort: {port}\nselfSignedCert: true\n"))
        .unwrap();
    let token = local_token(&clients.environment.token).unwrap();
    fixture.component(certificate(), listener, Some(&token)).await;

    assert_eq!(fixture.run(Place::Controller, "antctl log-level").await.unwrap(), "0\n");
    let set = fixture.run(Place::Controller, "antctl log-level info,antrea=debug").await.unwrap();
    assert_eq!(set, "level=info%2Cantrea%3Ddebug\n");
    let gates = fixture.run(Place::Controller, "antctl get featuregates").await.unwrap();
    assert!(gates.ends_with("controller   Egress        Disabled   BETA\n"), "{gates}");
    let yaml = fixture.run(Place::Controller, "antctl get np allow -o yaml").await.unwrap();
    assert!(yaml.contains("cidr: 10.10.0.0/16"), "{yaml}");
    local_token(&clients.environment.token).unwrap();
    let error = fixture.fails(Place::Controller, "antctl log-level").await;
    assert!(error.contains("Unauthorized") && error.contains("restarted"), "{error}");
}
