//! Rules that bundles and catalogs of the Operator Lifecycle Manager must keep: what its validators and OLM itself
//! refuse or warn of, as far as it can be seen in the files.
//!
//! Each rule is a plain function of what was loaded. For each there is a test whose bundle breaks it and no other.

use std::{
    fmt,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::files;

mod catalog;
mod crds;
mod csv;
mod layout;
mod objects;
mod reference;

pub(crate) use catalog::Catalog;

/// How bad it is to break a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// OLM or a catalog refuses the bundle, or it does harm.
    Error,
    /// Reviewers of catalogs ask why.
    Warning,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A rule about `T`.
pub(crate) struct Rule<T> {
    /// Short, in findings and tests.
    pub(crate) name: &'static str,
    pub(crate) level: Level,
    /// What is wrong where, once per place.
    pub(crate) check: fn(&T) -> Vec<String>,
}

const fn error<T>(name: &'static str, check: fn(&T) -> Vec<String>) -> Rule<T> {
    Rule { name, level: Level::Error, check }
}

const fn warning<T>(name: &'static str, check: fn(&T) -> Vec<String>) -> Rule<T> {
    Rule { name, level: Level::Warning, check }
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    pub(crate) rule: &'static str,
    pub(crate) message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}]", self.level, self.message, self.rule)
    }
}

fn broken<T>(rules: &[&[Rule<T>]], subject: &T) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in rules.iter().copied().flatten() {
        let found = (rule.check)(subject).into_iter();
        findings.extend(found.map(|message| Finding { level: rule.level, rule: rule.name, message }));
    }
    findings
}

/// A bundle as its files have it.
#[derive(Clone)]
pub(crate) struct Bundle {
    /// Documents of `manifests/`, each with the file that it is in.
    pub(crate) manifests: Vec<(String, Value)>,
    /// `annotations` of `metadata/annotations.yaml`.
    pub(crate) annotations: Value,
    /// The scorecard's configuration, if there is one.
    pub(crate) scorecard: Option<Value>,
    /// Labels of `bundle.Dockerfile` beside the bundle, if it is there.
    pub(crate) labels: Option<Vec<(String, String)>>,
    /// Size of the manifests, compressed as OLM stores them, in octets.
    pub(crate) compressed: usize,
    /// Files in folders that OLM does not read.
    pub(crate) strays: Vec<String>,
}

impl Bundle {
    /// Reads a bundle's folder.
    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let mut all = Vec::new();
        for path in files::all_files(folder)? {
            let relative = path.strip_prefix(folder)?.to_path_buf();
            all.push((relative, files::text(&path)?));
        }
        let dockerfile = folder.parent().map(|above| above.join("bundle.Dockerfile"));
        let dockerfile =
            dockerfile.filter(|path| path.is_file()).map(|path| files::text(&path)).transpose()?;
        Self::new(&all, dockerfile.as_deref())
    }

    /// A bundle of these files, relative to its folder.
    pub(crate) fn new(all: &[(PathBuf, String)], dockerfile: Option<&str>) -> Result<Self> {
        let mut bundle = Self {
            manifests: Vec::new(),
            annotations: Value::Null,
            scorecard: None,
            labels: dockerfile.map(layout::labels),
            compressed: 0,
            strays: Vec::new(),
        };
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        for (path, text) in all {
            let name = path.display().to_string();
            let parsed: Vec<Value> =
                serde_saphyr::from_multiple(text).with_context(|| format!("parse {name}"))?;
            let mut documents = parsed.into_iter().filter(|document| !document.is_null());
            match name.as_str() {
                "metadata/annotations.yaml" => {
                    bundle.annotations = documents.next_back().unwrap_or_default()["annotations"].clone();
                }
                "tests/scorecard/config.yaml" => bundle.scorecard = documents.next_back(),
                _ if path.parent() == Some(Path::new("manifests")) => {
                    packed.write_all(text.as_bytes())?;
                    bundle.manifests.extend(documents.map(|document| (name.clone(), document)));
                }
                _ => bundle.strays.push(name),
            }
        }
        bundle.compressed = packed.finish()?.len();
        Ok(bundle)
    }

    /// Its objects.
    pub(crate) fn objects(&self) -> impl Iterator<Item = &Value> {
        self.manifests.iter().map(|(_, object)| object)
    }

    /// The ClusterServiceVersion.
    pub(crate) fn csv(&self) -> Option<&Value> {
        self.objects().find(|object| object["kind"] == "ClusterServiceVersion")
    }

    /// What breaks rules.
    pub(crate) fn lint(&self) -> Vec<Finding> {
        broken(BUNDLE_RULES, self)
    }

    /// Objects of a kind.
    fn of_kind(&self, kind: &str) -> Vec<&Value> {
        self.objects().filter(|object| object["kind"] == kind).collect()
    }

    /// `spec` of the ClusterServiceVersion; null without one, so that other rules have nothing to say.
    fn spec(&self) -> &Value {
        self.csv().map_or(&Value::Null, |csv| &csv["spec"])
    }

    /// An annotation of the ClusterServiceVersion.
    fn annotation(&self, key: &str) -> Option<&str> {
        self.csv()?["metadata"]["annotations"][key].as_str()
    }

    /// Rules of roles: of the ClusterServiceVersion and of the bundle's own.
    fn rules(&self) -> Vec<&Value> {
        let install = &self.spec()["install"]["spec"];
        let granted = ["permissions", "clusterPermissions"].into_iter().flat_map(|key| items(&install[key]));
        let roles =
            self.objects().filter(|object| matches!(object["kind"].as_str(), Some("Role" | "ClusterRole")));
        granted.chain(roles).flat_map(|grant| items(&grant["rules"])).collect()
    }

    /// Containers of the Deployments, init containers too.
    fn containers(&self) -> Vec<&Value> {
        let deployments = items(&self.spec()["install"]["spec"]["deployments"]);
        deployments
            .iter()
            .flat_map(|deployment| {
                let pod = &deployment["spec"]["template"]["spec"];
                items(&pod["initContainers"]).iter().chain(items(&pod["containers"]))
            })
            .collect()
    }
}

/// Every rule about bundles.
pub(crate) const BUNDLE_RULES: &[&[Rule<Bundle>]] =
    &[layout::RULES, csv::RULES, csv::CONTENT, crds::RULES, objects::RULES];

/// The items of a list; none of what is no list.
fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Whether a list of strings holds one.
fn holds(list: &Value, item: &str) -> bool {
    items(list).iter().any(|one| one == item)
}

/// Name of an object, for messages.
fn name(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

#[cfg(test)]
mod tests;
