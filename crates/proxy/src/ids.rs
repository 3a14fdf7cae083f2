use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::Name;

/// Group ids are numbers of 31 bits whose last eight are left to whoever divides a group.
const BITS: u32 = 23;

/// What a group is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Purpose {
    pub(crate) service: Name,
    /// Name of the port.
    pub(crate) port: Box<str>,
    pub(crate) protocol: crate::Protocol,
    pub(crate) ipv6: bool,
    pub(crate) local: bool,
}

/// Ids of groups: mostly a function of what the group is for, so that an agent that starts anew finds them as they are.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    taken: HashMap<u32, Purpose, RandomState>,
}

impl Ids {
    /// The id for this purpose, the same for as long as it is not given back.
    pub(crate) fn get(&mut self, purpose: Purpose) -> u32 {
        let mut number = within(hash(&purpose));
        loop {
            match self.taken.get(&number) {
                Some(other) if *other != purpose => number = within(number + 1),
                Some(_) => break,
                None => {
                    self.taken.insert(number, purpose);
                    break;
                }
            }
        }
        number << 8
    }

    /// Gives an id back.
    pub(crate) fn release(&mut self, id: u32) {
        self.taken.remove(&(id >> 8));
    }
}

/// Zero is no group of anybody's.
fn within(number: u32) -> u32 {
    (number & ((1 << BITS) - 1)).max(1)
}

/// FNV-1a, which is the same in every version.
fn hash(purpose: &Purpose) -> u32 {
    let flags = [purpose.protocol as u8, u8::from(purpose.ipv6), u8::from(purpose.local)];
    let bytes = purpose.service.bytes().chain([0]).chain(purpose.port.bytes()).chain([0]).chain(flags);
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ hash >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;

    fn purpose(port: &str) -> Purpose {
        Purpose {
            service: "default/web".into(),
            port: port.into(),
            protocol: Protocol::Tcp,
            ipv6: false,
            local: false,
        }
    }

    #[test]
    fn an_id_is_stable_and_one_purposes() {
        let mut ids = Ids::default();
        let first = ids.get(purpose("http"));
        assert_eq!(ids.get(purpose("http")), first);
        // Whoever has the number already keeps it.
        let mut other = Ids::default();
        other.taken.insert(first >> 8, purpose("else"));
        let second = other.get(purpose("http"));
        assert_eq!(second, first + 256);
        assert_eq!(other.get(purpose("http")), second);
        other.release(first);
        assert_eq!((first & 0xff, Ids::default().get(purpose("http"))), (0, first));
    }
}
