//! An explanation as text for people.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::finding::{Explanation, Mark, Verdict};

/// The text. With colours where a terminal shows it.
pub(super) fn text(explained: &Explanation, colours: bool) -> String {
    let paint = |text: &str, code: &str| {
        if colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    };
    let (word, code) = match explained.verdict {
        Verdict::Allowed => ("allowed", "32"),
        Verdict::Denied => ("denied", "31"),
        Verdict::Broken => ("broken", "31"),
        Verdict::Unknown => ("not known", "33"),
    };
    let (source, destination) = (plain(&explained.source), plain(&explained.destination));
    let mut text = format!("{source} -> {destination}, {}\n\n", explained.packet);
    // Writing to a string does not fail.
    let _ = writeln!(text, "{}: {}\n", paint(word, code), plain(&explained.reason));
    let width =
        explained.findings.iter().map(|finding| finding.check.chars().count()).max().unwrap_or_default();
    for finding in &explained.findings {
        let (word, code) = match finding.result {
            Mark::Ok => ("ok", "32"),
            Mark::Note => ("note", "36"),
            Mark::Unknown => ("not known", "33"),
            Mark::Denied => ("denied", "31"),
            Mark::Broken => ("broken", "31"),
        };
        // Padded before it is painted, for what paints takes no room.
        let _ = writeln!(
            text,
            "{}   {:width$}   {}",
            paint(&format!("{word:9}"), code),
            finding.check,
            plain(&finding.detail)
        );
        for line in &finding.more {
            let _ = writeln!(text, "{:9}   {:width$}     {}", "", "", plain(line));
        }
    }
    let mut told = BTreeSet::new();
    let advice: Vec<&str> = explained
        .findings
        .iter()
        .filter_map(|finding| finding.advice.as_deref())
        .filter(|advice| told.insert(*advice))
        .collect();
    if !advice.is_empty() {
        text.push_str("\nWhat to do:\n");
        for advice in advice {
            let _ = writeln!(text, "- {}", plain(advice));
        }
    }
    text
}

/// One line. What others say may hold anything, and a terminal does what control characters tell it.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
