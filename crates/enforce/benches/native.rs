//! Native policies of one node: what comes at once, and what one more sends to the bridge wherever it stands in the order.
//!
//! ```text
//! cargo bench -p antrea-enforce --features testing --bench native -- [--json FILE]
//! ```
//!
//! Each policy has a priority of its own, one rule and an AddressGroup of ten members, and applies to one of 100 pods. What
//! an insertion sends is counted in flows: those of the policy itself are the floor, whatever it moves comes on top.

use std::{
    io::{self, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use antrea_api::controlplane::Event;
use antrea_enforce::{
    reconciler::Reconciler,
    testing::{address_group, applied_to_group, kind_of, local_pod, member, native, native_rule, network_of},
};
use antrea_flows::EncapMode;

const PODS: u32 = 100;
const MEMBERS: u32 = 10;
/// Policies that are there at once, and those that come one by one after that.
const WHOLE: u32 = 10_000;
const INSERTED: u32 = 1_000;
const RUNS: usize = 5;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // As a part of `cargo test --all-targets`: the figures of a debug build mean nothing.
    if !args.iter().any(|arg| arg == "--bench") {
        return ExitCode::SUCCESS;
    }
    let file = args.iter().position(|arg| arg == "--json").and_then(|at| args.get(at + 1));
    let result = measure().and_then(|figures| {
        let text = format!("{:#}\n", serde_json::Value::Array(figures));
        match file {
            Some(file) => std::fs::write(file, text),
            None => io::stdout().write_all(text.as_bytes()),
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "native: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A number that looks drawn, and is the same each time (the last step of SplitMix64).
fn drawn(number: u32) -> u64 {
    let mut z = u64::from(number).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A place in the order between 1 and 10,000, which is that of no other policy.
fn priority(number: u32) -> f64 {
    1.0 + (drawn(number) >> 11) as f64 / (1u64 << 53) as f64 * 9_999.0
}

fn pod(number: u32) -> String {
    format!("p{}", number % PODS)
}

fn tell(node: &mut Reconciler, event: Event) -> io::Result<()> {
    node.cache.apply(kind_of(&event), event).map_err(io::Error::other)
}

fn tell_policy(node: &mut Reconciler, number: u32) -> io::Result<()> {
    let members = (0..MEMBERS).map(|at| {
        let number = number * MEMBERS + at;
        member("peer", &[&format!("172.{}.{}.{}", 16 + (number >> 16), number >> 8 & 255, number & 255)])
    });
    let (group, name) = (format!("g{number}"), format!("n{number}"));
    tell(node, address_group(&group, members.collect()))?;
    let action = ["Drop", "Allow"][number as usize % 2];
    let rules = vec![native_rule(action, &[&group])];
    tell(node, Event::Policy(native(&name, (250, priority(number)), &pod(number), rules)))
}

/// A node with its pods and the first `policies` policies, before it has been reconciled.
fn node(policies: u32) -> io::Result<Reconciler> {
    let mut node = Reconciler::default();
    node.attach(&network_of(EncapMode::Encap));
    node.set_pods((0..PODS).map(|n| local_pod(&pod(n), n + 1, &format!("10.0.0.{}", n + 1))).collect());
    for number in 0..PODS {
        tell(&mut node, applied_to_group(&pod(number), &[&pod(number)]))?;
    }
    for number in 0..policies {
        tell_policy(&mut node, number)?;
    }
    Ok(node)
}

/// Flows that a reconciliation sends, and how long it takes.
fn reconcile(node: &mut Reconciler) -> io::Result<(usize, Duration)> {
    let begin = Instant::now();
    let done = node.reconcile(begin);
    let took = begin.elapsed();
    match done.error {
        Some(error) => Err(io::Error::other(error)),
        None => Ok((done.diff.adds.len() + done.diff.mods.len() + done.diff.deletes.len(), took)),
    }
}

fn percentile(sorted: &[f64], percent: usize) -> f64 {
    sorted
        .get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

fn measure() -> io::Result<Vec<serde_json::Value>> {
    let mut wholes = Vec::new();
    let mut flows = 0;
    for _ in 0..RUNS {
        let (sent, took) = reconcile(&mut node(WHOLE)?)?;
        flows = sent;
        wholes.push(took.as_secs_f64());
    }
    wholes.sort_by(f64::total_cmp);
    let mut figures = vec![serde_json::json!({
        "name": "10,000 native policies of one node, rules and flows computed", "unit": "s",
        "value": percentile(&wholes, 50), "note": format!("{flows} flows"),
    })];
    for before in [0, WHOLE] {
        let mut node = node(before)?;
        reconcile(&mut node)?;
        let (mut ratios, mut times) = (Vec::new(), Vec::new());
        for number in before..before + INSERTED {
            tell_policy(&mut node, number)?;
            let (sent, took) = reconcile(&mut node)?;
            // Alone on a node it sends what it has.
            let mut alone = self::node(0)?;
            reconcile(&mut alone)?;
            tell_policy(&mut alone, number)?;
            let (own, _) = reconcile(&mut alone)?;
            ratios.push(sent as f64 / own as f64);
            times.push(took.as_secs_f64() * 1e3);
        }
        ratios.sort_by(f64::total_cmp);
        times.sort_by(f64::total_cmp);
        let what = format!("1,000 native policies in random order beside {before}");
        figures.push(serde_json::json!({
            "name": format!("{what}: flows sent by one, as a multiple of its own, p99"), "unit": "",
            "value": percentile(&ratios, 99), "goal": 2.0,
            "note": format!("p50 {:.2}, most {:.2}", percentile(&ratios, 50), percentile(&ratios, 100)),
        }));
        figures.push(serde_json::json!({
            "name": format!("{what}: computing one, p99"), "unit": "ms", "value": percentile(&times, 99),
            "note": format!("p50 {:.3} ms", percentile(&times, 50)),
        }));
    }
    Ok(figures)
}
