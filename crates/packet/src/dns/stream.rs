//! DNS over TCP: the messages of a server's stream, however they lie in its segments.
//!
//! A stream is read in order, and its receiver gets nothing of it that was not read: what comes early is left to be sent
//! again, and what cannot be read ends the connection. An answer is told at the segment with its last octet. That is the
//! one to hold, for nobody can use a message (RFC 1035 §4.2.2) that is not there whole.
//!
//! # Invariants
//! - Of a receiver at most `CONNECTIONS` are followed, and `OCTETS` of messages that are not complete are kept; of all
//!   together `ALL`. Where there is no room, connections end; no other receiver's, unless `ALL` is full, and then those of
//!   who has most.
//! - A stream that was not seen from its beginning (the agent is new) is followed from a segment on that begins with a whole
//!   message; what does not is not let go.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{DnsAnswer, DnsPacket, HEADER, message_of, payload};
use crate::headers::{Headers, TCP, Transport, parse, with_payload, word};

/// Connections of one receiver that are followed. The one that was silent for longest goes for a new one.
const CONNECTIONS: usize = 64;
/// Octets of incomplete messages that are kept of one receiver: four of the longest.
const OCTETS: usize = 4 * 65_537;
/// The same of all receivers.
const ALL: usize = 16 * OCTETS;
/// After so long a silence a connection is not followed any more. Servers close sooner (RFC 7766 §6.2.3).
const SILENCE: Duration = Duration::from_secs(120);

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// Where a stream is.
#[derive(Debug)]
struct Progress {
    /// The sequence number of the first octet of all.
    first: u32,
    /// That of the next octet to read.
    next: u32,
    /// How many octets before that were read.
    read: u64,
    /// The beginning of a message.
    unfinished: Vec<u8>,
    used: Instant,
}

/// A connection by its two ends, the server first.
type Ends = (SocketAddr, SocketAddr);

/// What was read of the connections of DNS servers, by receiver.
#[derive(Debug, Default)]
pub struct DnsStreams {
    receivers: HashMap<u32, HashMap<Ends, Progress>>,
    looked: Option<Instant>,
}

impl DnsStreams {
    /// Reads a frame from a server's port to a receiver: a message, or the next segment of a stream.
    pub fn read(&mut self, receiver: u32, frame: &[u8], now: Instant) -> DnsPacket {
        let (Some((TCP, data)), Some(headers)) = (payload(frame), parse(frame)) else {
            return super::dns(frame);
        };
        let Transport::Tcp { src, dst, flags, sequence, .. } = headers.transport else {
            return DnsPacket::Malformed;
        };
        self.forget_silent(now);
        let ends = (SocketAddr::new(headers.src, src), SocketAddr::new(headers.dst, dst));
        let connections = self.receivers.entry(receiver).or_default();
        if flags & RST != 0 {
            connections.remove(&ends);
            return DnsPacket::Answers(Vec::new());
        }
        let mut sequence = sequence;
        if flags & SYN != 0 {
            sequence = sequence.wrapping_add(1);
            // It may be sent twice.
            if connections.get(&ends).is_none_or(|progress| progress.first != sequence) {
                make_room(connections);
                let progress = Progress::at(sequence, now);
                connections.insert(ends, progress);
            }
        }
        if data.is_empty() {
            return DnsPacket::Answers(Vec::new());
        }
        let (told, next) = match connections.get_mut(&ends) {
            Some(progress) => {
                progress.used = now;
                // Sequence numbers go round.
                let ahead = sequence.wrapping_sub(progress.next).cast_signed();
                if ahead > 0 {
                    return DnsPacket::Early;
                }
                let behind = ahead.unsigned_abs();
                let told = match data.get(behind as usize..) {
                    // From before the connection was followed: lost then, and perhaps told to nobody.
                    _ if u64::from(behind) > progress.read => None,
                    // It was read, and is sent again.
                    None | Some([]) => Some(Vec::new()),
                    Some(new) => progress.feed(new),
                };
                (told, progress.next)
            }
            None => {
                let mut progress = Progress::at(sequence, now);
                let told = begins_with_message(data).then(|| progress.feed(data)).flatten();
                if told.is_some() {
                    make_room(connections);
                    connections.insert(ends, progress);
                }
                (told, sequence)
            }
        };
        let has_room =
            connections.values().map(|progress| progress.unfinished.len()).sum::<usize>() <= OCTETS;
        match told {
            Some(answers) if has_room => {
                self.make_room_for_all();
                DnsPacket::Answers(answers)
            }
            _ => {
                connections.remove(&ends);
                reset(&headers, next).map_or(DnsPacket::Malformed, DnsPacket::Ended)
            }
        }
    }

    /// Forgets a receiver's connections: what was read of them may not have reached it.
    pub fn forget(&mut self, receiver: u32) {
        self.receivers.remove(&receiver);
    }

    fn forget_silent(&mut self, now: Instant) {
        if self.looked.is_some_and(|looked| now.saturating_duration_since(looked) < SILENCE / 4) {
            return;
        }
        self.looked = Some(now);
        self.receivers.retain(|_, connections| {
            connections.retain(|_, progress| now.saturating_duration_since(progress.used) < SILENCE);
            !connections.is_empty()
        });
    }

    fn make_room_for_all(&mut self) {
        let of = |connections: &HashMap<Ends, Progress>| -> usize {
            connections.values().map(|progress| progress.unfinished.len()).sum()
        };
        let sizes: Vec<(usize, u32)> =
            self.receivers.iter().map(|(receiver, connections)| (of(connections), *receiver)).collect();
        if sizes.iter().map(|(size, _)| size).sum::<usize>() > ALL
            && let Some((_, most)) = sizes.iter().max()
        {
            self.forget(*most);
        }
    }
}

/// Octets of a stream's first message; `None` as long as it is not there whole, `Some(None)` if there can be none.
fn first(octets: &[u8]) -> Option<Option<&[u8]>> {
    let length = usize::from(word(octets, 0)?);
    if length < HEADER {
        return Some(None);
    }
    octets.get(2..2 + length).map(Some)
}

fn begins_with_message(octets: &[u8]) -> bool {
    matches!(first(octets), Some(Some(message)) if message_of(message).is_some())
}

fn make_room(connections: &mut HashMap<Ends, Progress>) {
    if connections.len() >= CONNECTIONS
        && let Some(ends) =
            connections.iter().min_by_key(|(_, progress)| progress.used).map(|(ends, _)| *ends)
    {
        connections.remove(&ends);
    }
}

impl Progress {
    /// Of a stream that is followed from this octet on.
    fn at(sequence: u32, now: Instant) -> Self {
        Self { first: sequence, next: sequence, read: 0, unfinished: Vec::new(), used: now }
    }

    /// Reads what follows; `None` if that is not possible.
    fn feed(&mut self, new: &[u8]) -> Option<Vec<DnsAnswer>> {
        let mut octets = std::mem::take(&mut self.unfinished);
        octets.extend(new);
        let (mut at, mut answers) = (0, Vec::new());
        while let Some(message) = first(&octets[at..]) {
            let message = message?;
            answers.extend(message_of(message)?);
            at += 2 + message.len();
        }
        self.unfinished = octets[at..].to_vec();
        self.next = self.next.wrapping_add(u32::try_from(new.len()).ok()?);
        self.read += new.len() as u64;
        Some(answers)
    }
}

/// The segment that ends a connection for the receiver of one with these headers (RFC 9293 §3.10.7.4, RFC 5961 §3.2).
fn reset(headers: &Headers, sequence: u32) -> Option<Vec<u8>> {
    let Transport::Tcp { src, dst, acknowledged, .. } = headers.transport else { return None };
    let transport = Transport::Tcp { src, dst, flags: RST | ACK, sequence, acknowledged };
    with_payload(&Headers { transport, ..headers.clone() }, &[])
}

#[cfg(test)]
mod tests;
