//! The ClusterServiceVersion.

use std::collections::BTreeSet;

use base64::Engine;
use semver::Version;
use serde_json::Value;

use super::{Bundle, Rule, error, holds, items, reference::is_reference, warning};

/// About its form and what OLM reads.
pub(super) const RULES: &[Rule<Bundle>] = &[
    error("csv-name", csv_name),
    error("replaces", replaces),
    error("version", version),
    error("min-kube-version", |bundle| {
        let given = bundle.spec()["minKubeVersion"].as_str().filter(|given| !given.is_empty());
        let bad = given.filter(|given| given.parse::<Version>().is_err());
        bad.map(|given| format!("spec.minKubeVersion: {given:?} is no version")).into_iter().collect()
    }),
    warning("min-kube-version-given", |bundle| {
        when(
            bundle,
            bundle.spec()["minKubeVersion"].as_str().is_none_or(str::is_empty),
            "spec.minKubeVersion: missing",
        )
    }),
    error("mandatory-fields", mandatory),
    error("install-modes", install_modes),
    error("install-mode-supported", |bundle| {
        let modes = items(&bundle.spec()["installModes"]);
        let none = !modes.is_empty() && modes.iter().all(|mode| mode["supported"] != true);
        when(bundle, none, "spec.installModes: none is supported")
    }),
    error("conversion-all-namespaces", conversion),
    error("webhook-rules", webhook_rules),
    error("examples-parse", |bundle| examples(bundle).err().into_iter().collect()),
    error("examples-owned", examples_owned),
    warning("examples-complete", examples_complete),
    warning("examples-once", |bundle| {
        let both = bundle.annotation("olm.examples").is_some() && bundle.annotation("alm-examples").is_some();
        when(bundle, both, "metadata.annotations: alm-examples and olm.examples are both set")
    }),
    error("annotation-case", annotation_case),
    error("related-images-parse", |bundle| {
        let images = items(&bundle.spec()["relatedImages"]).iter();
        let bad = images
            .filter(|image| !image["image"].as_str().is_some_and(is_reference) || !image["name"].is_string());
        bad.map(|image| format!("spec.relatedImages: {image} is no reference with a name")).collect()
    }),
    error("related-images-complete", related_complete),
    error("service-accounts", service_accounts),
    warning("olm-v1", olm_v1),
];

/// About what a catalog shows and its reviewers ask for.
pub(super) const CONTENT: &[Rule<Bundle>] = &[
    warning("provider", |bundle| {
        when(bundle, !filled(&bundle.spec()["provider"]["name"]), "spec.provider.name: missing")
    }),
    warning("maintainers", |bundle| {
        let people = items(&bundle.spec()["maintainers"]);
        let good = |one: &Value| {
            filled(&one["name"]) && one["email"].as_str().is_some_and(|email| email.split('@').count() == 2)
        };
        when(
            bundle,
            people.is_empty() || !people.iter().all(good),
            "spec.maintainers: each has a name and an email",
        )
    }),
    warning("links", |bundle| {
        let links = items(&bundle.spec()["links"]);
        let good = |one: &Value| {
            filled(&one["name"])
                && one["url"]
                    .as_str()
                    .is_some_and(|url| url.starts_with("https://") || url.starts_with("http://"))
        };
        when(bundle, links.is_empty() || !links.iter().all(good), "spec.links: each has a name and a URL")
    }),
    warning("icon", icon),
    error("capability-level", |bundle| {
        const LEVELS: [&str; 5] =
            ["Basic Install", "Seamless Upgrades", "Full Lifecycle", "Deep Insights", "Auto Pilot"];
        let given = bundle.annotation("capabilities");
        let bad = given.filter(|level| !LEVELS.contains(level));
        bad.map(|level| format!("metadata.annotations.capabilities: {level:?} is none of {LEVELS:?}"))
            .into_iter()
            .collect()
    }),
    error("categories", categories),
    error("openshift-features", |bundle| {
        let annotations = bundle.csv().and_then(|csv| csv["metadata"]["annotations"].as_object());
        let features = annotations.into_iter().flatten();
        let bad = features.filter(|(key, value)| {
            key.starts_with("features.operators.openshift.io/") && *value != "true" && *value != "false"
        });
        bad.map(|(key, value)| {
            format!("metadata.annotations.{key}: {value} is neither \"true\" nor \"false\"")
        })
        .collect()
    }),
    error("disconnected-by-digest", |bundle| {
        let claims = bundle.annotation("features.operators.openshift.io/disconnected") == Some("true");
        let images = items(&bundle.spec()["relatedImages"]);
        let by_tag = images
            .iter()
            .any(|image| !image["image"].as_str().is_some_and(|image| image.contains("@sha256:")));
        when(
            bundle,
            claims && by_tag,
            "features.operators.openshift.io/disconnected: relatedImages are not all by digest",
        )
    }),
    error("architectures", architectures),
    warning("resource-requests", |bundle| {
        let without = bundle.containers().into_iter().filter(|container| {
            !["cpu", "memory"].iter().all(|name| !container["resources"]["requests"][*name].is_null())
        });
        without.map(|one| format!("container {} requests no CPU or memory", one["name"])).collect()
    }),
];

/// One finding, if there is a ClusterServiceVersion that can be at fault.
fn when(bundle: &Bundle, broken: bool, message: &str) -> Vec<String> {
    if broken && bundle.csv().is_some() { vec![message.to_owned()] } else { Vec::new() }
}

fn filled(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.trim().is_empty())
}

/// Package and version of `<package>.v<version>`, or of `<package>-v<version>-<release>`.
fn split_name(name: &str) -> Option<(&str, Version)> {
    let (package, version) = name.split_once(".v").or_else(|| name.split_once("-v"))?;
    (!package.is_empty()).then_some(())?;
    version.parse().ok().map(|version| (package, version))
}

/// What may be a label's value, for OLM labels objects with it.
fn is_label(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    text.len() <= 63
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c))
        && ends(text.chars().next())
        && ends(text.chars().last())
}

fn csv_name(bundle: &Bundle) -> Vec<String> {
    let name = bundle.csv().map(|csv| csv["metadata"]["name"].as_str().unwrap_or_default());
    let bad = name.filter(|name| !is_label(name) || split_name(name).is_none());
    bad.map(|name| format!("metadata.name: {name:?} is not <package>.v<version> in at most 63 of [a-z0-9.-]"))
        .into_iter()
        .collect()
}

/// What it replaces is an earlier version of the same package, and not itself.
fn replaces(bundle: &Bundle) -> Vec<String> {
    let Some(given) = bundle.spec()["replaces"].as_str() else { return Vec::new() };
    let own = bundle.csv().and_then(|csv| split_name(csv["metadata"]["name"].as_str()?));
    let good = match (split_name(given), own) {
        (Some((package, version)), Some((own, newer))) => package == own && version < newer,
        (found, _) => found.is_some(),
    };
    when(bundle, !good, &format!("spec.replaces: {given:?} is no earlier version of this package"))
}

fn version(bundle: &Bundle) -> Vec<String> {
    let given = bundle.spec()["version"].as_str().unwrap_or_default();
    let Ok(version) = given.parse::<Version>() else {
        return when(bundle, true, &format!("spec.version: {given:?} is no version"));
    };
    let named = bundle.csv().and_then(|csv| split_name(csv["metadata"]["name"].as_str()?));
    let other = named
        .filter(|(_, named)| *named != version && !format!("{named}").starts_with(&format!("{version}-")));
    let message = format!("spec.version: {version} is not the version in metadata.name");
    when(bundle, other.is_some(), &message)
}

/// What the Go type of a ClusterServiceVersion has no default for.
fn mandatory(bundle: &Bundle) -> Vec<String> {
    let spec = bundle.spec();
    let mut missing = Vec::new();
    if !filled(&spec["displayName"]) {
        missing.push("spec.displayName".to_owned());
    }
    if spec["install"]["strategy"] != "deployment" {
        missing.push("spec.install.strategy: \"deployment\"".to_owned());
    }
    let deployments = items(&spec["install"]["spec"]["deployments"]);
    if deployments.is_empty() {
        missing.push("spec.install.spec.deployments".to_owned());
    }
    for deployment in deployments {
        let template = &deployment["spec"]["template"];
        let selected = deployment["spec"]["selector"]["matchLabels"].as_object().is_some_and(|labels| {
            !labels.is_empty()
                && labels.iter().all(|(key, value)| template["metadata"]["labels"][key] == *value)
        });
        if !filled(&deployment["name"]) || !selected || items(&template["spec"]["containers"]).is_empty() {
            missing.push(format!(
                "spec.install.spec.deployments: {} has no name, no containers or does not select its own Pods",
                deployment["name"]
            ));
        }
    }
    for owned in items(&spec["customresourcedefinitions"]["owned"]) {
        if !["name", "kind", "version"].iter().all(|key| filled(&owned[*key])) {
            missing.push(format!(
                "spec.customresourcedefinitions.owned: {} has no name, kind or version",
                owned["name"]
            ));
        }
    }
    if bundle.csv().is_none() {
        return Vec::new();
    }
    missing.into_iter().map(|what| format!("missing or wrong: {what}")).collect()
}

const MODES: [&str; 4] = ["OwnNamespace", "SingleNamespace", "MultiNamespace", "AllNamespaces"];

fn install_modes(bundle: &Bundle) -> Vec<String> {
    let modes = items(&bundle.spec()["installModes"]);
    if modes.is_empty() {
        return when(bundle, true, "spec.installModes: missing");
    }
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for mode in modes {
        let type_ = mode["type"].as_str().unwrap_or_default();
        if !MODES.contains(&type_) {
            wrong.push(format!("spec.installModes: {type_:?} is none of {MODES:?}"));
        } else if !seen.insert(type_) {
            wrong.push(format!("spec.installModes: {type_} twice"));
        }
    }
    wrong
}

fn only_all_namespaces(bundle: &Bundle) -> bool {
    let modes = items(&bundle.spec()["installModes"]);
    modes.iter().all(|mode| mode["supported"] != true || mode["type"] == "AllNamespaces")
}

/// A definition has one conversion webhook for the whole cluster.
fn conversion(bundle: &Bundle) -> Vec<String> {
    let webhooks = items(&bundle.spec()["webhookdefinitions"]);
    let converts = webhooks.iter().any(|webhook| !items(&webhook["conversionCRDs"]).is_empty());
    when(
        bundle,
        converts && !only_all_namespaces(bundle),
        "spec.webhookdefinitions: conversionCRDs need AllNamespaces as the only install mode",
    )
}

/// OLM fails a ClusterServiceVersion whose webhook could block OLM itself.
fn webhook_rules(bundle: &Bundle) -> Vec<String> {
    let mut wrong = Vec::new();
    for webhook in items(&bundle.spec()["webhookdefinitions"]) {
        for rule in items(&webhook["rules"]) {
            let groups = &rule["apiGroups"];
            let configurations = ["*", "mutatingwebhookconfigurations", "validatingwebhookconfigurations"]
                .iter()
                .any(|resource| holds(&rule["resources"], resource));
            if holds(groups, "*")
                || holds(groups, "operators.coreos.com")
                || (holds(groups, "admissionregistration.k8s.io") && configurations)
            {
                wrong.push(format!(
                    "spec.webhookdefinitions: {} is asked about all groups, OLM's, or webhook configurations",
                    webhook["generateName"]
                ));
            }
        }
    }
    wrong
}

fn examples(bundle: &Bundle) -> Result<Vec<Value>, String> {
    let Some(text) = bundle.annotation("alm-examples").filter(|text| !text.trim().is_empty()) else {
        return Ok(Vec::new());
    };
    let fail = |why: String| format!("metadata.annotations.alm-examples: {why}");
    let examples: Vec<Value> =
        serde_json::from_str(text).map_err(|error| fail(format!("no JSON list: {error}")))?;
    match examples.iter().find(|example| kind_of(example).is_none()) {
        Some(example) => Err(fail(format!("{example} has no apiVersion or kind"))),
        None => Ok(examples),
    }
}

/// Group, version and kind of an example.
fn kind_of(object: &Value) -> Option<(String, String, String)> {
    let (group, version) = object["apiVersion"].as_str()?.split_once('/')?;
    Some((group.to_owned(), version.to_owned(), object["kind"].as_str()?.to_owned()))
}

/// Group, version and kind of what is owned.
fn owned(bundle: &Bundle) -> BTreeSet<(String, String, String)> {
    let owned = items(&bundle.spec()["customresourcedefinitions"]["owned"]).iter();
    owned
        .filter_map(|one| {
            let (_, group) = one["name"].as_str()?.split_once('.')?;
            Some((group.to_owned(), one["version"].as_str()?.to_owned(), one["kind"].as_str()?.to_owned()))
        })
        .collect()
}

fn examples_owned(bundle: &Bundle) -> Vec<String> {
    let owned = owned(bundle);
    let examples = examples(bundle).unwrap_or_default();
    let foreign = examples.iter().filter_map(kind_of).filter(|kind| !owned.contains(kind));
    foreign
        .map(|(group, version, kind)| {
            format!("metadata.annotations.alm-examples: {group}/{version} {kind} is not owned")
        })
        .collect()
}

fn examples_complete(bundle: &Bundle) -> Vec<String> {
    let Ok(examples) = examples(bundle) else { return Vec::new() };
    let shown: BTreeSet<_> = examples.iter().filter_map(kind_of).collect();
    let missing = owned(bundle).into_iter().filter(|kind| !shown.contains(kind));
    missing
        .map(|(group, version, kind)| {
            format!("metadata.annotations.alm-examples: no example of {group}/{version} {kind}")
        })
        .collect()
}

/// Keys that mean something only as they are written here.
const ANNOTATIONS: [&str; 15] = [
    "alm-examples",
    "capabilities",
    "categories",
    "certified",
    "containerImage",
    "createdAt",
    "description",
    "olm.examples",
    "olm.skipRange",
    "operatorframework.io/initialization-resource",
    "operatorframework.io/suggested-namespace",
    "operatorframework.io/suggested-namespace-template",
    "operators.operatorframework.io/internal-objects",
    "repository",
    "support",
];

fn annotation_case(bundle: &Bundle) -> Vec<String> {
    let annotations = bundle.csv().and_then(|csv| csv["metadata"]["annotations"].as_object());
    let keys = annotations.into_iter().flat_map(|map| map.keys());
    keys.filter_map(|key| {
        let meant = ANNOTATIONS.iter().find(|known| known.eq_ignore_ascii_case(key) && *known != key)?;
        Some(format!("metadata.annotations: {key} must be written {meant}"))
    })
    .collect()
}

/// Whatever a mirror has to hold: images of the Deployments, and those that their environment hands on.
fn related_complete(bundle: &Bundle) -> Vec<String> {
    let related: BTreeSet<&str> =
        items(&bundle.spec()["relatedImages"]).iter().filter_map(|image| image["image"].as_str()).collect();
    let mut missing = Vec::new();
    for container in bundle.containers() {
        let handed_on = items(&container["env"])
            .iter()
            .filter(|variable| {
                variable["name"].as_str().is_some_and(|name| name.starts_with("RELATED_IMAGE_"))
            })
            .filter_map(|variable| variable["value"].as_str());
        for image in container["image"].as_str().into_iter().chain(handed_on) {
            if !related.contains(image) {
                missing.push(format!("spec.relatedImages: {image} is missing"));
            }
        }
    }
    if let Some(image) = bundle.annotation("containerImage").filter(|image| !related.contains(image)) {
        missing.push(format!("metadata.annotations.containerImage: {image} is not in spec.relatedImages"));
    }
    missing
}

/// OLM makes the ServiceAccounts that permissions name.
fn service_accounts(bundle: &Bundle) -> Vec<String> {
    let install = &bundle.spec()["install"]["spec"];
    let named: BTreeSet<&str> = items(&install["deployments"])
        .iter()
        .filter_map(|deployment| deployment["spec"]["template"]["spec"]["serviceAccountName"].as_str())
        .chain(
            ["permissions", "clusterPermissions"]
                .into_iter()
                .flat_map(|key| items(&install[key]))
                .filter_map(|grant| grant["serviceAccountName"].as_str()),
        )
        .collect();
    let shipped =
        bundle.of_kind("ServiceAccount").into_iter().filter_map(|one| one["metadata"]["name"].as_str());
    shipped
        .filter(|account| named.contains(account))
        .map(|account| format!("ServiceAccount {account}: OLM makes it, so it must not be in the bundle"))
        .collect()
}

/// OLM v1 installs for all namespaces only, and knows neither dependencies nor APIServices.
fn olm_v1(bundle: &Bundle) -> Vec<String> {
    let spec = bundle.spec();
    let all = items(&spec["installModes"])
        .iter()
        .any(|mode| mode["type"] == "AllNamespaces" && mode["supported"] == true);
    let modes = !items(&spec["installModes"]).is_empty()
        && !all
        && items(&spec["installModes"]).iter().any(|mode| mode["supported"] == true);
    let mut wrong =
        when(bundle, modes, "spec.installModes: OLM v1 installs only what supports AllNamespaces");
    if !items(&spec["customresourcedefinitions"]["required"]).is_empty() {
        wrong.push("spec.customresourcedefinitions.required: OLM v1 has no dependencies".into());
    }
    if !items(&spec["apiservicedefinitions"]["owned"]).is_empty() {
        wrong.push("spec.apiservicedefinitions: OLM v1 serves no APIServices".into());
    }
    wrong
}

fn icon(bundle: &Bundle) -> Vec<String> {
    const TYPES: [&str; 4] = ["image/gif", "image/jpeg", "image/png", "image/svg+xml"];
    let icons = items(&bundle.spec()["icon"]);
    let good = |icon: &Value| {
        let decoded = icon["base64data"]
            .as_str()
            .and_then(|data| base64::engine::general_purpose::STANDARD.decode(data).ok());
        decoded.is_some_and(|data| !data.is_empty())
            && icon["mediatype"].as_str().is_some_and(|type_| TYPES.contains(&type_))
    };
    when(
        bundle,
        icons.len() != 1 || !icons.iter().all(good),
        "spec.icon: one, in base64, of type GIF, JPEG, PNG or SVG",
    )
}

fn categories(bundle: &Bundle) -> Vec<String> {
    const KNOWN: [&str; 15] = [
        "AI/Machine Learning",
        "Application Runtime",
        "Big Data",
        "Cloud Provider",
        "Database",
        "Developer Tools",
        "Development Tools",
        "Drivers and plugins",
        "Integration & Delivery",
        "Logging & Tracing",
        "Modernization & Migration",
        "Monitoring",
        "Networking",
        "Security",
        "Storage",
    ];
    let given = bundle.annotation("categories").unwrap_or_default();
    let unknown = given.split(',').map(str::trim).filter(|one| !one.is_empty() && !KNOWN.contains(one));
    unknown.map(|one| format!("metadata.annotations.categories: {one:?} is none of {KNOWN:?}")).collect()
}

/// Labels that say where it runs, and what the Deployments themselves say of it.
fn architectures(bundle: &Bundle) -> Vec<String> {
    const KNOWN: [&str; 4] = ["amd64", "arm64", "ppc64le", "s390x"];
    const PREFIX: &str = "operatorframework.io/arch.";
    let labels = bundle.csv().and_then(|csv| csv["metadata"]["labels"].as_object());
    let mut wrong = Vec::new();
    let mut supported = BTreeSet::new();
    for (key, value) in labels.into_iter().flatten() {
        let Some(architecture) = key.strip_prefix(PREFIX) else { continue };
        if KNOWN.contains(&architecture) && value == "supported" {
            supported.insert(architecture);
        } else {
            wrong.push(format!("metadata.labels: {key}: {value} is no architecture that is \"supported\""));
        }
    }
    // Without a label it is amd64.
    if supported.is_empty() {
        supported.insert("amd64");
    }
    for deployment in items(&bundle.spec()["install"]["spec"]["deployments"]) {
        let selected = deployment["spec"]["template"]["spec"]["nodeSelector"]["kubernetes.io/arch"].as_str();
        if let Some(one) = selected.filter(|one| supported.len() > 1 || !supported.contains(one)) {
            wrong.push(format!(
                "Deployment {}: runs on {one} only, the labels say {supported:?}",
                deployment["name"]
            ));
        }
    }
    wrong
}
