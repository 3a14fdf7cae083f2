//! What a resource is and where its objects come from.

use std::{collections::HashMap, sync::Arc};

use antrea_api::k8s;
use axum::http::HeaderMap;
use bytes::Bytes;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;

use crate::{
    hub::Subscription,
    object::{Column, Object},
    status::Failure,
    user::User,
};

/// A resource as discovery, negotiation and authorization see it.
#[derive(Debug, Clone, Copy)]
pub struct Resource {
    /// API group.
    pub group: &'static str,
    /// API version.
    pub version: &'static str,
    /// Group and version.
    pub api_version: &'static str,
    /// Plural name, in paths.
    pub plural: &'static str,
    /// Singular name.
    pub singular: &'static str,
    /// Kind of its objects.
    pub kind: &'static str,
    /// For `kubectl explain`.
    pub description: &'static str,
    /// Whether its objects are in namespaces.
    pub namespaced: bool,
    /// Short names for kubectl.
    pub short_names: &'static [&'static str],
    /// Verbs that are served.
    pub verbs: &'static [&'static str],
    /// Columns of a table after the name.
    pub columns: &'static [Column],
    /// Field selectors beside `metadata.name`.
    pub fields: &'static [&'static str],
    /// Subresources: name, kind, verbs.
    pub subresources: &'static [(&'static str, &'static str, &'static [&'static str])],
}

/// What a list or watch selects.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Namespace or empty.
    pub namespace: String,
    /// Only the object of this name.
    pub name: Option<String>,
    /// Values of the resource's own field selectors.
    pub fields: HashMap<&'static str, String>,
}

/// Objects at one moment, and the version to watch from.
pub struct List {
    pub resource_version: u64,
    pub objects: Vec<Arc<dyn Object>>,
}

/// An object that a client wants to create.
pub struct Create {
    /// Who.
    pub user: User,
    /// Namespace or empty.
    pub namespace: String,
    /// Name in the path; empty unless it is about a subresource.
    pub name: String,
    /// Subresource or empty.
    pub subresource: String,
    pub body: Body,
}

/// A request's body.
pub struct Body {
    pub(crate) content_type: String,
    pub(crate) bytes: Bytes,
}

impl Body {
    pub(crate) fn new(headers: &HeaderMap, bytes: Bytes) -> Self {
        let header = headers.get(axum::http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let media = header.unwrap_or("application/json").split(';').next().unwrap_or_default();
        Self { content_type: media.trim().to_ascii_lowercase(), bytes }
    }

    /// Reads what there is in JSON only.
    ///
    /// # Errors
    /// 415 for another type, 400 for what cannot be read.
    pub fn decode_json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        match self.content_type.as_str() {
            "application/json" => serde_json::from_slice(&self.bytes).map_err(Failure::bad_request),
            other => Err(Failure::unsupported_media_type(other)),
        }
    }

    /// Reads an object in JSON or protobuf.
    ///
    /// # Errors
    /// 415 for another type, 400 for what cannot be read.
    pub fn decode<T: k8s::Object + DeserializeOwned>(&self) -> Result<T, Failure> {
        match self.content_type.as_str() {
            "application/json" => serde_json::from_slice(&self.bytes).map_err(Failure::bad_request),
            k8s::PROTOBUF => {
                let object = k8s::open(self.bytes.clone()).map_err(Failure::bad_request)?;
                object.decode().map_err(Failure::bad_request)
            }
            other => Err(Failure::unsupported_media_type(other)),
        }
    }
}

/// Serves the objects of one resource. Verbs that are not served need no implementation.
pub trait Storage: Send + Sync + 'static {
    /// Whether the objects have a form in protobuf.
    fn has_protobuf(&self) -> bool {
        true
    }

    /// The selected objects.
    ///
    /// # Errors
    /// When they are not known yet.
    fn list(&self, selection: &Selection) -> Result<List, Failure> {
        let _ = selection;
        Err(Failure::method_not_allowed("list", "this resource"))
    }

    /// One object.
    ///
    /// # Errors
    /// There is none of this name, or it is not known yet.
    fn get(&self, namespace: &str, name: &str) -> Result<Arc<dyn Object>, Failure> {
        let _ = (namespace, name);
        Err(Failure::method_not_allowed("get", "this resource"))
    }

    /// One object, where the query says how much of it.
    ///
    /// # Errors
    /// As of [`Self::get`], or the query makes no sense.
    fn get_part(
        &self,
        namespace: &str,
        name: &str,
        query: &HashMap<String, String>,
    ) -> Result<Arc<dyn Object>, Failure> {
        let _ = query;
        self.get(namespace, name)
    }

    /// A subresource of one object.
    ///
    /// # Errors
    /// There is no object of this name.
    fn get_subresource(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
    ) -> Result<Arc<dyn Object>, Failure> {
        let _ = (namespace, name, subresource);
        Err(Failure::method_not_allowed("get", "this subresource"))
    }

    /// Removes an object.
    ///
    /// # Errors
    /// There is none of this name.
    fn delete(&self, name: &str) -> Result<(), Failure> {
        let _ = name;
        Err(Failure::method_not_allowed("delete", "this resource"))
    }

    /// A watch of the selected objects.
    ///
    /// # Errors
    /// When they are not known yet.
    fn watch(&self, selection: &Selection) -> Result<Subscription, Failure> {
        let _ = selection;
        Err(Failure::method_not_allowed("watch", "this resource"))
    }

    /// Takes in an object and returns what to answer.
    ///
    /// # Errors
    /// When it is invalid.
    fn create(&self, create: Create) -> BoxFuture<'_, Result<Arc<dyn Object>, Failure>> {
        let _ = create;
        Box::pin(async { Err(Failure::method_not_allowed("create", "this resource")) })
    }
}
