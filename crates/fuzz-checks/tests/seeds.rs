//! The fuzz targets' seeds on stable: the same checks as in `fuzz/fuzz_targets`.

use std::{panic::catch_unwind, path::Path};

use anyhow::{Context, Result, ensure};

/// Runs a target's check on each of its seeds. At least half of them have to mean something to it, or the check
/// would look at nothing.
fn replay(target: &str, check: fn(&[u8]) -> usize) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let (mut seeds, mut meaningful) = (0, 0);
    for entry in std::fs::read_dir(&folder).with_context(|| format!("{} must be there", folder.display()))? {
        let path = entry?.path();
        let data = std::fs::read(&path)?;
        let found = catch_unwind(|| check(&data));
        ensure!(found.is_ok(), "the check failed on {}", path.display());
        seeds += 1;
        meaningful += usize::from(found.is_ok_and(|found| found > 0));
    }
    ensure!(seeds >= 10 && meaningful * 2 >= seeds, "{meaningful} of {seeds} seeds mean something");
    Ok(())
}

#[test]
fn cidr_subtract() -> Result<()> {
    replay("cidr_subtract", fuzz_checks::cidr_subtract::check)
}

#[test]
fn dns_answer() -> Result<()> {
    replay("dns_answer", fuzz_checks::dns_answer::check)
}

#[test]
fn openflow_decode() -> Result<()> {
    replay("openflow_decode", fuzz_checks::openflow_decode::check)
}

#[test]
fn openflow_text() -> Result<()> {
    replay("openflow_text", fuzz_checks::openflow_text::check)
}

#[test]
fn ovsdb_frames() -> Result<()> {
    replay("ovsdb_frames", fuzz_checks::ovsdb_frames::check)
}

#[test]
fn refused_packet() -> Result<()> {
    replay("refused_packet", fuzz_checks::refused_packet::check)
}

#[test]
fn traced_packet() -> Result<()> {
    replay("traced_packet", fuzz_checks::traced_packet::check)
}

#[test]
fn watch_events() -> Result<()> {
    replay("watch_events", fuzz_checks::watch_events::check)
}
