//! Namespaces of containers, by the paths that the runtime named.

use std::path::{Path, PathBuf};

use antrea_api::cni::ErrorCode;
use netcfg::Netns;

use super::AttachError;
use crate::pods::interfaces::PodInterface;
use crate::pods::network::NodeNetwork;

/// Where the agent finds a namespace that the runtime named: below the host's mount of /proc where the
/// runtime uses process paths and the agent runs in a container.
fn netns_path(prefix: &str, path: &str) -> PathBuf {
    match path.strip_prefix("/proc/") {
        Some(rest) if !prefix.is_empty() => Path::new(prefix).join("proc").join(rest),
        _ => PathBuf::from(path),
    }
}

/// Whether a complete attachment still has its container's namespace, as far as can be told.
pub fn has_namespace(node: &NodeNetwork, container_id: &str, ifname: &str) -> bool {
    let interface = node.interface(container_id, ifname);
    interface.is_some_and(|interface| !is_gone(&node.host_proc_path_prefix, &interface))
}

/// Whether an attachment's container is gone, by its namespace. One that cannot be looked at is taken to be there: what it
/// has is given up by the runtime's DEL, and would not come back to a pod that runs.
pub fn is_gone(host_proc_path_prefix: &str, interface: &PodInterface) -> bool {
    let found = Netns::find(netns_path(host_proc_path_prefix, &interface.netns));
    found.map_or_else(
        |error| {
            let PodInterface { container_id, pod_namespace, pod_name, .. } = interface;
            tracing::warn!(container_id, pod_namespace, pod_name, %error, "the container is taken to be there");
            false
        },
        |found| found.is_none(),
    )
}

pub(super) fn open_netns(node: &NodeNetwork, path: &str) -> Result<Netns, AttachError> {
    Netns::open(netns_path(&node.host_proc_path_prefix, path))
        .map_err(|error| AttachError::new(ErrorCode::InvalidEnvironmentVariables, error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::interfaces::sample;

    #[test]
    fn process_paths_go_through_the_hosts_proc() {
        assert_eq!(netns_path("/host", "/proc/42/ns/net"), Path::new("/host/proc/42/ns/net"));
        assert_eq!(netns_path("", "/proc/42/ns/net"), Path::new("/proc/42/ns/net"));
        assert_eq!(netns_path("/host", "/var/run/netns/cni-1"), Path::new("/var/run/netns/cni-1"));
    }

    #[test]
    fn a_container_is_gone_without_a_namespace_and_not_for_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("unmounted"), "").unwrap();
        std::os::unix::fs::symlink("loop", path("loop")).unwrap();
        std::os::unix::fs::symlink("/proc/self/ns/net", path("there")).unwrap();
        for (name, gone) in [
            ("missing", true),
            ("missing/net", true),
            ("unmounted", true),
            ("unmounted/net", true),
            ("there", false),
            ("loop", false),
        ] {
            let interface = PodInterface { netns: path(name).display().to_string(), ..sample() };
            assert_eq!(is_gone("", &interface), gone, "{name}");
        }
    }
}
