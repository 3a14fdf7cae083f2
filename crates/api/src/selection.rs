//! What the controller answers to an agent that is about to connect a pod.
//!
//! `GET /podselection?node=…&namespace=…&pod=…&uid=…`: 200 with a [`PodSelection`] once the controller has
//! taken in that this pod is on this node, 404 before.

use serde::{Deserialize, Serialize};

/// Path of the request.
pub const PATH: &str = "/podselection";

/// The query of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PodQuery {
    /// The node that asks.
    pub node: String,
    pub namespace: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod as the kubelet knows it, empty where the runtime does not tell: that of a static pod
    /// is the hash of its configuration.
    pub uid: String,
}

/// Everything that selects a pod, by name in the `controlplane` API.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSelection {
    /// Policies that apply to the pod.
    pub policies: Vec<String>,
    /// AppliedToGroups that hold it.
    pub applied_to_groups: Vec<String>,
}

impl PodQuery {
    /// Path and query of the request; none if a part is nothing that Kubernetes would give such a name.
    pub fn path(&self) -> Option<String> {
        let Self { node, namespace, pod, uid } = self;
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        [node, namespace, pod, uid]
            .iter()
            .all(|text| plain(text))
            .then(|| format!("{PATH}?node={node}&namespace={namespace}&pod={pod}&uid={uid}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_get_into_a_path() {
        let query = PodQuery {
            node: "n1".into(),
            namespace: "shop".into(),
            pod: "web-0.x".into(),
            uid: String::new(),
        };
        assert_eq!(query.path().unwrap(), "/podselection?node=n1&namespace=shop&pod=web-0.x&uid=");
        assert_eq!(PodQuery { pod: "a&uid=b".into(), ..query }.path(), None);
    }
}
