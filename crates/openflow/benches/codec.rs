//! Encoding and decoding 100,000 flow-mods, beside copying as many bytes: the floor.

#![allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use openflow::{Action, CtState, Flow, FlowMod, Match, Message, SubField, Xid};

const N: u32 = 100_000;

fn messages() -> Vec<Message> {
    (0..N)
        .map(|i| {
            let ip = std::net::Ipv4Addr::from_bits(0x0a0a_0000 | i);
            let m = Match::new()
                .tcp()
                .nw_src(ipnet::IpNet::from(std::net::IpAddr::V4(ip)))
                .tcp_dst(80, 0xffff)
                .ct_state(CtState::new().set(CtState::NEW | CtState::TRK))
                .bits(SubField::reg(0, 0, 3), 3);
            let flow = Flow::new(14, 200)
                .cookie(u64::from(i))
                .matching(m)
                .action(Action::Conjunction { id: i, clause: 1, n_clauses: 3 })
                .action(SubField::reg(5, 0, 31).load(i.into()))
                .goto(16);
            FlowMod::add(flow).into()
        })
        .collect()
}

/// The fastest of several runs: the others measured the neighbours too.
fn fastest(mut run: impl FnMut()) -> Duration {
    let times = (0..20).map(|_| {
        let begin = Instant::now();
        run();
        begin.elapsed()
    });
    times.min().unwrap_or_default()
}

fn main() {
    // As a part of `cargo test --all-targets`: the figures of a debug build mean nothing.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let messages = messages();
    let mut wire = BytesMut::new();
    for (i, m) in messages.iter().enumerate() {
        m.encode(Xid(i as u32), &mut wire).expect("must encode");
    }
    let mut out = BytesMut::with_capacity(wire.len());
    let floor = fastest(|| {
        out.clear();
        out.extend_from_slice(black_box(&wire));
    });
    let encode = fastest(|| {
        out.clear();
        for (i, m) in black_box(&messages).iter().enumerate() {
            m.encode(Xid(i as u32), &mut out).expect("must encode");
        }
    });
    let decode = fastest(|| {
        let mut input = wire.clone();
        let mut n = 0;
        while let Some(m) = Message::decode(&mut input).expect("must decode") {
            black_box(m);
            n += 1;
        }
        assert_eq!(n, N);
    });
    println!("{N} flow-mods, {} octets: copy {floor:.2?} (floor)", wire.len());
    for (what, time) in [("encode", encode), ("decode", decode)] {
        println!("{what} {time:.2?}, {:.1} x floor", time.as_secs_f64() / floor.as_secs_f64());
    }
}
