//! The agent's rooms (modules of its library) ask each other the way that ARCHITECTURE.md's table of them says. A row
//! may name only rows above it, so that there is no circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

/// What a row says of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asks {
    /// All of these, and no others.
    These(BTreeSet<String>),
    /// Whichever it likes of the rows above.
    Above(BTreeSet<String>),
}

type Arrows = BTreeMap<String, BTreeSet<String>>;

/// Of an arrow, by who asks and who is asked, the first file that has it.
type Places = BTreeMap<(String, String), PathBuf>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("must lie in the repository").to_owned()
}

fn table(text: &str) -> Result<Vec<(String, Asks)>> {
    let (_, section) = text.split_once("\n| room |").context("ARCHITECTURE.md has no table of rooms")?;
    let mut rows: Vec<(String, Asks)> = Vec::new();
    for line in section.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [room, _, asks] = cells.as_slice() else { bail!("no three cells: {line}") };
        let above: BTreeSet<String> = rows.iter().map(|(room, _)| room.clone()).collect();
        let asks = match *asks {
            "–" => Asks::These(BTreeSet::new()),
            "the above" => Asks::Above(above),
            names => {
                let names: BTreeSet<String> = names.split(", ").map(str::to_owned).collect();
                let below: Vec<_> = names.difference(&above).collect();
                ensure!(below.is_empty(), "{room} asks {below:?}, which no row above is: {line}");
                Asks::These(names)
            }
        };
        rows.push((room.trim_matches('`').to_owned(), asks));
    }
    Ok(rows)
}

/// Modules that the library's root declares.
fn modules(lib: &str) -> BTreeSet<String> {
    let declared = lib.lines().filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod "));
    declared.filter_map(|rest| rest.strip_suffix(';')).map(str::to_owned).collect()
}

fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// The first names of what follows `crate::`: one, or those of a list in braces.
fn first_names(rest: &str) -> Vec<&str> {
    let Some(list) = rest.strip_prefix('{') else { return vec![word(rest)] };
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(word(list[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

/// What a source names from the root of the library, by `crate::` or by as many `super::` as lead there from a module
/// that is `depth` below it. Comments ask nothing.
fn named(source: &str, depth: usize) -> BTreeSet<&str> {
    let is_code = |at: usize| {
        let line = source[..at].rsplit('\n').next().unwrap_or_default();
        !line.trim_start().starts_with("//")
    };
    let begins = |at: usize| !source[..at].ends_with(|c: char| c.is_alphanumeric() || "_:".contains(c));
    let mut found = BTreeSet::new();
    for (at, start) in source.match_indices("crate::").filter(|(at, _)| is_code(*at) && begins(*at)) {
        found.extend(first_names(&source[at + start.len()..]));
    }
    for (at, _) in source.match_indices("super::").filter(|(at, _)| is_code(*at) && begins(*at)) {
        let (mut rest, mut steps) = (&source[at..], 0);
        while let Some(next) = rest.strip_prefix("super::") {
            (rest, steps) = (next, steps + 1);
        }
        if steps >= depth {
            found.extend(first_names(rest));
        }
    }
    found
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// Who asks whom, and in which file.
fn arrows(folder: &Path, rooms: &BTreeSet<String>) -> Result<(Arrows, Places)> {
    let (mut arrows, mut places) = (Arrows::new(), Places::new());
    let mut files = Vec::new();
    sources(folder, &mut files)?;
    for path in files {
        let own = path.strip_prefix(folder)?;
        let first = own.iter().next().context("a file has a name")?.to_string_lossy();
        let room = first.trim_end_matches(".rs").to_owned();
        if !rooms.contains(&room) {
            continue;
        }
        let source = fs::read_to_string(&path)?;
        let asked = arrows.entry(room.clone()).or_default();
        for name in named(&source, own.iter().count()) {
            if name != room && rooms.contains(name) {
                asked.insert(name.to_owned());
                places.entry((room.clone(), name.to_owned())).or_insert_with(|| own.to_owned());
            }
        }
    }
    Ok((arrows, places))
}

#[test]
fn rooms_of_the_agent_ask_whom_the_table_says() -> Result<()> {
    let folder = root().join("agent/src");
    let rows = table(&fs::read_to_string(root().join("ARCHITECTURE.md"))?)?;
    let rooms = modules(&fs::read_to_string(folder.join("lib.rs"))?);
    let told: BTreeSet<String> = rows.iter().map(|(room, _)| room.clone()).collect();
    ensure!(told == rooms, "the table has {told:?}, the library {rooms:?}");
    ensure!(rooms.len() > 10, "only {} rooms", rooms.len());
    let (arrows, places) = arrows(&folder, &rooms)?;
    let mut wrong = Vec::new();
    for (room, asks) in rows {
        let found = arrows.get(&room).cloned().unwrap_or_default();
        let (allowed, exact) = match asks {
            Asks::These(rooms) => (rooms, true),
            Asks::Above(rooms) => (rooms, false),
        };
        for name in found.difference(&allowed) {
            let place = &places[&(room.clone(), name.clone())];
            wrong.push(format!("{room} asks {name} (agent/src/{})", place.display()));
        }
        if exact {
            wrong.extend(allowed.difference(&found).map(|name| format!("{room} does not ask {name}")));
        }
    }
    ensure!(wrong.is_empty(), "ARCHITECTURE.md says otherwise: {}", wrong.join("; "));
    Ok(())
}

#[test]
fn whoever_is_asked_is_found() {
    let source = "use crate::a::B;\nuse crate::{c::{D, e}, f,\n    g::H};\n// crate::i\nfn j() { super::k::l(); crate::m() }\n\
                  use super::super::n;\nuse other_crate::o;\n";
    assert_eq!(named(source, 2).into_iter().collect::<Vec<_>>(), ["a", "c", "f", "g", "m", "n"]);
    assert_eq!(named("use super::{p, q::R};", 1).into_iter().collect::<Vec<_>>(), ["p", "q"]);
}

#[test]
fn a_circle_has_no_table() {
    let rows = |rows: &str| table(&format!("x\n| room | what | asks |\n|---|---|---|\n{rows}\n"));
    let above = rows("| `a` | x | – |\n| `b` | x | a |\n| `c` | x | the above |").unwrap();
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(above[1].1, Asks::These(set(&["a"])));
    assert_eq!(above[2].1, Asks::Above(set(&["a", "b"])));
    assert!(rows("| `a` | x | b |\n| `b` | x | a |").is_err());
}
