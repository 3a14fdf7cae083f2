//! What kube-proxy's rules on this node do with a Service's address and port, in each of its modes.
//!
//! Iptables: chains `KUBE-SVC-…` and `KUBE-SEP-…` of table nat that rules of `KUBE-SERVICES` lead to, and refusals in
//! table filter. Nftables: table `kube-proxy`, maps `service-ips` and `no-endpoint-services`. Ipvs: `/proc/net/ip_vs`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use antrea_api::agent::ServiceRules;
use antrea_flows::policy::Protocol;
use netcfg::Family;
use netcfg::iptables::Backend;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// How long a program may take to tell its rules.
const PROGRAM: Duration = Duration::from_secs(3);

/// Octets of rules that are read: those of some 30,000 Services.
const RULES: u64 = 32 << 20;

/// Endpoints that are told.
const ENDPOINTS: usize = 64;

/// Chains that are followed from a Service on.
const CHAINS: usize = 1024;

/// What rules do.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    found: bool,
    refused: bool,
    endpoints: BTreeSet<SocketAddr>,
}

impl Told {
    fn by(self, by: &str) -> ServiceRules {
        ServiceRules {
            by: by.to_owned(),
            found: self.found,
            refused: self.refused,
            more_endpoints: self.endpoints.len() > ENDPOINTS,
            endpoints: self.endpoints.into_iter().take(ENDPOINTS).collect(),
        }
    }
}

/// Looks the Service up in whichever mode kube-proxy runs here.
///
/// # Errors
/// The rules cannot be read.
pub(super) async fn rules(protocol: Protocol, service: SocketAddr) -> Result<ServiceRules, String> {
    let ipvs = match tokio::fs::read("/proc/net/ip_vs").await {
        Ok(text) => of_ipvs(&String::from_utf8_lossy(&text), protocol, service),
        // A kernel without it.
        Err(_) => None,
    };
    if let Some(told) = ipvs {
        return Ok(told.by("ipvs"));
    }
    let family = if service.is_ipv4() { "ip" } else { "ip6" };
    if let Some(text) = run(&["nft", "-j", "list", "table", family, "kube-proxy"]).await? {
        let json: Value = serde_json::from_str(&text).map_err(|error| format!("nft: {error}"))?;
        return Ok(of_nftables(&json, protocol, service).by("nftables"));
    }
    let family = if service.is_ipv4() { Family::V4 } else { Family::V6 };
    let mut found = None;
    for backend in Backend::BOTH {
        // No table is named: the legacy tools would make it.
        let Some(text) = run(&[backend.save(family)]).await? else { continue };
        match of_iptables(&text, protocol, service) {
            Some(told) if told.found => return Ok(told.by("iptables")),
            told => found = found.or(told),
        }
    }
    Ok(match found {
        Some(told) => told.by("iptables"),
        None => ServiceRules::default(),
    })
}

/// What a program prints; none where it is missing or fails, as for a table that is not there.
async fn run(line: &[&str]) -> Result<Option<String>, String> {
    let shown = line.join(" ");
    let Some((program, arguments)) = line.split_first() else { return Ok(None) };
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let Ok(mut child) = command.kill_on_drop(true).spawn() else { return Ok(None) };
    let Some(stdout) = child.stdout.take() else { return Ok(None) };
    let ended = tokio::time::timeout(PROGRAM, async {
        let mut text = Vec::new();
        stdout.take(RULES + 1).read_to_end(&mut text).await?;
        if text.len() as u64 > RULES {
            return Ok(None);
        }
        Ok::<_, std::io::Error>(Some((child.wait().await?, text)))
    });
    match ended.await {
        Ok(Ok(Some((status, text)))) => {
            Ok(status.success().then(|| String::from_utf8_lossy(&text).into_owned()))
        }
        Ok(Ok(None)) => Err(format!("{shown}: more than {RULES} octets")),
        Ok(Err(error)) => Err(format!("{shown}: {error}")),
        Err(_) => Err(format!("{shown}: did not end within {PROGRAM:?}")),
    }
}

/// The value that follows a word of a rule.
fn after<'a>(words: &[&'a str], option: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == option)?;
    words.get(at + 1).copied()
}

/// None where kube-proxy has no rules.
fn of_iptables(save: &str, protocol: Protocol, service: SocketAddr) -> Option<Told> {
    let mut chains: HashMap<&str, Vec<Vec<&str>>> = HashMap::new();
    let mut of_service = Vec::new();
    let (mut nat, mut is_there) = (false, false);
    let length = if service.is_ipv4() { 32 } else { 128 };
    let (host, address) = (format!("{}/{length}", service.ip()), service.ip().to_string());
    let port = service.port().to_string();
    let name = protocol.as_str().to_ascii_lowercase();
    for line in save.lines() {
        if let Some(table) = line.strip_prefix('*') {
            nat = table.trim_end() == "nat";
        }
        is_there |= line.starts_with(":KUBE-SERVICES ");
        let Some(rule) = line.strip_prefix("-A ") else { continue };
        let words: Vec<&str> = rule.split(' ').collect();
        let Some(&chain) = words.first() else { continue };
        if chain == "KUBE-SERVICES" {
            let to = after(&words, "-d").is_some_and(|to| to == host || to == address);
            if to && after(&words, "-p") == Some(&name[..]) && after(&words, "--dport") == Some(&port[..]) {
                of_service.push((nat, words));
            }
        } else if nat && chain.starts_with("KUBE-") {
            chains.entry(chain).or_default().push(words);
        }
    }
    if !is_there {
        return None;
    }
    let mut told = Told::default();
    let (mut next, mut seen) = (Vec::new(), HashSet::new());
    for (nat, rule) in &of_service {
        match after(rule, "-j") {
            Some("REJECT" | "DROP") => (told.found, told.refused) = (true, true),
            // What only marks leads nowhere.
            Some(target) if *nat && target.starts_with("KUBE-") && target != "KUBE-MARK-MASQ" => {
                told.found = true;
                next.push(target);
            }
            _ => {}
        }
    }
    while let Some(chain) = next.pop().filter(|_| seen.len() < CHAINS) {
        if !seen.insert(chain) {
            continue;
        }
        for rule in chains.get(chain).into_iter().flatten() {
            told.endpoints
                .extend(after(rule, "--to-destination").and_then(|to| to.parse::<SocketAddr>().ok()));
            next.extend(after(rule, "-j").filter(|target| target.starts_with("KUBE-")));
        }
    }
    Some(told)
}

/// What a verdict or a statement leads to.
fn targets<'a>(value: &'a Value, chains: &mut Vec<&'a str>, endpoints: &mut BTreeSet<SocketAddr>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| targets(value, chains, endpoints)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match name.as_str() {
                    "goto" | "jump" => chains.extend(value["target"].as_str()),
                    "dnat" => {
                        let ip = value["addr"].as_str().and_then(|ip| ip.parse().ok());
                        let port = value["port"].as_u64().and_then(|port| u16::try_from(port).ok());
                        endpoints
                            .extend(ip.zip(port).map(|(ip, port): (IpAddr, u16)| SocketAddr::new(ip, port)));
                    }
                    _ => targets(value, chains, endpoints),
                }
            }
        }
        _ => {}
    }
}

fn of_nftables(json: &Value, protocol: Protocol, service: SocketAddr) -> Told {
    let name = protocol.as_str().to_ascii_lowercase();
    let objects = json["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut rules: HashMap<&str, Vec<&Value>> = HashMap::new();
    let (mut told, mut next) = (Told::default(), Vec::new());
    for object in objects {
        let rule = &object["rule"];
        if let Some(chain) = rule["chain"].as_str() {
            rules.entry(chain).or_default().push(&rule["expr"]);
        }
        let map = &object["map"];
        let (serves, refuses) = (map["name"] == "service-ips", map["name"] == "no-endpoint-services");
        if !serves && !refuses {
            continue;
        }
        for entry in map["elem"].as_array().into_iter().flatten() {
            let key = &entry[0];
            // With a comment it is wrapped.
            let key = if key["concat"].is_array() { &key["concat"] } else { &key["elem"]["val"]["concat"] };
            let ip = key[0].as_str().and_then(|ip| ip.parse::<IpAddr>().ok());
            if ip != Some(service.ip())
                || key[1] != name[..]
                || key[2].as_u64() != Some(service.port().into())
            {
                continue;
            }
            told.found = true;
            told.refused |= refuses;
            if serves {
                targets(&entry[1], &mut next, &mut told.endpoints);
            }
        }
    }
    let mut seen = HashSet::new();
    while let Some(chain) = next.pop().filter(|_| seen.len() < CHAINS) {
        if seen.insert(chain) {
            for rule in rules.get(chain).into_iter().flatten() {
                targets(rule, &mut next, &mut told.endpoints);
            }
        }
    }
    told
}

/// None where ipvs serves nobody.
fn of_ipvs(table: &str, protocol: Protocol, service: SocketAddr) -> Option<Told> {
    let (mut told, mut is_there, mut ours) = (Told::default(), false, false);
    for line in table.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["->", endpoint, _, weight, ..] if ours => {
                // Without a weight it gets no new connections.
                told.endpoints.extend(hexadecimal(endpoint).filter(|_| weight != "0"));
            }
            [name @ ("TCP" | "UDP" | "SCTP"), address, ..] => {
                is_there = true;
                ours = name == protocol.as_str() && hexadecimal(address) == Some(service);
                told.found |= ours;
            }
            _ => {}
        }
    }
    told.refused = told.found && told.endpoints.is_empty();
    is_there.then_some(told)
}

/// `0A60000A:0050`, or `[fd00:0000:…]:0050`.
fn hexadecimal(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.rsplit_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let ip = match ip.strip_prefix('[') {
        Some(ip) => IpAddr::V6(ip.strip_suffix(']')?.parse().ok()?),
        None => IpAddr::V4(Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?)),
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn ends(told: &Told) -> Vec<String> {
        told.endpoints.iter().map(ToString::to_string).collect()
    }

    const IPTABLES: &str = "*filter\n:KUBE-SERVICES - [0:0]\n\
        -A KUBE-SERVICES -d 10.96.0.11/32 -p tcp -m comment --comment \"shop/none has no endpoints\" -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable\n\
        COMMIT\n*nat\n:KUBE-SERVICES - [0:0]\n\
        -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment \"shop/db:sql cluster IP\" -m tcp --dport 80 -j KUBE-SVC-A\n\
        -A KUBE-SERVICES -d 10.96.0.10/32 -p udp -m comment --comment \"shop/db:dns cluster IP\" -m udp --dport 80 -j KUBE-SVC-B\n\
        -A KUBE-SVC-A ! -s 10.10.0.0/16 -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ\n\
        -A KUBE-SVC-A -m statistic --mode random --probability 0.5 -j KUBE-SEP-1\n\
        -A KUBE-SVC-A -j KUBE-SEP-2\n-A KUBE-SVC-B -j KUBE-SEP-3\n\
        -A KUBE-SEP-1 -s 10.10.1.7/32 -j KUBE-MARK-MASQ\n\
        -A KUBE-SEP-1 -p tcp -m tcp -j DNAT --to-destination 10.10.1.7:5432\n\
        -A KUBE-SEP-2 -p tcp -m tcp -j DNAT --to-destination 10.10.2.8:5432\n\
        -A KUBE-SEP-3 -p udp -m udp -j DNAT --to-destination 10.10.2.9:53\nCOMMIT\n";

    #[test]
    fn chains_of_iptables_lead_to_endpoints() {
        let told = |service: &str| of_iptables(IPTABLES, Protocol::Tcp, at(service)).unwrap();
        let served = told("10.96.0.10:80");
        assert_eq!(
            (ends(&served), served.found, served.refused),
            (vec!["10.10.1.7:5432".into(), "10.10.2.8:5432".into()], true, false)
        );
        let refused = told("10.96.0.11:80");
        assert!(refused.found && refused.refused && refused.endpoints.is_empty());
        assert_eq!(told("10.96.0.10:81"), Told::default());
        assert_eq!(
            ends(&of_iptables(IPTABLES, Protocol::Udp, at("10.96.0.10:80")).unwrap()),
            ["10.10.2.9:53"]
        );
        assert_eq!(
            of_iptables("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n", Protocol::Tcp, at("10.96.0.10:80")),
            None
        );
        let circle = IPTABLES.replace("-j KUBE-SEP-2", "-j KUBE-SVC-A");
        assert_eq!(
            ends(&of_iptables(&circle, Protocol::Tcp, at("10.96.0.10:80")).unwrap()),
            ["10.10.1.7:5432"]
        );
        let six =
            IPTABLES.replace("10.96.0.10/32", "fd96::a/128").replace("10.10.1.7:5432", "[fd00::7]:5432");
        let told = of_iptables(&six, Protocol::Tcp, at("[fd96::a]:80")).unwrap();
        assert!(ends(&told).contains(&"[fd00::7]:5432".to_owned()));
    }

    #[test]
    fn maps_of_nftables_lead_to_endpoints() {
        let json: Value = serde_json::from_str(
            r#"{"nftables": [{"metainfo": {"version": "1.0.9"}},
            {"map": {"name": "service-ips", "type": ["ipv4_addr", "inet_proto", "inet_service"], "map": "verdict", "elem": [
                [{"concat": ["10.96.0.10", "tcp", 80]}, {"goto": {"target": "service-A"}}],
                [{"elem": {"val": {"concat": ["10.96.0.12", "udp", 53]}, "comment": "dns"}}, {"goto": {"target": "service-B"}}]]}},
            {"map": {"name": "no-endpoint-services", "elem": [[{"concat": ["10.96.0.11", "tcp", 80]}, {"goto": {"target": "reject-chain"}}]]}},
            {"rule": {"chain": "service-A", "expr": [{"vmap": {"key": {"numgen": {"mode": "random", "mod": 2}},
                "data": {"set": [[0, {"goto": {"target": "endpoint-1"}}], [1, {"goto": {"target": "endpoint-2"}}]]}}}]}},
            {"rule": {"chain": "endpoint-1", "expr": [{"jump": {"target": "mark-for-masquerade"}}]}},
            {"rule": {"chain": "endpoint-1", "expr": [{"dnat": {"addr": "10.10.1.7", "port": 5432}}]}},
            {"rule": {"chain": "endpoint-2", "expr": [{"dnat": {"addr": "10.10.2.8", "port": 5432}}]}},
            {"rule": {"chain": "service-B", "expr": [{"dnat": {"addr": "10.10.2.9", "port": 53}}]}}]}"#,
        )
        .unwrap();
        let served = of_nftables(&json, Protocol::Tcp, at("10.96.0.10:80"));
        assert_eq!(
            (ends(&served), served.found),
            (vec!["10.10.1.7:5432".into(), "10.10.2.8:5432".into()], true)
        );
        assert_eq!(ends(&of_nftables(&json, Protocol::Udp, at("10.96.0.12:53"))), ["10.10.2.9:53"]);
        let refused = of_nftables(&json, Protocol::Tcp, at("10.96.0.11:80"));
        assert!(refused.found && refused.refused);
        assert_eq!(of_nftables(&json, Protocol::Tcp, at("10.96.0.10:81")), Told::default());
    }

    #[test]
    fn ipvs_tells_who_gets_new_connections() {
        let table = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  \
            -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n\
            TCP  0A60000A:0050 rr\n  -> 0A0A0107:1538      Masq    1      0          0\n  \
            -> 0A0A0208:1538      Masq    0      0          0\n\
            TCP  0A60000B:0050 rr\n\
            TCP  [fd96:0000:0000:0000:0000:0000:0000:000a]:0050 rr\n  \
            -> [fd00:0000:0000:0000:0000:0000:0000:0007]:1538      Masq    1      0          0\n";
        let told = |service: &str| of_ipvs(table, Protocol::Tcp, at(service)).unwrap();
        assert_eq!(ends(&told("10.96.0.10:80")), ["10.10.1.7:5432"]);
        assert_eq!(ends(&told("[fd96::a]:80")), ["[fd00::7]:5432"]);
        assert!(told("10.96.0.11:80").refused);
        assert!(!told("10.96.0.12:80").found);
        assert_eq!(of_ipvs("IP Virtual Server\n", Protocol::Tcp, at("10.96.0.10:80")), None);
    }

    #[tokio::test]
    async fn a_program_that_is_missing_or_fails_has_no_rules() {
        assert_eq!(run(&["/nonexistent"]).await, Ok(None));
        assert_eq!(run(&["false"]).await, Ok(None));
        assert_eq!(run(&["echo", "x"]).await, Ok(Some("x\n".to_owned())));
        assert!(run(&["yes"]).await.unwrap_err().contains("octets"));
    }
}
