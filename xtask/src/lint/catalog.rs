//! File-based catalogs.

use std::{collections::BTreeSet, path::Path};

use anyhow::Result;
use semver::Version;
use serde_json::Value;

use super::{Finding, Rule, broken, error, items, reference::is_reference, warning};
use crate::files;

/// The blobs of one package.
#[derive(Clone)]
pub(crate) struct Catalog {
    pub(crate) blobs: Vec<Value>,
}

impl Catalog {
    /// Reads every file below a folder.
    pub(crate) fn load(folder: &Path) -> Result<Self> {
        let mut blobs = Vec::new();
        for file in files::all_files(folder)? {
            blobs.extend(files::documents(&file)?);
        }
        Ok(Self { blobs })
    }

    /// What breaks rules.
    pub(crate) fn lint(&self) -> Vec<Finding> {
        broken(&[CATALOG_RULES], self)
    }

    fn of(&self, schema: &str) -> Vec<&Value> {
        self.blobs.iter().filter(|blob| blob["schema"] == schema).collect()
    }

    /// Name and entries of each channel.
    fn channels(&self) -> Vec<(&str, &[Value])> {
        let channels = self.of("olm.channel").into_iter();
        channels.map(|one| (one["name"].as_str().unwrap_or_default(), items(&one["entries"]))).collect()
    }
}

/// Every rule about catalogs.
pub(crate) const CATALOG_RULES: &[Rule<Catalog>] = &[
    error("one-package", |catalog| {
        let packages = catalog.of("olm.package");
        let named =
            packages.first().and_then(|one| one["name"].as_str()).is_some_and(|name| !name.is_empty());
        if packages.len() == 1 && named {
            return Vec::new();
        }
        vec![format!("{} olm.package blobs with a name, not one", packages.len())]
    }),
    error("blob-schema", |catalog| {
        const SCHEMAS: [&str; 4] = ["olm.package", "olm.channel", "olm.bundle", "olm.deprecations"];
        let odd = catalog
            .blobs
            .iter()
            .filter(|blob| !blob["schema"].as_str().is_some_and(|one| SCHEMAS.contains(&one)));
        odd.map(|blob| format!("a blob of schema {}", blob["schema"])).collect()
    }),
    error("blobs-once", blobs_once),
    error("blobs-of-the-package", of_the_package),
    error("catalog-default-channel", default_channel),
    error("channel-has-entries", |catalog| {
        let empty = catalog.channels().into_iter().filter(|(_, entries)| entries.is_empty());
        let mut wrong: Vec<String> = empty.map(|(name, _)| format!("channel {name}: no entries")).collect();
        if catalog.channels().is_empty() {
            wrong.push("no olm.channel".into());
        }
        wrong
    }),
    error("one-head", one_head),
    error("entries-have-bundles", entries_have_bundles),
    error("bundles-in-channels", |catalog| {
        let listed: BTreeSet<&str> = catalog
            .channels()
            .into_iter()
            .flat_map(|(_, entries)| entries)
            .filter_map(|entry| entry["name"].as_str())
            .collect();
        let bundles = catalog.of("olm.bundle").into_iter().filter_map(|bundle| bundle["name"].as_str());
        bundles
            .filter(|name| !listed.contains(name))
            .map(|name| format!("bundle {name}: in no channel"))
            .collect()
    }),
    error("skip-range", skip_range),
    warning("skip-range-with-replaces", skip_range_alone),
    error("bundle-package-version", package_version),
    error("bundle-images", bundle_images),
    warning("head-has-metadata", head_metadata),
    error("deprecations", deprecations),
];

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The package that a blob is of; a package's own blob has it as its name.
fn package_of(blob: &Value) -> &str {
    if blob["schema"] == "olm.package" { text(blob, "name") } else { text(blob, "package") }
}

fn blobs_once(catalog: &Catalog) -> Vec<String> {
    let mut seen = BTreeSet::new();
    // How many packages there are has a rule of its own.
    let blobs = catalog.blobs.iter().filter(|blob| blob["schema"] != "olm.package");
    let twice =
        blobs.filter(|blob| !seen.insert((text(blob, "schema"), package_of(blob), text(blob, "name"))));
    twice.map(|blob| format!("{} {} twice", text(blob, "schema"), text(blob, "name"))).collect()
}

fn of_the_package(catalog: &Catalog) -> Vec<String> {
    let packages: BTreeSet<&str> = catalog.of("olm.package").into_iter().map(package_of).collect();
    let foreign =
        catalog.blobs.iter().filter(|blob| !packages.is_empty() && !packages.contains(package_of(blob)));
    foreign
        .map(|blob| format!("{} {}: of another package", text(blob, "schema"), text(blob, "name")))
        .collect()
}

fn default_channel(catalog: &Catalog) -> Vec<String> {
    let channels = catalog.channels();
    let packages = catalog.of("olm.package").into_iter();
    let lost = packages.filter(|one| !channels.iter().any(|(name, _)| *name == text(one, "defaultChannel")));
    lost.map(|one| format!("the default channel {:?} does not exist", text(one, "defaultChannel"))).collect()
}

/// Names of the entries that no other entry of the channel replaces or skips.
fn heads(entries: &[Value]) -> Vec<&str> {
    let passed: BTreeSet<&str> = entries
        .iter()
        .flat_map(|entry| {
            entry["replaces"]
                .as_str()
                .into_iter()
                .chain(items(&entry["skips"]).iter().filter_map(Value::as_str))
        })
        .collect();
    entries.iter().map(|entry| text(entry, "name")).filter(|name| !passed.contains(name)).collect()
}

fn one_head(catalog: &Catalog) -> Vec<String> {
    let channels = catalog.channels().into_iter().filter(|(_, entries)| !entries.is_empty());
    let wrong = channels.map(|(name, entries)| (name, heads(entries))).filter(|(_, heads)| heads.len() != 1);
    wrong.map(|(name, heads)| format!("channel {name}: its heads are {heads:?}, not one")).collect()
}

/// Every entry is a bundle here; what it replaces may be older than the catalog.
fn entries_have_bundles(catalog: &Catalog) -> Vec<String> {
    let bundles: BTreeSet<&str> =
        catalog.of("olm.bundle").into_iter().filter_map(|bundle| bundle["name"].as_str()).collect();
    let mut wrong = Vec::new();
    for (channel, entries) in catalog.channels() {
        for entry in entries {
            let name = text(entry, "name");
            if !bundles.contains(name) {
                wrong.push(format!("channel {channel}: there is no bundle {name:?}"));
            }
        }
    }
    wrong
}

/// A range ends before the version itself and begins somewhere: an open one would take in what is not known yet.
fn skip_range(catalog: &Catalog) -> Vec<String> {
    let mut wrong = Vec::new();
    for (channel, entries) in catalog.channels() {
        for entry in entries {
            let Some(range) = entry["skipRange"].as_str() else { continue };
            let bounds: Vec<&str> = range.split_whitespace().collect();
            let version =
                |bound: Option<&&str>, sign: &str| bound?.strip_prefix(sign)?.parse::<Version>().ok();
            let (from, to) = (version(bounds.first(), ">="), version(bounds.get(1), "<"));
            let own: Option<Version> =
                text(entry, "name").split_once(".v").and_then(|(_, own)| own.parse().ok());
            let good = bounds.len() == 2
                && from.zip(to.clone()).is_some_and(|(from, to)| from < to)
                && to.zip(own).is_none_or(|(to, own)| to <= own);
            if !good {
                wrong.push(format!(
                    "channel {channel}: skipRange {range:?} of {} is not \">=A <B\" with B not above its version",
                    text(entry, "name")
                ));
            }
        }
    }
    wrong
}

/// What a range skips cannot be installed any more; only the channel's first entry has nothing to replace.
fn skip_range_alone(catalog: &Catalog) -> Vec<String> {
    let mut wrong = Vec::new();
    for (channel, entries) in catalog.channels() {
        for entry in entries {
            let alone = entry["skipRange"].is_string() && entry["replaces"].is_null();
            // Whether it is the first shows by that others build on it.
            if alone && entries.len() > 1 && heads(entries).contains(&text(entry, "name")) {
                wrong.push(format!(
                    "channel {channel}: {} has a skipRange and replaces nothing",
                    text(entry, "name")
                ));
            }
        }
    }
    wrong
}

fn property<'a>(bundle: &'a Value, type_: &str) -> Option<&'a Value> {
    items(&bundle["properties"])
        .iter()
        .find(|property| property["type"] == type_)
        .map(|property| &property["value"])
}

fn package_version(catalog: &Catalog) -> Vec<String> {
    let bundles = catalog.of("olm.bundle").into_iter();
    let good = |bundle: &Value| {
        property(bundle, "olm.package").is_some_and(|package| {
            text(package, "packageName") == package_of(bundle)
                && text(package, "version").parse::<Version>().is_ok()
        })
    };
    let wrong = bundles.filter(|bundle| !good(bundle));
    wrong
        .map(|bundle| {
            format!("bundle {}: no property olm.package with its package and version", text(bundle, "name"))
        })
        .collect()
}

fn bundle_images(catalog: &Catalog) -> Vec<String> {
    let mut wrong = Vec::new();
    for bundle in catalog.of("olm.bundle") {
        let image = text(bundle, "image");
        let related: Vec<&str> =
            items(&bundle["relatedImages"]).iter().map(|one| text(one, "image")).collect();
        let bad = related.iter().chain([&image]).any(|image| !is_reference(image));
        if bad || !related.contains(&image) {
            wrong.push(format!(
                "bundle {}: an image is no reference, or relatedImages lacks its own",
                text(bundle, "name")
            ));
        }
    }
    wrong
}

/// What a console shows of a channel is its head's.
fn head_metadata(catalog: &Catalog) -> Vec<String> {
    let heads: BTreeSet<&str> =
        catalog.channels().into_iter().flat_map(|(_, entries)| heads(entries)).collect();
    let bundles = catalog.of("olm.bundle").into_iter();
    let bare = bundles
        .filter(|one| heads.contains(text(one, "name")) && property(one, "olm.csv.metadata").is_none());
    bare.map(|one| format!("bundle {}: the head of a channel has no olm.csv.metadata", text(one, "name")))
        .collect()
}

/// What is deprecated exists.
fn deprecations(catalog: &Catalog) -> Vec<String> {
    let mut wrong = Vec::new();
    for blob in catalog.of("olm.deprecations") {
        for entry in items(&blob["entries"]) {
            let (schema, name) = (text(&entry["reference"], "schema"), text(&entry["reference"], "name"));
            let known =
                schema == "olm.package" || catalog.of(schema).iter().any(|one| text(one, "name") == name);
            if !known || text(entry, "message").is_empty() {
                wrong.push(format!(
                    "deprecation of {schema} {name}: it does not exist, or no message says why"
                ));
            }
        }
    }
    wrong
}
