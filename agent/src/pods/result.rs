//! CNI results: one model inside, every format of the specification outside.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// What an ADD made, in the shape of specification 1.0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CniResult {
    /// Links, the host's end first.
    pub interfaces: Vec<Interface>,
    /// Addresses of the container's link.
    pub ips: Vec<IpConfig>,
    /// Routes of the container.
    pub routes: Vec<Route>,
    /// DNS settings, passed through from IPAM.
    pub dns: Map<String, Value>,
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    pub name: String,
    /// Address, `aa:bb:cc:dd:ee:ff`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Path of its network namespace; empty for the host's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sandbox: String,
}

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpConfig {
    /// Address and prefix.
    pub address: IpNet,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Index into [`CniResult::interfaces`].
    pub interface: Option<usize>,
}

/// A route of the container, as the runtime is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub dst: IpNet,
    /// Next hop.
    pub gw: Option<IpAddr>,
}

/// A result that cannot be read. The message names the field.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("CNI result: {0}")]
pub struct MalformedResult(String);

impl CniResult {
    /// Reads a result of any version since 0.3.0.
    ///
    /// # Errors
    /// An address, gateway, route or index that is malformed.
    pub fn parse(value: &Value) -> Result<Self, MalformedResult> {
        let malformed =
            |field: &str, value: &Value| MalformedResult(format!("{field}: {value} is malformed"));
        let list = |key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let interfaces = list("interfaces")
            .into_iter()
            .map(|item| serde_json::from_value(item.clone()).map_err(|_| malformed("interfaces", &item)))
            .collect::<Result<Vec<Interface>, _>>()?;
        let parse_gateway = |field: &str, item: &Value, key: &str| match item.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(text) => text
                .as_str()
                .and_then(|text| text.parse::<IpAddr>().ok())
                .map(Some)
                .ok_or_else(|| malformed(field, text)),
        };
        let mut ips = Vec::new();
        for item in list("ips") {
            let address = item
                .get("address")
                .and_then(Value::as_str)
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| malformed("ips.address", &item))?;
            let interface = match item.get("interface").and_then(Value::as_u64) {
                Some(index) if (index as usize) < interfaces.len() => Some(index as usize),
                Some(_) => return Err(malformed("ips.interface", &item)),
                None => None,
            };
            ips.push(IpConfig {
                address,
                gateway: parse_gateway("ips.gateway", &item, "gateway")?,
                interface,
            });
        }
        let mut routes = Vec::new();
        for item in list("routes") {
            let dst = item
                .get("dst")
                .and_then(Value::as_str)
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| malformed("routes.dst", &item))?;
            routes.push(Route { dst, gw: parse_gateway("routes.gw", &item, "gw")? });
        }
        let dns = value.get("dns").and_then(Value::as_object).cloned().unwrap_or_default();
        Ok(Self { interfaces, ips, routes, dns })
    }

    /// Writes the result in the format of `version` (0.3.0 to 1.1.0).
    pub fn to_json(&self, version: &str) -> Value {
        let with_family = version.starts_with("0.");
        let ips: Vec<Value> = self
            .ips
            .iter()
            .map(|ip| {
                let mut item = Map::new();
                if with_family {
                    let family = if ip.address.addr().is_ipv4() { "4" } else { "6" };
                    item.insert("version".into(), family.into());
                }
                if let Some(index) = ip.interface {
                    item.insert("interface".into(), index.into());
                }
                item.insert("address".into(), ip.address.to_string().into());
                if let Some(gateway) = ip.gateway {
                    item.insert("gateway".into(), gateway.to_string().into());
                }
                Value::Object(item)
            })
            .collect();
        let routes: Vec<Value> = self
            .routes
            .iter()
            .map(|route| match route.gw {
                Some(gw) => json!({"dst": route.dst.to_string(), "gw": gw.to_string()}),
                None => json!({"dst": route.dst.to_string()}),
            })
            .collect();
        json!({
            "cniVersion": version,
            "interfaces": self.interfaces,
            "ips": ips,
            "routes": routes,
            "dns": self.dns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> CniResult {
        CniResult {
            interfaces: vec![
                Interface {
                    name: "web-1a2b3c".into(),
                    mac: "02:00:00:00:00:01".into(),
                    sandbox: String::new(),
                },
                Interface {
                    name: "eth0".into(),
                    mac: "02:00:00:00:00:02".into(),
                    sandbox: "/run/netns/x".into(),
                },
            ],
            ips: vec![
                IpConfig {
                    address: "10.244.1.5/24".parse().unwrap(),
                    gateway: Some("10.244.1.1".parse().unwrap()),
                    interface: Some(1),
                },
                IpConfig { address: "fd00:1::5/64".parse().unwrap(), gateway: None, interface: Some(1) },
            ],
            routes: vec![Route {
                dst: "0.0.0.0/0".parse().unwrap(),
                gw: Some("10.244.1.1".parse().unwrap()),
            }],
            dns: Map::new(),
        }
    }

    #[test]
    fn every_version_reads_back() {
        for version in antrea_api::cni::SPEC_VERSIONS {
            let json = sample().to_json(version);
            assert_eq!(json["cniVersion"], version);
            assert_eq!(CniResult::parse(&json).unwrap(), sample(), "{version}");
        }
    }

    #[test]
    fn only_old_formats_carry_the_family() {
        assert_eq!(sample().to_json("0.4.0")["ips"][1]["version"], "6");
        assert!(sample().to_json("1.0.0")["ips"][1].get("version").is_none());
    }

    #[test]
    fn names_the_malformed_field() {
        for (json, field) in [
            (json!({"ips": [{"address": "10.0.0.1"}]}), "ips.address"),
            (json!({"ips": [{"address": "10.0.0.1/8", "gateway": "x"}]}), "ips.gateway"),
            (json!({"ips": [{"address": "10.0.0.1/8", "interface": 3}]}), "ips.interface"),
            (json!({"routes": [{"dst": 1}]}), "routes.dst"),
        ] {
            let error = CniResult::parse(&json).unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
    }
}
