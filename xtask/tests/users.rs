//! Public functions of our crates have a user: a name that occurs once in the sources is that of a function which
//! nobody calls. The compiler cannot tell, for it does not know who else might.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// What has no user yet, and the issue that brings one.
const RESERVED: [(&str, &str); 0] = [];

/// Where functions are looked for.
const LIBRARIES: [&str; 3] = ["crates", "crds", "agent"];
/// Where their users are.
const USERS: [&str; 10] = [
    "crates",
    "crds",
    "agent",
    "operator",
    "controller",
    "cni",
    "antctl",
    "xtask",
    "tests",
    "fuzz/fuzz_targets",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("must lie in the repository").to_owned()
}

/// Sources below a folder, without what cargo builds there.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// The code of a file, without its comments. What tests alone use counts as used: codecs are whole, and a test that
/// makes a link has to delete it.
fn code(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path)?;
    Ok(text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n"))
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Names of public functions that are defined in this code.
fn functions(code: &str) -> impl Iterator<Item = &str> {
    code.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix("pub ")?;
        let (modifiers, name) = rest.split_once("fn ")?;
        modifiers
            .split_whitespace()
            .all(|word| matches!(word, "const" | "async"))
            .then(|| words(name).next())?
    })
}

#[test]
fn every_public_function_has_a_user() -> Result<()> {
    let mut uses: HashMap<String, usize> = HashMap::new();
    let mut defined: Vec<(String, PathBuf)> = Vec::new();
    for folder in USERS {
        let mut files = Vec::new();
        sources(&root().join(folder), &mut files)?;
        // What is reserved is named here.
        for path in files.into_iter().filter(|path| !path.ends_with("xtask/tests/users.rs")) {
            let code = code(&path)?;
            for word in words(&code) {
                *uses.entry(word.to_owned()).or_default() += 1;
            }
            let own = path.strip_prefix(root())?.to_owned();
            if LIBRARIES.iter().any(|library| own.starts_with(library)) {
                defined.extend(functions(&code).map(|name| (name.to_owned(), own.clone())));
            }
        }
    }
    ensure!(defined.len() > 500, "only {} public functions were found", defined.len());
    let unused: Vec<String> = defined
        .iter()
        .filter(|(name, _)| uses[name] == 1 && !RESERVED.iter().any(|(reserved, _)| reserved == name))
        .map(|(name, path)| format!("{name} in {}", path.display()))
        .collect();
    ensure!(unused.is_empty(), "nobody uses {}", unused.join(", "));
    for (name, reason) in RESERVED {
        ensure!(uses.get(name) == Some(&1), "{name} is used or gone, and not reserved any more ({reason})");
    }
    Ok(())
}

#[test]
fn definitions_are_found() {
    let code = "pub fn a() {}\n    pub const fn b(c: u8) {}\npub async fn d<T>() {}\npub(crate) fn e() {}\nfn f() {}\n";
    assert_eq!(functions(code).collect::<Vec<_>>(), ["a", "b", "d"]);
}
