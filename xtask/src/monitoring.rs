//! Boards and alerts as files, for those who run no Prometheus operator and for the tools that check them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Folder of these files.
const FOLDER: &str = "config/monitoring";

/// Path, relative to the repository's root, and content of each.
pub(crate) fn files(header: &str) -> Result<Vec<(PathBuf, String)>> {
    let folder = Path::new(FOLDER);
    let mut files = Vec::new();
    for board in dashboards::boards() {
        let path = folder.join("dashboards").join(format!("{}.json", board.uid));
        files.push((path, format!("{:#}\n", board.json())));
    }
    let rules =
        serde_saphyr::to_string(&dashboards::rules(dashboards::RUNBOOKS)).context("write rules as YAML")?;
    files.push((folder.join("rules.yaml"), format!("{header}{rules}")));
    Ok(files)
}
