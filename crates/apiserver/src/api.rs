//! The generic handler of all resources.

use std::{collections::HashMap, sync::Arc, time::Duration};

use antrea_api::k8s::ObjectMeta;
use axum::{
    Extension, Json, Router,
    body::Body as HttpBody,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::json;

use crate::{
    discovery,
    metrics::ServerMetrics,
    object::{self, Encoding, Include, Object},
    openapi,
    request::{ResourceRequest, parse_query},
    selector::NAME,
    status::Failure,
    storage::{Body, Create, Resource, Selection, Storage},
    user::User,
    version, watch,
};

/// Longest body of a request, as in the Kubernetes API server.
const MAX_BODY: usize = 3 << 20;

/// A body has to arrive within this time.
const BODY: Duration = Duration::from_secs(30);

/// Resources with their storage.
pub struct Api {
    resources: Vec<Resource>,
    storages: Vec<Arc<dyn Storage>>,
    git_version: String,
    metrics: ServerMetrics,
}

impl Api {
    /// An API without resources; `git_version` is shown by `/version`.
    pub fn new(git_version: impl Into<String>, metrics: ServerMetrics) -> Self {
        Self { resources: Vec::new(), storages: Vec::new(), git_version: git_version.into(), metrics }
    }

    /// Adds a resource.
    #[must_use]
    pub fn with(mut self, resource: Resource, storage: Arc<dyn Storage>) -> Self {
        self.resources.push(resource);
        self.storages.push(storage);
        self
    }

    /// Routes of discovery, OpenAPI, `/version` and all resources. They go behind
    /// [`protect`](crate::gate::protect), which tells handlers the user and the meaning of the path.
    pub fn router(self) -> Router {
        let version = version::router(&self.git_version);
        Router::new()
            .route("/apis", get(group_list))
            .route("/apis/", get(group_list))
            .route("/apis/{group}", get(group))
            .route("/apis/{group}/{version}", get(resource_list))
            .route("/openapi/v2", get(openapi_v2))
            .route("/openapi/v3", get(openapi_v3))
            .route("/openapi/v3/apis/{group}/{version}", get(openapi_v3_group))
            .fallback(resource)
            .with_state(Arc::new(self))
            .merge(version)
    }

    fn find(&self, request: &ResourceRequest) -> Result<(&Resource, &Arc<dyn Storage>), Failure> {
        self.resources
            .iter()
            .zip(&self.storages)
            .find(|(r, _)| {
                r.group == request.group && r.version == request.version && r.plural == request.resource
            })
            .filter(|(r, _)| r.namespaced || request.namespace.is_empty())
            .ok_or_else(Failure::no_such_path)
    }
}

fn accept(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok())
}

async fn group_list(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    if discovery::wants_aggregated(accept(&headers)) {
        let document = discovery::aggregated(&api.resources).to_string();
        return ([(header::CONTENT_TYPE, discovery::AGGREGATED)], document).into_response();
    }
    Json(discovery::group_list(&api.resources)).into_response()
}

async fn group(State(api): State<Arc<Api>>, Path(name): Path<String>) -> Response {
    found(discovery::group(&api.resources, &name))
}

async fn resource_list(
    State(api): State<Arc<Api>>,
    Path((group, version)): Path<(String, String)>,
) -> Response {
    found(discovery::resource_list(&api.resources, &group, &version))
}

async fn openapi_v2(State(api): State<Arc<Api>>) -> Response {
    Json(openapi::v2(&api.resources)).into_response()
}

async fn openapi_v3(State(api): State<Arc<Api>>) -> Response {
    Json(openapi::v3_index(&api.resources)).into_response()
}

async fn openapi_v3_group(
    State(api): State<Arc<Api>>,
    Path((group, version)): Path<(String, String)>,
) -> Response {
    found(openapi::v3(&api.resources, &group, &version))
}

fn found(document: Option<serde_json::Value>) -> Response {
    document
        .map_or_else(|| Failure::no_such_path().into_response(), |document| Json(document).into_response())
}

async fn resource(
    State(api): State<Arc<Api>>,
    meaning: Option<Extension<ResourceRequest>>,
    user: Option<Extension<User>>,
    request: Request,
) -> Response {
    let (Some(Extension(meaning)), Some(Extension(user))) = (meaning, user) else {
        return Failure::no_such_path().into_response();
    };
    serve(&api, meaning, user, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn serve(api: &Api, request: ResourceRequest, user: User, http: Request) -> Result<Response, Failure> {
    let (resource, storage) = api.find(&request)?;
    let query = parse_query(http.uri().query());
    let encoding = Encoding::negotiate(accept(http.headers()), storage.has_protobuf())
        .ok_or_else(|| Failure::not_acceptable(accept(http.headers()).unwrap_or_default()))?;

    let verbs = if request.subresource.is_empty() {
        resource.verbs
    } else {
        let found = resource.subresources.iter().find(|(name, ..)| *name == request.subresource);
        found.ok_or_else(Failure::no_such_path)?.2
    };
    if !verbs.contains(&request.verb) {
        return Err(Failure::method_not_allowed(request.verb, resource.plural));
    }

    match request.verb {
        "get" => {
            let object = match request.subresource.as_str() {
                "" => storage.get_part(&request.namespace, &request.name, &query)?,
                sub => storage.get_subresource(&request.namespace, &request.name, sub)?,
            };
            one(resource, &*object, encoding, include(&query), StatusCode::OK)
        }
        "list" => {
            let mut list = storage.list(&selection(resource, &request)?)?;
            list.objects.retain(|object| request.labels.match_all(&object.metadata().labels));
            many(resource, &list.objects, list.resource_version, encoding, include(&query))
        }
        "watch" => {
            let selection = selection(resource, &request)?;
            let subscription = storage.watch(&selection)?;
            let initial = query.get("sendInitialEvents").is_some_and(|value| value == "true");
            let bookmark = ObjectMeta::bookmark(subscription.resource_version.to_string(), initial);
            let stream = watch::Watch {
                subscription,
                labels: request.labels,
                encoding,
                bookmark: watch::bookmark(resource, bookmark, encoding),
                timeout: timeout(&query),
                _open: api.metrics.watch_opened(resource.plural),
            };
            Ok((
                [(header::CONTENT_TYPE, encoding.stream_type())],
                HttpBody::from_stream(stream.into_stream()),
            )
                .into_response())
        }
        "create" => {
            let (parts, body) = http.into_parts();
            let bytes = tokio::time::timeout(BODY, Limited::new(body, MAX_BODY).collect())
                .await
                .map_err(|_| Failure::bad_request(format_args!("the body did not arrive in {BODY:?}")))?
                .map_err(|error| match error.downcast_ref::<http_body_util::LengthLimitError>() {
                    Some(_) => Failure::too_large(MAX_BODY),
                    None => Failure::bad_request(error),
                })?
                .to_bytes();
            let ResourceRequest { namespace, name, subresource, .. } = request;
            let body = Body::new(&parts.headers, bytes);
            let object = storage.create(Create { user, namespace, name, subresource, body }).await?;
            let encoding = if encoding == Encoding::Table { Encoding::Json } else { encoding };
            one(resource, &*object, encoding, Include::Metadata, StatusCode::CREATED)
        }
        "delete" => {
            storage.delete(&request.name)?;
            let done = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
            Ok(Json(done).into_response())
        }
        verb => Err(Failure::method_not_allowed(verb, resource.plural)),
    }
}

fn one(
    resource: &Resource,
    object: &dyn Object,
    encoding: Encoding,
    include: Include,
    status: StatusCode,
) -> Result<Response, Failure> {
    let body = match encoding {
        Encoding::Json => object.json().map_err(Failure::internal)?.to_string().into_bytes(),
        Encoding::Protobuf => object.sealed(),
        Encoding::Table => {
            let version = &object.metadata().resource_version;
            object::table(version, resource.columns, std::iter::once(object), include)
                .map_err(Failure::internal)?
                .to_string()
                .into_bytes()
        }
    };
    Ok((status, [(header::CONTENT_TYPE, encoding.content_type())], body).into_response())
}

fn many(
    resource: &Resource,
    objects: &[Arc<dyn Object>],
    version: u64,
    encoding: Encoding,
    include: Include,
) -> Result<Response, Failure> {
    let version = version.to_string();
    let body = match encoding {
        Encoding::Json => object::json_list(resource.api_version, resource.kind, &version, objects)
            .map_err(Failure::internal)?
            .to_string()
            .into_bytes(),
        Encoding::Protobuf => object::protobuf_list(resource.api_version, resource.kind, &version, objects),
        Encoding::Table => {
            object::table(&version, resource.columns, objects.iter().map(|object| &**object), include)
                .map_err(Failure::internal)?
                .to_string()
                .into_bytes()
        }
    };
    Ok(([(header::CONTENT_TYPE, encoding.content_type())], body).into_response())
}

fn include(query: &HashMap<String, String>) -> Include {
    match query.get("includeObject").map(String::as_str) {
        Some("None") => Include::None,
        Some("Object") => Include::Object,
        _ => Include::Metadata,
    }
}

fn timeout(query: &HashMap<String, String>) -> Option<Duration> {
    let seconds: u64 = query.get("timeoutSeconds")?.parse().ok()?;
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// What the request selects. A field that cannot be honoured is refused: ignored, it would show too much.
fn selection(resource: &Resource, request: &ResourceRequest) -> Result<Selection, Failure> {
    let mut selection = Selection { namespace: request.namespace.clone(), ..Selection::default() };
    for (key, value) in request.fields.iter() {
        if key == NAME {
            selection.name = Some(value.to_owned());
        } else if let Some(field) = resource.fields.iter().find(|field| **field == key) {
            selection.fields.insert(field, value.to_owned());
        } else {
            return Err(Failure::bad_request(format_args!("field label not supported: {key}")));
        }
    }
    Ok(selection)
}
