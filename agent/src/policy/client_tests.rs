use antrea_api::controlplane::GroupEvent;
use antrea_api::k8s::{self, Status};
use bytes::BufMut;

use super::super::fake::{Fake, eventually};
use super::*;
use antrea_enforce::testing::{address_group, address_patch, applied_to_group, damaged, member, policy};

struct Running {
    target: watch::Sender<Target>,
    updates: mpsc::Receiver<Update>,
    session: watch::Receiver<Option<Session>>,
    renew: Arc<Notify>,
    _token: tempfile::NamedTempFile,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn quick() -> Timing {
    Timing {
        connect: Duration::from_secs(2),
        answer: Duration::from_secs(2),
        list: Duration::from_secs(2),
        retry_min: Duration::from_millis(10),
        retry_max: Duration::from_millis(40),
        spread: Duration::from_millis(1),
        ..Timing::default()
    }
}

fn run(target: Target) -> Running {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "secret\n").unwrap();
    let (updates, queue) = mpsc::channel(QUEUE);
    let target = watch::Sender::new(target);
    let (session, sessions) = watch::channel(None);
    let renew = Arc::new(Notify::new());
    let identity =
        Identity { node: "n1".into(), namespace: "kube-system".into(), token: token.path().to_owned() };
    let client = Client {
        identity: Arc::new(identity),
        timing: Arc::new(quick()),
        target: target.subscribe(),
        updates,
        session,
        renew: renew.clone(),
    };
    let task = tokio::spawn(client.run());
    Running { target, updates: queue, session: sessions, renew, _token: token, task }
}

impl Running {
    async fn next(&mut self) -> Update {
        timeout(Duration::from_secs(10), self.updates.recv()).await.unwrap().unwrap()
    }

    /// Everything up to the last of three bookmarks.
    async fn list(&mut self) -> Vec<Update> {
        let (mut seen, mut bookmarks) = (Vec::new(), 0);
        while bookmarks < 3 {
            let update = self.next().await;
            bookmarks +=
                usize::from(matches!(&update, Update::Event(_, event, _) if **event == Event::Bookmark));
            seen.push(update);
        }
        seen
    }

    async fn down(&mut self) -> String {
        loop {
            if let Update::Down(error) = self.next().await {
                return error.to_string();
            }
        }
    }

    /// The next event that is no bookmark.
    async fn event(&mut self) -> Event {
        loop {
            match self.next().await {
                Update::Event(_, event, _) if *event == Event::Bookmark => {}
                Update::Event(_, event, _) => return *event,
                Update::Down(error) => panic!("{error}"),
                _ => {}
            }
        }
    }
}

fn objects() -> [Event; 3] {
    [
        applied_to_group("a", &["p"]),
        address_group("g", vec![member("x", &["10.0.0.1"])]),
        Event::Policy(policy("P", 1, "a", &["g"])),
    ]
}

#[tokio::test]
async fn lists_watches_and_shows_its_token() {
    let fake = Fake::start(objects()).await;
    let mut client = run(fake.target());
    let seen = client.list().await;
    assert!(seen[..3].iter().all(|update| matches!(update, Update::Begin(_))), "{seen:?}");
    assert_eq!(seen.iter().filter(|update| matches!(update, Update::Up)).count(), 1);
    let events: Vec<_> = seen.iter().filter(|update| matches!(update, Update::Event(..))).collect();
    assert_eq!(events.len(), 6);
    {
        let script = fake.script.lock();
        assert_eq!(script.seen.len(), 3);
        for (query, token) in &script.seen {
            assert!(query.contains("watch=true") && query.contains("fieldSelector=nodeName%3Dn1"), "{query}");
            assert_eq!(token.as_deref(), Some("Bearer secret"));
        }
    }
    let patch = address_patch("g", vec![], vec![member("y", &["10.0.0.2"])]);
    fake.send(&patch);
    assert_eq!(client.event().await, patch);
    fake.send(&Event::PolicyDeleted("P".into()));
    assert_eq!(client.event().await, Event::PolicyDeleted("P".into()));

    let session = client.session.borrow().clone().unwrap();
    let status = antrea_api::controlplane::NetworkPolicyStatus::default();
    let path = "/apis/controlplane.antrea.io/v1beta2/networkpolicies//status";
    session.post(path, k8s::Object::seal(&status)).await.unwrap();
    assert_eq!(fake.script.lock().posts.len(), 1);
    fake.script.lock().refuse = Some(StatusCode::FORBIDDEN);
    let error = session.post(path, k8s::Object::seal(&status)).await.unwrap_err().to_string();
    assert!(error.contains("403") && error.contains("not today"), "{error}");
}

#[tokio::test]
async fn comes_back_with_one_list_after_a_cut() {
    let fake = Fake::start(objects()).await;
    let mut client = run(fake.target());
    client.list().await;
    for n in 2..5 {
        fake.cut();
        client.down().await;
        let seen = client.list().await;
        assert!(matches!(seen[0], Update::Begin(_)));
        assert!(fake.script.lock().watches.values().all(|count| *count == n), "lists once");
    }
}

#[tokio::test]
async fn a_watch_that_ends_is_opened_again_alone() {
    let fake = Fake::start(objects()).await;
    let mut client = run(fake.target());
    client.list().await;
    fake.end(Kind::AddressGroups);
    loop {
        match client.next().await {
            Update::Begin(kind) => break assert_eq!(kind, Kind::AddressGroups),
            Update::Up => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(client.event().await, Event::AddressGroup(GroupEvent::Added(_))));
    let watches = fake.script.lock().watches.clone();
    assert_eq!(watches, [("addressgroups", 2), ("appliedtogroups", 1), ("networkpolicies", 1)].into());
}

#[tokio::test]
async fn a_wrong_ca_or_name_is_refused_and_a_right_one_helps_at_once() {
    let fake = Fake::start(objects()).await;
    let other = apiserver_kit::cert::ServingCert::issue("x", &["antrea.kube-system.svc".to_owned()]).unwrap();
    let mut client = run(Target { ca: other.ca.as_str().into(), ..fake.target() });
    let error = client.down().await;
    assert!(error.contains("certificate"), "{error}");
    assert!(fake.script.lock().seen.is_empty(), "nothing is sent to a stranger");
    client.target.send_replace(Target { ca: "junk".into(), ..fake.target() });
    while !client.down().await.contains("CA is not published") {}
    client.target.send_replace(Target { endpoints: Vec::new(), ..fake.target() });
    while !client.down().await.contains("no ready endpoint") {}
    client.target.send_replace(fake.target());
    client.list().await;

    let mut config = run(fake.target());
    drop(config.list().await);
    let mut elsewhere = Client {
        identity: Arc::new(Identity {
            node: "n".into(),
            namespace: "other".into(),
            token: PathBuf::from("/nonexistent"),
        }),
        timing: Arc::new(quick()),
        target: watch::Sender::new(fake.target()).subscribe(),
        updates: mpsc::channel(QUEUE).0,
        session: watch::Sender::new(None),
        renew: Arc::new(Notify::new()),
    };
    let error = elsewhere.session(0, &AtomicUsize::new(0)).await.unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn changes_of_ca_and_endpoint_and_requests_for_a_new_list_renew_the_session() {
    let (fake, other) = (Fake::start(objects()).await, Fake::start(objects()).await);
    let mut client = run(fake.target());
    client.list().await;
    // The same endpoint under a bundle of two CAs, as during a rotation.
    let bundle: Arc<str> = format!("{}{}", other.cert.ca, fake.cert.ca).into();
    client.target.send_replace(Target { ca: bundle.clone(), ..fake.target() });
    assert!(client.down().await.contains("CA changed"));
    client.list().await;
    // An endpoint more is no reason; nor is none at all, while the connection works.
    let both = vec![fake.address, other.address];
    client.target.send_replace(Target { endpoints: both, ca: bundle.clone() });
    client.target.send_replace(Target { endpoints: vec![], ca: bundle.clone() });
    fake.send(&Event::PolicyDeleted("P".into()));
    assert_eq!(client.event().await, Event::PolicyDeleted("P".into()));
    client.target.send_replace(Target { endpoints: vec![other.address], ca: bundle });
    assert!(client.down().await.contains("moved"));
    client.list().await;
    assert!(other.script.lock().watches.values().all(|count| *count == 1));
    client.renew.notify_one();
    assert!(client.down().await.contains("did not fit"));
    client.list().await;
}

#[tokio::test]
async fn hostile_streams_end_the_session_and_no_more() {
    let fake = Fake::start(objects()).await;
    let mut client = run(fake.target());
    client.list().await;
    let mut huge = bytes::BytesMut::new();
    huge.put_u32(u32::try_from(k8s::MAX_FRAME).unwrap() + 1);
    huge.put_slice(&[0; 64]);
    fake.send_bytes(Kind::Policies, huge.freeze());
    assert!(client.down().await.contains("frame of"));
    client.list().await;
    fake.send_bytes(Kind::AddressGroups, Bytes::from_static(b"\0\0\0\x03\x0a\x01X"));
    assert!(client.down().await.contains("unknown watch event"));
    client.list().await;
    let status = Status { message: "too old".into(), ..Status::default() };
    fake.send_bytes(Kind::Policies, super::super::fake::encode(&Event::Error(status)));
    assert!(client.down().await.contains("too old"));
    client.list().await;

    fake.script.lock().no_bookmark = true;
    fake.cut();
    client.down().await;
    assert!(client.down().await.contains("ended while listing"));
    fake.script.lock().no_bookmark = false;
    client.list().await;

    fake.script.lock().refuse = Some(StatusCode::UNAUTHORIZED);
    fake.cut();
    client.down().await;
    let error = client.down().await;
    assert!(error.contains("401") && error.contains("not today"), "{error}");
    fake.script.lock().refuse = None;
    client.list().await;
}

#[tokio::test]
async fn a_slow_reader_holds_the_controller_back_and_loses_nothing() {
    let many: Vec<_> = (0..2000).map(|n| Event::Policy(policy(&format!("P{n}"), 1, "a", &[]))).collect();
    let fake = Fake::start(many).await;
    let mut client = run(fake.target());
    eventually("the queue is full", || client.updates.len() == QUEUE).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(client.updates.len(), QUEUE);
    let seen = client.list().await;
    assert_eq!(
        seen.iter()
            .filter(
                |update| matches!(update, Update::Event(_, event, _) if matches!(**event, Event::Policy(_)))
            )
            .count(),
        2000
    );
}

#[tokio::test]
async fn an_object_that_does_not_decode_stalls_nothing() {
    let mut events = objects().to_vec();
    events.insert(2, damaged("D", "a"));
    let fake = Fake::start(events).await;
    let mut client = run(fake.target());
    let seen = client.list().await;
    let policies: Vec<_> = seen
        .iter()
        .filter_map(|update| match update {
            Update::Event(Kind::Policies, event, _) if **event != Event::Bookmark => Some(&**event),
            _ => None,
        })
        .collect();
    let [Event::Damaged(found), Event::Policy(whole)] = policies.as_slice() else { panic!("{policies:?}") };
    assert_eq!((found.name.as_str(), whole.metadata.name.as_str()), ("D", "P"));
    let Some(Event::Policy(rest)) = found.rest.as_deref() else { panic!("{found:?}") };
    assert_eq!(rest.applied_to_groups, ["a"]);
    fake.send(&damaged("E", "a"));
    assert!(matches!(client.event().await, Event::Damaged(found) if found.name == "E"));
    fake.send(&Event::Policy(policy("Q", 1, "a", &[])));
    assert!(matches!(client.event().await, Event::Policy(found) if found.metadata.name == "Q"));
}
