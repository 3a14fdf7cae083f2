//! Actions.

use std::net::IpAddr;
use std::str::FromStr;

use super::show_action::{NO_NAMES, REASONS};
use super::token::{Token, Tokens};
use super::{TableNames, parse_match, value};
use crate::{
    Action, ControllerAction, Ct, CtZone, Field, Flow, Learn, LearnDst, LearnSpec, LearnSrc, Nat, NatKind,
    PacketInReason, ParseError, PortNo, SubField,
};

/// Deepest nesting that is read; more than any switch takes.
const MAX_DEPTH: usize = 8;

/// Reads a list of actions; `drop` stands for none.
pub(super) fn parse_all(text: &str, names: &TableNames) -> Result<Vec<Action>, ParseError> {
    parse_nested(text, names, 0)
}

fn parse_nested(text: &str, names: &TableNames, depth: usize) -> Result<Vec<Action>, ParseError> {
    if depth > MAX_DEPTH {
        return Err(ParseError::new("actions", text, "nested too deep"));
    }
    let mut out = Vec::new();
    let mut dropped = false;
    for t in Tokens::new(text) {
        let t = t?;
        if t.text.eq_ignore_ascii_case("drop") {
            dropped = true;
        } else {
            out.push(parse_one(&t, names, depth)?);
        }
    }
    if dropped && !out.is_empty() {
        return Err(ParseError::new("actions", text, "drop cannot be combined"));
    }
    Ok(out)
}

fn parse_one(t: &Token<'_>, names: &TableNames, depth: usize) -> Result<Action, ParseError> {
    let fail = |problem: &str| ParseError::new("action", t.text, problem);
    let Some(v) = t.value else {
        return bare(t);
    };
    Ok(match t.key.to_ascii_lowercase().as_str() {
        "output" if t.text.contains('(') => {
            let (mut port, mut max_len) = (None, None);
            for t in Tokens::new(v) {
                let t = t?;
                match t.key {
                    "port" => port = Some(t.value("port")?.parse()?),
                    "max_len" => max_len = Some(t.u32("max_len")?),
                    _ => return Err(fail("needs port and max_len")),
                }
            }
            let port: PortNo = port.ok_or_else(|| fail("needs port"))?;
            if port.to_u16().is_none() {
                return Err(fail("needs a 16-bit port"));
            }
            Action::OutputTrunc { port, max_len: max_len.ok_or_else(|| fail("needs max_len"))? }
        }
        "output" => match v.parse::<PortNo>() {
            Ok(p) => to_port(p),
            Err(_) => match v.parse::<SubField>()? {
                s if s.n_bits() <= 64 => Action::output_reg(s),
                _ => return Err(fail("at most 64 bits")),
            },
        },
        "controller" => parse_controller(t, v)?,
        "group" => Action::Group(t.u32("group")?),
        "meter" => Action::Meter(t.u32("meter")?),
        "set_queue" => Action::SetQueue(t.u32("set_queue")?),
        "set_field" => {
            let (value, name) = v.split_once("->").ok_or_else(|| fail("needs ->"))?;
            let field: Field = name.parse()?;
            let (value, mask) = value::parse(field, value)?;
            Action::SetField { field, value, mask }
        }
        "load" => {
            let (value, dst) = v.split_once("->").ok_or_else(|| fail("needs ->"))?;
            let dst: SubField = dst.parse()?;
            dst.load(value::number(value, dst.max_value())?)
        }
        "move" => {
            let (src, dst) = v.split_once("->").ok_or_else(|| fail("needs ->"))?;
            Action::move_bits(src.parse()?, dst.parse()?).ok_or_else(|| fail("sides differ in width"))?
        }
        "push" => Action::Push(v.parse()?),
        "pop" => Action::Pop(v.parse()?),
        "resubmit" => parse_resubmit(t, v, names)?,
        "ct" => parse_ct(v, names, depth)?.into(),
        "nat" => Action::Nat(parse_nat(v)?),
        "conjunction" => {
            let mut parts = v.split(',').flat_map(|p| p.split('/')).map(str::trim);
            let mut next = |max: u128| {
                parts
                    .next()
                    .ok_or_else(|| fail("needs id, clause / clauses"))
                    .and_then(|p| value::number(p, max))
            };
            let (id, clause, n) = (next(u32::MAX.into())? as u32, next(64)? as u8, next(64)? as u8);
            if clause == 0 || clause > n || n < 2 {
                return Err(fail("clause must be 1 to the number of clauses, which is 2 to 64"));
            }
            Action::Conjunction { id, clause, n_clauses: n }
        }
        "learn" => parse_learn(v, names)?.into(),
        "fin_timeout" => {
            let (mut idle, mut hard) = (0, 0);
            for t in Tokens::new(v) {
                let t = t?;
                match t.key {
                    "idle_timeout" => idle = t.u16("idle_timeout")?,
                    "hard_timeout" => hard = t.u16("hard_timeout")?,
                    _ => return Err(fail("needs idle_timeout or hard_timeout")),
                }
            }
            Action::FinTimeout { idle, hard }
        }
        "note" => Action::note(&dotted(v)?),
        "push_vlan" => Action::PushVlan(t.u16("push_vlan")?),
        "clone" => Action::Clone(parse_nested(v, names, depth + 1)?),
        "write_actions" => Action::WriteActions(parse_nested(v, names, depth + 1)?),
        "write_metadata" => {
            let (value, mask) = value::parse(Field::Metadata, v)?;
            Action::WriteMetadata { value: value as u64, mask: mask as u64 }
        }
        "goto_table" => Action::GotoTable(names.parse(v)?),
        "unknown" => {
            let bytes = parse_match::hex_bytes(v)?;
            let stated = match bytes.get(2..4) {
                Some(&[a, b]) => usize::from(u16::from_be_bytes([a, b])),
                _ => 0,
            };
            if bytes.len() < 8 || bytes.len() % 8 != 0 || stated != bytes.len() {
                return Err(fail("must be one whole action"));
            }
            Action::Unknown(bytes.into())
        }
        _ => return Err(fail("unknown action")),
    })
}

fn to_port(p: PortNo) -> Action {
    if p == PortNo::CONTROLLER { Action::ToController { max_len: 0xffff } } else { Action::Output(p) }
}

fn bare(t: &Token<'_>) -> Result<Action, ParseError> {
    Ok(match t.key.to_ascii_lowercase().as_str() {
        "ct" => Ct::default().into(),
        "nat" => Action::Nat(Nat::default()),
        "ct_clear" => Action::CtClear,
        "dec_ttl" => Action::DecTtl,
        "pop_queue" => Action::PopQueue,
        "pop_vlan" | "strip_vlan" => Action::PopVlan,
        "exit" => Action::Exit,
        "clear_actions" => Action::ClearActions,
        "controller" => Action::ToController { max_len: 0xffff },
        _ => match t.key.parse::<PortNo>() {
            Ok(p) => to_port(p),
            Err(_) => return Err(ParseError::new("action", t.text, "unknown action")),
        },
    })
}

fn dotted(text: &str) -> Result<Vec<u8>, ParseError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    parse_match::hex_bytes(&text.replace('.', ""))
}

fn parse_controller(t: &Token<'_>, v: &str) -> Result<Action, ParseError> {
    if !t.text.contains('(') {
        return Ok(Action::ToController { max_len: t.u16("controller")? });
    }
    let mut c = ControllerAction::default();
    for t in Tokens::new(v) {
        let t = t?;
        match t.key {
            "max_len" => c.max_len = t.u16("max_len")?,
            "id" => c.controller_id = t.u16("id")?,
            "reason" => {
                let word = t.value("reason")?;
                c.reason = match REASONS.iter().find(|(_, w)| *w == word) {
                    Some((r, _)) => *r,
                    None => PacketInReason::from_number(value::number(word, 255)? as u8),
                };
            }
            "userdata" => c.userdata = dotted(t.value("userdata")?)?,
            "pause" => c.pause = true,
            "meter_id" => c.meter_id = Some(t.u32("meter_id")?),
            _ => return Err(ParseError::new("controller", t.text, "unknown argument")),
        }
    }
    let plain = ControllerAction { max_len: c.max_len, ..ControllerAction::default() };
    Ok(if c == plain { Action::ToController { max_len: c.max_len } } else { c.into() })
}

fn parse_resubmit(t: &Token<'_>, v: &str, names: &TableNames) -> Result<Action, ParseError> {
    let mut parts = v.split(',').map(str::trim);
    let port = match parts.next() {
        None | Some("") => None,
        Some(p) => Some(p.parse::<PortNo>()?).filter(|p| *p != PortNo::IN_PORT),
    };
    let table = match parts.next() {
        None | Some("" | "255") => None,
        Some(n) => Some(names.parse(n)?),
    };
    let ct = match (parts.next(), parts.next()) {
        (None, _) => false,
        (Some("ct"), None) => true,
        _ => return Err(ParseError::new("action", t.text, "needs (port,table) or (port,table,ct)")),
    };
    if port.is_some_and(|p| p.to_u16().is_none()) {
        return Err(ParseError::new("action", t.text, "needs a 16-bit port"));
    }
    Ok(Action::Resubmit { port, table, ct })
}

fn parse_ct(v: &str, names: &TableNames, depth: usize) -> Result<Ct, ParseError> {
    let mut ct = Ct::default();
    for t in Tokens::new(v) {
        let t = t?;
        match t.key {
            "commit" => ct.commit = true,
            "force" => ct.force = true,
            "table" => ct.table = Some(names.parse(t.value("table")?)?).filter(|n| *n != 0xff),
            "zone" => {
                let z = t.value("zone")?;
                ct.zone = match value::number(z, 0xffff) {
                    Ok(n) => CtZone::Immediate(n as u16),
                    Err(_) => {
                        let s: SubField = z.parse()?;
                        if s.n_bits() != 16 {
                            return Err(ParseError::new("ct zone", z, "must be 16 bits"));
                        }
                        CtZone::Field(s)
                    }
                };
            }
            "alg" => {
                ct.alg = match t.value("alg")? {
                    "ftp" => 21,
                    "tftp" => 69,
                    _ => t.u16("alg")?,
                };
            }
            "nat" => ct.nat = Some(t.value.map_or(Ok(Nat::default()), parse_nat)?),
            "exec" => ct.exec = parse_nested(t.value("exec")?, names, depth + 1)?,
            _ => return Err(ParseError::new("ct", t.text, "unknown argument")),
        }
    }
    // A translation that begins the list is the connection's.
    if ct.nat.is_none()
        && let Some(Action::Nat(n)) = ct.exec.first().cloned()
    {
        ct.nat = Some(n);
        ct.exec.remove(0);
    }
    Ok(ct)
}

fn parse_nat(v: &str) -> Result<Nat, ParseError> {
    let mut nat = Nat::default();
    for t in Tokens::new(v) {
        let t = t?;
        match t.key {
            "src" | "dst" => {
                nat.kind = Some(if t.key == "src" { NatKind::Src } else { NatKind::Dst });
                if let Some(r) = t.value {
                    (nat.addrs, nat.ports) = nat_range(r)?;
                }
            }
            "persistent" => nat.persistent = true,
            "hash" => nat.hash = true,
            "random" => nat.random = true,
            _ => return Err(ParseError::new("nat", t.text, "unknown argument")),
        }
    }
    if nat.kind.is_none() && nat != Nat::default() {
        return Err(ParseError::new("nat", v, "needs src or dst"));
    }
    Ok(nat)
}

type Range<T> = Option<(T, T)>;

/// `first[-last][:port[-port]]`, IPv6 in brackets if there are ports.
fn nat_range(r: &str) -> Result<(Range<IpAddr>, Range<u16>), ParseError> {
    let bad = |problem: &str| ParseError::new("nat range", r, problem);
    let bracketed = r.starts_with('[');
    let (addrs, ports) = match r.rfind(']') {
        Some(at) => {
            let (a, tail) = r.split_at(at + 1);
            let tail = (!tail.is_empty()).then_some(tail);
            (a, tail.map(|t| t.strip_prefix(':').ok_or_else(|| bad("expected a port"))).transpose()?)
        }
        None if r.matches(':').count() == 1 => {
            let (a, p) = r.split_once(':').ok_or_else(|| bad("expected a port"))?;
            (a, Some(p))
        }
        None => (r, None),
    };
    let ip = |t: &str| -> Result<IpAddr, ParseError> {
        let t = if bracketed { t.trim_start_matches('[').trim_end_matches(']') } else { t };
        t.parse().map_err(|_| bad("not an address"))
    };
    let addrs = match addrs.split_once('-') {
        _ if addrs.is_empty() => None,
        Some((a, b)) => Some((ip(a)?, ip(b)?)),
        None => Some((ip(addrs)?, ip(addrs)?)),
    };
    if addrs.is_some_and(|(a, b)| a.is_ipv4() != b.is_ipv4()) {
        return Err(bad("addresses differ in family"));
    }
    let port = |t: &str| t.parse::<u16>().map_err(|_| bad("not a port"));
    let ports = match ports {
        None => None,
        Some(p) => Some(match p.split_once('-') {
            Some((a, b)) => (port(a)?, port(b)?),
            None => (port(p)?, port(p)?),
        }),
    };
    Ok((addrs, ports))
}

fn parse_learn(v: &str, names: &TableNames) -> Result<Learn, ParseError> {
    let mut l = Learn::new(1, Flow::DEFAULT_PRIORITY);
    for t in Tokens::new(v) {
        let t = t?;
        let fail = |problem: &str| ParseError::new("learn", t.text, problem);
        match t.key {
            "table" => l.table = names.parse(t.value("table")?)?,
            "idle_timeout" => l.idle_timeout = t.u16("idle_timeout")?,
            "hard_timeout" => l.hard_timeout = t.u16("hard_timeout")?,
            "fin_idle_timeout" => l.fin_idle_timeout = t.u16("fin_idle_timeout")?,
            "fin_hard_timeout" => l.fin_hard_timeout = t.u16("fin_hard_timeout")?,
            "priority" => l.priority = t.u16("priority")?,
            "cookie" => l.cookie = t.number("cookie", u64::MAX.into())? as u64,
            "limit" => l.limit = t.u32("limit")?,
            "send_flow_rem" => l.send_flow_removed = true,
            "delete_learned" => l.delete_learned = true,
            "result_dst" => {
                let s: SubField = t.value("result_dst")?.parse()?;
                if s.n_bits() != 1 {
                    return Err(fail("must be one bit"));
                }
                l.result = Some(s);
            }
            "load" => {
                let (src, dst) = t.value("load")?.split_once("->").ok_or_else(|| fail("needs ->"))?;
                let dst: SubField = dst.parse()?;
                let src = source(src, dst)?;
                l.specs.push(LearnSpec { src, dst: LearnDst::Load(dst) });
            }
            "output" => {
                let src = LearnSrc::Field(t.value("output")?.parse()?);
                l.specs.push(LearnSpec { src, dst: LearnDst::Output });
            }
            key => {
                // `field=value`, `field[..]=field[..]`, `field[..]`.
                let dst: SubField = key.parse()?;
                let src = match t.value {
                    None => LearnSrc::Field(dst),
                    Some(v) if dst == SubField::whole(dst.field()) && !key.contains('[') => {
                        match value::parse(dst.field(), v) {
                            Ok((value, _)) => LearnSrc::Immediate(value),
                            Err(_) => source(v, dst)?,
                        }
                    }
                    Some(v) => source(v, dst)?,
                };
                l.specs.push(LearnSpec { src, dst: LearnDst::Match(dst) });
            }
        }
    }
    Ok(l)
}

/// A constant or a sub-field as wide as `dst`.
fn source(text: &str, dst: SubField) -> Result<LearnSrc, ParseError> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(LearnSrc::Immediate(value::number(text, dst.max_value())?));
    }
    let src: SubField = text.parse()?;
    if src.n_bits() != dst.n_bits() {
        return Err(ParseError::new("learn", text, "sides differ in width"));
    }
    Ok(LearnSrc::Field(src))
}

impl FromStr for Action {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let mut all = parse_all(s, NO_NAMES)?;
        match (all.pop(), all.is_empty()) {
            (Some(a), true) => Ok(a),
            _ => Err(ParseError::new("action", s, "must be exactly one action")),
        }
    }
}

impl Action {}
