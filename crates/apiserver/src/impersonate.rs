//! `Impersonate-*` headers: whom a user wants to be taken for, and whether he may.

use http::HeaderMap;

use crate::{
    auth::Auth,
    request::percent_decode,
    status::Failure,
    user::{Action, User},
};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";

/// The user that the headers name, if `user` may impersonate each part of it; `user` itself without such headers.
///
/// # Errors
/// 400 for headers that name no user, 403 for a part that `user` may not impersonate, 503 when the API server cannot
/// be asked.
pub(crate) async fn impersonated(auth: &Auth, user: User, headers: &HeaderMap) -> Result<User, Failure> {
    let Some(wanted) = wanted(headers)? else { return Ok(user) };
    for action in actions(&wanted) {
        auth.authorize(&user, &action).await?;
    }
    tracing::debug!(user = user.name, impersonated = wanted.name, "acts as somebody else");
    Ok(with_groups(wanted))
}

/// Whom the headers name, exactly as they do.
fn wanted(headers: &HeaderMap) -> Result<Option<User>, Failure> {
    let mut user = User::default();
    let mut any = false;
    for (name, value) in headers {
        let name = name.as_str();
        if !name.starts_with("impersonate-") {
            continue;
        }
        let unreadable = || Failure::bad_request(format_args!("header {name} is not text"));
        let value = value.to_str().map_err(|_| unreadable())?.to_owned();
        any = true;
        match name {
            USER if user.name.is_empty() => user.name = value,
            UID if user.uid.is_empty() => user.uid = value,
            GROUP => user.groups.push(value),
            USER | UID => return Err(Failure::bad_request(format_args!("header {name} is there twice"))),
            _ => match name.strip_prefix(EXTRA) {
                Some(key) => user.extra.entry(percent_decode(key)).or_default().push(value),
                // A header that is ignored would give the answer to another question.
                None => return Err(Failure::bad_request(format_args!("header {name} is not known"))),
            },
        }
    }
    if any && user.name.is_empty() {
        return Err(Failure::bad_request("groups, UID or extra are to be impersonated without a user"));
    }
    Ok(any.then_some(user))
}

/// What has to be allowed for each part of `user`.
fn actions(user: &User) -> Vec<Action> {
    let authentication = "authentication.k8s.io";
    let part =
        |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| Action::Resource {
            verb: "impersonate",
            group: group.to_owned(),
            version: "v1".to_owned(),
            resource: resource.to_owned(),
            subresource: subresource.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
    let mut actions = vec![match service_account(&user.name) {
        Some((namespace, name)) => part("", "serviceaccounts", "", namespace, name),
        None => part("", "users", "", "", &user.name),
    }];
    if !user.uid.is_empty() {
        actions.push(part(authentication, "uids", "", "", &user.uid));
    }
    actions.extend(user.groups.iter().map(|group| part("", "groups", "", "", group)));
    for (key, values) in &user.extra {
        actions.extend(values.iter().map(|value| part(authentication, "userextras", key, "", value)));
    }
    actions
}

fn service_account(name: &str) -> Option<(&str, &str)> {
    let (namespace, name) = name.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

/// Adds the groups that the user would have had.
fn with_groups(mut user: User) -> User {
    if user.groups.is_empty()
        && let Some((namespace, _)) = service_account(&user.name)
    {
        user.groups =
            vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    let known = ["system:authenticated", "system:unauthenticated"];
    if !user.groups.iter().any(|group| known.contains(&group.as_str())) {
        let anonymous = user.name == "system:anonymous";
        user.groups.push(known[usize::from(anonymous)].to_owned());
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn every_part_has_to_be_allowed() {
        let sent = [
            ("impersonate-user", "system:serviceaccount:kube-system:antctl"),
            ("impersonate-uid", "7"),
            ("impersonate-group", "dev"),
            ("impersonate-extra-acme.io%2fproject", "p"),
        ];
        let user = wanted(&headers(&sent)).unwrap().unwrap();
        let asked: Vec<_> = actions(&user)
            .into_iter()
            .map(|action| match action {
                Action::Resource {
                    verb: "impersonate",
                    group,
                    resource,
                    subresource,
                    namespace,
                    name,
                    ..
                } => [group, resource, subresource, namespace, name].join(" "),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            asked,
            [
                " serviceaccounts  kube-system antctl",
                "authentication.k8s.io uids   7",
                " groups   dev",
                "authentication.k8s.io userextras acme.io/project  p"
            ]
        );
    }

    #[test]
    fn groups_follow_from_the_user() {
        let groups = |sent: &[(&'static str, &'static str)]| {
            with_groups(wanted(&headers(sent)).unwrap().unwrap()).groups.join(",")
        };
        assert_eq!(groups(&[("impersonate-user", "bob")]), "system:authenticated");
        assert_eq!(groups(&[("impersonate-user", "system:anonymous")]), "system:unauthenticated");
        assert_eq!(
            groups(&[("impersonate-user", "system:serviceaccount:a:b")]),
            "system:serviceaccounts,system:serviceaccounts:a,system:authenticated"
        );
        let both = [("impersonate-user", "system:serviceaccount:a:b"), ("impersonate-group", "dev")];
        assert_eq!(groups(&both), "dev,system:authenticated");
    }

    #[test]
    fn headers_that_name_nobody_are_refused() {
        assert_eq!(wanted(&headers(&[("x", "y")])).unwrap(), None);
        for sent in [
            &[("impersonate-group", "system:masters")][..],
            &[("impersonate-uid", "7")],
            &[("impersonate-extra-a", "b")],
            &[("impersonate-user", "")],
            &[("impersonate-user", "bob"), ("impersonate-role", "admin")],
            &[("impersonate-user", "bob"), ("impersonate-user", "eve")],
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in sent {
                map.append(*name, value.parse().unwrap());
            }
            assert_eq!(wanted(&map).unwrap_err().code, 400, "{sent:?}");
        }
    }
}
