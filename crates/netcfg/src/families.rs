//! What generic netlink offers (genetlink.h): parts of the kernel that are known by a name.

use nix::errno::Errno;

use crate::{
    Error, Result,
    nfnetlink::{REQUEST, attribute, has, request},
};

/// `NETLINK_GENERIC` (netlink.h).
const NETLINK_GENERIC: i32 = 16;
/// `GENL_ID_CTRL` (genetlink.h): asks for families, and answers.
const CONTROL: u16 = 0x10;
/// `CTRL_CMD_GETFAMILY`.
const GET_FAMILY: u8 = 3;
/// `CTRL_ATTR_FAMILY_NAME`.
const FAMILY_NAME: u16 = 2;

/// Whether the kernel has a family of generic netlink. Unlike `/sys/module` that tells of what is built in, too. A module
/// that has the family may be loaded for it, so this blocks.
///
/// # Errors
/// The kernel was not asked, or gave another answer than yes or no.
pub fn kernel_has_family(name: &str) -> Result<bool> {
    let failed = |error| Error::io(format!("ask the kernel for the generic netlink family {name}"), error);
    let question =
        request(CONTROL, REQUEST, GET_FAMILY, &attribute(FAMILY_NAME, &[name.as_bytes(), &[0]].concat()));
    has(NETLINK_GENERIC, &question, Errno::ENOENT).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_the_family_that_tells_of_families() {
        assert!(kernel_has_family("nlctrl").unwrap());
        assert!(!kernel_has_family("antrea-none").unwrap());
    }

    #[test]
    fn what_cannot_be_a_name_is_an_error_and_no_answer() {
        // A family's name has at most 15 octets (GENL_NAMSIZ).
        assert!(kernel_has_family("sixteen-octets-long").is_err());
    }
}
