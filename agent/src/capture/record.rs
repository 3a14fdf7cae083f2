//! One capture, on a thread of its own: packets from a socket into a file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use antrea_capture::pcapng;
use antrea_capture::status::Outcome;
use netcfg::PacketSocket;
use tokio_util::sync::CancellationToken;

use super::files::LARGEST;

/// How long a socket waits for a packet before it is looked whether the capture is to go on.
pub(super) const PATIENCE: Duration = Duration::from_millis(100);

/// The largest packet that a link carries, with segmentation offload.
const LARGEST_PACKET: usize = 1 << 18;

/// Until when packets are taken down.
pub(super) struct Limits {
    pub(super) number: u32,
    pub(super) time: Duration,
}

/// Takes down packets until one of the limits, or until nobody wants them any more. `count` follows.
pub(super) fn record(
    socket: &PacketSocket,
    (link, file): (&str, File),
    limits: &Limits,
    count: &AtomicU32,
    stop: &CancellationToken,
) -> Outcome {
    let begin = Instant::now();
    let mut out = match Out::begin(link, file) {
        Ok(out) => out,
        Err(error) => return Outcome::Failed(format!("the file cannot be written: {error}")),
    };
    let mut buffer = vec![0; LARGEST_PACKET];
    let outcome = loop {
        if stop.is_cancelled() {
            break Outcome::Failed("nobody wants it any more".to_owned());
        }
        if begin.elapsed() >= limits.time {
            break Outcome::TimedOut;
        }
        let heard = match socket.receive(&mut buffer) {
            Ok(Some(heard)) => heard,
            Ok(None) => continue,
            Err(error) => break Outcome::Failed(format!("the Pod's link cannot be heard: {error}")),
        };
        match out.packet(&pcapng::packet(heard.time, heard.length, &buffer[..heard.kept])) {
            Ok(true) => {}
            Ok(false) => break Outcome::Full,
            Err(error) => break Outcome::Failed(format!("the file cannot be written: {error}")),
        }
        if count.fetch_add(1, Ordering::Relaxed) + 1 >= limits.number {
            break Outcome::Succeeded;
        }
    };
    match out.file.flush() {
        Ok(()) => outcome,
        Err(error) => Outcome::Failed(format!("the file cannot be written: {error}")),
    }
}

/// A file that is not larger than it may be.
struct Out {
    file: BufWriter<File>,
    size: u64,
}

impl Out {
    fn begin(link: &str, file: File) -> io::Result<Self> {
        let beginning = pcapng::beginning(link);
        let mut file = BufWriter::new(file);
        file.write_all(&beginning)?;
        // Whoever looks early finds a file of its kind.
        file.flush()?;
        Ok(Self { file, size: beginning.len() as u64 })
    }

    /// Whether there was room for it.
    fn packet(&mut self, octets: &[u8]) -> io::Result<bool> {
        let size = self.size + octets.len() as u64;
        if size > LARGEST {
            return Ok(false);
        }
        self.file.write_all(octets)?;
        self.size = size;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_file_is_larger_than_it_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let mut out = Out::begin("web", File::create(&path).unwrap()).unwrap();
        assert!(std::fs::metadata(&path).unwrap().len() > 0);
        let packet = vec![0; 1 << 20];
        let taken = (0..5).filter(|_| out.packet(&packet).unwrap()).count();
        assert_eq!(taken, 3);
        out.file.flush().unwrap();
        drop(out);
        assert!(std::fs::metadata(&path).unwrap().len() <= LARGEST);
    }
}
