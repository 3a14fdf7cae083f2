//! Actions.

use std::borrow::Borrow;
use std::fmt::{self, Display, Formatter};
use std::net::IpAddr;

use super::value::Hex;
use super::{TableNames, value};
use crate::{
    Action, ControllerAction, Ct, CtZone, Learn, LearnDst, LearnSpec, LearnSrc, Nat, NatKind, PacketInReason,
    SubField,
};

pub(super) const NO_NAMES: &TableNames = &TableNames::new();

/// Writes parts with commas between them.
struct List<'a, 'b> {
    f: &'a mut Formatter<'b>,
    begun: bool,
}

impl<'a, 'b> List<'a, 'b> {
    fn new(f: &'a mut Formatter<'b>) -> Self {
        List { f, begun: false }
    }

    fn next(&mut self) -> Result<&mut Formatter<'b>, fmt::Error> {
        if self.begun {
            self.f.write_str(",")?;
        }
        self.begun = true;
        Ok(self.f)
    }

    fn add(&mut self, text: impl Display) -> fmt::Result {
        write!(self.next()?, "{text}")
    }

    fn add_if(&mut self, on: bool, text: impl Display) -> fmt::Result {
        if on { self.add(text) } else { Ok(()) }
    }
}

/// Writes a list of actions; an empty one is `drop`.
pub(super) fn show_all<A: Borrow<Action>>(
    f: &mut Formatter<'_>,
    actions: impl IntoIterator<Item = A>,
    names: &TableNames,
) -> fmt::Result {
    let mut actions = actions.into_iter().peekable();
    if actions.peek().is_none() { f.write_str("drop") } else { show_list(f, actions, names) }
}

fn show_list<A: Borrow<Action>>(
    f: &mut Formatter<'_>,
    actions: impl IntoIterator<Item = A>,
    names: &TableNames,
) -> fmt::Result {
    let mut list = List::new(f);
    actions.into_iter().try_for_each(|a| show(list.next()?, a.borrow(), names))
}

fn show_nested(f: &mut Formatter<'_>, word: &str, actions: &[Action], names: &TableNames) -> fmt::Result {
    write!(f, "{word}(")?;
    show_list(f, actions, names)?;
    f.write_str(")")
}

pub(super) fn show(f: &mut Formatter<'_>, a: &Action, names: &TableNames) -> fmt::Result {
    match a {
        Action::Output(p) if p.reserved_name().is_some() => write!(f, "{p}"),
        Action::Output(p) => write!(f, "output:{p}"),
        Action::ToController { max_len } => write!(f, "CONTROLLER:{max_len}"),
        Action::Controller(c) => show_controller(f, c),
        Action::OutputReg { src, .. } => write!(f, "output:{src}"),
        Action::OutputTrunc { port, max_len } => write!(f, "output(port={port},max_len={max_len})"),
        Action::Group(g) => write!(f, "group:{g}"),
        Action::Meter(m) => write!(f, "meter:{m}"),
        Action::SetField { field, value, mask } => {
            f.write_str("set_field:")?;
            value::show(f, *field, *value, *mask)?;
            write!(f, "->{field}")
        }
        Action::Move { src, dst } => write!(f, "move:{src}->{dst}"),
        Action::Push(s) => write!(f, "push:{s}"),
        Action::Pop(s) => write!(f, "pop:{s}"),
        Action::Resubmit { port: Some(p), table: None, ct: false } => write!(f, "resubmit:{p}"),
        Action::Resubmit { port, table, ct } => {
            f.write_str("resubmit(")?;
            if let Some(p) = port {
                write!(f, "{p}")?;
            }
            f.write_str(",")?;
            if let Some(t) = table {
                names.show(f, *t)?;
            }
            f.write_str(if *ct { ",ct)" } else { ")" })
        }
        Action::Ct(ct) => show_ct(f, ct, names),
        Action::Nat(n) => show_nat(f, n),
        Action::CtClear => f.write_str("ct_clear"),
        Action::DecTtl => f.write_str("dec_ttl"),
        Action::SetQueue(q) => write!(f, "set_queue:{q}"),
        Action::PopQueue => f.write_str("pop_queue"),
        Action::Conjunction { id, clause, n_clauses } => write!(f, "conjunction({id},{clause}/{n_clauses})"),
        Action::Learn(l) => show_learn(f, l, names),
        Action::FinTimeout { idle, hard } => {
            f.write_str("fin_timeout(")?;
            let mut list = List::new(f);
            list.add_if(*idle != 0, format_args!("idle_timeout={idle}"))?;
            list.add_if(*hard != 0, format_args!("hard_timeout={hard}"))?;
            f.write_str(")")
        }
        Action::Note(bytes) => {
            f.write_str("note:")?;
            show_dotted(f, bytes)
        }
        Action::PushVlan(t) => write!(f, "push_vlan:{t:#06x}"),
        Action::PopVlan => f.write_str("pop_vlan"),
        Action::Clone(list) => show_nested(f, "clone", list, names),
        Action::Exit => f.write_str("exit"),
        Action::ClearActions => f.write_str("clear_actions"),
        Action::WriteActions(list) if list.is_empty() => f.write_str("write_actions(drop)"),
        Action::WriteActions(list) => show_nested(f, "write_actions", list, names),
        Action::WriteMetadata { value, mask: u64::MAX } => write!(f, "write_metadata:{value:#x}"),
        Action::WriteMetadata { value, mask } => write!(f, "write_metadata:{value:#x}/{mask:#x}"),
        Action::GotoTable(t) => {
            f.write_str("goto_table:")?;
            names.show(f, *t)
        }
        Action::Unknown(bytes) => {
            f.write_str("unknown(")?;
            bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
            f.write_str(")")
        }
    }
}

fn show_dotted(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for (i, b) in bytes.iter().enumerate() {
        write!(f, "{}{b:02x}", if i > 0 { "." } else { "" })?;
    }
    Ok(())
}

/// The word for a reason in a controller action.
pub(super) const REASONS: [(PacketInReason, &str); 7] = [
    (PacketInReason::NoMatch, "no_match"),
    (PacketInReason::Action, "action"),
    (PacketInReason::InvalidTtl, "invalid_ttl"),
    (PacketInReason::ActionSet, "action_set"),
    (PacketInReason::Group, "group"),
    (PacketInReason::PacketOut, "packet_out"),
    (PacketInReason::ImplicitMiss, "implicit_miss"),
];

impl Display for PacketInReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match REASONS.iter().find(|(r, _)| r == self) {
            Some((_, word)) => f.write_str(word),
            None => write!(f, "{}", self.number()),
        }
    }
}

fn show_controller(f: &mut Formatter<'_>, c: &ControllerAction) -> fmt::Result {
    if *c == (ControllerAction { max_len: c.max_len, ..ControllerAction::default() }) {
        return write!(f, "CONTROLLER:{}", c.max_len);
    }
    f.write_str("controller(")?;
    let mut list = List::new(f);
    list.add_if(c.reason != PacketInReason::Action, format_args!("reason={}", c.reason))?;
    list.add_if(c.max_len != 0xffff, format_args!("max_len={}", c.max_len))?;
    list.add_if(c.controller_id != 0, format_args!("id={}", c.controller_id))?;
    if !c.userdata.is_empty() {
        let f = list.next()?;
        f.write_str("userdata=")?;
        show_dotted(f, &c.userdata)?;
    }
    list.add_if(c.pause, "pause")?;
    if let Some(m) = c.meter_id {
        list.add(format_args!("meter_id={m}"))?;
    }
    f.write_str(")")
}

fn show_ct(f: &mut Formatter<'_>, ct: &Ct, names: &TableNames) -> fmt::Result {
    f.write_str("ct(")?;
    let mut list = List::new(f);
    list.add_if(ct.commit, "commit")?;
    list.add_if(ct.force, "force")?;
    if let Some(t) = ct.table {
        let f = list.next()?;
        f.write_str("table=")?;
        names.show(f, t)?;
    }
    match ct.zone {
        CtZone::Immediate(0) => {}
        CtZone::Immediate(z) => list.add(format_args!("zone={z}"))?,
        CtZone::Field(s) => list.add(format_args!("zone={s}"))?,
    }
    if let Some(nat) = &ct.nat {
        show_nat(list.next()?, nat)?;
    }
    if !ct.exec.is_empty() {
        show_nested(list.next()?, "exec", &ct.exec, names)?;
    }
    match ct.alg {
        0 => {}
        21 => list.add("alg=ftp")?,
        69 => list.add("alg=tftp")?,
        n => list.add(format_args!("alg={n}"))?,
    }
    f.write_str(")")
}

fn show_nat(f: &mut Formatter<'_>, nat: &Nat) -> fmt::Result {
    let Some(kind) = nat.kind else {
        return f.write_str("nat");
    };
    f.write_str(if kind == NatKind::Src { "nat(src" } else { "nat(dst" })?;
    if nat.addrs.is_some() || nat.ports.is_some() {
        f.write_str("=")?;
    }
    let bracket = nat.ports.is_some();
    let addr = |f: &mut Formatter<'_>, ip: IpAddr| match ip {
        IpAddr::V6(a) if bracket => write!(f, "[{a}]"),
        a => write!(f, "{a}"),
    };
    if let Some((first, last)) = nat.addrs {
        addr(f, first)?;
        if last != first {
            f.write_str("-")?;
            addr(f, last)?;
        }
    }
    if let Some((first, last)) = nat.ports {
        write!(f, ":{first}")?;
        if last != first {
            write!(f, "-{last}")?;
        }
    }
    for (on, word) in [(nat.persistent, "persistent"), (nat.hash, "hash"), (nat.random, "random")] {
        if on {
            write!(f, ",{word}")?;
        }
    }
    f.write_str(")")
}

fn show_learn(f: &mut Formatter<'_>, l: &Learn, names: &TableNames) -> fmt::Result {
    f.write_str("learn(table=")?;
    names.show(f, l.table)?;
    for (word, n) in [
        ("idle_timeout", l.idle_timeout),
        ("hard_timeout", l.hard_timeout),
        ("fin_idle_timeout", l.fin_idle_timeout),
        ("fin_hard_timeout", l.fin_hard_timeout),
    ] {
        if n != 0 {
            write!(f, ",{word}={n}")?;
        }
    }
    if l.priority != crate::Flow::DEFAULT_PRIORITY {
        write!(f, ",priority={}", l.priority)?;
    }
    for (on, word) in [(l.send_flow_removed, "send_flow_rem"), (l.delete_learned, "delete_learned")] {
        if on {
            write!(f, ",{word}")?;
        }
    }
    if l.cookie != 0 {
        write!(f, ",cookie={:#x}", l.cookie)?;
    }
    if l.limit != 0 {
        write!(f, ",limit={}", l.limit)?;
    }
    if let Some(r) = l.result {
        write!(f, ",result_dst={r}")?;
    }
    for spec in &l.specs {
        f.write_str(",")?;
        show_spec(f, spec)?;
    }
    f.write_str(")")
}

fn show_spec(f: &mut Formatter<'_>, spec: &LearnSpec) -> fmt::Result {
    match (spec.dst, spec.src) {
        (LearnDst::Match(d), LearnSrc::Immediate(v)) if d == SubField::whole(d.field()) => {
            write!(f, "{}=", d.field())?;
            value::show(f, d.field(), v, d.field().full_mask())
        }
        (LearnDst::Match(d), LearnSrc::Immediate(v)) => write!(f, "{d}={}", Hex(v)),
        (LearnDst::Match(d), LearnSrc::Field(s)) if d == s => write!(f, "{d}"),
        (LearnDst::Match(d), LearnSrc::Field(s)) => write!(f, "{d}={s}"),
        (LearnDst::Load(d), LearnSrc::Immediate(v)) => write!(f, "load:{}->{d}", Hex(v)),
        (LearnDst::Load(d), LearnSrc::Field(s)) => write!(f, "load:{s}->{d}"),
        (LearnDst::Output, LearnSrc::Field(s)) => write!(f, "output:{s}"),
        (LearnDst::Output, LearnSrc::Immediate(v)) => write!(f, "output:{v}"),
    }
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        show(f, self, NO_NAMES)
    }
}

impl Display for Nat {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        show_nat(f, self)
    }
}
