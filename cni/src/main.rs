//! The CNI plugin that the container runtime executes for every pod sandbox.
//!
//! ```text
//! runtime ── CNI_* + stdin ──► antrea-cni ── gRPC, unix socket ──► antrea-agent
//!         ◄── stdout, status ──           ◄── result or error ──
//! ```
//!
//! Whoever traces pods sees it as the first span of each: it makes the ids, the agent exports them.
//!
//! It holds no state and decides nothing about the network: it checks what the specification says
//! a plugin must check, asks the agent, and prints the answer. So an agent upgrade never needs the
//! binary to change, and a broken agent shows as a plain error that the runtime retries.

mod call;
mod request;

use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use antrea_api::cni::span::PluginSpan;
use request::{CniError, Command, Request};

/// A network configuration is a few hundred bytes; the previous result of a CHECK a few thousand.
const MAX_CONFIGURATION: u64 = 1 << 20;

fn main() -> ExitCode {
    let start = SystemTime::now();
    let mut stdin = Vec::new();
    let read = std::io::stdin().lock().take(MAX_CONFIGURATION + 1).read_to_end(&mut stdin);
    let version = request::spec_version(&stdin);
    let outcome = read
        .map_err(|error| CniError::io(format!("cannot read the network configuration: {error}")))
        .and_then(|_| run(start, |key| std::env::var(key).ok(), &stdin));
    let (output, code) = match outcome {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(error) => (error.to_json(&version), ExitCode::FAILURE),
    };
    match std::io::stdout().lock().write_all(&output) {
        Ok(()) => code,
        Err(_) => ExitCode::FAILURE,
    }
}

fn run(
    start: SystemTime,
    environment: impl Fn(&str) -> Option<String>,
    stdin: &[u8],
) -> Result<Vec<u8>, CniError> {
    if stdin.len() as u64 > MAX_CONFIGURATION {
        return Err(CniError::decoding(format!(
            "the network configuration is larger than {MAX_CONFIGURATION} bytes"
        )));
    }
    let request = Request::parse(&environment, stdin)?;
    match request.command {
        Command::Version => Ok(request::supported_versions(&request.spec_version)),
        _ => call::call(&request, span(start, environment("TRACEPARENT").as_deref())),
    }
}

/// The span of this execution. It is the agent that knows whether spans are wanted, and exports them.
fn span(start: SystemTime, caller: Option<&str>) -> Option<PluginSpan> {
    let mut random = [0; 24];
    std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).ok()?;
    Some(PluginSpan::begin(start, caller, random))
}
