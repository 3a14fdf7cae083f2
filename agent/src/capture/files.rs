//! The files of captures.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, DirEntry, File, OpenOptions, read_dir, remove_dir_all, remove_file};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Largest file, in octets.
pub(super) const LARGEST: u64 = 4 << 20;

/// Largest sum of all files: the volume has twice as much, and it is not for captures alone.
const ALL: u64 = 32 << 20;

const SUFFIX: &str = ".pcapng";

/// Extension of the folder that an upload has beside its file.
const UPLOAD: &str = "upload";

/// Longest name of a file on Linux, in octets.
const LONGEST_NAME: usize = 255;

/// The folder of captures' files, one of each by the name of its object.
#[derive(Clone, Debug)]
pub struct Files {
    folder: PathBuf,
}

impl Files {
    /// Files in this folder, which need not exist.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Where a capture's file is. None: no object can have this name, or no file.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.';
        let good = !name.is_empty()
            && !name.starts_with('.')
            && name.len() + SUFFIX.len() <= LONGEST_NAME
            && name.bytes().all(plain);
        good.then(|| self.folder.join(format!("{name}{SUFFIX}")))
    }

    /// Makes the file of a capture, for nobody but its owner. So many others are being written.
    ///
    /// # Errors
    /// There is no room for another, or it cannot be made.
    pub(super) fn make(&self, name: &str, growing: u64) -> Result<(PathBuf, File), String> {
        let path = self.path(name).ok_or_else(|| format!("no file can be named {name}{SUFFIX}"))?;
        let failed = |error: io::Error| format!("{}: {error}", path.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(failed)?;
        // Those that are being written may each grow to the largest.
        let held = read_dir(&self.folder).and_then(size_of).map_err(failed)? + growing * LARGEST;
        if held + LARGEST > ALL {
            let mebibytes = |octets: u64| octets >> 20;
            return Err(format!(
                "files of captures on this Node have {} of {} MiB, and one may have {}: delete PacketCaptures that \
                 nobody needs",
                mebibytes(held),
                mebibytes(ALL),
                mebibytes(LARGEST)
            ));
        }
        remove(&path).map_err(failed)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        Ok((path, file))
    }

    /// Removes the file of a capture.
    pub(super) fn remove(&self, name: &str) {
        let Some(path) = self.path(name) else { return };
        if let Err(error) = remove(&path) {
            tracing::warn!(path = %path.display(), %error, "the file of a capture stays");
        }
    }

    /// Where what the upload of a file needs is, while it lasts.
    pub(super) fn upload(file: &Path) -> PathBuf {
        file.with_extension(UPLOAD)
    }

    /// Removes what uploads of an earlier life of the agent needed.
    pub(super) fn forget_uploads(&self) {
        let Ok(entries) = read_dir(&self.folder) else { return };
        let paths = entries.flatten().map(|entry| entry.path());
        for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == UPLOAD)) {
            if let Err(error) = remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "what an upload needed stays");
            }
        }
    }

    /// Removes all but those of these captures.
    pub(super) fn keep(&self, names: &BTreeSet<String>) {
        let Ok(entries) = read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let file = entry.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(SUFFIX));
            if let Some(name) = name
                && !names.contains(name)
            {
                self.remove(name);
            }
        }
    }
}

/// How large files are together.
fn size_of(entries: impl IntoIterator<Item = io::Result<DirEntry>>) -> io::Result<u64> {
    let mut sum = 0;
    for entry in entries {
        match entry?.metadata() {
            Ok(metadata) => sum += metadata.len(),
            // An upload that ends takes its folder away meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum)
}

fn remove(path: &Path) -> io::Result<()> {
    match remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_elsewhere() {
        let files = Files::new("/packets".into());
        assert_eq!(files.path("web-to-db.1"), Some("/packets/web-to-db.1.pcapng".into()));
        let long = "a".repeat(249);
        for name in ["", "..", "../x", "a/b", ".x", "a b", "A", "a\0", &long] {
            assert_eq!(files.path(name), None, "{name:?}");
        }
        assert!(files.path(&"a".repeat(248)).is_some());
    }

    #[test]
    fn what_goes_while_sizes_are_summed_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a.pcapng"), "12345").unwrap();
        std::fs::create_dir(path("b.upload")).unwrap();
        let entries: Vec<_> = read_dir(folder.path()).unwrap().collect();
        std::fs::remove_dir(path("b.upload")).unwrap();
        assert_eq!(size_of(entries).unwrap(), 5);
    }

    #[test]
    fn files_have_an_owner_and_an_end() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::new(folder.path().join("deep/packets"));
        let (path, file) = files.make("a", 0).unwrap();
        assert_eq!(
            std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions()) & 0o777,
            0o600
        );
        // Eight of the largest fill the room, also if some of them are still to grow.
        file.set_len(LARGEST).unwrap();
        for name in ["b", "c", "d"] {
            files.make(name, 4).unwrap().1.set_len(LARGEST).unwrap();
        }
        assert!(files.make("e", 4).is_err());
        for name in ["e", "f", "g", "h"] {
            files.make(name, 0).unwrap().1.set_len(LARGEST).unwrap();
        }
        let error = files.make("i", 0).unwrap_err();
        assert!(error.contains("32 of 32 MiB"), "{error}");
        // Another capture of the name begins anew.
        files.remove("b");
        assert_eq!(files.make("b", 0).unwrap().1.metadata().unwrap().len(), 0);
        files.keep(&BTreeSet::from(["c".to_owned()]));
        let left: Vec<_> =
            read_dir(path.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["c.pcapng"]);
        files.remove("c");
        files.remove("c");
        let left = Files::upload(&path);
        assert_eq!(left.file_name().unwrap(), "a.upload");
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join("password"), "x").unwrap();
        files.forget_uploads();
        assert!(!left.exists());
    }
}
