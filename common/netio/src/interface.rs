//! Network interfaces and addresses of the process's network namespace.

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use pnet_datalink::NetworkInterface;
use socket2::{Domain, Socket, Type};

/// A network interface as it is now; it may change or vanish at any time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name, such as `eth0`.
    pub name: String,
    /// The kernel's index of it, above 0.
    pub index: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
}

impl Interface {
    /// Asks for the interface's MTU in bytes (IP header included), ioctl(SIOCGIFMTU); at most
    /// 65,535. Needs no privilege.
    ///
    /// # Errors
    ///
    /// What the kernel says, for example that the interface has vanished.
    pub fn mtu(&self) -> io::Result<u16> {
        let request = ask(&self.name, libc::SIOCGIFMTU)?;
        // SAFETY: after SIOCGIFMTU the kernel has filled in this member of the union.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(u16::try_from(mtu).unwrap_or(u16::MAX))
    }

    /// Tells whether it still exists, whatever it is called by now, if_indextoname(3). Needs no privilege.
    pub fn exists(&self) -> bool {
        let mut name: [libc::c_char; libc::IF_NAMESIZE] = [0; libc::IF_NAMESIZE];
        // SAFETY: the call writes at most IF_NAMESIZE bytes, for which there is room.
        !unsafe { libc::if_indextoname(self.index, name.as_mut_ptr()) }.is_null()
    }
}

/// Tells whether frames of the interface called `name` begin with an Ethernet header, ioctl(SIOCGIFHWADDR). Needs no
/// privilege. One that is not there has none.
pub fn has_ethernet(name: &str) -> bool {
    ask(name, libc::SIOCGIFHWADDR).is_ok_and(|request| {
        // SAFETY: after SIOCGIFHWADDR the kernel has filled in this member of the union.
        let kind = unsafe { request.ifr_ifru.ifru_hwaddr.sa_family };
        matches!(kind, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK)
    })
}

/// Tells whether the interface called `name` is administratively up, ioctl(SIOCGIFFLAGS). Needs no privilege. One that is
/// not there is not.
pub fn is_up(name: &str) -> bool {
    ask(name, libc::SIOCGIFFLAGS).is_ok_and(|request| {
        // SAFETY: after SIOCGIFFLAGS the kernel has filled in this member of the union.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        libc::c_int::from(flags) & libc::IFF_UP != 0
    })
}

/// Asks something about an interface, ioctl(2).
fn ask(name: &str, what: libc::Ioctl) -> io::Result<libc::ifreq> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: `ifreq` is plain old data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last byte stays 0: the kernel never has longer names.
    let room = request.ifr_name.len() - 1;
    for (to, from) in request.ifr_name[..room].iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: what is asked reads and writes one `ifreq`, which outlives the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut request) } {
        0 => Ok(request),
        _ => Err(io::Error::last_os_error()),
    }
}

/// No interface of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown interface '{name}'; this host has: {}", existing.join(", "))]
pub struct UnknownInterface {
    name: String,
    existing: Vec<String>,
}

/// Lists all interfaces with `getifaddrs(3)`. Needs no privilege.
pub fn list() -> Vec<Interface> {
    pnet_datalink::interfaces().into_iter().map(Interface::from).collect()
}

/// Finds the interface called `name`.
///
/// # Errors
///
/// [`UnknownInterface`] says which ones there are.
pub fn by_name(name: &str) -> Result<Interface, UnknownInterface> {
    let mut all = list();
    match all.iter().position(|interface| interface.name == name) {
        Some(index) => Ok(all.swap_remove(index)),
        None => Err(UnknownInterface {
            name: name.to_owned(),
            existing: all.into_iter().map(|interface| interface.name).collect(),
        }),
    }
}

/// Returns the addresses of all interfaces, each once: what is sent to them is for this host.
pub fn local_addresses() -> Vec<IpAddr> {
    let mut addresses: Vec<_> = list().into_iter().flat_map(|interface| interface.addresses).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

impl From<NetworkInterface> for Interface {
    fn from(interface: NetworkInterface) -> Self {
        Self {
            up: interface.is_up(),
            index: interface.index,
            addresses: interface.ips.iter().map(|network| network.ip()).collect(),
            name: interface.name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_loopback_and_its_address() {
        let lo = by_name("lo").unwrap();
        assert_eq!((lo.name.as_str(), lo.index), ("lo", 1));
        if lo.up {
            assert!(local_addresses().contains(&IpAddr::from([127, 0, 0, 1])));
        }
    }

    #[test]
    fn reads_the_mtu_of_loopback() {
        assert!(by_name("lo").unwrap().mtu().unwrap() >= 1280);
    }

    #[test]
    fn knows_what_exists_and_what_has_ethernet_headers() {
        let lo = by_name("lo").unwrap();
        assert!(lo.exists());
        assert!(!Interface { index: 0x7fff_fffe, ..lo }.exists());
        assert_eq!(["lo", "nosuch0"].map(has_ethernet), [true, false]);
        assert_eq!(["lo", "nosuch0"].map(is_up), [by_name("lo").unwrap().up, false]);
    }

    #[test]
    fn says_which_interfaces_there_are() {
        let message = by_name("nosuch0").unwrap_err().to_string();
        assert!(message.starts_with("unknown interface 'nosuch0'; this host has: "), "{message}");
        assert!(message.contains("lo"), "{message}");
    }
}
