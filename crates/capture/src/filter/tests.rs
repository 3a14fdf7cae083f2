//! Programs are run by an interpreter that knows what the kernel's manual says of each instruction, and refuses what the
//! kernel refuses.

use super::*;

/// How much of a packet a program keeps.
fn run(program: &[Instruction], packet: &[u8]) -> u32 {
    let read = |at: u32, length: usize| {
        let at = usize::try_from(at).unwrap();
        let bytes = packet.get(at..at + length)?;
        Some(bytes.iter().fold(0, |word: u32, byte| word << 8 | u32::from(*byte)))
    };
    let (mut accumulator, mut index, mut at) = (0u32, 0u32, 0usize);
    loop {
        let Instruction { code, yes, no, operand } = program[at];
        at += 1;
        let loaded = match code {
            0x20 => read(operand, 4),
            0x28 => read(operand, 2),
            0x30 => read(operand, 1),
            0x48 => read(index + operand, 2),
            0x50 => read(index + operand, 1),
            0xb1 => {
                let Some(byte) = read(operand, 1) else { return 0 };
                index = 4 * (byte & 0xf);
                Some(accumulator)
            }
            0x54 => Some(accumulator & operand),
            0x15 | 0x45 => {
                let holds = if code == 0x15 { accumulator == operand } else { accumulator & operand != 0 };
                at += usize::from(if holds { yes } else { no });
                Some(accumulator)
            }
            0x06 => return operand,
            other => panic!("{other:#x} is no instruction that is used here"),
        };
        match loaded {
            Some(value) => accumulator = value,
            None => return 0,
        }
    }
}

/// As the kernel checks before it takes one.
fn acceptable(program: &[Instruction]) -> bool {
    let lands = |(at, i): (usize, &Instruction)| {
        at + 1 + usize::from(i.yes.max(i.no)) < program.len() || i.code == RETURN
    };
    program.len() <= 4096
        && program.last().is_some_and(|last| last.code == RETURN)
        && program.iter().enumerate().all(lands)
}

/// A frame's header, an IPv4 header with an option of four octets, and a payload.
fn v4(protocol: u8, ends: [[u8; 4]; 2], fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x46, 0, 0, 0, 0, 0]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, protocol, 0, 0]);
    frame.extend(ends.concat());
    frame.extend([1, 1, 1, 1]);
    frame.extend(payload);
    frame
}

fn v6(protocol: u8, ends: [&str; 2], payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, protocol, 64]);
    for end in ends {
        frame.extend(end.parse::<std::net::Ipv6Addr>().unwrap().octets());
    }
    frame.extend(payload);
    frame
}

fn tcp(ports: [u16; 2], flags: u8) -> Vec<u8> {
    let mut header = [ports[0].to_be_bytes(), ports[1].to_be_bytes()].concat();
    header.extend([0; 9]);
    header.push(flags);
    header.extend([0; 6]);
    header
}

const A: [u8; 4] = [10, 0, 0, 1];
const B: [u8; 4] = [10, 0, 0, 2];

fn passes(patterns: &[Pattern], packet: &[u8]) -> bool {
    let program = program(patterns);
    assert!(acceptable(&program), "{program:?}");
    match run(&program, packet) {
        0 => false,
        kept => {
            assert!(kept >= 0xffff, "a packet is kept whole");
            true
        }
    }
}

fn to_port_80() -> Pattern {
    Pattern {
        protocol: Some(6),
        ends: [Some(A.into()), Some(B.into())],
        ports: [None, Some(80)],
        ..Pattern::default()
    }
}

#[test]
fn a_flow_is_told_by_all_that_it_has() {
    let wanted = [to_port_80()];
    assert!(passes(&wanted, &v4(6, [A, B], 0, &tcp([1000, 80], 2))));
    // "More fragments", and "don't fragment".
    for first in [0x2000, 0x4000] {
        assert!(passes(&wanted, &v4(6, [A, B], first, &tcp([1000, 80], 2))));
    }
    for other in [
        v4(6, [A, B], 0, &tcp([80, 1000], 2)),
        v4(6, [B, A], 0, &tcp([1000, 80], 2)),
        v4(6, [A, [10, 0, 0, 3]], 0, &tcp([1000, 80], 2)),
        v4(17, [A, B], 0, &tcp([1000, 80], 2)),
        // A later fragment has no ports.
        v4(6, [A, B], 185, &tcp([1000, 80], 2)),
        v6(6, ["fd00::1", "fd00::2"], &tcp([1000, 80], 2)),
        v4(6, [A, B], 0, &[3, 232]),
        vec![0; 13],
        vec![],
    ] {
        assert!(!passes(&wanted, &other), "{other:?}");
    }
    let both = [to_port_80(), to_port_80().answers()];
    assert!(passes(&both, &v4(6, [A, B], 0, &tcp([1000, 80], 2))));
    assert!(passes(&both, &v4(6, [B, A], 0, &tcp([80, 1000], 18))));
    assert!(!passes(&both, &v4(6, [B, A], 0, &tcp([1000, 80], 2))));
    // Without ports, all fragments belong to it; without anything, all of the family.
    let any = [Pattern { ports: [None, None], protocol: None, ..to_port_80() }];
    assert!(passes(&any, &v4(17, [A, B], 185, &[])));
    assert!(passes(&[Pattern::default()], &v4(1, [B, A], 0, &[])));
    assert!(!passes(&[], &v4(1, [B, A], 0, &[])));
}

#[test]
fn one_of_several_flags_or_messages_is_enough() {
    let syn_or_end = Pattern { flags: vec![(0x02, 0x12), (0x01, 0x01), (0x04, 0x04)], ..to_port_80() };
    for (flags, expected) in [(2, true), (0x12, false), (0x11, true), (4, true), (0x10, false), (0, false)] {
        let packet = v4(6, [A, B], 0, &tcp([1, 80], flags));
        assert_eq!(passes(std::slice::from_ref(&syn_or_end), &packet), expected, "{flags:#x}");
        let elsewhere = v4(6, [A, B], 0, &tcp([1, 81], flags));
        assert!(!passes(std::slice::from_ref(&syn_or_end), &elsewhere));
    }
    let messages = Pattern {
        protocol: Some(1),
        ends: [Some(A.into()), None],
        messages: vec![(3, Some(1)), (0, None)],
        ..Pattern::default()
    };
    for (message, expected) in [([3, 1], true), ([3, 0], false), ([0, 7], true), ([8, 0], false)] {
        assert_eq!(passes(std::slice::from_ref(&messages), &v4(1, [A, B], 0, &message)), expected);
    }
}

#[test]
fn of_ipv6_the_same() {
    let ends = ["fd00:1:2:3:4:5:6:1", "fd00:1:2:3:4:5:6:2"];
    let [a, b] = ends.map(|end| Some(end.parse().unwrap()));
    let wanted = Pattern { v6: true, ends: [a, b], flags: vec![(2, 2)], ..to_port_80() };
    assert!(passes(std::slice::from_ref(&wanted), &v6(6, ends, &tcp([9, 80], 2))));
    assert!(passes(&[wanted.answers()], &v6(6, [ends[1], ends[0]], &tcp([80, 9], 18))));
    for other in [
        v6(6, ["fd00:1:2:3:4:5:6:1", "fd00:1:2:3:9:5:6:2"], &tcp([9, 80], 2)),
        v6(6, ends, &tcp([9, 80], 16)),
        v6(17, ends, &tcp([9, 80], 2)),
        v4(6, [A, B], 0, &tcp([9, 80], 2)),
    ] {
        assert!(!passes(std::slice::from_ref(&wanted), &other));
    }
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    fn pattern() -> impl Strategy<Value = Pattern> {
        let end =
            || proptest::option::of(any::<bool>().prop_map(|first| IpAddr::from(if first { A } else { B })));
        let port = || proptest::option::of(79u16..82);
        let flags = proptest::collection::vec((0u8..4, 0u8..4), 0..=16);
        let messages = proptest::collection::vec((0u8..4, proptest::option::of(0u8..3)), 0..=16);
        let protocol = proptest::option::of(proptest::sample::select(vec![1u8, 6, 17]));
        (protocol, [end(), end()], [port(), port()], flags, messages).prop_map(
            |(protocol, ends, ports, flags, messages)| Pattern {
                v6: false,
                protocol,
                ends,
                ports,
                flags,
                messages,
            },
        )
    }

    /// What a pattern means, said in another way.
    fn means(
        pattern: &Pattern,
        protocol: u8,
        ends: [[u8; 4]; 2],
        fragment: u16,
        ports: [u16; 2],
        flags: u8,
    ) -> bool {
        let plain = pattern.ports == [None, None] && pattern.flags.is_empty() && pattern.messages.is_empty();
        let [kind, code] = ports[0].to_be_bytes();
        pattern.protocol.is_none_or(|wanted| wanted == protocol)
            && (0..2).all(|n| pattern.ends[n].is_none_or(|wanted| wanted == IpAddr::from(ends[n])))
            && (0..2).all(|n| pattern.ports[n].is_none_or(|wanted| wanted == ports[n]))
            && (plain || fragment & 0x1fff == 0)
            && (pattern.flags.is_empty() || pattern.flags.iter().any(|(value, mask)| flags & mask == *value))
            && (pattern.messages.is_empty()
                || pattern.messages.iter().any(|(k, c)| *k == kind && c.is_none_or(|c| c == code)))
    }

    proptest! {
        #[test]
        fn programs_do_what_patterns_say(
            patterns in proptest::collection::vec(pattern(), 0..=2),
            protocol in proptest::sample::select(vec![1u8, 6, 17]),
            swapped: bool,
            fragment in proptest::sample::select(vec![0u16, 0x2000, 1]),
            ports in [0u16..1024, 79u16..82],
            flags in 0u8..8,
        ) {
            let ends = if swapped { [B, A] } else { [A, B] };
            let packet = v4(protocol, ends, fragment, &tcp(ports, flags));
            let expected = patterns.iter().any(|p| means(p, protocol, ends, fragment, ports, flags));
            prop_assert_eq!(passes(&patterns, &packet), expected);
        }
    }
}
