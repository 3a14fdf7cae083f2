//! Feature gates: the names that exist, upstream's stages and defaults, and what this version can do with them.
//!
//! This is the one list. The operator refuses by it what an AntreaInstallation asks for, agent and controller
//! read their configuration by it, and both serve it under `/featuregates`, where antctl reads it.

use std::collections::BTreeMap;

use serde::Serialize;

/// Who has a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// antrea-agent
    Agent,
    /// antrea-controller
    Controller,
}

/// Upstream's maturity of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// May change or go away.
    Alpha,
    /// Here to stay.
    Beta,
    /// Done; the gate remains for those who set it.
    Ga,
}

/// What a component of this version does with a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Support {
    /// The component has no such gate.
    None,
    /// The component's part of the feature is not implemented, and the gate is off.
    Missing,
    /// All of it is there: on where upstream has it on, unless the configuration says otherwise.
    Full,
}

/// A feature gate of Antrea.
#[derive(Debug)]
pub struct Gate {
    /// Upstream's name.
    pub name: &'static str,
    /// Upstream's stage.
    pub stage: Stage,
    /// Whether upstream has it on where nothing is configured.
    pub default: bool,
    agent: Support,
    controller: Support,
}

/// A gate that cannot be set as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    /// The name is no gate's.
    #[error("there is no such feature gate{}", .similar.map(|name| format!("; did you mean {name}?")).unwrap_or_default())]
    Unknown {
        /// A gate whose name differs in case only.
        similar: Option<&'static str>,
    },
    /// Nothing of it is implemented.
    #[error("this version does not implement the feature; it can only be off")]
    Missing,
}

/// A gate as `/featuregates` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `agent` or `controller`.
    pub component: &'static str,
    pub name: &'static str,
    /// `Enabled` or `Disabled`.
    pub status: &'static str,
    /// `ALPHA`, `BETA` or `GA`.
    pub version: &'static str,
}

impl Gate {
    fn support(&self, component: Component) -> Support {
        match component {
            Component::Agent => self.agent,
            Component::Controller => self.controller,
        }
    }

    /// Whether the component has the feature on where the configuration says `wanted`.
    fn is_on(&self, component: Component, wanted: Option<bool>) -> bool {
        match self.support(component) {
            Support::Full => wanted.unwrap_or(self.default),
            Support::None | Support::Missing => false,
        }
    }

    /// Whether users of the feature find it there.
    fn works(&self, component: Component, wanted: Option<bool>) -> bool {
        self.support(component) == Support::Full && self.is_on(component, wanted)
    }
}

/// Checks what a configuration asks of a gate.
///
/// # Errors
/// There is no such gate, or it cannot be switched on.
pub fn check(name: &str, on: bool) -> Result<(), GateError> {
    let Some(gate) = find(name) else {
        let similar = GATES.iter().find(|gate| gate.name.eq_ignore_ascii_case(name));
        return Err(GateError::Unknown { similar: similar.map(|gate| gate.name) });
    };
    let switch = [Component::Agent, Component::Controller].map(|component| gate.support(component));
    let settable = switch.iter().any(|support| !matches!(support, Support::None | Support::Missing));
    if on && !settable { Err(GateError::Missing) } else { Ok(()) }
}

/// Whether `component` has the feature, or what is there of it, on. `wanted` is the configuration; an unknown name is off.
pub fn is_on(component: Component, name: &str, wanted: &BTreeMap<String, bool>) -> bool {
    find(name).is_some_and(|gate| gate.is_on(component, wanted.get(name).copied()))
}

/// What a component's configuration file says of its gates where `wanted` was asked for: all of them, so that whoever
/// reads the file, and knows upstream's defaults, takes nothing for on that is off.
pub fn configured(component: Component, wanted: &BTreeMap<String, bool>) -> BTreeMap<&'static str, bool> {
    let own = GATES.iter().filter(|gate| gate.support(component) != Support::None);
    own.map(|gate| (gate.name, gate.is_on(component, wanted.get(gate.name).copied()))).collect()
}

/// The component's gates as they are, by name: what does not work is off, whatever the configuration says.
pub fn report(component: Component, wanted: &BTreeMap<String, bool>) -> Vec<Status> {
    let own = GATES.iter().filter(|gate| gate.support(component) != Support::None);
    own.map(|gate| Status {
        component: match component {
            Component::Agent => "agent",
            Component::Controller => "controller",
        },
        name: gate.name,
        status: if gate.works(component, wanted.get(gate.name).copied()) { "Enabled" } else { "Disabled" },
        version: match gate.stage {
            Stage::Alpha => "ALPHA",
            Stage::Beta => "BETA",
            Stage::Ga => "GA",
        },
    })
    .collect()
}

/// Splits what a component's configuration file asks for into gates that are to be on and do not exist, with what is
/// wrong, and names that change nothing: of those that cannot be switched on, and of unknown ones that are off, as a
/// newer operator's file has them while its agents are replaced.
pub fn problems(wanted: &BTreeMap<String, bool>) -> (Vec<String>, Vec<&str>) {
    let (mut unknown, mut ignored) = (Vec::new(), Vec::new());
    for (name, on) in wanted {
        match check(name, *on) {
            Ok(()) => {}
            Err(GateError::Missing) => ignored.push(name.as_str()),
            Err(GateError::Unknown { .. }) if !on => ignored.push(name.as_str()),
            Err(error) => unknown.push(format!("{name}: {error}")),
        }
    }
    (unknown, ignored)
}

fn find(name: &str) -> Option<&'static Gate> {
    GATES.iter().find(|gate| gate.name == name)
}

macro_rules! gates {
    ($($name:literal $stage:ident $default:ident $agent:ident $controller:ident;)*) => {
        /// Every gate of upstream Antrea 2.8, by name.
        pub static GATES: &[Gate] = &[$(Gate {
            name: $name,
            stage: Stage::$stage,
            default: gates!(@ $default),
            agent: Support::$agent,
            controller: Support::$controller,
        }),*];
    };
    (@ on) => { true };
    (@ off) => { false };
}

// Name, stage, upstream's default, agent, controller.
gates! {
    "AdminNetworkPolicy"            Alpha off None    Missing;
    "AntreaIPAM"                    Alpha off Missing Missing;
    "AntreaNodeConfig"              Beta  on  Missing Missing;
    "AntreaPolicy"                  Beta  on  Full    Full;
    "AntreaProxy"                   Ga    on  Full    None;
    "BGPPolicy"                     Alpha off Missing None;
    "CleanupStaleUDPSvcConntrack"   Beta  on  Missing None;
    "ClusterNetworkPolicy"          Alpha off None    Full;
    "Egress"                        Beta  on  Missing Missing;
    "EgressSeparateSubnet"          Beta  on  Missing None;
    "EgressTrafficShaping"          Alpha off Missing None;
    "EndpointSlice"                 Ga    on  Missing None;
    "ExternalNode"                  Alpha off Missing Missing;
    "FlowExporter"                  Alpha off Missing None;
    "IPsecCertAuth"                 Alpha off Missing Missing;
    "L7NetworkPolicy"               Alpha off Missing Missing;
    "LoadBalancerModeDSR"           Alpha off Missing None;
    "Multicast"                     Beta  on  Missing Missing;
    "Multicluster"                  Alpha off Missing Missing;
    "NFTablesHostNetworkMode"       Alpha off Missing None;
    "NetworkPolicyStats"            Beta  on  Full    Full;
    "NodeIPAM"                      Beta  on  None    Missing;
    "NodeLatencyMonitor"            Alpha off Missing Missing;
    "NodeNetworkPolicy"             Alpha off Missing None;
    "NodePortLocal"                 Ga    on  Missing None;
    "PacketCapture"                 Alpha off Full    Full;
    "PreferSameTrafficDistribution" Alpha off Missing None;
    "SecondaryNetwork"              Alpha off Missing None;
    "ServiceExternalIP"             Beta  on  Missing Missing;
    "ServiceTrafficDistribution"    Ga    on  Missing None;
    "SupportBundleCollection"       Alpha off Missing Missing;
    "TopologyAwareHints"            Ga    on  Missing None;
    "Traceflow"                     Beta  on  Full    Full;
    "TrafficControl"                Alpha off Missing None;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(list: &[(&str, bool)]) -> BTreeMap<String, bool> {
        list.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect()
    }

    #[test]
    fn refuses_what_is_unknown_or_missing() {
        assert_eq!(check("AntreaPolicy", true), Ok(()));
        assert_eq!(check("AntreaPolicy", false), Ok(()));
        assert_eq!(check("Egress", false), Ok(()));
        assert_eq!(check("Egress", true), Err(GateError::Missing));
        assert_eq!(check("AntreaProxy", true), Ok(()));
        let error = check("antreapolicy", true).unwrap_err().to_string();
        assert_eq!(error, "there is no such feature gate; did you mean AntreaPolicy?");
        assert_eq!(check("Nonsense", false).unwrap_err().to_string(), "there is no such feature gate");
        let wanted =
            wanted(&[("Nonsense", true), ("Egress", true), ("Newer", false), ("PacketCapture", false)]);
        let (unknown, ignored) = problems(&wanted);
        assert_eq!(unknown, ["Nonsense: there is no such feature gate"]);
        assert_eq!(ignored, ["Egress", "Newer"]);
    }

    /// Upstream's tools take a gate that the file does not name for one at its default, which for these is on.
    #[test]
    fn a_configuration_names_all_gates() {
        let agent = configured(Component::Agent, &BTreeMap::new());
        assert_eq!(agent.get("Traceflow"), Some(&true));
        for off in ["EndpointSlice", "Egress", "NodePortLocal"] {
            assert_eq!(agent.get(off), Some(&false), "{off}");
        }
        for on in ["AntreaPolicy", "AntreaProxy"] {
            assert_eq!(agent.get(on), Some(&true), "{on}");
        }
        assert_eq!(agent.get("NodeIPAM"), None, "the controller's");
        let asked = wanted(&[("AntreaPolicy", false), ("Egress", true)]);
        let agent = configured(Component::Agent, &asked);
        assert_eq!((agent["AntreaPolicy"], agent["Egress"]), (false, false));
        assert!(!configured(Component::Controller, &asked).contains_key("AntreaProxy"));
        let as_file = agent.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect();
        assert_eq!(problems(&as_file), (vec![], vec![]), "the component takes what is written for it");
        assert_eq!(report(Component::Agent, &as_file), report(Component::Agent, &asked));
    }

    #[test]
    fn reports_what_is_rather_than_what_is_asked_for() {
        let find = |component, wanted: &BTreeMap<String, bool>, name: &str| {
            report(component, wanted).into_iter().find(|gate| gate.name == name).map(|gate| gate.status)
        };
        let none = BTreeMap::new();
        for component in [Component::Agent, Component::Controller] {
            assert_eq!(find(component, &none, "AntreaPolicy"), Some("Enabled"));
        }
        assert_eq!(find(Component::Controller, &none, "TrafficControl"), None);
        let asked = wanted(&[("AntreaPolicy", false), ("Egress", true)]);
        assert_eq!(find(Component::Agent, &asked, "AntreaPolicy"), Some("Disabled"));
        assert_eq!(find(Component::Agent, &asked, "Egress"), Some("Disabled"));
        assert!(!is_on(Component::Agent, "AntreaPolicy", &asked));
        let asked = wanted(&[("AntreaProxy", false)]);
        assert!(is_on(Component::Agent, "AntreaProxy", &none));
        assert!(!is_on(Component::Agent, "AntreaProxy", &asked));
        assert_eq!(find(Component::Agent, &asked, "AntreaProxy"), Some("Disabled"));
        let all =
            [Component::Agent, Component::Controller].map(|component| report(component, &none)).concat();
        let on: Vec<&str> =
            all.iter().filter(|gate| gate.status == "Enabled").map(|gate| gate.name).collect();
        let agent = ["AntreaPolicy", "AntreaProxy", "NetworkPolicyStats", "Traceflow"];
        let controller = ["AntreaPolicy", "NetworkPolicyStats", "Traceflow"];
        assert_eq!(on, [&agent[..], &controller[..]].concat(), "nothing else works unasked");
        let version = |name: &str| all.iter().find(|gate| gate.name == name).map(|gate| gate.version);
        assert_eq!(
            ["AntreaProxy", "Egress", "BGPPolicy"].map(version),
            [Some("GA"), Some("BETA"), Some("ALPHA")]
        );
    }

    #[test]
    fn gates_are_sorted_and_somebodys() {
        assert!(GATES.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(GATES.iter().all(|gate| gate.agent != Support::None || gate.controller != Support::None));
        // Upstream's rule: what is done is on, what is new is off.
        assert!(GATES.iter().all(|gate| gate.default == (gate.stage != Stage::Alpha)));
    }
}
