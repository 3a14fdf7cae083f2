//! Pod interfaces, as the agent knows them and as OVSDB remembers them.
//!
//! OVSDB's `external_ids` are the agent's only memory of a pod interface: what is written there with
//! the port survives the agent, and is all that a restarted agent needs to install the same flows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use antrea_api::controlplane::ObjectReference;
use antrea_enforce::pods::LocalPod;
use antrea_flows::{Change, Network, Owner};
use netcfg::MacAddr;
use ovs::vswitch::PortSpec;

use crate::ovs::ids::{TYPE_CONTAINER, key};

/// One attachment of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodInterface {
    /// Host's end, which is the OVS port's name.
    pub host_ifname: String,
    pub container_id: String,
    /// Link name in the container.
    pub ifname: String,
    pub pod_name: String,
    pub pod_namespace: String,
    /// Pod UID; empty where the runtime did not tell it.
    pub pod_uid: String,
    /// Path of the container's network namespace.
    pub netns: String,
    /// MAC of the container's end.
    pub mac: [u8; 6],
    pub ips: Vec<IpAddr>,
    /// OpenFlow port.
    pub ofport: u32,
}

/// A port whose `external_ids` do not describe a pod interface.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("port {port}: external_ids:{key} is missing or malformed")]
pub struct Malformed {
    /// OVS port.
    pub port: String,
    pub key: &'static str,
}

/// The owner of a pod's flows.
pub fn owner(container_id: &str, ifname: &str) -> Owner {
    Owner::Pod(format!("{container_id}/{ifname}").into())
}

impl PodInterface {
    /// As policy sees it.
    pub fn local_pod(&self) -> LocalPod {
        let pod = ObjectReference { name: self.pod_name.clone(), namespace: self.pod_namespace.clone() };
        LocalPod {
            pod,
            ofport: self.ofport,
            ips: self.ips.clone(),
            uid: self.pod_uid.clone(),
            attachment: (self.container_id.clone(), self.ifname.clone()),
        }
    }

    /// Who wants its flows on the bridge, and which.
    pub fn flows(&self, network: &Network) -> (Owner, Change) {
        let port =
            antrea_flows::PodInterface { ofport: self.ofport, mac: self.mac.into(), ips: self.ips.clone() };
        (owner(&self.container_id, &self.ifname), Change::flows(antrea_flows::pod(network, &port)))
    }

    /// `external_ids` for the port.
    pub fn external_ids(&self) -> BTreeMap<String, String> {
        let ips: Vec<String> = self.ips.iter().map(IpAddr::to_string).collect();
        let mut ids: BTreeMap<String, String> = [
            (key::TYPE, TYPE_CONTAINER.to_owned()),
            (key::CONTAINER_ID, self.container_id.clone()),
            (key::IP_ADDRESS, ips.join(",")),
            (key::ATTACHED_MAC, MacAddr(self.mac).to_string()),
            (key::POD_NAME, self.pod_name.clone()),
            (key::POD_NAMESPACE, self.pod_namespace.clone()),
            (key::NETNS, self.netns.clone()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
        if !self.pod_uid.is_empty() {
            ids.insert(key::POD_UID.to_owned(), self.pod_uid.clone());
        }
        if self.ifname != "eth0" {
            ids.insert(key::IF_DEV.to_owned(), self.ifname.clone());
        }
        ids
    }

    /// What OVSDB is to hold of it, from which it is read back.
    pub fn port(&self, bridge: &str) -> PortSpec {
        PortSpec {
            bridge: bridge.to_owned(),
            name: self.host_ifname.clone(),
            ofport_request: Some(self.ofport),
            external_ids: self.external_ids(),
            ..PortSpec::default()
        }
    }

    /// The container's id and its name of the link, by which a runtime knows the attachment.
    pub fn attachment(&self) -> AttachmentKey {
        (self.container_id.clone(), self.ifname.clone())
    }

    /// Reads a port back. Ports of another role are `None`.
    ///
    /// # Errors
    /// The key that a container port must have and has not.
    pub fn from_port(
        port: &str,
        ofport: u32,
        ids: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, Malformed> {
        if ids.get(key::TYPE).map(String::as_str) != Some(TYPE_CONTAINER) {
            return Ok(None);
        }
        let malformed = |key| Malformed { port: port.to_owned(), key };
        let get = |key| ids.get(key).filter(|value| !value.is_empty()).cloned().ok_or_else(|| malformed(key));
        let ips = get(key::IP_ADDRESS)?
            .split(',')
            .map(|text| text.trim().parse().map_err(|_| malformed(key::IP_ADDRESS)))
            .collect::<Result<_, _>>()?;
        Ok(Some(Self {
            host_ifname: port.to_owned(),
            container_id: get(key::CONTAINER_ID)?,
            ifname: get(key::IF_DEV).unwrap_or_else(|_| "eth0".to_owned()),
            pod_name: get(key::POD_NAME)?,
            pod_namespace: get(key::POD_NAMESPACE)?,
            pod_uid: ids.get(key::POD_UID).cloned().unwrap_or_default(),
            netns: ids.get(key::NETNS).cloned().unwrap_or_default(),
            mac: get(key::ATTACHED_MAC)?.parse::<MacAddr>().map_err(|_| malformed(key::ATTACHED_MAC))?.0,
            ips,
            ofport,
        }))
    }
}

/// Key of an attachment: container id and link.
pub type AttachmentKey = (String, String);

/// The attachment that a port with these `external_ids` belongs to.
pub fn attachment_of(ids: &BTreeMap<String, String>) -> Option<AttachmentKey> {
    let ifname = ids.get(key::IF_DEV).filter(|name| !name.is_empty());
    let ifname = ifname.map_or("eth0", String::as_str);
    ids.get(key::CONTAINER_ID).map(|container| (container.clone(), ifname.to_owned()))
}

/// All attachments of this node.
#[derive(Debug, Default)]
pub struct InterfaceStore {
    by_attachment: BTreeMap<AttachmentKey, PodInterface>,
}

impl InterfaceStore {
    /// Adds or replaces an attachment.
    pub fn insert(&mut self, interface: PodInterface) {
        self.by_attachment.insert((interface.container_id.clone(), interface.ifname.clone()), interface);
    }

    /// Forgets an attachment.
    pub fn remove(&mut self, container_id: &str, ifname: &str) -> Option<PodInterface> {
        self.by_attachment.remove(&(container_id.to_owned(), ifname.to_owned()))
    }

    /// Finds an attachment.
    pub fn get(&self, container_id: &str, ifname: &str) -> Option<&PodInterface> {
        self.by_attachment.get(&(container_id.to_owned(), ifname.to_owned()))
    }

    /// All attachments, by container id.
    pub fn iter(&self) -> impl Iterator<Item = &PodInterface> {
        self.by_attachment.values()
    }

    /// Number of attachments.
    pub fn len(&self) -> usize {
        self.by_attachment.len()
    }
}

#[cfg(test)]
pub(super) fn sample() -> PodInterface {
    PodInterface {
        host_ifname: "web-1a2b3c".into(),
        container_id: "c1".into(),
        ifname: "net1".into(),
        pod_name: "web".into(),
        pod_namespace: "default".into(),
        pod_uid: "0c9f".into(),
        netns: "/run/netns/x".into(),
        mac: [2, 0, 0, 0, 0, 1],
        ips: vec!["10.244.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
        ofport: 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ovsdb_remembers_everything() {
        let interface = sample();
        let read = PodInterface::from_port("web-1a2b3c", 7, &interface.external_ids()).unwrap();
        assert_eq!(attachment_of(&interface.external_ids()), Some(interface.attachment()));
        assert_eq!(read, Some(interface));
    }

    #[test]
    fn other_roles_are_no_pods_and_gaps_are_named() {
        let ids = BTreeMap::from([(key::TYPE.to_owned(), crate::ovs::ids::TYPE_GATEWAY.to_owned())]);
        assert_eq!(PodInterface::from_port("antrea-gw0", 1, &ids), Ok(None));
        for key in [key::CONTAINER_ID, key::IP_ADDRESS, key::ATTACHED_MAC, key::POD_NAME] {
            let mut ids = sample().external_ids();
            ids.insert(key.to_owned(), String::new());
            let error = PodInterface::from_port("p", 1, &ids).unwrap_err();
            assert_eq!(error.key, key);
        }
    }

    #[test]
    fn store_finds_by_attachment_and_pod() {
        let mut store = InterfaceStore::default();
        store.insert(sample());
        assert!(store.get("c1", "net1").is_some());
        assert!(store.get("c1", "eth0").is_none());
        assert!(store.remove("c1", "net1").is_some());
        assert_eq!(store.len(), 0);
    }
}
