//! docs/reachability.md: its words, its tables, and where it is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

pub(super) const COLUMNS: [&str; 7] = [
    "isolated pod of the node",
    "isolated pod of another node",
    "free pod of the node",
    "free pod of another node",
    "process of the node",
    "process of another node",
    "outside",
];

pub(super) const ROWS: [&str; 14] = [
    "the isolated pod's address",
    "ClusterIP of the isolated pod",
    "NodePort at the pod's node",
    "NodePort at another node",
    "hostPort",
    "external address of the Service",
    "ClusterIP of a process of the node",
    "ClusterIP of an address outside",
    "the node's address",
    "another node's address",
    "an address outside",
    "the tunnel port, with a packet for the isolated pod inside",
    "the agent's API port",
    "the controller's API port",
];

/// Why a cell is not `no`: parts of the names of rows and columns, parts of the section's name, and the reason. The
/// first that fits is taken. A cell without one fails the test.
pub(super) const NOTES: &[(&[&str], &[&str], &[&str], &str)] = &[
    (
        &["the isolated pod's address", "ClusterIP of the isolated pod"],
        &["process of the node"],
        &[],
        "kubelet's probes: what processes of a node send to its own pods is exempt from ingress policy",
    ),
    (
        &["NodePort at the pod's node", "external address", "hostPort"],
        &["process of the node"],
        &["kernel", "ipvs", "no kube-proxy"],
        "a process of the node is exempt by whichever of its addresses it reaches the pod",
    ),
    (
        &["ClusterIP of an address outside"],
        &["outside"],
        &["no kube-proxy"],
        "no pod is addressed; it is its own endpoint, and the node by whose way it goes masquerades it",
    ),
    (
        &["ClusterIP of an address outside"],
        &["outside"],
        &["IPv6"],
        "it is its own endpoint, by way of a node: a datagram comes back to it, a handshake does not",
    ),
    (
        &["ClusterIP of an address outside"],
        &["outside"],
        &[],
        "it would be its own endpoint, by way of a node",
    ),
    (
        &["ClusterIP of a process of the node", "ClusterIP of an address outside", "the node's address"],
        &["free pod", "process", "outside"],
        &[],
        "no pod is addressed, and nobody isolates who asks: policy is about pods",
    ),
    (
        &["another node's address", "an address outside"],
        &["free pod", "process", "outside"],
        &[],
        "no pod is addressed, and nobody isolates who asks: policy is about pods",
    ),
    (
        &["API port"],
        &["free pod", "process", "outside"],
        &[],
        "a port of the node; behind it TLS, authentication and authorization, for all but the health endpoints",
    ),
    (
        &["the tunnel port"],
        &["isolated", "free", "process of the node", "outside"],
        &[],
        "not even without a policy: the tunnel takes packets of peers only",
    ),
];

pub(super) const INTRODUCTION: &str = "# What can be reached under \"deny all\"

A pod `isolated` runs on a node; a NetworkPolicy selects it, allows nothing in and nothing out, and selects no pod that
is called free below. Each cell says whether whoever heads its column reaches the address of its row.

- `no`: the policy forbids it. The same probes arrived before the policy was there.
- `yes`: it arrives all the same, `partly` by UDP or by TCP alone; the note says why that is right.
- `never`: it does not arrive, with or without a policy.

This file is written by the node suite from what it sees (`tests/tests/node/reachability.rs`, run with
`ANTREA_TEST_WRITE=1`), and the suite fails when what it sees is something else. Every cell stands for TCP and UDP
probes, three of each; the tunnel's for datagrams, the API ports' for TCP alone. kube-proxy is played by what it would
configure in its mode; without one the agents serve Services. Sections are about IPv4 unless they say IPv6. The policy of
native rules, the pods' own node and ICMP are no matter here.
";

/// Which cells are reached; for each whether by all of its services, or by some.
pub(super) type Seen = BTreeMap<(usize, usize), (usize, usize)>;

fn cell(before: (usize, usize), under: (usize, usize)) -> &'static str {
    match (before, under) {
        ((0, _), (0, _)) => "never",
        (_, (0, _)) => "no",
        (_, (reached, all)) if reached == all => "yes",
        _ => "partly",
    }
}

/// The table of a section with its notes.
pub(super) fn section(name: &str, before: &Seen, under: &Seen) -> String {
    let mut text = format!("| | {} |\n|---|{}\n", COLUMNS.join(" | "), "---|".repeat(COLUMNS.len()));
    let (mut notes, mut missing) = (Vec::<&str>::new(), Vec::new());
    for (row, what) in ROWS.iter().enumerate() {
        let mut line = format!("| {what} |");
        for (column, who) in COLUMNS.iter().enumerate() {
            let said = cell(before[&(row, column)], under[&(row, column)]);
            let fits =
                |words: &[&str], text: &str| words.is_empty() || words.iter().any(|word| text.contains(word));
            let note = NOTES.iter().find(|(rows, columns, sections, _)| {
                fits(rows, what) && fits(columns, who) && fits(sections, name)
            });
            match (said, note) {
                ("no", _) => line += " no |",
                (_, None) => missing.push(format!("{what}, {who}: {said}")),
                (_, Some((.., reason))) => {
                    let number = notes.iter().position(|known| known == reason).unwrap_or_else(|| {
                        notes.push(reason);
                        notes.len() - 1
                    });
                    write!(line, " {said} ({}) |", number + 1).unwrap();
                }
            }
        }
        text += &line;
        text.push('\n');
    }
    text.push('\n');
    for (number, note) in notes.iter().enumerate() {
        writeln!(text, "{}. {note}.", number + 1).unwrap();
    }
    assert!(missing.is_empty(), "{name}: without an explanation:\n{}\n{text}", missing.join("\n"));
    text
}

pub(super) fn file() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reachability.md")
}

/// What this binary was built with, for a machine that has no sources.
pub(super) const COMMITTED: &str = include_str!("../../../../docs/reachability.md");

/// Sections of the document by their headings.
pub(super) fn sections(text: &str) -> BTreeMap<String, String> {
    let parts = text.split("\n## ").skip(1);
    parts
        .filter_map(|part| part.split_once("\n\n"))
        .map(|(name, body)| (name.to_owned(), body.trim_end().to_owned() + "\n"))
        .collect()
}

#[test]
fn the_document_begins_as_the_source_says() {
    assert!(COMMITTED.starts_with(INTRODUCTION), "write docs/reachability.md anew");
}
