//! Service `antrea` and the APIServices behind it.

use serde_json::json;

use super::{CONTROLLER, CONTROLLER_PORT, managed, selector};
use crate::{
    NAMESPACE,
    object::{self, Object},
};

/// Name of the Service.
pub(super) const SERVICE: &str = "antrea";

/// APIs that the controller serves through aggregation: group, version. Add one here when it is served.
pub const AGGREGATED_APIS: &[(&str, &str)] = &[
    ("controlplane.antrea.io", "v1beta2"),
    ("stats.antrea.io", "v1alpha1"),
    ("system.antrea.io", "v1beta1"),
];

pub(super) fn objects() -> Vec<Object> {
    let service = json!({"spec": {
        "selector": selector(CONTROLLER),
        "ports": [{"name": "api", "port": 443, "protocol": "TCP", "targetPort": CONTROLLER_PORT}],
    }});
    let mut objects = vec![managed(&object::SERVICE, SERVICE, service).label("component", CONTROLLER)];
    for (group, version) in AGGREGATED_APIS {
        // The controller fills in caBundle, which therefore is not ours.
        let content = json!({"spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "service": {"name": SERVICE, "namespace": NAMESPACE, "port": 443},
        }});
        let name = format!("{version}.{group}");
        objects.push(managed(&object::API_SERVICE, &name, content).label("served-by", CONTROLLER));
    }
    objects
}
