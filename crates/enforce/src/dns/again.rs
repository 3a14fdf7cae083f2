//! Questions that are asked again: applications keep an address for longer than it holds, and reach it for as long as DNS
//! goes on telling it.
//!
//! # Invariants
//! - A question is asked again for as long as a name that its last answer told is meant by a policy and has an address.
//! - Of each pod at most `QUESTIONS` are, each at most once in `LEAST`, and less and less often while nobody answers.
//! - Of those that are under way ([`AT_ONCE`]) no pod, no server and no silence has all: what is answered is asked in time,
//!   whatever others were told to ask.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pods::Attachment;

/// Questions of a pod that are asked again. What is told of others ends with its time to live.
const QUESTIONS: usize = 64;

/// Questions that are under way at once: of all pods, of one, to one server, and of those that were not answered before.
const AT_ONCE: usize = 16;
const OF_A_POD: usize = 4;
const TO_A_SERVER: usize = 8;
const DOUBTFUL: usize = 8;

/// Between two times, however short a time to live is.
const LEAST: Duration = Duration::from_secs(2);

/// Before what was not answered is asked again: for the first time, and at last.
const AGAIN: Duration = Duration::from_secs(5);
const AT_LAST: Duration = Duration::from_secs(60);

/// A question that is asked again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Again {
    /// Whose rules have what is answered, as if it had asked.
    pub pod: Arc<Attachment>,
    /// The name whose addresses are asked for.
    pub name: Arc<str>,
    /// Who is asked.
    pub server: IpAddr,
    /// It was not answered when it was asked last.
    pub doubtful: bool,
}

/// Whether a question may be asked beside those that are under way.
pub(super) fn has_room(under_way: &[Again], question: &Again) -> bool {
    let count = |is: &dyn Fn(&Again) -> bool| under_way.iter().filter(|other| is(other)).count();
    under_way.len() < AT_ONCE
        && count(&|other| other.pod == question.pod) < OF_A_POD
        && count(&|other| other.server == question.server) < TO_A_SERVER
        && (!question.doubtful || count(&|other| other.doubtful) < DOUBTFUL)
}

#[derive(Debug)]
struct Asked {
    /// Who told last.
    server: IpAddr,
    /// Names that policies mean, of those that it told.
    names: Vec<Arc<str>>,
    next: Instant,
    /// How often it was asked without an answer.
    tries: u32,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Questions {
    by_name: HashMap<Arc<str>, Asked>,
    by_time: BTreeSet<(Instant, Arc<str>)>,
}

impl Questions {
    /// An answer has come, of which addresses of these names hold for so long at least.
    pub(super) fn answered(
        &mut self,
        question: &str,
        server: IpAddr,
        names: Vec<Arc<str>>,
        (now, shortest): (Instant, Duration),
    ) {
        let known = self.by_name.remove_entry(question);
        // What stands for octets that nobody can write cannot be asked for.
        if question.contains('?') {
            return;
        }
        let next = now + (shortest / 2).max(LEAST);
        if known.is_none() && self.by_name.len() >= QUESTIONS {
            // What holds for longest can do without.
            let Some(last) = self.by_time.last().filter(|(last, _)| *last > next).cloned() else { return };
            self.by_time.remove(&last);
            self.by_name.remove(&last.1);
        }
        let question = match known {
            Some((question, asked)) => {
                self.by_time.remove(&(asked.next, question.clone()));
                question
            }
            None => question.into(),
        };
        self.by_time.insert((next, question.clone()));
        self.by_name.insert(question, Asked { server, names, next, tries: 0 });
    }

    /// A question of a pod whose time has come and that may be asked. Those that told nothing that is wanted any more are
    /// forgotten.
    pub(super) fn due(
        &mut self,
        pod: &Arc<Attachment>,
        now: Instant,
        is_wanted: impl Fn(&Arc<str>) -> bool,
        may_ask: impl Fn(&Again) -> bool,
    ) -> Option<Again> {
        let come = self.by_time.iter().take_while(|(next, _)| *next <= now);
        for entry in come.cloned().collect::<Vec<_>>() {
            let Some(asked) = self.by_name.get_mut(&entry.1) else { continue };
            if !asked.names.iter().any(&is_wanted) {
                self.by_name.remove(&entry.1);
                self.by_time.remove(&entry);
                continue;
            }
            let doubtful = asked.tries > 0;
            let again = Again { pod: pod.clone(), name: entry.1.clone(), server: asked.server, doubtful };
            if may_ask(&again) {
                self.by_time.remove(&entry);
                asked.next = now + AGAIN.saturating_mul(1 << asked.tries.min(8)).min(AT_LAST);
                asked.tries += 1;
                self.by_time.insert((asked.next, entry.1));
                return Some(again);
            }
        }
        None
    }

    /// By which questions, asked of whom, names were told.
    pub(super) fn of_names(&self) -> HashMap<&Arc<str>, (&Arc<str>, IpAddr)> {
        let told = self.by_name.iter();
        told.flat_map(|(question, asked)| {
            asked.names.iter().map(move |name| (name, (question, asked.server)))
        })
        .collect()
    }
}
