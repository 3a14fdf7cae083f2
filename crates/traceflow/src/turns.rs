//! Whose turn it is: tags, phases, timeouts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use antrea_crds::traceflow::{DEFAULT_TIMEOUT, Phase, Status, TIMED_OUT, Traceflow};
use jiff::Timestamp;

use crate::observe::is_complete;

/// Tags: values of DSCP that no standard gives a meaning. Upstream's.
pub const TAGS: [u8; 14] = [7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47, 51, 55, 59];

/// How long a trace may take, in seconds.
const LIMITS: (u64, u64) = (1, 300);

/// What has to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Statuses to write, by name.
    pub writes: Vec<(String, Status)>,
    /// When to look again, whatever happens until then.
    pub wake: Option<Timestamp>,
}

/// The tag that a trace has.
pub fn tag(trace: &Traceflow) -> Option<u8> {
    let status = trace.status.as_ref().filter(|status| status.phase == Some(Phase::Running))?;
    u8::try_from(status.dataplane_tag).ok().filter(|tag| (1..64).contains(tag))
}

/// How long a trace may take, also one that an API server with another definition let ask for more: no clock can tell
/// a time that far away.
pub fn limit(trace: &Traceflow) -> Duration {
    let asked = u64::try_from(trace.spec.timeout.unwrap_or(DEFAULT_TIMEOUT)).unwrap_or_default();
    Duration::from_secs(asked.clamp(LIMITS.0, LIMITS.1))
}

/// When a trace that runs has had its time. One that does not say when it began has.
fn end(trace: &Traceflow, status: &Status) -> Timestamp {
    let begun = status.start_time.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    begun.and_then(|begun| begun.checked_add(limit(trace)).ok()).unwrap_or(Timestamp::MIN)
}

/// What is known of a trace that had its time.
fn reason(status: &Status) -> String {
    let nodes: Vec<&str> = status.results.iter().map(|result| result.node.as_str()).collect();
    match nodes.as_slice() {
        [] => format!("{TIMED_OUT}: no Node saw the packet"),
        nodes => format!("{TIMED_OUT}: no Node saw where the packet ends; seen on {}", nodes.join(", ")),
    }
}

/// Decides on all traces. Of those that wait, the oldest have their turn first, each with the tag that rested longest
/// after `last`.
pub fn plan(traces: &BTreeMap<String, Traceflow>, last: u8, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut used = BTreeSet::new();
    let mut waiting = Vec::new();
    let none = Status::default();
    for (name, trace) in traces.iter().filter(|(_, trace)| trace.metadata.deletion_timestamp.is_none()) {
        let status = trace.status.as_ref().unwrap_or(&none);
        match status.phase {
            None | Some(Phase::Pending) => waiting.push((trace, name, status)),
            Some(Phase::Succeeded | Phase::Failed) => {}
            Some(Phase::Running) => {
                let source = trace.spec.source.as_ref().and_then(|source| source.pod.as_ref());
                let (end, dropped) = (end(trace, status), trace.spec.live_traffic && trace.spec.dropped_only);
                if is_complete(status, source.is_some(), dropped) {
                    plan.writes
                        .push((name.clone(), Status { phase: Some(Phase::Succeeded), ..status.clone() }));
                } else if end <= now {
                    let reason = reason(status);
                    let failed = Status { phase: Some(Phase::Failed), reason, ..status.clone() };
                    plan.writes.push((name.clone(), failed));
                } else {
                    plan.wake = Some(plan.wake.map_or(end, |wake| wake.min(end)));
                }
                // Until its end is written, the tag is its own.
                used.extend(tag(trace));
            }
        }
    }
    waiting.sort_by_key(|(trace, name, _)| {
        (trace.metadata.creation_timestamp.as_ref().map(|created| created.0), (*name).clone())
    });
    let after = TAGS.iter().position(|tag| *tag == last).map_or(0, |at| at + 1);
    let mut free = TAGS.iter().cycle().skip(after).take(TAGS.len()).filter(|tag| !used.contains(*tag));
    for (_, name, status) in waiting {
        let status = match free.next() {
            Some(tag) => Status {
                phase: Some(Phase::Running),
                start_time: Some(now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()),
                dataplane_tag: (*tag).into(),
                ..Status::default()
            },
            None if status.phase.is_none() => Status { phase: Some(Phase::Pending), ..Status::default() },
            None => continue,
        };
        plan.writes.push((name.clone(), status));
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use antrea_crds::traceflow::{NodeResult, Observation, Source, TraceflowSpec};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn traces(count: usize) -> BTreeMap<String, Traceflow> {
        let spec = || TraceflowSpec {
            source: Some(Source { pod: Some("a".into()), ..Source::default() }),
            ..TraceflowSpec::default()
        };
        (0..count).map(|n| (format!("t{n:02}"), Traceflow::new(&format!("t{n:02}"), spec()))).collect()
    }

    /// Writes what is planned; the names with their phases.
    fn write(traces: &mut BTreeMap<String, Traceflow>, plan: Plan) -> Vec<(String, Phase)> {
        let mut written = Vec::new();
        for (name, status) in plan.writes {
            written.push((name.clone(), status.phase.unwrap()));
            traces.get_mut(&name).unwrap().status = Some(status);
        }
        written
    }

    fn ended(traces: &mut BTreeMap<String, Traceflow>, name: &str) {
        let seen = |component: &str, action: &str| Observation {
            component: component.into(),
            action: action.into(),
            ..Observation::default()
        };
        let observations = vec![seen("SpoofGuard", "Forwarded"), seen("NetworkPolicy", "Dropped")];
        let result = NodeResult { node: "n".into(), observations, ..NodeResult::default() };
        traces.get_mut(name).unwrap().status.as_mut().unwrap().results = vec![result];
    }

    #[test]
    fn fourteen_at_once_and_the_others_in_order() {
        let mut all = traces(20);
        let begun = plan(&all, 0, at(0));
        let begun = write(&mut all, begun);
        let running = begun.iter().filter(|(_, phase)| *phase == Phase::Running).count();
        assert_eq!((running, begun.len()), (14, 20));
        let tags: BTreeSet<u8> = all.values().filter_map(tag).collect();
        assert_eq!(tags, TAGS.into_iter().collect());
        assert_eq!(plan(&all, 59, at(1)).writes, [], "nothing is free");
        assert_eq!(plan(&all, 59, at(1)).wake, Some(at(20)));

        ended(&mut all, "t03");
        let end = plan(&all, 59, at(2));
        assert_eq!(write(&mut all, end), [("t03".to_owned(), Phase::Succeeded)], "first its end is written");
        let next = plan(&all, 59, at(2));
        assert_eq!(write(&mut all, next), [("t14".to_owned(), Phase::Running)]);
        assert_eq!(tag(&all["t14"]), Some(TAGS[3]));
        // One that is deleted gives its tag back too.
        all.remove("t00");
        let next = plan(&all, 19, at(3));
        assert_eq!(write(&mut all, next), [("t15".to_owned(), Phase::Running)]);
    }

    #[test]
    fn whoever_starts_anew_decides_the_same() {
        let mut all = traces(3);
        let begun = plan(&all, 0, at(0));
        write(&mut all, begun);
        assert_eq!(plan(&all, 0, at(1)), Plan { writes: vec![], wake: Some(at(20)) });
    }

    #[test]
    fn no_trace_takes_for_ever() {
        let mut trace = traces(1).remove("t00").unwrap();
        for (asked, seconds) in [(None, 20), (Some(300), 300), (Some(i64::MAX), 300), (Some(i64::MIN), 1)] {
            trace.spec.timeout = asked;
            assert_eq!(limit(&trace), Duration::from_secs(seconds), "{asked:?}");
        }
    }

    #[test]
    fn time_runs_out_and_the_reason_says_how_far_it_came() {
        let mut all = traces(2);
        all.get_mut("t01").unwrap().spec.timeout = Some(300);
        let begun = plan(&all, 0, at(0));
        write(&mut all, begun);
        assert_eq!(plan(&all, 0, at(19)).writes, []);
        let late = plan(&all, 0, at(20));
        assert_eq!(late.wake, Some(at(300)));
        assert_eq!(late.writes.len(), 1);
        let (name, status) = &late.writes[0];
        assert_eq!((name.as_str(), status.phase), ("t00", Some(Phase::Failed)));
        assert_eq!(status.reason, "traceflow timeout: no Node saw the packet");
        ended(&mut all, "t01");
        all.get_mut("t01").unwrap().status.as_mut().unwrap().results[0].observations.pop();
        let late = plan(&all, 0, at(300));
        assert!(late.writes[1].1.reason.ends_with("seen on n"), "{late:?}");
        // A time that cannot be read has passed.
        all.get_mut("t01").unwrap().status.as_mut().unwrap().start_time = None;
        assert_eq!(plan(&all, 0, at(1)).writes.len(), 1);
    }
}
