//! Traffic control, by running `tc`: only pods with a limit need it, and few have one.

use crate::{Netns, Result, process};

/// Longest time that a packet waits for its turn before it is dropped.
const LATENCY: &str = "25ms";

/// A full bucket never lasts longer than this: the kernel counts the time in 64 ns ticks of 32 bits.
const LONGEST_BURST_SECONDS: u64 = 200;

/// How much may leave a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bits per second, not 0.
    pub rate: u64,
    /// Bits that may leave at once after a pause; 0 = what leaves in a quarter of a second.
    pub burst: u64,
}

impl Limit {
    /// Octets of the bucket: at least two of the largest packets.
    fn bucket(self) -> u64 {
        let per_second = self.rate / 8;
        let wanted = if self.burst == 0 { per_second / 4 } else { self.burst / 8 };
        wanted.min(per_second.saturating_mul(LONGEST_BURST_SECONDS)).min(u32::MAX.into()).max(2 * 65_536)
    }
}

/// Limits what leaves `link` of `netns` by a token bucket filter. Done twice, it is the same as once.
///
/// # Errors
/// `tc` is missing, or the kernel has no such filter.
pub async fn limit_egress(netns: &Netns, link: &str, limit: Limit) -> Result<()> {
    let (rate, burst) = (format!("{}bit", limit.rate), limit.bucket().to_string());
    let args =
        ["qdisc", "replace", "dev", link, "root", "tbf", "rate", &rate, "burst", &burst, "latency", LATENCY];
    process::run(netns, "tc", &args, None).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_fit_the_kernel_and_the_largest_packet() {
        let bucket = |rate, burst| Limit { rate, burst }.bucket();
        assert_eq!(bucket(80_000_000, 0), 2_500_000);
        assert_eq!(bucket(80_000_000, 16_000_000), 2_000_000);
        // What Kubernetes asks for when it has no opinion.
        assert_eq!(bucket(8_000_000, i32::MAX as u64), 200_000_000);
        assert_eq!(bucket(8_000_000_000, u64::MAX), u64::from(u32::MAX));
        assert_eq!(bucket(8_000, 1), 131_072);
    }
}
