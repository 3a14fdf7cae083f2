//! Delegated decisions: TokenReview and SubjectAccessReview.

use antrea_runtime::client::describe;
use futures::future::BoxFuture;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{
        NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
    },
};
use kube::{Api, Client, api::PostParams};

use crate::user::{Action, User};

/// The API server could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("{review}: {message}")]
pub struct Error {
    /// Kind of the review.
    pub review: &'static str,
    /// What went wrong.
    pub message: String,
}

/// Asks who a token belongs to and what a user may do.
pub trait Reviewer: Send + Sync {
    /// The token's user, or `None` if the token is not valid.
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, Error>>;

    /// Whether `user` may do `action`; if not, the reason (may be empty).
    fn access<'a>(
        &'a self,
        user: &'a User,
        action: &'a Action,
    ) -> BoxFuture<'a, Result<Result<(), String>, Error>>;
}

/// Asks the Kubernetes API server.
#[derive(Clone)]
pub struct KubeReviewer {
    client: Client,
}

impl KubeReviewer {
    /// `client` has to be bound to ClusterRole `system:auth-delegator` or the same rights.
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Reviewer for KubeReviewer {
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, Error>> {
        Box::pin(async move {
            let review = TokenReview {
                spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
                ..TokenReview::default()
            };
            let answer = Api::all(self.client.clone())
                .create(&PostParams::default(), &review)
                .await
                .map_err(|e| Error { review: "TokenReview", message: describe(&e) })?;
            let Some(status) = answer.status.filter(|s| s.authenticated == Some(true)) else {
                return Ok(None);
            };
            Ok(status.user.and_then(|user| {
                Some(User {
                    name: user.username.filter(|name| !name.is_empty())?,
                    uid: user.uid.unwrap_or_default(),
                    groups: user.groups.unwrap_or_default(),
                    extra: user.extra.unwrap_or_default(),
                })
            }))
        })
    }

    fn access<'a>(
        &'a self,
        user: &'a User,
        action: &'a Action,
    ) -> BoxFuture<'a, Result<Result<(), String>, Error>> {
        Box::pin(async move {
            let review = SubjectAccessReview { spec: spec(user, action), ..SubjectAccessReview::default() };
            let answer = Api::all(self.client.clone())
                .create(&PostParams::default(), &review)
                .await
                .map_err(|e| Error { review: "SubjectAccessReview", message: describe(&e) })?;
            let status = answer.status.unwrap_or_default();
            if status.allowed && status.denied != Some(true) {
                return Ok(Ok(()));
            }
            Ok(Err(status.reason.or(status.evaluation_error).unwrap_or_default()))
        })
    }
}

fn spec(user: &User, action: &Action) -> SubjectAccessReviewSpec {
    let filled = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut spec = SubjectAccessReviewSpec {
        user: Some(user.name.clone()),
        uid: filled(&user.uid),
        groups: (!user.groups.is_empty()).then(|| user.groups.clone()),
        extra: (!user.extra.is_empty()).then(|| user.extra.clone()),
        ..SubjectAccessReviewSpec::default()
    };
    match action {
        Action::Resource { verb, group, version, resource, subresource, namespace, name } => {
            spec.resource_attributes = Some(ResourceAttributes {
                verb: Some((*verb).to_owned()),
                group: filled(group),
                version: filled(version),
                resource: filled(resource),
                subresource: filled(subresource),
                namespace: filled(namespace),
                name: filled(name),
                ..ResourceAttributes::default()
            });
        }
        Action::Path { verb, path } => {
            spec.non_resource_attributes =
                Some(NonResourceAttributes { verb: Some(verb.clone()), path: Some(path.clone()) });
        }
    }
    spec
}
