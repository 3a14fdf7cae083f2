//! What an agent may tell of the addresses of its node's pods.

use std::sync::atomic::{AtomicUsize, Ordering};

use antrea_api::addresses::MAX_PODS;

use super::{scope::user, *};

const UID: &str = "7d9f2a1c-8c0b-4d5e-9f10-2b3c4d5e6f70";

/// The shop, with a new pod `web-2` on n1 that has no address yet.
async fn shop() -> Inputs {
    let inputs = Inputs::shop().await;
    apply(
        &inputs.pods,
        watched(json!({
            "metadata": { "name": "web-2", "namespace": "shop", "uid": UID, "labels": { "app": "web" } },
            "spec": { "nodeName": "n1" },
        })),
    );
    for _ in 0..500 {
        if inputs.hub.read(|state, _| state.index.has_pod("shop", "web-2")).0 {
            return inputs;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the pod is not taken in");
}

/// Node subnets are 10.0.0.0/16 for all, and how often they were asked for.
fn subnets(asked: &Arc<AtomicUsize>) -> Subnets {
    let asked = Arc::clone(asked);
    Subnets::new(move |_| {
        asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async { Ok(vec!["10.0.0.0/16".parse().unwrap()]) })
    })
}

struct Told {
    router: Router,
    asked: Arc<AtomicUsize>,
}

impl Told {
    fn new(inputs: &Inputs) -> Self {
        let asked = Arc::default();
        let router = addresses(&inputs.hub, "kube-system", subnets(&asked));
        Self { router: own_node(router, "kube-system"), asked }
    }

    async fn tell(&self, user: User, node: &str, body: String) -> (u16, Value) {
        let url = format!("/podaddresses?node={node}");
        let mut request = Request::put(url).body(Body::from(body)).unwrap();
        request.extensions_mut().insert(user);
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    async fn of_web_2(&self, ip: &str) -> (u16, Value) {
        let body = json!({ "pods": [{ "namespace": "shop", "name": "web-2", "uid": UID, "ips": [ip] }] });
        self.tell(user("antrea-agent", Some("n1")), "n1", body.to_string()).await
    }
}

fn web_2(hub: &Arc<PolicyHub>) -> Option<String> {
    let members = hub.read(|state, _| {
        let groups = state.index.address_groups();
        groups.flat_map(|group| group.members).collect::<Vec<_>>()
    });
    let of = members.0.into_iter().find(|member| &*member.pod.name == "web-2");
    of.and_then(|member| member.ips.iter().next()).map(|ip| ip.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_told_is_in_the_policies_of_peers() {
    let inputs = shop().await;
    let told = Told::new(&inputs);
    let mut peer = Node::join(&inputs.hub, "n1");
    assert_eq!(told.of_web_2("10.0.0.77").await, (200, json!({ "refused": [] })));
    assert_eq!(web_2(&inputs.hub).as_deref(), Some("10.0.0.77"));
    peer.catch_up();
    let groups = format!("{:?}", peer.agent.address);
    assert!(groups.contains("web-2"), "{groups}");
    // Nothing new: the Node is not asked for again.
    told.of_web_2("10.0.0.77").await;
    assert_eq!(told.asked.load(Ordering::Relaxed), 1);
    let none = told.tell(user("antrea-agent", Some("n1")), "n1", r#"{"pods":[]}"#.to_owned()).await;
    assert_eq!((none.0, web_2(&inputs.hub)), (200, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_speaks_for_its_own_node_alone() {
    let inputs = shop().await;
    let told = Told::new(&inputs);
    let body =
        json!({ "pods": [{ "namespace": "shop", "name": "web-2", "uid": UID, "ips": ["10.0.0.77"] }] });
    for (user, node) in [
        (user("antrea-agent", Some("n0")), "n1"),
        (user("antrea-agent", None), "n1"),
        (user("admin", Some("n1")), "n1"),
        (User::default(), "n1"),
    ] {
        assert_eq!(told.tell(user.clone(), node, body.to_string()).await.0, 403, "{user:?}");
    }
    // Its own node, and another one's pod.
    let own = told.tell(user("antrea-agent", Some("n0")), "n0", body.to_string()).await;
    assert_eq!(own, (200, json!({ "refused": [] })));
    assert_eq!((web_2(&inputs.hub), told.asked.load(Ordering::Relaxed)), (None, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused() {
    let inputs = shop().await;
    let told = Told::new(&inputs);
    let (status, answer) = told.of_web_2("10.1.0.77").await;
    assert_eq!((status, web_2(&inputs.hub)), (200, None));
    assert_eq!(answer["refused"][0], "shop/web-2: 10.1.0.77 is not in the subnets of n1");
    // That of db, which is on n1 too.
    let (status, answer) = told.of_web_2("10.0.1.6").await;
    assert_eq!((status, &answer["refused"][0]), (200, &json!("shop/web-2: another pod has it")));
    assert_eq!(web_2(&inputs.hub), None);
    let own = || user("antrea-agent", Some("n1"));
    assert_eq!(told.tell(own(), "n1", "{".to_owned()).await.0, 400);
    let many = json!({ "namespace": "", "name": "", "uid": "", "ips": [] });
    let many = json!({ "pods": vec![many; MAX_PODS + 1] });
    assert_eq!(told.tell(own(), "n1", many.to_string()).await.0, 400);
    assert_eq!(told.tell(own(), "n1", " ".repeat(2 << 20)).await.0, 413);
    let unsynced = Inputs::new();
    assert_eq!(Told::new(&unsynced).of_web_2("10.0.0.77").await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_be_read_is_tried_again() {
    let inputs = shop().await;
    let fails = Subnets::new(|_| Box::pin(async { Err("refused".to_owned()) }));
    let told = Told { router: addresses(&inputs.hub, "kube-system", fails), asked: Arc::default() };
    assert_eq!((told.of_web_2("10.0.0.77").await.0, web_2(&inputs.hub)), (503, None));
}
