//! Tells when somebody changes nftables' rules, which those of iptables-nft are too.
//!
//! The kernel sends the messages of a transaction (`NFNL_SUBSYS_NFTABLES`, group `NFNLGRP_NFTABLES`), each with
//! names of table and chain and the rule's expressions, and last a `NFT_MSG_NEWGEN` that says who committed it
//! (nf_tables_api.c, `nf_tables_commit_notify`).

use std::os::{fd::OwnedFd, unix::net};

use socket2::{Socket, Type};
use tokio::net::UnixDatagram;

use crate::nfnetlink::{self, GENERIC, attributes, message};
use crate::{Error, Netns, Result};

/// `NFNLGRP_NFTABLES` (nfnetlink.h).
const NFNLGRP_NFTABLES: u32 = 7;
/// Subsystem 10, `NFT_MSG_NEWGEN` 15 (nf_tables.h).
const NEWGEN: u16 = 10 << 8 | 15;
/// `NFTA_GEN_PROC_PID`.
const PROC_PID: u16 = 2;
/// `NFTA_GEN_PROC_NAME`.
const PROC_NAME: u16 = 3;
/// Longest message that is looked at whole; notifications are made a page or two long.
const BUFFER: usize = 32 << 10;
/// Socket receive buffer: a flush of many thousand rules is one transaction.
const RECEIVE_BUFFER: usize = 4 << 20;
/// A stream of transactions that touch something whose name contains a given text.
#[derive(Debug)]
pub struct NftMonitor {
    /// A netlink socket: tokio has no type for it, and this one only ever calls recv(2).
    socket: UnixDatagram,
    needle: Vec<u8>,
    seen: Transaction,
}

/// Who committed a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committer {
    /// Name of the program, at most 15 octets.
    pub program: String,
    /// Its process id.
    pub pid: u32,
}

/// What was seen of a transaction so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Transaction {
    hit: bool,
}

impl NftMonitor {
    /// Follows transactions of a namespace that mention `needle`, such as the beginning of chains' names.
    ///
    /// # Errors
    /// The kernel has no nftables, or the socket is not permitted.
    pub async fn open(netns: &Netns, needle: &str) -> Result<Self> {
        let what = || format!("follow nftables of {netns}");
        let socket = netns.run(open).await?.map_err(|error| Error::io(what(), error))?;
        let socket = UnixDatagram::from_std(net::UnixDatagram::from(OwnedFd::from(socket)))
            .map_err(|error| Error::io(what(), error))?;
        Ok(Self { socket, needle: needle.as_bytes().to_vec(), seen: Transaction::default() })
    }

    /// Waits for the next transaction of interest; `None` where it is not known who made it, or messages were
    /// lost. Cancel safe.
    ///
    /// # Errors
    /// The socket failed.
    pub async fn next(&mut self) -> Result<Option<Committer>> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = match self.socket.recv(&mut buffer).await {
                Ok(length) => length,
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::ENOBUFS as i32) => {
                    return Ok(None);
                }
                Err(error) => return Err(Error::io("follow nftables", error)),
            };
            let message = buffer.get(..length).unwrap_or_default();
            if let Some(who) = self.seen.take(message, &self.needle) {
                return Ok(who);
            }
        }
    }
}

fn open() -> std::io::Result<Socket> {
    let groups = 1 << (NFNLGRP_NFTABLES - 1);
    let socket = nfnetlink::socket(Type::RAW.nonblocking().cloexec(), groups)?;
    // Limited by net.core.rmem_max for the unprivileged; the default works, only with more losses.
    let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    Ok(socket)
}

impl Transaction {
    /// Takes a datagram. Some at the end of a transaction that mentioned `needle`.
    fn take(&mut self, datagram: &[u8], needle: &[u8]) -> Option<Option<Committer>> {
        let (mut rest, mut ended) = (datagram, None);
        while let Some((kind, body, after)) = message(rest) {
            if kind == NEWGEN {
                if std::mem::take(&mut self.hit) {
                    ended = Some(committer(body));
                }
            } else {
                // Names are NUL-terminated strings among binary attributes; which attribute says it matters not.
                self.hit |= body.windows(needle.len().max(1)).any(|window| window == needle);
            }
            rest = after;
        }
        ended
    }
}

fn committer(body: &[u8]) -> Option<Committer> {
    let (mut program, mut pid) = (None, None);
    for (kind, value) in attributes(body.get(GENERIC..)?) {
        match kind {
            PROC_PID => pid = value.try_into().ok().map(u32::from_be_bytes),
            PROC_NAME => {
                let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
                program = Some(String::from_utf8_lossy(text).into_owned());
            }
            _ => {}
        }
    }
    Some(Committer { program: program?, pid: pid? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nfnetlink::{attribute, request};

    fn message_of(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
        request(kind, 0, 0, &attributes.concat())
    }

    fn end() -> Vec<u8> {
        let (pid, name) = (42_u32.to_be_bytes(), b"nft\0");
        message_of(NEWGEN, &[attribute(1, &[0; 4]), attribute(PROC_PID, &pid), attribute(PROC_NAME, name)])
    }

    #[test]
    fn tells_who_ended_a_transaction_of_interest() {
        let rule = |chain: &[u8]| message_of(10 << 8 | 8, &[attribute(2, chain)]);
        let mut seen = Transaction::default();
        assert_eq!(seen.take(&rule(b"KUBE-SERVICES\0"), b"ANTREA-"), None);
        assert_eq!(seen.take(&end(), b"ANTREA-"), None, "of others");
        assert_eq!(seen.take(&rule(b"ANTREA-FORWARD\0"), b"ANTREA-"), None, "not ended");
        let who = Committer { program: "nft".into(), pid: 42 };
        assert_eq!(seen.take(&end(), b"ANTREA-"), Some(Some(who.clone())));
        let both = [rule(b"ANTREA-FORWARD\0"), end()].concat();
        assert_eq!(seen.take(&both, b"ANTREA-"), Some(Some(who)));
        assert_eq!(seen, Transaction::default());
    }

    #[test]
    fn any_octets_are_borne() {
        for datagram in [&[][..], &[1; 3], &[255; 64], &[0; 64]] {
            assert_eq!(Transaction::default().take(datagram, b"ANTREA-"), None);
        }
        let mut cut = end();
        cut.truncate(26);
        let mut seen = Transaction { hit: true };
        assert_eq!(seen.take(&cut, b"ANTREA-"), Some(None));
    }
}
