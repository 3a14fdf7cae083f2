//! The Helm chart of the operator, from the objects of `config/`.
//!
//! Objects are those of the manifest, with values in the places that [`HOLES`] lists. Definitions are templates and not
//! in Helm's folder `crds/`, which an upgrade passes over; they and the AntreaInstallation are kept when the release goes,
//! because with them would go the network.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{files, generate::HEADER};

/// Folder of the chart.
pub(crate) const FOLDER: &str = "config/chart";

/// What keeps Helm from deleting an object.
const KEEP: (&str, &str) = ("helm.sh/resource-policy", "keep");

/// A value in an object: a text that stands for it while the object is written as YAML, and the template that takes its
/// place. Lists and maps take the place of their whole line.
struct Hole {
    mark: &'static str,
    template: &'static str,
}

const HOLES: [Hole; 8] = [
    Hole { mark: "hole-namespace", template: "{{ .Release.Namespace }}" },
    Hole {
        mark: "hole-image",
        template: "{{ .Values.image.repository }}{{ with .Values.image.digest }}@{{ . }}{{ else }}:{{ .Values.image.tag | default (printf \"v%s\" .Chart.AppVersion) }}{{ end }}",
    },
    Hole { mark: "hole-pull-policy", template: "{{ .Values.image.pullPolicy }}" },
    Hole { mark: "hole-api-server", template: "{{ .Values.kubernetesAPIServer | quote }}" },
    Hole { mark: "hole-version", template: "{{ .Values.defaultVersion | quote }}" },
    Hole { mark: "resources: hole", template: "resources: {{- toYaml .Values.resources | nindent 12 }}" },
    Hole {
        mark: "nodeSelector: hole",
        template: "nodeSelector: {{- toYaml .Values.nodeSelector | nindent 8 }}",
    },
    Hole {
        mark: "tolerations: hole",
        template: "tolerations: {{- toYaml .Values.tolerations | nindent 8 }}",
    },
];

/// Every file of the chart, relative to its folder.
pub(crate) fn chart(root: &Path, version: &str) -> Result<Vec<(PathBuf, String)>> {
    let mut values = json!({
        "image": {"repository": "", "tag": "", "digest": "", "pullPolicy": ""},
        "imagePullSecrets": [],
        "kubernetesAPIServer": "",
        "defaultVersion": "",
        "installation": {"create": true, "spec": {}},
    });
    let mut operator = String::new();
    let mut definitions = String::new();
    for object in files::documents(&root.join("config/antrea-operator.yaml"))? {
        match object["kind"].as_str().unwrap_or_default() {
            // Helm installs into one that is there; its labels are in the notes.
            "Namespace" => {}
            "CustomResourceDefinition" => append(&mut definitions, &kept(object))?,
            "Deployment" => append(&mut operator, &opened(object, &mut values)?)?,
            _ => append(&mut operator, &placed(object))?,
        }
    }
    let notes = include_str!("chart-notes.txt");
    let chart = json!({
        "apiVersion": "v2",
        "name": "antrea-operator",
        "description": "Installs, upgrades and removes the Antrea network of a cluster",
        "type": "application",
        "version": version,
        "appVersion": version,
        "kubeVersion": ">=1.30.0-0",
        "home": "https://github.com/antrea-io/antrea-rs",
    });
    let yaml = |value: &Value| serde_saphyr::to_string(value).context("write YAML");
    let templates = Path::new("templates");
    Ok(vec![
        ("Chart.yaml".into(), format!("{HEADER}{}", yaml(&chart)?)),
        ("values.yaml".into(), format!("{HEADER}{VALUES}{}", yaml(&values)?)),
        (templates.join("definitions.yaml"), definitions),
        (templates.join("operator.yaml"), filled(&operator)?),
        (templates.join("installation.yaml"), INSTALLATION.to_owned()),
        (templates.join("NOTES.txt"), notes.to_owned()),
    ])
}

const VALUES: &str = "\
# image: of the operator; a digest goes before a tag, and the default tag is the chart's version.
# imagePullSecrets: of the operator, in its namespace. Those of agents and controller: installation.spec.images.
# kubernetesAPIServer: address that works before there is a network, such as https://10.0.0.1:6443.
# defaultVersion: what is installed when installation.spec.version is absent; the operator's own without it.
# installation: the AntreaInstallation, once its definition is served (see the notes); kubectl explain has its fields.
";

const INSTALLATION: &str = "\
{{- if and .Values.installation.create (.Capabilities.APIVersions.Has \"operator.antrea.io/v1alpha1/AntreaInstallation\") }}
apiVersion: operator.antrea.io/v1alpha1
kind: AntreaInstallation
metadata:
  name: default
  annotations:
    helm.sh/resource-policy: keep
spec: {{- toYaml .Values.installation.spec | nindent 2 }}
{{- end }}
";

fn append(text: &mut String, object: &Value) -> Result<()> {
    let yaml = serde_saphyr::to_string(object).context("write YAML")?;
    ensure!(!yaml.contains("{{"), "{}: text that Helm would take for a template", object["metadata"]["name"]);
    text.push_str("---\n");
    text.push_str(yaml.trim_end());
    text.push('\n');
    Ok(())
}

fn kept(mut object: Value) -> Value {
    object["metadata"]["annotations"][KEEP.0] = KEEP.1.into();
    object
}

/// The namespace is the release's, wherever it is named.
fn placed(mut object: Value) -> Value {
    let own = |namespace: &mut Value| {
        if namespace == "antrea-operator" {
            *namespace = "hole-namespace".into();
        }
    };
    if let Some(namespace) = object.pointer_mut("/metadata/namespace") {
        own(namespace);
    }
    for subject in object.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        own(&mut subject["namespace"]);
    }
    object
}

/// The Deployment with its holes; what was there becomes the default value.
fn opened(object: Value, values: &mut Value) -> Result<Value> {
    let mut object = placed(object);
    let pod = object.pointer_mut("/spec/template/spec").context("the Deployment's Pod")?;
    for key in ["nodeSelector", "tolerations"] {
        values[key] = std::mem::replace(&mut pod[key], "hole".into());
    }
    let container = pod.pointer_mut("/containers/0").context("the operator's container")?;
    values["resources"] = std::mem::replace(&mut container["resources"], "hole".into());
    let image = container["image"].as_str().context("the operator's image")?;
    let (repository, _) = image.rsplit_once(':').context("the tag of the operator's image")?;
    values["image"]["repository"] = repository.into();
    container["image"] = "hole-image".into();
    values["image"]["pullPolicy"] =
        std::mem::replace(&mut container["imagePullPolicy"], "hole-pull-policy".into());
    for variable in container["env"].as_array_mut().context("the operator's env")? {
        match variable["name"].as_str() {
            Some("KUBERNETES_API_SERVER") => variable["value"] = "hole-api-server".into(),
            Some("ANTREA_VERSION") => variable["value"] = "hole-version".into(),
            _ => {}
        }
    }
    Ok(object)
}

/// Puts templates into holes.
fn filled(text: &str) -> Result<String> {
    let mut text = text.to_owned();
    for Hole { mark, template } in &HOLES {
        ensure!(text.contains(mark), "the chart has no place for {template}");
        text = text.replace(mark, template);
    }
    ensure!(!text.contains("hole-") && !text.contains(": hole"), "a hole of the chart has no template");
    // An empty list is no field at all, as in the manifest.
    let secrets = "      {{- with .Values.imagePullSecrets }}\n      imagePullSecrets: {{- toYaml . | nindent 8 }}\n      {{- end }}\n";
    let pod = "      hostNetwork: true\n";
    ensure!(text.matches(pod).count() == 1, "the chart has no place for imagePullSecrets");
    Ok(text.replace(pod, &format!("{pod}{secrets}")))
}

/// How two sets of objects differ, by object; the order does not matter, nor what Helm needs besides.
pub(crate) fn differences(these: &[Value], others: &[Value]) -> Vec<String> {
    let key = |object: &Value| {
        let text =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        [text("/kind"), text("/metadata/namespace"), text("/metadata/name")].join(" ")
    };
    let plain = |object: &Value| {
        let mut object = object.clone();
        if let Some(annotations) = object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
        {
            annotations.remove(KEEP.0);
        }
        let empty = object.pointer("/metadata/annotations").is_some_and(|map| *map == json!({}));
        if let Some(metadata) = object["metadata"].as_object_mut().filter(|_| empty) {
            metadata.remove("annotations");
        }
        object
    };
    let index = |objects: &[Value]| {
        objects
            .iter()
            .map(|object| (key(object), plain(object)))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let (these, others) = (index(these), index(others));
    let mut found = Vec::new();
    for (key, object) in &these {
        match others.get(key) {
            None => found.push(format!("only in the first: {key}")),
            Some(other) if other != object => found.push(format!("differs: {key}")),
            Some(_) => {}
        }
    }
    found.extend(
        others.keys().filter(|key| !these.contains_key(*key)).map(|key| format!("only in the second: {key}")),
    );
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Helm gives with the chart's own values, for the templates that are used.
    fn rendered() -> Vec<Value> {
        let files = chart(&files::root(), "0.1.0").unwrap();
        let file = |name: &str| &files.iter().find(|(path, _)| path.ends_with(name)).unwrap().1;
        let values: Value = serde_saphyr::from_str(file("values.yaml")).unwrap();
        let mut text = file("operator.yaml").clone();
        let (start, rest) = text.split_once("      {{- with .Values.imagePullSecrets }}").unwrap();
        text = format!("{start}{}", rest.split_once("{{- end }}\n").unwrap().1);
        for (template, value) in [
            (HOLES[0].template, "antrea-operator".to_owned()),
            (HOLES[1].template, format!("{}:v0.1.0", values["image"]["repository"].as_str().unwrap())),
            (HOLES[2].template, values["image"]["pullPolicy"].as_str().unwrap().to_owned()),
            (HOLES[3].template, values["kubernetesAPIServer"].to_string()),
            (HOLES[4].template, values["defaultVersion"].to_string()),
            (HOLES[5].template, format!("resources: {}", values["resources"])),
            (HOLES[6].template, format!("nodeSelector: {}", values["nodeSelector"])),
            (HOLES[7].template, format!("tolerations: {}", values["tolerations"])),
        ] {
            text = text.replace(template, &value);
        }
        assert!(!text.contains("{{"), "{text}");
        text.push_str(file("definitions.yaml"));
        serde_saphyr::from_multiple(&text).unwrap()
    }

    #[test]
    fn the_chart_is_the_manifest() {
        let mut manifest = files::documents(&files::root().join("config/antrea-operator.yaml")).unwrap();
        manifest.retain(|object| object["kind"] != "Namespace");
        assert_eq!(differences(&rendered(), &manifest), Vec::<String>::new());
        manifest.remove(0);
        manifest[0]["spec"] = json!({});
        assert_eq!(differences(&rendered(), &manifest).len(), 2, "a difference shows");
    }

    /// Deleting a release must not take a network away.
    #[test]
    fn what_the_network_hangs_on_is_kept() {
        for object in rendered().iter().filter(|object| object["kind"] == "CustomResourceDefinition") {
            assert_eq!(object["metadata"]["annotations"][KEEP.0], KEEP.1);
        }
        assert!(INSTALLATION.contains("helm.sh/resource-policy: keep"));
    }
}
