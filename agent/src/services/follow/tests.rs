use std::sync::Arc;

use antrea_proxy::{Address, Endpoint, Port, Service, Slice, SlicePort};
use antrea_runtime::metrics::Metrics;
use netcfg::Netns;
use openflow::Message;

use super::*;
use crate::dataplane::fake::{Rig, dataplane};
use crate::policy::attached_for_tests;

fn slice(endpoints: &[&str]) -> Option<Slice> {
    let endpoint = |ip: &&str| Endpoint {
        ip: ip.parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        local: false,
        node_hint: Default::default(),
        zone_hint: Default::default(),
    };
    Some(Slice {
        ports: [SlicePort { name: "".into(), protocol: Protocol::Udp, port: 53 }].into(),
        endpoints: endpoints.iter().map(endpoint).collect(),
    })
}

/// As long as the bridge has the group of before, a way that is forgotten comes again with the next datagram.
#[tokio::test(flavor = "multi_thread")]
async fn ways_of_a_service_that_is_refused_are_forgotten_when_it_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let rig = Rig::started().await;
    let network = antrea_enforce::testing::serving_network();
    let cancel = CancellationToken::new();
    let (dataplane, reporter) = dataplane(rig.session.clone(), Arc::new(network), &cancel);
    dataplane.start().await.unwrap();
    let bridge = Bridge {
        node: "n1".to_owned(),
        connections: Connections::new(rig.session.clone(), Netns::open("/proc/self/ns/net").unwrap()),
        settled: Settled::new(rig.session.clone(), folder.path().into(), dataplane.network()),
        policy: attached_for_tests(folder.path(), &dataplane).await,
        dataplane,
    };
    let client = Client::try_from(kube::Config::new("http://127.0.0.1:9".parse().unwrap())).unwrap();
    let metrics = ProxyMetrics::new(&Metrics::empty()).unwrap();
    let mut follower = Follower::new(bridge, client, String::new(), reporter, metrics, None);
    let service = Service {
        addresses: [Address::Cluster("10.96.0.10".parse().unwrap())].into(),
        ports: [Port { name: "".into(), protocol: Protocol::Udp, port: 53, node_port: 0 }].into(),
        ..Service::default()
    };
    let name: Name = "kube-system/dns".into();
    follower.known.set_service(&name, Some(service));
    follower.known.set_slice(&name, "s", slice(&["10.0.0.1", "10.0.0.2"]));
    follower.flush().await;
    assert!(follower.refused.is_empty() && follower.settling.is_empty());

    rig.switch.refuse(|message| matches!(message, Message::GroupMod(_)));
    follower.known.set_slice(&name, "s", slice(&["10.0.0.1"]));
    follower.flush().await;
    assert!(follower.refused.contains(&name) && follower.settling.is_empty(), "it has both endpoints still");
    rig.switch.refuse(|_| false);
    std::mem::take(&mut follower.refused).iter().for_each(|name| follower.known.again(name));
    follower.flush().await;
    assert!(follower.refused.is_empty());
    let stale = follower.settling.join_next().await.unwrap().unwrap();
    assert_eq!((stale[0].1.len(), stale[0].1[0].1.to_string()), (1, "10.0.0.2:53".to_owned()));
    cancel.cancel();
}
