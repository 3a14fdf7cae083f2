//! `/version`, as Kubernetes API servers answer it.

use axum::{Json, Router, routing::get};
use serde_json::{Value, json};

/// `GET /version` of a build that calls itself `git_version`, such as `v0.1.0`. It goes behind
/// [`crate::gate::protect`].
pub fn router(git_version: &str) -> Router {
    let document = document(git_version);
    Router::new().route("/version", get(async move || Json(document)))
}

fn document(git_version: &str) -> Value {
    let mut numbers = git_version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    json!({
        "major": major, "minor": minor, "gitVersion": git_version, "gitCommit": "",
        "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}
