//! Deployment `antrea-controller`.

use serde_json::json;

use super::{
    CONTROLLER, CONTROLLER_PORT,
    config::{CONFIG, Configuration},
    environment, managed, pod_template, pull_policy, resources, selector,
};
use crate::{
    effective::Effective,
    object::{self, Object},
};

/// User of the controller's image: nobody.
const USER: i64 = 65534;

pub(super) fn deployment(config: &Effective, configuration: &Configuration) -> Object {
    let probe = |path: &str| json!({"host": "127.0.0.1", "path": path, "port": "api", "scheme": "HTTPS"});
    let mut mounts = vec![
        json!({"name": CONFIG, "mountPath": "/etc/antrea", "readOnly": true}),
        json!({"name": "var-run-antrea", "mountPath": "/var/run/antrea"}),
    ];
    let mut volumes = vec![
        json!({"name": CONFIG, "configMap": {"name": CONFIG}}),
        // Serving certificate and the token of antctl.
        json!({"name": "var-run-antrea", "emptyDir": {"sizeLimit": "16Mi"}}),
    ];
    if let Some(secret) = &config.tls.controller_secret {
        mounts.push(
            json!({"name": "tls", "mountPath": "/var/run/antrea/antrea-controller-tls", "readOnly": true}),
        );
        // The key is for the controller's group alone.
        volumes.push(json!({"name": "tls", "secret": {"secretName": secret, "defaultMode": 0o440}}));
    }
    let container = json!({
        "name": CONTROLLER,
        "image": config.controller_image,
        "imagePullPolicy": pull_policy(config.pull_policy),
        "command": [CONTROLLER],
        "args": ["--config", "/etc/antrea/antrea-controller.conf"],
        "env": environment(config),
        "ports": [{"name": "api", "containerPort": CONTROLLER_PORT, "hostPort": CONTROLLER_PORT, "protocol": "TCP"}],
        "resources": resources(&config.controller.resources),
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": USER,
            "runAsGroup": USER,
            "readOnlyRootFilesystem": true,
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
        },
        "livenessProbe": {"httpGet": probe("/livez"), "initialDelaySeconds": 10, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 5},
        "readinessProbe": {"httpGet": probe("/readyz"), "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 5},
        "volumeMounts": mounts,
    });
    let pod = json!({
        "terminationGracePeriodSeconds": 10,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}, "fsGroup": USER},
        "containers": [container],
        "volumes": volumes,
    });
    let template =
        pod_template(CONTROLLER, config, &config.controller, &configuration.controller_checksum(), pod);
    let spec = json!({
        "replicas": 1,
        // Policy is computed in memory: two controllers would tell agents two stories.
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": selector(CONTROLLER)},
        "template": template,
    });
    managed(&object::DEPLOYMENT, CONTROLLER, json!({"spec": spec})).label("component", CONTROLLER)
}
