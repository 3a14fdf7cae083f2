//! Forgets tracked connections of an address that changes hands.
//!
//! What belongs to a known connection passes policy, and an entry outlives its pod: that of TCP by days. Whoever
//! gets the address next would be reached, and would reach others, by what its former owner was allowed.

use std::net::IpAddr;

use antrea_flows::field::{ZONE_V4, ZONE_V6};
use openflow::{CtFlush, CtTuple, Message};
use ovs::of::{OfError, OfHandle};

/// Connections of the bridge.
#[derive(Clone, Debug)]
pub struct Connections {
    session: OfHandle,
}

impl Connections {
    /// Those of the bridge of `session`.
    pub fn new(session: OfHandle) -> Self {
        Self { session }
    }

    /// Forgets the connections that these addresses began or were the destination of, whatever the protocol. Pods'
    /// addresses are not translated in the bridge, so no other connection has one.
    ///
    /// # Errors
    /// The bridge is away or refused.
    pub async fn forget(&self, ips: &[IpAddr]) -> Result<(), OfError> {
        let messages = ips.iter().flat_map(|ip| flushes(*ip)).map(Message::NxCtFlush).collect();
        self.session.send_barriered(messages).await
    }
}

fn flushes(ip: IpAddr) -> [CtFlush; 2] {
    let zone = Some(if ip.is_ipv4() { ZONE_V4 } else { ZONE_V6 });
    let ends =
        [CtTuple { src: Some(ip), ..CtTuple::default() }, CtTuple { dst: Some(ip), ..CtTuple::default() }];
    ends.map(|original| CtFlush { zone, original, ..CtFlush::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_in_the_familys_zone() {
        let [begun, received] = flushes("10.244.1.5".parse().unwrap());
        assert_eq!((begun.zone, received.zone), (Some(ZONE_V4), Some(ZONE_V4)));
        assert_eq!((begun.original.src, begun.original.dst), (received.original.dst, received.original.src));
        assert_eq!(flushes("fd00::5".parse().unwrap())[0].zone, Some(ZONE_V6));
    }
}
