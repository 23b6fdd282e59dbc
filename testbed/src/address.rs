//! Names and addresses of the four hosts.
//!
//! ```text
//! client ── 10.1.0.0/24 ── clientnic ══ 10.1.1.0/24 ══ servernic ── 10.1.2.0/24 ── server
//!  eth0    fd00:1:0::/64   lan0  wan0  fd00:1:1::/64   wan0  lan0  fd00:1:2::/64   eth0
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address of each IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dual {
    /// The IPv4 address, on a prefix of [`PREFIX_V4`] bits.
    pub v4: Ipv4Addr,
    /// The IPv6 address, on a prefix of [`PREFIX_V6`] bits.
    pub v6: Ipv6Addr,
}

impl Dual {
    const fn on(leg: u8, v4: u8, v6: u16) -> Self {
        Self { v4: Ipv4Addr::new(10, 1, leg, v4), v6: Ipv6Addr::new(0xfd00, 1, leg as u16, 0, 0, 0, 0, v6) }
    }

    /// Returns both addresses with their prefix lengths in bits.
    pub fn with_prefixes(self) -> [(IpAddr, u8); 2] {
        [(self.v4.into(), PREFIX_V4), (self.v6.into(), PREFIX_V6)]
    }

    /// Returns the address of the IP version of `other`.
    pub fn like(self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { self.v4.into() } else { self.v6.into() }
    }
}

/// Prefix length of the IPv4 legs in bits.
pub const PREFIX_V4: u8 = 24;
/// Prefix length of the IPv6 legs in bits.
pub const PREFIX_V6: u8 = 64;

/// The client on its leg.
pub const CLIENT: Dual = Dual::on(0, 10, 0x10);
/// The client's NIC on the client's leg.
pub const CLIENT_NIC_LAN: Dual = Dual::on(0, 1, 1);
/// The client's NIC on the long leg.
pub const CLIENT_NIC_WAN: Dual = Dual::on(1, 1, 1);
/// The server's NIC on the long leg.
pub const SERVER_NIC_WAN: Dual = Dual::on(1, 2, 2);
/// The server's NIC on the server's leg.
pub const SERVER_NIC_LAN: Dual = Dual::on(2, 1, 1);
/// The server on its leg.
pub const SERVER: Dual = Dual::on(2, 10, 0x10);

/// The gateway of the client's leg, where the NICs have one arm each.
pub const CLIENT_GATE: Dual = Dual::on(0, 254, 0xfe);
/// The gateway of the server's leg, likewise.
pub const SERVER_GATE: Dual = Dual::on(2, 254, 0xfe);

/// The network of the client's leg.
pub const CLIENT_LEG: Dual = Dual::on(0, 0, 0);
/// The network of the long leg.
pub const LONG_LEG: Dual = Dual::on(1, 0, 0);
/// The network of the server's leg.
pub const SERVER_LEG: Dual = Dual::on(2, 0, 0);

/// The only device of client and server.
pub const ETH0: &str = "eth0";
/// A NIC's device towards its endpoint.
pub const LAN0: &str = "lan0";
/// A NIC's device towards the other NIC.
pub const WAN0: &str = "wan0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_twins_read_alike() {
        assert_eq!(CLIENT.v4.to_string(), "10.1.0.10");
        assert_eq!(CLIENT.v6.to_string(), "fd00:1::10");
        assert_eq!(SERVER.v4.to_string(), "10.1.2.10");
        assert_eq!(SERVER.v6.to_string(), "fd00:1:2::10");
        assert_eq!(SERVER_NIC_WAN.v6.to_string(), "fd00:1:1::2");
        assert_eq!(SERVER.like(CLIENT.v6.into()), IpAddr::from(SERVER.v6));
    }
}
