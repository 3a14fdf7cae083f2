//! Which Open vSwitch a node may run.

use crate::ovs::bridge::BringUpError;

/// The oldest. Before it the userspace datapath could keep the old action of a flow that was changed while it
/// overlapped another, and so forward for minutes what the flows forbid; Open vSwitch's change "dpif-netdev: Fix
/// dpif_netdev_flow_put" is in 3.1.3 and 3.2.0. Seen with Debian 12's 3.1.0 (5 of 98 trials), not with 3.5.0 (0 of 80).
const MINIMUM: (u32, u32, u32) = (3, 1, 3);

/// Whether the version that OVSDB tells of (`ovs_version`) is new enough. One that is not told, or is no version,
/// is taken for new: OVSDB holds what a start script says, and ours always does.
///
/// # Errors
/// It is too old.
pub fn check(version: Option<&str>) -> Result<(), BringUpError> {
    let Some(found) = version.and_then(parse).filter(|found| *found < MINIMUM) else { return Ok(()) };
    let show = |(a, b, c)| format!("{a}.{b}.{c}");
    Err(BringUpError::new(
        "OpenVSwitchTooOld",
        format!(
            "Open vSwitch {} runs on this node, and its userspace datapath can go on forwarding what policy forbids; \
             {} is the oldest that may: use the image antrea-agent of this version for the container antrea-ovs",
            show(found),
            show(MINIMUM)
        ),
    ))
}

/// `3.1.0`, also `3.1.0-2+deb12u1` and `3.2`.
fn parse(text: &str) -> Option<(u32, u32, u32)> {
    let numbers = text.trim().split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    let mut numbers = numbers.split('.').map(str::parse);
    let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    Some((major, minor, numbers.next().and_then(Result::ok).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_old_is_refused_and_named() {
        for old in ["2.17.9", "3.0.7", "3.1.0", "3.1.2", "3.1", "3.1.0-2+deb12u1"] {
            let error = check(Some(old)).unwrap_err();
            assert_eq!(error.reason, "OpenVSwitchTooOld");
            let version = if old.starts_with("3.1.0") || old == "3.1" { "3.1.0" } else { old };
            assert!(error.message.contains(version) && error.message.contains("3.1.3"), "{error}");
        }
        for good in ["3.1.3", "3.1.10", "3.2.0", "3.5.0", "4.0", "10.1.0-rc1"] {
            assert!(check(Some(good)).is_ok(), "{good}");
        }
        for unknown in [None, Some(""), Some("trunk"), Some("3")] {
            assert!(check(unknown).is_ok(), "{unknown:?}");
        }
    }
}
