//! Files and folders that documents name are there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("must lie in the repository").to_owned()
}

/// README, ARCHITECTURE and all below docs/.
fn documents() -> Result<Vec<PathBuf>> {
    let mut found = vec![root().join("README.md"), root().join("ARCHITECTURE.md")];
    let mut folders = vec![root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// What stands in backquotes and begins with a folder of the repository, without patterns.
fn named<'a>(text: &'a str, folders: &'a [String]) -> impl Iterator<Item = &'a str> {
    text.split('`').skip(1).step_by(2).filter(|name| {
        name.split_once('/').is_some_and(|(first, _)| folders.iter().any(|folder| folder == first))
            && !name.contains(|c: char| c.is_whitespace() || "*{<$=:".contains(c))
    })
}

/// Targets of links to files, relative to the document.
fn linked(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#']).next())
        .filter(|target| !target.is_empty() && !target.contains("://"))
}

#[test]
fn what_documents_name_exists() -> Result<()> {
    let root = root();
    let mut folders = Vec::new();
    for entry in fs::read_dir(&root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.file_name() != "target" {
            folders.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    let (mut names, mut missing) = (0, Vec::new());
    for document in documents()? {
        let text = fs::read_to_string(&document)?;
        // A block between fences has its own quotes.
        let prose: String = text.split("\n```").step_by(2).collect();
        let folder = document.parent().context("a document lies in a folder")?;
        let paths = named(&prose, &folders).map(|name| root.join(name));
        for path in paths.chain(linked(&prose).map(|target| folder.join(target))) {
            names += 1;
            if !path.exists() {
                missing.push(format!(
                    "{}: {}",
                    document.strip_prefix(&root)?.display(),
                    path.strip_prefix(&root)?.display()
                ));
            }
        }
    }
    ensure!(names > 40, "documents name only {names} files");
    ensure!(missing.is_empty(), "documents name what is not there: {}", missing.join("; "));
    Ok(())
}

#[test]
fn names_and_links_are_found() {
    let text = "see `docs/a.md`, `crates/*/x`, `kubectl get x` and [b](docs/b.md#c), [d](https://e)";
    let folders = ["docs".to_owned(), "crates".to_owned()];
    assert_eq!(named(text, &folders).collect::<Vec<_>>(), ["docs/a.md"]);
    assert_eq!(linked(text).collect::<Vec<_>>(), ["docs/b.md"]);
}

/// What git leaves of two versions that it could not put together.
#[test]
fn no_document_holds_two_versions_of_itself() -> Result<()> {
    let mut checked = 0;
    for document in documents()? {
        let text = fs::read_to_string(&document)?;
        let mark = text.lines().find(|line| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> "));
        ensure!(mark.is_none(), "{}: {}", document.display(), mark.unwrap_or_default());
        checked += 1;
    }
    ensure!(checked > 10, "only {checked} documents");
    Ok(())
}
