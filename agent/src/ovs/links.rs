//! What the links that the agent makes have in common.

use ipnet::IpNet;
use netcfg::sysctl::{Sysctl, Tree};
use netcfg::{NetcfgErrors, Netlink};

/// Device group of every link that this agent makes: what carries it and is no port of the bridge is
/// left over. It also marks the links whose packets only OVS may handle.
pub const POD_LINK_GROUP: u32 = 0xa27e;

/// Keeps the host's own stack away from a link of ours: a raw-table rule drops what comes from
/// [`POD_LINK_GROUP`], and these settings keep ARP and IPv6 discovery silent. In the userspace datapath
/// OVS reads the link through a packet socket, and the stack would see every packet too; in the kernel's
/// it would route, past all policy, what a pod sends before its link has become a port.
///
/// # Errors
/// The setting cannot be written.
pub async fn quiet_link(netlink: &Netlink, sysctls: &Tree, link: &str) -> Result<(), NetcfgErrors> {
    sysctls.ensure(netlink.netns(), quiet_settings(sysctls, link)?).await.map(drop)
}

/// The settings of [`quiet_link`].
///
/// # Errors
/// The link's name cannot be part of a setting.
pub fn quiet_settings(sysctls: &Tree, link: &str) -> netcfg::Result<Vec<(Sysctl, &'static str)>> {
    // 8: answer no ARP request, whatever address it asks for (Documentation/networking/ip-sysctl).
    let mut settings = vec![(Sysctl::arp_ignore(link)?, "8")];
    // A kernel without IPv6 (ipv6.disable=1) has nothing to be kept silent.
    if sysctls.has_ipv6() {
        settings.push((Sysctl::disable_ipv6(link)?, "1"));
    }
    Ok(settings)
}

/// Lets a link have what is of IPv6 among `addresses`: somebody may have switched that family off, on this link or for
/// links to come (`net.ipv6.conf.default.disable_ipv6`). Returns the settings that differed.
///
/// # Errors
/// The setting cannot be read or written; a kernel without IPv6 has none.
pub async fn allow_ipv6(
    netlink: &Netlink,
    sysctls: &Tree,
    link: &str,
    addresses: &[IpNet],
) -> Result<Vec<Sysctl>, NetcfgErrors> {
    if !addresses.iter().any(|net| matches!(net, IpNet::V6(_))) {
        return Ok(Vec::new());
    }
    sysctls.ensure(netlink.netns(), [(Sysctl::disable_ipv6(link)?, "0")]).await
}

#[cfg(test)]
mod tests {
    use netcfg::VethSpec;

    use super::*;

    /// One that was started with ipv6.disable=1. A setting that is not there could not be written, and no pod would start.
    #[test]
    fn a_kernel_without_ipv6_has_nothing_of_it_to_keep_silent() {
        let folder = tempfile::tempdir().unwrap();
        let settings = || quiet_settings(&Tree::new(folder.path()), "pod").unwrap();
        std::fs::create_dir_all(folder.path().join("net/ipv4/conf/pod")).unwrap();
        assert_eq!(settings(), [(Sysctl::arp_ignore("pod").unwrap(), "8")]);
        std::fs::create_dir_all(folder.path().join("net/ipv6/conf/pod")).unwrap();
        assert_eq!(settings()[1..], [(Sysctl::disable_ipv6("pod").unwrap(), "1")]);
    }

    #[tokio::test]
    async fn a_quiet_link_answers_nothing() {
        let space = netcfg::Netns::unshare().await.unwrap();
        let netlink = space.spawn_netlink().await.unwrap();
        let pair = VethSpec {
            host_name: "quiet",
            host_mac: None,
            host_mtu: 0,
            host_group: None,
            peer_name: "other",
            peer_mac: None,
            peer_mtu: 0,
            peer_ns: &space,
        };
        netlink.create_veth(&pair).await.unwrap();
        quiet_link(&netlink, &Tree::default(), "quiet").await.unwrap();
        let read = async |link: &str| {
            let files = [format!("ipv4/conf/{link}/arp_ignore"), format!("ipv6/conf/{link}/disable_ipv6")];
            let read =
                move || files.map(|file| std::fs::read_to_string(format!("/proc/sys/net/{file}")).unwrap());
            space.run(read).await.unwrap().map(|text| text.trim().to_owned())
        };
        assert_eq!(read("quiet").await, ["8", "1"]);
        assert_eq!(read("other").await, ["0", "0"], "another link is as the kernel made it");

        let nets = |texts: &[&str]| -> Vec<IpNet> { texts.iter().map(|net| net.parse().unwrap()).collect() };
        let (v4, both) = (nets(&["10.0.0.1/24"]), nets(&["10.0.0.1/24", "fd00::1/64"]));
        let allow = async |nets: &[IpNet]| {
            let written = allow_ipv6(&netlink, &Tree::default(), "quiet", nets).await.unwrap();
            written.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(allow(&v4).await, Vec::<String>::new());
        assert!(netlink.add_address("quiet", both[1]).await.is_err(), "IPv6 is off");
        assert_eq!(allow(&both).await, ["net.ipv6.conf.quiet.disable_ipv6"]);
        netlink.add_address("quiet", both[1]).await.unwrap();
        assert_eq!(allow(&both).await, Vec::<String>::new());
    }
}
