//! What is refused when an AntreaInstallation is applied and its schema cannot say: config/operator/validation.yaml.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{fs, path::Path};

use kube_cel::{VapEvaluator, VapExpression};
use serde_json::{Value, json};

/// Messages of the rules that a spec breaks.
fn broken(spec: &Value) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/operator/validation.yaml");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&fs::read_to_string(path).unwrap()).unwrap();
    let rules = documents[0]["spec"]["validations"].as_array().unwrap();
    let rules: Vec<VapExpression> = rules
        .iter()
        .map(|rule| VapExpression {
            expression: rule["expression"].as_str().unwrap().to_owned(),
            message: rule["message"].as_str().map(str::to_owned),
            message_expression: None,
        })
        .collect();
    let object = json!({"metadata": {"name": "default"}, "spec": spec});
    let evaluator = VapEvaluator::builder().object(object).build();
    evaluator
        .evaluate(&rules)
        .into_iter()
        .filter(|result| !result.passed)
        .filter_map(|result| result.message)
        .collect()
}

#[test]
fn requests_above_limits_name_their_field() {
    let resources =
        |requests: Value, limits: Value| json!({"resources": {"requests": requests, "limits": limits}});
    for (requests, limits, good) in [
        (json!({"cpu": "200m", "memory": "64Mi"}), json!({"cpu": 1, "memory": "64Mi"}), true),
        (json!({"cpu": 2}), json!({"memory": "1Gi"}), true),
        (json!({"memory": "65Mi"}), json!({"memory": "64Mi"}), false),
        (json!({"memory": "64Mi"}), json!({"memory": "64M"}), false),
        (json!({"cpu": 2}), json!({"cpu": "1500m"}), false),
    ] {
        for field in ["agent", "controller", "ovs"] {
            let messages = broken(&json!({field: resources(requests.clone(), limits.clone())}));
            let expected =
                format!("spec.{field}.resources.requests: more than spec.{field}.resources.limits");
            let expected = if good { Vec::new() } else { vec![expected] };
            assert_eq!(messages, expected, "{requests} {limits}");
        }
    }
    for spec in [json!({}), json!({"agent": {}}), json!({"ovs": {"resources": {"limits": {"cpu": 1}}}})] {
        assert!(broken(&spec).is_empty(), "{spec}");
    }
}
