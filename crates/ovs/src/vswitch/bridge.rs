//! Bridges.

use std::collections::BTreeMap;

use super::{
    BridgeInfo, BridgeSpec, Vswitch, VswitchError,
    config::{root, set_pairs},
};
use crate::db::{Atom, Cache, Datum, Mutator, Row, RowId, Transaction, Where};

impl Vswitch {
    /// Makes the bridge, or changes the existing one where it differs.
    ///
    /// # Errors
    /// [`VswitchError::Ovsdb`], [`VswitchError::NotInitialised`].
    pub async fn ensure_bridge(&self, spec: &BridgeSpec) -> Result<(), VswitchError> {
        self.reconcile(&format!("bridge {}", spec.name), |cache, _| plan_ensure(cache, spec)).await
    }

    /// The bridge as the database has it.
    #[must_use]
    pub fn bridge_info(&self, name: &str) -> Option<BridgeInfo> {
        self.session.read(|cache| cache.table("Bridge").named(name).map(|row| info(cache, row)))
    }

    /// All bridges, sorted by name.
    #[must_use]
    pub fn bridges(&self) -> Vec<BridgeInfo> {
        let mut bridges: Vec<BridgeInfo> =
            self.session.read(|cache| cache.table("Bridge").rows().map(|row| info(cache, row)).collect());
        bridges.sort_by(|a, b| a.name.cmp(&b.name));
        bridges
    }

    /// Sets one external id of a bridge; `None` removes it.
    ///
    /// # Errors
    /// [`VswitchError::NoBridge`], [`VswitchError::Ovsdb`].
    pub async fn set_bridge_external_id(
        &self,
        bridge: &str,
        key: &str,
        value: Option<&str>,
    ) -> Result<(), VswitchError> {
        self.reconcile(&format!("bridge {bridge}"), |cache, _| {
            let row = bridge_row(cache, bridge)?;
            let mut txn = Transaction::new();
            set_pairs(&mut txn, "Bridge", row, "external_ids", [(key, value)]);
            Ok(txn)
        })
        .await
    }
}

pub(super) fn bridge_row<'a>(cache: &'a Cache, name: &str) -> Result<&'a Row, VswitchError> {
    cache.table("Bridge").named(name).map(|row| &**row).ok_or_else(|| VswitchError::NoBridge(name.to_owned()))
}

fn flow_tables(cache: &Cache, bridge: &Row) -> BTreeMap<u8, String> {
    let pairs = bridge.get("flow_tables").map(Datum::pairs).unwrap_or_default();
    pairs
        .iter()
        .filter_map(|(number, table)| {
            let row = cache.table("Flow_Table").get(table.as_uuid()?)?;
            Some((u8::try_from(number.as_int()?).ok()?, row.str("name").unwrap_or_default().to_owned()))
        })
        .collect()
}

fn info(cache: &Cache, row: &Row) -> BridgeInfo {
    let mut ports: Vec<String> = row
        .uuids("ports")
        .filter_map(|port| Some(cache.table("Port").get(port)?.str("name")?.to_owned()))
        .collect();
    ports.sort();
    BridgeInfo {
        uuid: row.uuid(),
        name: row.str("name").unwrap_or_default().to_owned(),
        datapath_id: row.str("datapath_id").and_then(|id| u64::from_str_radix(id, 16).ok()),
        datapath_type: row.str("datapath_type").unwrap_or_default().to_owned(),
        protocols: row.strings("protocols"),
        fail_mode: row.str("fail_mode").map(str::to_owned),
        external_ids: row.string_map("external_ids"),
        other_config: row.string_map("other_config"),
        flow_tables: flow_tables(cache, row),
        ports,
    }
}

fn insert_flow_tables(txn: &mut Transaction, spec: &BridgeSpec) -> Datum {
    let rows: Vec<(Atom, Atom)> = spec
        .flow_tables
        .iter()
        .map(|(number, name)| {
            let table = txn.insert("Flow_Table", [("name", name.as_str().into())]);
            (Atom::from(i64::from(*number)), Atom::from(table))
        })
        .collect();
    Datum::map(rows)
}

fn scalars(spec: &BridgeSpec) -> Vec<(&'static str, Datum)> {
    let mut columns = vec![
        ("datapath_type", Datum::from(spec.datapath_type.as_str())),
        ("protocols", Datum::set(spec.protocols.iter().map(String::as_str))),
        ("fail_mode", Datum::set(spec.fail_mode.map(|mode| mode.name()))),
    ];
    if let Some(snooping) = spec.mcast_snooping {
        columns.push(("mcast_snooping_enable", Datum::from(snooping)));
    }
    columns
}

fn plan_ensure(cache: &Cache, spec: &BridgeSpec) -> Result<Transaction, VswitchError> {
    let mut txn = Transaction::new();
    match cache.table("Bridge").named(&spec.name) {
        Some(row) => plan_change(cache, row, spec, &mut txn),
        None => plan_create(root(cache)?, spec, &mut txn),
    }
    Ok(txn)
}

fn plan_create(root: &Row, spec: &BridgeSpec, txn: &mut Transaction) {
    let name = || Datum::from(spec.name.as_str());
    // Every bridge has a local port of its own name.
    let iface = txn.insert("Interface", [("name", name()), ("type", "internal".into())]);
    let port = txn.insert("Port", [("name", name()), ("interfaces", Datum::set([&iface]))]);
    let tables = insert_flow_tables(txn, spec);
    let mut columns = scalars(spec);
    columns.extend([
        ("name", name()),
        ("ports", Datum::set([&port])),
        ("flow_tables", tables),
        ("external_ids", Datum::map(spec.external_ids.clone())),
        ("other_config", Datum::map(spec.other_config.clone())),
    ]);
    let bridge: RowId = txn.insert("Bridge", columns);
    txn.mutate(
        "Open_vSwitch",
        Where::row(root.uuid()),
        [("bridges", Mutator::Insert, Datum::set([&bridge]))],
    );
    txn.comment(&format!("add bridge {}", spec.name));
}

fn plan_change(cache: &Cache, row: &Row, spec: &BridgeSpec, txn: &mut Transaction) {
    let mut changed: Vec<(&str, Datum)> = scalars(spec)
        .into_iter()
        .filter(|(column, wanted)| row.get(column).is_some_and(|found| found != wanted))
        .collect();
    let wanted_tables: BTreeMap<u8, String> = spec.flow_tables.iter().cloned().collect();
    if flow_tables(cache, row) != wanted_tables {
        changed.push(("flow_tables", insert_flow_tables(txn, spec)));
    }
    if !changed.is_empty() {
        txn.update("Bridge", Where::row(row.uuid()), changed);
    }
    for (column, pairs) in [("external_ids", &spec.external_ids), ("other_config", &spec.other_config)] {
        set_pairs(txn, "Bridge", row, column, pairs.iter().map(|(k, v)| (k.as_str(), Some(v.as_str()))));
    }
    if !txn.is_empty() {
        txn.wait_exists("Bridge", row.uuid());
        txn.comment(&format!("change bridge {}", spec.name));
    }
}
