//! Random NetworkPolicies that make sense often enough: their selectors, blocks and ports meet the pods, addresses and
//! services of a small world, and as often just miss them.

use k8s_openapi::api::networking::v1::NetworkPolicySpec;
use serde_json::{Value, json};

use crate::oracle::Labels;

/// A sequence of numbers that its seed alone decides (SplitMix64), on every machine and in every version.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..count`.
    pub fn below(&mut self, count: usize) -> usize {
        (self.next() % count as u64) as usize
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of a list.
    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}

/// What policies are made of.
#[derive(Clone, Debug)]
pub struct Vocabulary {
    /// Label keys of pods, each with its values.
    pub pods: Vec<(&'static str, Vec<&'static str>)>,
    /// The same of namespaces.
    pub namespaces: Vec<(&'static str, Vec<&'static str>)>,
    /// Blocks and what may be excepted of them.
    pub blocks: Vec<(String, Vec<String>)>,
    /// Protocol and number of what is probed.
    pub services: Vec<(&'static str, u16)>,
    pub port_names: Vec<&'static str>,
}

impl Vocabulary {
    /// Labels: of each key one of its values, or none.
    pub fn labels(&self, dice: &mut Dice, keys: &[(&'static str, Vec<&'static str>)]) -> Labels {
        let mut labels = Labels::new();
        for (key, values) in keys {
            if dice.chance(80) {
                labels.insert((*key).to_owned(), dice.pick(values).to_owned());
            }
        }
        labels
    }

    fn selector(dice: &mut Dice, keys: &[(&'static str, Vec<&'static str>)]) -> Value {
        let (key, values) = dice.pick(keys);
        let two = [dice.pick(&values), dice.pick(&values)];
        match dice.below(8) {
            0 => json!({}),
            1..=3 => json!({"matchLabels": {key: two[0]}}),
            4 => json!({"matchExpressions": [{"key": key, "operator": "In", "values": two}]}),
            5 => json!({"matchExpressions": [{"key": key, "operator": "NotIn", "values": [two[0]]}]}),
            6 => json!({"matchExpressions": [{"key": key, "operator": "Exists"}]}),
            _ => json!({"matchExpressions": [{"key": key, "operator": "DoesNotExist"}]}),
        }
    }

    fn peer(&self, dice: &mut Dice) -> Value {
        match dice.below(7) {
            0 | 1 => json!({"podSelector": Self::selector(dice, &self.pods)}),
            2 => json!({"namespaceSelector": Self::selector(dice, &self.namespaces)}),
            3 => json!({
                "podSelector": Self::selector(dice, &self.pods),
                "namespaceSelector": Self::selector(dice, &self.namespaces),
            }),
            _ => {
                let (cidr, inner) = dice.pick(&self.blocks);
                let count = if inner.is_empty() { 0 } else { dice.below(4) };
                let except: Vec<String> = (0..count).map(|_| dice.pick(&inner)).collect();
                json!({"ipBlock": {"cidr": cidr, "except": except}})
            }
        }
    }

    fn port(&self, dice: &mut Dice) -> Value {
        let (protocol, number) = dice.pick(&self.services);
        match dice.below(8) {
            0 => json!({"protocol": protocol}),
            1 | 2 => json!({"protocol": protocol, "port": dice.pick(&self.port_names)}),
            3 => json!({"protocol": protocol, "port": number - dice.below(20) as u16, "endPort": number}),
            4 => json!({"protocol": protocol, "port": number, "endPort": number + dice.below(3000) as u16}),
            5 => json!({"protocol": protocol, "port": number + 1, "endPort": number + 1000}),
            6 if protocol == "TCP" => json!({"port": number}),
            _ => json!({"protocol": protocol, "port": number}),
        }
    }

    fn rule(&self, dice: &mut Dice, peers: &str) -> Value {
        let mut rule = json!({});
        if dice.chance(85) {
            let count = 1 + dice.below(3);
            rule[peers] = (0..count).map(|_| self.peer(dice)).collect();
        }
        if dice.chance(60) {
            let count = 1 + dice.below(3);
            rule["ports"] = (0..count).map(|_| self.port(dice)).collect();
        }
        rule
    }

    /// A policy.
    pub fn policy(&self, dice: &mut Dice) -> NetworkPolicySpec {
        let mut spec = json!({"podSelector": Self::selector(dice, &self.pods)});
        let types = dice.pick(&[
            &["Ingress"][..],
            &["Egress"],
            &["Ingress", "Egress"],
            // None: what follows from the rules.
            &[],
        ]);
        if !types.is_empty() {
            spec["policyTypes"] = json!(types);
        }
        for (direction, field, peers) in [("Ingress", "ingress", "from"), ("Egress", "egress", "to")] {
            let count = [0, 1, 1, 2, 3][dice.below(5)];
            // Rules of a direction that the types do not name mean nothing; now and then there are some.
            if (types.is_empty() || types.contains(&direction) || dice.chance(10)) && count > 0 {
                spec[field] = (0..count).map(|_| self.rule(dice, peers)).collect();
            }
        }
        serde_json::from_value(spec).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything() {
        let words = Vocabulary {
            pods: vec![("app", vec!["a", "b"])],
            namespaces: vec![("team", vec!["r"])],
            blocks: vec![("10.0.0.0/8".into(), vec!["10.1.0.0/16".into()])],
            services: vec![("TCP", 80), ("UDP", 53)],
            port_names: vec!["web"],
        };
        let of = |seed| {
            let mut dice = Dice::new(seed);
            (0..50).map(|_| words.policy(&mut dice)).collect::<Vec<_>>()
        };
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }
}
