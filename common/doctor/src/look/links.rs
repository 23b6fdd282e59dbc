//! Interfaces and their addresses, rtnetlink(7): RTM_GETLINK, RTM_GETADDR. Needs no privilege.

use std::net::IpAddr;

use netlink_bindings::rt_addr::{self, IfaFlags, Ifaddrmsg, IterableAddrAttrs};
use netlink_bindings::rt_link::{self, Ifinfomsg, IterableLinkAttrs};
use netlink_socket2::NetlinkSocket;

/// IFF_UP.
const UP: u32 = 1;
/// `ifi_type` of an Ethernet device.
const ETHERNET: u16 = 1;
/// XDP_ATTACHED_NONE.
const NO_XDP: u8 = 0;

/// A network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Above 0.
    pub index: u32,
    /// Such as `eth0`.
    pub name: String,
    /// What made it, such as `veth`, `bridge`, `tun`; empty for a device with a driver of its own.
    pub kind: String,
    /// Administratively up.
    pub is_up: bool,
    /// It can carry frames; true of those that know no carrier.
    pub has_carrier: bool,
    /// Its frames begin with an Ethernet header.
    pub is_ethernet: bool,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Its Ethernet address, if it has one.
    pub mac: Option<[u8; 6]>,
    /// The interface that it is a port of; 0 for none.
    pub master: u32,
    /// The interface that it lies upon, such as a VLAN's; 0 for none. Of a veth it is the other end, in whichever
    /// namespace.
    pub lower: u32,
    /// An XDP program is attached.
    pub has_xdp: bool,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// The interface's index.
    pub interface: u32,
    /// The host's own address.
    pub address: IpAddr,
    /// Bits of the network that is reached without a router.
    pub prefix: u8,
    /// Another host has it (RFC 4862 §5.4.5): this one does not use it.
    pub is_duplicate: bool,
}

/// Lists all interfaces.
///
/// # Errors
/// Why the kernel does not tell.
pub fn links() -> Result<Vec<Link>, String> {
    let request = rt_link::Request::new().op_getlink_dump(&Ifinfomsg::new());
    let mut socket = NetlinkSocket::new();
    let mut replies = socket.request(&request).map_err(|error| error.to_string())?;
    let mut links = Vec::new();
    while let Some(reply) = replies.recv() {
        let (header, attributes) = reply.map_err(|error| error.to_string())?;
        links.extend(link(&header, &attributes));
    }
    Ok(links)
}

fn link(header: &Ifinfomsg, attributes: &IterableLinkAttrs<'_>) -> Option<Link> {
    let kind = attributes.get_linkinfo().and_then(|info| info.get_kind());
    Some(Link {
        index: u32::try_from(header.ifi_index).ok()?,
        name: attributes.get_ifname().ok()?.to_string_lossy().into_owned(),
        kind: kind.map(|kind| kind.to_string_lossy().into_owned()).unwrap_or_default(),
        is_up: header.ifi_flags & UP != 0,
        has_carrier: attributes.get_carrier().unwrap_or(1) != 0,
        is_ethernet: header.ifi_type == ETHERNET,
        mtu: attributes.get_mtu().unwrap_or_default(),
        mac: attributes.get_address().ok().and_then(|mac| mac.try_into().ok()),
        master: attributes.get_master().unwrap_or_default(),
        lower: attributes.get_link().unwrap_or_default(),
        has_xdp: attributes.get_xdp().and_then(|xdp| xdp.get_attached()).unwrap_or(NO_XDP) != NO_XDP,
    })
}

/// Lists all addresses of all interfaces.
///
/// # Errors
/// Why the kernel does not tell.
pub fn addresses() -> Result<Vec<Address>, String> {
    let request = rt_addr::Request::new().op_getaddr_dump(&Ifaddrmsg::new());
    let mut socket = NetlinkSocket::new();
    let mut replies = socket.request(&request).map_err(|error| error.to_string())?;
    let mut addresses = Vec::new();
    while let Some(reply) = replies.recv() {
        let (header, attributes) = reply.map_err(|error| error.to_string())?;
        addresses.extend(address(&header, &attributes));
    }
    Ok(addresses)
}

fn address(header: &Ifaddrmsg, attributes: &IterableAddrAttrs<'_>) -> Option<Address> {
    let flags = attributes.get_flags().unwrap_or(header.ifa_flags.into());
    Some(Address {
        interface: header.ifa_index,
        // Of a point-to-point link the one is the host's, the other that of the far end.
        address: attributes.get_local().or_else(|_| attributes.get_address()).ok()?,
        prefix: header.ifa_prefixlen,
        is_duplicate: flags & IfaFlags::Dadfailed as u32 != 0,
    })
}
