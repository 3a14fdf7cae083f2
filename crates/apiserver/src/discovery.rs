//! What the server serves, as clients and the aggregator ask for it.

use serde_json::{Value, json};

use crate::storage::Resource;

/// Content type of aggregated discovery.
pub(crate) const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Whether an `Accept` header asks for aggregated discovery in the version that we serve.
pub(crate) fn wants_aggregated(accept: Option<&str>) -> bool {
    accept.unwrap_or_default().split(',').any(|entry| {
        let parts: Vec<_> = entry.split(';').map(str::trim).collect();
        parts.contains(&"as=APIGroupDiscoveryList") && parts.contains(&"v=v2")
    })
}

/// Groups with their versions, in order of appearance.
fn groups(resources: &[Resource]) -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for resource in resources {
        match groups.iter_mut().find(|(group, _)| *group == resource.group) {
            Some((_, versions)) if !versions.contains(&resource.version) => versions.push(resource.version),
            Some(_) => {}
            None => groups.push((resource.group, vec![resource.version])),
        }
    }
    groups
}

fn api_group(group: &str, versions: &[&str]) -> Value {
    let version = |v: &&str| json!({ "groupVersion": format!("{group}/{v}"), "version": v });
    json!({
        "name": group,
        "versions": versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(version),
    })
}

/// `/apis`.
pub(crate) fn group_list(resources: &[Resource]) -> Value {
    let groups: Vec<_> =
        groups(resources).iter().map(|(group, versions)| api_group(group, versions)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/{group}`.
pub(crate) fn group(resources: &[Resource], name: &str) -> Option<Value> {
    let groups = groups(resources);
    let (group, versions) = groups.iter().find(|(group, _)| *group == name)?;
    let mut value = api_group(group, versions);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

/// `/apis/{group}/{version}`.
pub(crate) fn resource_list(resources: &[Resource], group: &str, version: &str) -> Option<Value> {
    let mut list = Vec::new();
    for resource in resources.iter().filter(|r| r.group == group && r.version == version) {
        list.push(json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced,
            "kind": resource.kind, "verbs": resource.verbs, "shortNames": resource.short_names,
        }));
        for (name, kind, verbs) in resource.subresources {
            list.push(json!({
                "name": format!("{}/{name}", resource.plural), "singularName": "",
                "namespaced": resource.namespaced, "kind": kind, "verbs": verbs,
            }));
        }
    }
    (!list.is_empty()).then(|| {
        json!({
            "kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": format!("{group}/{version}"), "resources": list,
        })
    })
}

/// `/apis` as one document.
pub(crate) fn aggregated(resources: &[Resource]) -> Value {
    let scope = |r: &Resource| if r.namespaced { "Namespaced" } else { "Cluster" };
    let entry = |r: &Resource| {
        let kind = |kind: &str| json!({ "group": r.group, "version": r.version, "kind": kind });
        let subresources: Vec<_> = r
            .subresources
            .iter()
            .map(|(name, k, verbs)| json!({ "subresource": name, "responseKind": kind(k), "verbs": verbs }))
            .collect();
        json!({
            "resource": r.plural, "responseKind": kind(r.kind), "scope": scope(r),
            "singularResource": r.singular, "verbs": r.verbs, "shortNames": r.short_names,
            "subresources": subresources,
        })
    };
    let items: Vec<_> = groups(resources)
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<_> = versions
                .iter()
                .map(|version| {
                    let of_version = resources.iter().filter(|r| r.group == *group && r.version == *version);
                    json!({
                        "version": version, "freshness": "Current",
                        "resources": of_version.map(entry).collect::<Vec<_>>(),
                    })
                })
                .collect();
            json!({ "metadata": { "name": group, "creationTimestamp": null }, "versions": versions })
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    })
}
