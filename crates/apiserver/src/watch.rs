//! The body of a watch response.

use std::{collections::HashSet, sync::Arc, time::Duration};

use antrea_api::k8s::{EventType, ObjectMeta, frame, seal};
use bytes::Bytes;
use futures::Stream;
use prost::Message;
use serde_json::json;

use crate::{
    hub::Subscription,
    metrics::OpenWatch,
    object::{Encoding, Item},
    selector::Labels,
    storage::Resource,
};

/// A watch without a timeout ends after this, plus up to as long again at random: a client that comes
/// back has healed whatever may have gone wrong. No client gets more than twice this, whatever it asks for.
const LIFETIME: Duration = Duration::from_secs(2 * 3600);

/// A watch that is about to be sent.
pub(crate) struct Watch {
    pub(crate) subscription: Subscription,
    pub(crate) labels: Labels,
    pub(crate) encoding: Encoding,
    pub(crate) bookmark: Bytes,
    pub(crate) timeout: Option<Duration>,
    pub(crate) _open: OpenWatch,
}

enum Phase {
    Snapshot(std::vec::IntoIter<Arc<Item>>),
    Events,
}

/// Names of the objects that a watch by label was shown: a patch, or what is left of a deleted object, has no
/// labels to be told by.
#[derive(Default)]
struct Shown(HashSet<String>);

impl Shown {
    fn passes(&mut self, labels: &Labels, item: &Item) -> bool {
        let metadata = item.object().metadata();
        match item.kind() {
            _ if labels.is_empty() => true,
            EventType::Added => {
                let selected = labels.match_all(&metadata.labels);
                if selected {
                    self.0.insert(metadata.name.clone());
                }
                selected
            }
            EventType::Deleted => self.0.remove(&metadata.name),
            _ => self.0.contains(&metadata.name),
        }
    }
}

impl Watch {
    /// The initial set, the bookmark, then what changes. Ends at the timeout, when the watcher falls
    /// behind and when the hub is closed.
    pub(crate) fn into_stream(
        mut self,
    ) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> + Send {
        let snapshot = std::mem::take(&mut self.subscription.snapshot);
        let at_random = || LIFETIME + antrea_runtime::backoff::spread(LIFETIME);
        // The clock cannot tell a time as far away as a client may ask for.
        let lifetime = self.timeout.map_or_else(at_random, |asked| asked.min(2 * LIFETIME));
        let end = tokio::time::Instant::now() + lifetime;
        let begin = (self, Shown::default(), Phase::Snapshot(snapshot.into_iter()));
        futures::stream::unfold(begin, move |(mut watch, mut shown, phase)| async move {
            let encoding = watch.encoding;
            let (bytes, phase) = match phase {
                Phase::Snapshot(mut items) => match items.find(|item| shown.passes(&watch.labels, item)) {
                    Some(item) => (item.bytes(encoding), Phase::Snapshot(items)),
                    None => (std::mem::take(&mut watch.bookmark), Phase::Events),
                },
                Phase::Events => {
                    let item = loop {
                        let next = tokio::time::timeout_at(end, watch.subscription.next()).await.ok()??;
                        if shown.passes(&watch.labels, &next) {
                            break next;
                        }
                    };
                    (item.bytes(encoding), Phase::Events)
                }
            };
            Some((Ok(bytes), (watch, shown, phase)))
        })
    }
}

/// The event that ends the initial set: an object of the resource's kind with nothing but metadata.
pub(crate) fn bookmark(resource: &Resource, metadata: ObjectMeta, encoding: Encoding) -> Bytes {
    #[derive(Clone, PartialEq, Message)]
    struct Empty {
        #[prost(message, required, tag = "1")]
        metadata: ObjectMeta,
    }
    let kind = EventType::Bookmark;
    let object = match encoding {
        Encoding::Protobuf => {
            return frame(kind, &seal(resource.api_version, resource.kind, &Empty { metadata }));
        }
        Encoding::Json => {
            json!({ "kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata })
        }
        Encoding::Table => json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1",
            "metadata": { "resourceVersion": metadata.resource_version },
            "columnDefinitions": [],
            "rows": [{ "cells": [], "object":
                { "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata } }],
        }),
    };
    format!("{}\n", json!({ "type": kind.as_str(), "object": object })).into()
}
