//! Flow cookies: which run of the agent made a flow, what for, and for which object.
//!
//! ```text
//!  63        48 47      40 39      32 31                 0
//! ┌────────────┬──────────┬──────────┬────────────────────┐
//! │   round    │ category │ reserved │     object id      │
//! └────────────┴──────────┴──────────┴────────────────────┘
//! ```
//! Every run of the agent is a new [`Round`]. When all flows of the new round are in, flows of any other
//! round are leftovers and can go, so traffic never meets an empty pipeline.

/// One run of the agent. Kept in OVSDB (`Bridge external_ids:roundNum`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Round(pub u16);

impl Round {
    /// The round of a bridge that has none yet.
    pub const FIRST: Round = Round(1);
    /// The bits of a cookie that hold the round.
    pub const MASK: u64 = 0xffff << 48;

    /// The round after this one.
    pub fn next(self) -> Round {
        Round(self.0.wrapping_add(1))
    }

    /// A cookie that, under [`Round::MASK`], selects all flows of this round.
    pub const fn bits(self) -> u64 {
        (self.0 as u64) << 48
    }
}

/// What a flow is for. Numbers are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Category {
    /// The skeleton of the pipeline.
    Default = 0,
    /// Gateway, tunnel, pods and peers.
    PodConnectivity = 1,
    NetworkPolicy = 2,
    Service = 3,
    Traceflow = 7,
}

/// The cookie of a flow. `object` is 0 where a flow belongs to no numbered object.
pub const fn cookie(round: Round, category: Category, object: u32) -> u64 {
    round.bits() | (category as u64) << 40 | object as u64
}

/// The round of a flow with this cookie.
pub fn round_of(cookie: u64) -> Round {
    Round((cookie >> 48) as u16)
}

/// The object id of a flow with this cookie.
pub fn object_of(cookie: u64) -> u32 {
    cookie as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let c = cookie(Round(0x1234), Category::NetworkPolicy, 0xdead_beef);
        assert_eq!(c, 0x1234_0200_dead_beef);
        assert_eq!((round_of(c), object_of(c)), (Round(0x1234), 0xdead_beef));
        assert_eq!(c & Round::MASK, Round(0x1234).bits());
        assert_eq!(Round(u16::MAX).next(), Round(0));
    }
}
