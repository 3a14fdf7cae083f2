//! Admission policies: limits that a role cannot express.

use serde_json::{Value, json};

use super::{AGENT, CONTROLLER, api::SERVICE, managed};
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

/// Upstream's names of the configurations by which the API server asks the controller about policies, groups and Tiers.
const WEBHOOKS: [(&object::Kind, &str); 2] = [
    (&object::VALIDATING_WEBHOOKS, "crdvalidator.antrea.io"),
    (&object::MUTATING_WEBHOOKS, "crdmutator.antrea.io"),
];

/// Seconds within which the controller has to answer.
const TIMEOUT: u8 = 5;

/// What the controller says of those who write policies, groups and Tiers. Without an answer they are not written, as
/// upstream; nothing else waits for one, and what the controller writes itself does not.
pub(super) fn webhooks() -> [Object; 2] {
    let hook = |name: &str, path: &str, resource: &str, operations: &[&str]| {
        json!({
            "name": name,
            // The controller fills in caBundle, which therefore is not ours.
            "clientConfig": {"service": {"name": SERVICE, "namespace": NAMESPACE, "path": path, "port": 443}},
            "rules": [{
                "apiGroups": ["crd.antrea.io"],
                "apiVersions": ["v1beta1"],
                "operations": operations,
                "resources": [resource],
                "scope": "*",
            }],
            "matchConditions": [{
                "name": "not-by-the-controller",
                "expression":
                    format!("request.userInfo.username != 'system:serviceaccount:{NAMESPACE}:{CONTROLLER}'"),
            }],
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
            "failurePolicy": "Fail",
            "timeoutSeconds": TIMEOUT,
        })
    };
    let written = ["CREATE", "UPDATE"];
    let validating = [
        hook("tiervalidator.antrea.io", "/validate/tier", "tiers", &["CREATE", "UPDATE", "DELETE"]),
        hook("acnpvalidator.antrea.io", "/validate/acnp", "clusternetworkpolicies", &written),
        hook("annpvalidator.antrea.io", "/validate/annp", "networkpolicies", &written),
        hook("clustergroupvalidator.antrea.io", "/validate/clustergroup", "clustergroups", &written),
        hook("groupvalidator.antrea.io", "/validate/group", "groups", &written),
    ];
    let mutating = [
        hook("acnpmutator.antrea.io", "/mutate/acnp", "clusternetworkpolicies", &written),
        hook("annpmutator.antrea.io", "/mutate/annp", "networkpolicies", &written),
    ];
    let [validator, mutator] = WEBHOOKS;
    [(validator, json!(validating)), (mutator, json!(mutating))].map(|((kind, name), hooks)| {
        managed(kind, name, json!({"webhooks": hooks})).label("served-by", CONTROLLER)
    })
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
