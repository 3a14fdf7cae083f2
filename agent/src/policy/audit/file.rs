//! The log's file, and those that it was before: each grows to a size and is then set aside, compressed, for a number of
//! files and days. Names, sizes and defaults are those of upstream's logger.

use std::fs::{self, File, OpenOptions};
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
        // A large file takes its time, and lines go on to come.
        let (path, limits) = (self.path.clone(), self.limits);
        std::thread::Builder::new().name("np-log-tidy".to_owned()).spawn(move || {
            if let Err(error) = tidy(&path, limits, SystemTime::now()) {
                tracing::warn!(file = %path.display(), %error, "old audit logs stay as they are");
            }
        })?;
        Ok(())
    }
}

fn begin(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// What names of files begin with that were set aside: `np-`.
fn prefix(path: &Path) -> String {
    format!("{}-", path.file_stem().unwrap_or_default().to_string_lossy())
}

/// Removes what is too old or too many, and compresses what is not yet. One at a time, for two would each miss what the
/// other has taken away.
fn tidy(path: &Path, limits: AuditLogging, now: SystemTime) -> io::Result<()> {
    static TIDYING: Mutex<()> = Mutex::new(());
    let _one = TIDYING.lock();
    let mut old = Vec::new();
    for entry in fs::read_dir(path.parent().unwrap_or(Path::new(".")))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_old = name.starts_with(&prefix(path)) && (name.ends_with(".log") || name.ends_with(".log.gz"));
        if is_old {
            old.push((name, entry.path(), entry.metadata()?.modified()?));
        }
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
            fs::remove_file(file)?;
        } else if limits.compress && name.ends_with(".log") {
            compress(file)?;
        }
    }
    Ok(())
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
}
