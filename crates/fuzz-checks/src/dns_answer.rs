//! Any octets as a frame from a DNS server: nothing panics, what is told is in the form that policies go by and no more than
//! the frame has room for, and it is the same after the checksum is made.

use std::time::Instant;

use antrea_packet::{DnsPacket, DnsStreams, without_offload};

/// Octets of the shortest address.
const SHORTEST: usize = 4;

/// Checks one input and returns how many addresses it tells.
pub fn check(data: &[u8]) -> usize {
    let now = Instant::now();
    let read = |frame: &[u8]| DnsStreams::default().read(1, frame, now);
    let told = read(data);
    let DnsPacket::Answers(answers) = &told else { return 0 };
    for answer in answers {
        assert!(!answer.addresses.is_empty() && !answer.names.is_empty(), "{answer:?}");
        assert!(answer.addresses.len() * SHORTEST <= data.len());
        for name in &answer.names {
            let is_plain = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '_' | '.' | '?');
            assert!(name.len() < 255 && name.chars().all(is_plain), "{name:?}");
        }
    }
    let sent = without_offload(data, data.len());
    let sent: Vec<DnsPacket> = sent.iter().flatten().map(|frame| read(frame)).collect();
    assert_eq!(sent, std::slice::from_ref(&told));
    answers.iter().map(|answer| answer.addresses.len()).sum()
}
