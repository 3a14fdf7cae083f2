//! What the store keeps of an entry.

use openflow::{Actions, Flow, FlowFlags, FlowKey, Group, Meter};

use super::{Entry, Key, Owner};

/// Who wants an entry. Most have one owner.
#[derive(Clone, Debug)]
pub(super) enum Owners {
    One(Owner),
    Many(Box<[Owner]>),
}

impl Owners {
    pub(super) fn all(&self) -> &[Owner] {
        match self {
            Self::One(owner) => std::slice::from_ref(owner),
            Self::Many(owners) => owners,
        }
    }

    /// With one that is not among them.
    pub(super) fn with(&self, owner: &Owner) -> Self {
        Self::Many(self.all().iter().chain([owner]).cloned().collect())
    }

    /// The others, if there are any.
    pub(super) fn without(&self, owner: &Owner) -> Option<Self> {
        let mut others: Vec<Owner> = self.all().iter().filter(|one| *one != owner).cloned().collect();
        match others.len() {
            0 | 1 => others.pop().map(Self::One),
            _ => Some(Self::Many(others.into())),
        }
    }
}

/// All of an entry but its key: a flow's match is held once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Flow(FlowBody),
    /// Boxed, for it is large, and few are.
    Group(Box<Group>),
    Meter(Meter),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FlowBody {
    cookie: u64,
    idle_timeout: u16,
    hard_timeout: u16,
    importance: u16,
    flags: FlowFlags,
    pub(super) actions: Actions,
}

impl FlowBody {
    fn join(&self, key: &FlowKey) -> Flow {
        Flow {
            table: key.table,
            priority: key.priority,
            matches: key.matches.clone(),
            cookie: self.cookie,
            idle_timeout: self.idle_timeout,
            hard_timeout: self.hard_timeout,
            importance: self.importance,
            flags: self.flags,
            actions: self.actions.clone(),
        }
    }

    pub(super) fn is(&self, flow: &Flow) -> bool {
        self.cookie == flow.cookie
            && self.actions == flow.actions
            && (self.idle_timeout, self.hard_timeout, self.importance, self.flags)
                == (flow.idle_timeout, flow.hard_timeout, flow.importance, flow.flags)
    }

    /// Whether the bridge removes the flow by itself one day.
    pub(super) fn expires(&self) -> bool {
        self.idle_timeout != 0 || self.hard_timeout != 0
    }
}

impl Body {
    pub(super) fn of(entry: &Entry) -> Self {
        match entry {
            Entry::Meter(meter) => Body::Meter(meter.clone()),
            Entry::Group(group) => Body::Group(Box::new(group.clone())),
            Entry::Flow(flow) => Body::Flow(FlowBody {
                cookie: flow.cookie,
                idle_timeout: flow.idle_timeout,
                hard_timeout: flow.hard_timeout,
                importance: flow.importance,
                flags: flow.flags,
                actions: flow.actions.clone(),
            }),
        }
    }

    pub(super) fn is(&self, entry: &Entry) -> bool {
        match (self, entry) {
            (Body::Meter(meter), Entry::Meter(other)) => meter == other,
            (Body::Group(group), Entry::Group(other)) => **group == *other,
            (Body::Flow(body), Entry::Flow(flow)) => body.is(flow),
            _ => false,
        }
    }

    pub(super) fn join(&self, key: &Key) -> Option<Entry> {
        Some(match (self, key) {
            (Body::Meter(meter), _) => Entry::Meter(meter.clone()),
            (Body::Group(group), _) => Entry::Group((**group).clone()),
            (Body::Flow(body), Key::Flow(key)) => Entry::Flow(body.join(key)),
            (Body::Flow(_), _) => return None,
        })
    }
}

#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) owners: Owners,
    pub(super) body: Body,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There is one of each for every flow.
    #[test]
    fn they_are_small() {
        assert_eq!((size_of::<Key>(), size_of::<Held>()), (32, 72));
    }
}
