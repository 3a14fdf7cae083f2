//! Owns the serving certificate: where it comes from, who is told of its CA, when it is replaced.

use std::{path::PathBuf, time::Duration};

use antrea_runtime::client::describe;
use k8s_openapi::{
    ByteString,
    api::{
        admissionregistration::v1::{
            MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
        },
        core::v1::{ConfigMap, Secret},
    },
    kube_aggregator::pkg::apis::apiregistration::v1::APIService,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    cert::{self, ServingCert},
    tls::Tls,
};

/// An issued certificate is replaced when it has less than this left.
const RENEW_BEFORE: Duration = Duration::from_secs(90 * 24 * 3600);
/// With less than this left it is also replaced if somebody cannot be told of the new CA, who then knows none of both soon.
const LATE: Duration = Duration::from_secs(30 * 24 * 3600);
/// The CA is looked after at this interval: an APIService that was made anew has none.
const PUBLISH_EVERY: Duration = Duration::from_secs(30);
/// Clients get this time to learn a new CA before a certificate of it is served.
const SETTLE: Duration = Duration::from_secs(30);

/// Where the certificate comes from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Issued here for these names and kept in a Secret, so that a restart changes nothing.
    Issued {
        /// Common name.
        name: String,
        /// DNS names and addresses that clients use.
        names: Vec<String>,
        /// Secret of type `kubernetes.io/tls` with a further key `ca.crt`.
        secret: String,
    },
    /// Provided as `ca.crt`, `tls.crt` and `tls.key` in a directory, and read again when they change.
    Files(PathBuf),
}

/// Publishes and renews a [`ServingCert`].
#[derive(Clone)]
pub struct CertManager {
    /// Client with the rights to write what is named below.
    pub client: Client,
    /// Namespace of Secret and ConfigMap.
    pub namespace: String,
    /// Where the certificate comes from.
    pub source: Source,
    /// ConfigMap that gets the CA under `ca.crt`.
    pub config_map: String,
    /// Names of the APIServices that get the CA as `caBundle`.
    pub api_services: Vec<String>,
    /// Configurations whose webhooks all get the CA as `caBundle`.
    pub webhooks: Vec<Webhooks>,
    /// Field manager of every write.
    pub manager: String,
}

/// A configuration of webhooks, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Webhooks {
    /// A MutatingWebhookConfiguration.
    Mutating(&'static str),
    /// A ValidatingWebhookConfiguration.
    Validating(&'static str),
}

/// Why a certificate could not be had or published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is unusable or could not be issued.
    #[error(transparent)]
    Cert(#[from] cert::Error),
    /// A provided file cannot be read.
    #[error("certificate file {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The API server refused or is away.
    #[error("{object}: {message}")]
    Kube {
        /// Kind and name.
        object: String,
        /// What it said.
        message: String,
    },
    /// An object is not there.
    #[error("{object}: {message}")]
    Absent {
        /// Kind and name.
        object: String,
        /// What the API server said.
        message: String,
    },
}

fn kube_error(object: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    move |error| {
        let (object, message) = (object.into(), describe(&error));
        match error {
            kube::Error::Api(status) if status.code == 404 => Error::Absent { object, message },
            _ => Error::Kube { object, message },
        }
    }
}

/// Who does not know the CA: the first of each kind.
#[derive(Default)]
struct Untold {
    /// The ConfigMap, from which agents have it.
    map: Option<Error>,
    /// Others that are there.
    others: Option<Error>,
    /// Others that are not there, and so have nothing to be told.
    absent: Option<Error>,
}

impl Untold {
    fn add(&mut self, told: Result<(), Error>) {
        let Err(error) = told else { return };
        let first = if matches!(error, Error::Absent { .. }) { &mut self.absent } else { &mut self.others };
        first.get_or_insert(error);
    }

    fn result(self) -> Result<(), Error> {
        self.map.or(self.others).or(self.absent).map_or(Ok(()), Err)
    }
}

impl CertManager {
    /// The certificate to start with: the stored one if it is still good for these names, else a new
    /// one, stored if the API server lets us. One that is to be renewed is good: clients know its CA, and
    /// no other yet. Provided files have to be there.
    ///
    /// # Errors
    /// Provided files are missing or unusable.
    pub async fn bootstrap(&self) -> Result<ServingCert, Error> {
        let Source::Issued { name, names, secret } = &self.source else { return self.read_files() };
        match self.stored(secret).await {
            Ok(Some(cert)) if cert.covers(names) && !cert.expires_in().is_zero() => return Ok(cert),
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the stored certificate cannot be read: issuing one"),
        }
        let cert = ServingCert::issue(name, names)?;
        self.store(secret, &cert).await;
        Ok(cert)
    }

    /// Publishes the CA, and renews the certificate when it is due, until `shutdown`. Failures are logged
    /// and tried again.
    pub async fn run(self, tls: Tls, shutdown: CancellationToken) {
        let mut retry = antrea_runtime::backoff::Backoff::new(Duration::from_secs(1), PUBLISH_EVERY);
        let mut next = None;
        loop {
            let pause = match self.step(&tls, &mut next, SETTLE).await {
                Ok(()) => {
                    retry.reset();
                    PUBLISH_EVERY
                }
                Err(error) => {
                    tracing::warn!(%error, "the serving CA is not published everywhere");
                    retry.next_delay()
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One look. `next` is the certificate that comes after the present one, from when it is issued until it is served;
    /// `settle` is how long clients get to learn its CA.
    async fn step(&self, tls: &Tls, next: &mut Option<ServingCert>, settle: Duration) -> Result<(), Error> {
        let current = tls.cert();
        match &self.source {
            Source::Files(_) => {
                let files = self.read_files()?;
                if files != current {
                    tracing::info!("provided certificate changed");
                    tls.set_cert(files)?;
                }
            }
            Source::Issued { name, names, secret } if current.expires_in() < RENEW_BEFORE => {
                // It is the same at each try, for who was told of its CA is told once.
                let coming = match next.take() {
                    Some(coming) => coming,
                    None => {
                        let mut coming = ServingCert::issue(name, names)?;
                        // Clients have to trust the new CA before they meet it, and the old one until then.
                        coming.ca.push_str(first_certificate(&current.ca));
                        coming
                    }
                };
                let untold = self.publish(&next.insert(coming.clone()).ca).await;
                let waits = untold.others.is_some() && current.expires_in() > LATE;
                if untold.map.is_some() || waits {
                    return untold.result();
                }
                tokio::time::sleep(settle).await;
                self.store(secret, &coming).await;
                tls.set_cert(coming)?;
                *next = None;
                tracing::info!("serving certificate renewed");
            }
            Source::Issued { .. } => {}
        }
        self.publish(&tls.cert().ca).await.result()
    }

    /// Writes the CA into the ConfigMap and into every APIService and webhook that holds another. Where one fails, the
    /// others are still attempted.
    async fn publish(&self, ca: &str) -> Untold {
        let params = PatchParams::apply(&self.manager).force();
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": self.config_map, "labels": { "app": "antrea" } },
            "data": { "ca.crt": ca },
        });
        let maps = Api::<ConfigMap>::namespaced(self.client.clone(), &self.namespace);
        let told = maps.patch(&self.config_map, &params, &Patch::Apply(&map)).await;
        let told = told.map_err(kube_error(format!("ConfigMap {}/{}", self.namespace, self.config_map)));
        let mut untold = Untold { map: told.err(), ..Untold::default() };
        for name in &self.api_services {
            untold.add(self.publish_to_api_service(name, ca).await);
        }
        for configuration in &self.webhooks {
            untold.add(self.publish_to_webhooks(*configuration, ca).await);
        }
        untold
    }

    async fn publish_to_api_service(&self, name: &str, ca: &str) -> Result<(), Error> {
        let object = || format!("APIService {name}");
        let services = Api::<APIService>::all(self.client.clone());
        let service = services.get(name).await.map_err(kube_error(object()))?;
        if service.spec.and_then(|spec| spec.ca_bundle).is_some_and(|bundle| bundle.0 == ca.as_bytes()) {
            return Ok(());
        }
        let patch = json!({ "spec": { "caBundle": ByteString(ca.as_bytes().to_vec()) } });
        let params = PatchParams { field_manager: Some(self.manager.clone()), ..PatchParams::default() };
        services.patch(name, &params, &Patch::Merge(&patch)).await.map(drop).map_err(kube_error(object()))
    }

    async fn publish_to_webhooks(&self, configuration: Webhooks, ca: &str) -> Result<(), Error> {
        match configuration {
            Webhooks::Mutating(name) => {
                let hooks = |found: MutatingWebhookConfiguration| {
                    let hooks = found.webhooks.unwrap_or_default().into_iter();
                    hooks.map(|hook| (hook.name, hook.client_config)).collect()
                };
                self.publish_to(name, "MutatingWebhookConfiguration", ca, hooks).await
            }
            Webhooks::Validating(name) => {
                let hooks = |found: ValidatingWebhookConfiguration| {
                    let hooks = found.webhooks.unwrap_or_default().into_iter();
                    hooks.map(|hook| (hook.name, hook.client_config)).collect()
                };
                self.publish_to(name, "ValidatingWebhookConfiguration", ca, hooks).await
            }
        }
    }

    /// The webhooks are somebody else's: only `caBundle` of each is ours.
    async fn publish_to<K>(
        &self,
        name: &str,
        kind: &str,
        ca: &str,
        hooks: impl FnOnce(K) -> Vec<(String, WebhookClientConfig)>,
    ) -> Result<(), Error>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let object = || format!("{kind} {name}");
        let api = Api::<K>::all(self.client.clone());
        let hooks = hooks(api.get(name).await.map_err(kube_error(object()))?);
        let holds = |config: &WebhookClientConfig| {
            config.ca_bundle.as_ref().is_some_and(|bundle| bundle.0 == ca.as_bytes())
        };
        if hooks.iter().all(|(_, config)| holds(config)) {
            return Ok(());
        }
        let bundle = json!({"caBundle": ByteString(ca.as_bytes().to_vec())});
        let webhooks: Vec<_> =
            hooks.iter().map(|(name, _)| json!({"name": name, "clientConfig": bundle})).collect();
        let patch = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": name}, "webhooks": webhooks,
        });
        let params = PatchParams::apply(&self.manager).force();
        api.patch(name, &params, &Patch::Apply(&patch)).await.map(drop).map_err(kube_error(object()))
    }

    async fn stored(&self, name: &str) -> Result<Option<ServingCert>, Error> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let found =
            secrets.get_opt(name).await.map_err(kube_error(format!("Secret {}/{name}", self.namespace)))?;
        Ok(found.and_then(|secret| {
            let data = secret.data?;
            let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
            Some(ServingCert { ca: text("ca.crt")?, cert: text("tls.crt")?, key: text("tls.key")? })
        }))
    }

    /// Failing to store is no reason not to serve: the next start issues a new certificate.
    async fn store(&self, name: &str, cert: &ServingCert) {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": { "name": name, "labels": { "app": "antrea" } },
            "stringData": { "ca.crt": cert.ca, "tls.crt": cert.cert, "tls.key": cert.key },
        });
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let params = PatchParams::apply(&self.manager).force();
        if let Err(error) = secrets.patch(name, &params, &Patch::Apply(&secret)).await {
            tracing::warn!(secret = name, error = describe(&error), "the serving certificate is not stored");
        }
    }

    fn read_files(&self) -> Result<ServingCert, Error> {
        let Source::Files(directory) = &self.source else {
            return Err(Error::Cert(cert::Error::Tls("no certificate directory".to_owned())));
        };
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read_to_string(&path).map_err(|source| Error::File { path, source })
        };
        Ok(ServingCert { ca: read("ca.crt")?, cert: read("tls.crt")?, key: read("tls.key")? })
    }
}

/// The newest CA of a bundle, so that bundles do not grow with every renewal.
fn first_certificate(bundle: &str) -> &str {
    const END: &str = "-----END CERTIFICATE-----";
    bundle.find(END).map_or(bundle, |at| {
        let end = at + END.len();
        bundle.get(..end + bundle[end..].chars().take_while(|c| c.is_whitespace()).count()).unwrap_or(bundle)
    })
}

#[cfg(test)]
mod tests;
