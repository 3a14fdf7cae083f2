//! Packets with answers that wait: each until rules have what it tells and the datapath goes by them.
//!
//! ```text
//!  push ─► questions ─► learned ─┬─► settled ─► ready
//!                                └─► lost ◄─ too long
//! ```
//!
//! # Invariants
//! - There is a lane for each receiver. In it nothing goes before what came earlier, and at most one question is open of it;
//!   lanes do not wait for each other.
//! - A packet waits for the news that it is about, and not for others'.
//! - A lane holds at most `OF_ONE`, all together `ALL`; for `SHARE` of a lane there is room whatever others hold.
//! - What is lost of a TCP stream takes along what came later by TCP in its lane: it may be the same segment again, which was
//!   not read anew.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use antrea_packet::DnsAnswer;

use super::Learned;

/// For how long a packet waits. Resolvers ask again after five seconds.
const PATIENCE: Duration = Duration::from_secs(3);

/// Packets that wait in a lane.
const OF_ONE: usize = 32;

/// The same in all lanes, but for what [`SHARE`] promises.
const ALL: usize = 256;

/// Packets that there is room for in each lane, whatever there is in others.
const SHARE: usize = 2;

/// A packet that waits.
#[derive(Debug)]
struct Waiting<T> {
    packet: Packet<T>,
    id: u64,
    stage: Stage,
}

/// How far a packet is.
#[derive(Debug)]
enum Stage {
    /// What it tells is still to be told to rules.
    New(Vec<DnsAnswer>),
    /// Rules are told.
    Told,
    /// They know it with the news of this number.
    Known(u64),
}

#[derive(Debug)]
struct Lane<T> {
    waiting: VecDeque<Waiting<T>>,
    /// A question is open.
    asks: bool,
}

/// A packet, whatever it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet<T> {
    pub what: T,
    /// It is of a TCP stream.
    pub in_stream: bool,
    /// When it came.
    pub came: Instant,
}

/// What rules have to be asked to learn of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub receiver: u32,
    /// What the receiver is told.
    pub answers: Vec<DnsAnswer>,
    /// Whose answers these are, and how many of each.
    of: Vec<(u64, usize)>,
}

/// See the module's description.
#[derive(Debug)]
pub struct Lanes<T> {
    by_receiver: BTreeMap<u32, Lane<T>>,
    /// Packets in all lanes.
    waiting: usize,
    /// The datapath goes by the news up to this number.
    settled: u64,
    next_id: u64,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { by_receiver: BTreeMap::new(), waiting: 0, settled: 0, next_id: 0 }
    }
}

impl<T> Lanes<T> {
    /// Whether one more packet to a receiver may wait.
    pub fn has_room(&self, receiver: u32) -> bool {
        let there = self.by_receiver.get(&receiver).map_or(0, |lane| lane.waiting.len());
        there < SHARE || (there < OF_ONE && self.waiting < ALL)
    }

    /// A packet to a receiver, and what it tells.
    pub fn push(&mut self, receiver: u32, packet: Packet<T>, answers: Vec<DnsAnswer>) {
        let stage = if answers.is_empty() { Stage::Known(0) } else { Stage::New(answers) };
        let new = || Lane { waiting: VecDeque::new(), asks: false };
        let lane = self.by_receiver.entry(receiver).or_insert_with(new);
        lane.waiting.push_back(Waiting { packet, id: self.next_id, stage });
        self.next_id += 1;
        self.waiting += 1;
    }

    /// What rules have to be asked now.
    pub fn questions(&mut self) -> Vec<Question> {
        let mut questions = Vec::new();
        for (receiver, lane) in self.by_receiver.iter_mut().filter(|(_, lane)| !lane.asks) {
            let (mut answers, mut of) = (Vec::new(), Vec::new());
            for waiting in &mut lane.waiting {
                let Stage::New(told) = &mut waiting.stage else { continue };
                of.push((waiting.id, told.len()));
                answers.append(told);
                waiting.stage = Stage::Told;
            }
            if !of.is_empty() {
                lane.asks = true;
                questions.push(Question { receiver: *receiver, answers, of });
            }
        }
        questions
    }

    /// What became of a question's answers; none: nothing is known. Returns the packets that are lost for that.
    pub fn learned(&mut self, question: &Question, learned: Option<&[Learned]>) -> Vec<Packet<T>> {
        let Some(lane) = self.by_receiver.get_mut(&question.receiver) else { return Vec::new() };
        lane.asks = false;
        let (mut at, mut unknown) = (0, Vec::new());
        for (id, count) in &question.of {
            let of_packet = learned.and_then(|learned| learned.get(at..at + count));
            at += count;
            let news = of_packet.and_then(|of_packet| {
                of_packet.iter().try_fold(0, |newest, learned| match learned {
                    Learned::Held(news) => Some((*news).max(newest)),
                    Learned::NoRoom => None,
                })
            });
            match news {
                Some(news) => {
                    let waiting = lane.waiting.iter_mut().find(|waiting| waiting.id == *id);
                    waiting.into_iter().for_each(|waiting| waiting.stage = Stage::Known(news));
                }
                None => unknown.push(*id),
            }
        }
        self.lose(question.receiver, |waiting| unknown.contains(&waiting.id))
    }

    /// The packets that may go now, each with its receiver, in their order.
    pub fn ready(&mut self) -> Vec<(u32, Packet<T>)> {
        let settled = self.settled;
        let may_go = |waiting: &Waiting<T>| matches!(waiting.stage, Stage::Known(news) if news <= settled);
        let mut ready = Vec::new();
        for (receiver, lane) in &mut self.by_receiver {
            while lane.waiting.front().is_some_and(may_go)
                && let Some(first) = lane.waiting.pop_front()
            {
                ready.push((*receiver, first.packet));
            }
        }
        self.tidy();
        ready
    }

    /// The number of the news that the datapath has to go by for all that rules know; none if it does.
    pub fn unsettled(&self) -> Option<u64> {
        let known = self
            .by_receiver
            .values()
            .flat_map(|lane| &lane.waiting)
            .filter_map(|waiting| if let Stage::Known(news) = waiting.stage { Some(news) } else { None });
        known.max().filter(|news| *news > self.settled)
    }

    /// The datapath goes by the news up to this number.
    pub fn settle(&mut self, news: u64) {
        self.settled = news.max(self.settled);
    }

    /// When the next packet will have waited for too long.
    pub fn deadline(&self) -> Option<Instant> {
        let first = self.by_receiver.values().filter_map(|lane| lane.waiting.front());
        first.map(|waiting| waiting.packet.came + PATIENCE).min()
    }

    /// The packets that are lost because they, or what they come after, have waited for too long, each with its receiver.
    pub fn expire(&mut self, now: Instant) -> Vec<(u32, Packet<T>)> {
        let is_late = |waiting: &Waiting<T>| waiting.packet.came + PATIENCE <= now;
        let has_late = |lane: &Lane<T>| lane.waiting.front().is_some_and(is_late);
        let late = self.by_receiver.iter().filter(|(_, lane)| has_late(lane)).map(|(receiver, _)| *receiver);
        let late: Vec<u32> = late.collect();
        let lose = |receiver: u32| {
            self.lose(receiver, is_late).into_iter().map(move |packet| (receiver, packet)).collect::<Vec<_>>()
        };
        late.into_iter().flat_map(lose).collect()
    }

    /// Takes out what is lost, and what that takes along.
    fn lose(&mut self, receiver: u32, is_lost: impl Fn(&Waiting<T>) -> bool) -> Vec<Packet<T>> {
        let mut lost = Vec::new();
        if let Some(lane) = self.by_receiver.get_mut(&receiver) {
            let mut stream = false;
            for waiting in std::mem::take(&mut lane.waiting) {
                if is_lost(&waiting) || (stream && waiting.packet.in_stream) {
                    stream |= waiting.packet.in_stream;
                    lost.push(waiting.packet);
                } else {
                    lane.waiting.push_back(waiting);
                }
            }
        }
        self.tidy();
        lost
    }

    fn tidy(&mut self) {
        self.by_receiver.retain(|_, lane| lane.asks || !lane.waiting.is_empty());
        self.waiting = self.by_receiver.values().map(|lane| lane.waiting.len()).sum();
    }
}

#[cfg(test)]
mod tests;
