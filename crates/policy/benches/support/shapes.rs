//! The shapes of clusters.

use std::io;

use antrea_policy::{
    crd,
    k8s::{
        IntOrString, Namespace, NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer,
        NetworkPolicySpec, Pod, PodIps,
    },
    labels::{LabelSelector, Labels},
};

/// Objects that are taken in together and dropped.
#[derive(Default)]
pub(crate) struct Chunk {
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) pods: Vec<Pod>,
    pub(crate) policies: Vec<NetworkPolicy>,
    pub(crate) tiers: Vec<crd::Tier>,
    pub(crate) natives: Vec<crd::Policy>,
}

/// Tiers of native policies.
const TIERS: usize = 20;

/// A figure of the Go original (measured on another machine of the same kind) and a goal.
pub(crate) struct Mark {
    pub(crate) peer: f64,
    pub(crate) goal: f64,
}

pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) seconds: Option<Mark>,
    pub(crate) megabytes: Option<Mark>,
    /// Units at scale 1, and what makes one.
    units: usize,
    make: fn(&mut Maker, usize),
}

const fn mark(peer: f64, goal: f64) -> Option<Mark> {
    Some(Mark { peer, goal })
}

pub(crate) const SHAPES: [Shape; 6] = [
    Shape {
        name: "25k namespaces, 4 pods and 3 policies each",
        seconds: mark(6.9, 0.7),
        megabytes: mark(2000.0, 250.0),
        units: 25_000,
        make: |m, i| {
            let namespace = m.namespace(i, &[]);
            m.policy(&namespace, "default-deny-all", &[], None);
            for app in [1, 2] {
                let labels = [(format!("app-{app}"), format!("scale-{app}"))];
                m.policy(&namespace, &format!("np-{app}"), &labels, Some((&labels, None)));
                for replica in [1, 2] {
                    m.pod(&namespace, &format!("pod{app}{replica}"), &labels);
                }
            }
        },
    },
    Shape {
        name: "100 namespaces, 1000 pods and 101 policies each",
        seconds: mark(3.9, 0.4),
        megabytes: mark(2700.0, 250.0),
        units: 100,
        make: |m, i| {
            let namespace = m.namespace(i, &[]);
            m.policy(&namespace, "default-deny-all", &[], None);
            for app in 0..100 {
                let labels = [(format!("app-{app}"), format!("scale-{app}"))];
                m.policy(&namespace, &format!("np-{app}"), &labels, Some((&labels, None)));
                for replica in 0..10 {
                    m.pod(&namespace, &format!("pod-{app}-{replica}"), &labels);
                }
            }
        },
    },
    Shape {
        name: "1 namespace, 10k pods, 10k policies, each selects all pods",
        seconds: mark(4.1, 0.4),
        megabytes: mark(1800.0, 150.0),
        units: 10_000,
        make: |m, i| {
            let namespace = if i == 0 { m.namespace(0, &[]) } else { name_of(0) };
            let labels = [("app-1".to_owned(), "scale-1".to_owned())];
            m.policy(&namespace, &format!("np-{i}"), &labels, Some((&labels, None)));
            m.pod(&namespace, &format!("pod-{i}"), &labels);
        },
    },
    Shape {
        name: "1 namespace, 10k pods, 10k policies, each selects one pod",
        seconds: mark(21.4, 0.3),
        megabytes: mark(2000.0, 100.0),
        units: 5_000,
        make: |m, i| {
            let namespace = if i == 0 { m.namespace(0, &[]) } else { name_of(0) };
            let side = |side: &str| [("app".to_owned(), format!("scale-{side}-{i}"))];
            let (left, right) = (side("left"), side("right"));
            m.policy(&namespace, &format!("np-left-{i}"), &left, Some((&right, None)));
            m.policy(&namespace, &format!("np-right-{i}"), &right, Some((&left, None)));
            m.pod(&namespace, &format!("pod-left-{i}"), &left);
            m.pod(&namespace, &format!("pod-right-{i}"), &right);
        },
    },
    Shape {
        name: "1k namespaces, 100 pods and 10 policies each, peers in 10 namespaces",
        seconds: None,
        megabytes: None,
        units: 1_000,
        make: |m, i| {
            // Always ten namespaces per company.
            let company = [("company".to_owned(), format!("company-{}", i / 10))];
            let namespace = m.namespace(i, &company);
            for app in 0..10 {
                let labels = [("app".to_owned(), format!("scale-{app}"))];
                m.policy(&namespace, &format!("np-{app}"), &labels, Some((&labels, Some(&company))));
                for replica in 0..10 {
                    m.pod(&namespace, &format!("pod-{app}-{replica}"), &labels);
                }
            }
        },
    },
    Shape {
        name: "1k namespaces, 100 pods each, 10k ClusterNetworkPolicies in 20 tiers",
        seconds: None,
        megabytes: None,
        units: 1_000,
        make: |m, i| {
            let company = |i: usize| [("company".to_owned(), format!("company-{}", i / 10))];
            let namespace = m.namespace(i, &company(i));
            if i == 0 {
                (0..TIERS).for_each(|tier| m.tier(tier));
            }
            for app in 0..10 {
                let labels = |app: usize| [("app".to_owned(), format!("scale-{}", app % 10))];
                // Each applies to the pods of an application in its namespace, lets those of another of the company in, and
                // keeps the next company out.
                let within = [("app".to_owned(), namespace.clone())];
                let (from, others) = ((&labels(app + 1)[..], &company(i)[..]), company(i + 10));
                m.native(i * 10 + app, (&labels(app), &within), from, &others);
                for replica in 0..10 {
                    m.pod(&namespace, &format!("pod-{app}-{replica}"), &labels(app));
                }
            }
        },
    },
];

impl Shape {
    /// Makes Pods or else policies, with the namespaces that come first. Addresses and nodes follow from the seed.
    pub(crate) fn generate(
        &self,
        scale: f64,
        pods: bool,
        seed: u64,
        sink: &mut dyn FnMut(Chunk) -> io::Result<()>,
    ) -> io::Result<()> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let units = (self.units as f64 * scale) as usize;
        let mut maker = Maker { chunk: Chunk::default(), pods, seed };
        for unit in 0..units {
            (self.make)(&mut maker, unit);
            if maker.chunk.pods.len() + maker.chunk.policies.len() + maker.chunk.natives.len() > 2_000 {
                sink(std::mem::take(&mut maker.chunk))?;
            }
        }
        sink(maker.chunk)
    }
}

type Pairs<'a> = &'a [(String, String)];

struct Maker {
    chunk: Chunk,
    pods: bool,
    seed: u64,
}

fn name_of(namespace: usize) -> String {
    format!("namespace-{namespace}")
}

fn labels(pairs: Pairs<'_>) -> Labels {
    pairs.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

fn selector(pairs: Pairs<'_>) -> LabelSelector {
    LabelSelector { match_labels: labels(pairs), match_expressions: Vec::new() }
}

impl Maker {
    /// Knuth's MMIX generator: enough to spread things.
    fn random(&mut self) -> u32 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.seed >> 32).unwrap_or_default()
    }

    fn namespace(&mut self, i: usize, more: Pairs<'_>) -> String {
        let name = name_of(i);
        let mut pairs = vec![("app".to_owned(), name.clone())];
        pairs.extend_from_slice(more);
        self.chunk.namespaces.push(Namespace {
            name: name.as_str().into(),
            labels: labels(&pairs),
            logs: false,
        });
        name
    }

    fn pod(&mut self, namespace: &str, name: &str, pairs: Pairs<'_>) {
        if !self.pods {
            return;
        }
        let node = format!("Node-{}", self.random() % 1000);
        let ip = self.random();
        self.chunk.pods.push(Pod {
            namespace: namespace.into(),
            name: name.into(),
            labels: labels(pairs),
            node: Some(node.into()),
            ips: PodIps { v4: Some(ip.into()), v6: None },
            ..Pod::default()
        });
    }

    fn policy(
        &mut self,
        namespace: &str,
        name: &str,
        pods: Pairs<'_>,
        from: Option<(Pairs<'_>, Option<Pairs<'_>>)>,
    ) {
        if self.pods {
            return;
        }
        let (a, b) = (self.random(), self.random());
        let ingress = from.map(|(pods, namespaces)| NetworkPolicyIngressRule {
            ports: Vec::new(),
            from: vec![NetworkPolicyPeer {
                pod_selector: Some(selector(pods)),
                namespace_selector: namespaces.map(selector),
                ip_block: None,
            }],
        });
        self.chunk.policies.push(NetworkPolicy {
            namespace: namespace.into(),
            name: name.into(),
            uid: format!("{a:08x}-0000-4000-8000-{:04x}{b:08x}", self.seed & 0xffff).into(),
            generation: 1,
            spec: NetworkPolicySpec {
                pod_selector: selector(pods),
                ingress: ingress.into_iter().collect(),
                egress: Vec::new(),
                policy_types: vec!["Ingress".into(), "Egress".into()],
            },
        });
    }

    fn tier(&mut self, number: usize) {
        if !self.pods {
            let priority = i64::try_from(number).unwrap_or_default() * 10 + 3;
            self.chunk.tiers.push(crd::Tier { name: tier_of(number), priority });
        }
    }

    /// A policy for the pods of some namespaces that allows one port from some peers and drops what others send.
    fn native(
        &mut self,
        number: usize,
        (pods, namespaces): (Pairs<'_>, Pairs<'_>),
        (from, of): (Pairs<'_>, Pairs<'_>),
        others: Pairs<'_>,
    ) {
        if self.pods {
            return;
        }
        let (a, b) = (self.random(), self.random());
        let port = crd::Port { port: Some(IntOrString::Int(8080)), ..crd::Port::default() };
        let allowed = crd::Peer {
            pod_selector: Some(selector(from)),
            namespace_selector: Some(selector(of)),
            ..crd::Peer::default()
        };
        let denied = crd::Peer { namespace_selector: Some(selector(others)), ..crd::Peer::default() };
        let rule = |action: &str, ports, peer| crd::Rule {
            action: action.into(),
            ports,
            from: vec![peer],
            ..crd::Rule::default()
        };
        let applied_to = crd::AppliedTo {
            pod_selector: Some(selector(pods)),
            namespace_selector: Some(selector(namespaces)),
            ..crd::AppliedTo::default()
        };
        self.chunk.natives.push(crd::Policy {
            namespace: Box::default(),
            name: format!("acnp-{number}").into(),
            uid: format!("{a:08x}-0000-4000-8000-{:04x}{b:08x}", self.seed & 0xffff).into(),
            generation: 1,
            spec: crd::PolicySpec {
                tier: tier_of(number),
                priority: f64::from(u32::try_from(number % 500).unwrap_or_default()) + 1.0,
                applied_to: vec![applied_to],
                ingress: vec![rule("Allow", vec![port], allowed), rule("Drop", Vec::new(), denied)],
                ..crd::PolicySpec::default()
            },
        });
    }
}

fn tier_of(policy: usize) -> Box<str> {
    format!("tier-{}", policy % TIERS).into()
}
