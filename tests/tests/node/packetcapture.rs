//! PacketCapture: the file holds exactly the packets that were asked for, and goes with its object.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use antrea_tests::fake_api::NOBODY;
use antrea_tests::https;
use antrea_tests::lab::{Lab, Pod, eventually, sh, try_in};
use netcfg::Netns;
use serde_json::{Value, json};

const CAPTURES: &str = "apis/crd.antrea.io/v1alpha1/packetcaptures";
const LIMIT: Duration = Duration::from_secs(30);

fn pod(name: &str) -> Value {
    json!({"pod": {"namespace": "default", "name": name}})
}

fn folder(lab: &Lab, index: usize) -> PathBuf {
    lab.nodes[index].dir.join("packets")
}

async fn start_agent(lab: &mut Lab, index: usize) {
    // Each has a folder of its own, as each has a container.
    let folder: &'static str = folder(lab, index).display().to_string().leak();
    lab.agent_args = vec!["--packet-capture-dir", folder];
    lab.start_agent(index);
    lab.wait_ready(index).await;
}

async fn lab(ipv6: bool) -> Lab {
    let mut lab = Lab::without_agents(2, &[("featureGates", json!({"PacketCapture": true}))]).await;
    if ipv6 {
        lab.add_ipv6();
    }
    for index in 0..2 {
        start_agent(&mut lab, index).await;
    }
    lab
}

fn ask(lab: &Lab, name: &str, number: u32, timeout: u32, mut spec: Value) {
    spec["captureConfig"] = json!({"firstN": {"number": number}});
    spec["timeout"] = timeout.into();
    let now = sh("date -u +%Y-%m-%dT%H:%M:%SZ");
    let object = json!({"apiVersion": "crd.antrea.io/v1alpha1", "kind": "PacketCapture",
                        "metadata": {"name": name, "creationTimestamp": now.trim()}, "spec": spec});
    lab.api.put(CAPTURES, object);
}

fn status(lab: &Lab, name: &str) -> Value {
    lab.api.get(CAPTURES, None, name).map(|mut capture| capture["status"].take()).unwrap_or_default()
}

/// Status and reason of a condition.
fn condition(lab: &Lab, name: &str, kind: &str) -> (String, String) {
    let status = status(lab, name);
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default();
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

async fn started(lab: &Lab, name: &str) {
    let runs = || condition(lab, name, "PacketCaptureStarted").0 == "True";
    eventually(&format!("{name} runs"), LIMIT, runs).await;
}

/// How it ended, and its message.
async fn ended(lab: &Lab, name: &str) -> (String, String) {
    let over = || condition(lab, name, "PacketCaptureComplete").0 == "True";
    eventually(&format!("{name} ends"), LIMIT, over).await;
    let status = status(lab, name);
    let message = status["conditions"][1]["message"].as_str().unwrap_or_default().to_owned();
    (condition(lab, name, "PacketCaptureComplete").1, message)
}

/// The frames of a file, as the format says; each was seen just now.
fn frames(lab: &Lab, index: usize, name: &str) -> Vec<Vec<u8>> {
    let file = folder(lab, index).join(format!("{name}.pcapng"));
    let path = format!("antrea-agent-{}:{}", lab.nodes[index].name, file.display());
    assert_eq!(status(lab, name)["filePath"], path);
    let octets = std::fs::read(&file).unwrap();
    let number = |at: usize| u32::from_le_bytes(octets[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, mut found) = (0, Vec::new());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    while at < octets.len() {
        if number(at) == 6 {
            let time = ((number(at + 12) as u64) << 32 | number(at + 16) as u64) / 1_000_000_000;
            assert!(now - time < 120, "seen at {time}, now it is {now}");
            let (kept, length) = (number(at + 20), number(at + 24));
            assert_eq!(kept, length, "no packet is cut");
            found.push(octets[at + 28..at + 28 + kept].to_vec());
        }
        at += number(at + 4);
    }
    assert_eq!(status(lab, name)["numberCaptured"], found.len());
    found
}

/// Datagrams of one octet each, its number.
async fn send(netns: &str, to: SocketAddr, count: u8) {
    let netns = Netns::open(format!("/run/netns/{netns}")).unwrap();
    let sending = move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for number in 0..count {
            socket.send_to(&[number], to).unwrap();
        }
    };
    netns.run(sending).await.unwrap();
}

/// Source, destination, destination port and contents of a datagram of IPv4.
fn datagram(frame: &[u8]) -> (IpAddr, IpAddr, u16, &[u8]) {
    let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&frame[at..at + 4]).unwrap());
    assert_eq!((&frame[12..15], frame[23]), (&[8, 0, 0x45][..], 17));
    let length = usize::from(u16::from_be_bytes([frame[38], frame[39]]));
    (ip(26), ip(30), u16::from_be_bytes([frame[36], frame[37]]), &frame[42..34 + length])
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_what_was_asked_for() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(false).await;
    let (a, b, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    let udp = json!({"protocol": "UDP", "transportHeader": {"udp": {"dstPort": 5353}}});
    ask(&lab, "few", 5, 30, json!({"source": pod("a"), "destination": pod("c"), "packet": udp}));
    ask(&lab, "all", 100, 8, json!({"source": pod("a"), "destination": pod("c"), "packet": udp}));
    for name in ["few", "all"] {
        started(&lab, name).await;
    }
    // Another port, another source, another destination, answers; and more than are wanted.
    send(&a.netns, (c.ip, 5354).into(), 3).await;
    send(&b.netns, (c.ip, 5353).into(), 3).await;
    send(&a.netns, (b.ip, 5353).into(), 3).await;
    send(&a.netns, (c.ip, 5353).into(), 9).await;
    assert_eq!(ended(&lab, "few").await, ("Succeed".into(), String::new()));
    assert_eq!(ended(&lab, "all").await.0, "Timeout");
    for (name, count) in [("few", 5u8), ("all", 9)] {
        let frames = frames(&lab, 0, name);
        let found: Vec<_> = frames.iter().map(|frame| datagram(frame)).collect();
        let sent: Vec<u8> = (0..count).collect();
        let sent: Vec<_> = sent.iter().map(|n| (a.ip, c.ip, 5353, std::slice::from_ref(n))).collect();
        assert_eq!(found, sent, "{name}");
    }
    assert!(!folder(&lab, 1).exists(), "the other Node has nothing to do with it");
    at_the_destination_and_both_ways(&lab, &a, &c).await;
    the_file_is_for_those_who_may(&lab).await;
    let captured = lab.agent_metric(0, "antrea_agent_packet_captures_packets_total").await;
    assert_eq!(captured, 14.0);
}

async fn at_the_destination_and_both_ways(lab: &Lab, a: &Pod, c: &Pod) {
    let spec = json!({"source": pod("a"), "destination": pod("c"), "direction": "Both",
                      "capturePoint": "Destination", "packet": {"protocol": "icmp"}});
    ask(lab, "echo", 6, 30, spec);
    let syn = json!({"transportHeader": {"tcp": {"dstPort": 81, "flags": [{"value": 2, "mask": 18}]}}});
    let spec = json!({"destination": pod("c"), "source": {"ip": a.ip.to_string()}, "packet": syn});
    ask(lab, "syn", 2, 30, spec);
    for name in ["echo", "syn"] {
        started(lab, name).await;
    }
    let echo = try_in(&a.netns, &["ping", "-c", "3", "-i", "0.2", "-W", "2", &c.ip.to_string()]);
    assert!(echo.status.success());
    // Nobody listens: each attempt is a SYN and an answer that refuses.
    let (netns, to) = (Netns::open(format!("/run/netns/{}", a.netns)).unwrap(), SocketAddr::from((c.ip, 81)));
    let connecting = move || {
        for _ in 0..2 {
            assert!(std::net::TcpStream::connect_timeout(&to, LIMIT).is_err());
        }
    };
    netns.run(connecting).await.unwrap();
    assert_eq!(ended(lab, "echo").await.0, "Succeed");
    let mut kinds: Vec<u8> = frames(lab, 1, "echo").iter().map(|frame| frame[34]).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, [0, 0, 0, 8, 8, 8]);
    assert_eq!(ended(lab, "syn").await.0, "Succeed");
    let flags: Vec<u8> = frames(lab, 1, "syn").iter().map(|frame| frame[47]).collect();
    assert_eq!(flags, [2, 2]);
}

async fn the_file_is_for_those_who_may(lab: &Lab) {
    let file = std::fs::read(folder(lab, 0).join("few.pcapng")).unwrap();
    let path = "/packetcaptures?name=few";
    let good = lab.agent_endpoint(0, Some("lab-somebody"));
    let (code, text) = https::get(&good, path).await.unwrap();
    assert_eq!((code, text.len()), (200, String::from_utf8_lossy(&file).len()));
    for name in ["none", "..%2Fnode", "%2Fetc%2Fpasswd"] {
        assert_eq!(https::get(&good, &format!("/packetcaptures?name={name}")).await.unwrap().0, 404);
    }
    for (token, code) in [(None, 401), (Some(format!("lab-{NOBODY}")), 403)] {
        let answer = https::get(&lab.agent_endpoint(0, token.as_deref()), path).await.unwrap();
        assert_eq!(answer.0, code);
    }
    // It goes with its object.
    lab.api.delete(CAPTURES, None, "few");
    eventually("the file is gone", LIMIT, || !folder(lab, 0).join("few.pcapng").exists()).await;
    assert!(folder(lab, 0).join("all.pcapng").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_and_what_cannot_be() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(false).await;
    let a = lab.add_pod(0, "a");
    let names: Vec<String> = (0..6).map(|number| format!("n{number}")).collect();
    for name in &names {
        ask(&lab, name, 1000, 3, json!({"source": pod("a"), "destination": {"ip": "192.0.2.1"}}));
    }
    let waits = || names.iter().any(|name| condition(&lab, name, "PacketCaptureStarted").1 == "Pending");
    eventually("some wait for their turn", LIMIT, waits).await;
    assert!(lab.agent_metric(0, "antrea_agent_packet_captures_running").await <= 4.0);
    for name in &names {
        let end = ended(&lab, name).await;
        assert_eq!(end, ("Timeout".into(), "there were only 0 such packets in its time".into()), "{name}");
        assert!(frames(&lab, 0, name).is_empty());
    }
    over_before_it_is_told_that_they_run(&lab, &a).await;
    for (name, spec, reason) in [
        ("no-source", json!({"source": pod("x")}), "spec.source.pod: there is no Pod default/x"),
        (
            "no-destination",
            json!({"source": pod("a"), "destination": pod("x")}),
            "spec.destination.pod: there is no Pod default/x",
        ),
        (
            "other-family",
            json!({"source": pod("a"), "destination": {"ip": "fd00::1"}}),
            "spec.source: has no IPv6 address",
        ),
        // As from a client of another version, whose definition is the cluster's.
        (
            "unreadable",
            json!({"source": pod("a"), "packet": {"protocol": "GRE"}}),
            "spec.packet.protocol: GRE",
        ),
    ] {
        ask(&lab, name, 1, 10, spec);
        let (end, message) = ended(&lab, name).await;
        assert_eq!(end, "Failed");
        assert!(message.starts_with(reason), "{name}: {message}");
        assert_eq!(status(&lab, name)["filePath"], Value::Null);
    }
    // A Pod object without a pod: its agent does not know it, and says nothing.
    lab.put_pod(1, "ghost", &[], None);
    ask(&lab, "silent", 1, 10, json!({"source": pod("ghost")}));
    let (end, message) = ended(&lab, "silent").await;
    assert_eq!(end, "Failed");
    assert!(message.starts_with("the agent of Node node2 does not take it up"), "{message}");
}

/// What the watch still tells of a capture that has ended is older than its end.
async fn over_before_it_is_told_that_they_run(lab: &Lab, a: &Pod) {
    let flood = ["netns", "exec", &a.netns, "ping", "-q", "-i", "0.005", "-c", "2000", "192.0.2.1"];
    let mut flood = Command::new("ip").args(flood).stdout(Stdio::null()).spawn().unwrap();
    let names: Vec<String> = (0..8).map(|number| format!("quick{number}")).collect();
    for name in &names {
        ask(lab, name, 1, 20, json!({"source": pod("a"), "destination": {"ip": "192.0.2.1"}}));
    }
    for name in &names {
        assert_eq!(ended(lab, name).await.0, "Succeed", "{name}");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for name in &names {
        assert_eq!(condition(lab, name, "PacketCaptureComplete").1, "Succeed", "{name}");
        assert_eq!(frames(lab, 0, name).len(), 1);
    }
    let _ = flood.kill();
    let _ = flood.wait();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_starts_anew_ends_what_it_had_begun() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(false).await;
    let (a, b) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"));
    for name in ["broken", "deleted"] {
        ask(&lab, name, 1000, 300, json!({"source": pod("a"), "destination": pod("b")}));
        started(&lab, name).await;
    }
    send(&a.netns, (b.ip, 5353).into(), 9).await;
    let told = || status(&lab, "broken")["numberCaptured"] == 9;
    eventually("how far it is", LIMIT, told).await;
    lab.nodes[0].kill_agent();
    lab.api.delete(CAPTURES, None, "deleted");
    assert!(folder(&lab, 0).join("deleted.pcapng").exists());
    start_agent(&mut lab, 0).await;
    let (end, message) = ended(&lab, "broken").await;
    assert_eq!((end.as_str(), message.contains("started anew")), ("Failed", true), "{message}");
    eventually("its file is gone", LIMIT, || !folder(&lab, 0).join("deleted.pcapng").exists()).await;
    // One that is deleted while it runs leaves neither a thread nor a file.
    ask(&lab, "stopped", 1000, 300, json!({"source": pod("a"), "destination": pod("b")}));
    started(&lab, "stopped").await;
    lab.api.delete(CAPTURES, None, "stopped");
    eventually("its file is gone", LIMIT, || !folder(&lab, 0).join("stopped.pcapng").exists()).await;
    ask(&lab, "stopped", 1, 300, json!({"source": pod("a"), "destination": pod("b")}));
    started(&lab, "stopped").await;
    send(&a.netns, (b.ip, 5353).into(), 1).await;
    assert_eq!(ended(&lab, "stopped").await.0, "Succeed");
    assert_eq!(frames(&lab, 0, "stopped").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ipv6_too() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(true).await;
    let (a, _, c) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"), lab.add_pod(1, "c"));
    // Its status names its first address alone.
    let there = json!({"ip": c.ipv6().to_string()});
    let spec = json!({"source": pod("a"), "destination": there, "direction": "Both", "packet": {
        "ipFamily": "IPv6", "protocol": "ICMP",
        "transportHeader": {"icmp": {"messages": [{"type": "icmp-echo"}, {"type": 129}]}}}});
    ask(&lab, "echo", 4, 30, spec);
    started(&lab, "echo").await;
    let echo = try_in(&a.netns, &["ping", "-c", "2", "-i", "0.2", "-W", "2", &c.ipv6().to_string()]);
    assert!(echo.status.success());
    assert_eq!(ended(&lab, "echo").await.0, "Succeed");
    let mut kinds: Vec<u8> = frames(&lab, 0, "echo").iter().map(|frame| frame[54]).collect();
    // While neighbours are looked for, requests wait.
    kinds.sort_unstable();
    assert_eq!(kinds, [128, 128, 129, 129]);
}
