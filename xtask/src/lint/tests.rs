//! Our own bundle and catalog break no rule, and each rule is broken by a bundle that differs in one thing.

use std::{collections::BTreeSet, path::PathBuf, sync::LazyLock};

use serde_json::json;

use super::*;
use crate::olm::{self, Images, Release};

fn release(history: Vec<Value>) -> Release {
    let version: semver::Version = if history.is_empty() { "0.1.0" } else { "0.2.0" }.parse().unwrap();
    Release { images: Images::of(&version), version, created: None, history }
}

/// Made once: the definitions' schemas take a while.
fn own() -> Bundle {
    static OWN: LazyLock<Bundle> = LazyLock::new(make);
    OWN.clone()
}

fn make() -> Bundle {
    let files = olm::files(&crate::files::root(), &release(Vec::new())).unwrap();
    let dockerfile = files.iter().find(|(path, _)| path.ends_with("bundle.Dockerfile")).unwrap().1.clone();
    let inside: Vec<(PathBuf, String)> = files
        .into_iter()
        .filter_map(|(path, text)| Some((path.strip_prefix("bundle").ok()?.to_path_buf(), text)))
        .collect();
    Bundle::new(&inside, Some(&dockerfile)).unwrap()
}

fn catalog_of(release: &Release) -> Catalog {
    let files = olm::files(&crate::files::root(), release).unwrap();
    let (_, text) = files.iter().find(|(path, _)| path.ends_with("catalog.yaml")).unwrap();
    Catalog { blobs: serde_saphyr::from_multiple(text).unwrap() }
}

/// Of the second version, so that there is an edge.
fn own_catalog() -> Catalog {
    static OWN: LazyLock<Catalog> = LazyLock::new(make_catalog);
    OWN.clone()
}

fn make_catalog() -> Catalog {
    let first = catalog_of(&release(Vec::new()));
    let history = first.blobs.into_iter().filter(|blob| blob["schema"] == "olm.bundle").collect();
    catalog_of(&release(history))
}

fn csv(bundle: &mut Bundle) -> &mut Value {
    let found = bundle.manifests.iter_mut().find(|(_, object)| object["kind"] == "ClusterServiceVersion");
    &mut found.unwrap().1
}

fn spec(bundle: &mut Bundle) -> &mut Value {
    &mut csv(bundle)["spec"]
}

fn annotations(bundle: &mut Bundle) -> &mut Value {
    &mut csv(bundle)["metadata"]["annotations"]
}

fn push(list: &mut Value, item: Value) {
    if list.is_null() {
        *list = json!([]);
    }
    list.as_array_mut().unwrap().push(item);
}

fn add(bundle: &mut Bundle, object: Value) {
    bundle.manifests.push(("manifests/more.yaml".into(), object));
}

/// An annotation of the bundle, and the label that repeats it.
fn set(bundle: &mut Bundle, key: &str, value: &str) {
    let key = format!("operators.operatorframework.io.{key}");
    bundle.annotations[&key] = value.into();
    let labels = bundle.labels.as_mut().unwrap();
    labels.iter_mut().find(|(label, _)| *label == key).unwrap().1 = value.to_owned();
}

fn grant(bundle: &mut Bundle, group: &str, resource: &str, names: &[&str], verb: &str) {
    let mut rule = json!({"apiGroups": [group], "resources": [resource], "verbs": [verb]});
    if !names.is_empty() {
        rule["resourceNames"] = json!(names);
    }
    push(&mut spec(bundle)["install"]["spec"]["clusterPermissions"][0]["rules"], rule);
}

fn budget(version: &str, field: &str, value: Value) -> Value {
    json!({"apiVersion": version, "kind": "PodDisruptionBudget", "metadata": {"name": "b"}, "spec": {field: value}})
}

fn definition(name: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{name}.example.com")},
        "spec": {
            "group": "example.com", "scope": "Cluster", "names": {"plural": name, "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object"}}}],
        },
    })
}

fn crd<'a>(bundle: &'a mut Bundle, kind: &str) -> &'a mut Value {
    let found = bundle.manifests.iter_mut().find(|(_, object)| object["spec"]["names"]["kind"] == kind);
    &mut found.unwrap().1
}

type Break<T> = (&'static str, fn(&mut T));

/// What breaks which rule.
const BROKEN: &[Break<Bundle>] = &[
    ("one-csv", |b| {
        let copy = csv(b).clone();
        add(b, copy);
    }),
    ("api-version-and-kind", |b| add(b, json!({"apiVersion": "v1", "metadata": {"name": "a"}}))),
    ("api-version-and-kind", |b| add(b, json!({"kind": "Secret", "metadata": {"name": "a"}}))),
    ("kinds", |b| add(b, json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a"}}))),
    ("size", |b| b.compressed = 1 << 20),
    ("size-is-tight", |b| b.compressed = 900_000),
    ("bundle-annotations", |b| set(b, "bundle.mediatype.v1", "helm")),
    ("bundle-annotations", |b| set(b, "bundle.package.v1", "")),
    ("default-channel", |b| set(b, "bundle.channel.default.v1", "fast")),
    ("channel-names", |b| set(b, "bundle.channels.v1", "candidate,stable,beta")),
    ("channel-names", |b| set(b, "bundle.channels.v1", "candidate,stable,stable-vX")),
    ("labels-match-annotations", |b| b.labels.as_mut().unwrap().retain(|(key, _)| !key.contains("package"))),
    ("labels-match-annotations", |b| b.labels.as_mut().unwrap().push(("a".into(), "b".into()))),
    ("scorecard", |b| b.scorecard = None),
    ("scorecard", |b| b.scorecard.as_mut().unwrap()["stages"] = json!([])),
    ("stray-files", |b| b.strays.push("notes.txt".into())),
    ("csv-name", |b| csv(b)["metadata"]["name"] = "antrea_operator.v0.1.0".into()),
    ("csv-name", |b| csv(b)["metadata"]["name"] = "antrea-operator".into()),
    ("csv-name", |b| csv(b)["metadata"]["name"] = format!("{}.v0.1.0", "a".repeat(60)).into()),
    ("replaces", |b| spec(b)["replaces"] = "antrea-operator".into()),
    ("replaces", |b| spec(b)["replaces"] = "antrea-operator.v0.1.0".into()),
    ("replaces", |b| spec(b)["replaces"] = "other.v0.0.1".into()),
    ("version", |b| spec(b)["version"] = "0.1".into()),
    ("version", |b| spec(b)["version"] = "0.1.1".into()),
    ("min-kube-version", |b| spec(b)["minKubeVersion"] = "1.30".into()),
    ("min-kube-version-given", |b| spec(b)["minKubeVersion"] = "".into()),
    ("mandatory-fields", |b| spec(b)["displayName"] = "".into()),
    ("mandatory-fields", |b| spec(b)["install"]["strategy"] = "job".into()),
    ("mandatory-fields", |b| {
        spec(b)["install"]["spec"]["deployments"][0]["spec"]["selector"]["matchLabels"] = json!({"a": "b"});
    }),
    ("mandatory-fields", |b| {
        spec(b)["install"]["spec"]["deployments"][0].as_object_mut().unwrap().remove("name");
    }),
    ("install-modes", |b| spec(b)["installModes"] = json!([])),
    ("install-modes", |b| {
        push(&mut spec(b)["installModes"], json!({"type": "AllNamespaces", "supported": true}))
    }),
    ("install-modes", |b| push(&mut spec(b)["installModes"], json!({"type": "Some", "supported": false}))),
    ("install-mode-supported", |b| spec(b)["installModes"][3]["supported"] = false.into()),
    ("conversion-all-namespaces", |b| {
        spec(b)["installModes"][0]["supported"] = true.into();
        push(&mut spec(b)["webhookdefinitions"], json!({"conversionCRDs": ["a.example.com"]}));
    }),
    ("webhook-rules", |b| {
        push(
            &mut spec(b)["webhookdefinitions"],
            json!({"rules": [{"apiGroups": ["*"], "resources": ["pods"]}]}),
        );
    }),
    ("webhook-rules", |b| {
        push(&mut spec(b)["webhookdefinitions"], json!({"rules": [{"apiGroups": ["operators.coreos.com"]}]}));
    }),
    ("webhook-rules", |b| {
        let rule = json!({"apiGroups": ["admissionregistration.k8s.io"], "resources": ["validatingwebhookconfigurations"]});
        push(&mut spec(b)["webhookdefinitions"], json!({"rules": [rule]}));
    }),
    ("examples-parse", |b| annotations(b)["alm-examples"] = "{".into()),
    ("examples-parse", |b| annotations(b)["alm-examples"] = r#"[{"metadata": {}}]"#.into()),
    ("examples-owned", |b| {
        let mut examples: Value =
            serde_json::from_str(annotations(b)["alm-examples"].as_str().unwrap()).unwrap();
        push(&mut examples, json!({"apiVersion": "example.com/v1", "kind": "Foo"}));
        annotations(b)["alm-examples"] = examples.to_string().into();
    }),
    ("examples-complete", |b| {
        let mut examples: Value =
            serde_json::from_str(annotations(b)["alm-examples"].as_str().unwrap()).unwrap();
        examples.as_array_mut().unwrap().pop();
        annotations(b)["alm-examples"] = examples.to_string().into();
    }),
    ("examples-once", |b| annotations(b)["olm.examples"] = "[]".into()),
    ("annotation-case", |b| annotations(b)["containerimage"] = "a".into()),
    ("related-images-parse", |b| {
        push(&mut spec(b)["relatedImages"], json!({"name": "a", "image": "Not A Reference"}));
    }),
    ("related-images-complete", |b| {
        spec(b)["relatedImages"].as_array_mut().unwrap().remove(0);
    }),
    ("related-images-complete", |b| annotations(b)["containerImage"] = "docker.io/antrea/other:v1".into()),
    ("service-accounts", |b| {
        add(
            b,
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "antrea-operator"}}),
        );
    }),
    ("olm-v1", |b| {
        spec(b)["customresourcedefinitions"]["required"] =
            json!([{"name": "foos.example.com", "kind": "Foo", "version": "v1"}]);
    }),
    ("olm-v1", |b| spec(b)["apiservicedefinitions"] = json!({"owned": [{"name": "v1.example.com"}]})),
    ("olm-v1", |b| {
        spec(b)["installModes"][3]["supported"] = false.into();
        spec(b)["installModes"][0]["supported"] = true.into();
    }),
    ("provider", |b| spec(b)["provider"]["name"] = " ".into()),
    ("maintainers", |b| spec(b)["maintainers"] = json!([])),
    ("maintainers", |b| spec(b)["maintainers"][0]["email"] = "nobody".into()),
    ("links", |b| spec(b)["links"] = json!([])),
    ("links", |b| spec(b)["links"][0]["url"] = "antrea.io".into()),
    ("icon", |b| spec(b)["icon"] = json!([])),
    ("icon", |b| spec(b)["icon"][0]["mediatype"] = "image/bmp".into()),
    ("icon", |b| spec(b)["icon"][0]["base64data"] = "%".into()),
    ("capability-level", |b| annotations(b)["capabilities"] = "Level 2".into()),
    ("categories", |b| annotations(b)["categories"] = "Networking,Fun".into()),
    ("openshift-features", |b| annotations(b)["features.operators.openshift.io/cni"] = "yes".into()),
    ("disconnected-by-digest", |b| {
        annotations(b)["features.operators.openshift.io/disconnected"] = "true".into()
    }),
    ("architectures", |b| {
        csv(b)["metadata"]["labels"]["operatorframework.io/arch.mips"] = "supported".into()
    }),
    ("architectures", |b| {
        let deployment = &mut spec(b)["install"]["spec"]["deployments"][0];
        deployment["spec"]["template"]["spec"]["nodeSelector"]["kubernetes.io/arch"] = "arm64".into();
    }),
    ("resource-requests", |b| {
        let deployment = &mut spec(b)["install"]["spec"]["deployments"][0];
        deployment["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"] =
            json!({"cpu": "10m"});
    }),
    ("owned-crds-shipped", |b| {
        b.manifests.retain(|(_, object)| object["spec"]["names"]["kind"] != "AntreaAgentInfo")
    }),
    ("shipped-crds-owned", |b| add(b, definition("foos"))),
    ("crds-once", |b| {
        let copy = crd(b, "AntreaAgentInfo").clone();
        add(b, copy);
    }),
    ("owned-once", |b| {
        let copy = spec(b)["customresourcedefinitions"]["owned"][0].clone();
        push(&mut spec(b)["customresourcedefinitions"]["owned"], copy);
    }),
    ("crds-valid", |b| crd(b, "AntreaAgentInfo")["spec"]["scope"] = "World".into()),
    ("crds-valid", |b| crd(b, "AntreaAgentInfo")["spec"]["versions"][0]["storage"] = false.into()),
    ("crds-valid", |b| crd(b, "AntreaAgentInfo")["spec"]["group"] = "other.io".into()),
    ("crds-valid", |b| crd(b, "AntreaAgentInfo")["spec"]["versions"][0]["schema"] = json!({})),
    ("crds-valid", |b| crd(b, "AntreaAgentInfo")["spec"]["versions"][0]["served"] = "yes".into()),
    ("crd-descriptions", |b| spec(b)["customresourcedefinitions"]["owned"][0]["description"] = "".into()),
    ("disruption-budgets", |b| add(b, budget("policy/v1", "maxUnavailable", 0.into()))),
    ("disruption-budgets", |b| add(b, budget("policy/v1", "maxUnavailable", "0%".into()))),
    ("disruption-budgets", |b| add(b, budget("policy/v1", "minAvailable", "100%".into()))),
    ("priority-classes", |b| {
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "a"}, "globalDefault": true});
        add(b, class);
    }),
    ("default-sccs", |b| {
        grant(b, "security.openshift.io", "securitycontextconstraints", &["privileged"], "update")
    }),
    ("default-sccs", |b| grant(b, "security.openshift.io", "securitycontextconstraints", &[], "*")),
    ("rbac-budgets", |b| grant(b, "policy", "poddisruptionbudgets", &[], "create")),
    ("rbac-crds", |b| grant(b, "apiextensions.k8s.io", "customresourcedefinitions", &[], "create")),
    ("rbac-crds", |b| {
        let names = ["a", "tiers.crd.antrea.io"];
        grant(b, "apiextensions.k8s.io", "customresourcedefinitions", &names, "create");
    }),
    ("removed-apis", |b| add(b, budget("policy/v1beta1", "maxUnavailable", 1.into()))),
    ("roles-by-serviceaccount", |b| {
        push(&mut spec(b)["install"]["spec"]["permissions"], json!({"rules": []}));
    }),
];

fn rules_of(findings: &[Finding]) -> BTreeSet<&'static str> {
    findings.iter().map(|finding| finding.rule).collect()
}

#[test]
fn our_bundle_breaks_no_rule() {
    assert_eq!(own().lint(), []);
}

#[test]
fn our_catalog_breaks_no_rule() {
    assert_eq!(catalog_of(&release(Vec::new())).lint(), []);
    assert_eq!(own_catalog().lint(), []);
}

/// What is committed is what is generated, and a folder is read as its files are.
#[test]
fn the_folders_are_read() {
    let olm = crate::files::root().join("olm");
    let bundle = Bundle::load(&olm.join("bundle")).unwrap();
    assert_eq!(bundle.lint(), []);
    assert!(bundle.labels.is_some_and(|labels| labels.len() > 5), "the Dockerfile beside it is read");
    let catalog = Catalog::load(&olm.join("catalog")).unwrap();
    assert_eq!((catalog.lint(), catalog.blobs.len()), (Vec::new(), 4));
}

#[test]
fn each_rule_is_broken_by_a_bundle_that_breaks_only_it() {
    for (i, (rule, break_it)) in BROKEN.iter().enumerate() {
        let mut bundle = own();
        break_it(&mut bundle);
        let findings = bundle.lint();
        assert_eq!(rules_of(&findings), BTreeSet::from([*rule]), "case {i}: {findings:?}");
    }
    let proven: BTreeSet<&str> = BROKEN.iter().map(|(rule, _)| *rule).collect();
    let all: BTreeSet<&str> = BUNDLE_RULES.iter().copied().flatten().map(|rule| rule.name).collect();
    assert_eq!(proven, all);
}

fn blob<'a>(catalog: &'a mut Catalog, schema: &str, name: &str) -> &'a mut Value {
    let found = catalog.blobs.iter_mut().find(|blob| blob["schema"] == schema && blob["name"] == name);
    found.unwrap()
}

const NEW: &str = "antrea-operator.v0.2.0";

const BROKEN_CATALOGS: &[Break<Catalog>] = &[
    ("one-package", |c| {
        let copy = blob(c, "olm.package", "antrea-operator").clone();
        c.blobs.push(copy);
    }),
    ("blob-schema", |c| {
        c.blobs.push(json!({"schema": "olm.more", "package": "antrea-operator", "name": "a"}))
    }),
    ("blobs-once", |c| {
        let copy = blob(c, "olm.bundle", NEW).clone();
        c.blobs.push(copy);
    }),
    ("blobs-of-the-package", |c| {
        c.blobs.push(json!({"schema": "olm.deprecations", "package": "other", "entries": []}))
    }),
    ("catalog-default-channel", |c| {
        blob(c, "olm.package", "antrea-operator")["defaultChannel"] = "fast".into()
    }),
    ("channel-has-entries", |c| {
        c.blobs.push(
            json!({"schema": "olm.channel", "package": "antrea-operator", "name": "fast", "entries": []}),
        );
    }),
    ("one-head", |c| {
        for entry in blob(c, "olm.channel", "stable")["entries"].as_array_mut().unwrap() {
            entry.as_object_mut().unwrap().retain(|key, _| key == "name");
        }
    }),
    ("entries-have-bundles", |c| {
        let entries = &mut blob(c, "olm.channel", "stable")["entries"];
        entries[0]["replaces"] = "antrea-operator.v0.0.9".into();
        push(entries, json!({"name": "antrea-operator.v0.0.9"}));
    }),
    ("bundles-in-channels", |c| {
        let mut more = blob(c, "olm.bundle", NEW).clone();
        more["name"] = "antrea-operator.v0.0.9".into();
        c.blobs.push(more);
    }),
    ("skip-range", |c| blob(c, "olm.channel", "stable")["entries"][1]["skipRange"] = "<0.2.0".into()),
    ("skip-range", |c| blob(c, "olm.channel", "stable")["entries"][1]["skipRange"] = ">=0.1.0 <0.3.0".into()),
    ("skip-range-with-replaces", |c| {
        let entry = &mut blob(c, "olm.channel", "stable")["entries"][1];
        let replaced = entry.as_object_mut().unwrap().remove("replaces").unwrap();
        entry["skips"] = json!([replaced]);
    }),
    ("bundle-package-version", |c| {
        blob(c, "olm.bundle", NEW)["properties"][0]["value"]["version"] = "x".into()
    }),
    ("bundle-images", |c| blob(c, "olm.bundle", NEW)["image"] = "docker.io/antrea/another:v1".into()),
    ("bundle-images", |c| blob(c, "olm.bundle", NEW)["relatedImages"][1]["image"] = "Bad".into()),
    ("head-has-metadata", |c| {
        blob(c, "olm.bundle", NEW)["properties"]
            .as_array_mut()
            .unwrap()
            .retain(|one| one["type"] != "olm.csv.metadata");
    }),
    ("deprecations", |c| {
        let entry = json!({"reference": {"schema": "olm.bundle", "name": "antrea-operator.v0.0.1"}, "message": "old"});
        c.blobs.push(json!({"schema": "olm.deprecations", "package": "antrea-operator", "entries": [entry]}));
    }),
];

#[test]
fn each_rule_is_broken_by_a_catalog_that_breaks_only_it() {
    for (i, (rule, break_it)) in BROKEN_CATALOGS.iter().enumerate() {
        let mut catalog = own_catalog();
        break_it(&mut catalog);
        let findings = catalog.lint();
        assert_eq!(rules_of(&findings), BTreeSet::from([*rule]), "case {i}: {findings:?}");
    }
    let proven: BTreeSet<&str> = BROKEN_CATALOGS.iter().map(|(rule, _)| *rule).collect();
    let all: BTreeSet<&str> = catalog::CATALOG_RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(proven, all);
}

/// A file that is no YAML is an error that names it; a bundle of nothing is told to be one.
#[test]
fn what_is_no_bundle() {
    let broken = [(PathBuf::from("manifests/a.yaml"), "a: [".to_owned())];
    let error = Bundle::new(&broken, None).err().unwrap();
    assert!(format!("{error:#}").contains("manifests/a.yaml"), "{error:#}");
    let empty = Bundle::new(&[], None).unwrap();
    assert_eq!(rules_of(&empty.lint()), BTreeSet::from(["one-csv", "bundle-annotations"]));
}
