//! Custom resources: Rust types, schemas and the CRDs made from them.
//!
//! ```text
//! operator.antrea.io/v1alpha1  AntreaInstallation    what a user asks for, read by the operator
//! crd.antrea.io/v1beta1        AntreaAgentInfo       one per Node, written by its agent
//! crd.antrea.io/v1beta1        AntreaControllerInfo  one, written by the controller
//! crd.antrea.io/v1beta1        Traceflow             the way of one packet, asked for by users
//! crd.antrea.io/v1alpha1       PacketCapture         the packets of one flow, asked for by users
//! crd.antrea.io/v1beta1        Tier, ClusterNetworkPolicy, NetworkPolicy, ClusterGroup, Group   policies with an order
//! policy.networking.k8s.io/v1alpha2  ClusterNetworkPolicy   the Kubernetes project's, where its gate is on
//! policy.networking.k8s.io/v1alpha2   ClusterNetworkPolicy   the Kubernetes project's policies with an order
//! ```
//!
//! Invariants:
//! - The types carry no client: a pure crate may depend on them.
//! - `yaml/` holds exactly what [`all`] returns; `cargo xtask generate --check` and a test keep it so.
//! - Schemas hold only what an API server understands: no `nullable` on optional fields (a null there is
//!   pruned, and CEL's `has()` then means "is set"), no integer formats foreign to OpenAPI.
//! - The Info kinds keep upstream Antrea's field names; whatever is added to them is optional.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

mod capabilities;
mod info;
pub mod installation;
pub mod packet_capture;
pub mod policy;
pub mod probes;
pub mod standard;
pub mod traceflow;

pub use capabilities::Capabilities;
pub use info::{
    AgentCondition, AgentConditionType, AgentInfo, AntreaAgentInfo, AntreaControllerInfo,
    ControllerCondition, ControllerConditionType, ControllerInfo, NetworkInfo, NetworkPolicyControllerInfo,
    OvsInfo,
};
pub use installation::{AntreaInstallation, AntreaInstallationSpec, AntreaInstallationStatus};
pub use packet_capture::{PacketCapture, PacketCaptureSpec};
pub use traceflow::{Traceflow, TraceflowSpec};

/// Name of the only [`AntreaControllerInfo`].
pub const CONTROLLER_INFO_NAME: &str = "antrea-controller";

/// Name of the only [`AntreaInstallation`].
pub const INSTALLATION_NAME: &str = "default";

/// Every CRD of this crate, in the order in which they are applied.
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut crds = vec![installation_crd()];
    crds.extend(operand());
    crds
}

/// The CRDs that an installed Antrea needs; the operator's own is not among them.
pub fn operand() -> Vec<CustomResourceDefinition> {
    let crds = [
        AntreaAgentInfo::crd(),
        AntreaControllerInfo::crd(),
        Traceflow::crd(),
        PacketCapture::crd(),
        policy::Tier::crd(),
        policy::ClusterNetworkPolicy::crd(),
        policy::NetworkPolicy::crd(),
        policy::ClusterGroup::crd(),
        policy::Group::crd(),
    ];
    crds.into_iter().map(finish).collect()
}

/// The CRD of the Kubernetes project's ClusterNetworkPolicy. It is in no manifest: a cluster may have it from somebody else,
/// in another form.
pub fn standard_crd() -> CustomResourceDefinition {
    finish(standard::ClusterNetworkPolicy::crd())
}

/// The operator's own CRD.
pub fn installation_crd() -> CustomResourceDefinition {
    finish(AntreaInstallation::crd())
}

/// Turns what schemars says into what an API server takes without a warning.
fn finish(crd: CustomResourceDefinition) -> CustomResourceDefinition {
    let mut value = serde_json::to_value(crd).expect("a CRD must be JSON");
    if let Some(versions) = value.pointer_mut("/spec/versions").and_then(Value::as_array_mut) {
        for version in versions {
            if let Some(schema) = version.pointer_mut("/schema/openAPIV3Schema") {
                finish_schema(schema);
            }
        }
    }
    serde_json::from_value(value).expect("a CRD must stay a CRD")
}

/// Formats that the API server's structural schemas know and that our types use.
const KNOWN_FORMATS: [&str; 7] = ["int32", "int64", "float", "double", "byte", "date-time", "cidr"];

fn finish_schema(schema: &mut Value) {
    let Value::Object(node) = schema else { return };
    node.remove("nullable");
    // Doc comments are wrapped for this source; kubectl wraps for the reader's terminal.
    if let Some(Value::String(text)) = node.get_mut("description") {
        *text = text.split("\n\n").map(|part| part.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    }
    if node.get("format").and_then(Value::as_str).is_some_and(|format| !KNOWN_FORMATS.contains(&format)) {
        node.remove("format");
    }
    if let Some(Value::Object(children)) = node.get_mut("properties") {
        children.values_mut().for_each(finish_schema);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(child) = node.get_mut(key) {
            finish_schema(child);
        }
    }
}
