//! Whose a token is, and who may do what.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Target;

/// The user whom every review of access refuses.
pub const NOBODY: &str = "nobody";

/// The answer to a TokenRequest: claims that nobody has signed.
pub(super) fn issue(mut request: Value, target: &Target) -> Value {
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let user = format!("system:serviceaccount:{namespace}:{}", target.name.as_deref().unwrap_or_default());
    let claims = json!({"sub": user, "aud": request["spec"]["audiences"]});
    let token = format!("lab.{}.none", URL_SAFE_NO_PAD.encode(claims.to_string()));
    request["status"] = json!({"token": token});
    request
}

/// The status of a token of [`issue`], if it is one.
fn issued(token: &str, wanted: &Value) -> Option<Value> {
    let claims = URL_SAFE_NO_PAD.decode(token.strip_prefix("lab.")?.strip_suffix(".none")?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    // A token for somebody else is none for the API server.
    let good = wanted.is_array() && claims["aud"] == *wanted;
    Some(json!({"authenticated": good, "user": {"username": claims["sub"]}, "audiences": wanted}))
}

/// The answer to a TokenReview or SubjectAccessReview.
pub(super) fn review(mut review: Value) -> Value {
    let spec = &review["spec"];
    let status = if let Some(status) = spec["token"].as_str().and_then(|t| issued(t, &spec["audiences"])) {
        status
    } else if spec["token"].is_string() {
        match spec["token"].as_str().and_then(|token| token.strip_prefix("lab-")) {
            Some(user) => match user.split_once('@') {
                Some((user, node)) => {
                    let extra = json!({"authentication.kubernetes.io/node-name": [node]});
                    json!({"authenticated": true, "user": {"username": user, "extra": extra}})
                }
                None => json!({"authenticated": true, "user": {"username": user}}),
            },
            None => json!({"authenticated": false}),
        }
    } else {
        json!({"allowed": spec["user"] != NOBODY})
    };
    review["status"] = status;
    review
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reviews_tokens_and_access() {
        let token = |token| review(json!({"spec": {"token": token}}))["status"].clone();
        assert_eq!(token("lab-agent")["user"]["username"], "agent");
        let bound = token("lab-agent@n1");
        assert_eq!(bound["user"]["extra"]["authentication.kubernetes.io/node-name"], json!(["n1"]));
        assert_eq!(token("other"), json!({"authenticated": false}));
        let access = |user| review(json!({"spec": {"user": user}}))["status"]["allowed"].clone();
        // A token for one audience is none for another, and none for the API server.
        let target = Target::parse("/api/v1/namespaces/a/serviceaccounts/b/token").unwrap();
        let made = issue(json!({"spec": {"audiences": ["x"]}}), &target)["status"]["token"].clone();
        let good = |audiences: Value| {
            review(json!({"spec": {"token": made, "audiences": audiences}}))["status"].clone()
        };
        assert_eq!(good(json!(["x"]))["user"]["username"], "system:serviceaccount:a:b");
        assert_eq!(
            [good(json!(["y"])), good(Value::Null)].map(|s| s["authenticated"].clone()),
            [json!(false), json!(false)]
        );
        assert_eq!((access("agent"), access(NOBODY)), (json!(true), json!(false)));
    }
}
