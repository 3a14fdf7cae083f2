//! The log of what policies decide.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// Limits of the audit log of policies, on every Node `/var/log/antrea/networkpolicy/np.log`. What is logged, policies and
/// Namespaces say.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditLogging {
    /// Megabytes that the file grows to before it is set aside, 1 to 100000. Default: 500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_size: Option<u32>,

    /// Files that were set aside and are kept, 0 to 1000; 0: all. Default: 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub max_backups: Option<u16>,

    /// Days for which they are kept, 0 to 10000; 0: for ever. Default: 28.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub max_age: Option<u16>,

    /// Whether they are compressed. Default: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compress: Option<bool>,
}
