//! What a reconciliation begins with: the configuration that is wanted, from the spec and from what is known of the
//! cluster. What cannot be read is an error and never an empty answer: nothing is planned from a guess.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use antrea_crds::{AntreaInstallation, AntreaInstallationSpec};
use k8s_openapi::{
    api::networking::v1::ServiceCIDR,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    jiff::{SignedDuration, Timestamp},
};
use kube::{Api, ResourceExt, api::ListParams};

use super::{Context, Error, api_error};
use crate::{
    capabilities,
    cluster::Trouble,
    effective::{ConfigError, Effective, Facts, ServiceRange, effective},
    plan,
    render::Surroundings,
    watches::NOT_SERVED,
};

/// The API server's Service ranges are read again after this long, even if the watch tells of no change.
const FACTS_TTL: Duration = Duration::from_secs(300);

/// What agents say of their Nodes is waited for this long after a start, before it is told that one waits.
const INFOS_WAIT: SignedDuration = SignedDuration::from_secs(10);

/// Name of the ServiceCIDR that the API server makes from its own flags.
const PRIMARY_SERVICE_CIDR: &str = "kubernetes";

/// What is to be in effect.
#[derive(Clone)]
pub(super) struct Wanted {
    /// The configuration; none if there never was a good one.
    pub(super) config: Option<Effective>,
    /// Why it is not the one that the spec asks for.
    pub(super) refused: Option<Trouble>,
    /// Where the operator runs.
    pub(super) around: Surroundings,
}

/// Service ranges, as last read.
#[derive(Clone, Debug)]
pub(super) struct KnownRanges {
    at: Instant,
    /// What the watch knew of the objects before they were read.
    revision: BTreeMap<String, String>,
    ranges: Vec<ServiceRange>,
}

/// Whether what agents say of their Nodes is known.
#[derive(Debug, PartialEq, Eq)]
enum Infos {
    Known,
    /// Look again in a moment.
    Soon,
    /// They cannot be read, for this reason.
    Unknown(String),
}

impl Context {
    /// What is wanted; none while something that is about to be known is not.
    pub(super) async fn wanted(&self, cr: &AntreaInstallation) -> Result<Option<Wanted>, Error> {
        let pending = self.shared.infos_pending();
        let (agents, age) = self.shared.with(|state| {
            let age = Timestamp::now().duration_since(state.cluster.started);
            (!state.cluster.agent_pods.is_empty(), age)
        });
        match infos(pending.as_deref(), agents, age) {
            Infos::Known => self.configuration(cr).await.map(Some),
            Infos::Soon => Ok(None),
            Infos::Unknown(why) => Err(Error::Unknown(format!("AntreaAgentInfos cannot be read: {why}"))),
        }
    }

    /// What is known besides the spec.
    async fn facts(&self, spec: &AntreaInstallationSpec) -> Result<Facts, Error> {
        // Ranges that the spec names need no list, and wait for none.
        let service_cidrs =
            if spec.service_cidrs.is_empty() { self.service_ranges().await? } else { Vec::new() };
        let (node_pod_cidrs, node_addresses) =
            self.shared.with(|state| (state.cluster.pod_cidrs(), state.cluster.addresses()));
        Ok(Facts { service_cidrs, node_pod_cidrs, node_addresses, ..self.settings.facts.clone() })
    }

    /// The ranges of the ServiceCIDR objects, as last read.
    async fn service_ranges(&self) -> Result<Vec<ServiceRange>, Error> {
        let known = self.memory(|memory| memory.service_cidrs.clone());
        let revision = self.shared.with(|state| state.service_cidrs.clone());
        if let Some(known) = &known
            && known.at.elapsed() < FACTS_TTL
            && known.revision == revision
        {
            return Ok(known.ranges.clone());
        }
        let read = match Api::<ServiceCIDR>::all(self.client.clone()).list(&ListParams::default()).await {
            Ok(list) => ranges(list.items).map_err(Error::Unknown),
            // Older API servers have no such objects. One that had them is being changed, and its peers differ.
            Err(kube::Error::Api(status)) if status.code == 404 && known.is_none() => {
                self.openshift_service_ranges().await
            }
            Err(source) => Err(api_error("list ServiceCIDRs")(source)),
        };
        match (read, known) {
            (Ok(ranges), _) => {
                let known = KnownRanges { at: Instant::now(), revision, ranges: ranges.clone() };
                self.memory(|memory| memory.service_cidrs = Some(known));
                Ok(ranges)
            }
            (Err(error), Some(known)) => {
                tracing::warn!(%error, "Service ranges are those that were read before");
                Ok(known.ranges)
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The configuration to have in effect, and why it is not the one that the spec asks for.
    pub(super) async fn configuration(&self, cr: &AntreaInstallation) -> Result<Wanted, Error> {
        let around = self.surroundings().await?;
        let facts = self.facts(&cr.spec).await?;
        let running = cr.status.as_ref().and_then(|status| status.version.as_deref());
        let last = cr.status.as_ref().and_then(|status| status.computed.as_deref());
        let refused = match effective(&cr.spec, &facts) {
            Err(error) => Trouble::new("InvalidConfiguration", error.to_string()),
            Ok(config) => match (plan::refuse(running, &config.version), self.impossible(&config, last)) {
                (None, None) => match self.unserved(&config, last).await? {
                    None => return Ok(Wanted { config: Some(config), refused: None, around }),
                    Some(message) => Trouble::new("InvalidConfiguration", message),
                },
                (Some(message), _) => Trouble::new("UpgradeRefused", message),
                (None, Some(error)) => Trouble::new("InvalidConfiguration", error.to_string()),
            },
        };
        Ok(Wanted { config: last_good(cr), refused: Some(refused), around })
    }

    /// Why the controller could not list the policies of a definition that is not this operator's: it would wait for them, and
    /// serve nobody. Of what is in effect already it is too late to ask.
    async fn unserved(
        &self,
        config: &Effective,
        last: Option<&AntreaInstallationSpec>,
    ) -> Result<Option<String>, Error> {
        if !config.standard_policies() || last == Some(&config.to_spec()) {
            return Ok(None);
        }
        let wanted = antrea_crds::standard_crd();
        let (name, versions) = (wanted.name_any(), wanted.spec.versions);
        let api = Api::<CustomResourceDefinition>::all(self.client.clone());
        let found =
            api.get_opt(&name).await.map_err(api_error(format!("get CustomResourceDefinition {name}")))?;
        let serves = |version: &str| {
            let served = found.iter().flat_map(|found| &found.spec.versions).filter(|version| version.served);
            served.into_iter().any(|served| served.name == version)
        };
        let missing = versions.iter().find(|version| !serves(&version.name)).filter(|_| found.is_some());
        Ok(missing.map(|version| {
            format!(
                "spec.featureGates.ClusterNetworkPolicy: the CustomResourceDefinition {name}, which somebody else has \
                 brought, does not serve {}",
                version.name
            )
        }))
    }

    /// Why the Nodes cannot follow a configuration, unless they are told to already: then their agents say.
    fn impossible(&self, config: &Effective, last: Option<&AntreaInstallationSpec>) -> Option<ConfigError> {
        if last == Some(&config.to_spec()) {
            return None;
        }
        self.shared.with(|state| {
            let running: BTreeSet<&str> =
                state.cluster.agent_pods.values().map(|pod| pod.node.as_str()).collect();
            let mut nodes = state.cluster.capabilities.clone();
            // What an agent said that is gone may not be true any more.
            nodes.retain(|name, _| running.contains(name.as_str()));
            capabilities::check(config, &nodes).err()
        })
    }
}

/// The configuration that was in effect last. It is in the status, complete: it needs no facts.
pub(super) fn last_good(cr: &AntreaInstallation) -> Option<Effective> {
    let last = cr.status.as_ref()?.computed.as_deref()?;
    effective(last, &Facts::default()).ok()
}

/// What Nodes are cleaned by; none if nothing was ever in effect. Where this operator refuses what was, it is as much of
/// it as can be used: which Nodes, and by which images, or at least all of them by those of today.
pub(super) fn to_clean(cr: &AntreaInstallation, facts: &Facts) -> Option<Effective> {
    let last = cr.status.as_ref()?.computed.as_deref()?;
    let (version, images, agent) = (last.version.clone(), last.images.clone(), last.agent.clone());
    let agents = AntreaInstallationSpec { version, images, agent, ..AntreaInstallationSpec::default() };
    let none = Facts::default();
    let default = AntreaInstallationSpec::default();
    let known = [(last, &none), (&agents, &none), (&default, facts)];
    known.into_iter().find_map(|(spec, facts)| effective(spec, facts).ok())
}

/// Whether what agents say of their Nodes is known; `pending`: why it is not listed, as far as that is known,
/// `agents`: whether there are any. Before their definition is applied nobody can list it.
fn infos(pending: Option<&str>, agents: bool, age: SignedDuration) -> Infos {
    match pending {
        Some(why) if agents && why != NOT_SERVED => {
            if age < INFOS_WAIT {
                Infos::Soon
            } else {
                Infos::Unknown(why.to_owned())
            }
        }
        _ => Infos::Known,
    }
}

/// What ServiceCIDR objects say, the API server's own first, then by name.
fn ranges(mut objects: Vec<ServiceCIDR>) -> Result<Vec<ServiceRange>, String> {
    objects.sort_by_key(|object| (object.name_any() != PRIMARY_SERVICE_CIDR, object.name_any()));
    let mut ranges = Vec::new();
    for object in objects {
        let name = object.name_any();
        for text in object.spec.and_then(|spec| spec.cidrs).unwrap_or_default() {
            let cidr =
                text.parse().map_err(|_| format!("ServiceCIDR {name}: spec.cidrs: {text:?} is no CIDR"))?;
            ranges.push(ServiceRange { object: name.clone(), cidr });
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::testing::{Answer, Kube, context, installation};

    const LIST: &str = "/apis/networking.k8s.io/v1/servicecidrs";

    fn list(items: &[(&str, &[&str])]) -> Answer {
        let items: Vec<Value> = items
            .iter()
            .map(|(name, cidrs)| json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}}))
            .collect();
        let kind = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDRList", "metadata": {}});
        let mut body = kind;
        body["items"] = items.into();
        Answer::Ok(body)
    }

    /// The controller would wait for ever for a list of them, and serve nobody meanwhile.
    #[tokio::test]
    async fn a_definition_that_does_not_serve_what_the_controller_reads_is_refused() {
        let path = format!(
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}",
            antrea_crds::standard_crd().name_any()
        );
        let spec = json!({"serviceCidrs": ["10.96.0.0/16"], "featureGates": {"ClusterNetworkPolicy": true}});
        for (version, served, good) in
            [("v1alpha2", true, true), ("v1alpha2", false, false), ("v1beta1", true, false)]
        {
            let mut found = serde_json::to_value(antrea_crds::standard_crd()).unwrap();
            found["spec"]["versions"][0]["name"] = version.into();
            found["spec"]["versions"][0]["served"] = served.into();
            let kube = Kube::default();
            kube.on(&path, Answer::Ok(found));
            let wanted = context(&kube).configuration(&installation(spec.clone())).await.unwrap();
            assert_eq!(wanted.refused.is_none(), good, "{version} {served}: {:?}", wanted.refused);
        }
        let wanted = context(&Kube::default()).configuration(&installation(spec)).await.unwrap();
        assert_eq!(wanted.refused, None, "it is made where there is none");
    }

    async fn services(kube: &Kube) -> Result<Vec<String>, String> {
        let context = context(kube);
        services_of(&context).await
    }

    async fn services_of(context: &Context) -> Result<Vec<String>, String> {
        let wanted =
            context.configuration(&installation(json!({}))).await.map_err(|error| error.to_string())?;
        let config = wanted.config.ok_or_else(|| wanted.refused.unwrap().message)?;
        Ok(config.service_cidrs.iter().map(ToString::to_string).collect())
    }

    /// An answer that is no answer must not look like a cluster without ranges.
    #[tokio::test]
    async fn a_list_that_fails_is_no_empty_list() {
        let kube = Kube::default();
        for code in [500, 403, 429] {
            kube.on(LIST, Answer::Fail(code, "no"));
            assert_eq!(services(&kube).await.unwrap_err(), "list ServiceCIDRs: no", "{code}");
        }
        kube.on(LIST, Answer::Fail(404, "the server could not find the requested resource"));
        assert!(services(&kube).await.unwrap().is_empty(), "an older API server");
    }

    #[tokio::test]
    async fn what_was_read_before_holds_while_lists_fail() {
        let kube = Kube::default();
        kube.on(LIST, list(&[("kubernetes", &["10.96.0.0/12"])]));
        let context = context(&kube);
        services_of(&context).await.unwrap();
        let long_ago = Instant::now().checked_sub(FACTS_TTL);
        for code in [500, 403, 404] {
            context.memory(|memory| memory.service_cidrs.as_mut().unwrap().at = long_ago.unwrap());
            kube.on(LIST, Answer::Fail(code, "no"));
            assert_eq!(services_of(&context).await.unwrap(), ["10.96.0.0/12"], "{code}");
        }
    }

    /// A Service of a new range is reached as soon as there is the range, and not minutes later.
    #[tokio::test]
    async fn ranges_are_read_again_when_the_watch_tells_of_a_change() {
        let kube = Kube::default();
        kube.on(LIST, list(&[("kubernetes", &["10.96.0.0/12"])]));
        let context = context(&kube);
        services_of(&context).await.unwrap();
        let both = || list(&[("kubernetes", &["10.96.0.0/12"]), ("more", &["10.112.0.0/16"])]);
        kube.on(LIST, both());
        assert_eq!(services_of(&context).await.unwrap(), ["10.96.0.0/12"], "nothing is told of");
        context.shared.with(|state| state.service_cidrs.insert("more".into(), "1".into()));
        assert_eq!(services_of(&context).await.unwrap(), ["10.96.0.0/12", "10.112.0.0/16"]);
        // A change that could not be read is not forgotten.
        context.shared.with(|state| state.service_cidrs.remove("more"));
        kube.on(LIST, Answer::Fail(500, "no"));
        assert_eq!(services_of(&context).await.unwrap(), ["10.96.0.0/12", "10.112.0.0/16"]);
        kube.on(LIST, list(&[("kubernetes", &["10.96.0.0/12"])]));
        assert_eq!(services_of(&context).await.unwrap(), ["10.96.0.0/12"]);
    }

    #[tokio::test]
    async fn the_first_range_comes_first_whatever_its_name() {
        let kube = Kube::default();
        kube.on(
            LIST,
            list(&[("a", &["10.0.0.0/16", "fd01::/112"]), ("kubernetes", &["10.96.0.0/12", "fd00::/112"])]),
        );
        let expected = ["10.96.0.0/12", "fd00::/112", "10.0.0.0/16", "fd01::/112"];
        assert_eq!(services(&kube).await.unwrap(), expected);
        kube.on(LIST, list(&[("a", &["nonsense"])]));
        let error = services(&kube).await.unwrap_err();
        assert_eq!(error, "ServiceCIDR a: spec.cidrs: \"nonsense\" is no CIDR");
    }

    #[tokio::test]
    async fn ranges_of_the_spec_need_no_list() {
        let kube = Kube::default();
        kube.on(LIST, Answer::Fail(500, "no"));
        let wanted =
            context(&kube).configuration(&installation(json!({"serviceCIDRs": ["10.1.0.0/16"]}))).await;
        assert_eq!(wanted.unwrap().config.unwrap().service_cidrs, ["10.1.0.0/16".parse().unwrap()]);
    }

    /// What agents say decides whether the next one may go: silence is not consent.
    #[test]
    fn nodes_are_cleaned_by_what_can_be_used_of_what_was_in_effect() {
        let facts = Facts { default_version: "v9.0.0".into(), ..Facts::default() };
        let version = |computed: Value| {
            let mut cr = installation(json!({}));
            cr.status = Some(serde_json::from_value(json!({"computed": computed})).unwrap());
            to_clean(&cr, &facts).map(|config| config.version)
        };
        assert_eq!(version(json!({"version": "v1.0.0"})).as_deref(), Some("v1.0.0"));
        let refused = json!({"version": "v1.0.0", "featureGates": {"NoSuchGate": true}});
        assert_eq!(version(refused).as_deref(), Some("v1.0.0"), "this operator knows no such gate");
        assert_eq!(version(Value::Null), None, "there never was anything");
    }

    #[test]
    fn agents_are_heard_before_anything_is_decided() {
        let (soon, late) = (SignedDuration::from_secs(1), SignedDuration::from_secs(11));
        let unknown = Infos::Unknown("forbidden".into());
        for (pending, agents, age, expected) in [
            (None, true, soon, Infos::Known),
            (Some(""), true, soon, Infos::Soon),
            (Some("forbidden"), true, soon, Infos::Soon),
            (Some("forbidden"), true, late, unknown),
            (Some("forbidden"), false, late, Infos::Known),
            (Some(NOT_SERVED), true, soon, Infos::Known),
        ] {
            assert_eq!(infos(pending, agents, age), expected, "{pending:?} {agents} {age:?}");
        }
    }
}
