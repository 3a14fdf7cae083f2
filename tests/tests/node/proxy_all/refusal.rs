//! Services without endpoints, and endpoints that come and go under those who ask already.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use antrea_tests::lab::eventually;
use netcfg::{Family, Netns};
use serde_json::json;

use super::{LIMIT, PORT, cluster_ip, external_ip, lab, listen, put_endpoints, put_service, route_by, until};
use crate::proxy::bind;

/// What a datagram to there brings its sender.
async fn datagram(client: &str, to: SocketAddr) -> Result<usize, ErrorKind> {
    let netns = Netns::open(format!("/run/netns/{client}")).unwrap();
    let ask = move || {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        socket.send(b"question")?;
        socket.recv(&mut [0; 64])
    };
    netns.run(ask).await.unwrap().map_err(|error| error.kind())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_endpoints_is_refused_to_everybody() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(1).await;
    let (a, b) = (lab.add_pod(0, "a"), lab.add_pod(0, "b"));
    let (node, outside) = (lab.nodes[0].netns.clone(), lab.outside());
    for (n, family) in (1u8..).zip(Family::BOTH) {
        let (cluster, external) = (cluster_ip(family, n), external_ip(family, n));
        let port = 30_080 + u16::from(n);
        put_service(
            &lab,
            &format!("empty{n}"),
            cluster,
            port,
            &json!({"externalIPs": [external]}),
            &json!({}),
        );
        route_by(&lab, external, 0);
        let node_port = SocketAddr::new(lab.node_ip(0, family), port);
        let ways = [
            (&a.netns, SocketAddr::new(cluster, PORT)),
            (&a.netns, SocketAddr::new(external, PORT)),
            (&a.netns, node_port),
            (&node, SocketAddr::new(cluster, PORT)),
            (&node, SocketAddr::new(external, PORT)),
            (&node, node_port),
            (&outside, SocketAddr::new(external, PORT)),
            (&outside, node_port),
        ];
        for (client, to) in ways {
            until(client, to, Err(ErrorKind::ConnectionRefused)).await;
            let mut last = Ok(0);
            let end = std::time::Instant::now() + LIMIT;
            while last != Err(ErrorKind::ConnectionRefused) && std::time::Instant::now() < end {
                last = datagram(client, to).await;
            }
            assert_eq!(last, Err(ErrorKind::ConnectionRefused), "a datagram of {client} to {to}");
        }
        if family == Family::V4 {
            put_endpoints(&lab, "empty1", &[(b.ip, "node1")]);
            let _listener = listen(&b.netns).await;
            for (client, to) in ways {
                until(client, to, Ok(())).await;
            }
            // And refused again.
            put_endpoints(&lab, "empty1", &[]);
            for (client, to) in ways {
                until(client, to, Err(ErrorKind::ConnectionRefused)).await;
            }
        }
    }
}

/// Nobody closes a connection of UDP: one that goes on is given another endpoint, by a node port too.
#[tokio::test(flavor = "multi_thread")]
async fn datagrams_to_a_node_port_follow_when_their_endpoint_goes() {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(1).await;
    let (b, c) = (lab.add_pod(0, "b"), lab.add_pod(0, "c"));
    put_service(&lab, "dns", cluster_ip(Family::V4, 1), 30_053, &json!({}), &json!({}));
    put_endpoints(&lab, "dns", &[(b.ip, "node1")]);
    let client = bind(&lab.outside(), 0).await;
    let (at_b, at_c) = (bind(&b.netns, super::TARGET).await, bind(&c.netns, super::TARGET).await);
    let to = SocketAddr::new(lab.node_ip(0, Family::V4), 30_053);
    for (server, other) in [(&at_b, None), (&at_c, Some(c.ip))] {
        if let Some(ip) = other {
            put_endpoints(&lab, "dns", &[(ip, "node1")]);
        }
        let mut from = None;
        eventually("datagrams come to the endpoint", LIMIT, || {
            let _ = client.send_to(b"question", to);
            from = server.recv_from(&mut [0; 64]).ok().map(|(_, from)| from);
            from.is_some()
        })
        .await;
        let from = from.unwrap();
        assert_eq!(from.ip(), lab.outside_ip(), "the client is who it is");
        while client.recv(&mut [0; 64]).is_ok() {}
        server.send_to(b"answer", from).unwrap();
        let mut answered = None;
        eventually("the answer comes from whom was asked", LIMIT, || {
            answered = client.recv_from(&mut [0; 64]).ok().map(|(_, from)| from);
            answered.is_some()
        })
        .await;
        assert_eq!(answered, Some(to));
    }
}
