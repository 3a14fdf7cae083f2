//! Ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use openflow::MacAddr;
use tokio::time::Instant;

use super::{
    InterfaceKind, PortInfo, PortSpec, Vswitch, VswitchError, about, bridge::bridge_row, config::set_pairs,
};
use crate::db::{Cache, Datum, Mutator, Row, Transaction, Where};

/// ovs-vswitchd writes a failed interface's `ofport` and `error` in that order, mostly together.
const ERROR_GRACE: Duration = Duration::from_millis(300);

impl Vswitch {
    /// Adds the port in one transaction. A port of that name that differs is changed in place where that keeps its
    /// OpenFlow number, and replaced where it does not: other bridge, other type, other number asked for, or failed.
    /// Either way external ids that the specification does not name stay.
    ///
    /// # Errors
    /// [`VswitchError::NoBridge`], [`VswitchError::Ovsdb`].
    pub async fn add_port(&self, spec: &PortSpec) -> Result<(), VswitchError> {
        self.reconcile(&format!("port {}", spec.name), |cache, attempt| plan_add(cache, spec, attempt == 0))
            .await
    }

    /// Whether [`Self::add_port`] would change anything. No, where there is no bridge.
    #[must_use]
    pub fn differs(&self, spec: &PortSpec) -> bool {
        self.session.read(|cache| plan_add(cache, spec, false).is_ok_and(|txn| !txn.is_empty()))
    }

    /// Removes a port from a bridge, if it is there.
    ///
    /// # Errors
    /// [`VswitchError::Ovsdb`].
    pub async fn delete_port(&self, bridge: &str, name: &str) -> Result<(), VswitchError> {
        self.reconcile(&format!("port {name}"), |cache, _| {
            let mut txn = Transaction::new();
            if let (Some(bridge), Some(port)) =
                (cache.table("Bridge").named(bridge), cache.table("Port").named(name))
                && bridge.uuids("ports").any(|uuid| uuid == port.uuid())
            {
                txn.mutate(
                    "Bridge",
                    Where::row(bridge.uuid()),
                    [("ports", Mutator::Delete, Datum::from(port.uuid()))],
                );
                txn.comment(&format!("delete port {name}"));
            }
            Ok(txn)
        })
        .await
    }

    /// Sets one external id of many ports, by the ports' names; `None` removes it. Ports that are not there are left out.
    ///
    /// # Errors
    /// [`VswitchError::Ovsdb`].
    pub async fn set_ports_external_id(
        &self,
        key: &str,
        values: &BTreeMap<String, Option<String>>,
    ) -> Result<(), VswitchError> {
        self.reconcile(&format!("{key} of {} ports", values.len()), |cache, _| {
            let mut txn = Transaction::new();
            for (name, value) in values {
                if let Some(row) = cache.table("Port").named(name) {
                    set_pairs(&mut txn, "Port", row, "external_ids", [(key, value.as_deref())]);
                }
            }
            Ok(txn)
        })
        .await
    }

    /// Waits for the OpenFlow port number that ovs-vswitchd gives to an interface.
    ///
    /// # Errors
    /// [`VswitchError::Interface`] with the text ovs-vswitchd left when it cannot make the interface,
    /// [`VswitchError::NoPort`], [`VswitchError::Ovsdb`] with a timeout.
    pub async fn wait_ofport(&self, name: &str, limit: Duration) -> Result<u32, VswitchError> {
        let what = format!("OpenFlow port number of {name}");
        let deadline = Instant::now() + limit;
        let first = self
            .session
            .wait_cache(&what, limit, |cache| {
                let Some(iface) = cache.table("Interface").named(name) else {
                    return Some(Err(VswitchError::NoPort(name.to_owned())));
                };
                match (iface.str("error"), iface.int("ofport")) {
                    (Some(error), _) => Some(Err(unusable(name, error))),
                    (None, None) => None,
                    (None, Some(number)) => Some(Ok(u32::try_from(number).ok())),
                }
            })
            .await
            .map_err(|source| about(&format!("port {name}"), source))??;
        if let Some(number) = first {
            return Ok(number);
        }
        let grace = ERROR_GRACE.min(deadline.saturating_duration_since(Instant::now()));
        let text = self
            .session
            .wait_cache(&what, grace, |cache| {
                cache.table("Interface").named(name)?.str("error").map(str::to_owned)
            })
            .await;
        Err(unusable(name, text.as_deref().unwrap_or("ovs-vswitchd gave no port number and no reason")))
    }

    /// Ports of a bridge including its local port, sorted by name; none if there is no such bridge.
    #[must_use]
    pub fn ports(&self, bridge: &str) -> Vec<PortInfo> {
        let mut ports: Vec<PortInfo> = self.session.read(|cache| {
            let Some(bridge) = cache.table("Bridge").named(bridge) else { return Vec::new() };
            bridge.uuids("ports").filter_map(|uuid| info(cache, cache.table("Port").get(uuid)?)).collect()
        });
        ports.sort_by(|a, b| a.name.cmp(&b.name));
        ports
    }

    /// OpenFlow numbers that a bridge's ports have or ask for.
    #[must_use]
    pub fn ofports(&self, bridge: &str) -> BTreeSet<u32> {
        self.session.read(|cache| {
            let Some(bridge) = cache.table("Bridge").named(bridge) else { return BTreeSet::new() };
            let ports = bridge.uuids("ports").filter_map(|uuid| cache.table("Port").get(uuid));
            let interfaces = ports.filter_map(|port| interface(cache, port));
            let numbers = interfaces.flat_map(|iface| [iface.int("ofport"), iface.int("ofport_request")]);
            numbers.flatten().filter_map(|number| u32::try_from(number).ok()).collect()
        })
    }

    /// A port by name, on whichever bridge.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<PortInfo> {
        self.session.read(|cache| info(cache, cache.table("Port").named(name)?))
    }
}

fn unusable(name: &str, error: &str) -> VswitchError {
    VswitchError::Interface { name: name.to_owned(), error: error.to_owned() }
}

/// The interface of a port; of a bond its first.
fn interface<'a>(cache: &'a Cache, port: &Row) -> Option<&'a Row> {
    port.uuids("interfaces").find_map(|uuid| cache.table("Interface").get(uuid)).map(|row| &**row)
}

fn info(cache: &Cache, port: &Row) -> Option<PortInfo> {
    let iface = interface(cache, port)?;
    let mac = |column| iface.str(column).and_then(|text| text.parse().ok()).map(|MacAddr(mac)| mac);
    let positive = |column| iface.int(column).and_then(|number| u32::try_from(number).ok());
    let Ok(kind) = iface.str("type").unwrap_or_default().parse();
    Some(PortInfo {
        uuid: port.uuid(),
        name: port.str("name")?.to_owned(),
        ofport: positive("ofport"),
        ofport_request: positive("ofport_request"),
        kind,
        options: iface.string_map("options"),
        external_ids: port.string_map("external_ids"),
        error: iface.str("error").map(str::to_owned),
        mac: mac("mac"),
        mac_in_use: mac("mac_in_use"),
        tag: port.int("tag").and_then(|tag| u16::try_from(tag).ok()),
        mtu: positive("mtu"),
    })
}

fn tag(spec: &PortSpec) -> (&'static str, Datum) {
    ("tag", Datum::set(spec.tag.map(i64::from)))
}

fn iface_columns(spec: &PortSpec) -> [(&'static str, Datum); 5] {
    [
        ("type", Datum::from(spec.kind.column())),
        ("options", Datum::map(spec.options.clone())),
        ("ofport_request", Datum::set(spec.ofport_request.map(i64::from))),
        ("mac", Datum::set(spec.mac.map(|mac| MacAddr(mac).to_string()))),
        ("mtu_request", Datum::set(spec.mtu_request.map(i64::from))),
    ]
}

fn plan_add(cache: &Cache, spec: &PortSpec, heal: bool) -> Result<Transaction, VswitchError> {
    let bridge = bridge_row(cache, &spec.bridge)?;
    let mut txn = Transaction::new();
    let Some(port) = cache.table("Port").named(&spec.name) else {
        insert(&mut txn, bridge, spec, spec.external_ids.clone());
        return Ok(txn);
    };
    let here = bridge.uuids("ports").any(|uuid| uuid == port.uuid());
    let keep = interface(cache, port).filter(|iface| here && may_keep(iface, spec, heal));
    let Some(iface) = keep else {
        // Also the holder of the old port may be another bridge.
        for holder in
            cache.table("Bridge").rows().filter(|row| row.uuids("ports").any(|uuid| uuid == port.uuid()))
        {
            txn.mutate(
                "Bridge",
                Where::row(holder.uuid()),
                [("ports", Mutator::Delete, Datum::from(port.uuid()))],
            );
        }
        let mut external_ids = port.string_map("external_ids");
        external_ids.extend(spec.external_ids.clone());
        insert(&mut txn, bridge, spec, external_ids);
        return Ok(txn);
    };
    let port_changes = differing(port, [tag(spec)]);
    let iface_changes = differing(iface, iface_columns(spec));
    if !port_changes.is_empty() {
        txn.update("Port", Where::row(port.uuid()), port_changes);
    }
    if !iface_changes.is_empty() {
        txn.update("Interface", Where::row(iface.uuid()), iface_changes);
    }
    // One by one: the others may change while this is under way.
    let ids = spec.external_ids.iter().map(|(key, value)| (key.as_str(), Some(value.as_str())));
    set_pairs(&mut txn, "Port", port, "external_ids", ids);
    if !txn.is_empty() {
        txn.wait_exists("Port", port.uuid());
        txn.comment(&format!("change port {}", spec.name));
    }
    Ok(txn)
}

fn may_keep(iface: &Row, spec: &PortSpec, heal: bool) -> bool {
    let Ok(kind) = iface.str("type").unwrap_or_default().parse::<InterfaceKind>();
    let failed = iface.str("error").is_some() || iface.int("ofport").is_some_and(|number| number < 0);
    let asked = iface.int("ofport_request");
    // A number asked for that it has anyway may be written down in place.
    let number_fits = match spec.ofport_request.map(i64::from) {
        None => true,
        wanted => wanted == asked || wanted == iface.int("ofport"),
    };
    kind == spec.kind && number_fits && !(heal && failed)
}

fn differing(
    row: &Row,
    wanted: impl IntoIterator<Item = (&'static str, Datum)>,
) -> Vec<(&'static str, Datum)> {
    wanted.into_iter().filter(|(column, datum)| row.get(column) != Some(datum)).collect()
}

fn insert(txn: &mut Transaction, bridge: &Row, spec: &PortSpec, external_ids: BTreeMap<String, String>) {
    let name = || [("name", Datum::from(spec.name.as_str()))];
    txn.wait_exists("Bridge", bridge.uuid());
    let iface = txn.insert("Interface", name().into_iter().chain(iface_columns(spec)));
    let columns =
        [tag(spec), ("external_ids", Datum::map(external_ids)), ("interfaces", Datum::set([&iface]))];
    let port = txn.insert("Port", name().into_iter().chain(columns));
    txn.mutate("Bridge", Where::row(bridge.uuid()), [("ports", Mutator::Insert, Datum::set([&port]))]);
    txn.comment(&format!("add port {}", spec.name));
}
