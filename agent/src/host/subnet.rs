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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_address_is_the_gateway() {
        let gateway = |subnet: &str| gateway_net(&subnet.parse().unwrap()).to_string();
        assert_eq!(gateway("10.244.1.0/24"), "10.244.1.1/24");
        assert_eq!(gateway("10.244.1.77/24"), "10.244.1.1/24");
        assert_eq!(gateway("fd00:10:244:1::/64"), "fd00:10:244:1::1/64");
    }
}
