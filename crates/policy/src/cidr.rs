//! CIDR algebra: a block minus its exceptions.
//!
//! OpenFlow has no "except", so an `ipBlock` has to become a set of plain prefixes before it can be matched.
//! The result is the unique smallest set: no prefix set covers the same addresses with fewer prefixes, and no
//! two prefixes overlap.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;

/// Why a subtraction has no answer.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
pub enum CidrError {
    /// The exception reaches outside the block, or is of the other address family.
    #[error("except {except} is not inside {cidr}")]
    Outside {
        /// The block.
        cidr: IpNet,
        /// The exception.
        except: IpNet,
    },
    /// The answer would have more prefixes than the caller can use.
    #[error("what is left of {cidr} takes more than {limit} prefixes")]
    TooMany {
        /// The block.
        cidr: IpNet,
        /// Prefixes that were allowed.
        limit: usize,
    },
}

/// `cidr` without the addresses of `excepts`, as the smallest set of disjoint prefixes in ascending order, of which
/// there are at most `limit`.
///
/// Exceptions may overlap, nest or repeat, and may cover the whole block (the result is then empty). Host bits
/// in any argument are ignored. An exception may leave as many prefixes as an address has bits, so the work ends
/// with the first prefix that is too many: it grows with `excepts` and `limit`, not with what they would make.
///
/// # Errors
/// An exception is not contained in the block, or `limit` is too low.
pub fn subtract(cidr: IpNet, excepts: &[IpNet], limit: usize) -> Result<Vec<IpNet>, CidrError> {
    let cidr = cidr.trunc();
    let mut holes = Vec::with_capacity(excepts.len());
    for except in excepts {
        let except = except.trunc();
        if !cidr.contains(&except) {
            return Err(CidrError::Outside { cidr, except });
        }
        holes.push(bounds(except));
    }
    holes.sort_unstable();

    let (first, last) = bounds(cidr);
    let width = cidr.max_prefix_len();
    let mut result = Vec::new();
    // The lowest address not yet decided; none once the top of the address space has been passed.
    let mut next = Some(first);
    for (low, high) in holes {
        let Some(from) = next else { break };
        if low > from {
            cover(from, low - 1, width, &mut result);
        }
        if result.len() > limit {
            break;
        }
        if high >= from {
            next = high.checked_add(1);
        }
    }
    if let Some(from) = next.filter(|from| *from <= last) {
        cover(from, last, width, &mut result);
    }
    if result.len() > limit { Err(CidrError::TooMany { cidr, limit }) } else { Ok(result) }
}

/// A CIDR as the API server reads it, without its host bits.
///
/// Kubernetes still accepts what objects of old may hold: leading zeros, which mean nothing
/// (`010.0.0.0/08` is `10.0.0.0/8`), and IPv4 written as IPv6 (`::ffff:10.0.0.0/104` is the same block).
#[must_use]
pub fn parse(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let digits = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
    let length = digits.then(|| without_leading_zeros(length))?.parse().ok()?;
    let mut plain = String::with_capacity(address.len());
    for part in address.split_inclusive([':', '.']) {
        let end = part.len() - usize::from(part.ends_with([':', '.']));
        plain.push_str(without_leading_zeros(&part[..end]));
        plain.push_str(&part[end..]);
    }
    plain_block(plain.parse().ok()?, length)
}

/// The block at an address with a prefix length, as it matches packets: an IPv4 block in IPv6 notation is one of
/// IPv4. `None` if the address has fewer bits.
#[must_use]
pub fn plain_block(address: IpAddr, length: u8) -> Option<IpNet> {
    let net = match (address.to_canonical(), length) {
        (IpAddr::V4(v4), 96..=128) if address.is_ipv6() => IpNet::new(v4.into(), length - 96),
        // Shorter than the part that says IPv4: a block of IPv6 that holds all of it.
        _ => IpNet::new(address, length),
    };
    net.ok().map(|net| net.trunc())
}

/// At least one digit stays.
fn without_leading_zeros(digits: &str) -> &str {
    let plain = digits.trim_start_matches('0');
    if plain.is_empty() { &digits[digits.len().saturating_sub(1)..] } else { plain }
}

/// The smallest set of prefixes that covers the addresses from `first` to `last`, both included; empty if they
/// are of different families or out of order.
#[must_use]
pub fn range(first: IpAddr, last: IpAddr) -> Vec<IpNet> {
    let mut result = Vec::new();
    match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) if a <= b => {
            cover(u128::from(a.to_bits()), u128::from(b.to_bits()), 32, &mut result);
        }
        (IpAddr::V6(a), IpAddr::V6(b)) if a <= b => cover(a.to_bits(), b.to_bits(), 128, &mut result),
        _ => {}
    }
    result
}

fn bounds(net: IpNet) -> (u128, u128) {
    match net {
        IpNet::V4(net) => (u128::from(net.network().to_bits()), u128::from(net.broadcast().to_bits())),
        IpNet::V6(net) => (net.network().to_bits(), net.broadcast().to_bits()),
    }
}

/// Greedy cover from the bottom: the largest aligned block that starts at `from` and does not pass `last`. A
/// prefix cannot cross a gap, so the smallest cover of each gap-free range is the smallest cover of the whole.
fn cover(mut from: u128, last: u128, width: u8, out: &mut Vec<IpNet>) {
    loop {
        let aligned = if from == 0 { u32::from(width) } else { from.trailing_zeros() };
        let span = last - from;
        // Number of host bits of the largest block of at most span + 1 addresses.
        let fits = span.checked_add(1).map_or(128, |size| 127 - size.leading_zeros());
        let host = aligned.min(fits).min(u32::from(width));
        let prefix = width - u8::try_from(host).unwrap_or(width);
        out.push(net(from, prefix, width));
        let step = 1u128.checked_shl(host);
        match step.and_then(|step| from.checked_add(step)) {
            Some(next) if next <= last => from = next,
            _ => return,
        }
    }
}

fn net(address: u128, prefix: u8, width: u8) -> IpNet {
    if width == 32 {
        let bits = u32::try_from(address).expect("must fit: IPv4 bounds are 32 bits wide");
        Ipv4Net::new_assert(Ipv4Addr::from_bits(bits), prefix).into()
    } else {
        Ipv6Net::new_assert(Ipv6Addr::from_bits(address), prefix).into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|net| net.parse().unwrap()).collect()
    }

    fn sub(cidr: &str, excepts: &[&str]) -> Vec<String> {
        subtract(cidr.parse().unwrap(), &nets(excepts), 128)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn known_answers() {
        assert_eq!(sub("10.0.0.0/8", &[]), ["10.0.0.0/8"]);
        assert_eq!(sub("10.0.0.0/30", &["10.0.0.1/32"]), ["10.0.0.0/32", "10.0.0.2/31"]);
        assert_eq!(sub("10.0.0.0/24", &["10.0.0.0/25", "10.0.0.128/25"]), Vec::<String>::new());
        assert_eq!(
            sub("10.0.0.0/24", &["10.0.0.64/26", "10.0.0.64/27", "10.0.0.70/32"]),
            ["10.0.0.0/26", "10.0.0.128/25"]
        );
        // Host bits do not matter.
        assert_eq!(sub("10.0.0.7/24", &["10.0.0.200/25"]), ["10.0.0.0/25"]);
    }

    #[test]
    fn whole_address_space() {
        assert_eq!(sub("0.0.0.0/0", &[]), ["0.0.0.0/0"]);
        assert_eq!(sub("0.0.0.0/0", &["0.0.0.0/0"]), Vec::<String>::new());
        assert_eq!(sub("0.0.0.0/0", &["128.0.0.0/1"]), ["0.0.0.0/1"]);
        assert_eq!(sub("0.0.0.0/0", &["255.255.255.255/32"]).len(), 32);
        assert_eq!(sub("::/0", &[]), ["::/0"]);
        assert_eq!(sub("::/0", &["::/1"]), ["8000::/1"]);
        assert_eq!(sub("::/0", &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"]).len(), 128);
        assert_eq!(sub("::/0", &["::/128"]).len(), 128);
    }

    #[test]
    fn outside_is_an_error() {
        let cidr = "10.0.0.0/24".parse().unwrap();
        for except in ["10.0.1.0/32", "10.0.0.0/23", "::/0"] {
            let except: IpNet = except.parse().unwrap();
            assert_eq!(subtract(cidr, &[except], 128), Err(CidrError::Outside { cidr, except }));
        }
    }

    #[test]
    fn what_would_be_too_much_is_not_made() {
        // As the API server lets through: 30,000 addresses spread over a block.
        let cidr: IpNet = "fd00::/16".parse().unwrap();
        let (first, _) = bounds(cidr);
        let step = (u128::MAX >> 16) / 30_000;
        let excepts: Vec<_> = (0..30_000).map(|i| net(first + i * step + 7, 128, 128)).collect();
        let begin = std::time::Instant::now();
        assert_eq!(subtract(cidr, &excepts, 4096), Err(CidrError::TooMany { cidr, limit: 4096 }));
        let bounded = begin.elapsed();
        let begin = std::time::Instant::now();
        let all = subtract(cidr, &excepts, usize::MAX).unwrap();
        assert!(all.len() > 2_500_000, "{}", all.len());
        assert!(
            bounded * 4 < begin.elapsed(),
            "a refusal takes {bounded:?}, the answer {:?}",
            begin.elapsed()
        );
        // One exception alone may be too many.
        assert!(subtract(cidr, &excepts[..1], 50).is_err());
        assert_eq!(subtract(cidr, &[], 0), Err(CidrError::TooMany { cidr, limit: 0 }));
    }

    #[test]
    fn reads_what_the_api_server_reads() {
        for (text, plain) in [
            ("10.0.0.7/8", "10.0.0.0/8"),
            ("010.001.000.000/08", "10.1.0.0/8"),
            ("10.0.0.0/024", "10.0.0.0/24"),
            ("::ffff:10.244.1.0/120", "10.244.1.0/24"),
            ("::ffff:0af4:0105/120", "10.244.1.0/24"),
            ("0:0:0:0:0:ffff:010.244.001.009/128", "10.244.1.9/32"),
            ("::ffff:10.244.1.0/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
            ("::/0", "::/0"),
            ("::10.0.0.0/104", "::a00:0/104"),
            ("fd00:00001::1/064", "fd00:1::/64"),
        ] {
            let expected = plain.parse::<IpNet>().unwrap().trunc();
            assert_eq!(parse(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/+8",
            "10.0.0/8",
            "10.0.0.0.0/8",
            "256.0.0.0/8",
            "10.0.0.0/8/8",
            "::/129",
            "::ffff:10.0.0.0/129",
            "fe80::1%eth0/64",
            " 10.0.0.0/8",
            "10..0.0/8",
        ] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn ranges() {
        let text = |a: &str, b: &str| {
            let list = range(a.parse().unwrap(), b.parse().unwrap());
            list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text("10.0.0.1", "10.0.0.6"), "10.0.0.1/32 10.0.0.2/31 10.0.0.4/31 10.0.0.6/32");
        assert_eq!(text("0.0.0.0", "255.255.255.255"), "0.0.0.0/0");
        assert_eq!(text("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), "::/0");
        assert_eq!(text("10.0.0.2", "10.0.0.1"), "");
        assert_eq!(text("10.0.0.2", "::1"), "");
    }

    /// A block of 256 addresses somewhere in the space, with exceptions inside it.
    fn case() -> impl Strategy<Value = (IpNet, Vec<IpNet>)> {
        let base = prop_oneof![
            Just("10.1.2.0/24"),
            Just("0.0.0.0/24"),
            Just("255.255.255.0/24"),
            Just("fd00::100/120"),
            Just("::/120"),
            Just("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00/120"),
        ];
        let cut = (any::<u8>(), 0u8..=8);
        (base, proptest::collection::vec(cut, 0..12)).prop_map(|(base, cuts)| {
            let base: IpNet = base.parse().unwrap();
            let (low, _) = bounds(base);
            let width = base.max_prefix_len();
            let excepts =
                cuts.into_iter().map(|(at, host)| net(low + u128::from(at), width - host, width)).collect();
            (base, excepts)
        })
    }

    /// Fewest prefixes for a set of addresses, by halving: the answer every aligned block must give.
    fn fewest(wanted: &[bool]) -> usize {
        if wanted.iter().all(|w| *w) {
            return 1;
        }
        if wanted.iter().all(|w| !*w) {
            return 0;
        }
        let (low, high) = wanted.split_at(wanted.len() / 2);
        fewest(low) + fewest(high)
    }

    proptest! {
        #[test]
        fn exact_disjoint_and_minimal((cidr, excepts) in case()) {
            let result = subtract(cidr, &excepts, 256).unwrap();
            if let Some(less) = result.len().checked_sub(1) {
                let short = subtract(cidr, &excepts, less);
                prop_assert_eq!(short, Err(CidrError::TooMany { cidr: cidr.trunc(), limit: less }));
            }
            prop_assert_eq!(subtract(cidr, &excepts, result.len()), Ok(result.clone()));
            let mut wanted = vec![false; 256];
            for (i, address) in cidr_addresses(cidr).enumerate() {
                let expected = !excepts.iter().any(|e| e.contains(&address));
                wanted[i] = expected;
                let times = result.iter().filter(|net| net.contains(&address)).count();
                prop_assert_eq!(times, usize::from(expected), "{}", address);
            }
            prop_assert_eq!(result.len(), fewest(&wanted));
            prop_assert!(result.iter().all(|net| cidr.contains(net) && *net == net.trunc()));
            prop_assert!(result.is_sorted());
        }

        #[test]
        fn any_input_terminates(cidr in any_net(), excepts in proptest::collection::vec(any_net(), 0..8)) {
            match subtract(cidr, &excepts, 1 + excepts.len() * 128) {
                Ok(_) => {}
                Err(CidrError::TooMany { .. }) => prop_assert!(false, "an exception leaves a prefix for each bit"),
                Err(CidrError::Outside { except, .. }) => prop_assert!(!cidr.trunc().contains(&except)),
            }
        }
    }

    fn cidr_addresses(cidr: IpNet) -> impl Iterator<Item = IpAddr> {
        let (low, high) = bounds(cidr);
        let v4 = cidr.max_prefix_len() == 32;
        (low..=high).map(move |bits| {
            if v4 {
                IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).unwrap()))
            } else {
                IpAddr::V6(Ipv6Addr::from_bits(bits))
            }
        })
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (any::<u32>(), 0u8..=32).prop_map(|(a, p)| net(u128::from(a), p, 32)),
            (any::<u128>(), 0u8..=128).prop_map(|(a, p)| net(a, p, 128)),
        ]
    }
}
