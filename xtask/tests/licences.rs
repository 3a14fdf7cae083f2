//! Licences, sources and bans of dependencies, by the lists in deny.toml. cargo-deny looks more closely, but takes four
//! minutes to build; it runs in `make test-all`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    license: Option<String>,
    /// None of a crate of this workspace.
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("must lie in the repository").to_owned()
}

/// What our two targets depend on; the lock also has crates for others.
fn dependencies() -> Result<Vec<Package>> {
    let mut found = BTreeMap::new();
    for target in ["x86_64-unknown-linux-gnu", "x86_64-unknown-linux-musl"] {
        let args = [
            "metadata",
            "--format-version=1",
            "--offline",
            "--locked",
            "--all-features",
            "--filter-platform",
            target,
        ];
        let output = Command::new(env!("CARGO")).args(args).current_dir(root()).output()?;
        ensure!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
        let used: BTreeSet<String> = metadata.resolve.nodes.into_iter().map(|node| node.id).collect();
        let packages = metadata.packages.into_iter().filter(|package| used.contains(&package.id));
        found.extend(packages.map(|package| (package.id.clone(), package)));
    }
    ensure!(found.len() > 200, "cargo metadata tells of {} crates", found.len());
    Ok(found.into_values().collect())
}

/// The strings of the first list called `name` in `section` of deny.toml, or the crates that it names.
fn list(section: &str, name: &str) -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(root().join("deny.toml"))?;
    let (_, section) = text.split_once(&format!("[{section}]")).with_context(|| format!("no [{section}]"))?;
    let (_, list) = section.split_once(&format!("\n{name} = [\n")).with_context(|| format!("no {name}"))?;
    let lines = list.lines().take_while(|line| *line != "]").filter(|line| line.contains('"'));
    let strings: BTreeSet<String> =
        lines.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect();
    ensure!(strings.len() > 2, "deny.toml: {name} has {} entries", strings.len());
    Ok(strings)
}

/// Whether an SPDX expression can be met with these licences alone: `AND` binds closer than `OR`, and `/` is how crates
/// of old say `OR`.
fn allowed(expression: &str, licences: &BTreeSet<String>) -> Result<bool> {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let met = alternatives(&mut words, licences)?;
    ensure!(words.next().is_none(), "what follows is no part of an expression");
    Ok(met)
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn alternatives(words: &mut Words<'_>, licences: &BTreeSet<String>) -> Result<bool> {
    let mut met = conjunction(words, licences)?;
    while words.next_if_eq(&"OR").is_some() {
        met |= conjunction(words, licences)?;
    }
    Ok(met)
}

fn conjunction(words: &mut Words<'_>, licences: &BTreeSet<String>) -> Result<bool> {
    let mut met = licence(words, licences)?;
    while words.next_if_eq(&"AND").is_some() {
        met &= licence(words, licences)?;
    }
    Ok(met)
}

fn licence(words: &mut Words<'_>, licences: &BTreeSet<String>) -> Result<bool> {
    match words.next() {
        Some("(") => {
            let met = alternatives(words, licences)?;
            ensure!(words.next() == Some(")"), "a parenthesis is not closed");
            Ok(met)
        }
        None | Some(")" | "AND" | "OR" | "WITH") => bail!("a licence is missing"),
        Some(id) => match words.next_if_eq(&"WITH") {
            Some(_) => {
                let exception = words.next().context("an exception is missing")?;
                Ok(licences.contains(id) || licences.contains(&format!("{id} WITH {exception}")))
            }
            None => Ok(licences.contains(id)),
        },
    }
}

#[test]
fn every_dependency_has_an_allowed_licence() -> Result<()> {
    let licences = list("licenses", "allow")?;
    let mut wrong = Vec::new();
    for Package { id, license, source, .. } in dependencies()? {
        if source.is_none() {
            continue;
        }
        let expression = license.unwrap_or_default();
        match allowed(&expression, &licences) {
            Ok(true) => {}
            Ok(false) => wrong.push(format!("{id}: {expression}")),
            Err(error) => wrong.push(format!("{id}: {expression:?}: {error}")),
        }
    }
    ensure!(wrong.is_empty(), "not in deny.toml: {}", wrong.join("; "));
    Ok(())
}

#[test]
fn every_dependency_is_from_the_registry_and_none_is_banned() -> Result<()> {
    let banned = list("bans", "deny")?;
    let mut wrong = Vec::new();
    for Package { id, name, source, .. } in dependencies()? {
        if source.is_some_and(|source| source != REGISTRY) {
            wrong.push(format!("{id} is not from crates.io"));
        }
        if banned.contains(&name) {
            wrong.push(format!("{id} is banned"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

#[test]
fn expressions_are_understood() -> Result<()> {
    let licences = BTreeSet::from(["MIT", "Zlib", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned));
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("Zlib AND (GPL-3.0 OR MIT)", true),
        ("(MIT OR Zlib) AND GPL-3.0", false),
        ("MIT OR GPL-3.0 AND GPL-2.0", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
    ] {
        ensure!(allowed(expression, &licences)? == expected, "{expression}");
    }
    for broken in ["", "MIT OR", "MIT MIT", "(MIT", "MIT)"] {
        ensure!(allowed(broken, &licences).is_err(), "{broken:?} is accepted");
    }
    Ok(())
}
