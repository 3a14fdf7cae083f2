//! What the agent writes beside its ports in OVSDB (`external_ids`).

/// `external_ids` keys, upstream's names.
pub mod key {
    /// Role of a port: `gateway`, `container`, `tunnel` …
    pub const TYPE: &str = "antrea-type";
    /// Container (sandbox) id.
    pub const CONTAINER_ID: &str = "container-id";
    /// Comma separated addresses.
    pub const IP_ADDRESS: &str = "ip-address";
    /// MAC of the container's end.
    pub const ATTACHED_MAC: &str = "attached-mac";
    /// Upstream's key; a pod's name.
    pub const POD_NAME: &str = "pod-name";
    /// Upstream's key; a pod's namespace.
    pub const POD_NAMESPACE: &str = "pod-namespace";
    /// Pod UID, where the runtime told it.
    pub const POD_UID: &str = "pod-uid";
    /// Link name in the container, where it is not `eth0`.
    pub const IF_DEV: &str = "if-dev";
    /// Path of the container's network namespace.
    pub const NETNS: &str = "net-ns";
    /// Which of its traffic policy isolates: `ingress`, `egress` or both, separated by a comma; absent where none does.
    pub const ISOLATED: &str = "antrea-isolated";
}

/// Value of [`key::TYPE`] for a pod's port.
pub const TYPE_CONTAINER: &str = "container";
/// Value of [`key::TYPE`] for the gateway.
pub const TYPE_GATEWAY: &str = "gateway";
/// Value of [`key::TYPE`] for the tunnel.
pub const TYPE_TUNNEL: &str = "tunnel";
