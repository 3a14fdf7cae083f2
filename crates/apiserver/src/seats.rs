//! Who holds a connection, and who has to go when there are too many.
//!
//! ```text
//!  accepted ─► Own       comes from the address that it connected to: kubelet's probes, tools of the node
//!          └─► Stranger  everybody else ─ first request that is allowed ─► Known
//! ```
//!
//! Nobody is turned away at the door: when a class is full, a connection of the address that holds most of them goes.
//! Whoever holds one is therefore safe from whoever holds many, and an address gains nothing by more
//! connections than its share. The classes do not take from each other.
//!
//! Of those that are known the oldest goes. Of strangers one goes by lot: behind one address there may be an agent and, by
//! masquerade, pods of its node. If the oldest went, whoever connects fast enough would keep the agent out for ever; by lot
//! each of its tries has a chance.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    fmt,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
};

use tokio_util::sync::CancellationToken;

use crate::metrics::ServerMetrics;

/// What a connection has shown so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// Comes from the address that it connected to, so from this host.
    Own,
    /// No request of it was allowed yet.
    Stranger,
    /// A request of it was allowed.
    Known,
}

/// Bounds of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) total: usize,
    pub(crate) per_address: usize,
}

/// Connections of one class, by address and in order of arrival.
#[derive(Default)]
struct Room {
    seated: HashMap<IpAddr, BTreeMap<u64, CancellationToken>>,
    count: usize,
    /// Draws who goes; none: the oldest.
    lots: Option<Lots>,
}

/// Numbers that nobody outside can foresee: hashes of a counter under a random key.
#[derive(Default)]
struct Lots(RandomState, u64);

impl Lots {
    /// One of `count`, which is not 0.
    fn draw(&mut self, count: usize) -> usize {
        self.1 += 1;
        let count = u64::try_from(count).unwrap_or(u64::MAX).max(1);
        usize::try_from(self.0.hash_one(self.1) % count).unwrap_or_default()
    }
}

impl Room {
    /// Whether another has to go for it.
    fn enter(&mut self, bounds: Bounds, address: IpAddr, id: u64, token: CancellationToken) -> bool {
        let here = self.seated.entry(address).or_default();
        here.insert(id, token);
        self.count += 1;
        if here.len() > bounds.per_address {
            self.evict(address)
        } else if self.count > bounds.total
            && let Some(greediest) = self.greediest()
        {
            self.evict(greediest)
        } else {
            false
        }
    }

    /// The address with most connections; of those with as many, the one whose oldest is older.
    fn greediest(&self) -> Option<IpAddr> {
        let weight = |seats: &BTreeMap<u64, _>| (seats.len(), Reverse(seats.keys().next().copied()));
        self.seated.iter().max_by_key(|(_, seats)| weight(seats)).map(|(address, _)| *address)
    }

    fn evict(&mut self, address: IpAddr) -> bool {
        let chosen = self.seated.get(&address).and_then(|seats| {
            let at = self.lots.as_mut().map_or(0, |lots| lots.draw(seats.len()));
            seats.keys().nth(at).copied()
        });
        let token = chosen.and_then(|id| self.leave(address, id));
        token.inspect(CancellationToken::cancel).is_some()
    }

    fn leave(&mut self, address: IpAddr, id: u64) -> Option<CancellationToken> {
        let seats = self.seated.get_mut(&address)?;
        let token = seats.remove(&id)?;
        if seats.is_empty() {
            self.seated.remove(&address);
        }
        self.count -= 1;
        Some(token)
    }
}

/// All connections of a port.
pub(crate) struct Seats {
    own: (Bounds, Room),
    strangers: (Bounds, Room),
    known: (Bounds, Room),
    next: u64,
    metrics: ServerMetrics,
}

/// Where a connection sits.
#[derive(Debug, Clone)]
pub struct Seat {
    id: u64,
    address: IpAddr,
    /// Cancelled when the connection has to go.
    pub evicted: CancellationToken,
}

/// Connections of a port that asks nobody who it is: all are strangers.
pub struct Guests {
    bounds: Bounds,
    room: Room,
    next: u64,
}

impl Guests {
    /// At most `total`, and `per_address` of one address (of a /64 with IPv6).
    pub fn new(total: usize, per_address: usize) -> Self {
        let room = Room { lots: Some(Lots::default()), ..Room::default() };
        Self { bounds: Bounds { total, per_address }, room, next: 0 }
    }

    /// Seats a new connection from `address`. Somebody may have to go for it, which it cannot be itself unless its own
    /// address holds too many.
    pub fn enter(&mut self, address: IpAddr) -> Seat {
        let seat = Seat { id: self.next, address: share(address), evicted: CancellationToken::new() };
        self.next += 1;
        self.room.enter(self.bounds, seat.address, seat.id, seat.evicted.clone());
        seat
    }

    /// Takes note that a connection is over.
    pub fn leave(&mut self, seat: &Seat) {
        self.room.leave(seat.address, seat.id);
    }
}

impl fmt::Debug for Guests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guests").field("count", &self.room.count).finish_non_exhaustive()
    }
}

impl Seats {
    pub(crate) fn new(own: Bounds, strangers: Bounds, known: Bounds, metrics: ServerMetrics) -> Self {
        let room = |bounds| (bounds, Room::default());
        let drawn = Room { lots: Some(Lots::default()), ..Room::default() };
        let seats =
            Self { own: room(own), strangers: (strangers, drawn), known: room(known), next: 0, metrics };
        seats.show();
        seats
    }

    fn show(&self) {
        for (class, (_, room)) in [("own", &self.own), ("stranger", &self.strangers), ("known", &self.known)]
        {
            self.metrics.held(class, room.count);
        }
    }

    fn shown(&mut self, somebody_went: bool) {
        if somebody_went {
            self.metrics.ended("room");
        }
        self.show();
    }

    fn room(&mut self, class: Class) -> &mut (Bounds, Room) {
        match class {
            Class::Own => &mut self.own,
            Class::Stranger => &mut self.strangers,
            Class::Known => &mut self.known,
        }
    }

    /// Seats a new connection from `address`.
    pub(crate) fn enter(&mut self, class: Class, address: IpAddr) -> Seat {
        let seat = Seat { id: self.next, address: share(address), evicted: CancellationToken::new() };
        self.next += 1;
        let (bounds, room) = self.room(class);
        let full = room.enter(*bounds, seat.address, seat.id, seat.evicted.clone());
        self.shown(full);
        seat
    }

    /// Moves a connection to those that are known. One that has to go stays where it is.
    pub(crate) fn promote(&mut self, from: Class, seat: &Seat) {
        if let Some(token) = self.room(from).1.leave(seat.address, seat.id) {
            let (mut bounds, room) = (self.known.0, &mut self.known.1);
            if from == Class::Own {
                bounds.per_address = bounds.total;
            }
            let full = room.enter(bounds, seat.address, seat.id, token);
            self.shown(full);
        }
    }

    pub(crate) fn leave(&mut self, class: Class, seat: &Seat) {
        self.room(class).1.leave(seat.address, seat.id);
        self.show();
    }

    /// Frees one seat, for the process is out of descriptors.
    pub(crate) fn relieve(&mut self) {
        if let Some(greediest) = self.strangers.1.greediest() {
            let full = self.strangers.1.evict(greediest);
            self.shown(full);
        }
    }

    /// How many connections there are.
    pub(crate) fn count(&self) -> usize {
        self.own.1.count + self.strangers.1.count + self.known.1.count
    }
}

/// What counts as one address: an IPv6 host may use all addresses of its /64.
pub fn share(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use antrea_runtime::metrics::Metrics;
    use proptest::prelude::*;

    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn seats(total: usize, per_address: usize) -> Seats {
        let bounds = Bounds { total, per_address };
        Seats::new(bounds, bounds, bounds, metrics().1)
    }

    fn metrics() -> (Metrics, ServerMetrics) {
        let metrics = Metrics::new("test", "v1").unwrap();
        let server = ServerMetrics::new(&metrics, []).unwrap();
        (metrics, server)
    }

    #[test]
    fn what_is_held_and_who_had_to_go_is_counted() {
        let (metrics, server) = metrics();
        let bounds = Bounds { total: 3, per_address: 2 };
        let mut seats = Seats::new(bounds, bounds, bounds, server);
        let text = || metrics.encode().unwrap();
        let has = |line: &str| assert!(text().contains(line), "{line}\n{}", text());
        has("antrea_api_connections{class=\"known\"} 0");
        let first = seats.enter(Class::Stranger, ip(1));
        seats.promote(Class::Stranger, &first);
        seats.enter(Class::Own, ip(9));
        for last in [2, 2, 2, 3, 4] {
            seats.enter(Class::Stranger, ip(last));
        }
        has("antrea_api_connections{class=\"known\"} 1");
        has("antrea_api_connections{class=\"own\"} 1");
        has("antrea_api_connections{class=\"stranger\"} 3");
        // The third of one address, and the fourth of all.
        has("antrea_api_connections_ended_total{reason=\"room\"} 2");
        seats.leave(Class::Known, &first);
        has("antrea_api_connections{class=\"known\"} 0");
    }

    #[test]
    fn the_greediest_goes_first_and_of_those_that_are_known_its_oldest() {
        let mut seats = seats(4, 4);
        let known = |seats: &mut Seats, last| {
            let seat = seats.enter(Class::Stranger, ip(last));
            seats.promote(Class::Stranger, &seat);
            seat
        };
        let quiet = known(&mut seats, 1);
        let greedy: Vec<_> = (0..6).map(|_| known(&mut seats, 2)).collect();
        assert!(!quiet.evicted.is_cancelled());
        let gone: Vec<_> = greedy.iter().map(|seat| seat.evicted.is_cancelled()).collect();
        assert_eq!(gone, [true, true, true, false, false, false]);
        let others: Vec<_> = (3..6).map(|last| known(&mut seats, last)).collect();
        assert!(greedy[..5].iter().all(|seat| seat.evicted.is_cancelled()));
        // Now all have as many, and age decides.
        assert!(quiet.evicted.is_cancelled() && !greedy[5].evicted.is_cancelled());
        assert!(others.iter().all(|seat| !seat.evicted.is_cancelled()));
        assert_eq!(seats.count(), 4);
    }

    /// An agent shares its node's address with pods that are masqueraded.
    #[test]
    fn who_connects_fast_does_not_keep_others_of_its_address_out() {
        let mut seats = seats(64, 8);
        let flood = |seats: &mut Seats| (0..8).for_each(|_| drop(seats.enter(Class::Stranger, ip(1))));
        flood(&mut seats);
        let mut stayed = 0;
        for _ in 0..1000 {
            let agent = seats.enter(Class::Stranger, ip(1));
            // As many as there are seats, until it has shown who it is.
            flood(&mut seats);
            if !agent.evicted.is_cancelled() {
                stayed += 1;
                seats.promote(Class::Stranger, &agent);
                seats.leave(Class::Known, &agent);
            }
        }
        // (7/8)⁸ of them: 34 in 100.
        assert!((200..500).contains(&stayed), "{stayed}");
        let quiet = seats.enter(Class::Stranger, ip(2));
        flood(&mut seats);
        assert!(!quiet.evicted.is_cancelled(), "of another address");
    }

    #[test]
    fn classes_do_not_take_from_each_other() {
        let mut seats = seats(2, 2);
        let own = seats.enter(Class::Own, ip(1));
        let known = seats.enter(Class::Stranger, ip(2));
        seats.promote(Class::Stranger, &known);
        for last in 3..100 {
            seats.enter(Class::Stranger, ip(last));
        }
        assert!(!own.evicted.is_cancelled() && !known.evicted.is_cancelled());
        seats.leave(Class::Known, &known);
        seats.relieve();
        assert_eq!(seats.count(), 2);
    }

    #[test]
    fn an_ipv6_prefix_and_a_mapped_address_count_as_one() {
        assert_eq!(share("fd00::1".parse().unwrap()), share("fd00::2:3:4:5".parse().unwrap()));
        assert_ne!(share("fd00::1".parse().unwrap()), share("fd00:0:0:1::1".parse().unwrap()));
        assert_eq!(share("::ffff:10.0.0.1".parse().unwrap()), ip(1));
    }

    proptest! {
        #[test]
        fn bounds_hold_and_what_leaves_is_forgotten(
            steps in proptest::collection::vec((0_u8..4, 0_u8..5, any::<prop::sample::Index>()), 1..200)
        ) {
            let mut seats = seats(6, 3);
            let mut held: Vec<(Class, Seat)> = Vec::new();
            for (what, last, at) in steps {
                match what {
                    0 | 1 => held.push((Class::Stranger, seats.enter(Class::Stranger, ip(last)))),
                    2 if !held.is_empty() => {
                        let at = at.index(held.len());
                        let (class, seat) = &mut held[at];
                        if *class == Class::Stranger {
                            seats.promote(*class, seat);
                            *class = Class::Known;
                        }
                    }
                    _ if !held.is_empty() => {
                        let (class, seat) = held.swap_remove(at.index(held.len()));
                        seats.leave(class, &seat);
                    }
                    _ => {}
                }
                for (bounds, room) in [&seats.strangers, &seats.known] {
                    prop_assert!(room.count <= bounds.total);
                    prop_assert_eq!(room.count, room.seated.values().map(BTreeMap::len).sum::<usize>());
                    prop_assert!(room.seated.values().all(|s| (1..=bounds.per_address).contains(&s.len())));
                }
                let alive = held.iter().filter(|(_, seat)| !seat.evicted.is_cancelled()).count();
                prop_assert_eq!(alive, seats.count());
            }
        }
    }
}
