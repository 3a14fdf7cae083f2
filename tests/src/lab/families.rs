//! Nodes and pods with IPv6 beside IPv4.

use std::net::IpAddr;

use serde_json::json;

use super::{Lab, NODES, Pod, sh};

impl Lab {
    /// Gives each node and the world outside an IPv6 address, and each node a second subnet for its pods. To be
    /// called before the agents start.
    pub fn add_ipv6(&self) {
        let outside = self.outside();
        sh(&format!("ip -n {outside} addr add {}/64 dev underlay0 nodad", self.outside_ipv6()));
        for (number, node) in (1..).zip(&self.nodes) {
            let (netns, address) = (&node.netns, format!("fd00:31::1{number}"));
            sh(&format!("ip -n {netns} addr add {address}/64 dev eth0 nodad"));
            sh(&format!("ip -n {netns} -6 route add default via {}", self.outside_ipv6()));
            let cidr = format!("fd00:244:{number}::/64");
            let mut object = self.api.get(NODES, None, &node.name).unwrap();
            object["spec"]["podCIDRs"] = json!([node.pod_cidr, cidr]);
            object["status"]["addresses"] = json!([
                {"type": "InternalIP", "address": node.ip.to_string()},
                {"type": "InternalIP", "address": address},
            ]);
            self.api.put(NODES, object);
        }
    }

    /// The outside world's IPv6 address.
    pub fn outside_ipv6(&self) -> IpAddr {
        "fd00:31::1".parse().unwrap()
    }
}

impl Pod {
    /// Its addresses, in the order of the node's subnets.
    pub fn ips(&self) -> Vec<IpAddr> {
        let ips = self.result["ips"].as_array().unwrap().iter();
        ips.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()).collect()
    }

    /// Its IPv6 address.
    pub fn ipv6(&self) -> IpAddr {
        self.ips().into_iter().find(IpAddr::is_ipv6).expect("the pod must have an IPv6 address")
    }
}
