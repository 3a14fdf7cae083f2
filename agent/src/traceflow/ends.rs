//! The addresses of a trace's ends.

use std::net::IpAddr;
use std::time::Duration;

use antrea_runtime::client::describe;
use antrea_traceflow::request::{End, Name};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client};

use crate::pods::interfaces::PodInterface;

/// Limit of one question to the API server.
const LIMIT: Duration = Duration::from_secs(5);

/// A pod of this node.
pub(super) fn local<'a>(pods: &'a [PodInterface], name: &Name) -> Option<&'a PodInterface> {
    pods.iter().find(|pod| pod.pod_name == name.name && pod.pod_namespace == name.namespace)
}

/// The addresses of where a packet goes; none of anything. A pod of another node and a Service are looked up.
///
/// # Errors
/// In words for the trace's reason, beginning with the field.
pub(super) async fn addresses(
    client: &Client,
    pods: &[PodInterface],
    end: &End,
) -> Result<Vec<IpAddr>, String> {
    match end {
        End::Any => Ok(Vec::new()),
        End::Ip(ip) => Ok(vec![*ip]),
        End::Pod(name) => match local(pods, name) {
            Some(pod) => Ok(pod.ips.clone()),
            None => remote(client, name).await,
        },
        End::Service(name) => service(client, name).await,
    }
}

async fn remote(client: &Client, name: &Name) -> Result<Vec<IpAddr>, String> {
    let pod: Pod =
        get(Api::namespaced(client.clone(), &name.namespace), "spec.destination.pod", name).await?;
    let ips = pod.status.and_then(|status| status.pod_ips).unwrap_or_default();
    let ips: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect();
    if ips.is_empty() { Err(format!("spec.destination.pod: Pod {name} has no address yet")) } else { Ok(ips) }
}

async fn service(client: &Client, name: &Name) -> Result<Vec<IpAddr>, String> {
    let api = Api::namespaced(client.clone(), &name.namespace);
    let service: Service = get(api, "spec.destination.service", name).await?;
    let spec = service.spec.unwrap_or_default();
    let ips = spec.cluster_ips.unwrap_or_else(|| spec.cluster_ip.into_iter().collect());
    let ips: Vec<IpAddr> = ips.iter().filter_map(|ip| ip.parse().ok()).collect();
    if ips.is_empty() {
        return Err(format!("spec.destination.service: Service {name} has no address of its own"));
    }
    Ok(ips)
}

async fn get<K>(api: Api<K>, field: &str, name: &Name) -> Result<K, String>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    match tokio::time::timeout(LIMIT, api.get(&name.name)).await {
        Ok(Ok(object)) => Ok(object),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => {
            Err(format!("{field}: there is no {name}"))
        }
        Ok(Err(error)) => Err(format!("{field}: {name} cannot be read: {}", describe(&error))),
        Err(_) => Err(format!("{field}: {name} cannot be read: the API server did not answer in {LIMIT:?}")),
    }
}
