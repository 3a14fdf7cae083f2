//! From packets that are meant to a program of classic BPF that lets those pass and nothing else.
//!
//! Offsets are those of an Ethernet frame. A read beyond a packet's end ends a program, and the packet does not pass. Ports,
//! flags and messages are in a datagram's first fragment only, so that later fragments are none of a flow with ports.

use std::net::IpAddr;

/// One instruction, as the kernel has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    /// How many instructions are left out if a comparison holds.
    pub yes: u8,
    /// The same if it does not.
    pub no: u8,
    pub operand: u32,
}

/// Which packets pass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pattern {
    pub v6: bool,
    pub protocol: Option<u8>,
    /// Source and destination.
    pub ends: [Option<IpAddr>; 2],
    /// Source's and destination's.
    pub ports: [Option<u16>; 2],
    /// TCP's flags, one of these values under its mask.
    pub flags: Vec<(u8, u8)>,
    /// ICMP's type and code, one of these.
    pub messages: Vec<(u8, Option<u8>)>,
}

impl Pattern {
    /// What answers to such packets look like; of flags and messages they have the same.
    #[must_use]
    pub fn answers(&self) -> Self {
        let ([source, destination], [from, to]) = (self.ends, self.ports);
        Self { ends: [destination, source], ports: [to, from], ..self.clone() }
    }
}

const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
/// The same at the index register.
const INDEXED_HALF: u16 = 0x48;
const INDEXED_BYTE: u16 = 0x50;
/// Sets the index register to the length of the IPv4 header at an offset.
const LOAD_HEADER_LENGTH: u16 = 0xb1;
const AND: u16 = 0x54;
const EQUAL: u16 = 0x15;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

const ETHERNET: u32 = 14;
const V6_HEADER: u32 = 40;
const FRAGMENT_OFFSET: u32 = 0x1fff;
/// Of a packet that passes, all is kept.
const ALL: u32 = 0x0004_0000;

/// Where a comparison goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum To {
    /// With what follows.
    Next,
    /// At a mark.
    Mark(usize),
}

#[derive(Debug, Default)]
struct Assembler {
    code: Vec<(u16, To, To, u32)>,
    /// Where marks are.
    marks: Vec<usize>,
}

impl Assembler {
    fn mark(&mut self) -> usize {
        self.marks.push(usize::MAX);
        self.marks.len() - 1
    }

    fn place(&mut self, mark: usize) {
        self.marks[mark] = self.code.len();
    }

    fn push(&mut self, code: u16, operand: u32) {
        self.code.push((code, To::Next, To::Next, operand));
    }

    /// Goes on if what was loaded is this, else at the mark.
    fn need(&mut self, operand: u32, otherwise: usize) {
        self.code.push((EQUAL, To::Next, To::Mark(otherwise), operand));
    }

    fn finish(self) -> Vec<Instruction> {
        let (code, marks) = (self.code, self.marks);
        let distance = |at: usize, to: To| match to {
            To::Next => 0,
            To::Mark(mark) => u8::try_from(marks[mark] - at - 1).expect("programs must be short"),
        };
        let finish = |(at, (code, yes, no, operand)): (usize, &(u16, To, To, u32))| Instruction {
            code: *code,
            yes: distance(at, *yes),
            no: distance(at, *no),
            operand: *operand,
        };
        code.iter().enumerate().map(finish).collect()
    }
}

/// A program that lets pass what is like one of these.
pub fn program(patterns: &[Pattern]) -> Vec<Instruction> {
    let mut out = Assembler::default();
    for pattern in patterns {
        // Each is followed by the next, so that no jump is further than one of them is long.
        let next = out.mark();
        one(&mut out, pattern, next);
        out.push(RETURN, ALL);
        out.place(next);
    }
    out.push(RETURN, 0);
    out.finish()
}

fn one(out: &mut Assembler, pattern: &Pattern, no: usize) {
    out.push(LOAD_HALF, 12);
    out.need(if pattern.v6 { 0x86dd } else { 0x0800 }, no);
    if let Some(protocol) = pattern.protocol {
        out.push(LOAD_BYTE, ETHERNET + if pattern.v6 { 6 } else { 9 });
        out.need(protocol.into(), no);
    }
    for (end, v4, v6) in [(pattern.ends[0], 12, 8), (pattern.ends[1], 16, 24)] {
        let words: Vec<u32> = match end {
            None => continue,
            Some(IpAddr::V4(ip)) => vec![ip.into()],
            Some(IpAddr::V6(ip)) => {
                let ip = u128::from(ip);
                (0..4).rev().map(|word| (ip >> (32 * word)) as u32).collect()
            }
        };
        let mut at = ETHERNET + if words.len() == 1 { v4 } else { v6 };
        for word in words {
            out.push(LOAD_WORD, at);
            out.need(word, no);
            at += 4;
        }
    }
    if pattern.ports == [None, None] && pattern.flags.is_empty() && pattern.messages.is_empty() {
        return;
    }
    if !pattern.v6 {
        out.push(LOAD_HALF, ETHERNET + 6);
        out.code.push((ANY_BIT, To::Mark(no), To::Next, FRAGMENT_OFFSET));
        out.push(LOAD_HEADER_LENGTH, ETHERNET);
    }
    let (half, byte, transport) = if pattern.v6 {
        (LOAD_HALF, LOAD_BYTE, ETHERNET + V6_HEADER)
    } else {
        (INDEXED_HALF, INDEXED_BYTE, ETHERNET)
    };
    for (port, at) in [(pattern.ports[0], 0), (pattern.ports[1], 2)] {
        if let Some(port) = port {
            out.push(half, transport + at);
            out.need(port.into(), no);
        }
    }
    let one_of = |out: &mut Assembler, count: usize, alternative: &dyn Fn(&mut Assembler, usize, usize)| {
        let found = out.mark();
        for index in 0..count {
            let otherwise = if index + 1 == count { no } else { out.mark() };
            alternative(out, index, otherwise);
            if otherwise != no {
                // What holds goes past the others.
                let last = out.code.len() - 1;
                out.code[last].1 = To::Mark(found);
                out.place(otherwise);
            }
        }
        out.place(found);
    };
    one_of(out, pattern.flags.len(), &|out, index, otherwise| {
        let (value, mask) = pattern.flags[index];
        out.push(byte, transport + 13);
        out.push(AND, mask.into());
        out.need(value.into(), otherwise);
    });
    one_of(out, pattern.messages.len(), &|out, index, otherwise| {
        let (kind, code) = pattern.messages[index];
        out.push(byte, transport);
        out.need(kind.into(), otherwise);
        if let Some(code) = code {
            out.push(byte, transport + 1);
            out.need(code.into(), otherwise);
        }
    });
}

#[cfg(test)]
mod tests;
