//! Putting links, addresses, routes, neighbours and the settings of links right.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netcfg::nl::route::RouteFilter;
use netcfg::{Link, MacAddr, VxlanInfo};

use super::links::{DesiredLink, Fault};
use super::local_traffic::LocalTraffic;
use super::network::HostConfig;
use super::{Host, Moved, Progress, services, setting_differed};
use crate::config::{EncapMode, TunnelType};
use crate::ovs::bridge::{Bridge, Datapath, TUNNEL_PORT};
use crate::ovs::links::{POD_LINK_GROUP, allow_ipv6, quiet_settings};
use crate::peers::wiring::Wiring;
use crate::pods::{attach, leases};
use crate::subnet::gateway_net;

/// Pods' links whose settings are looked at together.
const QUIET_AT_ONCE: usize = 32;

impl Host {
    pub(super) fn has_vxlan(&self) -> bool {
        self.underlay.kernel_vxlan && self.underlay.mode != EncapMode::NoEncap
    }

    /// The agent's own links.
    fn desired(&self) -> Vec<DesiredLink> {
        let mut desired = vec![DesiredLink {
            name: self.config.host_gateway.clone(),
            mac: Some(MacAddr(self.bridge.gateway_mac)),
            mtu: Some(self.network.mtu),
            addresses: Some(self.network.subnets.iter().map(gateway_net).collect()),
            ..DesiredLink::default()
        }];
        if self.has_vxlan() {
            desired.push(DesiredLink {
                name: TUNNEL_PORT.to_owned(),
                mtu: Some(self.network.mtu),
                group: Some(POD_LINK_GROUP),
                vxlan: Some(VxlanInfo {
                    vni: 0,
                    port: self.config.tunnel_port(TunnelType::Vxlan),
                    local: Some(self.underlay.transport.addr()),
                    learning: false,
                }),
                ..DesiredLink::default()
            });
        }
        // A kernel of before such devices has tunnels all the same: one that was never there is not missed.
        if let (Some(name), Some(mtu)) = (self.device(), self.device_mtu) {
            desired.push(DesiredLink { name, mtu: Some(mtu), ..DesiredLink::default() });
        }
        desired
    }

    /// The host's ends of pods' links, but for those that a call is about.
    fn pod_links(&self) -> Vec<DesiredLink> {
        let interfaces = self.network.interfaces().into_iter();
        let quiet = interfaces.filter(|interface| !self.network.is_claimed(&interface.host_ifname));
        quiet
            .map(|interface| DesiredLink {
                name: interface.host_ifname,
                group: Some(POD_LINK_GROUP),
                ..DesiredLink::default()
            })
            .collect()
    }

    pub(super) async fn links(&mut self, progress: &mut Progress) -> Result<(), Moved> {
        let netlink = self.network.netlink.clone();
        let Some(mut links) = progress.errors.check(netlink.links().await) else { return Ok(()) };
        let desired = self.desired();
        let lost: Vec<_> = desired.iter().filter_map(|link| self.lost(link, &links)).collect();
        if !lost.is_empty() {
            if !self.ovs_works() {
                // Links of the bridge go and come with it; its own condition tells of that.
                return Ok(());
            }
            if let Err(problem) = self.make_ports().await {
                progress.problems.push(format!("{}: {problem}", lost.join("; ")));
                return Ok(());
            }
            progress.done.extend(lost);
            let Some(again) = progress.errors.check(netlink.links().await) else { return Ok(()) };
            links = again;
        }
        self.follow_indexes(&links)?;
        self.own_addresses(&links, progress).await;
        for link in &desired {
            self.repair(link, &links, progress).await;
        }
        // Read before the interfaces: a pod that is added meanwhile has no link here yet and is not missed.
        let names: BTreeSet<&str> = links.iter().map(|link| link.name.as_str()).collect();
        for link in self.pod_links() {
            if names.contains(link.name.as_str()) {
                self.lost.remove(&link.name);
                self.repair(&link, &links, progress).await;
            } else {
                self.tell_lost(&link.name);
            }
        }
        self.pod_ports(&names, progress).await;
        Ok(())
    }

    /// A link that was made anew has another index.
    fn follow_indexes(&mut self, links: &[Link]) -> Result<(), Moved> {
        let find = |name: &str| links.iter().find(|link| link.name == name);
        if let Some(gateway) = find(&self.config.host_gateway) {
            self.underlay.gateway_link = gateway.index;
        }
        self.tunnel_link = find(TUNNEL_PORT).map(|link| link.index);
        if let Some(device) = self.device().as_deref().and_then(find) {
            self.device_mtu.get_or_insert(device.mtu);
        }
        if let Some(transport) = find(&self.transport) {
            self.underlay.transport_link = transport.index;
            let Bridge { tunnel_type, .. } = self.bridge;
            let pods = |mtu| self.config.pod_mtu(mtu, self.underlay.transport.addr(), tunnel_type);
            let before = *self.transport_mtu.get_or_insert(transport.mtu);
            if pods(before) != pods(transport.mtu) {
                let Link { name, mtu, .. } = transport;
                return Err(Moved(format!("the MTU of link {name} changed from {before} to {mtu}")));
            }
        }
        Ok(())
    }

    async fn repair(&self, desired: &DesiredLink, links: &[Link], progress: &mut Progress) {
        let netlink = &self.network.netlink;
        let found = links.iter().find(|link| link.name == desired.name);
        let mut addresses = Vec::new();
        if let (Some(link), Some(_)) = (found, &desired.addresses) {
            let Some(read) = progress.errors.check(netlink.addresses(link.index).await) else { return };
            addresses.extend(read.into_iter().map(|address| address.net));
        }
        let faults = desired.compare(found, &addresses);
        for found in &faults {
            let Some(index) = found.index else { continue };
            let done = match found.fault {
                Fault::Down => netlink.set_up(index).await,
                Fault::Mac(mac) => netlink.set_mac(index, mac).await,
                Fault::Mtu(mtu) => netlink.set_mtu(index, mtu).await,
                Fault::Group(group) => netlink.set_group(index, group).await,
                // The addresses of a link are put right together.
                Fault::Lacks(_) | Fault::Extra(_) => Ok(()),
                Fault::Gone | Fault::Other => continue,
            };
            if progress.errors.check(done).is_some() {
                progress.done.push(found.to_string());
            }
        }
        let of_addresses = faults.iter().any(|f| matches!(f.fault, Fault::Lacks(_) | Fault::Extra(_)));
        if let (true, Some(link), Some(wanted)) = (of_addresses, found, &desired.addresses) {
            // With that family off its addresses went, and cannot come back.
            let allowed = allow_ipv6(netlink, &self.network.sysctls, &link.name, wanted).await;
            let allowed = progress.errors.check_all(allowed).unwrap_or_default();
            progress.done.extend(allowed.iter().map(setting_differed));
            progress.errors.check_all(netlink.apply_addresses(link.index, wanted).await);
        }
    }

    /// A pod's link cannot be made again from here, for its other end is the container's; and a pod with
    /// privileges may delete it itself, so it is no fault of the node.
    fn tell_lost(&mut self, name: &str) {
        if self.lost.contains(name) {
            return;
        }
        let interface = self.network.interfaces().into_iter().find(|interface| interface.host_ifname == name);
        let alive =
            interface.filter(|pod| attach::has_namespace(&self.network, &pod.container_id, &pod.ifname));
        let Some(pod) = alive else { return };
        self.lost.insert(name.to_owned());
        tracing::warn!(
            link = name,
            pod = pod.pod_name,
            namespace = pod.pod_namespace,
            "the pod's link is gone: it has no network until it is made anew"
        );
    }

    pub(super) async fn paths(&mut self, wirings: Vec<Wiring>, config: &HostConfig, progress: &mut Progress) {
        let netlink = self.network.netlink.clone();
        let services = services::destinations(config);
        let LocalTraffic { rules, mut routes, mut neighbours } = self.local_traffic(&services);
        routes.extend(services::routes(config, &services, self.underlay.gateway_link));
        neighbours.extend(services::neighbours(config));
        let mut fdb = Vec::new();
        for wiring in wirings {
            routes.extend(wiring.routes);
            neighbours.extend(wiring.neighbours);
            fdb.extend(wiring.fdb);
        }
        self.destinations = routes.iter().map(|route| route.dst).collect();
        let Progress { done, errors, .. } = progress;
        if let Some(diff) = errors.check_all(netlink.apply_rules(&rules).await) {
            done.extend(diff.add.iter().map(|rule| format!("routing rule {rule} was missing")));
            done.extend(diff.remove.iter().map(|rule| format!("routing rule {rule} was foreign")));
        }
        if let Some(diff) = errors.check_all(netlink.apply_routes(&RouteFilter::owned(), &routes).await) {
            done.extend(diff.set.iter().map(|route| format!("route {route} was missing")));
            done.extend(diff.remove.iter().map(|route| format!("route {route} was foreign")));
        }
        let gateway = self.underlay.gateway_link;
        if let Some(diff) = errors.check_all(netlink.apply_neighbours(gateway, &neighbours).await) {
            done.extend(diff.set.iter().map(|entry| format!("neighbour {entry} was missing")));
            done.extend(diff.remove.iter().map(|entry| format!("neighbour {entry} was foreign")));
        }
        if self.has_vxlan()
            && let Some(diff) = errors.check_all(netlink.apply_fdb(TUNNEL_PORT, &fdb).await)
        {
            done.extend(diff.set.iter().map(|entry| format!("forwarding entry {entry} was missing")));
            done.extend(diff.remove.iter().map(|entry| format!("forwarding entry {entry} was foreign")));
        }
    }

    /// Files are small and mostly only their times are looked at, but the node's disk may be slow.
    pub(super) async fn files(&mut self, progress: &mut Progress) {
        let Some(mut installed) = self.installed.take() else { return };
        // Of those that a call is about the record goes or comes with it.
        let interfaces = self.network.interfaces().into_iter();
        let quiet = interfaces.filter(|interface| !self.network.is_claimed(&interface.host_ifname));
        let held: Vec<_> = quiet
            .flat_map(|interface| {
                let attachment = interface.attachment();
                interface.ips.into_iter().map(move |ip| (ip, attachment.clone()))
            })
            .collect();
        let leases = self.network.host_local.allocations();
        let looked = tokio::task::spawn_blocking(move || {
            let found = installed.keep();
            (installed, found, leases::reserve(&leases, &held))
        });
        match looked.await {
            Ok((installed, (done, problems), reserved)) => {
                self.installed = Some(installed);
                progress.done.extend(done);
                progress.problems.extend(problems);
                match reserved {
                    Ok(ips) => self.reserved(&ips, progress).await,
                    Err(error) => progress.problems.push(format!("records of addresses: {error}")),
                }
            }
            Err(error) => progress.problems.push(format!("CNI files: {error}")),
        }
    }

    async fn reserved(&self, ips: &[IpAddr], progress: &mut Progress) {
        for ip in ips {
            if self.network.holder(&[*ip], "").is_some() {
                progress.done.push(format!("address {ip} was not reserved"));
            } else {
                // A call has taken the pod away meanwhile, and it may have been after that.
                leases::release(&self.network.host_local.allocations(), *ip).await;
            }
        }
    }

    /// See [`quiet_settings`]; a link that went meanwhile has no settings. Of many links some are looked at each time, all
    /// in their turn: with two hundred this alone would otherwise take half a percent of a processor.
    pub(super) async fn quiet(&mut self, progress: &mut Progress) {
        let mut links: Vec<_> = self.pod_links().into_iter().map(|link| link.name).collect();
        links.sort_unstable();
        let first = if self.next < links.len() { self.next } else { 0 };
        links.rotate_left(first);
        links.truncate(QUIET_AT_ONCE);
        self.next = first + links.len();
        if self.bridge.datapath == Datapath::Userspace && self.has_vxlan() {
            links.push(TUNNEL_PORT.to_owned());
        }
        let sysctls = &self.network.sysctls;
        let settings: Vec<_> =
            links.iter().filter_map(|link| quiet_settings(sysctls, link).ok()).flatten().collect();
        let written = sysctls.ensure(self.network.netlink.netns(), settings).await;
        match written {
            Ok(written) => progress.done.extend(written.iter().map(setting_differed)),
            Err(errors) => {
                for error in errors.errors().iter().filter(|error| !error.is_not_found()) {
                    progress.problems.push(error.to_string());
                }
            }
        }
    }
}
