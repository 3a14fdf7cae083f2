//! Any text: reading does not panic, and what is read is written and read as the same value.

use std::{fmt::Debug, fmt::Display, str::FromStr};

use openflow::{Flow, Group, Meter};

/// Checks one input and returns as how many kinds of value it can be read.
pub fn check(data: &[u8]) -> usize {
    let Ok(text) = std::str::from_utf8(data) else { return 0 };
    round_trip::<Flow>(text) + round_trip::<Group>(text) + round_trip::<Meter>(text)
}

fn round_trip<T: FromStr<Err: Debug + PartialEq> + Display + Debug + PartialEq>(text: &str) -> usize {
    let Ok(value) = text.parse::<T>() else { return 0 };
    assert_eq!(value.to_string().parse(), Ok(value));
    1
}
