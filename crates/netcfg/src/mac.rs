//! Ethernet addresses.

use std::{fmt, str::FromStr};

use crate::Error;

/// A 48-bit Ethernet address; prints as `aa:bb:cc:dd:ee:ff`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// All zero: in a VXLAN FDB the entry for unknown destinations.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// A random address for one station, locally administered.
    pub fn random() -> Self {
        let mut octets = [0; 6];
        octets.copy_from_slice(&uuid::Uuid::new_v4().as_bytes()[..6]);
        octets[0] = (octets[0] & 0xfe) | 0x02;
        Self(octets)
    }

    /// Whether the group bit is set (multicast or broadcast).
    pub fn is_multicast(&self) -> bool {
        self.0[0] & 1 != 0
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(octets: [u8; 6]) -> Self {
        Self(octets)
    }
}

impl From<MacAddr> for [u8; 6] {
    fn from(mac: MacAddr) -> Self {
        mac.0
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        let invalid =
            || Error::Invalid { what: "MAC address", value: s.to_owned(), reason: "want six hex octets" };
        let mut octets = [0u8; 6];
        let mut parts = s.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|p| (1..=2).contains(&p.len())).ok_or_else(invalid)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() {
            return Err(invalid());
        }
        Ok(Self(octets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_addresses_are_local_and_of_one_station() {
        let mac = MacAddr::random();
        assert_eq!(mac.0[0] & 3, 2);
        assert_ne!(mac, MacAddr::random());
    }

    #[test]
    fn text_round_trips() {
        let mac: MacAddr = "aA:bb:0c:d:ee:ff".parse().unwrap();
        assert_eq!(mac, MacAddr([0xaa, 0xbb, 0x0c, 0x0d, 0xee, 0xff]));
        assert_eq!(mac.to_string(), "aa:bb:0c:0d:ee:ff");
        for bad in ["", "aa:bb:cc:dd:ee", "aa:bb:cc:dd:ee:ff:00", "aa:bb:cc:dd:ee:fff", "aa-bb-cc-dd-ee-ff"] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }
}
