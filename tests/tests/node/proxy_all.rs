//! Services on nodes without a kube-proxy (`antreaProxy.proxyAll`).

mod access;
mod applied_to;
mod balancer;
mod damage;
mod egress;
mod health;
mod policy;
mod refusal;
mod removal;

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use antrea_tests::lab::{Lab, sh};
use netcfg::{Family, Netns};
use serde_json::{Value, json};

use crate::proxy::{SERVICES, SLICES};

const LIMIT: Duration = Duration::from_secs(20);
/// Port of Services, and of their endpoints.
const PORT: u16 = 80;
const TARGET: u16 = 8080;

/// Nodes of both families whose agents serve everybody.
async fn lab(nodes: usize) -> Lab {
    gates_lab(nodes, &json!({"AntreaProxy": true})).await
}

/// The same with these feature gates.
async fn gates_lab(nodes: usize, gates: &Value) -> Lab {
    let config = [
        ("featureGates", gates.clone()),
        ("antreaProxy", json!({"proxyAll": true})),
        ("serviceCIDRv6", json!("fd00:10:96::/112")),
    ];
    let mut lab = Lab::without_agents(nodes, &config).await;
    lab.add_ipv6();
    lab.start_agents().await;
    lab
}

/// A Service of one family with TCP and UDP; `more` is added to its spec.
fn put_service(lab: &Lab, name: &str, ip: IpAddr, node_port: u16, more: &Value, status: &Value) {
    let port = |protocol: &str| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": PORT, "nodePort": node_port});
    let mut spec = json!({"type": "NodePort", "clusterIP": ip, "clusterIPs": [ip],
                          "ports": [port("TCP"), port("UDP")]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let metadata = json!({"namespace": "default", "name": name});
    lab.api.put(SERVICES, json!({"metadata": metadata, "spec": spec, "status": status}));
}

/// Its endpoints, each with its node.
fn put_endpoints(lab: &Lab, name: &str, endpoints: &[(IpAddr, &str)]) {
    let v6 = endpoints.iter().any(|(ip, _)| ip.is_ipv6());
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(ip, node)| json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}}))
        .collect();
    let port =
        |protocol: &str| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": TARGET});
    lab.api.put(
        SLICES,
        json!({
            "metadata": {"namespace": "default", "name": format!("{name}-1"),
                         "labels": {"kubernetes.io/service-name": name}},
            "addressType": if v6 { "IPv6" } else { "IPv4" },
            "endpoints": endpoints, "ports": [port("TCP"), port("UDP")],
        }),
    );
}

/// An address of Services.
fn cluster_ip(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 96, 1, n]),
        Family::V6 => format!("fd00:10:96::1{n:02}").parse().unwrap(),
    }
}

/// An address of a load balancer.
fn external_ip(family: Family, n: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([203, 0, 113, n]),
        Family::V6 => format!("2001:db8:113::{n}").parse().unwrap(),
    }
}

/// The gateway's address on a node.
fn gateway(family: Family, index: usize) -> IpAddr {
    match family {
        Family::V4 => format!("10.244.{}.1", index + 1).parse().unwrap(),
        Family::V6 => format!("fd00:244:{}::1", index + 1).parse().unwrap(),
    }
}

/// Leads the world outside to an address by a node.
fn route_by(lab: &Lab, to: IpAddr, index: usize) {
    let via = lab.node_ip(index, Family::from(to));
    sh(&format!("ip -n {} route replace {to} via {via}", lab.outside()));
}

/// A listener for both families.
async fn listen(netns: &str) -> TcpListener {
    let netns = Netns::open(format!("/run/netns/{netns}")).unwrap();
    netns.run(|| TcpListener::bind(("::", TARGET))).await.unwrap().unwrap()
}

/// A connection that is made and closed, or why there is none.
async fn connect(client: &str, to: SocketAddr) -> Result<(), std::io::ErrorKind> {
    let netns = Netns::open(format!("/run/netns/{client}")).unwrap();
    let connect = move || std::net::TcpStream::connect_timeout(&to, Duration::from_secs(1)).map(drop);
    netns.run(connect).await.unwrap().map_err(|error| error.kind())
}

/// Waits until a connection ends so; a Service and all that it takes is there a moment after its objects.
async fn until(client: &str, to: SocketAddr, wanted: Result<(), std::io::ErrorKind>) {
    let end = Instant::now() + LIMIT;
    loop {
        let now = connect(client, to).await;
        if now == wanted {
            return;
        }
        assert!(Instant::now() < end, "{client} to {to}: {now:?} instead of {wanted:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
