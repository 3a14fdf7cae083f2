//! Bridges and ports as asked for and as found.

use std::{collections::BTreeMap, convert::Infallible, fmt, str::FromStr};

use uuid::Uuid;

/// Ethernet address.
pub type Mac = [u8; 6];

/// `fail_mode` of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailMode {
    /// Only flows that were programmed.
    Secure,
    /// Falls back to a learning switch without a controller.
    Standalone,
}

impl FailMode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Secure => "secure",
            Self::Standalone => "standalone",
        }
    }
}

/// A bridge as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BridgeSpec {
    /// Name, also of the bridge's local port.
    pub name: String,
    /// `system`, `netdev`; empty stands for `system`.
    pub datapath_type: String,
    /// OpenFlow versions, e.g. `OpenFlow15`; empty leaves Open vSwitch's default.
    pub protocols: Vec<String>,
    /// `None` leaves Open vSwitch's default, standalone.
    pub fail_mode: Option<FailMode>,
    /// Pairs to be present; others in the database are kept.
    pub external_ids: BTreeMap<String, String>,
    /// Pairs to be present; others in the database are kept.
    pub other_config: BTreeMap<String, String>,
    /// Names of flow tables, exactly these.
    pub flow_tables: Vec<(u8, String)>,
    /// IGMP/MLD snooping; `None` leaves it as it is.
    pub mcast_snooping: Option<bool>,
}

/// A bridge as the database has it, which may be ahead of ovs-vswitchd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeInfo {
    /// Row.
    pub uuid: Uuid,
    pub name: String,
    /// Datapath id, once ovs-vswitchd made the bridge.
    pub datapath_id: Option<u64>,
    pub datapath_type: String,
    /// OpenFlow versions, sorted.
    pub protocols: Vec<String>,
    /// Fail mode, as text.
    pub fail_mode: Option<String>,
    pub external_ids: BTreeMap<String, String>,
    pub other_config: BTreeMap<String, String>,
    /// Names of flow tables.
    pub flow_tables: BTreeMap<u8, String>,
    /// Names of the ports, sorted.
    pub ports: Vec<String>,
}

/// `type` of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum InterfaceKind {
    /// Existing network device.
    #[default]
    System,
    /// Device made by Open vSwitch.
    Internal,
    /// Geneve tunnel.
    Geneve,
    /// VXLAN tunnel.
    Vxlan,
    /// GRE tunnel.
    Gre,
    /// STT tunnel (absent from current Open vSwitch).
    Stt,
    /// Any other, by its name in the database.
    Other(String),
}

impl InterfaceKind {
    /// Content of the `type` column.
    #[must_use]
    pub fn column(&self) -> &str {
        match self {
            Self::System => "",
            Self::Internal => "internal",
            Self::Geneve => "geneve",
            Self::Vxlan => "vxlan",
            Self::Gre => "gre",
            Self::Stt => "stt",
            Self::Other(name) => name,
        }
    }
}

impl FromStr for InterfaceKind {
    type Err = Infallible;

    fn from_str(column: &str) -> Result<Self, Infallible> {
        Ok(match column {
            "" | "system" => Self::System,
            "internal" => Self::Internal,
            "geneve" => Self::Geneve,
            "vxlan" => Self::Vxlan,
            "gre" => Self::Gre,
            "stt" => Self::Stt,
            other => Self::Other(other.to_owned()),
        })
    }
}

impl fmt::Display for InterfaceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::System { "system" } else { self.column() })
    }
}

/// A port with one interface of the same name, as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSpec {
    pub bridge: String,
    /// Name of port and interface.
    pub name: String,
    /// Interface type.
    pub kind: InterfaceKind,
    /// Interface options, exactly these.
    pub options: BTreeMap<String, String>,
    /// OpenFlow port number to ask for, 1 to 65279.
    pub ofport_request: Option<u32>,
    /// External ids to be present; others in the database are kept.
    pub external_ids: BTreeMap<String, String>,
    /// Address to give the interface.
    pub mac: Option<Mac>,
    /// MTU to ask for, in bytes.
    pub mtu_request: Option<u32>,
    /// VLAN of an access port, 0 to 4095.
    pub tag: Option<u16>,
}

/// A port as the database has it, with its first interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortInfo {
    /// Row in the `Port` table.
    pub uuid: Uuid,
    pub name: String,
    /// OpenFlow port number; `None` while not yet assigned or when the interface failed.
    pub ofport: Option<u32>,
    /// OpenFlow port number asked for.
    pub ofport_request: Option<u32>,
    /// Interface type.
    pub kind: InterfaceKind,
    /// Interface options.
    pub options: BTreeMap<String, String>,
    pub external_ids: BTreeMap<String, String>,
    /// Why the interface is unusable.
    pub error: Option<String>,
    /// Address asked for.
    pub mac: Option<Mac>,
    /// Address in use.
    pub mac_in_use: Option<Mac>,
    /// VLAN of an access port.
    pub tag: Option<u16>,
    /// MTU in use, in bytes.
    pub mtu: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for kind in ["", "internal", "geneve", "vxlan", "gre", "stt", "dummy"] {
            let Ok(parsed) = kind.parse::<InterfaceKind>();
            assert_eq!(parsed.column(), kind);
        }
    }
}
