//! host-local's records: a file for each address, with the container's id and the link's name, each on a line of
//! its own. What is in no file's name an address is another file of the folder.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::pods::interfaces::AttachmentKey;

/// A file that says nothing may be one that host-local is about to write; after so long it is damaged.
const WRITTEN: Duration = Duration::from_secs(60);

/// Longest record that is read, in octets; a container's id has 64.
const LONGEST: u64 = 4096;

/// The records of a folder.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leases {
    pub held: Vec<(IpAddr, AttachmentKey)>,
    /// Addresses whose record names no attachment, as a power cut leaves them, with the record's file.
    pub damaged: Vec<(IpAddr, PathBuf)>,
}

impl Leases {
    /// Reads the records. A folder that cannot be read has none. Blocks.
    pub fn read(folder: &Path) -> Self {
        let mut leases = Self::default();
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Some(ip) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // What is no file may keep whoever opens it waiting.
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            match is_file.then(|| record(&entry.path())).and_then(Result::ok).as_deref().and_then(attachment)
            {
                Some(attachment) => leases.held.push((ip, attachment)),
                None => leases.damaged.push((ip, entry.path())),
            }
        }
        leases
    }

    /// Frees addresses whose record is damaged and that no attachment has. Returns those that were freed. Blocks.
    pub fn free_damaged(&self, used: &BTreeSet<IpAddr>, now: SystemTime) -> Vec<IpAddr> {
        let freed = self.damaged.iter().filter(|(ip, file)| !used.contains(ip) && is_old(file, now));
        let freed = freed.filter(|(ip, file)| match std::fs::remove_file(file) {
            Ok(()) => {
                tracing::warn!(%ip, file = %file.display(), "freeing an address whose record is damaged");
                true
            }
            Err(error) => {
                tracing::error!(%ip, file = %file.display(), %error, "cannot free");
                false
            }
        });
        freed.map(|(ip, _)| *ip).collect()
    }
}

/// Reserves addresses again whose record is gone, in host-local's form: it would give them to others. Returns those.
/// Blocks.
///
/// # Errors
/// The first that cannot be reserved.
pub fn reserve(folder: &Path, attachments: &[(IpAddr, AttachmentKey)]) -> io::Result<Vec<IpAddr>> {
    let mut reserved = Vec::new();
    for (ip, (container_id, ifname)) in attachments {
        let file = folder.join(ip.to_string());
        if file.symlink_metadata().is_ok() {
            continue;
        }
        std::fs::create_dir_all(folder)?;
        match OpenOptions::new().write(true).create_new(true).open(&file) {
            Ok(mut record) => {
                record.write_all(format!("{container_id}\r\n{ifname}").as_bytes())?;
                reserved.push(*ip);
            }
            // host-local was faster; whoever it gave the address to is refused.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(reserved)
}

/// Takes back what [`reserve`] has done for an address.
pub async fn release(folder: &Path, ip: IpAddr) {
    if let Err(error) = tokio::fs::remove_file(folder.join(ip.to_string())).await {
        tracing::debug!(%ip, %error, "the address was freed already");
    }
}

fn is_old(file: &Path, now: SystemTime) -> bool {
    let metadata = std::fs::metadata(file).ok();
    let age = metadata.and_then(|data| now.duration_since(data.modified().ok()?).ok());
    age.is_some_and(|age| age >= WRITTEN)
}

/// A record's octets, and at most one more than it may have.
fn record(file: &Path) -> io::Result<Vec<u8>> {
    let mut record = Vec::new();
    File::open(file)?.take(LONGEST + 1).read_to_end(&mut record)?;
    Ok(record)
}

/// What a record says; none if it names no container by the specification's rule for ids.
fn attachment(record: &[u8]) -> Option<AttachmentKey> {
    if u64::try_from(record.len()).ok()? > LONGEST {
        return None;
    }
    let mut lines = std::str::from_utf8(record).ok()?.lines().map(str::trim);
    let container_id = lines.next()?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !container_id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !container_id.chars().all(legal) {
        return None;
    }
    let ifname = lines.next().filter(|name| !name.is_empty()).unwrap_or("eth0");
    netcfg::check_link_name(ifname).ok()?;
    Some((container_id.to_owned(), ifname.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_records_are_told_from_others() {
        let folder = tempfile::tempdir().unwrap();
        for (name, record) in [
            ("10.244.1.2", &b"abc\r\neth0"[..]),
            ("fd00::2", b"abc\r\nnet1"),
            ("10.244.1.3", b"old"),
            ("10.244.1.4", b""),
            ("10.244.1.5", &[0; 70]),
            ("10.244.1.6", b"abc\0\r\neth0"),
            ("10.244.1.7", &[0xff, 0xfe]),
            ("last_reserved_ip.0", b"10.244.1.2"),
            ("lock", b""),
        ] {
            std::fs::write(folder.path().join(name), record).unwrap();
        }
        let mut leases = Leases::read(folder.path());
        leases.held.sort();
        let key = |id: &str, ifname: &str| (id.to_owned(), ifname.to_owned());
        assert_eq!(
            leases.held,
            [
                ("10.244.1.2".parse().unwrap(), key("abc", "eth0")),
                ("10.244.1.3".parse().unwrap(), key("old", "eth0")),
                ("fd00::2".parse().unwrap(), key("abc", "net1")),
            ]
        );
        assert_eq!(leases.damaged.len(), 4);

        let now = SystemTime::now();
        let used = BTreeSet::from(["10.244.1.4".parse().unwrap()]);
        assert!(leases.free_damaged(&used, now).is_empty(), "host-local may be about to write them");
        assert_eq!(leases.free_damaged(&used, now + WRITTEN).len(), 3);
        let left = Leases::read(folder.path());
        assert_eq!(left.damaged.len(), 1, "a pod has that address");
        assert_eq!(left.held.len(), 3);
        assert_eq!(Leases::read(Path::new("/nowhere")), Leases::default());
    }

    /// Nobody writes into this pipe, and the file has no end that memory could hold.
    #[test]
    fn what_is_no_record_is_damaged_and_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("10.244.1.8");
        assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
        let endless = File::create(folder.path().join("10.244.1.9")).unwrap();
        endless.set_len(1 << 42).unwrap();
        assert_eq!(record(&folder.path().join("10.244.1.9")).unwrap().len() as u64, LONGEST + 1);
        let leases = Leases::read(folder.path());
        assert_eq!((leases.held.len(), leases.damaged.len()), (0, 2));
    }

    #[test]
    fn a_lost_record_is_written_again_and_no_other_touched() {
        let folder = tempfile::tempdir().unwrap();
        let networks = folder.path().join("antrea");
        let key = |id: &str| (id.to_owned(), "eth0".to_owned());
        let attachments: [(IpAddr, AttachmentKey); 2] =
            [("10.244.1.2".parse().unwrap(), key("abc")), ("fd00::2".parse().unwrap(), key("abc"))];
        assert_eq!(reserve(&networks, &attachments).unwrap(), attachments.clone().map(|(ip, _)| ip));
        assert_eq!(reserve(&networks, &attachments).unwrap(), Vec::<IpAddr>::new());
        let mut held = Leases::read(&networks).held;
        held.sort();
        assert_eq!(held, attachments);
        // It is another's by now.
        std::fs::write(networks.join("10.244.1.2"), "other\r\neth0").unwrap();
        assert_eq!(reserve(&networks, &attachments).unwrap(), Vec::<IpAddr>::new());
        assert!(Leases::read(&networks).held.contains(&(attachments[0].0, key("other"))));
    }
}
