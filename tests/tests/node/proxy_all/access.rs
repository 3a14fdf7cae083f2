//! Who reaches which endpoint by which address of a Service, and who the endpoint takes its client for.

use std::net::{IpAddr, SocketAddr};

use antrea_flows::{VIRTUAL_V4, VIRTUAL_V6};
use antrea_tests::lab::{Lab, Pod};
use antrea_tests::traffic::tcp_to;
use netcfg::Family;
use serde_json::json;

use super::{
    PORT, TARGET, cluster_ip, external_ip, gateway, lab, listen, put_endpoints, put_service, route_by, until,
};

/// What runs somewhere.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    Pod(usize),
    Node(usize),
    Outside,
}

struct Site {
    lab: Lab,
    /// A client and a server on each node.
    clients: Vec<Pod>,
    servers: Vec<Pod>,
    family: Family,
}

impl Site {
    fn netns(&self, place: Place) -> String {
        match place {
            Place::Pod(index) => self.clients[index].netns.clone(),
            Place::Node(index) => self.lab.nodes[index].netns.clone(),
            Place::Outside => self.lab.outside(),
        }
    }

    fn brought_back(&self) -> IpAddr {
        match self.family {
            Family::V4 => VIRTUAL_V4.into(),
            Family::V6 => VIRTUAL_V6.into(),
        }
    }

    /// Address and namespace of an endpoint.
    fn endpoint(&self, place: Place) -> (IpAddr, String) {
        match place {
            Place::Pod(index) => (self.servers[index].ip_of(self.family), self.servers[index].netns.clone()),
            Place::Node(index) => (self.lab.node_ip(index, self.family), self.netns(place)),
            Place::Outside => panic!("nothing is served there"),
        }
    }

    /// Who an endpoint sees when node `by` translates what comes in there from `source`.
    fn seen_from(&self, source: IpAddr, by: usize, endpoint: Place) -> IpAddr {
        match endpoint {
            Place::Pod(index) if index == by => source,
            Place::Pod(_) => gateway(self.family, by),
            Place::Node(index) if index == by => self.brought_back(),
            _ => self.lab.node_ip(by, self.family),
        }
    }

    /// Who an endpoint sees when `client` asks by node `by`; none: by its own.
    fn seen(&self, client: Place, by: Option<usize>, endpoint: Place) -> IpAddr {
        let node = |index| self.lab.node_ip(index, self.family);
        match (client, by) {
            (Place::Pod(own), by) if by.is_none_or(|by| by == own) => {
                let pod = self.clients[own].ip_of(self.family);
                match endpoint {
                    Place::Node(index) if index != own => node(own),
                    _ => pod,
                }
            }
            (Place::Node(own), by) if by.is_none_or(|by| by == own) => {
                self.seen_from(gateway(self.family, own), own, endpoint)
            }
            (Place::Pod(own) | Place::Node(own), Some(by)) => self.seen_from(node(own), by, endpoint),
            (Place::Outside, by) => {
                self.seen_from(self.lab.outside_of(self.family), by.unwrap_or(0), endpoint)
            }
            _ => panic!("of nobody's own"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_reaches_every_endpoint_by_every_address() {
    everybody_reaches(Family::V4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ipv6_too() {
    everybody_reaches(Family::V6).await;
}

async fn everybody_reaches(family: Family) {
    let _guard = crate::ONE_AT_A_TIME.lock().await;
    let mut lab = lab(2).await;
    let clients = [0, 1].map(|index| lab.add_pod(index, &format!("client{index}"))).into();
    let servers = [0, 1].map(|index| lab.add_pod(index, &format!("server{index}"))).into();
    let site = Site { lab, clients, servers, family };
    let endpoints = [Place::Pod(0), Place::Pod(1), Place::Node(0), Place::Node(1)];
    for (n, endpoint) in (1u8..).zip(endpoints) {
        let name = format!("s{n}");
        let more = json!({"externalIPs": [external_ip(family, n)]});
        put_service(&site.lab, &name, cluster_ip(family, n), 30_000 + u16::from(n), &more, &json!({}));
        let node = match endpoint {
            Place::Pod(index) | Place::Node(index) => site.lab.nodes[index].name.clone(),
            Place::Outside => String::new(),
        };
        put_endpoints(&site.lab, &name, &[(site.endpoint(endpoint).0, &node)]);
        route_by(&site.lab, external_ip(family, n), 0);
    }
    let clients = [Place::Pod(0), Place::Pod(1), Place::Node(0), Place::Node(1), Place::Outside];
    let mut wrong = Vec::new();
    let mut count = 0;
    for (n, endpoint) in (1u8..).zip(endpoints) {
        let (_, server) = site.endpoint(endpoint);
        let ways = ways(&site, n, &clients);
        let listener = listen(&server).await;
        for (client, _, to, _) in &ways {
            until(&site.netns(*client), *to, Ok(())).await;
        }
        drop(listener);
        for (client, what, to, by) in ways {
            count += 1;
            let from = site.netns(client);
            let received = tcp_to(&from, &server, to, TARGET, 100_000).await;
            let expected = site.seen(client, by, endpoint);
            let seen = received.map(|received| received.from.to_canonical());
            if seen != Ok(expected) {
                wrong.push(format!("{from} by {what} {to} to endpoint {n}: {seen:?}, not {expected}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}

/// Who asks the Service of a number by which of its addresses, and which node translates it if not the client's own.
fn ways(site: &Site, n: u8, clients: &[Place]) -> Vec<(Place, &'static str, SocketAddr, Option<usize>)> {
    let (family, node_port) = (site.family, 30_000 + u16::from(n));
    let mut all = Vec::new();
    for client in clients {
        all.push((*client, "external IP", SocketAddr::new(external_ip(family, n), PORT), None));
        for index in [0, 1] {
            let to = SocketAddr::new(site.lab.node_ip(index, family), node_port);
            all.push((*client, "node port", to, Some(index)));
        }
        if *client != Place::Outside {
            all.push((*client, "ClusterIP", SocketAddr::new(cluster_ip(family, n), PORT), None));
        }
    }
    all
}
