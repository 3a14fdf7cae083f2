//! A TCP stream of iperf3 between namespaces, in the background.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// Below what a machine in software carries, so that a lost packet is not one of a full queue.
const RATE: &str = "50M";
/// Ends a forgotten stream.
const SECONDS: &str = "600";
/// What iperf3 calls it when [`Stream::stop`] ends it.
const INTERRUPTED: &str = "interrupt - the client has terminated";

/// A running stream.
pub struct Stream {
    server: Child,
    client: Child,
}

/// What a stream carried.
#[derive(Clone, Debug, PartialEq)]
pub struct Carried {
    /// Octets in each full second.
    pub seconds: Vec<u64>,
    /// Segments that were sent again.
    pub retransmits: u64,
}

impl Stream {
    /// Starts a stream of 50 Mbit/s from `client` to `server`, which has the address `to`.
    pub fn start(client: &str, server: &str, to: IpAddr) -> Self {
        let iperf3 = |netns: &str, args: &[&str]| {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", netns, "iperf3"]).args(args).stdin(Stdio::null());
            command
        };
        let server_child =
            iperf3(server, &["-s", "-1"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        let listens = || {
            let output = Command::new("ip").args(["netns", "exec", server, "ss", "-Htln"]).output().unwrap();
            String::from_utf8_lossy(&output.stdout).contains(":5201")
        };
        while !listens() {
            assert!(Instant::now() < end, "iperf3 -s does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        let to = to.to_string();
        let args = ["-J", "-b", RATE, "-t", SECONDS, "-c", &to];
        let client = iperf3(client, &args).stdout(Stdio::piped()).spawn().unwrap();
        Self { server: server_child, client }
    }

    /// Ends the stream and says what it carried.
    ///
    /// # Errors
    /// The connection broke, or had ended before.
    pub fn stop(mut self) -> Result<Carried, String> {
        interrupt(&self.client);
        let stdout = self.client.stdout.take().unwrap();
        let report: Value = serde_json::from_reader(stdout).map_err(|error| error.to_string())?;
        if report["error"] != INTERRUPTED {
            return Err(format!("iperf3: {}", report["error"]));
        }
        let intervals = report["intervals"].as_array().ok_or("a report without intervals")?;
        let sums = || intervals.iter().map(|interval| &interval["sum"]);
        let full = sums().filter(|sum| sum["seconds"].as_f64().is_some_and(|seconds| seconds > 0.9));
        Ok(Carried {
            seconds: full.filter_map(|sum| sum["bytes"].as_u64()).collect(),
            retransmits: sums().filter_map(|sum| sum["retransmits"].as_u64()).sum(),
        })
    }
}

fn interrupt(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        for child in [&mut self.client, &mut self.server] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
