//! What a policy with every kind of block and port is when it arrives at an agent.

use super::*;

/// The answer to a request for the policy below, in hexadecimal digits. The agent's tests read the same file, so
/// both sides are held to one meaning of it.
const BYTES: &str = include_str!("../../../../crates/api/testdata/networkpolicy.hex");

fn net(ip: &[u8], prefix_length: i32) -> wire::IpNet {
    wire::IpNet { ip: ip.to_vec(), prefix_length }
}

fn service(protocol: &str, port: Option<i32>, end_port: Option<i32>) -> wire::Service {
    wire::Service {
        protocol: Some(protocol.to_owned()),
        port: port.map(antrea_api::k8s::IntOrString::int),
        end_port,
        ..wire::Service::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_and_ports_as_they_are_written() {
    let inputs = Inputs::shop().await;
    let policy = watched::<k8s::NetworkPolicy>(json!({
        "metadata": {"name": "p", "namespace": "shop", "uid": "uid-p", "generation": 7, "resourceVersion": "1"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "db"}},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{
                "from": [{"ipBlock": {"cidr": "10.20.0.0/16", "except": ["10.20.5.0/24", "10.20.7.7/32"]}}],
                "ports": [
                    {"port": 8000, "endPort": 8999},
                    {"protocol": "UDP", "port": 53},
                    {"protocol": "SCTP", "port": 3868, "endPort": 3870},
                ],
            }],
            "egress": [
                {"to": [{"ipBlock": {"cidr": "fd00:10::/32", "except": ["fd00:10:5::/48"]}}],
                 "ports": [{"protocol": "UDP"}, {"port": 65534, "endPort": 65535}]},
                {},
            ],
        },
    }));
    apply(&inputs.policies, policy);
    until(|| inputs.hub.read(|state, _| state.index.network_policy("uid-p").is_some()).0).await;

    let accept = "application/vnd.kubernetes.protobuf";
    let (status, body) = call(&inputs.hub, Method::GET, "networkpolicies/uid-p", accept, Vec::new()).await;
    assert_eq!(status, 200);
    let unknown = antrea_api::k8s::open(body.clone().into()).unwrap();
    let sent: wire::NetworkPolicy = unknown.decode().unwrap();

    let v6 = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
    let any = |cidr: wire::IpNet| wire::IpBlock { cidr, except: vec![] };
    let peer = |ip_blocks| wire::NetworkPolicyPeer { ip_blocks, ..wire::NetworkPolicyPeer::default() };
    let rule = wire::NetworkPolicyRule {
        priority: -1,
        action: Some("Allow".into()),
        ..wire::NetworkPolicyRule::default()
    };
    assert_eq!(
        sent.rules,
        [
            wire::NetworkPolicyRule {
                direction: "In".into(),
                from: peer(vec![wire::IpBlock {
                    cidr: net(&[10, 20, 0, 0], 16),
                    except: vec![net(&[10, 20, 5, 0], 24), net(&[10, 20, 7, 7], 32)],
                }]),
                services: vec![
                    service("TCP", Some(8000), Some(8999)),
                    service("UDP", Some(53), None),
                    service("SCTP", Some(3868), Some(3870)),
                ],
                ..rule.clone()
            },
            wire::NetworkPolicyRule {
                direction: "Out".into(),
                to: peer(vec![wire::IpBlock {
                    cidr: net(&v6("fd00:10::"), 32),
                    except: vec![net(&v6("fd00:10:5::"), 48)],
                }]),
                services: vec![service("UDP", None, None), service("TCP", Some(65_534), Some(65_535))],
                ..rule.clone()
            },
            wire::NetworkPolicyRule {
                direction: "Out".into(),
                to: peer(vec![any(net(&[0; 4], 0)), any(net(&[0; 16], 0))]),
                ..rule
            },
        ]
    );
    assert_eq!((sent.metadata.uid.as_str(), sent.metadata.generation), ("uid-p", 7));
    assert_eq!(sent.source_ref.unwrap().type_, wire::K8S_NETWORK_POLICY);

    let hex: String = body.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, BYTES.split_ascii_whitespace().collect::<String>());
}

/// A policy that is larger than a node can hold isolates, and who wrote it is told, by name and field.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_too_large_is_told_of() {
    let mut inputs = Inputs::shop().await;
    let except: Vec<_> = (0..30_000).map(|i| format!("fd00:{:x}::{:x}/128", i >> 8, i & 255)).collect();
    let policy = |name: &str| {
        watched::<k8s::NetworkPolicy>(json!({
            "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-{name}"), "resourceVersion": "1"},
            "spec": {
                "podSelector": {"matchLabels": {"app": "db"}},
                "ingress": [{"from": [{"ipBlock": {"cidr": "fd00::/16", "except": except}}]}],
            },
        }))
    };
    apply(&inputs.policies, policy("huge"));
    let told = async |inputs: &mut Inputs| {
        let next = tokio::time::timeout(Duration::from_secs(10), inputs.mistakes.recv());
        format!("{:?}", next.await.expect("nothing is told").unwrap())
    };
    let text = told(&mut inputs).await;
    for part in ["\"shop\"", "\"huge\"", "spec.ingress[0].from[0]: the rule needs more than 4096 matches"] {
        assert!(text.contains(part), "{text}");
    }
    let condition = |inputs: &Inputs| crate::policy::counts(&inputs.hub).invalid_policies;
    let text = condition(&inputs);
    assert!(text.starts_with("shop/huge: spec.ingress[0].from[0]: the rule needs more"), "{text}");
    // Of those in a list each is told of, and none that is right.
    list(
        &inputs.policies,
        vec![policy("large"), super::policy("allow", 1, json!({}), json!({})), policy("vast")],
    );
    let text = [told(&mut inputs).await, told(&mut inputs).await].concat();
    assert!(text.contains("\"large\"") && text.contains("\"vast\""), "{text}");
    until(|| inputs.hub.read(|state, _| state.index.network_policy("uid-huge").is_none()).0).await;
    assert!(inputs.mistakes.try_recv().is_err());
    let text = condition(&inputs);
    assert!(text.starts_with("shop/large: ") && text.contains(", shop/vast: "), "{text}");
    assert!(!text.contains("huge") && !text.contains("shop/allow"), "{text}");

    let mut node = Node::join(&inputs.hub, "n1");
    let sent = &node.catch_up().policies["uid-vast"];
    assert_eq!(sent.rules.len(), 1, "it isolates");
    assert_eq!(sent.rules[0].from, wire::NetworkPolicyPeer::default());
    // It is mended, or it goes: nothing is told of it any more.
    apply(&inputs.policies, super::policy("vast", 2, json!({}), json!({})));
    until(|| !condition(&inputs).contains("vast")).await;
    inputs.policies.unbounded_send(Ok(watcher::Event::Delete(policy("large")))).unwrap();
    until(|| condition(&inputs).is_empty()).await;
}
