//! Which Nodes may start now: the canary, then wave by wave, in the window, with pauses.
//!
//! A wave is open while a Node of it that can be changed is not. The next one starts when that of the status has
//! ended, for as long as `spec.rollout` asks, and everybody that was changed works. A Node of an earlier wave that
//! comes back late goes with the one that is under way.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::policy::{Policy, Waves};

/// What is known of a Node that belongs to a change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Whether it is to be changed, or is being changed, and can be.
    pub open: bool,
    /// Whether it has the change and works.
    pub works: bool,
    /// Whether it has the change and does not work, although it did.
    pub broken: bool,
}

/// How far the waves are, as the status has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// Name of the wave that is under way.
    pub wave: Option<String>,
    /// When it ended.
    pub ended: Option<Timestamp>,
}

/// Why nobody starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Hold {
    /// The window is closed.
    Window(SignedDuration),
    /// A wave has ended; the next begins after this.
    Pause(String, SignedDuration),
    /// No Node is there that could go first, or none of them works with the change.
    NoCanary,
    /// A Node with the change has ceased to work.
    Broken(String),
}

/// What may start.
#[derive(Clone, Debug, PartialEq)]
pub struct Gate {
    /// Waves up to this one may start; none: nobody may.
    pub until: Option<usize>,
    /// How far the waves are now.
    pub place: Place,
    /// Why nobody starts, if something is left to start.
    pub hold: Option<Hold>,
}

impl Gate {
    /// When to look again.
    pub fn again(&self) -> Option<SignedDuration> {
        match &self.hold {
            Some(Hold::Window(left) | Hold::Pause(_, left)) => Some(*left),
            _ => None,
        }
    }
}

/// What may start now. `hurry`: what goes back waits for no window, pause or canary.
pub fn gate(
    policy: &Policy,
    waves: &Waves,
    place: &Place,
    nodes: &[(&str, Seen)],
    hurry: bool,
    now: Timestamp,
) -> Gate {
    let open = |wave: usize| nodes.iter().any(|(name, seen)| seen.open && waves.of(name) == wave);
    let everybody = waves.names.len();
    let Some(current) = (0..everybody).find(|wave| open(*wave)) else {
        // Nothing can be changed now; what can be later is looked at then.
        let until = Some(everybody);
        return Gate { until, place: place.clone(), hold: None };
    };
    if hurry {
        return Gate { until: Some(everybody), place: Place::default(), hold: None };
    }
    let held = |place: Place, hold| Gate { until: None, place, hold: Some(hold) };
    let canaries = || nodes.iter().filter(|(name, _)| waves.is_canary(waves.of(name)));
    if !policy.canary.is_empty() && !waves.is_canary(current) && !canaries().any(|(_, seen)| seen.works) {
        return held(place.clone(), Hold::NoCanary);
    }
    let under_way = place.wave.as_deref().and_then(|wave| waves.names.iter().position(|name| name == wave));
    let mut next = place.clone();
    match (under_way, place.wave.is_some()) {
        // A wave of the status whose last Node or label is gone has ended too.
        (Some(under_way), _) if current <= under_way => next.ended = None,
        (_, false) => next = Place { wave: waves.name(current).map(str::to_owned), ended: None },
        (before, true) => {
            let ended = place.ended.unwrap_or(now);
            let left = policy.pause - now.duration_since(ended);
            next.ended = Some(ended);
            if let Some((name, _)) = nodes.iter().find(|(_, seen)| seen.broken) {
                return held(next, Hold::Broken((*name).to_owned()));
            }
            if left.is_positive() {
                let name = before.and_then(|wave| waves.name(wave)).or(place.wave.as_deref());
                return held(next, Hold::Pause(name.unwrap_or_default().to_owned(), left));
            }
            next = Place { wave: waves.name(current).map(str::to_owned), ended: None };
        }
    }
    if let Some(left) = policy.opens_in(now) {
        // What has not begun does not begin.
        return held(if next.wave == place.wave { next } else { place.clone() }, Hold::Window(left));
    }
    let until = next.wave.as_deref().and_then(|wave| waves.names.iter().position(|name| name == wave));
    Gate { until, place: next, hold: None }
}
