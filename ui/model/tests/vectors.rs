//! The vectors in `vectors/`, which user interfaces in other languages check themselves by too.
//!
//! `UPDATE_VECTORS=1` writes what comes out into them; what changed is then for people to look at.

use std::{error::Error, path::Path};

use antrea_ui_model::{Input, View, trace};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

#[derive(Deserialize, Serialize)]
struct Vector {
    /// What it shows.
    about: String,
    /// An [`Input`], or `{"traceflows": [...]}`.
    input: Value,
    /// The view, or `{"rows": [...], "dots": [...]}`.
    expected: Value,
}

fn answer(input: &Value) -> Result<Value, Box<dyn Error>> {
    if let Some(list) = input.get("traceflows") {
        let traces: Vec<trace::Traceflow> = Vec::deserialize(list)?;
        let dots: Vec<String> = traces.iter().map(trace::dot).collect();
        return Ok(json!({"rows": trace::rows(&traces), "dots": dots}));
    }
    let view = View::of(&Input::deserialize(input)?);
    let dot = view.graph.dot();
    let mut value = serde_json::to_value(view)?;
    value["dot"] = dot.into();
    Ok(value)
}

#[test]
fn every_vector_gives_what_it_says() -> Result<(), Box<dyn Error>> {
    let mut wrong = Vec::new();
    let mut count = 0;
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors"))? {
        let path = entry?.path();
        let mut vector: Vector = serde_json::from_slice(&std::fs::read(&path)?)?;
        let answer = answer(&vector.input).map_err(|error| format!("{}: {error}", path.display()))?;
        count += 1;
        if answer != vector.expected {
            wrong.push(format!("{}: {}: {answer:#}", path.display(), vector.about));
            if std::env::var_os("UPDATE_VECTORS").is_some() {
                vector.expected = answer;
                std::fs::write(&path, serde_json::to_string_pretty(&vector)? + "\n")?;
            }
        }
    }
    assert!(count >= 10, "only {count} vectors");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// However many nodes there are: what is drawn stays readable, and those that are not well are drawn.
#[test]
fn a_large_cluster_is_drawn_in_part() -> Result<(), Box<dyn Error>> {
    let agent = |number: usize, status: &str| {
        json!({"apiVersion": "crd.antrea.io/v1beta1", "kind": "AntreaAgentInfo",
            "metadata": {"name": format!("node{number:04}")},
            "agentConditions": [{"type": "AgentHealthy", "status": status, "lastHeartbeatTime": "2026-11-28T12:00:00Z"}]})
    };
    let agents: Vec<Value> =
        (0..2_000).map(|number| agent(number, if number == 1_999 { "False" } else { "True" })).collect();
    let input = Input::deserialize(&json!({"now": "2026-11-28T12:00:30Z", "agents": agents}))?;
    let view = View::of(&input);
    assert_eq!((view.agents.len(), view.counts.healthy, view.graph.omitted), (2_000, 1_999, 1_900));
    assert!(view.graph.vertices.iter().any(|vertex| vertex.id == "node/node1999"));
    assert!(view.graph.dot().contains("1900 healthier nodes"));
    Ok(())
}
