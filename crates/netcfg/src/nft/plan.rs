//! From a table as it is to one as it should be: the commands of one transaction.

use std::fmt::Write;
use std::net::IpAddr;

use super::found::{Found, FoundChain};
use super::table::{Chain, Set, Table, Verdict, keyword, members};
use crate::Family;

/// Addresses in one command, so that lines stay of a length that can be read.
const BATCH: usize = 64;

/// What has to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Input of `nft -f`; empty if nothing differs.
    pub(super) commands: String,
    /// What differs, for people.
    pub(super) differences: Vec<String>,
}

/// The table, whatever is there now.
pub(super) fn whole(table: &Table) -> String {
    let place = Place::of(table);
    let mut out = String::new();
    // Added first, because what is not there cannot be deleted.
    let _ = writeln!(out, "add table {0}\ndelete table {0}\nadd table {0}", place.0);
    for (name, set) in &table.sets {
        place.add_set(name, set, table.family, &mut out);
    }
    for name in table.maps.keys() {
        place.add_map(name, table.family, &mut out);
    }
    for (name, chain) in &table.chains {
        place.add_chain(name, chain, &mut out);
    }
    for (name, map) in &table.maps {
        place.elements("add", name, map.iter().map(entry).collect(), &mut out);
    }
    for (name, chain) in &table.chains {
        place.add_rules(name, chain, table.family, &mut out);
    }
    out
}

/// What makes a table that is there the desired one. `None`: it has to be made anew.
pub(super) fn plan(found: &Found, table: &Table) -> Option<Plan> {
    let place = Place::of(table);
    let mut plan = Plan::default();
    let (mut first, mut last) = (String::new(), String::new());
    if !found.others.is_empty() {
        return None;
    }
    for (name, set) in &table.sets {
        match (set, found.sets.get(name)) {
            (_, None) => {
                place.add_set(name, set, table.family, &mut first);
                plan.differences.push(format!("set {name} was missing"));
            }
            (wanted, Some(Some(there))) if there == wanted => {}
            (Set::Addresses(wanted), Some(Some(Set::Addresses(there)))) => {
                let text = |ip: &IpAddr| ip.to_string();
                place.elements("add", name, wanted.difference(there).map(text).collect(), &mut first);
                place.elements("delete", name, there.difference(wanted).map(text).collect(), &mut last);
                plan.differences.push(format!("members of set {name} differed"));
            }
            (_, Some(_)) => return None,
        }
    }
    for name in table.maps.keys().filter(|name| !found.maps.contains_key(*name)) {
        place.add_map(name, table.family, &mut first);
        plan.differences.push(format!("map {name} was missing"));
    }
    for (name, chain) in &table.chains {
        match found.chains.get(name) {
            None => place.add_chain(name, chain, &mut first),
            Some(there) if !has_hook(there, chain) => return None,
            Some(_) => {}
        }
    }
    for (name, chain) in &table.chains {
        let wanted = chain.rules.iter().map(|rule| rule.digest(table.family));
        let there = found.chains.get(name);
        if there.is_some_and(|there| there.rules.iter().cloned().eq(wanted)) {
            continue;
        }
        if there.is_some() {
            let _ = writeln!(first, "flush chain {} {name}", place.0);
        }
        place.add_rules(name, chain, table.family, &mut first);
        plan.differences.push(format!("rules of chain {name} differed"));
    }
    for (name, wanted) in &table.maps {
        let there = match found.maps.get(name) {
            None => Default::default(),
            Some(Some(there)) => there.clone(),
            Some(None) => return None,
        };
        let gone = there.iter().filter(|(ip, verdict)| wanted.get(*ip) != Some(*verdict));
        let new = wanted.iter().filter(|(ip, verdict)| there.get(*ip) != Some(*verdict));
        let gone: Vec<String> = gone.map(|(ip, _)| ip.to_string()).collect();
        let new: Vec<String> = new.map(entry).collect();
        if !gone.is_empty() || !new.is_empty() {
            plan.differences.push(format!("verdicts of map {name} differed"));
        }
        place.elements("delete", name, gone, &mut first);
        place.elements("add", name, new, &mut first);
    }
    // What refers to something goes before it.
    let mut foreign = |kind: &str, name: &String, out: &mut String| {
        let _ = writeln!(out, "delete {kind} {} {name}", place.0);
        plan.differences.push(format!("{kind} {name} was not wanted"));
    };
    let extra = || found.chains.keys().filter(|name| !table.chains.contains_key(*name));
    for name in extra() {
        let _ = writeln!(first, "flush chain {} {name}", place.0);
    }
    for name in found.maps.keys().filter(|name| !table.maps.contains_key(*name)) {
        foreign("map", name, &mut last);
    }
    for name in extra() {
        foreign("chain", name, &mut last);
    }
    for name in found.sets.keys().filter(|name| !table.sets.contains_key(*name)) {
        foreign("set", name, &mut last);
    }
    plan.commands = first + &last;
    Some(plan)
}

fn has_hook(there: &FoundChain, wanted: &Chain) -> bool {
    let wanted = wanted.hook.map(|hook| {
        ("filter".to_owned(), hook.name.to_owned(), Some(i64::from(hook.priority)), "accept".to_owned())
    });
    there.hook == wanted
}

fn entry((address, verdict): (&IpAddr, &Verdict)) -> String {
    format!("{address} : {verdict}")
}

/// Family and name of a table.
struct Place(String);

impl Place {
    fn of(table: &Table) -> Self {
        Self(format!("{} {}", keyword(table.family), table.name))
    }

    fn add_set(&self, name: &str, set: &Set, family: Family, out: &mut String) {
        let flags = if matches!(set, Set::Ranges(_)) { " flags interval;" } else { "" };
        let _ = writeln!(out, "add set {} {name} {{ typeof {} daddr;{flags} }}", self.0, protocol(family));
        self.elements("add", name, members(set), out);
    }

    fn add_map(&self, name: &str, family: Family, out: &mut String) {
        let _ = writeln!(out, "add map {} {name} {{ typeof {} saddr : verdict; }}", self.0, protocol(family));
    }

    fn add_chain(&self, name: &str, chain: &Chain, out: &mut String) {
        let hook = chain.hook.map(|hook| {
            let (name, priority) = (hook.name, hook.priority);
            format!(" {{ type filter hook {name} priority {priority}; policy accept; }}")
        });
        let _ = writeln!(out, "add chain {} {name}{}", self.0, hook.unwrap_or_default());
    }

    fn add_rules(&self, name: &str, chain: &Chain, family: Family, out: &mut String) {
        for rule in &chain.rules {
            let (text, digest) = (rule.text(family), rule.digest(family));
            let _ = writeln!(out, "add rule {} {name} {text} comment \"{digest}\"", self.0);
        }
    }

    fn elements(&self, verb: &str, name: &str, elements: Vec<String>, out: &mut String) {
        for batch in elements.chunks(BATCH) {
            let _ = writeln!(out, "{verb} element {} {name} {{ {} }}", self.0, batch.join(", "));
        }
    }
}

/// What sets and maps have the type of a field of. By the name of a type, nft 1.1.3 writes down for others how to print them in
/// a way at which nft 1.0.6 ends with a segmentation fault, whatever it was asked, and kube-proxy's nftables mode with it.
fn protocol(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}
