//! Questions that are asked again: applications keep an address for longer than it holds, and reach it for as long as DNS
//! goes on telling it.
//!
//! # Invariants
//! - A question is asked again for as long as a name that its last answer told is meant by a policy and has an address.
//! - Of each pod at most `QUESTIONS` are, each at most once in `LEAST`.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Questions of a pod that are asked again. What is told of others ends with its time to live.
const QUESTIONS: usize = 64;

/// Between two times, however short a time to live is.
const LEAST: Duration = Duration::from_secs(2);

/// Before what was not answered is asked again.
const AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Asked {
    /// Who told last.
    server: IpAddr,
    /// Names that policies mean, of those that it told.
    names: Vec<Arc<str>>,
    next: Instant,
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
        if (known.is_none() && self.by_name.len() >= QUESTIONS) || question.contains('?') {
            return;
        }
        let question = match known {
            Some((question, asked)) => {
                self.by_time.remove(&(asked.next, question.clone()));
                question
            }
            None => question.into(),
        };
        let next = now + (shortest / 2).max(LEAST);
        self.by_time.insert((next, question.clone()));
        self.by_name.insert(question, Asked { server, names, next });
    }

    /// A question whose time has come, and whom to ask. Those that told nothing that is wanted any more are forgotten.
    pub(super) fn due(
        &mut self,
        now: Instant,
        is_wanted: impl Fn(&Arc<str>) -> bool,
    ) -> Option<(Arc<str>, IpAddr)> {
        while self.by_time.first().is_some_and(|(next, _)| *next <= now)
            && let Some((_, question)) = self.by_time.pop_first()
        {
            let Some(asked) = self.by_name.get_mut(&question) else { continue };
            if !asked.names.iter().any(&is_wanted) {
                self.by_name.remove(&question);
                continue;
            }
            asked.next = now + AGAIN;
            self.by_time.insert((asked.next, question.clone()));
            return Some((question, asked.server));
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
