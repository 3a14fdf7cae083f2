//! Files, annotations and labels of a bundle.

use serde_json::Value;

use super::{Bundle, Rule, error, items, name, warning};

/// Keys of `metadata/annotations.yaml` with their value, where only one will do.
const KEYS: [(&str, Option<&str>); 5] = [
    ("operators.operatorframework.io.bundle.mediatype.v1", Some("registry+v1")),
    ("operators.operatorframework.io.bundle.manifests.v1", Some("manifests/")),
    ("operators.operatorframework.io.bundle.metadata.v1", Some("metadata/")),
    (PACKAGE, None),
    (CHANNELS, None),
];

const PACKAGE: &str = "operators.operatorframework.io.bundle.package.v1";
const CHANNELS: &str = "operators.operatorframework.io.bundle.channels.v1";
const DEFAULT: &str = "operators.operatorframework.io.bundle.channel.default.v1";

/// Kinds that OLM installs from a bundle.
const KINDS: [&str; 16] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "ClusterServiceVersion",
    "ConfigMap",
    "ConsoleCLIDownload",
    "ConsoleLink",
    "ConsolePlugin",
    "CustomResourceDefinition",
    "PodDisruptionBudget",
    "PriorityClass",
    "PrometheusRule",
    "Role",
    "RoleBinding",
    "Secret",
    "Service",
    "ServiceMonitor",
];

/// Most that fits into the object that OLM keeps a bundle in, compressed, and where it begins to be tight.
const MAX_SIZE: usize = 1 << 20;
const TIGHT_SIZE: usize = MAX_SIZE / 100 * 85;

pub(super) const RULES: &[Rule<Bundle>] = &[
    error("one-csv", one_csv),
    error("api-version-and-kind", typed),
    error("kinds", kinds),
    error("size", |bundle| (bundle.compressed >= MAX_SIZE).then(|| too_large(bundle)).into_iter().collect()),
    warning("size-is-tight", |bundle| {
        (TIGHT_SIZE..MAX_SIZE).contains(&bundle.compressed).then(|| too_large(bundle)).into_iter().collect()
    }),
    error("bundle-annotations", annotations),
    error("default-channel", default_channel),
    warning("channel-names", channel_names),
    error("labels-match-annotations", labels_match),
    error("scorecard", scorecard),
    warning("stray-files", |bundle| {
        bundle.strays.iter().map(|file| format!("{file}: OLM does not read this")).collect()
    }),
];

/// Labels of a Dockerfile.
pub(super) fn labels(dockerfile: &str) -> Vec<(String, String)> {
    let pairs = dockerfile.lines().filter_map(|line| line.strip_prefix("LABEL ")?.split_once('='));
    pairs.map(|(key, value)| (key.trim().to_owned(), value.trim().trim_matches('"').to_owned())).collect()
}

fn one_csv(bundle: &Bundle) -> Vec<String> {
    match bundle.of_kind("ClusterServiceVersion").len() {
        1 => Vec::new(),
        count => vec![format!("manifests/: {count} ClusterServiceVersions, not one")],
    }
}

fn typed(bundle: &Bundle) -> Vec<String> {
    let untyped = bundle.manifests.iter().filter(|(_, object)| {
        !["apiVersion", "kind"].iter().all(|key| object[*key].as_str().is_some_and(|text| !text.is_empty()))
    });
    untyped.map(|(file, _)| format!("{file}: an object without apiVersion or kind")).collect()
}

fn kinds(bundle: &Bundle) -> Vec<String> {
    let given =
        bundle.manifests.iter().filter_map(|(file, object)| Some((file, object, object["kind"].as_str()?)));
    given
        // ServiceAccounts have a rule of their own.
        .filter(|(.., kind)| !kind.is_empty() && *kind != "ServiceAccount" && !KINDS.contains(kind))
        .map(|(file, object, _)| format!("{file}: OLM installs no {}", name(object)))
        .collect()
}

fn too_large(bundle: &Bundle) -> String {
    format!("manifests/: {} octets when compressed, of {MAX_SIZE}", bundle.compressed)
}

fn annotations(bundle: &Bundle) -> Vec<String> {
    KEYS.iter()
        .filter_map(|(key, wanted)| match (bundle.annotations[*key].as_str(), wanted) {
            (None | Some(""), _) => Some(format!("metadata/annotations.yaml: {key} is missing")),
            (Some(given), Some(wanted)) if given != *wanted => {
                Some(format!("metadata/annotations.yaml: {key} is {given:?}, not {wanted:?}"))
            }
            _ => None,
        })
        .collect()
}

fn channels(bundle: &Bundle) -> Vec<&str> {
    let given = bundle.annotations[CHANNELS].as_str().unwrap_or_default();
    given.split(',').map(str::trim).filter(|channel| !channel.is_empty()).collect()
}

fn default_channel(bundle: &Bundle) -> Vec<String> {
    let channels = channels(bundle);
    let default = bundle.annotations[DEFAULT].as_str();
    let unknown = default.filter(|default| !channels.is_empty() && !channels.contains(default));
    unknown
        .map(|default| {
            format!("metadata/annotations.yaml: the default channel {default} is none of its channels")
        })
        .into_iter()
        .collect()
}

/// candidate, fast or stable, alone or followed by a version.
fn channel_names(bundle: &Bundle) -> Vec<String> {
    let good = |channel: &str| {
        let (kind, version) = channel.split_once("-v").map_or((channel, None), |(kind, v)| (kind, Some(v)));
        matches!(kind, "candidate" | "fast" | "stable")
            && version.is_none_or(|version| version.split('.').all(|part| part.parse::<u32>().is_ok()))
    };
    let odd = channels(bundle).into_iter().filter(|channel| !good(channel));
    odd.map(|channel| {
        format!("metadata/annotations.yaml: channel {channel} is not named candidate, fast or stable[-vX.Y]")
    })
    .collect()
}

fn labels_match(bundle: &Bundle) -> Vec<String> {
    let (Some(labels), Some(annotations)) = (&bundle.labels, bundle.annotations.as_object()) else {
        return Vec::new();
    };
    let mut wrong = Vec::new();
    for (key, value) in annotations {
        let label = labels.iter().find(|(label, _)| label == key).map(|(_, value)| value.as_str());
        if label != value.as_str() {
            wrong.push(format!("bundle.Dockerfile: label {key} is {label:?}, the annotation {value}"));
        }
    }
    for (key, _) in labels.iter().filter(|(key, _)| !annotations.contains_key(key)) {
        wrong.push(format!("bundle.Dockerfile: label {key} is no annotation"));
    }
    wrong
}

/// Where there are tests, they are where the annotation says, and each says what it runs.
fn scorecard(bundle: &Bundle) -> Vec<String> {
    let told = bundle.annotations["operators.operatorframework.io.test.config.v1"].as_str();
    match (told, &bundle.scorecard) {
        (None, None) => Vec::new(),
        (Some("tests/scorecard/"), Some(config)) => {
            let tests: Vec<&Value> =
                items(&config["stages"]).iter().flat_map(|stage| items(&stage["tests"])).collect();
            let runs = |test: &&Value| !items(&test["entrypoint"]).is_empty() && test["image"].is_string();
            if !tests.is_empty() && tests.iter().all(runs) {
                return Vec::new();
            }
            vec!["tests/scorecard/config.yaml: no tests, or one without entrypoint and image".into()]
        }
        _ => vec!["tests/scorecard/config.yaml and the annotation test.config.v1 must both be there".into()],
    }
}
