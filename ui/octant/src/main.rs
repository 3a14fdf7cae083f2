//! Executed by Octant.

use std::process::ExitCode;

use antrea_octant_plugin::{COOKIE, COOKIE_VALUE, Environment, log, run};

fn main() -> ExitCode {
    if std::env::var(COOKIE).is_ok_and(|value| value == COOKIE_VALUE) {
        match Environment::read(|name| std::env::var(name).ok()).map_err(Into::into).and_then(run) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                log("error", &format!("{error}"));
                ExitCode::FAILURE
            }
        }
    } else {
        eprintln!(
            "This is a plugin for Octant, which executes it. Put it into $HOME/.config/octant/plugins and start Octant."
        );
        ExitCode::FAILURE
    }
}
