//! Strategies for values in the form that the switch reports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use openflow::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn field() -> impl Strategy<Value = Field> {
    (0..Field::ALL.len()).prop_map(|i| Field::ALL[i])
}

/// Two masks of fragments share a word with another.
fn has_own_text(m: &MatchField) -> bool {
    m.field != Field::IpFrag || !matches!((m.value, m.mask), (0, 1) | (2, 2))
}

pub(crate) fn matches() -> impl Strategy<Value = Match> {
    let protocol = prop_oneof![
        Just("".to_owned()),
        proptest::sample::select(vec![
            "arp",
            "ip",
            "ipv6",
            "tcp",
            "tcp6",
            "udp",
            "udp6",
            "sctp",
            "sctp6",
            "icmp",
            "icmp6",
            "mpls",
            "icmp6,icmp_type=135",
            "icmp6,icmp_type=136",
            "ip,ct_state=+est",
            "ipv6,ct_state=+trk-inv",
            "dl_vlan=5",
            "ip,vlan_tci=0x1000/0x1000",
            "vlan_tci=0/0x1fff",
        ])
        .prop_map(str::to_owned),
    ];
    let part = (field(), any::<u128>(), prop_oneof![Just(u128::MAX), any::<u128>()]);
    (protocol, vec(part, 0..12)).prop_map(|(text, parts)| {
        let mut m: Match = text.parse().expect("must parse");
        for (field, value, mask) in parts {
            let mut next = m.clone();
            let fixed = ["conj_id", "in_port", "actset_output", "packet_type", "eth_type", "vlan_pcp"];
            let unmaskable = fixed.contains(&field.name())
                || field.name().starts_with("mpls")
                || matches!(
                    field,
                    Field::NwTos
                        | Field::IpDscp
                        | Field::NwEcn
                        | Field::NwTtl
                        | Field::NwProto
                        | Field::ArpOp
                        | Field::IcmpType
                        | Field::IcmpCode
                        | Field::Icmpv6Type
                        | Field::Icmpv6Code
                        | Field::CtZone
                        | Field::CtNwProto
                        | Field::InPortOxm
                        | Field::InPort
                );
            next.insert(field, value, if unmaskable { u128::MAX } else { mask });
            if next.unmet_prerequisite().is_none() && next.fields().all(|m| has_own_text(&m)) {
                m = next;
            }
        }
        m
    })
}

pub(crate) fn sub_field() -> impl Strategy<Value = SubField> {
    (field(), any::<u16>(), any::<u16>()).prop_map(|(f, a, b)| {
        let all = SubField::whole(f).n_bits();
        let ofs = a % all;
        SubField::new(f, ofs, 1 + b % (all - ofs)).expect("must fit")
    })
}

/// Two sub-fields of one width.
fn pair() -> impl Strategy<Value = (SubField, SubField)> {
    (sub_field(), sub_field()).prop_map(|(a, b)| {
        let n = a.n_bits().min(b.n_bits());
        let cut = |s: SubField| SubField::new(s.field(), s.ofs(), n).expect("must fit");
        (cut(a), cut(b))
    })
}

fn port() -> impl Strategy<Value = PortNo> {
    prop_oneof![any::<u16>().prop_map(PortNo::from_u16), (0..0xffff_ff00u32).prop_map(PortNo)]
}

fn port16() -> impl Strategy<Value = PortNo> {
    any::<u16>().prop_map(PortNo::from_u16)
}

fn ip_pair() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<(Ipv4Addr, Ipv4Addr)>().prop_map(|(a, b)| (IpAddr::V4(a), IpAddr::V4(b))),
        any::<Ipv6Addr>().prop_map(|a| (IpAddr::V6(a), IpAddr::V6(a))),
        any::<(Ipv6Addr, Ipv6Addr)>().prop_map(|(a, b)| (IpAddr::V6(a), IpAddr::V6(b))),
    ]
}

fn nat() -> impl Strategy<Value = Nat> {
    let kind = prop_oneof![Just(NatKind::Src), Just(NatKind::Dst)];
    let some = (kind, option::of(ip_pair()), option::of(any::<(u16, u16)>()), any::<[bool; 3]>()).prop_map(
        |(kind, addrs, ports, [persistent, hash, random])| Nat {
            kind: Some(kind),
            addrs,
            ports,
            persistent,
            hash,
            random,
        },
    );
    prop_oneof![Just(Nat::restore()), some]
}

fn reason() -> impl Strategy<Value = PacketInReason> {
    any::<u8>().prop_map(PacketInReason::from_number)
}

fn controller() -> impl Strategy<Value = Action> {
    (any::<u16>(), any::<u16>(), reason(), vec(any::<u8>(), 0..20), any::<bool>(), option::of(any::<u32>()))
        .prop_map(|(max_len, controller_id, reason, userdata, pause, meter_id)| {
            let c = ControllerAction { max_len, controller_id, reason, userdata, pause, meter_id };
            let plain = ControllerAction { max_len, ..ControllerAction::default() };
            if c == plain { Action::ToController { max_len } } else { c.into() }
        })
}

fn learn() -> impl Strategy<Value = Action> {
    let spec = prop_oneof![
        (sub_field(), any::<u128>()).prop_map(|(d, v)| LearnSpec {
            src: LearnSrc::Immediate(v & d.max_value()),
            dst: LearnDst::Match(d)
        }),
        (sub_field(), any::<u128>()).prop_map(|(d, v)| LearnSpec {
            src: LearnSrc::Immediate(v & d.max_value()),
            dst: LearnDst::Load(d)
        }),
        pair().prop_map(|(s, d)| LearnSpec { src: LearnSrc::Field(s), dst: LearnDst::Match(d) }),
        pair().prop_map(|(s, d)| LearnSpec { src: LearnSrc::Field(s), dst: LearnDst::Load(d) }),
        sub_field().prop_map(|s| LearnSpec { src: LearnSrc::Field(s), dst: LearnDst::Output }),
    ];
    let bit = option::of((0..32u16).prop_map(|n| SubField::reg(4, n, n)));
    (any::<[u16; 5]>(), any::<u64>(), any::<u8>(), any::<[bool; 2]>(), any::<u32>(), bit, vec(spec, 0..6))
        .prop_map(
            |(
                [idle_timeout, hard_timeout, priority, fin_idle_timeout, fin_hard_timeout],
                cookie,
                table,
                flags,
                limit,
                result,
                specs,
            )| {
                Learn {
                    idle_timeout,
                    hard_timeout,
                    priority,
                    cookie,
                    table,
                    fin_idle_timeout,
                    fin_hard_timeout,
                    send_flow_removed: flags[0],
                    delete_learned: flags[1],
                    limit,
                    result,
                    specs,
                }
                .into()
            },
        )
}

fn leaf() -> impl Strategy<Value = Action> {
    prop_oneof![
        port().prop_filter("has its own form", |p| *p != PortNo::CONTROLLER).prop_map(Action::Output),
        any::<u16>().prop_map(|max_len| Action::ToController { max_len }),
        controller(),
        sub_field().prop_filter("at most 64 bits", |s| s.n_bits() <= 64).prop_map(Action::output_reg),
        (port16(), any::<u32>()).prop_map(|(port, max_len)| Action::OutputTrunc { port, max_len }),
        any::<u32>().prop_map(Action::Group),
        any::<u32>().prop_map(Action::Meter),
        (field(), any::<u128>(), any::<u128>())
            .prop_map(|(field, v, m)| {
                let mask = m & field.full_mask();
                MatchField { field, value: v & mask, mask }
            })
            .prop_filter("words of fragments", has_own_text)
            .prop_filter("masks", |m| m.field != Field::PacketType && m.mask != 0)
            .prop_map(|MatchField { field, value, mask }| Action::SetField { field, value, mask }),
        (field(), any::<u128>())
            .prop_filter("words of fragments", |(f, _)| *f != Field::IpFrag)
            .prop_map(|(f, v)| Action::set_field(f, v)),
        pair().prop_map(|(src, dst)| Action::Move { src, dst }),
        sub_field().prop_map(Action::Push),
        sub_field().prop_map(Action::Pop),
        (option::of(port16()), option::of(0..255u8), any::<bool>()).prop_map(|(port, table, ct)| {
            Action::Resubmit { port: port.filter(|p| *p != PortNo::IN_PORT), table, ct }
        }),
        Just(Action::CtClear),
        Just(Action::DecTtl),
        Just(Action::PopQueue),
        Just(Action::PopVlan),
        Just(Action::Exit),
        any::<u32>().prop_map(Action::SetQueue),
        any::<u16>().prop_map(Action::PushVlan),
        (any::<u32>(), 2..=64u8, any::<u8>()).prop_map(|(id, n_clauses, c)| Action::Conjunction {
            id,
            clause: 1 + c % n_clauses,
            n_clauses
        }),
        learn(),
        any::<(u16, u16)>().prop_map(|(idle, hard)| Action::FinTimeout { idle, hard }),
        vec(any::<u8>(), 0..20).prop_map(|b| Action::note(&b)),
        Just(Action::Unknown([0xff, 0xff, 0, 16, 0, 0, 0x12, 0x34, 1, 2, 3, 4, 5, 6, 7, 8].into())),
    ]
}

pub(crate) fn action() -> impl Strategy<Value = Action> {
    leaf().prop_recursive(2, 12, 3, |inner| {
        let zone = prop_oneof![
            any::<u16>().prop_map(CtZone::Immediate),
            (0..16u8, 0..17u16).prop_map(|(r, o)| CtZone::Field(SubField::reg(r, o, o + 15)))
        ];
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(Action::Clone),
            (
                any::<[bool; 2]>(),
                zone,
                option::of(0..255u8),
                any::<u16>(),
                option::of(nat()),
                vec(inner, 0..3)
            )
                .prop_map(|([commit, force], zone, table, alg, nat, exec)| {
                    Ct { commit, force, zone, table, alg, nat, exec }.into()
                }),
        ]
    })
}

/// Actions and instructions in the order that the switch reports.
pub(crate) fn actions() -> impl Strategy<Value = Vec<Action>> {
    (
        vec(action(), 0..5),
        any::<bool>(),
        option::of(vec(action(), 0..3)),
        option::of(any::<(u64, u64)>()),
        option::of(any::<u8>()),
    )
        .prop_map(|(mut all, clear, write, metadata, goto)| {
            all.extend(clear.then_some(Action::ClearActions));
            all.extend(write.map(Action::WriteActions));
            all.extend(metadata.map(|(v, mask)| Action::WriteMetadata { value: v & mask, mask }));
            all.extend(goto.map(Action::GotoTable));
            all
        })
}

pub(crate) fn flow() -> impl Strategy<Value = Flow> {
    (any::<u8>(), any::<[u16; 4]>(), any::<u64>(), 0..32u16, matches(), actions()).prop_map(
        |(table, [priority, idle, hard, importance], cookie, flags, m, actions)| Flow {
            importance,
            ..Flow::new(table, priority)
                .cookie(cookie)
                .idle_timeout(idle)
                .hard_timeout(hard)
                .flags(FlowFlags(flags))
                .matching(m)
                .actions(actions)
        },
    )
}

pub(crate) fn group() -> impl Strategy<Value = Group> {
    let kind = prop_oneof![
        Just(GroupType::All),
        Just(GroupType::Select),
        Just(GroupType::Indirect),
        Just(GroupType::FastFailover)
    ];
    let hashed = prop_oneof![
        Just(Match::new()),
        any::<u32>().prop_map(|m| Match::new().masked(Field::Ipv4Src, m.into(), m.into())),
        Just(Match::new().masked(Field::TcpSrc, 0xffff, 0xffff).masked(Field::Ipv6Dst, u128::MAX, u128::MAX)),
    ];
    let selection = (proptest::sample::select(vec!["hash", "dp_hash"]), any::<u64>(), hashed)
        .prop_map(|(m, param, fields)| SelectionMethod { method: m.to_owned(), param, fields });
    let bucket =
        (any::<u32>(), any::<u16>(), option::of(0..99u32), option::of(0..99u32), vec(action(), 0..3))
            .prop_map(|(id, weight, p, g, actions)| Bucket {
                watch_port: p.map(PortNo),
                watch_group: g,
                actions: actions.into(),
                ..Bucket::new(id, weight)
            });
    (any::<u32>(), kind, option::of(selection), vec(bucket, 0..4)).prop_map(
        |(id, kind, selection, mut buckets)| {
            if kind != GroupType::Select {
                buckets.iter_mut().for_each(|b| b.weight = 0);
            }
            Group { id, kind, selection, buckets }
        },
    )
}

pub(crate) fn meter() -> impl Strategy<Value = Meter> {
    let kind = prop_oneof![Just(BandType::Drop), any::<u8>().prop_map(BandType::DscpRemark)];
    let band =
        (kind, any::<u32>(), any::<u32>()).prop_map(|(kind, rate, burst)| MeterBand { kind, rate, burst });
    (any::<u32>(), 0..16u16, vec(band, 0..4)).prop_map(|(id, flags, mut bands)| {
        if flags & MeterFlags::BURST.0 == 0 {
            bands.iter_mut().for_each(|b| b.burst = 0);
        }
        Meter { id, flags: MeterFlags(flags), bands }
    })
}
