//! Writes the files of this repository that are made from others.
//!
//! `cargo xtask generate` writes them, `cargo xtask generate --check` only says which ones are stale.

use std::process::ExitCode;

mod generate;
mod metrics;
mod monitoring;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["generate"] => generate::write(),
        ["generate", "--check"] => generate::check(),
        _ => Err(anyhow::anyhow!("usage: cargo xtask generate [--check]")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}
