//! The last lines of the log, for who asks the process itself: standard error is read by others.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use tracing_subscriber::fmt::MakeWriter;

/// Octets that are kept.
const KEPT: usize = 1 << 20;

/// Writes to standard error and keeps what it wrote last; shared by clones.
#[derive(Clone, Default)]
pub(crate) struct Recent(Arc<Mutex<Lines>>);

#[derive(Default)]
struct Lines {
    lines: VecDeque<(SystemTime, String)>,
    size: usize,
}

impl Lines {
    fn push(&mut self, now: SystemTime, text: String, room: usize) {
        self.size += text.len();
        self.lines.push_back((now, text));
        while self.size > room
            && let Some((_, oldest)) = self.lines.pop_front()
        {
            self.size -= oldest.len();
        }
    }
}

impl Recent {
    /// What is kept, from `since` on.
    pub(crate) fn text(&self, since: Option<SystemTime>) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = kept.lines.iter().filter(|(at, _)| since.is_none_or(|since| *at >= since));
        wanted.map(|(_, line)| line.as_str()).collect()
    }
}

impl<'a> MakeWriter<'a> for Recent {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// An event is written in one go.
impl Write for Recent {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(text).into_owned();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(SystemTime::now(), line, KEPT);
        io::stderr().write_all(text)?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_newest_lines_are_kept() {
        let recent = Recent::default();
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for second in 0..10 {
            recent.0.lock().unwrap().push(at(second), format!("line {second}\n"), 24);
        }
        assert_eq!(recent.text(None), "line 7\nline 8\nline 9\n");
        assert_eq!(recent.text(Some(at(9))), "line 9\n");
        assert_eq!(recent.text(Some(at(10))), "");
        // One that is longer than all the room is not kept, and leaves no room taken.
        recent.0.lock().unwrap().push(at(11), "x".repeat(25), 24);
        assert_eq!((recent.text(None), recent.0.lock().unwrap().size), (String::new(), 0));
    }
}
