//! What is wrong with Services and EndpointSlices: told in the log once, and counted for as long as it lasts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use antrea_proxy::{Name, Problem};
use antrea_runtime::tolerant::Undecoded;

/// Problems of one object that are told and kept: whoever writes an object of many must not fill the log.
const MOST: usize = 16;

/// Kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Service,
    Slice,
}

/// Where something turns out to be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    /// The object does not decode: what was known of it stays.
    Decoded,
    /// A part of it cannot be read.
    Read,
    /// It does not go together with others, or is too much.
    Served,
}

/// What is known to be wrong.
#[derive(Debug, Default)]
pub(super) struct Wrong(BTreeMap<(Kind, Name, Step), Vec<Problem>>);

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Service => "Service",
            Kind::Slice => "EndpointSlice",
        }
    }
}

impl Wrong {
    /// An object does not decode.
    pub(super) fn undecoded(&mut self, kind: Kind, name: &Name, error: &Undecoded) {
        let problem = Problem {
            object: format!("{} {name}", kind.name()),
            field: "all of it".to_owned(),
            message: format!("does not decode, what was known of it stays: {error}"),
        };
        tell(self.set((kind, name.clone(), Step::Decoded), vec![problem]));
    }

    /// An object was read with these problems.
    pub(super) fn read(&mut self, kind: Kind, name: &Name, problems: Vec<Problem>) {
        self.0.remove(&(kind, name.clone(), Step::Decoded));
        tell(self.set((kind, name.clone(), Step::Read), problems));
    }

    /// These Services are served with these problems.
    pub(super) fn served<'a>(&mut self, services: impl Iterator<Item = &'a Name>, problems: Vec<Problem>) {
        let mut of: HashMap<String, Vec<Problem>> = HashMap::new();
        for problem in problems {
            of.entry(problem.object.clone()).or_default().push(problem);
        }
        for name in services {
            let own = of.remove(&format!("{} {name}", Kind::Service.name())).unwrap_or_default();
            tell(self.set((Kind::Service, name.clone(), Step::Served), own));
        }
    }

    /// An object is gone.
    pub(super) fn gone(&mut self, kind: Kind, name: &Name) {
        for step in [Step::Decoded, Step::Read] {
            self.0.remove(&(kind, name.clone(), step));
        }
    }

    /// Objects with which something is wrong, by the name of their resource.
    pub(super) fn counts(&self) -> [(&'static str, usize); 2] {
        let count = |wanted: Kind| {
            let of_kind = self.0.keys().filter(|(kind, ..)| *kind == wanted);
            of_kind.map(|(_, name, _)| name).collect::<BTreeSet<_>>().len()
        };
        [("services", count(Kind::Service)), ("endpointslices", count(Kind::Slice))]
    }

    /// Takes in what is wrong now. Returns what is to be told of it.
    fn set(&mut self, key: (Kind, Name, Step), mut problems: Vec<Problem>) -> Vec<String> {
        let more = problems.len().saturating_sub(MOST);
        problems.truncate(MOST);
        if problems.is_empty() {
            self.0.remove(&key);
            return Vec::new();
        }
        let before = self.0.get(&key).map(Vec::as_slice).unwrap_or_default();
        let is_new = |problem: &&Problem| !before.contains(problem);
        let mut told: Vec<String> = problems.iter().filter(is_new).map(ToString::to_string).collect();
        if more > 0 && !told.is_empty() {
            told.push(format!("{} {}: {more} problems more", key.0.name(), key.1));
        }
        self.0.insert(key, problems);
        told
    }
}

fn tell(problems: Vec<String>) {
    for problem in problems {
        tracing::warn!(%problem, "not served");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(numbers: std::ops::Range<usize>) -> Vec<Problem> {
        let problem = |n| Problem {
            object: "Service default/web".into(),
            field: format!("spec.ports[{n}]"),
            message: "no port".into(),
        };
        numbers.map(problem).collect()
    }

    fn key(step: Step) -> (Kind, Name, Step) {
        (Kind::Service, "default/web".into(), step)
    }

    #[test]
    fn a_problem_is_told_once_while_it_lasts() {
        let mut wrong = Wrong::default();
        let first = "Service default/web: spec.ports[0]: no port";
        assert_eq!(wrong.set(key(Step::Read), problems(0..1)), [first]);
        assert!(wrong.set(key(Step::Read), problems(0..1)).is_empty(), "it is known");
        assert_eq!(wrong.set(key(Step::Read), problems(0..2)).len(), 1, "the second is new");
        assert!(wrong.set(key(Step::Read), Vec::new()).is_empty());
        assert_eq!(wrong.counts(), [("services", 0), ("endpointslices", 0)]);
        assert_eq!(wrong.set(key(Step::Read), problems(0..1)), [first], "it came again");
    }

    #[test]
    fn many_problems_of_one_object_are_told_in_part() {
        let mut wrong = Wrong::default();
        let told = wrong.set(key(Step::Served), problems(0..1_000));
        assert_eq!((told.len(), &*told[MOST]), (MOST + 1, "Service default/web: 984 problems more"));
        assert!(wrong.set(key(Step::Served), problems(0..1_000)).is_empty());
    }

    #[test]
    fn objects_are_counted_until_nothing_is_wrong_or_they_are_gone() {
        let mut wrong = Wrong::default();
        let (web, dns): (Name, Name) = ("default/web".into(), "default/dns".into());
        wrong.read(Kind::Service, &web, problems(0..3));
        wrong.served([&web, &dns].into_iter(), problems(0..1));
        assert_eq!(wrong.counts(), [("services", 1), ("endpointslices", 0)], "one object, found twice");
        wrong.read(Kind::Service, &web, Vec::new());
        assert_eq!(wrong.counts()[0].1, 1, "it still does not go together with others");
        wrong.served([&web].into_iter(), Vec::new());
        assert_eq!(wrong.counts()[0].1, 0);
        let error = Undecoded { error: "a port is no number".into(), value: serde_json::Value::Null };
        wrong.undecoded(Kind::Slice, &web, &error);
        assert_eq!(wrong.counts()[1].1, 1);
        wrong.read(Kind::Slice, &web, Vec::new());
        assert_eq!(wrong.counts()[1].1, 0, "it decodes again");
        wrong.undecoded(Kind::Slice, &web, &error);
        wrong.gone(Kind::Slice, &web);
        assert_eq!(wrong.counts()[1].1, 0);
    }
}
