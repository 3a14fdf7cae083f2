//! Small files of what has to outlive the process, as JSON. Without one what it was for begins anew.

use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What the file says; nothing if there is none or it cannot be read.
pub(super) async fn read<T: DeserializeOwned>(file: &Path) -> Option<T> {
    let text = tokio::fs::read(file).await.ok()?;
    serde_json::from_slice(&text)
        .inspect_err(|error| tracing::warn!(file = %file.display(), %error, "what it was for begins anew"))
        .ok()
}

/// Replaces the file: whoever reads sees the old one or the new one. Returns whether it could, which is told otherwise.
pub(super) async fn write<T: Serialize>(file: &Path, what: &T) -> bool {
    let written = replace(file, what).await;
    if let Err(error) = &written {
        tracing::warn!(file = %file.display(), %error, "not kept for the agent's next life");
    }
    written.is_ok()
}

async fn replace<T: Serialize>(file: &Path, what: &T) -> std::io::Result<()> {
    let part = file.with_extension("part");
    if let Some(folder) = file.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    tokio::fs::write(&part, serde_json::to_vec(what)?).await?;
    tokio::fs::rename(&part, file).await
}
