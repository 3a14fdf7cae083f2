//! Ports of the bridge that somebody changes or takes away in OVSDB.

use std::collections::BTreeSet;
use std::time::Duration;

use netcfg::Link;
use ovs::db::{Changes, Row, RowChange};
use ovs::vswitch::PortSpec;

use super::links::{DesiredLink, Fault};
use super::{Host, Progress};
use crate::ovs::bridge::{self, Bridge, BridgeInputs, TUNNEL_PORT, gateway_port, tunnel_device, tunnel_port};
use crate::pods::interfaces::{PodInterface, attachment_of};

/// ovs-vswitchd gives a number within milliseconds.
const OFPORT_LIMIT: Duration = Duration::from_secs(2);

/// What the agent says of a port; the rest is ovs-vswitchd's, or does not matter to packets.
const PORT_COLUMNS: [&str; 2] = ["tag", "interfaces"];
const INTERFACE_COLUMNS: [&str; 5] = ["type", "options", "ofport_request", "mac", "mtu_request"];

/// Names of ports that are gone, or are configured otherwise than before.
pub(super) fn touched(changes: &Changes) -> impl Iterator<Item = &str> {
    changes.iter().filter_map(|RowChange { table, old, new }| {
        let columns = match &**table {
            "Port" => &PORT_COLUMNS[..],
            "Interface" => &INTERFACE_COLUMNS[..],
            _ => return None,
        };
        let old = old.as_ref()?;
        let same = |new: &Row| columns.iter().all(|column| old.get(column) == new.get(column));
        if new.as_ref().is_some_and(|new| same(new)) { None } else { old.str("name") }
    })
}

impl Host {
    /// The device that Open vSwitch makes for the tunnel.
    pub(super) fn device(&self) -> Option<String> {
        tunnel_device(&self.config, self.bridge.datapath, self.bridge.tunnel_type)
    }

    /// Whether the agent says what this port is. A call that is under way about a pod's says it itself.
    pub(super) fn keeps_port(&self, name: &str) -> bool {
        let known = |interface: &PodInterface| interface.host_ifname == name;
        name == TUNNEL_PORT
            || name == self.config.host_gateway
            || (!self.network.is_claimed(name) && self.network.interfaces().iter().any(known))
    }

    /// Why a link of the bridge has to be made anew.
    pub(super) fn lost(&self, desired: &DesiredLink, links: &[Link]) -> Option<String> {
        let found = links.iter().find(|link| link.name == desired.name);
        let faults = desired.compare(found, &[]);
        let fault = faults.into_iter().find(|fault| matches!(fault.fault, Fault::Gone | Fault::Other));
        fault.map(|fault| fault.to_string()).or_else(|| self.port_fault(&desired.name))
    }

    pub(super) fn ovs_works(&self) -> bool {
        let facts = self.reporter.subscribe();
        let facts = facts.borrow();
        facts.ovsdb.is_good() && facts.openflow.is_good()
    }

    /// Has gateway and tunnel made where they are not there. Their OpenFlow numbers stay.
    pub(super) async fn make_ports(&mut self) -> Result<(), String> {
        let names = self.network.dataplane.network().pipeline.names();
        let inputs = BridgeInputs {
            config: &self.config,
            transport_ip: self.underlay.transport.addr(),
            mtu: self.network.mtu,
            gateway_mac: Some(self.bridge.gateway_mac),
            sysctls: &self.network.sysctls,
            tables: names.into_iter().map(|(number, name)| (number, name.to_string())).collect(),
        };
        let Bridge { datapath, tunnel_type, .. } = self.bridge;
        let ensured =
            bridge::ensure(&self.network.vswitch, &self.network.netlink, &inputs, datapath, tunnel_type);
        let made = ensured.await.map_err(|error| error.to_string())?;
        let numbers = |bridge: &Bridge| (bridge.gateway_ofport, bridge.tunnel_ofport);
        if numbers(&made) != numbers(&self.bridge) {
            return Err("Open vSwitch gave it another OpenFlow number".to_owned());
        }
        Ok(())
    }

    /// What is wrong with the port that a link of the bridge belongs to.
    fn port_fault(&self, link: &str) -> Option<String> {
        let spec = if link == self.config.host_gateway {
            gateway_port(&self.config, self.bridge.gateway_mac, self.network.mtu)
        } else {
            tunnel_port(&self.config, self.bridge.datapath, self.bridge.tunnel_type)
        };
        self.fault_of(&spec)
    }

    fn fault_of(&self, spec: &PortSpec) -> Option<String> {
        let vswitch = &self.network.vswitch;
        vswitch.bridge_info(&spec.bridge)?;
        if vswitch.port(&spec.name).is_none() {
            return Some(format!("port {} of bridge {} was gone", spec.name, spec.bridge));
        }
        vswitch.differs(spec).then(|| format!("port {} of bridge {} differed", spec.name, spec.bridge))
    }

    /// Puts ports of pods back. `links` are those that there are: without its link a pod's port cannot be.
    pub(super) async fn pod_ports(&self, links: &BTreeSet<&str>, progress: &mut Progress) {
        if !self.ovs_works() {
            return;
        }
        for interface in self.network.interfaces() {
            let name = interface.host_ifname.as_str();
            if !links.contains(name) || self.network.is_claimed(name) {
                continue;
            }
            let spec = interface.port(&self.network.bridge);
            let Some(fault) = self.fault_of(&spec) else { continue };
            match self.put_back(&interface, &spec).await {
                Ok(true) => {
                    let PodInterface { pod_namespace, pod_name, .. } = &interface;
                    progress.done.push(format!("{fault}, that of pod {pod_namespace}/{pod_name}"));
                }
                Ok(false) => {}
                Err(problem) => {
                    progress.problems.push(format!("{fault}: {problem}"));
                    // What fails for one port mostly fails for all.
                    return;
                }
            }
        }
    }

    /// Makes a port as it should be. False: meanwhile a call has come that takes it away, and has it.
    async fn put_back(&self, interface: &PodInterface, spec: &PortSpec) -> Result<bool, String> {
        let network = &self.network;
        network.vswitch.add_port(spec).await.map_err(|error| error.to_string())?;
        let kept = network.interface(&interface.container_id, &interface.ifname).as_ref() == Some(interface);
        if !kept || network.is_claimed(&spec.name) {
            let owner = network.vswitch.port(&spec.name).and_then(|port| attachment_of(&port.external_ids));
            if owner == Some(interface.attachment()) {
                let deleted = network.vswitch.delete_port(&spec.bridge, &spec.name).await;
                deleted.map_err(|error| error.to_string())?;
            }
            return Ok(false);
        }
        let number = network.vswitch.wait_ofport(&spec.name, OFPORT_LIMIT).await;
        match number.map_err(|error| error.to_string())? {
            number if number == interface.ofport => Ok(true),
            number => Err(format!("it has OpenFlow number {number} instead of {}", interface.ofport)),
        }
    }
}
