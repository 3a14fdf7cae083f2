//! What every source keeps to: a file holds one thing and is no longer than that needs, and what others use of a crate
//! says what it is for.
//!
//! rustc's `missing_docs` asks for words on each field and variant too, which brought forth "/// Metrics.": it has no
//! switch for these, so this stands in its place. A field has a comment where its name does not say all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

/// Lines of a file that need no reason.
const LONG: usize = 500;

/// What the head of a longer file says, followed by the reason.
const MARKER: &str = "Longer than 500 lines, because ";

/// Folders with sources.
const FOLDERS: [&str; 11] =
    ["crates", "crds", "agent", "operator", "controller", "cni", "antctl", "ui", "xtask", "tests", "fuzz"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("must lie in the repository").to_owned()
}

/// All sources, with their text, by path below the root.
fn sources() -> Result<Vec<(String, String)>> {
    fn collect(folder: &Path, found: &mut Vec<(String, String)>) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let skipped = path.ends_with("target") || path.ends_with("node_modules");
            if path.is_dir() && !skipped {
                collect(&path, found)?;
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root())?.display().to_string();
                found.push((name, fs::read_to_string(&path)?));
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    for folder in FOLDERS {
        collect(&root().join(folder), &mut found)?;
    }
    ensure!(found.len() > 500, "only {} sources", found.len());
    Ok(found)
}

/// Whether a file is long without saying why.
fn is_too_long(text: &str) -> bool {
    let head = || text.lines().take_while(|line| line.starts_with("//"));
    text.lines().count() > LONG && !head().any(|line| line.contains(MARKER))
}

#[test]
fn a_long_file_says_why() -> Result<()> {
    let long: Vec<String> = sources()?
        .into_iter()
        .filter(|(_, text)| is_too_long(text))
        .map(|(name, text)| format!("{name} ({})", text.lines().count()))
        .collect();
    ensure!(long.is_empty(), "divide by meaning, or say in the head \"{MARKER}…\": {}", long.join(", "));
    Ok(())
}

#[test]
fn length_and_reason_are_seen() {
    let body = "fn a() {}\n".repeat(LONG);
    assert!(!is_too_long(&body));
    assert!(is_too_long(&format!("//! Words.\n{body}")));
    assert!(!is_too_long(&format!("//! Words.\n//!\n//! {MARKER}it is a table.\n{body}")));
    assert!(is_too_long(&format!("{body}// {MARKER}it is a table.\n")));
}

/// The kinds of items that are to have a comment.
const ITEMS: [&str; 10] = [
    "fn ",
    "async fn ",
    "const fn ",
    "struct ",
    "enum ",
    "union ",
    "trait ",
    "type ",
    "static ",
    "macro_rules! ",
];

/// Public items of a file without a comment above them, by line. Of a trait all functions are public.
fn undocumented(text: &str) -> Vec<(usize, &str)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    let mut in_trait: Option<&str> = None;
    let mut hidden: Option<String> = None;
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        // Tests, and what is for tests alone, up to the brace that closes them.
        if let Some(end) = &hidden {
            hidden = (line != end).then(|| end.clone());
            continue;
        }
        let own = attributes(&lines[..at]);
        if own.iter().any(|attribute| attribute.contains("cfg(test)")) && code.ends_with('{') {
            hidden = Some(format!("{indent}}}"));
            continue;
        }
        if in_trait.is_some_and(|outer| *line == format!("{outer}}}")) {
            in_trait = None;
        }
        let of_trait = in_trait.is_some_and(|outer| indent.len() == outer.len() + 4)
            && (ITEMS.iter().any(|item| code.starts_with(item)) || code.starts_with("const "));
        let public = code.strip_prefix("pub ").is_some_and(|rest| {
            ITEMS.iter().any(|item| rest.starts_with(item)) || rest.starts_with("const ")
        });
        if code.starts_with("pub trait ") && code.ends_with('{') {
            in_trait = Some(indent);
        }
        let above = lines[..at - own.len()].last().map(|line| line.trim_start());
        let said = above.is_some_and(|line| line.starts_with("///") || line.ends_with("*/"))
            || own.iter().any(|attribute| attribute.contains("#[doc"))
            || is_getter(code, lines.get(at + 1).copied().unwrap_or_default());
        // What a macro makes has its comment where the macro is used.
        if (public || of_trait) && !said && !code.contains(" $") {
            found.push((at + 1, code));
        }
    }
    found
}

/// Whether a function returns the field that has its name: a name that says all of a field says all of it.
fn is_getter(code: &str, body: &str) -> bool {
    let function = code.strip_prefix("pub ").map(|rest| rest.strip_prefix("const ").unwrap_or(rest));
    let Some((name, arguments)) = function.and_then(|rest| rest.strip_prefix("fn ")?.split_once('(')) else {
        return false;
    };
    let body = body.trim().trim_start_matches('&').trim_end_matches(".clone()");
    let field = body.strip_prefix("self.").and_then(|path| path.rsplit('.').next());
    arguments.trim_start_matches('&').starts_with("self)") && field == Some(name)
}

/// Words that say nothing by themselves.
const SMALL: [&str; 29] = [
    "a", "all", "an", "and", "as", "be", "by", "each", "every", "for", "has", "have", "in", "is", "it",
    "its", "of", "one", "that", "the", "this", "those", "to", "what", "which", "whose", "with", "are",
    "these",
];

/// A word without its ending, so that a plural is not another one.
fn stem(word: &str) -> String {
    let word = word.to_lowercase();
    for ending in ["ies", "es", "s", "ed", "ing"] {
        if let Some(stem) = word.strip_suffix(ending)
            && stem.len() > 2
        {
            return stem.to_owned();
        }
    }
    word
}

/// The words of a name in snake or camel case.
fn words_of(name: &str) -> BTreeSet<String> {
    let mut words: Vec<String> = Vec::new();
    let mut before = '_';
    for c in name.chars() {
        if c == '_' {
            before = c;
            continue;
        }
        let begins = before == '_' || c.is_uppercase() && !before.is_uppercase();
        match words.last_mut() {
            Some(word) if !begins => word.push(c),
            _ => words.push(c.to_string()),
        }
        before = c;
    }
    words.iter().map(|word| stem(word)).collect()
}

/// Comments of one line that say no more than the name below them.
fn empty_words(text: &str) -> Vec<(usize, &str)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let comment = |at: usize| lines.get(at).and_then(|line| line.strip_prefix("/// "));
    let is_comment =
        |at: Option<usize>| at.is_some_and(|at| lines.get(at).is_some_and(|line| line.starts_with("///")));
    let mut found = Vec::new();
    for (at, said) in (0..lines.len()).filter_map(|at| Some((at, comment(at)?))) {
        if is_comment(at.checked_sub(1)) || is_comment(Some(at + 1)) {
            continue;
        }
        let Some(code) = lines[at + 1..].iter().find(|line| !line.starts_with("#[")) else { continue };
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let mut names = code.split(|c: char| !is_word(c)).filter(|word| !word.is_empty());
        let skipped = [
            "pub", "crate", "super", "const", "async", "static", "fn", "struct", "enum", "trait", "type",
            "mod",
        ];
        let Some(name) = names.find(|word| !skipped.contains(word)) else { continue };
        let name = words_of(name);
        let said_words = said.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        let mut said_words =
            said_words.filter(|word| !SMALL.contains(&word.to_lowercase().as_str())).map(stem).peekable();
        if said_words.peek().is_some() && said_words.all(|word| name.contains(&word)) {
            found.push((at + 1, said));
        }
    }
    found
}

/// The lines of attributes at the end of these lines.
fn attributes<'a>(lines: &'a [&'a str]) -> &'a [&'a str] {
    let mut first = lines.len();
    let mut open = false;
    while let Some(line) = first.checked_sub(1).and_then(|at| lines.get(at)) {
        let code = line.trim();
        let begins = code.starts_with("#[");
        if !(begins || open || code.ends_with(")]")) || code.is_empty() {
            break;
        }
        open = !begins;
        first -= 1;
    }
    &lines[first..]
}

/// Modules in files of their own that are public.
fn public_modules(text: &str) -> impl Iterator<Item = &str> {
    let lines: Vec<&str> = text.lines().collect();
    let said = move |at: usize| {
        let above = &lines[..at];
        let own = attributes(above);
        above[..above.len() - own.len()].last().is_some_and(|line| line.trim_start().starts_with("///"))
            || own.iter().any(|attribute| attribute.contains("cfg(test)"))
    };
    text.lines().enumerate().filter_map(move |(at, line)| {
        let name = line.strip_prefix("pub mod ")?.strip_suffix(';')?;
        (!said(at)).then_some(name)
    })
}

/// The two places of a module that is declared in a file.
fn files_of(name: &str, module: &str) -> [String; 2] {
    let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
    let own = match file {
        "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
        _ => name.trim_end_matches(".rs").to_owned(),
    };
    [format!("{own}/{module}.rs"), format!("{own}/{module}/mod.rs")]
}

#[test]
fn what_others_use_says_what_it_is_for() -> Result<()> {
    let library =
        |name: &str| name.contains("/src/") && !name.starts_with("tests/") && !name.starts_with("fuzz/");
    let tests = |name: &str| {
        let file = name.rsplit('/').next().unwrap_or_default();
        name.contains("/tests/")
            || ["tests.rs", "testing.rs", "fake.rs"].contains(&file)
            || file.ends_with("_tests.rs")
    };
    let all: BTreeMap<String, String> = sources()?.into_iter().collect();
    let mut missing = Vec::new();
    let mut looked_at = 0;
    for (name, text) in all.iter().filter(|(name, _)| library(name) && !tests(name)) {
        looked_at += 1;
        for module in public_modules(text) {
            let said = files_of(name, module)
                .iter()
                .any(|file| all.get(file).is_some_and(|text| text.starts_with("//!")));
            if !said {
                missing.push(format!("{name}: module {module}"));
            }
        }
        missing.extend(undocumented(text).iter().map(|(line, code)| format!("{name}:{line}: {code}")));
        let root = name.ends_with("src/lib.rs") || name.ends_with("src/main.rs");
        if root && !text.starts_with("//!") {
            missing.push(format!("{name}: what is this crate?"));
        }
    }
    ensure!(looked_at > 300, "only {looked_at} files were looked at");
    ensure!(missing.is_empty(), "without a comment:\n{}", missing.join("\n"));
    Ok(())
}

/// Where a comment is what a user reads (the help of a command, the description of a resource's field), or the
/// convention of a family of names is to have one each.
const READ_BY_USERS: [&str; 4] = ["crds/", "antctl/", "agent/src/args.rs", "xtask/"];

#[test]
fn a_comment_says_more_than_the_name() -> Result<()> {
    let mut empty = Vec::new();
    for (name, text) in sources()? {
        let read = READ_BY_USERS.iter().any(|of| name.starts_with(of));
        if name.contains("/src/") && !name.starts_with("tests/") && !read {
            empty.extend(empty_words(&text).iter().map(|(line, said)| format!("{name}:{line}: {said}")));
        }
    }
    ensure!(empty.is_empty(), "says nothing that the name does not:\n{}", empty.join("\n"));
    Ok(())
}

#[test]
fn empty_words_and_getters_are_seen() {
    let text = "/// The flow table.\npub struct FlowTable {\n    /// Its flows.\n    pub flows: u8,\n    /// In octets.\n    pub size: u8,\n}\n
/// Flows.\n///\n/// Many.\npub fn flows() {}\n/// A Pod.\n#[derive(Debug)]\npub(crate) struct Pod;\n";
    let found: Vec<&str> = empty_words(text).into_iter().map(|(_, said)| said).collect();
    assert_eq!(found, ["The flow table.", "Its flows.", "A Pod."]);
    assert!(is_getter("pub fn name(&self) -> &str {", "        &self.name"));
    assert!(is_getter("pub const fn name(self) -> u8 {", "        self.0.name"));
    assert!(!is_getter("pub fn name(&self) -> &str {", "        &self.other"));
}

#[test]
fn comments_are_seen() {
    let text = "/// Said.\n#[derive(Debug)]\n#[error(\n    \"x\"\n)]\npub struct A {\n    pub field: u8,\n}\n
#[must_use]\npub fn b() {}\n\npub trait C {\n    fn d();\n    /// Said.\n    fn e();\n}\n
#[cfg(test)]\nmod tests {\n    pub fn f() {}\n}\n\nfn g() {}\npub(crate) fn h() {}\npub async fn i() {}\n";
    let found: Vec<&str> = undocumented(text).into_iter().map(|(_, code)| code).collect();
    assert_eq!(found, ["pub fn b() {}", "pub trait C {", "fn d();", "pub async fn i() {}"]);
}
