//! The text form, ovs-ofctl's: what `ovs-ofctl add-flow` reads and `dump-flows` prints.

use std::fmt::{self, Display, Formatter, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::field::Format;
use crate::{
    Action, BandType, BucketPos, ControllerAction, Ct, CtState, CtZone, ErrorMsg, Field, Flow, FlowCommand,
    FlowFlags, FlowKey, FlowMod, Group, GroupCommand, GroupType, LearnDst, LearnSpec, LearnSrc, MacAddr,
    Match, MatchField, Message, Meter, MeterFlags, Nat, NatKind, PacketInReason, PortNo, SubField,
};

/// Ethernet type, IP protocol and the word for both.
const PROTOCOLS: [(u16, Option<u8>, &str); 14] = [
    (0x0800, Some(6), "tcp"),
    (0x0800, Some(17), "udp"),
    (0x0800, Some(132), "sctp"),
    (0x0800, Some(1), "icmp"),
    (0x86dd, Some(6), "tcp6"),
    (0x86dd, Some(17), "udp6"),
    (0x86dd, Some(132), "sctp6"),
    (0x86dd, Some(58), "icmp6"),
    (0x0800, None, "ip"),
    (0x86dd, None, "ipv6"),
    (0x0806, None, "arp"),
    (0x8035, None, "rarp"),
    (0x8847, None, "mpls"),
    (0x8848, None, "mplsm"),
];

/// Fields that are written before the protocol.
fn leads(field: Field) -> bool {
    matches!(
        field,
        Field::PktMark
            | Field::ConjId
            | Field::ActsetOutput
            | Field::CtState
            | Field::CtZone
            | Field::CtMark
            | Field::CtLabel
            | Field::CtNwSrc
            | Field::CtNwDst
            | Field::CtIpv6Src
            | Field::CtIpv6Dst
            | Field::CtNwProto
            | Field::CtTpSrc
            | Field::CtTpDst
    )
}

/// Registers, tunnel and metadata come between the protocol and the packet's own fields.
fn is_metadata(field: Field) -> bool {
    (Field::TunId..=Field::Xxreg3).contains(&field)
        || matches!(field, Field::Metadata | Field::InPortOxm | Field::PacketType)
}

/// The word that ovs-ofctl uses in a match.
fn match_name(field: Field) -> &'static str {
    match field {
        Field::EthSrc => "dl_src",
        Field::EthDst => "dl_dst",
        Field::EthType => "dl_type",
        Field::Ipv4Src => "nw_src",
        Field::Ipv4Dst => "nw_dst",
        Field::InPortOxm => "in_port",
        Field::IpFrag => "ip_frag",
        Field::TcpSrc | Field::UdpSrc | Field::SctpSrc => "tp_src",
        Field::TcpDst | Field::UdpDst | Field::SctpDst => "tp_dst",
        other => other.name(),
    }
}

fn write_value(f: &mut Formatter<'_>, field: Field, value: u128, mask: u128) -> fmt::Result {
    let exact = mask == field.full_mask();
    let prefix = |bits: u32| {
        let ones = (mask << (128 - bits)).leading_ones();
        (mask == (u128::MAX << (bits - ones) & u128::MAX >> (128 - bits)) || ones == bits).then_some(ones)
    };
    match field.info().format {
        Format::Mac => {
            write!(f, "{}", MacAddr::from_u128(value))?;
            if exact { Ok(()) } else { write!(f, "/{}", MacAddr::from_u128(mask)) }
        }
        Format::Ipv4 => {
            write!(f, "{}", Ipv4Addr::from_bits(value as u32))?;
            match prefix(32) {
                Some(32) => Ok(()),
                Some(bits) if bits > 0 => write!(f, "/{bits}"),
                _ => write!(f, "/{}", Ipv4Addr::from_bits(mask as u32)),
            }
        }
        Format::Ipv6 => {
            write!(f, "{}", Ipv6Addr::from_bits(value))?;
            let ones = mask.leading_ones();
            match ones {
                128 => Ok(()),
                bits if bits > 0 && mask == u128::MAX << (128 - bits) => write!(f, "/{bits}"),
                _ => write!(f, "/{}", Ipv6Addr::from_bits(mask)),
            }
        }
        Format::Port => write!(f, "{}", PortNo(value as u32)),
        Format::CtState => write!(f, "{}", CtState::new().set(value as u32).unset((mask & !value) as u32)),
        Format::Frag => f.write_str(match (value, mask) {
            (0, 3) => "no",
            (1, 3) => "first",
            (3, 3) => "later",
            (1, 1) => "yes",
            (0, 2) => "not_later",
            _ => return write!(f, "{value:#x}/{mask:#x}"),
        }),
        Format::Dec if exact => write!(f, "{value}"),
        _ if exact => write!(f, "{value:#x}"),
        _ => write!(f, "{value:#x}/{mask:#x}"),
    }
}

impl Display for Match {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut comma = |f: &mut Formatter<'_>| {
            if std::mem::take(&mut first) { Ok(()) } else { f.write_char(',') }
        };
        let eth_type = self.get(Field::EthType).map(|m| m.value as u16);
        let proto = self.get(Field::NwProto).map(|m| m.value as u8);
        let word = PROTOCOLS
            .iter()
            .find(|(t, p, _)| Some(*t) == eth_type && (p.is_none() || *p == proto))
            .map(|(_, p, word)| (*word, p.is_some()));
        let field = |f: &mut Formatter<'_>, m: &MatchField| match m.field {
            // "No VLAN header" has no other form.
            Field::VlanVid if m.value == 0 && m.mask == m.field.full_mask() => f.write_str("vlan_tci=0x0000"),
            Field::VlanVid if m.mask == m.field.full_mask() => write!(f, "dl_vlan={}", m.value & 0xfff),
            Field::VlanVid => write!(f, "vlan_tci={:#x}/{:#x}", m.value, m.mask),
            Field::VlanPcp => write!(f, "dl_vlan_pcp={}", m.value),
            other => {
                write!(f, "{}=", match_name(other))?;
                write_value(f, other, m.value, m.mask)
            }
        };
        for m in self.fields().iter().filter(|m| leads(m.field)) {
            comma(f)?;
            field(f, m)?;
        }
        if let Some((word, _)) = word {
            comma(f)?;
            f.write_str(word)?;
        }
        let said = |m: &&MatchField| {
            m.field == Field::EthType && word.is_some()
                || m.field == Field::NwProto && word.is_some_and(|(_, with_proto)| with_proto)
        };
        let rest = |metadata: bool| {
            self.fields()
                .iter()
                .filter(move |m| !leads(m.field) && !said(m) && is_metadata(m.field) == metadata)
        };
        for m in rest(true).chain(rest(false)) {
            comma(f)?;
            field(f, m)?;
        }
        for m in self.unknown_fields() {
            comma(f)?;
            write!(f, "unknown({:#x}.{})", m.id.class, m.id.field)?;
        }
        Ok(())
    }
}

impl Display for SubField {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let info = self.field().info();
        f.write_str(if info.nxm_name.is_empty() { info.oxm_name } else { info.nxm_name })?;
        let (start, end) = (self.ofs(), self.ofs() + self.n_bits() - 1);
        if self.n_bits() == self.field().bits() {
            f.write_str("[]")
        } else if start == end {
            write!(f, "[{start}]")
        } else {
            write!(f, "[{start}..{end}]")
        }
    }
}

fn write_list(f: &mut Formatter<'_>, actions: &[Action]) -> fmt::Result {
    for (index, action) in actions.iter().enumerate() {
        if index > 0 {
            f.write_char(',')?;
        }
        write!(f, "{action}")?;
    }
    Ok(())
}

impl Display for Action {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Action::Output(port) => match port.reserved_name() {
                Some(name) => f.write_str(name),
                None => write!(f, "output:{port}"),
            },
            Action::ToController { max_len } => write!(f, "CONTROLLER:{max_len}"),
            Action::Controller(controller) => write!(f, "{controller}"),
            Action::OutputReg { src, .. } => write!(f, "output:{src}"),
            Action::OutputTrunc { port, max_len } => write!(f, "output(port={port},max_len={max_len})"),
            Action::Group(id) => write!(f, "group:{id}"),
            Action::Meter(id) => write!(f, "meter:{id}"),
            Action::SetField { field, value, mask } => {
                f.write_str("set_field:")?;
                write_value(f, *field, *value, *mask)?;
                write!(f, "->{}", field.name())
            }
            Action::Move { src, dst } => write!(f, "move:{src}->{dst}"),
            Action::Push(sub) => write!(f, "push:{sub}"),
            Action::Pop(sub) => write!(f, "pop:{sub}"),
            Action::Resubmit { port, table, ct } => {
                match (port, table) {
                    (Some(port), None) => return write!(f, "resubmit:{port}"),
                    (None, None) => return f.write_str("resubmit:IN_PORT"),
                    (port, Some(table)) => {
                        f.write_str("resubmit(")?;
                        if let Some(port) = port {
                            write!(f, "{port}")?;
                        }
                        write!(f, ",{table}")?;
                    }
                }
                f.write_str(if *ct { ",ct)" } else { ")" })
            }
            Action::Ct(ct) => write!(f, "{ct}"),
            Action::Nat(nat) => write!(f, "{nat}"),
            Action::CtClear => f.write_str("ct_clear"),
            Action::DecTtl => f.write_str("dec_ttl"),
            Action::SetQueue(id) => write!(f, "set_queue:{id}"),
            Action::PopQueue => f.write_str("pop_queue"),
            Action::Conjunction { id, clause, n_clauses } => {
                write!(f, "conjunction({id},{clause}/{n_clauses})")
            }
            Action::Learn(learn) => {
                write!(f, "learn(table={}", learn.table)?;
                for (name, value) in [
                    ("idle_timeout", learn.idle_timeout),
                    ("hard_timeout", learn.hard_timeout),
                    ("fin_idle_timeout", learn.fin_idle_timeout),
                    ("fin_hard_timeout", learn.fin_hard_timeout),
                ] {
                    if value != 0 {
                        write!(f, ",{name}={value}")?;
                    }
                }
                write!(f, ",priority={}", learn.priority)?;
                for (set, name) in
                    [(learn.send_flow_removed, "send_flow_rem"), (learn.delete_learned, "delete_learned")]
                {
                    if set {
                        write!(f, ",{name}")?;
                    }
                }
                if learn.cookie != 0 {
                    write!(f, ",cookie={:#x}", learn.cookie)?;
                }
                if learn.limit != 0 {
                    write!(f, ",limit={}", learn.limit)?;
                }
                if let Some(result) = learn.result {
                    write!(f, ",result_dst={result}")?;
                }
                for spec in &learn.specs {
                    write!(f, ",{spec}")?;
                }
                f.write_char(')')
            }
            Action::FinTimeout { idle, hard } => {
                write!(f, "fin_timeout(idle_timeout={idle},hard_timeout={hard})")
            }
            Action::Note(bytes) => {
                f.write_str("note:")?;
                write_dotted(f, bytes)
            }
            Action::PushVlan(ethertype) => write!(f, "push_vlan:{ethertype:#06x}"),
            Action::PopVlan => f.write_str("pop_vlan"),
            Action::Clone(actions) => {
                f.write_str("clone(")?;
                write_list(f, actions)?;
                f.write_char(')')
            }
            Action::Exit => f.write_str("exit"),
            Action::ClearActions => f.write_str("clear_actions"),
            Action::WriteActions(actions) => {
                f.write_str("write_actions(")?;
                write_list(f, actions)?;
                f.write_char(')')
            }
            Action::WriteMetadata { value, mask: u64::MAX } => write!(f, "write_metadata:{value:#x}"),
            Action::WriteMetadata { value, mask } => write!(f, "write_metadata:{value:#x}/{mask:#x}"),
            Action::GotoTable(table) => write!(f, "goto_table:{table}"),
            Action::Unknown(bytes) => write!(f, "unknown({} bytes)", bytes.len()),
        }
    }
}

fn write_dotted(f: &mut Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    for (index, byte) in bytes.iter().enumerate() {
        if index > 0 {
            f.write_char('.')?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

impl Display for LearnSpec {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (self.dst, self.src) {
            (LearnDst::Match(dst), LearnSrc::Immediate(value)) => write!(f, "{dst}={value:#x}"),
            (LearnDst::Match(dst), LearnSrc::Field(src)) if dst == src => write!(f, "{dst}"),
            (LearnDst::Match(dst), LearnSrc::Field(src)) => write!(f, "{dst}={src}"),
            (LearnDst::Load(dst), LearnSrc::Immediate(value)) => write!(f, "load:{value:#x}->{dst}"),
            (LearnDst::Load(dst), LearnSrc::Field(src)) => write!(f, "load:{src}->{dst}"),
            (LearnDst::Output, LearnSrc::Field(src)) => write!(f, "output:{src}"),
            (LearnDst::Output, LearnSrc::Immediate(value)) => write!(f, "output:{value}"),
        }
    }
}

impl Display for ControllerAction {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.reason != PacketInReason::Action {
            parts.push(format!("reason={}", self.reason.word()));
        }
        if self.max_len != 0xffff {
            parts.push(format!("max_len={}", self.max_len));
        }
        if self.controller_id != 0 {
            parts.push(format!("id={}", self.controller_id));
        }
        if !self.userdata.is_empty() {
            let bytes: Vec<_> = self.userdata.iter().map(|byte| format!("{byte:02x}")).collect();
            parts.push(format!("userdata={}", bytes.join(".")));
        }
        if self.pause {
            parts.push("pause".to_owned());
        }
        if let Some(meter) = self.meter_id {
            parts.push(format!("meter_id={meter}"));
        }
        write!(f, "controller({})", parts.join(","))
    }
}

impl PacketInReason {
    fn word(self) -> &'static str {
        match self {
            Self::NoMatch => "no_match",
            Self::Action => "action",
            Self::InvalidTtl => "invalid_ttl",
            Self::ActionSet => "action_set",
            Self::Group => "group",
            Self::PacketOut => "packet_out",
            Self::ImplicitMiss => "explicit_miss",
            Self::Other(_) => "other",
        }
    }
}

impl Display for Ct {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.commit {
            parts.push("commit".to_owned());
        }
        if self.force {
            parts.push("force".to_owned());
        }
        if let Some(table) = self.table {
            parts.push(format!("table={table}"));
        }
        match self.zone {
            CtZone::Immediate(0) => {}
            CtZone::Immediate(zone) => parts.push(format!("zone={zone}")),
            CtZone::Field(sub) => parts.push(format!("zone={sub}")),
        }
        if let Some(nat) = &self.nat {
            parts.push(nat.to_string());
        }
        if !self.exec.is_empty() {
            let exec: Vec<_> = self.exec.iter().map(Action::to_string).collect();
            parts.push(format!("exec({})", exec.join(",")));
        }
        match self.alg {
            0 => {}
            21 => parts.push("alg=ftp".to_owned()),
            69 => parts.push("alg=tftp".to_owned()),
            other => parts.push(format!("alg={other}")),
        }
        write!(f, "ct({})", parts.join(","))
    }
}

impl Display for Nat {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(kind) = self.kind else { return f.write_str("nat") };
        f.write_str(match kind {
            NatKind::Src => "nat(src",
            NatKind::Dst => "nat(dst",
        })?;
        if let Some((min, max)) = self.addrs {
            // With a port an IPv6 address needs brackets.
            let text = |ip: IpAddr| match ip {
                IpAddr::V6(ip) if self.ports.is_some() => format!("[{ip}]"),
                ip => ip.to_string(),
            };
            write!(f, "={}", text(min))?;
            if max != min {
                write!(f, "-{}", text(max))?;
            }
            if let Some((min, max)) = self.ports {
                write!(f, ":{min}")?;
                if max != min {
                    write!(f, "-{max}")?;
                }
            }
        }
        for (set, name) in [(self.persistent, "persistent"), (self.hash, "hash"), (self.random, "random")] {
            if set {
                write!(f, ",{name}")?;
            }
        }
        f.write_char(')')
    }
}

impl Display for Flow {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "cookie={:#x}, table={}, ", self.cookie, self.table)?;
        for (name, value) in [
            ("idle_timeout", self.idle_timeout),
            ("hard_timeout", self.hard_timeout),
            ("importance", self.importance),
        ] {
            if value != 0 {
                write!(f, "{name}={value}, ")?;
            }
        }
        for (flag, name) in [
            (FlowFlags::SEND_FLOW_REM, "send_flow_rem "),
            (FlowFlags::CHECK_OVERLAP, "check_overlap "),
            (FlowFlags::RESET_COUNTS, "reset_counts "),
            (FlowFlags::NO_PKT_COUNTS, "no_packet_counts "),
            (FlowFlags::NO_BYT_COUNTS, "no_byte_counts "),
        ] {
            if self.flags.contains(flag) {
                f.write_str(name)?;
            }
        }
        write!(f, "priority={}", self.priority)?;
        if !self.matches.is_empty() {
            write!(f, ",{}", self.matches)?;
        }
        f.write_str(" actions=")?;
        if self.actions.is_empty() { f.write_str("drop") } else { write_list(f, &self.actions) }
    }
}

impl Display for FlowKey {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "table={}, priority={}", self.table, self.priority)?;
        if self.matches.is_empty() { Ok(()) } else { write!(f, ",{}", self.matches) }
    }
}

impl Display for Group {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            GroupType::All => "all",
            GroupType::Select => "select",
            GroupType::Indirect => "indirect",
            GroupType::FastFailover => "fast_failover",
        };
        write!(f, "group_id={},type={kind}", self.id)?;
        if let Some(selection) = &self.selection {
            write!(f, ",selection_method={}", selection.method)?;
            if selection.param != 0 {
                write!(f, ",selection_method_param={}", selection.param)?;
            }
        }
        for bucket in &self.buckets {
            write!(f, ",bucket=bucket_id:{}", bucket.id)?;
            if self.kind == GroupType::Select {
                write!(f, ",weight:{}", bucket.weight)?;
            }
            if let Some(port) = bucket.watch_port {
                write!(f, ",watch_port:{port}")?;
            }
            if let Some(group) = bucket.watch_group {
                write!(f, ",watch_group:{group}")?;
            }
            f.write_str(",actions=")?;
            if bucket.actions.is_empty() { f.write_str("drop")? } else { write_list(f, &bucket.actions)? }
        }
        Ok(())
    }
}

impl Display for Meter {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "meter={}", self.id)?;
        for (flag, name) in [
            (MeterFlags::KBPS, "kbps"),
            (MeterFlags::PKTPS, "pktps"),
            (MeterFlags::BURST, "burst"),
            (MeterFlags::STATS, "stats"),
        ] {
            if self.flags.0 & flag.0 != 0 {
                write!(f, " {name}")?;
            }
        }
        for band in &self.bands {
            let kind = match band.kind {
                BandType::Drop => "drop",
                BandType::DscpRemark(_) => "dscp_remark",
            };
            write!(f, " bands=type={kind} rate={}", band.rate)?;
            if band.burst != 0 {
                write!(f, " burst_size={}", band.burst)?;
            }
            if let BandType::DscpRemark(level) = band.kind {
                write!(f, " prec_level={level}")?;
            }
        }
        Ok(())
    }
}

impl Display for FlowMod {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let verb = match self.command {
            FlowCommand::Add => "add",
            FlowCommand::Modify => "modify",
            FlowCommand::ModifyStrict => "modify_strict",
            FlowCommand::Delete => "delete",
            FlowCommand::DeleteStrict => "delete_strict",
        };
        write!(f, "{verb} {}", self.flow)
    }
}

impl Display for Message {
    /// Flow-, group- and meter-mods in full; of other messages the kind.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Message::FlowMod(flow_mod) => write!(f, "{flow_mod}"),
            Message::GroupMod(group_mod) => {
                let verb = match group_mod.command {
                    GroupCommand::Add => "add",
                    GroupCommand::Modify => "modify",
                    GroupCommand::AddOrModify => "add_or_mod",
                    GroupCommand::Delete => "delete",
                    GroupCommand::InsertBucket(BucketPos::First) => "insert_bucket first",
                    GroupCommand::InsertBucket(_) => "insert_bucket",
                    GroupCommand::RemoveBucket(_) => "remove_bucket",
                };
                write!(f, "{verb} {}", group_mod.group)
            }
            Message::MeterMod { command, meter } => write!(f, "{command:?} {meter}"),
            Message::BundleAdd { message, .. } => write!(f, "{message}"),
            Message::PacketOut(packet) => {
                write!(f, "packet_out {} actions=", packet.matches)?;
                write_list(f, &packet.actions)
            }
            Message::Unknown { kind, .. } => write!(f, "message of type {kind}"),
            other => {
                let text = format!("{other:?}");
                let end = text.find([' ', '(', '{']).unwrap_or(text.len());
                f.write_str(text.get(..end).unwrap_or_default())
            }
        }
    }
}

/// Types and codes of errors that a bridge is likely to send (openflow.h `OFPET_*`, ofp-errors.h).
const ERRORS: &[(u16, u16, &str)] = &[
    (0, 0, "OFPHFC_INCOMPATIBLE"),
    (0, 1, "OFPHFC_EPERM"),
    (1, 0, "OFPBRC_BAD_VERSION"),
    (1, 1, "OFPBRC_BAD_TYPE"),
    (1, 2, "OFPBRC_BAD_STAT"),
    (1, 3, "OFPBRC_BAD_EXPERIMENTER"),
    (1, 4, "OFPBRC_BAD_EXP_TYPE"),
    (1, 5, "OFPBRC_EPERM"),
    (1, 6, "OFPBRC_BAD_LEN"),
    (1, 7, "OFPBRC_BUFFER_EMPTY"),
    (1, 8, "OFPBRC_BUFFER_UNKNOWN"),
    (1, 9, "OFPBRC_BAD_TABLE_ID"),
    (1, 10, "OFPBRC_IS_SLAVE"),
    (1, 11, "OFPBRC_BAD_PORT"),
    (1, 12, "OFPBRC_BAD_PACKET"),
    (1, 13, "OFPBRC_MULTIPART_BUFFER_OVERFLOW"),
    (2, 0, "OFPBAC_BAD_TYPE"),
    (2, 1, "OFPBAC_BAD_LEN"),
    (2, 2, "OFPBAC_BAD_EXPERIMENTER"),
    (2, 3, "OFPBAC_BAD_EXP_TYPE"),
    (2, 4, "OFPBAC_BAD_OUT_PORT"),
    (2, 5, "OFPBAC_BAD_ARGUMENT"),
    (2, 6, "OFPBAC_EPERM"),
    (2, 7, "OFPBAC_TOO_MANY"),
    (2, 8, "OFPBAC_BAD_QUEUE"),
    (2, 9, "OFPBAC_BAD_OUT_GROUP"),
    (2, 10, "OFPBAC_MATCH_INCONSISTENT"),
    (2, 11, "OFPBAC_UNSUPPORTED_ORDER"),
    (2, 12, "OFPBAC_BAD_TAG"),
    (2, 13, "OFPBAC_BAD_SET_TYPE"),
    (2, 14, "OFPBAC_BAD_SET_LEN"),
    (2, 15, "OFPBAC_BAD_SET_ARGUMENT"),
    (2, 16, "OFPBAC_BAD_SET_MASK"),
    (3, 0, "OFPBIC_UNKNOWN_INST"),
    (3, 1, "OFPBIC_UNSUP_INST"),
    (3, 2, "OFPBIC_BAD_TABLE_ID"),
    (3, 3, "OFPBIC_UNSUP_METADATA"),
    (3, 4, "OFPBIC_UNSUP_METADATA_MASK"),
    (3, 7, "OFPBIC_BAD_LEN"),
    (3, 9, "OFPBIC_DUP_INST"),
    (4, 0, "OFPBMC_BAD_TYPE"),
    (4, 1, "OFPBMC_BAD_LEN"),
    (4, 2, "OFPBMC_BAD_TAG"),
    (4, 5, "OFPBMC_BAD_WILDCARDS"),
    (4, 6, "OFPBMC_BAD_FIELD"),
    (4, 7, "OFPBMC_BAD_VALUE"),
    (4, 8, "OFPBMC_BAD_MASK"),
    (4, 9, "OFPBMC_BAD_PREREQ"),
    (4, 10, "OFPBMC_DUP_FIELD"),
    (4, 11, "OFPBMC_EPERM"),
    (5, 0, "OFPFMFC_UNKNOWN"),
    (5, 1, "OFPFMFC_TABLE_FULL"),
    (5, 2, "OFPFMFC_BAD_TABLE_ID"),
    (5, 3, "OFPFMFC_OVERLAP"),
    (5, 4, "OFPFMFC_EPERM"),
    (5, 5, "OFPFMFC_BAD_TIMEOUT"),
    (5, 6, "OFPFMFC_BAD_COMMAND"),
    (5, 7, "OFPFMFC_BAD_FLAGS"),
    (6, 0, "OFPGMFC_GROUP_EXISTS"),
    (6, 1, "OFPGMFC_INVALID_GROUP"),
    (6, 3, "OFPGMFC_OUT_OF_GROUPS"),
    (6, 4, "OFPGMFC_OUT_OF_BUCKETS"),
    (6, 8, "OFPGMFC_UNKNOWN_GROUP"),
    (6, 11, "OFPGMFC_BAD_TYPE"),
    (6, 12, "OFPGMFC_BAD_COMMAND"),
    (6, 13, "OFPGMFC_BAD_BUCKET"),
    (6, 15, "OFPGMFC_UNKNOWN_BUCKET"),
    (6, 16, "OFPGMFC_BUCKET_EXISTS"),
    (12, 1, "OFPMMFC_METER_EXISTS"),
    (12, 2, "OFPMMFC_INVALID_METER"),
    (12, 3, "OFPMMFC_UNKNOWN_METER"),
    (12, 4, "OFPMMFC_BAD_COMMAND"),
    (12, 5, "OFPMMFC_BAD_FLAGS"),
    (12, 6, "OFPMMFC_BAD_RATE"),
    (17, 0, "OFPBFC_UNKNOWN"),
    (17, 1, "OFPBFC_EPERM"),
    (17, 2, "OFPBFC_BAD_ID"),
    (17, 3, "OFPBFC_BUNDLE_EXIST"),
    (17, 4, "OFPBFC_BUNDLE_CLOSED"),
    (17, 5, "OFPBFC_OUT_OF_BUNDLES"),
    (17, 6, "OFPBFC_BAD_TYPE"),
    (17, 7, "OFPBFC_BAD_FLAGS"),
    (17, 8, "OFPBFC_MSG_BAD_LEN"),
    (17, 9, "OFPBFC_MSG_BAD_XID"),
    (17, 10, "OFPBFC_MSG_UNSUP"),
    (17, 11, "OFPBFC_MSG_CONFLICT"),
    (17, 12, "OFPBFC_MSG_TOO_MANY"),
    (17, 13, "OFPBFC_MSG_FAILED"),
    (17, 14, "OFPBFC_TIMEOUT"),
];

impl Display for ErrorMsg {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.experimenter != 0 {
            return write!(f, "error {}/{} of {:#010x}", self.kind, self.code, self.experimenter);
        }
        match ERRORS.iter().find(|(kind, code, _)| (*kind, *code) == (self.kind, self.code)) {
            Some((_, _, name)) => f.write_str(name),
            None => write!(f, "error {}/{}", self.kind, self.code),
        }
    }
}
