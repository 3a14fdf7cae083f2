//! The `Open_vSwitch` row: versions, settings, and the handshake that tells when ovs-vswitchd caught up.

use std::{collections::BTreeMap, time::Duration};

use super::{Vswitch, VswitchError, about};
use crate::db::{Cache, Datum, Mutator, OvsdbError, Row, Transaction, Where};

/// What the `Open_vSwitch` row says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenVswitchInfo {
    /// Version of Open vSwitch, e.g. `3.1.0`; written by `ovs-ctl`, not by the daemons themselves.
    pub ovs_version: Option<String>,
    /// Version of the database schema, likewise written by `ovs-ctl`.
    pub db_version: Option<String>,
    /// Datapath types that ovs-vswitchd offers.
    pub datapath_types: Vec<String>,
    /// Interface types that ovs-vswitchd offers.
    pub iface_types: Vec<String>,
    /// Settings.
    pub other_config: BTreeMap<String, String>,
    pub external_ids: BTreeMap<String, String>,
    /// Configuration number last asked for.
    pub next_cfg: i64,
    /// Configuration number that ovs-vswitchd has carried out.
    pub cur_cfg: i64,
}

impl Vswitch {
    /// Versions and settings; `None` before the first connection or in a database that is not initialised.
    #[must_use]
    pub fn open_vswitch_info(&self) -> Option<OpenVswitchInfo> {
        self.session.read(|cache| {
            let row = root(cache).ok()?;
            Some(OpenVswitchInfo {
                ovs_version: row.str("ovs_version").map(str::to_owned),
                db_version: row.str("db_version").map(str::to_owned),
                datapath_types: row.strings("datapath_types"),
                iface_types: row.strings("iface_types"),
                other_config: row.string_map("other_config"),
                external_ids: row.string_map("external_ids"),
                next_cfg: row.int("next_cfg").unwrap_or_default(),
                cur_cfg: row.int("cur_cfg").unwrap_or_default(),
            })
        })
    }

    /// Removes a key of `other_config`, if it is there.
    ///
    /// # Errors
    /// [`VswitchError::Ovsdb`], [`VswitchError::NotInitialised`].
    pub async fn remove_other_config(&self, key: &str) -> Result<(), VswitchError> {
        self.reconcile(&format!("other_config {key}"), |cache, _| {
            let mut txn = Transaction::new();
            set_pairs(&mut txn, "Open_vSwitch", root(cache)?, "other_config", [(key, None)]);
            Ok(txn)
        })
        .await
    }

    /// Waits until ovs-vswitchd has carried out everything written so far: raises `next_cfg` and waits for `cur_cfg`
    /// to reach it (ovs-vswitchd.conf.db(5)).
    ///
    /// # Errors
    /// [`VswitchError::Ovsdb`] with a timeout, e.g. while ovs-vswitchd does not run.
    pub async fn wait_applied(&self, limit: Duration) -> Result<(), VswitchError> {
        let object = "ovs-vswitchd";
        let row = self.session.read(|cache| root(cache).map(Row::uuid))?;
        let mut txn = Transaction::new();
        txn.mutate("Open_vSwitch", Where::row(row), [("next_cfg", Mutator::Add, Datum::from(1))]);
        let selected = txn.select("Open_vSwitch", Where::row(row), &["next_cfg"]);
        let reply = self.session.transact(&txn).await.map_err(|source| about(object, source))?;
        let target = reply
            .rows(selected)
            .first()
            .and_then(|row| row.get("next_cfg")?.as_i64())
            .ok_or_else(|| about(object, OvsdbError::Protocol("next_cfg is no number".to_owned())))?;
        self.session
            .wait_cache("reaction of ovs-vswitchd", limit, |cache| {
                root(cache).ok()?.int("cur_cfg").filter(|current| *current >= target).map(drop)
            })
            .await
            .map_err(|source| about(object, source))
    }
}

/// The only row of the `Open_vSwitch` table.
pub(super) fn root(cache: &Cache) -> Result<&Row, VswitchError> {
    cache.table("Open_vSwitch").rows().next().map(|row| &**row).ok_or(VswitchError::NotInitialised)
}

/// Adds the mutation that makes each key have its value, or not exist; adds nothing where it is so already.
pub(super) fn set_pairs<'a>(
    txn: &mut Transaction,
    table: &str,
    row: &Row,
    column: &str,
    pairs: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) {
    let found = row.string_map(column);
    let differing: Vec<(&str, Option<&str>)> =
        pairs.into_iter().filter(|(key, value)| found.get(*key).map(String::as_str) != *value).collect();
    if differing.is_empty() {
        return;
    }
    // Inserting leaves pairs of existing keys alone: they have to be removed first.
    let removed = Datum::set(differing.iter().map(|(key, _)| *key));
    let added = Datum::map(differing.iter().filter_map(|(key, value)| value.map(|value| (*key, value))));
    txn.mutate(
        table,
        Where::row(row.uuid()),
        [(column, Mutator::Delete, removed), (column, Mutator::Insert, added)],
    );
}
