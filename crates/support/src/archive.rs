//! A tar of redacted parts, compressed in memory.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use antrea_runtime::redact::redact;
use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, Header};

use crate::bundles::Part;

/// Octets of a part that are taken.
pub(crate) const PART: usize = 8 << 20;

/// Octets of the archive from which on no part is taken.
const WHOLE: usize = 24 << 20;

/// Name of the part that says what was left out.
const LEFT_OUT: &str = "left-out";

pub(crate) struct Archive {
    tar: Builder<GzEncoder<Vec<u8>>>,
    whole: usize,
    left_out: String,
}

impl Archive {
    pub(crate) fn new() -> Self {
        Self::with_room(WHOLE)
    }

    fn with_room(whole: usize) -> Self {
        let tar = Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        Self { tar, whole, left_out: String::new() }
    }

    /// Puts a part in, without its secrets; one for which there is no room is named at the end.
    pub(crate) fn add(&mut self, part: Part) -> io::Result<()> {
        let Part { path, content } = part;
        if self.tar.get_ref().get_ref().len() > self.whole {
            self.left_out.push_str(&format!("{path}: the archive is full\n"));
            return Ok(());
        }
        let mut text = match content {
            // Lossy: what cannot be read as text cannot be redacted.
            Ok(content) => {
                let cut = content.len() > PART;
                let taken = content.get(..PART).unwrap_or(&content);
                let mut text = String::from_utf8_lossy(taken).into_owned();
                if cut {
                    text.push_str(&format!("\n[cut off after {PART} octets]\n"));
                }
                text
            }
            Err(error) => format!("error: {error}\n"),
        };
        if let std::borrow::Cow::Owned(redacted) = redact(&text) {
            text = redacted;
        }
        self.put(&path, &text)
    }

    fn put(&mut self, path: &str, text: &str) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_mode(0o600);
        header.set_mtime(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()));
        header.set_size(text.len() as u64);
        self.tar.append_data(&mut header, path, text.as_bytes())
    }

    pub(crate) fn finish(mut self) -> io::Result<Vec<u8>> {
        if !self.left_out.is_empty() {
            let left_out = std::mem::take(&mut self.left_out);
            self.put(LEFT_OUT, &left_out)?;
        }
        self.tar.into_inner()?.finish()
    }
}

#[cfg(test)]
pub(crate) fn read(archive: &[u8]) -> std::collections::BTreeMap<String, String> {
    use std::io::Read;
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(archive));
    let entry = |entry: io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (entry.path().unwrap().display().to_string(), text)
    };
    tar.entries().unwrap().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_redacted_cut_off_and_left_out() {
        let mut archive = Archive::with_room(100);
        archive.add(Part::new("a", "token=S3CRET x")).unwrap();
        archive.add(Part::failed("b", "no such file; password=S3CRET")).unwrap();
        // What does not compress, so that the archive is full.
        let noise: String =
            (0..PART / 16 + 1).map(|n| format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        archive.add(Part::new("c", noise)).unwrap();
        archive.add(Part::new("d", "late")).unwrap();
        let read = read(&archive.finish().unwrap());
        assert_eq!(read["a"], "token=[redacted] x");
        assert_eq!(read["b"], "error: no such file; password=[redacted]\n");
        assert!(read["c"].ends_with(&format!("\n[cut off after {PART} octets]\n")));
        assert_eq!(read["left-out"], "d: the archive is full\n");
        assert_eq!(read.len(), 4);
    }
}
