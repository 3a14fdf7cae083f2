//! Reading of files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().expect("xtask must be in the workspace").to_path_buf()
}

/// A file's text, or an error that names it.
pub(crate) fn text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// The documents of a file of YAML or JSON.
pub(crate) fn documents(path: &Path) -> Result<Vec<Value>> {
    let parsed: Vec<Value> =
        serde_saphyr::from_multiple(&text(path)?).with_context(|| format!("parse {}", path.display()))?;
    Ok(parsed.into_iter().filter(|document| !document.is_null()).collect())
}

/// The files of YAML or JSON right in a folder, by name; none if there is no folder.
pub(crate) fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("read {}", folder.display()))?.path();
        if path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Every file below a folder, by path.
pub(crate) fn all_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry.with_context(|| format!("read {}", folder.display()))?.path();
        if path.is_dir() {
            files.extend(all_files(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
