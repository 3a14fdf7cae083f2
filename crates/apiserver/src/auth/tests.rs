use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures::future::BoxFuture;

use super::*;
use crate::review;

const HERE: Origin = Origin { address: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), known: false };

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
            auth.authenticate(&Proven::default(), Origin::new(address, false), &headers)
                .await
                .unwrap_err()
                .code
                .as_u16()
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

/// An agent shares its node's address with the node's pods, and its token with nobody.
#[tokio::test]
async fn floods_of_bad_tokens_do_not_lock_out_who_shares_the_address() {
    let fake = Arc::new(Fake::default());
    // Answers are forgotten at once.
    let tokens = Questions::kept_for(Duration::ZERO, Option::is_some);
    let auth = Auth { tokens, ..Auth::new(fake.clone()) };
    let send = async |origin: Origin, token: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        auth.authenticate(&Proven::default(), origin, &headers).await.map_err(|refused| refused.code)
    };
    let node = IpAddr::from([10, 0, 0, 1]);
    let [stranger, agent] = [false, true].map(|known| Origin::new(node, known));
    send(stranger, "good").await.unwrap();
    // Until none is left, though one comes back from time to time.
    let exhaust = async |origin: Origin| {
        let mut number = 0;
        while send(origin, &format!("bad-{number}")).await != Err(http::StatusCode::TOO_MANY_REQUESTS) {
            number += 1;
        }
    };
    exhaust(stranger).await;
    let asked = fake.tokens.load(Ordering::Relaxed);
    send(stranger, "good").await.unwrap();
    assert_eq!(fake.tokens.load(Ordering::Relaxed), asked + 1, "it is asked about all the same");
    // A token that is new comes on the connection that the old one has opened.
    assert_eq!(send(agent, "bad").await, Err(http::StatusCode::UNAUTHORIZED));
    exhaust(agent).await;
}

/// The agents of all nodes are one user.
#[tokio::test]
async fn floods_of_one_agent_do_not_lock_out_the_others() {
    let auth = Auth::new(Arc::new(Fake::default()));
    let on = |node: &str| {
        let extra = [("authentication.kubernetes.io/node-name".to_owned(), vec![node.to_owned()])].into();
        User { name: "agent".into(), extra, ..User::default() }
    };
    let path = |path: String| Action::Path { verb: "get".into(), path };
    let mut number = 0;
    let refused = loop {
        let refused = auth.authorize(&on("a"), &path(format!("/{number}"))).await.unwrap_err();
        if refused.code != 403 {
            break refused;
        }
        number += 1;
    };
    assert_eq!(refused.code, 429);
    auth.authorize(&on("b"), &path("/metrics".into())).await.unwrap();
    // Whatever else a token says makes it no other user.
    let mut again = on("a");
    again.extra.insert("authentication.kubernetes.io/credential-id".into(), vec!["x".into()]);
    let mut codes = Vec::new();
    for number in 0..5 {
        codes.push(auth.authorize(&again, &path(format!("/again-{number}"))).await.unwrap_err().code);
    }
    assert!(codes.iter().any(|code| *code == 429), "{codes:?}");
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
