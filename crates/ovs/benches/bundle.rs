//! Flows by our bundle against `ovs-ofctl -O OpenFlow15 --bundle add-flows`: the same flows, the same ovs-vswitchd.
//!
//! `cargo bench -p ovs [-- FLOWS [ROUNDS]]` prints the median of each and their ratio. Ours is timed from flow values
//! to the barrier reply; ovs-ofctl from its start on a file to its end, as an agent that ran it would wait.

#![allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use openflow::{Flow, FlowMod, Match, Message, SubField, multipart::FlowFilter};
use ovs::testing::TestOvs;
use tokio_util::sync::CancellationToken;

const BRIDGE: &str = "br-int";

struct Spec {
    table: u8,
    priority: u16,
    source: Ipv4Addr,
    port: u16,
    value: u16,
}

fn spec(n: u32) -> Spec {
    let low = |bound: u32| u16::try_from(n % bound).unwrap_or_default();
    Spec {
        table: u8::try_from(n % 8).unwrap_or_default(),
        priority: 100 + low(64),
        source: Ipv4Addr::from(0x0a00_0000 | n),
        port: low(60_000),
        value: low(65_536),
    }
}

fn flow(n: u32) -> Flow {
    let Spec { table, priority, source, port, value } = spec(n);
    Flow::new(table, priority)
        .cookie(u64::from(n))
        .matching(Match::new().tcp().nw_src(IpAddr::V4(source)).tcp_dst(port, u16::MAX))
        .action(SubField::reg(0, 0, 15).load(u128::from(value)))
        .goto(10)
}

fn text(n: u32) -> String {
    let Spec { table, priority, source, port, value } = spec(n);
    format!(
        "table={table},priority={priority},cookie={n:#x},tcp,nw_src={source},tcp_dst={port},\
         actions=load:{value:#x}->NXM_NX_REG0[0..15],goto_table:10"
    )
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // cargo passes --bench.
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u32>().ok());
    let flows = numbers.next().unwrap_or(100_000);
    let rounds = numbers.next().unwrap_or(5);

    let dir = tempfile::Builder::new().prefix("ovs-bench-").tempdir_in("/tmp")?;
    let ovs = TestOvs::start(dir.path(), None)?;
    let cancel = CancellationToken::new();
    let _guard = cancel.clone().drop_guard();
    let of = ovs.dummy_bridge(BRIDGE, &cancel).await?;

    let mut file = String::new();
    for n in 0..flows {
        writeln!(file, "{}", text(n))?;
    }
    let path = dir.path().join("flows.txt");
    tokio::fs::write(&path, file).await?;
    let path = path.to_str().context("temporary path is no text")?;

    let clear = || of.send_barriered(vec![FlowMod::delete_by_cookie(0, 0).into()]);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut dumps: [Vec<Flow>; 2] = [Vec::new(), Vec::new()];
    for round in 0..rounds {
        // Taking turns at going first evens out a warm-up.
        for turn in 0..2 {
            clear().await?;
            let own = (round + turn).is_multiple_of(2);
            let begin = Instant::now();
            if own {
                let messages: Vec<Message> = (0..flows).map(|n| FlowMod::add(flow(n)).into()).collect();
                of.bundle(messages).await?;
            } else {
                ovs.ofctl(&["--bundle", "add-flows"], BRIDGE, &[path])?;
            }
            if own {
                ours.push(begin.elapsed())
            } else {
                theirs.push(begin.elapsed())
            }
            if round == 0 {
                let mut found: Vec<Flow> =
                    of.flows(FlowFilter::all()).await?.into_iter().map(|entry| entry.flow).collect();
                found.sort();
                ensure!(found.len() == usize::try_from(flows)?, "{} flows instead of {flows}", found.len());
                dumps[usize::from(own)] = found;
            }
        }
    }
    ensure!(dumps[0] == dumps[1], "the two ways installed different flows");
    let begin = Instant::now();
    let dumped = of.flows(FlowFilter::all()).await?.len();
    let dump = begin.elapsed();

    let (ours, theirs) = (median(ours), median(theirs));
    println!("{flows} flows, median of {rounds} rounds");
    println!("  our bundle           {ours:>10.1?}");
    println!("  ovs-ofctl --bundle   {theirs:>10.1?}");
    println!("  ratio ours/ovs-ofctl {:>10.2}", ours.as_secs_f64() / theirs.as_secs_f64());
    println!("  dump of {dumped} flows {dump:>12.1?}");
    Ok(())
}
