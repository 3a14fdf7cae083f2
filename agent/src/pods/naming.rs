//! Names and addresses that follow from what the runtime passes.

use sha1::{Digest, Sha1};

/// Name of the host's end of a pod's veth, as upstream forms it: up to 8 characters of the pod's name,
/// `-`, and 6 hex digits of SHA-1 over the container id (and the interface's name where it is not
/// `eth0`). At most 15 characters, the kernel's limit.
pub fn host_interface(pod_name: &str, container_id: &str, ifname: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(container_id.as_bytes());
    if ifname != "eth0" {
        hash.update(ifname.as_bytes());
    }
    let digest = hash.finalize();
    let suffix = format!("{:02x}{:02x}{:02x}", digest[0], digest[1], digest[2]);
    // Pod names are DNS-1123, so ASCII; anything else is cut at a character's border.
    let prefix: String = pod_name.chars().take(8).collect();
    let prefix = prefix.trim_start_matches('-');
    if prefix.is_empty() { suffix } else { format!("{prefix}-{suffix}") }
}

/// Values of `CNI_ARGS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodArgs {
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_UID`.
    pub uid: String,
}

impl PodArgs {
    /// Reads `key=value;…`; unknown keys are ignored, as `IgnoreUnknown=1` asks.
    pub fn parse(args: &str) -> Self {
        let mut pod = Self::default();
        for pair in args.split(';') {
            match pair.split_once('=') {
                Some(("K8S_POD_NAME", value)) => pod.name = value.to_owned(),
                Some(("K8S_POD_NAMESPACE", value)) => pod.namespace = value.to_owned(),
                Some(("K8S_POD_UID", value)) => pod.uid = value.to_owned(),
                _ => {}
            }
        }
        pod
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_fit_and_differ() {
        let name = host_interface("a-very-long-pod-name", "0123456789abcdef", "eth0");
        assert_eq!(name.len(), 15);
        assert!(name.starts_with("a-very-l-"));
        assert_ne!(name, host_interface("a-very-long-pod-name", "0123456789abcdef", "eth1"));
        assert_ne!(name, host_interface("a-very-long-pod-name", "fedcba", "eth0"));
        // SHA-1("abc") = a9993e36…
        assert_eq!(host_interface("web", "abc", "eth0"), "web-a9993e");
        assert_eq!(host_interface("", "abc", "eth0"), "a9993e");
    }

    #[test]
    fn reads_cni_args() {
        let pod = PodArgs::parse("IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;X");
        assert_eq!(pod, PodArgs { name: "web".into(), namespace: "default".into(), uid: String::new() });
    }
}
