//! Which rule decides between two Pods: a question that is posted, and comes back with its answer.

use std::sync::LazyLock;

use prost::Message;
use serde::{Deserialize, Serialize};

use super::{API_VERSION, NetworkPolicyReference, ObjectReference};
use crate::k8s::{Object, ObjectMeta, Resource};

/// [`Answer::rule_index`] of a Kubernetes policy that isolates a Pod, none of whose rules decides.
pub const NO_RULE: i32 = -1;

/// The question and its answer. It has no metadata and is kept nowhere.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NetworkPolicyEvaluation {
    /// Between whom.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<EvaluationRequest>,
    /// None if no policy says anything.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response: Option<Answer>,
}

/// `NetworkPolicyEvaluationRequest`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EvaluationRequest {
    /// Who sends.
    #[prost(message, required, tag = "1")]
    pub source: Entity,
    /// To whom.
    #[prost(message, required, tag = "2")]
    pub destination: Entity,
}

/// One end.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Entity {
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectReference>,
}

/// `NetworkPolicyEvaluationResponse`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Answer {
    /// The policy that decides.
    #[prost(message, required, tag = "1")]
    pub network_policy: NetworkPolicyReference,
    /// Position among the policy's rules of the direction, or [`NO_RULE`].
    #[prost(int32, tag = "2")]
    pub rule_index: i32,
    #[prost(message, required, tag = "3")]
    pub rule: RuleReference,
}

/// `RuleRef`.
#[derive(Clone, PartialEq, Message, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuleReference {
    /// `In` or `Out`.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub direction: String,
    /// Name of the rule.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// None of a Kubernetes policy.
    #[prost(string, optional, tag = "3")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}

impl Object for NetworkPolicyEvaluation {
    const API_VERSION: &'static str = API_VERSION;
    const KIND: &'static str = "NetworkPolicyEvaluation";
}

impl Resource for NetworkPolicyEvaluation {
    fn metadata(&self) -> &ObjectMeta {
        static NONE: LazyLock<ObjectMeta> = LazyLock::new(ObjectMeta::default);
        &NONE
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_and_numbers_are_upstreams() {
        let pod =
            |name: &str| Entity { pod: Some(ObjectReference { name: name.into(), namespace: "s".into() }) };
        let evaluation = NetworkPolicyEvaluation {
            request: Some(EvaluationRequest { source: pod("a"), destination: pod("b") }),
            response: Some(Answer {
                network_policy: NetworkPolicyReference {
                    type_: "K8sNetworkPolicy".into(),
                    namespace: "s".into(),
                    name: "p".into(),
                    uid: "u".into(),
                },
                rule_index: NO_RULE,
                rule: RuleReference { direction: "In".into(), ..RuleReference::default() },
            }),
        };
        assert_eq!(
            serde_json::to_value(&evaluation).unwrap(),
            json!({
                "request": {"source": {"pod": {"name": "a", "namespace": "s"}},
                            "destination": {"pod": {"name": "b", "namespace": "s"}}},
                "response": {"networkPolicy": {"type": "K8sNetworkPolicy", "namespace": "s", "name": "p", "uid": "u"},
                             "ruleIndex": -1, "rule": {"direction": "In"}},
            })
        );
        // request 1: source 1 and destination 2, each pod 1: name 1, namespace 2.
        let pod = |name: &[u8]| [b"\x0a\x06\x0a\x01", name, b"\x12\x01s"].concat();
        let request = [b"\x0a\x08".to_vec(), pod(b"a"), b"\x12\x08".to_vec(), pod(b"b")].concat();
        let bytes = evaluation.encode_to_vec();
        assert_eq!(bytes[..2 + request.len()], [b"\x0a\x14".to_vec(), request].concat());
        assert_eq!(NetworkPolicyEvaluation::decode(bytes.as_slice()).unwrap(), evaluation);
    }
}
