use std::collections::BTreeSet;

use antrea_crds::AntreaInstallationSpec;
use antrea_operator::{
    effective::{Effective, Facts, RelatedImages, effective},
    object::Object,
    render::{self, Delivery},
};

use super::{
    plan::{Install, Rules, steps},
    *,
};
use crate::{files::root, lint};

fn release(version: &str, history: Vec<Value>) -> Release {
    let version: Version = version.parse().unwrap();
    Release { images: Images::of(&version), version, created: None, history }
}

fn loaded(release: &Release) -> lint::Bundle {
    lint::Bundle::new(&bundle(&root(), release).unwrap(), None).unwrap()
}

fn current() -> lint::Bundle {
    loaded(&release("0.1.0", Vec::new()))
}

/// Value of a variable of the operator's container in the bundle.
fn env(bundle: &lint::Bundle, name: &str) -> Option<String> {
    let container = "/spec/install/spec/deployments/0/spec/template/spec/containers/0/env";
    let env = bundle.csv()?.pointer(container)?.as_array()?;
    Some(env.iter().find(|variable| variable["name"] == name)?["value"].as_str()?.to_owned())
}

/// What the operator of the bundle would make of an AntreaInstallation.
fn config(bundle: &lint::Bundle) -> Effective {
    let facts = Facts {
        default_version: env(bundle, "ANTREA_VERSION").unwrap(),
        related: RelatedImages {
            agent: env(bundle, "RELATED_IMAGE_ANTREA_AGENT"),
            controller: env(bundle, "RELATED_IMAGE_ANTREA_CONTROLLER"),
        },
        ..Facts::default()
    };
    // With a definition that is not the bundle's.
    let gates = [("ClusterNetworkPolicy".to_owned(), true)].into();
    let spec = AntreaInstallationSpec { feature_gates: gates, ..AntreaInstallationSpec::default() };
    effective(&spec, &facts).unwrap()
}

fn rendered(config: &Effective, delivery: Delivery) -> Vec<Object> {
    let mut objects = render::objects(config, &delivery.into());
    objects.extend([render::preflight(config), render::cleanup(config, &delivery.into())]);
    objects
}

/// Images of all containers of an object's Pods.
fn images_of(body: &Value) -> Vec<String> {
    let pod = &body["spec"]["template"]["spec"];
    let containers =
        ["initContainers", "containers"].into_iter().filter_map(|key| pod[key].as_array()).flatten();
    containers.map(|container| container["image"].as_str().unwrap().to_owned()).collect()
}

/// A mirror of `relatedImages` has what runs, and nothing that does not.
#[test]
fn the_related_images_reach_every_pod() {
    let digest = |c: char| format!("registry.example.com/antrea/x@sha256:{}", c.to_string().repeat(64));
    let mut release = release("0.3.0", Vec::new());
    release.images.operator = digest('0');
    release.images.agent = digest('1');
    release.images.controller = digest('2');
    let bundle = loaded(&release);
    let config = config(&bundle);
    assert_eq!(config.version, "v0.3.0");
    let mut run: BTreeSet<String> = BTreeSet::new();
    for object in rendered(&config, Delivery::Olm) {
        run.extend(images_of(&object.body));
    }
    run.extend(images_of(&bundle.csv().unwrap()["spec"]["install"]["spec"]["deployments"][0]));
    let related = bundle.csv().unwrap()["spec"]["relatedImages"].as_array().unwrap();
    let related: BTreeSet<String> =
        related.iter().map(|one| one["image"].as_str().unwrap().to_owned()).collect();
    assert_eq!(run, related);
    let annotations = &bundle.csv().unwrap()["metadata"]["annotations"];
    assert_eq!(annotations["features.operators.openshift.io/disconnected"], "true", "all by digest");
}

fn key(object: &Value) -> (String, String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&object["kind"]), text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]))
}

fn plan(rules: Rules) -> Vec<Vec<Value>> {
    let env = [("KUBERNETES_API_SERVER".to_owned(), "https://192.0.2.1:6443".to_owned())];
    steps(&current(), &Install { rules, namespace: "antrea-operator", env: &env }).unwrap()
}

/// Two owners of one object would undo each other's changes for ever.
#[test]
fn no_object_has_two_owners() {
    let config = config(&current());
    let delivered = |objects: Vec<Value>| objects.iter().map(key).collect::<BTreeSet<_>>();
    let olm: Vec<Value> = plan(Rules::V0).into_iter().chain(plan(Rules::V1)).flatten().collect();
    let manifest = crate::files::documents(&root().join("config/antrea-operator.yaml")).unwrap();
    for (delivery, brought) in [(Delivery::Olm, delivered(olm)), (Delivery::Manifests, delivered(manifest))] {
        for object in rendered(&config, delivery) {
            assert!(!brought.contains(&key(&object.body)), "{delivery:?} brings {} too", object.key());
        }
    }
}

/// Whoever brings what: in the end there is the same in the cluster.
#[test]
fn both_ways_end_with_the_same_objects() {
    let config = config(&current());
    // Roles and bindings of the operator have names that OLM gives them.
    let compared = |objects: Vec<Value>| {
        let keys = objects.iter().map(key);
        let own = |(kind, _, name): &(String, String, String)| {
            (kind.contains("Role") && name.starts_with(PACKAGE)) || kind == "Namespace"
        };
        keys.filter(|key| !own(key)).collect::<BTreeSet<_>>()
    };
    let all = |brought: Vec<Value>, delivery| {
        let objects = rendered(&config, delivery).into_iter().map(|object| object.body);
        compared(brought.into_iter().chain(objects).collect())
    };
    let manifest = crate::files::documents(&root().join("config/antrea-operator.yaml")).unwrap();
    let olm = plan(Rules::V1).into_iter().flatten().collect();
    assert_eq!(all(manifest, Delivery::Manifests), all(olm, Delivery::Olm));
}

fn rules(bundle: &lint::Bundle, permissions: &str) -> Vec<Value> {
    let grants = bundle.csv().unwrap()["spec"]["install"]["spec"][permissions].as_array().unwrap();
    assert_eq!(grants.len(), 1);
    assert_eq!(grants[0]["serviceAccountName"], PACKAGE);
    grants[0]["rules"].as_array().unwrap().clone()
}

/// The bundle grants what the manifest grants, but for the two things that change hands.
#[test]
fn permissions_are_those_that_are_shipped() {
    let documents = crate::files::documents(&root().join("config/operator/rbac.yaml")).unwrap();
    let shipped = |kind: &str| -> Vec<Value> {
        let roles = documents.iter().filter(|document| document["kind"] == kind);
        roles.flat_map(|role| role["rules"].as_array().unwrap().clone()).collect()
    };
    let bundle = current();
    assert_eq!(rules(&bundle, "permissions"), shipped("Role"));
    let (given, shipped) = (rules(&bundle, "clusterPermissions"), shipped("ClusterRole"));
    let only = |these: &[Value], others: &[Value]| -> Vec<Value> {
        these.iter().filter(|rule| !others.contains(rule)).cloned().collect()
    };
    let (more, less) = (only(&given, &shipped), only(&shipped, &given));
    let names: Vec<&Value> = more.iter().map(|rule| &rule["resourceNames"]).collect();
    let standard = json!(["clusternetworkpolicies.policy.networking.k8s.io"]);
    assert_eq!(names, [&standard, &json!(["antrea-agent-info", "antrea-installation"])]);
    let groups: Vec<&str> = less.iter().map(|rule| rule["apiGroups"][0].as_str().unwrap()).collect();
    assert_eq!(groups, ["apiextensions.k8s.io", "admissionregistration.k8s.io"]);
}

/// With these permissions everything that the operator of the bundle renders can be applied.
#[test]
fn permissions_suffice() {
    let bundle = current();
    let holds = |list: &Value, item: &str| list.as_array().is_some_and(|list| list.contains(&item.into()));
    let cluster = rules(&bundle, "clusterPermissions");
    let all = [cluster.clone(), rules(&bundle, "permissions")].concat();
    for object in rendered(&config(&bundle), Delivery::Olm) {
        let rules = if object.kind.namespaced { &all } else { &cluster };
        let is_definition = object.kind.plural == "customresourcedefinitions";
        for verb in ["get", "create", "patch", "delete"] {
            // A definition is never deleted, for all its objects would be too.
            if is_definition && verb == "delete" {
                continue;
            }
            let allowed = rules.iter().any(|rule| {
                holds(&rule["apiGroups"], object.kind.group)
                    && holds(&rule["resources"], object.kind.plural)
                    && holds(&rule["verbs"], verb)
                    && (rule["resourceNames"].is_null() || holds(&rule["resourceNames"], &object.name))
            });
            assert!(allowed, "{verb} {}", object.key());
        }
    }
}

/// A console finds each field that a descriptor names, and has one for each field that can be set.
#[test]
fn descriptors_follow_the_schema() {
    let bundle = current();
    let owned = &bundle.csv().unwrap()["spec"]["customresourcedefinitions"]["owned"][0];
    let crd = antrea_crds::installation_crd();
    let schema = serde_json::to_value(&crd.spec.versions[0].schema).unwrap();
    for (key, part) in [("specDescriptors", "spec"), ("statusDescriptors", "status")] {
        let top = &schema["openAPIV3Schema"]["properties"][part];
        let mut covered = BTreeSet::new();
        for descriptor in owned[key].as_array().unwrap() {
            let path = descriptor["path"].as_str().unwrap();
            let mut field = top;
            for step in path.split('.') {
                field = &field["properties"][step];
            }
            assert!(field.is_object(), "{path} is no field");
            assert!(descriptor["description"].as_str().is_some_and(|text| text.len() > 5), "{path}");
            covered.insert(path.split('.').next().unwrap());
        }
        let fields: BTreeSet<&str> =
            top["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(covered, fields);
    }
}

fn blobs(release: &Release) -> Vec<Value> {
    catalog::blobs(&root(), release, &bundle(&root(), release).unwrap()).unwrap()
}

fn published(release: &Release) -> Value {
    blobs(release).pop().unwrap()
}

/// Name and what it replaces, of each entry of a channel.
fn edges(blobs: &[Value], channel: &str) -> Vec<(String, Option<String>)> {
    let found = blobs.iter().find(|blob| blob["schema"] == "olm.channel" && blob["name"] == channel).unwrap();
    let short =
        |value: &Value| value.as_str().map(|name| name.trim_start_matches("antrea-operator.v").to_owned());
    let entries = found["entries"].as_array().unwrap().iter();
    entries.map(|entry| (short(&entry["name"]).unwrap(), short(&entry["replaces"]))).collect()
}

#[test]
fn every_version_is_followed_by_the_next() {
    let first = published(&release("0.1.0", Vec::new()));
    let candidate = published(&release("0.2.0-rc.1", vec![first.clone()]));
    let last = release("0.2.0", vec![first, candidate]);
    let all = blobs(&last);
    let edge = |name: &str, before: Option<&str>| (name.to_owned(), before.map(str::to_owned));
    let expected =
        [edge("0.1.0", None), edge("0.2.0-rc.1", Some("0.1.0")), edge("0.2.0", Some("0.2.0-rc.1"))];
    assert_eq!(edges(&all, CANDIDATE), expected);
    assert_eq!(edges(&all, STABLE), [edge("0.1.0", None), edge("0.2.0", Some("0.1.0"))]);
    assert_eq!(lint::Catalog { blobs: all }.lint(), []);
    let spec = &loaded(&last).csv().unwrap()["spec"].clone();
    assert_eq!(spec["replaces"], "antrea-operator.v0.2.0-rc.1");
    let older = release("0.1.0", vec![published(&release("0.2.0", Vec::new()))]);
    let error = catalog::blobs(&root(), &older, &bundle(&root(), &older).unwrap()).unwrap_err();
    assert!(
        error.to_string().contains("0.1.0 is not newer than what was published before: 0.2.0"),
        "{error}"
    );
}

/// The older OLM keeps Roles beside the copies that hold everywhere; the newer has only those.
#[test]
fn olm_installs_in_steps() {
    for rules in [Rules::V0, Rules::V1] {
        let steps = plan(rules);
        let kinds = |step: &[Value]| step.iter().map(|one| key(one).0).collect::<BTreeSet<_>>();
        assert_eq!(kinds(&steps[0]), BTreeSet::from(["CustomResourceDefinition".to_owned()]));
        assert_eq!(kinds(&steps[1]).contains("Role"), rules == Rules::V0);
        assert!(
            kinds(&steps[1]).contains("ServiceAccount") && kinds(&steps[1]).contains("ClusterRoleBinding")
        );
        assert_eq!(kinds(&steps[2]), BTreeSet::from(["Deployment".to_owned(), "Service".to_owned()]));
        for object in steps.iter().flatten() {
            let namespaced = matches!(
                key(object).0.as_str(),
                "ServiceAccount" | "Role" | "RoleBinding" | "Deployment" | "Service"
            );
            assert_eq!(key(object).1, if namespaced { "antrea-operator" } else { "" }, "{object}");
        }
        let deployment = steps[2].iter().find(|one| one["kind"] == "Deployment").unwrap();
        let env = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().unwrap();
        let value = |name: &str| {
            let mut found = env.iter().filter(|variable| variable["name"] == name);
            let value =
                found.next().map(|variable| variable["value"].as_str().unwrap_or_default().to_owned());
            assert!(found.next().is_none(), "{name} twice");
            value
        };
        assert_eq!(value("KUBERNETES_API_SERVER").as_deref(), Some("https://192.0.2.1:6443"));
        assert_eq!(value("ANTREA_DELIVERY").as_deref(), Some("olm"));
        assert_eq!(value("OPERATOR_CONDITION_NAME").is_some(), rules == Rules::V0);
    }
}

/// The operator says what the bundle says of it.
#[test]
fn the_operator_is_told_by_its_own_flags() {
    let bundle = current();
    let delivery = env(&bundle, "ANTREA_DELIVERY").unwrap();
    assert_eq!(<Delivery as clap::ValueEnum>::from_str(&delivery, false).unwrap(), Delivery::Olm);
}
