//! `yaml/` holds what the types say.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::{fs, path::Path};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

#[test]
fn generated_yaml_is_current() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("yaml");
    let mut names = Vec::new();
    for crd in antrea_crds::all() {
        let name = format!("{}_{}.yaml", crd.spec.group, crd.spec.names.plural);
        let text = fs::read_to_string(dir.join(&name)).expect("run `cargo xtask generate`");
        let parsed: CustomResourceDefinition = serde_saphyr::from_str(&text).unwrap();
        assert_eq!(parsed, crd, "{name} is stale: run `cargo xtask generate`");
        names.push(name);
    }
    let mut found: Vec<String> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    names.sort();
    assert_eq!(found, names, "a file that no type stands behind");
}
