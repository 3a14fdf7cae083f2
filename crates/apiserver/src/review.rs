//! Delegated decisions: TokenReview and SubjectAccessReview.

use antrea_runtime::client::describe;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::future::BoxFuture;
use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{
        NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
    },
};
use kube::{Api, Client, api::PostParams};
use serde_json::Value;

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
    audience: Option<String>,
}

impl KubeReviewer {
    /// `client` has to be bound to ClusterRole `system:auth-delegator` or the same rights.
    pub fn new(client: Client) -> Self {
        Self { client, audience: None }
    }

    /// Also accepts tokens that are for `audience` and not for the API server.
    #[must_use]
    pub fn for_audience(self, audience: String) -> Self {
        Self { audience: Some(audience), ..self }
    }
}

/// Whether a token says that it is for `audience`. It proves nothing: the API server is then asked whether that is so.
fn is_for(token: &str, audience: &str) -> bool {
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims = claims.and_then(|text| serde_json::from_slice::<Value>(&text).ok()).unwrap_or_default();
    match &claims["aud"] {
        Value::String(one) => one == audience,
        Value::Array(all) => all.iter().any(|one| one == audience),
        _ => false,
    }
}

impl Reviewer for KubeReviewer {
    fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, Error>> {
        Box::pin(async move {
            // Without audiences the question is whether it is for the API server.
            let audience = self.audience.as_deref().filter(|audience| is_for(token, audience));
            let audiences = audience.map(|audience| vec![audience.to_owned()]);
            let review = TokenReview {
                spec: TokenReviewSpec { token: token.to_owned(), audiences },
                ..TokenReview::default()
            };
            let answer = Api::all(self.client.clone())
                .create(&PostParams::default(), &review)
                .await
                .map_err(|e| Error { review: "TokenReview", message: describe(&e) })?;
            let Some(status) = answer.status.filter(|s| s.authenticated == Some(true)) else {
                return Ok(None);
            };
            // An authenticator that knows nothing of audiences names none.
            let named = status.audiences.unwrap_or_default();
            if audience.is_some_and(|audience| !named.iter().any(|one| one == audience)) {
                return Ok(None);
            }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{Json, Router};
    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_names_its_audience() {
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        for (claims, expected) in [
            (r#"{"aud":["antrea-agent/n1"]}"#, true),
            (r#"{"aud":["x","antrea-agent/n1"]}"#, true),
            (r#"{"aud":"antrea-agent/n1"}"#, true),
            (r#"{"aud":["antrea-agent/n10"]}"#, false),
            (r#"{"sub":"antrea-agent/n1"}"#, false),
            ("nonsense", false),
        ] {
            assert_eq!(is_for(&token(claims), "antrea-agent/n1"), expected, "{claims}");
        }
        for opaque in ["", "secret", "a.!!!.b", "antrea-agent/n1"] {
            assert!(!is_for(opaque, "antrea-agent/n1"), "{opaque}");
        }
    }

    /// The API server says yes to whatever audiences it is asked about, or names none.
    async fn reviewed(claims: &str, names_audiences: bool) -> (Value, bool) {
        let asked = Arc::new(Mutex::new(Value::Null));
        let seen = Arc::clone(&asked);
        let answer = async move |Json(mut review): Json<Value>| {
            let audiences = review["spec"]["audiences"].clone();
            *seen.lock() = audiences.clone();
            review["status"] = json!({"authenticated": true, "user": {"username": "u"}});
            if names_audiences {
                review["status"]["audiences"] = audiences;
            }
            Json(review)
        };
        let client = Client::new(Router::new().fallback(answer), "default");
        let reviewer = KubeReviewer::new(client).for_audience("antrea-agent/n1".to_owned());
        let token = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        let accepted = reviewer.token(&token).await.unwrap().is_some();
        (asked.lock().clone(), accepted)
    }

    #[tokio::test]
    async fn only_the_own_audience_is_asked_about_and_has_to_be_confirmed() {
        let own = r#"{"aud":["antrea-agent/n1"]}"#;
        assert_eq!(reviewed(own, true).await, (json!(["antrea-agent/n1"]), true));
        assert_eq!(reviewed(own, false).await, (json!(["antrea-agent/n1"]), false));
        // For anybody else, it is for the API server to say that it is not for the API server.
        let other = r#"{"aud":["antrea-agent/n2"]}"#;
        assert_eq!(reviewed(other, false).await, (Value::Null, true));
    }
}
