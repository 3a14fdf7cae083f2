//! Encoding and decoding 100,000 flow-mods, beside copying as many bytes: the floor.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
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

fn bench(c: &mut Criterion) {
    let messages = messages();
    let mut wire = BytesMut::new();
    for (i, m) in messages.iter().enumerate() {
        m.encode(Xid(i as u32), &mut wire).expect("must encode");
    }
    let mut group = c.benchmark_group("100k flow-mods");
    group.sample_size(20).throughput(Throughput::Bytes(wire.len() as u64));
    let mut out = BytesMut::with_capacity(wire.len());
    group.bench_function("floor: copy", |b| {
        b.iter(|| {
            out.clear();
            out.extend_from_slice(black_box(&wire));
        });
    });
    group.bench_function("encode", |b| {
        b.iter(|| {
            out.clear();
            for (i, m) in black_box(&messages).iter().enumerate() {
                m.encode(Xid(i as u32), &mut out).expect("must encode");
            }
        });
    });
    group.bench_function("decode", |b| {
        b.iter(|| {
            let mut input = wire.clone();
            let mut n = 0;
            while let Some(m) = Message::decode(&mut input).expect("must decode") {
                black_box(m);
                n += 1;
            }
            assert_eq!(n, N);
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
