//! How far it is, on standard error: a bar on a terminal, else a line for each.

use std::io::{IsTerminal, Write};

/// Cells of the bar.
const WIDTH: usize = 30;

pub(super) struct Progress {
    total: usize,
    done: usize,
    terminal: bool,
}

impl Progress {
    pub(super) fn new(total: usize) -> Self {
        let progress = Self { total, done: 0, terminal: std::io::stderr().is_terminal() };
        if progress.terminal {
            progress.draw("");
        }
        progress
    }

    /// One is there, of so many octets.
    pub(super) fn step(&mut self, name: &str, octets: usize) {
        self.done += 1;
        if self.terminal {
            self.draw(name);
        } else {
            eprintln!("{}/{} {name}: {}", self.done, self.total, size(octets));
        }
    }

    /// One is not to be had.
    pub(super) fn fail(&mut self, name: &str, why: &str) {
        self.done += 1;
        if self.terminal {
            self.say("\r\x1b[K");
            eprintln!("antctl: {name}: {why}");
            self.draw(name);
        } else {
            eprintln!("{}/{} {name}: error: {why}", self.done, self.total);
        }
    }

    pub(super) fn end(&self) {
        if self.terminal {
            self.say("\r\x1b[K");
        }
    }

    fn draw(&self, name: &str) {
        self.say(&format!("\r\x1b[K{} {name}", bar(self.done, self.total)));
    }

    fn say(&self, text: &str) {
        let mut stderr = std::io::stderr();
        // Who does not see it misses nothing that counts.
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }
}

fn bar(done: usize, total: usize) -> String {
    let filled = (WIDTH * done).checked_div(total).unwrap_or(WIDTH).min(WIDTH);
    format!("[{}{}] {done}/{total}", "#".repeat(filled), ".".repeat(WIDTH - filled))
}

fn size(octets: usize) -> String {
    match octets {
        0..10_240 => format!("{octets} B"),
        10_240..10_485_760 => format!("{} KiB", octets >> 10),
        _ => format!("{} MiB", octets >> 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_and_sizes() {
        assert_eq!(bar(0, 3), "[..............................] 0/3");
        assert_eq!(bar(1, 3), "[##########....................] 1/3");
        assert_eq!(bar(3, 3), "[##############################] 3/3");
        assert_eq!([size(9), size(10_240), size(11 << 20)], ["9 B", "10 KiB", "11 MiB"]);
    }
}
