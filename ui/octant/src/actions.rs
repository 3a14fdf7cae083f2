//! What the buttons of the Traceflow page do.

use std::net::IpAddr;

use antrea_ui_model::trace::TraceRow;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Map, Value, json};

use crate::{
    components::{action, choice, text_field},
    pages::is_name,
};

const ADD: &str = "traceflow/addTf";
const ADD_LIVE: &str = "traceflow/addLiveTf";
const SHOW: &str = "traceflow/showGraphAction";
const AGAIN: &str = "traceflow/runTraceAgain";

/// Names of all actions.
pub(crate) const NAMES: [&str; 4] = [ADD, ADD_LIVE, SHOW, AGAIN];

/// Traces that can be chosen of.
const MAX_CHOICES: usize = 100;

/// Octets of a form's field.
const MAX_FIELD: usize = 253;

/// Seconds for which traffic can be waited for.
const TIMEOUTS: std::ops::RangeInclusive<u32> = 1..=300;

const POD: &str = "Pod";
const SERVICE: &str = "Service";
const IP: &str = "IP";

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// A new trace with this specification.
    Create(Box<Value>),
    /// The path of this trace.
    Show(String),
    /// The last trace anew.
    Again,
}

/// What of a form cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ActionError {
    #[error("there is no action {0:?}")]
    Unknown(String),
    #[error("payload: {0}")]
    Payload(String),
    #[error("{field}: {problem}")]
    Field { field: &'static str, problem: String },
}

fn wrong(field: &'static str, problem: impl Into<String>) -> ActionError {
    ActionError::Field { field, problem: problem.into() }
}

/// The buttons with their forms.
pub(crate) fn forms(rows: &[TraceRow], chosen: Option<&str>) -> Vec<Value> {
    let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let packet = |types: &[&str]| {
        vec![
            choice("Destination type", "destinationType", &list(types)),
            text_field("Destination Namespace", "destinationNamespace", "of a Pod or Service"),
            text_field("Destination", "destination", "name or address"),
            choice("Protocol", "protocol", &list(&["TCP", "UDP", "ICMP"])),
            text_field("Destination port", "destinationPort", "80"),
        ]
    };
    let source = || {
        vec![
            text_field("Source Namespace", "sourceNamespace", "default"),
            text_field("Source Pod", "sourcePod", "name"),
        ]
    };
    let mut live = source();
    live.push(text_field("Source address", "sourceIP", "where it is no Pod"));
    live.extend(packet(&[POD, SERVICE, IP]));
    live.push(choice("Only dropped packets", "droppedOnly", &list(&["no", "yes"])));
    live.push(text_field("Seconds to wait", "timeout", "20"));
    let mut names: Vec<String> = rows.iter().take(MAX_CHOICES).map(|row| row.name.clone()).collect();
    names.sort_by_key(|name| Some(name.as_str()) != chosen);
    vec![
        action("Start New Trace", ADD, [source(), packet(&[POD, SERVICE, IP])].concat()),
        action("Start New Live-traffic Trace", ADD_LIVE, live),
        action("Generate Trace Graph", SHOW, vec![choice("Trace", "name", &names)]),
        action("Run Trace Again", AGAIN, Vec::new()),
    ]
}

/// Reads an action's form.
pub(crate) fn read(name: &str, payload: &[u8]) -> Result<Action, ActionError> {
    if !NAMES.contains(&name) {
        return Err(ActionError::Unknown(name.chars().take(MAX_FIELD).collect()));
    }
    let payload: Map<String, Value> =
        serde_json::from_slice(payload).map_err(|error| ActionError::Payload(error.to_string()))?;
    let form = Form(payload);
    match name {
        SHOW => Ok(Action::Show(form.name("name")?)),
        AGAIN => Ok(Action::Again),
        ADD_LIVE => form.live(),
        _ => form.trace(),
    }
}

/// The name of a trace with this specification.
pub(crate) fn trace_name(spec: &Value, now: Timestamp) -> String {
    let part = |end: &str| {
        let end = &spec[end];
        let text = ["pod", "service", "ip"].into_iter().find_map(|key| end[key].as_str()).unwrap_or("any");
        let mapped = text.chars().take(100).map(|letter| match letter {
            'a'..='z' | '0'..='9' | '-' => letter,
            _ => '-',
        });
        mapped.collect::<String>().trim_matches('-').to_owned()
    };
    let live = if spec["liveTraffic"] == true { "live-" } else { "" };
    let time = now.to_zoned(TimeZone::UTC).strftime("%Y%m%d-%H%M%S").to_string();
    format!("{live}{}-{}-{time}", part("source"), part("destination"))
}

struct Form(Map<String, Value>);

impl Form {
    /// A field; nothing where it was left empty. A choice arrives as a list.
    fn text(&self, field: &'static str) -> Result<Option<String>, ActionError> {
        let value = match self.0.get(field) {
            Some(Value::Array(list)) => match list.as_slice() {
                [] => None,
                [one] => Some(one),
                _ => return Err(wrong(field, "more than one is chosen")),
            },
            other => other,
        };
        let text = match value {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(text)) => text.trim().to_owned(),
            Some(Value::Number(number)) => number.to_string(),
            Some(_) => return Err(wrong(field, "is no text")),
        };
        match text.len() {
            0 => Ok(None),
            1..=MAX_FIELD => Ok(Some(text)),
            _ => Err(wrong(field, format!("is longer than {MAX_FIELD} octets"))),
        }
    }

    fn required(&self, field: &'static str) -> Result<String, ActionError> {
        self.text(field)?.ok_or_else(|| wrong(field, "is missing"))
    }

    fn name(&self, field: &'static str) -> Result<String, ActionError> {
        checked(field, self.required(field)?)
    }

    fn optional_name(&self, field: &'static str) -> Result<Option<String>, ActionError> {
        self.text(field)?.map(|text| checked(field, text)).transpose()
    }

    fn number<T: std::str::FromStr>(&self, field: &'static str) -> Result<Option<T>, ActionError> {
        let parse =
            |text: String| text.parse().map_err(|_| wrong(field, format!("{text:?} is no valid number")));
        self.text(field)?.map(parse).transpose()
    }

    fn address(&self, field: &'static str) -> Result<Option<IpAddr>, ActionError> {
        let parse =
            |text: String| text.parse().map_err(|_| wrong(field, format!("{text:?} is no IP address")));
        self.text(field)?.map(parse).transpose()
    }

    fn trace(&self) -> Result<Action, ActionError> {
        let source = json!({"namespace": self.name("sourceNamespace")?, "pod": self.name("sourcePod")?});
        let (destination, address) = self.destination()?;
        let destination = destination.ok_or_else(|| wrong("destination", "is missing"))?;
        let packet = self.packet(address, true)?;
        Ok(Action::Create(Box::new(json!({"source": source, "destination": destination, "packet": packet}))))
    }

    /// Either end may be left open, but not both: on one node at least somebody has to look.
    fn live(&self) -> Result<Action, ActionError> {
        let source_address = self.address("sourceIP")?;
        let source = match (self.optional_name("sourcePod")?, source_address) {
            (Some(_), Some(_)) => return Err(wrong("sourceIP", "is set beside sourcePod")),
            (Some(pod), None) => json!({"namespace": self.name("sourceNamespace")?, "pod": pod}),
            (None, Some(address)) => json!({"ip": address}),
            (None, None) => json!({}),
        };
        let (destination, address) = self.destination()?;
        let destination = destination.unwrap_or_else(|| json!({}));
        if source.get("pod").is_none() && destination.get("pod").is_none() {
            return Err(wrong("sourcePod", "is missing, and the destination is no Pod"));
        }
        if let (Some(from), Some(to)) = (source_address, address)
            && from.is_ipv4() != to.is_ipv4()
        {
            return Err(wrong("sourceIP", "is of another family than destination"));
        }
        let dropped_only = match self.text("droppedOnly")?.as_deref() {
            None | Some("no") => false,
            Some("yes") => true,
            Some(other) => return Err(wrong("droppedOnly", format!("{other:?} is neither yes nor no"))),
        };
        let packet = self.packet(address.or(source_address), false)?;
        let mut spec = json!({"source": source, "destination": destination, "packet": packet,
            "liveTraffic": true, "droppedOnly": dropped_only});
        if let Some(seconds) = self.number::<u32>("timeout")? {
            if !TIMEOUTS.contains(&seconds) {
                let (from, to) = (TIMEOUTS.start(), TIMEOUTS.end());
                return Err(wrong("timeout", format!("{seconds} is not within {from} and {to} seconds")));
            }
            spec["timeout"] = seconds.into();
        }
        Ok(Action::Create(Box::new(spec)))
    }

    /// The destination, and its address if it is one.
    fn destination(&self) -> Result<(Option<Value>, Option<IpAddr>), ActionError> {
        let Some(name) = self.text("destination")? else { return Ok((None, None)) };
        let key = match self.text("destinationType")?.as_deref() {
            None | Some(POD) => "pod",
            Some(SERVICE) => "service",
            Some(IP) => {
                let address = self.address("destination")?;
                return Ok((Some(json!({"ip": address})), address));
            }
            Some(other) => {
                return Err(wrong("destinationType", format!("{other:?} is none of {POD}, {SERVICE}, {IP}")));
            }
        };
        let name = checked("destination", name)?;
        Ok((Some(json!({"namespace": self.name("destinationNamespace")?, key: name})), None))
    }

    /// A packet of the family of `address`; of IPv4 where no address tells. `sent`: we make it, so it needs all it has.
    fn packet(&self, address: Option<IpAddr>, sent: bool) -> Result<Value, ActionError> {
        let v6 = address.is_some_and(|address| address.is_ipv6());
        let port: Option<u16> = self.number("destinationPort")?;
        if port == Some(0) {
            return Err(wrong("destinationPort", "0 is no port"));
        }
        let mut header = Map::new();
        if let Some(port) = port {
            header.insert("dstPort".to_owned(), port.into());
        }
        let protocol = self.text("protocol")?;
        let (number, key) = match protocol.as_deref() {
            None | Some("TCP") => (6, "tcp"),
            Some("UDP") => (17, "udp"),
            Some("ICMP") => (if v6 { 58 } else { 1 }, "icmp"),
            Some(other) => return Err(wrong("protocol", format!("{other:?} is none of TCP, UDP, ICMP"))),
        };
        match key {
            "icmp" if port.is_some() => return Err(wrong("destinationPort", "ICMP has no ports")),
            "udp" | "tcp" if sent && port.is_none() => return Err(wrong("destinationPort", "is missing")),
            // SYN
            "tcp" if sent => drop(header.insert("flags".to_owned(), 2.into())),
            _ => {}
        }
        let transport = json!({key: header});
        Ok(if v6 {
            json!({"ipv6Header": {"nextHeader": number}, "transportHeader": transport})
        } else {
            json!({"ipHeader": {"protocol": number}, "transportHeader": transport})
        })
    }
}

fn checked(field: &'static str, name: String) -> Result<String, ActionError> {
    if is_name(&name) { Ok(name) } else { Err(wrong(field, format!("{name:?} is no name in Kubernetes"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, form: Value) -> Result<Value, String> {
        match read(name, form.to_string().as_bytes()).map_err(|error| error.to_string())? {
            Action::Create(spec) => Ok(*spec),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn forms_become_specifications() {
        let form = json!({"action": ADD, "sourceNamespace": "shop", "sourcePod": " web ", "destinationType": ["Service"],
            "destinationNamespace": "shop", "destination": "db", "protocol": ["TCP"], "destinationPort": 5432});
        let expected = json!({"source": {"namespace": "shop", "pod": "web"},
            "destination": {"namespace": "shop", "service": "db"},
            "packet": {"ipHeader": {"protocol": 6}, "transportHeader": {"tcp": {"dstPort": 5432, "flags": 2}}}});
        assert_eq!(spec(ADD, form), Ok(expected));
        let form = json!({"sourceNamespace": "shop", "sourcePod": "web", "destinationType": ["IP"],
            "destination": "2001:db8::1", "protocol": ["ICMP"]});
        let made = spec(ADD, form).unwrap();
        assert_eq!(
            made["packet"],
            json!({"ipv6Header": {"nextHeader": 58}, "transportHeader": {"icmp": {}}})
        );
        let form = json!({"sourceIP": "192.0.2.7", "destination": "web", "destinationNamespace": "shop",
            "droppedOnly": ["yes"], "timeout": "30"});
        let made = spec(ADD_LIVE, form).unwrap();
        assert_eq!(
            (&made["timeout"], &made["droppedOnly"], &made["liveTraffic"]),
            (&json!(30), &json!(true), &json!(true))
        );
        assert_eq!(made["source"], json!({"ip": "192.0.2.7"}));
        let now = "2026-11-28T12:00:05Z".parse().unwrap();
        assert_eq!(trace_name(&made, now), "live-192-0-2-7-web-20261128-120005");
        assert!(is_name(&trace_name(&json!({"source": {}, "destination": {"ip": "::1"}}), now)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = json!({"sourceNamespace": "shop", "sourcePod": "web", "destinationNamespace": "shop",
            "destination": "db", "destinationPort": "80"});
        assert!(spec(ADD, good.clone()).is_ok());
        let live = json!({"destination": "web", "destinationNamespace": "shop"});
        assert!(spec(ADD_LIVE, live.clone()).is_ok());
        for (action, base, field, value) in [
            (ADD, &good, "sourceNamespace", json!("")),
            (ADD, &good, "sourcePod", json!("../x")),
            (ADD, &good, "sourcePod", json!(["a", "b"])),
            (ADD, &good, "sourcePod", json!({"a": 1})),
            (ADD, &good, "sourcePod", json!("a".repeat(300))),
            (ADD, &good, "destination", json!(null)),
            (ADD, &good, "destinationNamespace", json!([])),
            (ADD, &good, "destinationType", json!("Node")),
            (ADD, &good, "destinationPort", json!("65536")),
            (ADD, &good, "destinationPort", json!(0)),
            (ADD, &good, "destinationPort", json!(null)),
            (ADD, &good, "protocol", json!("SCTP")),
            (ADD_LIVE, &live, "sourceIP", json!("300.1.1.1")),
            (ADD_LIVE, &live, "timeout", json!(301)),
            (ADD_LIVE, &live, "timeout", json!(-1)),
            (ADD_LIVE, &live, "droppedOnly", json!("maybe")),
            (SHOW, &json!({}), "name", json!("a/b")),
        ] {
            let mut form = base.clone();
            form[field] = value;
            let error = spec(action, form).unwrap_err();
            assert!(error.starts_with(field), "{field}: {error}");
        }
        assert!(spec(ADD_LIVE, json!({})).unwrap_err().starts_with("sourcePod"));
        for (name, payload) in [("traceflow/other", "{}"), (ADD, ""), (ADD, "[]"), (ADD, "{\"a\":")] {
            assert!(read(name, payload.as_bytes()).is_err(), "{name} {payload}");
        }
    }
}
