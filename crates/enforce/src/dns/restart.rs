//! What is kept from one life of the agent to the next.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Asker, DnsCache, GRACE, LONGEST};
use crate::pods::Attachment;

/// A name, and what a pod was told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Who was told; none: nobody knows whom.
    pub pod: Option<Arc<Attachment>>,
    pub name: Arc<str>,
    /// Its addresses, and how long each remains one.
    pub addresses: Vec<(IpAddr, Duration)>,
    /// The name that was asked for when it was told, and whom to ask again.
    pub asked: Option<(Arc<str>, IpAddr)>,
}

impl DnsCache {
    /// What is kept.
    pub fn remember(&self, now: Instant) -> Vec<Remembered> {
        let mut all = Vec::new();
        for (asker, pod) in &self.pods {
            let asked = pod.questions.of_names();
            all.extend(pod.names.iter().map(|(name, known)| {
                Remembered {
                    pod: asker.clone(),
                    name: name.clone(),
                    addresses: known
                        .addresses
                        .iter()
                        .map(|(address, held)| (*address, held.end.saturating_duration_since(now)))
                        .collect(),
                    asked: asked.get(name).map(|(question, server)| ((*question).clone(), *server)),
                }
            }));
        }
        all
    }

    /// Takes in what was kept in the agent's last life, before policies are known: of all names.
    pub fn recall(&mut self, remembered: Vec<Remembered>, now: Instant) {
        let mut told: HashMap<(Asker, Arc<str>, IpAddr), Vec<Arc<str>>> = HashMap::new();
        for Remembered { pod, name, addresses, asked } in remembered {
            for (address, left) in addresses {
                self.put(&pod, &name, address, (now, now + left.min(LONGEST + GRACE)));
            }
            // Nobody can be asked for a pod that is not known, or it would last for ever.
            if let Some((question, server)) = asked.filter(|_| pod.is_some()) {
                told.entry((pod, question, server)).or_default().push(name);
            }
        }
        for ((asker, question, server), names) in told {
            if let Some(pod) = self.pods.get_mut(&asker) {
                pod.questions.answered(&question, server, names, (now, Duration::ZERO));
            }
        }
    }
}
