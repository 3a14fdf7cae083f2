//! Port ranges and the port/mask matches that OpenFlow needs for them.

use thiserror::Error;

/// An inclusive range of transport ports.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// A match on `port & mask == value` (nicira-ext.h NXM_OF_TCP_SRC and OpenFlow 1.5 §7.2.3.7 masks).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortMask {
    /// The bits to match; zero where the mask is zero.
    pub value: u16,
    /// Ones for the bits that count; `0xffff` is an exact match, 0 matches every port.
    pub mask: u16,
}

/// The ends of a range are in the wrong order.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[error("end port {last} is below port {first}")]
pub struct PortRangeError {
    /// The lower end that was asked for.
    pub first: u16,
    /// The upper end that was asked for.
    pub last: u16,
}

impl PortRange {
    /// Every port.
    pub const ALL: Self = Self { first: 0, last: u16::MAX };

    /// The ports from `first` to `last`, both included.
    ///
    /// # Errors
    /// If `last` is below `first`.
    pub fn new(first: u16, last: u16) -> Result<Self, PortRangeError> {
        if last < first { Err(PortRangeError { first, last }) } else { Ok(Self { first, last }) }
    }

    /// The range of one port.
    #[must_use]
    pub fn single(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// The lowest port.
    #[must_use]
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    #[must_use]
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether the port is in the range.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// The fewest disjoint port/mask matches that together match exactly this range, in ascending order. At
    /// most 30.
    #[must_use]
    pub fn masks(self) -> Vec<PortMask> {
        let mut result = Vec::new();
        let end = u32::from(self.last) + 1;
        let mut from = u32::from(self.first);
        while from < end {
            let aligned = if from == 0 { 16 } else { from.trailing_zeros() };
            let size = 1u32 << aligned.min((end - from).ilog2());
            let value = u16::try_from(from).expect("must be a port: below the end of the range");
            let mask = u16::try_from(0x1_0000 - size).unwrap_or(0);
            result.push(PortMask { value, mask });
            from += size;
        }
        result
    }
}

impl PortMask {
    /// Whether the port matches.
    #[must_use]
    pub fn matches(self, port: u16) -> bool {
        port & self.mask == self.value
    }
}

/// The union of ranges as disjoint, non-adjacent ranges in ascending order: what should be turned into masks
/// when several ranges of one protocol stand in the same clause.
#[must_use]
pub fn merge(mut ranges: Vec<PortRange>) -> Vec<PortRange> {
    ranges.sort_unstable();
    let mut merged: Vec<PortRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if u32::from(range.first) <= u32::from(last.last) + 1 => {
                last.last = last.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(first: u16, last: u16) -> String {
        let masks = PortRange::new(first, last).unwrap().masks();
        masks.iter().map(|m| format!("{:#x}/{:#x}", m.value, m.mask)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn known_answers() {
        assert_eq!(text(80, 80), "0x50/0xffff");
        assert_eq!(text(0, 65535), "0x0/0x0");
        assert_eq!(
            text(1000, 1999),
            "0x3e8/0xfff8 0x3f0/0xfff0 0x400/0xfe00 0x600/0xff00 0x700/0xff80 0x780/0xffc0 0x7c0/0xfff0"
        );
        assert_eq!(text(65535, 65535), "0xffff/0xffff");
        assert_eq!(PortRange::new(1, 65534).unwrap().masks().len(), 30);
        assert_eq!(PortRange::new(2, 1), Err(PortRangeError { first: 2, last: 1 }));
    }

    /// Fewest aligned blocks by halving.
    fn fewest(range: PortRange, low: u32, size: u32) -> usize {
        let high = low + size - 1;
        let (first, last) = (u32::from(range.first), u32::from(range.last));
        if first <= low && high <= last {
            1
        } else if high < first || last < low {
            0
        } else {
            fewest(range, low, size / 2) + fewest(range, low + size / 2, size / 2)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn exact_disjoint_and_minimal(a in any::<u16>(), b in any::<u16>()) {
            let range = PortRange::new(a.min(b), a.max(b)).unwrap();
            let masks = range.masks();
            for port in 0..=u16::MAX {
                let times = masks.iter().filter(|m| m.matches(port)).count();
                prop_assert_eq!(times, usize::from(range.contains(port)), "{}", port);
            }
            prop_assert_eq!(masks.len(), fewest(range, 0, 0x1_0000));
        }

        #[test]
        fn merge_keeps_the_union(ends in proptest::collection::vec((0u16..300, 0u16..300), 0..20), probe in 0u16..400) {
            let ranges: Vec<_> =
                ends.iter().map(|(a, b)| PortRange::new(*a.min(b), *a.max(b)).unwrap()).collect();
            let merged = merge(ranges.clone());
            prop_assert_eq!(ranges.iter().any(|r| r.contains(probe)), merged.iter().any(|r| r.contains(probe)));
            for pair in merged.windows(2) {
                prop_assert!(u32::from(pair[0].last) + 1 < u32::from(pair[1].first));
            }
        }
    }
}
