//! The agent's own API, as far as its clients have to know of it.

/// Audience of tokens that are good for the agent of `node` and for nobody else: an agent that is shown one can use it
/// neither with the API server nor with another agent.
pub fn audience(node: &str) -> String {
    format!("antrea-agent/{node}")
}
