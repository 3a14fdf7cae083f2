//! What the bridge, or its datapath, takes later than it was told.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;
use crate::dataplane::fake::Rig;
use crate::ovs::settled::Settled;
use crate::policy::dns::DnsSettings;

/// Open vSwitch's socket for commands; counts the comparisons that were waited for.
fn comparisons(folder: &Path) -> Arc<AtomicUsize> {
    std::fs::write(folder.join("ovs-vswitchd.pid"), "42").unwrap();
    let listener = UnixListener::bind(folder.join("ovs-vswitchd.42.ctl")).unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counting = count.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 256]).await;
            counting.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(b"{\"id\": 0, \"result\": \"\", \"error\": null}").await;
        }
    });
    count
}

/// Whoever made an address known, and whether or not there was time to wait: no answer goes on before the datapath goes by
/// the rules that have it.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_the_datapath_whoever_told_of_its_addresses() {
    let folder = tempfile::tempdir().unwrap();
    let mut rule = native_rule("Drop", &[]);
    (rule.direction, rule.from) = ("Out".into(), NetworkPolicyPeer::default());
    rule.to.fqdns = vec!["*.example.com".into()];
    let mut all = objects();
    all.push(Event::Policy(native("N", (250, 5.0), "a", vec![rule])));
    let fake = Fake::start(all).await;
    let node = Node::start(folder.path(), fake.target(), LONG);
    node.remember(local_pod("web-0", 21, "10.0.0.21"));
    node.attach().await.unwrap();
    let rig = Rig::started().await;
    let asked = comparisons(folder.path());
    let settled = Settled::new(rig.session.clone(), folder.path().into(), rig.dataplane.network());
    let settings = DnsSettings { shortest: Duration::ZERO, mtu: 1500, settled };
    let answer = |address: &str| {
        let addresses = vec![(address.parse().unwrap(), 300)];
        vec![DnsAnswer { names: vec!["www.example.com".into()], addresses, ..DnsAnswer::default() }]
    };
    let mut through = 0;
    // Known for the first time; the same; known by somebody who did not wait; known without time to wait.
    for (address, told_before, comparisons) in
        [("192.0.2.1", false, 2), ("192.0.2.1", false, 2), ("192.0.2.2", true, 4), ("192.0.2.2", false, 4)]
    {
        if told_before {
            let answers = answer(address);
            let pod = Receiver::Port(21);
            let learn = node.handle.request(|reply| Request::Learn(pod, answers, Duration::ZERO, reply));
            learn.await.unwrap();
        }
        let told = vec![(21, answer(address))];
        assert_eq!(node.handle.learn(told, &settings, &mut through).await, [true]);
        assert_eq!(asked.load(Ordering::Relaxed), comparisons, "{address}");
    }
    // There is no time.
    let told = vec![(21, answer("192.0.2.3"))];
    let mut learning = Box::pin(node.handle.learn(told.clone(), &settings, &mut through));
    assert!(futures::poll!(&mut learning).is_pending());
    drop(learning);
    let before = asked.load(Ordering::Relaxed);
    assert_eq!(node.handle.learn(told, &settings, &mut through).await, [true]);
    assert!(asked.load(Ordering::Relaxed) > before, "it was known, and waits all the same");
    node.stop().await;
}
