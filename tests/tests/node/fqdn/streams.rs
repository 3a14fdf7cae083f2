//! Answers by TCP that come in many segments: they are held as others are, and what cannot be read is not let go.

use std::io::ErrorKind;

use super::*;

/// Octets of a segment: far fewer than an answer has.
const PART: usize = 40;
/// Addresses of a long answer, which are more octets than a packet has.
const MANY: u8 = 110;

async fn outcome(lab: &Lab, name: &str) -> f64 {
    lab.agent_metric(0, &format!("antrea_agent_dns_answers_total{{outcome=\"{name}\"}}")).await
}

/// Addresses that are nobody's, and at the end one that is.
fn long(last: u8, count: u8) -> Vec<Record> {
    let others = (0..count).map(|n| Record::Address([198, 18, 7, n].into(), 600));
    others.chain([Record::Address(v4(last), 600)]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_many_segments_is_held_until_rules_have_it() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = Lab::without_agents(1, &[("featureGates", json!({"AntreaPolicy": true}))]).await;
    lab.add_ipv6();
    lab.start_agents().await;
    let (client, free) = (add(&mut lab, "client"), add(&mut lab, "free"));
    let (dns, _servers) = world(&lab).await;
    let pod = client.netns.as_str();
    for n in 0..FLOOR {
        dns.tell(&format!("n{n}.good.example"), long(20 + n, 5));
        dns.tell(&format!("n{n}.bad.example"), long(100 + n, 5));
    }
    dns.tell("long.good.example", long(1, MANY));
    dns.tell("garbage.good.example", vec![Record::Garbage]);
    for last in [1, 20, 100] {
        until_reached(pod, v4(last), true).await;
    }
    dns.cut(PART);

    // What the pod is kept from, it is kept from before it can try.
    let deny = json!({
        "priority": 5,
        "appliedTo": applied_to("client"),
        "egress": [{"name": "bad", "action": "Drop", "to": [{"fqdn": "*.bad.example"}]}],
    });
    put(&lab, CLUSTER_POLICIES, None, "bad", &deny);
    realized(&lab, "bad").await;
    for n in 0..FLOOR {
        assert!(reaches(pod, v4(100 + n)).await, "n{n} has no name yet");
        ask_by_tcp(pod, &format!("n{n}.bad.example"), A, ANSWERED).await.expect("an answer");
        assert!(!reaches(pod, v4(100 + n)).await, "n{n} is reached");
    }
    let segments = outcome(&lab, "delivered").await;
    assert!(segments >= f64::from(FLOOR) * 6.0, "{segments} segments: they came together");

    // What is let through is reached at once; whether an answer is cut by the server or by its kernel.
    put(&lab, CLUSTER_POLICIES, None, "names", &only(&["*.good.example"]));
    until_reached(pod, v4(1), false).await;
    realized(&lab, "names").await;
    for n in 0..FLOOR {
        ask_by_tcp(pod, &format!("n{n}.good.example"), A, ANSWERED).await.expect("an answer");
        assert!(reaches(pod, v4(20 + n)).await, "n{n} is not reached at once");
    }
    dns.cut(0);
    assert!(!reaches(pod, v4(1)).await);
    let octets = ask_by_tcp(pod, "long.good.example", A, ANSWERED).await.expect("a long answer");
    assert!(octets > 2 * 1500, "{octets} octets need no segments");
    assert!(reaches(pod, v4(1)).await, "what is at the end of a long answer is not reached at once");

    // What cannot be read is not let go, and the pod need not wait to know.
    dns.cut(10);
    assert!(ask_by_tcp(&free.netns, "garbage.good.example", A, ANSWERED).await.is_ok());
    assert_eq!(outcome(&lab, "ended").await, 0.0);
    let ended = ask_by_tcp(pod, "garbage.good.example", A, ANSWERED).await.expect_err("garbage");
    assert_eq!(ended, ErrorKind::ConnectionReset);
    assert!(outcome(&lab, "ended").await >= 1.0);
    assert_eq!(outcome(&lab, "not_realized").await, 0.0);

    // So it is with the rest of an answer of which an agent has not seen the beginning.
    dns.cut(PART);
    dns.wait(true);
    let sent = dns.sent();
    let asking = {
        let pod = pod.to_owned();
        tokio::spawn(async move { ask_by_tcp(&pod, "n0.good.example", A, LIMIT).await })
    };
    eventually("an answer begins", LIMIT, || dns.sent() > sent).await;
    lab.nodes[0].kill_agent();
    lab.start_agent(0);
    lab.wait_ready(0).await;
    let begin = Instant::now();
    while ask(pod, SERVER, "n1.good.example", A).await.is_none() {
        assert!(begin.elapsed() < LIMIT, "no answers after the restart");
    }
    dns.wait(false);
    assert_eq!(asking.await.unwrap(), Err(ErrorKind::ConnectionReset));
    ask_by_tcp(pod, "n0.good.example", A, ANSWERED).await.expect("an answer after the restart");
    println!("datapath {:?}: {segments} segments of {FLOOR} denied answers", Datapath::here());
}
