//! From facts to an explanation.

use std::net::IpAddr;

use antrea_flows::Stage;
use antrea_policy::evaluate::Decision;
use antrea_policy::model::{Direction, Protocol, ServiceName};

use super::bridge::{self, Decided};
use super::computed::{Computed, service_name};
use super::facts::{Facts, Node, Pod, Service, Target, Way};
use super::finding::{Explanation, Finding, Mark, Verdict, verdict};
use super::trace::{Hop, Trace, serves_services};
use super::words::Case;
use super::{host, nodes, probe};

/// Where agent and controller do not agree.
const BEHIND: &str = "changes take less than a second, and this took longer: see ControllerConnectionUp in antctl get agentinfo -o \
                      yaml, and the logs of that agent and of the controller";

/// Says what becomes of the packet, and why.
pub(super) fn explain(facts: &Facts) -> Explanation {
    let mut findings = vec![source(facts)];
    findings.extend(interface_of("source", &facts.source, facts));
    for (name, node) in &facts.nodes {
        findings.extend(nodes::health(name, node));
    }
    let several = facts.ways.len() > 1;
    let ways: Vec<Vec<Finding>> = facts.ways.iter().map(|way| self::way(facts, way, several)).collect();
    if let Target::Service(service) = &facts.target {
        findings.extend(self::service(facts, service, &ways));
    }
    // What concerns a Node is said once, however many endpoints are there.
    for finding in ways.into_iter().flatten() {
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    let denied = findings.iter().any(|finding| finding.result == Mark::Denied);
    findings.extend(host::told(facts, denied));
    findings.extend(facts.probe.as_ref().map(|sent| match sent {
        Ok(status) => probe::told(facts, status, denied),
        Err(why) => Finding::new("packet sent", Mark::Unknown, format!("none was sent: {why}")),
    }));
    let verdict = verdict(&findings);
    let decides = findings.iter().find(|finding| finding.result.verdict() == verdict);
    let reason = match (verdict, decides) {
        (Verdict::Allowed, _) | (_, None) => {
            "policies allow it, and nothing is wrong that could be seen".to_owned()
        }
        (_, Some(finding)) => finding.detail.clone(),
    };
    Explanation {
        source: end(&facts.source),
        destination: destination(facts),
        packet: facts.packet.shown(facts.packet.port),
        verdict,
        reason,
        findings,
    }
}

fn end(pod: &Pod) -> String {
    let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
    match (ips.is_empty(), pod.node.is_empty()) {
        (_, true) => pod.full(),
        (true, false) => format!("{} (on {})", pod.full(), pod.node),
        (false, false) => format!("{} ({} on {})", pod.full(), ips.join(", "), pod.node),
    }
}

fn destination(facts: &Facts) -> String {
    match (&facts.target, facts.ways.first()) {
        (Target::Service(service), _) => match service.address {
            Some(address) => format!("Service {} ({address})", service.full()),
            None => format!("Service {} (headless)", service.full()),
        },
        (Target::Address, Some(Way { pod: Some(pod), address: Some(address), .. })) => {
            format!("{address}, which is {}", end(pod))
        }
        (_, Some(Way { pod: Some(pod), .. })) => end(pod),
        (_, Some(way)) => way.shown(),
        (_, None) => String::new(),
    }
}

/// Whether the source can send at all.
fn source(facts: &Facts) -> Finding {
    let pod = &facts.source;
    if let Some(finding) = stands_still("source", pod) {
        return finding;
    }
    let found = match (&pod.unready, pod.host_network) {
        (_, true) => Finding::new(
            "source",
            Mark::Note,
            format!(
                "{} uses the network of {}: no policy selects it, and what it sends is not traced",
                pod.full(),
                pod.node
            ),
        ),
        (Some(why), _) => {
            Finding::new("source", Mark::Note, format!("{} runs, and is not ready: {why}", pod.full()))
        }
        (None, false) => Finding::new("source", Mark::Ok, format!("{} runs on {}", pod.full(), pod.node)),
    };
    match facts.ways.iter().any(|way| way.address.is_some() && pod.address(facts.v6(way)).is_some()) {
        true => found,
        false if facts.ways.iter().all(|way| way.address.is_none()) => found,
        false => {
            let text = format!("{} has no address of the family that the packet is of", pod.full());
            Finding::new("source", Mark::Broken, text)
        }
    }
}

/// A Pod without a network.
fn stands_still(check: &str, pod: &Pod) -> Option<Finding> {
    let describe = format!("kubectl -n {} describe pod {}", pod.namespace, pod.name);
    let text = match () {
        () if pod.node.is_empty() => format!("{} is on no Node yet", pod.full()),
        () if pod.phase == "Succeeded" || pod.phase == "Failed" => {
            format!("{} has ended ({})", pod.full(), pod.phase)
        }
        () if pod.ips.is_empty() => format!("{} has no address yet ({})", pod.full(), pod.phase),
        () => return None,
    };
    Some(Finding::new(check, Mark::Broken, text).advise(describe))
}

fn interface_of(check: &str, pod: &Pod, facts: &Facts) -> Option<Finding> {
    nodes::interface(check, pod, facts.nodes.get(&pod.node)?)
}

/// Whether somebody answers at the destination.
fn receiver(facts: &Facts, way: &Way, check: &str) -> Vec<Finding> {
    let Some(pod) = &way.pod else {
        let text = format!("no Pod has the address {}: policies see it by address blocks alone", way.shown());
        return vec![Finding::new(check, Mark::Note, text)];
    };
    if let Some(finding) = stands_still(check, pod) {
        return vec![finding];
    }
    let mut found = Vec::new();
    let describe = format!("kubectl -n {} describe pod {}", pod.namespace, pod.name);
    if let Some(why) = &pod.unready {
        let text = format!("{} is not ready: {why}", pod.full());
        found.push(Finding::new(check, Mark::Broken, text).advise(describe));
    } else if pod.ending {
        found.push(Finding::new(check, Mark::Note, format!("{} is being deleted", pod.full())));
    } else {
        let by = if pod.host_network { ", in the Node's network: no policy selects it" } else { "" };
        found.push(Finding::new(check, Mark::Ok, format!("{} is ready on {}{by}", pod.full(), pod.node)));
    }
    let of_protocol = || pod.ports.iter().filter(|port| port.protocol == facts.packet.protocol);
    if facts.packet.protocol != Protocol::Icmp
        && of_protocol().next().is_some()
        && of_protocol().all(|port| port.port != way.port)
    {
        let declared: Vec<String> = of_protocol().map(|port| port.port.to_string()).collect();
        let text = format!(
            "{} declares {} {} and not {}: does a process listen there?",
            pod.full(),
            facts.packet.protocol.as_str(),
            declared.join(", "),
            way.port
        );
        found.push(Finding::new(check, Mark::Note, text));
    }
    found.extend(interface_of(check, pod, facts));
    found
}

/// All of one way. Where there are several, each finding says of whom it is.
fn way(facts: &Facts, way: &Way, several: bool) -> Vec<Finding> {
    let of = if several { format!(" {}", way.shown()) } else { String::new() };
    let mut found = receiver(facts, way, &format!("destination{of}"));
    let Some(address) = way.address else { return found };
    if way.pod.as_ref().is_some_and(|pod| pod.is(&facts.source)) {
        let text = "what a Pod sends to itself does not leave it: no policy applies";
        found.push(Finding::new(format!("policy{of}"), Mark::Ok, text));
        return found;
    }
    let mut decided = Decided::default();
    if !facts.source.host_network {
        let check = format!("egress policy{of}");
        let (said, decision) =
            judged(facts, way, &check, Direction::Out, &facts.source, &way.shown(), &[address]);
        found.extend(said);
        decided.egress = decision;
    }
    if let Some(pod) = way.pod.as_ref().filter(|pod| !pod.host_network) {
        let check = format!("ingress policy{of}");
        let (said, decision) = ingress(facts, way, &check, pod);
        found.extend(said);
        decided.ingress = decision;
    }
    // The bridge was asked about a packet for the endpoint itself, of which rules about Services know nothing.
    let by_service = through(facts).is_some() && decided.egress.as_ref().is_some_and(names_services);
    if !by_service {
        found.extend(bridge::sent(facts, way, &format!("source's bridge{of}"), &decided));
    }
    found.extend(bridge::received(facts, way, &format!("destination's bridge{of}"), &decided));
    if let (Some((Hop::Tunnel(_), _)), Some(pod)) = (bridge::hop(facts, way), &way.pod) {
        found.extend(nodes::mtu(facts, &pod.node));
    }
    found
}

fn ingress(facts: &Facts, way: &Way, check: &str, pod: &Pod) -> (Vec<Finding>, Option<Decision>) {
    let source = &facts.source;
    if source.host_network && source.node == pod.node {
        let text = format!("what processes of {} send to its own Pods is exempt", pod.node);
        return (vec![Finding::new(check, Mark::Ok, text)], None);
    }
    let Some(from) = source.address(facts.v6(way)) else { return (Vec::new(), None) };
    let (mut found, decision) = judged(facts, way, check, Direction::In, pod, &source.full(), &[from]);
    if source.host_network {
        let text = format!(
            "{} may meet {} with the address of its Node ({from}) or of that Node's gateway: policies have to name both by \
             address blocks",
            source.full(),
            pod.full()
        );
        found.push(Finding::new(check, Mark::Note, text));
    }
    (found, decision)
}

/// What policies of one end decide: by the controller, by the agent, and whether these agree. The decision is that which
/// the bridge should follow, so the agent's where it is known.
fn judged(
    facts: &Facts,
    way: &Way,
    check: &str,
    direction: Direction,
    subject: &Pod,
    peer: &str,
    peers: &[IpAddr],
) -> (Vec<Finding>, Option<Decision>) {
    let Some(node) = facts.nodes.get(&subject.node) else { return (Vec::new(), None) };
    let (full, packet) = (subject.full(), facts.packet.shown(way.port));
    let case = Case { check, direction, subject: &full, peer, packet: &packet };
    let traffic = facts.packet.traffic(way.port, facts.v6(way));
    let through = through(facts).filter(|_| direction == Direction::Out);
    let decide =
        |computed: &Computed| computed.decide(direction, subject, (peers, through.as_ref()), traffic);
    let of_controller = node.computed.as_ref().ok().map(decide);
    let of_agent = node.agent.as_ref().ok().map(|agent| decide(&agent.computed));
    let mut found = Vec::new();
    let told = [node.computed.as_ref().ok(), node.agent.as_ref().ok().map(|agent| &agent.computed)];
    if told.into_iter().flatten().any(|computed| computed.is_strange(direction, subject)) {
        let text = format!(
            "what policies decide at {full} is not known: one of them says what this antctl cannot read"
        );
        let advice =
            "take an antctl of the version of controller and agents; see antctl get networkpolicy -o yaml";
        found.push(Finding::new(check, Mark::Unknown, text).advise(advice));
        return (found, None);
    }
    let names_domains =
        |decision: &Decision| decision.considered.iter().any(|rule| !rule.rule().peer.fqdns.is_empty());
    if [&of_controller, &of_agent].into_iter().flatten().any(names_domains) {
        let text = format!(
            "rules with domain names apply to {full}: which addresses these have, its agent learns from DNS answers, and \
             the bridge shows"
        );
        found.push(Finding::new(check, Mark::Note, text));
        return (found, None);
    }
    let unserved = node.agent.as_ref().is_ok_and(|agent| !serves_services(&agent.tables));
    if unserved && [&of_controller, &of_agent].into_iter().flatten().any(names_services) {
        let text = format!(
            "rules with toServices apply to {full}, and the bridge of {} does not serve Services: those that deny, deny all, \
             others allow nothing",
            subject.node
        );
        found.push(Finding::new(check, Mark::Note, text).advise("spec.proxy.mode of the AntreaInstallation"));
        return (found, None);
    }
    match (&of_controller, &of_agent) {
        (Some(decision), _) => found.push(case.told(decision)),
        (None, Some(decision)) => {
            let mut said = case.told(decision);
            said.detail.push_str(&format!(" (by what the agent of {} was told)", subject.node));
            found.push(said);
        }
        (None, None) => found.push(Finding::new(
            check,
            Mark::Unknown,
            format!("what policies decide at {full} is not known: neither controller nor agent says"),
        )),
    }
    found.extend(differs(node, check, subject, &case, [of_controller.as_ref(), of_agent.as_ref()]));
    (found, of_agent.or(of_controller))
}

/// The Service by whose address it is sent, where the bridge gives it an endpoint and so knows.
fn through(facts: &Facts) -> Option<ServiceName> {
    let Target::Service(service) = &facts.target else { return None };
    let agent = facts.source_node()?.agent.as_ref().ok()?;
    let known = service.address.is_some() && serves_services(&agent.tables);
    known.then(|| service_name(&service.namespace, &service.name))
}

fn names_services(decision: &Decision) -> bool {
    decision.considered.iter().any(|rule| !rule.rule().peer.to_services.is_empty())
}

/// What the agent has otherwise than the controller.
fn differs(
    node: &Node,
    check: &str,
    subject: &Pod,
    case: &Case<'_>,
    decisions: [Option<&Decision>; 2],
) -> Option<Finding> {
    let (computed, agent) = node.computed.as_ref().ok().zip(node.agent.as_ref().ok())?;
    let [of_controller, of_agent] = decisions;
    let (theirs, own) = (computed.applied(subject), agent.computed.applied(subject));
    let mut more = Vec::new();
    for (uid, generation, name) in &theirs {
        match own.iter().find(|(known, ..)| known == uid) {
            None => more.push(format!("it does not have {name}")),
            Some((_, known, _)) if known != generation => {
                more.push(format!("it has {name} of generation {known}, not {generation}"));
            }
            Some(_) => {}
        }
    }
    let gone = own.iter().filter(|(uid, ..)| !theirs.iter().any(|(known, ..)| known == uid));
    more.extend(gone.map(|(_, _, name)| format!("it still has {name}")));
    let (theirs, own) = (of_controller?, of_agent?);
    if theirs.action != own.action {
        more.push(format!("by what it has, {}", case.told(own).detail));
    } else if more.is_empty() {
        return None;
    }
    let text = format!("the agent of {} has other policies than the controller has computed", subject.node);
    Some(Finding::new(check, Mark::Broken, text).with(more).differs(BEHIND))
}

/// What is to be said of a Service as a whole.
fn service(facts: &Facts, service: &Service, ways: &[Vec<Finding>]) -> Vec<Finding> {
    let full = service.full();
    if service.ready == 0 {
        let (text, advice) = match (service.unready, service.has_selector) {
            (0, true) => (
                format!("Service {full} has no endpoint: its selector takes no Pod"),
                format!(
                    "compare kubectl -n {} get service {} -o jsonpath={{.spec.selector}} with the labels of Pods",
                    service.namespace, service.name
                ),
            ),
            (0, false) => (
                format!("Service {full} has no endpoint, and no selector that would find one"),
                "make an EndpointSlice for it, or give it a selector".to_owned(),
            ),
            (unready, _) => (
                format!("Service {full} has no ready endpoint; {unready} are not ready"),
                format!(
                    "kubectl -n {} get endpointslices -l kubernetes.io/service-name={}",
                    service.namespace, service.name
                ),
            ),
        };
        return vec![Finding::new("service", Mark::Broken, text).advise(advice)];
    }
    let mut found = vec![Finding::new(
        "service",
        Mark::Ok,
        format!("Service {full} has {} ready endpoints, {} others", service.ready, service.unready),
    )];
    if service.ready > ways.len() {
        let text = format!("{} of {} endpoints are looked at", ways.len(), service.ready);
        found.push(Finding::new("service", Mark::Note, text));
    }
    found.extend(to_cluster_ip(facts, service, ways));
    let reached = ways.iter().filter(|way| verdict(*way) == Verdict::Allowed).count();
    let lost = ways.iter().filter(|way| verdict(*way) > Verdict::Unknown).count();
    if reached > 0 && lost > 0 {
        let text =
            format!("of {} endpoints {lost} cannot be reached: connections fail now and then", ways.len());
        found.push(Finding::new("service", Mark::Broken, text).advise("see what follows of each endpoint"));
    }
    found
}

/// Whether what is for the Service's own address gets to whoever gives it an endpoint.
fn to_cluster_ip(facts: &Facts, service: &Service, ways: &[Vec<Finding>]) -> Option<Finding> {
    let (address, asked) = (service.address?, service.sent.as_ref()?);
    let check = "service address";
    let node = &facts.source.node;
    let unknown = |why: &str| {
        let text = format!("what the bridge of {node} does with {address} is not known: {why}");
        Some(Finding::new(check, Mark::Unknown, text))
    };
    let Some(Ok(agent)) = facts.source_node().map(|node| &node.agent) else {
        return unknown("its agent does not say");
    };
    let trace = match asked {
        Ok(text) => Trace::read(text),
        Err(why) => return unknown(why),
    };
    let hop = match trace {
        Ok(trace) => trace.hop(agent, &[]),
        Err(said) => return unknown(&format!("Open vSwitch says {said:?}")),
    };
    let denied = ways.iter().flatten().any(|finding| finding.result == Mark::Denied);
    let proxied = serves_services(&agent.tables);
    let finding = |mark, text: &str| Some(Finding::new(check, mark, format!("the bridge of {node} {text}")));
    match hop {
        Hop::Dropped(_) if hop.is_denied(Stage::EgressSecurity) && denied => {
            finding(Mark::Ok, "drops it, as policy says")
        }
        Hop::Dropped(_) if proxied && denied => finding(Mark::Ok, "drops it at the endpoint that it chose"),
        Hop::Dropped(table) => {
            let place = table.map(|table| format!(" in table {}", table.name())).unwrap_or_default();
            let text = format!("drops what is for {address}{place}");
            let advice = "see whether the Service CIDRs are known: spec.serviceCIDRs of the AntreaInstallation, or ServiceCIDR objects";
            finding(Mark::Broken, &text).map(|finding| finding.advise(advice))
        }
        _ if proxied => finding(Mark::Ok, &format!("gives what is for {address} an endpoint itself")),
        Hop::Host => finding(
            Mark::Ok,
            &format!(
                "hands what is for {address} to the Node's network stack, where kube-proxy gives it an endpoint"
            ),
        ),
        Hop::Pod(..) | Hop::Tunnel(_) | Hop::Elsewhere => finding(
            Mark::Broken,
            &format!("sends what is for {address} into the network of Pods, where nobody has that address"),
        ),
    }
}
