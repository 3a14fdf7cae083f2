use apiserver_kit::tls::ClientTrust;
use axum::{Router, extract::RawQuery, routing::get};
use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::agents::tests::Lab;
use crate::cli::{Args, Verb};
use crate::tests::NARROW;

fn asked(line: &str) -> Capture {
    let words = ["antctl", "packetcapture"].into_iter().chain(line.split_whitespace());
    match Args::try_parse_from(words).unwrap().verb {
        Verb::Packetcapture(capture) => capture,
        other => panic!("{other:?}"),
    }
}

fn json_of(line: &str) -> Value {
    serde_json::to_value(spec(&asked(line), Duration::from_secs(10)).unwrap()).unwrap()
}

#[test]
fn the_spec_of_a_command_line() {
    let way = "SourceToDestination";
    assert_eq!(
        json_of("-S shop/web -D db -f tcp,tcp_dst=80,tcp_flags=+syn-ack -n 5"),
        json!({
            "source": {"pod": {"namespace": "shop", "name": "web"}}, "destination": {"pod": {"name": "db"}},
            "direction": way, "captureConfig": {"firstN": {"number": 5}}, "timeout": 10,
            "packet": {"protocol": "TCP",
                       "transportHeader": {"tcp": {"dstPort": 80, "flags": [{"value": 2, "mask": 18}]}}},
        })
    );
    assert_eq!(
        json_of("-S 192.0.2.1 -D db -d both -p destination -f icmp,icmp_type=icmp-unreach,icmp_code=1"),
        json!({
            "source": {"ip": "192.0.2.1"}, "destination": {"pod": {"name": "db"}}, "direction": "Both",
            "capturePoint": "Destination", "captureConfig": {"firstN": {"number": 1}}, "timeout": 10,
            "packet": {"protocol": "ICMP",
                       "transportHeader": {"icmp": {"messages": [{"type": "icmp-unreach", "code": 1}]}}},
        })
    );
    let more = json_of("-S a -f udp6,udp_src=0x35");
    assert_eq!(
        more["packet"],
        json!({"ipFamily": "IPv6", "protocol": "UDP", "transportHeader": {"udp": {"srcPort": 53}}})
    );
    assert_eq!(json_of("-S a")["packet"], Value::Null);
    assert_eq!(
        json_of("-S a -f icmp,icmp_type=8")["packet"]["transportHeader"]["icmp"]["messages"][0]["type"],
        8
    );
}

#[test]
fn what_is_wrong_is_named() {
    for (line, named) in [
        ("", "--source, --destination"),
        ("-S 192.0.2.1", "--source, --destination"),
        ("-S a -D 192.0.2.1 -p Destination", "--capture-point Destination"),
        ("-S 192.0.2.1 -D a -p Source", "--capture-point Source"),
        ("-S a -f gre", "--flow: gre"),
        ("-S a -f tcp,tcp_dst=x", "--flow: tcp_dst: x"),
        ("-S a -f tcp,tcp_flags=syn", "--flow: tcp_flags: syn"),
        ("-S a -f tcp,tcp_flags=+none", "--flow: tcp_flags: none"),
        ("-S a -f icmp,icmp_code=1", "--flow: icmp_code"),
        ("-S a -f tcp,port=1", "--flow: port"),
    ] {
        let error = spec(&asked(line), Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.starts_with(named), "{line}: {error}");
    }
    let words = ["antctl", "packetcapture", "-S", "a", "-n", "0"];
    assert!(Args::try_parse_from(words).is_err());
}

const CAPTURES: &str = "/apis/crd.antrea.io/v1alpha1/packetcaptures";

/// An agent that has a file, and a capture that ended so.
async fn lab(reason: &str, number: u32) -> Lab {
    let routes = Router::new().route(
        "/packetcaptures",
        get(async |RawQuery(query): RawQuery| format!("packets of {}", query.unwrap_or_default())),
    );
    let condition = |kind: &str, reason: &str| json!({"type": kind, "status": "True", "reason": reason, "message": "so it is"});
    let object = json!({
        "apiVersion": "crd.antrea.io/v1alpha1", "kind": "PacketCapture", "metadata": {"name": "a-to-b-1"},
        "spec": {"captureConfig": {"firstN": {"number": 5}}},
        "status": {"numberCaptured": number, "filePath": "antrea-agent-n1:/tmp/x.pcapng",
                   "conditions": [condition("PacketCaptureStarted", "Started"), condition("PacketCaptureComplete", reason)]},
    });
    let token = Some(NARROW);
    Lab::beside(token, true, ClientTrust::default(), routes, |cluster| {
        for end in ["", "?"] {
            cluster.answers.insert(format!("POST {CAPTURES}{end}"), object.clone());
            cluster.answers.insert(format!("GET {CAPTURES}/a-to-b-1{end}"), object.clone());
            cluster.answers.insert(format!("DELETE {CAPTURES}/a-to-b-1{end}"), object.clone());
        }
    })
    .await
}

#[tokio::test]
async fn the_file_is_fetched_from_the_agent_that_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let line = format!("packetcapture -S a -D b -n 5 -o {}", folder.path().join("deep").display());
    let file = folder.path().join("deep/a-to-b-1.pcapng");
    let told = lab("Succeed", 5).await.run(&line).await;
    assert_eq!(told, format!("{}\n", file.display()));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "packets of name=a-to-b-1");
    std::fs::remove_file(&file).unwrap();
    // Fewer packets than were asked for are there all the same, and it is told.
    let error = lab("Timeout", 2).await.fails(&line).await;
    assert_eq!(error, "PacketCapture a-to-b-1 ended as Timeout with 2 packets: so it is");
    assert!(file.exists());
    std::fs::remove_file(&file).unwrap();
    let error = lab("Failed", 0).await.fails(&line).await;
    assert_eq!(error, "PacketCapture a-to-b-1 ended as Failed with 0 packets: so it is");
    assert!(!file.exists());
    let name = lab("Succeed", 5).await.run("pc -S a --nowait").await;
    assert_eq!(name, "a-to-b-1\n");
}
