//! OpenFlow numbers of pods' ports.
//!
//! The agent chooses them, so that a port's flows need not wait for the port: OVS takes the number that is
//! asked for where it is free. Those of tunnel and gateway are above all of pods. Numbers are given in turn,
//! so that one that was freed is used again as late as possible.

use std::collections::BTreeSet;
use std::sync::Arc;

use antrea_flows::field::HIGHEST_POD_PORT as HIGHEST;
use parking_lot::Mutex;

/// Gives numbers; clones share them.
#[derive(Clone, Debug, Default)]
pub struct OfPorts {
    state: Arc<Mutex<Numbers>>,
}

#[derive(Debug, Default)]
struct Numbers {
    last: u32,
    reserved: BTreeSet<u32>,
}

/// A number that nobody else gets while this lives. To be dropped when the number is in the database, or is
/// not wanted.
#[derive(Debug)]
pub struct Reserved {
    number: u32,
    ports: OfPorts,
}

impl Reserved {
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.ports.state.lock().reserved.remove(&self.number);
    }
}

impl OfPorts {
    /// The next number that is not in `used`; `None` if there is none.
    pub fn reserve(&self, used: &BTreeSet<u32>) -> Option<Reserved> {
        let mut state = self.state.lock();
        if state.last == 0 {
            state.last = used.range(..=HIGHEST).next_back().copied().unwrap_or(0);
        }
        let free = |number: &u32| !used.contains(number) && !state.reserved.contains(number);
        let number = (state.last + 1..=HIGHEST).chain(1..=state.last.min(HIGHEST)).find(free)?;
        state.last = number;
        state.reserved.insert(number);
        Some(Reserved { number, ports: self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_given_in_turn() {
        let ports = OfPorts::default();
        let used = BTreeSet::from([2, 0x8000, 0x8001]);
        let three = ports.reserve(&used).unwrap();
        assert_eq!(three.number(), 3, "after those of an earlier life");
        let four = ports.reserve(&used).unwrap();
        assert_eq!(four.number(), 4);
        drop(three);
        assert_eq!(ports.reserve(&used).unwrap().number(), 5, "a freed number is not the next");
    }

    #[test]
    fn they_wrap_around_and_run_out() {
        let ports = OfPorts::default();
        let almost: BTreeSet<u32> = (2..=HIGHEST).collect();
        let one = ports.reserve(&almost).unwrap();
        assert_eq!(one.number(), 1);
        assert!(ports.reserve(&almost).is_none(), "the last one is reserved");
        drop(one);
        assert_eq!(ports.reserve(&almost).unwrap().number(), 1);
    }
}
