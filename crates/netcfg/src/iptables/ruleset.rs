//! Rulesets: what is desired, what `iptables-save` shows, and the way from one to the other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use super::rule::Rule;
use crate::{Error, Family};

/// A table, in the order in which a packet meets them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Before connection tracking.
    Raw,
    /// Marks.
    Mangle,
    /// Address translation.
    Nat,
    /// Accept or drop.
    Filter,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 4] = [Table::Raw, Table::Mangle, Table::Nat, Table::Filter];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Table::Raw => "raw",
            Table::Mangle => "mangle",
            Table::Nat => "nat",
            Table::Filter => "filter",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A jump from a built-in chain to one of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Jump {
    /// The built-in chain, e.g. `FORWARD`.
    pub from: String,
    /// The rule that jumps.
    pub rule: Rule,
    /// Whether it has to come before the rules of others, and is put back there; else it is appended once.
    pub first: bool,
}

/// What we want in one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableRules {
    /// Chains by name, with their rules in order.
    pub chains: BTreeMap<String, Vec<Rule>>,
    /// Jumps from built-in chains.
    pub jumps: Vec<Jump>,
}

/// What we want in one family. [`fmt::Display`] is a complete input for `iptables-restore --noflush`, jumps
/// aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruleset {
    pub family: Family,
    /// The tables; one that is absent shall hold nothing of ours.
    pub tables: BTreeMap<Table, TableRules>,
}

impl Ruleset {
    /// Nothing desired.
    pub fn new(family: Family) -> Self {
        Self { family, tables: BTreeMap::new() }
    }

    /// Adds a rule at the end of a chain, which is made if it is not there.
    pub fn rule(&mut self, table: Table, chain: &str, rule: Rule) -> &mut Self {
        self.chain(table, chain).push(rule);
        self
    }

    /// A chain's rules; the chain is made, empty, if it is not there.
    pub fn chain(&mut self, table: Table, chain: &str) -> &mut Vec<Rule> {
        self.tables.entry(table).or_default().chains.entry(chain.to_owned()).or_default()
    }

    /// Adds a jump after the rules of others, and the chain it leads to.
    pub fn jump(&mut self, table: Table, from: &str, to: &str, comment: &str) -> &mut Self {
        self.add_jump(table, from, to, comment, false)
    }

    /// Adds a jump before the rules of others, and the chain it leads to.
    pub fn jump_first(&mut self, table: Table, from: &str, to: &str, comment: &str) -> &mut Self {
        self.add_jump(table, from, to, comment, true)
    }

    fn add_jump(&mut self, table: Table, from: &str, to: &str, comment: &str, first: bool) -> &mut Self {
        self.chain(table, to);
        // The `iptables` crate splits a rule's text at quotes without knowing escapes.
        let comment = comment.replace(['"', '\'', '\\'], "");
        let jump = Jump { from: from.to_owned(), rule: Rule::jump(to).comment(comment), first };
        let jumps = &mut self.tables.entry(table).or_default().jumps;
        if !jumps.contains(&jump) {
            jumps.push(jump);
        }
        self
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (table, rules) in &self.tables {
            let script = TableScript {
                declare: rules.chains.keys().map(String::as_str).collect(),
                rules: rules.chains.iter().map(|(chain, rules)| (chain.as_str(), rules.as_slice())).collect(),
                ..TableScript::default()
            };
            script.write(*table, f)?;
        }
        Ok(())
    }
}

/// What `iptables-save` shows: per table the chains, per chain the rules' text in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    pub(crate) tables: BTreeMap<Table, BTreeMap<String, SavedChain>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SavedChain {
    pub(crate) builtin: bool,
    pub(crate) rules: Vec<String>,
}

impl Saved {
    /// What of this concerns us, as text: equal texts mean that nobody touched anything of ours.
    pub(crate) fn image(&self, prefix: &str) -> String {
        let mut image = String::new();
        for (table, chains) in &self.tables {
            for (name, chain) in chains {
                let owned = name.starts_with(prefix);
                if owned {
                    image.push_str(&format!("{table} :{name}\n"));
                }
                for (at, line) in chain.rules.iter().enumerate() {
                    if owned || (chain.builtin && calls(line, prefix)) {
                        image.push_str(&format!("{table} {name} {at} {line}\n"));
                    }
                }
            }
        }
        image
    }
}

/// Whether a rule leads to one of our chains. Cheap enough for each of kube-proxy's many rules.
fn calls(line: &str, prefix: &str) -> bool {
    ["-j ", "-g "].iter().any(|flag| {
        line.rfind(flag).is_some_and(|at| {
            (at == 0 || line[..at].ends_with(' ')) && line[at + flag.len()..].starts_with(prefix)
        })
    })
}

impl FromStr for Saved {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut saved = Saved::default();
        // None while in a table that does not concern us (`security`).
        let mut table: Option<&mut BTreeMap<String, SavedChain>> = None;
        for line in text.lines() {
            let bad = |reason: &str| Error::Parse {
                what: "iptables-save".to_owned(),
                line: line.to_owned(),
                reason: reason.to_owned(),
            };
            if let Some(name) = line.strip_prefix('*') {
                table = Table::ALL
                    .into_iter()
                    .find(|t| t.name() == name.trim())
                    .map(|t| saved.tables.entry(t).or_default());
            } else if let Some(rest) = line.strip_prefix(':') {
                let mut words = rest.split(' ');
                let (Some(name), Some(policy)) = (words.next(), words.next()) else {
                    return Err(bad("a chain needs a policy"));
                };
                if let Some(table) = &mut table {
                    table.entry(name.to_owned()).or_default().builtin = policy != "-";
                }
            } else if let Some(rest) = line.strip_prefix("-A ") {
                let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
                if let Some(table) = &mut table {
                    let chain = table.get_mut(chain).ok_or_else(|| bad("no such chain before"))?;
                    chain.rules.push(rule.trim_end().to_owned());
                }
            }
        }
        Ok(saved)
    }
}

/// The commands for one table, in an order that always works: new chains exist before rules jump to them, and
/// nothing jumps to a chain any more when it is deleted.
#[derive(Default)]
struct TableScript<'a> {
    declare: Vec<&'a str>,
    unlink: Vec<(&'a str, String)>,
    link_first: Vec<&'a Jump>,
    link_last: Vec<&'a Jump>,
    rules: Vec<(&'a str, &'a [Rule])>,
    delete: Vec<&'a str>,
}

impl TableScript<'_> {
    fn is_empty(&self) -> bool {
        self.declare.is_empty() && self.unlink.is_empty() && self.link_first.is_empty()
    }

    fn write(&self, table: Table, out: &mut impl fmt::Write) -> fmt::Result {
        writeln!(out, "*{table}")?;
        for chain in &self.declare {
            // With --noflush, declaring a chain empties it.
            writeln!(out, ":{chain} - [0:0]")?;
        }
        for (chain, rule) in &self.unlink {
            writeln!(out, "-D {chain} {rule}")?;
        }
        for jump in &self.link_first {
            writeln!(out, "-I {} 1 {}", jump.from, jump.rule)?;
        }
        for (chain, rules) in &self.rules {
            for rule in *rules {
                writeln!(out, "-A {chain} {rule}")?;
            }
        }
        for jump in &self.link_last {
            writeln!(out, "-A {} {}", jump.from, jump.rule)?;
        }
        for chain in &self.delete {
            writeln!(out, "-X {chain}")?;
        }
        writeln!(out, "COMMIT")
    }
}

/// What has to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Input for `iptables-restore --noflush`, per table.
    pub restore: BTreeMap<Table, String>,
    /// How many missing jumps that input adds.
    pub restored_jumps: usize,
    /// Missing jumps of tables that need nothing else: one more look right before they are added costs little there,
    /// while a first start would run the tools fifty times.
    pub jumps: Vec<(Table, Jump)>,
}

impl Plan {
    /// Whether nothing has to be done.
    pub fn is_empty(&self) -> bool {
        self.restore.is_empty() && self.jumps.is_empty()
    }

    /// The whole input for `iptables-restore --noflush`.
    pub fn restore_text(&self) -> String {
        self.restore.values().map(String::as_str).collect()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.restore_text())?;
        for (table, jump) in &self.jumps {
            let place = if jump.first { "-I" } else { "-A" };
            writeln!(f, "# iptables -t {table} {place} {} {}", jump.from, jump.rule)?;
        }
        Ok(())
    }
}

/// What has to be done for the chains that begin with `prefix`, and the jumps to them, to be the desired ones.
pub fn plan(saved: &Saved, desired: &Ruleset, prefix: &str) -> Plan {
    let mut plan = Plan::default();
    let nothing = TableRules::default();
    let empty = BTreeMap::new();
    for table in Table::ALL {
        let want = desired.tables.get(&table).unwrap_or(&nothing);
        let have = saved.tables.get(&table).unwrap_or(&empty);
        let mut script = TableScript::default();
        plan_chains(have, want, prefix, &mut script);
        let missing = plan_jumps(have, want, prefix, &mut script);
        if script.is_empty() {
            plan.jumps.extend(missing.into_iter().map(|jump| (table, jump.clone())));
        } else {
            plan.restored_jumps += missing.len();
            let (first, last): (Vec<_>, Vec<_>) = missing.into_iter().partition(|jump| jump.first);
            script.link_first.extend(first);
            script.link_last = last;
            let mut text = String::new();
            script.write(table, &mut text).expect("writing to a string must succeed");
            plan.restore.insert(table, text);
        }
    }
    plan
}

fn plan_chains<'a>(
    have: &'a BTreeMap<String, SavedChain>,
    want: &'a TableRules,
    prefix: &str,
    script: &mut TableScript<'a>,
) {
    for (name, rules) in &want.chains {
        let same = have.get(name).is_some_and(|chain| {
            chain.rules.len() == rules.len()
                && chain
                    .rules
                    .iter()
                    .zip(rules)
                    .all(|(line, rule)| line.parse::<Rule>().is_ok_and(|r| r == *rule))
        });
        if !same {
            script.declare.push(name);
            script.rules.push((name, rules));
        }
    }
    for (name, chain) in have {
        if name.starts_with(prefix) && !chain.builtin && !want.chains.contains_key(name) {
            script.declare.push(name);
            script.delete.push(name);
        }
    }
}

/// Puts the jumps that are not to be there, or not where they are, into the script, and returns those that are missing, in
/// the order in which to add them.
fn plan_jumps<'a>(
    have: &'a BTreeMap<String, SavedChain>,
    want: &'a TableRules,
    prefix: &str,
    script: &mut TableScript<'a>,
) -> Vec<&'a Jump> {
    let mut present: BTreeSet<(&str, &Rule)> = BTreeSet::new();
    for (name, chain) in have.iter().filter(|(_, chain)| chain.builtin) {
        let mut others_before = false;
        for line in &chain.rules {
            if !calls(line, prefix) {
                others_before = true;
                continue;
            }
            let rule = line.parse::<Rule>().ok();
            let wanted = want.jumps.iter().find(|j| j.from == *name && Some(&j.rule) == rule.as_ref());
            match wanted {
                // The same rule twice: -D takes the first of them, which does as well.
                Some(jump) if !present.insert((&jump.from, &jump.rule)) => {
                    script.unlink.push((name, line.clone()));
                }
                Some(jump) if jump.first && others_before => {
                    script.unlink.push((name, line.clone()));
                    script.link_first.push(jump);
                }
                Some(_) => {}
                None => script.unlink.push((name, line.clone())),
            }
        }
    }
    // The last one inserted at the head comes first.
    script.link_first.reverse();
    let (first, last): (Vec<_>, Vec<_>) = want.jumps.iter().partition(|jump| jump.first);
    let missing = |jump: &&Jump| !present.contains(&(jump.from.as_str(), &jump.rule));
    first.into_iter().rev().chain(last).filter(missing).collect()
}

#[cfg(test)]
#[path = "ruleset_tests.rs"]
mod tests;
