//! Reads what OpenShift has and writes what it waits for. What is wrong here is told by logs and tried again: an
//! OpenShift object that cannot be written is no reason to leave the cluster without a network.

use std::time::{Duration, Instant};

use antrea_crds::AntreaInstallationStatus;
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
    core::DynamicObject,
};
use serde_json::{Value, json};

use super::{Context, Error, api_error};
use crate::{
    FIELD_MANAGER,
    effective::{Effective, ServiceRange},
    object::{Key, Kind},
    openshift::{
        self, CLUSTER, CLUSTER_OPERATOR, CLUSTER_OPERATOR_NAME, CONSTRAINT_NAMES, CONSTRAINTS, Groups,
        NETWORK_CONFIG, NETWORK_OPERATOR, NetworkSpec, Platform,
    },
    plan::Class,
    render::Surroundings,
};

/// What the cluster is, is looked at again after this long.
const TTL: Duration = Duration::from_secs(300);

/// What could not be written is tried again after this long.
const AGAIN: Duration = Duration::from_secs(15);

impl Context {
    fn openshift_api(&self, kind: &Kind) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &kind.api_resource())
    }

    async fn openshift_object(&self, kind: &Kind, name: &str) -> Result<Option<Value>, Error> {
        let found = self.openshift_api(kind).get_opt(name).await;
        let found = found.map_err(api_error(format!("get {} {name}", kind.kind)))?;
        Ok(found.map(|object| serde_json::to_value(object).unwrap_or_default()))
    }

    /// Where the operator runs. What cannot be found out is an error: the plugin's folder depends on it.
    pub(super) async fn surroundings(&self) -> Result<Surroundings, Error> {
        let delivery = self.settings.delivery;
        if let Some((at, openshift)) = self.memory(|memory| memory.platform.clone())
            && at.elapsed() < TTL
        {
            return Ok(Surroundings { delivery, openshift });
        }
        let openshift = self.platform().await?;
        self.memory(|memory| memory.platform = Some((Instant::now(), openshift.clone())));
        Ok(Surroundings { delivery, openshift })
    }

    /// The same as last found out.
    pub(super) fn known_surroundings(&self) -> Surroundings {
        let openshift = self.memory(|memory| memory.platform.clone()).and_then(|(_, platform)| platform);
        Surroundings { delivery: self.settings.delivery, openshift }
    }

    async fn platform(&self) -> Result<Option<Platform>, Error> {
        let served = self.client.list_api_groups().await.map_err(api_error("list API groups"))?;
        let groups = Groups::of(served.groups.iter().map(|group| group.name.as_str()));
        let network = if groups.config && groups.operator {
            self.openshift_object(&NETWORK_OPERATOR, CLUSTER).await?
        } else {
            None
        };
        Ok(groups.platform(network.as_ref()))
    }

    /// Service ranges of an OpenShift cluster whose API server has no ServiceCIDR objects.
    pub(super) async fn openshift_service_ranges(&self) -> Result<Vec<ServiceRange>, Error> {
        if self.surroundings().await?.openshift.is_none() {
            return Ok(Vec::new());
        }
        let network = self.openshift_object(&NETWORK_CONFIG, CLUSTER).await?.unwrap_or_default();
        let spec: NetworkSpec = serde_json::from_value(network["spec"].clone()).unwrap_or_default();
        let object = "Network.config.openshift.io/cluster";
        let mut ranges = Vec::new();
        for text in &spec.service_network {
            let Ok(cidr) = text.parse() else {
                return Err(Error::Unknown(format!("{object}: spec.serviceNetwork: {text:?} is no CIDR")));
            };
            ranges.push(ServiceRange { object: object.to_owned(), cidr });
        }
        Ok(ranges)
    }

    /// What has to be there before the Pods are: SecurityContextConstraints, and what an installer waits for.
    pub(super) async fn prepare_openshift(&self, config: &Effective, around: &Surroundings, paused: bool) {
        let Some(platform) = &around.openshift else { return };
        if paused {
            return;
        }
        if let Err(error) = self.apply_constraints(platform).await {
            tracing::warn!(%error, "SecurityContextConstraints");
        }
        if let Err(error) = self.fill_network(config).await {
            tracing::warn!(%error, "status of Network.config.openshift.io");
        }
    }

    async fn apply_constraints(&self, platform: &Platform) -> Result<(), Error> {
        let objects = platform.constraints();
        let mut applier = self.applier.lock().await;
        let owned = std::collections::BTreeMap::new();
        for planned in applier.compare(&objects, &owned, Class::Live).await? {
            applier.apply(&planned).await?;
        }
        Ok(())
    }

    async fn fill_network(&self, config: &Effective) -> Result<(), Error> {
        let Some(network) = self.openshift_object(&NETWORK_CONFIG, CLUSTER).await? else { return Ok(()) };
        let spec: NetworkSpec = serde_json::from_value(network["spec"].clone()).unwrap_or_default();
        let mtu =
            if config.mtu > 0 { Some(config.mtu) } else { self.shared.with(|state| state.cluster.pod_mtu()) };
        let Some(status) = openshift::network_status(&spec, &network["status"], mtu) else {
            tracing::debug!(spec.network_type, "the cluster is told to have another network");
            return Ok(());
        };
        if network["status"] == status {
            return Ok(());
        }
        tracing::info!(%status, "filling the status of Network.config.openshift.io/cluster");
        let api = self.openshift_api(&NETWORK_CONFIG);
        let (params, patch) = (PatchParams::default(), Patch::Merge(json!({"status": status})));
        let fail = || api_error("write the status of Network.config.openshift.io/cluster");
        let written = api.patch(CLUSTER, &params, &patch).await.map_err(fail())?;
        // Where the status is a resource of its own, that has changed nothing.
        if written.data["status"] != status {
            api.patch_status(CLUSTER, &params, &patch).await.map_err(fail())?;
        }
        Ok(())
    }

    /// Writes ClusterOperator `antrea`; says when to look again.
    pub(super) async fn report_openshift(
        &self,
        around: &Surroundings,
        seen: &AntreaInstallationStatus,
    ) -> Option<Duration> {
        around.openshift.as_ref()?;
        match self.write_cluster_operator(seen).await {
            Ok(again) => again,
            Err(error) => {
                tracing::warn!(%error, "ClusterOperator {CLUSTER_OPERATOR_NAME}");
                Some(AGAIN)
            }
        }
    }

    async fn write_cluster_operator(
        &self,
        seen: &AntreaInstallationStatus,
    ) -> Result<Option<Duration>, Error> {
        let before = self.openshift_object(&CLUSTER_OPERATOR, CLUSTER_OPERATOR_NAME).await?;
        let status = before.as_ref().map_or(Value::Null, |object| object["status"].clone());
        let (next, again) = openshift::cluster_operator(
            &status,
            seen,
            &self.settings.operator_version,
            &self.settings.facts.operator_namespace,
            Timestamp::now(),
        );
        let again = again.and_then(|wait| Duration::try_from(wait).ok());
        let api = self.openshift_api(&CLUSTER_OPERATOR);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let mut body = json!({
            "apiVersion": CLUSTER_OPERATOR.api_version(),
            "kind": CLUSTER_OPERATOR.kind,
            "metadata": {"name": CLUSTER_OPERATOR_NAME},
        });
        if before.is_none() {
            body["spec"] = json!({});
            let made = api.patch(CLUSTER_OPERATOR_NAME, &params, &Patch::Apply(&body)).await;
            made.map_err(api_error("create ClusterOperator antrea"))?;
        }
        let same = ["conditions", "versions", "relatedObjects"].iter().all(|key| status[*key] == next[*key]);
        if !same {
            body["status"] = next;
            // All of it at once: whoever looks never sees a new version beside old conditions.
            let written = api.patch_status(CLUSTER_OPERATOR_NAME, &params, &Patch::Apply(&body)).await;
            written.map_err(api_error("write the status of ClusterOperator antrea"))?;
        }
        Ok(again)
    }

    /// Takes away what is not labelled as the installation's.
    pub(super) async fn leave_openshift(&self, around: &Surroundings) -> Result<(), Error> {
        let Some(platform) = &around.openshift else { return Ok(()) };
        if platform.constraints {
            let mut applier = self.applier.lock().await;
            for name in CONSTRAINT_NAMES {
                let key = Key { kind: CONSTRAINTS.kind, namespace: String::new(), name: name.to_owned() };
                applier.delete(&key).await?;
            }
        }
        match self
            .openshift_api(&CLUSTER_OPERATOR)
            .delete(CLUSTER_OPERATOR_NAME, &DeleteParams::default())
            .await
        {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(source) => Err(api_error("delete ClusterOperator antrea")(source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use antrea_crds::AntreaInstallationSpec;

    use super::*;
    use crate::{
        controller::testing::{Answer, Kube, context},
        effective::{Facts, effective},
        render,
    };

    const NETWORK: &str = "/apis/config.openshift.io/v1/networks/cluster";
    const OPERATOR: &str = "/apis/config.openshift.io/v1/clusteroperators/antrea";
    const CNO: &str = "/apis/operator.openshift.io/v1/networks/cluster";

    fn groups(names: &[&str]) -> Answer {
        let version = json!({"groupVersion": "v1", "version": "v1"});
        let group = |name: &&str| json!({"name": name, "versions": [version], "preferredVersion": version});
        let groups: Vec<Value> = names.iter().map(group).collect();
        Answer::Ok(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
    }

    fn openshift() -> Kube {
        let kube = Kube::default();
        kube.on("/apis", groups(&["config.openshift.io", "operator.openshift.io"]));
        kube.on(
            CNO,
            Answer::Ok(network("operator.openshift.io/v1", json!({"disableMultiNetwork": true}), json!({}))),
        );
        kube
    }

    fn network(version: &str, spec: Value, status: Value) -> Value {
        json!({"apiVersion": version, "kind": "Network", "metadata": {"name": "cluster"}, "spec": spec, "status": status})
    }

    fn asked() -> Value {
        json!({"clusterNetwork": [{"cidr": "10.128.0.0/14", "hostPrefix": 23}], "serviceNetwork": ["172.30.0.0/16"], "networkType": "antrea"})
    }

    fn paths(kube: &Kube) -> Vec<String> {
        kube.written().into_iter().map(|(request, _)| request).collect()
    }

    #[tokio::test]
    async fn the_platform_is_found_out_and_an_error_is_no_answer() {
        let kube = Kube::default();
        kube.on("/apis", groups(&["apps"]));
        assert_eq!(context(&kube).surroundings().await.unwrap(), Surroundings::default());
        let kube = openshift();
        let platform = Platform { multus: false, constraints: false };
        let running = context(&kube);
        assert_eq!(running.surroundings().await.unwrap().openshift, Some(platform.clone()));
        kube.on("/apis", Answer::Fail(500, "no"));
        assert_eq!(running.surroundings().await.unwrap().openshift, Some(platform), "still known");
        let error = context(&kube).surroundings().await.unwrap_err().to_string();
        assert_eq!(error, "list API groups: no");
        let kube = openshift();
        kube.on(CNO, Answer::Fail(403, "forbidden"));
        assert!(context(&kube).surroundings().await.is_err(), "where the plugin goes is not known");
    }

    #[tokio::test]
    async fn the_networks_status_is_filled_before_there_is_an_agent() {
        let kube = openshift();
        kube.on(NETWORK, Answer::Ok(network("config.openshift.io/v1", asked(), json!({}))));
        let context = context(&kube);
        let around = context.surroundings().await.unwrap();
        let config = effective(&AntreaInstallationSpec::default(), &Facts::default()).unwrap();
        context.prepare_openshift(&config, &around, false).await;
        let written = kube.written();
        // This server has forgotten the status again, as one does that wants it written apart.
        assert_eq!(paths(&kube), [format!("PATCH {NETWORK}"), format!("PATCH {NETWORK}/status")]);
        assert_eq!(written[0].1, json!({"status": asked()}));
        context.prepare_openshift(&config, &around, true).await;
        assert_eq!(kube.written().len(), 2, "nothing while paused");
        kube.on(NETWORK, Answer::Ok(network("config.openshift.io/v1", asked(), asked())));
        context.prepare_openshift(&config, &around, false).await;
        assert_eq!(kube.written().len(), 2, "as it should be");
    }

    #[tokio::test]
    async fn service_ranges_are_the_clusters_where_nothing_else_says_them() {
        let kube = openshift();
        kube.on(NETWORK, Answer::Ok(network("config.openshift.io/v1", asked(), json!({}))));
        let ranges = context(&kube).openshift_service_ranges().await.unwrap();
        assert_eq!(ranges.len(), 1);
        assert_eq!(ranges[0].cidr.to_string(), "172.30.0.0/16");
        let mut wrong = asked();
        wrong["serviceNetwork"] = json!(["nonsense"]);
        kube.on(NETWORK, Answer::Ok(network("config.openshift.io/v1", wrong, json!({}))));
        let error = context(&kube).openshift_service_ranges().await.unwrap_err().to_string();
        assert!(error.contains("spec.serviceNetwork: \"nonsense\" is no CIDR"), "{error}");
    }

    #[tokio::test]
    async fn the_cluster_operator_is_made_told_and_taken_away() {
        let kube = openshift();
        let context = context(&kube);
        let around = context.surroundings().await.unwrap();
        let seen = AntreaInstallationStatus::default();
        assert_eq!(
            context.report_openshift(&around, &seen).await,
            Some(AGAIN),
            "this server lets nobody create it"
        );
        assert_eq!(paths(&kube), [format!("PATCH {OPERATOR}")]);
        let object = json!({"apiVersion": "config.openshift.io/v1", "kind": "ClusterOperator", "metadata": {"name": "antrea"}});
        kube.on(OPERATOR, Answer::Ok(object.clone()));
        kube.on(&format!("{OPERATOR}/status"), Answer::Ok(object.clone()));
        assert_eq!(context.report_openshift(&around, &seen).await, None);
        let (path, body) = kube.written().pop().unwrap();
        assert_eq!(path, format!("PATCH {OPERATOR}/status"));
        assert_eq!(body["status"]["conditions"].as_array().unwrap().len(), 4);
        let mut there = object;
        there["status"] = body["status"].clone();
        kube.on(OPERATOR, Answer::Ok(there));
        let before = kube.written().len();
        assert_eq!(context.report_openshift(&around, &seen).await, None);
        assert_eq!(kube.written().len(), before, "it says so already");
        context.leave_openshift(&around).await.unwrap();
        assert_eq!(paths(&kube).pop().unwrap(), format!("DELETE {OPERATOR}"));
    }

    /// Elsewhere nothing of this is asked for.
    #[tokio::test]
    async fn a_cluster_that_is_no_openshift_is_left_alone() {
        let kube = Kube::default();
        kube.on("/apis", groups(&["apps"]));
        let context = context(&kube);
        let around = context.surroundings().await.unwrap();
        let config = effective(&AntreaInstallationSpec::default(), &Facts::default()).unwrap();
        context.prepare_openshift(&config, &around, false).await;
        assert_eq!(context.report_openshift(&around, &AntreaInstallationStatus::default()).await, None);
        context.leave_openshift(&around).await.unwrap();
        assert!(kube.written().is_empty());
        assert!(!render::objects(&config, &around).iter().any(|object| object.kind == &CONSTRAINTS));
    }
}
