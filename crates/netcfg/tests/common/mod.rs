//! A nameless network namespace per test: it ends with the test, panic or not, and the host's own namespace
//! is never touched.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]

use std::process::Command;

use netcfg::{Netlink, Netns};
use serde_json::Value;

pub struct Host {
    pub ns: Netns,
    pub nl: Netlink,
}

impl Host {
    /// A new namespace with `lo` up. Fails, rather than skips, without root.
    pub async fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root: they make network namespaces");
        let own = Netns::current().unwrap();
        let ns = Netns::unshare().await.unwrap();
        assert_ne!(ns, own, "the test namespace must not be the host's");
        assert_eq!(Netns::current().unwrap(), own, "the calling thread must not have moved");
        let nl = ns.spawn_netlink().await.unwrap();
        nl.set_up("lo").await.unwrap();
        Self { ns, nl }
    }

    /// Runs a program inside; panics if it fails.
    pub async fn sh(&self, command: &str) -> String {
        let (ok, out, err) = self.try_sh(command).await;
        assert!(ok, "{command}: {err}");
        out
    }

    pub async fn try_sh(&self, command: &str) -> (bool, String, String) {
        let line = command.to_owned();
        let out =
            self.ns.run(move || Command::new("sh").args(["-c", &line]).output().unwrap()).await.unwrap();
        (out.status.success(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
    }

    /// Runs a program with JSON output inside.
    pub async fn json(&self, command: &str) -> Vec<Value> {
        let text = self.sh(command).await;
        let value: Value = serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text })
            .unwrap_or_else(|e| panic!("{command}: {e}: {text}"));
        value
            .as_array()
            .unwrap()
            .iter()
            .filter(|v| **v != Value::Object(Default::default()))
            .cloned()
            .collect()
    }
}

/// Two namespaces joined by a veth pair, both ends up.
pub async fn joined(left_name: &str, right_name: &str) -> (Host, Host) {
    let left = Host::new().await;
    let right = Host::new().await;
    left.nl.create_veth(&veth(left_name, right_name, &right.ns)).await.unwrap();
    left.nl.set_up(left_name).await.unwrap();
    right.nl.set_up(right_name).await.unwrap();
    (left, right)
}

pub fn veth<'a>(host: &'a str, peer: &'a str, peer_ns: &'a Netns) -> netcfg::VethSpec<'a> {
    netcfg::VethSpec {
        host_name: host,
        host_mac: None,
        host_mtu: 0,
        host_group: None,
        peer_name: peer,
        peer_mac: None,
        peer_mtu: 0,
        peer_ns,
    }
}
