//! Admission policies: limits that a role cannot express.

use serde_json::{Value, json};

use super::{AGENT, managed};
use crate::{
    NAMESPACE,
    object::{self, Object},
};

/// Name of the policy that limits agents to their own AntreaAgentInfo, and of its binding.
const AGENT_INFO: &str = "antrea-agent-info";

/// An agent changes the AntreaAgentInfo of the Node that its token is bound to, and no other. The API server writes
/// that Node's name into what it knows of the token's user.
pub(super) fn objects() -> [Object; 2] {
    let node = "authentication.kubernetes.io/node-name";
    let is_own = format!(
        "has(request.userInfo.extra) && '{node}' in request.userInfo.extra && \
         request.userInfo.extra['{node}'] == [object.metadata.name]"
    );
    let is_agent = format!("request.userInfo.username == 'system:serviceaccount:{NAMESPACE}:{AGENT}'");
    let policy = json!({
        "failurePolicy": "Fail",
        "matchConstraints": {"resourceRules": [{
            "apiGroups": ["crd.antrea.io"],
            "apiVersions": ["v1beta1"],
            "operations": ["CREATE", "UPDATE"],
            "resources": ["antreaagentinfos"],
        }]},
        "matchConditions": [{"name": "by-an-agent", "expression": is_agent}],
        "validations": [{
            "expression": is_own,
            "message": "an agent may change the AntreaAgentInfo of its own Node only",
        }],
    });
    let bound = json!({"policyName": AGENT_INFO, "validationActions": ["Deny"]});
    [
        managed(&object::ADMISSION_POLICY, AGENT_INFO, json!({"spec": policy})),
        managed(&object::ADMISSION_BINDING, AGENT_INFO, json!({"spec": bound})),
    ]
}

/// Name of the policy that checks AntreaInstallations, and of its binding.
const INSTALLATION: &str = "antrea-installation";

/// The policy as the manifest has it.
const VALIDATION: &str = include_str!("../../../config/operator/validation.yaml");

/// The policy that checks AntreaInstallations, for those who cannot bring it themselves.
pub(super) fn installation() -> [Object; 2] {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(VALIDATION).expect("the manifest's policy must be YAML");
    let spec = |kind: &object::Kind| {
        let found = documents.iter().find(|document| document["kind"] == kind.kind);
        json!({"spec": found.map_or(Value::Null, |document| document["spec"].clone())})
    };
    [
        managed(&object::ADMISSION_POLICY, INSTALLATION, spec(&object::ADMISSION_POLICY)),
        managed(&object::ADMISSION_BINDING, INSTALLATION, spec(&object::ADMISSION_BINDING)),
    ]
}
