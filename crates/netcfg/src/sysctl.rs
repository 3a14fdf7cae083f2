//! Kernel parameters below `/proc/sys`, read before they are written.
//!
//! A [`Tree`] says where they are mounted: in a container without privileges `/proc/sys` is read-only, and a
//! bind mount of the host's `/proc/sys/net` elsewhere is not. Either shows the parameters of the namespace
//! of whoever looks, not of whoever mounted it, so one tree serves every namespace.

use std::{
    fmt, fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{Error, NetcfgErrors, Netns, Result};

/// The name of a parameter, as path components: interface names with dots need no care.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sysctl(Vec<String>);

impl Sysctl {
    /// A parameter by its components, e.g. `["net", "core", "somaxconn"]`.
    pub fn new<S: Into<String>>(components: impl IntoIterator<Item = S>) -> Result<Self> {
        let components: Vec<String> = components.into_iter().map(Into::into).collect();
        let bad = |c: &String| c.is_empty() || c == "." || c == ".." || c.contains(['/', '\0']);
        if components.is_empty() || components.iter().any(bad) {
            return Err(Error::Invalid {
                what: "sysctl",
                value: components.join("."),
                reason: "a component is empty, a dot or has a slash",
            });
        }
        Ok(Self(components))
    }

    /// `net.ipv4.conf.IFACE.NAME`; `all` and `default` count as interfaces.
    pub fn ipv4_conf(iface: &str, name: &str) -> Result<Self> {
        Self::new(["net", "ipv4", "conf", iface, name])
    }

    /// `net.ipv6.conf.IFACE.NAME`.
    pub fn ipv6_conf(iface: &str, name: &str) -> Result<Self> {
        Self::new(["net", "ipv6", "conf", iface, name])
    }

    /// `net.ipv4.ip_forward`. Writing it resets other per-interface IPv4 parameters to host or router defaults.
    pub fn ipv4_forward() -> Self {
        Self(["net", "ipv4", "ip_forward"].map(str::to_owned).to_vec())
    }

    /// `net.ipv6.conf.all.forwarding`.
    pub fn ipv6_forward() -> Self {
        Self(["net", "ipv6", "conf", "all", "forwarding"].map(str::to_owned).to_vec())
    }

    /// Reverse path filter of an interface: 0 off, 1 strict, 2 loose (RFC 3704). The kernel uses the greater
    /// of this and `all`.
    pub fn rp_filter(iface: &str) -> Result<Self> {
        Self::ipv4_conf(iface, "rp_filter")
    }

    /// Which ARP requests are answered: 1 = only for addresses of the interface itself.
    pub fn arp_ignore(iface: &str) -> Result<Self> {
        Self::ipv4_conf(iface, "arp_ignore")
    }

    /// Which source address ARP requests carry: 1 = avoid addresses of other subnets.
    pub fn arp_announce(iface: &str) -> Result<Self> {
        Self::ipv4_conf(iface, "arp_announce")
    }

    /// Whether IPv6 is off on an interface.
    pub fn disable_ipv6(iface: &str) -> Result<Self> {
        Self::ipv6_conf(iface, "disable_ipv6")
    }
}

impl fmt::Display for Sysctl {
    /// As sysctl(8) has it: dots between components, a slash for a dot within one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, component) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            f.write_str(&component.replace('.', "/"))?;
        }
        Ok(())
    }
}

/// Octets of the longest parameter that is read.
const LONGEST: usize = 256;

/// Where the kernel's parameters are mounted. Cloning is cheap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree(Arc<Path>);

impl Default for Tree {
    /// `/proc/sys`.
    fn default() -> Self {
        Self::new("/proc/sys")
    }
}

impl Tree {
    /// A tree whose `net` is at `ROOT/net`.
    pub fn new(root: impl AsRef<Path>) -> Self {
        Self(root.as_ref().into())
    }

    /// The file of a parameter.
    pub fn path(&self, sysctl: &Sysctl) -> PathBuf {
        let mut path = self.0.to_path_buf();
        path.extend(&sysctl.0);
        path
    }

    /// Whether the kernel has IPv6: one that was started with `ipv6.disable=1`, or without the module, has no
    /// parameters of it.
    pub fn has_ipv6(&self) -> bool {
        self.0.join("net/ipv6/conf").is_dir()
    }

    /// Reads a parameter inside a namespace, trimmed.
    ///
    /// # Errors
    /// There is no such parameter, or the namespace cannot be entered.
    pub async fn read(&self, netns: &Netns, sysctl: &Sysctl) -> Result<String> {
        let (this, sysctl) = (self.clone(), sysctl.clone());
        netns.run(move || this.read_here(&sysctl)).await?
    }

    /// Gives parameters the desired values inside a namespace, writing only those that differ. Goes on after
    /// a failure. Returns the ones written.
    ///
    /// # Errors
    /// Everything that could not be read or written.
    pub async fn ensure(
        &self,
        netns: &Netns,
        desired: impl IntoIterator<Item = (Sysctl, impl fmt::Display)>,
    ) -> Result<Vec<Sysctl>, NetcfgErrors> {
        let this = self.clone();
        let desired: Vec<_> =
            desired.into_iter().map(|(sysctl, value)| (sysctl, value.to_string())).collect();
        netns
            .run(move || {
                let mut errors = NetcfgErrors::new();
                let mut written = Vec::new();
                for (sysctl, value) in desired {
                    match this.read_here(&sysctl) {
                        // Several values in one parameter are separated by a tab when read.
                        Ok(now) if now.split_whitespace().eq(value.split_whitespace()) => {}
                        Ok(_) => {
                            if errors.check(this.write_here(&sysctl, &value)).is_some() {
                                written.push(sysctl);
                            }
                        }
                        Err(error) => errors.push(error),
                    }
                }
                errors.finish(written)
            })
            .await?
    }

    /// Reads the value in the calling thread's namespace.
    fn read_here(&self, sysctl: &Sysctl) -> Result<String> {
        let failed = |error| Error::io(format!("read sysctl {sysctl}"), error);
        // The kernel gives all of a parameter with the first read.
        let mut text = [0; LONGEST];
        let length =
            fs::File::open(self.path(sysctl)).and_then(|mut file| file.read(&mut text)).map_err(failed)?;
        let text = text.get(..length).unwrap_or_default();
        Ok(String::from_utf8_lossy(text).trim().to_owned())
    }

    fn write_here(&self, sysctl: &Sysctl, value: &str) -> Result<()> {
        let write =
            || fs::OpenOptions::new().write(true).open(self.path(sysctl))?.write_all(value.as_bytes());
        write().map_err(|e| Error::io(format!("write sysctl {sysctl} = {value}"), e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_in_interface_names_are_kept() {
        let sysctl = Sysctl::rp_filter("eth0.100").unwrap();
        let path = |tree: Tree| tree.path(&sysctl).display().to_string();
        assert_eq!(path(Tree::default()), "/proc/sys/net/ipv4/conf/eth0.100/rp_filter");
        assert_eq!(path(Tree::new("/host/proc/sys")), "/host/proc/sys/net/ipv4/conf/eth0.100/rp_filter");
        assert_eq!(sysctl.to_string(), "net.ipv4.conf.eth0/100.rp_filter");
        assert!(Tree::default().has_ipv6() || !Path::new("/proc/sys/net/ipv6/conf").exists());
        assert!(!Tree::new("/nowhere").has_ipv6());
        for bad in ["", "..", "a/b"] {
            assert!(Sysctl::rp_filter(bad).is_err(), "{bad:?}");
        }
    }
}
