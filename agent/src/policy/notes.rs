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
    let written = match serde_json::to_vec(what) {
        Ok(text) => replace(file, &text).await,
        Err(error) => Err(error.into()),
    };
    told(file, written).is_some()
}

/// As [`write`], of what takes its time to put together: on a thread that may block. Returns how many octets were written.
pub(super) async fn write_much<T: Serialize>(
    file: &Path,
    what: impl FnOnce() -> T + Send + 'static,
) -> Option<usize> {
    let made = tokio::task::spawn_blocking(move || serde_json::to_vec(&what())).await;
    let written = match made.map_err(std::io::Error::from) {
        Ok(Ok(text)) => replace(file, &text).await.map(|()| text.len()),
        Ok(Err(error)) => Err(error.into()),
        Err(error) => Err(error),
    };
    told(file, written)
}

fn told<T>(file: &Path, written: std::io::Result<T>) -> Option<T> {
    written
        .inspect_err(|error| {
            tracing::warn!(file = %file.display(), %error, "not kept for the agent's next life");
        })
        .ok()
}

async fn replace(file: &Path, text: &[u8]) -> std::io::Result<()> {
    let part = file.with_extension("part");
    if let Some(folder) = file.parent() {
        tokio::fs::create_dir_all(folder).await?;
    }
    tokio::fs::write(&part, text).await?;
    tokio::fs::rename(&part, file).await
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Of a runtime of one thread nobody waits for what takes its time.
    #[tokio::test]
    async fn much_is_put_together_beside_everything_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("below").join("much.json");
        let (mut turns, slow) = (0, Duration::from_millis(300));
        let mut writing = std::pin::pin!(write_much(&file, move || {
            std::thread::sleep(slow);
            vec![7; 3]
        }));
        let written = loop {
            tokio::select! {
                written = &mut writing => break written,
                () = tokio::time::sleep(Duration::from_millis(5)) => turns += 1,
            }
        };
        assert_eq!((written, read(&file).await), (Some(7), Some(vec![7; 3])));
        assert!(turns > 5, "{turns}");
        assert_eq!(write_much(&file.join("of no folder"), || 1).await, None);
    }
}
