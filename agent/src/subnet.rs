//! Which addresses of a node's pod subnets have a role.

use std::net::IpAddr;

use ipnet::IpNet;

/// The gateway of a pod subnet: its first address after the network's own.
pub fn gateway_of(subnet: &IpNet) -> IpAddr {
    match subnet.network() {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network).wrapping_add(1)).into()),
        IpAddr::V6(network) => IpAddr::V6((u128::from(network).wrapping_add(1)).into()),
    }
}

/// The gateway with the subnet's prefix, as it stands on the gateway interface.
pub fn gateway_net(subnet: &IpNet) -> IpNet {
    IpNet::new(gateway_of(subnet), subnet.prefix_len()).expect("prefix comes from a valid subnet")
}

/// Addresses of a pod subnet that no pod gets: those of the ends of datapath probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeAddresses {
    /// Of the end that sends.
    pub sender: IpAddr,
    /// Of the end that answers, also other nodes.
    pub receiver: IpAddr,
    /// The last address that a pod may get.
    pub last_of_pods: IpAddr,
}

/// Bits of host in a subnet that is large enough to spare addresses.
const SPARES: u8 = 6;

/// The last addresses of a subnet before the very last one, which in IPv4 is that of broadcasts. None of a subnet of fewer
/// than 64 addresses: there each is a pod's.
pub fn probes_of(subnet: &IpNet) -> Option<ProbeAddresses> {
    if subnet.max_prefix_len() - subnet.prefix_len() < SPARES {
        return None;
    }
    let before = |count: u8| match subnet.broadcast() {
        IpAddr::V4(last) => IpAddr::V4(u32::from(last).wrapping_sub(count.into()).into()),
        IpAddr::V6(last) => IpAddr::V6(u128::from(last).wrapping_sub(count.into()).into()),
    };
    Some(ProbeAddresses { receiver: before(1), sender: before(2), last_of_pods: before(3) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_addresses_are_probes() {
        let probes = |subnet: &str| {
            probes_of(&subnet.parse().unwrap())
                .map(|of| [of.last_of_pods, of.sender, of.receiver].map(|ip| ip.to_string()))
        };
        let expected = |ips: [&str; 3]| Some(ips.map(str::to_owned));
        assert_eq!(probes("10.244.1.0/24"), expected(["10.244.1.252", "10.244.1.253", "10.244.1.254"]));
        assert_eq!(probes("10.244.1.64/26"), expected(["10.244.1.124", "10.244.1.125", "10.244.1.126"]));
        assert_eq!(probes("10.244.1.0/27"), None);
        let v6 = ["fd00::ffff:ffff:ffff:fffc", "fd00::ffff:ffff:ffff:fffd", "fd00::ffff:ffff:ffff:fffe"];
        assert_eq!(probes("fd00::/64"), expected(v6));
        assert_eq!(probes("fd00::/123"), None);
    }

    #[test]
    fn the_first_address_is_the_gateway() {
        let gateway = |subnet: &str| gateway_net(&subnet.parse().unwrap()).to_string();
        assert_eq!(gateway("10.244.1.0/24"), "10.244.1.1/24");
        assert_eq!(gateway("10.244.1.77/24"), "10.244.1.1/24");
        assert_eq!(gateway("fd00:10:244:1::/64"), "fd00:10:244:1::1/64");
    }
}
