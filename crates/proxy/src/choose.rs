//! Which endpoints take new connections: KEP-1669 (terminating endpoints), hints of topology, traffic policy.

use crate::model::{Endpoint, Hint};

/// Endpoints for clients that may reach all of the cluster: those that are ready and, where every ready one has
/// hints, hinted at this node or else at its zone. Without any that is ready, those that still answer while they end.
pub(crate) fn cluster<K>(all: &[(Endpoint, K)]) -> Vec<&(Endpoint, K)> {
    let ready: Vec<&(Endpoint, K)> = all.iter().filter(|(endpoint, _)| endpoint.ready).collect();
    let hinted = |of: fn(&Endpoint) -> Hint| {
        let all = ready.iter().all(|(endpoint, _)| of(endpoint) != Hint::Absent);
        let here: Vec<_> = ready.iter().copied().filter(|(endpoint, _)| of(endpoint) == Hint::Here).collect();
        (all && !here.is_empty()).then_some(here)
    };
    if ready.is_empty() {
        return ending(all.iter()).collect();
    }
    hinted(|e| e.node_hint).or_else(|| hinted(|e| e.zone_hint)).unwrap_or(ready)
}

/// Endpoints of this node alone, likewise. Hints do not count: who asks for local ones has chosen.
pub(crate) fn local<K>(all: &[(Endpoint, K)]) -> Vec<&(Endpoint, K)> {
    let here = || all.iter().filter(|(endpoint, _)| endpoint.local);
    let ready: Vec<_> = here().filter(|(endpoint, _)| endpoint.ready).collect();
    if ready.is_empty() { ending(here()).collect() } else { ready }
}

fn ending<'a, K: 'a>(
    all: impl Iterator<Item = &'a (Endpoint, K)>,
) -> impl Iterator<Item = &'a (Endpoint, K)> {
    all.filter(|(endpoint, _)| endpoint.serving && endpoint.terminating)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(n: u8) -> Endpoint {
        Endpoint {
            ip: [10, 0, 0, n].into(),
            ready: true,
            serving: true,
            terminating: false,
            local: false,
            node_hint: Hint::Absent,
            zone_hint: Hint::Absent,
        }
    }

    fn chosen(chosen: Vec<&(Endpoint, u8)>) -> Vec<u8> {
        chosen.into_iter().map(|(_, n)| *n).collect()
    }

    fn numbered(all: &[Endpoint]) -> Vec<(Endpoint, u8)> {
        (1..).zip(all).map(|(n, endpoint)| (*endpoint, n)).collect()
    }

    #[test]
    fn ready_ones_first_and_those_that_end_only_without_them() {
        let ending = Endpoint { ready: false, terminating: true, ..endpoint(2) };
        let dead = Endpoint { serving: false, ..ending };
        let starting = Endpoint { ready: false, serving: false, ..endpoint(4) };
        assert_eq!(chosen(cluster(&numbered(&[endpoint(1), ending, dead, starting]))), [1]);
        assert_eq!(chosen(cluster(&numbered(&[ending, dead, starting]))), [1]);
        assert_eq!(chosen(cluster(&numbered(&[dead, starting]))), [] as [u8; 0]);
        // A ready one elsewhere does not help a client that wants one of its node.
        let here = Endpoint { local: true, ..ending };
        assert_eq!(chosen(local(&numbered(&[endpoint(1), here, ending]))), [2]);
        assert_eq!(chosen(local(&numbered(&[endpoint(1)]))), [] as [u8; 0]);
    }

    #[test]
    fn hints_count_if_all_have_them_and_one_is_for_this_node() {
        let zone = |hint| Endpoint { zone_hint: hint, ..endpoint(1) };
        let (here, there) = (zone(Hint::Here), zone(Hint::Elsewhere));
        assert_eq!(chosen(cluster(&numbered(&[here, there]))), [1]);
        assert_eq!(chosen(cluster(&numbered(&[here, there, endpoint(3)]))), [1, 2, 3], "one without a hint");
        assert_eq!(chosen(cluster(&numbered(&[there, there]))), [1, 2], "none for this zone");
        // What is not ready has no say.
        assert_eq!(chosen(cluster(&numbered(&[here, there, Endpoint { ready: false, ..endpoint(3) }]))), [1]);
        // The own node comes before the own zone.
        let own = Endpoint { node_hint: Hint::Here, ..here };
        let near = Endpoint { node_hint: Hint::Elsewhere, ..here };
        assert_eq!(chosen(cluster(&numbered(&[near, own]))), [2]);
        assert_eq!(chosen(cluster(&numbered(&[near, near]))), [1, 2]);
        assert_eq!(chosen(local(&numbered(&[Endpoint { local: true, ..there }]))), [1], "local has chosen");
    }
}
