use std::time::Duration;

use antrea_api::agent::{FlowTraffic, PodTraffic, TableDrops};

use super::*;

fn pod(name: &str, sent: (u64, u64), received: (u64, u64)) -> PodTraffic {
    PodTraffic {
        namespace: "shop".into(),
        name: name.into(),
        sent_packets: sent.0,
        sent_bytes: sent.1,
        received_packets: received.0,
        received_bytes: received.1,
        dropped_packets: 0,
    }
}

fn drop_of(table: &str, packets: u64) -> TableDrops {
    TableDrops { table: table.into(), packets, bytes: 100 * packets }
}

fn flow(id: &str, from: &str, to: &str, service: (&str, Option<u16>), bytes: u64) -> FlowTraffic {
    let (protocol, port) = (service.0.to_owned(), service.1);
    FlowTraffic {
        id: id.into(),
        from: from.into(),
        to: to.into(),
        protocol,
        port,
        packets: bytes / 1000,
        bytes,
    }
}

fn policy(sample: &mut Sample, name: &str, bytes: u64, at: Instant) {
    sample.policies.insert(name.into(), Counters { packets: bytes / 1000, bytes, sessions: 3 });
    sample.policies_at = Some(at);
}

/// Three samples, two seconds apart.
fn samples() -> [Sample; 3] {
    let begin = Instant::now();
    let later = |seconds| begin + Duration::from_secs(seconds);
    let mut all = [Sample::default(), Sample::default(), Sample::default()];
    let traffic = |pods: Vec<PodTraffic>, drops: Vec<TableDrops>| Traffic { pods, drops, flows: Vec::new() };
    for (sample, (at, bytes)) in all.iter_mut().zip([(0, 5_000), (2, 5_000), (4, 45_000)]) {
        policy(sample, "NetworkPolicy shop/db", bytes, later(at));
        policy(sample, "ClusterNetworkPolicy deny", 90_000, later(at));
    }
    all[1].take(
        "n1",
        later(2),
        &traffic(
            vec![
                pod("web", (10, 1000), (10, 500)),
                pod("idle", (5, 5), (5, 5)),
                pod("again", (900, 9000), (0, 0)),
            ],
            vec![drop_of("IngressDefaultRule", 7), drop_of("SpoofGuard", 0)],
        ),
    );
    all[1].take("n2", later(2), &traffic(vec![pod("db", (0, 0), (0, 0))], vec![drop_of("L3Forwarding", 9)]));
    all[2].take(
        "n1",
        later(4),
        &traffic(
            vec![
                pod("web", (110, 201_000), (60, 2_500)),
                pod("idle", (5, 5), (5, 5)),
                // Its port was made anew.
                pod("again", (10, 4_000), (0, 0)),
            ],
            vec![drop_of("IngressDefaultRule", 37), drop_of("SpoofGuard", 0)],
        ),
    );
    all[2].take(
        "n2",
        later(4),
        &traffic(vec![pod("db", (1, 60), (2_469_136, 3_000_000_000))], vec![drop_of("L3Forwarding", 9)]),
    );
    let (https, web) = (("TCP", Some(443)), "shop/web");
    let told = [
        vec![flow("a", web, "192.0.2.7", https, 10_000), flow("gone", web, "", ("UDP", None), 9_000)],
        // The second way between the same ends is new, and the last is idle.
        vec![
            flow("a", web, "192.0.2.7", https, 30_000),
            flow("b", web, "192.0.2.7", https, 4_000),
            flow("c", "antrea-gw0", web, ("", None), 50_000),
            flow("idle", web, "shop/db", https, 0),
        ],
    ];
    for (sample, (flows, at)) in all[1..].iter_mut().zip(told.into_iter().zip([2, 4])) {
        sample.take("n1", later(at), &Traffic { flows, ..Traffic::default() });
    }
    all[2].silent.insert("n3".into(), "no answer within 30s".into());
    all
}

#[test]
fn the_busiest_come_first() {
    let [first, before, now] = samples();
    let view = View::between(&first, &before, &now);
    let expected = "\
POD          NODE   SENT-B/s   SENT-PKT/s   RECEIVED-B/s   RECEIVED-PKT/s
shop/db      n2     30         0.50         1.50G          1.23M
shop/web     n1     100k       50           1.00k          25
shop/again   n1     2.00k      5            0              0
shop/idle    n1     0          0            0              0

FROM         TO          SERVICE   NODE   B/s     PKT/s
antrea-gw0   shop/web    any       n1     25.0k   25
shop/web     192.0.2.7   TCP 443   n1     12.0k   12

POLICY                      B/s     BYTES   PACKETS   SESSIONS
NetworkPolicy shop/db       10.0k   45.0k   45        3
ClusterNetworkPolicy deny   0       90.0k   90        3

DROPPED                                    TABLE                NODE   PKT/s   PACKETS
ingress: isolated, and no rule allows it   IngressDefaultRule   n1     15      37
no Pod has the address                     L3Forwarding         n2     0       9

NOT-ASKED   WHY
n3          no answer within 30s
";
    assert_eq!(view.text(10).unwrap(), expected);
    let text = view.text(1).unwrap();
    assert!(
        text.contains("shop/db ") && !text.contains("shop/again") && !text.contains("L3Forwarding"),
        "{text}"
    );
    let value = view.json(1);
    assert_eq!(value["pods"].as_array().map(Vec::len), Some(1));
    assert_eq!(value["pods"][0]["sent"], json!({"bytesPerSecond": 30.0, "packetsPerSecond": 0.5}));
    let flow = json!({"from": "antrea-gw0", "to": "shop/web", "service": "any", "node": "n1",
                      "bytesPerSecond": 25_000.0, "packetsPerSecond": 25.0});
    assert_eq!(value["flows"], json!([flow]));
    assert_eq!(value["drops"][0]["packetsPerSecond"], 15.0);
    assert_eq!(value["notAsked"]["n3"], "no answer within 30s");
}

/// Whoever rises among the busiest did not do all at once.
#[test]
fn a_flow_that_was_not_told_before_is_known_from_then_on() {
    let begin = Instant::now();
    let sample = |seconds: u64, flows: Vec<FlowTraffic>| {
        let mut sample = Sample::default();
        sample.take("n1", begin + Duration::from_secs(seconds), &Traffic { flows, ..Traffic::default() });
        sample
    };
    let full = |n: usize| flow(&n.to_string(), "a", "b", ("TCP", None), 1000);
    let before = sample(0, (0..BUSIEST).map(full).collect());
    let risen = sample(1, vec![flow("risen", "c", "d", ("TCP", None), 1_000_000)]);
    let later = sample(2, vec![flow("risen", "c", "d", ("TCP", None), 1_002_000)]);
    assert_eq!(View::between(&before, &before, &risen).flows, []);
    assert_eq!(View::between(&before, &risen, &later).flows[0].rate, [2000.0, 2.0]);
}

#[test]
fn numbers_are_short() {
    for (number, text) in [
        (0.0, "0"),
        (0.5, "0.50"),
        (7.0, "7"),
        (12.34, "12.3"),
        (999.0, "999"),
        (999.7, "1.00k"),
        (1234.0, "1.23k"),
        (123_456.0, "123k"),
        (5e9, "5.00G"),
        (7e15, "7000T"),
    ] {
        assert_eq!(short(number), text);
    }
}
