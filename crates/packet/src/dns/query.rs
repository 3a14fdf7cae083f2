//! Questions of one's own.

use std::net::IpAddr;

use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, TYPE};

use super::{DnsAnswer, message_of, text};
use crate::headers::word;

/// What addresses are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsQuestion {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
}

/// A message that asks for addresses of a name; none if that is no name.
pub fn dns_query(id: u16, name: &str, question: DnsQuestion) -> Option<Vec<u8>> {
    let kind = match question {
        DnsQuestion::A => TYPE::A,
        DnsQuestion::Aaaa => TYPE::AAAA,
    };
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name).ok()?;
    packet.questions.push(Question::new(name, QTYPE::TYPE(kind), QCLASS::CLASS(CLASS::IN), false));
    packet.build_bytes_vec().ok()
}

/// What a server replies to [`dns_query`], which may be that there are no addresses; none if this is no reply to it.
pub fn dns_reply(octets: &[u8], id: u16, name: &str, server: IpAddr) -> Option<Option<DnsAnswer>> {
    if word(octets, 0)? != id {
        return None;
    }
    let message = Packet::parse(octets).ok()?;
    let is_reply = message.has_flags(PacketFlag::RESPONSE) && text(&message.questions.first()?.qname) == name;
    let answer = is_reply.then(|| message_of(octets)).flatten()?;
    Some(answer.map(|answer| DnsAnswer { server: Some(server), ..answer }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::tests::{a, answer, message, record};

    #[test]
    fn a_reply_is_told_from_what_is_none() {
        let server: IpAddr = "192.0.2.53".parse().unwrap();
        let query = dns_query(7, "a.example", DnsQuestion::Aaaa).unwrap();
        let read = Packet::parse(&query).unwrap();
        assert_eq!((read.id(), text(&read.questions[0].qname)), (7, "a.example".to_owned()));
        assert!(read.has_flags(PacketFlag::RECURSION_DESIRED) && !read.has_flags(PacketFlag::RESPONSE));
        assert_eq!(dns_query(7, &"long".repeat(99), DnsQuestion::A), None);

        let reply = message("A.Example", vec![record("a.example", 5, a([192, 0, 2, 1]))]);
        let told = DnsAnswer { server: Some(server), ..answer(&["a.example"], &[("192.0.2.1", 5)]) };
        assert_eq!(dns_reply(&reply, 7, "a.example", server), Some(Some(told)));
        assert_eq!(dns_reply(&message("a.example", vec![]), 7, "a.example", server), Some(None));
        // Of another question, of another name, the question itself, and no message.
        assert_eq!(dns_reply(&reply, 8, "a.example", server), None);
        assert_eq!(dns_reply(&reply, 7, "b.example", server), None);
        assert_eq!(dns_reply(&query, 7, "a.example", server), None);
        assert_eq!(dns_reply(&reply[..9], 7, "a.example", server), None);
    }
}
