//! How the nodes hang together: each by its link at the network between them, and by its watch at the controller.
//!
//! A line between each two nodes would be a thousand for 45 of them and say no more.

use std::fmt::Write;

use serde::Serialize;

use crate::{
    health::Verdict,
    rows::{AgentRow, ControllerRow},
};

/// Nodes that are drawn at most; beyond, those that are not well come first.
const LIMIT: usize = 100;

/// The way of a packet, as boxes and lines.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Graph {
    /// What is drawn.
    pub vertices: Vec<Vertex>,
    /// Lines.
    pub edges: Vec<Edge>,
    /// Nodes that are left out.
    pub omitted: usize,
}

/// Something that is drawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vertex {
    /// Unique in the graph.
    pub id: String,
    /// What it is.
    pub kind: Kind,
    /// Lines of text.
    pub label: Vec<String>,
    /// Verdict; of the network none.
    pub verdict: Option<Verdict>,
}

/// Kinds of vertices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// antrea-controller
    Controller,
    Node,
    /// What is between nodes.
    Network,
}

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edge {
    /// Id of a vertex.
    pub from: String,
    /// Id of another.
    pub to: String,
    /// Text at the line.
    pub label: String,
    /// Whether it works, as far as the agent said.
    pub up: bool,
}

/// The graph of these rows.
pub(crate) fn of(controller: Option<&ControllerRow>, agents: &[AgentRow]) -> Graph {
    let mut drawn: Vec<&AgentRow> = agents.iter().collect();
    if drawn.len() > LIMIT {
        drawn.sort_by(|a, b| b.health.verdict.cmp(&a.health.verdict).then_with(|| a.name.cmp(&b.name)));
        drawn.truncate(LIMIT);
        drawn.sort_by(|a, b| a.name.cmp(&b.name));
    }
    let mut graph = Graph { omitted: agents.len() - drawn.len(), ..Graph::default() };
    if let Some(row) = controller {
        graph.vertices.push(Vertex {
            id: "controller".to_owned(),
            kind: Kind::Controller,
            label: lines([row.name.clone(), row.version.clone()]),
            verdict: Some(row.health.verdict),
        });
    }
    if !drawn.is_empty() {
        let label = vec!["network between nodes".to_owned()];
        graph.vertices.push(Vertex { id: "network".to_owned(), kind: Kind::Network, label, verdict: None });
    }
    for row in drawn {
        let id = format!("node/{}", row.name);
        // Who is silent or unknown is not connected, whatever the last word was.
        let fresh = !matches!(row.health.verdict, Verdict::Stale | Verdict::Unknown);
        let is_true =
            |type_: &str| row.conditions.iter().any(|one| one.type_ == type_ && one.status == "True");
        let addresses = row.network.as_ref().map(|network| network.addresses.join(", ")).unwrap_or_default();
        graph.vertices.push(Vertex {
            id: id.clone(),
            kind: Kind::Node,
            label: lines([
                row.name.clone(),
                addresses,
                row.subnets.join(", "),
                format!("{} pods", row.local_pods),
            ]),
            verdict: Some(row.health.verdict),
        });
        let label = row.network.as_ref().map(|network| format!("{}, MTU {}", network.interface, network.mtu));
        graph.edges.push(Edge {
            from: id.clone(),
            to: "network".to_owned(),
            label: label.unwrap_or_default(),
            up: fresh && is_true("AgentHealthy"),
        });
        if controller.is_some() {
            graph.edges.push(Edge {
                from: "controller".to_owned(),
                to: id,
                label: String::new(),
                up: fresh && is_true("ControllerConnectionUp"),
            });
        }
    }
    graph
}

fn lines<const N: usize>(texts: [String; N]) -> Vec<String> {
    texts.into_iter().filter(|text| !text.is_empty()).collect()
}

impl Graph {
    /// In the language of Graphviz.
    pub fn dot(&self) -> String {
        let mut dot =
            String::from("graph antrea {\n\trankdir=TB;\n\tnode [style=filled, fillcolor=white];\n");
        for vertex in &self.vertices {
            let shape = match vertex.kind {
                Kind::Controller => "component",
                Kind::Node => "box",
                Kind::Network => "ellipse",
            };
            let label = quoted(&vertex.label);
            let colour = vertex.verdict.map_or("gray", colour);
            let _ =
                writeln!(dot, "\t{} [shape={shape}, label={label}, color={colour}];", quoted(&[&*vertex.id]));
        }
        for edge in &self.edges {
            let style = if edge.up { "solid, color=gray" } else { "dashed, color=red" };
            let (from, to, label) = (quoted(&[&*edge.from]), quoted(&[&*edge.to]), quoted(&[&*edge.label]));
            let _ = writeln!(dot, "\t{from} -- {to} [style={style}, label={label}];");
        }
        if self.omitted > 0 {
            let label = quoted(&[format!("and {} healthier nodes", self.omitted)]);
            let _ = writeln!(dot, "\tomitted [shape=plaintext, label={label}];");
        }
        dot.push_str("}\n");
        dot
    }
}

fn colour(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Healthy => "darkgreen",
        Verdict::Degraded | Verdict::Unknown => "orange",
        Verdict::Stale | Verdict::Unhealthy => "red",
    }
}

/// Lines of text as one string of Graphviz. What names contain can end neither the string nor the line.
pub(crate) fn quoted<T: AsRef<str>>(lines: &[T]) -> String {
    let mut text = String::from("\"");
    for (position, line) in lines.iter().enumerate() {
        if position > 0 {
            text.push_str("\\n");
        }
        for character in line.as_ref().chars() {
            match character {
                '"' | '\\' => text.extend(['\\', character]),
                control if control.is_control() => text.push(' '),
                other => text.push(other),
            }
        }
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_ends_its_string() {
        assert_eq!(quoted(&["a\"];evil\\", "b\nc"]), r#""a\"];evil\\\nb c""#);
    }
}
