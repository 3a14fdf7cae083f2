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
    time::Instant,
};

use http::{HeaderMap, header};
use sha2::{Digest, Sha256};

use crate::{
    budget::Budget,
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

/// Decides who asks and whether they may.
pub struct Auth {
    reviewer: Arc<dyn Reviewer>,
    tokens: Arc<Questions<Option<User>>>,
    access: Arc<Questions<Result<(), String>>>,
    /// By address: nobody knows who sends a token that is none.
    wrong_tokens: Budget<IpAddr>,
    /// By user: those whom the front proxy speaks for share its address.
    denials: Budget<String>,
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

    /// The user behind a request from `address`.
    ///
    /// # Errors
    /// 401 when nothing proves a user, 429 when the address sent too many tokens that are none, 503 when the API
    /// server cannot be asked about a token.
    pub async fn authenticate(
        &self,
        peer: &Proven,
        address: IpAddr,
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
            None => self.review(key, token, address).await?,
        };
        answer.map(with_authenticated).ok_or_else(|| Failure::unauthorized("Unauthorized"))
    }

    /// Asks about a token. One that is none costs the address that sent it.
    async fn review(&self, key: Key, token: &str, address: IpAddr) -> Result<Option<User>, Failure> {
        let address = share(address);
        if !self.wrong_tokens.take(address, Instant::now()) {
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
        if !matches!(answer, Ok(None)) {
            self.wrong_tokens.give_back(&address);
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
                let user_name = user.name.clone();
                if !self.denials.take(user_name.clone(), Instant::now()) {
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
                    self.denials.give_back(user_name.as_str());
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
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use futures::future::BoxFuture;

    use super::*;
    use crate::review;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[derive(Default)]
    struct Fake {
        tokens: AtomicUsize,
        access: AtomicUsize,
        /// Questions that are open now, and the most that were.
        open: AtomicUsize,
        most: AtomicUsize,
    }

    impl Reviewer for Fake {
        fn token<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<User>, review::Error>> {
            self.tokens.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
                self.most.fetch_max(open, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
                self.open.fetch_sub(1, Ordering::Relaxed);
                match token {
                    "good" => Ok(Some(User { name: "agent".into(), ..User::default() })),
                    "down" => Err(review::Error { review: "TokenReview", message: "refused".into() }),
                    _ => Ok(None),
                }
            })
        }

        fn access<'a>(
            &'a self,
            user: &'a User,
            action: &'a Action,
        ) -> BoxFuture<'a, Result<Result<(), String>, review::Error>> {
            self.access.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                let path = matches!(action, Action::Path { path, .. } if path == "/metrics");
                Ok(if path && user.name == "agent" { Ok(()) } else { Err("no rule".into()) })
            })
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[tokio::test]
    async fn tokens_are_reviewed_once_and_bad_ones_refused() {
        let fake = Arc::new(Fake::default());
        let auth = Auth::new(fake.clone());
        let peer = Proven::default();
        for _ in 0..3 {
            let user =
                auth.authenticate(&peer, HERE, &headers(&[("authorization", "Bearer good")])).await.unwrap();
            assert_eq!(user.groups, ["system:authenticated"]);
            let refused = auth.authenticate(&peer, HERE, &headers(&[("authorization", "bearer bad")])).await;
            assert_eq!(refused.unwrap_err().code, 401);
        }
        assert_eq!(fake.tokens.load(Ordering::Relaxed), 2);
        let down =
            auth.authenticate(&peer, HERE, &headers(&[("authorization", "Bearer down")])).await.unwrap_err();
        assert_eq!(down.code, 503);
        for none in [&[][..], &[("authorization", "Basic Zm9v")], &[("authorization", "Bearer ")]] {
            assert_eq!(auth.authenticate(&peer, HERE, &headers(none)).await.unwrap_err().code, 401);
        }
    }

    /// L5: what strangers make the API server do is bounded, and a good token stays known.
    #[tokio::test]
    async fn floods_of_bad_tokens_cost_little_and_nobody_else() {
        let fake = Arc::new(Fake::default());
        let auth = Arc::new(Auth::new(fake.clone()));
        let good = headers(&[("authorization", "Bearer good")]);
        auth.authenticate(&Proven::default(), HERE, &good).await.unwrap();
        assert_eq!(fake.tokens.load(Ordering::Relaxed), 1);
        let send = |address: IpAddr, number: u32| {
            let auth = Arc::clone(&auth);
            async move {
                let mut headers = HeaderMap::new();
                headers.insert("authorization", format!("Bearer bad-{number}").parse().unwrap());
                auth.authenticate(&Proven::default(), address, &headers).await.unwrap_err().code.as_u16()
            }
        };
        let begin = Instant::now();
        let one = IpAddr::from([10, 0, 0, 1]);
        let codes = futures::future::join_all((0..10_000).map(|number| send(one, number))).await;
        assert!(codes.iter().all(|code| [401, 429].contains(code)));
        let asked = fake.tokens.load(Ordering::Relaxed);
        let allowed = 33 + usize::try_from(begin.elapsed().as_millis() / 500).unwrap();
        assert!(asked <= allowed, "{asked} questions for one address, {allowed} are allowed");
        // From as many addresses as one likes: so many at a time, and the others are told to come back.
        let many = (0..10_000_u32).map(|number| send(IpAddr::from(number.to_be_bytes()), 20_000 + number));
        let codes = futures::future::join_all(many).await;
        assert!(codes.contains(&429) && codes.contains(&401));
        assert!(fake.most.load(Ordering::Relaxed) <= 32);
        let before = fake.tokens.load(Ordering::Relaxed);
        if begin.elapsed() < Duration::from_secs(9) {
            auth.authenticate(&Proven::default(), HERE, &good).await.unwrap();
            assert_eq!(fake.tokens.load(Ordering::Relaxed), before, "it was known");
        }
    }

    /// The same for what somebody with a token and no rights asks for.
    #[tokio::test]
    async fn floods_of_what_is_refused_cost_little_and_nobody_else() {
        let fake = Arc::new(Fake::default());
        let auth = Auth::new(fake.clone());
        let tenant = User { name: "tenant".into(), ..User::default() };
        let agent = User { name: "agent".into(), ..User::default() };
        let path = |path: String| Action::Path { verb: "get".into(), path };
        auth.authorize(&agent, &path("/metrics".into())).await.unwrap();
        let begin = Instant::now();
        for number in 0..1000 {
            let code = auth.authorize(&tenant, &path(format!("/{number}"))).await.unwrap_err().code.as_u16();
            assert!([403, 429].contains(&code), "{code}");
        }
        let allowed = 33 + usize::try_from(begin.elapsed().as_millis() / 500).unwrap();
        let asked = fake.access.load(Ordering::Relaxed) - 1;
        assert!(asked <= allowed, "{asked} questions, {allowed} are allowed");
        auth.authorize(&agent, &path("/metrics".into())).await.unwrap();
        assert_eq!(auth.authorize(&agent, &path("/other".into())).await.unwrap_err().code, 403);
    }

    #[tokio::test]
    async fn the_same_question_is_put_once() {
        let fake = Arc::new(Fake::default());
        let auth = Auth::new(fake.clone());
        let good = headers(&[("authorization", "Bearer good")]);
        let peer = Proven::default();
        let answers = futures::future::join_all((0..20).map(|_| auth.authenticate(&peer, HERE, &good))).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(fake.tokens.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn forwarded_headers_count_only_on_the_proxys_connection() {
        let auth = Auth::new(Arc::new(Fake::default()));
        let sent = headers(&[
            ("x-remote-user", "alice"),
            ("x-remote-group", "dev"),
            ("x-remote-group", "ops"),
            ("x-remote-extra-acme.com%2fproject", "p1"),
        ]);
        assert_eq!(auth.authenticate(&Proven::default(), HERE, &sent).await.unwrap_err().code, 401);
        let own = User { name: "bob".into(), ..User::default() };
        let bob = Proven { user: Some(own), front_proxy: None };
        assert_eq!(auth.authenticate(&bob, HERE, &sent).await.unwrap().name, "bob");

        let trust = ClientTrust {
            username_headers: vec!["X-Remote-User".into()],
            group_headers: vec!["X-Remote-Group".into()],
            extra_prefixes: vec!["X-Remote-Extra-".into()],
            ..ClientTrust::default()
        };
        let proxy = Proven { front_proxy: Some(Arc::new(trust)), user: None };
        let alice = auth.authenticate(&proxy, HERE, &sent).await.unwrap();
        assert_eq!(
            (alice.name.as_str(), alice.groups.join(",")),
            ("alice", "dev,ops,system:authenticated".to_owned())
        );
        assert_eq!(alice.extra["acme.com/project"], ["p1"]);
        let anonymous =
            headers(&[("x-remote-user", "system:anonymous"), ("x-remote-group", "system:unauthenticated")]);
        let nobody = auth.authenticate(&proxy, HERE, &anonymous).await.unwrap();
        assert_eq!(nobody.groups, ["system:unauthenticated"]);
        // The proxy itself, without a user to speak for, is nobody.
        assert_eq!(auth.authenticate(&proxy, HERE, &HeaderMap::new()).await.unwrap_err().code, 401);
    }

    #[tokio::test]
    async fn access_is_asked_once_and_masters_are_not_asked_for() {
        let fake = Arc::new(Fake::default());
        let auth = Auth::new(fake.clone());
        let path = |path: &str| Action::Path { verb: "get".into(), path: path.into() };
        let agent = User { name: "agent".into(), ..User::default() };
        for _ in 0..3 {
            auth.authorize(&agent, &path("/metrics")).await.unwrap();
            let denied = auth.authorize(&agent, &path("/loglevel")).await.unwrap_err();
            assert_eq!(denied.code, 403);
            assert_eq!(denied.message, "user \"agent\" cannot get path \"/loglevel\": no rule");
        }
        let root = User { name: "x".into(), groups: vec![MASTERS.into()], ..User::default() };
        auth.authorize(&root, &path("/loglevel")).await.unwrap();
        assert_eq!(fake.access.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn the_local_token_is_secret_and_means_root() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("apiserver/loopback-client-token");
        let old = local_token(&path).unwrap();
        let token = local_token(&path).unwrap();
        assert!(old != token && token.len() == 64);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), token);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let auth = Auth::new(Arc::new(Fake::default())).with_local_token(&token);
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        let user = auth.authenticate(&Proven::default(), HERE, &headers).await.unwrap();
        auth.authorize(&user, &Action::Path { verb: "put".into(), path: "/loglevel".into() }).await.unwrap();
        headers.insert("authorization", format!("Bearer {old}").parse().unwrap());
        assert_eq!(auth.authenticate(&Proven::default(), HERE, &headers).await.unwrap_err().code, 401);
    }

    #[test]
    fn percent_decoding_leaves_what_is_no_escape() {
        assert_eq!(percent_decode("a%2Fb"), "a/b");
        assert_eq!(percent_decode("100%"), "100%");
        assert_eq!(percent_decode("%zz%41"), "%zzA");
        assert_eq!(percent_decode("%ff"), "%ff");
    }
}
