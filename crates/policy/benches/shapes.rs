//! Time and memory of the first computation, for cluster shapes that Antrea's own benchmark uses
//! (`networkpolicy_controller_perf_test.go`) and two more, and how both grow with the size.
//!
//! ```text
//! cargo bench -p antrea-policy --bench shapes                       a table
//! cargo bench -p antrea-policy --bench shapes -- --json FILE        and the figures as JSON
//! ```
//!
//! Every run is a process of its own, so that its peak memory (VmHWM) is that of one shape at one size. Timed is
//! what the index does: taking in every object and handing out every change, with all members and spans
//! listed. Not timed are the making of the input, in chunks that are dropped again, and what a server does with the
//! changes. The order of arrival is that of a controller start in both ways: Pods before policies and policies
//! before Pods; the slower counts. Of seven runs the fastest counts, as the others measured the neighbours.

mod support;

use std::{
    io::{self, Write},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use antrea_policy::{
    Index,
    model::{GroupChange, IndexChange, PolicyChange},
};
use support::{
    report::{self, Point, Row},
    shapes::{Chunk, SHAPES, Shape},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SCALES: [f64; 4] = [0.25, 0.5, 1.0, 2.0];
const RUNS: usize = 7;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--child", shape, scale, order] => child(shape, scale, order),
        _ if args.iter().any(|arg| arg == "--bench") => parent(&args),
        // As a part of `cargo test --all-targets`: the figures of a debug build mean nothing.
        _ => Ok(()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "shapes: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What was handed out, so that nothing can be optimised away.
#[derive(Default)]
struct Tally {
    changes: u64,
    members: u64,
    nodes: u64,
}

impl Tally {
    fn group<M>(&mut self, change: &GroupChange<M>) {
        if let GroupChange::Created { members, span } = change {
            self.members += members.len() as u64;
            self.nodes += span.len() as u64;
        }
    }

    fn count(&mut self, change: &IndexChange) {
        self.changes += 1;
        match change {
            IndexChange::AddressGroup(_, change) => self.group(change),
            IndexChange::AppliedToGroup(_, change) => self.group(change),
            IndexChange::Policy(_, PolicyChange::Created { span, .. }) => self.nodes += span.len() as u64,
            IndexChange::Policy(..) => {}
        }
    }
}

fn child(shape: &str, scale: &str, order: &str) -> io::Result<()> {
    let shape = SHAPES.iter().find(|s| s.name == shape).ok_or(io::ErrorKind::InvalidInput)?;
    let scale: f64 = scale.parse().map_err(io::Error::other)?;
    let mut index = Index::new();
    let mut spent = Duration::ZERO;
    let mut timed = |chunk: &Chunk, index: &mut Index| -> io::Result<()> {
        let start = Instant::now();
        for namespace in &chunk.namespaces {
            index.apply_namespace(namespace);
        }
        for pod in &chunk.pods {
            index.apply_pod(pod);
        }
        let mut errors = 0;
        for policy in &chunk.policies {
            errors += index.apply_network_policy(policy).len();
        }
        chunk.tiers.iter().for_each(|tier| index.apply_tier(tier));
        chunk.natives.iter().for_each(|policy| index.apply_native(policy));
        spent += start.elapsed();
        if errors == 0 { Ok(()) } else { Err(io::Error::other("the input is wrong")) }
    };
    let [first, second] = if order == "pods" { [true, false] } else { [false, true] };
    for pods in [first, second] {
        shape.generate(scale, pods, 1, &mut |chunk| timed(&chunk, &mut index))?;
    }
    let start = Instant::now();
    let mut tally = Tally::default();
    index.drain_with(|change| tally.count(&change));
    spent += start.elapsed();
    // Native policies are computed only then.
    for (namespace, name) in index.take_computed() {
        if index.native(&namespace, &name).is_none_or(|policy| !policy.errors.is_empty()) {
            return Err(io::Error::other("the input is wrong"));
        }
    }

    let micros = event(shape, scale, &mut index)?;

    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
    let peak = peak.ok_or_else(|| io::Error::other("no VmHWM"))?;
    let seconds = spent.as_secs_f64();
    writeln!(io::stdout(), "{seconds} {peak} {} {} {} {micros}", tally.changes, tally.members, tally.nodes)
}

/// The mean time in µs of one event in the full index: a Pod gets another address and another node, and the changes
/// are handed out.
fn event(shape: &Shape, scale: f64, index: &mut Index) -> io::Result<f64> {
    let (mut spent, mut events, mut tally) = (Duration::ZERO, 0.0, Tally::default());
    shape.generate(scale, true, 2, &mut |chunk| {
        if events >= 5_000.0 {
            return Ok(());
        }
        let start = Instant::now();
        for pod in &chunk.pods {
            index.apply_pod(pod);
            index.drain_with(|change| tally.count(&change));
            events += 1.0;
        }
        spent += start.elapsed();
        Ok(())
    })?;
    if (tally.changes as f64) < events {
        return Err(io::Error::other("events without a change"));
    }
    Ok(spent.as_secs_f64() * 1e6 / events)
}

fn run(shape: &Shape, scale: f64) -> io::Result<Point> {
    let mut slowest = Point::default();
    for order in ["pods", "policies"] {
        let mut fastest: Option<Point> = None;
        for _ in 0..RUNS {
            let output = Command::new(std::env::current_exe()?)
                .args(["--child", shape.name, &scale.to_string(), order])
                .output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            let fields: Vec<f64> = text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
            let [seconds, kilobytes, changes, members, nodes, micros] = fields[..] else {
                return Err(io::Error::other(format!("{output:?}")));
            };
            let point =
                Point { scale, seconds, megabytes: kilobytes / 1024.0, changes, members, nodes, micros };
            fastest = Some(match fastest {
                Some(other) => {
                    let micros = micros.min(other.micros);
                    Point { micros, ..if other.seconds <= seconds { other } else { point } }
                }
                None => point,
            });
        }
        if let Some(point) = fastest {
            let megabytes = slowest.megabytes.max(point.megabytes);
            let micros = slowest.micros.max(point.micros);
            slowest = if point.seconds > slowest.seconds { point } else { slowest };
            (slowest.megabytes, slowest.micros) = (megabytes, micros);
        }
    }
    Ok(slowest)
}

fn parent(args: &[String]) -> io::Result<()> {
    let mut rows = Vec::new();
    for shape in &SHAPES {
        let mut points = Vec::new();
        for scale in SCALES {
            let point = run(shape, scale)?;
            report::progress(shape, &point)?;
            points.push(point);
        }
        rows.push(Row { shape, points });
    }
    report::table(&rows)?;
    if let Some(at) = args.iter().position(|arg| arg == "--json") {
        let file = args.get(at + 1).ok_or_else(|| io::Error::other("--json needs a file"))?;
        std::fs::write(file, report::json(&rows))?;
    }
    Ok(())
}
