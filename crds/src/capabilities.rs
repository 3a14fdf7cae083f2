//! What a Node's kernel and Open vSwitch can do, as its agent tells it.
//!
//! Upstream's AntreaAgentInfo has no field for it, so it is in annotations. The operator reads them, and
//! refuses a spec that a Node could not follow before any agent is replaced.

use std::collections::BTreeMap;

/// Datapaths that the Node has, by OVS's names, separated by commas.
const DATAPATHS: &str = "antrea.io/ovs-datapaths";

/// Tunnels that Open vSwitch on the Node knows, by its names, separated by commas.
const TUNNELS: &str = "antrea.io/ovs-tunnel-types";

/// OVS's name of the kernel's datapath.
const SYSTEM: &str = "system";

/// OVS's name of the userspace datapath.
const NETDEV: &str = "netdev";

/// What a Node can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Whether its kernel has OVS's datapath; the userspace datapath is always there.
    pub kernel_datapath: bool,
    /// Tunnels that its Open vSwitch knows, by OVS's names: "geneve", "vxlan", "gre", "stt".
    pub tunnels: Vec<String>,
}

impl Capabilities {
    /// As annotations.
    pub fn to_annotations(&self) -> BTreeMap<String, String> {
        let datapaths = if self.kernel_datapath { format!("{SYSTEM},{NETDEV}") } else { NETDEV.to_owned() };
        BTreeMap::from([(DATAPATHS.to_owned(), datapaths), (TUNNELS.to_owned(), self.tunnels.join(","))])
    }

    /// From an object's annotations; `None` where they do not say.
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Option<Self> {
        let list = |name: &str| annotations.get(name).map(|text| text.split(',').map(str::trim));
        Some(Self {
            kernel_datapath: list(DATAPATHS)?.any(|name| name == SYSTEM),
            tunnels: list(TUNNELS)?.filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_say_the_same() {
        for kernel_datapath in [true, false] {
            for tunnels in [vec![], vec!["geneve".to_owned(), "vxlan".to_owned()]] {
                let here = Capabilities { kernel_datapath, tunnels };
                assert_eq!(Capabilities::from_annotations(&here.to_annotations()), Some(here));
            }
        }
        assert_eq!(Capabilities::from_annotations(&BTreeMap::new()), None);
    }
}
