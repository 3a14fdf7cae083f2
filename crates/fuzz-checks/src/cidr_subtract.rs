//! Any block and exceptions: the result is exactly the set difference, in the fewest prefixes, in order; and
//! any range is exactly covered, in the fewest prefixes.
//!
//! The reference is another algorithm: halve the block until a half is all wanted or all unwanted. Its leaves
//! are the canonical answer, for two halves that are both wanted are never left apart.
//!
//! Input: family and number of exceptions, the block, the exceptions; each an address and a prefix length.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use antrea_policy::cidr::{CidrError, range, subtract};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Low enough for a few exceptions to pass it.
const LIMIT: usize = 500;

/// Checks one input and returns how many prefixes the difference has.
pub fn check(data: &[u8]) -> usize {
    let Some((head, mut rest)) = data.split_first() else { return 0 };
    let v6 = head & 1 == 1;
    let Some(block) = net(v6, &mut rest) else { return 0 };
    let mut excepts = Vec::new();
    // Odd numbers are exceptions as written, which mostly lie outside; even ones are moved into the block.
    let inside = head & 2 == 0;
    while let Some(except) = net(v6 ^ (head & 0x1c == 0x1c && excepts.len() == 2), &mut rest) {
        excepts.push(if inside { moved_into(block, except) } else { except });
        if excepts.len() == 24 {
            break;
        }
    }
    covers(block, excepts.first().copied().unwrap_or(block));
    match subtract(block, &excepts, LIMIT) {
        Ok(result) => {
            let mut expected = Vec::new();
            halve(block.trunc(), &excepts, &mut expected);
            assert_eq!(result, expected, "{block} without {excepts:?}");
            assert!(
                excepts.iter().all(|except| block.contains(&except.trunc())),
                "{block} without {excepts:?}"
            );
            result.len()
        }
        Err(CidrError::Outside { cidr, except }) => {
            assert_eq!(cidr, block.trunc());
            assert!(!cidr.contains(&except) && excepts.iter().any(|given| given.trunc() == except));
            0
        }
        Err(CidrError::TooMany { cidr, limit }) => {
            let all = subtract(block, &excepts, usize::MAX).expect("must fit");
            assert!(cidr == block.trunc() && limit == LIMIT && all.len() > LIMIT);
            all.len()
        }
    }
}

/// The range between the first addresses of two blocks.
fn covers(a: IpNet, b: IpNet) {
    let (first, last) = (a.addr().min(b.addr()), a.addr().max(b.addr()));
    let result = range(first, last);
    if first.is_ipv4() != last.is_ipv4() {
        assert!(result.is_empty());
        return;
    }
    assert_eq!(result.first().map(IpNet::network), Some(first));
    assert_eq!(result.last().map(IpNet::broadcast), Some(last));
    for pair in result.windows(2) {
        assert_eq!(bits(pair[0].broadcast()).checked_add(1), Some(bits(pair[1].network())), "{first}-{last}");
        let together = pair[0].supernet();
        assert!(
            together.is_none() || together != pair[1].supernet(),
            "{first}-{last}: {pair:?} is one prefix"
        );
    }
    assert!(range(last, first).is_empty() || first == last);
}

fn halve(block: IpNet, excepts: &[IpNet], out: &mut Vec<IpNet>) {
    if excepts.iter().any(|except| except.trunc().contains(&block)) {
        return;
    }
    let within: Vec<IpNet> =
        excepts.iter().copied().filter(|except| block.contains(&except.trunc())).collect();
    if within.is_empty() {
        out.push(block);
        return;
    }
    for half in block.subnets(block.prefix_len() + 1).into_iter().flatten() {
        halve(half, &within, out);
    }
}

fn net(v6: bool, data: &mut &[u8]) -> Option<IpNet> {
    if v6 {
        let (address, rest) = data.split_first_chunk::<16>()?;
        let (length, rest) = rest.split_first()?;
        *data = rest;
        Ipv6Net::new(Ipv6Addr::from(*address), length % 129).ok().map(IpNet::V6)
    } else {
        let (address, rest) = data.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first()?;
        *data = rest;
        Ipv4Net::new(Ipv4Addr::from(*address), length % 33).ok().map(IpNet::V4)
    }
}

/// The same low bits below the block's prefix, and a prefix at least as long.
fn moved_into(block: IpNet, net: IpNet) -> IpNet {
    let length = net.prefix_len().max(block.prefix_len());
    match (block, net) {
        (IpNet::V4(block), IpNet::V4(net)) => {
            let address = block.network() | (net.addr() & block.hostmask());
            Ipv4Net::new(address, length).map_or(block.into(), IpNet::V4)
        }
        (IpNet::V6(block), IpNet::V6(net)) => {
            let address = block.network() | (net.addr() & block.hostmask());
            Ipv6Net::new(address, length).map_or(block.into(), IpNet::V6)
        }
        _ => net,
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}
