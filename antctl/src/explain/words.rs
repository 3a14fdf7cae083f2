//! What policies decide, in words.

use antrea_policy::evaluate::{Candidate, Cause, Decision, Fit, Stage};
use antrea_policy::model::{Action, Direction, Port, Service};

use super::computed::policy_name;
use super::finding::{Finding, Mark};

/// Rules that are told one by one.
const RULES: usize = 8;

/// What is decided, for people.
pub(super) struct Case<'a> {
    pub(super) check: &'a str,
    pub(super) direction: Direction,
    /// Whose policies they are: Namespace and name.
    pub(super) subject: &'a str,
    /// Who is on the other side.
    pub(super) peer: &'a str,
    /// What is sent.
    pub(super) packet: &'a str,
}

impl Case<'_> {
    /// The decision as a finding.
    pub(super) fn told(&self, decision: &Decision) -> Finding {
        let finding = match &decision.cause {
            Cause::Nothing => Finding::new(self.check, Mark::Ok, self.nothing(decision)),
            Cause::Rule(rule) if decision.is_allowed() => {
                Finding::new(self.check, Mark::Ok, format!("{} allows it", self.rule(rule)))
            }
            Cause::Rule(rule) => self.denied(rule),
            Cause::Isolated(policies) => {
                let names: Vec<String> = policies.iter().map(|policy| policy_name(policy)).collect();
                let text = format!(
                    "{} isolates {}, and no rule allows {} {}",
                    names.join(", "),
                    self.subject,
                    self.packet,
                    self.other()
                );
                Finding::new(self.check, Mark::Denied, text)
                    .with(self.near(decision))
                    .advise(self.remedy(decision))
            }
        };
        match &decision.passed {
            Some(rule) => {
                let mut more = vec![format!("{} leaves it to NetworkPolicies", self.rule(rule))];
                more.extend(finding.more.clone());
                finding.with(more)
            }
            None => finding,
        }
    }

    fn nothing(&self, decision: &Decision) -> String {
        let word = self.word();
        match decision.considered.len() {
            0 => format!("no policy selects {} for {word}", self.subject),
            1 => format!("the {word} rule that applies to {} is about something else", self.subject),
            count => format!("none of {count} {word} rules that apply to {} is about this", self.subject),
        }
    }

    fn denied(&self, rule: &Candidate) -> Finding {
        let verb = if rule.action() == Action::Reject { "rejects" } else { "drops" };
        let text = format!("{} {verb} {} {}", self.rule(rule), self.packet, self.other());
        let advice = match rule.stage() {
            Stage::Baseline => "change that rule, or allow it by a NetworkPolicy, which comes before it",
            _ => "change that rule, or allow it by one before it (a tier or priority with a lower number)",
        };
        Finding::new(self.check, Mark::Denied, text).advise(advice)
    }

    fn word(&self) -> &'static str {
        match self.direction {
            Direction::In => "ingress",
            Direction::Out => "egress",
        }
    }

    fn other(&self) -> String {
        match self.direction {
            Direction::In => format!("from {}", self.peer),
            Direction::Out => format!("to {}", self.peer),
        }
    }

    /// Which rule it is.
    fn place(&self, rule: &Candidate) -> String {
        let name = rule.rule().name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
        format!("{}, {} rule {}{name}", policy_name(&rule.policy), self.word(), rule.index())
    }

    /// The same, before what it does.
    fn rule(&self, rule: &Candidate) -> String {
        format!("{},", self.place(rule))
    }

    /// The rules that could have allowed it, and why they do not.
    fn near(&self, decision: &Decision) -> Vec<String> {
        let rules: Vec<&Candidate> = candidates(decision).collect();
        let told = |rule: &&Candidate| {
            let name = self.rule(rule);
            match &rule.fit {
                Fit::OtherService => {
                    format!("{name} is about {}, but only {}", self.peer, services(&rule.rule().services))
                }
                Fit::UnknownPort(port) => {
                    format!("{name} is about port \"{port}\", which the destination does not have")
                }
                Fit::OtherPeer | Fit::Matches => format!("{name} is about others"),
            }
        };
        let mut lines: Vec<String> = rules.iter().take(RULES).map(told).collect();
        if rules.len() > RULES {
            lines.push(format!("and {} rules more", rules.len() - RULES));
        }
        lines
    }

    fn remedy(&self, decision: &Decision) -> String {
        let of = |wanted: fn(&Fit) -> bool| candidates(decision).find(|rule| wanted(&rule.fit));
        if let Some(rule) = of(|fit| matches!(fit, Fit::OtherService)) {
            return format!("if it is meant to be allowed: add {} to {}", self.packet, self.place(rule));
        }
        if let Some(rule) = of(|fit| matches!(fit, Fit::UnknownPort(_))) {
            return format!(
                "give a port of the container the name that {} has, or write its number there",
                self.place(rule)
            );
        }
        format!(
            "if it is meant to be allowed: a NetworkPolicy that selects {} has to have an {} rule for {} {}",
            self.subject,
            self.word(),
            self.packet,
            self.other()
        )
    }
}

/// Kubernetes rules that allow something.
fn candidates(decision: &Decision) -> impl Iterator<Item = &Candidate> {
    let says = |rule: &&Candidate| {
        let peer = &rule.rule().peer;
        rule.stage() == Stage::Kubernetes && !(peer.address_groups.is_empty() && peer.ip_blocks.is_empty())
    };
    decision.considered.iter().filter(says)
}

fn services(services: &[Service]) -> String {
    let one = |service: &Service| {
        let protocol = service.protocol.as_str();
        match (&service.port, service.end_port) {
            (Some(Port::Number(first)), Some(last)) => format!("{protocol} {first}-{last}"),
            (Some(Port::Number(port)), None) => format!("{protocol} {port}"),
            (Some(Port::Name(name)), _) => format!("{protocol} \"{name}\""),
            (None, _) => protocol.to_owned(),
        }
    };
    services.iter().map(one).collect::<Vec<_>>().join(", ")
}
