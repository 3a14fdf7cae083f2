//! What `nft -j list table` says is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use super::table::{Set, Verdict};
use crate::{Error, Result};

/// A table as it is. `None` stands for what no table of ours has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Chains: hook, priority, and digests of rules.
    pub(super) chains: BTreeMap<String, FoundChain>,
    pub(super) sets: BTreeMap<String, Option<Set>>,
    pub(super) maps: BTreeMap<String, Option<BTreeMap<IpAddr, Verdict>>>,
    /// Names of other objects: counters, flowtables and the like.
    pub(super) others: BTreeSet<String>,
}

/// A chain as the kernel has it; rules are known by their comments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FoundChain {
    /// Type, hook, priority and policy of one that has a hook.
    pub(super) hook: Option<(String, String, Option<i64>, String)>,
    /// Comments of its rules.
    pub(super) rules: Vec<String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Found {
    /// Reads nft's answer.
    pub(super) fn read(json: &str) -> Result<Self> {
        let what = || "nft -j list table".to_owned();
        let read = |reason: String| Error::Parse { what: what(), line: String::new(), reason };
        let all: Value = serde_json::from_str(json).map_err(|error| read(error.to_string()))?;
        let objects = all["nftables"].as_array().ok_or_else(|| read("no objects".to_owned()))?;
        let mut found = Self::default();
        for (kind, object) in objects.iter().filter_map(Value::as_object).flatten() {
            let name = text(&object["name"]);
            match kind.as_str() {
                "metainfo" | "table" => {}
                "chain" => found.chains.entry(name).or_default().hook = hook(object),
                "rule" => {
                    let chain = found.chains.entry(text(&object["chain"])).or_default();
                    chain.rules.push(text(&object["comment"]));
                }
                "set" => {
                    found.sets.insert(name, set(object));
                }
                "map" => {
                    found.maps.insert(name, map(object));
                }
                other => {
                    found.others.insert(format!("{other} {name}"));
                }
            }
        }
        Ok(found)
    }
}

fn hook(object: &Value) -> Option<(String, String, Option<i64>, String)> {
    let name = object["hook"].as_str()?;
    Some((text(&object["type"]), name.to_owned(), object["prio"].as_i64(), text(&object["policy"])))
}

fn elements(object: &Value) -> &[Value] {
    object["elem"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

/// By the name of the type, as nft 1.0.6 has it, or as the field that has it, as 1.1.3.
fn is_of_addresses(object: &Value) -> bool {
    let field = &object["type"]["typeof"]["payload"];
    matches!(object["type"].as_str(), Some("ipv4_addr" | "ipv6_addr"))
        || matches!(field["protocol"].as_str(), Some("ip" | "ip6"))
            && matches!(field["field"].as_str(), Some("saddr" | "daddr"))
}

fn set(object: &Value) -> Option<Set> {
    // One flag may stand alone or in a list.
    let flags: Vec<&str> = match &object["flags"] {
        Value::Null => Vec::new(),
        Value::String(flag) => vec![flag],
        flags => flags.as_array()?.iter().filter_map(Value::as_str).collect(),
    };
    let elements = elements(object);
    match &flags[..] {
        _ if !is_of_addresses(object) => None,
        [] => elements.iter().map(address).collect::<Option<_>>().map(Set::Addresses),
        ["interval"] => elements.iter().map(range).collect::<Option<_>>().map(Set::Ranges),
        _ => None,
    }
}

fn range(value: &Value) -> Option<(IpAddr, IpAddr)> {
    if let Some(one) = address(value) {
        return Some((one, one));
    }
    if let [first, last] = value["range"].as_array().map(Vec::as_slice).unwrap_or_default() {
        return Some((address(first)?, address(last)?));
    }
    let length = u8::try_from(value["prefix"]["len"].as_u64()?).ok()?;
    let net = ipnet::IpNet::new(address(&value["prefix"]["addr"])?, length).ok()?;
    Some((net.network(), net.broadcast()))
}

fn map(object: &Value) -> Option<BTreeMap<IpAddr, Verdict>> {
    if !is_of_addresses(object) || object["map"] != "verdict" || !object["flags"].is_null() {
        return None;
    }
    let entry = |value: &Value| match value.as_array().map(Vec::as_slice)? {
        [key, verdict] => Some((address(key)?, self::verdict(verdict)?)),
        _ => None,
    };
    elements(object).iter().map(entry).collect()
}

fn verdict(value: &Value) -> Option<Verdict> {
    let target = |kind: &str| value[kind]["target"].as_str().map(str::to_owned);
    match value.as_object()?.keys().next()?.as_str() {
        "accept" => Some(Verdict::Accept),
        "drop" => Some(Verdict::Drop),
        "goto" => target("goto").map(Verdict::Goto),
        "jump" => target("jump").map(Verdict::Jump),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_ours_is_told_from_what_is() {
        let json = r#"{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"table": {"family": "ip", "name": "T"}},
            {"set": {"name": "S", "type": {"typeof": {"payload": {"protocol": "ip", "field": "daddr"}}},
                "elem": ["10.0.0.1"]}},
            {"set": {"name": "R", "type": "ipv6_addr", "flags": "interval",
             "elem": ["fd00::1", {"range": ["fd00::3", "fd00::4"]}, {"prefix": {"addr": "fd01::", "len": 127}}]}},
            {"set": {"name": "timed", "type": "ipv4_addr", "flags": ["timeout"],
             "elem": [{"elem": {"val": "10.0.0.1", "expires": 3}}]}},
            {"set": {"name": "other", "type": "inet_service"}},
            {"map": {"name": "M", "type": "ipv4_addr", "map": "verdict",
             "elem": [["10.0.0.1", {"goto": {"target": "C"}}], ["10.0.0.2", {"drop": null}]]}},
            {"map": {"name": "marks", "type": "ipv4_addr", "map": "mark"}},
            {"counter": {"name": "n"}},
            {"chain": {"name": "C"}},
            {"chain": {"name": "IN", "type": "filter", "hook": "input", "prio": 110, "policy": "accept"}},
            {"rule": {"chain": "C", "comment": "abc", "expr": []}}, {"rule": {"chain": "C", "expr": [{"drop": null}]}}]}"#;
        let found = Found::read(json).unwrap();
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let ranges = [("fd00::1", "fd00::1"), ("fd00::3", "fd00::4"), ("fd01::", "fd01::1")]
            .map(|(a, b)| (ip(a), ip(b)));
        assert_eq!(found.sets["S"], Some(Set::Addresses([ip("10.0.0.1")].into())));
        assert_eq!(found.sets["R"], Some(Set::Ranges(ranges.into())));
        assert_eq!((&found.sets["timed"], &found.sets["other"]), (&None, &None));
        let goto = Verdict::Goto("C".to_owned());
        assert_eq!(found.maps["M"], Some([(ip("10.0.0.1"), goto), (ip("10.0.0.2"), Verdict::Drop)].into()));
        assert_eq!(found.maps["marks"], None);
        assert_eq!(found.others, ["counter n".to_owned()].into());
        assert_eq!(found.chains["C"].rules, ["abc", ""]);
        assert_eq!(found.chains["IN"].hook.as_ref().unwrap().2, Some(110));
        assert!(Found::read("no JSON").is_err() && Found::read("{}").is_err());
    }
}
