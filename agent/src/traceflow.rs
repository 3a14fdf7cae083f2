//! Traceflow on this node: looks out for the packet of each trace that runs, sends it if it comes from a pod of this
//! node, and writes what became of it here into the trace's status.
//!
//! ```text
//!  Traceflows ─► follow ─► flows of the tag (owner Trace) ─► bridge ─ packet-in ─► observations ─► status
//!                   └──────► packet, by the pod's port ────────┘
//! ```
//!
//! What decides is [`antrea_traceflow`]. All of a trace that outlives this process is its object: an agent that starts
//! anew installs its flows again, and sends the packet again unless its own result is there. What the bridge holds for a
//! trace goes with the trace, at its end, at its deletion and, whatever the controller does, a while after its time.

mod ends;
mod follow;
mod site;
mod status;

pub use follow::Tracer;
