//! The netlink edge: one rtnetlink socket bound to one namespace, and how a request is answered.

pub mod addr;
pub mod link;
pub mod monitor;
pub mod neigh;
pub mod route;
pub mod rule;

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::errno::Errno;
use rtnetlink::sys::AsyncSocket;
use tokio::{sync::Mutex, task::AbortHandle};

use crate::{Error, Netns, Result};

/// Longest wait for an answer. The kernel answers within the request's system call but for RTNL contention.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Attempts at a dump that concurrent changes interrupt.
const DUMP_ATTEMPTS: usize = 10;
/// Pause before the next attempt when an abandoned dump is in the way.
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A handle to an rtnetlink socket inside one namespace. Cheap to clone; usable from any task.
///
/// The task that drives the socket is owned by the handles: it ends when the last of them is dropped.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
    netns: Netns,
    driver: Arc<Driver>,
}

#[derive(Debug)]
struct Driver {
    task: AbortHandle,
    /// The kernel runs one dump per socket at a time and answers EBUSY to a second.
    dumping: Mutex<()>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netns {
    /// Opens an rtnetlink socket inside this namespace. The socket stays bound to it wherever it is used.
    pub async fn spawn_netlink(&self) -> Result<Netlink> {
        let what = || format!("open netlink socket in {self}");
        let (mut connection, handle, _unsolicited) =
            self.run(rtnetlink::new_connection).await?.map_err(|e| Error::io(what(), e))?;
        // Acks are forwarded so that "done" can be told from "the connection went away".
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        let socket = connection.socket_mut().socket_mut();
        // Kernel-side dump filters (Linux 4.20) and explanations in errors (4.12) are improvements, not needs.
        let _ = socket.set_netlink_get_strict_chk(true);
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        let driver = Driver { task: tokio::spawn(connection).abort_handle(), dumping: Mutex::new(()) };
        Ok(Netlink { handle, netns: self.clone(), driver: Arc::new(driver) })
    }
}

impl Netlink {
    /// The namespace the socket lives in.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Sends a request and waits for the kernel's acknowledgement; returns what came before it.
    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: impl Fn() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        self.exchange(message, NLM_F_REQUEST | NLM_F_ACK | flags, &what).await.map(|(messages, _)| messages)
    }

    /// Reads a whole table; again when it changed meanwhile.
    async fn dump(
        &self,
        message: RouteNetlinkMessage,
        what: impl Fn() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>> {
        let _turn = self.driver.dumping.lock().await;
        for _ in 0..DUMP_ATTEMPTS {
            match self.exchange(message.clone(), NLM_F_REQUEST | NLM_F_DUMP, &what).await {
                Ok((messages, false)) => return Ok(messages),
                Ok((_, true)) => {}
                // A dump whose caller gave up is still being read.
                Err(e) if e.errno() == Some(Errno::EBUSY) => tokio::time::sleep(BUSY_PAUSE).await,
                Err(e) => return Err(e),
            }
        }
        Err(Error::Unstable(what()))
    }

    async fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: &impl Fn() -> String,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool)> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = flags;
        let mut answers = self.handle.clone().request(request).map_err(|_| Error::Closed(what()))?;
        let mut messages = Vec::new();
        let mut interrupted = false;
        let read = async {
            while let Some(answer) = answers.next().await {
                interrupted |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(inner) => messages.push(inner),
                    NetlinkPayload::Error(error) => return outcome(&error, what),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(kernel_error(done.code, &done.extended_ack, what));
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Overrun(_) => {
                        interrupted = true;
                        return Ok(());
                    }
                    _ => {}
                }
            }
            Err(Error::Closed(what()))
        };
        tokio::time::timeout(ANSWER_TIMEOUT, read).await.map_err(|_| Error::Timeout(what()))??;
        Ok((messages, interrupted))
    }
}

fn outcome(error: &ErrorMessage, what: &impl Fn() -> String) -> Result<()> {
    match error.code {
        None => Ok(()),
        // With NETLINK_CAP_ACK the request's header (16 bytes) precedes the attributes.
        Some(code) => Err(kernel_error(code.get(), error.header.get(16..).unwrap_or_default(), what)),
    }
}

fn kernel_error(code: i32, attributes: &[u8], what: &impl Fn() -> String) -> Error {
    Error::Kernel {
        what: what(),
        errno: Errno::from_raw(code.saturating_neg()),
        detail: explanation(attributes),
    }
}

/// `NLMSGERR_ATTR_MSG` (1) among the extended ack attributes (netlink.h `struct nlattr`: length, type, value).
fn explanation(mut attributes: &[u8]) -> Option<String> {
    const NLMSGERR_ATTR_MSG: u16 = 1;
    while let [l0, l1, t0, t1, ..] = *attributes {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let kind = u16::from_ne_bytes([t0, t1]) & 0x3fff;
        let value = attributes.get(4..length)?;
        if kind == NLMSGERR_ATTR_MSG {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::explanation;

    #[test]
    fn explanation_is_found_behind_other_attributes() {
        let mut attributes = vec![8, 0, 2, 0, 1, 2, 3, 4]; // NLMSGERR_ATTR_OFFS
        attributes.extend_from_slice(&[9, 0, 1, 0]);
        attributes.extend_from_slice(b"nope\0");
        assert_eq!(explanation(&attributes).as_deref(), Some("nope"));
        assert_eq!(explanation(&attributes[..8]), None);
        assert_eq!(explanation(&[200, 0, 1, 0, b'x']), None);
        assert_eq!(explanation(&[0, 0, 0, 0]), None);
    }
}
