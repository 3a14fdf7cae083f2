//! Lines of the log in upstream's format, and the merging of those that repeat.
//!
//! ```text
//! 2026/11/29 23:40:01.000317 AntreaPolicyIngressRule AntreaClusterNetworkPolicy:deny others Ingress Drop 14900
//!   shop/web-0 10.244.1.7 40000 10.244.1.9 80 TCP 60 <nil> [3 packets in 1.000213s]
//! ```
//!
//! Fields are between blanks. A policy's author may name rules as they like: what of it is no visible character is escaped, so
//! that nobody writes lines of their own, or other fields.
//!
//! A line of what was denied waits a second for others that say the same and then tells of all of them. What was allowed is
//! told at once, for each connection differs from others by its port.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use antrea_enforce::logged::Logged;
use antrea_flows::policy::{Action, Direction};
use antrea_packet::{Headers, ICMP, ICMPV6, TCP, Transport, UDP};

/// For what there is nothing to say.
const NOTHING: &str = "<nil>";

/// How long a line waits for more of its kind.
const TOGETHER: Duration = Duration::from_secs(1);

/// Lines that may wait; what comes then is written at once.
const WAITING: usize = 4096;

/// What is said of a packet; the time comes before it. `pod` is the one that the rule applies to.
pub(super) fn line(logged: &Logged, pod: Option<&str>, headers: &Headers) -> String {
    let protocol = match headers.protocol {
        ICMP => "ICMP".to_owned(),
        TCP => "TCP".to_owned(),
        UDP => "UDP".to_owned(),
        ICMPV6 => "IPv6-ICMP".to_owned(),
        132 => "SCTP".to_owned(),
        other => other.to_string(),
    };
    let (from, to) = match headers.transport {
        Transport::Tcp { src, dst, .. } | Transport::Udp { src, dst } => (src.to_string(), dst.to_string()),
        Transport::Icmp { .. } | Transport::Other => (NOTHING.to_owned(), NOTHING.to_owned()),
    };
    let direction = match logged.direction {
        Direction::In => "Ingress",
        Direction::Out => "Egress",
    };
    let action = match logged.action {
        Action::Allow => "Allow",
        Action::Drop => "Drop",
        Action::Reject => "Reject",
        Action::Pass => "Pass",
    };
    let rule = logged.rule.as_deref().map_or(NOTHING.into(), field);
    let priority = logged.priority.map_or(NOTHING.to_owned(), |priority| priority.to_string());
    let label = logged.label.as_deref().map_or(NOTHING.into(), field);
    format!(
        "{} {} {rule} {direction} {action} {priority} {} {} {from} {} {to} {protocol} {} {label}",
        logged.table.name(),
        field(&logged.policy),
        pod.map_or(NOTHING.into(), field),
        headers.src,
        headers.dst,
        headers.length,
    )
}

/// Text as one field, from which it can be told what it was: `a\b c` is `a\\b\u{20}c`.
fn field(text: &str) -> Cow<'_, str> {
    if !text.is_empty() && text.bytes().all(|c| c.is_ascii_graphic() && c != b'\\') {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '"' | '\'' => escaped.push(c),
            ' ' => escaped.extend(c.escape_unicode()),
            c => escaped.extend(c.escape_debug()),
        }
    }
    if escaped.is_empty() { NOTHING.into() } else { escaped.into() }
}

/// Lines that wait for more of their kind.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// How many packets each line is of.
    counts: HashMap<String, u64>,
    /// Since when they wait, the first first.
    order: VecDeque<(Instant, String)>,
}

impl Waiting {
    /// Takes a line; returns what is to be written at once.
    pub(super) fn take(&mut self, line: String, now: Instant) -> Option<String> {
        if let Some(count) = self.counts.get_mut(&line) {
            *count += 1;
            return None;
        }
        if self.order.len() >= WAITING {
            return Some(line);
        }
        self.counts.insert(line.clone(), 1);
        self.order.push_back((now, line));
        None
    }

    /// When the next one has waited long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.order.front().map(|(since, _)| *since + TOGETHER)
    }

    /// The next one that has.
    pub(super) fn pop(&mut self, now: Instant) -> Option<String> {
        let (since, line) = self.order.pop_front_if(|(since, _)| *since + TOGETHER <= now)?;
        match self.counts.remove(&line) {
            Some(count) if count > 1 => Some(format!("{line} [{count} packets in {:?}]", now - since)),
            _ => Some(line),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use antrea_flows::Table;

    fn logged() -> Logged {
        Logged {
            table: Table::AntreaPolicyIngressRule,
            policy: "AntreaNetworkPolicy:default/test".into(),
            rule: Some("others".into()),
            direction: Direction::In,
            action: Action::Drop,
            priority: Some(14_500),
            label: Some("label".into()),
        }
    }

    fn packet() -> Headers {
        Headers {
            eth_src: [0; 6].into(),
            eth_dst: [0; 6].into(),
            src: "10.10.1.65".parse().unwrap(),
            dst: "10.0.0.5".parse().unwrap(),
            dscp: 0,
            ttl: 64,
            flags: 0,
            protocol: TCP,
            length: 60,
            transport: Transport::Tcp { src: 35_402, dst: 80, flags: 2, sequence: 0, acknowledged: 0 },
        }
    }

    #[test]
    fn a_line_has_upstreams_fields_in_its_order() {
        assert_eq!(
            line(&logged(), Some("default/web"), &packet()),
            "AntreaPolicyIngressRule AntreaNetworkPolicy:default/test others Ingress Drop 14500 default/web 10.10.1.65 \
             35402 10.0.0.5 80 TCP 60 label"
        );
        let isolated = Logged {
            table: Table::EgressDefaultRule,
            policy: "K8sNetworkPolicy".into(),
            rule: None,
            direction: Direction::Out,
            priority: None,
            label: None,
            ..logged()
        };
        let echo = Transport::Icmp { kind: 8, code: 0, id: 1, sequence: 1 };
        let ping = Headers { protocol: ICMP, length: 84, transport: echo, ..packet() };
        assert_eq!(
            line(&isolated, None, &ping),
            "EgressDefaultRule K8sNetworkPolicy <nil> Egress Drop <nil> <nil> 10.10.1.65 <nil> 10.0.0.5 <nil> ICMP 84 <nil>"
        );
    }

    #[test]
    fn a_name_is_one_field_whatever_is_in_it() {
        for (name, written) in [
            ("a\nb c", r"a\nb\u{20}c"),
            (r#"it's "a\b""#, r#"it's\u{20}"a\\b""#),
            (
                "\u{1b}[2K\r\u{85}\u{2028}\u{202e}\u{a0}\u{3000}",
                r"\u{1b}[2K\r\u{85}\u{2028}\u{202e}\u{a0}\u{3000}",
            ),
            ("gérer-日本", "gérer-日本"),
            ("", NOTHING),
        ] {
            let named =
                Logged { rule: Some(name.into()), label: Some(name.into()), policy: name.into(), ..logged() };
            let line = line(&named, Some(name), &packet());
            assert!(line.chars().all(|c| c == ' ' || !c.is_whitespace() && !c.is_control()), "{line:?}");
            let fields: Vec<&str> = line.split(' ').collect();
            assert_eq!(fields.len(), 14, "{line:?}");
            assert_eq!([1, 2, 6, 13].map(|at| fields[at]), [written; 4]);
        }
    }

    #[test]
    fn what_repeats_within_a_second_is_one_line() {
        let (mut waiting, begin) = (Waiting::default(), Instant::now());
        for at in [0, 10, 20] {
            assert_eq!(waiting.take("a".to_owned(), begin + Duration::from_millis(at)), None);
        }
        assert_eq!(waiting.take("b".to_owned(), begin + Duration::from_millis(500)), None);
        assert_eq!(waiting.due(), Some(begin + TOGETHER));
        assert_eq!(waiting.pop(begin + Duration::from_millis(999)), None);
        let end = begin + Duration::from_millis(1001);
        assert_eq!(waiting.pop(end).as_deref(), Some("a [3 packets in 1.001s]"));
        assert_eq!(waiting.pop(end), None, "the other waits");
        assert_eq!(waiting.take("a".to_owned(), end), None, "it begins anew");
        assert_eq!(waiting.pop(end + TOGETHER).as_deref(), Some("b"));
        assert_eq!(waiting.pop(end + TOGETHER).as_deref(), Some("a"));
        assert_eq!(waiting.due(), None);
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let (mut waiting, now) = (Waiting::default(), Instant::now());
        let written = (0..WAITING + 5).filter_map(|n| waiting.take(n.to_string(), now)).count();
        assert_eq!(written, 5);
        assert_eq!(waiting.take("0".to_owned(), now), None, "what waits takes more");
    }
}
