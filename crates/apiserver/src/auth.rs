//! Authentication and authorization of a request, with short-lived caches.
//!
//! Order of authentication: front proxy, client certificate, bearer token. There is no anonymous user:
//! a request that proves nothing is refused without a question to the API server.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::{self, Write},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use crate::{
    budget::Budget,
    cache::TtlCache,
    questions::{Key, Questions},
    request::percent_decode,
    review::Reviewer,
    seats::share,
    status::Failure,
    tls::{ClientTrust, Proven},
    user::{Action, User},
};

/// Group that may do everything in every Kubernetes API server.
const MASTERS: &str = "system:masters";

/// How long it is remembered that a token was good: as long as an agent uses one.
const GOOD_FOR: Duration = Duration::from_secs(3600);
/// Such tokens that are remembered.
const GOOD: usize = 32_768;

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    address: IpAddr,
    /// Whether an earlier request on the connection was allowed.
    known: bool,
}

impl Origin {
    pub(crate) fn new(address: IpAddr, known: bool) -> Self {
        Self { address: share(address), known }
    }
}

/// Decides who asks and whether they may.
pub struct Auth {
    reviewer: Arc<dyn Reviewer>,
    tokens: Arc<Questions<Option<User>>>,
    access: Arc<Questions<Result<(), String>>>,
    /// By address: nobody knows who sends a token that is none. Behind the address of a node there are its agent and,
    /// by masquerade, its pods; what comes on a connection that has proved something is counted apart.
    wrong_tokens: Budget<Origin>,
    /// Tokens that were good lately are no guesses. This lets nobody in: they are asked about like all others.
    good_tokens: TtlCache<Key, ()>,
    /// By user, for those whom the front proxy speaks for share its address, and by node, for the agents of all nodes
    /// are one user.
    denials: Budget<(String, String)>,
    /// Digest of the token of tools in the same Pod.
    local: Option<Key>,
}

impl Auth {
    /// Delegates to `reviewer`.
    pub fn new(reviewer: Arc<dyn Reviewer>) -> Self {
        Self {
            reviewer,
            tokens: Questions::new(Option::is_some),
            access: Questions::new(Result::is_ok),
            wrong_tokens: Budget::default(),
            good_tokens: TtlCache::new(GOOD, GOOD_FOR),
            denials: Budget::default(),
            local: None,
        }
    }

    /// Also accepts `token`, for tools in the same Pod, which may do everything.
    #[must_use]
    pub fn with_local_token(mut self, token: &str) -> Self {
        self.local = Some(Sha256::digest(token.as_bytes()).into());
        self
    }

    /// The user behind a request from `origin`.
    ///
    /// # Errors
    /// 401 when nothing proves a user, 429 when it sent too many tokens that are none, 503 when the API
    /// server cannot be asked about a token.
    pub(crate) async fn authenticate(
        &self,
        peer: &Proven,
        origin: Origin,
        headers: &HeaderMap,
    ) -> Result<User, Failure> {
        if let Some(trust) = &peer.front_proxy
            && let Some(user) = forwarded(trust, headers)
        {
            return Ok(with_authenticated(user));
        }
        if let Some(user) = &peer.user {
            return Ok(with_authenticated(user.clone()));
        }
        let Some(token) = bearer(headers) else {
            return Err(Failure::unauthorized("Unauthorized"));
        };
        // Digests are compared, so that time tells nothing of the token.
        let key: Key = Sha256::digest(token.as_bytes()).into();
        if self.local == Some(key) {
            let groups = vec![MASTERS.to_owned()];
            return Ok(User { name: "system:apiserver".to_owned(), groups, ..User::default() });
        }
        let answer = match self.tokens.known(&key) {
            Some(answer) => answer,
            None => self.review(key, token, origin).await?,
        };
        answer.map(with_authenticated).ok_or_else(|| Failure::unauthorized("Unauthorized"))
    }

    /// Asks about a token. One that is none costs the address that sent it.
    async fn review(&self, key: Key, token: &str, origin: Origin) -> Result<Option<User>, Failure> {
        let guess = self.good_tokens.get(&key).is_none();
        if guess && !self.wrong_tokens.take(origin, Instant::now()) {
            return Err(Failure::too_many_requests("too many invalid tokens"));
        }
        let (reviewer, token) = (Arc::clone(&self.reviewer), token.to_owned());
        let question = async move {
            reviewer.token(&token).await.map_err(|error| {
                tracing::warn!(%error, "a token could not be checked");
                Failure::unavailable("the token could not be checked")
            })
        };
        let answer = self.tokens.ask(key, question).await;
        if guess && !matches!(answer, Ok(None)) {
            self.wrong_tokens.give_back(&origin);
        }
        if matches!(answer, Ok(Some(_))) {
            self.good_tokens.insert(key, ());
        }
        answer
    }

    /// Whether `user` may do `action`.
    ///
    /// # Errors
    /// 403 when not, 429 when too much of what the user asked for was refused, 503 when the API server cannot be asked.
    pub async fn authorize(&self, user: &User, action: &Action) -> Result<(), Failure> {
        if user.groups.iter().any(|group| group == MASTERS) {
            return Ok(());
        }
        let key = access_key(user, action);
        let answer = match self.access.known(&key) {
            Some(answer) => answer,
            None => {
                let who = (user.name.clone(), user.node().unwrap_or_default().to_owned());
                if !self.denials.take(who.clone(), Instant::now()) {
                    return Err(Failure::too_many_requests("too many requests of this user were refused"));
                }
                let (reviewer, user, action) = (Arc::clone(&self.reviewer), user.clone(), action.clone());
                let question = async move {
                    reviewer.access(&user, &action).await.map_err(|error| {
                        tracing::warn!(%error, user = user.name, "access could not be checked");
                        Failure::unavailable("access could not be checked")
                    })
                };
                let answer = self.access.ask(key, question).await;
                if !matches!(answer, Ok(Err(_))) {
                    self.denials.give_back(&who);
                }
                answer?
            }
        };
        answer.map_err(|reason| Failure::forbidden(denial(user, action, &reason)))
    }
}

/// Makes a token for [`Auth::with_local_token`] and leaves it at `path`, readable by this user only.
///
/// # Errors
/// The file cannot be written, or the system has no randomness.
pub fn local_token(path: &Path) -> io::Result<String> {
    let mut random = [0; 32];
    let provider = rustls::crypto::ring::default_provider();
    provider.secure_random.fill(&mut random).map_err(|_| io::Error::other("no randomness"))?;
    let token: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    // Made anew, so that the mode is ours whatever was there.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(token.as_bytes())?;
    Ok(token)
}

/// The user that the front proxy speaks for.
fn forwarded(trust: &ClientTrust, headers: &HeaderMap) -> Option<User> {
    let first = |names: &[String]| {
        names
            .iter()
            .find_map(|name| headers.get(name)?.to_str().ok().filter(|v| !v.is_empty()).map(str::to_owned))
    };
    let name = first(&trust.username_headers)?;
    let groups = trust
        .group_headers
        .iter()
        .flat_map(|name| headers.get_all(name))
        .filter_map(|value| value.to_str().ok().map(str::to_owned))
        .collect();
    let mut extra = BTreeMap::<String, Vec<String>>::new();
    for prefix in &trust.extra_prefixes {
        let prefix = prefix.to_ascii_lowercase();
        for (name, value) in headers {
            if let Some(key) = name.as_str().strip_prefix(&prefix)
                && let Ok(value) = value.to_str()
            {
                // Keys are percent-encoded in header names.
                extra.entry(percent_decode(key)).or_default().push(value.to_owned());
            }
        }
    }
    Some(User { name, uid: String::new(), groups, extra })
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Adds the group that every authenticated user is in, as all Kubernetes API servers do. The front proxy
/// may speak for the anonymous user, who is not.
fn with_authenticated(mut user: User) -> User {
    let known = ["system:authenticated", "system:unauthenticated"];
    if user.name != "system:anonymous" && !user.groups.iter().any(|group| known.contains(&group.as_str())) {
        user.groups.push(known[0].to_owned());
    }
    user
}

fn access_key(user: &User, action: &Action) -> Key {
    // Debug output quotes every string, so two different requests never look the same.
    Sha256::digest(format!("{user:?}{action:?}").as_bytes()).into()
}

fn denial(user: &User, action: &Action, reason: &str) -> String {
    let what = match action {
        Action::Resource { verb, group, resource, subresource, namespace, name, .. } => {
            let name = if name.is_empty() { String::new() } else { format!(" {name:?}") };
            let sub = if subresource.is_empty() { String::new() } else { format!("/{subresource}") };
            let scope = if namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {namespace:?}")
            };
            format!("{verb} resource \"{resource}{sub}\"{name} in API group {group:?} {scope}")
        }
        Action::Path { verb, path } => format!("{verb} path {path:?}"),
    };
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    format!("user {:?} cannot {what}{reason}", user.name)
}

#[cfg(test)]
mod tests;
