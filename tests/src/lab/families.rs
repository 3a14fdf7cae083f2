//! Nodes and pods with IPv6 beside IPv4.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use netcfg::Family;
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

    /// The address of a node in a family, with [`Self::add_ipv6`].
    pub fn node_ip(&self, index: usize, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.nodes[index].ip.into(),
            Family::V6 => format!("fd00:31::1{}", index + 1).parse().unwrap(),
        }
    }

    /// The subnet of a node's pods in a family, with [`Self::add_ipv6`].
    pub fn pod_cidr(&self, index: usize, family: Family) -> String {
        match family {
            Family::V4 => self.nodes[index].pod_cidr.clone(),
            Family::V6 => format!("fd00:244:{}::/64", index + 1),
        }
    }

    /// The outside world's address in a family, with [`Self::add_ipv6`].
    pub fn outside_of(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.outside_ip().into(),
            Family::V6 => self.outside_ipv6(),
        }
    }

    /// Agents that are started from now on find no nftables on their nodes.
    pub fn without_nftables(&mut self) {
        self.agents_nft("echo 'nft: cannot open nf_tables: Operation not supported' >&2; exit 1");
    }

    /// Agents that are started from now on have nodes whose nftables takes its time.
    pub fn with_slow_nftables(&mut self, each: Duration) {
        let path = std::env::var("PATH").unwrap();
        self.agents_nft(&format!("sleep {}; PATH='{path}' exec nft \"$@\"", each.as_secs_f32()));
    }

    fn agents_nft(&mut self, script: &str) {
        let folder = self.dir.path().join("agents-nft");
        std::fs::create_dir(&folder).unwrap();
        let program = folder.join("nft");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        self.agent_path = Some(folder);
    }
}

/// The iptables of a family.
pub fn iptables(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables",
        Family::V6 => "ip6tables",
    }
}

impl Pod {
    /// Its addresses, in the order of the node's subnets.
    pub fn ips(&self) -> Vec<IpAddr> {
        let ips = self.result["ips"].as_array().unwrap().iter();
        ips.map(|ip| ip["address"].as_str().unwrap().split('/').next().unwrap().parse().unwrap()).collect()
    }

    /// Its address in a family.
    pub fn ip_of(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.ip,
            Family::V6 => self.ipv6(),
        }
    }

    /// Its IPv6 address.
    pub fn ipv6(&self) -> IpAddr {
        self.ips().into_iter().find(IpAddr::is_ipv6).expect("the pod must have an IPv6 address")
    }
}
