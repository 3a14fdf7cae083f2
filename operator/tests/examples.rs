//! Examples of the documents, as agents get them.

#![allow(clippy::unwrap_used, reason = "tests")]

use antrea_operator::{effective::Facts, render::render};
use serde_json::{Value, json};

#[test]
fn the_examples_of_who_serves_services() {
    let facts = Facts { default_version: "v0.1.0".into(), ..Facts::default() };
    let text = include_str!("../../docs/proxy.md");
    let blocks = text.split("```yaml\n").skip(1).map(|block| block.split("```").next().unwrap());
    let served: Vec<Value> = blocks
        .map(|block| {
            let object: Value = serde_saphyr::from_str(block).unwrap();
            let objects = render(&serde_json::from_value(object["spec"].clone()).unwrap(), &facts).unwrap();
            let config = objects.iter().find(|object| object.name == "antrea-config").unwrap();
            let conf = config.body["data"]["antrea-agent.conf"].as_str().unwrap();
            let conf: Value = serde_saphyr::from_str(conf).unwrap();
            json!([conf["featureGates"]["AntreaProxy"], conf["antreaProxy"]])
        })
        .collect();
    let all = json!({"proxyAll": true, "nodePortAddresses": ["192.0.2.0/24"],
                     "serviceHealthCheckServerBindAddress": "0.0.0.0:10256"});
    assert_eq!(served, [json!([true, null]), json!([true, all])]);
}
