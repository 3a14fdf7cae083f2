//! The log's file, and those that it was before: each grows to a size and is then set aside, compressed, for a number of
//! files and days. Names, sizes and defaults are those of upstream's logger.

use std::fs::{self, DirEntry, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use parking_lot::Mutex;

use crate::config::AuditLogging;

/// Between the beginning of a name that was set aside and its time.
const FORMAT: &str = "%Y-%m-%dT%H-%M-%S%.3f";

/// Ends of names of what was compressed, and of what is being compressed.
const PACKED: &str = ".log.gz";
const PART: &str = ".log.gz.part";

/// Octets of a megabyte, as upstream counts.
const MEGABYTE: u64 = 1 << 20;

/// The file that is written to, and how large it has become.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    limits: AuditLogging,
    file: File,
    size: u64,
}

impl LogFile {
    /// Goes on with the file, or begins it and its folder.
    pub(super) fn open(path: &Path, limits: AuditLogging) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = begin(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), limits, file, size })
    }

    /// Writes lines, each with its end.
    pub(super) fn write(&mut self, text: &str) -> io::Result<()> {
        let length = text.len() as u64;
        if self.size > 0 && self.size + length > self.limits.max_size.max(1) * MEGABYTE {
            self.set_aside()?;
        }
        self.file.write_all(text.as_bytes())?;
        self.size += length;
        Ok(())
    }

    fn set_aside(&mut self) -> io::Result<()> {
        let time = Timestamp::now().strftime(FORMAT).to_string();
        fs::rename(&self.path, self.path.with_file_name(format!("{}{time}.log", prefix(&self.path))))?;
        self.file = begin(&self.path)?;
        self.size = 0;
        tidy_aside(&self.path, self.limits)
    }
}

/// Removes what is too old or too many, and compresses what is not yet, on a thread of its own: a large file takes its time,
/// and lines go on to come.
pub(super) fn tidy_aside(path: &Path, limits: AuditLogging) -> io::Result<()> {
    let path = path.to_owned();
    let tidying = move || {
        if let Err(error) = tidy(&path, limits, SystemTime::now()) {
            tracing::warn!(file = %path.display(), %error, "old audit logs stay as they are");
        }
    };
    std::thread::Builder::new().name("np-log-tidy".to_owned()).spawn(tidying).map(drop)
}

fn begin(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// What names of files begin with that were set aside: `np-`.
fn prefix(path: &Path) -> String {
    format!("{}-", path.file_stem().unwrap_or_default().to_string_lossy())
}

/// One at a time, for two would each miss what the other has taken away.
fn tidy(path: &Path, limits: AuditLogging, now: SystemTime) -> io::Result<()> {
    static TIDYING: Mutex<()> = Mutex::new(());
    let _one = TIDYING.lock();
    let Some(entries) = unless_gone(fs::read_dir(path.parent().unwrap_or(Path::new("."))))? else {
        return Ok(());
    };
    let mut old = set_aside_before(entries, &prefix(path))?;
    // Of a compression that an agent did not live to end.
    for (_, part, _) in old.extract_if(.., |(name, ..)| name.ends_with(PART)) {
        unless_gone(fs::remove_file(part))?;
    }
    // Names are times.
    old.sort_unstable();
    let surplus = match limits.max_backups {
        0 => 0,
        kept => old.len().saturating_sub(usize::from(kept)),
    };
    let age = Duration::from_secs(u64::from(limits.max_age) * 24 * 60 * 60);
    for (at, (name, file, modified)) in old.iter().enumerate() {
        let is_aged = limits.max_age > 0 && now.duration_since(*modified).is_ok_and(|since| since > age);
        if at < surplus || is_aged {
            unless_gone(fs::remove_file(file))?;
        } else if limits.compress && name.ends_with(".log") {
            unless_gone(compress(file))?;
        }
    }
    Ok(())
}

/// Files that were set aside, and what became of them: name, path, and when they were written last.
fn set_aside_before(
    entries: impl IntoIterator<Item = io::Result<DirEntry>>,
    prefix: &str,
) -> io::Result<Vec<(String, PathBuf, SystemTime)>> {
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_old = name.starts_with(prefix) && [".log", PACKED, PART].iter().any(|end| name.ends_with(end));
        if is_old && let Some(metadata) = unless_gone(entry.metadata())? {
            found.push((name, entry.path(), metadata.modified()?));
        }
    }
    Ok(found)
}

/// Nothing, if somebody else has taken it away meanwhile.
fn unless_gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn compress(file: &Path) -> io::Result<()> {
    let packed = file.with_extension("log.gz");
    let part = file.with_extension("log.gz.part");
    let mut to = GzEncoder::new(File::create(&part)?, Compression::default());
    io::copy(&mut File::open(file)?, &mut to)?;
    to.finish()?.sync_all()?;
    fs::rename(&part, &packed)?;
    fs::remove_file(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_full_file_is_set_aside_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("networkpolicy/np.log");
        let limits = AuditLogging { max_size: 1, max_backups: 2, max_age: 28, compress: true };
        let mut log = LogFile::open(&path, limits).unwrap();
        let line = format!("{}\n", "x".repeat(400 << 10));
        for _ in 0..3 {
            log.write(&line).unwrap();
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), line.len() as u64, "a line is never divided");
        // An agent that starts anew goes on with it.
        let mut log = LogFile::open(&path, limits).unwrap();
        for _ in 0..6 {
            std::thread::sleep(Duration::from_millis(2));
            log.write(&line).unwrap();
        }
        drop(log);
        tidy(&path, limits, SystemTime::now()).unwrap();
        let left = names(path.parent().unwrap());
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(
            left[..2].iter().all(|name| name.starts_with("np-2") && name.ends_with(".log.gz")),
            "{left:?}"
        );
        assert_eq!(left[2], "np.log");
        tidy(&path, limits, SystemTime::now() + Duration::from_secs(29 * 24 * 60 * 60)).unwrap();
        assert_eq!(names(path.parent().unwrap()), ["np.log"]);
    }

    #[test]
    fn what_an_agent_did_not_live_to_compress_goes_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("np.log");
        let limits = AuditLogging { max_size: 1, max_backups: 1, max_age: 0, compress: true };
        for name in
            ["np-2026-01-01T00-00-00.000.log", "np-2026-01-01T00-00-00.000.log.gz.part", "np.log.gz.part"]
        {
            fs::write(folder.path().join(name), "x").unwrap();
        }
        fs::write(folder.path().join("np-2026-01-02T00-00-00.000.log"), "x").unwrap();
        tidy(&path, limits, SystemTime::now()).unwrap();
        assert_eq!(
            names(folder.path()),
            ["np-2026-01-02T00-00-00.000.log.gz", "np.log.gz.part"],
            "that is not ours"
        );
        tidy(&folder.path().join("none/np.log"), limits, SystemTime::now()).unwrap();
    }

    #[test]
    fn what_goes_meanwhile_holds_up_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["np-1.log", "np-2.log.gz", "other-3.log"] {
            fs::write(path(name), "x").unwrap();
        }
        let entries: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        fs::remove_file(path("np-1.log")).unwrap();
        let found = set_aside_before(entries, "np-").unwrap();
        assert_eq!(found.into_iter().map(|(name, ..)| name).collect::<Vec<_>>(), ["np-2.log.gz"]);
    }
}
