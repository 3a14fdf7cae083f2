//! What DNS tells the receiver of a packet.

mod query;
mod stream;

use std::collections::BTreeSet;
use std::net::IpAddr;

use simple_dns::rdata::{RData, SVCB, SVCParam};
use simple_dns::{Name, Packet, PacketFlag};

pub use self::query::{DnsQuestion, dns_query, dns_reply};
pub use self::stream::DnsStreams;
use crate::headers::{TCP, UDP, segment, word};

/// Octets of a message's header (RFC 1035 §4.1.1).
const HEADER: usize = 12;
/// The shortest question and the shortest record.
const QUESTION: usize = 5;
const RECORD: usize = 11;

/// Names of one answer that are told. Resolvers follow fewer aliases than that.
const NAMES: usize = 32;

/// Addresses of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsAnswer {
    /// The name that was asked for and those that it is an alias of, in lower case and without the final dot.
    pub names: Vec<String>,
    /// Their addresses, each with the seconds for which they hold.
    pub addresses: Vec<(IpAddr, u32)>,
    /// Who says so, where that is known.
    pub server: Option<IpAddr>,
}

/// What a packet from a DNS server says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsPacket {
    /// These answers and nothing else; none where it is about no addresses.
    Answers(Vec<DnsAnswer>),
    /// A segment of a stream in which something before it is missing. It will be sent again.
    Early,
    /// A stream that cannot be read, and the frame that ends it for its receiver.
    Ended(Vec<u8>),
    /// A packet that is no DNS message.
    Malformed,
}

/// Reads a frame of UDP from a server's port.
///
/// An answer's addresses are those of all its A and AAAA records, and the hints of its SVCB and HTTPS records (RFC 9460
/// §7.3): resolvers differ in whether they look at the owners of records, and what the receiver may take for an address of
/// the name has to be known as one.
fn dns(frame: &[u8]) -> DnsPacket {
    let message = payload(frame).filter(|(protocol, _)| *protocol == UDP);
    match message.and_then(|(_, message)| message_of(message)) {
        Some(answer) => DnsPacket::Answers(answer.into_iter().collect()),
        None => DnsPacket::Malformed,
    }
}

/// `None` if it is no message, and `Some(None)` if it tells no addresses.
fn message_of(octets: &[u8]) -> Option<Option<DnsAnswer>> {
    let count = |at| word(octets, at).map(usize::from);
    let (questions, answers) = (count(4)?, count(6)?);
    // Nothing is set aside for records that do not fit.
    if questions * QUESTION + answers * RECORD > octets.len().checked_sub(HEADER)? {
        return None;
    }
    // What comes after the answers is not looked at, and need not be readable.
    let mut octets = octets.to_vec();
    octets[8..HEADER].fill(0);
    let message = Packet::parse(&octets).ok()?;
    if !message.has_flags(PacketFlag::RESPONSE) {
        return Some(None);
    }
    let mut answer = DnsAnswer::default();
    for record in &message.answers {
        let mut add = |address: IpAddr| answer.addresses.push((address.to_canonical(), record.ttl));
        match &record.rdata {
            RData::A(a) => add(IpAddr::V4(a.address.into())),
            RData::AAAA(aaaa) => add(IpAddr::V6(aaaa.address.into())),
            RData::SVCB(svcb) => hints(svcb).for_each(add),
            RData::HTTPS(https) => hints(&https.0).for_each(add),
            _ => {}
        }
    }
    if answer.addresses.is_empty() {
        return Some(None);
    }
    // Whose they are nobody could say.
    let asked = text(&message.questions.first()?.qname);
    answer.names = chain(asked, &message);
    Some(Some(answer))
}

/// The addresses that a service may be tried at before its name was looked up.
fn hints<'a>(svcb: &'a SVCB<'a>) -> impl Iterator<Item = IpAddr> + 'a {
    svcb.iter_params().flat_map(|param| match param {
        SVCParam::Ipv4Hint(hints) => hints.iter().map(|ip| IpAddr::V4((*ip).into())).collect(),
        SVCParam::Ipv6Hint(hints) => hints.iter().map(|ip| IpAddr::V6((*ip).into())).collect(),
        _ => Vec::new(),
    })
}

/// A name, what it is an alias of, and so on, in whatever order the records are.
fn chain(asked: String, message: &Packet<'_>) -> Vec<String> {
    let alias = |record: &simple_dns::ResourceRecord<'_>| match &record.rdata {
        RData::CNAME(to) => Some((text(&record.name), text(&to.0))),
        _ => None,
    };
    let aliases: Vec<(String, String)> = message.answers.iter().filter_map(alias).collect();
    let mut known = BTreeSet::from([asked.clone()]);
    let mut names = vec![asked];
    let mut at = 0;
    while at < names.len() && names.len() < NAMES {
        let targets = aliases.iter().filter(|(from, _)| *from == names[at]).map(|(_, to)| to);
        let new: Vec<String> = targets.filter(|to| known.insert((*to).clone())).cloned().collect();
        names.extend(new);
        at += 1;
    }
    names.truncate(NAMES);
    names
}

/// A name in the form in which names are compared. What no policy can write is a question mark: a dot in a label must not
/// read as one between two.
fn text(name: &Name<'_>) -> String {
    let mut text = String::new();
    for label in name.as_bytes() {
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|octet| match octet {
            b'-' | b'_' => char::from(*octet),
            octet if octet.is_ascii_alphanumeric() => char::from(octet.to_ascii_lowercase()),
            _ => '?',
        }));
    }
    text
}

/// Protocol and contents of a whole UDP or TCP packet.
fn payload(frame: &[u8]) -> Option<(u8, &[u8])> {
    let (protocol, body) = segment(frame)?;
    match protocol {
        UDP => {
            Some((UDP, frame.get(body.start + 8..body.start + usize::from(word(frame, body.start + 4)?))?))
        }
        TCP => {
            let header = usize::from(frame.get(body.start + 12)? >> 4) * 4;
            (header >= 20).then_some((TCP, frame.get(body.start + header..body.end)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
