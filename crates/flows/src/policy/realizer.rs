//! From rules to flows, change by change.

use foldhash::fast::RandomState;
use hashbrown::{HashMap, hash_map::EntryRef};
use openflow::{Action as OfAction, Flow, FlowKey, Match};
use smallvec::SmallVec;
use std::collections::BTreeMap;

use super::{
    Action, Class, Direction, Frontend, MemberChange, Peers, PodIps, Rule, RuleChange, RuleError, clause,
    own,
    place::{Clauses, class_table, is_active, match_priority, rule_table},
    target,
};
use crate::{
    Diff, Entry, Family, Key, Network, Table,
    cookie::Category,
    feature::{
        priority::{BYPASS, NORMAL},
        reject::{LOG, send_up},
    },
};

/// One rule's share in a flow: `conjunction(id, clause/n)`, and how many members of the clause wanted it.
#[derive(Clone, Copy, Debug)]
struct Share {
    id: u32,
    clause: u8,
    n_clauses: u8,
    members: u32,
}

/// How many rules isolate by a flow, and how many of them want it told.
#[derive(Clone, Copy, Debug, Default)]
struct Isolating {
    rules: u32,
    logging: u32,
}

/// The flows of a set of rules. See the module's description.
#[derive(Debug)]
pub struct Realizer {
    net: Network,
    families: Vec<Family>,
    rules: HashMap<u32, Rule, RandomState>,
    shared: HashMap<FlowKey, SmallVec<[Share; 1]>, RandomState>,
    /// Isolating flows, with the number of rules that want each.
    isolated: HashMap<FlowKey, Isolating, RandomState>,
    /// Flows that mark what is sent to Services, with the number of members that want each; of several with one key the
    /// first is there.
    marks: HashMap<FlowKey, BTreeMap<u32, (Flow, u32)>, RandomState>,
    /// Flows that belong to one rule, with its id: what they are follows from the rule.
    own: HashMap<FlowKey, u32, RandomState>,
    /// What each flow touched by the change at hand was before.
    journal: HashMap<FlowKey, Option<Flow>, RandomState>,
}

impl Realizer {
    /// No rules yet.
    pub fn new(net: &Network) -> Self {
        Self {
            net: net.clone(),
            families: net.pipeline.families().collect(),
            rules: HashMap::default(),
            shared: HashMap::default(),
            isolated: HashMap::default(),
            marks: HashMap::default(),
            own: HashMap::default(),
            journal: HashMap::default(),
        }
    }

    /// The rule with this id.
    pub fn rule(&self, id: u32) -> Option<&Rule> {
        self.rules.get(&id)
    }

    /// The rules, in no order.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &Rule> {
        self.rules.values()
    }

    /// Number of flows.
    pub fn flow_count(&self) -> usize {
        self.shared.len() + self.isolated.len() + self.marks.len() + self.own.len()
    }

    /// All flows, sorted by key.
    pub fn flows(&self) -> Vec<Flow> {
        let keys =
            self.shared.keys().chain(self.isolated.keys()).chain(self.marks.keys()).chain(self.own.keys());
        let mut flows: Vec<Flow> = keys.filter_map(|key| self.current(key)).collect();
        flows.sort_unstable();
        flows
    }

    /// Adds the rule, or replaces the one with its id.
    ///
    /// # Errors
    /// See [`RuleError`].
    pub fn upsert_rule(&mut self, rule: Rule) -> Result<Diff, RuleError> {
        self.apply([RuleChange::Upsert(rule)])
    }

    /// Removes the rule, if it is there.
    pub fn remove_rule(&mut self, id: u32) -> Diff {
        self.apply([RuleChange::Remove(id)]).unwrap_or_default()
    }

    /// Applies changes in order and returns what they come to together. Replacing a pod's rules in one call
    /// leaves its isolation untouched.
    ///
    /// # Errors
    /// See [`RuleError`]. Nothing is changed then.
    pub fn apply(&mut self, changes: impl IntoIterator<Item = RuleChange>) -> Result<Diff, RuleError> {
        let changes: Vec<RuleChange> = changes.into_iter().collect();
        self.check(&changes)?;
        for change in changes {
            match change {
                RuleChange::Upsert(rule) => self.put(rule),
                RuleChange::Remove(id) => {
                    if let Some(old) = self.rules.remove(&id) {
                        self.realize(&old, false);
                    }
                }
                RuleChange::Members(id, change) => {
                    if let Some(rule) = self.rules.remove(&id) {
                        let rule = self.change_members(rule, change);
                        self.rules.insert(id, rule);
                    }
                }
                RuleChange::Class(id, class) => {
                    if let Some(rule) = self.rules.get(&id) {
                        self.put(Rule { class, ..rule.clone() });
                    }
                }
            }
        }
        Ok(self.commit())
    }

    fn put(&mut self, rule: Rule) {
        // New before old: what both have is then never without a member.
        self.realize(&rule, true);
        if let Some(old) = self.rules.remove(&rule.id) {
            self.realize(&old, false);
            self.refresh(&old, &rule);
        }
        self.rules.insert(rule.id, rule);
    }

    /// Whether [`Self::apply`] would take these changes.
    ///
    /// # Errors
    /// The first that it would not.
    pub fn check(&self, changes: &[RuleChange]) -> Result<(), RuleError> {
        let mut known: HashMap<u32, Option<&Rule>, RandomState> = HashMap::default();
        for change in changes {
            match change {
                RuleChange::Upsert(rule) => {
                    self.check_rule(rule, rule.class)?;
                    known.insert(rule.id, Some(rule));
                }
                RuleChange::Remove(id) => {
                    known.insert(*id, None);
                }
                RuleChange::Members(id, _) | RuleChange::Class(id, _) => {
                    let rule = known.get(id).copied().unwrap_or_else(|| self.rules.get(id));
                    let rule = rule.ok_or(RuleError::Unknown { id: *id })?;
                    if let RuleChange::Class(_, class) = change {
                        self.check_rule(rule, *class)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a rule can have a place.
    fn check_rule(&self, rule: &Rule, class: Class) -> Result<(), RuleError> {
        let id = rule.id;
        if id == 0 {
            return Err(RuleError::ReservedId);
        }
        match (class, rule.action) {
            (Class::K8s, Action::Drop | Action::Reject | Action::Pass) => {
                return Err(RuleError::NotAllow { id });
            }
            (Class::Baseline { .. }, Action::Pass) => return Err(RuleError::NothingToPassTo { id }),
            (Class::Native { priority } | Class::Service { priority }, _)
                if !(100..=65000).contains(&priority) || priority == BYPASS =>
            {
                return Err(RuleError::Priority { id, priority });
            }
            (Class::Baseline { priority }, _) if !(10..=180).contains(&priority) => {
                return Err(RuleError::Priority { id, priority });
            }
            _ => {}
        }
        if !target::is_sound(rule, class) {
            return Err(RuleError::Target { id });
        }
        let served = matches!(rule.peers, Peers::Services(_)).then_some(Table::ServiceState);
        for table in std::iter::once(class_table(class, rule.direction)).chain(served) {
            if self.net.pipeline.number(table).is_none() {
                return Err(RuleError::NoTable { id, table });
            }
        }
        Ok(())
    }

    /// Adds (or takes back) all that a rule contributes.
    fn realize(&mut self, rule: &Rule, add: bool) {
        for (ofport, ips) in &rule.pods {
            self.isolate(rule, *ofport, ips, add);
        }
        if is_active(rule) {
            self.act(rule, add);
        }
    }

    /// Adds (or takes back) what a rule does to traffic.
    fn act(&mut self, rule: &Rule, add: bool) {
        let clauses = Clauses::of(rule);
        for (ofport, ips) in &rule.pods {
            self.share_pod(rule, &clauses, *ofport, ips, add);
        }
        match (&rule.peers, clauses.peers) {
            (Peers::Any, Some(clause)) => {
                for family in self.families.clone() {
                    self.share(rule, &clauses, clause, family.packets(), add);
                }
            }
            (Peers::Of(nets), Some(clause)) => {
                for net in nets {
                    if let Some(matches) = clause::peer(rule.direction, *net, &self.families) {
                        self.share(rule, &clauses, clause, matches, add);
                    }
                }
            }
            (Peers::Services(targets), Some(clause)) => {
                for (group, frontends) in targets {
                    self.share(rule, &clauses, clause, target::sent_to(*group), add);
                    if target::guards(rule) {
                        let (at, matches) = (self.guard(), target::left_to_the_host(*group));
                        self.share_at(at, rule.id, &clauses, clause, matches, add);
                    }
                    frontends.iter().for_each(|frontend| self.mark(*group, frontend, add));
                }
            }
            (_, None) => {}
        }
        if let Some(clause) = clauses.services {
            for matches in clause::services(&rule.services, &self.families) {
                self.share(rule, &clauses, clause, matches, add);
            }
        }
        for flow in own::flows(&self.net, rule) {
            let key = flow.key();
            if add {
                self.touch(&key);
                self.own.insert(key, rule.id);
            } else if self.own.remove(&key).is_some() {
                // The rule is not among the others any more.
                self.journal.entry(key).or_insert(Some(flow));
            }
        }
    }

    /// Puts back the flows of a rule's own that went with its old form.
    fn refresh(&mut self, old: &Rule, now: &Rule) {
        if is_active(now) && is_active(old) {
            for flow in own::flows(&self.net, now) {
                self.own.insert(flow.key(), now.id);
            }
        }
    }

    /// Costs what the change costs, and not what the rule is: a group of thousands gains one member with one flow.
    fn change_members(&mut self, mut rule: Rule, change: MemberChange) -> Rule {
        let was_active = is_active(&rule);
        let mut gone_pods = Vec::new();
        let mut new_pods = Vec::new();
        for ofport in change.removed_pods {
            gone_pods.extend(rule.pods.remove(&ofport).map(|ips| (ofport, ips)));
        }
        for (ofport, ips) in change.added_pods {
            gone_pods.extend(rule.pods.insert(ofport, ips.clone()).map(|old| (ofport, old)));
            new_pods.push((ofport, ips));
        }
        let (mut gone_peers, mut new_peers) = (Vec::new(), Vec::new());
        if let Peers::Of(nets) = &mut rule.peers {
            gone_peers.extend(change.removed_peers.into_iter().filter(|net| nets.remove(net)));
            new_peers.extend(change.added_peers.into_iter().filter(|net| nets.insert(*net)));
        }

        // New before gone: what is both is then never without a member.
        for (add, pods) in [(true, &new_pods), (false, &gone_pods)] {
            for (ofport, ips) in pods {
                self.isolate(&rule, *ofport, ips, add);
            }
        }
        match (was_active, is_active(&rule)) {
            (false, false) => {}
            // Isolating its pods was all that it did; now there is somebody at both ends.
            (false, true) => self.act(&rule, true),
            // All that it did goes, which has to be what was put there: of the rule as it was before the change.
            (true, false) => {
                let mut old = rule.clone();
                for (ofport, _) in &new_pods {
                    old.pods.remove(ofport);
                }
                old.pods.extend(gone_pods);
                if let Peers::Of(nets) = &mut old.peers {
                    nets.retain(|net| !new_peers.contains(net));
                    nets.extend(gone_peers);
                }
                self.act(&old, false);
            }
            (true, true) => {
                let clauses = Clauses::of(&rule);
                for (add, pods, peers) in [(true, &new_pods, &new_peers), (false, &gone_pods, &gone_peers)] {
                    for (ofport, ips) in pods {
                        self.share_pod(&rule, &clauses, *ofport, ips, add);
                    }
                    for net in peers {
                        if let (Some(clause), Some(matches)) =
                            (clauses.peers, clause::peer(rule.direction, *net, &self.families))
                        {
                            self.share(&rule, &clauses, clause, matches, add);
                        }
                    }
                }
            }
        }
        rule
    }

    fn isolate(&mut self, rule: &Rule, ofport: u32, ips: &PodIps, add: bool) {
        if rule.class != Class::K8s {
            return;
        }
        let table = self.net.pipeline.id(match rule.direction {
            Direction::In => Table::IngressDefaultRule,
            Direction::Out => Table::EgressDefaultRule,
        });
        for matches in clause::pod(rule.direction, ofport, ips, &self.families) {
            let key = FlowKey { table, priority: NORMAL, matches };
            self.touch(&key);
            if add {
                let isolating = self.isolated.entry(key).or_default();
                isolating.rules += 1;
                isolating.logging += u32::from(rule.logs);
            } else if let EntryRef::Occupied(mut entry) = self.isolated.entry_ref(&key) {
                let isolating = entry.get_mut();
                isolating.rules -= 1;
                isolating.logging -= u32::from(rule.logs);
                if isolating.rules == 0 {
                    entry.remove();
                }
            }
        }
    }

    fn share_pod(&mut self, rule: &Rule, clauses: &Clauses, ofport: u32, ips: &PodIps, add: bool) {
        if !rule.class.is_of_pods() {
            return self.share(rule, clauses, clauses.pods, clause::service(ofport), add);
        }
        for matches in clause::pod(rule.direction, ofport, ips, &self.families) {
            if target::guards(rule) {
                self.share_at(self.guard(), rule.id, clauses, clauses.pods, matches.clone(), add);
            }
            self.share(rule, clauses, clauses.pods, matches, add);
        }
    }

    fn share(&mut self, rule: &Rule, clauses: &Clauses, clause: u8, matches: Match, add: bool) {
        let at = (self.net.pipeline.id(rule_table(rule)), match_priority(rule));
        self.share_at(at, rule.id, clauses, clause, matches, add);
    }

    /// Where stands what denies before the host is asked.
    fn guard(&self) -> (u8, u16) {
        (self.net.pipeline.id(Table::DNAT), target::GUARD)
    }

    fn share_at(
        &mut self,
        (table, priority): (u8, u16),
        id: u32,
        clauses: &Clauses,
        clause: u8,
        matches: Match,
        add: bool,
    ) {
        let key = FlowKey { table, priority, matches };
        self.touch(&key);
        let wanted = Share { id, clause, n_clauses: clauses.count, members: 1 };
        let order = |s: &Share| (s.id, s.clause, s.n_clauses);
        if add {
            let shares = self.shared.entry(key).or_default();
            match shares.binary_search_by_key(&order(&wanted), order) {
                Ok(at) => shares[at].members += 1,
                Err(at) => shares.insert(at, wanted),
            }
        } else if let EntryRef::Occupied(mut entry) = self.shared.entry_ref(&key) {
            let shares = entry.get_mut();
            if let Ok(at) = shares.binary_search_by_key(&order(&wanted), order) {
                shares[at].members -= 1;
                if shares[at].members == 0 {
                    shares.remove(at);
                }
            }
            if shares.is_empty() {
                entry.remove();
            }
        }
    }

    fn mark(&mut self, group: u32, frontend: &Frontend, add: bool) {
        for (order, flow) in target::marking(&self.net, group, frontend) {
            let key = flow.key();
            self.touch(&key);
            if add {
                self.marks.entry(key).or_default().entry(order).or_insert((flow, 0)).1 += 1;
            } else if let EntryRef::Occupied(mut entry) = self.marks.entry_ref(&key) {
                let flows = entry.get_mut();
                if let Some((_, members)) = flows.get_mut(&order) {
                    *members -= 1;
                    if *members == 0 {
                        flows.remove(&order);
                    }
                }
                if flows.is_empty() {
                    entry.remove();
                }
            }
        }
    }

    /// What the flow with this key is now.
    fn current(&self, key: &FlowKey) -> Option<Flow> {
        if let Some(rule) = self.own.get(key).and_then(|id| self.rules.get(id)) {
            let flow = own::flows(&self.net, rule).into_iter().find(|flow| flow.key() == *key);
            // Of two equal matches the one that is kept.
            return flow.map(|flow| flow.matching(key.matches.clone()));
        }
        if let Some((flow, _)) = self.marks.get(key).and_then(|flows| flows.values().next()) {
            return Some(flow.clone());
        }
        let bare = || {
            Flow::new(key.table, key.priority)
                .cookie(self.net.cookie(Category::NetworkPolicy, 0))
                .matching(key.matches.clone())
        };
        if let Some(shares) = self.shared.get(key) {
            return Some(bare().actions(shares.iter().map(|s| OfAction::Conjunction {
                id: s.id,
                clause: s.clause,
                n_clauses: s.n_clauses,
            })));
        }
        let isolating = self.isolated.get(key)?;
        Some(bare().actions((isolating.logging > 0).then(|| send_up(&self.net, LOG))))
    }

    fn touch(&mut self, key: &FlowKey) {
        if !self.journal.contains_key(key) {
            let was = self.current(key);
            self.journal.insert(key.clone(), was);
        }
    }

    fn commit(&mut self) -> Diff {
        let mut diff = Diff::default();
        for (key, was) in std::mem::take(&mut self.journal) {
            match (was, self.current(&key)) {
                (None, Some(now)) => diff.adds.push(Entry::Flow(now)),
                (Some(was), Some(now)) if was != now => diff.mods.push(Entry::Flow(now)),
                (Some(_), None) => diff.deletes.push(Key::Flow(key)),
                _ => {}
            }
        }
        diff.adds.sort_unstable();
        diff.mods.sort_unstable();
        diff.deletes.sort_unstable();
        diff
    }
}
