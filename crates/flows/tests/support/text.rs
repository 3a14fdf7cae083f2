//! Flows as arguments of `ovs-ofctl add-flow`.

use std::net::{Ipv4Addr, Ipv6Addr};

use openflow::{Action, Ct, CtZone, Field, Flow, FlowKey, Match, SubField};

pub fn flow(flow: &Flow) -> String {
    let actions = match flow.actions.as_slice() {
        [] => "drop".to_owned(),
        actions => list(actions),
    };
    format!("cookie={:#x},{},actions={actions}", flow.cookie, key(&flow.key()))
}

pub fn key(key: &FlowKey) -> String {
    format!("table={},priority={}{}", key.table, key.priority, matches(&key.matches))
}

fn matches(m: &Match) -> String {
    m.fields()
        .iter()
        .map(|f| {
            let name = if f.field == Field::InPortOxm { "in_port" } else { f.field.name() };
            let value = value(f.field, f.value);
            if f.mask == f.field.full_mask() {
                format!(",{name}={value}")
            } else {
                format!(",{name}={value}/{}", self::value(f.field, f.mask))
            }
        })
        .collect()
}

fn value(field: Field, v: u128) -> String {
    use Field::*;
    match field {
        EthSrc | EthDst | ArpSha | ArpTha | NdSll | NdTll => {
            let [.., a, b, c, d, e, f] = v.to_be_bytes();
            openflow::MacAddr([a, b, c, d, e, f]).to_string()
        }
        Ipv4Src | Ipv4Dst | ArpSpa | ArpTpa | TunSrc | TunDst => Ipv4Addr::from_bits(v as u32).to_string(),
        Ipv6Src | Ipv6Dst | NdTarget | TunIpv6Src | TunIpv6Dst => Ipv6Addr::from_bits(v).to_string(),
        InPortOxm | NwProto | ConjId => v.to_string(),
        _ => format!("{v:#x}"),
    }
}

fn list(actions: &[Action]) -> String {
    actions.iter().map(action).collect::<Vec<_>>().join(",")
}

fn sub(s: SubField) -> String {
    let end = s.ofs() + s.n_bits() - 1;
    format!("{}[{}..{end}]", s.field().name(), s.ofs())
}

fn action(a: &Action) -> String {
    match a {
        Action::Output(port) => format!("output:{port}"),
        Action::OutputReg { src, .. } => format!("output:{}", sub(*src)),
        Action::SetField { field, value: v, mask } => {
            let mask =
                if *mask == field.full_mask() { String::new() } else { format!("/{}", value(*field, *mask)) };
            format!("set_field:{}{mask}->{}", value(*field, *v), field.name())
        }
        Action::Move { src, dst } => format!("move:{}->{}", sub(*src), sub(*dst)),
        Action::Ct(ct) => conntrack(ct),
        Action::DecTtl => "dec_ttl".to_owned(),
        Action::Conjunction { id, clause, n_clauses } => format!("conjunction({id},{clause}/{n_clauses})"),
        Action::GotoTable(table) => format!("goto_table:{table}"),
        other => panic!("no text for {other:?}"),
    }
}

fn conntrack(ct: &Ct) -> String {
    let mut args = Vec::new();
    if ct.commit {
        args.push("commit".to_owned());
    }
    args.extend(ct.table.map(|t| format!("table={t}")));
    match ct.zone {
        CtZone::Immediate(zone) => args.push(format!("zone={zone}")),
        CtZone::Field(field) => args.push(format!("zone={}", sub(field))),
    }
    if !ct.exec.is_empty() {
        args.push(format!("exec({})", list(&ct.exec)));
    }
    format!("ct({})", args.join(","))
}
