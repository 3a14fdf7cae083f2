//! nft or legacy: the kernel can hold both rulesets at once, so everybody on a node has to use the same.

use std::collections::BTreeSet;

use crate::{Error, Family, Netns, Result, process};

/// A flavour of the iptables tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Backend {
    /// Through nf_tables.
    Nft,
    /// Through ip_tables.
    Legacy,
}

impl Backend {
    /// Both, the preferred one first.
    pub const BOTH: [Backend; 2] = [Backend::Nft, Backend::Legacy];

    /// The program that changes rules.
    pub fn program(self, family: Family) -> &'static str {
        match (self, family) {
            (Backend::Nft, Family::V4) => "iptables-nft",
            (Backend::Nft, Family::V6) => "ip6tables-nft",
            (Backend::Legacy, Family::V4) => "iptables-legacy",
            (Backend::Legacy, Family::V6) => "ip6tables-legacy",
        }
    }

    /// The program that prints rules.
    pub fn save(self, family: Family) -> &'static str {
        match (self, family) {
            (Backend::Nft, Family::V4) => "iptables-nft-save",
            (Backend::Nft, Family::V6) => "ip6tables-nft-save",
            (Backend::Legacy, Family::V4) => "iptables-legacy-save",
            (Backend::Legacy, Family::V6) => "ip6tables-legacy-save",
        }
    }

    /// The program that applies rules in bulk.
    pub fn restore(self, family: Family) -> &'static str {
        match (self, family) {
            (Backend::Nft, Family::V4) => "iptables-nft-restore",
            (Backend::Nft, Family::V6) => "ip6tables-nft-restore",
            (Backend::Legacy, Family::V4) => "iptables-legacy-restore",
            (Backend::Legacy, Family::V6) => "ip6tables-legacy-restore",
        }
    }

    /// Finds out which one the node uses, from the rules that are there.
    pub async fn detect(netns: &Netns) -> Result<Self> {
        let nft = Self::Nft.snapshot(netns).await?;
        let legacy = Self::Legacy.snapshot(netns).await?;
        match (nft, legacy) {
            (Some(nft), Some(legacy)) => Ok(choose_backend(&nft, &legacy)),
            (Some(_), None) => Ok(Self::Nft),
            (None, Some(_)) => Ok(Self::Legacy),
            (None, None) => Err(Error::NoProgram("iptables-nft-save, iptables-legacy-save".to_owned())),
        }
    }

    /// Both families' rules, or `None` if the tools are not installed.
    ///
    /// No `-t`: naming a table makes the legacy tools create it in the kernel.
    async fn snapshot(self, netns: &Netns) -> Result<Option<String>> {
        let mut text = String::new();
        for family in Family::BOTH {
            match process::run(netns, self.save(family), &[], None).await {
                Ok(rules) => text.push_str(&rules),
                Err(e) if e.is_missing_program() => return Ok(None),
                // A kernel without one of the families or backends: no rules there.
                Err(Error::Command { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Some(text))
    }
}

/// Decides from the output of both save tools, IPv4 and IPv6 together: kubelet leaves its mark in the backend
/// its node uses; without it, the one with more rules; without rules, nft.
pub fn choose_backend(nft: &str, legacy: &str) -> Backend {
    if has_kubelet_chain(nft) {
        Backend::Nft
    } else if has_kubelet_chain(legacy) || rule_count(legacy) > rule_count(nft) {
        Backend::Legacy
    } else {
        Backend::Nft
    }
}

/// kubelet has made `KUBE-IPTABLES-HINT` since 1.24 for this purpose, and `KUBE-KUBELET-CANARY` before.
fn has_kubelet_chain(save: &str) -> bool {
    let hints = BTreeSet::from([":KUBE-IPTABLES-HINT", ":KUBE-KUBELET-CANARY"]);
    let mut mangle = false;
    save.lines().any(|line| {
        if line.starts_with('*') {
            mangle = line.trim_end() == "*mangle";
        }
        mangle && line.split(' ').next().is_some_and(|chain| hints.contains(chain))
    })
}

fn rule_count(save: &str) -> usize {
    save.lines().filter(|line| line.starts_with('-')).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelets_hint_decides_before_the_number_of_rules() {
        let hint = "*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n";
        let canary = "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n";
        let rules = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j ACCEPT\n-A INPUT -j DROP\nCOMMIT\n";
        assert_eq!(choose_backend(hint, rules), Backend::Nft);
        assert_eq!(choose_backend(rules, hint), Backend::Legacy);
        assert_eq!(choose_backend(rules, canary), Backend::Legacy);
        assert_eq!(choose_backend(hint, canary), Backend::Nft);
        assert_eq!(choose_backend("", rules), Backend::Legacy);
        assert_eq!(choose_backend(rules, rules), Backend::Nft);
        assert_eq!(choose_backend("", ""), Backend::Nft);
        let elsewhere = "*nat\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n";
        assert_eq!(choose_backend(elsewhere, rules), Backend::Legacy);
    }
}
