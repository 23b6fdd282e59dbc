//! The name of a flow.

use crate::service::Direction;
use crate::wire::segment::Endpoint;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};

/// Client and server of a TCP connection, the same for both directions. 36 bytes: IPv4
/// addresses are kept in their IPv4-mapped form (RFC 4291 §2.5.5.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowKey {
    client: [u8; 16],
    server: [u8; 16],
    client_port: u16,
    server_port: u16,
}

impl FlowKey {
    /// Makes the key of a segment that travels in `direction`.
    pub fn new(source: Endpoint, destination: Endpoint, direction: Direction) -> Self {
        let (client, server) = match direction {
            Direction::ToServer => (source, destination),
            Direction::ToClient => (destination, source),
        };
        Self {
            client: octets(client.0),
            server: octets(server.0),
            client_port: client.1,
            server_port: server.1,
        }
    }

    /// Returns the client's address and port.
    pub fn client(&self) -> Endpoint {
        (address(self.client), self.client_port)
    }

    /// Returns the server's address and port.
    pub fn server(&self) -> Endpoint {
        (address(self.server), self.server_port)
    }

    /// Reads some of it.
    pub(super) fn touch(&self) -> u32 {
        self.client_port.into()
    }

    /// Returns the 36 bytes that keyed hashes cover: addresses, then ports, big-endian.
    pub fn to_bytes(&self) -> [u8; 36] {
        let mut bytes = [0; 36];
        bytes[..16].copy_from_slice(&self.client);
        bytes[16..32].copy_from_slice(&self.server);
        bytes[32..34].copy_from_slice(&self.client_port.to_be_bytes());
        bytes[34..].copy_from_slice(&self.server_port.to_be_bytes());
        bytes
    }

    /// Makes the key back from [`FlowKey::to_bytes`].
    pub(crate) fn from_bytes(bytes: [u8; 36]) -> Self {
        let octets = |at: usize| std::array::from_fn(|index| bytes[at + index]);
        let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        Self { client: octets(0), server: octets(16), client_port: port(32), server_port: port(34) }
    }
}

impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.client);
        state.write(&self.server);
        state.write_u32(u32::from(self.client_port) << 16 | u32::from(self.server_port));
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((client, client_port), (server, server_port)) = (self.client(), self.server());
        write!(f, "[{client}]:{client_port} > [{server}]:{server_port}")
    }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

fn address(octets: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(octets)).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_directions_have_one_key() {
        for (client, server) in [("10.1.0.10", "10.1.2.10"), ("fd00::1", "fd00::2")] {
            let client = (client.parse().unwrap(), 40_000);
            let server = (server.parse().unwrap(), 443);
            let there = FlowKey::new(client, server, Direction::ToServer);
            assert_eq!(there, FlowKey::new(server, client, Direction::ToClient));
            assert_eq!((there.client(), there.server()), (client, server));
            assert_ne!(there, FlowKey::new(server, client, Direction::ToServer));
        }
    }
}
