//! Kernel parameters of this network namespace: sysctl(8).

use rtt0_netio::sysctl;

/// Where parameters are read.
pub trait Parameters {
    /// Returns one that is a number, by its name with dots; `None` if the kernel has none of that name.
    fn number(&self, name: &str) -> Option<u32>;

    /// Returns one of an interface, such as `forwarding` of `eth0` for `ipv4`.
    fn of_interface(&self, version: &str, interface: &str, name: &str) -> Option<u32> {
        // A dot in the name of an interface is written as a slash.
        self.number(&format!("net.{version}.conf.{}.{name}", interface.replace('.', "/")))
    }
}

/// Those of the calling thread's namespace, as they are now.
#[derive(Debug, Clone, Copy)]
pub struct Here;

impl Parameters for Here {
    fn number(&self, name: &str) -> Option<u32> {
        sysctl::read_here(name).ok()?.parse().ok()
    }
}

#[cfg(test)]
impl Parameters for std::collections::HashMap<String, u32> {
    fn number(&self, name: &str) -> Option<u32> {
        self.get(name).copied()
    }
}
