//! Peers by domain name.

use crate::{
    error::{Place, Problem},
    labels::shorten,
    model::Direction,
};

/// Longest domain name, in characters, without a final dot (RFC 1035 §2.3.4).
const LONGEST: usize = 253;

/// A domain name, exact or with `*` for any part, in the form in which names are compared: lower case, without the final
/// dot.
pub(crate) fn fqdn(written: &str, direction: Direction, place: &mut Place<'_>) -> Option<Box<str>> {
    if direction == Direction::In {
        place.add(Problem::EgressOnly);
        return None;
    }
    let name = written.strip_suffix('.').unwrap_or(written);
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
    if name.is_empty() || name.len() > LONGEST || !name.chars().all(known) {
        place.add(Problem::Fqdn(shorten(written)));
        return None;
    }
    Some(name.to_ascii_lowercase().into())
}
