//! What generic netlink offers (genetlink.h): parts of the kernel that are known by a name.

use std::{io, time::Duration};

use nix::errno::Errno;
use socket2::Type;

use crate::{
    Error, Result,
    nfnetlink::{answer, attribute, message, receive, request, socket_of},
};

/// `NETLINK_GENERIC` (netlink.h).
const NETLINK_GENERIC: i32 = 16;
/// `GENL_ID_CTRL` (genetlink.h): asks for families, and answers.
const CONTROL: u16 = 0x10;
/// `CTRL_CMD_GETFAMILY`.
const GET_FAMILY: u8 = 3;
/// `CTRL_ATTR_FAMILY_NAME`.
const FAMILY_NAME: u16 = 2;
/// `NLM_F_REQUEST` and `NLMSG_ERROR` (netlink.h).
const REQUEST: u16 = 1;
const ERROR: u16 = 2;
/// The kernel answers before it returns from the request, which loads a module first where one has the name.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the kernel has a family of generic netlink. Unlike `/sys/module` that tells of what is built in, too. A module
/// that has the family may be loaded for it, so this blocks.
///
/// # Errors
/// The kernel was not asked, or gave another answer than yes or no.
pub fn kernel_has_family(name: &str) -> Result<bool> {
    let failed = |error| Error::io(format!("ask the kernel for the generic netlink family {name}"), error);
    ask(name).map_err(failed)
}

fn ask(name: &str) -> io::Result<bool> {
    let socket = socket_of(NETLINK_GENERIC, Type::RAW.cloexec(), 0)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let name = [name.as_bytes(), &[0]].concat();
    socket.send(&request(CONTROL, REQUEST, GET_FAMILY, &attribute(FAMILY_NAME, &name)))?;
    // Of a family's description no more than that there is one is of interest.
    let mut buffer = [0; 1024];
    let length = receive(&socket, &mut buffer)?;
    match message(buffer.get(..length).unwrap_or_default()) {
        Some((CONTROL, ..)) => Ok(true),
        Some((ERROR, body, _)) => match answer(body) {
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Err(io::Error::other("no answer but an acknowledgement")),
        },
        _ => Err(io::Error::other("an answer of another kind")),
    }
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
